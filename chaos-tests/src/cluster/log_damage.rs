//! Damages the end of a log file while its node is stopped, and undoes the damage.
//!
//! A node with a damaged log must refuse to start. It must never continue with a shorter log.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The original bytes at the end of a file.
#[derive(Debug)]
pub struct Damage {
    file: PathBuf,
    from: u64,
    before: Vec<u8>,
}

/// The log file in a node's data directory, or its newest segment.
fn log_file(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let names = ["raft/log.redb", "raft/sled/db"];
    let mut found: Vec<PathBuf> = names.iter().map(|name| data_dir.join(name)).collect();
    if let Ok(segments) = fs::read_dir(data_dir.join("raft/wal")) {
        let segments = segments.filter_map(Result::ok).map(|entry| entry.path());
        let newest = segments.filter(|path| path.extension().is_some_and(|e| e == "wal")).max();
        found.extend(newest);
    }
    let mut found = found.into_iter().filter(|path| path.exists());
    found.next().with_context(|| format!("{} holds no log", data_dir.display()))
}

impl Damage {
    /// Cuts off up to `len` bytes.
    pub fn cut(data_dir: &Path, len: u64) -> anyhow::Result<Self> {
        let damage = Self::remember(data_dir, len)?;
        File::options().write(true).open(&damage.file)?.set_len(damage.from)?;
        Ok(damage)
    }

    /// Flips one bit in every 512 bytes near the end, in up to `len` bytes.
    pub fn flip(data_dir: &Path, len: u64, rng: &mut fastrand::Rng) -> anyhow::Result<Self> {
        let damage = Self::remember(data_dir, len)?;
        let mut bytes = damage.before.clone();
        // The file may end with space that was never written.
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for block in bytes[..written].chunks_mut(512) {
            let nth = rng.usize(..block.len());
            block[nth] ^= 1 << rng.u8(..8);
        }
        write_at(&damage.file, damage.from, &bytes)?;
        Ok(damage)
    }

    fn remember(data_dir: &Path, len: u64) -> anyhow::Result<Self> {
        let file = log_file(data_dir)?;
        let all = fs::read(&file)?;
        let written = all.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let from = written.saturating_sub(len);
        let before = all[usize::try_from(from)?..].to_vec();
        Ok(Self { file, from, before })
    }

    /// Restores the original bytes.
    pub fn undo(&self) -> anyhow::Result<()> {
        let file = File::options().write(true).open(&self.file)?;
        file.set_len(self.from)?;
        write_at(&self.file, self.from, &self.before)
    }
}

fn write_at(path: &Path, from: u64, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(from))?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_done_and_undone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("raft/log.redb");
        let whole: Vec<u8> = (0..4_000_u32).map(|nth| nth.to_le_bytes()[0]).collect();
        fs::create_dir(dir.path().join("raft")).unwrap();
        fs::write(&file, &whole).unwrap();
        let cut = Damage::cut(dir.path(), 1_000).unwrap();
        assert_eq!(fs::read(&file).unwrap(), whole[..3_000]);
        cut.undo().unwrap();
        assert_eq!(fs::read(&file).unwrap(), whole);
        let mut rng = fastrand::Rng::with_seed(1);
        let flipped = Damage::flip(dir.path(), 1_000, &mut rng).unwrap();
        let now = fs::read(&file).unwrap();
        assert_eq!(now.iter().zip(&whole).filter(|(now, before)| now != before).count(), 2);
        flipped.undo().unwrap();
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
}
