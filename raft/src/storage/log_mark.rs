//! A small file beside the engine that stores how far the log was durable.
//!
//! If an engine lost its tail to a damaged file, it may open with a shorter log and without an error.
//! Acknowledged entries would be lost silently. The mark is written after each sync, without a sync of its
//! own. So after a power failure it may be behind the log, but never ahead of it. Before a truncation it is
//! lowered durably. A log that ends before its mark is refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{damaged, sync_dir};
use crate::codec::{self, LogIdDto, LogMark, LogMarkDto, VoteDto};

const SLOT_LEN: usize = 128;

pub(crate) struct LogMarkFile {
    file: File,
    mark: LogMarkDto,
}

impl LogMarkFile {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("log.mark");
        let exists = path.exists();
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = maxine_files::open_own(&path, &mut options)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if !exists {
            sync_dir(dir)?;
        }
        Ok(Self { file, mark: parse(&bytes).unwrap_or_default() })
    }

    /// Compares the content of the engine with the mark.
    pub(crate) fn verify(&self, last: Option<LogIdDto>, vote: Option<VoteDto>) -> io::Result<()> {
        let index = |id: Option<LogIdDto>| id.map_or(0, |id| id.index + 1);
        if index(last) < index(self.mark.last) {
            return Err(damaged(format!(
                "the log ends at {} but was durable up to {}: the engine lost its tail",
                last.map_or_else(|| "nothing".to_owned(), |id| format!("index {}", id.index)),
                index(self.mark.last) - 1,
            )));
        }
        let stored = vote.map_or((0, 0), |vote| (vote.term, vote.node));
        if stored < (self.mark.vote_term, self.mark.vote_node) {
            return Err(damaged(format!(
                "the vote in the log is for term {} but one for term {} was durable: the engine lost it",
                stored.0, self.mark.vote_term
            )));
        }
        Ok(())
    }

    /// Writes a new durable end, without a sync.
    pub(crate) fn advance(
        &mut self,
        last: Option<LogIdDto>,
        vote: Option<VoteDto>,
    ) -> io::Result<()> {
        let mut mark = self.mark;
        mark.last = last;
        if let Some(vote) = vote {
            (mark.vote_term, mark.vote_node) = (vote.term, vote.node);
        }
        self.write(mark)
    }

    /// Lowers the mark durably, before the log is truncated to `last`.
    pub(crate) fn lower(&mut self, last: Option<LogIdDto>) -> io::Result<()> {
        self.write(LogMarkDto { last, ..self.mark })?;
        self.file.sync_data()
    }

    fn write(&mut self, mark: LogMarkDto) -> io::Result<()> {
        if mark == self.mark {
            return Ok(());
        }
        self.file.write_all_at(&render(mark), 0)?;
        self.mark = mark;
        Ok(())
    }
}

pub(super) fn render(mark: LogMarkDto) -> [u8; SLOT_LEN] {
    let body = codec::encode(&LogMark::V1(mark));
    let mut slot = [0; SLOT_LEN];
    slot[0] = u8::try_from(body.len())
        .expect("a mark is four numbers and an envelope, far below 120 bytes");
    slot[1..5].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    slot[5..5 + body.len()].copy_from_slice(&body);
    slot
}

/// A torn or empty slot counts as no mark. That only weakens the check.
pub(super) fn parse(slot: &[u8]) -> Option<LogMarkDto> {
    let len = usize::from(*slot.first()?);
    let sum = u32::from_le_bytes(slot.get(1..5)?.try_into().ok()?);
    let body = slot.get(5..5 + len)?;
    if crc32c::crc32c(body) != sum {
        return None;
    }
    let LogMark::V1(mark) = codec::decode(body).ok()?;
    Some(mark)
}
