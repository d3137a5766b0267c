//! Disks that hang: a leader steps down by itself, and followers continue to answer heartbeats.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test measures real time")]

mod support;

use std::time::{Duration, Instant};

use support::process::{ELECTION_MAX, Processes, until};

#[test]
fn a_leader_whose_disk_hangs_steps_down_and_another_takes_over() {
    let cluster = Processes::start("sled");
    let old = cluster.leader_among(&[1, 2, 3]);
    let others = cluster.others(old);
    let stall = Duration::from_secs(12);
    cluster.node(old).set_faults(&format!("slow-fsync={}", stall.as_millis()));
    let started = Instant::now();
    // The two healthy disks are sufficient for the acknowledgement, whether or not the leader's own disk has
    // the entry.
    let caught = cluster.node(old).send("propose caught");
    let new = cluster.leader_among(&others);
    cluster.node(new).ask("propose after").unwrap();
    let took = started.elapsed();
    let status = cluster.node(old).status();
    eprintln!(
        "another node led and wrote {took:?} after the disk hung; the old leader: {status:?}"
    );
    assert!(took < stall, "the old leader only gave up when its disk came back");
    assert!(!status.is_leader && status.stalled && status.disk_stalls == 1, "{status:?}");
    assert!(cluster.node(old).ask("propose-local stale").is_err());
    cluster.node(old).set_faults("");
    until("the disk to recover", Duration::from_secs(30), || {
        (!cluster.node(old).status().stalled).then_some(())
    });
    let _ = caught.wait();
    cluster.node(old).ask("propose recovered").unwrap();
    cluster.converged();
}

#[test]
fn followers_with_hanging_disks_answer_heartbeats_and_nobody_stands_for_election() {
    for engine in ["sled", "redb", "wal"] {
        let cluster = Processes::start(engine);
        let leader = cluster.leader_among(&[1, 2, 3]);
        let term = cluster.node(leader).status().term;
        let followers = cluster.others(leader);
        let stall = 3 * ELECTION_MAX;
        for id in &followers {
            cluster.node(*id).set_faults(&format!("slow-fsync={}", stall.as_millis()));
        }
        let started = Instant::now();
        let held_up = cluster.node(leader).send("propose held-up");
        until("both disks to hang", Duration::from_secs(5), || {
            followers.iter().all(|id| cluster.node(*id).status().stalled).then_some(())
        });
        let mut samples = 0;
        while started.elapsed() < stall - Duration::from_millis(500) {
            let status = cluster.node(leader).status();
            assert!(status.is_leader && status.term == term, "{engine}: {status:?}");
            for id in &followers {
                let status = cluster.node(*id).status();
                assert!(status.stalled, "{engine}: node {id} is not held up: {status:?}");
                assert_eq!((status.term, status.leader), (term, leader), "{engine}: node {id}");
                let heard = Duration::from_millis(status.leader_heard_ms.unwrap());
                assert!(heard < ELECTION_MAX, "{engine}: node {id} last heard {heard:?} ago");
            }
            samples += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(samples >= 10, "looked only {samples} times");
        for id in &followers {
            cluster.node(*id).set_faults("");
        }
        held_up.wait().unwrap();
        assert!(started.elapsed() >= stall, "{engine}: acknowledged before a second disk had it");
        assert_eq!(cluster.node(leader).status().term, term, "{engine}");
        cluster.converged();
    }
}
