//! Asks every node, every 20 ms, whether it leads, how stale its state is, and what it knows about the
//! cluster.
//!
//! Each question is sent whether or not the previous one was answered. Questions that wait during a pause are
//! answered when the process is resumed, which is when an error is most likely.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::{Load, Setting, StopSignal};
use crate::checks::digests::Digest;
use crate::client::{Client, Outcome};
use crate::clock;
use crate::cluster::ready;
use crate::journal::{AgeClaim, Claim, Journal, StatusClaim};

const EVERY: Duration = Duration::from_millis(20);
/// One in this many questions asks for the cluster's status instead.
const STATUS_EVERY: u64 = 3;
/// One in this many questions asks for the digest instead.
const DIGEST_EVERY: u64 = 25;
/// Maximum number of unanswered questions to one node.
const WAITING_MAX: usize = 48;

/// Starts asking.
pub fn leadership(setting: &Setting) -> Load<()> {
    let mut load = Load::new();
    for (position, client) in setting.clients.iter().enumerate() {
        let (client, journal) = (client.clone(), Arc::clone(&setting.journal));
        load.spawn(|go_on| ask(position as u64 + 1, client, journal, go_on));
    }
    load
}

async fn ask(node: u64, client: Client, journal: Arc<Journal>, mut go_on: StopSignal) {
    let mut waiting = JoinSet::new();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut nth = 0_u64;
    loop {
        tokio::select! {
            () = go_on.over() => return,
            _ = every.tick() => {}
            Some(_) = waiting.join_next() => continue,
        }
        if waiting.len() >= WAITING_MAX {
            continue;
        }
        nth += 1;
        let (client, journal) = (client.clone(), Arc::clone(&journal));
        if nth.is_multiple_of(DIGEST_EVERY) {
            waiting.spawn(async move { ask_digest(node, &client, &journal).await });
        } else if nth.is_multiple_of(STATUS_EVERY) {
            waiting.spawn(async move { ask_status(node, &client, &journal).await });
        } else {
            waiting.spawn(async move { ask_ready(node, &client, &journal).await });
        }
    }
}

async fn ask_ready(node: u64, client: &Client, journal: &Journal) {
    let start_us = clock::now_us();
    let Some(ready) = ready(client).await else { return };
    let end_us = clock::now_us();
    let mut records = journal.records();
    records.claims_seen += 1;
    let (index, staleness_ms) = (ready.index, ready.staleness_ms);
    records.ages.push(AgeClaim { node, start_us, index, staleness_ms, ready: ready.ready });
    if ready.is_leader {
        records.claims.push(Claim { node, term: 0, start_us, end_us });
    }
}

async fn ask_digest(node: u64, client: &Client, journal: &Journal) {
    let answer = client.get("/api/v1/cluster/digest").await;
    let Some(body) = answer.body() else { return };
    if let (Some(index), Some(digest)) = (body["index"].as_u64(), body["digest"].as_str()) {
        journal.records().digests.push(Digest { node, index, digest: digest.into() });
    }
}

async fn ask_status(node: u64, client: &Client, journal: &Journal) {
    let start_us = clock::now_us();
    let outcome = client.get("/api/v1/cluster/status").await;
    let Outcome::Ok { body, index: header_index } = outcome else { return };
    let end_us = clock::now_us();
    let mut records = journal.records();
    records.claims_seen += 1;
    let (index, staleness_ms) = (body["index"].as_u64(), body["staleness_ms"].as_u64());
    if let Some(index) = index {
        records.ages.push(AgeClaim { node, start_us, index, staleness_ms, ready: false });
    }
    let leadership = &body["leadership"];
    let is_leader = leadership["is_leader"] == true;
    let term = leadership.get("term").and_then(Value::as_u64).unwrap_or(0);
    if is_leader {
        records.claims.push(Claim { node, term, start_us, end_us });
    }
    let (Some(index), Some(name)) = (index, body["node"].as_str()) else { return };
    let members = body.pointer("/raft/members").and_then(Value::as_array);
    let voters =
        members.map(|all| all.iter().filter(|member| member["voter"] == true).count() as u64);
    let tolerated = body.pointer("/raft/failures_tolerated").and_then(Value::as_u64);
    records.statuses.push(StatusClaim {
        node,
        name: name.into(),
        start_us,
        end_us,
        index,
        header_index,
        leader: leadership["leader"].as_str().map(str::to_owned),
        is_leader,
        term,
        tolerance: voters.zip(tolerated),
    });
}
