//! Backup files of the Raft backend. A temporary Raft node writes them. It uses a directory next to the file,
//! and no network.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use maxine_raft as raft;
use tokio::io::AsyncWriteExt;

use crate::file_log::beside;
use maxine_state::ControlState;

/// The name of the cluster in a backup that a copy has written. The copy does not know the name of the cluster that it
/// was made from, which is a setting of that cluster's nodes.
pub const COPIED_CLUSTER_ID: &str = "maxine-migration";
const NODE_ID: raft::NodeId = 1;
/// Time limit for the node to become leader.
const LEADS_WITHIN: Duration = Duration::from_secs(30);

/// A state machine with a fixed state, whatever the log contains.
struct Holder(ControlState);

struct Frozen(ControlState);

impl raft::SnapshotEncoder for Frozen {
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out)
    }
}

impl raft::Application for Holder {
    fn apply(&mut self, entries: &[raft::CommittedEntry]) -> io::Result<Vec<Bytes>> {
        Ok(vec![Bytes::new(); entries.len()])
    }

    fn snapshot(&self) -> Box<dyn raft::SnapshotEncoder> {
        Box::new(Frozen(self.0.clone()))
    }

    fn restore(&mut self, _: u64, input: &mut dyn Read) -> io::Result<()> {
        self.0 = ControlState::read_from(input)?;
        Ok(())
    }
}

struct NoPeers;

impl raft::PeerHandler for NoPeers {
    fn handle(&self, _: raft::NodeId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err(String::from("this node is alone")) })
    }
}

/// A directory that is removed when this value is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(path: &Path) -> Self {
        Self(beside(path, &format!(".{:08x}.work", rand::random::<u32>())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot be removed");
        }
    }
}

fn describe(error: impl ToString) -> String {
    error.to_string()
}

fn alone() -> BTreeMap<raft::NodeId, raft::Member> {
    let member = raft::Member {
        peer_addr: String::from("127.0.0.1:1"),
        http_addr: String::new(),
        name: String::from("migration"),
    };
    BTreeMap::from([(NODE_ID, member)])
}

async fn start(dir: &Path, application: impl raft::Application) -> Result<raft::RaftNode, String> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = raft::Config::new(COPIED_CLUSTER_ID, NODE_ID, dir, listen);
    config.app_version = maxine_state::STATE_VERSION;
    raft::RaftNode::start(config, Box::new(application), Arc::new(NoPeers)).await.map_err(describe)
}

/// Writes a backup file with `state`, in one step.
pub(super) async fn write(path: &Path, state: &ControlState) -> Result<(), String> {
    write_of(path, Holder(state.clone())).await
}

async fn write_of(path: &Path, application: impl raft::Application) -> Result<(), String> {
    let scratch = Scratch::beside(path);
    let node = start(&scratch.0, application).await?;
    let written = write_from(&node, path).await;
    node.stop_now().await;
    written
}

async fn write_from(node: &raft::RaftNode, path: &Path) -> Result<(), String> {
    node.bootstrap(alone()).await.map_err(describe)?;
    node.propose(Bytes::from_static(b"migration"), LEADS_WITHIN).await.map_err(describe)?;
    let temporary = beside(path, ".new");
    // The file must be new, so that no link and no permissions of an older file decide who may read it.
    match tokio::fs::remove_file(&temporary).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(describe(error)),
        _ => {}
    }
    let mut options = tokio::fs::OpenOptions::new();
    let created = options.write(true).create_new(true).mode(0o600).open(&temporary).await;
    let mut file = created.map_err(describe)?;
    node.backup(&mut file).await.map_err(describe)?;
    file.flush().await.map_err(describe)?;
    file.sync_all().await.map_err(describe)?;
    tokio::fs::rename(&temporary, path).await.map_err(describe)
}

/// Reads the state from a backup file; `None` if there is no file.
pub(super) async fn read(path: &Path) -> Result<Option<ControlState>, String> {
    if !tokio::fs::try_exists(path).await.map_err(describe)? {
        return Ok(None);
    }
    let file = path.to_path_buf();
    let read = tokio::task::spawn_blocking(move || crate::backup_state(&file));
    read.await.map_err(describe)?.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes these bytes in place of a state.
    struct Garbage(&'static [u8]);

    impl raft::Application for Garbage {
        fn apply(&mut self, entries: &[raft::CommittedEntry]) -> io::Result<Vec<Bytes>> {
            Ok(vec![Bytes::new(); entries.len()])
        }

        fn snapshot(&self) -> Box<dyn raft::SnapshotEncoder> {
            Box::new(Garbage(self.0))
        }

        fn restore(&mut self, _: u64, _: &mut dyn Read) -> io::Result<()> {
            Ok(())
        }
    }

    impl raft::SnapshotEncoder for Garbage {
        fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
            out.write_all(self.0)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_with_a_right_checksum_and_an_unreadable_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = Vec::new();
        ControlState::default().write_to(&mut whole).unwrap();
        // The header with the index is readable: only the end is missing.
        let cut: &'static [u8] = whole[..whole.len() - 1].to_vec().leak();
        let path = dir.path().join("cut");
        write_of(&path, Garbage(cut)).await.unwrap();
        assert_eq!(crate::raft::backup_index(&path), Ok(0));
        let refused = crate::backup_state(&path).unwrap_err();
        assert_eq!(read(&path).await.unwrap_err(), refused);

        let path = dir.path().join("whole");
        write_of(&path, Garbage(whole.leak())).await.unwrap();
        assert_eq!(read(&path).await.unwrap().unwrap().digest(), ControlState::default().digest());
        assert_eq!(raft::offline::backup_cluster(&path).unwrap(), COPIED_CLUSTER_ID);
    }
}
