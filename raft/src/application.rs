//! The interface to the program that owns the state.
//!
//! This crate calls these traits. It never looks inside a payload, a reply or a snapshot.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::NodeId;

/// One committed entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Position in the log. It strictly increases, but positions can be left out.
    pub index: u64,
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// The proposed payload; `None` for an entry of the log itself, which only changes the applied index.
    pub payload: Option<Bytes>,
}

/// The replicated state.
///
/// One dedicated thread calls its methods, one at a time. They may block.
pub trait Application: Send + 'static {
    /// Applies committed entries in order and returns one reply per entry. The reply to an entry without a
    /// payload is ignored. It must be deterministic, and must have published the new state for readers before
    /// it returns. An error or a panic stops the node. If it returns an error, it must not have applied any
    /// of the entries.
    fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>>;

    /// A cheap handle to the present state. It is encoded later, outside the apply path.
    fn snapshot(&self) -> Box<dyn SnapshotEncoder>;

    /// Replaces the state with the snapshot that was taken at `index`. An error stops the node.
    fn restore(&mut self, index: u64, input: &mut dyn Read) -> io::Result<()>;
}

/// A copy of the state at one index that can be written.
pub trait SnapshotEncoder: Send {
    /// Writes the whole state.
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()>;

    /// The number of bytes that [`SnapshotEncoder::encode`] writes; `None` if it is not known. It is called only if the
    /// disk is short of space, and may take as long as writing.
    fn encoded_len(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// Receives the messages that other nodes send with [`crate::RaftNode::call`], and checks what they propose.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one message. An error refuses it, which means that it had no effect. The future may be dropped when
    /// the caller gives up.
    fn handle(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;

    /// On the leader, decides whether the member `from` may propose this payload. Returns what is written to
    /// the log: the payload itself, or one that also names the sender. An error is the reason of the refusal.
    /// By default, any member may propose anything.
    fn admit(&self, from: NodeId, payload: Bytes) -> Result<Bytes, String> {
        let _ = from;
        Ok(payload)
    }

    /// Decides whether a node that understands commands up to this version may take part now. An error is the reason,
    /// with which that node stops. By default any version may.
    fn admit_version(&self, understands: u32) -> Result<(), String> {
        let _ = understands;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An application without a state.
    pub(crate) struct Nothing;

    impl SnapshotEncoder for Nothing {
        fn encode(self: Box<Self>, _: &mut dyn Write) -> io::Result<()> {
            Ok(())
        }
    }

    impl Application for Nothing {
        fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>> {
            Ok(vec![Bytes::new(); entries.len()])
        }

        fn snapshot(&self) -> Box<dyn SnapshotEncoder> {
            Box::new(Self)
        }

        fn restore(&mut self, _: u64, _: &mut dyn Read) -> io::Result<()> {
            Ok(())
        }
    }
}
