//! The data directory of a node: it is locked by one process, and belongs to one node and one engine forever.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::checked_file;
use super::damaged;
use super::dir_ids::DirIdsFile;
use crate::codec::{Identity, IdentityDto, Removal};
use crate::config::{EngineKind, NodeId};
use crate::error::StartError;

const IDENTITY_FILE: &str = "identity";
const REMOVAL_FILE: &str = "removed";

/// The locked directory. Dropping it releases the lock.
pub(crate) struct NodeDir {
    path: PathBuf,
    engine: EngineKind,
    identity: Mutex<IdentityDto>,
    dir_ids: DirIdsFile,
    removal: Mutex<Option<String>>,
    lock: Mutex<Option<File>>,
}

impl NodeDir {
    /// Locks `path`, creating it if needed, and checks or writes its identity. Without `engine` the directory
    /// keeps its engine; a new one gets the default. Blocks.
    pub(crate) fn open(
        path: &Path,
        cluster_id: &str,
        node_id: NodeId,
        engine: Option<EngineKind>,
    ) -> Result<Self, StartError> {
        let storage =
            |error: io::Error| StartError::Storage(format!("{}: {error}", path.display()));
        fs::create_dir_all(path).map_err(storage)?;
        let lock = lock(path)?;
        let identity = match own_identity(path, cluster_id, node_id, engine)? {
            Some(found) => found,
            None => {
                let fresh = IdentityDto {
                    cluster_id: cluster_id.to_owned(),
                    node_id,
                    lineage: 0,
                    engine: engine.unwrap_or_default().to_string(),
                };
                write_identity(path, &fresh).map_err(storage)?;
                fresh
            }
        };
        let engine = identity.engine.parse().map_err(StartError::Identity)?;
        let removal = read_removal(path, identity.lineage).map_err(storage)?;
        Ok(Self {
            path: path.to_owned(),
            engine,
            identity: Mutex::new(identity),
            dir_ids: DirIdsFile::open(path).map_err(storage)?,
            removal: Mutex::new(removal),
            lock: Mutex::new(Some(lock)),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The engine of its log.
    pub(crate) fn engine(&self) -> EngineKind {
        self.engine
    }

    /// The line of history. Nodes with different lines must not communicate, because one of them was restored
    /// from older data.
    pub(crate) fn lineage(&self) -> u64 {
        self.identity.lock().lineage
    }

    /// Joins the line of history of a cluster that was restored. Blocks.
    pub(crate) fn adopt_lineage(&self, lineage: u64) -> io::Result<()> {
        let mut identity = self.identity.lock();
        let adopted = IdentityDto { lineage, ..identity.clone() };
        write_identity(&self.path, &adopted)?;
        *identity = adopted;
        Ok(())
    }

    /// The id of this directory.
    pub(crate) fn dir_id(&self) -> u64 {
        self.dir_ids.own()
    }

    /// Whether `peer` still has the directory with which it was first met. Blocks.
    pub(crate) fn check_or_record(&self, peer: NodeId, dir_id: u64) -> bool {
        self.dir_ids.check_or_record(self.lineage(), peer, dir_id)
    }

    /// Whether `peer` was never met, or was met with this directory. Stores nothing.
    pub(crate) fn matches_or_is_new(&self, peer: NodeId, dir_id: u64) -> bool {
        self.dir_ids.matches_or_is_new(self.lineage(), peer, dir_id)
    }

    /// The reason that this node received when it was removed from its line of history.
    pub(crate) fn removal(&self) -> Option<String> {
        self.removal.lock().clone()
    }

    /// Stores the reason of this node's removal. Blocks.
    pub(crate) fn keep_removal(&self, reason: &str) -> io::Result<()> {
        let lineage = self.lineage();
        let mut removal = self.removal.lock();
        if removal.is_none() {
            *removal = Some(reason.to_owned());
            let kept = Removal::V1 { lineage, reason: reason.to_owned() };
            checked_file::write(&self.path, REMOVAL_FILE, &kept)?;
        }
        Ok(())
    }

    /// Why this directory is not the one that this node has opened any more; `None` while it is, or if that cannot be
    /// seen now. Blocks.
    pub(crate) fn loss(&self) -> Option<String> {
        let mine = self.lock.lock().as_ref()?.metadata().ok()?;
        let is_mine = |there: fs::Metadata| (there.dev(), there.ino()) == (mine.dev(), mine.ino());
        let how = match fs::symlink_metadata(self.path.join("lock")).map(is_mine) {
            Ok(true) => match fs::symlink_metadata(self.path.join(IDENTITY_FILE)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => "has lost its files",
                _ => return None,
            },
            Ok(false) => "was replaced",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed",
            Err(_) => return None,
        };
        Some(format!("the data directory {} {how} while this node ran", self.path.display()))
    }

    /// Releases the lock.
    pub(crate) fn unlock(&self) {
        self.lock.lock().take();
    }
}

/// The reason that the node of this directory received when it was removed from the line of history `lineage`. `None` if
/// it was not. Blocks.
pub(crate) fn read_removal(path: &Path, lineage: u64) -> io::Result<Option<String>> {
    Ok(match checked_file::read(path, REMOVAL_FILE)? {
        Some(Removal::V1 { lineage: of, reason }) if of == lineage => Some(reason),
        _ => None,
    })
}

/// Takes the lock of the directory, or fails if it is held.
pub(crate) fn lock(path: &Path) -> Result<File, StartError> {
    let at = path.join("lock");
    let storage = |error: io::Error| StartError::Storage(format!("{}: {error}", at.display()));
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = maxine_files::open_own(&options, &at).map_err(storage)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(storage(error)),
    }
}

/// Whether [`NodeDir::open`] would take this directory now. Changes nothing. Blocks.
pub(crate) fn check_openable(
    path: &Path,
    cluster_id: &str,
    node_id: NodeId,
    engine: Option<EngineKind>,
) -> Result<(), StartError> {
    let at = path.join("lock");
    let storage = |error: io::Error| StartError::Storage(format!("{}: {error}", at.display()));
    match maxine_files::open(OpenOptions::new().read(true), &at) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StartError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(storage(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(storage(error)),
    }
    own_identity(path, cluster_id, node_id, engine).map(drop)
}

/// The identity in the directory, if it is this node's; `None` in a new directory.
fn own_identity(
    path: &Path,
    cluster_id: &str,
    node_id: NodeId,
    engine: Option<EngineKind>,
) -> Result<Option<IdentityDto>, StartError> {
    let storage = |error: io::Error| StartError::Storage(format!("{}: {error}", path.display()));
    let found = read_identity(path).map_err(storage)?;
    match &found {
        Some(found) => check(found, cluster_id, node_id, engine)?,
        None => refuse_without_identity(path).map_err(storage)?,
    }
    Ok(found)
}

pub(crate) fn read_identity(path: &Path) -> io::Result<Option<IdentityDto>> {
    Ok(checked_file::read(path, IDENTITY_FILE)?.map(|Identity::V1(identity)| identity))
}

pub(crate) fn write_identity(path: &Path, identity: &IdentityDto) -> io::Result<()> {
    checked_file::write(path, IDENTITY_FILE, &Identity::V1(identity.clone()))
}

/// A directory with any of these files had an identity, which is always written first. If it were taken for a
/// new directory, it could get an empty log, or become that of another node.
fn refuse_without_identity(path: &Path) -> io::Result<()> {
    for name in ["dir-ids", "log.mark", "snapshots"] {
        if path.join(name).exists() {
            return Err(damaged(format!("the file {IDENTITY_FILE} is missing next to {name}")));
        }
    }
    Ok(())
}

fn check(
    found: &IdentityDto,
    cluster_id: &str,
    node_id: NodeId,
    engine: Option<EngineKind>,
) -> Result<(), StartError> {
    let mut differences = Vec::new();
    if found.cluster_id != cluster_id {
        differences
            .push(format!("it belongs to cluster {:?}, not {cluster_id:?}", found.cluster_id));
    }
    if found.node_id != node_id {
        differences.push(format!("it belongs to node {}, not {node_id}", found.node_id));
    }
    if let Some(engine) = engine.filter(|engine| found.engine != engine.to_string()) {
        differences.push(format!("its log was written by {}, not {engine}", found.engine));
    }
    if differences.is_empty() { Ok(()) } else { Err(StartError::Identity(differences.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLED: Option<EngineKind> = Some(EngineKind::Sled);

    #[test]
    fn a_second_owner_is_refused_and_let_in_after_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeDir::open(dir.path(), "demo", 1, SLED).unwrap();
        assert!(matches!(NodeDir::open(dir.path(), "demo", 1, SLED), Err(StartError::Locked(_))));
        first.unlock();
        NodeDir::open(dir.path(), "demo", 1, SLED).unwrap();
    }

    /// The check returns the same error as the start.
    #[test]
    fn a_check_gives_the_answer_of_a_start_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft");
        check_openable(&path, "demo", 1, SLED).unwrap();
        assert!(!path.exists(), "it made something");
        let first = NodeDir::open(&path, "demo", 1, SLED).unwrap();
        let locked = check_openable(&path, "demo", 1, SLED).unwrap_err();
        assert!(matches!(locked, StartError::Locked(_)), "{locked}");
        drop(first);
        check_openable(&path, "demo", 1, None).unwrap();
        let other = check_openable(&path, "demo", 2, SLED).unwrap_err();
        let Err(start) = NodeDir::open(&path, "demo", 2, SLED) else { panic!("it was accepted") };
        assert_eq!(other.to_string(), start.to_string());
        fs::remove_file(path.join(IDENTITY_FILE)).unwrap();
        let damaged = check_openable(&path, "demo", 1, SLED).unwrap_err();
        assert!(matches!(damaged, StartError::Storage(_)), "{damaged}");
    }

    #[test]
    fn another_identity_is_refused_with_every_difference() {
        let dir = tempfile::tempdir().unwrap();
        drop(NodeDir::open(dir.path(), "demo", 1, SLED).unwrap());
        let Err(error) = NodeDir::open(dir.path(), "other", 2, Some(EngineKind::Redb)) else {
            panic!("it was accepted")
        };
        let text = error.to_string();
        assert!(
            text.contains("\"demo\"") && text.contains("node 1") && text.contains("sled"),
            "{text}"
        );
    }

    #[test]
    fn a_directory_keeps_its_engine_and_a_new_one_takes_the_default() {
        let dir = tempfile::tempdir().unwrap();
        drop(NodeDir::open(dir.path(), "demo", 1, SLED).unwrap());
        let again = NodeDir::open(dir.path(), "demo", 1, None).unwrap();
        assert_eq!(again.engine(), EngineKind::Sled);
        let fresh = tempfile::tempdir().unwrap();
        let fresh = NodeDir::open(fresh.path(), "demo", 1, None).unwrap();
        assert_eq!(fresh.engine(), EngineKind::Wal);
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(NodeDir::open(dir.path(), "demo", 1, SLED).unwrap());
        let mut bytes = fs::read(dir.path().join(IDENTITY_FILE)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(dir.path().join(IDENTITY_FILE), bytes).unwrap();
        assert!(matches!(NodeDir::open(dir.path(), "demo", 1, SLED), Err(StartError::Storage(_))));
    }

    /// A program that opens a pipe waits until another program opens its other end, perhaps forever.
    #[test]
    fn a_pipe_in_place_of_a_file_is_refused_and_not_waited_for() {
        for name in [IDENTITY_FILE, "lock"] {
            let dir = tempfile::tempdir().unwrap();
            drop(NodeDir::open(dir.path(), "demo", 1, SLED).unwrap());
            let path = dir.path().join(name);
            fs::remove_file(&path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            let start = NodeDir::open(dir.path(), "demo", 1, SLED).map(drop).unwrap_err();
            let check = check_openable(dir.path(), "demo", 1, SLED).unwrap_err();
            for error in [start.to_string(), check.to_string()] {
                assert!(
                    error.contains(name) && error.contains("it is not a regular file"),
                    "{error}"
                );
            }
        }
    }
}
