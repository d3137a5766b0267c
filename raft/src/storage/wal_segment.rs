//! One file of the write-ahead log, and its format.
//!
//! A segment is a file of fixed length. It is filled with zeros before it is used, so that a sync writes no
//! metadata. It consists of frames, one for each sync: `u32 magic ‖ u32 length ‖ u32 checksum ‖ operations`,
//! each at a multiple of [`ALIGN`]. The checksum also covers the segment's number and the frame's position,
//! so that the remains of an earlier use of the file are not valid frames. The first operation of a segment
//! is [`Op::Start`].
//!
//! A frame is written only after the previous one was synced. So a scan ends either at the end, or at one
//! last frame that was being written when the power failed. A broken frame that is followed by another frame
//! is damage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

use super::{MetaKey, damaged, sync_dir};

/// Maximum length of a segment, in bytes. What waits for one sync is far less.
const SEGMENT_LEN_MAX: u64 = 1024 * 1024 * 1024;
pub(super) const FRAME_HEAD_LEN: usize = 12;
const ALIGN: usize = 8;
/// Number of files of purged segments that are kept for later segments.
const SPARES_MAX: usize = 4;
const SPARE: &str = "spare";
const MAGIC: u32 = u32::from_le_bytes(*b"MXWL");
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

const START: u8 = 1;
const ENTRY: u8 = 2;
const META: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;

/// The operations in a frame, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op<'b> {
    /// Begins a segment of `len` bytes. The previous one ended at `previous_end`.
    Start { len: u64, previous_end: u64 },
    /// Adds an entry after the last one.
    Entry { index: u64, term: u64, bytes: &'b [u8] },
    /// Replaces a value.
    Meta { key: MetaKey, value: &'b [u8] },
    /// Removes every entry from `from` on.
    Truncate { from: u64 },
    /// Removes every entry up to and including `upto`.
    Purge { upto: u64 },
}

const META_KEYS: [(u8, MetaKey); 3] =
    [(1, MetaKey::Vote), (2, MetaKey::Committed), (3, MetaKey::Purged)];

impl Op<'_> {
    /// Appends the operation to a frame under construction.
    pub(super) fn put(self, frame: &mut Vec<u8>) {
        match self {
            Op::Start { len, previous_end } => {
                frame.put_u8(START);
                frame.put_u64_le(len);
                frame.put_u64_le(previous_end);
            }
            Op::Entry { index, term, bytes } => {
                frame.put_u8(ENTRY);
                frame.put_u64_le(index);
                frame.put_u64_le(term);
                put_bytes(frame, bytes);
            }
            Op::Meta { key, value } => {
                frame.put_u8(META);
                let number = META_KEYS.iter().find(|(_, known)| *known == key);
                frame.put_u8(number.expect("every key has its number").0);
                put_bytes(frame, value);
            }
            Op::Truncate { from } => {
                frame.put_u8(TRUNCATE);
                frame.put_u64_le(from);
            }
            Op::Purge { upto } => {
                frame.put_u8(PURGE);
                frame.put_u64_le(upto);
            }
        }
    }
}

fn put_bytes(frame: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("an entry is bounded by payload_len_max");
    frame.put_u32_le(len);
    frame.put_slice(bytes);
}

/// An empty frame, with room for its header.
pub(super) fn new_frame() -> Vec<u8> {
    vec![0; FRAME_HEAD_LEN]
}

/// Writes the header of a frame for position `at` of segment `seq`, and pads the frame.
pub(super) fn seal(frame: &mut Vec<u8>, seq: u64, at: u64) {
    let body = &frame[FRAME_HEAD_LEN..];
    let len = u32::try_from(body.len()).expect("a frame is far below 4 GiB");
    let sum = checksum(seq, at, body);
    let mut head = &mut frame[..FRAME_HEAD_LEN];
    head.put_u32_le(MAGIC);
    head.put_u32_le(len);
    head.put_u32_le(sum);
    frame.resize(padded(frame.len()), 0);
}

/// The padded length of a frame of `len` bytes.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

fn checksum(seq: u64, at: u64, body: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&seq.to_le_bytes()), &at.to_le_bytes());
    let len = crc32c::crc32c_append(place, &(body.len() as u64).to_le_bytes());
    crc32c::crc32c_append(len, body)
}

/// The operations of the frame at `at` in segment `seq`; `None` if there is no complete frame.
fn frame_at(bytes: &[u8], seq: u64, at: usize) -> Option<&[u8]> {
    let mut head = bytes.get(at..at + FRAME_HEAD_LEN)?;
    if head.get_u32_le() != MAGIC {
        return None;
    }
    let (len, sum) = (head.get_u32_le() as usize, head.get_u32_le());
    let from = at + FRAME_HEAD_LEN;
    let body = bytes.get(from..from.checked_add(len)?)?;
    (checksum(seq, at as u64, body) == sum).then_some(body)
}

/// The position of a frame's operations in its segment, and the operations.
pub(super) type Frame<'b> = (u64, &'b [u8]);

/// The frames of a segment in order, and the end of the last one. Fails if a broken frame is followed by a
/// complete one.
pub(super) fn frames(bytes: &[u8], seq: u64) -> io::Result<(Vec<Frame<'_>>, u64)> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(body) = frame_at(bytes, seq, at) {
        frames.push(((at + FRAME_HEAD_LEN) as u64, body));
        at = padded(at + FRAME_HEAD_LEN + body.len());
    }
    let later = (at..bytes.len()).step_by(ALIGN).skip(1);
    if let Some(whole) = later.into_iter().find(|at| frame_at(bytes, seq, *at).is_some()) {
        return Err(damaged(format!(
            "segment {seq} of the log is damaged at byte {at}: a whole frame follows at byte {whole}"
        )));
    }
    Ok((frames, at as u64))
}

/// The operations of a frame, each with the position of its bytes in `body`.
pub(super) fn ops(body: &[u8]) -> io::Result<Vec<(usize, Op<'_>)>> {
    let cut = || damaged("an operation in the log is cut short although its checksum is right");
    let mut ops = Vec::new();
    let mut rest = body;
    while let Ok(kind) = rest.try_get_u8() {
        let op = match kind {
            START => Op::Start { len: number(&mut rest)?, previous_end: number(&mut rest)? },
            ENTRY => {
                let (index, term) = (number(&mut rest)?, number(&mut rest)?);
                Op::Entry { index, term, bytes: take_bytes(&mut rest)? }
            }
            META => {
                let number = rest.try_get_u8().map_err(|_| cut())?;
                let key = META_KEYS.iter().find(|(known, _)| *known == number);
                let (_, key) =
                    key.ok_or_else(|| damaged(format!("log value {number} is unknown")))?;
                Op::Meta { key: *key, value: take_bytes(&mut rest)? }
            }
            TRUNCATE => Op::Truncate { from: number(&mut rest)? },
            PURGE => Op::Purge { upto: number(&mut rest)? },
            other => {
                return Err(damaged(format!(
                    "operation {other} in the log is unknown; a newer version may have written it"
                )));
            }
        };
        let len = match op {
            Op::Entry { bytes, .. } => bytes.len(),
            _ => 0,
        };
        ops.push((body.len() - rest.len() - len, op));
    }
    Ok(ops)
}

fn number(rest: &mut &[u8]) -> io::Result<u64> {
    rest.try_get_u64_le().map_err(|_| damaged("a number in the log is cut short"))
}

fn take_bytes<'b>(rest: &mut &'b [u8]) -> io::Result<&'b [u8]> {
    let cut = || damaged("an entry in the log is cut short although its checksum is right");
    let len = rest.try_get_u32_le().map_err(|_| cut())? as usize;
    let (bytes, tail) = rest.split_at_checked(len).ok_or_else(cut)?;
    *rest = tail;
    Ok(bytes)
}

/// A segment's file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) seq: u64,
    pub(super) len: u64,
    pub(super) path: PathBuf,
    file: File,
}

impl Segment {
    pub(super) fn path_of(dir: &Path, seq: u64) -> PathBuf {
        dir.join(format!("{seq:020}.wal"))
    }

    /// The number in a segment's file name.
    pub(super) fn seq_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".wal").filter(|digits| digits.len() == 20)?;
        digits.parse().ok()
    }

    /// Opens an existing segment and reads it.
    pub(super) fn open(dir: &Path, seq: u64) -> io::Result<(Self, Vec<u8>)> {
        let path = Self::path_of(dir, seq);
        let file = maxine_files::open(OpenOptions::new().read(true).write(true), &path)?;
        let len = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok((Self { seq, len, path, file }, bytes))
    }

    /// Creates segment `seq` of `usual_len` bytes from the spare file, durably. The segment is longer if
    /// `more` bytes do not fit. `first` creates its first frame for a given length. Also returns the end of
    /// that frame.
    pub(super) fn create(
        dir: &Path,
        seq: u64,
        usual_len: u64,
        more: usize,
        first: impl FnOnce(u64) -> Vec<u8>,
    ) -> io::Result<(Self, u64)> {
        // The other half of the segment is for its first frame.
        let room = usual_len / 2;
        let len = match more as u64 {
            more if more <= room => usual_len,
            more => (more + room).next_multiple_of(usual_len),
        };
        if len > SEGMENT_LEN_MAX {
            return Err(io::Error::other(format!("{more} bytes are too much for one sync")));
        }
        let spare = if len == usual_len {
            match spares(dir, len)?.pop() {
                Some(spare) => spare,
                None => fill(dir.join("new.tmp"), len)?,
            }
        } else {
            fill(dir.join("long.tmp"), len)?
        };
        let file = maxine_files::open(OpenOptions::new().read(true).write(true), &spare)?;
        let mut frame = first(len);
        seal(&mut frame, seq, 0);
        file.write_all_at(&frame, 0)?;
        file.sync_data()?;
        let path = Self::path_of(dir, seq);
        fs::rename(&spare, &path)?;
        sync_dir(dir)?;
        Ok((Self { seq, len, path, file }, frame.len() as u64))
    }

    pub(super) fn write(&self, frame: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(frame, at)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Removes the file, durably. If it is `reusable` and there are few spare files, it becomes one.
    pub(super) fn remove(&self, dir: &Path, reusable: bool) -> io::Result<()> {
        if reusable && spares(dir, self.len)?.len() < SPARES_MAX {
            fs::rename(&self.path, self.path.with_extension(SPARE))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        sync_dir(dir)
    }
}

/// The spare files of `len` bytes. Files of other lengths are removed; they are from a version with segments
/// of another length.
pub(super) fn spares(dir: &Path, len: u64) -> io::Result<Vec<PathBuf>> {
    let mut spares = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != SPARE) {
            continue;
        }
        if entry.metadata()?.len() == len { spares.push(path) } else { fs::remove_file(path)? }
    }
    Ok(spares)
}

/// Creates a spare file of `len` bytes.
pub(super) fn prepare_spare(dir: &Path, len: u64) -> io::Result<()> {
    let filled = fill(dir.join("spare.tmp"), len)?;
    fs::rename(filled, dir.join("new").with_extension(SPARE))
}

/// Creates a file with `len` zeros that are really written. Blocks that are only reserved would make the
/// first sync of each write metadata too.
fn fill(path: PathBuf, len: u64) -> io::Result<PathBuf> {
    let mut file = File::create(&path)?;
    let mut left = len;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        file.write_all(&ZEROS[..usize::try_from(part).map_err(io::Error::other)?])?;
        left -= part;
    }
    file.sync_all()?;
    Ok(path)
}
