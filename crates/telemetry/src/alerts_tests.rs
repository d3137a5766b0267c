use super::*;

fn event(object: &str) -> Notice {
    Notice::new(AlertKind::UpstreamEvicted, object, "gone")
}

fn lost(object: &str) -> Notice {
    Notice::new(AlertKind::MemberUnreachable, object, "not heard")
}

fn alerts(len_max: usize) -> Alerts {
    Alerts::new("node-1".into(), len_max, None)
}

/// Delivers everything that is due.
fn deliver(alerts: &Alerts, now_ms: u64) -> Vec<(String, AlertState)> {
    let due = alerts.due(10, now_ms, now_ms);
    due.iter().for_each(|alert| alerts.note_delivery(alert, true, now_ms));
    due.into_iter().map(|alert| (alert.object, alert.state)).collect()
}

#[test]
fn alerts_are_numbered_acknowledged_and_silenced() {
    let alerts = alerts(2);
    assert_eq!(alerts.push(event("a"), 1).unwrap().id, 1);
    assert!(alerts.acknowledge(1, "ada"));
    let until = |until_ms| Silence {
        kind: AlertKind::UpstreamEvicted,
        until_ms,
        reason: String::new(),
        by: "a".into(),
    };
    assert!(alerts.silence(until(10), 2).unwrap());
    assert!(alerts.push(event("b"), 9).unwrap().silenced);
    assert!(!alerts.push(event("c"), 10).unwrap().silenced);
    let ids: Vec<u64> = alerts.newest_first().iter().map(|a| a.id).collect();
    assert_eq!(ids, [3, 2]);
    assert!(!alerts.acknowledge(1, "ada"));
    assert!(alerts.silence(until(0), 3).unwrap());
    assert!(alerts.silences(3).is_empty());
}

#[test]
fn a_condition_is_one_alert_from_when_it_began_until_it_is_over() {
    let alerts = alerts(1);
    assert_eq!(alerts.raise(lost("node-2"), 5), Raised::New);
    assert_eq!(alerts.raise(lost("node-2"), 6), Raised::Already);
    assert_eq!(alerts.raise(lost("node-3"), 7), Raised::New);
    // Active conditions are kept, however many events there are.
    for n in 0..9 {
        alerts.push(event("x"), 10 + n);
    }
    assert_eq!(alerts.active(AlertKind::MemberUnreachable, Severity::Critical), 2);
    let listed = alerts.newest_first();
    assert_eq!(listed.len(), 3);
    let oldest = listed.last().unwrap();
    assert_eq!((oldest.time_ms, oldest.state), (5, AlertState::Active));
    assert_eq!(alerts.clear(AlertKind::MemberUnreachable, "node-9", 20).map(|a| a.id), None);
    let over = alerts.clear(AlertKind::MemberUnreachable, "node-3", 20).unwrap();
    assert_eq!((over.state, over.resolved_ms, over.time_ms), (AlertState::Resolved, Some(20), 7));
    assert_eq!(alerts.clear(AlertKind::MemberUnreachable, "node-3", 21).map(|a| a.id), None);
    assert_eq!(alerts.raise(lost("node-3"), 30), Raised::New, "it begins anew");
}

#[test]
fn the_leader_tells_once_that_it_began_and_once_that_it_is_over() {
    let alerts = alerts(9);
    alerts.raise(lost("node-2"), 1);
    assert_eq!(deliver(&alerts, 1), [("node-2".to_owned(), AlertState::Active)]);
    alerts.raise(lost("node-2"), 2);
    assert_eq!(deliver(&alerts, 2), []);
    alerts.raise(lost("node-2").severity(Severity::Warning), 3);
    alerts.clear(AlertKind::MemberUnreachable, "node-2", 4);
    assert_eq!(deliver(&alerts, 4), [("node-2".to_owned(), AlertState::Resolved)]);
    assert_eq!(deliver(&alerts, 5), []);
}

#[test]
fn a_follower_tells_of_itself_alone_and_of_the_cluster_once_it_leads() {
    let alerts = alerts(9);
    alerts.set_reports_for_cluster(false);
    alerts.raise(lost("node-2"), 1);
    alerts.raise(lost("node-3"), 1);
    alerts.raise(Notice::new(AlertKind::DiskSlow, "node-1", "slow"), 1);
    assert_eq!(deliver(&alerts, 1), [("node-1".to_owned(), AlertState::Active)]);
    alerts.clear(AlertKind::MemberUnreachable, "node-2", 2);
    alerts.set_reports_for_cluster(true);
    // The previous leader may have stopped before it reported the alert.
    let expected =
        [("node-2".to_owned(), AlertState::Resolved), ("node-3".into(), AlertState::Active)];
    assert_eq!(deliver(&alerts, 3), expected);
    // The node that reported the beginning also reports the end.
    alerts.set_reports_for_cluster(false);
    alerts.clear(AlertKind::MemberUnreachable, "node-3", 4);
    assert_eq!(deliver(&alerts, 4), [("node-3".to_owned(), AlertState::Resolved)]);
    // A condition that ended long before this node led is not reported again.
    alerts.raise(lost("node-4"), 5);
    alerts.clear(AlertKind::MemberUnreachable, "node-4", 6);
    alerts.set_reports_for_cluster(true);
    assert_eq!(deliver(&alerts, 6 + RESOLVED_AGAIN_MS), []);
}

#[test]
fn a_node_does_not_report_the_end_of_what_it_no_longer_knows() {
    let alerts = alerts(9);
    alerts.raise(lost("node-2"), 1);
    assert_eq!(deliver(&alerts, 1).len(), 1);
    // This node was removed. The next leader reports the end of the condition.
    assert!(alerts.withdraw(AlertKind::MemberUnreachable, "node-2", 2));
    assert_eq!(deliver(&alerts, 3), []);
    assert_eq!(alerts.newest_first()[0].state, AlertState::Resolved);
    assert!(!alerts.withdraw(AlertKind::MemberUnreachable, "node-2", 4));
    alerts.raise(lost("node-2"), 5);
    alerts.clear(AlertKind::MemberUnreachable, "node-2", 6);
    assert_eq!(deliver(&alerts, 7), [("node-2".to_owned(), AlertState::Resolved)], "a later one");
}

#[test]
fn a_flood_of_one_kind_pushes_out_no_other_and_ends_in_one_alert() {
    let alerts = alerts(20);
    let gap = Notice::new(AlertKind::AuditGap, "audit", "records are missing");
    alerts.push(gap, 1).unwrap();
    let pushed: Vec<_> = (0..1_000).filter_map(|n| alerts.push(event(&n.to_string()), 2)).collect();
    assert_eq!(pushed.len(), EVENTS_MAX as usize + 1);
    assert_eq!(pushed.last().unwrap().object, "further");
    let kept = alerts.newest_first();
    assert_eq!((kept.len(), kept.last().unwrap().kind), (20, AlertKind::AuditGap));
    assert_eq!(alerts.push(event("later"), 2 + EVENTS_WITHIN_MS).unwrap().object, "later");
}

#[test]
fn a_delivery_that_failed_is_repeated_later_each_time() {
    let alerts = alerts(9);
    alerts.push(event("a"), 0);
    let mut now_ms = 0;
    for pause_ms in [1_000, 2_000, 4_000] {
        let due = alerts.due(1, now_ms, now_ms);
        assert_eq!(due.len(), 1);
        assert!(alerts.due(1, now_ms, now_ms).is_empty(), "it is under way");
        alerts.note_delivery(&due[0], false, now_ms);
        assert!(alerts.due(1, now_ms + pause_ms - 1, now_ms).is_empty());
        now_ms += pause_ms;
    }
    assert_eq!(deliver(&alerts, now_ms).len(), 1);
    assert!(alerts.due(1, now_ms + 100_000, now_ms).is_empty());
}

#[test]
fn more_active_conditions_than_fit_are_left_out() {
    let alerts = alerts(1);
    for n in 0..ACTIVE_MAX {
        assert_eq!(alerts.raise(lost(&n.to_string()), 1), Raised::New);
    }
    assert_eq!(alerts.raise(lost("more"), 1), Raised::LeftOut);
    assert!(alerts.clear(AlertKind::MemberUnreachable, "7", 2).is_some());
    assert_eq!(alerts.raise(lost("more"), 3), Raised::New);
}

#[test]
fn a_silence_outlives_a_restart_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alert-silences");
    let open = || Alerts::new("node-1".into(), 10, Some(file.clone()));
    let silence = Silence {
        kind: AlertKind::UpstreamEvicted,
        until_ms: 1_000,
        reason: "planned".into(),
        by: "ada".into(),
    };
    assert!(open().silence(silence.clone(), 1).unwrap());
    let again = open();
    assert_eq!(again.silences(2), std::slice::from_ref(&silence));
    assert!(again.push(event("a"), 2).unwrap().silenced);
    assert!(!again.push(event("b"), 1_000).unwrap().silenced, "it ends when it said");
    assert!(again.silence(Silence { until_ms: 0, ..silence.clone() }, 3).unwrap());
    assert!(open().silences(3).is_empty());
    // A silence of a kind that this version does not know is left out. The others stay in force.
    let unknown = r#"{"type":"later.kind","until_ms":1000,"reason":"","by":"ada"}"#;
    let stored = format!("[{unknown},{}]", serde_json::to_string(&silence).unwrap());
    std::fs::write(&file, stored).unwrap();
    assert_eq!(open().silences(2), std::slice::from_ref(&silence));
    // A silence that cannot be stored does not take effect.
    let nowhere = dir.path().join("missing").join("alert-silences");
    let alerts = Alerts::new("node-1".into(), 10, Some(nowhere));
    alerts.silence(silence, 1).unwrap_err();
    assert!(alerts.silences(2).is_empty());
}
