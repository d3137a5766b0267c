//! Three node processes: a paused leader, and a transfer to a node that does not answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test measures real time")]

mod support;

use std::time::{Duration, Instant};

use support::process::{ELECTION_MAX, Processes, until};

#[test]
fn a_paused_leader_is_replaced_and_does_not_write_when_it_wakes() {
    let cluster = Processes::start("sled");
    let old = cluster.leader_among(&[1, 2, 3]);
    let term = cluster.node(old).status().term;
    let others = cluster.others(old);
    cluster.node(old).signal("STOP");
    // The proposal was forwarded to a leader that will not answer. It ends when another node leads, and not
    // only when the connection is given up.
    let passed_on = cluster.node(others[0]).send("propose passed-on");
    let new = cluster.leader_among(&others);
    let replaced = Instant::now();
    // If nothing was sent yet, the new leader is asked instead.
    match passed_on.wait() {
        Ok(done) => assert!(!done.contains(&format!("term={term}")), "{done}"),
        Err(unknown) => assert!(unknown.contains("OutcomeUnknown"), "{unknown}"),
    }
    assert!(replaced.elapsed() < Duration::from_secs(1), "it waited for {:?}", replaced.elapsed());
    cluster.node(new).ask("propose while-paused").unwrap();
    // The requests are sent during the pause, so that they are the first ones that the process reads.
    let status = cluster.node(old).send("status");
    let write = cluster.node(old).send("propose-local stale");
    cluster.node(old).signal("CONT");
    let status = status.wait().unwrap();
    assert!(status.contains("is_leader=false"), "it woke up believing that it leads: {status}");
    let refused = write.wait().unwrap_err();
    assert!(refused.contains("NotLeader"), "{refused}");
    until("the old leader to follow", Duration::from_secs(20), || {
        let status = cluster.node(old).status();
        (status.leader == new && status.term > term).then_some(())
    });
    cluster.node(old).ask("propose after").unwrap();
    cluster.converged();
    for node in cluster.nodes {
        node.quit();
    }
}

/// Regression: after a transfer that no node accepted, the leader refused writes until the leases of the
/// others had run out, because the consensus core never resumes by itself.
#[test]
fn after_a_transfer_to_a_hung_node_writes_pass_within_one_election_timeout() {
    let cluster = Processes::start("wal");
    let leader = cluster.leader_among(&[1, 2, 3]);
    let term = cluster.node(leader).status().term;
    let target = cluster.others(leader)[0];
    cluster.node(target).signal("STOP");
    let started = Instant::now();
    let transfer = cluster.node(leader).send(&format!("transfer {target}"));
    // The transfer is in progress when this arrives, because the node reads its input in order.
    std::thread::sleep(Duration::from_millis(50));
    let refused = cluster.node(leader).ask("propose-local too-early").unwrap_err();
    assert!(refused.contains("NotLeader"), "the transfer had not begun: {refused}");
    cluster.node(leader).ask("propose again").unwrap();
    let took = started.elapsed();
    let failed = transfer.wait().unwrap_err();
    assert!(failed.contains("did not take over"), "{failed}");
    let new = cluster.leader_among(&cluster.others(target));
    eprintln!(
        "a write passed {took:?} after the transfer began; node {leader} led, node {new} leads"
    );
    assert_eq!(new, leader, "the old leader did not take its leadership back");
    assert!(took < ELECTION_MAX, "writes were refused for {took:?}");
    assert!(cluster.node(leader).status().term > term);
    cluster.node(target).signal("CONT");
    cluster.converged();
    // A late answer to the old request must no longer move leadership.
    std::thread::sleep(ELECTION_MAX);
    assert_eq!(cluster.leader_among(&[1, 2, 3]), leader);
}
