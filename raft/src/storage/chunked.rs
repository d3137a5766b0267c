//! The layout of a record in an ordered key-value engine.
//!
//! Key `0x01 ‖ be_u64(index)` has the first chunk, and `0x01 ‖ be_u64(index) ‖ be_u32(n)` the n-th chunk
//! after it. `0x02 ‖ name` has metadata. Every value has a checksum that covers its key, so that both a
//! flipped bit and a misplaced value are detected.

use std::io;

use super::{Record, damaged};

const VERSION: u8 = 1;
const ENTRY: u8 = 0x01;
const META: u8 = 0x02;
const FIRST_HEAD_LEN: usize = 1 + 4 + 8 + 4;
const NEXT_HEAD_LEN: usize = 1 + 4;

pub(super) fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

pub(super) fn entries_end() -> [u8; 1] {
    [META]
}

pub(super) fn meta_key(name: &[u8]) -> Vec<u8> {
    let mut key = vec![META];
    key.extend_from_slice(name);
    key
}

pub(super) fn index_of_key(key: &[u8]) -> Option<u64> {
    if key.len() < 9 || key[0] != ENTRY {
        return None;
    }
    Some(u64::from_be_bytes(key[1..9].try_into().ok()?))
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

pub(super) fn seal(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let sum = checksum(key, &value[NEXT_HEAD_LEN..]);
    value[1..5].copy_from_slice(&sum.to_le_bytes());
    value
}

fn unseal<'v>(key: &[u8], value: &'v [u8]) -> io::Result<&'v [u8]> {
    let name = || match index_of_key(key) {
        Some(index) => format!("log entry {index}"),
        None => format!("log metadata {:?}", String::from_utf8_lossy(&key[1..])),
    };
    if value.len() < NEXT_HEAD_LEN {
        return Err(damaged(format!("{} is cut short", name())));
    }
    if value[0] != VERSION {
        return Err(damaged(format!(
            "{} has layout version {}, this program knows {VERSION}",
            name(),
            value[0]
        )));
    }
    let stored = u32::from_le_bytes([value[1], value[2], value[3], value[4]]);
    if checksum(key, &value[NEXT_HEAD_LEN..]) != stored {
        return Err(damaged(format!(
            "{} fails its checksum: the disk or the file is damaged",
            name()
        )));
    }
    Ok(&value[NEXT_HEAD_LEN..])
}

/// Splits a record into keys and values of at most `chunk_len_max` payload bytes each.
pub(super) fn split(record: &Record, chunk_len_max: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out = Vec::with_capacity(1 + record.bytes.len() / chunk_len_max);
    let key = entry_key(record.index);
    let first = &record.bytes[..record.bytes.len().min(chunk_len_max)];
    let mut value = Vec::with_capacity(FIRST_HEAD_LEN + first.len());
    value.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    value.extend_from_slice(&record.term.to_le_bytes());
    let len = u32::try_from(record.bytes.len())
        .expect("an entry is bounded by payload_len_max, which is at most 32 MiB");
    value.extend_from_slice(&len.to_le_bytes());
    value.extend_from_slice(first);
    out.push((key.to_vec(), seal(&key, value)));
    for (number, chunk) in record.bytes[first.len()..].chunks(chunk_len_max).enumerate() {
        let mut key = key.to_vec();
        key.extend_from_slice(&(number as u32 + 1).to_be_bytes());
        let mut value = Vec::with_capacity(NEXT_HEAD_LEN + chunk.len());
        value.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        value.extend_from_slice(chunk);
        let value = seal(&key, value);
        out.push((key, value));
    }
    out
}

pub(super) fn seal_meta(name: &[u8], bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let key = meta_key(name);
    let mut value = vec![VERSION, 0, 0, 0, 0];
    value.extend_from_slice(bytes);
    let value = seal(&key, value);
    (key, value)
}

pub(super) fn unseal_meta(name: &[u8], value: &[u8]) -> io::Result<Vec<u8>> {
    unseal(&meta_key(name), value).map(<[u8]>::to_vec)
}

/// Joins the chunks of an ordered scan to records.
#[derive(Default)]
pub(super) struct Joiner {
    open: Option<(Record, usize, u32)>,
}

impl Joiner {
    /// Adds the next pair of the scan. Returns a record once it is complete.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<Option<Record>> {
        let index =
            index_of_key(key).ok_or_else(|| damaged("a key among the log entries is malformed"))?;
        let body = unseal(key, value)?;
        if key.len() == 9 {
            self.finish()?;
            let (head, bytes) = body
                .split_at_checked(12)
                .ok_or_else(|| damaged(format!("log entry {index} is cut short")))?;
            let term =
                u64::from_le_bytes(head[..8].try_into().expect("eight bytes were split off"));
            let len = u32::from_le_bytes(head[8..].try_into().expect("four bytes were split off"))
                as usize;
            self.open = Some((Record { index, term, bytes: bytes.to_vec() }, len, 0));
        } else {
            let number = key.get(9..13).and_then(|n| n.try_into().ok()).map(u32::from_be_bytes);
            match &mut self.open {
                Some((record, _, last)) if record.index == index && number == Some(*last + 1) => {
                    record.bytes.extend_from_slice(body);
                    *last += 1;
                }
                _ => {
                    return Err(damaged(format!("log entry {index} lacks one of its chunks")));
                }
            }
        }
        match &self.open {
            Some((record, len, _)) if record.bytes.len() == *len => {
                Ok(self.open.take().map(|(record, _, _)| record))
            }
            Some((record, len, _)) if record.bytes.len() > *len => {
                Err(damaged(format!("log entry {index} is longer than its header states")))
            }
            _ => Ok(None),
        }
    }

    /// Must be called at the end of a scan. If the last entry is incomplete, its last chunk was lost.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self.open.take() {
            None => Ok(()),
            Some((record, _, _)) => {
                Err(damaged(format!("log entry {} lacks its last chunk", record.index)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(pairs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<Vec<Record>> {
        let mut joiner = Joiner::default();
        let mut out = Vec::new();
        for (key, value) in pairs {
            out.extend(joiner.push(key, value)?);
        }
        joiner.finish()?;
        Ok(out)
    }

    #[test]
    fn records_of_every_length_round_trip() {
        for len in [0, 1, 99, 100, 101, 200, 1000] {
            let record = Record { index: 7, term: 3, bytes: (0..len).map(|i| i as u8).collect() };
            assert_eq!(join(&split(&record, 100)).unwrap(), vec![record]);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let pairs = split(&Record { index: 7, term: 3, bytes: vec![1; 150] }, 100);
        for pair in 0..pairs.len() {
            for byte in 0..pairs[pair].1.len() {
                let mut broken = pairs.clone();
                broken[pair].1[byte] ^= 1;
                assert!(join(&broken).is_err(), "pair {pair} byte {byte}");
            }
        }
    }

    #[test]
    fn a_missing_or_misplaced_chunk_is_noticed() {
        let pairs = split(&Record { index: 7, term: 3, bytes: vec![1; 350] }, 100);
        for gone in 0..pairs.len() {
            let mut broken = pairs.clone();
            broken.remove(gone);
            assert!(join(&broken).is_err(), "without chunk {gone}");
        }
        let mut swapped = pairs.clone();
        let first = swapped[1].1.clone();
        swapped[1].1 = swapped[2].1.clone();
        swapped[2].1 = first;
        assert!(join(&swapped).is_err());
    }
}
