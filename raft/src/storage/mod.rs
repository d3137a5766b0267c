//! The data of this node on its disk.
//!
//! Flow: the consensus core appends to [`log_store`], which keeps unsynced entries readable in memory and
//! passes the bytes to the [`log_writer`] thread. Only that thread writes to a [`LogEngine`], and it makes
//! groups of entries durable together. Committed entries go to [`state_machine`], whose snapshots are the
//! files of [`snapshots`]. [`node_dir`] locks the directory, and [`dir_ids`] identifies it. Nothing here uses
//! the network.

pub(crate) mod checked_file;
pub(crate) mod chunked;
pub(crate) mod dir_ids;
pub(crate) mod disk_health;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub(crate) mod log_mark;
pub(crate) mod log_memory;
pub(crate) mod log_store;
pub(crate) mod log_writer;
pub(crate) mod node_dir;
pub(crate) mod redb_engine;
pub(crate) mod sled_engine;
pub(crate) mod snapshot_attempts;
pub(crate) mod snapshots;
pub(crate) mod state_machine;
pub(crate) mod wal_engine;
mod wal_segment;

#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod crash_tests;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::config::EngineKind;

/// One entry, as an engine stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The metadata that an engine stores beside the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaKey {
    Vote,
    Committed,
    Purged,
}

impl MetaKey {
    pub(crate) const fn name(self) -> &'static [u8] {
        match self {
            Self::Vote => b"vote",
            Self::Committed => b"committed",
            Self::Purged => b"purged",
        }
    }
}

/// A blocking, ordered store of log entries.
///
/// All writes come from one thread. They may become durable early and in order, but only [`sync`] guarantees
/// it. After an error the engine must not be used again. A damaged record is an error, and never a shorter
/// log.
///
/// [`sync`]: LogEngine::sync
pub(crate) trait LogEngine: Send + Sync {
    /// Appends records after the last one. Indexes are consecutive.
    fn append(&self, records: &[Record]) -> io::Result<()>;

    /// The synced records in `range`, in order. It stops once `bytes_max` is reached, but returns at least
    /// one.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>>;

    /// The synced record with the greatest index.
    fn last(&self) -> io::Result<Option<Record>>;

    /// A synced value.
    fn get_meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>>;

    /// Replaces a value, in order with the appends.
    fn put_meta(&self, key: MetaKey, value: &[u8]) -> io::Result<()>;

    /// Removes every record from `index` on.
    fn truncate_from(&self, index: u64) -> io::Result<()>;

    /// Removes every record up to and including `index`. The caller has made the purged mark durable.
    fn purge_upto(&self, index: u64) -> io::Result<()>;

    /// Makes all earlier writes durable. Nothing else guarantees that.
    fn sync(&self) -> io::Result<()>;

    /// Size on disk, in bytes.
    fn disk_bytes(&self) -> u64;
}

/// Opens the engine in the existing directory `dir`.
pub(crate) fn open_engine(
    kind: EngineKind,
    dir: &Path,
    cache_bytes: usize,
) -> io::Result<Arc<dyn LogEngine>> {
    Ok(match kind {
        EngineKind::Wal => Arc::new(wal_engine::WalEngine::open(dir)?),
        EngineKind::Sled => Arc::new(sled_engine::SledEngine::open(dir, cache_bytes)?),
        EngineKind::Redb => Arc::new(redb_engine::RedbEngine::open(dir, cache_bytes)?),
    })
}

/// An error about damaged data, with instructions for the operator.
pub(crate) fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{what}. Nothing was changed. Keep the directory for inspection and do not delete single files: \
             remove this node from the cluster and add a new one with a new id and an empty directory; \
             if too few nodes are left for that, use the offline recovery; see docs/operations/disk-corrupt.md"
        ),
    )
}

/// Syncs a directory, so that a created or renamed file survives a power failure.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
