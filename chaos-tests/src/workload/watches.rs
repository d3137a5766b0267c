//! Follows the changes of every node, for the check that all nodes report the same changes without a gap.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Load, Setting, StopSignal};
use crate::client::{Client, Outcome};

const PAUSE: Duration = Duration::from_millis(100);
/// Maximum number of indexes that are recorded for one node.
const INDEXES_MAX: usize = 2_000_000;

/// The changes that one node reported.
#[derive(Clone, Debug, Default)]
pub struct WatchLog {
    /// The node.
    pub node: u64,
    /// The first index of the watch. Earlier changes were not seen.
    pub from: u64,
    /// The index up to which everything was reported.
    pub until: u64,
    /// The reported changes at each index, in order.
    pub changes: BTreeMap<u64, Vec<String>>,
    /// How often the node answered that the requested position is no longer kept.
    pub compacted: u64,
    /// Answers with a wrong order or range.
    pub disorders: Vec<String>,
}

/// Starts to follow, from index `from` on.
pub fn watches(setting: &Setting, from: u64) -> Load<WatchLog> {
    let mut load = Load::new();
    for (position, client) in setting.clients.iter().enumerate() {
        let log = WatchLog { node: position as u64 + 1, from, until: from, ..WatchLog::default() };
        let client = client.clone();
        load.spawn(|go_on| follow(client, log, go_on));
    }
    load
}

async fn follow(client: Client, mut log: WatchLog, go_on: StopSignal) -> WatchLog {
    while go_on.is_running() && log.changes.len() < INDEXES_MAX {
        let path = format!("/api/v1/changes?index={}&wait_ms=500", log.until);
        match client.get(&path).await {
            Outcome::Ok { body, .. } => take(&mut log, &body),
            Outcome::Refused { status: 410, .. } => {
                log.compacted += 1;
                // From here on, changes are compared from the node's present index.
                if let Some(ready) = crate::cluster::ready(&client).await {
                    log.changes.clear();
                    (log.from, log.until) = (ready.index, ready.index);
                }
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    log
}

fn take(log: &mut WatchLog, body: &Value) {
    let before = log.until;
    let mut last = before;
    for change in body["changes"].as_array().into_iter().flatten() {
        let index = change["index"].as_u64().unwrap_or(0);
        if index < last || index <= before {
            log.disorders.push(format!("index {index} came after {last}, asked from {before}"));
        }
        last = last.max(index);
        let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        let epoch = change["data"]["lease_epoch"].as_u64().unwrap_or(0);
        let parts =
            [text("type"), text("namespace"), text("service"), text("instance"), text("cause")];
        log.changes.entry(index).or_default().push(format!("{} {epoch}", parts.join(" ")));
    }
    let index = body["index"].as_u64().unwrap_or(0);
    if index < last {
        log.disorders.push(format!("the answer ends at {index}, before its change at {last}"));
    }
    log.until = log.until.max(index).max(last);
}
