//! Follows every node's changes, for the check that all of them tell the same, without a gap.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{GoOn, Load, Setting};
use crate::client::{Client, Outcome};

const PAUSE: Duration = Duration::from_millis(100);
/// Most indexes kept of one node.
const INDEXES_MAX: usize = 2_000_000;

/// What one node told.
#[derive(Clone, Debug, Default)]
pub struct WatchLog {
    /// Which node.
    pub node: u64,
    /// The first index that was not seen because the watch began after it.
    pub from: u64,
    /// The index up to which everything was told.
    pub until: u64,
    /// Each index that changed something, with what was told, in order.
    pub changes: BTreeMap<u64, Vec<String>>,
    /// How often the node said that it no longer keeps what was asked for.
    pub compacted: u64,
    /// Answers whose order or range was wrong.
    pub disorders: Vec<String>,
}

/// Starts following, each node from index `from` on.
pub fn watches(setting: &Setting, from: u64) -> Load<WatchLog> {
    let mut load = Load::new();
    for (position, client) in setting.clients.iter().enumerate() {
        let log = WatchLog { node: position as u64 + 1, from, until: from, ..WatchLog::default() };
        let client = client.clone();
        load.spawn(|go_on| follow(client, log, go_on));
    }
    load
}

async fn follow(client: Client, mut log: WatchLog, go_on: GoOn) -> WatchLog {
    while go_on.yes() && log.changes.len() < INDEXES_MAX {
        let path = format!("/api/v1/changes?index={}&wait_ms=500", log.until);
        match client.get(&path).await {
            Outcome::Ok { body, .. } => take(&mut log, &body),
            Outcome::Refused { status: 410, .. } => {
                log.compacted += 1;
                // What follows is compared from where the node is now.
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
