//! The promises of every backend.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use maxine_state::{
    AuditAction, Batch, Command, EventKind, Fence, Name, Proposal, Rejection, Reply, STATE_VERSION,
};
use maxine_store::{CallError, Consistency, ProposeError, StoreKind, StoreNode};
use maxine_view::WatchScope;

use crate::node::{
    Fixture, Node, SOON, deregister, eventually, instance, is_stale_fence, leader, proposal,
    register, service,
};

pub(crate) async fn nodes(fixture: &dyn Fixture) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"].iter().take(fixture.nodes_max()) {
        nodes.push(fixture.start(name).await);
    }
    leader(&nodes).await;
    nodes
}

async fn stop(nodes: &[Node]) {
    for node in nodes {
        node.store.shutdown().await;
    }
}

pub(crate) async fn agree(nodes: &[Node]) {
    let index = nodes.iter().map(|node| node.view.index()).max().expect("there are nodes");
    for node in nodes {
        node.reaches(index).await;
    }
    let digests: Vec<_> = nodes.iter().map(Node::digest).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

/// All nodes apply the same commands in the same order, and each sees its own writes at once.
pub(crate) async fn ordering(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let writers = nodes.iter().map(|node| async move {
        for i in 0..40_u16 {
            node.register("contended", "same", i + 1).await;
            node.register("own", &format!("{}-{i}", node.name), 80).await;
            assert!(node.has("own", &format!("{}-{i}", node.name)), "published before replied");
        }
    });
    futures::future::join_all(writers).await;
    agree(&nodes).await;
    assert_eq!(nodes[0].view.snapshot().state.instances_len(), 40 * nodes.len() + 1);
    stop(&nodes).await;
}

/// A repeated request takes effect once, whichever node gets the repeat.
pub(crate) async fn idempotency(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let (first, second) = (&nodes[0], &nodes[nodes.len() - 1]);
    let request = proposal(register("orders", "a", 80));
    let once = first.propose_as(request.clone()).await;
    first.propose(deregister("orders", "a")).await;
    let again = second.propose_as(request).await;
    assert_eq!(once, again, "the first answer again");
    assert!(!second.has("orders", "a"), "a repeat takes no effect");
    agree(&nodes).await;
    stop(&nodes).await;
}

/// Commands of the leader are refused from other nodes, without a fence, and with an older fence.
pub(crate) async fn fencing(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let epoch = nodes[0].register("orders", "a", 80).await;
    let item = (instance("orders", "a"), epoch);
    let leader = leader(&nodes).await;
    let old = leader.take_duties().await;
    let new = leader.take_duties().await;
    assert!(new > old, "a fence only grows");
    let unfenced = leader.propose(Command::Expire { items: vec![item.clone()] }).await;
    assert_eq!(unfenced.reply, Reply::Rejected(Rejection::FenceMissing));
    assert!(is_stale_fence(&leader.expire(old, item.clone()).await));
    for node in nodes.iter().filter(|node| node.name != leader.name) {
        let refused = node.try_expire(new, item.clone()).await;
        assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    }
    assert!(leader.has("orders", "a"), "nothing of it took effect");
    assert_eq!(leader.expire(new, item).await, Reply::Changed(vec![true]));
    assert!(!leader.has("orders", "a"));
    agree(&nodes).await;
    stop(&nodes).await;
}

/// An equal registration keeps its lease, whichever node gets it, and counts as a heartbeat. An expiry that
/// was decided before it removes nothing.
pub(crate) async fn expiry(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let leader = leader(&nodes).await;
    let fence = leader.take_duties().await;
    let epoch = nodes[0].register("orders", "a", 80).await;
    let again = nodes[nodes.len() - 1].register("orders", "a", 80).await;
    assert_eq!(again, epoch, "the log itself finds it equal");
    let late = leader.expire(fence, (instance("orders", "a"), epoch)).await;
    assert_eq!(late, Reply::Changed(vec![false]), "it was heard of meanwhile");
    let index = leader.view.index();
    for node in &nodes {
        node.reaches(index).await;
        assert!(node.has("orders", "a"));
    }
    let new = {
        let snapshot = leader.view.snapshot();
        let service = snapshot.state.service(&service("orders"));
        service.expect("it is there").instances[&Name::trusted("a")].registered_index
    };
    assert_eq!(
        leader.expire(fence, (instance("orders", "a"), new)).await,
        Reply::Changed(vec![true])
    );
    agree(&nodes).await;
    assert!(nodes.iter().all(|node| !node.has("orders", "a")));
    stop(&nodes).await;
}

/// A watcher on any node sees every change once and in order, whichever node made it. Or it must
/// start again from a snapshot, and then misses nothing either.
pub(crate) async fn watch_without_gaps(fixture: &dyn Fixture) {
    const CHANGES: usize = 300;
    let nodes = nodes(fixture).await;
    let watching = &nodes[nodes.len() - 1];
    let start = watching.view.index();
    let subscribe = |after| watching.view.hub().subscribe(WatchScope::Everything, after);
    let mut watcher = subscribe(start).expect("a fresh place");
    let writers = nodes.iter().enumerate().map(|(n, node)| async move {
        for i in (0..CHANGES).filter(|i| i % nodes_len(fixture) == n) {
            node.register("watched", &format!("i{i}"), 80).await;
        }
    });
    let reader = async {
        let (mut seen, mut last) = (BTreeSet::new(), start);
        while seen.len() < CHANGES {
            let events = match watcher.next(64).await {
                Ok(events) => events,
                Err(lost) => {
                    assert!(fixture.trims(), "{lost}");
                    let snapshot = watching.view.snapshot();
                    let Ok(again) = subscribe(snapshot.state.index()) else { continue };
                    watcher = again;
                    last = snapshot.state.index();
                    let service = snapshot.state.service(&crate::node::service("watched"));
                    seen = service.into_iter().flat_map(|s| s.instances.keys().cloned()).collect();
                    continue;
                }
            };
            for event in events {
                assert!(event.index > last, "in order");
                last = event.index;
                if let EventKind::InstanceRegistered { key, .. } = &event.kind {
                    assert!(seen.insert(key.instance.clone()), "once");
                }
            }
        }
    };
    let both = futures::future::join(futures::future::join_all(writers), reader);
    tokio::time::timeout(SOON, both).await.expect("every change is seen");
    stop(&nodes).await;
}

fn nodes_len(fixture: &dyn Fixture) -> usize {
    fixture.nodes_max().min(3)
}

/// Everything that was acknowledged is present after every node was stopped and started again.
pub(crate) async fn restart(fixture: &dyn Fixture) {
    let before = nodes(fixture).await;
    for i in 0..50_u16 {
        before[0].register("kept", &format!("i{i}"), 80 + i).await;
    }
    let old_fence = leader(&before).await.take_duties().await;
    agree(&before).await;
    let digest = before[0].digest();
    stop(&before).await;
    let after = nodes(fixture).await;
    let index = digest.index;
    for node in &after {
        node.reaches(index).await;
        assert_eq!(node.view.snapshot().state.instances_len(), 50);
    }
    assert_eq!(after[0].digest(), digest, "the same state, byte for byte");
    let new_fence = leader(&after).await.take_duties().await;
    assert!(new_fence > old_fence, "a fence grows across restarts");
    stop(&after).await;
}

/// A new cluster gets a history of its own, which all nodes know and which stays after a restart.
pub(crate) async fn history(fixture: &dyn Fixture) {
    let before = nodes(fixture).await;
    let no_history = before.iter().all(|node| node.view.snapshot().state.history().is_none());
    assert!(no_history, "nobody has founded it yet");
    let keepers: Vec<_> = before.iter().map(Node::keep_history).collect();
    let mut founded = Vec::new();
    for node in &before {
        let of = async || node.view.snapshot().state.history();
        founded.push(eventually("the history begins", of).await);
    }
    assert!(founded.iter().all(|history| *history == founded[0]), "{founded:?}");
    keepers.iter().for_each(tokio::task::JoinHandle::abort);
    agree(&before).await;
    let index = before[0].view.index();
    stop(&before).await;
    let after = nodes(fixture).await;
    for node in &after {
        node.reaches(index).await;
        assert_eq!(node.view.snapshot().state.history(), Some(founded[0]));
    }
    stop(&after).await;
}

/// A thousand services register at once through all nodes, and none is lost.
pub(crate) async fn a_thousand_services(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let all = (0..1_000_usize).map(|i| {
        let node = &nodes[i % nodes.len()];
        async move { node.register(&format!("service-{i}"), "a", 80).await }
    });
    let epochs: BTreeSet<u64> = futures::future::join_all(all).await.into_iter().collect();
    assert_eq!(epochs.len(), 1_000, "each has a lease epoch of its own");
    agree(&nodes).await;
    for node in &nodes {
        assert_eq!(node.view.snapshot().state.services().len(), 1_000);
    }
    stop(&nodes).await;
}

/// A strong read sees everything that was acknowledged anywhere before it began.
pub(crate) async fn strong_reads(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    for i in 0..30_u16 {
        let writer = &nodes[usize::from(i) % nodes.len()];
        let reader = &nodes[usize::from(i + 1) % nodes.len()];
        let id = format!("i{i}");
        writer.register("read", &id, 80).await;
        reader.store.barrier(Consistency::Strong, SOON).await.expect("the barrier is reached");
        assert!(reader.has("read", &id), "an acknowledged write is missing from a strong read");
    }
    stop(&nodes).await;
}

/// Messages reach the leader from every node, and all nodes name the same leader.
pub(crate) async fn calls_reach_the_leader(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let leader = leader(&nodes).await;
    for node in &nodes {
        let answer = eventually("the leader answers", async || {
            let body = Bytes::from_static(b"renewals");
            node.store.call_leader(body, Duration::from_secs(2)).await.ok()
        })
        .await;
        assert_eq!(answer, format!("{} heard renewals", leader.name).as_bytes());
        // A node that has just started may forward to a leader that is not confirmed yet.
        let known = eventually("the leader is known", async || {
            Some(node.store.leadership_now()).filter(|known| known.leader.is_some())
        })
        .await;
        assert_eq!(known.leader.as_deref(), Some(&*leader.name));
        assert_eq!(known.is_leader, node.name == leader.name);
    }
    stop(&nodes).await;
    let after = nodes[0].store.call_leader(Bytes::new(), Duration::from_millis(500)).await;
    assert_eq!(after, Err(CallError::Unreachable), "a stopped node answers at once");
}

/// A write that is too large is refused with that reason, and a stopped node answers that it stops.
pub(crate) async fn limits(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let text = "x".repeat(1_000_000);
    let items = (0..20).map(|_| (AuditAction::AuditRecord, text.as_str().into(), true)).collect();
    let large = Batch { proposals: vec![proposal(Command::RecordAudit { items })] };
    let refused = nodes[0].store.propose(large, SOON.into()).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
    let bogus = Proposal { fence: Some(Fence(u64::MAX)), ..proposal(register("s", "a", 80)) };
    let leader = leader(&nodes).await;
    assert!(is_stale_fence(&leader.propose_as(bogus).await.reply));
    stop(&nodes).await;
    let stopped = nodes[0].try_propose(register("s", "a", 80)).await;
    assert_eq!(stopped, Err(ProposeError::ShuttingDown));
    stop(&nodes).await;
}

/// If nodes are connected only through the store, the store lists them and the addresses of their APIs, which
/// cannot be instances. A node that stops is removed from the list. A node that was removed while it runs is
/// listed again.
pub(crate) async fn nodes_are_known(fixture: &dyn Fixture) {
    let nodes = nodes(fixture).await;
    let meets_in_the_store =
        matches!(nodes[0].store.kind(), StoreKind::Redis | StoreKind::SharedFile);
    let known = nodes[0].store.nodes().await.unwrap();
    assert_eq!(known.is_some(), meets_in_the_store, "{known:?}");
    if !meets_in_the_store {
        return stop(&nodes).await;
    }
    let (first, last) = (&nodes[0], nodes.last().unwrap());
    let names = async || {
        let known = first.store.nodes().await.ok().flatten()?;
        let current = |node: &StoreNode| node.state_version == STATE_VERSION && !node.is_silent();
        assert!(known.iter().all(current), "{known:?}");
        Some(known.into_iter().map(|node| node.name).collect::<BTreeSet<_>>())
    };
    let all: BTreeSet<String> = nodes.iter().map(|node| node.name.clone()).collect();
    eventually("all are known", async || names().await.filter(|known| *known == all)).await;
    eventually("the addresses of all are known", async || {
        let own = first.store.own_addresses();
        all.iter().all(|name| own.contains(&format!("{name}.test:80"))).then_some(())
    })
    .await;
    assert!(first.store.forget_node(&last.name).await.unwrap());
    assert!(!first.store.forget_node("nobody").await.unwrap());
    eventually("a node that runs is back", async || names().await.filter(|known| *known == all))
        .await;
    last.store.shutdown().await;
    let known = names().await.unwrap();
    assert!(!known.contains(&last.name), "{known:?}");
    stop(&nodes[..nodes.len() - 1]).await;
}

/// Generates a test of each promise for one backend. `$open` creates a fixture.
macro_rules! contract_suite {
    ($open:expr; $($promise:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let fixture = $open;
                crate::contract::$promise(&fixture).await;
            }
        )*
    };
    ($open:expr) => {
        crate::contract::contract_suite!($open;
            ordering, idempotency, fencing, expiry, watch_without_gaps, restart, history,
            a_thousand_services, strong_reads, calls_reach_the_leader, limits, nodes_are_known);
    };
}
pub(crate) use contract_suite;
