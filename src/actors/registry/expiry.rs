//! The leader's duty to take out what has run out.
//!
//! Before anything is expired the leader confirms that it still leads, gives queued renewals the
//! time of that round trip, and moves all deadlines by any stall of its own: a paused process or
//! a slow disk must not expire a healthy fleet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::broadcast;

use super::former::Heir;
use super::leases::{Due, LeaseTable};
use crate::faults;
use maxine_clock::Clock;
use maxine_state::{
    Actor as Who, Batch, Command, EventKind, Fence, InstanceKey, Proposal, Reply, RequestId,
};
use maxine_store::{Consistency, ControlStore};
use maxine_view::{View, WatchScope};

/// How often deadlines are looked at, in milliseconds.
const TICK_MS: u64 = 100;
/// A tick that comes later than this was a stall, in milliseconds.
const STALL_MS: u64 = 400;
/// Most instances that one entry expires.
const EXPIRE_ITEMS_MAX: usize = 256;
/// How long confirming leadership, and one expiry, may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// Most events kept for listeners.
const EVENTS_MAX: usize = 64;

/// What happened to expiry that operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpiryEvent {
    /// An implausible share of the fleet went silent; nothing is expired for now.
    Suspended {
        /// How many are silent.
        silent: usize,
        /// Out of how many.
        fleet: usize,
    },
    /// Expiry goes on.
    Resumed,
    /// This node was stalled; deadlines were moved by as much.
    Stalled {
        /// For how long, in milliseconds.
        by_ms: u64,
    },
}

/// How expiry is doing on this node. Cloning is cheap.
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
    /// Whether expiry is suspended because too many went silent at once.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::SeqCst)
    }

    /// How many instances this node has expired.
    #[must_use]
    pub fn expired_total(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Follows what happens to expiry.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ExpiryEvent> {
        self.events.subscribe()
    }

    fn tell(&self, event: ExpiryEvent) {
        // Without a listener nobody needs to know.
        let _unheard = self.events.send(event);
    }

    fn set_suspended(&self, now: Option<(usize, usize)>) {
        let before = self.suspended.swap(now.is_some(), Ordering::SeqCst);
        match now {
            Some((silent, fleet)) if !before => {
                tracing::error!(
                    silent,
                    fleet,
                    "expiry is suspended: too many instances stopped sending heartbeats at once"
                );
                self.tell(ExpiryEvent::Suspended { silent, fleet });
            }
            None if before => {
                tracing::warn!("expiry goes on");
                self.tell(ExpiryEvent::Resumed);
            }
            _ => {}
        }
    }
}

/// Everything that the duty needs.
#[derive(Clone)]
pub struct ExpiryDuty {
    pub(super) node: Arc<str>,
    pub(super) store: Arc<dyn ControlStore>,
    pub(super) view: Arc<View>,
    pub(super) clock: Clock,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) takeover_extra_ms: u64,
    pub(super) status: ExpiryStatus,
}

impl ExpiryDuty {
    /// Acknowledges no renewal any more: the deadlines are the next leader's.
    pub(super) fn stand_down(&self) {
        self.leases.close(self.clock.monotonic_ms());
        self.status.set_suspended(None);
    }

    /// Follows the registry and expires what runs out, until dropped.
    pub(super) async fn run(self, fence: Fence) {
        self.leases.begin(fence, self.clock.monotonic_ms());
        let follow = self.follow();
        let inherit = self.inherit(fence);
        let expire = self.expire(fence);
        tokio::join!(follow, inherit, expire);
    }

    /// Learns from the leader before how long leases had to run, once they are all open here.
    async fn inherit(&self, fence: Fence) {
        let mut followed = self.leases.followed();
        if followed.wait_for(|index| *index >= fence.0).await.is_err() {
            return;
        }
        let grant = self.view.snapshot().state.grant().cloned();
        let before = grant.filter(|grant| grant.fence == fence).and_then(|g| g.before.clone());
        let Some(before) = before else { return };
        let heir = Heir {
            node: &self.node,
            store: &*self.store,
            leases: &self.leases,
            clock: &self.clock,
        };
        heir.take_over(&before, fence).await;
    }

    /// Opens and closes leases as instances come and go.
    async fn follow(&self) {
        loop {
            let snapshot = self.view.snapshot();
            let after = snapshot.state.index();
            let now_ms = self.clock.monotonic_ms();
            for (key, service) in snapshot.state.services() {
                for (id, instance) in &service.instances {
                    let key = key.instance(id.clone());
                    self.leases.take_over(&key, instance, now_ms, self.takeover_extra_ms);
                }
            }
            drop(snapshot);
            self.leases.set_followed(after);
            let subscribed = self.view.hub().subscribe(WatchScope::Everything, after);
            let Ok(mut watcher) = subscribed else { continue };
            let mut published = self.view.hub().published();
            loop {
                // Read first: whatever is taken below goes at least so far. Not every index has a
                // change, so the last change alone would not tell how far the table is.
                let index = *published.borrow_and_update();
                let Ok(events) = watcher.take(4_096) else { break };
                let now_ms = self.clock.monotonic_ms();
                for event in &events {
                    match &event.kind {
                        EventKind::InstanceRegistered { key, data } => {
                            self.leases.open(key, data, now_ms);
                        }
                        EventKind::InstanceRemoved { key, .. } => self.leases.forget(key),
                        _ => {}
                    }
                }
                if !events.is_empty() {
                    self.leases.set_followed(watcher.after());
                    continue;
                }
                self.leases.set_followed(index.max(after));
                if published.changed().await.is_err() {
                    return;
                }
            }
            // Too far behind, or the state was replaced: from the snapshot again. Removals were
            // missed, so every deadline starts afresh.
            self.leases.clear();
        }
    }

    async fn expire(&self, fence: Fence) {
        let mut last_ms = self.clock.monotonic_ms();
        loop {
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            last_ms = self.absorb_stall(last_ms);
            if let Err(error) = self.expire_once(fence, &mut last_ms).await {
                tracing::debug!(%error, "expiry put off");
            }
        }
    }

    /// Notices that this node stood still, and moves all deadlines by as much.
    pub(super) fn absorb_stall(&self, last_ms: u64) -> u64 {
        let now_ms = self.clock.monotonic_ms();
        let stalled_ms = now_ms.saturating_sub(last_ms + TICK_MS);
        if stalled_ms >= STALL_MS {
            self.leases.shift(stalled_ms);
            tracing::warn!(
                stalled_ms,
                "this process was paused; all leases are extended by the same time"
            );
            // Of a node that leads no more, others tell: see the conditions of the node.
            if self.store.leadership_now().is_leader {
                self.status.tell(ExpiryEvent::Stalled { by_ms: stalled_ms });
            }
        }
        now_ms
    }

    /// One round: what is due, leadership confirmed, what is due still, expired.
    pub(super) async fn expire_once(
        &self,
        fence: Fence,
        last_ms: &mut u64,
    ) -> Result<usize, String> {
        let due = match self.leases.due(self.clock.monotonic_ms(), EXPIRE_ITEMS_MAX) {
            Due::Nothing => {
                self.status.set_suspended(None);
                return Ok(0);
            }
            Due::Suspended { silent, fleet } => {
                self.status.set_suspended(Some((silent, fleet)));
                return Ok(0);
            }
            Due::Expire(due) => due,
        };
        self.status.set_suspended(None);
        let confirmed = self.confirm().await;
        *last_ms = self.absorb_stall(*last_ms);
        if let Err(error) = confirmed {
            self.leases.give_back(&due);
            return Err(error);
        }
        let items = self.leases.still_due(due, self.clock.monotonic_ms());
        if items.is_empty() {
            return Ok(0);
        }
        let result = self.propose(fence, items.clone()).await;
        *last_ms = self.absorb_stall(*last_ms);
        // What was expired is closed by its event, which may be on its way; of what failed nothing
        // is known. Either way it stays due until then.
        match &result {
            Ok(_) => self.leases.queue_again(&items),
            Err(_) => self.leases.give_back(&items),
        }
        let expired = result?;
        self.status.expired.fetch_add(expired as u64, Ordering::Relaxed);
        Ok(expired)
    }

    async fn confirm(&self) -> Result<(), String> {
        if faults::expire_unconfirmed() {
            return Ok(());
        }
        let barrier = self.store.barrier(Consistency::Strong, CONFIRM_TIMEOUT);
        barrier.await.map_err(|error| error.to_string())?;
        // Renewals that came in with the same packets as the confirmation get their turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn propose(&self, fence: Fence, items: Vec<(InstanceKey, u64)>) -> Result<usize, String> {
        let proposal = Proposal {
            request_id: RequestId(rand::random()),
            proposed_at_ms: self.clock.proposal_ms(),
            fence: Some(fence),
            actor: Who::system("lease-expiry"),
            command: Command::Expire { items },
        };
        let batch = Batch { proposals: vec![proposal] };
        let applied = self.store.propose(batch, CONFIRM_TIMEOUT.into()).await;
        match applied.map_err(|error| error.to_string())?.pop().map(|applied| applied.reply) {
            Some(Reply::Changed(changed)) => Ok(changed.into_iter().filter(|gone| *gone).count()),
            Some(Reply::Rejected(rejection)) => Err(rejection.to_string()),
            other => Err(format!("an unexpected reply to an expiry: {other:?}")),
        }
    }
}

#[cfg(test)]
#[path = "expiry_tests.rs"]
mod tests;
