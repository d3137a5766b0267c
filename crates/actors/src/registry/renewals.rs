//! Sends heartbeats to the leader's lease table.
//!
//! On a node that does not lead they are collected for a few milliseconds and then sent in one message,
//! 24 bytes each. The leader answers for each whether it is known.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::leadership::Duties;
use super::super::peer::{self, PeerService, Renew, RenewalBlock, To};
use super::WriteError;
use maxine_clock::Clock;
use maxine_control::leases::{LeaseId, LeaseTable};
use maxine_store::{CallError, Consistency, ControlStore, Retry, StoreKind};
use maxine_view::View;

/// How long heartbeats are collected.
const GATHER: Duration = Duration::from_millis(2);
/// Maximum number of heartbeats in one message.
const MESSAGE_ITEMS_MAX: usize = 32_768;
/// Maximum number of requests that wait to be collected. Further ones are refused.
const QUEUE_LEN_MAX: usize = 8_192;
/// Maximum number of messages in flight.
const MESSAGES_IN_FLIGHT_MAX: usize = 4;
/// Time limit of one message.
const CALL_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Maximum time for a heartbeat before it is answered with 503. A change of the leader takes less.
const RENEW_TIMEOUT: Duration = Duration::from_millis(4_000);
/// Pause before a message is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the leader waits until it has everything that was acknowledged on any node, and then until its lease
/// table has reached the index of the view. Both waits together fit into [`CALL_TIMEOUT`].
const FOLLOW_TIMEOUT: Duration = Duration::from_millis(450);

type Renewals = Vec<(LeaseId, u64)>;

struct Waiting {
    items: Renewals,
    reply: oneshot::Sender<Vec<bool>>,
    /// Why the last message had no answer.
    failure: Arc<Mutex<Option<CallError>>>,
}

/// Collects heartbeats and sends them to the leader. Clones are cheap.
#[derive(Clone)]
pub(super) struct RenewalBatcher {
    sender: mpsc::Sender<Waiting>,
    store: Arc<dyn ControlStore>,
}

impl RenewalBatcher {
    pub(super) fn start(store: Arc<dyn ControlStore>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN_MAX);
        // It ends by itself when the last sender is dropped.
        tokio::spawn(send_batches(Arc::clone(&store), receiver));
        Self { sender, store }
    }

    /// Renews within `limit`, and never waits for longer than [`RENEW_TIMEOUT`].
    pub(super) async fn renew(
        &self,
        items: Renewals,
        limit: Option<Duration>,
    ) -> Result<Vec<bool>, WriteError> {
        let limit = limit.map_or(RENEW_TIMEOUT, |limit| limit.min(RENEW_TIMEOUT));
        let (reply, answer) = oneshot::channel();
        let failure = Arc::default();
        self.sender
            .try_send(Waiting { items, reply, failure: Arc::clone(&failure) })
            .map_err(|_| WriteError::Overloaded { retry_after_s: 1 })?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(known)) => Ok(known),
            _ => Err(WriteError::Unavailable {
                retry_after_s: 1,
                reason: reason(
                    self.store.kind(),
                    self.store.leadership_now().leader.as_deref(),
                    self.store.refuses_writes(),
                    failure.lock().take(),
                ),
            }),
        }
    }
}

/// Why leases were not renewed: what this node knows of the leader, why the store takes no writes, and why the last
/// message to the leader had no answer.
fn reason(
    kind: StoreKind,
    leader: Option<&str>,
    refuses: Option<String>,
    failure: Option<CallError>,
) -> String {
    let until = match kind.orders_without_leader() {
        true => " until its lease ends (if it has stopped, another node leads then)",
        false => "",
    };
    let why = match (leader, failure) {
        (None, _) => "no leader is known".to_owned(),
        (Some(leader), Some(failure)) => format!("the leader is {leader}{until}, and {failure}"),
        (Some(leader), None) => {
            format!("the leader is {leader}{until}, and it has not answered yet")
        }
    };
    match refuses {
        Some(refuses) => format!("{why}; {refuses}"),
        None => why,
    }
}

async fn send_batches(store: Arc<dyn ControlStore>, mut receiver: mpsc::Receiver<Waiting>) {
    let in_flight = Arc::new(tokio::sync::Semaphore::new(MESSAGES_IN_FLIGHT_MAX));
    while let Some(first) = receiver.recv().await {
        let mut len = first.items.len();
        let mut waiting = vec![first];
        if len < MESSAGE_ITEMS_MAX {
            tokio::time::sleep(GATHER).await;
        }
        while len < MESSAGE_ITEMS_MAX
            && let Ok(next) = receiver.try_recv()
        {
            len += next.items.len();
            waiting.push(next);
        }
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            // After a failure the replies are dropped, and the waiting callers are answered with 503.
            let _in_time = tokio::time::timeout(RENEW_TIMEOUT, send(&*store, waiting)).await;
            drop(permit);
        });
    }
}

async fn send(store: &dyn ControlStore, mut waiting: Vec<Waiting>) {
    loop {
        let len: usize = waiting.iter().map(|waiting| waiting.items.len()).sum();
        let block: RenewalBlock =
            waiting.iter().flat_map(|waiting| waiting.items.iter().copied()).collect();
        match peer::call(store, To::Leader, Renew(block), CALL_TIMEOUT).await {
            Ok(known) if known.len() == len => {
                let mut known = known.into_iter();
                for Waiting { items, reply, .. } in waiting {
                    let _gone = reply.send(known.by_ref().take(items.len()).collect());
                }
                return;
            }
            Ok(_) => tracing::error!("the leader's answer to renewals has the wrong length"),
            // A repeat does no harm, because a second renewal has the same effect as the first.
            Err(error) if error.retry() == Retry::Later => {
                tracing::debug!(%error, "lease renewals have no answer");
                for waiting in &waiting {
                    *waiting.failure.lock() = Some(error.clone());
                }
                if store.refuses_writes().is_some() {
                    // Without a write, no node can get the leader's duties, so another attempt would fail too.
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "lease renewals could not be exchanged");
                return;
            }
        }
        waiting.retain(|waiting| !waiting.reply.is_closed());
        if waiting.is_empty() {
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Renews leases for other nodes, on the leader.
pub(super) struct RenewalService {
    pub(super) store: Arc<dyn ControlStore>,
    pub(super) leases: Arc<LeaseTable>,
    /// Notified when [`LeaseTable::followed`] may have changed.
    pub(super) followed: watch::Receiver<()>,
    pub(super) view: Arc<View>,
    pub(super) clock: Clock,
    pub(super) duties: Duties,
}

/// Whether this node may answer for the leases. It must have the leader's duties, the next leader must not
/// have asked for the remaining times, and its leadership must not have lapsed, as it does while the process
/// is suspended. This is checked after the renewal. A later leader then knows about the renewal, or gives
/// every lease its whole time again.
pub(super) fn answers_for_leases(
    store: &dyn ControlStore,
    duties: &Duties,
    leases: &LeaseTable,
) -> bool {
    duties.borrow().is_some() && leases.is_open() && store.leadership_now().is_leader
}

impl PeerService<Renew> for RenewalService {
    fn answer(&self, Renew(block): Renew) -> BoxFuture<'static, Result<Vec<bool>, String>> {
        let (store, leases, view) =
            (Arc::clone(&self.store), Arc::clone(&self.leases), Arc::clone(&self.view));
        let (clock, duties) = (self.clock.clone(), self.duties.clone());
        let mut followed = self.followed.clone();
        async move {
            let leads = || answers_for_leases(&*store, &duties, &leases);
            if !leads() {
                return Err("this node does not have the leader's duties".into());
            }
            let renew_all = || {
                let now_ms = clock.monotonic_ms();
                block
                    .iter()
                    .map(|(id, epoch)| leases.renew(id, epoch, now_ms))
                    .collect::<Vec<bool>>()
            };
            let mut known = renew_all();
            if known.contains(&false) {
                // The instance may have been registered a moment ago through a node that is ahead of this
                // one, because the leader is not always the first to apply an entry. So a lease counts as
                // unknown only if it is missing from a table that has everything that was acknowledged on any node.
                let caught_up = store.barrier(Consistency::Strong, FOLLOW_TIMEOUT);
                caught_up.await.map_err(|error| format!("the leader is catching up: {error}"))?;
                let index = view.index();
                let cleared = leases.cleared_total();
                let followed = followed.wait_for(|()| leases.followed() >= index);
                if tokio::time::timeout(FOLLOW_TIMEOUT, followed).await.is_err() {
                    return Err("the lease table is still catching up".into());
                }
                known = renew_all();
                if leases.cleared_total() != cleared {
                    return Err("the lease table was cleared meanwhile".into());
                }
            }
            if !leads() {
                return Err("leadership was lost meanwhile".into());
            }
            Ok(known)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::peer::PeerRouter;
    use super::*;
    use maxine_store::MemoryStore;

    fn store() -> Arc<MemoryStore> {
        let view = View::new(Clock::system());
        Arc::new(MemoryStore::new(view, "node-1", Arc::new(PeerRouter::default())))
    }

    async fn refusal(store: &Arc<MemoryStore>, limit: Option<Duration>) -> String {
        let batcher = RenewalBatcher::start(Arc::clone(store) as Arc<dyn ControlStore>);
        match batcher.renew(vec![(LeaseId(1), 0)], limit).await {
            Err(WriteError::Unavailable { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_heartbeat_that_was_not_passed_on_says_why() {
        let store = store();
        let soon = Some(Duration::from_millis(100));
        let starting = "the leader is node-1, and it refused: this node is still starting";
        assert_eq!(refusal(&store, soon).await, starting);
        store.set_available(false);
        assert_eq!(
            refusal(&store, soon).await,
            "the leader is node-1, and it could not be reached"
        );
        let refuses = Some("the store refuses writes (NOREPLICAS)".to_owned());
        let unreachable = Some(CallError::Unreachable);
        assert_eq!(
            reason(StoreKind::Memory, None, refuses, unreachable),
            "no leader is known; the store refuses writes (NOREPLICAS)"
        );
        let none_yet = "the leader is node-1, and it has not answered yet";
        assert_eq!(reason(StoreKind::Raft, Some("node-1"), None, None), none_yet);
        for kind in [StoreKind::Redis, StoreKind::SharedFile] {
            assert_eq!(
                reason(kind, Some("node-1"), None, Some(CallError::Unreachable)),
                "the leader is node-1 until its lease ends (if it has stopped, another node leads then), \
                 and it could not be reached"
            );
        }
    }

    /// While the store takes no writes, nobody can become the leader, so the next message would fail as the first did.
    #[tokio::test]
    async fn a_heartbeat_is_answered_at_once_while_nobody_can_take_the_duties() {
        let store = store();
        store.set_refuses_writes(Some("the store refuses writes (NOREPLICAS)".into()));
        let answer = tokio::time::timeout(RENEW_TIMEOUT / 2, refusal(&store, None)).await;
        assert_eq!(
            answer.expect("it does not wait for the whole time"),
            "the leader is node-1, and it refused: this node is still starting; the store refuses writes (NOREPLICAS)"
        );
    }
}
