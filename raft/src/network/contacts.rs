//! What is known about the peers of a node from its connections.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::config::{Config, NodeId};

/// A member that was not heard for this long counts as unreachable.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(2);

/// When each peer was last heard, and what it reported about itself.
#[derive(Default)]
pub(crate) struct Contacts {
    peers: Mutex<HashMap<NodeId, Contact>>,
    leader: Mutex<Option<(NodeId, Instant)>>,
    introductions: Mutex<HashMap<NodeId, Introduction>>,
    incoming: Mutex<HashMap<NodeId, Incoming>>,
    /// Notified when the last connection that a node had opened to this one has ended.
    pub(crate) ended: Notify,
}

/// The connections that a node has opened to this one.
#[derive(Clone, Copy, Debug, Default)]
struct Incoming {
    open: usize,
    /// When the last one ended; `None` while there is one.
    ended: Option<Instant>,
}

/// A connection that a node has opened to this one, until it is dropped.
pub(crate) struct OpenConnection<'a> {
    contacts: &'a Contacts,
    node: NodeId,
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        let mut incoming = self.contacts.incoming.lock();
        let of = incoming.entry(self.node).or_default();
        of.open = of.open.saturating_sub(1);
        if of.open == 0 {
            of.ended = Some(clock::now());
            drop(incoming);
            self.contacts.ended.notify_waiters();
        }
    }
}

/// The name and address that a node gives when it is greeted; empty if it gives none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) name: String,
    pub(crate) http_addr: String,
}

impl Introduction {
    pub(crate) fn of(config: &Config) -> Self {
        Self { name: config.name.clone(), http_addr: config.http_addr.clone() }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Contact {
    pub(crate) app_version: u32,
    /// The newest protocol version that both sides understand.
    pub(crate) protocol: u16,
    pub(crate) heard: Instant,
    /// Since when it has been heard without a gap of [`SILENCE_MAX`].
    pub(crate) heard_since: Instant,
}

impl Contact {
    fn note_heard(&mut self, now: Instant) {
        if now.saturating_duration_since(self.heard) >= SILENCE_MAX {
            self.heard_since = now;
        }
        self.heard = now;
    }
}

impl Contacts {
    pub(crate) fn connected(&self, node: NodeId, app_version: u32, protocol: u16) {
        let now = clock::now();
        let mut peers = self.peers.lock();
        let first = Contact { app_version, protocol, heard: now, heard_since: now };
        let contact = peers.entry(node).or_insert(first);
        contact.app_version = app_version;
        contact.protocol = protocol;
        contact.note_heard(now);
    }

    /// Records a connection that `node` has opened to this one. Drop the result when it ends.
    pub(crate) fn open(&self, node: NodeId) -> OpenConnection<'_> {
        let mut incoming = self.incoming.lock();
        let of = incoming.entry(node).or_default();
        of.open += 1;
        of.ended = None;
        OpenConnection { contacts: self, node }
    }

    /// When the last connection that `node` had opened to this one ended; `None` if there is one, or never was.
    pub(crate) fn ended_at(&self, node: NodeId) -> Option<Instant> {
        self.incoming.lock().get(&node)?.ended
    }

    pub(crate) fn heard(&self, node: NodeId) {
        if let Some(contact) = self.peers.lock().get_mut(&node) {
            contact.note_heard(clock::now());
        }
    }

    pub(crate) fn introduced(&self, node: NodeId, introduction: Introduction) {
        self.introductions.lock().insert(node, introduction);
    }

    pub(crate) fn introduction(&self, node: NodeId) -> Option<Introduction> {
        self.introductions.lock().get(&node).cloned()
    }

    /// Records that a request of this leader was accepted.
    pub(crate) fn record_leader_contact(&self, leader: NodeId) {
        *self.leader.lock() = Some((leader, clock::now()));
    }

    /// Time since a request of this leader was last accepted.
    pub(crate) fn leader_heard_age(&self, leader: NodeId) -> Option<Duration> {
        self.leader.lock().filter(|(node, _)| *node == leader).map(|(_, at)| clock::since(at))
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<Contact> {
        self.peers.lock().get(&node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_returns_after_a_silence_is_heard_since_its_return() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut contact = Contact { app_version: 1, protocol: 1, heard: start, heard_since: start };
        contact.note_heard(at(1_900));
        assert_eq!((contact.heard, contact.heard_since), (at(1_900), start), "a short gap");
        contact.note_heard(at(3_900));
        assert_eq!((contact.heard, contact.heard_since), (at(3_900), at(3_900)));
        contact.note_heard(at(4_000));
        assert_eq!((contact.heard, contact.heard_since), (at(4_000), at(3_900)));
    }
}
