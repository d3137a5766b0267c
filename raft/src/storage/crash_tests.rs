//! Tests the engines after a reopen, a cut tail, a flipped byte and a power failure.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};
use parking_lot::Mutex;

use super::disk_health::DiskHealth;
use super::log_store::{LogStore, drop_contradicted};
use super::redb_engine::RedbEngine;
use super::wal_engine::WalEngine;
use super::{LogEngine, MetaKey, Record, open_engine};
use crate::config::EngineKind;
use crate::consensus::{CommittedLeaderId, Entry, LogId, Payload, TypeConfig, Vote};

const ALL: [EngineKind; 3] = [EngineKind::Wal, EngineKind::Sled, EngineKind::Redb];

fn open(kind: EngineKind, dir: &Path) -> io::Result<LogStore> {
    let engine = open_engine(kind, dir, 1024 * 1024)?;
    LogStore::open(engine, dir, 64 * 1024, Arc::new(DiskHealth::new()))
}

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1), index)
}

fn entry(index: u64, len: usize) -> Entry {
    Entry {
        log_id: id(index),
        payload: EntryPayload::Normal(Payload(vec![index as u8; len].into())),
    }
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    let (done, written) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    written.await.unwrap().unwrap();
}

async fn indexes(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_reopening() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(kind, dir.path()).unwrap();
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        // Larger than a chunk and than the tail in memory.
        append(
            &mut log,
            (0..300)
                .map(|index| entry(index, if index % 50 == 0 { 40_000 } else { 100 }))
                .collect(),
        )
        .await;
        log.save_committed(Some(id(250))).await.unwrap();
        log.purge(id(9)).await.unwrap();
        log.truncate_after(Some(id(280))).await.unwrap();
        append(&mut log, vec![entry(281, 5)]).await;
        log.stop().await;
        let mut log = open(kind, dir.path()).unwrap();
        assert_eq!(indexes(&mut log).await, (10..=281).collect::<Vec<_>>(), "{kind}");
        assert_eq!(log.saved_vote(), Some(Vote::new_committed(1, 1)));
        assert_eq!(log.saved_committed(), Some(id(250)));
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(9)), Some(id(281))));
        for read in log.try_get_log_entries(10..282).await.unwrap() {
            let EntryPayload::Normal(Payload(bytes)) = read.payload else { panic!("{kind}") };
            assert!(bytes.iter().all(|byte| *byte == read.log_id.index as u8), "{kind}");
        }
        log.stop().await;
    }
}

/// The largest file of the engine, where a cut or a flipped byte affects real data.
fn data_file(kind: EngineKind, dir: &Path) -> std::path::PathBuf {
    match kind {
        EngineKind::Sled => dir.join("sled/db"),
        EngineKind::Redb => dir.join("log.redb"),
        EngineKind::Wal => dir.join("wal/00000000000000000001.wal"),
    }
}

async fn written(kind: EngineKind) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(kind, dir.path()).unwrap();
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    for index in 0..200 {
        append(&mut log, vec![entry(index, 3_000)]).await;
    }
    log.stop().await;
    dir
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Regression: such a log was opened without a word, and nobody knew whether its end was missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_mark_is_opened_with_a_warning_and_an_empty_one_without() {
    let (empty, dir) = (tempfile::tempdir().unwrap(), written(EngineKind::Wal).await);
    let warnings = async |dir: &Path| {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .finish();
        let opened = || open(EngineKind::Wal, dir).unwrap();
        tracing::subscriber::with_default(subscriber, opened).stop().await;
        String::from_utf8(lines.0.lock().clone()).unwrap()
    };
    for quiet in [empty.path(), dir.path()] {
        let text = warnings(quiet).await;
        assert!(!text.contains("log.mark"), "{text}");
    }
    fs::remove_file(dir.path().join("log.mark")).unwrap();
    let text = warnings(dir.path()).await;
    let wanted =
        "log.mark is missing or empty: it is not known whether the end of the log is whole";
    assert!(text.contains(wanted), "{text}");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target)
        } else {
            fs::copy(&path, &target).map(|_| ()).unwrap()
        }
    }
}

/// Opens a damaged copy. It must be refused, or still have every acknowledged entry.
async fn refused_or_whole(
    kind: EngineKind,
    original: &Path,
    what: &str,
    damage: impl FnOnce(&Path),
) -> bool {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(original, copy.path());
    damage(&data_file(kind, copy.path()));
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open(kind, copy.path())));
    match opened {
        Ok(Ok(mut log)) => {
            assert_eq!(
                indexes(&mut log).await,
                (0..200).collect::<Vec<_>>(),
                "{kind} lost entries silently: {what}"
            );
            log.stop().await;
            false
        }
        Ok(Err(_)) | Err(_) => true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_tail_is_never_a_shorter_log() {
    for kind in ALL {
        let dir = written(kind).await;
        let len = fs::metadata(data_file(kind, dir.path())).unwrap().len();
        let mut refused = 0;
        for part in 1..12 {
            let keep = len * part / 12;
            refused += u32::from(
                refused_or_whole(kind, dir.path(), &format!("cut to {keep} of {len}"), |file| {
                    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(keep).unwrap();
                })
                .await,
            );
        }
        assert!(refused > 0, "{kind}: no cut met data, so the test shows nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_never_a_wrong_log() {
    for kind in ALL {
        let dir = written(kind).await;
        let len = fs::metadata(data_file(kind, dir.path())).unwrap().len();
        let mut refused = 0;
        for part in 0..24 {
            let at = len * (2 * part + 1) / 48;
            refused += u32::from(
                refused_or_whole(
                    kind,
                    dir.path(),
                    &format!("byte {at} of {len} flipped"),
                    |file| {
                        let mut bytes = fs::read(file).unwrap();
                        bytes[at as usize] ^= 0xff;
                        fs::write(file, bytes).unwrap();
                    },
                )
                .await,
            );
        }
        assert!(refused > 0, "{kind}: no flip met data, so the test shows nothing");
    }
}

/// Regression: a start finished a purge, over entries that were damaged, before it refused the directory.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_stays_as_it_is_and_is_taken_once_it_is_mended() {
    let dir = written(EngineKind::Wal).await;
    let mut log = open(EngineKind::Wal, dir.path()).unwrap();
    log.purge(id(50)).await.unwrap();
    for index in 200..210 {
        append(&mut log, vec![entry(index, 3_000)]).await;
    }
    log.stop().await;
    let file = data_file(EngineKind::Wal, dir.path());
    let whole = fs::read(&file).unwrap();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut damaged = whole.clone();
    damaged[written - 10_000..written].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&file, &damaged).unwrap();

    let Err(error) = open(EngineKind::Wal, dir.path()) else { panic!("it took a shorter log") };
    let error = error.to_string();
    assert!(error.contains("lost its tail") && error.contains("Nothing was changed"), "{error}");
    assert!(fs::read(&file).unwrap() == damaged, "it changed what it refused");
    fs::write(&file, &whole).unwrap();
    let mut log = open(EngineKind::Wal, dir.path()).unwrap();
    assert_eq!(indexes(&mut log).await, (51..210).collect::<Vec<_>>());
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_went_missing_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(EngineKind::Redb, dir.path()).unwrap();
    log.save_vote(&Vote::new(7, 2)).await.unwrap();
    log.stop().await;
    fs::remove_file(dir.path().join("log.redb")).unwrap();
    let Err(error) = open(EngineKind::Redb, dir.path()) else {
        panic!("it started without its vote")
    };
    assert!(error.to_string().contains("vote"), "{error}");
}

/// A disk that loses everything that was not synced.
#[derive(Clone, Debug, Default)]
struct LossyDisk {
    durable: Arc<Mutex<Vec<u8>>>,
    present: Arc<Mutex<Vec<u8>>>,
    /// Unsynced writes that survive the power failure, chosen arbitrarily.
    unsynced: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
}

impl redb::StorageBackend for LossyDisk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.present.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let offset = offset as usize;
        out.copy_from_slice(&self.present.lock()[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.present.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.unsynced.lock().clear();
        *self.durable.lock() = self.present.lock().clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let at = offset as usize;
        self.present.lock()[at..at + data.len()].copy_from_slice(data);
        self.unsynced.lock().insert(offset, data.to_vec());
        Ok(())
    }
}

impl LossyDisk {
    /// The disk after the power failure: what was synced, and some of the rest.
    fn after_power_loss(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut bytes = self.durable.lock().clone();
        for (number, (offset, data)) in self.unsynced.lock().iter().enumerate() {
            let at = *offset as usize;
            if keep(number) && at + data.len() <= bytes.len() {
                bytes[at..at + data.len()].copy_from_slice(data);
            }
        }
        Self {
            durable: Arc::new(Mutex::new(bytes.clone())),
            present: Arc::new(Mutex::new(bytes)),
            unsynced: Arc::default(),
        }
    }
}

#[test]
fn redb_keeps_what_was_synced_through_a_power_loss() {
    let disk = LossyDisk::default();
    let engine = RedbEngine::open_with_backend(disk.clone()).unwrap();
    let record = |index: u64| Record { index, term: 1, bytes: vec![index as u8; 500] };
    for round in 0..40u64 {
        engine.append(&[record(2 * round), record(2 * round + 1)]).unwrap();
        engine.put_meta(MetaKey::Vote, &round.to_le_bytes()).unwrap();
        engine.sync().unwrap();
        engine.append(&[record(2 * round + 2)]).unwrap();
        for pattern in 0..4usize {
            let lost = disk.after_power_loss(|number| number % 4 < pattern);
            let recovered = RedbEngine::open_with_backend(lost).unwrap();
            let last = recovered.last().unwrap().unwrap().index;
            assert!(last > 2 * round, "round {round}, pattern {pattern}: synced entries are gone");
            assert_eq!(recovered.read(0..last + 1, usize::MAX).unwrap().len() as u64, last + 1);
            assert_eq!(recovered.get_meta(MetaKey::Vote).unwrap().unwrap(), round.to_le_bytes());
        }
        engine.truncate_from(2 * round + 2).unwrap();
    }
}

/// sled writes through the file system. So a copy of its file at each sync stands for a power failure:
/// everything that was written later is missing or zero.
#[test]
fn sled_keeps_what_was_synced_through_a_power_loss() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_engine(EngineKind::Sled, dir.path(), 1024 * 1024).unwrap();
    let record = |index: u64| Record { index, term: 1, bytes: vec![index as u8; 700] };
    for round in 0..30u64 {
        engine.append(&[record(2 * round), record(2 * round + 1)]).unwrap();
        engine.sync().unwrap();
        let at_sync = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), at_sync.path());
        let recovered = open_engine(EngineKind::Sled, at_sync.path(), 1024 * 1024).unwrap();
        let records = recovered.read(0..u64::MAX, usize::MAX).unwrap();
        assert_eq!(
            records.len() as u64,
            2 * round + 2,
            "entries of an acknowledged sync are not in the file"
        );
    }
}

/// Length of a segment, in bytes. It is small, so that the tests use many segments.
const SEGMENT_LEN: u64 = 64 * 1024;
const SECTOR: usize = 512;

/// `before` with some of the sectors that a sync was writing when the power failed. These are the sectors in
/// which `after` differs and that `keep` selects. A file that is only in `after` may exist or not.
fn power_lost(before: &Path, after: &Path, to: &Path, keep: impl Fn(usize) -> bool) {
    copy_dir(before, to);
    let mut number = 0;
    for entry in fs::read_dir(after.join("wal")).unwrap() {
        let name = entry.unwrap().file_name();
        let (was, is) = (before.join("wal").join(&name), after.join("wal").join(&name));
        // The segment in the making may have another name by now.
        let Ok(is) = fs::read(is) else { continue };
        let Ok(mut torn) = fs::read(was) else { continue };
        // The next segment may have been in the making when `before` was copied.
        torn.resize(torn.len().max(is.len()), 0);
        for (at, sector) in is.chunks(SECTOR).enumerate() {
            let old = &mut torn[at * SECTOR..][..sector.len()];
            if old != sector {
                if keep(number) {
                    old.copy_from_slice(sector);
                }
                number += 1;
            }
        }
        fs::write(to.join("wal").join(&name), torn).unwrap();
    }
}

#[test]
fn wal_keeps_what_was_synced_through_a_power_loss() {
    let dir = tempfile::tempdir().unwrap();
    let engine = WalEngine::open_with(dir.path(), SEGMENT_LEN).unwrap();
    let record = |index: u64| Record { index, term: 1, bytes: vec![index as u8; 1_500] };
    let mut torn = 0;
    for round in 0..60u64 {
        engine.append(&[record(3 * round)]).unwrap();
        engine.put_meta(MetaKey::Vote, &round.to_le_bytes()).unwrap();
        engine.sync().unwrap();
        let before = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), before.path());
        engine.append(&[record(3 * round + 1), record(3 * round + 2)]).unwrap();
        engine.put_meta(MetaKey::Committed, &round.to_le_bytes()).unwrap();
        engine.sync().unwrap();
        for pattern in 0..6usize {
            let lost = tempfile::tempdir().unwrap();
            power_lost(before.path(), dir.path(), lost.path(), |number| number % 6 < pattern);
            let recovered = WalEngine::open_with(lost.path(), SEGMENT_LEN).unwrap();
            let last = recovered.last().unwrap().unwrap().index;
            assert!(
                last == 3 * round || last == 3 * round + 2,
                "round {round}, pattern {pattern}: the log ends at {last}"
            );
            torn += usize::from(last == 3 * round);
            let read = recovered.read(0..u64::MAX, usize::MAX).unwrap();
            assert_eq!(read, (0..=last).map(record).collect::<Vec<_>>());
            assert_eq!(recovered.get_meta(MetaKey::Vote).unwrap().unwrap(), round.to_le_bytes());
            // The next frame is written at the position of the torn one.
            recovered.append(&[record(last + 1)]).unwrap();
            recovered.sync().unwrap();
            drop(recovered);
            let again = WalEngine::open_with(lost.path(), SEGMENT_LEN).unwrap();
            assert_eq!(again.last().unwrap().unwrap(), record(last + 1));
        }
    }
    assert!(torn > 60, "only {torn} frames were torn, so the test shows little");
}

#[test]
fn wal_segments_are_used_again_and_lost_ones_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = WalEngine::open_with(dir.path(), SEGMENT_LEN).unwrap();
    let record = |index: u64| Record { index, term: 1, bytes: vec![index as u8; 2_000] };
    let names = || {
        let entries = fs::read_dir(dir.path().join("wal")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".wal")).collect::<std::collections::BTreeSet<_>>()
    };
    engine.put_meta(MetaKey::Vote, b"seven").unwrap();
    for index in 0..400 {
        engine.append(&[record(index)]).unwrap();
        engine.sync().unwrap();
    }
    assert!(names().len() > 10, "{:?}", names());
    engine.truncate_from(390).unwrap();
    engine.purge_upto(349).unwrap();
    engine.sync().unwrap();
    assert!(names().len() < 4, "{:?}", names());
    // One entry that is longer than a segment.
    let long = Record { index: 390, term: 2, bytes: vec![9; 200_000] };
    engine.append(std::slice::from_ref(&long)).unwrap();
    engine.sync().unwrap();
    drop(engine);
    let engine = WalEngine::open_with(dir.path(), SEGMENT_LEN).unwrap();
    assert_eq!(engine.get_meta(MetaKey::Vote).unwrap().unwrap(), b"seven");
    assert_eq!(engine.last().unwrap().unwrap(), long);
    let read = engine.read(0..390, usize::MAX).unwrap();
    assert_eq!(read, (350..390).map(record).collect::<Vec<_>>());
    for index in 391..500 {
        engine.append(&[record(index)]).unwrap();
        engine.sync().unwrap();
    }
    // All entries are removed, and the log continues at a later index, as after a snapshot from the leader.
    engine.put_meta(MetaKey::Purged, b"999").unwrap();
    engine.sync().unwrap();
    engine.purge_upto(999).unwrap();
    engine.append(&[record(1_000)]).unwrap();
    engine.sync().unwrap();
    drop(engine);
    let engine = WalEngine::open_with(dir.path(), SEGMENT_LEN).unwrap();
    assert_eq!(engine.read(0..u64::MAX, usize::MAX).unwrap(), [record(1_000)]);
    for index in 1_001..1_200 {
        engine.append(&[record(index)]).unwrap();
        engine.sync().unwrap();
    }
    drop(engine);
    let middle = names().into_iter().nth(2).unwrap();
    fs::remove_file(dir.path().join("wal").join(middle)).unwrap();
    let Err(error) = WalEngine::open_with(dir.path(), SEGMENT_LEN) else {
        panic!("it opened without one of its segments")
    };
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn sled_refuses_values_outside_its_log_and_removes_unfinished_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let sled = dir.path().join("sled");
    drop(open_engine(EngineKind::Sled, dir.path(), 1024 * 1024).unwrap());
    fs::write(sled.join("snap.0000.generating"), b"half").unwrap();
    drop(open_engine(EngineKind::Sled, dir.path(), 1024 * 1024).unwrap());
    fs::create_dir_all(sled.join("blobs")).unwrap();
    fs::write(sled.join("blobs/1"), b"x").unwrap();
    assert!(open_engine(EngineKind::Sled, dir.path(), 1024 * 1024).is_err());
}

/// An engine whose syncs can be made to fail or to be slow.
struct TroubledEngine {
    inner: Arc<dyn LogEngine>,
    fail: AtomicBool,
    slow: AtomicBool,
    syncs: AtomicU64,
}

impl TroubledEngine {
    fn new(kind: EngineKind, dir: &Path) -> Arc<Self> {
        let inner = open_engine(kind, dir, 1024 * 1024).unwrap();
        let (fail, slow, syncs) = (false.into(), false.into(), 0.into());
        Arc::new(Self { inner, fail, slow, syncs })
    }
}

impl LogEngine for TroubledEngine {
    fn append(&self, records: &[Record]) -> io::Result<()> {
        self.inner.append(records)
    }
    fn read(&self, range: std::ops::Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>> {
        self.inner.read(range, bytes_max)
    }
    fn last(&self) -> io::Result<Option<Record>> {
        self.inner.last()
    }
    fn get_meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>> {
        self.inner.get_meta(key)
    }
    fn put_meta(&self, key: MetaKey, value: &[u8]) -> io::Result<()> {
        self.inner.put_meta(key, value)
    }
    fn truncate_from(&self, index: u64) -> io::Result<()> {
        self.inner.truncate_from(index)
    }
    fn purge_upto(&self, index: u64) -> io::Result<()> {
        self.inner.purge_upto(index)
    }
    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.fail.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is gone"));
        }
        if self.slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.inner.sync()
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_fatal_and_never_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = TroubledEngine::new(EngineKind::Redb, dir.path());
    let health = Arc::new(DiskHealth::new());
    let mut log = LogStore::open(engine.clone(), dir.path(), 64 * 1024, health.clone()).unwrap();
    append(&mut log, vec![entry(0, 10)]).await;
    engine.fail.store(true, Ordering::SeqCst);
    let (done, written) = TypeConfig::oneshot();
    log.append(vec![entry(1, 10)], IOFlushed::signal(done)).await.unwrap();
    assert!(written.await.unwrap().is_err());
    assert_eq!(health.failure(), Some("the disk is gone"));
    let before = engine.syncs.load(Ordering::SeqCst);
    assert!(log.save_vote(&Vote::new(9, 9)).await.is_err());
    tokio::time::timeout(Duration::from_secs(5), log.stop()).await.unwrap();
    assert_eq!(engine.syncs.load(Ordering::SeqCst), before);
}

/// A follower returns. Its entries that the leader does not have are cut off, and a snapshot that is ahead of
/// its log replaces the rest. The entries after the snapshot arrive before the disk has finished either step.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_beyond_the_end_and_the_entries_after_it_may_be_one_group() {
    for kind in ALL {
        let dir = tempfile::tempdir().unwrap();
        let engine = TroubledEngine::new(kind, dir.path());
        let health = Arc::new(DiskHealth::new());
        let mut log =
            LogStore::open(engine.clone(), dir.path(), 64 * 1024, health.clone()).unwrap();
        append(&mut log, (0..10).map(|index| entry(index, 10)).collect()).await;
        engine.slow.store(true, Ordering::SeqCst);
        let (done, written) = TypeConfig::oneshot();
        log.append(vec![entry(10, 10)], IOFlushed::signal(done)).await.unwrap();
        // While that entry is being synced, the following operations are collected.
        log.truncate_after(Some(id(7))).await.unwrap();
        log.purge(id(40)).await.unwrap();
        append(&mut log, vec![entry(41, 10), entry(42, 10)]).await;
        written.await.unwrap().unwrap();
        append(&mut log, vec![entry(43, 10)]).await;
        assert_eq!(health.failure(), None, "{kind}");
        assert_eq!(indexes(&mut log).await, [41, 42, 43], "{kind}");
        log.stop().await;
        drop(engine);
        let mut log = open(kind, dir.path()).unwrap();
        assert_eq!(indexes(&mut log).await, [41, 42, 43], "{kind}");
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(40)), Some(id(43))));
        log.stop().await;
    }
}

/// The snapshot reached the disk, and the power failed before the log was cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_the_snapshot_contradicts_is_dropped_and_any_other_kept() {
    let of_next_term = |index| LogId::new(CommittedLeaderId::new(2), index);
    for kind in ALL {
        for (snapshot, kept) in [
            (None, 0..10),
            (Some(id(4)), 0..10),
            (Some(id(30)), 0..10),
            (Some(of_next_term(30)), 0..10),
            (Some(of_next_term(9)), 0..0),
            (Some(of_next_term(4)), 0..0),
            (Some(of_next_term(0)), 0..0),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = open(kind, dir.path()).unwrap();
            append(&mut log, (0..10).map(|index| entry(index, 10)).collect()).await;
            drop_contradicted(&mut log, snapshot).await.unwrap();
            assert_eq!(indexes(&mut log).await, kept.clone().collect::<Vec<_>>(), "{snapshot:?}");
            if kept.is_empty() {
                let last = snapshot.unwrap();
                let state = log.get_log_state().await.unwrap();
                assert_eq!(state.last_log_id, Some(last), "{kind}");
                let next = of_next_term(last.index + 1);
                append(&mut log, vec![Entry { log_id: next, ..entry(0, 10) }]).await;
                log.stop().await;
                let mut log = open(kind, dir.path()).unwrap();
                assert_eq!(indexes(&mut log).await, [next.index], "{kind}");
                log.stop().await;
            } else {
                log.stop().await;
            }
        }
    }
}
