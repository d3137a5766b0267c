//! Rotates log files: the newest is written to, and the oldest is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
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

/// The file that is written to, `STEM.log`, and older ones: `STEM.1.log` and higher numbers, the highest
/// being the oldest.
pub(super) struct LogFiles {
    directory: PathBuf,
    stem: String,
    len_max: u64,
    files_max: usize,
    current: BufWriter<File>,
    len: u64,
    failed: bool,
}

impl LogFiles {
    pub(super) fn open(
        directory: &Path,
        stem: &str,
        len_max: u64,
        files_max: usize,
    ) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (current, len) = open_current(&directory.join(numbered(stem, 0)))?;
        let (directory, files_max) = (directory.to_owned(), files_max.max(1));
        Ok(Self { directory, stem: stem.into(), len_max, files_max, current, len, failed: false })
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(numbered(&self.stem, number))
    }

    /// Writes a line. If writing fails, the failure is reported once, until writing works again.
    pub(super) fn write_line(&mut self, line: &[u8]) {
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
    pub(super) fn flush(&mut self, sync: bool) {
        let mut result = self.current.flush();
        if sync {
            result = result.and_then(|()| self.current.get_ref().sync_data());
        }
        self.report(result);
    }

    fn report(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::error!(%error, "a request log line could not be written");
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
        (self.current, self.len) = open_current(&self.path(0))?;
        Ok(())
    }

    /// The existing files, newest first.
    pub(super) fn list(&mut self) -> Vec<LogFile> {
        self.flush(false);
        (0..self.files_max)
            .map(|number| LogFile { name: numbered(&self.stem, number), path: self.path(number) })
            .filter(|file| file.path.is_file())
            .collect()
    }
}

fn numbered(stem: &str, number: usize) -> String {
    if number == 0 { format!("{stem}.log") } else { format!("{stem}.{number}.log") }
}

fn open_current(path: &Path) -> io::Result<(BufWriter<File>, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let len = file.metadata()?.len();
    Ok((BufWriter::with_capacity(BUFFER_LEN, file), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_take_turns_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = LogFiles::open(directory.path(), "maxine-requests", 20, 3).unwrap();
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
}
