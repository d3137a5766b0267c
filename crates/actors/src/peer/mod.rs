//! Messages from the actors of one node to those of another: every question, its answer, and the one way to ask.
//!
//! Place in the flow: [`call`] encodes a question, the store carries it, and the [`PeerRouter`] of the other node
//! passes it to the service that answers it. The table below is the whole protocol. The store makes the links between
//! nodes, and decides who may use them.

mod codec;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod messages;
mod router;
#[cfg(any(test, feature = "fuzz"))]
mod samples;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use maxine_control::health::ObserverReport;
use maxine_store::{CallError, ControlStore, MemberView, PeerHandler};

pub use codec::{MESSAGE_LEN_MAX, MessageError};
pub use messages::{
    ALERTS_MAX, AlertReport, AlertsReport, CallsReport, Confirm, Confirmation, FormerLeases,
    HeardMembers, InstanceReport, InstanceStatus, LeasePage, LogReport, NodeAlerts, NodeReport,
    NodeStatus, OBSERVATIONS_MAX, ObjectiveCounts, ObjectiveReport, ObjectivesReport, Observations,
    ObserverReports, PAGE_LEN_MAX, PROBES_MAX, ProbeReport, REPORTS_MAX, Renew, RenewalBlock,
    STEPS_MAX, ServiceTraffic, ServiceTrafficReport, SuspendedExpiry, TrafficStepReport,
    TrafficSteps, WallTime,
};
pub use router::{PeerService, Question, Slot};

router::messages! {
    /// Renews leases on the leader. The answer says for each lease whether it is known.
    Renew, renew => Vec<bool>;
    /// Reports to the leader what the probes of a node found.
    Observations, observations => ();
    /// Asks the leader which members it hears.
    HeardMembers, heard_members => Vec<MemberView>;
    /// Asks the leader for the last report of each observer of an instance.
    ObserverReports, observer_reports => Vec<ObserverReport>;
    /// Asks for a node's wall-clock time, in milliseconds since 1970.
    WallTime, wall_time => u64;
    /// Asks the former leader how long each lease had left.
    FormerLeases, former_leases => LeasePage;
    /// Passes an operator's confirmation to the leader. The answer says whether there was anything to confirm.
    Confirm, confirm => bool;
    /// Asks a node for its report about itself.
    NodeStatus, node_status => Box<NodeReport>;
    /// Asks a node what it knows of an instance.
    InstanceStatus, instance_status => InstanceReport;
    /// Asks the leader whether expiry is suspended.
    SuspendedExpiry, suspended_expiry => bool;
    /// Asks a node for its alerts.
    NodeAlerts, node_alerts => AlertsReport;
    /// Asks a node for the calls to each service through it.
    ServiceTraffic, service_traffic => Vec<ServiceTrafficReport>;
    /// Asks a node for the requests that it counted for the service level objectives.
    ObjectiveCounts, objective_counts => ObjectivesReport;
    /// Asks a node for the traffic through it, in steps.
    TrafficSteps, traffic_steps => Vec<TrafficStepReport>;
}

/// The node that a question goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The node that leads now.
    Leader,
    /// The member with this number. Only for backends that have members.
    Member(u64),
}

/// Asks another node, and waits for its answer for at most `timeout`.
///
/// # Errors
/// See [`CallError`]: each says whether the question may have taken effect, and whether a retry can help.
pub async fn call<Q: Question>(
    store: &dyn ControlStore,
    to: To,
    question: Q,
    timeout: Duration,
) -> Result<Q::Answer, CallError> {
    let message = codec::encode(&question.into_ask());
    let message = message.map_err(|error| CallError::Unsendable(error.to_string()))?;
    let answer = match to {
        To::Leader => store.call_leader(message, timeout).await?,
        To::Member(id) => store.call_member(id, message, timeout).await?,
    };
    let unreadable = |error: MessageError| CallError::Unreadable(error.to_string());
    let answer: Answer = codec::decode(&answer).map_err(unreadable)?;
    Q::from_answer(answer).ok_or_else(|| unreadable(MessageError::WrongAnswer))
}

impl PeerHandler for PeerRouter {
    fn handle(&self, message: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let answer = match codec::decode::<Ask>(&message) {
            Ok(ask) => self.route(ask),
            Err(error) => futures::future::ready(Err(error.to_string())).boxed(),
        };
        async move { codec::encode(&answer.await?).map_err(|error| error.to_string()) }.boxed()
    }
}
