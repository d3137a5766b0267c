//! Backups: the state at one index, in one file with a checksum.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::compaction::snapshot_here;
use crate::error::AdminError;
use crate::inner::{Inner, RaftNode};
use crate::room;
use crate::storage::snapshots::SnapshotFile;

const CHUNK_LEN: usize = 256 * 1024;

/// The content of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    /// The cluster of the backup.
    pub cluster_id: String,
    /// The last entry that the state contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Length of the file.
    pub len_bytes: u64,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
}

impl RaftNode {
    /// Writes the state that this node has applied to `out`. A follower may be behind, so the caller should
    /// take a read index first if that matters. An incomplete backup cannot be used.
    pub async fn backup(
        &self,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<BackupInfo, AdminError> {
        let snapshot = newest(&self.inner).await?;
        stream(&snapshot, out).await
    }

    /// Writes a backup to the file `path`, durably. It begins only if there is room for it. If it fails, a part of the file
    /// may exist.
    pub async fn backup_to(&self, path: &Path) -> Result<BackupInfo, AdminError> {
        let snapshot = newest(&self.inner).await?;
        let (len, directory) = (snapshot.len, path.parent().unwrap_or(path).to_owned());
        let check = move || room::check_room("the file of the backup", len, &directory);
        tokio::task::spawn_blocking(check).await.map_err(io::Error::other)??;
        let named = |error: io::Error| {
            AdminError::from(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let mut file = tokio::fs::File::create(path).await.map_err(named)?;
        let info = stream(&snapshot, &mut file).await?;
        file.sync_all().await.map_err(named)?;
        Ok(info)
    }
}

/// A snapshot of the present state.
async fn newest(inner: &Inner) -> Result<SnapshotFile, AdminError> {
    snapshot_here(inner).await?;
    let snapshot = inner.snapshots.current();
    snapshot.ok_or_else(|| AdminError::Refused("there is no snapshot".to_owned()))
}

async fn stream(
    snapshot: &SnapshotFile,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<BackupInfo, AdminError> {
    let last = snapshot
        .head
        .last
        .ok_or_else(|| AdminError::Refused("the snapshot is empty".to_owned()))?;
    let mut sum = 0;
    let mut offset = 0;
    while offset < snapshot.len {
        let file = snapshot.file.clone();
        let want = usize::try_from(snapshot.len - offset).unwrap_or(usize::MAX).min(CHUNK_LEN);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; want];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        });
        let bytes = read.await.map_err(|error| AdminError::Io(error.to_string()))??;
        out.write_all(&bytes).await?;
        sum = crc32c::crc32c_append(sum, &bytes);
        offset += bytes.len() as u64;
    }
    out.flush().await?;
    Ok(BackupInfo {
        cluster_id: snapshot.head.cluster_id.clone(),
        index: last.index,
        term: last.term,
        len_bytes: snapshot.len,
        crc32c: sum,
    })
}
