//! Backup files of the Raft backend. A temporary Raft node writes and reads them. It uses a directory next to
//! the file, and no network.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use maxine_raft as raft;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;

use crate::file_log::beside;
use maxine_state::ControlState;

const CLUSTER_ID: &str = "maxine-migration";
const NODE_ID: raft::NodeId = 1;
/// Time limit for the node to become leader.
const LEADS_WITHIN: Duration = Duration::from_secs(30);

/// A state machine that keeps the state that it is given, whatever the log contains.
struct Holder(Arc<Mutex<Option<ControlState>>>);

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
        Box::new(Frozen(self.0.lock().clone().unwrap_or_default()))
    }

    fn restore(&mut self, _: u64, input: &mut dyn Read) -> io::Result<()> {
        *self.0.lock() = Some(ControlState::read_from(input)?);
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

async fn start(
    dir: &Path,
    state: Arc<Mutex<Option<ControlState>>>,
) -> Result<raft::RaftNode, String> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = raft::Config::new(CLUSTER_ID, NODE_ID, dir, listen);
    config.app_version = maxine_state::STATE_VERSION;
    raft::RaftNode::start(config, Box::new(Holder(state)), Arc::new(NoPeers))
        .await
        .map_err(describe)
}

/// Writes a backup file with `state`, in one step.
pub(super) async fn write(path: &Path, state: &ControlState) -> Result<(), String> {
    let scratch = Scratch::beside(path);
    let held = Arc::new(Mutex::new(Some(state.clone())));
    let node = start(&scratch.0, held).await?;
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
    let scratch = Scratch::beside(path);
    let (file, dir) = (path.to_path_buf(), scratch.0.clone());
    let restore = move || {
        let engine = raft::EngineKind::default();
        raft::offline::restore(&file, &dir, engine, CLUSTER_ID, NODE_ID, &alone())
    };
    tokio::task::spawn_blocking(restore).await.map_err(describe)?.map_err(describe)?;
    let held = Arc::new(Mutex::new(None));
    let node = start(&scratch.0, Arc::clone(&held)).await?;
    node.stop_now().await;
    let state = held.lock().take();
    Ok(Some(state.ok_or("the backup holds no state")?))
}
