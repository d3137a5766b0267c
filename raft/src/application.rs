//! The seam to the program that owns the state.
//!
//! The crate calls these traits; it never looks inside a payload, a reply or a snapshot.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::NodeId;

/// One committed entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Position in the log; strictly increasing, but not dense for the application.
    pub index: u64,
    /// Term of the leader that wrote it. Several leaders can share a term: no fencing token.
    pub term: u64,
    /// What was proposed; `None` for an entry of the log's own, which only moves the applied index.
    pub payload: Option<Bytes>,
}

/// The replicated state.
///
/// Its methods run on one dedicated thread that may block, never two at once.
pub trait Application: Send + 'static {
    /// Applies committed entries in order and returns one reply per entry (the reply to an entry
    /// without a payload is ignored). Must be deterministic, and must have published whatever
    /// readers see before it returns. An error or a panic stops the node; before an error it must have applied none of
    /// the entries.
    fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>>;

    /// A cheap handle on the present state; it is encoded later, off the apply path.
    fn snapshot(&self) -> Box<dyn SnapshotEncoder>;

    /// Replaces the state by the snapshot that was taken at `index`. An error stops the node.
    fn restore(&mut self, index: u64, input: &mut dyn Read) -> io::Result<()>;
}

/// A state frozen at one index, ready to be written out.
pub trait SnapshotEncoder: Send {
    /// Writes the whole state.
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()>;
}

/// Receives the messages that other nodes send with [`crate::RaftNode::call`], and checks what they propose.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one message. The future may be dropped when the caller gives up.
    fn handle(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;

    /// Decides on the leader whether the member `from` may propose this payload, and what goes into the log: the
    /// payload itself, or one that also names who sent it. An error is the reason of the refusal. By default any member
    /// may propose anything.
    fn admit(&self, from: NodeId, payload: Bytes) -> Result<Bytes, String> {
        let _ = from;
        Ok(payload)
    }
}
