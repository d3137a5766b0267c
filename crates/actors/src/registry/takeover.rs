//! The new leader's side of a transfer of leases: asks the previous leader how long each lease had left.
//!
//! [`maxine_control::leases`] decides how the answer is used. The other side is in `handover`.

use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};

use super::super::peer::{self, FormerLeases, LeasePage, To};
use maxine_control::leases::FormerLease;
use maxine_state::{Fence, FormerGrant};
use maxine_store::{ControlStore, Retry};

/// How long the former leader may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Maximum number of attempts to ask for one page.
const ATTEMPTS_MAX: usize = 2;

/// Remaining times of some leases under the previous leader.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Inherit {
    pub(super) present: Fence,
    pub(super) leases: Vec<FormerLease>,
    pub(super) suspended_ms: Option<u64>,
}

/// Asks the previous leader for the remaining times of the leases.
pub(super) struct Takeover {
    pub(super) store: Arc<dyn ControlStore>,
    /// The actor that takes the answers.
    pub(super) leases: Recipient<Inherit>,
    /// What is added to the TTL of a lease whose remaining time is not known, in milliseconds.
    pub(super) extra_ms: u64,
}

impl Takeover {
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
        // A member may have another name in the membership than in its grant, so the others are asked too. Only the
        // holder of that grant has an answer.
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
            let page = peer::call(store, to, ask, ANSWER_TIMEOUT).await;
            let LeasePage { leases, more, suspended_ms } = match page {
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
            // The actor reads the clock after the answer has arrived, so no lease ends too early.
            self.leases.send(Inherit { present, leases, suspended_ms }).await.ok()?;
            if is_last {
                return Some(taken);
            }
        }
    }
}
