//! Who leads, by a small file beside the log.
//!
//! No two nodes have a clock in common: a lease has run out when its record has not changed for
//! the lease's time by the observer's own monotonic clock. It is written under the log's lock
//! alone, and read under it once more before anyone takes over.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Longest record.
const RECORD_LEN_MAX: u64 = 16 * 1024;

/// The record. The first four fields are those of the Node.js Maxine's lease in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LeaderRecord {
    pub(super) instance_id: String,
    /// Names the process; empty where the last leader has gone in order.
    pub(super) token: String,
    /// Only grows.
    pub(super) fencing_token: u64,
    pub(super) acquired_at: u64,
    /// Counts the renewals: a change says that the leader lives.
    pub(super) renewals: u64,
    /// Where the leader takes calls, `host:port`.
    pub(super) call_addr: String,
}

/// Reads the record; an unreadable one counts as none.
pub(super) fn read(path: &Path) -> io::Result<Option<LeaderRecord>> {
    let len = match fs::metadata(path) {
        Ok(there) => there.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if len > RECORD_LEN_MAX {
        return Ok(None);
    }
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the record in one step. The caller holds the lock.
pub(super) fn write(path: &Path, record: &LeaderRecord, durable: bool) -> io::Result<()> {
    let temporary = crate::file_log::beside(path, ".new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)
}
