//! Receives one snapshot at a time, verifies it, and has it installed.
//!
//! An incomplete file is removed. Nothing reaches the state before the checksum is verified.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::inbound::Inbound;
use crate::codec::{Request, Response, VoteDto};
use crate::config::NodeId;
use crate::storage::snapshots::SnapshotFile;

/// Length of a chunk, in bytes.
pub(crate) const CHUNK_LEN: usize = 512 * 1024;

struct Incoming {
    path: PathBuf,
    file: Arc<File>,
    vote: VoteDto,
    len: u64,
    received: u64,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // The file no longer exists here if it was installed.
        let _ = fs::remove_file(&self.path);
    }
}

pub(crate) struct SnapshotReceiver {
    inbound: Arc<Inbound>,
    from: NodeId,
    incoming: Option<Incoming>,
}

impl SnapshotReceiver {
    pub(crate) fn new(inbound: Arc<Inbound>, from: NodeId) -> Self {
        Self { inbound, from, incoming: None }
    }

    pub(crate) async fn receive(&mut self, request: Request) -> Response {
        if let Some(refusal) = self.inbound.refusal(self.from, &request) {
            self.incoming = None;
            return refusal;
        }
        let result = match request {
            Request::SnapshotBegin { vote, len } => self.begin(vote, len).await,
            Request::SnapshotChunk { offset, bytes } => self.chunk(offset, bytes).await,
            Request::SnapshotEnd { len } => self.end(len).await,
            // This is not logged, because every node with a certificate may send it.
            _ => {
                self.incoming = None;
                let reason = "only a snapshot is received on this connection";
                return Response::Failed(reason.to_owned());
            }
        };
        result.unwrap_or_else(|error| {
            self.incoming = None;
            tracing::warn!(from = self.from, %error, "receiving a snapshot failed");
            Response::Failed(error.to_string())
        })
    }

    async fn begin(&mut self, vote: VoteDto, len: u64) -> io::Result<Response> {
        let (inbound, from) = (self.inbound.clone(), self.from);
        let begin = move || inbound.snapshots().begin_incoming(from, len);
        let (path, file) = tokio::task::spawn_blocking(begin).await.map_err(io::Error::other)??;
        self.incoming = Some(Incoming { path, file: Arc::new(file), vote, len, received: 0 });
        Ok(Response::SnapshotReady)
    }

    async fn chunk(&mut self, offset: u64, bytes: Vec<u8>) -> io::Result<Response> {
        let incoming =
            self.incoming.as_mut().ok_or_else(|| io::Error::other("no snapshot was begun"))?;
        if offset != incoming.received || offset + bytes.len() as u64 > incoming.len {
            return Err(io::Error::other(format!(
                "chunk at {offset} does not continue at {}",
                incoming.received
            )));
        }
        incoming.received += bytes.len() as u64;
        let file = incoming.file.clone();
        tokio::task::spawn_blocking(move || (&*file).write_all(&bytes))
            .await
            .map_err(io::Error::other)??;
        Ok(Response::SnapshotReady)
    }

    async fn end(&mut self, len: u64) -> io::Result<Response> {
        let incoming =
            self.incoming.take().ok_or_else(|| io::Error::other("no snapshot was begun"))?;
        if incoming.received != len || incoming.len != len {
            return Err(io::Error::other(format!("{} of {len} bytes arrived", incoming.received)));
        }
        let (file, path) = (incoming.file.clone(), incoming.path.clone());
        let snapshot = tokio::task::spawn_blocking(move || {
            file.sync_all()?;
            SnapshotFile::open(&path)
        })
        .await
        .map_err(io::Error::other)??;
        if snapshot.head.cluster_id != self.inbound.context().me.cluster_id {
            return Err(io::Error::other(format!(
                "the snapshot is of cluster {:?}",
                snapshot.head.cluster_id
            )));
        }
        self.inbound.install_snapshot(incoming.vote, snapshot).await
    }
}
