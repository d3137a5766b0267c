//! A fleet that sends heartbeats in time, and one that becomes silent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::{Load, Setting, StopSignal};
use crate::client::Outcome;
use crate::clock;
use crate::journal::{Ended, OpKind};

const BEAT_EVERY: Duration = Duration::from_millis(500);

/// The records of the fleet.
#[derive(Clone, Debug, Default)]
pub struct FleetRecord {
    /// Number of acknowledged heartbeats, over all instances.
    pub renewed: u64,
    /// Instances that were removed although their lease had been renewed within its time to live.
    pub lost_early: Vec<String>,
    /// Number of instances that were removed because no renewal succeeded in time. They registered again.
    pub lost_late: u64,
    /// For each instance that never sent a heartbeat, the time from which it may be removed, in microseconds.
    pub silent: BTreeMap<String, u64>,
}

/// Starts `alive` instances with heartbeats and `silent` ones without, with leases of `ttl_ms`.
pub fn leases(setting: &Setting, alive: usize, silent: usize, ttl_ms: u64) -> Load<FleetRecord> {
    let mut load = Load::new();
    let setting = setting.clone();
    load.spawn(|go_on| Fleet::new(setting, ttl_ms).live(alive, silent, go_on));
    load
}

struct Fleet {
    setting: Setting,
    ttl_ms: u64,
    rng: fastrand::Rng,
    record: FleetRecord,
    /// Until when each lease is certainly valid: the time at which its last acknowledged renewal was sent,
    /// plus the time to live.
    holds_until_us: BTreeMap<String, u64>,
}

impl Fleet {
    fn new(setting: Setting, ttl_ms: u64) -> Self {
        let rng = fastrand::Rng::with_seed(setting.seed ^ 0xF1EE7);
        let (record, holds_until_us) = (FleetRecord::default(), BTreeMap::new());
        Self { setting, ttl_ms, rng, record, holds_until_us }
    }

    async fn live(mut self, alive: usize, silent: usize, go_on: StopSignal) -> FleetRecord {
        for nth in 0..silent {
            let id = format!("silent-{nth}");
            if let Some(sent_us) = self.register(&id).await {
                self.record.silent.insert(id, sent_us + self.ttl_ms * 1_000);
            }
        }
        let ids: Vec<String> = (0..alive).map(|nth| format!("alive-{nth}")).collect();
        while go_on.is_running() {
            for id in &ids {
                if !self.holds_until_us.contains_key(id)
                    && let Some(sent_us) = self.register(id).await
                {
                    self.holds_until_us.insert(id.clone(), sent_us + self.ttl_ms * 1_000);
                }
            }
            self.beat().await;
            tokio::time::sleep(BEAT_EVERY).await;
        }
        self.record
    }

    /// Registers an instance. Returns when the request was sent, in microseconds; `None` if it was not
    /// acknowledged.
    async fn register(&mut self, id: &str) -> Option<u64> {
        let path = format!("/api/v1/services/{}/fleet/instances/{id}", self.setting.namespace);
        let body = json!({"address": "http://10.20.30.41:80", "ttl_ms": self.ttl_ms});
        let (node, client) = self.setting.any(&mut self.rng);
        let start_us = clock::now_us();
        let outcome = client.put(&path, &body, &[]).await;
        self.setting.journal.operation(OpKind::Register, node, start_us, Ended::from(&outcome));
        outcome.is_ok().then_some(start_us)
    }

    async fn beat(&mut self) {
        let ids: Vec<String> = self.holds_until_us.keys().cloned().collect();
        let item = |id: &String| json!({"namespace": self.setting.namespace, "service": "fleet", "id": id});
        let body = json!({"items": ids.iter().map(item).collect::<Vec<_>>()});
        let (node, client) = self.setting.any(&mut self.rng);
        let start_us = clock::now_us();
        let outcome = client.post("/api/v1/heartbeats", &body, &[]).await;
        self.setting.journal.operation(OpKind::Heartbeats, node, start_us, Ended::from(&outcome));
        let Outcome::Ok { body, .. } = outcome else { return };
        let now_us = clock::now_us();
        let unknown: Vec<u64> = body["unknown"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|nth| nth.as_u64())
            .collect();
        for (position, id) in ids.into_iter().enumerate() {
            if !unknown.contains(&(position as u64)) {
                self.record.renewed += 1;
                self.holds_until_us.insert(id, start_us + self.ttl_ms * 1_000);
                continue;
            }
            // The instance had been removed when the node made this answer, which was before now.
            match self.holds_until_us.remove(&id) {
                Some(until_us) if now_us < until_us => {
                    let left_ms = (until_us - now_us) / 1_000;
                    let path =
                        format!("/api/v1/services/{}/fleet/instances/{id}", self.setting.namespace);
                    let found = client.get(&format!("{path}?consistency=strong")).await;
                    let what = match found {
                        Outcome::Ok { .. } => "is registered, and node",
                        Outcome::Refused { status: 404, .. } => "is gone, and node",
                        _ => "may be gone, and node",
                    };
                    let text = format!(
                        "{id} {what} {node} did not know it; its lease held {left_ms} ms more"
                    );
                    self.record.lost_early.push(text);
                }
                _ => self.record.lost_late += 1,
            }
        }
    }
}
