//! `maxine cluster snapshot`.

use reqwest::{Method, Url};
use serde_json::json;

use crate::cli::client::{Client, Request, shapes};
use crate::cli::exit::CliError;
use crate::cli::output::Output;

/// Number of entries that may stay in the log after a snapshot: the newest 5,000, and older ones until they are 1,000.
const KEPT_MAX: u64 = 6_000;

/// The log of one node.
struct Log {
    server: Url,
    /// The number of entries that were ever removed.
    removed: u64,
    /// The number of entries that it has.
    len: u64,
}

pub(super) async fn write(client: &Client, out: &mut Output) -> Result<(), CliError> {
    let before = log_of(client).await;
    client.send(&Request::once(Method::POST, &["cluster", "snapshot"])).await?;
    let server = client.answered().clone();
    let of_server = |log: &Log| log.server == server;
    let after = log_of(client).await.filter(of_server);
    let removed = match (before.filter(of_server), &after) {
        (Some(before), Some(after)) => Some(after.removed.saturating_sub(before.removed)),
        _ => None,
    };
    let kept = after.map(|log| log.len);
    let server = server.as_str().trim_end_matches('/');
    let done = json!({
        "snapshot": true, "server": server, "removed_entries": removed, "kept_entries": kept,
    });
    out.done(&done, text(server, removed, kept))
}

/// The log of the node that answers; `None` if it is not known.
async fn log_of(client: &Client) -> Option<Log> {
    let answer = client.send(&Request::get(&["cluster", "status"])).await.ok()?;
    let raft = answer.read::<shapes::Cluster>().ok()?.raft?;
    // Entries are numbered from 0.
    let count = |last: Option<u64>| last.map_or(0, |last| last + 1);
    let removed = count(raft.purged_index);
    let len = count(raft.last_log_index).saturating_sub(removed);
    Some(Log { server: client.answered().clone(), removed, len })
}

fn text(server: &str, removed: Option<u64>, kept: Option<u64>) -> String {
    let written = format!("the snapshot is written on {server}");
    let (Some(removed), Some(kept)) = (removed, kept) else {
        return format!("{written}; how many log entries were removed is not known");
    };
    let kept = maxine_wording::count(kept, "entry");
    let why = format!(
        "the log has {kept}; up to {KEPT_MAX} stay, for members that were away for a short time"
    );
    match removed {
        0 => format!("{written}; no log entry was removed, so no space was freed: {why}"),
        _ => {
            let verb = if removed == 1 { "was" } else { "were" };
            let removed = maxine_wording::count(removed, "old log entry");
            format!("{written}, and {removed} {verb} removed: {why}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_frees_nothing_says_so_and_why() {
        let why = "up to 6000 stay, for members that were away for a short time";
        let of = |removed, kept| text("http://a", removed, kept);
        assert_eq!(
            of(Some(0), Some(2_310)),
            format!(
                "the snapshot is written on http://a; no log entry was removed, so no space was freed: \
                 the log has 2310 entries; {why}"
            )
        );
        assert_eq!(
            of(Some(40_000), Some(5_001)),
            format!(
                "the snapshot is written on http://a, and 40000 old log entries were removed: \
                 the log has 5001 entries; {why}"
            )
        );
        let unknown =
            "the snapshot is written on http://a; how many log entries were removed is not known";
        assert_eq!((of(None, Some(7)), of(Some(7), None)), (unknown.into(), unknown.into()));
    }
}
