//! What all connections of a node share.

use std::time::Duration;

use super::contacts::Contacts;
use super::handshake::LocalIdentity;
use super::tls::Transport;
use crate::succession::Succession;

/// What every connection needs.
pub(crate) struct Context {
    pub(crate) me: LocalIdentity,
    pub(crate) transport: Transport,
    pub(crate) frame_len_max: usize,
    /// A connection on which nothing was received for this long is given up.
    pub(crate) silence_max: Duration,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) contacts: Contacts,
    pub(crate) succession: Succession,
}
