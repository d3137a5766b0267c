//! Tools for a stopped node: inspect its directory, restore a backup into a new one, and recover from the
//! loss of a majority.
//!
//! Restore and recovery begin a new line of history. Nodes of the old one are refused from then on, so that
//! they cannot bring back what was given up. All functions block and take the lock of the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use openraft::EntryPayload;

use crate::codec::{
    self, DirIds, IdentityDto, LogIdDto, SnapshotHeadDto, StoredLogId, StoredVote, VoteDto,
};
use crate::config::{Config, EngineKind, Member, NodeId, cluster_id_is_valid, invalid_cluster_id};
use crate::consensus::{self, Entry, Membership};
use crate::error::StartError;
use crate::storage::checked_file;
use crate::storage::log_mark::LogMarkFile;
use crate::storage::log_store::{Recovered, recover};
use crate::storage::snapshots::{self, SnapshotFile, SnapshotStore};
use crate::storage::{LogEngine, MetaKey, log_writer, node_dir, open_engine, sync_dir};

/// Why a recovery refuses the directory of a node that was removed.
pub const REMOVED: &str = "this node was removed from the cluster: it lacks everything written since. Recover another node";

const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The content of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The cluster to which it belongs.
    pub cluster_id: String,
    /// The node to which it belongs.
    pub node_id: NodeId,
    /// The line of history that a restore or a recovery began; 0 if there was none.
    pub lineage: u64,
    /// The engine of its log.
    pub engine: EngineKind,
    /// Term of the vote.
    pub term: u64,
    /// The node that it voted for.
    pub voted_for: Option<NodeId>,
    /// The last entry of the log.
    pub last_index: Option<u64>,
    /// The last entry that was known to be committed when the mark was written; more may be committed.
    pub committed_index: Option<u64>,
    /// The last entry that was removed from the log.
    pub purged_index: Option<u64>,
    /// The last entry in the newest snapshot.
    pub snapshot_index: Option<u64>,
    /// Number of snapshots.
    pub snapshots: usize,
    /// What is wrong with older snapshots, which a start does not read. A damaged newest snapshot is an
    /// error.
    pub damaged_snapshots: Vec<String>,
    /// The members by the newest membership in the log or snapshot. The flag says whether the member votes.
    pub members: Vec<(NodeId, Member, bool)>,
    /// The reason that the node received when it was removed from its cluster; `None` if it knows of no removal.
    pub removed: Option<String>,
}

/// What a recovery from the loss of a majority kept, and what it may have lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The node that is now the only voter.
    pub node_id: NodeId,
    /// The last entry of this node. Everything after it that others acknowledged is lost.
    pub kept_upto: u64,
    /// The last entry that this node knew to be committed.
    pub committed_upto: Option<u64>,
    /// Number of entries of this node that were not known to be committed. They are valid now.
    pub unconfirmed_entries: u64,
    /// Members that were removed. They must never be started with their old directories.
    pub dropped_members: Vec<NodeId>,
    /// The new line of history.
    pub lineage: u64,
}

/// The result of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The index of the restored state. Everything after it is lost.
    pub index: u64,
    /// The new line of history. It is the same for every node that is restored from the same file with the
    /// same members.
    pub lineage: u64,
}

struct Opened {
    _lock: std::fs::File,
    identity: IdentityDto,
    kind: EngineKind,
    engine: std::sync::Arc<dyn LogEngine>,
    log: Recovered,
    mark: LogMarkFile,
    snapshot: Option<SnapshotFile>,
}

fn storage(error: impl std::fmt::Display) -> StartError {
    StartError::Storage(error.to_string())
}

fn open(data_dir: &Path) -> Result<Opened, StartError> {
    let Some(identity) = node_dir::read_identity(data_dir).map_err(storage)? else {
        // If other files of a node are here, the error is that of a start.
        node_dir::check_openable(data_dir, "", 0, None)?;
        let why = format!("{} is not the directory of a Raft node", data_dir.display());
        return Err(StartError::Identity(why));
    };
    // A start refuses a damaged one too. Only the node that returns needs its content.
    checked_file::read::<DirIds>(data_dir, "dir-ids").map_err(storage)?;
    let lock = node_dir::lock(data_dir)?;
    let kind: EngineKind = identity.engine.parse().map_err(StartError::Identity)?;
    // The snapshot is verified before the log, as at a start.
    let snapshot = SnapshotStore::open(data_dir, usize::MAX).map_err(storage)?.current();
    let engine = open_engine(kind, data_dir, CACHE_BYTES).map_err(storage)?;
    let mark = LogMarkFile::open(data_dir).map_err(storage)?;
    let log = recover(&*engine, &mark, usize::MAX).map_err(storage)?;
    Ok(Opened { _lock: lock, identity, kind, engine, log, mark, snapshot })
}

impl Opened {
    fn removal(&self, data_dir: &Path) -> Result<Option<String>, StartError> {
        node_dir::read_removal(data_dir, self.identity.lineage).map_err(storage)
    }

    fn membership(&self) -> Result<Membership, StartError> {
        let in_log = self.log.tail.iter().rev().find_map(|entry| match &entry.payload {
            EntryPayload::Membership(membership) => Some(membership.clone()),
            _ => None,
        });
        match (in_log, &self.snapshot) {
            (Some(membership), _) => Ok(membership),
            (None, Some(snapshot)) => {
                consensus::membership_from_dto(snapshot.head.membership.clone()).map_err(storage)
            }
            (None, None) => Ok(Membership::default()),
        }
    }
}

/// Whether a node with these settings could open its data directory now: no other process has it, and it is new or
/// belongs to this node. Changes nothing. Blocks.
///
/// # Errors
/// The error that the node would report at its start.
pub fn check_data_dir(config: &Config) -> Result<(), StartError> {
    node_dir::check_openable(&config.data_dir, &config.cluster_id, config.node_id, config.engine)
}

/// Verifies the whole directory of a stopped node, with all its snapshots, and returns its content.
pub fn inspect(data_dir: &Path) -> Result<Inspection, StartError> {
    let opened = open(data_dir)?;
    let snapshots = snapshots::list(&snapshots::dir_of(data_dir)).map_err(storage)?;
    let older = snapshots.split_last().map_or(&[][..], |(_, older)| older);
    let verdict = |path: &PathBuf| SnapshotFile::open(path).and_then(|file| file.meta()).err();
    let damaged_snapshots =
        older.iter().filter_map(verdict).map(|error| error.to_string()).collect();
    let membership = opened.membership()?;
    let voters: Vec<NodeId> = membership.voter_ids().collect();
    Ok(Inspection {
        cluster_id: opened.identity.cluster_id.clone(),
        node_id: opened.identity.node_id,
        lineage: opened.identity.lineage,
        engine: opened.kind,
        term: opened.log.vote.map_or(0, |vote| vote.leader_id.term),
        voted_for: opened.log.vote.map(|vote| vote.leader_id.voted_for),
        last_index: opened.log.last.map(|id| id.index),
        committed_index: opened.log.committed.map(|id| id.index),
        purged_index: opened.log.purged.map(|id| id.index),
        snapshot_index: opened.snapshot.as_ref().map(SnapshotFile::index),
        snapshots: snapshots.len(),
        damaged_snapshots,
        members: membership
            .nodes()
            .map(|(id, member)| (*id, member.clone(), voters.contains(id)))
            .collect(),
        removed: opened.removal(data_dir)?,
    })
}

/// Makes the node of `data_dir` the only voter of a new line of history, and keeps all its entries. Only use
/// it if a majority is lost permanently. Use the survivor with the greatest `last_index`. A node that was removed from
/// the cluster is refused.
pub fn recover_lost_quorum(data_dir: &Path, node_id: NodeId) -> Result<RecoveryReport, StartError> {
    let mut opened = open(data_dir)?;
    if opened.identity.node_id != node_id {
        return Err(StartError::Identity(format!(
            "it belongs to node {}, not {node_id}",
            opened.identity.node_id
        )));
    }
    if opened.removal(data_dir)?.is_some() {
        return Err(StartError::Identity(REMOVED.to_owned()));
    }
    let last = opened.log.last.ok_or_else(|| {
        StartError::Identity("the log is empty: there is nothing to recover".to_owned())
    })?;
    let membership = opened.membership()?;
    let member = membership.get_node(&node_id).cloned().ok_or_else(|| {
        StartError::Identity(format!(
            "node {node_id} is not a member of the cluster that its log describes"
        ))
    })?;
    let lineage = new_lineage();
    // This comes first, so that no node of the old line can connect if the recovery is interrupted.
    node_dir::write_identity(data_dir, &IdentityDto { lineage, ..opened.identity.clone() })
        .map_err(storage)?;

    let term = opened.log.vote.map_or(0, |vote| vote.leader_id.term).max(last.leader_id.term) + 1;
    let alone = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, member)]))
        .map_err(storage)?;
    let log_id = LogIdDto { term, node: 0, index: last.index + 1 };
    let entry = Entry {
        log_id: consensus::log_id_from_dto(log_id),
        payload: EntryPayload::Membership(alone),
    };
    let vote = VoteDto { term, node: node_id, committed: false };
    let write = |opened: &mut Opened| -> io::Result<()> {
        opened.engine.append(&[log_writer::record_of(&entry)])?;
        opened.engine.put_meta(MetaKey::Vote, &codec::encode(&StoredVote::V1(vote)))?;
        opened.engine.sync()?;
        opened.mark.advance(Some(log_id), Some(vote))
    };
    write(&mut opened).map_err(storage)?;
    let committed = opened.log.committed.map(|id| id.index);
    Ok(RecoveryReport {
        node_id,
        kept_upto: last.index,
        committed_upto: committed,
        unconfirmed_entries: last.index - committed.unwrap_or(0).min(last.index),
        dropped_members: membership
            .nodes()
            .map(|(id, _)| *id)
            .filter(|id| *id != node_id)
            .collect(),
        lineage,
    })
}

/// Creates a node's directory from a backup. Call it once for each founding member, with the same file and
/// the same members. Their ids must not have been used in a cluster that still runs.
pub fn restore(
    backup_file: &Path,
    new_data_dir: &Path,
    engine: EngineKind,
    cluster_id: &str,
    node_id: NodeId,
    members: &BTreeMap<NodeId, Member>,
) -> Result<RestoreReport, StartError> {
    if !cluster_id_is_valid(cluster_id) {
        return Err(StartError::Identity(invalid_cluster_id(cluster_id)));
    }
    if !members.contains_key(&node_id) {
        return Err(StartError::Identity(format!("node {node_id} is not among the members")));
    }
    if new_data_dir.exists() && std::fs::read_dir(new_data_dir).map_err(storage)?.next().is_some() {
        return Err(StartError::Identity(format!("{} is not empty", new_data_dir.display())));
    }
    let backup = SnapshotFile::open(backup_file).map_err(storage)?;
    let last =
        backup.head.last.ok_or_else(|| StartError::Storage("the backup is empty".to_owned()))?;
    let voters = [members.keys().copied().collect()].into();
    let membership = Membership::new(voters, members.clone()).map_err(storage)?;
    let head = SnapshotHeadDto {
        cluster_id: cluster_id.to_owned(),
        lineage: derived_lineage(backup.body(), cluster_id, members).map_err(storage)?,
        last: Some(last),
        membership_log_id: Some(last),
        membership: consensus::membership_to_dto(&membership),
    };
    std::fs::create_dir_all(new_data_dir).map_err(storage)?;
    let _lock = node_dir::lock(new_data_dir)?;
    // The ids of the old line stay used, so that one of its nodes is never mistaken for a new one.
    let used_ids = backup.used_ids.iter().chain(members.keys()).copied().collect();
    write_snapshot(new_data_dir, &backup, &head, &used_ids).map_err(storage)?;
    write_log(new_data_dir, engine, node_id, last).map_err(storage)?;
    let identity = IdentityDto {
        cluster_id: cluster_id.to_owned(),
        node_id,
        lineage: head.lineage,
        engine: engine.to_string(),
    };
    node_dir::write_identity(new_data_dir, &identity).map_err(storage)?;
    Ok(RestoreReport { index: last.index, lineage: head.lineage })
}

/// The application's part of a backup: the bytes of its encoded snapshot.
pub fn backup_body(backup_file: &Path) -> Result<impl Read + use<>, StartError> {
    Ok(SnapshotFile::open(backup_file).map_err(storage)?.body())
}

/// The name of the cluster that was backed up.
pub fn backup_cluster(backup_file: &Path) -> Result<String, StartError> {
    Ok(SnapshotFile::open(backup_file).map_err(storage)?.head.cluster_id)
}

fn write_snapshot(
    data_dir: &Path,
    backup: &SnapshotFile,
    head: &SnapshotHeadDto,
    used_ids: &BTreeSet<NodeId>,
) -> io::Result<()> {
    let store = SnapshotStore::open(data_dir, usize::MAX)?;
    let unfinished: PathBuf = store.incoming_path(0);
    snapshots::write_file(&unfinished, head, used_ids, |out: &mut dyn Write| {
        io::copy(&mut backup.body(), out).map(|_| ())
    })?;
    store.adopt(SnapshotFile::open(&unfinished)?).map(|_| ())
}

fn write_log(data_dir: &Path, kind: EngineKind, node_id: NodeId, last: LogIdDto) -> io::Result<()> {
    let engine = open_engine(kind, data_dir, CACHE_BYTES)?;
    // The term after that of the restored state, so that new entries come after it.
    let vote = VoteDto { term: last.term + 1, node: node_id, committed: false };
    engine.put_meta(MetaKey::Vote, &codec::encode(&StoredVote::V1(vote)))?;
    engine.put_meta(MetaKey::Purged, &codec::encode(&StoredLogId::V1(last)))?;
    engine.put_meta(MetaKey::Committed, &codec::encode(&StoredLogId::V1(last)))?;
    engine.sync()?;
    sync_dir(data_dir)
}

fn new_lineage() -> u64 {
    loop {
        let lineage = rand::random();
        if lineage != 0 {
            return lineage;
        }
    }
}

/// The same on every node that is restored from the same file with the same members. `body` is the application's part
/// of the backup.
fn derived_lineage(
    mut body: impl Read,
    cluster_id: &str,
    members: &BTreeMap<NodeId, Member>,
) -> io::Result<u64> {
    let mut low = crc32c::crc32c(cluster_id.as_bytes());
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => low = crc32c::crc32c_append(low, &chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut high = 0;
    for (id, member) in members {
        high = crc32c::crc32c_append(high, &id.to_le_bytes());
        for text in [&member.peer_addr, &member.http_addr, &member.name] {
            high = crc32c::crc32c_append(high, text.as_bytes());
        }
    }
    Ok(((u64::from(high) << 32) | u64::from(low)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that fails with this kind of error, once for each item.
    struct Failing(Vec<io::ErrorKind>);

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.pop().map_or(Ok(0), |kind| Err(kind.into()))
        }
    }

    /// Regression: a directory without its identity was "not the directory of a Raft node", and a damaged file of directory
    /// ids was not looked at, so "the checksums are correct" although the node refused to start.
    #[test]
    fn an_inspection_refuses_what_a_start_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let refused = || inspect(dir.path()).unwrap_err();
        assert!(matches!(refused(), StartError::Identity(_)), "an empty directory is no node's");
        drop(node_dir::NodeDir::open(dir.path(), "demo", 1, None).unwrap());
        let ids = dir.path().join("dir-ids");
        let mut bytes = std::fs::read(&ids).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&ids, bytes).unwrap();
        let damaged = refused().to_string();
        assert!(damaged.contains("the dir-ids file fails its checksum"), "{damaged}");
        std::fs::remove_file(dir.path().join("identity")).unwrap();
        let missing = refused();
        assert!(matches!(missing, StartError::Storage(_)), "{missing}");
        let missing = missing.to_string();
        assert!(missing.contains("the file identity is missing next to dir-ids"), "{missing}");
    }

    #[test]
    fn a_failed_read_of_a_backup_is_not_the_end_of_the_backup() {
        let lineage = |kinds| {
            let (first, second): (&[u8], &[u8]) = (b"first ", b"second");
            let body = first.chain(Failing(kinds)).chain(second);
            derived_lineage(body, "c1", &BTreeMap::new())
        };
        let whole = derived_lineage(&b"first second"[..], "c1", &BTreeMap::new()).unwrap();
        assert_eq!(lineage(vec![io::ErrorKind::Interrupted]).unwrap(), whole);
        let failed = lineage(vec![io::ErrorKind::TimedOut]).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
    }
}
