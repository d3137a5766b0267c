//! A running node: connects its parts, and stops them in the reverse order.
//!
//! The node has its own runtime, so that the program around it never starves the consensus core. Its methods
//! may be called from any runtime. This module has no policy; that is in `propose`, `read`, `membership` and
//! `leadership`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::application::{Application, PeerHandler};
use crate::config::{Config, Member, NodeId};
use crate::consensus_core::{Raft, core_config};
use crate::error::{AdminError, CallError, ReadError, StartError};
use crate::exclusion::{ExclusionCell, Refusals};
use crate::forward::Target;
use crate::inner::{Inner, RaftNode};
use crate::lifecycle::Lifecycle;
use crate::network::contacts::{Contacts, Introduction};
use crate::network::context::Context;
use crate::network::handshake::LocalIdentity;
use crate::network::inbound::Inbound;
use crate::network::links::Links;
use crate::network::listener::Listener;
use crate::network::outbound::Outbound;
use crate::network::tls::Transport;
use crate::roster::Roster;
use crate::status::{CounterCells, Leadership};
use crate::storage::disk_health::DiskHealth;
use crate::storage::log_store::{LogStore, drop_contradicted};
use crate::storage::node_dir::NodeDir;
use crate::storage::snapshots::SnapshotStore;
use crate::storage::state_machine::{SnapshotOrigin, StateMachine};
use crate::succession::Succession;
use crate::{belonging, clock, compaction, forward, state_age, storage, supervision, suspicion};

/// What is opened on the disk before the consensus core starts.
struct Opened {
    dir: Arc<NodeDir>,
    log: LogStore,
    health: Arc<DiskHealth>,
    snapshots: Arc<SnapshotStore>,
    transport: Transport,
    machine: StateMachine,
}

impl RaftNode {
    /// Starts a node. Returns once everything is applied again that was known to be committed here. It needs
    /// no other node: what a majority has committed in the meantime arrives later. Dropping the future stops
    /// the node.
    pub async fn start(
        config: Config,
        app: Box<dyn Application>,
        peers: Arc<dyn PeerHandler>,
    ) -> Result<Self, StartError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("maxine-raft")
            .enable_all()
            .build()
            .map_err(|error| StartError::Consensus(error.to_string()))?;
        let handle = runtime.handle().clone();
        let starting = handle.spawn(start_inside(config, app, peers, runtime));
        starting.await.map_err(|error| StartError::Consensus(error.to_string()))?
    }

    /// The address where peers reach this node, with the real port if port 0 was requested.
    pub fn listen_addr(&self) -> SocketAddr {
        self.inner.listen_addr
    }

    /// The settings that the node was started with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Reads the files of certificates and keys again, and uses them for connections to other nodes that begin later.
    /// Open connections stay. Blocks.
    ///
    /// # Errors
    ///
    /// A file cannot be used. Then nothing changes.
    pub fn reload_tls(&self) -> Result<(), StartError> {
        self.inner.links.reload_tls(&self.inner.config)
    }

    /// Founds the cluster with these voters. Call it on one node, or on several with the same set. Founding
    /// it again with the same set does nothing.
    pub async fn bootstrap(&self, members: BTreeMap<NodeId, Member>) -> Result<(), AdminError> {
        crate::membership::bootstrap(&self.inner, members).await
    }

    /// Sends an application message to another node and returns its handler's answer. A message to this node
    /// itself is refused. The future can be dropped safely; the message may still be handled.
    pub async fn call(
        &self,
        to: Target,
        body: bytes::Bytes,
        timeout: Duration,
    ) -> Result<bytes::Bytes, CallError> {
        forward::call(&self.inner, to, body, timeout).await
    }

    /// Waits until the local state has applied `index`, and returns the index that it has applied.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<u64, ReadError> {
        crate::read::wait_applied(&self.inner, index, timeout).await
    }

    /// Returns the reason when the node had to stop by itself: the disk failed, the application or the
    /// consensus core failed or panicked, or another member refuses this node's data directory or version.
    /// The process should exit then.
    pub async fn failed(&self) -> String {
        let mut disk = self.inner.health.watch_failure();
        let _ = disk.wait_for(|failed| *failed).await;
        match self.inner.health.failure() {
            Some(reason) => reason.to_owned(),
            None => std::future::pending().await,
        }
    }

    /// Stops in an orderly way: accepts no more proposals, transfers leadership to the voter with the most
    /// entries, waits for that, and stops. Always ends within a few seconds.
    pub async fn shutdown(&self) -> Result<(), AdminError> {
        self.inner.lifecycle.accept_no_more();
        if self.inner.leads_core() && self.inner.other_voters() > 0 {
            let patience = 3 * Duration::from_millis(self.inner.config.election_timeout_max_ms);
            if let Err(error) = crate::transfer::hand_over_to_stop(&self.inner, patience).await {
                tracing::warn!(%error, "leadership could not be handed over before stopping");
            }
        }
        self.stop_now().await;
        Ok(())
    }

    /// Stops without a transfer of leadership. Acknowledged entries are on the disk.
    pub async fn stop_now(&self) {
        let inner = &self.inner;
        inner.lifecycle.accept_no_more();
        inner.lifecycle.stop.cancel();
        if tokio::time::timeout(Duration::from_secs(5), inner.raft.shutdown()).await.is_err() {
            tracing::warn!("the Raft core did not stop in time");
        }
        tracing::debug!("core stopped");
        inner.links.close();
        inner.lifecycle.end_tasks().await;
        tracing::debug!("connections closed");
        if tokio::time::timeout(Duration::from_secs(5), inner.log.stop()).await.is_err() {
            tracing::warn!("the log thread did not stop in time");
        }
        tracing::debug!("log closed");
        inner.lifecycle.end_app_thread().await;
        inner.leadership.send_modify(|last| {
            *last = Leadership { term: last.term, leader: None, is_leader: false }
        });
        inner.dir.unlock();
        inner.lifecycle.end_runtime();
    }
}

async fn start_inside(
    config: Config,
    app: Box<dyn Application>,
    peers: Arc<dyn PeerHandler>,
    runtime: tokio::runtime::Runtime,
) -> Result<RaftNode, StartError> {
    // The runtime must not be dropped on one of its own threads, however this function ends.
    let runtime = RuntimeGuard(Some(runtime));
    let opening = config.clone();
    let mut opened = tokio::task::spawn_blocking(move || open(&opening, app))
        .await
        .map_err(|error| StartError::Storage(error.to_string()))??;
    let storage_error = |error: std::io::Error| StartError::Storage(error.to_string());
    let snapshot = opened.snapshots.current().map(|snapshot| snapshot.meta()).transpose();
    let snapshot = snapshot.map_err(storage_error)?.and_then(|meta| meta.last_log_id);
    drop_contradicted(&mut opened.log, snapshot).await.map_err(storage_error)?;
    let listen = |error: std::io::Error| StartError::Listen {
        addr: config.listen_addr,
        reason: error.to_string(),
    };
    let tcp = maxine_admission::listen(config.listen_addr).map_err(listen)?;
    let listen_addr = tcp.local_addr().map_err(listen)?;

    let restarted = !opened.log.is_pristine();
    let links = links(
        &config,
        opened.transport,
        opened.dir.clone(),
        opened.machine.roster(),
        opened.log.clone(),
        opened.health.clone(),
        peers.clone(),
    );
    let outbound = Outbound { me: config.node_id, links: links.clone() };
    let applied = opened.machine.applied();
    let roster = opened.machine.roster();
    let app_thread = opened.machine.thread();
    let raft = Raft::new(
        config.node_id,
        core_config(&config)?,
        outbound,
        opened.log.clone(),
        opened.machine,
    )
    .await
    .map_err(|error| StartError::Consensus(error.to_string()))?;

    links.context.me.acknowledged.follow(raft.clone());
    let inner = Arc::new(Inner {
        in_flight: Arc::new(Semaphore::new(config.proposals_in_flight_max)),
        leadership: watch::Sender::new(Leadership::default()),
        led: Mutex::default(),
        stalled: AtomicBool::new(false),
        transferring: AtomicU64::new(u64::MAX),
        supported_at: Mutex::default(),
        stands_early: AtomicBool::new(false),
        counters: CounterCells::default(),
        lifecycle: Lifecycle::new(runtime.into_inner(), app_thread),
        raft: raft.clone(),
        links: links.clone(),
        log: opened.log,
        snapshots: opened.snapshots.clone(),
        health: opened.health,
        dir: opened.dir,
        applied,
        freshness: Arc::default(),
        roster,
        exclusion: ExclusionCell::default(),
        pinged: AtomicBool::new(false),
        listen_addr,
        config,
    });
    let lease =
        Duration::from_millis(if restarted { inner.config.election_timeout_max_ms } else { 0 });
    let votes_from = clock::now() + lease;
    links.context.me.acknowledged.wait_until(votes_from);
    let inbound = Inbound {
        context: links.context.clone(),
        raft,
        snapshots: opened.snapshots,
        handler: peers,
        node: Arc::downgrade(&inner),
        votes_from,
        asking: Arc::default(),
        warned: Mutex::default(),
        request_timeout: Duration::from_millis(inner.config.request_timeout_ms),
    };
    let Lifecycle { stop, tasks, .. } = &inner.lifecycle;
    let listener = Arc::new(Listener::new(inbound, stop.clone(), tasks.clone()));
    tasks.spawn(listener.run(tcp));
    belonging::watch_exclusion(&inner);
    tasks.spawn(supervision::watch_over(Arc::downgrade(&inner), stop.clone()));
    tasks.spawn(suspicion::watch_leader(Arc::downgrade(&inner), stop.clone()));
    tasks.spawn(state_age::ask_leader(Arc::downgrade(&inner), stop.clone()));
    tasks.spawn(compaction::follow_snapshots(Arc::downgrade(&inner), stop.clone()));
    tasks.spawn(supervision::look_for_members(Arc::downgrade(&inner), stop.clone()));
    tasks.spawn(supervision::watch_directory(Arc::downgrade(&inner), stop.clone()));
    Ok(RaftNode { inner })
}

struct RuntimeGuard(Option<tokio::runtime::Runtime>);

impl RuntimeGuard {
    fn into_inner(mut self) -> Option<tokio::runtime::Runtime> {
        self.0.take()
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Locks the directory, verifies its content and loads the certificates. Blocks.
fn open(config: &Config, app: Box<dyn Application>) -> Result<Opened, StartError> {
    let storage_error = |error: std::io::Error| StartError::Storage(error.to_string());
    let transport = Transport::load(config)?;
    let dir = Arc::new(NodeDir::open(
        &config.data_dir,
        &config.cluster_id,
        config.node_id,
        config.engine,
    )?);
    let health = Arc::new(DiskHealth::new());
    // This comes before the log is opened, which finishes an interrupted removal. If either is damaged,
    // nothing may be changed.
    let snapshots =
        Arc::new(SnapshotStore::open(dir.path(), config.snapshots_kept).map_err(storage_error)?);
    let engine = storage::open_engine(dir.engine(), dir.path(), config.cache_bytes / 2)
        .map_err(storage_error)?;
    let log = LogStore::open(engine, dir.path(), config.cache_bytes / 2, health.clone())
        .map_err(storage_error)?;
    snapshots.remove_unfinished().map_err(storage_error)?;
    let lineage_of = dir.clone();
    let origin = SnapshotOrigin {
        cluster_id: config.cluster_id.clone(),
        lineage: Arc::new(move || lineage_of.lineage()),
    };
    let machine = StateMachine::start(app, snapshots.clone(), origin).map_err(storage_error)?;
    Ok(Opened { dir, log, health, snapshots, transport, machine })
}

fn links(
    config: &Config,
    transport: Transport,
    dir: Arc<NodeDir>,
    roster: Arc<Roster>,
    log: LogStore,
    health: Arc<DiskHealth>,
    peers: Arc<dyn PeerHandler>,
) -> Arc<Links> {
    let started = (!log.is_pristine()).then(clock::now);
    let end = log.clone();
    let log_end =
        move || (end.last_log_id(), end.saved_vote().map_or(0, |vote| vote.leader_id.term));
    let me = LocalIdentity {
        cluster_id: config.cluster_id.clone(),
        node_id: config.node_id,
        app_version: config.app_version,
        introduction: Introduction::of(config),
        refusals: Refusals::default(),
        dir,
        acknowledged: Arc::default(),
        log_end: Box::new(log_end),
        roster,
        admit_version: Box::new(move |understands| peers.admit_version(understands)),
        is_pristine: Box::new(move || log.is_pristine()),
        stop_for: Box::new(move |reason| health.fail(reason)),
    };
    Arc::new(Links::new(Arc::new(Context {
        me,
        transport,
        frame_len_max: config.frame_len_max(),
        silence_max: Duration::from_millis((3 * config.election_timeout_max_ms).max(2_000)),
        runtime: tokio::runtime::Handle::current(),
        contacts: Contacts::default(),
        succession: Succession::new(started),
    })))
}
