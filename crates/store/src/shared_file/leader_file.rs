//! Elects the leader with a small file next to the log.
//!
//! The clocks of the nodes are not compared. A lease has run out if its record has not changed for the time
//! of a lease, by the observer's own monotonic clock. The file is written only under the lock of the log, and
//! it is read again under the lock before a node takes over.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Maximum length of the record.
const RECORD_LEN_MAX: u64 = 16 * 1024;

/// The content of the file. The first four fields are those of the lease in Redis of the Node.js Maxine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LeaderRecord {
    pub(super) instance_id: String,
    /// Identifies the process; empty if the last leader stopped in an orderly way.
    pub(super) token: String,
    /// The fencing token. It only grows.
    pub(super) fencing_token: u64,
    pub(super) acquired_at: u64,
    /// Number of renewals. A change shows that the leader is alive.
    pub(super) renewals: u64,
    /// Where the leader accepts calls, `host:port`.
    pub(super) call_addr: String,
}

/// Reads the record. A record that cannot be read counts as missing.
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

/// Replaces the record in one step. The caller must hold the lock.
pub(super) fn write(path: &Path, record: &LeaderRecord, durable: bool) -> io::Result<()> {
    let temporary = crate::file_log::beside(path, ".new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)
}
