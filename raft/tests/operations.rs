//! Membership, transfer, snapshots, backup, restore and recovery on real clusters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test measures real time")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use maxine_raft::{AdminError, EngineKind, Exclusion, ReadLevel, Role, StartError, offline};
use support::{Cluster, TIMEOUT, eventually, member, role};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_by_snapshot_is_promoted_and_another_removed() {
    let mut cluster =
        Cluster::start(EngineKind::Sled, 3, |config| config.snapshot_every_entries = 200).await;
    for number in 0..700 {
        cluster.propose(1, format!("{number}")).await;
    }
    let leader = cluster.leader().await;
    eventually("the log to be purged", || {
        cluster.node(leader).status().purged_index.filter(|index| *index > 0)
    })
    .await;
    let follower = cluster.follower().await;
    cluster.members.insert(4, member(4));
    cluster.start_node(4).await;
    let joining = cluster.members[&4].clone();
    cluster.node(follower).add_learner(4, joining.clone()).await.unwrap();
    cluster.node(follower).add_learner(4, joining).await.unwrap();
    cluster.converged().await;
    assert!(
        cluster.node(4).status().snapshot_index.is_some(),
        "it got the log from the start, not a snapshot"
    );
    assert_eq!(role(cluster.node(4)), Role::Learner);
    cluster.node(follower).promote(4, false).await.unwrap();
    eventually("node 4 to vote", || (role(cluster.node(4)) == Role::Follower).then_some(())).await;
    let voter = cluster.members[&4].clone();
    let added = cluster.node(follower).add_learner(4, voter).await;
    assert!(
        matches!(&added, Err(AdminError::Refused(why)) if why == "node 4 is a member already (voter)"),
        "{added:?}"
    );
    let removed = (1..=3).find(|id| *id != leader && *id != follower).unwrap();
    cluster.node(follower).remove(removed, false).await.unwrap();
    cluster.kill(removed).await;
    // A founder that is started again still names the first members.
    let founders = (1..=3).map(|id| (id, cluster.members[&id].clone())).collect();
    cluster.node(follower).bootstrap(founders).await.unwrap();
    cluster.propose(4, "after").await;
    cluster.converged().await;
    let ids: Vec<u64> = cluster.node(4).status().members.iter().map(|member| member.id).collect();
    assert!(!ids.contains(&removed) && ids.contains(&4), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_first() {
    let cluster = Cluster::start(EngineKind::Redb, 3, |_| {}).await;
    let leader = cluster.leader().await;
    cluster.node(leader).remove(leader, false).await.unwrap();
    let rest = (1..=3).find(|id| *id != leader).unwrap();
    cluster.propose(rest, "after").await;
    assert_eq!(cluster.node(rest).status().members.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn senseless_changes_are_refused_with_the_reason() {
    let cluster = Cluster::start(EngineKind::Redb, 1, |_| {}).await;
    let node = cluster.node(1);
    assert!(
        matches!(node.remove(1, false).await, Err(AdminError::Refused(reason)) if reason.contains("last voter"))
    );
    assert!(
        matches!(node.promote(7, false).await, Err(AdminError::NoSuchMember(reason)) if reason.contains("learner"))
    );
    assert!(matches!(node.transfer_leadership(Some(7)).await, Err(AdminError::NoSuchMember(_))));
    assert!(
        matches!(node.remove(7, false).await, Err(AdminError::NoSuchMember(reason)) if reason == "node 7 was never a member")
    );
    assert!(matches!(
        node.bootstrap(BTreeMap::from([(1, member(1))])).await,
        Err(AdminError::Refused(_))
    ));
    node.bootstrap(cluster.members.clone()).await.unwrap();
}

fn is_refused(result: Result<(), AdminError>, with: &str) -> bool {
    match result {
        Err(AdminError::Refused(reason)) => {
            assert!(reason.contains(with), "{reason}");
            true
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Repeats an operation while there is no leader for it, or while another node did not take over in time: under load
/// leaders change by themselves.
async fn done<F>(mut operation: impl FnMut() -> F)
where
    F: Future<Output = Result<(), AdminError>>,
{
    let started = Instant::now();
    let mut may_be_done = false;
    loop {
        match operation().await {
            Ok(()) => return,
            Err(AdminError::NoSuchMember(_)) if may_be_done => return,
            Err(AdminError::OutcomeUnknown) => may_be_done = true,
            Err(AdminError::NoLeader | AdminError::NotLeader { .. }) => {}
            Err(AdminError::Refused(reason)) if reason.contains("did not take over") => {}
            Err(other) => panic!("{other}"),
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it is never done");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn voters_of(cluster: &Cluster, node: u64) -> Vec<u64> {
    let members = cluster.node(node).status().members;
    members.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_is_given_only_to_a_node_that_was_reached_and_has_the_log() {
    let mut cluster =
        Cluster::start(EngineKind::Wal, 3, |config| config.request_timeout_ms = 1_500).await;
    let leader = cluster.leader().await;
    // Nothing listens at this address.
    cluster.members.insert(4, member(4));
    let absent = cluster.members[&4].clone();
    cluster.node(leader).add_learner(4, absent).await.unwrap();
    assert!(is_refused(cluster.node(leader).promote(4, false).await, "cannot connect"));
    assert_eq!(voters_of(&cluster, leader), [1, 2, 3]);
    // Node 4 did not get a vote, so the loss of one founder does not cost the majority.
    let lost = cluster.follower().await;
    cluster.kill(lost).await;
    cluster.propose(leader, "goes on").await;
    cluster.start_node(lost).await;
    cluster.start_node(4).await;
    cluster.node(leader).promote(4, false).await.unwrap();
    assert_eq!(voters_of(&cluster, leader), [1, 2, 3, 4]);
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_leaves_no_majority_is_refused_unless_it_is_forced() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    let leader = cluster.leader().await;
    let lost = cluster.follower().await;
    let other = (1..=3).find(|id| *id != leader && *id != lost).unwrap();
    cluster.kill(lost).await;
    let refusal = "2 of 2 voters are needed and 1 is reachable";
    assert!(is_refused(cluster.node(leader).remove(other, false).await, refusal));
    assert_eq!(voters_of(&cluster, leader), [1, 2, 3]);
    assert!(cluster.node(leader).leadership().is_leader, "a refused change moves no leadership");
    // The lost member may be removed. A learner that does not run gets a vote only with `force`.
    cluster.node(leader).remove(lost, false).await.unwrap();
    cluster.node(leader).add_learner(4, member(4)).await.unwrap();
    cluster.node(leader).promote(4, true).await.unwrap();
    assert!(voters_of(&cluster, leader).contains(&4));
}

/// A founder starts after another founder has created the cluster. Only the late founder knows its own name.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_founder_is_let_in_and_has_one_name_everywhere() {
    let mut cluster =
        Cluster::prepare(EngineKind::Wal, 3, |config| config.name = format!("n{}", config.node_id));
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    cluster.node(1).bootstrap(cluster.members.clone()).await.unwrap();
    eventually("the founding entry", || {
        (!cluster.node(2).status().members.is_empty()).then_some(())
    })
    .await;
    let mut own = cluster.members.clone();
    own.get_mut(&2).unwrap().name = "n2".to_owned();
    cluster.node(2).bootstrap(own.clone()).await.unwrap();
    eventually("one name for each node", || {
        let names = |id| -> Vec<String> {
            cluster.node(id).status().members.into_iter().map(|member| member.member.name).collect()
        };
        (1..=3).all(|id| names(id) == ["n1", "n2", "n3"]).then_some(())
    })
    .await;
    let mut elsewhere = Cluster::prepare(EngineKind::Wal, 2, |_| {});
    elsewhere.start_node(1).await;
    elsewhere.start_node(2).await;
    elsewhere.node(1).bootstrap(elsewhere.members.clone()).await.unwrap();
    eventually("the founding entry", || {
        (!elsewhere.node(2).status().members.is_empty()).then_some(())
    })
    .await;
    let others = elsewhere.node(2).bootstrap(own).await;
    assert!(is_refused(others, "other members"), "three founders at other addresses");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_learns_of_it_and_knows_it_after_a_restart() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    let leader = cluster.leader().await;
    cluster.members.insert(4, member(4));
    cluster.start_node(4).await;
    cluster.node(leader).add_learner(4, cluster.members[&4].clone()).await.unwrap();
    cluster.converged().await;
    let removed = cluster.follower().await;
    // A learner does not stand for election, and a voter does.
    for id in [4, removed] {
        assert_eq!(cluster.node(id).exclusion(), None);
        cluster.node(leader).remove(id, false).await.unwrap();
        let excluded =
            eventually("it to learn of its removal", || cluster.node(id).exclusion()).await;
        assert!(
            matches!(&excluded, Exclusion::Removed(reason) if reason.contains("was removed")),
            "{excluded:?}"
        );
    }
    for id in [4, removed] {
        cluster.kill(id).await;
    }
    cluster.propose(leader, "goes on").await;
    // It has stored the reason, so no other node has to report it again.
    let alone = cluster.nodes.keys().copied().collect::<Vec<_>>();
    for id in alone {
        cluster.kill(id).await;
    }
    cluster.start_node(removed).await;
    assert!(matches!(cluster.node(removed).exclusion(), Some(Exclusion::Removed(_))));
    // An inspection shows the reason. A recovery of this directory would lose what was written since.
    cluster.kill(removed).await;
    let dir = cluster.config(removed).data_dir;
    let seen = offline::inspect(&dir).unwrap();
    assert!(seen.removed.as_deref().is_some_and(|reason| reason.contains("was removed")));
    let refused = offline::recover_lost_quorum(&dir, removed).unwrap_err();
    assert!(refused.to_string().contains(offline::REMOVED), "{refused}");
    assert_eq!(offline::inspect(&dir).unwrap(), seen, "it changed what it refused");
    let of_leader = offline::inspect(&cluster.config(leader).data_dir).unwrap();
    assert_eq!(of_leader.removed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_voters_that_was_interrupted_is_finished() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    let leader = cluster.leader().await;
    let lost = cluster.follower().await;
    let other = (1..=3).find(|id| ![leader, lost].contains(id)).unwrap();
    cluster.kill(lost).await;
    // The new voters are the leader and the lost node, so the change cannot be committed.
    let removed = cluster.node(leader).remove(other, true).await;
    assert!(matches!(removed, Err(AdminError::OutcomeUnknown)), "{removed:?}");
    assert_eq!(cluster.node(leader).status().voter_sets.len(), 2);
    cluster.start_node(lost).await;
    let mut left = vec![leader, lost];
    left.sort_unstable();
    for id in [leader, lost] {
        eventually("the change to be finished", || {
            (cluster.node(id).status().voter_sets == [left.clone()]).then_some(())
        })
        .await;
    }
    cluster.propose(lost, "after").await;
    let excluded =
        eventually("it to learn of its removal", || cluster.node(other).exclusion()).await;
    assert!(matches!(excluded, Exclusion::Removed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_where_it_is_told() {
    let cluster = Cluster::start(EngineKind::Sled, 3, |_| {}).await;
    for _ in 0..3 {
        let target = cluster.follower().await;
        cluster.propose(target, "work").await;
        let started = Instant::now();
        cluster.node(target).transfer_leadership(Some(target)).await.unwrap();
        eventually("the target to lead", || {
            cluster.node(target).leadership().is_leader.then_some(())
        })
        .await;
        assert!(started.elapsed() < Duration::from_millis(1_500), "took {:?}", started.elapsed());
        cluster.leader().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_of_the_leader_costs_no_election_timeout() {
    let mut cluster = Cluster::start(EngineKind::Sled, 3, |_| {}).await;
    cluster.propose(1, "before").await;
    let leader = cluster.leader().await;
    let stopping = cluster.nodes.remove(&leader).unwrap();
    let survivor = *cluster.nodes.keys().next().unwrap();
    stopping.node.shutdown().await.unwrap();
    let started = Instant::now();
    cluster.propose(survivor, "after").await;
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "the next write took {:?}",
        started.elapsed()
    );
    drop(stopping);
    cluster.start_node(leader).await;
    cluster.converged().await;
}

async fn backup(cluster: &Cluster, from: u64) -> std::path::PathBuf {
    let path = cluster.dir.path().join("backup.mxs");
    let mut file = tokio::fs::File::create(&path).await.unwrap();
    let info = cluster.node(from).backup(&mut file).await.unwrap();
    assert_eq!(info.cluster_id, "test");
    assert_eq!(info.len_bytes, std::fs::metadata(&path).unwrap().len());
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_new_cluster_that_the_old_one_cannot_join() {
    let cluster = Cluster::start(EngineKind::Sled, 3, |_| {}).await;
    for number in 0..100 {
        cluster.propose(1, format!("{number}")).await;
    }
    let follower = cluster.follower().await;
    cluster.node(follower).read_index(ReadLevel::Strong, TIMEOUT).await.unwrap();
    let file = backup(&cluster, follower).await;

    let mut restored = Cluster::prepare(EngineKind::Redb, 3, |_| {});
    let mut lineages = Vec::new();
    for id in 1..=3 {
        let report = offline::restore(
            &file,
            &restored.dir.path().join(format!("node-{id}")),
            EngineKind::Redb,
            "test",
            id,
            &restored.members,
        )
        .unwrap();
        lineages.push(report.lineage);
    }
    assert!(
        lineages[0] != 0 && lineages.iter().all(|lineage| *lineage == lineages[0]),
        "{lineages:?}"
    );
    for id in 1..=3 {
        restored.start_node(id).await;
    }
    restored.leader().await;
    restored.propose(2, "new").await;
    restored.converged().await;
    assert_eq!(restored.journal(3).len(), 101);
    // An empty node adopts the new line of history. A node of the old line is refused.
    restored.members.insert(4, member(4));
    restored.start_node(4).await;
    done(|| restored.node(1).add_learner(4, restored.members[&4].clone())).await;
    restored.converged().await;
    let old = cluster.members[&follower].clone();
    done(|| restored.node(1).add_learner(9, old.clone())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = restored.node(restored.leader().await).status();
    let stranger = status.members.iter().find(|member| member.id == 9).unwrap();
    assert!(!stranger.connected && stranger.matched_index.is_none());
    assert!(is_refused(restored.node(1).promote(9, false).await, "cannot connect"));

    // A founder whose directory was emptied is not part of the restored history, and knows it.
    done(|| restored.node(1).remove(9, false)).await;
    let emptied = restored.follower().await;
    restored.kill(emptied).await;
    std::fs::remove_dir_all(restored.config(emptied).data_dir).unwrap();
    restored.start_node(emptied).await;
    let founders = (1..=3).map(|id| (id, restored.members[&id].clone())).collect();
    restored.node(emptied).bootstrap(founders).await.unwrap();
    let excluded =
        eventually("it to learn that it is left out", || restored.node(emptied).exclusion()).await;
    let Exclusion::OtherHistory(why) = excluded else { panic!("{excluded:?}") };
    // Regression: the text of the other node called itself "this node", and this one showed it.
    assert!(why.contains(&format!("and node {emptied} has 0000000000000000")), "{why}");
    assert!(!why.contains("this node belongs"), "{why}");
    restored.kill(emptied).await;

    let again = offline::restore(
        &file,
        &restored.dir.path().join("node-1"),
        EngineKind::Redb,
        "test",
        1,
        &restored.members,
    );
    assert!(matches!(again, Err(StartError::Identity(_))), "a directory in use was overwritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_recovers_from_the_loss_of_the_majority() {
    for engine in [EngineKind::Sled, EngineKind::Redb, EngineKind::Wal] {
        let mut cluster = Cluster::start(engine, 3, |_| {}).await;
        for number in 0..30 {
            cluster.propose(1, format!("{number}")).await;
        }
        cluster.converged().await;
        let survivor = cluster.follower().await;
        for id in 1..=3 {
            cluster.kill(id).await;
        }
        let dir = cluster.config(survivor).data_dir;
        let seen = offline::inspect(&dir).unwrap();
        assert_eq!((seen.node_id, seen.members.len(), seen.engine), (survivor, 3, engine));
        let report = offline::recover_lost_quorum(&dir, survivor).unwrap();
        assert_eq!(report.kept_upto, seen.last_index.unwrap());
        assert_eq!(report.dropped_members.len(), 2);
        cluster.start_node(survivor).await;
        cluster.propose(survivor, "alone").await;
        assert_eq!(cluster.journal(survivor).len(), 31);
        assert_eq!(cluster.node(survivor).status().members.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_to_tools_and_second_owners() {
    let mut cluster = Cluster::start(EngineKind::Redb, 1, |_| {}).await;
    assert!(matches!(offline::inspect(&cluster.config(1).data_dir), Err(StartError::Locked(_))));
    assert!(matches!(cluster.try_start_node(1).await, Err(StartError::Locked(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_removed_node_is_never_given_out_again() {
    let mut cluster = Cluster::start(EngineKind::Redb, 3, |_| {}).await;
    let removed = cluster.follower().await;
    let via = *cluster.nodes.keys().find(|id| **id != removed).unwrap();
    done(|| cluster.node(via).remove(removed, false)).await;
    cluster.kill(removed).await;
    cluster.members.remove(&removed);
    let refused = |result: Result<(), AdminError>| matches!(result, Err(AdminError::Refused(reason)) if reason.contains("used before"));
    assert!(refused(cluster.node(via).add_learner(removed, member(removed)).await));
    // A node that joined later refuses it too, although after a restart it knows of the removal only from its
    // snapshot.
    cluster.members.insert(4, member(4));
    cluster.start_node(4).await;
    cluster.node(via).snapshot().await.unwrap();
    done(|| cluster.node(via).add_learner(4, cluster.members[&4].clone())).await;
    done(|| cluster.node(via).promote(4, false)).await;
    cluster.converged().await;
    cluster.node(4).snapshot().await.unwrap();
    cluster.kill(4).await;
    cluster.start_node(4).await;
    cluster.converged().await;
    done(|| cluster.node(via).transfer_leadership(Some(4))).await;
    assert_eq!(cluster.leader().await, 4);
    assert!(refused(cluster.node(4).add_learner(removed, member(removed)).await));
}

/// Every file below a directory, with its bytes.
fn contents(dir: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_and_nothing_is_changed() {
    // Entries are purged after every snapshot, so that a start finishes a removal that was interrupted.
    let mut cluster =
        Cluster::start(EngineKind::Wal, 1, |config| config.snapshot_every_entries = 100).await;
    for number in 0..500 {
        cluster.propose(1, format!("{number}")).await;
    }
    let purged = || cluster.node(1).status().purged_index.filter(|index| *index > 0);
    eventually("entries are purged", purged).await;
    cluster.kill(1).await;
    let dir = cluster.config(1).data_dir;
    let snapshots = std::fs::read_dir(dir.join("snapshots")).unwrap();
    let newest = snapshots.map(|entry| entry.unwrap().path()).max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    std::fs::write(dir.join("snapshots/from-2-0.tmp"), b"half").unwrap();

    let before = contents(&dir);
    for refused in [
        cluster.try_start_node(1).await.unwrap_err(),
        offline::inspect(&dir).map(drop).unwrap_err(),
    ] {
        let text = refused.to_string();
        assert!(text.contains("checksum") && text.contains("Nothing was changed"), "{text}");
        assert!(contents(&dir) == before, "it changed what it refused");
    }
}

/// Regression: an error of the disk while a snapshot was written stopped the node, although its log was whole. So a
/// snapshot that did not fit stopped one node after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_snapshot_cannot_be_written_continues_and_writes_it_later() {
    let mut cluster =
        Cluster::start(EngineKind::Wal, 1, |config| config.snapshot_every_entries = 100).await;
    let snapshots = cluster.config(1).data_dir.join("snapshots");
    std::fs::remove_dir_all(&snapshots).unwrap();
    for number in 0..300 {
        cluster.propose(1, format!("{number}")).await;
    }
    let failed = eventually("an attempt fails", || cluster.node(1).snapshot_failure()).await;
    assert!(!failed.is_no_space, "{failed:?}");
    let place = snapshots.display().to_string();
    assert!(failed.reason.starts_with(&place), "{failed:?}");
    let refused = cluster.node(1).snapshot().await.unwrap_err();
    assert!(matches!(&refused, AdminError::Io(reason) if reason.starts_with(&place)), "{refused}");
    let path = cluster.dir.path().join("backup.mxs");
    let refused = cluster.node(1).backup_to(&path).await.unwrap_err();
    assert!(matches!(refused, AdminError::Io(_)), "{refused}");
    assert!(!path.exists());
    cluster.propose(1, "the log continues").await;
    assert_eq!(cluster.node(1).status().purged_index, None);

    std::fs::create_dir(&snapshots).unwrap();
    cluster.node(1).snapshot().await.unwrap();
    let good = || cluster.node(1).snapshot_failure().is_none().then_some(());
    eventually("the failure is over", good).await;
    let purged = || cluster.node(1).status().purged_index.filter(|index| *index > 0);
    eventually("the log is shortened", purged).await;
    cluster.node(1).backup_to(&path).await.unwrap();
    let index = cluster.propose(1, "after the snapshot").await.index;
    cluster.kill(1).await;
    cluster.start_node(1).await;
    cluster.node(1).wait_applied(index, TIMEOUT).await.unwrap();
}

/// Whatever the node acknowledged from then on would be gone after its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_directory_is_removed_or_replaced_ends_and_says_why() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    cluster.propose(1, "before").await;
    let moved = cluster.dir.path().join("moved");
    let directories = [1, 2].map(|id| cluster.config(id).data_dir.clone());
    std::fs::remove_dir_all(&directories[0]).unwrap();
    let reason = tokio::time::timeout(TIMEOUT, cluster.node(1).failed()).await.unwrap();
    assert!(reason.contains("was removed while this node ran"), "{reason}");
    cluster.kill(1).await;
    // With a copy of its files in its place, as after a restore under a running node.
    cluster.propose(2, "between").await;
    std::fs::rename(&directories[1], &moved).unwrap();
    std::fs::create_dir(&directories[1]).unwrap();
    std::fs::copy(moved.join("identity"), directories[1].join("identity")).unwrap();
    std::fs::write(directories[1].join("lock"), b"").unwrap();
    let reason = tokio::time::timeout(TIMEOUT, cluster.node(2).failed()).await.unwrap();
    assert!(reason.contains("was replaced while this node ran"), "{reason}");
}

/// A start reads only the newest snapshot. An inspection reports all of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_verifies_older_snapshots_too() {
    let mut cluster =
        Cluster::start(EngineKind::Wal, 1, |config| config.snapshot_every_entries = 100).await;
    let snapshots = cluster.config(1).data_dir.join("snapshots");
    let whole = || {
        let entries = std::fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().path());
        let mut whole: Vec<_> =
            entries.filter(|path| path.extension().is_none_or(|ext| ext != "tmp")).collect();
        whole.sort();
        whole
    };
    for number in 0..400 {
        cluster.propose(1, format!("{number}")).await;
    }
    eventually("there are two snapshots", || (whole().len() >= 2).then_some(())).await;
    cluster.kill(1).await;
    let dir = cluster.config(1).data_dir;
    let seen = offline::inspect(&dir).unwrap();
    assert_eq!((seen.snapshots, seen.damaged_snapshots.len()), (whole().len(), 0));
    let oldest = whole().remove(0);
    let mut bytes = std::fs::read(&oldest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&oldest, bytes).unwrap();
    let seen = offline::inspect(&dir).unwrap();
    let [damaged] = &seen.damaged_snapshots[..] else { panic!("{:?}", seen.damaged_snapshots) };
    assert!(
        damaged.contains(oldest.to_str().unwrap()) && damaged.contains("checksum"),
        "{damaged}"
    );
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    for (path, bytes) in contents(from) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::write(copy, bytes).unwrap();
    }
}

/// A node with an older copy of its directory, or whose log lost its end together with the mark of that end,
/// has forgotten what it acknowledged. Any node that remembers it reports it, whether it leads or not, and
/// the leader sends the missing entries again. Until then the node votes only for a candidate that has them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_older_copy_of_its_directory_is_noticed_and_filled() {
    for whole in [true, false] {
        let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
        let lost = cluster.follower().await;
        cluster.propose(lost, "old").await;
        cluster.converged().await;
        let dir = cluster.config(lost).data_dir;
        let copy = dir.with_extension("copy");
        cluster.kill(lost).await;
        copy_dir(&dir, &copy);
        cluster.start_node(lost).await;
        for number in 0..30 {
            cluster.propose(lost, format!("{number}")).await;
        }
        cluster.converged().await;
        let leader = cluster.leader().await;
        let term = cluster.node(leader).leadership().term;
        let set_back = |dir: &std::path::Path| {
            if whole {
                std::fs::remove_dir_all(dir).unwrap();
                copy_dir(&copy, dir);
                return;
            }
            std::fs::remove_dir_all(dir.join("wal")).unwrap();
            copy_dir(&copy.join("wal"), &dir.join("wal"));
            let mut mark = std::fs::read(dir.join("log.mark")).unwrap();
            mark[6] ^= 1;
            std::fs::write(dir.join("log.mark"), mark).unwrap();
        };

        // The leader sends it the missing entries without an election.
        cluster.kill(lost).await;
        set_back(&dir);
        cluster.start_node(lost).await;
        cluster.converged().await;
        assert_eq!(cluster.journal(lost).len(), 31);
        assert_eq!(cluster.node(leader).leadership().term, term);
        let filled = || cluster.node(lost).lost_index().is_none().then_some(());
        eventually("it has all that it had acknowledged", filled).await;

        // Without that leader the third node remembers, because the leader has reported it once per
        // heartbeat. What a leader had no time to report is lost with it.
        let third = (1..=3).find(|id| ![lost, leader].contains(id)).unwrap();
        let end = cluster.node(lost).status().last_log_index;
        let informed = || (cluster.node(third).acknowledged_index(lost) >= end).then_some(());
        eventually("the leader has reported it to the third node", informed).await;
        cluster.kill(lost).await;
        set_back(&dir);
        cluster.kill(leader).await;
        cluster.start_node(lost).await;
        // As soon as the third node leads, it sends the missing entries, and then the node lacks nothing.
        let known = || {
            let all = cluster.journal(lost).len() == 31;
            cluster.node(lost).lost_index().or(all.then_some(31))
        };
        let owed = eventually("it knows what it lacks, or has it", known).await;
        assert!(owed >= 31, "{owed}");
        assert_eq!(cluster.leader().await, third, "the node that was set back must not lead");
        cluster.converged().await;
        assert_eq!(cluster.journal(lost).len(), 31);
        let filled = || cluster.node(lost).lost_index().is_none().then_some(());
        eventually("it has all that it had acknowledged", filled).await;
        cluster.start_node(leader).await;
        cluster.converged().await;
    }
}

/// All voters may be started together with older copies. No node remembers more, and none waits.
#[tokio::test(flavor = "multi_thread")]
async fn voters_that_are_set_back_together_form_a_cluster_again() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    cluster.propose(1, "old").await;
    cluster.converged().await;
    let ids = [1, 2, 3];
    let dirs = ids.map(|id| cluster.config(id).data_dir);
    for id in ids {
        cluster.kill(id).await;
    }
    for dir in &dirs {
        copy_dir(dir, &dir.with_extension("copy"));
    }
    for id in ids {
        cluster.start_node(id).await;
    }
    cluster.propose(1, "new").await;
    cluster.converged().await;
    for id in ids {
        cluster.kill(id).await;
    }
    for dir in &dirs {
        std::fs::remove_dir_all(dir).unwrap();
        std::fs::rename(dir.with_extension("copy"), dir).unwrap();
    }
    for id in ids {
        cluster.start_node(id).await;
    }
    cluster.propose(1, "newer").await;
    cluster.converged().await;
    assert_eq!(cluster.journal(1), ["old", "newer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_its_identity_is_refused() {
    let mut cluster = Cluster::start(EngineKind::Redb, 1, |_| {}).await;
    cluster.propose(1, "kept").await;
    cluster.kill(1).await;
    let identity = cluster.config(1).data_dir.join("identity");
    let bytes = std::fs::read(&identity).unwrap();
    std::fs::remove_file(&identity).unwrap();
    let refused = cluster.try_start_node(1).await.unwrap_err().to_string();
    assert!(refused.contains("identity") && refused.contains("Nothing was changed"), "{refused}");
    std::fs::write(&identity, bytes).unwrap();
    cluster.start_node(1).await;
    cluster.converged().await;
    assert_eq!(cluster.journal(1), ["kept"]);
}

/// Without its directory a node has forgotten what it acknowledged. If it were accepted, it could help to
/// outvote the nodes that have not.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_directory_stops_instead_of_coming_back_under_its_number() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    let lost = cluster.follower().await;
    let leader = cluster.leader().await;
    cluster.propose(leader, "kept").await;
    cluster.converged().await;
    let term = cluster.node(leader).leadership().term;
    let dir = cluster.config(lost).data_dir;
    let aside = dir.with_extension("aside");
    cluster.kill(lost).await;
    std::fs::rename(&dir, &aside).unwrap();

    cluster.start_node(lost).await;
    let failed = cluster.node(lost).failed();
    let reason = tokio::time::timeout(TIMEOUT, failed).await.expect("it does not stop");
    assert!(reason.contains("another data directory") && reason.contains("never used"), "{reason}");
    assert!(cluster.journal(lost).is_empty());
    assert!(!cluster.node(lost).leadership().is_leader);
    cluster.kill(lost).await;
    // The other nodes refuse it again when it is started again.
    cluster.start_node(lost).await;
    tokio::time::timeout(TIMEOUT, cluster.node(lost).failed()).await.expect("it does not stop");
    cluster.kill(lost).await;
    assert_eq!(cluster.node(leader).leadership().term, term);
    cluster.propose(leader, "without it").await;

    // With its own directory it is accepted again.
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&aside, &dir).unwrap();
    cluster.start_node(lost).await;
    cluster.converged().await;
    assert_eq!(cluster.journal(lost).len(), 2);
}

/// Such a node might acknowledge entries that it can never apply.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_understand_the_log_is_turned_away_and_stops() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    let old = cluster.follower().await;
    cluster.kill(old).await;
    cluster.adjust = |config| config.app_version = 0;
    cluster.start_node(old).await;
    let failed = cluster.node(old).failed();
    let reason = tokio::time::timeout(TIMEOUT, failed).await.expect("it does not stop");
    assert_eq!(reason, "version 0 is too old");
    cluster.kill(old).await;

    cluster.adjust = |_| {};
    cluster.start_node(old).await;
    let leader = cluster.leader().await;
    cluster.propose(leader, "with it").await;
    cluster.converged().await;
}

/// A node that nobody added may run with the id of one that will be added, by mistake or by malice.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_nobody_added_does_not_block_its_number() {
    let mut cluster = Cluster::start(EngineKind::Wal, 3, |_| {}).await;
    let leader = cluster.leader().await;
    cluster.members.insert(4, member(4));
    cluster.start_node(4).await;
    // It considers itself a founder, and so connects to all the others.
    cluster.node(4).bootstrap(cluster.members.clone()).await.unwrap();
    eventually("it has met every member", || {
        let members = cluster.node(4).status().members;
        (members.len() == 4 && members.iter().all(|member| member.connected)).then_some(())
    })
    .await;
    cluster.kill(4).await;
    std::fs::remove_dir_all(cluster.config(4).data_dir).unwrap();

    // The added node has its own directory, and becomes a voter.
    let added = cluster.members[&4].clone();
    cluster.node(leader).add_learner(4, added).await.unwrap();
    cluster.start_node(4).await;
    cluster.node(leader).promote(4, false).await.unwrap();
    cluster.propose(leader, "with it").await;
    cluster.converged().await;

    // From then on every member knows its directory.
    cluster.kill(4).await;
    std::fs::remove_dir_all(cluster.config(4).data_dir).unwrap();
    cluster.start_node(4).await;
    let reason =
        tokio::time::timeout(TIMEOUT, cluster.node(4).failed()).await.expect("it does not stop");
    assert!(reason.contains("another data directory"), "{reason}");
}
