//! Notices that a log file no longer has what this node has read and written.
//!
//! A part of the file is read at each check, so that a check is short. The caller repairs what is found.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::{LogError, LogFile};

/// Length of the part of the file that one check reads, in bytes.
const CHECK_LEN: usize = 1024 * 1024;
/// Pause between two checks, in milliseconds.
pub(in super::super) const CHECK_MS: u64 = 1_000;
/// Pause between two checks of the whole file, in milliseconds.
const WHOLE_CHECK_MS: u64 = 10_000;

/// What is needed to notice that the file no longer has what was read or written.
#[derive(Debug)]
pub(super) struct Check {
    /// The checksum over the file up to [`LogFile::end`].
    pub(super) sum: u32,
    /// How far the present check has read, and the checksum up to there.
    so_far: (u64, u32),
    /// When the file was last changed, as far as this node knows.
    changed: ChangeTime,
    /// Whether something else has changed the file since.
    is_touched: bool,
    /// When the whole file may be checked at once again, in milliseconds.
    whole_due_ms: u64,
}

impl Check {
    pub(super) fn new(sum: u32, changed: ChangeTime) -> Self {
        Self { sum, so_far: (0, 0), changed, is_touched: false, whole_due_ms: 0 }
    }
}

/// The times of change that the storage gives to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChangeTime([i64; 4]);

impl ChangeTime {
    pub(super) fn of(there: &fs::Metadata) -> Self {
        Self([there.mtime(), there.mtime_nsec(), there.ctime(), there.ctime_nsec()])
    }
}

impl LogFile {
    /// Records that something else has written to the file, if its times of change say so. If the file is longer
    /// than what this node has read, another node has appended entries, and the times say nothing.
    pub(super) fn note_touched(&mut self, there: &fs::Metadata) {
        if there.len() == self.end && ChangeTime::of(there) != self.check.changed {
            self.check.is_touched = true;
        }
    }

    /// Records that this node has just read or written the end of the file.
    pub(super) fn note_changed(&mut self) -> io::Result<()> {
        self.check.changed = ChangeTime::of(&self.file.metadata()?);
        Ok(())
    }

    /// Compares a part of the file with what was read and written, and the whole file at once if something else has
    /// written to it. Returns whether it is the same, as far as was read. The caller calls this every
    /// [`CHECK_MS`], at `now_ms`.
    pub(in super::super) fn check(&mut self, now_ms: u64) -> Result<bool, LogError> {
        let fail = |error| LogError::Io(self.path.clone(), error);
        let there = self.file.metadata().map_err(fail)?;
        self.note_touched(&there);
        if self.check.is_touched && now_ms >= self.check.whole_due_ms {
            self.check.whole_due_ms = now_ms + WHOLE_CHECK_MS;
            let is_same = self.check_whole()?;
            if is_same {
                self.check.is_touched = false;
                self.check.changed = ChangeTime::of(&there);
            }
            return Ok(is_same);
        }
        self.check_part()
    }

    /// Compares the whole file with what was read and written.
    pub(in super::super) fn check_whole(&mut self) -> Result<bool, LogError> {
        self.check.so_far = (0, 0);
        loop {
            let is_same = self.check_part()?;
            if !is_same || self.check.so_far.0 == 0 {
                return Ok(is_same);
            }
        }
    }

    /// Reads the next part of the file. At the end of what was read and written, compares the checksums and
    /// begins again.
    fn check_part(&mut self) -> Result<bool, LogError> {
        let (at, sum) = self.check.so_far;
        let left = usize::try_from(self.end - at).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(CHECK_LEN)];
        match self.file.read_exact_at(&mut bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read.map_err(|error| LogError::Io(self.path.clone(), error))?,
        }
        let (at, sum) = (at + bytes.len() as u64, crc32c::crc32c_append(sum, &bytes));
        if at < self.end {
            self.check.so_far = (at, sum);
            return Ok(true);
        }
        self.check.so_far = (0, 0);
        Ok(sum == self.check.sum)
    }

    /// The damage that [`Self::check`] found.
    pub(in super::super) fn damage(&self) -> LogError {
        let what = String::from("it does not have what this node has read and written");
        LogError::Damaged { path: self.path.clone(), at: None, what }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HEADER_LEN, Place};
    use super::*;
    use maxine_state::ControlState;

    /// The times of change of the file say nothing here, as after a write in the same tick of the storage's clock.
    #[test]
    fn a_byte_that_another_program_flips_is_found_by_reading_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::create(&path, &ControlState::default(), Place::start()).unwrap();
        let entry = vec![7; CHECK_LEN];
        for _ in 0..3 {
            log.append(&[&entry], false).unwrap();
        }
        let mut reader = LogFile::open(&path).unwrap().unwrap().0;
        reader.read_new().unwrap();
        for log in [&mut log, &mut reader] {
            assert!(log.check_whole().unwrap());
            let len = log.file.metadata().unwrap().len();
            for at in [0, HEADER_LEN as u64 + 1, len / 2, len - 1] {
                let mut byte = [0];
                log.file.read_exact_at(&mut byte, at).unwrap();
                let flip = |byte: u8| log.file.write_all_at(&[byte], at).unwrap();
                flip(byte[0] ^ 0x10);
                log.check.changed = ChangeTime::of(&log.file.metadata().unwrap());
                let parts = usize::try_from(len).unwrap().div_ceil(CHECK_LEN);
                let found = (0..parts).filter(|_| !log.check(0).unwrap()).count();
                assert_eq!((found, log.check.is_touched), (1, false), "flipped at {at}");
                log.file.write_all_at(&byte, at).unwrap();
                log.check.changed = ChangeTime::of(&log.file.metadata().unwrap());
                assert!(log.check_whole().unwrap());
            }
        }
    }

    /// If the times of change say that something else has written, one check reads the whole file.
    #[test]
    fn a_file_that_something_else_has_changed_is_checked_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::create(&path, &ControlState::default(), Place::start()).unwrap();
        let entry = vec![7; 3 * CHECK_LEN];
        log.append(&[&entry], false).unwrap();
        let later =
            log.file.metadata().unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
        log.file.set_modified(later).unwrap();
        assert!(log.check(0).unwrap(), "nothing was changed but its time");
        assert!(!log.check.is_touched);
        log.file.write_all_at(&[9], log.end - 1).unwrap();
        log.file.set_modified(later + std::time::Duration::from_secs(1)).unwrap();
        assert!(log.is_current().unwrap());
        // The append gives the file another time.
        log.append(&[b"more"], false).unwrap();
        assert!(!log.check(WHOLE_CHECK_MS).unwrap());
    }
}
