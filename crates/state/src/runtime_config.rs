//! The settings that operators change while Maxine runs. They are replicated, so every node uses the same
//! ones.

use bincode::{Decode, Encode};
use imbl::Vector;
use serde::{Deserialize, Serialize};

use super::limits::{KV_KEYS_MAX_MAX, KV_LEN_MAX_MAX, KV_LEN_MAX_MIN, LimitExceeded, check_range};
use super::versioned::{first_version, stored};

/// How an instance is chosen among those of a service.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SelectionStrategy {
    /// Instances take turns. Over one cycle, each gets exactly the share of its weight.
    #[default]
    RoundRobin,
    /// Instances are hashed to points on a ring. The first point after the hash of the request's key wins.
    ConsistentHash,
    /// Each instance gets a score from the hashes of the request's key and of the instance. The highest wins.
    Rendezvous,
    /// Two instances are drawn at random by weight. The one with fewer requests in flight for its weight wins.
    LeastRequest,
}

first_version!(SelectionStrategy { RoundRobin, ConsistentHash, Rendezvous, LeastRequest });

/// How `discover` answers.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DiscoveryMode {
    /// It redirects the caller to the instance.
    #[default]
    Redirect,
    /// It forwards the request to the instance.
    Proxy,
}

first_version!(DiscoveryMode { Redirect, Proxy });

/// Format of the lines in the request log.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object per request.
    #[default]
    Json,
    /// Plain text.
    Plain,
}

first_version!(LogFormat { Json, Plain });

/// The settings themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Whether a separate thread writes the request log.
    pub log_async: bool,
    /// Whether JSON log lines are indented.
    pub log_json_prettify: bool,
    /// Time to live of a registration that gives none, in seconds, 1 to 34,560,000.
    pub heartbeat_timeout_s: u64,
    /// Strategy of services whose policy sets none.
    pub selection_strategy: SelectionStrategy,
    /// How `discover` answers if the request does not choose a mode.
    pub discovery_mode: DiscoveryMode,
    /// Format of the lines in the request log.
    pub log_format: LogFormat,
    /// Maximum number of keys of the key-value store, 1 to 1,000,000. Left out: 100,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub kv_keys_max: Option<u64>,
    /// Maximum size of all keys and values, in bytes, 1,048,576 to 1,073,741,824. Each key counts its length, that of its
    /// value, and 256 bytes. Left out: 134,217,728.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1_048_576, maximum = 1_073_741_824)]
    pub kv_len_max: Option<u64>,
}

stored!(RuntimeConfig {
    log_async,
    log_json_prettify,
    heartbeat_timeout_s,
    selection_strategy,
    discovery_mode,
    log_format,
} later LaterConfigField {
    3 KvKeysMax(kv_keys_max: Option<u64>),
    3 KvLenMax(kv_len_max: Option<u64>),
});

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            log_async: true,
            log_json_prettify: false,
            heartbeat_timeout_s: 5,
            selection_strategy: SelectionStrategy::default(),
            discovery_mode: DiscoveryMode::default(),
            log_format: LogFormat::default(),
            kv_keys_max: None,
            kv_len_max: None,
        }
    }
}

impl RuntimeConfig {
    /// Checks every bound.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        check_range("heartbeat_timeout_s", self.heartbeat_timeout_s, 1, 34_560_000)?;
        if let Some(keys_max) = self.kv_keys_max {
            check_range("kv_keys_max", keys_max, 1, KV_KEYS_MAX_MAX)?;
        }
        match self.kv_len_max {
            Some(len_max) => check_range("kv_len_max", len_max, KV_LEN_MAX_MIN, KV_LEN_MAX_MAX),
            None => Ok(()),
        }
    }
}

/// Maximum number of revisions that are kept.
pub(super) const CONFIG_REVISIONS_MAX: usize = 100;

/// A configuration, earlier or current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ConfigRevision {
    /// Index of the change that set it; 0 for the unchanged defaults.
    pub revision: u64,
    /// The time of the change, in milliseconds since 1970, by the log's clock; 0 if unknown.
    pub time_ms: u64,
    /// The user who changed it; empty if unknown.
    pub user: Box<str>,
    /// The settings.
    pub config: RuntimeConfig,
}

stored!(ConfigRevision { revision, time_ms, user, config });

/// The most recent configurations, oldest first. They are kept apart from the audit log, in which a busy
/// fleet produces many records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigHistory(Vector<ConfigRevision>);

impl ConfigHistory {
    /// Adds the configuration that replaces `before`, and `before` itself if the history does not have it.
    pub(super) fn replace(&mut self, before: &ConfigRecord, now: ConfigRevision) {
        let newest = self.0.back().map(|known| known.revision);
        if newest != Some(before.revision) {
            let (revision, config) = (before.revision, before.config.clone());
            self.keep(ConfigRevision { revision, time_ms: 0, user: "".into(), config });
        }
        self.keep(now);
    }

    pub(super) fn keep(&mut self, revision: ConfigRevision) {
        self.0.push_back(revision);
        while self.0.len() > CONFIG_REVISIONS_MAX {
            self.0.pop_front();
        }
    }

    /// The revisions, oldest first.
    #[must_use]
    pub fn revisions(&self) -> &Vector<ConfigRevision> {
        &self.0
    }
}

/// The settings, and the index of their last change. Clients name this index for a conditional change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ConfigRecord {
    /// Index of the last change; 0 if nobody has changed anything.
    pub revision: u64,
    /// The settings.
    pub config: RuntimeConfig,
}

stored!(ConfigRecord { revision, config });
