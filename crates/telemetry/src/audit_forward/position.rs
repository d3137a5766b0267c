//! How far a sink has got, and the file that stores it, so that a restart of the node loses no record.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use maxine_state::History;

/// How far a sink has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The history that the numbers belong to.
    pub(super) history: History,
    /// The number of the next record when forwarding began. Older records that are missing are not reported, because
    /// they were removed before.
    pub(super) begin: u64,
    /// The number of the next record to forward.
    pub(super) next_seq: u64,
    /// The last forwarded record. It shows whether the log is still the one that was forwarded.
    pub(super) last: Option<Last>,
}

/// The last forwarded record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Last {
    /// Its number.
    pub(super) seq: u64,
    /// Its hash, in hexadecimal.
    pub(super) hash: String,
}

impl Position {
    /// The beginning, for a log whose next record has the number `next_seq`.
    pub(super) fn beginning(history: History, next_seq: u64) -> Self {
        Self { history, begin: next_seq, next_seq: 0, last: None }
    }
}

/// Reads a position. `None` if none is stored, or if the file is damaged: all kept records are then forwarded again.
/// Blocks.
pub(super) fn load(path: &Path) -> io::Result<Option<Position>> {
    let bytes = match maxine_files::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let position = serde_json::from_slice(&bytes).inspect_err(|error| {
        let file = path.display();
        tracing::warn!(%error, %file, "the position cannot be read: all audit records are forwarded again");
    });
    Ok(position.ok())
}

/// Replaces the stored position. When it returns, the disk has it. Blocks.
pub(super) fn store(path: &Path, position: &Position) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(&serde_json::to_vec(position)?)?;
    out.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_stored_and_a_damaged_one_is_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit-forward").join("file");
        assert_eq!(load(&path).unwrap(), None);
        let last = Some(Last { seq: 8, hash: "ab".into() });
        let position = Position { history: History::from_random(7), begin: 3, next_seq: 9, last };
        store(&path, &position).unwrap();
        store(&path, &position).unwrap();
        assert_eq!(load(&path).unwrap(), Some(position));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{\"history\":").unwrap();
        assert_eq!(load(&path).unwrap(), None);
        // A position that cannot be read for another reason is not the beginning.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(load(&path).is_err());
    }
}
