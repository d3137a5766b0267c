//! Elects the leader with a small file next to the log.
//!
//! The clocks of the nodes are not compared. A lease has run out if its record has not changed for the time
//! of a lease, by the observer's own monotonic clock. The file is written only under the lock of the log, and
//! it is read again under the lock before a node takes over.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::file_log::{beside, create_new, read_short};

/// Maximum length of the record, in bytes.
const RECORD_LEN_MAX: u64 = 16 * 1024;

/// The content of the file. The first four fields are those of the lease in Redis of the Node.js Maxine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LeaderRecord {
    pub(super) instance_id: String,
    /// Identifies the process of the leader; empty if the lease was given back.
    pub(super) token: String,
    /// The fencing token. It only grows.
    pub(super) fencing_token: u64,
    /// When the lease was taken, in milliseconds since 1970. Only people read it.
    pub(super) acquired_at: u64,
    /// Number of renewals. A change shows that the leader is alive.
    pub(super) renewals: u64,
    /// Where the leader accepts calls, `host:port`.
    pub(super) call_addr: String,
}

/// Reads the record. A record that cannot be read counts as missing.
pub(super) fn read(path: &Path) -> io::Result<Option<LeaderRecord>> {
    let bytes = read_short(path, RECORD_LEN_MAX)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Replaces the record in one step. The caller must hold the lock.
pub(super) fn write(path: &Path, record: &LeaderRecord, durable: bool) -> io::Result<()> {
    let temporary = beside(path, ".new");
    let mut file = create_new(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_or_a_pipe_in_place_of_a_file_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("log.leader"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("log.leader.new")).unwrap();
        let record = LeaderRecord { fencing_token: 7, ..LeaderRecord::default() };
        write(&path, &record, true).unwrap();
        assert_eq!(read(&path).unwrap(), Some(record));
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert_eq!(read(&path).unwrap(), None, "a pipe is no record");
    }
}
