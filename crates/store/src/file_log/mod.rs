//! A log of commands in one file, which begins with the state before the first entry.
//!
//! Place in the flow: the local mode and the shared-file mode append to it and read it, each from one thread.
//! The caller must hold the lock while it writes. All calls block.
//!
//! The format is `header | state | frames`. A compaction writes a new file that begins with the present
//! state, and renames it over the old one. The lineage stays the same, so a reader knows that it is the same
//! log.

mod check;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) use self::check::CHECK_MS;
use self::check::{ChangeTime, Check};
use self::frame::FrameRead;
use super::OpenError;
use maxine_state::ControlState;

const MAGIC: [u8; 8] = *b"MAXINELG";
const FORMAT_VERSION: u32 = 1;
const HEADER_LEN: usize = 64;

/// Why a log file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// The disk failed, or the permissions of the file do not allow it.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The disk takes no data, and the log is as it was before.
    #[error("{0}: {1}")]
    NotWritten(PathBuf, io::Error),
    /// The content is not what was written.
    #[error(
        "{} is damaged{}: {what}; see docs/operations/disk-corrupt.md",
        path.display(),
        at.map(|at| format!(" at byte {at}")).unwrap_or_default()
    )]
    Damaged {
        /// The path of the file.
        path: PathBuf,
        /// The position of the damage, in bytes, if it is known.
        at: Option<u64>,
        /// The kind of damage.
        what: String,
    },
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io(..) | LogError::NotWritten(..) => Self::Io(error.to_string()),
            LogError::Damaged { .. } => Self::Damaged(error.to_string()),
        }
    }
}

/// New entries in the file.
#[derive(Debug, Default)]
pub(super) struct NewEntries {
    /// The entries, in order.
    pub(super) entries: Vec<Vec<u8>>,
    /// For each frame, the number of entries in the log after it, and the chain.
    pub(super) places: Vec<(u64, u32)>,
    /// Length of their frames, in bytes.
    len: u64,
    /// The checksum over the file up to their end.
    sum: u32,
    /// Whether the last frame is incomplete because its writer died.
    pub(super) torn: bool,
}

/// An open log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Identifies the log through all compactions.
    lineage: u64,
    /// The number of entries that the first state of the file replaces, and their chain.
    front: (u64, u32),
    base_len: u64,
    /// Number of entries up to the present position, including those that the first state of the file replaces.
    seq: u64,
    /// Position of the next frame.
    end: u64,
    /// The checksum over all bodies so far.
    chain: u32,
    check: Check,
}

/// A position in a log: the log, the number of entries, and the checksum over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Identifies the log through all compactions.
    pub(super) lineage: u64,
    /// Number of entries.
    pub(super) seq: u64,
    /// Checksum over these entries.
    pub(super) chain: u32,
}

impl Place {
    /// The first position of a new log.
    pub(super) fn start() -> Self {
        Self { lineage: rand::random(), seq: 0, chain: 0 }
    }
}

impl LogFile {
    /// Opens the log at `path` and reads the state at its beginning. [`Self::read_new`] reads the entries.
    /// `None` if there is no file.
    pub(super) fn open(path: &Path) -> Result<Option<(Self, ControlState)>, LogError> {
        let opened = maxine_files::open(OpenOptions::new().read(true).write(true), path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::Io(path.into(), error)),
        };
        let fail = |error| LogError::Io(path.into(), error);
        let damaged =
            |what: &str| LogError::Damaged { path: path.into(), at: Some(0), what: what.into() };
        let mut header = [0; HEADER_LEN];
        file.read_exact(&mut header).map_err(|_| damaged("the header is incomplete"))?;
        let number = |from: usize| {
            let bytes = header[from..from + 8].try_into().expect("eight bytes of the header");
            u64::from_le_bytes(bytes)
        };
        if header[..8] != MAGIC {
            return Err(damaged("it is not a log of Maxine's"));
        }
        if number(56) != u64::from(crc32c::crc32c(&header[..56])) {
            return Err(damaged("the header's checksum is wrong"));
        }
        if number(8) != u64::from(FORMAT_VERSION) {
            return Err(damaged("it has a format that this build does not read"));
        }
        let (lineage, base, base_len, base_sum) = (number(16), number(24), number(32), number(40));
        let chain = u32::try_from(number(48)).map_err(|_| damaged("the chain is not one"))?;
        let mut bytes = Vec::new();
        (&file).take(base_len).read_to_end(&mut bytes).map_err(fail)?;
        let sound = bytes.len() as u64 == base_len && u64::from(crc32c::crc32c(&bytes)) == base_sum;
        if !sound {
            return Err(damaged("the state in front is not whole"));
        }
        let state = ControlState::read_from(&mut bytes.as_slice())
            .map_err(|error| damaged(&error.to_string()))?;
        let end = HEADER_LEN as u64 + base_len;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&header), &bytes);
        let check = Check::new(sum, ChangeTime::of(&file.metadata().map_err(fail)?));
        let (path, front) = (path.to_path_buf(), (base, chain));
        Ok(Some((
            Self { path, file, lineage, front, base_len, seq: base, end, chain, check },
            state,
        )))
    }

    /// Writes a new log that begins with `state`. It replaces any file at `path`. Returns when it is durable.
    pub(super) fn create(
        path: &Path,
        state: &ControlState,
        place: Place,
    ) -> Result<Self, LogError> {
        let Place { lineage, seq, chain } = place;
        let fail = |error| LogError::Io(path.into(), error);
        let mut bytes = Vec::new();
        state.write_to(&mut bytes).map_err(fail)?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(&MAGIC);
        let sum = u64::from(crc32c::crc32c(&bytes));
        let len = bytes.len() as u64;
        for number in [FORMAT_VERSION.into(), lineage, seq, len, sum, chain.into()] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        let header_sum = u64::from(crc32c::crc32c(&header));
        header.extend_from_slice(&header_sum.to_le_bytes());
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let temporary = PathBuf::from(name);
        let written = (|| {
            let mut file = create_new(&temporary)?;
            file.write_all(&header)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(directory)?.sync_all()?;
            let changed = ChangeTime::of(&file.metadata()?);
            Ok((file, changed))
        })();
        let (file, changed) =
            written.inspect_err(|_| drop(fs::remove_file(&temporary))).map_err(fail)?;
        let base_len = bytes.len() as u64;
        let end = HEADER_LEN as u64 + base_len;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&header), &bytes);
        Ok(Self {
            path: path.into(),
            file,
            lineage,
            front: (seq, chain),
            base_len,
            seq,
            end,
            chain,
            check: Check::new(sum, changed),
        })
    }

    /// The position up to which the log was read or written.
    pub(super) fn place(&self) -> Place {
        Place { lineage: self.lineage, seq: self.seq, chain: self.chain }
    }

    /// The number of entries before the first one in the file, and their chain.
    pub(super) fn front(&self) -> (u64, u32) {
        self.front
    }

    /// Length of the entries in the file, in bytes.
    pub(super) fn entries_len(&self) -> u64 {
        self.end - self.base_len - HEADER_LEN as u64
    }

    /// Length of the state at the beginning, in bytes.
    pub(super) fn base_len(&self) -> u64 {
        self.base_len
    }

    /// Whether the path now has another file, or this file has another length than was read.
    pub(super) fn has_changed(&self) -> Result<bool, LogError> {
        let fail = |error| LogError::Io(self.path.clone(), error);
        match fs::metadata(&self.path) {
            Ok(there) => Ok(there.len() != self.end || !self.is_same(&there).map_err(fail)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(fail(error)),
        }
    }

    /// Whether the path still has this file, and the file still has at least the length that was read.
    pub(super) fn is_current(&mut self) -> Result<bool, LogError> {
        let fail = |error| LogError::Io(self.path.clone(), error);
        match fs::metadata(&self.path) {
            Ok(there) => {
                let is_same = self.is_same(&there).map_err(fail)?;
                if is_same {
                    self.note_touched(&there);
                }
                Ok(is_same && there.len() >= self.end)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fail(error)),
        }
    }

    fn is_same(&self, there: &fs::Metadata) -> io::Result<bool> {
        let here = self.file.metadata()?;
        Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
    }

    /// Reads the entries after those that were read before. After an error, none of them counts as read.
    pub(super) fn read_new(&mut self) -> Result<NewEntries, LogError> {
        let (news, damage) = self.read()?;
        match damage {
            None => self.count(news),
            Some(what) => {
                let end = self.end + news.len;
                Err(LogError::Damaged { path: self.path.clone(), at: Some(end), what })
            }
        }
    }

    /// Reads the complete frames before the damage that [`Self::read_new`] reported.
    pub(super) fn read_before_damage(&mut self) -> Result<NewEntries, LogError> {
        let (news, _) = self.read()?;
        self.count(news)
    }

    /// Moves the position to the end of `news`.
    fn count(&mut self, news: NewEntries) -> Result<NewEntries, LogError> {
        if let Some((seq, chain)) = news.places.last() {
            (self.seq, self.chain, self.check.sum) = (*seq, *chain, news.sum);
            self.end += news.len;
            self.note_changed().map_err(|error| LogError::Io(self.path.clone(), error))?;
        }
        Ok(news)
    }

    /// Reads the complete frames after the present position, and says what is wrong after them.
    fn read(&self) -> Result<(NewEntries, Option<String>), LogError> {
        let fail = |error| LogError::Io(self.path.clone(), error);
        let mut bytes = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.end)).map_err(fail)?;
        file.read_to_end(&mut bytes).map_err(fail)?;
        let mut news = NewEntries { sum: self.check.sum, ..NewEntries::default() };
        let mut rest = bytes.as_slice();
        let (mut seq, mut so_far) = (self.seq, self.chain);
        loop {
            match frame::read(rest) {
                FrameRead::End => return Ok((news, None)),
                FrameRead::Torn => {
                    news.torn = true;
                    return Ok((news, None));
                }
                FrameRead::Damaged => {
                    let what = "a checksum is wrong and whole frames follow";
                    return Ok((news, Some(String::from(what))));
                }
                FrameRead::Frame { first, entries, len, chain } => {
                    let body = rest.get(len - frame::body_len(&entries)..len).unwrap_or_default();
                    if crc32c::crc32c_append(so_far, body) != chain {
                        let what = "a frame does not follow on those before it";
                        return Ok((news, Some(String::from(what))));
                    }
                    if first != seq + 1 {
                        let what = format!("entry {first} is at the position of entry {}", seq + 1);
                        return Ok((news, Some(what)));
                    }
                    seq += entries.len() as u64;
                    so_far = chain;
                    news.len += len as u64;
                    news.sum = crc32c::crc32c_append(news.sum, &rest[..len]);
                    news.places.push((seq, chain));
                    news.entries.extend(entries);
                    rest = &rest[len..];
                }
            }
        }
    }

    /// Removes what follows the last complete frame. Returns the number of removed bytes.
    pub(super) fn cut_torn_tail(&mut self) -> Result<u64, LogError> {
        let fail = |error| LogError::Io(self.path.clone(), error);
        let len = self.file.metadata().map_err(fail)?.len();
        self.file.set_len(self.end).map_err(fail)?;
        self.file.sync_all().map_err(fail)?;
        self.note_changed().map_err(|error| LogError::Io(self.path.clone(), error))?;
        Ok(len.saturating_sub(self.end))
    }

    /// Appends entries and returns when they are durable. Without `sync` it returns when the operating system
    /// has them. After [`LogError::NotWritten`] the log has none of the entries, and no reader can have seen
    /// them. After any other error, this process must not write to the file again.
    pub(super) fn append(&mut self, entries: &[&[u8]], sync: bool) -> Result<(), LogError> {
        let (frame, chain) = frame::encode(self.seq + 1, self.chain, entries);
        let written = self
            .file
            .write_all_at(&frame, self.end)
            .and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Cutting the file syncs it too. So the file then durably ends with the entries before.
            let is_undone = is_refusal(&error) && self.cut_torn_tail().is_ok();
            let path = self.path.clone();
            return Err(match is_undone {
                true => LogError::NotWritten(path, error),
                false => LogError::Io(path, error),
            });
        }
        self.seq += entries.len() as u64;
        self.end += frame.len() as u64;
        self.chain = chain;
        self.check.sum = crc32c::crc32c_append(self.check.sum, &frame);
        // If the times cannot be read, the next check reads the whole file.
        if let Err(error) = self.note_changed() {
            tracing::warn!(path = %self.path.display(), %error, "the log's times of change");
        }
        Ok(())
    }
}

/// Keeps a copy of a damaged log, with the suffix `.damaged`. It replaces an earlier one. Returns its path.
pub(super) fn keep_damaged(path: &Path) -> Result<PathBuf, LogError> {
    let aside = beside(path, ".damaged");
    let damaged = maxine_files::open(OpenOptions::new().read(true), path);
    let mut damaged = damaged.map_err(|error| LogError::Io(path.into(), error))?;
    match create_new(&aside).and_then(|mut kept| io::copy(&mut damaged, &mut kept)) {
        Ok(_) => Ok(aside),
        Err(error) => Err(LogError::Io(aside, error)),
    }
}

/// Whether the error says that the disk takes no data now, although it works: it is full or read-only.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem)
}

/// Maximum number of bytes of entries in one frame.
pub(super) const GROUP_LEN_MAX: usize = frame::BODY_LEN_MAX / 2;

/// Locks a file next to the log for this process. `None` if another process has the lock. A link at the path is
/// refused, and nothing is created through it.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>, LogError> {
    let fail = |error| LogError::Io(path.into(), error);
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(fail)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let file = match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            maxine_files::open_own(&options, path).map_err(fail)?
        }
        created => created.map_err(fail)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(fail(error)),
    }
}

/// Whether another process has the lock. Creates no file.
pub(super) fn is_locked(path: &Path) -> Result<bool, LogError> {
    let fail = |error| LogError::Io(path.into(), error);
    let file = match maxine_files::open_own(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(fail(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(error)) => Err(fail(error)),
    }
}

/// Creates a file that only this user can read, and replaces whatever is at the path. A link at the path is
/// removed and not followed, because it could lead to another program's file.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Reads a short file. `None` if the path has no regular file of at most `len_max` bytes.
pub(super) fn read_short(path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let is_short_file = |there: fs::Metadata| there.is_file() && there.len() <= len_max;
    let read = || -> io::Result<Option<Vec<u8>>> {
        if !is_short_file(fs::symlink_metadata(path)?) {
            return Ok(None);
        }
        let file = maxine_files::open_own(OpenOptions::new().read(true), path)?;
        let mut bytes = Vec::new();
        file.take(len_max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// The path with a suffix at its end.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_not_made_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("log.lock"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let refused = try_lock(&path).unwrap_err();
        assert!(refused.to_string().contains("it is a symbolic link"), "{refused}");
        assert!(!elsewhere.exists(), "nothing is created where the link leads");
        fs::write(&elsewhere, "precious").unwrap();
        assert!(try_lock(&path).is_err());
        fs::remove_file(&path).unwrap();
        let held = try_lock(&path).unwrap();
        assert!(held.is_some() && try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some(), "a file that exists is locked again");
    }

    /// Runs something that must not wait for a pipe.
    fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(work()));
        done.recv_timeout(std::time::Duration::from_secs(10)).expect("it does not wait")
    }

    #[test]
    fn a_pipe_in_place_of_a_file_is_an_error_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let at = path.clone();
        let errors = in_time(move || {
            [
                LogFile::open(&at).map(drop),
                keep_damaged(&at).map(drop),
                try_lock(&at).map(drop),
                is_locked(&at).map(drop),
            ]
        });
        for error in errors {
            let text = error.unwrap_err().to_string();
            assert_eq!(text, format!("{}: it is not a regular file", path.display()));
        }
        let at = path.clone();
        assert_eq!(in_time(move || read_short(&at, 10)).unwrap(), None);
    }

    #[test]
    fn a_link_to_a_log_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, log) = (dir.path().join("link"), dir.path().join("log"));
        LogFile::create(&log, &ControlState::default(), Place::start()).unwrap();
        std::os::unix::fs::symlink(&log, &path).unwrap();
        assert!(LogFile::open(&path).unwrap().is_some());
    }
}
