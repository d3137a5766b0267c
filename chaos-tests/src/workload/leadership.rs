//! Asks every node, every 20 ms, whether it leads and how old its state is.
//!
//! A question is sent each time, whether the one before was answered or not: those that wait while a
//! process is paused are answered in the moment it goes on, which is when it is easiest to be wrong.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::{GoOn, Load, Setting};
use crate::client::Client;
use crate::clock;
use crate::cluster::ready;
use crate::journal::{AgeClaim, Claim, Journal};

const EVERY: Duration = Duration::from_millis(20);
/// Each so many questions, the term is asked for, too.
const TERM_EVERY: u64 = 3;
/// Most questions to one node that wait for their answer.
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

async fn ask(node: u64, client: Client, journal: Arc<Journal>, mut go_on: GoOn) {
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
        if nth.is_multiple_of(TERM_EVERY) {
            waiting.spawn(async move { ask_term(node, &client, &journal).await });
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

async fn ask_term(node: u64, client: &Client, journal: &Journal) {
    let start_us = clock::now_us();
    let outcome = client.get("/api/v1/cluster/status").await;
    let Some(body) = outcome.body() else { return };
    let end_us = clock::now_us();
    let mut records = journal.records();
    records.claims_seen += 1;
    let (index, staleness_ms) = (body["index"].as_u64(), body["staleness_ms"].as_u64());
    if let Some(index) = index {
        records.ages.push(AgeClaim { node, start_us, index, staleness_ms, ready: false });
    }
    let leadership = &body["leadership"];
    if leadership["is_leader"] == true {
        let term = leadership.get("term").and_then(Value::as_u64).unwrap_or(0);
        records.claims.push(Claim { node, term, start_us, end_us });
    }
}
