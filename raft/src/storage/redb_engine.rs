//! redb as a log engine.
//!
//! Writes are collected in one open transaction, which `sync` commits with immediate durability. redb orders
//! its writes and verifies its pages. Records have the same checksum as in the other engines.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};

use super::chunked::{self, Joiner};
use super::{LogEngine, MetaKey, Record, damaged, sync_dir};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("log");
/// redb stores large values well, so an entry is rarely split.
const CHUNK_LEN_MAX: usize = 1024 * 1024;

pub(crate) struct RedbEngine {
    // Declared first, because an open transaction must end before its database does.
    pending: Mutex<Option<WriteTransaction>>,
    db: Database,
    path: Option<PathBuf>,
}

impl RedbEngine {
    pub(crate) fn open(dir: &Path, cache_bytes: usize) -> io::Result<Self> {
        let path = dir.join("log.redb");
        let db =
            Database::builder().set_cache_size(cache_bytes).create(&path).map_err(|error| {
                match error {
                    redb::DatabaseError::Storage(redb::StorageError::Io(error)) => error,
                    other => damaged(format!("redb cannot open {}: {other}", path.display())),
                }
            })?;
        let engine = Self { pending: Mutex::new(None), db, path: Some(path) };
        engine.prepare()?;
        sync_dir(dir)?;
        Ok(engine)
    }

    /// Opens any backend, so that tests can lose what was not synced.
    #[cfg(test)]
    pub(crate) fn open_with_backend(backend: impl redb::StorageBackend) -> io::Result<Self> {
        let db = Database::builder()
            .create_with_backend(backend)
            .map_err(|error| damaged(error.to_string()))?;
        let engine = Self { pending: Mutex::new(None), db, path: None };
        engine.prepare()?;
        Ok(engine)
    }

    /// Creates the table, so that it exists for readers.
    fn prepare(&self) -> io::Result<()> {
        self.write(|_| Ok(()))?;
        self.sync()
    }

    fn write(
        &self,
        change: impl FnOnce(
            &mut redb::Table<'_, &'static [u8], &'static [u8]>,
        ) -> Result<(), redb::StorageError>,
    ) -> io::Result<()> {
        let mut pending = self.pending.lock();
        if pending.is_none() {
            *pending = Some(self.db.begin_write().map_err(io_error)?);
        }
        let transaction = pending.as_ref().expect("it was set just above");
        let mut table = transaction.open_table(TABLE).map_err(io_error)?;
        change(&mut table).map_err(io_error)
    }

    fn table(&self) -> io::Result<redb::ReadOnlyTable<&'static [u8], &'static [u8]>> {
        self.db.begin_read().map_err(io_error)?.open_table(TABLE).map_err(io_error)
    }
}

fn io_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        redb::Error::Corrupted(what) => damaged(format!("redb finds its file corrupt: {what}")),
        other => io::Error::other(other.to_string()),
    }
}

impl LogEngine for RedbEngine {
    fn append(&self, records: &[Record]) -> io::Result<()> {
        self.write(|table| {
            for record in records {
                for (key, value) in chunked::split(record, CHUNK_LEN_MAX) {
                    table.insert(&key[..], &value[..])?;
                }
            }
            Ok(())
        })
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>> {
        let table = self.table()?;
        let mut joiner = Joiner::default();
        let mut records = Vec::new();
        let mut bytes = 0;
        let from = chunked::entry_key(range.start);
        let to = chunked::entry_key(range.end);
        for pair in table.range::<&[u8]>(&from[..]..&to[..]).map_err(io_error)? {
            let (key, value) = pair.map_err(io_error)?;
            if let Some(record) = joiner.push(key.value(), value.value())? {
                bytes += record.bytes.len();
                records.push(record);
                if bytes >= bytes_max {
                    return Ok(records);
                }
            }
        }
        joiner.finish()?;
        Ok(records)
    }

    fn last(&self) -> io::Result<Option<Record>> {
        let table = self.table()?;
        let end = chunked::entries_end();
        let index = {
            let mut range = table.range::<&[u8]>(..&end[..]).map_err(io_error)?;
            let Some(pair) = range.next_back() else {
                return Ok(None);
            };
            let (key, _) = pair.map_err(io_error)?;
            chunked::index_of_key(key.value())
                .ok_or_else(|| damaged("the last log key is malformed"))?
        };
        Ok(self.read(index..index + 1, usize::MAX)?.pop())
    }

    fn get_meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>> {
        match self.table()?.get(&chunked::meta_key(key.name())[..]).map_err(io_error)? {
            None => Ok(None),
            Some(value) => chunked::unseal_meta(key.name(), value.value()).map(Some),
        }
    }

    fn put_meta(&self, key: MetaKey, value: &[u8]) -> io::Result<()> {
        let (key, value) = chunked::seal_meta(key.name(), value);
        self.write(|table| table.insert(&key[..], &value[..]).map(|_| ()))
    }

    fn truncate_from(&self, index: u64) -> io::Result<()> {
        let from = chunked::entry_key(index);
        let end = chunked::entries_end();
        self.write(|table| table.retain_in::<&[u8], _>(&from[..]..&end[..], |_, _| false))
    }

    fn purge_upto(&self, index: u64) -> io::Result<()> {
        let from = chunked::entry_key(0);
        let to = chunked::entry_key(index.saturating_add(1));
        self.write(|table| table.retain_in::<&[u8], _>(&from[..]..&to[..], |_, _| false))
    }

    fn sync(&self) -> io::Result<()> {
        // A transaction has immediate durability by default.
        match self.pending.lock().take() {
            None => Ok(()),
            Some(transaction) => transaction.commit().map_err(io_error),
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.path
            .as_ref()
            .and_then(|path| std::fs::metadata(path).ok())
            .map_or(0, |meta| meta.len())
    }
}
