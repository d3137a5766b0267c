//! Passes committed entries to the application, and stores and installs its snapshots.
//!
//! The application has its own thread, which may block. The consensus core waits for it without holding a
//! runtime thread. A few small entries are applied on the core's own task, because two changes of threads
//! take longer than the work. Readers get the applied index before proposers get their replies. This module
//! never looks into a payload.

use std::collections::BTreeSet;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::snapshots::{SnapshotFile, SnapshotStore};
use crate::application::{Application, CommittedEntry, SnapshotEncoder};
use crate::codec::SnapshotHeadDto;
use crate::config::NodeId;
use crate::consensus::{self, Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::roster::Roster;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Maximum number of entries, and of bytes, in one call of `apply`.
const APPLY_ENTRIES_MAX: usize = 1_024;
const APPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum number of entries, and of bytes, that are applied without the application's thread.
const APPLY_HERE_ENTRIES_MAX: usize = 8;
const APPLY_HERE_BYTES_MAX: usize = 8 * 1024;

/// Locked during a call of the application. The core never holds it for long, and has one job at a time.
type SharedApplication = Arc<Mutex<Box<dyn Application>>>;

enum Job {
    Apply { group: Group, done: oneshot::Sender<io::Result<()>> },
    Snapshot { done: oneshot::Sender<Box<dyn SnapshotEncoder>> },
    Restore { index: u64, snapshot: SnapshotFile, done: oneshot::Sender<io::Result<()>> },
}

/// Identifies the history of the snapshots.
#[derive(Clone)]
pub(crate) struct SnapshotOrigin {
    pub(crate) cluster_id: String,
    pub(crate) lineage: Arc<dyn Fn() -> u64 + Send + Sync>,
}

pub(crate) struct StateMachine {
    app: SharedApplication,
    jobs: mpsc::Sender<Job>,
    snapshots: Arc<SnapshotStore>,
    origin: SnapshotOrigin,
    last_applied: Option<LogId>,
    /// The index of the newest snapshot that the core knows.
    told: Option<u64>,
    roster: Arc<Roster>,
    applied: Arc<watch::Sender<u64>>,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl StateMachine {
    pub(crate) fn start(
        app: Box<dyn Application>,
        snapshots: Arc<SnapshotStore>,
        origin: SnapshotOrigin,
    ) -> io::Result<Self> {
        let applied = Arc::new(watch::Sender::new(0));
        // One job at a time: the core waits for each.
        let (jobs, receiver) = mpsc::channel(1);
        let app = Arc::new(Mutex::new(app));
        let (publish, called) = (applied.clone(), app.clone());
        let thread = std::thread::Builder::new()
            .name("maxine-raft-apply".to_owned())
            .spawn(move || run(&called, receiver, &publish))?;
        Ok(Self {
            app,
            jobs,
            told: snapshots.current_index(),
            snapshots,
            origin,
            last_applied: None,
            roster: Arc::default(),
            applied,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// A receiver that follows the applied index.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The membership that was applied last.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        self.roster.clone()
    }

    /// The application's thread, for waiting until it has ended.
    pub(crate) fn thread(&self) -> Arc<Mutex<Option<std::thread::JoinHandle<()>>>> {
        self.thread.clone()
    }

    async fn job<T>(&self, job: Job, done: oneshot::Receiver<T>) -> io::Result<T> {
        self.jobs.send(job).await.map_err(|_| ended())?;
        done.await.map_err(|_| ended())
    }

    /// A copy of the present state, which can be written while the node applies further entries.
    async fn copy(&self) -> io::Result<StateCopy> {
        let (done, made) = oneshot::channel();
        let encoder = self.job(Job::Snapshot { done }, made).await?;
        let membership = self.roster.membership();
        let head = SnapshotHeadDto {
            cluster_id: self.origin.cluster_id.clone(),
            lineage: (self.origin.lineage)(),
            last: self.last_applied.as_ref().map(consensus::log_id_to_dto),
            membership_log_id: membership.log_id().as_ref().map(consensus::log_id_to_dto),
            membership: consensus::membership_to_dto(membership.membership()),
        };
        let (snapshots, used_ids) = (self.snapshots.clone(), self.roster.used_ids());
        Ok(StateCopy { snapshots, head, used_ids, encoder })
    }

    async fn apply_group(&mut self, group: &mut Group) -> io::Result<()> {
        if group.entries.is_empty() {
            return Ok(());
        }
        let group = std::mem::take(group);
        if group.is_small()
            && let Some(mut app) = self.app.try_lock()
        {
            let apply = AssertUnwindSafe(|| group.apply(&mut **app, &self.applied));
            return std::panic::catch_unwind(apply).unwrap_or_else(|_| Err(ended()));
        }
        let (done, finished) = oneshot::channel();
        self.job(Job::Apply { group, done }, finished).await?
    }
}

fn ended() -> io::Error {
    io::Error::other("the application's thread has ended: it panicked or the node is stopping")
}

#[derive(Default)]
struct Group {
    entries: Vec<CommittedEntry>,
    responders: Vec<(usize, ApplyResponder<TypeConfig>)>,
    bytes: usize,
}

impl Group {
    fn is_small(&self) -> bool {
        self.entries.len() <= APPLY_HERE_ENTRIES_MAX && self.bytes <= APPLY_HERE_BYTES_MAX
    }

    /// Applies the entries, then notifies readers, then answers the proposers.
    fn apply(self, app: &mut dyn Application, applied: &watch::Sender<u64>) -> io::Result<()> {
        let Self { entries, responders, .. } = self;
        let replies = app.apply(&entries)?;
        assert_eq!(replies.len(), entries.len(), "apply must return one reply per entry");
        if let Some(last) = entries.last() {
            applied.send_replace(last.index);
        }
        let mut replies = replies.into_iter().enumerate();
        for (at, responder) in responders {
            let reply = replies
                .by_ref()
                .find_map(|(number, reply)| (number == at).then_some(reply))
                .unwrap_or_default();
            let reply = if entries[at].payload.is_some() { reply } else { Bytes::new() };
            responder.send(Reply(reply));
        }
        Ok(())
    }
}

fn run(app: &SharedApplication, mut jobs: mpsc::Receiver<Job>, applied: &watch::Sender<u64>) {
    while let Some(job) = jobs.blocking_recv() {
        let mut app = app.lock();
        match job {
            Job::Apply { group, done } => {
                let _ = done.send(group.apply(&mut **app, applied));
            }
            Job::Snapshot { done } => {
                let _ = done.send(app.snapshot());
            }
            Job::Restore { index, snapshot, done } => {
                let result = app.restore(index, &mut snapshot.body());
                if result.is_ok() {
                    applied.send_replace(index);
                }
                let _ = done.send(result);
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.roster.membership()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut group = Group::default();
        let mut last = self.last_applied;
        while let Some(item) = entries.next().await {
            let (entry, responder): (Entry, _) = item?;
            last = Some(entry.log_id);
            let payload = match entry.payload {
                EntryPayload::Normal(payload) => Some(payload.0),
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.roster.apply(StoredMembership::new(Some(entry.log_id), membership));
                    None
                }
            };
            if let Some(responder) = responder {
                group.responders.push((group.entries.len(), responder));
            }
            group.bytes += payload.as_ref().map_or(0, Bytes::len);
            group.entries.push(CommittedEntry {
                index: entry.log_id.index,
                term: entry.log_id.leader_id.term,
                payload,
            });
            if group.entries.len() >= APPLY_ENTRIES_MAX || group.bytes >= APPLY_BYTES_MAX {
                self.apply_group(&mut group).await?;
            }
        }
        self.apply_group(&mut group).await?;
        self.last_applied = last;
        Ok(())
    }

    /// The core treats an error of a builder as fatal. So a snapshot is written before the core gets a builder for
    /// it, and a failure only means that there is none yet. Once a snapshot is written, the core is asked to build one
    /// again (`compaction`), and gets that one.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        if force {
            return Some(self.get_snapshot_builder().await);
        }
        let last = self.last_applied.as_ref().map(consensus::log_id_to_dto);
        if let Some(current) = self.snapshots.current()
            && (Some(current.index()) > self.told || current.head.last == last)
        {
            self.told = Some(current.index());
            return Some(SnapshotBuilder::Written(current));
        }
        if self.snapshots.attempts.begin() {
            write_in_background(self.snapshots.clone(), self.copy().await);
        }
        None
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder::Copied(Mutex::new(Some(self.copy().await)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let snapshots = self.snapshots.clone();
        let adopted = tokio::task::spawn_blocking(move || snapshots.adopt(snapshot))
            .await
            .map_err(io::Error::other)??;
        let index = adopted.index();
        let used_ids = adopted.used_ids.clone();
        let (done, finished) = oneshot::channel();
        self.job(Job::Restore { index, snapshot: adopted, done }, finished).await??;
        tracing::debug!(index, "a snapshot was installed");
        self.last_applied = meta.last_log_id;
        self.told = self.told.max(Some(index));
        self.roster.install(meta.last_membership.clone(), &used_ids);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        match self.snapshots.current() {
            None => Ok(None),
            Some(file) => Ok(Some(Snapshot { meta: file.meta()?, snapshot: file })),
        }
    }
}

/// One copy of the state, and where it is written.
pub(crate) struct StateCopy {
    snapshots: Arc<SnapshotStore>,
    head: SnapshotHeadDto,
    used_ids: BTreeSet<NodeId>,
    encoder: Box<dyn SnapshotEncoder>,
}

impl StateCopy {
    async fn write(self) -> io::Result<SnapshotFile> {
        let write = move || self.snapshots.create(&self.head, &self.used_ids, self.encoder);
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }
}

/// Writes a copy of the state. The task ends by itself, or with the runtime of the node.
fn write_in_background(snapshots: Arc<SnapshotStore>, copy: io::Result<StateCopy>) {
    tokio::spawn(async move {
        let written = match copy {
            Ok(copy) => copy.write().await,
            Err(error) => Err(error),
        };
        let outcome = written.as_ref().map(SnapshotFile::index);
        snapshots.attempts.end(outcome, crate::clock::now());
    });
}

/// What the core asks for a snapshot.
pub(crate) enum SnapshotBuilder {
    /// A snapshot that was written before.
    Written(SnapshotFile),
    /// A copy that is written when the core asks. The lock exists only because the core requires that the builder can be
    /// shared.
    Copied(Mutex<Option<io::Result<StateCopy>>>),
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let file = match self {
            Self::Written(file) => file.clone(),
            Self::Copied(copy) => {
                let copy = copy.lock().take();
                copy.ok_or_else(|| io::Error::other("a snapshot is built once"))??.write().await?
            }
        };
        Ok(Snapshot { meta: file.meta()?, snapshot: file })
    }
}

/// Waits a limited time for the application's thread to end. Blocks.
pub(crate) fn join_thread(thread: &Mutex<Option<std::thread::JoinHandle<()>>>, patience: Duration) {
    let started = crate::clock::now();
    let Some(handle) = thread.lock().take() else {
        return;
    };
    while !handle.is_finished() && crate::clock::since(started) < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
    if handle.is_finished() {
        let _ = handle.join();
    }
}
