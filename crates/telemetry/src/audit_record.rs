//! An audit record as JSON: in the native API, in an export, and for whoever gets forwarded records.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use maxine_state::{AuditClass, AuditOutcome, AuditRecord, encode_rejection};

/// Outcome of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[schema(as = AuditOutcome)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcomeView {
    /// The action took effect.
    Success,
    /// The action was refused or failed. In a state of version 1 also an action whose effect is unknown; its object then
    /// ends with `outcome unknown` and the reason.
    Refused,
    /// It is not known whether the action took effect. Only in records from state version 2 on.
    Unknown,
}

impl AuditOutcomeView {
    /// The outcome of a record.
    #[must_use]
    pub fn of(record: &AuditRecord) -> Self {
        match record.outcome {
            AuditOutcome::Success => Self::Success,
            AuditOutcome::Refused(_) => Self::Refused,
            AuditOutcome::Unknown => Self::Unknown,
        }
    }
}

/// One record.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditRecord)]
pub struct AuditRecordView {
    /// Number of the record in the whole log, from 0.
    seq: u64,
    /// Class of the record.
    class: AuditClass,
    /// Number of the record in its class, from 0; there are no gaps.
    class_seq: u64,
    /// The index of the state right after the action.
    index: u64,
    /// When the action took place, in milliseconds since 1970, by the log's clock.
    time_ms: u64,
    /// The user or the part of Maxine that acted; empty for a request without a credential.
    user: Box<str>,
    /// Network address of the caller.
    address: Box<str>,
    /// The request's trace id.
    trace_id: Box<str>,
    /// In Raft mode, the id of the member that sent the request to the leader; null if the leader received it itself.
    via_node: Option<u64>,
    /// The action, such as `instance.register`.
    action: Box<str>,
    /// The object, such as `default/orders/a`.
    object: Box<str>,
    /// Outcome of the action.
    outcome: AuditOutcomeView,
    /// Why the action was refused, in the words of the version that answers; empty on success, and if no reason is
    /// recorded. The hash does not cover it.
    detail: String,
    /// Why the action was refused, as the code that is stored and that the hash covers, in hexadecimal; empty like
    /// `detail`.
    refusal: String,
    /// The hash of the record before this one in the whole log, whether or not that record is still kept.
    previous: String,
    /// SHA-256 over the hash of the record before this one in its class, and over this record's other fields except
    /// `detail`.
    hash: String,
}

impl From<&AuditRecord> for AuditRecordView {
    fn from(record: &AuditRecord) -> Self {
        let why = match &record.outcome {
            AuditOutcome::Refused(Some(why)) => Some(why),
            AuditOutcome::Refused(None) | AuditOutcome::Success | AuditOutcome::Unknown => None,
        };
        Self {
            seq: record.seq,
            class: record.class,
            class_seq: record.class_seq,
            index: record.index,
            time_ms: record.time_ms,
            user: record.user.clone(),
            address: record.address.clone(),
            trace_id: record.trace_id.clone(),
            via_node: record.via_node,
            action: record.action.as_str().into(),
            object: record.object.clone(),
            outcome: AuditOutcomeView::of(record),
            detail: why.map(|why| why.to_string()).unwrap_or_default(),
            refusal: why.map(|why| hex(&encode_rejection(why))).unwrap_or_default(),
            previous: hex(&record.previous),
            hash: hex(&record.hash),
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
