//! Passes committed entries to the application and transfers snapshots, as a real node does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;

use super::disk::{SharedDisk, SimSnapshot, entry_hash};
use super::step::Step;
use super::world::Shared;
use super::{KnownFault, SimApplication};
use crate::application::CommittedEntry;
use crate::config::NodeId;
use crate::consensus::{self, Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// How many entries are applied between two digests. A digest after every entry would take most of the run's
/// time.
const DIGEST_EVERY: u64 = 4;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SimSnapshot>;

/// The state of one process of a node.
pub(super) struct SimMachine {
    node: NodeId,
    app: Arc<Mutex<Box<dyn SimApplication>>>,
    disk: SharedDisk,
    process: u64,
    world: Shared,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    /// Whether to leave out an entry, for the fault that does so.
    skip: bool,
}

impl SimMachine {
    /// The state after a start: that of the last snapshot.
    pub(super) fn open(
        node: NodeId,
        app: Box<dyn SimApplication>,
        disk: SharedDisk,
        world: Shared,
        fault: Option<KnownFault>,
    ) -> io::Result<Self> {
        let (process, snapshot) = {
            let disk = disk.lock();
            (disk.process(), disk.snapshot.clone())
        };
        let skip = fault == Some(KnownFault::SkipEntry) && process > 0;
        let app = Arc::new(Mutex::new(app));
        let mut machine = Self {
            node,
            app,
            disk,
            process,
            world,
            last_applied: None,
            membership: StoredMembership::default(),
            skip,
        };
        if let Some(snapshot) = snapshot {
            machine.restore(&snapshot)?;
        }
        Ok(machine)
    }

    fn restore(&mut self, snapshot: &SimSnapshot) -> io::Result<()> {
        let index = snapshot.meta.last_log_id.as_ref().map_or(0, |id| id.index);
        self.app.lock().restore(index, &mut snapshot.bytes.as_slice())?;
        self.last_applied = snapshot.meta.last_log_id;
        self.membership = snapshot.meta.last_membership.clone();
        Ok(())
    }

    /// Stores a snapshot, if this process is still the present one.
    fn keep(&self, snapshot: &SimSnapshot) {
        keep(&self.disk, self.process, snapshot);
    }

    fn apply_one(&mut self, entry: &Entry) -> Reply {
        let payload = match &entry.payload {
            EntryPayload::Normal(payload) => Some(payload.0.clone()),
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                None
            }
        };
        let committed = CommittedEntry {
            index: entry.log_id.index,
            term: entry.log_id.leader_id.term,
            payload,
        };
        let mut app = self.app.lock();
        let skipped = self.skip && committed.payload.is_some();
        let replies = match skipped {
            true => Vec::new(),
            false => app.apply(&[committed]).expect("one build reads what it wrote"),
        };
        self.skip &= !skipped;
        let step = Step::Applied {
            node: self.node,
            id: consensus::log_id_to_dto(&entry.log_id),
            entry: entry_hash(entry),
            digest: entry.log_id.index.is_multiple_of(DIGEST_EVERY).then(|| app.digest()),
        };
        let mut world = self.world.lock();
        // The actions of a process that was killed have no effect.
        if self.disk.lock().process() == self.process {
            world.happened(&step);
            for violation in app.verdicts() {
                world.broken(violation);
            }
        }
        Reply(replies.into_iter().next().unwrap_or_default())
    }
}

fn keep(disk: &SharedDisk, process: u64, snapshot: &SimSnapshot) {
    let mut disk = disk.lock();
    let newer =
        disk.snapshot.as_ref().is_none_or(|old| old.meta.last_log_id < snapshot.meta.last_log_id);
    if disk.process() == process && newer {
        disk.snapshot = Some(snapshot.clone());
    }
}

impl RaftStateMachine<TypeConfig> for SimMachine {
    type SnapshotData = SimSnapshot;
    type SnapshotBuilder = SimBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder): (Entry, _) = item?;
            let reply = self.apply_one(&entry);
            self.last_applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SimBuilder {
        let mut bytes = Vec::new();
        let encoded = self.app.lock().snapshot().encode(&mut bytes);
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
        };
        let snapshot = SimSnapshot { meta, bytes: Arc::new(bytes) };
        let made = encoded.map(|()| snapshot).map_err(|error| error.to_string());
        SimBuilder { made, disk: self.disk.clone(), process: self.process }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SimSnapshot,
    ) -> Result<(), io::Error> {
        // A large snapshot is written and read for long, and the core continues meanwhile.
        let took_ms = {
            let mut world = self.world.lock();
            if world.dice.percent(50) {
                world.dice.range(0, 20)
            } else {
                world.dice.range(20, 3_000)
            }
        };
        tokio::time::sleep(Duration::from_millis(took_ms)).await;
        let snapshot = SimSnapshot { meta: meta.clone(), ..snapshot };
        self.keep(&snapshot);
        self.world.lock().outcome.snapshots_installed += 1;
        self.restore(&snapshot)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let kept = self.disk.lock().snapshot.clone();
        Ok(kept.map(|snapshot| Snapshot { meta: snapshot.meta.clone(), snapshot }))
    }
}

/// Writes one copy of the state to the disk.
pub(super) struct SimBuilder {
    made: Result<SimSnapshot, String>,
    disk: SharedDisk,
    process: u64,
}

impl RaftSnapshotBuilder<TypeConfig> for SimBuilder {
    type SnapshotData = SimSnapshot;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let snapshot = self.made.clone().map_err(io::Error::other)?;
        keep(&self.disk, self.process, &snapshot);
        Ok(Snapshot { meta: snapshot.meta.clone(), snapshot })
    }
}
