//! The consensus library with this crate's state machine and settings.

use std::sync::Arc;

use crate::config::Config;
use crate::consensus::TypeConfig;
use crate::error::StartError;
use crate::storage::state_machine::StateMachine;

/// A handle to the consensus core of a node.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The settings of the core.
pub(crate) fn core_config(config: &Config) -> Result<Arc<openraft::Config>, StartError> {
    // A follower that receives a snapshot while the next one is made must find the entries between the two.
    // Otherwise it would get one snapshot after another. The number has a limit, so that compaction can free
    // space on a full disk.
    let keep = config.snapshot_every_entries.min(5_000);
    let core = openraft::Config {
        cluster_name: config.cluster_id.clone(),
        heartbeat_interval: config.heartbeat_interval_ms,
        election_timeout_min: config.election_timeout_min_ms,
        election_timeout_max: config.election_timeout_max_ms,
        install_snapshot_timeout: 60_000,
        max_payload_entries: 1_024,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(config.snapshot_every_entries),
        replication_lag_threshold: 2 * config.snapshot_every_entries + keep,
        max_in_snapshot_log_to_keep: keep,
        purge_batch_size: keep.min(1_000),
        api_channel_size: Some(8_192),
        api_batch_capacity: 1_024,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some((2 * config.election_timeout_max_ms).max(3_000)),
        enable_leader_restore: Some(false),
        // A conflict that was in flight while the follower caught up may arrive after its acknowledgement.
        // The core would take that for a lost log. In debug builds it would panic; in release builds it would
        // rely on an acknowledgement that is no longer true. With this setting it searches again for the end
        // of the follower's log. Whether a node lost what it had acknowledged is checked when nodes connect
        // (`acknowledged`).
        allow_log_reversion: Some(true),
        broadcast_submitted_on_append: Some(true),
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..openraft::Config::default()
    };
    core.validate().map(Arc::new).map_err(|error| StartError::Consensus(error.to_string()))
}
