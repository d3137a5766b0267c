//! Rotates log files: the newest is written to, and the oldest is removed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Number of bytes that are written to the operating system together.
const BUFFER_LEN: usize = 64 * 1024;

/// A log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its name within the log directory; never a path.
    pub name: String,
    /// The path of the file.
    pub path: PathBuf,
}

/// The file that is written to, for example `name.log`, and older ones: `name.1.log` and higher numbers, the
/// highest being the oldest. Together they are at most as long as one file may be, times their number.
pub struct LogFiles {
    /// The file that is written to.
    path: PathBuf,
    len_max: u64,
    files_max: usize,
    /// Whether only the owner of the files may read them.
    is_private: bool,
    current: BufWriter<File>,
    len: u64,
    failed: bool,
}

impl LogFiles {
    /// Opens the file, and creates its directory if it does not exist. The file is continued. `len_max` is the length
    /// at which a file is closed, in bytes, and `files_max` the number of files that are kept, the open one included.
    ///
    /// # Errors
    ///
    /// The directory or the file cannot be created or written, or the file is a symbolic link.
    pub fn open(path: &Path, len_max: u64, files_max: usize) -> io::Result<Self> {
        Self::open_as(path, len_max, files_max, false)
    }

    /// The same for files that only their owner may read. An existing file gets this mode too.
    pub(crate) fn open_private(path: &Path, len_max: u64, files_max: usize) -> io::Result<Self> {
        Self::open_as(path, len_max, files_max, true)
    }

    fn open_as(path: &Path, len_max: u64, files_max: usize, is_private: bool) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let (current, len) = open_current(path, is_private)?;
        let (path, files_max) = (path.to_owned(), files_max.max(1));
        Ok(Self { path, len_max, files_max, is_private, current, len, failed: false })
    }

    fn path(&self, number: usize) -> PathBuf {
        let name = |part: Option<&OsStr>| part.unwrap_or_default().to_os_string();
        if number == 0 {
            return self.path.clone();
        }
        let mut numbered = name(self.path.file_stem());
        numbered.push(format!(".{number}"));
        if let Some(extension) = self.path.extension() {
            numbered.push(".");
            numbered.push(extension);
        }
        self.path.with_file_name(numbered)
    }

    /// Writes a line. If writing fails, the failure is reported once, until writing works again.
    pub fn write_line(&mut self, line: &[u8]) {
        let len = line.len() as u64 + 1;
        let mut result = Ok(());
        if self.len > 0 && self.len + len > self.len_max {
            result = self.rotate();
        }
        let result = result
            .and_then(|()| self.current.write_all(line))
            .and_then(|()| self.current.write_all(b"\n"));
        self.len += len;
        self.report(result);
    }

    /// Passes the buffer to the operating system; with `sync`, also to the disk.
    pub fn flush(&mut self, sync: bool) {
        let mut result = self.current.flush();
        if sync {
            result = result.and_then(|()| self.current.get_ref().sync_data());
        }
        self.report(result);
    }

    /// Writes lines, each with its line end, and returns when the disk has them. After an error, some of the lines may
    /// be written, and the file ends with a whole one. Must not be mixed with [`Self::write_line`].
    pub(crate) fn append_synced(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        for line in lines {
            let len = line.len() as u64;
            if self.len > 0 && self.len + len > self.len_max {
                self.current.get_ref().sync_data()?;
                self.rotate()?;
            }
            let file = self.current.get_mut();
            if let Err(error) = file.write_all(line) {
                file.set_len(self.len)?;
                return Err(error);
            }
            self.len += len;
        }
        self.current.get_ref().sync_data()?;
        // The names of new files must be on the disk too.
        match self.path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    fn report(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::error!(%error, "a line could not be written to a log file");
            }
            Err(_) => {}
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.current.flush()?;
        for number in (1..self.files_max).rev() {
            let from = self.path(number - 1);
            if from.exists() {
                fs::rename(from, self.path(number))?;
            }
        }
        if self.files_max == 1 {
            fs::remove_file(self.path(0))?;
        }
        (self.current, self.len) = open_current(&self.path(0), self.is_private)?;
        Ok(())
    }

    /// The existing files, newest first.
    pub(super) fn list(&mut self) -> Vec<LogFile> {
        self.flush(false);
        (0..self.files_max)
            .map(|number| self.path(number))
            .filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_file()))
            .filter_map(|path| Some(LogFile { name: path.file_name()?.to_str()?.into(), path }))
            .collect()
    }
}

fn open_current(path: &Path, is_private: bool) -> io::Result<(BufWriter<File>, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    if is_private {
        options.mode(0o600);
    }
    let file = maxine_files::open_own(path, &mut options)?;
    if is_private {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    let len = file.metadata()?.len();
    Ok((BufWriter::with_capacity(BUFFER_LEN, file), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_take_turns_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("maxine-requests.log");
        let mut files = LogFiles::open(&path, 20, 3).unwrap();
        for n in 0..9 {
            files.write_line(format!("line {n} ...").as_bytes());
        }
        let names: Vec<String> = files.list().into_iter().map(|file| file.name).collect();
        assert_eq!(
            names,
            ["maxine-requests.log", "maxine-requests.1.log", "maxine-requests.2.log"]
        );
        let text = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(text("maxine-requests.log"), "line 8 ...\n");
        assert_eq!(text("maxine-requests.2.log"), "line 6 ...\n");
    }

    /// Regression: a link in the directory of the logs led to another program's file.
    #[test]
    fn a_link_in_place_of_a_log_file_is_neither_written_nor_listed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("x.log"), directory.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(LogFiles::open(&path, 1_000, 2).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("x.1.log")).unwrap();
        let names: Vec<String> =
            LogFiles::open(&path, 1_000, 2).unwrap().list().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["x.log"]);
    }

    #[test]
    fn a_file_has_exactly_the_name_that_was_set() {
        let directory = tempfile::tempdir().unwrap();
        for (name, older) in [("y", "y.1"), ("audit.json", "audit.1.json"), (".x", ".x.1")] {
            let path = directory.path().join("made").join(name);
            let mut files = LogFiles::open(&path, 5, 2).unwrap();
            files.write_line(b"first");
            files.write_line(b"second");
            let names: Vec<String> = files.list().into_iter().map(|file| file.name).collect();
            assert_eq!(names, [name, older]);
        }
    }
}
