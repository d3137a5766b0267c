//! The status of expiry on this node, for operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::broadcast;

use super::super::leadership::Duties;
use super::super::peer::{self, PeerService, SuspendedExpiry, To};
use super::Registry;
use maxine_control::leases::{ExpiryEvent, Suspension};

/// Maximum number of events that are kept for listeners.
const EVENTS_MAX: usize = 64;
/// Time limit for the leader's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// The status of expiry on this node. Clones are cheap.
#[derive(Clone, Debug)]
pub struct ExpiryStatus {
    suspended: Arc<AtomicBool>,
    expired: Arc<AtomicU64>,
    events: broadcast::Sender<ExpiryEvent>,
}

impl Default for ExpiryStatus {
    fn default() -> Self {
        Self {
            suspended: Arc::default(),
            expired: Arc::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
        }
    }
}

impl ExpiryStatus {
    /// Whether expiry is suspended because too many instances became silent at the same time.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::SeqCst)
    }

    /// The number of instances that this node has expired.
    #[must_use]
    pub fn expired_total(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// A receiver for the events of expiry.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ExpiryEvent> {
        self.events.subscribe()
    }

    pub(super) fn add_expired(&self, expired: u64) {
        self.expired.fetch_add(expired, Ordering::Relaxed);
    }

    pub(super) fn report(&self, event: ExpiryEvent) {
        match &event {
            ExpiryEvent::Suspended { suspension: Suspension { silent, fleet }, lasted_ms } => {
                self.suspended.store(true, Ordering::SeqCst);
                tracing::error!(
                    silent,
                    fleet,
                    lasted_ms,
                    "expiry is suspended: too many instances stopped sending heartbeats at the same time"
                );
            }
            ExpiryEvent::Resumed => {
                self.suspended.store(false, Ordering::SeqCst);
                tracing::warn!(
                    "this node no longer suspends expiry; if another node leads now, that node decides"
                );
            }
            ExpiryEvent::Stalled { by_ms } => tracing::warn!(
                stalled_ms = by_ms,
                "leases were not checked for this time, because the process was paused or the store did not answer; all leases are extended by it"
            ),
        }
        // There may be no listener.
        let _unheard = self.events.send(event);
    }
}

/// Answers other nodes whether expiry is suspended. Only the leader knows.
pub(super) struct ExpiryReports {
    pub(super) duties: Duties,
    pub(super) status: ExpiryStatus,
}

impl PeerService<SuspendedExpiry> for ExpiryReports {
    fn answer(&self, _: SuspendedExpiry) -> BoxFuture<'static, Result<bool, String>> {
        let leads = self.duties.borrow().is_some();
        let answer = leads.then(|| self.status.is_suspended());
        futures::future::ready(answer.ok_or_else(|| "this node does not lead".to_owned())).boxed()
    }
}

impl Registry {
    /// Whether expiry is suspended because too many instances became silent at the same time. Asks the leader. `None`
    /// if the leader did not answer, or if no leader is known.
    pub async fn is_expiry_suspended(&self) -> Option<bool> {
        if self.duties.borrow().is_some() {
            return Some(self.expiry.is_suspended());
        }
        let leadership = self.store.leadership_now();
        if leadership.is_leader || leadership.leader.is_none() {
            return None;
        }
        let answer = peer::call(&*self.store, To::Leader, SuspendedExpiry, ANSWER_TIMEOUT).await;
        answer.ok()
    }
}
