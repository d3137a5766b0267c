//! Handles requests of other nodes: forwarded proposals, reads and administration, and messages of the
//! application.

use std::time::Duration;

use bytes::Bytes;

use crate::application::PeerHandler;
use crate::codec::{Channel, ProposeRefusalDto, Request, Response};
use crate::config::NodeId;
use crate::error::CallError;
use crate::inner::Inner;
use crate::leadership::LeaderAt;
use crate::network::link::LinkError;
use crate::read::ReadLevel;
use crate::{membership, propose, read};

/// Maximum time for a forwarded request, whatever time it requests.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The receiver of a message of `RaftNode::call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One node by its id.
    Node(NodeId),
    /// The present leader.
    Leader,
}

/// Carries out a request that the member `from` forwarded, if this node leads.
pub(crate) async fn answer(
    inner: &Inner,
    handler: &dyn PeerHandler,
    from: NodeId,
    request: Request,
) -> Response {
    match request {
        Request::Propose { payload, timeout_ms } => {
            let payload = match handler.admit(from, payload.into()) {
                Ok(payload) => payload,
                Err(reason) => {
                    tracing::warn!(from, %reason, "a proposal from another node was refused");
                    return Response::ProposeRefused(ProposeRefusalDto::Refused(reason));
                }
            };
            match inner.propose_here(payload, bounded(timeout_ms)).await {
                Ok(proposed) => Response::Proposed {
                    index: proposed.index,
                    term: proposed.term,
                    reply: proposed.reply.into(),
                },
                Err(error) => Response::ProposeRefused(propose::refusal_to_dto(error)),
            }
        }
        Request::ReadIndex { strong, timeout_ms } => {
            let level = if strong { ReadLevel::Strong } else { ReadLevel::Leader };
            if !inner.leads_core() {
                return Response::ReadRefused;
            }
            match read::read_index_here(inner, level, bounded(timeout_ms)).await {
                Some(index) => Response::ReadIndex { index },
                None => Response::ReadRefused,
            }
        }
        Request::Confirm => inner.confirm(),
        Request::Admin { operation, timeout_ms } => {
            tracing::info!(from, "a membership change was forwarded to the leader");
            match membership::carry_out(inner, operation, bounded(timeout_ms)).await {
                Ok(()) => Response::AdminDone,
                Err(error) => Response::AdminRefused(membership::refusal_to_dto(error)),
            }
        }
        other => Response::Failed(format!("{other:?} is not a forwarded request")),
    }
}

fn bounded(timeout_ms: u64) -> Duration {
    Duration::from_millis(timeout_ms).min(TIMEOUT_MAX)
}

/// Sends an application message.
pub(crate) async fn call(
    inner: &Inner,
    to: Target,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, CallError> {
    if !inner.lifecycle.is_accepting() {
        return Err(CallError::ShuttingDown);
    }
    if body.len() > inner.config.payload_len_max {
        return Err(CallError::TooLarge { len: body.len(), max: inner.config.payload_len_max });
    }
    let (node, addr) = match to {
        Target::Node(node) if node == inner.config.node_id => {
            return Err(CallError::UnknownNode(node));
        }
        Target::Node(node) => (node, inner.member_addr(node).ok_or(CallError::UnknownNode(node))?),
        Target::Leader => match inner.leader_at() {
            LeaderAt::There(node, addr) => (node, addr),
            LeaderAt::Here | LeaderAt::Unknown => return Err(CallError::NoLeader),
        },
    };
    match inner
        .links
        .get(node, &addr, Channel::App)
        .request(&Request::App { body: body.into() }, timeout)
        .await
    {
        Ok(Response::App { body }) => Ok(body.into()),
        Ok(
            Response::AppRefused(reason) | Response::NotMember(reason) | Response::Removed(reason),
        ) => Err(CallError::Refused { node, reason }),
        Ok(Response::Failed(reason)) => Err(CallError::NoAnswer { node, reason }),
        Ok(Response::Busy) | Err(LinkError::Busy) => Err(CallError::Overloaded(node)),
        Ok(other) => {
            Err(CallError::NoAnswer { node, reason: format!("unexpected answer {other:?}") })
        }
        Err(LinkError::Unreachable(reason)) => Err(CallError::Unreachable { node, reason }),
        Err(error @ (LinkError::Lost(_) | LinkError::Timeout)) => {
            Err(CallError::NoAnswer { node, reason: error.to_string() })
        }
    }
}
