use super::*;

fn member(id: u64, reachable: Option<bool>, last_contact_ms: Option<u64>) -> MemberView {
    MemberView {
        id,
        name: format!("node-{id}"),
        peer_addr: format!("10.0.0.{id}:7700"),
        http_addr: String::new(),
        voter: true,
        leader: false,
        reachable,
        acknowledges: None,
        matched_index: Some(100),
        last_contact_ms,
        state_version: None,
    }
}

/// Three voters as node 1 sees them: what it knows about the other two.
fn seen(leader: Option<&str>, others: [(Option<bool>, Option<u64>); 2]) -> NodeCondition {
    let [two, three] = others;
    let members =
        vec![member(1, Some(true), None), member(2, two.0, two.1), member(3, three.0, three.1)];
    let cluster = ClusterStatus { node_id: 1, members, ..ClusterStatus::default() };
    let leader = leader.map(str::to_owned);
    let leadership = Leadership { is_leader: leader.as_deref() == Some("node-1"), leader, term: 1 };
    NodeCondition { leadership, cluster: Some(cluster), ..NodeCondition::default() }
}

const UP: (Option<bool>, Option<u64>) = (Some(true), Some(10));
const DOWN: (Option<bool>, Option<u64>) = (Some(false), Some(60_000));
const UNTOLD: (Option<bool>, Option<u64>) = (None, None);

/// Checks every second from `from_s` to `to_s`. Returns when a condition was first raised, or was resolved.
fn run(watch: &mut Watch, seen: &NodeCondition, from_s: u64, to_s: u64) -> Vec<(u64, String)> {
    let mut raised: Vec<(u64, String)> = Vec::new();
    for s in from_s..=to_s {
        let judged = watch.judge(seen, s * 1_000);
        for change in watch.settle(judged, s * 1_000) {
            let text = match change {
                Change::Raise(notice) => format!("+{} {}", notice.kind.name(), notice.object),
                Change::Clear(kind, object) => format!("-{} {object}", kind.name()),
                Change::Withdraw(kind, object) => format!("?{} {object}", kind.name()),
            };
            if !raised.iter().any(|(_, before)| *before == text) {
                raised.push((s, text));
            }
        }
    }
    raised
}

fn watch() -> Watch {
    Watch::new("node-1".into())
}

#[test]
fn a_member_that_is_not_heard_is_named_and_resolved_when_it_is_back() {
    let mut watch = watch();
    assert_eq!(run(&mut watch, &seen(Some("node-1"), [UP, UP]), 0, 9), []);
    let down = run(&mut watch, &seen(Some("node-1"), [UP, DOWN]), 10, 19);
    assert_eq!(down, [(13, "+cluster.member_unreachable node-3".to_owned())]);
    // If the new leader does not answer this node for a while, the condition is not resolved.
    assert_eq!(run(&mut watch, &seen(Some("node-2"), [UP, UNTOLD]), 20, 29), []);
    let over = run(&mut watch, &seen(Some("node-2"), [UP, UP]), 30, 39);
    assert_eq!(over, [(32, "-cluster.member_unreachable node-3".to_owned())]);
    // One second of silence is normal.
    assert_eq!(run(&mut watch, &seen(Some("node-1"), [DOWN, UP]), 40, 41), []);
    assert_eq!(run(&mut watch, &seen(Some("node-1"), [UP, UP]), 42, 49), []);
}

#[test]
fn a_lost_majority_names_whom_nobody_hears() {
    let mut watch = watch();
    let lost = seen(None, [DOWN, UNTOLD]);
    let raised = run(&mut watch, &lost, 0, 9);
    let expected = [
        (3, "+cluster.member_unreachable node-2"),
        (3, "+cluster.member_unreachable node-3"),
        (5, "+cluster.no_majority cluster"),
    ];
    assert_eq!(raised, expected.map(|(s, text)| (s, text.to_owned())));
    let judged = watch.judge(&lost, 10_000);
    let no_majority = judged.holds.iter().find(|notice| notice.kind == AlertKind::NoMajority);
    let expected = "no majority: writes need 2 voters; heard in the last 5 s, this node included: 1; not heard: node-2, node-3";
    assert_eq!(no_majority.unwrap().message, expected);
    assert!(watch.nobody_leads(&lost, 10_000) || watch.nobody_leads(&lost, 15_000));
    let raised = run(&mut watch, &seen(Some("node-2"), [UP, UP]), 20, 29);
    assert_eq!(raised.len(), 3, "{raised:?}");
    assert!(raised.iter().all(|(_, text)| text.starts_with('-')), "{raised:?}");
}

#[test]
fn an_election_raises_nothing_but_a_cluster_that_cannot_agree_does() {
    let mut watch = watch();
    assert_eq!(run(&mut watch, &seen(None, [UP, UP]), 0, 4), []);
    assert_eq!(run(&mut watch, &seen(Some("node-2"), [UP, UP]), 5, 9), []);
    let raised = run(&mut watch, &seen(None, [UP, UP]), 10, 19);
    assert_eq!(raised, [(15, "+cluster.no_leader cluster".to_owned())]);
}

#[test]
fn leaders_that_change_often_are_told_until_they_no_longer_do() {
    let mut watch = watch();
    let with = |leader_changes| NodeCondition { leader_changes, ..seen(Some("node-1"), [UP, UP]) };
    assert_eq!(run(&mut watch, &with(3), 0, 9), []);
    let raised = run(&mut watch, &with(4), 10, 19);
    assert_eq!(raised, [(10, "+cluster.leader_changes_often cluster".to_owned())]);
    let over = run(&mut watch, &with(3), 20, 29);
    let expected = (22, "-cluster.leader_changes_often cluster".to_owned());
    assert_eq!(over, [expected], "resolved after some seconds without it");
}

#[test]
fn every_change_of_the_leader_counts_and_a_leader_that_returns_does_not() {
    let grants =
        [(1_000, "a"), (2_000, "b"), (2_010, "a"), (2_020, "a"), (2_030, "b"), (9_000, "c")];
    let count = |from_ms| leader_changes(grants.into_iter(), from_ms);
    assert_eq!((count(0), count(2_005), count(5_000), count(9_001)), (4, 3, 1, 0));
}

#[test]
fn a_member_lags_that_has_not_got_what_the_log_had_ten_seconds_ago() {
    let mut watch = watch();
    let at = |end: u64, matched: u64| {
        let mut seen = seen(Some("node-1"), [UP, UP]);
        let cluster = seen.cluster.as_mut().unwrap();
        cluster.last_log_index = Some(end);
        for (member, has) in cluster.members.iter_mut().zip([end, end, matched]) {
            member.matched_index = Some(has);
        }
        seen
    };
    let mut raised = Vec::new();
    for s in 0..30 {
        raised.extend(run(&mut watch, &at(100 + s * 10, 95 + s * 10), s, s));
    }
    assert_eq!(raised, [], "a little behind is no lag");
    for s in 30..60 {
        raised.extend(run(&mut watch, &at(100 + s * 10, 390), s, s));
    }
    assert_eq!(raised[0], (43, "+cluster.member_lags node-3".to_owned()));
}

#[test]
fn refused_writes_are_told_until_one_is_carried_out() {
    let mut watch = watch();
    let with = |decided, refused| NodeCondition {
        writes: Writes { decided, refused, unknown: 0, last_refusal: "no leader".into() },
        ..seen(Some("node-1"), [UP, UP])
    };
    assert_eq!(run(&mut watch, &with(5, 0), 0, 1), []);
    assert_eq!(run(&mut watch, &with(9, 1), 2, 2), [], "others went through");
    let raised = run(&mut watch, &with(9, 2), 3, 10);
    assert_eq!(raised, [(3, "+node.writes_refused node-1".to_owned())]);
    let over = run(&mut watch, &with(10, 2), 11, 15);
    assert_eq!(over, [(13, "-node.writes_refused node-1".to_owned())]);
    run(&mut watch, &with(10, 3), 16, 16);
    let over = run(&mut watch, &with(10, 3), 17, 60);
    assert!(over.iter().any(|(s, text)| *s >= 46 && text.starts_with('-')), "{over:?}");
}

#[test]
fn writes_stay_refused_while_the_store_takes_none_and_end_when_it_takes_them() {
    let mut watch = watch();
    let with = |store_refuses, refused| NodeCondition {
        writes: Writes { decided: 5, refused, unknown: 0, last_refusal: "OOM".into() },
        store_refuses,
        ..seen(Some("node-1"), [UP, UP])
    };
    run(&mut watch, &with(false, 0), 0, 1);
    let raised = run(&mut watch, &with(true, 1), 2, 120);
    assert_eq!(raised, [(2, "+node.writes_refused node-1".to_owned())], "nobody tries again");
    let over = run(&mut watch, &with(false, 1), 121, 130);
    assert_eq!(over, [(123, "-node.writes_refused node-1".to_owned())]);
    // A write had waited until its time was over, and the store was back before that.
    run(&mut watch, &with(true, 1), 131, 135);
    assert_eq!(run(&mut watch, &with(false, 2), 136, 140), []);
}

#[test]
fn writes_are_refused_as_long_as_there_is_no_leader_and_an_unknown_outcome_is_named() {
    let mut watch = watch();
    let with = |leader, refused, unknown| NodeCondition {
        writes: Writes { decided: 5, refused, unknown, last_refusal: "nothing was written".into() },
        ..seen(leader, [UP, UP])
    };
    run(&mut watch, &with(Some("node-1"), 0, 0), 0, 1);
    let raised = run(&mut watch, &with(None, 3, 1), 2, 2);
    assert_eq!(raised, [(2, "+node.writes_refused node-1".to_owned())]);
    let notice = watch.judge_writes(&with(None, 3, 1), 3_000).unwrap();
    let text = "3 writes of clients or of this node itself (such as audit records) failed (for 1 of them the outcome is not known), and no write has succeeded since. The last failure: ";
    assert!(notice.message.starts_with(text), "{}", notice.message);
    let quiet = run(&mut watch, &with(None, 3, 1), 4, 120);
    assert!(!quiet.iter().any(|(_, text)| text == "-node.writes_refused node-1"), "{quiet:?}");
    let back = run(&mut watch, &with(Some("node-2"), 3, 1), 121, 130);
    assert!(back.contains(&(123, "-node.writes_refused node-1".to_owned())), "{back:?}");
}

#[test]
fn a_disk_and_a_certificate_are_told_of_before_their_end() {
    const GIB: u64 = 1 << 30;
    let room = |free, size| disk_room("node-1 /data", free, size).map(|notice| notice.severity);
    assert_eq!(room(3 * GIB, 1_000 * GIB), None);
    assert_eq!(room(GIB, 1_000 * GIB), Some(Severity::Warning));
    assert_eq!(room(GIB / 4, 1_000 * GIB), Some(Severity::Critical));
    assert_eq!(room(GIB / 4, GIB), None, "a quarter of a small disk is enough");
    assert_eq!(room(GIB / 16, GIB), Some(Severity::Warning));

    let end_ms = 1_795_440_992_705;
    let at = |days: u64| {
        let notice = certificate("node-1 node-1.pem", end_ms, end_ms - days * DAY_MS)?;
        Some((notice.severity, notice.stage))
    };
    assert_eq!(at(31), None);
    assert_eq!(at(30), Some((Severity::Warning, 0)));
    assert_eq!(at(7), Some((Severity::Warning, 1)));
    assert_eq!(at(1), Some((Severity::Critical, 2)));
    assert_eq!(at(0), Some((Severity::Critical, 3)));
}

#[test]
fn a_list_of_revoked_certificates_that_is_out_of_date_is_a_warning() {
    let next_ms = 1_795_440_992_705;
    let at = |now_ms| {
        let notice = revocation_list("node-1 revoked.pem", next_ms, now_ms)?;
        Some((notice.kind, notice.severity, notice.message))
    };
    assert_eq!(at(next_ms - 1), None);
    let (kind, severity, message) = at(next_ms).unwrap();
    assert_eq!((kind, severity), (AlertKind::CertificateEnds, Severity::Warning));
    assert!(message.contains("list of revoked certificates is out of date"), "{message}");
}

#[test]
fn a_clock_that_is_off_is_named_with_how_far() {
    let mut watch = watch();
    let with = |ahead_ms: i64| NodeCondition {
        clocks: ClockReport {
            agree: true,
            ahead_ms: vec![("node-1".into(), 20), ("node-3".into(), ahead_ms)],
        },
        ..seen(Some("node-1"), [UP, UP])
    };
    assert_eq!(run(&mut watch, &with(4_000), 0, 5), []);
    let raised = run(&mut watch, &with(-31 * 24 * 3_600_000), 6, 9);
    assert_eq!(raised, [(7, "+node.clock_skew node-3".to_owned())]);
    let judged = watch.judge(&with(-31 * 24 * 3_600_000), 10_000);
    let skew = judged.holds.iter().find(|notice| notice.kind == AlertKind::ClockSkew).unwrap();
    assert_eq!(skew.message, "the clock of node-3 is 2678400 s behind the clocks of the majority");
}

/// Regression: with 0 bytes free the disk was called nearly full.
#[test]
fn a_disk_without_free_space_is_called_full() {
    let message = |free| disk_room("node-1 /data", free, 1 << 30).unwrap().message;
    assert_eq!(message(0), "the disk is full: none of its 1024 MiB is free");
    assert_eq!(message(1 << 20), "the disk is nearly full: 1024 KiB of 1024 MiB are free");
}

#[test]
fn a_disk_that_hangs_is_told_of_though_the_look_at_it_hangs_too() {
    let mut watch = watch();
    let nearly_full = disk_room("node-1 /data", 1, 1 << 30).unwrap();
    let slow = SlowChecks { holds: vec![nearly_full], since_ms: Some(0) };
    let mut raised = Vec::new();
    for s in 0..20 {
        let mut seen = seen(Some("node-1"), [UP, UP]);
        seen.slow = slow.holds("node-1", s * 1_000);
        raised.extend(run(&mut watch, &seen, s, s));
    }
    assert_eq!(raised[0], (0, "+node.disk_nearly_full node-1 /data".to_owned()));
    let hangs = (12, "+node.disk_slow node-1".to_owned());
    assert_eq!(raised.iter().find(|(_, text)| text.contains("disk_slow")), Some(&hangs));
}

#[test]
fn a_node_that_was_set_back_says_up_to_where_it_lacks_entries_until_it_has_them() {
    let mut watch = watch();
    let lacking =
        |upto| NodeCondition { lacks_acknowledged: upto, ..seen(Some("node-2"), [UP, UP]) };
    assert_eq!(run(&mut watch, &lacking(None), 0, 9), []);
    let reported = run(&mut watch, &lacking(Some(40)), 10, 19);
    let (since_s, text) = &reported[0];
    assert_eq!((reported.len(), text.as_str()), (1, "+node.set_back node-1"));
    assert!(*since_s <= 13, "{reported:?}");
    let judged = watch.judge(&lacking(Some(40)), 20_000);
    let notice = &judged.holds[0];
    assert_eq!(notice.severity, Severity::Critical);
    assert!(notice.message.contains("lacks entries up to 40"), "{}", notice.message);
    let over = run(&mut watch, &lacking(None), 20, 29);
    assert_eq!(
        over.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(),
        ["-node.set_back node-1"]
    );
}

#[test]
fn a_snapshot_that_cannot_be_written_is_reported_with_the_reason_until_one_is_written() {
    let mut watch = watch();
    let failing = |why: Option<&str>| NodeCondition {
        snapshot_failure: why.map(str::to_owned),
        ..seen(Some("node-2"), [UP, UP])
    };
    assert_eq!(run(&mut watch, &failing(None), 0, 9), []);
    let raised = run(&mut watch, &failing(Some("it does not fit")), 10, 19);
    assert_eq!(raised, [(10, "+node.snapshot_failed node-1".to_owned())]);
    let judged = watch.judge(&failing(Some("it does not fit")), 20_000);
    assert_eq!(judged.holds[0].message, "it does not fit");
    let over = run(&mut watch, &failing(None), 20, 29);
    assert_eq!(over, [(22, "-node.snapshot_failed node-1".to_owned())]);
}

#[test]
fn a_voter_that_answers_but_acknowledges_nothing_is_named() {
    let mut watch = watch();
    let mut seen = seen(Some("node-1"), [UP, UP]);
    let members = &mut seen.cluster.as_mut().unwrap().members;
    members[2].acknowledges = Some(false);
    members[2].matched_index = None;
    assert_eq!(run(&mut watch, &seen, 0, 9), [(3, "+cluster.member_lags node-3".to_owned())]);
    let members = &mut seen.cluster.as_mut().unwrap().members;
    members[2].acknowledges = Some(true);
    members[2].matched_index = Some(100);
    let over = run(&mut watch, &seen, 10, 19);
    assert_eq!(over, [(12, "-cluster.member_lags node-3".to_owned())]);
}

#[test]
fn a_removed_node_raises_nothing_about_the_cluster_and_speaks_for_nobody() {
    let mut watch = watch();
    let removed = NodeCondition { is_excluded: true, ..seen(None, [UP, DOWN]) };
    assert_eq!(run(&mut watch, &removed, 0, 60), []);
    assert!(!watch.nobody_leads(&removed, 61_000) && !watch.nobody_leads(&removed, 90_000));
    // What it raised before its removal may continue, so it does not say that it is over.
    let mut former = super::Watch::new("node-1".into());
    run(&mut former, &seen(Some("node-1"), [UP, DOWN]), 0, 9);
    let unreachable = "?cluster.member_unreachable node-3".to_owned();
    assert_eq!(run(&mut former, &removed, 10, 20), [(10, unreachable)]);
    // It still reports conditions of its own disk.
    let disk = disk_room("node-1 /data", 1, 1 << 30).unwrap();
    let full = NodeCondition { slow: vec![disk], ..removed };
    let raised = run(&mut watch, &full, 91, 95);
    assert_eq!(raised, [(91, "+node.disk_nearly_full node-1 /data".to_owned())]);
}

#[test]
fn a_node_that_waits_to_be_added_does_not_speak_for_the_cluster() {
    let mut watch = watch();
    let waiting = NodeCondition {
        leadership: Leadership::default(),
        cluster: Some(ClusterStatus::default()),
        ..NodeCondition::default()
    };
    assert!(!watch.nobody_leads(&waiting, 0) && !watch.nobody_leads(&waiting, 90_000));
}

#[test]
fn a_node_that_shares_the_store_and_no_longer_reports_is_named() {
    let node = |name: &str, last_seen_ms| StoreNode {
        name: name.to_owned(),
        state_version: 1,
        last_seen_ms,
        addresses: Vec::new(),
    };
    let sharing = |own_ms, other_ms, read_at_ms| NodeCondition {
        leadership: Leadership { is_leader: true, leader: Some("node-1".into()), term: 1 },
        sharers: Sharers {
            nodes: vec![node("node-1", own_ms), node("node-2", other_ms)],
            read_at_ms: Some(read_at_ms),
        },
        ..NodeCondition::default()
    };
    let mut watch = watch();
    assert_eq!(run(&mut watch, &sharing(0, 2_000, 9_000), 0, 9), []);
    let silent = run(&mut watch, &sharing(0, 11_000, 19_000), 10, 19);
    assert_eq!(silent, [(13, "+cluster.member_unreachable node-2".to_owned())]);
    // The store refuses the reports of every node, then it does not answer: the condition may continue.
    let unknown = run(&mut watch, &sharing(12_000, 12_000, 29_000), 20, 29);
    assert!(!unknown.iter().any(|(_, text)| text.starts_with('-')), "{unknown:?}");
    let unknown = run(&mut watch, &sharing(0, 12_000, 10_000), 30, 39);
    assert!(!unknown.iter().any(|(_, text)| text.starts_with('-')), "{unknown:?}");
    let back = run(&mut watch, &sharing(0, 1_000, 59_000), 40, 59);
    assert!(back.iter().any(|(_, text)| text == "-cluster.member_unreachable node-2"), "{back:?}");
    // Nothing is said of a node as long as this node's own reports are refused.
    assert_eq!(run(&mut Watch::new("node-1".into()), &sharing(60_000, 60_000, 9_000), 0, 9), []);
}

/// Regression: only the sleep between two checks was measured, so a stall during a check was not told. A node that took
/// itself for the leader left the alert to its expiry, which then found that it leads no more.
#[test]
fn a_stall_is_told_unless_an_alert_of_it_exists() {
    assert!(stall(1_900, 0).is_none());
    let seen = stall(281_000, 50_000).unwrap();
    assert_eq!(seen.by_ms, 280_000);
    let alert = |node: &str, time_ms: u64, by_ms: u64| Alert {
        id: 1,
        node: node.to_owned(),
        time_ms,
        state: maxine_telemetry::AlertState::Event,
        resolved_ms: None,
        severity: Severity::Warning,
        stage: 0,
        kind: AlertKind::NodeStalled,
        object: node.to_owned(),
        message: String::new(),
        details: json!({"by_ms": by_ms}).as_object().cloned().unwrap_or_default(),
        runbook: "disk-full",
        acknowledged_by: None,
        silenced: false,
    };
    assert!(!seen.is_in(&[], "node-1"));
    assert!(seen.is_in(&[alert("node-1", 331_000, 279_900)], "node-1"), "by the expiry");
    for other in [
        alert("node-2", 331_000, 280_000),
        alert("node-1", 49_000, 280_000),
        alert("node-1", 331_000, 12_483),
    ] {
        assert!(!seen.is_in(&[other], "node-1"));
    }
}
