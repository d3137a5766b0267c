//! The outgoing connections of a node.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::context::Context;
use super::link::Link;
use crate::codec::Channel;
use crate::config::{Config, NodeId};
use crate::error::StartError;

/// One link for each peer and purpose, opened on demand.
pub(crate) struct Links {
    pub(crate) context: Arc<Context>,
    links: Mutex<HashMap<(NodeId, Channel), Arc<Link>>>,
}

impl Links {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context, links: Mutex::default() }
    }

    /// Reads the files of certificates and keys again, for connections that begin later. Blocks.
    pub(crate) fn reload_tls(&self, config: &Config) -> Result<(), StartError> {
        self.context.transport.reload(config)
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
