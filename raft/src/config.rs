//! Settings of a node, with their units, ranges and defaults.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec;

/// The id of a node. It must never be reused, not even after the node's disk was erased.
pub type NodeId = u64;

/// What the cluster knows about one of its nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Member {
    /// Where peers connect, `host:port`.
    pub peer_addr: String,
    /// The address for clients. This crate does not interpret it.
    pub http_addr: String,
    /// A name for display.
    pub name: String,
}

/// The storage engine of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// A write-ahead log in segments. A group of entries takes one write and one sync.
    #[default]
    Wal,
    /// sled 0.34, with additional measures for durability.
    Sled,
    /// redb 4, whose commit is durable.
    Redb,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wal => "wal",
            Self::Sled => "sled",
            Self::Redb => "redb",
        })
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "wal" => Ok(Self::Wal),
            "sled" => Ok(Self::Sled),
            "redb" => Ok(Self::Redb),
            other => Err(format!("unknown log engine {other:?}; expected wal, redb or sled")),
        }
    }
}

/// How connections between peers are protected.
#[derive(Clone, Debug)]
pub enum PeerTls {
    /// No encryption and no authentication. Refused on an address that is not loopback, unless allowed.
    Plain {
        /// Whether to accept the risk on a listen address that others can reach.
        allow_non_loopback: bool,
    },
    /// Mutual TLS. The node's certificate must carry the DNS name `node-<id>.<cluster_id>.maxine`.
    Mutual {
        /// The authority that signed every node's certificate.
        ca_pem: PathBuf,
        /// This node's certificate chain.
        cert_pem: PathBuf,
        /// This node's private key.
        key_pem: PathBuf,
    },
}

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the cluster: 1 to 63 characters of `a-z`, `0-9` and `-`. It neither begins nor ends with `-`.
    pub cluster_id: String,
    /// The id of this node, at least 1.
    pub node_id: NodeId,
    /// The directory of the log, the snapshots, the identity and the lock.
    pub data_dir: PathBuf,
    /// The engine of the log. It cannot change once the directory exists. Default `None`: the engine of the
    /// directory, or [`EngineKind::Wal`] for a new one.
    pub engine: Option<EngineKind>,
    /// Where peers connect.
    pub listen_addr: SocketAddr,
    /// Protection of connections between peers. Default: none, on loopback only.
    pub tls: PeerTls,
    /// A file with the fingerprints of keys whose certificates are refused, one per line. Default `None`.
    pub tls_denied: Option<PathBuf>,
    /// PEM files with lists of revoked certificates (CRL). An authority of the nodes must have signed each. Default none.
    pub tls_crl: Vec<PathBuf>,
    /// Version of the application's commands that this node understands. Default 1.
    pub app_version: u32,
    /// This node's own name, which replaces the one in the membership. Default empty, which leaves the
    /// membership unchanged.
    pub name: String,
    /// The address for clients of this node. It is used if the membership has none. Default empty.
    pub http_addr: String,
    /// Interval between two heartbeats of a leader, in milliseconds. Default 100.
    pub heartbeat_interval_ms: u64,
    /// Minimum wait before an election, in milliseconds. It is also the longest time that a leader reports to
    /// lead without an answer of a quorum. Default 400, at least three heartbeats.
    pub election_timeout_min_ms: u64,
    /// Maximum wait before an election, in milliseconds. It is also the lease that a follower grants its
    /// leader. A silent leader is replaced after the lease plus three eighths of the minimum, and a leader whose
    /// process is gone before that. Default 600.
    pub election_timeout_max_ms: u64,
    /// How long a leader answers reads at [`ReadLevel::Leader`](crate::ReadLevel::Leader) after it sent the newest
    /// request that a quorum has accepted, in milliseconds; then it asks a quorum. A leader that was elected early
    /// acknowledges nothing for this time and a quarter of it after the last request that a voter accepted from
    /// an earlier leader. So it must be the same on all nodes. Default 150.
    pub read_lease_ms: u64,
    /// Number of entries between two snapshots. Default 50,000.
    pub snapshot_every_entries: u64,
    /// Number of snapshot files that are kept. Default 2, at least 1.
    pub snapshots_kept: usize,
    /// Maximum length of a payload, in bytes, at most 32 MiB. Default 4 MiB.
    pub payload_len_max: usize,
    /// Maximum number of proposals in flight on this node; more are refused. Default 1,024.
    pub proposals_in_flight_max: usize,
    /// Time limit for administrative operations, and for forwarded requests without their own limit, in
    /// milliseconds. Default 5,000.
    pub request_timeout_ms: u64,
    /// Duration of a disk write after which a leader steps down, in milliseconds. Default 1,000.
    pub disk_stall_ms: u64,
    /// Memory for the cache of the engine and for recent entries together, in bytes. Default 16 MiB.
    pub cache_bytes: usize,
}

const PAYLOAD_LEN_LIMIT: usize = 32 * 1024 * 1024;

impl Config {
    /// Settings with all defaults.
    pub fn new(
        cluster_id: impl Into<String>,
        node_id: NodeId,
        data_dir: impl Into<PathBuf>,
        listen_addr: SocketAddr,
    ) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            node_id,
            data_dir: data_dir.into(),
            engine: None,
            listen_addr,
            tls: PeerTls::Plain { allow_non_loopback: false },
            tls_denied: None,
            tls_crl: Vec::new(),
            app_version: 1,
            name: String::new(),
            http_addr: String::new(),
            heartbeat_interval_ms: 100,
            election_timeout_min_ms: 400,
            election_timeout_max_ms: 600,
            read_lease_ms: 150,
            snapshot_every_entries: 50_000,
            snapshots_kept: 2,
            payload_len_max: 4 * 1024 * 1024,
            proposals_in_flight_max: 1_024,
            request_timeout_ms: 5_000,
            disk_stall_ms: 1_000,
            cache_bytes: 16 * 1024 * 1024,
        }
    }

    /// Describes every setting that is out of range, one line each. Empty if there is none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, problem: String| {
            if !ok {
                problems.push(problem);
            }
        };
        check(
            cluster_id_is_valid(&self.cluster_id),
            format!(
                "cluster_id {:?} must be 1 to 63 of a-z, 0-9 and '-', not at the ends",
                self.cluster_id
            ),
        );
        check(self.node_id >= 1, "node_id must be at least 1".to_owned());
        check(
            self.heartbeat_interval_ms >= 10,
            format!("heartbeat_interval_ms {} must be at least 10", self.heartbeat_interval_ms),
        );
        check(
            self.election_timeout_min_ms >= 3 * self.heartbeat_interval_ms,
            format!(
                "election_timeout_min_ms {} must be at least three heartbeats ({})",
                self.election_timeout_min_ms,
                3 * self.heartbeat_interval_ms
            ),
        );
        check(
            self.election_timeout_max_ms > self.election_timeout_min_ms,
            format!(
                "election_timeout_max_ms {} must exceed election_timeout_min_ms {}",
                self.election_timeout_max_ms, self.election_timeout_min_ms
            ),
        );
        check(
            (10..=10_000).contains(&self.read_lease_ms),
            format!("read_lease_ms {} must be 10 to 10000", self.read_lease_ms),
        );
        check(
            self.snapshot_every_entries >= 100,
            format!("snapshot_every_entries {} must be at least 100", self.snapshot_every_entries),
        );
        check(self.snapshots_kept >= 1, "snapshots_kept must be at least 1".to_owned());
        check(
            (1..=PAYLOAD_LEN_LIMIT).contains(&self.payload_len_max),
            format!("payload_len_max {} must be 1 to {PAYLOAD_LEN_LIMIT}", self.payload_len_max),
        );
        check(
            (1..=65_536).contains(&self.proposals_in_flight_max),
            format!("proposals_in_flight_max {} must be 1 to 65536", self.proposals_in_flight_max),
        );
        check(
            self.request_timeout_ms >= 100,
            format!("request_timeout_ms {} must be at least 100", self.request_timeout_ms),
        );
        check(
            self.disk_stall_ms >= 50,
            format!("disk_stall_ms {} must be at least 50", self.disk_stall_ms),
        );
        check(
            self.cache_bytes >= 1024 * 1024,
            format!("cache_bytes {} must be at least 1 MiB", self.cache_bytes),
        );
        if let PeerTls::Plain { allow_non_loopback: false } = self.tls {
            check(
                self.listen_addr.ip().is_loopback(),
                format!(
                    "peer address {} is not loopback: configure mutual TLS, or allow plain TCP explicitly if the network is trusted",
                    self.listen_addr
                ),
            );
        }
        problems
    }

    /// How old the newest request that a quorum has accepted may be for a read at the leader. A follower grants a
    /// longer lease than this.
    pub(crate) fn read_lease(&self) -> Duration {
        Duration::from_millis(self.read_lease_ms.min(self.election_timeout_min_ms * 3 / 8))
    }

    /// How old the newest request that a quorum has accepted may be for a leader that reports to lead.
    pub(crate) fn report_lease(&self) -> Duration {
        Duration::from_millis(self.election_timeout_min_ms)
    }

    /// How long a new leader acknowledges nothing after the last request that a voter accepted from an earlier
    /// leader. The quarter is a margin for clocks with different speeds.
    pub(crate) fn wait_for_reads(&self) -> Duration {
        with_margin(Duration::from_millis(self.read_lease_ms))
    }

    /// How long a new leader does not report to lead, and has no duties of a leader, after that request.
    pub(crate) fn wait_for_reports(&self) -> Duration {
        with_margin(self.report_lease())
    }

    /// The longer one of the two waits.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.wait_for_reads().max(self.wait_for_reports())
    }

    /// Maximum length of a frame between peers, in bytes: one payload or one full batch, with its envelope.
    pub(crate) fn frame_len_max(&self) -> usize {
        (self.payload_len_max + codec::ENVELOPE_ROOM).max(4 * 1024 * 1024)
    }
}

fn with_margin(lease: Duration) -> Duration {
    lease * 5 / 4
}

pub(crate) fn cluster_id_is_valid(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !id.starts_with('-')
        && !id.ends_with('-')
}

/// The error for a cluster id that [`cluster_id_is_valid`] refuses.
pub(crate) fn invalid_cluster_id(id: &str) -> String {
    format!("cluster id {id:?} is not valid: use 1 to 63 lower-case letters, digits and hyphens")
}

/// The DNS name that a node's certificate must have.
pub(crate) fn certificate_name(cluster_id: &str, node_id: NodeId) -> String {
    format!("node-{node_id}.{cluster_id}.maxine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_have_no_problem() {
        let config = Config::new("demo", 1, "/tmp/x", "127.0.0.1:0".parse().unwrap());
        assert_eq!(config.problems(), Vec::<String>::new());
    }

    #[test]
    fn problems_are_reported_together() {
        let mut config = Config::new("Bad_Name", 0, "/tmp/x", "0.0.0.0:0".parse().unwrap());
        config.election_timeout_max_ms = 1;
        assert_eq!(config.problems().len(), 4, "{:?}", config.problems());
    }

    #[test]
    fn plain_tcp_beyond_loopback_needs_consent() {
        let mut config = Config::new("demo", 1, "/tmp/x", "0.0.0.0:0".parse().unwrap());
        assert!(config.problems()[0].contains("not loopback"));
        config.tls = PeerTls::Plain { allow_non_loopback: true };
        assert!(config.problems().is_empty());
    }

    #[test]
    fn engine_names_round_trip() {
        for kind in [EngineKind::Wal, EngineKind::Sled, EngineKind::Redb] {
            assert_eq!(kind.to_string().parse::<EngineKind>().unwrap(), kind);
        }
        assert!("rocks".parse::<EngineKind>().is_err());
    }
}
