//! The parts of the native API's answers that the command line shows. Other fields are left out. Scripts get
//! the answers as the node sent them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use maxine_api::native::ServiceHealth;
use maxine_state::{Liveness, Readiness};
use maxine_store::{NodeRole, StoreKind};

/// One page of a list.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// The items.
    pub items: Vec<Value>,
    /// The start of the next page; `None` on the last page.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// Counts of what is registered.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Totals {
    pub namespaces: u64,
    pub services: u64,
    pub instances: u64,
    pub routable: u64,
    pub unhealthy: u64,
    pub evicted: u64,
    pub no_traffic: NoTraffic,
}

/// Instances that get no traffic, by the reason.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct NoTraffic {
    pub drained: u64,
    pub evicted: u64,
    pub unhealthy: u64,
    pub no_share: u64,
}

/// A service in a list.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct ServiceSummary {
    pub namespace: String,
    pub name: String,
    pub health: ServiceHealth,
    pub instances: u64,
    pub routable: u64,
    #[serde(default)]
    pub unhealthy: u64,
    #[serde(default)]
    pub evicted: u64,
    #[serde(default)]
    pub draining: u64,
    #[serde(default)]
    pub strategy: Option<String>,
    #[serde(default)]
    pub policy: Option<Value>,
    #[serde(default)]
    pub kept_drains: Vec<KeptDrain>,
}

/// A drain of an instance that is not registered.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct KeptDrain {
    pub id: String,
    #[serde(flatten)]
    pub drain: Drain,
}

/// An instance.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Instance {
    pub id: String,
    pub address: String,
    #[serde(default)]
    pub weight: u64,
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    #[serde(default)]
    pub zone: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub routable: bool,
    #[serde(default)]
    pub health: Health,
    #[serde(default)]
    pub drain: Option<Drain>,
}

/// What is known about an instance's health.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Health {
    pub readiness: Readiness,
    pub liveness: Liveness,
    pub reason: String,
}

/// Who took an instance out of traffic.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Drain {
    #[serde(default)]
    pub by: String,
    #[serde(default)]
    pub reason: String,
}

/// The instance that was chosen for a name.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Resolution {
    pub id: String,
    pub url: String,
    #[serde(default)]
    pub strategy: String,
    #[serde(default)]
    pub candidates: u64,
}

/// The cluster as one node sees it.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Cluster {
    pub node: String,
    pub backend: StoreKind,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub state_version: Option<StateVersions>,
    #[serde(default)]
    pub nodes: Option<Vec<StoreNode>>,
    #[serde(default)]
    pub uptime_ms: u64,
    #[serde(default)]
    pub index: Option<u64>,
    #[serde(default)]
    pub staleness_ms: Option<u64>,
    #[serde(default)]
    pub leadership: Leadership,
    #[serde(default)]
    pub totals: Option<Totals>,
    #[serde(default)]
    pub warnings: Vec<String>,
    #[serde(default)]
    pub excluded: Option<String>,
    #[serde(default)]
    pub expiry: Expiry,
    #[serde(default)]
    pub raft: Option<Raft>,
}

/// Whether expiry is suspended.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Expiry {
    pub suspended: Option<bool>,
}

/// The version of the state, and the newest that the node understands.
#[derive(Clone, Copy, Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct StateVersions {
    pub current: Option<u32>,
    pub understood: u32,
}

/// The leader, as one node knows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Leadership {
    pub leader: Option<String>,
    pub is_leader: bool,
    pub term: Option<u64>,
}

/// The replicated log as one node sees it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Raft {
    pub cluster_id: String,
    pub node_id: u64,
    pub role: Option<NodeRole>,
    pub last_log_index: Option<u64>,
    pub committed_index: Option<u64>,
    pub applied_index: Option<u64>,
    pub snapshot_index: Option<u64>,
    pub purged_index: Option<u64>,
    pub disk_stalled: bool,
    pub log_disk_bytes: u64,
    pub majority: u64,
    pub reachable_voters: Option<u64>,
    #[serde(default)]
    pub voter_sets: Vec<Vec<u64>>,
    pub failures_tolerated: Option<u64>,
    pub members: Vec<Member>,
}

/// A node that shares the store.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct StoreNode {
    pub name: String,
    pub state_version: u32,
    pub last_seen_ms: u64,
}

/// One member of the cluster.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the API's own names; the reference describes them")]
pub struct Member {
    pub id: u64,
    pub name: String,
    #[serde(default)]
    pub peer_addr: String,
    #[serde(default)]
    pub http_addr: String,
    #[serde(default)]
    pub voter: bool,
    #[serde(default)]
    pub leader: bool,
    #[serde(default)]
    pub reachable: Option<bool>,
    #[serde(default)]
    pub acknowledges: Option<bool>,
    #[serde(default)]
    pub matched_index: Option<u64>,
    #[serde(default)]
    pub last_contact_ms: Option<u64>,
    #[serde(default)]
    pub state_version: Option<u32>,
}
