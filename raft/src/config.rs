//! Settings of a node, with their units, ranges and defaults.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec;

/// Identity of a node; never reused, not even after its disk was wiped.
pub type NodeId = u64;

/// What the cluster knows about one of its nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Member {
    /// Where the node's peers connect, `host:port`.
    pub peer_addr: String,
    /// Opaque to this crate; handed to clients.
    pub http_addr: String,
    /// A name for people.
    pub name: String,
}

/// The storage engine of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// A write-ahead log in segments: one write and one sync for a group of entries.
    #[default]
    Wal,
    /// sled 0.34, with the measures that make it durable.
    Sled,
    /// redb 4, whose commit is durable by itself.
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

/// How peers protect their connections.
#[derive(Clone, Debug)]
pub enum PeerTls {
    /// No encryption and no authentication; refused on an address that is not loopback unless allowed.
    Plain {
        /// Accept the risk on a listen address that others can reach.
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
    /// Names the cluster: 1 to 63 of `a-z`, `0-9` and `-`, not at the ends.
    pub cluster_id: String,
    /// This node; at least 1.
    pub node_id: NodeId,
    /// Where the node keeps its log, snapshots, identity and lock.
    pub data_dir: PathBuf,
    /// Engine of the log, fixed once the directory exists. Default `None`: the directory's own, and
    /// [`EngineKind::Wal`] for a new one.
    pub engine: Option<EngineKind>,
    /// Where peers connect.
    pub listen_addr: SocketAddr,
    /// Protection of peer connections. Default plain, loopback only.
    pub tls: PeerTls,
    /// Version of the application's command language that this node understands. Default 1.
    pub app_version: u32,
    /// The name that this node gives itself; the membership takes it over. Default empty: the membership's name stays.
    pub name: String,
    /// Where clients reach this node; the membership takes it over where it has no such address. Default empty.
    pub http_addr: String,
    /// Between two heartbeats of a leader. Default 100.
    pub heartbeat_interval_ms: u64,
    /// Shortest wait before an election; also the longest that a leader claims to lead without
    /// hearing a quorum. Default 400, at least three heartbeats.
    pub election_timeout_min_ms: u64,
    /// Longest wait before an election, and the lease that a follower grants its leader. A failed
    /// leader is replaced after the lease plus one election timeout. Default 600.
    pub election_timeout_max_ms: u64,
    /// Entries between two snapshots. Default 50,000.
    pub snapshot_every_entries: u64,
    /// Snapshot files kept. Default 2, at least 1.
    pub snapshots_kept: usize,
    /// Largest payload that is accepted, at most 32 MiB. Default 4 MiB.
    pub payload_len_max: usize,
    /// Proposals that this node works on at once; more are refused. Default 1,024.
    pub proposals_in_flight_max: usize,
    /// Bounds administrative operations and forwarded requests that state no time of their own. Default 5,000.
    pub request_timeout_ms: u64,
    /// A disk write that takes longer makes a leader step down. Default 1,000.
    pub disk_stall_ms: u64,
    /// Memory for the engine's cache and for recent entries together. Default 16 MiB.
    pub cache_bytes: usize,
}

const PAYLOAD_LEN_LIMIT: usize = 32 * 1024 * 1024;

impl Config {
    /// Settings with every default.
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
            app_version: 1,
            name: String::new(),
            http_addr: String::new(),
            heartbeat_interval_ms: 100,
            election_timeout_min_ms: 400,
            election_timeout_max_ms: 600,
            snapshot_every_entries: 50_000,
            snapshots_kept: 2,
            payload_len_max: 4 * 1024 * 1024,
            proposals_in_flight_max: 1_024,
            request_timeout_ms: 5_000,
            disk_stall_ms: 1_000,
            cache_bytes: 16 * 1024 * 1024,
        }
    }

    /// Every setting that is out of range, one line each; empty when all is well.
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

    /// Largest frame between peers: one payload, or one full batch, with room for the envelope.
    pub(crate) fn frame_len_max(&self) -> usize {
        (self.payload_len_max + codec::ENVELOPE_ROOM).max(4 * 1024 * 1024)
    }
}

pub(crate) fn cluster_id_is_valid(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !id.starts_with('-')
        && !id.ends_with('-')
}

/// The DNS name that a node's certificate must carry.
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
