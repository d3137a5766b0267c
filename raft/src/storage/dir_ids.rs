//! Detects whether a node returned with the data directory that it had before.
//!
//! A node that lost its directory has forgotten what it acknowledged and for whom it voted. If it were
//! accepted under its old id, it could help a majority to lose acknowledged entries. So each directory has
//! its own id, and each node stores the directory ids with which it first met its peers.

use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::checked_file;
use crate::codec::{DirIds, DirIdsDto};
use crate::config::NodeId;

const FILE: &str = "dir-ids";
/// Maximum number of peers. Node ids are never reused, so ids of former members remain.
const PEERS_MAX: usize = 4_096;

pub(crate) struct DirIdsFile {
    dir: PathBuf,
    own: u64,
    ids: Mutex<DirIdsDto>,
}

impl DirIdsFile {
    /// Reads the ids, and creates one for a new directory. Blocks.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let ids = match checked_file::read(dir, FILE)? {
            Some(DirIds::V1(ids)) => ids,
            None => {
                let ids = DirIdsDto { own: rand::random(), lineage: 0, peers: Vec::new() };
                checked_file::write(dir, FILE, &DirIds::V1(ids.clone()))?;
                ids
            }
        };
        Ok(Self { dir: dir.to_owned(), own: ids.own, ids: Mutex::new(ids) })
    }

    /// The id of this directory.
    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    /// Whether this is the directory with which `peer` was first met in this line of history. The first
    /// meeting is stored durably. If the disk accepts no writes, the next meeting stores it. Blocks.
    pub(crate) fn check_or_record(&self, lineage: u64, peer: NodeId, dir_id: u64) -> bool {
        let mut ids = self.ids.lock();
        let same_line = ids.lineage == lineage;
        if let Some(met) = met(&ids, lineage, peer) {
            return met == dir_id;
        }
        let mut next = DirIdsDto { lineage, ..ids.clone() };
        if !same_line {
            next.peers.clear();
        }
        if next.peers.len() < PEERS_MAX {
            next.peers.push((peer, dir_id));
            match checked_file::write(&self.dir, FILE, &DirIds::V1(next.clone())) {
                Ok(()) => *ids = next,
                Err(error) => {
                    tracing::warn!(peer, %error, "the number of the peer's data directory cannot be stored")
                }
            }
        }
        true
    }

    /// Whether `peer` was never met in this line of history, or was met with this directory. Stores nothing.
    pub(crate) fn matches_or_is_new(&self, lineage: u64, peer: NodeId, dir_id: u64) -> bool {
        met(&self.ids.lock(), lineage, peer).is_none_or(|met| met == dir_id)
    }
}

/// The directory with which `peer` was first met in this line of history.
fn met(ids: &DirIdsDto, lineage: u64, peer: NodeId) -> Option<u64> {
    let mut peers = ids.peers.iter().filter(|_| ids.lineage == lineage);
    peers.find(|(id, _)| *id == peer).map(|(_, dir_id)| *dir_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_number_and_those_of_its_peers() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirIdsFile::open(dir.path()).unwrap();
        assert!(
            first.check_or_record(0, 2, 22)
                && first.check_or_record(0, 3, 33)
                && first.check_or_record(0, 2, 22)
        );
        let again = DirIdsFile::open(dir.path()).unwrap();
        assert_eq!(again.own(), first.own());
        assert!(!again.check_or_record(0, 2, 23) && again.check_or_record(0, 3, 33));
        assert!(
            again.matches_or_is_new(0, 4, 44) && again.matches_or_is_new(0, 4, 45),
            "nothing is noted"
        );
        assert!(
            again.matches_or_is_new(0, 2, 22)
                && !again.matches_or_is_new(0, 2, 23)
                && again.matches_or_is_new(9, 2, 23)
        );
        let other = tempfile::tempdir().unwrap();
        assert_ne!(DirIdsFile::open(other.path()).unwrap().own(), first.own());
    }

    #[test]
    fn another_line_of_history_begins_with_new_directories() {
        let dir = tempfile::tempdir().unwrap();
        let ids = DirIdsFile::open(dir.path()).unwrap();
        assert!(ids.check_or_record(0, 2, 22) && ids.check_or_record(9, 2, 23));
        assert!(!ids.check_or_record(9, 2, 22));
    }

    #[test]
    fn what_cannot_be_noted_is_noted_later() {
        let dir = tempfile::tempdir().unwrap();
        let ids = DirIdsFile::open(dir.path()).unwrap();
        let aside = dir.path().with_extension("aside");
        std::fs::rename(dir.path(), &aside).unwrap();
        assert!(ids.check_or_record(0, 2, 22) && ids.check_or_record(0, 2, 23));
        std::fs::rename(&aside, dir.path()).unwrap();
        assert!(ids.check_or_record(0, 2, 24));
        assert!(!ids.check_or_record(0, 2, 25));
    }
}
