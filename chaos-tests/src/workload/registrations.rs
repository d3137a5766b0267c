//! Registers and deregisters instances, and records what was acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Load, Setting, StopSignal};
use crate::client::Outcome;
use crate::clock;
use crate::journal::{Acknowledgement, Ended, OpKind};

/// A time to live, in milliseconds, that is longer than any test.
const TTL_MS: u64 = 86_400_000;
const BATCH_LEN: usize = 10;
/// Pause after a node did not answer.
const PAUSE: Duration = Duration::from_millis(20);

/// The required state of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its registration was acknowledged.
    Present {
        /// The lease of the registration.
        lease_epoch: u64,
    },
    /// Its registration was refused, or its deregistration was acknowledged.
    Absent,
    /// Its registration was acknowledged, but it did not exist when it was removed.
    Missed,
    /// An outcome is unknown, so it may exist or not, forever.
    Either,
}

/// What one client knows about its instances, by (service, id).
pub type Ledger = BTreeMap<(String, String), KeyState>;

/// Starts this many clients. The journal has the highest index that any of them received, as
/// `acknowledged_index`.
pub fn registrations(setting: &Setting, clients: u64) -> Load<Ledger> {
    let mut load = Load::new();
    for client in 0..clients {
        let setting = setting.clone();
        load.spawn(|go_on| Worker::new(setting, client).work(go_on));
    }
    load
}

struct Worker {
    setting: Setting,
    client: u64,
    rng: fastrand::Rng,
    ledger: Ledger,
    next: u64,
    index: u64,
}

impl Worker {
    fn new(setting: Setting, client: u64) -> Self {
        let rng = fastrand::Rng::with_seed(setting.seed ^ (client + 1).wrapping_mul(0x9E37_79B9));
        Self { setting, client, rng, ledger: Ledger::new(), next: 0, index: 0 }
    }

    async fn work(mut self, go_on: StopSignal) -> Ledger {
        while go_on.is_running() {
            let refused = match self.rng.u8(..100) {
                0..70 => self.register().await,
                70..82 => self.register_batch().await,
                _ => self.deregister().await,
            };
            if refused {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let mut records = self.setting.journal.records();
        let highest = records.figures.entry("acknowledged_index".into()).or_default();
        *highest = self.index.max(*highest);
        drop(records);
        self.ledger
    }

    fn new_key(&mut self) -> (String, String) {
        self.next += 1;
        (format!("service-{}", self.next % 4), format!("c{}-{}", self.client, self.next))
    }

    fn body(&self, key: &(String, String)) -> Value {
        let port = 1_024 + self.next % 60_000;
        json!({
            "address": format!("http://10.20.30.40:{port}"), "ttl_ms": TTL_MS, "weight": 1 + self.next % 100,
            "version": "1.0.0", "tags": ["chaos"], "metadata": {"owner": key.1},
        })
    }

    async fn register(&mut self) -> bool {
        let key = self.new_key();
        let path =
            format!("/api/v1/services/{}/{}/instances/{}", self.setting.namespace, key.0, key.1);
        let body = self.body(&key);
        let (node, client) = self.setting.node_of(self.client, &mut self.rng);
        let start_us = clock::now_us();
        let outcome = client.put(&path, &body, &[]).await;
        self.note(OpKind::Register, node, start_us, &outcome);
        match &outcome {
            Outcome::Ok { body, .. } => {
                let lease_epoch = body["lease_epoch"].as_u64().unwrap_or(0);
                self.ledger.insert(key, KeyState::Present { lease_epoch });
            }
            Outcome::Unknown(_) => {
                self.ledger.insert(key, KeyState::Either);
            }
            Outcome::Refused { .. } => {
                self.ledger.insert(key, KeyState::Absent);
                return true;
            }
        }
        false
    }

    async fn register_batch(&mut self) -> bool {
        let keys: Vec<_> = (0..BATCH_LEN).map(|_| self.new_key()).collect();
        let items: Vec<Value> = keys
            .iter()
            .map(|key| {
                let mut item = self.body(key);
                item["namespace"] = self.setting.namespace.as_str().into();
                item["service"] = key.0.as_str().into();
                item["id"] = key.1.as_str().into();
                item
            })
            .collect();
        let (node, client) = self.setting.node_of(self.client, &mut self.rng);
        let start_us = clock::now_us();
        let outcome = client.post("/api/v1/registrations", &json!({"items": items}), &[]).await;
        self.note(OpKind::RegisterBatch, node, start_us, &outcome);
        for (position, key) in keys.into_iter().enumerate() {
            let state = match &outcome {
                Outcome::Ok { body, .. } => match body["results"][position]["lease_epoch"].as_u64()
                {
                    Some(lease_epoch) => KeyState::Present { lease_epoch },
                    None => KeyState::Absent,
                },
                Outcome::Unknown(_) => KeyState::Either,
                Outcome::Refused { .. } => KeyState::Absent,
            };
            self.ledger.insert(key, state);
        }
        matches!(outcome, Outcome::Refused { .. })
    }

    async fn deregister(&mut self) -> bool {
        let mut present =
            self.ledger.iter().filter(|(_, state)| matches!(state, KeyState::Present { .. }));
        let Some((key, _)) = present.nth(self.rng.usize(..8)) else { return false };
        let key = key.clone();
        let path =
            format!("/api/v1/services/{}/{}/instances/{}", self.setting.namespace, key.0, key.1);
        let (node, client) = self.setting.node_of(self.client, &mut self.rng);
        let start_us = clock::now_us();
        let outcome = client.delete(&path).await;
        self.note(OpKind::Deregister, node, start_us, &outcome);
        match &outcome {
            Outcome::Ok { body, .. } => {
                let was_there = body["removed"] != false;
                let state = if was_there { KeyState::Absent } else { KeyState::Missed };
                self.ledger.insert(key, state);
            }
            Outcome::Unknown(_) => {
                self.ledger.insert(key, KeyState::Either);
            }
            // Nothing happened, so it must still exist. The final check verifies that.
            Outcome::Refused { .. } => return true,
        }
        false
    }

    fn note(&mut self, kind: OpKind, node: u64, start_us: u64, outcome: &Outcome) {
        if let Outcome::Ok { body, .. } = outcome {
            let index = body["index"].as_u64().unwrap_or(0);
            self.index = self.index.max(index);
            let acknowledgement = Acknowledgement { end_us: clock::now_us(), index };
            self.setting.journal.records().acknowledged.push(acknowledgement);
        }
        self.setting.journal.operation(kind, node, start_us, Ended::from(outcome));
    }
}
