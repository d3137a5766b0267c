//! A write-ahead log as a log engine. It only appends, to segments.
//!
//! Operations between two syncs are collected in one frame. A sync is one write and one `fdatasync`. The
//! write does not change the length of the file, so no metadata must be synced. The position of each entry is
//! kept in memory and is rebuilt from the segments at a start. A segment is removed once every entry in it is
//! purged, the oldest first. Its file is reused for a later segment.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, RwLock};

use super::wal_segment::{self as segment, Op, Segment};
use super::{LogEngine, MetaKey, Record, damaged, sync_dir};

/// Length of a segment, in bytes, unless one frame needs more.
const SEGMENT_LEN: u64 = 8 * 1024 * 1024;
/// Number of bytes that are collected before they are made durable early.
const FRAME_LEN_MAX: usize = 4 * 1024 * 1024;
/// If the gap between two entries is at most this many bytes, one read covers both.
const READ_OVER: u64 = 4 * 1024;

pub(crate) struct WalEngine {
    dir: PathBuf,
    segment_len: u64,
    writer: Mutex<Writer>,
    index: RwLock<Index>,
}

/// What only the writing thread uses.
struct Writer {
    active: Arc<Segment>,
    /// Position of the next frame.
    end: u64,
    frame: Vec<u8>,
    /// The effects of the frame. They become visible once it is durable.
    effects: Vec<Effect>,
    /// Whether the file of the next segment exists or is being created.
    has_next: bool,
    preparing: Option<JoinHandle<io::Result<()>>>,
}

/// An operation after it was written. An entry is represented by the position of its bytes.
enum Effect {
    Entry { index: u64, place: Place },
    Meta { key: MetaKey, value: Vec<u8> },
    Truncate { from: u64 },
    Purge { upto: u64 },
}

/// The position of an entry's bytes.
#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    at: u64,
    term: u64,
    len: u32,
    sum: u32,
}

/// What is durable, and where.
#[derive(Default)]
struct Index {
    /// The index of the first entry.
    first: u64,
    entries: VecDeque<Place>,
    metas: [Option<Vec<u8>>; 3],
    /// The segments, numbered without gaps. The last one is being written.
    segments: VecDeque<Arc<Segment>>,
}

const fn slot(key: MetaKey) -> usize {
    match key {
        MetaKey::Vote => 0,
        MetaKey::Committed => 1,
        MetaKey::Purged => 2,
    }
}

impl Index {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn apply(&mut self, effect: Effect) -> io::Result<()> {
        match effect {
            Effect::Entry { index, place } => {
                if self.entries.is_empty() {
                    self.first = index;
                }
                if index != self.next() {
                    return Err(damaged(format!(
                        "log entry {index} was found where {} is expected",
                        self.next()
                    )));
                }
                self.entries.push_back(place);
            }
            Effect::Meta { key, value } => self.metas[slot(key)] = Some(value),
            Effect::Truncate { from } => {
                let keep = from.saturating_sub(self.first);
                self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            }
            Effect::Purge { upto } => {
                let gone = upto.saturating_add(1).saturating_sub(self.first);
                let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.entries.len());
                self.entries.drain(..gone);
                self.first += gone as u64;
            }
        }
        Ok(())
    }

    /// Removes the first segments from the list if they no longer have any entry.
    fn unused(&mut self) -> Vec<Arc<Segment>> {
        let mut unused = Vec::new();
        while self.segments.len() > 1
            && self.entries.front().is_none_or(|place| place.segment > self.segments[0].seq)
        {
            unused.extend(self.segments.pop_front());
        }
        unused
    }

    fn segment(&self, seq: u64) -> io::Result<&Arc<Segment>> {
        let first = self.segments.front().map_or(0, |segment| segment.seq);
        let nth = seq.checked_sub(first).and_then(|nth| usize::try_from(nth).ok());
        nth.and_then(|nth| self.segments.get(nth))
            .ok_or_else(|| damaged(format!("segment {seq} of the log is missing")))
    }
}

impl WalEngine {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        Self::open_with(dir, SEGMENT_LEN)
    }

    /// Like [`open`](Self::open), with another length of segments.
    pub(super) fn open_with(dir: &Path, segment_len: u64) -> io::Result<Self> {
        let parent = dir;
        let dir = dir.join("wal");
        fs::create_dir_all(&dir)?;
        sync_dir(parent)?;
        let seqs = existing(&dir)?;
        let mut index = Index::default();
        let mut end = 0;
        for (nth, seq) in seqs.iter().copied().enumerate() {
            if seq != seqs[0] + nth as u64 {
                return Err(damaged(format!("segment {} of the log is missing", seq - 1)));
            }
            let (segment, bytes) = Segment::open(&dir, seq)?;
            let previous_end = (nth > 0).then_some(end);
            end = replay(&mut index, &segment, &bytes, previous_end)?;
            index.segments.push_back(Arc::new(segment));
        }
        let active = match index.segments.back() {
            Some(active) => {
                // The last frame may have been written and not synced when the process died.
                active.sync()?;
                active.clone()
            }
            None => {
                let (first, first_end) = start_segment(&dir, 1, segment_len, 0, 0, &index)?;
                end = first_end;
                index.segments.push_back(first.clone());
                first
            }
        };
        let writer = Writer {
            active,
            end,
            frame: segment::new_frame(),
            effects: Vec::new(),
            has_next: false,
            preparing: None,
        };
        Ok(Self { dir, segment_len, writer: Mutex::new(writer), index: RwLock::new(index) })
    }

    /// Continues in a new segment, with room for the frame that waits.
    fn rotate(&self, writer: &mut Writer) -> io::Result<()> {
        if let Some(preparing) = writer.preparing.take() {
            preparing.join().map_err(|_| io::Error::other("preparing a segment failed"))??;
        }
        let seq = writer.active.seq + 1;
        let (more, len) = (writer.frame.len(), self.segment_len);
        let next = start_segment(&self.dir, seq, len, more, writer.end, &self.index.read())?;
        (writer.active, writer.end) = next;
        writer.has_next = false;
        self.index.write().segments.push_back(writer.active.clone());
        Ok(())
    }

    fn sync_frame(&self, writer: &mut Writer) -> io::Result<()> {
        if writer.effects.is_empty() {
            return Ok(());
        }
        if writer.end + segment::padded(writer.frame.len()) as u64 > writer.active.len {
            self.rotate(writer)?;
        }
        segment::seal(&mut writer.frame, writer.active.seq, writer.end);
        writer.active.write(&writer.frame, writer.end)?;
        writer.active.sync()?;
        let unused = {
            let mut index = self.index.write();
            for mut effect in writer.effects.drain(..) {
                if let Effect::Entry { place, .. } = &mut effect {
                    place.segment = writer.active.seq;
                    place.at += writer.end;
                }
                index.apply(effect)?;
            }
            index.unused()
        };
        writer.end += writer.frame.len() as u64;
        writer.frame.truncate(segment::FRAME_HEAD_LEN);
        writer.frame.shrink_to(FRAME_LEN_MAX / 4);
        for segment in unused {
            // A reader that still has it must not read the bytes of a later segment.
            let reusable = segment.len == self.segment_len && Arc::strong_count(&segment) == 1;
            segment.remove(&self.dir, reusable)?;
        }
        let half_full = writer.end > writer.active.len / 2;
        if half_full && !writer.has_next {
            writer.has_next = true;
            let (dir, len) = (self.dir.clone(), self.segment_len);
            if !segment::spares(&dir, len)?.is_empty() {
                return Ok(());
            }
            let prepare = move || segment::prepare_spare(&dir, len);
            let thread = thread::Builder::new().name("maxine-raft-spare".to_owned());
            writer.preparing = Some(thread.spawn(prepare)?);
        }
        Ok(())
    }

    fn put(&self, op: Op<'_>, effect: Effect) -> io::Result<()> {
        let mut writer = self.writer.lock();
        op.put(&mut writer.frame);
        writer.effects.push(effect);
        Ok(())
    }
}

impl Drop for WalEngine {
    fn drop(&mut self) {
        if let Some(preparing) = self.writer.lock().preparing.take() {
            // The next start removes unfinished files, so the thread must have ended before. If creating the
            // file failed, the next start reports the error.
            let _ = preparing.join();
        }
    }
}

/// The numbers of the segments in `dir`, in order. Removes what a crash left unfinished.
fn existing(dir: &Path) -> io::Result<Vec<u64>> {
    let mut seqs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(seq) = Segment::seq_of(&name) {
            seqs.push(seq);
        } else if name.ends_with(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    seqs.sort_unstable();
    Ok(seqs)
}

/// Begins segment `seq` with all known values, so that earlier segments can be removed.
fn start_segment(
    dir: &Path,
    seq: u64,
    usual_len: u64,
    more: usize,
    previous_end: u64,
    index: &Index,
) -> io::Result<(Arc<Segment>, u64)> {
    let (segment, end) = Segment::create(dir, seq, usual_len, more, |len| {
        let mut frame = segment::new_frame();
        Op::Start { len, previous_end }.put(&mut frame);
        for key in [MetaKey::Vote, MetaKey::Committed, MetaKey::Purged] {
            if let Some(value) = &index.metas[slot(key)] {
                Op::Meta { key, value }.put(&mut frame);
            }
        }
        frame
    })?;
    Ok((Arc::new(segment), end))
}

/// Applies the content of a segment and returns where it ends. `previous_end` is the end of the previous
/// segment, if there is one.
fn replay(
    index: &mut Index,
    segment: &Segment,
    bytes: &[u8],
    previous_end: Option<u64>,
) -> io::Result<u64> {
    let seq = segment.seq;
    let (frames, end) = segment::frames(bytes, seq)?;
    let mut started = false;
    for (at, body) in frames {
        for (offset, op) in segment::ops(body)? {
            let effect = match op {
                Op::Start { len, previous_end: expected } => {
                    if len != segment.len {
                        return Err(damaged(format!(
                            "segment {seq} of the log has {} bytes, not {len}",
                            segment.len
                        )));
                    }
                    if previous_end.is_some_and(|end| end != expected) {
                        return Err(damaged(format!(
                            "segment {} of the log ends at byte {}, not {expected}",
                            seq - 1,
                            previous_end.unwrap_or_default()
                        )));
                    }
                    started = true;
                    continue;
                }
                Op::Entry { index, term, bytes } => {
                    let place = Place { segment: seq, ..place_of(at + offset as u64, term, bytes) };
                    Effect::Entry { index, place }
                }
                Op::Meta { key, value } => Effect::Meta { key, value: value.to_vec() },
                Op::Truncate { from } => Effect::Truncate { from },
                Op::Purge { upto } => Effect::Purge { upto },
            };
            index.apply(effect)?;
        }
    }
    if !started {
        return Err(damaged(format!("segment {seq} of the log has lost its start")));
    }
    Ok(end)
}

fn place_of(at: u64, term: u64, bytes: &[u8]) -> Place {
    let len = u32::try_from(bytes.len()).expect("an entry is bounded by payload_len_max");
    Place { segment: 0, at, term, len, sum: crc32c::crc32c(bytes) }
}

/// Entries that one read fetches, because they are close together in one segment.
struct Run {
    segment: Arc<Segment>,
    entries: Vec<(u64, Place)>,
}

impl Run {
    fn end(&self) -> u64 {
        self.entries.last().map_or(0, |(_, place)| place.at + u64::from(place.len))
    }

    fn read(&self, records: &mut Vec<Record>) -> io::Result<()> {
        let start = self.entries.first().map_or(0, |(_, place)| place.at);
        let span = usize::try_from(self.end() - start).map_err(io::Error::other)?;
        let bytes = self.segment.read(start, span)?;
        for (index, place) in &self.entries {
            let from = usize::try_from(place.at - start).map_err(io::Error::other)?;
            let bytes = bytes[from..from + place.len as usize].to_vec();
            if crc32c::crc32c(&bytes) != place.sum {
                return Err(damaged(format!(
                    "log entry {index} fails its checksum: the disk or the file is damaged"
                )));
            }
            records.push(Record { index: *index, term: place.term, bytes });
        }
        Ok(())
    }
}

impl LogEngine for WalEngine {
    fn append(&self, records: &[Record]) -> io::Result<()> {
        let mut writer = self.writer.lock();
        for Record { index, term, bytes } in records {
            Op::Entry { index: *index, term: *term, bytes }.put(&mut writer.frame);
            // It is in the frame for now. Its position is known when the frame is written.
            let at = (writer.frame.len() - bytes.len()) as u64;
            let place = place_of(at, *term, bytes);
            writer.effects.push(Effect::Entry { index: *index, place });
            if writer.frame.len() >= FRAME_LEN_MAX {
                self.sync_frame(&mut writer)?;
            }
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>> {
        let mut runs: Vec<Run> = Vec::new();
        {
            let index = self.index.read();
            let mut bytes = 0;
            for at in range.start.max(index.first)..range.end.min(index.next()) {
                let nth = usize::try_from(at - index.first).map_err(io::Error::other)?;
                let place = index.entries[nth];
                match runs.last_mut() {
                    Some(run)
                        if run.segment.seq == place.segment
                            && (run.end()..=run.end() + READ_OVER).contains(&place.at) =>
                    {
                        run.entries.push((at, place));
                    }
                    _ => {
                        let segment = index.segment(place.segment)?.clone();
                        runs.push(Run { segment, entries: vec![(at, place)] });
                    }
                }
                bytes += place.len as usize;
                if bytes >= bytes_max {
                    break;
                }
            }
        }
        let mut records = Vec::new();
        for run in &runs {
            run.read(&mut records)?;
        }
        Ok(records)
    }

    fn last(&self) -> io::Result<Option<Record>> {
        let next = self.index.read().next();
        Ok(self.read(next.saturating_sub(1)..next, usize::MAX)?.pop())
    }

    fn get_meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>> {
        Ok(self.index.read().metas[slot(key)].clone())
    }

    fn put_meta(&self, key: MetaKey, value: &[u8]) -> io::Result<()> {
        self.put(Op::Meta { key, value }, Effect::Meta { key, value: value.to_vec() })
    }

    fn truncate_from(&self, index: u64) -> io::Result<()> {
        self.put(Op::Truncate { from: index }, Effect::Truncate { from: index })
    }

    fn purge_upto(&self, index: u64) -> io::Result<()> {
        self.put(Op::Purge { upto: index }, Effect::Purge { upto: index })
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_frame(&mut self.writer.lock())
    }

    fn disk_bytes(&self) -> u64 {
        self.index.read().segments.iter().map(|segment| segment.len).sum()
    }
}
