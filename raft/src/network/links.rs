//! The outgoing connections of a node, and what is known about its peers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::handshake::LocalIdentity;
use super::link::Link;
use super::tls::Transport;
use crate::clock;
use crate::codec::Channel;
use crate::config::{Config, NodeId};

/// What every connection needs.
pub(crate) struct Context {
    pub(crate) me: LocalIdentity,
    pub(crate) transport: Transport,
    pub(crate) frame_len_max: usize,
    /// A connection on which nothing was received for this long is given up.
    pub(crate) silence_max: Duration,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) contacts: Contacts,
}

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

    /// When a request of this leader was last accepted.
    pub(crate) fn leader_heard(&self, leader: NodeId) -> Option<Instant> {
        self.leader.lock().filter(|(node, _)| *node == leader).map(|(_, at)| at)
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<Contact> {
        self.peers.lock().get(&node).copied()
    }
}

/// One link for each peer and purpose, opened on demand.
pub(crate) struct Links {
    pub(crate) context: Arc<Context>,
    links: Mutex<HashMap<(NodeId, Channel), Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context, links: Mutex::default() }
    }

    /// The link to a peer; a changed address replaces it.
    pub(crate) fn get(&self, node: NodeId, addr: &str, channel: Channel) -> Arc<Link> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&(node, channel))
            && link.addr == addr
        {
            return link.clone();
        }
        let link = Arc::new(Link::open(self.context.clone(), node, addr.to_owned(), channel));
        links.insert((node, channel), link.clone());
        link
    }

    /// Whether the connection that carries heartbeats to a peer is open.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.links.lock().get(&(node, Channel::Control)).is_some_and(|link| link.is_connected())
    }

    /// Closes the links to nodes that are no longer members.
    pub(crate) fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.links.lock().retain(|(node, _), _| is_member(*node));
    }

    pub(crate) fn close(&self) {
        self.links.lock().clear();
    }
}
