//! Heartbeats through the registry on each backend: a lease that was acknowledged is known.

use std::sync::Arc;

use maxine_actors::registry::{RegistryParts, RegistrySettings, Renewal};
use maxine_actors::supervisor::Supervised;
use maxine_actors::{LeadershipActor, Registry, WriteError};
use maxine_clock::Clock;
use maxine_state::{Address, Fence, Name, Registration, RequestId};
use maxine_store::StoreEvent;
use maxine_store::redis::RedisConfig;
use tokio::sync::watch;

use crate::contract;
use crate::files::{Local, OneDirectory, Shared};
use crate::node::{Fixture, Node, SOON, caller, eventually, instance, service};
use crate::raft::ThreeDisks;
use crate::redis_server::{EventLog, OneServer, RedisServer, open, quick, replicated};

/// A node with its registry.
pub(crate) struct Stack {
    pub(crate) node: Node,
    pub(crate) registry: Registry,
    duties: watch::Receiver<Option<Fence>>,
    leadership: Supervised<LeadershipActor>,
}

impl Stack {
    pub(crate) fn on(node: Node) -> Self {
        Self::with(node, RegistrySettings::default())
    }

    pub(crate) fn with(node: Node, settings: RegistrySettings) -> Self {
        let (sender, duties) = watch::channel(None);
        let arbiter = actix_rt::Arbiter::current();
        let clock = Clock::system();
        let leadership = {
            let (node, clock) = (node.clone(), clock.clone());
            Supervised::start(&arbiter, move |lifeline| {
                LeadershipActor::new(
                    Name::trusted(&node.name),
                    Arc::clone(&node.store),
                    Arc::clone(&node.view),
                    clock.clone(),
                    sender.clone(),
                    lifeline,
                )
            })
        };
        let parts = RegistryParts {
            node: node.name.clone(),
            store: Arc::clone(&node.store),
            view: Arc::clone(&node.view),
            clock,
            duties: duties.clone(),
            peers: Arc::clone(&node.router),
            settings,
        };
        Self { registry: Registry::start(&arbiter, parts), node, duties, leadership }
    }

    pub(crate) async fn has_duties(&mut self) {
        let wait = self.duties.wait_for(Option::is_some);
        tokio::time::timeout(SOON, wait).await.expect("in time").expect("it lives");
    }

    /// Registers an instance, and repeats that where it is safe. Returns the lease epoch.
    async fn register(&self, id: &str) -> u64 {
        self.register_for(id, 60_000).await
    }

    async fn register_for(&self, id: &str, ttl_ms: u64) -> u64 {
        let address = Address::parse("http://10.0.0.1:80").expect("an address");
        let registration = Registration::new(Name::trusted(id), address, ttl_ms);
        crate::node::eventually("the registration is acknowledged", async || {
            let items = vec![(service("fleet"), registration.clone())];
            let answer = self.registry.register(caller(), None, None, items).await.ok()?;
            answer.1.into_iter().next()?.ok()
        })
        .await
    }

    /// Whether the lease is known. It asks until there is an answer.
    async fn renew(&self, id: &str, lease_epoch: Option<u64>) -> bool {
        crate::node::eventually("the heartbeat is answered", async || {
            let item = Renewal { key: instance("fleet", id), lease_epoch };
            self.registry.heartbeat(vec![item], None).await.ok().map(|(_, known)| known[0])
        })
        .await
    }

    pub(crate) async fn stop(self) {
        self.registry.stop();
        self.leadership.stop();
        self.node.store.shutdown().await;
    }
}

/// Runs a test on a system for actors, on a runtime with two threads.
pub(crate) fn on_a_system(test: impl Future<Output = ()>) {
    let system = actix_rt::System::with_tokio_rt(|| {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().expect("a runtime")
    });
    system.block_on(test);
}

/// An instance is registered through one node, and renewed through the same node immediately. The leader
/// knows the lease even if its own copy lags. It still reports an unknown lease as unknown.
async fn known_at_once(fixture: &dyn Fixture) {
    let nodes = contract::nodes(fixture).await;
    let stacks: Vec<Stack> = nodes.into_iter().map(Stack::on).collect();
    for i in 0..60 {
        let stack = &stacks[i % stacks.len()];
        let id = format!("i{i}");
        let epoch = stack.register(&id).await;
        assert!(stack.renew(&id, Some(epoch)).await, "{id} was acknowledged and is not known");
        assert!(stack.renew(&id, None).await, "{id} was acknowledged and is not known");
        assert!(!stack.renew(&id, Some(epoch + 1_000_000)).await, "no such registration");
    }
    assert!(!stacks[0].renew("never", None).await);
    for stack in stacks {
        stack.stop().await;
    }
}

#[test]
fn known_at_once_on_a_local_log() {
    let local = Local(OneDirectory::new(1 << 30), parking_lot::Mutex::default());
    on_a_system(async { known_at_once(&local).await });
}

#[test]
fn known_at_once_on_a_shared_log() {
    on_a_system(async { known_at_once(&Shared(OneDirectory::new(1 << 30))).await });
}

#[test]
fn known_at_once_on_redis() {
    on_a_system(async {
        let server = RedisServer::start().await;
        known_at_once(&OneServer {
            server,
            snapshot_every_entries: 1_000_000,
            keep_entries: 1_000,
        })
        .await;
    });
}

#[test]
fn known_at_once_on_raft() {
    on_a_system(async { known_at_once(&ThreeDisks::new()).await });
}

/// The leader still has its lease in Redis, but can no longer follow the log, and another node registers an
/// instance. The leader must not answer that it does not know the instance. It must catch up first.
#[test]
fn a_leader_that_is_behind_does_not_deny_a_lease_that_another_node_acknowledged() {
    on_a_system(async {
        let server = RedisServer::start().await;
        let rights = ["ACL", "SETUSER", "leader", "on", ">s3cret", "~*", "+@all"];
        server.command(&rights).await;
        let url = format!("redis://leader:s3cret@127.0.0.1:{}", server.port);
        let patient = |url: String, name: &str| RedisConfig {
            lease_ms: 15_000,
            renew_ms: 1_000,
            ..quick(url, name)
        };
        let mut leader = Stack::on(open(patient(url, "a")).await);
        leader.has_duties().await;
        let other = Stack::on(open(patient(server.url(), "b")).await);
        other.register("before").await;
        assert!(other.renew("before", None).await);

        let event_log = EventLog::by(&leader.node);
        server.command(&["ACL", "SETUSER", "leader", "-xread", "-xrange"]).await;
        event_log
            .until("the leader follows no more", |event| {
                matches!(event, StoreEvent::Unreachable { .. })
            })
            .await;
        let epoch = other.register("meanwhile").await;
        assert!(leader.node.is_leader() && !leader.node.has("fleet", "meanwhile"), "it is behind");
        let item = || Renewal { key: instance("fleet", "meanwhile"), lease_epoch: Some(epoch) };
        let unanswered = other.registry.heartbeat(vec![item()], None).await;
        assert!(unanswered.is_err(), "nobody can tell yet: {unanswered:?}");
        let known = other.registry.heartbeat(vec![item()], None);
        let mend = server.command(&["ACL", "SETUSER", "leader", "+xread", "+xrange"]);
        let (known, _) = tokio::join!(known, mend);
        let known = known.map(|(_, known)| known);
        assert!(known.is_err() || known == Ok(vec![true]), "{known:?}");
        assert!(other.renew("meanwhile", Some(epoch)).await);
        other.stop().await;
        leader.stop().await;
    });
}

/// A leader whose leadership has lapsed acknowledges no heartbeat, even before its actors know it. The
/// next leader would not know about that heartbeat.
#[test]
fn a_leader_that_lapsed_unnoticed_acknowledges_no_heartbeat() {
    on_a_system(async {
        let clock = Clock::system();
        let view = maxine_view::View::new(clock.clone());
        let peers = crate::node::Peers::new("a");
        let router = Arc::clone(&peers.router);
        let store =
            Arc::new(maxine_store::MemoryStore::new(Arc::clone(&view), "a", Arc::new(peers)));
        let node = Node { name: "a".into(), store: Arc::clone(&store) as _, view, router };
        let mut stack = Stack::on(node);
        stack.has_duties().await;
        let epoch = stack.register("i").await;
        assert!(stack.renew("i", Some(epoch)).await);
        // The duties do not change, because no other task of this thread runs before the answer.
        let held = *stack.duties.borrow();
        store.set_available(false);
        let item = Renewal { key: instance("fleet", "i"), lease_epoch: Some(epoch) };
        let answer = stack.registry.heartbeat(vec![item], None);
        let first = futures::FutureExt::now_or_never(answer);
        assert!(held.is_some() && !matches!(first, Some(Ok(_))), "{first:?}");
        stack.stop().await;
    });
}

/// Leadership moves repeatedly. A lease without heartbeats ends when its time is over, and a move does not
/// extend it. A lease that is renewed does not end.
#[test]
fn a_lease_has_the_same_time_however_often_leadership_is_handed_over() {
    const TTL_MS: u64 = 4_000;
    on_a_system(async {
        let disks = ThreeDisks::new();
        let nodes = contract::nodes(&disks).await;
        let stacks: Vec<Stack> = nodes.into_iter().map(Stack::on).collect();
        stacks[0].register("before").await;
        let clock = Clock::system();
        let registered_ms = clock.monotonic_ms();
        stacks[1].register_for("silent", TTL_MS).await;
        let epoch = stacks[2].register_for("heard", TTL_MS).await;
        let mut moves = 0;
        let mut moved_ms = registered_ms;
        while stacks[0].node.has("fleet", "silent") && clock.monotonic_ms() < registered_ms + 20_000
        {
            assert!(stacks[0].renew("heard", Some(epoch)).await, "it was acknowledged each time");
            if clock.monotonic_ms() >= moved_ms + 700 {
                moved_ms = clock.monotonic_ms();
                for stack in &stacks {
                    let duties = stack.duties.borrow().is_some();
                    let admin = stack.node.store.cluster().filter(|_| duties);
                    let Some(admin) = admin else { continue };
                    moves += u32::from(admin.transfer_leadership(None).await.is_ok());
                    break;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let lived_ms = clock.monotonic_ms() - registered_ms;
        assert!(moves >= 3, "leadership moved {moves} times");
        assert!((TTL_MS..2 * TTL_MS).contains(&lived_ms), "{lived_ms} ms, {moves} moves");
        assert!(stacks[0].renew("heard", Some(epoch)).await);
        for stack in stacks {
            stack.stop().await;
        }
    });
}

/// Redis refuses writes for longer than a time to live, and for longer than the leader's lease. No heartbeat through
/// another node can be acknowledged meanwhile, so the instance has its whole time afterwards.
#[test]
fn an_instance_that_could_not_be_renewed_while_redis_refused_writes_stays() {
    const TTL_MS: u64 = 2_000;
    const REFUSED_MS: u64 = 7_000;
    on_a_system(async {
        let server = RedisServer::start().await;
        let longer = RedisConfig { lease_ms: 4_000, ..quick(server.url(), "a") };
        let mut leader = Stack::on(open(longer).await);
        leader.has_duties().await;
        // This node would lead only after two of its lease periods without a leader.
        let never_leads =
            RedisConfig { election_enabled: false, lease_ms: 60_000, ..quick(server.url(), "b") };
        let other = Stack::on(open(never_leads).await);
        let epoch = other.register_for("i", TTL_MS).await;
        assert!(other.renew("i", Some(epoch)).await);
        let log = EventLog::by(&leader.node);
        server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
        let clock = Clock::system();
        let began_ms = clock.monotonic_ms();
        log.until("the refusal is known", |event| {
            matches!(event, StoreEvent::WritesRefused { .. })
        })
        .await;
        let pause = std::time::Duration::from_millis(300);
        while clock.monotonic_ms() < began_ms + REFUSED_MS {
            let item = Renewal { key: instance("fleet", "i"), lease_epoch: Some(epoch) };
            let heartbeat = tokio::time::timeout(pause, other.registry.heartbeat(vec![item], None));
            assert!(!matches!(heartbeat.await, Ok(Ok(_))), "nobody can take it");
            tokio::time::sleep(pause).await;
        }
        assert!(leader.duties.borrow().is_none(), "its lease in Redis has run out");
        server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
        leader.has_duties().await;
        let led_ms = clock.monotonic_ms();
        while clock.monotonic_ms() < led_ms + TTL_MS / 2 {
            assert!(other.node.has("fleet", "i"), "nobody could renew it");
            tokio::time::sleep(pause / 10).await;
        }
        assert!(other.renew("i", Some(epoch)).await);
        other.stop().await;
        leader.stop().await;
    });
}

/// A registration that is in the state is not acknowledged as long as a failover of Redis may lose it,
/// whether or not the request has the key of the first one.
#[test]
fn a_repeated_registration_is_done_only_once_the_replicas_have_it() {
    on_a_system(async {
        let pair = replicated::pair().await;
        let settings = RegistrySettings { write_timeout_ms: 1_000, ..RegistrySettings::default() };
        let mut stack = Stack::with(pair.start("a").await, settings);
        stack.has_duties().await;
        stack.register("before").await;

        let address = Address::parse("http://10.0.0.1:80").expect("an address");
        let registration = Registration::new(Name::trusted("q"), address, 60_000);
        let register = async |key: Option<u128>| {
            let items = vec![(service("fleet"), registration.clone())];
            stack.registry.register(caller(), key.map(RequestId), None, items).await
        };
        pair.replica.command(&["REPLICAOF", "NO", "ONE"]).await;
        let first = register(Some(7)).await;
        assert!(matches!(first, Err(WriteError::OutcomeUnknown { .. })), "{first:?}");
        eventually("the node reads it", async || stack.node.has("fleet", "q").then_some(())).await;
        for key in [Some(7), None] {
            let again = register(key).await;
            assert!(matches!(again, Err(WriteError::OutcomeUnknown { .. })), "{key:?}: {again:?}");
        }
        let master = pair.master.port.to_string();
        pair.replica.command(&["REPLICAOF", "127.0.0.1", &master]).await;
        let (_, epochs) =
            eventually("the replica has it", async || register(Some(7)).await.ok()).await;
        assert!(matches!(epochs[..], [Ok(epoch)] if epoch > 0), "{epochs:?}");
        stack.stop().await;
    });
}
