//! Settings of the shared-file mode.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::orderer::refuse_unmounted_storage;
use crate::OpenError;

/// Settings of the shared-file mode.
#[derive(Clone, Debug)]
pub struct SharedFileConfig {
    /// The log file, on storage that all nodes share. Its path is that of `MAXINE_REGISTRY_STATE_FILE` with
    /// `.log` appended. The lock and the leader's file are next to it.
    pub path: PathBuf,
    /// A file on this node's own disk that names the log once the node has used it. If the named log does not
    /// exist, the storage is probably not mounted, and the node does not start. `None` turns this check off.
    pub used_log: Option<PathBuf>,
    /// A file on this node's own disk with the newest state that the node has seen. With it, a node that starts
    /// notices that an older copy of the log was put in place. `None` turns this check off.
    pub newest_state: Option<PathBuf>,
    /// A file on this node's own disk with the tokens of its last processes, in a directory that the caller has locked.
    /// A node that starts gives back the lease that an earlier process left. With `None`, that lease must run out.
    pub lease_tokens: Option<PathBuf>,
    /// How long a write waits for the lock, in milliseconds
    /// (`MAXINE_REGISTRY_STATE_LOCK_TIMEOUT_MS`).
    pub lock_timeout_ms: u64,
    /// Maximum pause between two attempts, in milliseconds (`MAXINE_REGISTRY_STATE_LOCK_RETRY_MS`).
    pub lock_retry_ms: u64,
    /// How often an idle node checks for entries of other nodes, in milliseconds.
    pub poll_ms: u64,
    /// This node's name (`MAXINE_INSTANCE_ID`).
    pub instance_id: String,
    /// Whether this node competes to lead. If false, it becomes leader only when there has been none for two
    /// lease periods (`MAXINE_LEADER_ELECTION_ENABLED`).
    pub election_enabled: bool,
    /// Duration of the leader's lease, in milliseconds (`MAXINE_LEADER_ELECTION_LEASE_MS`).
    pub lease_ms: u64,
    /// Interval between two renewals, in milliseconds (`MAXINE_LEADER_ELECTION_RENEW_MS`).
    pub renew_ms: u64,
    /// Where this node listens for the collected heartbeats of other nodes. Port 0 means any free port.
    pub call_bind: SocketAddr,
    /// The host at which other nodes reach this one; by default that of `call_bind`.
    pub call_host: Option<String>,
    /// The addresses of this node's API, as `host:port`. No node may call them as instances.
    pub api_addresses: Vec<String>,
    /// The file is compacted when its entries are longer than this, in bytes, and longer than the state at its
    /// beginning.
    pub compact_after_len: u64,
}

impl Default for SharedFileConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/registry-state.log"),
            used_log: None,
            newest_state: None,
            lease_tokens: None,
            lock_timeout_ms: 5_000,
            lock_retry_ms: 100,
            poll_ms: 20,
            instance_id: String::from("maxine"),
            election_enabled: true,
            lease_ms: 15_000,
            renew_ms: 5_000,
            call_bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            call_host: None,
            api_addresses: Vec::new(),
            compact_after_len: 32 * 1024 * 1024,
        }
    }
}

impl SharedFileConfig {
    /// Checks every limit. The error has one line for each value that is wrong.
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

    /// Checks that the storage is mounted, if this node has used the log before. Changes nothing. Blocks.
    ///
    /// # Errors
    /// The error that [`super::SharedFileStore::open`] returns if the storage is not mounted.
    pub fn check_storage(&self) -> Result<(), OpenError> {
        self.used_log.as_deref().map_or(Ok(()), |used| refuse_unmounted_storage(used, &self.path))
    }
}
