//! What the Redis mode is told, and the names of its keys.

use std::path::PathBuf;
use std::time::Duration;

use redis::IntoConnectionInfo;

/// How Redis is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server; the URL says everything.
    Single,
    /// The master is asked of Sentinels. User, password, database and TLS come from the URL.
    Sentinel {
        /// The Sentinels' URLs, such as `redis://10.0.0.1:26379`.
        sentinels: Vec<String>,
        /// The name under which they watch the master.
        master_name: String,
    },
    /// A Redis Cluster; any of its nodes is asked for the others.
    Cluster {
        /// Further nodes' URLs.
        nodes: Vec<String>,
    },
}

/// Settings of the Redis mode. The environment's names are those of the Node.js Maxine.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://[user[:password]@]host[:port][/db]` or `rediss://…` (`MAXINE_REGISTRY_REDIS_URL`).
    pub url: String,
    /// How it is reached.
    pub topology: Topology,
    /// Before every key (`MAXINE_REGISTRY_REDIS_KEY_PREFIX`).
    pub key_prefix: String,
    /// For one connection, in milliseconds, 10 to 600,000 (`MAXINE_REGISTRY_REDIS_CONNECT_TIMEOUT_MS`).
    pub connect_timeout_ms: u64,
    /// For one command, in milliseconds, 100 to 60,000.
    pub command_timeout_ms: u64,
    /// This node's name (`MAXINE_INSTANCE_ID`).
    pub instance_id: String,
    /// Whether this node competes to lead; one that does not leads only where nobody has for two
    /// leases (`MAXINE_LEADER_ELECTION_ENABLED`).
    pub election_enabled: bool,
    /// How long the leader's lease lasts, in milliseconds, 500 to 600,000
    /// (`MAXINE_LEADER_ELECTION_LEASE_MS`).
    pub lease_ms: u64,
    /// Between two renewals, in milliseconds, at most half of the lease
    /// (`MAXINE_LEADER_ELECTION_RENEW_MS`).
    pub renew_ms: u64,
    /// How many Redis replicas must have a write before it is acknowledged; 0 asks none. Not with
    /// a Cluster.
    pub wait_replicas: u32,
    /// How long they may take, in milliseconds.
    pub wait_timeout_ms: u64,
    /// How many entries are appended between two snapshots.
    pub snapshot_every_entries: u64,
    /// How often the leader looks whether a snapshot is due, in milliseconds, 10 to 60,000.
    pub snapshot_check_ms: u64,
    /// How many entries stay behind a snapshot for replicas that are a little late.
    pub keep_entries: u64,
    /// A file with the certificates that sign the server's, in PEM, if not a public one.
    pub tls_ca_file: Option<PathBuf>,
    /// Files with the client's certificate and key, in PEM.
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
    /// Checks every bound; all that is wrong, one line each.
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
            // The URL is not shown: it may hold a password.
            wrong.push(String::from(
                "a Redis URL must be redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// \
                 for TLS; an IPv6 address stands in brackets, and characters such as @ : / ? # in a \
                 password are percent-encoded",
            ));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    pub(super) fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms)
    }
}

/// The names of the keys. Those of the Node.js Maxine keep their meaning.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Hash: epoch, position and nonce of the last entry.
    pub(super) head: String,
    /// Stream: the command log.
    pub(super) log: String,
    /// Hash: what the present snapshot is and where its parts are.
    pub(super) snapshot: String,
    /// String: the lease, as JSON.
    pub(super) leader: String,
    /// Counter: the fencing token.
    pub(super) fence: String,
    /// Hash: by name, what each node understands and when it last reported.
    pub(super) nodes: String,
    /// Before the snapshots' parts and the inboxes.
    prefix: String,
}

impl Keys {
    /// In a Cluster all keys must live on one node: the prefix becomes the hash tag.
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
    pub(super) fn aside(&self) -> String {
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
