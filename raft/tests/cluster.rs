//! Elections, proposals, reads and messages on a real three-node cluster.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test measures real time")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use maxine_raft::{CallError, EngineKind, Outcome, ProposeError, ReadError, ReadLevel, Target};
use support::{Cluster, TIMEOUT, eventually};

async fn proposes_on_every_node(engine: EngineKind) {
    let cluster = Cluster::start(engine, 3, |_| {}).await;
    for round in 0..5 {
        for id in 1..=3 {
            let text = format!("{round}-{id}");
            let proposed = cluster.propose(id, text.clone()).await;
            assert_eq!(proposed.reply, format!("ok:{text}"));
        }
    }
    cluster.converged().await;
    assert_eq!(cluster.journal(1).len(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_a_proposal_on_sled() {
    proposes_on_every_node(EngineKind::Sled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_a_proposal_on_redb() {
    proposes_on_every_node(EngineKind::Redb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(EngineKind::Sled, 3, |_| {}).await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            let text = format!("{round}-{number}");
            cluster.propose(cluster.leader().await, text.clone()).await;
            acknowledged.push(Bytes::from(text));
        }
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        let started = Instant::now();
        let survivor = *cluster.nodes.keys().next().unwrap();
        cluster.propose(survivor, format!("{round}-after")).await;
        acknowledged.push(Bytes::from(format!("{round}-after")));
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "failover took {:?}",
            started.elapsed()
        );
        cluster.start_node(leader).await;
        cluster.converged().await;
    }
    assert_eq!(cluster.journal(1), acknowledged);
}

/// With these timeouts nobody could be elected within the time of the test if the lease had to run out.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_is_gone_is_replaced_before_its_lease_has_run_out() {
    let slow = |config: &mut maxine_raft::Config| {
        config.election_timeout_min_ms = 60_000;
        config.election_timeout_max_ms = 90_000;
    };
    let mut cluster = Cluster::start(EngineKind::Wal, 3, slow).await;
    let old = cluster.leader().await;
    let before = cluster.propose(old, "before").await;
    cluster.kill(old).await;
    for id in cluster.nodes.keys() {
        let after = cluster.propose(*id, format!("after-{id}")).await;
        assert!(after.term > before.term && after.index > before.index);
        for level in [ReadLevel::Leader, ReadLevel::Strong] {
            assert!(cluster.node(*id).read_index(level, TIMEOUT).await.unwrap() >= after.index);
        }
    }
    // Nobody may report to lead as long as the former leader could, if it lived.
    assert!(cluster.nodes.values().all(|node| !node.node.leadership().is_leader));
}

/// The log of the voter that slept names neither the new leader nor the removal. So it asks the members that
/// it knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_slept_while_the_members_changed_follows_a_leader_that_it_never_met() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    let leader = cluster.leader().await;
    let asleep = cluster.follower().await;
    cluster.kill(asleep).await;
    cluster.members.insert(4, support::member(4));
    cluster.start_node(4).await;
    cluster.node(leader).add_learner(4, cluster.members[&4].clone()).await.unwrap();
    cluster.node(leader).promote(4, false).await.unwrap();
    cluster.node(leader).transfer_leadership(Some(4)).await.unwrap();
    cluster.propose(4, "led by the new one").await;
    cluster.start_node(asleep).await;
    cluster.converged().await;
    assert_eq!(cluster.node(asleep).leadership().leader, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_follower_does_not_raise_the_term() {
    let mut cluster = Cluster::start(EngineKind::Sled, 3, |_| {}).await;
    let term = cluster.node(1).leadership().term;
    let follower = cluster.follower().await;
    cluster.kill(follower).await;
    let majority = *cluster.nodes.keys().next().unwrap();
    cluster.propose(majority, "meanwhile").await;
    cluster.start_node(follower).await;
    cluster.converged().await;
    for id in 1..=3 {
        assert_eq!(cluster.node(id).leadership().term, term, "node {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_end_in_time_and_strong_reads_are_refused() {
    let mut cluster = Cluster::start(EngineKind::Sled, 3, |_| {}).await;
    cluster.propose(1, "before").await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let term = cluster.node(leader).leadership().term;
    for id in &others {
        cluster.kill(*id).await;
    }
    let node = cluster.node(leader).clone();
    let started = Instant::now();
    let allowed = Duration::from_millis(800);
    let error = node.propose("lost".into(), allowed).await.unwrap_err();
    assert!(matches!(error, ProposeError::OutcomeUnknown | ProposeError::NoLeader), "{error:?}");
    assert!(
        started.elapsed() < allowed + Duration::from_millis(400),
        "took {:?}",
        started.elapsed()
    );
    assert_eq!(node.read_index(ReadLevel::Strong, allowed).await, Err(ReadError::NoLeader));
    eventually("the leader to notice", || (!node.leadership().is_leader).then_some(())).await;
    assert_eq!(node.propose("refused".into(), allowed).await, Err(ProposeError::NoLeader));
    assert_eq!(node.read_index(ReadLevel::Leader, allowed).await, Err(ReadError::NoLeader));
    assert_eq!(node.leadership().leader, None);
    // A node without a leader asks every member, and so knows which are reachable.
    eventually("the others to count as lost", || {
        let members = node.status().members;
        let lost = members.iter().filter(|member| member.reachable == Some(false)).count();
        let there = members.iter().filter(|member| member.reachable == Some(true)).count();
        (lost == 2 && there == 1).then_some(())
    })
    .await;
    // A node that is alone asks for votes without success, and does not raise the term.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.leadership().term, term);
    for id in others {
        cluster.start_node(id).await;
    }
    cluster.propose(leader, "after").await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_no_survivor_names_a_leader_and_none_grows_younger() {
    let mut cluster = Cluster::start(EngineKind::Wal, 5, |_| {}).await;
    cluster.propose(1, "before").await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=5).filter(|id| *id != leader).collect();
    for id in &others[1..] {
        cluster.kill(*id).await;
    }
    let lost = Instant::now();
    let survivors = [cluster.node(leader).clone(), cluster.node(others[0]).clone()];
    eventually("nobody to be named as leader", || {
        survivors.iter().all(|node| node.leadership().leader.is_none()).then_some(())
    })
    .await;
    // The old leader continues to send heartbeats, and searches for its quorum every three seconds.
    while lost.elapsed() < Duration::from_secs(7) {
        for node in &survivors {
            let known = node.leadership();
            assert_eq!(
                known.leader,
                None,
                "node {} after {:?}",
                node.config().node_id,
                lost.elapsed()
            );
            let age = node.state_age().unwrap();
            assert!(
                age + Duration::from_millis(500) > lost.elapsed(),
                "{age:?} of {:?}",
                lost.elapsed()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for id in &others[1..] {
        cluster.start_node(*id).await;
    }
    cluster.propose(others[0], "after").await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_see_what_was_acknowledged_elsewhere() {
    let cluster = Cluster::start(EngineKind::Redb, 3, |_| {}).await;
    for round in 0..20u64 {
        let writer = round % 3 + 1;
        let reader = (round + 1) % 3 + 1;
        let proposed = cluster.propose(writer, format!("{round}")).await;
        let level = if round % 2 == 0 { ReadLevel::Strong } else { ReadLevel::Leader };
        let index = cluster.node(reader).read_index(level, TIMEOUT).await.unwrap();
        assert!(index >= proposed.index, "{level:?}");
        assert_eq!(cluster.journal(reader).len() as u64, round + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_an_index_that_does_not_come_ends_in_time() {
    let cluster = Cluster::start(EngineKind::Redb, 1, |_| {}).await;
    let error =
        cluster.node(1).wait_applied(1_000_000, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, ReadError::Behind { required: 1_000_000, .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_a_node_or_say_why_not() {
    let mut cluster =
        Cluster::start(EngineKind::Redb, 3, |config| config.request_timeout_ms = 500).await;
    let follower = cluster.follower().await;
    let leader = cluster.leader().await;
    let node = cluster.node(follower).clone();
    let short = Duration::from_millis(300);
    assert_eq!(
        node.call(Target::Leader, "hi".into(), TIMEOUT).await.unwrap(),
        format!("{follower}:hi")
    );
    assert_eq!(
        node.call(Target::Node(leader), "hi".into(), TIMEOUT).await.unwrap(),
        format!("{follower}:hi")
    );
    assert!(matches!(
        node.call(Target::Node(9), "hi".into(), TIMEOUT).await,
        Err(CallError::UnknownNode(9))
    ));
    assert!(matches!(
        node.call(Target::Leader, "fail".into(), TIMEOUT).await,
        Err(CallError::Refused { .. })
    ));
    let unanswered = node.call(Target::Leader, "hang".into(), short).await.unwrap_err();
    assert!(matches!(unanswered, CallError::NoAnswer { .. }), "{unanswered:?}");
    assert_eq!(unanswered.outcome(), Outcome::Unknown, "it arrived, and may be carried out");
    // The other node stops waiting for its handler before the caller stops waiting for the answer.
    let given_up = node.call(Target::Leader, "hang".into(), TIMEOUT).await.unwrap_err();
    assert_eq!(given_up.outcome(), Outcome::Unknown, "{given_up:?}");
    let large = Bytes::from(vec![0; node.config().payload_len_max + 1]);
    assert!(matches!(
        node.call(Target::Leader, large, TIMEOUT).await,
        Err(CallError::TooLarge { .. })
    ));
    cluster.kill(leader).await;
    assert!(node.call(Target::Node(leader), "hi".into(), short).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_up_to_the_limit_pass_and_larger_ones_are_refused() {
    let cluster =
        Cluster::start(EngineKind::Sled, 3, |config| config.payload_len_max = 1024 * 1024).await;
    let follower = cluster.follower().await;
    cluster.propose(follower, vec![7; 1024 * 1024]).await;
    let error =
        cluster.node(follower).propose(vec![7; 1024 * 1024 + 1].into(), TIMEOUT).await.unwrap_err();
    assert_eq!(error, ProposeError::TooLarge { len: 1024 * 1024 + 1, max: 1024 * 1024 });
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_proposals_than_allowed_are_refused_not_queued() {
    let cluster =
        Cluster::start(EngineKind::Sled, 3, |config| config.proposals_in_flight_max = 4).await;
    let node = cluster.node(cluster.leader().await).clone();
    let proposals = (0..64).map(|number| node.propose(Bytes::from(format!("{number}")), TIMEOUT));
    let results = futures::future::join_all(proposals).await;
    let refused = results.iter().filter(|result| **result == Err(ProposeError::Overloaded)).count();
    let passed = results.iter().filter(|result| result.is_ok()).count();
    assert!(refused > 0 && passed >= 4, "{passed} passed, {refused} refused");
    assert_eq!(refused + passed, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_restarts_with_everything() {
    let mut cluster = Cluster::start(EngineKind::Redb, 3, |_| {}).await;
    for number in 0..50 {
        cluster.propose(number % 3 + 1, format!("{number}")).await;
    }
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    cluster.leader().await;
    cluster.converged().await;
    assert_eq!(cluster.journal(2).len(), 50);
}
