//! Messages between the actors of two nodes, which the backend carries.
//!
//! The first byte is the kind. The rest belongs to the actor that handles that kind.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use maxine_store::{CallError, ControlStore, PeerHandler};

/// The kinds of message. Values are only ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerKind {
    /// Collected heartbeats, for the registry.
    Renew = 1,
    /// Observations of health probes, for the health checker.
    Observations = 2,
    /// Which members the leader hears.
    Members = 3,
    /// The last reports of observers about an instance, from the leader's health checker.
    Reports = 4,
    /// A node's time.
    Time = 5,
    /// The remaining times of the leases, from the previous leader.
    FormerLeases = 6,
    /// A confirmation by an operator, for the leader.
    Confirm = 7,
    /// A node's report about itself, for a user of another node.
    Report = 16,
    /// What a node knows about an instance: its requests in flight and its probes.
    Instance = 17,
}

/// Answers the messages of one kind.
pub trait PeerService: Send + Sync + 'static {
    /// Answers one message.
    fn answer(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Passes each message to the service for its kind. Services are registered after the backend has started,
/// because they need it. Until then messages are refused.
#[derive(Default)]
pub struct PeerRouter {
    renew: ArcSwapOption<Box<dyn PeerService>>,
    observations: ArcSwapOption<Box<dyn PeerService>>,
    members: ArcSwapOption<Box<dyn PeerService>>,
    reports: ArcSwapOption<Box<dyn PeerService>>,
    time: ArcSwapOption<Box<dyn PeerService>>,
    former_leases: ArcSwapOption<Box<dyn PeerService>>,
    confirm: ArcSwapOption<Box<dyn PeerService>>,
    report: ArcSwapOption<Box<dyn PeerService>>,
    instance: ArcSwapOption<Box<dyn PeerService>>,
}

impl PeerRouter {
    /// A router without services.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn slot(&self, kind: u8) -> Option<&ArcSwapOption<Box<dyn PeerService>>> {
        match kind {
            k if k == PeerKind::Renew as u8 => Some(&self.renew),
            k if k == PeerKind::Observations as u8 => Some(&self.observations),
            k if k == PeerKind::Members as u8 => Some(&self.members),
            k if k == PeerKind::Reports as u8 => Some(&self.reports),
            k if k == PeerKind::Time as u8 => Some(&self.time),
            k if k == PeerKind::FormerLeases as u8 => Some(&self.former_leases),
            k if k == PeerKind::Confirm as u8 => Some(&self.confirm),
            k if k == PeerKind::Report as u8 => Some(&self.report),
            k if k == PeerKind::Instance as u8 => Some(&self.instance),
            _ => None,
        }
    }

    /// Sets the service for a kind.
    pub fn set(&self, kind: PeerKind, service: Box<dyn PeerService>) {
        if let Some(slot) = self.slot(kind as u8) {
            slot.store(Some(Arc::new(service)));
        }
    }
}

impl PeerHandler for PeerRouter {
    fn handle(&self, mut body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let refuse = |why: &str| futures::future::ready(Err(why.to_owned())).boxed();
        if body.is_empty() {
            return refuse("an empty message");
        }
        let kind = body.split_to(1)[0];
        match self.slot(kind) {
            None => refuse("a message of a kind that this version does not know"),
            Some(slot) => match slot.load_full() {
                None => refuse("this node is still starting"),
                Some(service) => service.answer(body),
            },
        }
    }
}

/// Sends a message of a kind to the leader.
pub async fn call_leader(
    store: &dyn ControlStore,
    kind: PeerKind,
    body: &[u8],
    timeout: Duration,
) -> Result<Bytes, CallError> {
    let mut message = Vec::with_capacity(1 + body.len());
    message.push(kind as u8);
    message.extend_from_slice(body);
    store.call_leader(message.into(), timeout).await
}
