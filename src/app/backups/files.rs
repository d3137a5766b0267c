//! The folder of the scheduled backups. All functions block.
//!
//! A backup is written and verified in a working folder beside the others, and gets its name afterwards. So every file
//! with the name of a backup is a verified one. The working folder exists from the beginning of an attempt until a backup
//! is finished. So after a restart it is known that the last attempt made none, and when that was.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use maxine_raft::check_room;
use maxine_store::verify_backup;

/// The folder, and how its files are named.
#[derive(Clone, Debug)]
pub(super) struct BackupFiles {
    pub(super) directory: PathBuf,
    pub(super) cluster_id: String,
    /// The number of the node, for the name of its working folder. Several nodes may use one shared folder.
    pub(super) node_id: u64,
    /// Number of backups that are kept, at least 1.
    pub(super) keep: usize,
}

/// Makes a folder that only the user of the node may read.
fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {}", path.display(), maxine_wording::io(error))
}

impl BackupFiles {
    /// Empties the working folder. Returns the file to which the backup must be written.
    pub(super) fn begin(&self) -> Result<PathBuf, String> {
        // The parent is not made: it may be the place of a disk that is not mounted.
        match private(&self.directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed(&self.directory, &error));
            }
            _ => {}
        }
        let work = self.work();
        self.clear().and_then(|()| private(&work)).map_err(|error| failed(&work, &error))?;
        Ok(self.draft())
    }

    /// Verifies the backup that was written, names it, and deletes backups beyond those that are kept.
    pub(super) fn finish(&self, index: u64, now_ms: u64) -> Result<PathBuf, String> {
        let finished = self.verify_and_name(index, now_ms);
        if let Err(error) = self.clear() {
            let work = self.work();
            tracing::warn!(%error, path = %work.display(), "a working folder of a backup was left behind");
        }
        let file = finished?;
        if let Err(error) = self.delete_older() {
            tracing::warn!(%error, path = %self.directory.display(), "old backups could not be deleted");
        }
        Ok(file)
    }

    /// Removes what an attempt that failed has written. The working folder stays, empty, for [`Self::unfinished_ms`].
    pub(super) fn abandon(&self) {
        let work = self.work();
        if let Err(error) = self.clear().and_then(|()| private(&work)) {
            tracing::debug!(%error, path = %work.display(), "the working folder of a backup could not be emptied");
        }
    }

    /// When the last attempt of this node began, or failed, in milliseconds since 1970; `None` if it made a backup, and
    /// before the first.
    pub(super) fn unfinished_ms(&self) -> Option<u64> {
        let changed = fs::metadata(self.work()).and_then(|work| work.modified()).ok()?;
        let since_1970 = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).ok()
    }

    fn verify_and_name(&self, index: u64, now_ms: u64) -> Result<PathBuf, String> {
        let draft = self.draft();
        let len = fs::metadata(&draft).map_err(|error| failed(&draft, &error))?.len();
        check_room("the test of the backup", len, &self.work())
            .map_err(|error| error.to_string())?;
        verify_backup(&draft, &self.work().join("restored"), index)
            .map_err(|why| format!("the backup could not be restored for a test: {why}"))?;
        let file = self.directory.join(self.name(index, now_ms)?);
        let name = || -> io::Result<()> {
            fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
            fs::rename(&draft, &file)?;
            File::open(&self.directory)?.sync_all()
        };
        name().map_err(|error| failed(&file, &error))?;
        Ok(file)
    }

    fn work(&self) -> PathBuf {
        self.directory.join(format!(".node-{}.part", self.node_id))
    }

    fn draft(&self) -> PathBuf {
        self.work().join("state")
    }

    fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.work()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// `maxine-CLUSTER-TIME-INDEX.backup`. The names of one cluster sort by time.
    fn name(&self, index: u64, now_ms: u64) -> Result<String, String> {
        let at = i64::try_from(now_ms).map_err(|error| error.to_string())?;
        let at = jiff::Timestamp::from_millisecond(at).map_err(|error| error.to_string())?;
        Ok(format!("maxine-{}-{}-{index}.backup", self.cluster_id, at.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The time and the index in the name of a backup of this cluster. `None` for any other file.
    fn parse<'a>(&self, name: &'a str) -> Option<(&'a str, u64)> {
        let rest = name.strip_prefix("maxine-")?.strip_prefix(self.cluster_id.as_str())?;
        let (time, index) = rest.strip_prefix('-')?.strip_suffix(".backup")?.split_once('-')?;
        let is_time = time.len() == 16
            && time.bytes().enumerate().all(|(at, b)| match at {
                8 => b == b'T',
                15 => b == b'Z',
                _ => b.is_ascii_digit(),
            });
        let index = index.parse().ok()?;
        is_time.then_some((time, index))
    }

    fn delete_older(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((time, index)) = name.to_str().and_then(|name| self.parse(name)) else {
                continue;
            };
            if entry.file_type()?.is_file() {
                found.push((time.to_owned(), index, entry.path()));
            }
        }
        found.sort();
        let surplus = found.len().saturating_sub(self.keep);
        found.iter().take(surplus).try_for_each(|(.., path)| fs::remove_file(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_795_440_992_705;

    fn files(directory: &Path, keep: usize) -> BackupFiles {
        let directory = directory.to_owned();
        BackupFiles { directory, cluster_id: "shop".into(), node_id: 2, keep }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_the_oldest_backups_of_this_cluster_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 2);
        let name = files.name(42, NOW_MS).unwrap();
        assert_eq!(name, "maxine-shop-20261123T133632Z-42.backup");
        assert_eq!(files.parse(&name), Some(("20261123T133632Z", 42)));
        let own = [
            name.as_str(),
            "maxine-shop-20261122T133632Z-99.backup",
            "maxine-shop-20261121T133632Z-7.backup",
            "maxine-shop-20261121T133632Z-10.backup",
        ];
        let foreign = [
            "maxine-shop-eu-20200101T000000Z-1.backup",
            "maxine-shop-20200101T000000Z-1.backup.copy",
            "maxine-shop-before-the-upgrade.backup",
            "notes",
        ];
        for file in own.iter().chain(&foreign) {
            fs::write(dir.path().join(file), "").unwrap();
        }
        files.delete_older().unwrap();
        let mut kept = [&own[..2], &foreign].concat();
        kept.sort_unstable();
        assert_eq!(names(dir.path()), kept);
    }

    #[test]
    fn what_is_no_backup_gets_no_name_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir.path().join("backups"), 2);
        for _ in 0..2 {
            let draft = files.begin().unwrap();
            assert!(!draft.exists(), "the rest of the last attempt");
            fs::write(draft, "no backup").unwrap();
        }
        let why = files.finish(1, NOW_MS).unwrap_err();
        assert!(why.contains("could not be restored"), "{why}");
        assert!(names(&files.directory).is_empty());
        let mode = fs::metadata(&files.directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn an_attempt_that_failed_or_was_interrupted_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 2);
        assert_eq!(files.unfinished_ms(), None);
        fs::write(files.begin().unwrap(), "a part").unwrap();
        assert!(files.unfinished_ms().is_some());
        files.abandon();
        assert!(files.unfinished_ms().is_some());
        assert!(names(&files.work()).is_empty(), "a part of a failed backup takes space");
        files.clear().unwrap();
        assert_eq!(files.unfinished_ms(), None);
    }

    /// The parent may be the place of a disk that is not mounted.
    #[test]
    fn a_folder_without_its_parent_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let why = files(&dir.path().join("disk/backups"), 2).begin().unwrap_err();
        assert!(why.contains("disk/backups"), "{why}");
        assert!(names(dir.path()).is_empty());
    }
}
