//! A simulated node: its disk, and its present process.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use super::disk::{SharedDisk, SimLog};
use super::machine::SimMachine;
use super::network::{SimNet, SimOutbound};
use super::running::{Running, SimRaft};
use super::step::Step;
use super::virtual_clock;
use super::{KnownFault, SimApplication};
use crate::config::{Config, NodeId};
use crate::storage::log_store::drop_contradicted;
use crate::succession::Succession;

/// A node, running or not.
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) disk: SharedDisk,
    /// How much faster its clock runs, in percent; negative if it runs slower.
    drift_percent: i64,
}

/// Creates an application.
pub(super) type NewApp = Arc<dyn Fn() -> Box<dyn SimApplication> + Send + Sync>;

impl SimNode {
    pub(super) fn new(id: NodeId, drift_percent: i64) -> Self {
        Self { id, disk: SharedDisk::default(), drift_percent }
    }

    /// The settings of the node. A node with a fast clock waits for less time than it assumes.
    fn config(&self) -> Config {
        let mut config = Config::new("simulation", self.id, "", ([127, 0, 0, 1], 0).into());
        let drifted = |ms: u64| ms * 100 / 100_u64.saturating_add_signed(self.drift_percent);
        config.heartbeat_interval_ms = drifted(config.heartbeat_interval_ms);
        config.election_timeout_min_ms = drifted(config.election_timeout_min_ms);
        config.election_timeout_max_ms = drifted(config.election_timeout_max_ms);
        config.read_lease_ms = drifted(config.read_lease_ms);
        // It is so low that snapshots are made, logs are purged, and a node that was away receives a
        // snapshot.
        config.snapshot_every_entries = 40;
        config
    }

    /// Starts a process on the node's disk.
    pub(super) async fn start(
        &self,
        net: &SimNet,
        app: &NewApp,
        fault: Option<KnownFault>,
    ) -> Result<(), String> {
        let config = self.config();
        let core =
            crate::consensus_core::core_config(&config).map_err(|error| error.to_string())?;
        let mut core = openraft::Config::clone(&core);
        core.max_in_snapshot_log_to_keep = 15;
        let process = self.disk.lock().process();
        let mut log = SimLog::open(self.disk.clone(), net.world.clone(), fault);
        let snapshot = self.disk.lock().snapshot.as_ref().and_then(|kept| kept.meta.last_log_id);
        drop_contradicted(&mut log, snapshot).await.map_err(|error| error.to_string())?;
        let machine = SimMachine::open(self.id, app(), self.disk.clone(), net.world.clone(), fault)
            .map_err(|error| error.to_string())?;
        let restarted = (process > 0).then(|| virtual_clock::now().into_std());
        let succession = Arc::new(Succession::new(restarted));
        let outbound =
            SimOutbound { me: self.id, net: net.clone(), succession: succession.clone() };
        let raft = SimRaft::new(self.id, Arc::new(core), outbound, log, machine)
            .await
            .map_err(|error| error.to_string())?;
        let lease = if process > 0 { config.election_timeout_max_ms } else { 0 };
        let votes_from = virtual_clock::now() + Duration::from_millis(lease);
        let running = Running {
            raft,
            process,
            votes_from,
            succession,
            config: Arc::new(config),
            drift_percent: self.drift_percent,
            transferring: Arc::new(AtomicU64::new(u64::MAX)),
            fault,
        };
        net.running.lock().insert(self.id, running.clone());
        tokio::spawn(watch(self.id, running, self.disk.clone(), net.clone()));
        Ok(())
    }

    /// Kills the process. Returns the number of operations that its disk lost.
    pub(super) fn crash(&self, net: &SimNet, kept_percent: u64) -> u64 {
        let Some(running) = net.running.lock().remove(&self.id) else { return 0 };
        let lost = self.disk.lock().crash(kept_percent);
        // The other nodes see it as dead already. This only ends its tasks.
        tokio::spawn(async move { drop(running.raft.shutdown().await) });
        lost
    }
}

/// Reports when a process becomes leader, and with which log.
async fn watch(id: NodeId, running: Running, disk: SharedDisk, net: SimNet) {
    let mut metrics = running.raft.metrics();
    let mut led = 0;
    while metrics.changed().await.is_ok() {
        let (leads, term) = {
            let metrics = metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader && metrics.vote.committed;
            (leads, metrics.vote.leader_id.term)
        };
        if leads && term > led && disk.lock().process() == running.process {
            led = term;
            let (purged, entries) = disk.lock().log();
            let mut world = net.world.lock();
            world.happened(&Step::Leads { node: id, term });
            world.happened(&Step::LogOfLeader { node: id, term, purged, entries });
        }
    }
}
