//! sled as a log engine, with the measures that its durability needs.
//!
//! sled's own flush does not reach the disk, and it stores large values outside the log file. Therefore this
//! engine uses one tree, chunks of at most 8 KiB, and no file under `blobs/`. After each flush it calls
//! `sync_data` on a second handle of the data file. At the start it first removes old snapshot files that
//! prevent sled from opening.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::chunked::{self, Joiner};
use super::{LogEngine, MetaKey, Record, damaged, sync_dir};

const CHUNK_LEN_MAX: usize = 8 * 1024;
/// Number of entries that are removed in one batch.
const REMOVE_BATCH: usize = 1_000;

pub(crate) struct SledEngine {
    db: sled::Db,
    data_file: File,
    dir: PathBuf,
}

impl SledEngine {
    pub(crate) fn open(dir: &Path, cache_bytes: usize) -> io::Result<Self> {
        let dir = dir.join("sled");
        fs::create_dir_all(&dir)?;
        remove_unfinished_snapshots(&dir)?;
        refuse_blobs(&dir)?;
        let db = sled::Config::new()
            .path(&dir)
            .cache_capacity(cache_bytes as u64)
            .flush_every_ms(None)
            .open()
            .map_err(|error| match error {
                sled::Error::Corruption { .. } => {
                    damaged(format!("sled finds its file in {} corrupt", dir.display()))
                }
                other => io_error(other),
            })?;
        let data_file = File::open(dir.join("db"))?;
        data_file.sync_all()?;
        sync_dir(&dir)?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        Ok(Self { db, data_file, dir })
    }

    fn remove_keys(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        loop {
            let mut batch = sled::Batch::default();
            let mut count = 0;
            for key in self.db.range(from..to).keys().take(REMOVE_BATCH) {
                batch.remove(key.map_err(io_error)?);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.db.apply_batch(batch).map_err(io_error)?;
            if count < REMOVE_BATCH {
                return Ok(());
            }
        }
    }
}

fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            tracing::warn!(path = %path.display(), "removing an unfinished sled snapshot");
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// sled never syncs files under `blobs/`, so a directory with such files cannot be trusted.
fn refuse_blobs(dir: &Path) -> io::Result<()> {
    let blobs = dir.join("blobs");
    if blobs.is_dir() && fs::read_dir(&blobs)?.next().is_some() {
        return Err(damaged(format!(
            "{} holds values outside the log file, which are not durable",
            blobs.display()
        )));
    }
    Ok(())
}

fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        sled::Error::Corruption { .. } => damaged("sled finds its file corrupt"),
        other => io::Error::other(other.to_string()),
    }
}

impl LogEngine for SledEngine {
    fn append(&self, records: &[Record]) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for record in records {
            for (key, value) in chunked::split(record, CHUNK_LEN_MAX) {
                batch.insert(key, value);
            }
        }
        self.db.apply_batch(batch).map_err(io_error)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>> {
        let mut joiner = Joiner::default();
        let mut records = Vec::new();
        let mut bytes = 0;
        let from = chunked::entry_key(range.start);
        let to = chunked::entry_key(range.end);
        for pair in self.db.range(&from[..]..&to[..]) {
            let (key, value) = pair.map_err(io_error)?;
            if let Some(record) = joiner.push(&key, &value)? {
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
        let end = chunked::entries_end();
        let Some(pair) = self.db.range(..&end[..]).next_back() else {
            return Ok(None);
        };
        let (key, _) = pair.map_err(io_error)?;
        let index =
            chunked::index_of_key(&key).ok_or_else(|| damaged("the last log key is malformed"))?;
        Ok(self.read(index..index + 1, usize::MAX)?.pop())
    }

    fn get_meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>> {
        match self.db.get(chunked::meta_key(key.name())).map_err(io_error)? {
            None => Ok(None),
            Some(value) => chunked::unseal_meta(key.name(), &value).map(Some),
        }
    }

    fn put_meta(&self, key: MetaKey, value: &[u8]) -> io::Result<()> {
        let (key, value) = chunked::seal_meta(key.name(), value);
        self.db.insert(key, value).map(|_| ()).map_err(io_error)
    }

    fn truncate_from(&self, index: u64) -> io::Result<()> {
        // From the end backwards, so that an interruption leaves no gap.
        loop {
            let from = chunked::entry_key(index);
            let end = chunked::entries_end();
            let mut batch = sled::Batch::default();
            let mut count = 0;
            for pair in self.db.range(&from[..]..&end[..]).rev().take(REMOVE_BATCH) {
                batch.remove(pair.map_err(io_error)?.0);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.db.apply_batch(batch).map_err(io_error)?;
        }
    }

    fn purge_upto(&self, index: u64) -> io::Result<()> {
        self.remove_keys(&chunked::entry_key(0), &chunked::entry_key(index.saturating_add(1)))
    }

    fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(io_error)?;
        self.data_file.sync_data()
    }

    fn disk_bytes(&self) -> u64 {
        self.db
            .size_on_disk()
            .unwrap_or_else(|_| fs::metadata(self.dir.join("db")).map_or(0, |meta| meta.len()))
    }
}
