//! The questions between nodes, and their answers. A test compares the bytes of each one. A message is never
//! changed: a new version of it gets a new row in the table of the parent module.

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use serde::Serialize;
use utoipa::ToSchema;

use super::codec::{Message, MessageError};
use super::{Answer, Ask};
use maxine_control::health::Observation;
use maxine_control::leases::{FormerLease, LeaseId};
use maxine_state::{Fence, InstanceKey, ServiceKey};
use maxine_store::NodeRole;

/// Maximum number of alerts in one message.
pub const ALERTS_MAX: usize = 200;
/// Maximum number of observations in one message. The sender sends the rest later.
pub const OBSERVATIONS_MAX: usize = 2_000;
/// Maximum number of reports of observers in one answer. An instance never has so many observers.
pub const REPORTS_MAX: usize = 256;
/// Maximum number of leases in one answer.
pub const PAGE_LEN_MAX: usize = 16_384;
/// Maximum number of probes of one instance in one answer.
pub const PROBES_MAX: usize = 12;
/// Maximum number of steps of traffic in one answer: a day in steps of a minute.
pub const STEPS_MAX: usize = 1_440;

fn at_most(max: usize, len: usize) -> Result<(), MessageError> {
    if len <= max { Ok(()) } else { Err(MessageError::TooMany { len, max }) }
}

impl Message for Ask {
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Observations(seen) => at_most(OBSERVATIONS_MAX, seen.items.len()),
            _ => Ok(()),
        }
    }
}

impl Message for Answer {
    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::ObserverReports(reports) => at_most(REPORTS_MAX, reports.len()),
            Self::FormerLeases(page) => at_most(PAGE_LEN_MAX, page.leases.len()),
            Self::InstanceStatus(report) => at_most(PROBES_MAX, report.probes.len()),
            Self::TrafficSteps(steps) => at_most(STEPS_MAX, steps.len()),
            _ => Ok(()),
        }
    }
}

/// Leases to be renewed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Renew(pub RenewalBlock);

/// Renewals, 24 bytes each: the lease, and the index of the registration that it belongs to. They are encoded and
/// decoded as one block, because a message holds thousands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewalBlock(Vec<u8>);

impl RenewalBlock {
    const ITEM_LEN: usize = 24;

    /// The number of renewals.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / Self::ITEM_LEN
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each lease, with the index of its registration; 0 means any registration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (LeaseId, u64)> {
        self.0.chunks_exact(Self::ITEM_LEN).map(|item| {
            let (mut id, mut epoch) = ([0; 16], [0; 8]);
            id.copy_from_slice(&item[..16]);
            epoch.copy_from_slice(&item[16..]);
            (LeaseId(u128::from_le_bytes(id)), u64::from_le_bytes(epoch))
        })
    }
}

impl FromIterator<(LeaseId, u64)> for RenewalBlock {
    fn from_iter<I: IntoIterator<Item = (LeaseId, u64)>>(renewals: I) -> Self {
        let renewals = renewals.into_iter();
        let mut block = Vec::with_capacity(renewals.size_hint().0 * Self::ITEM_LEN);
        for (id, epoch) in renewals {
            block.extend_from_slice(&id.0.to_le_bytes());
            block.extend_from_slice(&epoch.to_le_bytes());
        }
        Self(block)
    }
}

impl Encode for RenewalBlock {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C> Decode<C> for RenewalBlock {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let block = Vec::decode(decoder)?;
        match block.len().is_multiple_of(Self::ITEM_LEN) {
            true => Ok(Self(block)),
            false => Err(DecodeError::Other("a renewal is cut off")),
        }
    }
}
bincode::impl_borrow_decode!(RenewalBlock);

/// What the probes of a node found.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Observations {
    /// The node that probed.
    pub observer: String,
    /// What it found; at most [`OBSERVATIONS_MAX`].
    pub items: Vec<Observation>,
}

/// Asks which members the leader hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeardMembers;

/// Asks for the last report of each observer of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObserverReports(pub InstanceKey);

/// Asks for a node's wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WallTime;

/// Asks how long each lease had left when a leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FormerLeases {
    /// The grant of that leadership.
    pub former: Fence,
    /// The grant that ended it.
    pub present: Fence,
    /// How many leases of the answer the caller has already.
    pub from: u64,
}

/// Leases, and how long each had left.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeasePage {
    /// The leases from the position that was asked for; at most [`PAGE_LEN_MAX`].
    pub leases: Vec<FormerLease>,
    /// Whether further leases follow.
    pub more: bool,
    /// How long expiry had been suspended when the leadership ended, in milliseconds; `None` if it was not.
    pub suspended_ms: Option<u64>,
}

/// What an operator confirms to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Confirm(pub Confirmation);

/// What an operator can confirm, because only a person can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Confirmation {
    /// The silent instances are gone: a suspended expiry continues.
    Silence,
    /// The leader's clock is right after a leap: audit records are dropped for their age again.
    Clock,
}

/// Asks the leader whether expiry is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SuspendedExpiry;

/// Asks a node for its report about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeStatus;

/// A node's report about itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, ToSchema)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// Maxine's version on it.
    pub version: String,
    /// How long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// The index of its state; null while it has none.
    pub index: Option<u64>,
    /// The newest hash of its audit log, which is the same on every node at the same index; null while it has no
    /// state.
    pub audit_head: Option<String>,
    /// How old its state can be, in milliseconds; null if it does not know.
    pub staleness_ms: Option<u64>,
    /// The leader, as that node knows it.
    pub leader: Option<String>,
    /// Whether it claims to be the leader.
    pub is_leader: bool,
    /// The term it is in, or the fencing token of the leader's lease; null while it knows none.
    pub term: Option<u64>,
    /// Its log; null if the backend has none.
    pub log: Option<LogReport>,
    /// Number of look-ups by callers in the last minute.
    pub lookups: u64,
    /// Number of callers' requests that it forwarded in the last minute.
    pub proxied: u64,
    /// Number of look-ups and forwarded requests in the last minute that ended with a status of 500 or more.
    pub failed: u64,
}

/// The log of a node, as the node reports it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, ToSchema)]
pub struct LogReport {
    /// The role of the node in its cluster.
    pub role: NodeRole,
    /// The number of the last log entry on it; null while it has none.
    pub last_log_index: Option<u64>,
    /// The last log entry that it knows to be committed; null while it knows of none.
    pub committed_index: Option<u64>,
    /// The last log entry that it has applied; null while it has applied none.
    pub applied_index: Option<u64>,
    /// How long its last sync took, in microseconds; null before the first sync.
    pub last_sync_us: Option<u64>,
    /// Whether its disk is stalled.
    pub disk_stalled: bool,
    /// The size of its log on disk, in bytes.
    pub log_disk_bytes: u64,
}

/// Asks a node for its alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeAlerts;

/// The newest alerts of a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AlertsReport {
    /// The alerts, newest first: every active one before all others, and at most [`ALERTS_MAX`].
    pub alerts: Vec<AlertReport>,
    /// Number of active alerts beyond that.
    pub left_out: u64,
}

/// An alert, as the node that raised it reports it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AlertReport {
    /// Its number on that node.
    pub id: u64,
    /// When it began, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whether it is an event, which has no end.
    pub is_event: bool,
    /// When it was resolved, in milliseconds since 1970.
    pub resolved_ms: Option<u64>,
    /// Whether it is critical; otherwise it is a warning.
    pub is_critical: bool,
    /// The name of its kind. This node may not know the kind.
    pub kind: String,
    /// The object that it concerns.
    pub object: String,
    /// A description in one line.
    pub message: String,
    /// Further values, as a JSON object.
    pub details: String,
    /// The page with the instructions.
    pub runbook: String,
    /// The user who acknowledged it.
    pub acknowledged_by: Option<String>,
    /// Whether it is silenced.
    pub silenced: bool,
}

/// Asks a node for the calls to each service through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServiceTraffic {
    /// How far to look back, in milliseconds.
    pub window_ms: u64,
}

/// The calls to one service through one node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServiceTrafficReport {
    /// The namespace.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// The calls.
    pub calls: CallsReport,
}

/// The calls that one node counted, to one service or to all.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallsReport {
    /// Look-ups.
    pub lookups: u64,
    /// Look-ups that failed.
    pub lookups_failed: u64,
    /// Forwarded requests.
    pub proxied: u64,
    /// Forwarded requests that failed.
    pub proxied_failed: u64,
    /// Number of forwarded requests by latency: entry `n` counts those that took less than `64 << n` microseconds.
    pub classes: Vec<u32>,
}

/// Asks a node for the requests that it counted for the service level objectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObjectiveCounts {
    /// From when on, in milliseconds since 1970.
    pub since_ms: u64,
}

/// The requests that a node counted for the service level objectives.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObjectivesReport {
    /// When it counted for the first time in the window, in milliseconds since 1970.
    pub began_ms: u64,
    /// For how long it has counted since then, in milliseconds.
    pub counted_ms: u64,
    /// The sums, one for each objective with requests.
    pub sums: Vec<ObjectiveReport>,
}

/// The requests of one objective through one node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObjectiveReport {
    /// The name of the objective. This node may not know it.
    pub name: String,
    /// All requests.
    pub requests: u64,
    /// Failed requests.
    pub failures: u64,
}

/// Asks a node for the traffic through it, in steps.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TrafficSteps {
    /// The service; `None` for all requests.
    pub service: Option<ServiceKey>,
    /// Whether the long steps are asked for, which reach back a day.
    pub is_day: bool,
    /// Only steps that began at this time or later, in milliseconds since 1970.
    pub since_ms: u64,
}

/// The traffic of one step through one node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TrafficStepReport {
    /// When the step began, in milliseconds since 1970.
    pub at_ms: u64,
    /// Requests of all kinds.
    pub requests: u64,
    /// Registrations and heartbeats.
    pub registrations: u64,
    /// The calls.
    pub calls: CallsReport,
}

/// Asks a node what it knows of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InstanceStatus(pub InstanceKey);

/// What a node knows of an instance.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct InstanceReport {
    /// Requests in flight to it through this node's proxy.
    pub in_flight: u64,
    /// The node's latest probes of it, newest first; at most [`PROBES_MAX`].
    pub probes: Vec<ProbeReport>,
    /// If the node leads, and expiry is suspended: how long ago the instance's time to live ended, in milliseconds.
    pub overdue_ms: Option<u64>,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ProbeReport {
    /// When the probe was made, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the probe succeeded.
    pub ok: bool,
    /// The result, in one line.
    pub detail: String,
    /// Duration, in milliseconds; `None` if it was not measured.
    pub latency_ms: Option<f64>,
}
