//! What is known about the peers of a node from its connections.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;
use crate::config::{Config, NodeId};

/// When each peer was last heard, and what it reported about itself.
#[derive(Default)]
pub(crate) struct Contacts {
    peers: Mutex<HashMap<NodeId, Contact>>,
    leader: Mutex<Option<(NodeId, Instant)>>,
    introductions: Mutex<HashMap<NodeId, Introduction>>,
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
    pub(crate) heard: Instant,
}

impl Contacts {
    pub(crate) fn connected(&self, node: NodeId, app_version: u32) {
        self.peers.lock().insert(node, Contact { app_version, heard: clock::now() });
    }

    pub(crate) fn heard(&self, node: NodeId) {
        if let Some(contact) = self.peers.lock().get_mut(&node) {
            contact.heard = clock::now();
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
