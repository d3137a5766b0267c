//! Three nodes in this process, each with its own wall clock, which the test can set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use maxine::app::Node;
use maxine::config::{BackendKind, MemberSetting, NodeConfig};
use maxine_clock::Clock;
use maxine_state::{Actor, Address, Name, Registration, ServiceKey};
use maxine_telemetry::{AlertKind, AlertState};

use crate::dev::PATIENCE;

const DAYS_31_MS: i64 = 31 * 24 * 3_600 * 1_000;

/// A port on which nobody listens.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn cluster(dir: &std::path::Path, skews: &[Arc<AtomicI64>]) -> Vec<Node> {
    let each = (1_u64..).take(skews.len()).map(|id| MemberSetting {
        id,
        peer_addr: format!("127.0.0.1:{}", free_port()),
        // No client uses this address, but all nodes must have the same one.
        http_addr: format!("http://127.0.0.1:{}", free_port()),
    });
    let members: Vec<MemberSetting> = each.collect();
    let starts = members.iter().zip(skews).map(|(member, skew)| {
        let mut config = NodeConfig::defaults();
        config.backend = BackendKind::Raft;
        config.node_id = member.id;
        config.data_dir = dir.join(member.id.to_string());
        config.http.port = 0;
        config.raft.listen = member.peer_addr.parse().unwrap();
        config.raft.members = members.clone();
        config.security.initial_password_file = dir.join(format!("password-{}", member.id));
        Node::start_with(config, Clock::system_with_wall_offset(Arc::clone(skew)))
    });
    futures::future::try_join_all(starts).await.unwrap()
}

async fn register(node: &Node, id: &str) {
    let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
    let address = Address::parse("http://10.0.0.1:80").unwrap();
    let item = (key, Registration::new(Name::trusted(id), address, 3_600_000));
    let started = Instant::now();
    loop {
        let items = vec![item.clone()];
        // A follower does not forward commands that claim to be from a part of Maxine.
        let caller = Actor {
            user: "tester".into(),
            address: "127.0.0.1".into(),
            trace_id: "test".into(),
            via_node: None,
        };
        match node.registry().register(caller, None, None, items).await {
            Ok(_) => return,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
    }
}

/// The times of the audit records and the time of the state, on one node.
fn times(node: &Node) -> (Vec<u64>, u64) {
    let snapshot = node.view().snapshot();
    let records = snapshot.state.audit().records().iter().map(|record| record.time_ms).collect();
    (records, snapshot.state.time_ms())
}

#[test]
fn a_clock_that_leaps_31_days_for_one_registration_moves_no_time_and_empties_no_audit_log() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let skews: Vec<Arc<AtomicI64>> = (0..3).map(|_| Arc::default()).collect();
        // The clock of the first node is wrong from the start.
        skews[0].store(-DAYS_31_MS, Ordering::Relaxed);
        let nodes = cluster(dir.path(), &skews).await;
        for (n, node) in nodes.iter().enumerate() {
            register(node, &format!("a{n}")).await;
        }
        let true_ms = Clock::system().wall_ms();
        let (before, _) = times(&nodes[1]);
        assert!(before.len() >= 3, "{before:?}");
        for (n, node) in nodes.iter().enumerate() {
            skews[n].store(DAYS_31_MS, Ordering::Relaxed);
            register(node, &format!("leapt{n}")).await;
            // A live node reports it, and the node itself continues to write.
            let started = Instant::now();
            let name = format!("node-{}", n + 1);
            let is_told = || {
                let alerts = nodes[(n + 1) % 3].telemetry().alerts().newest_first();
                alerts.iter().any(|alert| {
                    alert.kind == AlertKind::ClockSkew
                        && alert.object == name
                        && alert.state == AlertState::Active
                })
            };
            while !is_told() {
                assert!(started.elapsed() < PATIENCE, "no alert of {name}'s clock");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            register(node, &format!("later{n}")).await;
            skews[n].store(0, Ordering::Relaxed);
        }
        for node in &nodes {
            let (records, log_ms) = times(node);
            assert!(records.len() >= before.len(), "none was dropped");
            assert!(
                log_ms.abs_diff(true_ms) < 300_000,
                "the log's clock: {log_ms}, true {true_ms}"
            );
            let off = records.iter().filter(|ms| ms.abs_diff(true_ms) > 300_000);
            assert_eq!(off.count(), 0, "{records:?}");
        }
        for node in nodes {
            node.stop().await;
        }
    });
}
