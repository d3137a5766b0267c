//! Forwards audit records to a file on this machine.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::batch::{Batch, Source};
use crate::LogFiles;

/// Maximum length of a line, in bytes. No record needs as much.
const LINE_LEN_MAX: u64 = 64 * 1_024;

pub(super) struct FileSink {
    path: PathBuf,
    len_max: u64,
    files_max: usize,
    timeout: Duration,
    /// A delivery that took too long. The next one waits for its end, so that two never write at once.
    stuck: Option<JoinHandle<io::Result<()>>>,
}

impl FileSink {
    pub(super) fn new(path: PathBuf, len_max: u64, files_max: usize, timeout: Duration) -> Self {
        Self { path, len_max, files_max, timeout, stuck: None }
    }

    /// Writes a batch, one line for each record. When it returns, the disk has them.
    pub(super) async fn deliver(&mut self, batch: &Batch, source: &Source) -> Result<(), String> {
        if let Some(stuck) = &mut self.stuck {
            // Its records are written again, whatever its outcome was.
            let _ended =
                tokio::time::timeout(self.timeout, stuck).await.map_err(|_| no_answer())?;
            self.stuck = None;
        }
        let lines = batch.lines(source).into_iter().map(|line| {
            let mut line = line.json.into_bytes();
            line.push(b'\n');
            line
        });
        let lines: Vec<Vec<u8>> = lines.collect();
        let (path, len_max, files_max) = (self.path.clone(), self.len_max, self.files_max);
        let mut writing =
            tokio::task::spawn_blocking(move || append(&path, len_max, files_max, &lines));
        match tokio::time::timeout(self.timeout, &mut writing).await {
            Ok(Ok(written)) => written.map_err(|error| {
                format!("{}: {}", self.path.display(), maxine_wording::io(&error))
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                self.stuck = Some(writing);
                Err(no_answer())
            }
        }
    }
}

fn no_answer() -> String {
    "the disk did not answer in time".into()
}

/// Appends lines. The file is opened each time, because somebody may have renamed it.
fn append(path: &Path, len_max: u64, files_max: usize, lines: &[Vec<u8>]) -> io::Result<()> {
    cut_torn_line(path)?;
    LogFiles::open_private(path, len_max, files_max)?.append_synced(lines)
}

/// Removes an incomplete line at the end, which a node left that was killed while it wrote. Its record is written again.
fn cut_torn_line(path: &Path) -> io::Result<()> {
    let mut file = match maxine_files::open_own(path, OpenOptions::new().read(true).write(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let from = metadata.len().saturating_sub(LINE_LEN_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < tail.len() { file.set_len(from + whole as u64) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| format!("{text}\n").into_bytes()).collect()
    }

    #[test]
    fn files_are_private_have_a_limit_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        append(&path, 10, 2, &lines(&["a1", "a2", "a3", "b1", "b2"])).unwrap();
        append(&path, 10, 2, &lines(&["b3", "c1"])).unwrap();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(text("audit.jsonl"), "c1\n");
        assert_eq!(text("audit.1.jsonl"), "b1\nb2\nb3\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        for entry in fs::read_dir(dir.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    /// Regression: through a link, the last line of another program's file was removed, and its mode was changed.
    #[test]
    fn a_link_in_place_of_the_file_leads_to_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("audit.jsonl"), dir.path().join("victim"));
        fs::write(&victim, "whole\nunfinished").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let error = append(&path, 1_000, 2, &lines(&["one"])).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert!(LogFiles::open_private(&path, 1_000, 2).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "whole\nunfinished");
        assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_line_that_a_killed_node_left_incomplete_is_removed_and_a_renamed_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        append(&path, 1_000, 2, &lines(&["one"])).unwrap();
        let mut torn = fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"seq\":7,");
        fs::write(&path, torn).unwrap();
        append(&path, 1_000, 2, &lines(&["two"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        fs::rename(&path, dir.path().join("moved")).unwrap();
        append(&path, 1_000, 2, &lines(&["three"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }
}
