//! Settings of the Redis mode, and the names of its keys.

use std::path::PathBuf;
use std::time::Duration;

use redis::IntoConnectionInfo;

/// The kind of Redis installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server. The URL has everything.
    Single,
    /// Sentinels name the master. User, password, database and TLS come from the URL.
    Sentinel {
        /// The Sentinels' URLs, such as `redis://10.0.0.1:26379`.
        sentinels: Vec<String>,
        /// The name of the master in the Sentinels.
        master_name: String,
    },
    /// A Redis Cluster. Any of its nodes names the others.
    Cluster {
        /// URLs of further nodes.
        nodes: Vec<String>,
    },
}

/// Settings of the Redis mode. The environment variables have the names that the Node.js Maxine uses.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://[user[:password]@]host[:port][/db]` or `rediss://…` (`MAXINE_REGISTRY_REDIS_URL`).
    pub url: String,
    /// The kind of Redis installation.
    pub topology: Topology,
    /// Prefix of every key (`MAXINE_REGISTRY_REDIS_KEY_PREFIX`).
    pub key_prefix: String,
    /// Time limit for a connection, in milliseconds, 10 to 600,000
    /// (`MAXINE_REGISTRY_REDIS_CONNECT_TIMEOUT_MS`).
    pub connect_timeout_ms: u64,
    /// Time limit for a command, in milliseconds, 100 to 60,000.
    pub command_timeout_ms: u64,
    /// This node's name (`MAXINE_INSTANCE_ID`).
    pub instance_id: String,
    /// The addresses of this node's API, as `host:port`. No node may call them as instances.
    pub api_addresses: Vec<String>,
    /// A file on this node's own disk with the newest state that the node has seen. With it, a node that starts
    /// notices that Redis was put back to an older state. `None` turns this check off.
    pub newest_state: Option<PathBuf>,
    /// A file on this node's own disk with the tokens of its last processes, in a directory that the caller has locked.
    /// A node that starts gives back the lease that an earlier process left. With `None`, that lease must run out.
    pub lease_tokens: Option<PathBuf>,
    /// Whether this node competes to lead. If false, it becomes leader only when there has been none for two
    /// lease periods (`MAXINE_LEADER_ELECTION_ENABLED`).
    pub election_enabled: bool,
    /// Duration of the leader's lease, in milliseconds, 500 to 600,000 (`MAXINE_LEADER_ELECTION_LEASE_MS`).
    pub lease_ms: u64,
    /// Interval between two renewals, in milliseconds, at most half of the lease
    /// (`MAXINE_LEADER_ELECTION_RENEW_MS`).
    pub renew_ms: u64,
    /// Number of Redis replicas that must have a write before it is acknowledged; 0 for none. Must be 0 with
    /// a Redis Cluster.
    pub wait_replicas: u32,
    /// Maximum time for these replicas, in milliseconds.
    pub wait_timeout_ms: u64,
    /// Number of entries between two snapshots.
    pub snapshot_every_entries: u64,
    /// How often the leader checks whether a snapshot is due, in milliseconds, 10 to 60,000.
    pub snapshot_check_ms: u64,
    /// Number of entries that are kept after a snapshot, for replicas that are slightly behind.
    pub keep_entries: u64,
    /// A PEM file with the certificates of the authority that signed the server's certificate. Not needed for
    /// a public authority.
    pub tls_ca_file: Option<PathBuf>,
    /// The PEM files with the client's certificate and key.
    pub tls_client_files: Option<(PathBuf, PathBuf)>,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: String::from("redis://127.0.0.1:6379"),
            topology: Topology::Single,
            key_prefix: String::from("maxine:registry"),
            connect_timeout_ms: 5_000,
            command_timeout_ms: 2_000,
            instance_id: String::from("maxine"),
            api_addresses: Vec::new(),
            newest_state: None,
            lease_tokens: None,
            election_enabled: true,
            lease_ms: 15_000,
            renew_ms: 5_000,
            wait_replicas: 0,
            wait_timeout_ms: 1_000,
            snapshot_every_entries: 20_000,
            snapshot_check_ms: 1_000,
            keep_entries: 5_000,
            tls_ca_file: None,
            tls_client_files: None,
        }
    }
}

impl RedisConfig {
    /// Checks every limit. The error has one line for each value that is wrong.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        let mut range = |name: &str, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                wrong.push(format!("{name} must be from {min} to {max}, got {value}"));
            }
        };
        range("connect timeout (ms)", self.connect_timeout_ms, 10, 600_000);
        range("command timeout (ms)", self.command_timeout_ms, 100, 60_000);
        range("leader lease (ms)", self.lease_ms, 500, 600_000);
        range("lease renewal (ms)", self.renew_ms, 50, self.lease_ms / 2);
        range("replicas to wait for", self.wait_replicas.into(), 0, 16);
        range("wait timeout (ms)", self.wait_timeout_ms, 1, 60_000);
        range("entries between snapshots", self.snapshot_every_entries, 10, 10_000_000);
        range("time between snapshot checks (ms)", self.snapshot_check_ms, 10, 60_000);
        range("entries kept", self.keep_entries, 0, 10_000_000);
        range("length of the key prefix", self.key_prefix.len() as u64, 1, 200);
        range("length of the instance id", self.instance_id.len() as u64, 1, 255);
        if self.wait_replicas > 0 && matches!(self.topology, Topology::Cluster { .. }) {
            wrong.push(String::from("waiting for replicas is not possible with a Redis Cluster"));
        }
        let others = match &self.topology {
            Topology::Single => &[][..],
            Topology::Sentinel { sentinels: urls, .. } | Topology::Cluster { nodes: urls } => urls,
        };
        if std::iter::once(&self.url)
            .chain(others)
            .any(|url| url.as_str().into_connection_info().is_err())
        {
            // The URL is not shown, because it may contain a password.
            wrong.push(String::from(
                "a Redis URL must be redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// \
                 for TLS; an IPv6 address must be in brackets, and characters such as @ : / ? # in a \
                 password are percent-encoded",
            ));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    pub(super) fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms)
    }
}

/// The names of the keys. Keys of the Node.js Maxine keep their meaning.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Hash: epoch, position and nonce of the last entry.
    pub(super) head: String,
    /// Stream: the command log.
    pub(super) log: String,
    /// Hash: the manifest of the present snapshot.
    pub(super) snapshot: String,
    /// String: the leader's lease, as JSON.
    pub(super) leader: String,
    /// Counter: the fencing token.
    pub(super) fence: String,
    /// Hash: for each node, the version that it understands and the time of its last report.
    pub(super) nodes: String,
    /// Prefix of the keys of snapshot parts and inboxes.
    prefix: String,
}

impl Keys {
    /// In a Redis Cluster all keys must be on one node, so the prefix is used as the hash tag.
    pub(super) fn new(config: &RedisConfig) -> Self {
        let cluster = matches!(config.topology, Topology::Cluster { .. });
        let tagged = config.key_prefix.contains('{');
        let prefix = if cluster && !tagged {
            format!("{{{}}}", config.key_prefix)
        } else {
            config.key_prefix.clone()
        };
        Self {
            head: format!("{prefix}:log:head"),
            log: format!("{prefix}:log"),
            snapshot: format!("{prefix}:snapshot2"),
            leader: format!("{prefix}:cluster:leader"),
            fence: format!("{prefix}:cluster:leader:fence"),
            nodes: format!("{prefix}:cluster:nodes"),
            prefix,
        }
    }

    pub(super) fn snapshot_data(&self, id: &str) -> String {
        format!("{}:snapshot2:data:{id}", self.prefix)
    }

    /// The prefix of the keys that keep what was replaced.
    pub(super) fn replaced_prefix(&self) -> String {
        format!("{}:aside:", self.prefix)
    }

    pub(super) fn inbox(&self, token: &str) -> String {
        format!("{}:inbox:{token}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_nodejs_maxine_keep_their_names() {
        let keys = Keys::new(&RedisConfig::default());
        assert_eq!(keys.leader, "maxine:registry:cluster:leader");
        assert_eq!(keys.fence, "maxine:registry:cluster:leader:fence");
        let cluster = RedisConfig {
            topology: Topology::Cluster { nodes: Vec::new() },
            ..RedisConfig::default()
        };
        assert_eq!(Keys::new(&cluster).log, "{maxine:registry}:log");
    }

    #[test]
    fn bad_settings_are_told_together() {
        let config = RedisConfig {
            lease_ms: 1,
            wait_replicas: 99,
            key_prefix: String::new(),
            ..RedisConfig::default()
        };
        assert!(RedisConfig::default().check().is_ok());
        assert_eq!(config.check().unwrap_err().len(), 4);
    }
}
