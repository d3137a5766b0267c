//! A copy of a node's data directory that is restored later, so that the node forgets what it did since.
//!
//! The node must be stopped for both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A copy of a data directory.
#[derive(Debug)]
pub struct OlderCopy {
    data_dir: PathBuf,
    copy: PathBuf,
}

impl OlderCopy {
    /// Copies the directory to a place next to it.
    pub fn take(data_dir: &Path) -> anyhow::Result<Self> {
        let copy = data_dir.with_extension("older");
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        copy_all(data_dir, &copy)?;
        Ok(Self { data_dir: data_dir.into(), copy })
    }

    /// Replaces the content of the directory with the copy. The directory itself stays, because it may be a
    /// separate disk.
    pub fn put_back(self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.data_dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => fs::remove_dir_all(&path)?,
                false => fs::remove_file(&path)?,
            }
        }
        copy_all(&self.copy, &self.data_dir)?;
        Ok(fs::remove_dir_all(&self.copy)?)
    }
}

/// Copies everything in `from` to `to`, with modes and times.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let output = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).output().context("cp")?;
    if !output.status.success() {
        bail!("cp -a: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_put_back_replaces_everything() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("node-1");
        fs::create_dir_all(data.join("raft")).unwrap();
        fs::write(data.join("raft/log"), "old").unwrap();
        let copy = OlderCopy::take(&data).unwrap();
        fs::write(data.join("raft/log"), "newer").unwrap();
        fs::write(data.join("raft/later"), "x").unwrap();
        fs::write(data.join("top"), "x").unwrap();
        copy.put_back().unwrap();
        assert_eq!(fs::read(data.join("raft/log")).unwrap(), b"old");
        assert!(!data.join("raft/later").exists() && !data.join("top").exists());
        assert!(!dir.path().join("node-1.older").exists());
    }
}
