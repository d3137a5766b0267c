//! Registers with compare-and-set, and strong reads of them, for the check of linearizability.
//!
//! A register is a service's policy. `If-Match` compares its revision, and the name of its hash header
//! contains the value. Values are never repeated, so a revision identifies a value.

use std::time::Duration;

use serde_json::json;

use super::{Load, Setting, StopSignal};
use crate::client::{Client, Outcome};
use crate::clock;
use crate::journal::{Ended, OpKind};

const PAUSE: Duration = Duration::from_millis(10);

/// A call, with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegisterCall {
    /// It read this value; 0 if there is none.
    Read(u64),
    /// It set the register from one value to another.
    Set {
        /// The value that it expected.
        old: u64,
        /// The value that it set.
        new: u64,
    },
    /// The register did not have the expected value.
    Mismatch {
        /// The value that it expected.
        old: u64,
    },
    /// It tried to set the register, and the outcome is unknown.
    Maybe {
        /// The value that it expected.
        old: u64,
        /// The value that it tried to set.
        new: u64,
    },
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterHistory {
    /// The register.
    pub register: u64,
    /// The client.
    pub client: u32,
    /// When it was sent.
    pub start_us: u64,
    /// When its outcome was known; `u64::MAX` if it never was.
    pub end_us: u64,
    /// The call.
    pub call: RegisterCall,
}

/// Starts this many clients on this many registers.
pub fn compare_and_set(
    setting: &Setting,
    clients: u32,
    registers: u64,
) -> Load<Vec<RegisterHistory>> {
    let mut load = Load::new();
    for client in 0..clients {
        let setting = setting.clone();
        load.spawn(|go_on| work(setting, client, registers, go_on));
    }
    load
}

async fn work(
    setting: Setting,
    client: u32,
    registers: u64,
    go_on: StopSignal,
) -> Vec<RegisterHistory> {
    let mut rng =
        fastrand::Rng::with_seed(setting.seed ^ u64::from(client).wrapping_mul(0xC2B2_AE35));
    let mut history = Vec::new();
    let mut nth = 0;
    while go_on.is_running() {
        let register = rng.u64(..registers);
        let path = format!("/api/v1/services/{}/register-{register}/policy", setting.namespace);
        let (node, reader) = setting.any(&mut rng);
        let start_us = clock::now_us();
        let read = read(&reader, &path).await;
        let ended = read.as_ref().map_or_else(Ended::from, |_| Ended::Ok);
        setting.journal.operation(OpKind::StrongRead, node, start_us, ended);
        let mut note = |start_us, end_us, call| {
            history.push(RegisterHistory { register, client, start_us, end_us, call });
        };
        let Ok((revision, old)) = read else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        note(start_us, clock::now_us(), RegisterCall::Read(old));
        if rng.u8(..3) == 0 {
            continue;
        }
        nth += 1;
        let new = (u64::from(client) + 1) * 1_000_000_000 + nth;
        let (node, writer) = setting.any(&mut rng);
        let start_us = clock::now_us();
        let outcome = set(&writer, &path, revision, new).await;
        setting.journal.operation(OpKind::CompareAndSet, node, start_us, Ended::from(&outcome));
        match outcome {
            Outcome::Ok { .. } => note(start_us, clock::now_us(), RegisterCall::Set { old, new }),
            Outcome::Unknown(_) => note(start_us, u64::MAX, RegisterCall::Maybe { old, new }),
            Outcome::Refused { status: 412 | 409, .. } => {
                note(start_us, clock::now_us(), RegisterCall::Mismatch { old });
            }
            Outcome::Refused { .. } => tokio::time::sleep(PAUSE).await,
        }
    }
    history
}

/// The revision and the value; (0, 0) if there is none.
async fn read(client: &Client, path: &str) -> Result<(u64, u64), Outcome> {
    let outcome = client.get(&format!("{path}?consistency=strong")).await;
    match &outcome {
        Outcome::Ok { body, .. } => {
            let name =
                body.pointer("/policy/selection/hash_key/name").and_then(|name| name.as_str());
            let value = name.and_then(|name| name.strip_prefix("x-v")?.parse().ok());
            match (body["revision"].as_u64(), value) {
                (Some(revision), Some(value)) => Ok((revision, value)),
                _ => Err(outcome),
            }
        }
        Outcome::Refused { status: 404, .. } => Ok((0, 0)),
        _ => Err(outcome),
    }
}

async fn set(client: &Client, path: &str, revision: u64, value: u64) -> Outcome {
    let hash_key = json!({"from": "header", "name": format!("x-v{value}")});
    let body = json!({"selection": {"strategy": "consistent_hash", "hash_key": hash_key}});
    if revision == 0 {
        let path = format!("{path}?create=true");
        return client.put(&path, &body, &[("if-none-match", "*")]).await;
    }
    client.put(path, &body, &[("if-match", &format!("\"{revision}\""))]).await
}
