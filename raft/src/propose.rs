//! Proposals: from any node to the leader, and from there into the log.
//!
//! A proposal is repeated only while it is certain that nothing was appended. If that is unknown, the outcome
//! is reported as unknown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};

use crate::clock;
use crate::codec::{Channel, ProposeRefusalDto, Request, Response};
use crate::config::NodeId;
use crate::consensus::Payload;
use crate::error::ProposeError;
use crate::inner::{Inner, RaftNode};
use crate::leadership::{LeaderAt, another_is_followed};
use crate::network::link::LinkError;

/// How long this node waits for the answer of a leader that was replaced. A leader that transferred its
/// leadership in an orderly way does answer.
const LATE_ANSWER: Duration = Duration::from_millis(100);
/// A leader that was replaced and not heard for this long has no late answer.
const SILENT_AFTER: Duration = Duration::from_millis(300);
/// Time for the way to the leader and back, in addition to the leader's own time.
const FORWARD_MARGIN: Duration = Duration::from_millis(100);

/// A committed and applied proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its position in the log.
    pub index: u64,
    /// Term of the leader that wrote it.
    pub term: u64,
    /// What the application replied.
    pub reply: Bytes,
}

/// Time limits of a proposal.
#[derive(Clone, Copy, Debug)]
pub struct ProposeTime {
    /// Time in which a leader must be found. If none is found, nothing was proposed, and the error is
    /// [`ProposeError::NoLeader`].
    pub begin: Duration,
    /// Time in which the proposal must end.
    pub end: Duration,
}

impl From<Duration> for ProposeTime {
    fn from(timeout: Duration) -> Self {
        Self { begin: timeout, end: timeout }
    }
}

impl RaftNode {
    /// Proposes on any node; a follower forwards to the leader. Returns once the leader has committed and
    /// applied the entry. Ends within the given time. If the future is dropped, the outcome is unknown.
    pub async fn propose(
        &self,
        payload: Bytes,
        time: impl Into<ProposeTime>,
    ) -> Result<Proposed, ProposeError> {
        let inner = &*self.inner;
        inner.counters.proposals.fetch_add(1, Ordering::Relaxed);
        let result = inner.propose_anywhere(payload, time.into()).await;
        if result.is_err() {
            inner.counters.proposals_failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Proposes only if this node leads.
    pub async fn propose_local(
        &self,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Proposed, ProposeError> {
        self.inner.counters.proposals.fetch_add(1, Ordering::Relaxed);
        let result = self.inner.propose_here(payload, timeout).await;
        if result.is_err() {
            self.inner.counters.proposals_failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl Inner {
    fn check_payload(&self, payload: &Bytes) -> Result<(), ProposeError> {
        if !self.lifecycle.is_accepting() {
            return Err(ProposeError::ShuttingDown);
        }
        if let Some(reason) = self.health.failure() {
            return Err(ProposeError::Storage(reason.to_owned()));
        }
        if payload.len() > self.config.payload_len_max {
            return Err(ProposeError::TooLarge {
                len: payload.len(),
                max: self.config.payload_len_max,
            });
        }
        Ok(())
    }

    async fn propose_anywhere(
        &self,
        payload: Bytes,
        time: ProposeTime,
    ) -> Result<Proposed, ProposeError> {
        self.check_payload(&payload)?;
        let started = clock::now();
        let (begin_by, deadline) = (started + time.begin.min(time.end), started + time.end);
        let mut forwarding = None;
        loop {
            let now = clock::now();
            let left = deadline.saturating_duration_since(now);
            let result = match self.leader_at() {
                _ if now >= begin_by => return Err(ProposeError::NoLeader),
                LeaderAt::Here => {
                    forwarding = None;
                    self.propose_here(payload.clone(), left).await
                }
                LeaderAt::There(leader, addr) => {
                    if forwarding.is_none() {
                        forwarding = Some(
                            self.in_flight.try_acquire().map_err(|_| ProposeError::Overloaded)?,
                        );
                    }
                    self.propose_there(leader, &addr, payload.clone(), left).await
                }
                LeaderAt::Unknown => Err(ProposeError::NoLeader),
            };
            match result {
                Err(ProposeError::NotLeader { .. } | ProposeError::NoLeader) => {}
                result => return result,
            }
            if !self.lifecycle.is_accepting() {
                return Err(ProposeError::ShuttingDown);
            }
            self.pause(begin_by).await;
        }
    }

    pub(crate) async fn propose_here(
        &self,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Proposed, ProposeError> {
        self.check_payload(&payload)?;
        if !self.leads_core() {
            return Err(ProposeError::NotLeader { hint: self.leadership_now().leader });
        }
        let deadline = clock::now() + timeout;
        let _place = self.in_flight.try_acquire().map_err(|_| ProposeError::Overloaded)?;
        let Ok(written) =
            tokio::time::timeout(timeout, self.raft.client_write(Payload(payload))).await
        else {
            return Err(ProposeError::OutcomeUnknown);
        };
        // An earlier leader may still answer reads that miss this entry.
        if written.is_ok() && !self.succeeded(deadline).await {
            return Err(ProposeError::OutcomeUnknown);
        }
        match written {
            Ok(response) => Ok(Proposed {
                index: response.log_id.index,
                term: response.log_id.leader_id.term,
                reply: response.data.0,
            }),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader {
                    hint: forward.leader_id.filter(|leader| *leader != self.config.node_id),
                })
            }
            // The entry was discarded, or the core ended while it was in flight; other nodes may have it.
            Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    async fn propose_there(
        &self,
        leader: NodeId,
        addr: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Proposed, ProposeError> {
        self.counters.proposals_forwarded.fetch_add(1, Ordering::Relaxed);
        let request =
            Request::Propose { payload: payload.into(), timeout_ms: clock::millis(timeout) };
        let link = self.links.get(leader, addr, Channel::App);
        // A leader that is paused or cut off does not answer, and its connection stays open for a while. Once
        // there is another leader, there is no need to wait.
        let replaced = async {
            another_is_followed(&self.raft, leader).await;
            let contact = self.links.context.contacts.get(leader);
            if contact.is_some_and(|contact| clock::since(contact.heard) < SILENT_AFTER) {
                tokio::time::sleep(LATE_ANSWER).await;
            }
        };
        let answer = tokio::select! {
            biased;
            answer = link.request(&request, timeout + FORWARD_MARGIN) => answer,
            () = replaced => Err(LinkError::Timeout),
        };
        match answer {
            Ok(Response::Proposed { index, term, reply }) => {
                Ok(Proposed { index, term, reply: reply.into() })
            }
            Ok(Response::ProposeRefused(refusal)) => Err(refusal_from_dto(refusal)),
            Ok(Response::NotMember(reason) | Response::Removed(reason)) => {
                Err(ProposeError::Refused(reason))
            }
            Ok(Response::Busy) | Err(LinkError::Busy) => Err(ProposeError::Overloaded),
            Err(LinkError::Unreachable(_)) => Err(ProposeError::NoLeader),
            Ok(_) | Err(LinkError::Lost(_) | LinkError::Timeout) => {
                Err(ProposeError::OutcomeUnknown)
            }
        }
    }
}

pub(crate) fn refusal_to_dto(error: ProposeError) -> ProposeRefusalDto {
    match error {
        ProposeError::NotLeader { hint } => ProposeRefusalDto::NotLeader { hint },
        ProposeError::NoLeader => ProposeRefusalDto::NoLeader,
        ProposeError::Overloaded => ProposeRefusalDto::Overloaded,
        ProposeError::TooLarge { len, max } => {
            ProposeRefusalDto::TooLarge { len: len as u64, max: max as u64 }
        }
        ProposeError::OutcomeUnknown => ProposeRefusalDto::OutcomeUnknown,
        ProposeError::Storage(reason) => ProposeRefusalDto::Storage(reason),
        ProposeError::Refused(reason) => ProposeRefusalDto::Refused(reason),
        ProposeError::ShuttingDown => ProposeRefusalDto::ShuttingDown,
    }
}

/// Converts the leader's refusal. If the leader is stopping, this node treats that as a change of the leader.
fn refusal_from_dto(refusal: ProposeRefusalDto) -> ProposeError {
    match refusal {
        ProposeRefusalDto::NotLeader { hint } => ProposeError::NotLeader { hint },
        ProposeRefusalDto::NoLeader
        | ProposeRefusalDto::ShuttingDown
        | ProposeRefusalDto::Storage(_) => ProposeError::NoLeader,
        ProposeRefusalDto::Overloaded => ProposeError::Overloaded,
        ProposeRefusalDto::TooLarge { len, max } => {
            ProposeError::TooLarge { len: len as usize, max: max as usize }
        }
        ProposeRefusalDto::OutcomeUnknown => ProposeError::OutcomeUnknown,
        ProposeRefusalDto::Refused(reason) => ProposeError::Refused(reason),
    }
}
