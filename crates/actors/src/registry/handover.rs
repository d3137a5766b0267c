//! The transfer of the remaining times of leases to the next leader: the question between nodes, and its
//! answer.
//!
//! [`maxine_control::leases`] decides which leases are transferred, and how the answer is used.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::super::peer::{self, FormerLeases, LeasePage, PAGE_LEN_MAX, PeerService, To};
use super::super::supervisor::Supervised;
use super::leases::{HandOver, Inherit, LeaseActor};
use maxine_state::{Fence, FormerGrant};
use maxine_store::{ControlStore, Retry};
use maxine_view::View;

/// How long the former leader may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long the previous leader waits for the grant that ends its own.
const GRANT_TIMEOUT: Duration = Duration::from_millis(800);
/// Maximum number of attempts to ask for one page.
const ATTEMPTS_MAX: usize = 2;

/// The former leader's side.
pub(super) struct HandoverService {
    pub(super) actor: Supervised<LeaseActor>,
    pub(super) view: Arc<View>,
    /// Set to true once the next leader has all remaining times.
    pub(super) handed_over: watch::Sender<bool>,
}

impl PeerService<FormerLeases> for HandoverService {
    fn answer(&self, ask: FormerLeases) -> BoxFuture<'static, Result<LeasePage, String>> {
        let (actor, view) = (self.actor.clone(), Arc::clone(&self.view));
        let handed_over = self.handed_over.clone();
        async move {
            let FormerLeases { former, present, from } = ask;
            let seen = view.wait_for(present.0, GRANT_TIMEOUT).await;
            seen.map_err(|_| "the new leader's grant has not arrived here")?;
            let ask = HandOver { former, present };
            let left = actor.send(ask).await.map_err(|error| error.to_string())??;
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(left.leases().len());
            let rest = &left.leases()[from..];
            let page = &rest[..rest.len().min(PAGE_LEN_MAX)];
            let more = page.len() < rest.len();
            if !more {
                handed_over.send_replace(true);
            }
            Ok(LeasePage { leases: page.to_vec(), more })
        }
        .boxed()
    }
}

/// The new leader's side.
pub(super) struct HandoverClient {
    pub(super) store: Arc<dyn ControlStore>,
    pub(super) actor: actix::Addr<LeaseActor>,
    /// What is added to the TTL of a lease whose remaining time is not known, in milliseconds.
    pub(super) extra_ms: u64,
}

impl HandoverClient {
    /// Takes over the remaining times of the previous leader, if it can still report them.
    pub(super) async fn take_over(&self, before: &FormerGrant, present: Fence) {
        let former = before.holder.as_str();
        match self.ask(before, present).await {
            Some(leases) => {
                tracing::info!(former, leases, "took over the remaining times of the leases")
            }
            None => tracing::info!(
                former,
                extra_ms = self.extra_ms,
                "the remaining times of the leases are unknown; each lease runs for its whole TTL plus extra_ms from now"
            ),
        }
    }

    async fn ask(&self, before: &FormerGrant, present: Fence) -> Option<usize> {
        let status = self.store.cluster()?.status();
        let others = status.members.iter().filter(|member| member.id != status.node_id);
        // A member that was named before its node was configured may have another name in the membership than
        // in its grant. Only the holder of that grant has an answer.
        let (named, unnamed): (Vec<_>, Vec<_>) =
            others.partition(|member| member.name == before.holder.as_str());
        for member in named.into_iter().chain(unnamed) {
            if let Some(taken) = self.ask_member(member.id, before, present).await {
                return Some(taken);
            }
        }
        None
    }

    async fn ask_member(&self, member: u64, before: &FormerGrant, present: Fence) -> Option<usize> {
        let (mut taken, mut attempts) = (0, 0);
        loop {
            let from = taken as u64;
            let ask = FormerLeases { former: before.fence, present, from };
            let (store, to) = (self.store.as_ref(), To::Member(member));
            let LeasePage { leases, more } = match peer::call(store, to, ask, ANSWER_TIMEOUT).await
            {
                Ok(page) => page,
                Err(error) => {
                    attempts += 1;
                    tracing::debug!(
                        %error,
                        member,
                        attempts,
                        "the node did not answer what was left of the leases"
                    );
                    if attempts == ATTEMPTS_MAX || error.retry() != Retry::Later {
                        return None;
                    }
                    continue;
                }
            };
            taken += leases.len();
            let is_last = !more || leases.is_empty();
            // The actor reads the clock after the answer, so a lease never ends too soon by it.
            self.actor.send(Inherit { present, leases }).await.ok()?;
            if is_last {
                return Some(taken);
            }
        }
    }
}
