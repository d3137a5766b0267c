//! What a leader leaves of the leases when its leadership ends, and how the next one takes it over.
//!
//! A leader that takes over cannot know when a lease was last renewed, and so gives each its whole
//! time. The one before knows. It is asked once the new grant has reached it: from then on it
//! acknowledges nothing, and what it says is all there was. The time of a lease stands still from
//! that moment until the answer is here, for nobody could renew it meanwhile. A leader that is dead
//! or cut off says nothing, and its leases keep their whole time (decision record 0011).

use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::peer::{PeerKind, PeerService};
use super::leases::{LeaseId, LeaseTable};
use maxine_clock::Clock;
use maxine_state::{Fence, FormerGrant};
use maxine_store::ControlStore;
use maxine_view::View;

/// Most leases in one answer.
const PAGE_LEN_MAX: usize = 16_384;
/// Largest message of either kind, in bytes.
const MESSAGE_LEN_MAX: usize = 1024 * 1024;
/// How long the former leader may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long the former leader waits for the grant that ends its own.
const GRANT_TIMEOUT: Duration = Duration::from_millis(800);
/// Most attempts to ask for one page.
const ATTEMPTS_MAX: usize = 2;

/// What was left of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerLease {
    /// Which lease.
    pub id: LeaseId,
    /// Of which registration in the log.
    pub registered_index: u64,
    /// How long it had to run, in milliseconds; 0 if it had run out.
    pub left_ms: u64,
}

/// What was left of all leases under a grant. It does not change any more.
#[derive(Debug)]
pub struct Former {
    fence: Fence,
    leases: Vec<FormerLease>,
}

impl Former {
    /// What was left under the grant `fence`.
    #[must_use]
    pub fn new(fence: Fence, leases: Vec<FormerLease>) -> Self {
        Self { fence, leases }
    }

    /// The grant that it was left under.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The leases, in no order.
    #[must_use]
    pub fn leases(&self) -> &[FormerLease] {
        &self.leases
    }
}

/// The wire's messages. Variants are only ever appended.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
enum Wire {
    /// Asks for what was left under the grant `former`, which the grant `present` ended, from a
    /// position on.
    AskV1 { former: u64, present: u64, from: u64 },
    /// From that position: lease, registration, time left. `more` if there are further ones.
    LeftV1 { leases: Vec<(u128, u64, u64)>, more: bool },
}

fn encode(wire: &Wire) -> Result<Vec<u8>, String> {
    let config = bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>();
    bincode::encode_to_vec(wire, config).map_err(|error| error.to_string())
}

fn decode(bytes: &[u8]) -> Result<Wire, String> {
    let config = bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>();
    let (wire, _) = bincode::decode_from_slice(bytes, config).map_err(|error| error.to_string())?;
    Ok(wire)
}

/// The former leader's side.
pub(super) struct FormerService {
    pub(super) leases: Arc<LeaseTable>,
    pub(super) view: Arc<View>,
    pub(super) clock: Clock,
}

impl PeerService for FormerService {
    fn answer(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let (leases, view, clock) =
            (Arc::clone(&self.leases), Arc::clone(&self.view), self.clock.clone());
        async move {
            let Wire::AskV1 { former, present, from } = decode(&body)? else {
                return Err("not a question for leases".into());
            };
            // Only the log ends a leadership: this node must have seen the grant itself.
            let seen = view.wait_for(present, GRANT_TIMEOUT).await;
            seen.map_err(|_| "the new leader's grant has not arrived here")?;
            let grant = view.snapshot().state.grant().map_or(0, |grant| grant.fence.0);
            if former >= present || grant < present {
                return Err("no grant has ended that one".into());
            }
            let left = leases.former(Fence(former), clock.monotonic_ms());
            let left = left.ok_or("nothing is kept of that grant")?;
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(left.leases.len());
            let rest = &left.leases[from..];
            let page = &rest[..rest.len().min(PAGE_LEN_MAX)];
            let more = page.len() < rest.len();
            let page = page.iter().map(|l| (l.id.0, l.registered_index, l.left_ms)).collect();
            let answer = encode(&Wire::LeftV1 { leases: page, more })?;
            if !more {
                leases.set_handed_over();
            }
            Ok(answer.into())
        }
        .boxed()
    }
}

/// The new leader's side.
pub(super) struct Heir<'a> {
    pub(super) node: &'a str,
    pub(super) store: &'a dyn ControlStore,
    pub(super) leases: &'a LeaseTable,
    pub(super) clock: &'a Clock,
}

impl Heir<'_> {
    /// Takes over what the leader before left, if it can still say so. The leases must all be open.
    pub(super) async fn take_over(&self, before: &FormerGrant, present: Fence) {
        let holder = before.holder.as_str();
        let taken = if holder == self.node {
            let now_ms = self.clock.monotonic_ms();
            let former = self.leases.former(before.fence, now_ms);
            former.map(|former| {
                self.leases.inherit(present, former.leases(), now_ms);
                former.leases().len()
            })
        } else {
            self.ask(before, present).await
        };
        match taken {
            Some(leases) => {
                tracing::info!(
                    former = holder,
                    leases,
                    "took over the remaining times of the leases"
                )
            }
            None => tracing::info!(
                former = holder,
                "the remaining times of the leases are unknown; each lease gets its whole TTL"
            ),
        }
    }

    async fn ask(&self, before: &FormerGrant, present: Fence) -> Option<usize> {
        let status = self.store.cluster()?.status();
        let others = status.members.iter().filter(|member| member.id != status.node_id);
        // A member that was named before its node was configured is known by another name than the
        // one that it leads under. Only the holder of that grant has an answer.
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
            let ask = Wire::AskV1 { former: before.fence.0, present: present.0, from };
            let mut message = vec![PeerKind::FormerLeases as u8];
            message.extend(encode(&ask).ok()?);
            let answer = self.store.call_member(member, message.into(), ANSWER_TIMEOUT).await;
            let page = answer.map_err(|error| error.to_string()).and_then(|bytes| decode(&bytes));
            let (leases, more) = match page {
                Ok(Wire::LeftV1 { leases, more }) => (leases, more),
                other => {
                    attempts += 1;
                    tracing::debug!(?other, member, attempts, "nothing was said of the leases");
                    if attempts == ATTEMPTS_MAX {
                        return None;
                    }
                    continue;
                }
            };
            // By this node's clock, read after the answer: a lease never ends too soon by it.
            let now_ms = self.clock.monotonic_ms();
            let left: Vec<FormerLease> = leases
                .into_iter()
                .map(|(id, registered_index, left_ms)| FormerLease {
                    id: LeaseId(id),
                    registered_index,
                    left_ms,
                })
                .collect();
            taken += left.len();
            self.leases.inherit(present, &left, now_ms);
            if !more || left.is_empty() {
                return Some(taken);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bytes() {
        let ask = encode(&Wire::AskV1 { former: 3, present: 9, from: 0 }).unwrap();
        assert_eq!(ask, [0, 3, 9, 0]);
        let left = Wire::LeftV1 { leases: vec![(1, 2, 250)], more: true };
        let bytes = encode(&left).unwrap();
        assert_eq!(bytes, [1, 1, 1, 2, 250, 1]);
        assert_eq!(decode(&bytes).unwrap(), left);
        assert!(decode(&[7]).is_err());
    }

    #[test]
    fn the_largest_page_fits_into_a_message() {
        let leases = vec![(u128::MAX, u64::MAX, u64::MAX); PAGE_LEN_MAX];
        assert!(encode(&Wire::LeftV1 { leases, more: true }).is_ok());
    }
}
