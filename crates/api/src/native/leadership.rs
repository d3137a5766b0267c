//! The history of leaders and the causes of changes. It is read from the audit log's records about leadership.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::audit::newest_first;
use super::extract::Params;
use super::fresh::{Fresh, Freshness};
use super::page::{self, Page};
use crate::lists::Listing;
use crate::problem::Problem;
use maxine_actors::{HANDOVER_GAP_MS, read_takeover};
use maxine_state::{AuditAction, AuditRecord};

/// An admin's transfer is recorded within this time before or after the grant, in milliseconds.
const TRANSFER_TOLERANCE_MS: u64 = 15_000;

/// Why leadership changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum LeadershipCause {
    /// The cause is unknown, because this is the oldest change that is kept.
    First,
    /// An admin transferred leadership.
    Transfer,
    /// The previous leader transferred leadership by itself, as a node does when it is stopped.
    Handover,
    /// The previous leader became silent.
    Silence,
    /// The same node took over its duties again, after it had lost its majority or was restarted.
    Regained,
    /// The new leader did not know how the previous leadership ended: it had just started, or had not followed that
    /// leader.
    Unknown,
}

/// A change of leadership.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeadershipChange {
    /// The index of the change, which is the holder's fencing token.
    index: u64,
    /// When the change took place, in milliseconds since 1970.
    time_ms: u64,
    /// Name of the node that took over the leader's duties.
    holder: String,
    /// Fencing token of the new holder.
    fence: u64,
    /// Why leadership changed.
    cause: LeadershipCause,
    /// Name of the previous leader: the holder of the change before; null for the oldest one.
    from: Option<String>,
    /// How long there was no leader that could acknowledge a write, in milliseconds; null if the new leader did not
    /// know it.
    gap_ms: Option<u64>,
    /// The admin who asked for the transfer; null if nobody did.
    by: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Timeline {
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists who took over the leader's duties, when and why, newest first. The list reaches further back than the audit
/// log by a thousand records.
#[utoipa::path(
    get, path = "/api/v1/cluster/leadership", tag = "cluster", operation_id = "clusterLeadership",
    params(Timeline, Freshness), responses((status = 200, body = Page<LeadershipChange>)),
)]
pub(super) async fn leadership(
    fresh: Fresh,
    Params(query): Params<Timeline>,
    listing: Listing,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let records = newest_first(fresh.state().audit().leadership(), query.cursor.as_deref())?;
    let changes = changes(records.filter(|record| record.outcome.is_success()));
    let cursor = |change: &(u64, LeadershipChange)| page::cursor_of(&[&change.0.to_string()]);
    Ok(listing.answer(fresh.json(Page::take(changes, limit, cursor, |(_, change)| change))))
}

/// A grant, with the records up to the next newer grant.
struct Grant<'a> {
    record: &'a AuditRecord,
    /// The transfers that were recorded after it and before the next grant.
    transfers: Vec<&'a AuditRecord>,
    /// The leader that the new leader had followed, and how long there was no leader after it, in milliseconds.
    known: Option<(String, u64)>,
}

/// The grants among `records`, newest first, each with its sequence number in the audit log.
fn changes<'a>(
    records: impl Iterator<Item = &'a AuditRecord>,
) -> impl Iterator<Item = (u64, LeadershipChange)> {
    let mut transfers: Vec<&AuditRecord> = Vec::new();
    let mut takeover: Option<(u64, String, u64)> = None;
    let mut grants = records
        .filter_map(move |record| {
            match record.action {
                AuditAction::LeadershipTransfer => transfers.push(record),
                AuditAction::LeadershipTakeover => {
                    takeover = read_takeover(&record.object)
                        .map(|(from, ms)| (record.seq, from.to_owned(), ms));
                }
                AuditAction::LeadershipGrant => {
                    // The leader writes both records together.
                    let known = takeover.take().filter(|(seq, ..)| *seq == record.seq + 1);
                    let known = known.map(|(_, from, gap_ms)| (from, gap_ms));
                    return Some(Grant {
                        record,
                        transfers: std::mem::take(&mut transfers),
                        known,
                    });
                }
                _ => {}
            }
            None
        })
        .peekable();
    std::iter::from_fn(move || {
        let Grant { record, transfers, known } = grants.next()?;
        let older = grants.peek();
        // The node that received the transfer request records it when it knows the new leader. That may be before or
        // after the new leader records its grant.
        let recorded_before = older.map(|older| older.transfers.as_slice()).unwrap_or_default();
        let near = |transfer: &&&AuditRecord| {
            let apart_ms = record.time_ms.abs_diff(transfer.time_ms);
            transfer.object == record.object && apart_ms <= TRANSFER_TOLERANCE_MS
        };
        let asked = transfers.iter().chain(recorded_before).find(near);
        let by = asked.map(|transfer| transfer.user.to_string());
        // The leader that the new leader had followed may be an earlier one. Then its silence says nothing about this
        // change.
        let from = older.map(|older| older.record.object.to_string());
        let gap_ms = known.filter(|(name, _)| from.as_ref() == Some(name)).map(|(_, ms)| ms);
        let cause = cause_of(&record.object, by.is_some(), from.as_deref(), gap_ms);
        let change = LeadershipChange {
            index: record.index,
            time_ms: record.time_ms,
            holder: record.object.as_ref().into(),
            fence: record.index,
            cause,
            from,
            gap_ms,
            by,
        };
        Some((record.seq, change))
    })
}

fn cause_of(holder: &str, asked: bool, from: Option<&str>, gap_ms: Option<u64>) -> LeadershipCause {
    match (from, gap_ms) {
        _ if asked => LeadershipCause::Transfer,
        (None, _) => LeadershipCause::First,
        (Some(from), _) if from == holder => LeadershipCause::Regained,
        (Some(_), Some(gap_ms)) if gap_ms <= HANDOVER_GAP_MS => LeadershipCause::Handover,
        (Some(_), Some(_)) => LeadershipCause::Silence,
        (Some(_), None) => LeadershipCause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{AuditClass, AuditOutcome};

    fn record(
        seq: u64,
        time_ms: u64,
        user: &str,
        action: AuditAction,
        object: &str,
    ) -> AuditRecord {
        AuditRecord {
            seq,
            class: AuditClass::Cluster,
            class_seq: seq,
            index: seq * 10,
            time_ms,
            user: user.into(),
            address: "".into(),
            trace_id: "".into(),
            via_node: None,
            action,
            object: object.into(),
            outcome: AuditOutcome::Success,
            previous: [0; 32],
            hash: [0; 32],
        }
    }

    #[test]
    fn each_change_has_the_cause_that_its_records_show() {
        let records = [
            record(1, 0, "system:leadership", AuditAction::LeadershipGrant, "node-1"),
            record(2, 5_000, "", AuditAction::InstanceRegister, "default/a/1"),
            record(3, 90_000, "system:leadership", AuditAction::LeadershipGrant, "node-2"),
            record(
                4,
                90_000,
                "system:leadership",
                AuditAction::LeadershipTakeover,
                "node-1, no leader for 812 ms",
            ),
            record(5, 95_000, "system:leadership", AuditAction::LeadershipGrant, "node-3"),
            record(
                6,
                95_000,
                "system:leadership",
                AuditAction::LeadershipTakeover,
                "node-2 handed over, no leader for 12 ms",
            ),
            record(7, 95_400, "ada", AuditAction::LeadershipTransfer, "node-3"),
            record(8, 200_000, "system:leadership", AuditAction::LeadershipGrant, "node-3"),
            record(
                9,
                200_000,
                "system:leadership",
                AuditAction::LeadershipTakeover,
                "node-3 leads again, no leader for 4000 ms",
            ),
            record(10, 300_000, "system:leadership", AuditAction::LeadershipGrant, "node-1"),
            record(
                11,
                300_000,
                "system:leadership",
                AuditAction::LeadershipTakeover,
                "node-3 handed over, no leader for 80 ms",
            ),
            record(12, 400_000, "system:leadership", AuditAction::LeadershipGrant, "node-2"),
        ];
        let found: Vec<_> = changes(records.iter().rev())
            .map(|(seq, c)| (seq, c.holder, c.cause, c.from, c.gap_ms, c.by))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                (12, "node-2".into(), LeadershipCause::Unknown, some("node-1"), None, None),
                (10, "node-1".into(), LeadershipCause::Handover, some("node-3"), Some(80), None),
                (8, "node-3".into(), LeadershipCause::Regained, some("node-3"), Some(4_000), None),
                (
                    5,
                    "node-3".into(),
                    LeadershipCause::Transfer,
                    some("node-2"),
                    Some(12),
                    some("ada")
                ),
                (3, "node-2".into(), LeadershipCause::Silence, some("node-1"), Some(812), None),
                (1, "node-1".into(), LeadershipCause::First, None, None, None),
            ]
        );
    }

    #[test]
    fn a_transfer_that_is_recorded_before_its_grant_is_the_cause_of_that_grant() {
        let records = [
            record(1, 0, "system:leadership", AuditAction::LeadershipGrant, "node-1"),
            record(2, 5_000, "system:leadership", AuditAction::LeadershipGrant, "node-2"),
            record(3, 9_000, "ada", AuditAction::LeadershipTransfer, "node-3"),
            record(4, 9_040, "system:leadership", AuditAction::LeadershipGrant, "node-3"),
            record(
                5,
                9_040,
                "system:leadership",
                AuditAction::LeadershipTakeover,
                "node-2 handed over, no leader for 12 ms",
            ),
        ];
        let found: Vec<_> =
            changes(records.iter().rev()).map(|(seq, c)| (seq, c.cause, c.by)).collect();
        assert_eq!(
            found,
            [
                (4, LeadershipCause::Transfer, Some("ada".into())),
                (2, LeadershipCause::Unknown, None),
                (1, LeadershipCause::First, None),
            ]
        );
    }

    #[test]
    fn the_previous_leader_is_the_one_of_the_change_before() {
        let granted = AuditAction::LeadershipGrant;
        let taken = AuditAction::LeadershipTakeover;
        let records = [
            record(1, 0, "system:leadership", granted, "node-7"),
            record(2, 3_000, "system:leadership", granted, "node-3"),
            record(3, 3_000, "system:leadership", taken, "node-7, no leader for 3020 ms"),
            // It had followed node 7, and never knew node 3 as a leader.
            record(4, 9_000, "system:leadership", granted, "node-2"),
            record(5, 9_000, "system:leadership", taken, "node-7, no leader for 8946 ms"),
        ];
        let found: Vec<_> =
            changes(records.iter().rev()).map(|(_, c)| (c.from, c.cause, c.gap_ms)).collect();
        let from = |name: &str| Some(name.to_owned());
        assert_eq!(
            found,
            [
                (from("node-3"), LeadershipCause::Unknown, None),
                (from("node-7"), LeadershipCause::Silence, Some(3_020)),
                (None, LeadershipCause::First, None),
            ]
        );
    }
}
