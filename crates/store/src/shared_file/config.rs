//! What the shared-file mode is told.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of the shared-file mode.
#[derive(Clone, Debug)]
pub struct SharedFileConfig {
    /// The log file on storage that all nodes share; beside `MAXINE_REGISTRY_STATE_FILE`, with
    /// `.log` at its end. The lock and the leader's file lie beside it.
    pub path: PathBuf,
    /// A file on this node's own disk that names the log once the node has used it. Where it names a log that is not
    /// there, the storage is taken for not mounted, and the node does not start. `None` remembers nothing.
    pub used_log: Option<PathBuf>,
    /// How long a write waits for the lock, in milliseconds
    /// (`MAXINE_REGISTRY_STATE_LOCK_TIMEOUT_MS`).
    pub lock_timeout_ms: u64,
    /// The longest pause between two tries, in milliseconds
    /// (`MAXINE_REGISTRY_STATE_LOCK_RETRY_MS`).
    pub lock_retry_ms: u64,
    /// How often an idle node looks for what others have written, in milliseconds.
    pub poll_ms: u64,
    /// This node's name (`MAXINE_INSTANCE_ID`).
    pub instance_id: String,
    /// Whether this node competes to lead; one that does not leads only where nobody has for two
    /// leases (`MAXINE_LEADER_ELECTION_ENABLED`).
    pub election_enabled: bool,
    /// How long the leader's lease lasts, in milliseconds (`MAXINE_LEADER_ELECTION_LEASE_MS`).
    pub lease_ms: u64,
    /// Between two renewals, in milliseconds (`MAXINE_LEADER_ELECTION_RENEW_MS`).
    pub renew_ms: u64,
    /// Where this node listens for the others' gathered heartbeats. Port 0: any.
    pub call_bind: SocketAddr,
    /// The host under which the others reach it; that of `call_bind` where none is given.
    pub call_host: Option<String>,
    /// The file is written anew when its entries are longer than this and than the state, in bytes.
    pub compact_after_len: u64,
}

impl Default for SharedFileConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/registry-state.log"),
            used_log: None,
            lock_timeout_ms: 5_000,
            lock_retry_ms: 100,
            poll_ms: 20,
            instance_id: String::from("maxine"),
            election_enabled: true,
            lease_ms: 15_000,
            renew_ms: 5_000,
            call_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            call_host: None,
            compact_after_len: 32 * 1024 * 1024,
        }
    }
}

impl SharedFileConfig {
    /// Checks every bound; all that is wrong, one line each.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        let mut range = |name: &str, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                wrong.push(format!("{name} must be from {min} to {max}, got {value}"));
            }
        };
        range("lock timeout (ms)", self.lock_timeout_ms, 100, 600_000);
        range("lock retry (ms)", self.lock_retry_ms, 1, 60_000);
        range("poll interval (ms)", self.poll_ms, 1, 10_000);
        range("leader lease (ms)", self.lease_ms, 500, 600_000);
        range("lease renewal (ms)", self.renew_ms, 50, self.lease_ms / 2);
        range("length of the instance id", self.instance_id.len() as u64, 1, 255);
        if self.call_bind.ip().is_unspecified() && self.call_host.is_none() {
            wrong.push(String::from("a host under which the others reach this node is missing"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}
