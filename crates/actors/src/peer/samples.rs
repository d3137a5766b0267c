//! One message of each kind, with its bytes on the wire.

use super::*;
use maxine_control::health::{LastResult, Observation, ProbeStatus};
use maxine_control::leases::{FormerLease, LeaseId};
use maxine_state::{Fence, InstanceKey, Name, ServiceKey};
use maxine_store::NodeRole;

fn key() -> InstanceKey {
    ServiceKey::new(Name::trusted("d"), Name::trusted("s")).instance(Name::trusted("i"))
}

/// Each question.
pub(super) fn asks() -> Vec<(Ask, &'static [u8])> {
    let observation = Observation {
        key: key(),
        address_index: 7,
        status: Some(ProbeStatus::Dead),
        passive: false,
        last: last_result(),
    };
    let observations = Observations { observer: "n".into(), items: vec![observation] };
    let former = FormerLeases { former: Fence(3), present: Fence(9), from: 0 };
    let steps = TrafficSteps { service: Some(key().service), is_day: true, since_ms: 250 };
    vec![
        (
            Renew([(LeaseId(1), 2)].into_iter().collect()).into_ask(),
            b"\x00\x18\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
        ),
        (observations.into_ask(), b"\x01\x01n\x01\x01d\x01s\x01i\x07\x01\x02\0\x09\0\x01x"),
        (HeardMembers.into_ask(), b"\x02"),
        (ObserverReports(key()).into_ask(), b"\x03\x01d\x01s\x01i"),
        (WallTime.into_ask(), b"\x04"),
        (former.into_ask(), b"\x05\x03\x09\0"),
        (Confirm(Confirmation::Clock).into_ask(), b"\x06\x01"),
        (NodeStatus.into_ask(), b"\x07"),
        (InstanceStatus(key()).into_ask(), b"\x08\x01d\x01s\x01i"),
        (SuspendedExpiry.into_ask(), b"\x09"),
        (NodeAlerts.into_ask(), b"\x0a"),
        (ServiceTraffic { window_ms: 250 }.into_ask(), b"\x0b\xfa"),
        (ObjectiveCounts { since_ms: 250 }.into_ask(), b"\x0c\xfa"),
        (steps.into_ask(), b"\x0d\x01\x01d\x01s\x01\xfa"),
    ]
}

/// Each answer.
pub(super) fn answers() -> Vec<(Answer, &'static [u8])> {
    vec![
        (Answer::Renew(vec![true, false]), b"\x00\x02\x01\0"),
        (Answer::Observations(()), b"\x01"),
        (
            Answer::HeardMembers(vec![member()]),
            b"\x02\x01\x01\x01n\x01p\x01h\x01\0\x01\x01\0\x01\x05\0\x01\x01",
        ),
        (Answer::ObserverReports(vec![observer_report()]), b"\x03\x01\x01n\x01\x07\x09\0\x01x"),
        (Answer::WallTime(250), b"\x04\xfa"),
        (
            Answer::FormerLeases(LeasePage {
                leases: vec![FormerLease {
                    id: LeaseId(1),
                    registered_index: 2,
                    left_ms: 250,
                    extensions: 1,
                }],
                more: true,
                suspended_ms: Some(7),
            }),
            b"\x05\x01\x01\x02\xfa\x01\x01\x01\x07",
        ),
        (Answer::Confirm(true), b"\x06\x01"),
        (
            Answer::NodeStatus(Box::new(node_report())),
            b"\x07\x01n\x01v\x01\x01\x02\x01\x02ab\x01\x03\x01\x01n\x01\x01\x04\x01\0\
              \x01\x09\x01\x08\x01\x07\0\0\x05\x0a\x0b\x0c",
        ),
        (Answer::InstanceStatus(instance_report()), b"\x08\x03\x01\x07\x01\x01x\0\x01\x09"),
        (Answer::SuspendedExpiry(true), b"\x09\x01"),
        (
            Answer::NodeAlerts(AlertsReport { alerts: vec![alert_report()], left_out: 3 }),
            b"\x0a\x01\x01\x02\0\x01\x04\x01\x01k\x01o\x01m\x02{}\x01r\x01\x01u\0\x03",
        ),
        (
            Answer::ServiceTraffic(vec![service_traffic()]),
            b"\x0b\x01\x01d\x01s\x01\x02\x03\x04\x02\x05\x06",
        ),
        (Answer::ObjectiveCounts(objectives_report()), b"\x0c\x01\x02\x01\x01o\x03\x04"),
        (
            Answer::TrafficSteps(vec![traffic_step()]),
            b"\x0d\x01\x01\x02\x03\x04\x05\x06\x07\x02\x08\x09",
        ),
    ]
}

fn member() -> MemberView {
    MemberView {
        id: 1,
        name: "n".into(),
        peer_addr: "p".into(),
        http_addr: "h".into(),
        voter: true,
        leader: false,
        reachable: Some(true),
        acknowledges: None,
        matched_index: Some(5),
        last_contact_ms: None,
        state_version: Some(1),
    }
}

fn observer_report() -> ObserverReport {
    ObserverReport { observer: "n".into(), passive: true, address_index: 7, last: last_result() }
}

fn last_result() -> LastResult {
    LastResult { at_ms: 9, ok: false, detail: "x".into() }
}

fn node_report() -> NodeReport {
    let log = LogReport {
        role: NodeRole::Leader,
        last_log_index: Some(9),
        committed_index: Some(8),
        applied_index: Some(7),
        last_sync_us: None,
        disk_stalled: false,
        log_disk_bytes: 5,
    };
    NodeReport {
        node: "n".into(),
        version: "v".into(),
        uptime_ms: 1,
        index: Some(2),
        audit_head: Some("ab".into()),
        staleness_ms: Some(3),
        leader: Some("n".into()),
        is_leader: true,
        term: Some(4),
        log: Some(log),
        lookups: 10,
        proxied: 11,
        failed: 12,
    }
}

fn alert_report() -> AlertReport {
    AlertReport {
        id: 1,
        time_ms: 2,
        is_event: false,
        resolved_ms: Some(4),
        is_critical: true,
        kind: "k".into(),
        object: "o".into(),
        message: "m".into(),
        details: "{}".into(),
        runbook: "r".into(),
        acknowledged_by: Some("u".into()),
        silenced: false,
    }
}

fn service_traffic() -> ServiceTrafficReport {
    ServiceTrafficReport { namespace: "d".into(), service: "s".into(), calls: calls_from(1) }
}

fn objectives_report() -> ObjectivesReport {
    let sum = ObjectiveReport { name: "o".into(), requests: 3, failures: 4 };
    ObjectivesReport { began_ms: 1, counted_ms: 2, sums: vec![sum] }
}

fn traffic_step() -> TrafficStepReport {
    TrafficStepReport { at_ms: 1, requests: 2, registrations: 3, calls: calls_from(4) }
}

/// Calls with the numbers from `n` on, in the order of the fields.
fn calls_from(n: u32) -> CallsReport {
    CallsReport {
        lookups: n.into(),
        lookups_failed: (n + 1).into(),
        proxied: (n + 2).into(),
        proxied_failed: (n + 3).into(),
        classes: vec![n + 4, n + 5],
    }
}

fn instance_report() -> InstanceReport {
    let probe = ProbeReport { at_ms: 7, ok: true, detail: "x".into(), latency_ms: None };
    InstanceReport { in_flight: 3, probes: vec![probe], overdue_ms: Some(9) }
}
