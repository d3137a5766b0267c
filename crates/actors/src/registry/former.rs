//! The transfer of the remaining times of leases to the next leader: the question between nodes, and its
//! answer.
//!
//! [`maxine_control::leases`] decides which leases are transferred, and how the answer is used.

use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::super::peer::{PeerKind, PeerService};
use super::super::supervisor::Supervised;
use super::leases::{HandOver, Inherit, LeaseActor};
use maxine_control::leases::{FormerLease, LeaseId};
use maxine_state::{Fence, FormerGrant};
use maxine_store::ControlStore;
use maxine_view::View;

/// Maximum number of leases in one answer.
const PAGE_LEN_MAX: usize = 16_384;
/// Maximum length of each message, in bytes.
const MESSAGE_LEN_MAX: usize = 1024 * 1024;
/// Time limit of the previous leader for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long the previous leader waits for the grant that ends its own.
const GRANT_TIMEOUT: Duration = Duration::from_millis(800);
/// Maximum number of attempts to ask for one page.
const ATTEMPTS_MAX: usize = 2;

/// The messages. Variants are only ever appended.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
enum Wire {
    /// Asks for the remaining times under the grant `former`, which the grant `present` ended, from a
    /// position on.
    AskV1 { former: u64, present: u64, from: u64 },
    /// The remaining times from that position: lease, registration, time. `more` says whether there are
    /// further ones.
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

/// The previous leader's side.
pub(super) struct FormerService {
    pub(super) actor: Supervised<LeaseActor>,
    pub(super) view: Arc<View>,
    /// Set to true once the next leader has all remaining times.
    pub(super) handed_over: watch::Sender<bool>,
}

impl PeerService for FormerService {
    fn answer(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let (actor, view) = (self.actor.clone(), Arc::clone(&self.view));
        let handed_over = self.handed_over.clone();
        async move {
            let Wire::AskV1 { former, present, from } = decode(&body)? else {
                return Err("not a question for leases".into());
            };
            let seen = view.wait_for(present, GRANT_TIMEOUT).await;
            seen.map_err(|_| "the new leader's grant has not arrived here")?;
            let ask = HandOver { former: Fence(former), present: Fence(present) };
            let left = actor.send(ask).await.map_err(|error| error.to_string())??;
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(left.leases().len());
            let rest = &left.leases()[from..];
            let page = &rest[..rest.len().min(PAGE_LEN_MAX)];
            let more = page.len() < rest.len();
            let page = page.iter().map(|l| (l.id.0, l.registered_index, l.left_ms)).collect();
            let answer = encode(&Wire::LeftV1 { leases: page, more })?;
            if !more {
                handed_over.send_replace(true);
            }
            Ok(answer.into())
        }
        .boxed()
    }
}

/// The new leader's side.
pub(super) struct Heir {
    pub(super) store: Arc<dyn ControlStore>,
    pub(super) actor: actix::Addr<LeaseActor>,
    /// What is added to the TTL of a lease whose remaining time is not known, in milliseconds.
    pub(super) extra_ms: u64,
}

impl Heir {
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
            let ask = Wire::AskV1 { former: before.fence.0, present: present.0, from };
            let mut message = vec![PeerKind::FormerLeases as u8];
            message.extend(encode(&ask).ok()?);
            let answer = self.store.call_member(member, message.into(), ANSWER_TIMEOUT).await;
            let page = answer.map_err(|error| error.to_string()).and_then(|bytes| decode(&bytes));
            let (leases, more) = match page {
                Ok(Wire::LeftV1 { leases, more }) => (leases, more),
                other => {
                    attempts += 1;
                    tracing::debug!(
                        ?other,
                        member,
                        attempts,
                        "the node did not answer what was left of the leases"
                    );
                    if attempts == ATTEMPTS_MAX {
                        return None;
                    }
                    continue;
                }
            };
            let left: Vec<FormerLease> = leases
                .into_iter()
                .map(|(id, registered_index, left_ms)| FormerLease {
                    id: LeaseId(id),
                    registered_index,
                    left_ms,
                })
                .collect();
            taken += left.len();
            let is_last = !more || left.is_empty();
            // The actor reads the clock after the answer, so no lease ends too early.
            self.actor.send(Inherit { present, leases: left }).await.ok()?;
            if is_last {
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
