//! Fuzz targets: records, marks and snapshot files, as a disk or a foreign backup can contain them.

use std::collections::BTreeSet;
use std::io::Read;

use super::Record;
use super::chunked::{self, Joiner};
use super::log_mark;
use super::snapshots::{self, SnapshotFile};
use crate::codec::{LogIdDto, LogMarkDto, SnapshotHeadDto};

/// Keys and values of a scan are joined to records or refused. A record that is split and joined again stays
/// the same.
///
/// The input is `u8 key length | u8 value length | key | value`, repeated. If the first byte is odd, the
/// checksums are corrected.
pub(crate) fn records(bytes: &[u8]) {
    let Some((seal, mut rest)) = bytes.split_first() else { return };
    let mut joiner = Joiner::default();
    while let [key_len, value_len, tail @ ..] = rest {
        let key_len = usize::from(*key_len).min(tail.len());
        let (key, tail) = tail.split_at(key_len);
        let (value, tail) = tail.split_at(usize::from(*value_len).min(tail.len()));
        rest = tail;
        let mut value = value.to_vec();
        if seal & 1 == 1 && value.len() >= 5 {
            value = chunked::seal(key, value);
        }
        let Ok(joined) = joiner.push(key, &value) else { return };
        if let Some(record) = joined {
            for chunk_len in [1, 7, 64] {
                let mut again = Joiner::default();
                let chunks = chunked::split(&record, chunk_len);
                let joined = chunks
                    .iter()
                    .filter_map(|(key, value)| again.push(key, value).expect("our own"));
                assert_eq!(joined.collect::<Vec<_>>(), std::slice::from_ref(&record));
            }
        }
    }
    let _ = joiner.finish();
}

/// A record of one chunk, one of several chunks, and both together.
pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let scan = |index: u64, len: usize| {
        let record = Record { index, term: 2, bytes: vec![7; len] };
        let mut out = Vec::new();
        for (key, value) in chunked::split(&record, 40) {
            out.push(u8::try_from(key.len()).expect("a key is short"));
            out.push(u8::try_from(value.len()).expect("a chunk is short"));
            out.extend_from_slice(&key);
            out.extend_from_slice(&value);
        }
        out
    };
    let (short, long) = (scan(1, 10), scan(2, 100));
    let both = [short.clone(), long.clone()].concat();
    [short, long, both].into_iter().map(|scan| [vec![1], scan].concat()).collect()
}

/// A slot is a mark or none. A mark that is written and read again stays the same.
pub(crate) fn mark(bytes: &[u8]) {
    if let Some(mark) = log_mark::parse(bytes) {
        assert_eq!(log_mark::parse(&log_mark::render(mark)), Some(mark));
    }
}

/// A mark.
pub(crate) fn mark_seeds() -> Vec<Vec<u8>> {
    let last = Some(LogIdDto { term: 3, node: 1, index: 900 });
    vec![log_mark::render(LogMarkDto { last, vote_term: 3, vote_node: 1 }).to_vec()]
}

/// A file is either a complete snapshot that can be read to its end, or refused.
///
/// Bit 0 of the first byte corrects the checksum, and bit 1 the length of the body. Otherwise only these two
/// checks would be tested.
pub(crate) fn snapshot_file(bytes: &[u8]) {
    let Some((put_right, rest)) = bytes.split_first() else { return };
    let mut file = rest.to_vec();
    if let Some(at) = file.len().checked_sub(16).filter(|at| *at >= 4) {
        let head_len = u64::from(u32::from_le_bytes([file[0], file[1], file[2], file[3]]));
        let body_len = (at as u64 - 4).checked_sub(head_len);
        if let Some(body_len) = body_len.filter(|_| put_right & 2 == 2) {
            file[at..at + 8].copy_from_slice(&body_len.to_le_bytes());
        }
        if put_right & 1 == 1 {
            let sum = crc32c::crc32c(&file[..at]);
            file[at + 8..at + 12].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let thread = std::thread::current().id();
    let path = std::env::temp_dir().join(format!("maxine-fuzz-{}-{thread:?}", std::process::id()));
    std::fs::write(&path, &file).expect("the temporary directory can be written");
    if let Ok(snapshot) = SnapshotFile::open(&path) {
        let _ = (snapshot.meta(), snapshot.index());
        let mut body = Vec::new();
        let read = snapshot.body().read_to_end(&mut body);
        assert!(read.is_ok(), "a snapshot that was verified cannot be read: {read:?}");
    }
    let _ = std::fs::remove_file(&path);
}

/// A snapshot with a body.
pub(crate) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let head = SnapshotHeadDto {
        cluster_id: "orders".into(),
        lineage: 1,
        last: Some(LogIdDto { term: 3, node: 1, index: 900 }),
        membership_log_id: None,
        membership: Default::default(),
    };
    let path = std::env::temp_dir().join(format!("maxine-fuzz-seed-{}", std::process::id()));
    let written = snapshots::write_file(&path, &head, &BTreeSet::from([1, 2]), |out| {
        out.write_all(b"the state")
    });
    let file = written
        .and_then(|()| std::fs::read(&path))
        .expect("the temporary directory can be written");
    let _ = std::fs::remove_file(&path);
    [0, 1, 3].into_iter().map(|put_right: u8| [vec![put_right], file.clone()].concat()).collect()
}
