//! Faults of a real Redis server: it is unavailable, loses writes, is emptied, is restored to an older state,
//! or refuses writes.

use std::time::Duration;

use maxine_store::redis::RedisConfig;
use maxine_store::{CallError, Consistency, ProposeError, ReadError, StoreEvent};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::contract::agree;
use crate::files::begins_another_history;
use crate::node::{Node, SOON, eventually, instance, leader, register};
use crate::redis_server::{EventLog, RedisServer, open, quick};

async fn three(server: &RedisServer) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(open(quick(server.url(), name)).await);
    }
    leader(&nodes).await;
    nodes
}

/// The answer to a write that was not carried out because of the store.
fn unavailable<T>(why: &str) -> Result<T, ProposeError> {
    Err(ProposeError::StoreUnavailable(why.into()))
}

async fn stop(nodes: &[Node]) {
    for node in nodes {
        node.store.shutdown().await;
    }
}

async fn nobody_leads(nodes: &[Node]) {
    eventually("leadership ends everywhere", async || {
        let over = nodes.iter().all(|node| {
            let leadership = node.store.leadership_now();
            !leadership.is_leader && leadership.leader.is_none()
        });
        over.then_some(())
    })
    .await;
}

/// Redis is unavailable for a while: reads continue and report their age, writes are refused, no node
/// leads. When Redis is available again, everything continues without an operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_away_and_back() {
    let mut server =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let nodes = three(&server).await;
    let event_log = EventLog::by(&nodes[0]);
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    let terms = nodes[0].store.leadership_now().term;

    server.crash();
    event_log
        .until("the outage is reported", |event| matches!(event, StoreEvent::Unreachable { .. }))
        .await;
    nobody_leads(&nodes).await;
    for node in &nodes {
        assert!(node.has("orders", "a"), "discovery goes on from the last view");
        let refused = node.try_propose(register("orders", "b", 80)).await;
        assert_eq!(
            refused,
            unavailable("the store does not answer"),
            "nothing was written, a retry is safe"
        );
        let strong = node.store.barrier(Consistency::Strong, Duration::from_secs(1)).await;
        assert_eq!(strong, Err(ReadError::StoreUnavailable));
        assert!(node.store.staleness_ms() > Some(500), "the view's age is reported");
    }

    server.resume().await;
    event_log
        .until("the return is reported", |event| matches!(event, StoreEvent::Reachable { .. }))
        .await;
    let leader = leader(&nodes).await;
    assert!(leader.store.leadership_now().term > terms, "a new lease has a new token");
    nodes[2].register("orders", "b", 80).await;
    agree(&nodes).await;
    assert!(nodes[0].has("orders", "a") && nodes[0].has("orders", "b"));
    eventually("the view is fresh", async || {
        nodes[1].store.staleness_ms().is_some_and(|age_ms| age_ms < 1_000).then_some(())
    })
    .await;
    assert!(!event_log.any(StoreEvent::is_loss));
    stop(&nodes).await;
}

/// A broken connection, or a time limit that ended while the node was paused, does not mean that Redis is
/// unavailable. The node reports that Redis does not answer only after another attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_to_a_redis_that_answers_is_no_outage() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let logs: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    for round in 0..3 {
        let killed_at = std::time::Instant::now();
        let killed = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert!(killed.contains(|digit: char| ('1'..='9').contains(&digit)), "{killed}");
        for node in &nodes {
            eventually("a new connection reads the log", async || {
                let age = Duration::from_millis(node.store.staleness_ms()?);
                (age < killed_at.elapsed()).then_some(())
            })
            .await;
        }
        nodes[round].register("orders", &format!("i{round}"), 80).await;
        agree(&nodes).await;
    }
    let outage = |event: &StoreEvent| matches!(event, StoreEvent::Unreachable { .. });
    assert!(!logs.iter().any(|log| log.any(outage)), "{:?}", logs[0].all());
    stop(&nodes).await;
}

/// Forwards to a server. [`Self::shift`] adds one reply to each open connection. From then on, each of its commands gets
/// the reply to the one before. No connection is closed.
struct Shifting {
    port: u16,
    shifts: watch::Sender<u32>,
}

impl Shifting {
    async fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, target) = (listener.local_addr().unwrap().port(), server.port);
        let (shifts, seen) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let (of_opening, mut late) = (*seen.borrow(), b"+OK\r\n".to_vec());
                    let mut outer = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                    let (mut inner_read, mut inner_write) = inner.split();
                    let (mut outer_read, mut outer_write) = outer.split();
                    let back = async {
                        let mut bytes = vec![0; 64 * 1024];
                        while let Ok(len @ 1..) = outer_read.read(&mut bytes).await {
                            let mut reply = bytes[..len].to_vec();
                            if *seen.borrow() != of_opening {
                                std::mem::swap(&mut reply, &mut late);
                            }
                            if inner_write.write_all(&reply).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = back => {}
                        _ = tokio::io::copy(&mut inner_read, &mut outer_write) => {}
                    }
                });
            }
        });
        Self { port, shifts }
    }

    fn shift(&self) {
        self.shifts.send_modify(|shifts| *shifts += 1);
    }
}

/// Something on the way to Redis adds a reply, so that all later commands of a connection get the reply to another one.
/// The node replaces such a connection by itself. Nothing that was written is lost, and nothing is written twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_replies_have_shifted_is_replaced() {
    let server = RedisServer::start().await;
    let shifting = Shifting::before(&server).await;
    let node = open(quick(format!("redis://127.0.0.1:{}", shifting.port), "a")).await;
    node.leads().await;
    for round in 0..3 {
        shifting.shift();
        node.register("orders", &format!("i{round}"), 80).await;
        eventually("reads and the lease are right again", async || {
            let strong = node.store.barrier(Consistency::Strong, Duration::from_secs(1)).await;
            (strong.is_ok() && node.is_leader()).then_some(())
        })
        .await;
    }
    let fresh = open(quick(server.url(), "b")).await;
    agree(&[node.clone(), fresh.clone()]).await;
    assert!((0..3).all(|round| fresh.has("orders", &format!("i{round}"))));
    assert_eq!(fresh.view.snapshot().state.instances_len(), 3);
    stop(&[node, fresh]).await;
}

/// A node that starts while Redis is unavailable begins to work when Redis is available.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_start_before_redis() {
    let mut server = RedisServer::start().await;
    server.crash();
    let node = open(quick(server.url(), "a")).await;
    assert_eq!(node.store.staleness_ms(), None, "it never heard of any state");
    assert_eq!(
        node.try_propose(register("s", "a", 80)).await,
        unavailable("the store does not answer")
    );
    server.resume().await;
    node.register("s", "a", 80).await;
    node.leads().await;
    node.store.shutdown().await;
}

/// A server that hangs, because it is stopped by a signal, counts as unavailable. A write in flight has an
/// unknown outcome, and takes effect once when it is repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    server.signal(Signal::SIGSTOP);
    let request = crate::node::proposal(register("orders", "a", 80));
    let batch = maxine_state::Batch { proposals: vec![request.clone()] };
    let outcome = nodes[0].store.propose(batch, Duration::from_secs(2).into()).await;
    assert_eq!(outcome, Err(ProposeError::OutcomeUnknown));
    eventually("every node knows that redis is silent", async || {
        nodes.iter().all(|node| node.store.service_silence_ms().is_some()).then_some(())
    })
    .await;
    nobody_leads(&nodes).await;
    server.signal(Signal::SIGCONT);
    let first = nodes[1].propose_as(request.clone()).await;
    let again = nodes[2].propose_as(request).await;
    assert_eq!(first, again);
    agree(&nodes).await;
    assert_eq!(nodes[0].view.snapshot().state.instances_len(), 1);
    assert_eq!(nodes[0].store.service_silence_ms(), None);
    stop(&nodes).await;
}

/// A server that continues first carries out what was sent to it before, such as a request for the lease that nobody
/// waits for any more. Such a lease has no leader, so no node names its holder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_names_a_wrong_leader_after_redis_hung() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let leads = |name: &str| {
        let named = nodes.iter().find(|node| node.name == name).expect("one of the nodes");
        named.store.leadership_now().is_leader
    };
    for _ in 0..3 {
        server.signal(Signal::SIGSTOP);
        nobody_leads(&nodes).await;
        // Requests for the lease are sent, and nobody waits for them any more.
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal(Signal::SIGCONT);
        let until = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < until {
            for node in &nodes {
                let before = ["a", "b", "c"].map(leads);
                let Some(named) = node.store.leadership_now().leader else { continue };
                let led =
                    ["a", "b", "c"].iter().zip(before).any(|(name, led)| led && **name == named);
                assert!(led || leads(&named), "{} names {named}, which does not lead", node.name);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        leader(&nodes).await;
    }
    stop(&nodes).await;
}

/// Redis was flushed: a node that has the state in memory writes it back, and every node continues at its position.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_flushed() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    for i in 0..20 {
        nodes[i % 3].register("orders", &format!("i{i}"), 80).await;
    }
    agree(&nodes).await;
    let digest = nodes[0].digest();
    server.command(&["FLUSHALL"]).await;
    eventually("the state is put back", async || {
        let put_back = |event: &StoreEvent| matches!(event, StoreEvent::StatePutBack { .. });
        event_log.iter().any(|event_log| event_log.any(put_back)).then_some(())
    })
    .await;
    nodes[1].register("orders", "later", 80).await;
    agree(&nodes).await;
    assert!(nodes.iter().all(|node| node.has("orders", "i7")));
    assert!(!event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)));
    // This node does not compete to lead, because the leader below must be one of the three.
    let watching = RedisConfig { election_enabled: false, ..quick(server.url(), "d") };
    let fresh = open(watching).await;
    fresh.reaches(digest.index + 1).await;
    assert_eq!(fresh.digest(), nodes[0].digest());
    assert!(leader(&nodes).await.store.leadership_now().term >= 2, "tokens grow all the same");
    stop(&nodes).await;
    fresh.store.shutdown().await;
}

/// A failover to a replica that lacks the last writes, or a restart from an older append-only file: the nodes
/// write again what they still have in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_loses_the_last_writes() {
    let mut server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let nodes = three(&server).await;
    nodes[0].register("orders", "before", 80).await;
    server.command(&["SAVE"]).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    for i in 0..10 {
        nodes[i % 3].register("orders", &format!("i{i}"), 80).await;
    }
    agree(&nodes).await;
    server.crash();
    server.resume().await;
    eventually("the writes are put back", async || {
        let put_back = |event: &StoreEvent| matches!(event, StoreEvent::WritesPutBack { .. });
        event_log.iter().any(|event_log| event_log.any(put_back)).then_some(())
    })
    .await;
    nodes[0].register("orders", "later", 80).await;
    agree(&nodes).await;
    let fresh = open(quick(server.url(), "d")).await;
    fresh.reaches(nodes[0].view.index()).await;
    assert!(fresh.has("orders", "i9") && fresh.has("orders", "later"));
    assert!(!event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)));
    eventually("the new process is reported", async || {
        let changed = |event: &StoreEvent| matches!(event, StoreEvent::ServerChanged { .. });
        event_log[0].any(changed).then_some(())
    })
    .await;
    stop(&nodes).await;
    fresh.store.shutdown().await;
}

/// Redis is restored from an older dump while every node is stopped. A node has stored on its own disk that
/// there was a newer state. So the loss is reported, and another history begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_restored_from_an_old_dump_while_all_nodes_were_stopped() {
    let mut server = RedisServer::start_with(&["--appendonly", "no", "--save", ""]).await;
    let dir = tempfile::tempdir().unwrap();
    let config = |url: String| RedisConfig {
        newest_state: Some(dir.path().join("newest")),
        ..quick(url, "a")
    };
    let node = open(config(server.url())).await;
    node.founded().await;
    node.register("orders", "before", 80).await;
    server.command(&["SAVE"]).await;
    let had = node.register("orders", "lost", 80).await;
    node.store.shutdown().await;
    server.crash();
    server.resume().await;
    let node = open(config(server.url())).await;
    assert!(node.has("orders", "before") && !node.has("orders", "lost"));
    begins_another_history(&node, had).await;
    node.store.shutdown().await;
    let node = open(config(server.url())).await;
    assert!(!EventLog::by(&node).any(StoreEvent::is_loss), "it is reported once");
    node.store.shutdown().await;
}

/// Redis was restored from an old dump and written since: the loss is reported, every node follows
/// Redis, all nodes agree, and instances that register again are present.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_restored_from_an_old_dump_and_written_since() {
    let mut server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let nodes = three(&server).await;
    nodes[0].register("orders", "before", 80).await;
    agree(&nodes).await;
    server.command(&["SAVE"]).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    let keepers: Vec<_> = nodes.iter().map(Node::keep_history).collect();
    let history = || nodes[0].view.snapshot().state.history();
    let first = eventually("the first history begins", async || history()).await;
    nodes[0].register("orders", "lost", 80).await;
    agree(&nodes).await;
    server.crash();
    // Another process writes to the restored server before these nodes reach it again: a node that uses
    // another port.
    let elsewhere = server.moved().await;
    let stranger = open(quick(elsewhere.url(), "d")).await;
    assert!(stranger.has("orders", "before") && !stranger.has("orders", "lost"));
    stranger.register("orders", "new", 80).await;
    stranger.register("orders", "newer", 80).await;
    stranger.store.shutdown().await;
    elsewhere.command(&["SAVE"]).await;
    drop(elsewhere);
    server.resume().await;
    for event_log in &event_log {
        event_log.until("the loss is reported", StoreEvent::is_loss).await;
    }
    // Indexes are used again, so they belong to another history, which begins once.
    let other = async || history().filter(|now| *now != first);
    let begun = Some(eventually("another history begins", other).await);
    keepers.iter().for_each(tokio::task::JoinHandle::abort);
    nodes[1].register("orders", "lost", 80).await;
    agree(&nodes).await;
    for id in ["before", "lost", "new", "newer"] {
        assert!(nodes[2].has("orders", id), "{id}");
    }
    assert!(nodes.iter().all(|node| node.view.snapshot().state.history() == begun));
    stop(&nodes).await;
}

/// `READONLY`: the server became a replica. Reads continue, and writes are refused and reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_answers_readonly() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let event_log = EventLog::by(&nodes[0]);
    nodes[0].register("orders", "a", 80).await;
    let nowhere = crate::redis_server::free_port().to_string();
    server.command(&["REPLICAOF", "127.0.0.1", &nowhere]).await;
    let refused = nodes[0].try_propose(register("orders", "b", 80)).await;
    assert_eq!(refused, unavailable("the store refuses writes (READONLY)"));
    event_log.until("the refusal is reported", |event| {
        matches!(event, StoreEvent::WritesRefused { reason } if reason.contains("READONLY"))
    })
    .await;
    nobody_leads(&nodes).await;
    assert!(nodes[0].has("orders", "a"));
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    nodes[1].register("orders", "b", 80).await;
    leader(&nodes).await;
    agree(&nodes).await;
    stop(&nodes).await;
}

/// `LOADING`: the server is up, but still reads its data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_answers_loading() {
    // A delay for each key keeps Redis loading until the test lifts the delay.
    let mut server = RedisServer::start_with(&[
        "--appendonly",
        "no",
        "--rdbcompression",
        "no",
        "--key-load-delay",
        "100000",
        "--loading-process-events-interval-bytes",
        "1024",
    ])
    .await;
    let nodes = three(&server).await;
    let event_log = EventLog::by(&nodes[0]);
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    let fill = "for i = 1, 250 do redis.call('SET', 'filler' .. i, string.rep('x', 100000)) end";
    server.command(&["EVAL", fill, "0"]).await;
    server.command(&["SAVE"]).await;
    server.crash();
    server.spawn();
    event_log
        .until("the refusal is reported", |event| match event {
            StoreEvent::Unreachable { reason, .. } | StoreEvent::WritesRefused { reason } => {
                !reason.is_empty()
            }
            _ => false,
        })
        .await;
    eventually("the server says that it loads", async || {
        server.error_of(&["GET", "x"]).await.filter(|code| code == "LOADING")
    })
    .await;
    let refused = nodes[0].try_propose(register("orders", "b", 80)).await;
    assert!(matches!(refused, Err(ProposeError::StoreUnavailable(_))), "{refused:?}");
    assert!(nodes[0].has("orders", "a"));
    server.command(&["CONFIG", "SET", "key-load-delay", "0"]).await;
    nodes[1].register("orders", "b", 80).await;
    agree(&nodes).await;
    stop(&nodes).await;
}

/// `OOM`: Redis has no memory for writes. The leader keeps its lease, because a renewal needs no memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_answers_oom() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let event_log = EventLog::by(&nodes[0]);
    let epoch = nodes[0].register("orders", "a", 80).await;
    let leads = leader(&nodes).await;
    let fence = leads.take_duties().await;
    agree(&nodes).await;
    let before = nodes[0].digest();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for node in &nodes {
        let refused = node.try_propose(register("orders", "b", 80)).await;
        assert_eq!(refused, unavailable("the store refuses writes (OOM)"), "nothing was written");
    }
    event_log
        .until(
            "the refusal is reported",
            |event| matches!(event, StoreEvent::WritesRefused { reason } if reason.contains("OOM")),
        )
        .await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    assert!(leads.is_leader(), "the lease is renewed all the same");
    agree(&nodes).await;
    assert_eq!(nodes[0].digest(), before, "not half done either");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    leads.expire(fence, (instance("orders", "a"), epoch)).await;
    agree(&nodes).await;
    assert!(!nodes[2].has("orders", "a"));
    stop(&nodes).await;
}

/// Although nobody writes, every node knows that Redis refuses writes, until Redis carries one out. A list of
/// nodes in which this node is missing is not returned as the whole list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_redis_refuses_writes_is_known_until_it_carries_one_out() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let logs: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    nodes[0].register("orders", "a", 80).await;
    let listed =
        async |node: &Node| node.store.nodes().await.map(|nodes| nodes.map_or(0, |n| n.len()));
    eventually("all report", async || (listed(&nodes[0]).await == Ok(3)).then_some(())).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for (node, log) in nodes.iter().zip(&logs) {
        log.until("the refusal is reported", |event| {
            matches!(event, StoreEvent::WritesRefused { .. })
        })
        .await;
        assert_eq!(node.store.refuses_writes().unwrap(), "the store refuses writes (OOM)");
    }
    let forget =
        "for _, key in ipairs(redis.call('KEYS', '*:nodes')) do redis.call('DEL', key) end";
    server.command(&["EVAL", forget, "0"]).await;
    assert_eq!(listed(&nodes[0]).await, Err(ReadError::StoreUnavailable));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    for (node, log) in nodes.iter().zip(&logs) {
        log.until("the end is reported", |event| {
            matches!(event, StoreEvent::WritesAccepted { .. })
        })
        .await;
        assert_eq!(node.store.refuses_writes(), None);
        let refusals = |event: &&StoreEvent| matches!(event, StoreEvent::WritesRefused { .. });
        assert_eq!(log.all().iter().filter(refusals).count(), 1, "it is one outage");
    }
    eventually("all report", async || (listed(&nodes[0]).await == Ok(3)).then_some(())).await;
    stop(&nodes).await;
}

/// The access rules of Redis forbid every write inside the scripts. Every node knows when this begins and
/// when it ends, although nobody writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_the_access_rules_of_redis_forbid_writes_is_known() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let logs: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    nodes[0].register("orders", "a", 80).await;
    server.command(&["ACL", "SETUSER", "default", "-@write"]).await;
    let forbidden = "the store refuses writes (NOPERM)";
    for (node, log) in nodes.iter().zip(&logs) {
        log.until("the refusal is reported", |event| {
            let text = "NOPERM The user executing the script can't run this command";
            matches!(event, StoreEvent::WritesRefused { reason } if reason.contains(text)
                || reason.starts_with("NOPERM ACL failure in script"))
        })
        .await;
        assert_eq!(node.store.refuses_writes().unwrap(), forbidden);
    }
    let refused = nodes[0].try_propose(register("orders", "b", 80)).await;
    assert_eq!(refused, unavailable(forbidden));
    server.command(&["ACL", "SETUSER", "default", "+@all"]).await;
    for (node, log) in nodes.iter().zip(&logs) {
        log.until("the end is reported", |event| {
            matches!(event, StoreEvent::WritesAccepted { .. })
        })
        .await;
        assert_eq!(node.store.refuses_writes(), None);
    }
    stop(&nodes).await;
}

/// Redis does not accept the password of a node, or requires one that the node does not have. In both cases
/// nothing can have been written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_the_password_of_redis_is_refused_at_once_with_the_reason() {
    let server = RedisServer::start().await;
    server.command(&["ACL", "SETUSER", "node", "on", ">s3cret", "~*", "&*", "+@all"]).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let with_password = format!("redis://node:s3cret@127.0.0.1:{}", server.port);
    for (url, user, why) in [
        (with_password, "node", "the store refuses this node's password (WRONGPASS)"),
        (server.url(), "default", "the store demands a password, and this node has none (NOAUTH)"),
    ] {
        let node = open(quick(url, "a")).await;
        leader(std::slice::from_ref(&node)).await;
        node.register("orders", "a", 80).await;
        let log = EventLog::by(&node);
        let change = ["SETUSER", user, "resetpass", ">another"];
        let () = redis::cmd("ACL").arg(&change).query_async(&mut admin).await.unwrap();
        let kill = ["KILL", "USER", user, "SKIPME", "yes"];
        let _: u64 = redis::cmd("CLIENT").arg(&kill).query_async(&mut admin).await.unwrap();
        eventually("the reason is known", async || {
            (node.store.refuses_writes().as_deref() == Some(why)).then_some(())
        })
        .await;
        log.until("the alert says that Redis answers", |event| {
            matches!(event, StoreEvent::Unreachable { cause: Some(text), .. } if text == why)
        })
        .await;
        // Redis closes a connection without a password after a long command. The outcome of a write on it was unknown.
        let began = std::time::Instant::now();
        for port in 80..90 {
            assert_eq!(node.try_propose(register("orders", "b", port)).await, unavailable(why));
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        stop(&[node]).await;
    }
}

/// Redis refuses writes, so the leader cannot renew its lease. No node names a leader after the lease has run out,
/// although all of them saw the lease until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_claims_a_leader_whose_lease_has_run_out() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    // Messages to the leader also go through Redis. Redis has refused this one.
    let follower = nodes.iter().find(|node| !node.store.leadership_now().is_leader).unwrap();
    let asked = follower.store.call_leader(bytes::Bytes::from_static(b"x"), SOON).await;
    assert_eq!(asked, Err(CallError::Unreachable));
    eventually("the lease runs out", async || {
        let is_over = server.command(&["EXISTS", "maxine:registry:cluster:leader"]).await == "0";
        is_over.then_some(())
    })
    .await;
    for node in &nodes {
        let leadership = node.store.leadership_now();
        assert!(!leadership.is_leader && leadership.leader.is_none(), "{leadership:?}");
    }
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    leader(&nodes).await;
    stop(&nodes).await;
}

/// Redis is gone, and the leader's lease is valid for another minute. Nothing confirms it, so no node claims a leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_claims_a_leader_that_redis_does_not_confirm() {
    let mut server = RedisServer::start().await;
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let long = RedisConfig { lease_ms: 60_000, renew_ms: 20_000, ..quick(server.url(), name) };
        nodes.push(open(long).await);
    }
    leader(&nodes).await;
    let began = std::time::Instant::now();
    server.crash();
    nobody_leads(&nodes).await;
    assert!(began.elapsed() < Duration::from_secs(30), "long before the lease runs out");
    for node in &nodes {
        assert_eq!(node.store.refuses_writes().unwrap(), "the store does not answer");
    }
    stop(&nodes).await;
}

/// `MISCONF`: the server cannot save and takes no writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_answers_misconf() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let nodes = three(&server).await;
    let event_log = EventLog::by(&nodes[0]);
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    server.command(&["CONFIG", "SET", "save", "3600 1"]).await;
    server.lose_directory();
    server.command(&["BGSAVE"]).await;
    eventually("the server says so", async || {
        let code = server.error_of(&["SET", "other", "x"]).await;
        code.filter(|code| code == "MISCONF")
    })
    .await;
    for node in &nodes {
        let refused = node.try_propose(register("orders", "b", 80)).await;
        assert_eq!(
            refused,
            unavailable("the store refuses writes (MISCONF)"),
            "nothing was written"
        );
        assert!(node.has("orders", "a"), "reads go on");
    }
    event_log.until(
        "the refusal is reported",
        |event| matches!(event, StoreEvent::WritesRefused { reason } if reason.contains("MISCONF")),
    )
    .await;
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    nodes[1].register("orders", "b", 80).await;
    leader(&nodes).await;
    agree(&nodes).await;
    stop(&nodes).await;
}

/// The server disconnects all clients and accepts no new ones: no node leads, and reads continue. When
/// it accepts clients again, everything continues without an operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_takes_no_more_clients() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    let event_log = EventLog::by(&nodes[0]);
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    // This connection stays open. Redis refuses all others from here on.
    let client = redis::Client::open(server.url()).expect("a url");
    let mut link = client.get_multiplexed_async_connection().await.expect("it answers");
    let mut say = async |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async::<redis::Value>(&mut link).await.expect("it is done")
    };
    say(&["CONFIG", "SET", "maxclients", "1"]).await;
    say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    event_log
        .until("it is reported", |event| matches!(event, StoreEvent::Unreachable { .. }))
        .await;
    nobody_leads(&nodes).await;
    let refused = nodes[1].try_propose(register("orders", "b", 80)).await;
    assert!(matches!(refused, Err(ProposeError::StoreUnavailable(_))), "{refused:?}");
    assert!(nodes.iter().all(|node| node.has("orders", "a")), "reads go on");
    say(&["CONFIG", "SET", "maxclients", "1000"]).await;
    nodes[1].register("orders", "b", 80).await;
    leader(&nodes).await;
    agree(&nodes).await;
    stop(&nodes).await;
}

/// The server loses the scripts, and pauses all clients for longer than a lease: the nodes continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_are_forgotten_and_clients_paused() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    nodes[0].register("orders", "a", 80).await;
    server.command(&["SCRIPT", "FLUSH"]).await;
    nodes[1].register("orders", "b", 80).await;
    agree(&nodes).await;
    let before = leader(&nodes).await.take_duties().await;
    server.command(&["CLIENT", "PAUSE", "4000", "ALL"]).await;
    nobody_leads(&nodes).await;
    assert!(nodes.iter().all(|node| node.has("orders", "b")), "reads go on");
    nodes[2].register("orders", "c", 80).await;
    assert!(leader(&nodes).await.take_duties().await > before);
    agree(&nodes).await;
    stop(&nodes).await;
}

/// The password is changed while the nodes run. They have no store until Redis accepts them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_changed() {
    let server = RedisServer::start().await;
    server.command(&["ACL", "SETUSER", "mx", "on", ">old", "~*", "+@all"]).await;
    let url = format!("redis://mx:old@127.0.0.1:{}", server.port);
    let node = open(quick(url, "a")).await;
    let event_log = EventLog::by(&node);
    node.register("orders", "a", 80).await;
    server.command(&["ACL", "SETUSER", "mx", "resetpass", ">new"]).await;
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    event_log
        .until("it is reported", |event| matches!(event, StoreEvent::Unreachable { .. }))
        .await;
    nobody_leads(std::slice::from_ref(&node)).await;
    assert!(node.has("orders", "a"));
    assert!(node.try_propose(register("orders", "b", 80)).await.is_err());
    server.command(&["ACL", "SETUSER", "mx", "resetpass", ">old"]).await;
    node.register("orders", "b", 80).await;
    node.leads().await;
    node.store.shutdown().await;
}

/// At a first start, keys of the same names exist that are not Maxine's, or a log without its head. It
/// is reported, and within two leases the nodes continue. The old keys are kept under another name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_are_reported_and_moved_aside() {
    let server = RedisServer::start().await;
    let cases: [(&str, &str, &[&str]); 6] = [
        ("one:log:head", "one:aside:head", &["SET", "one:log:head", "somebody's"]),
        ("two:log", "two:aside:log", &["SET", "two:log", "somebody's"]),
        ("three:log", "three:aside:log", &["XADD", "three:log", "1-0", "field", "somebody's"]),
        (
            "four:snapshot2",
            "four:aside:snapshot2",
            &["HSET", "four:snapshot2", "field", "somebody's"],
        ),
        ("five:snapshot2", "five:aside:snapshot2", &["SADD", "five:snapshot2", "somebody's"]),
        (
            "six:log:head",
            "six:aside:head",
            &["HSET", "six:log:head", "epoch", "e", "seq", "many", "nonce", "0123456789abcdef"],
        ),
    ];
    for (key, aside, put) in cases {
        server.command(put).await;
        let before = server.command(&["DUMP", key]).await;
        let prefix = key.split(':').next().expect("a prefix");
        let config = RedisConfig {
            key_prefix: prefix.into(),
            connect_timeout_ms: 200,
            ..quick(server.url(), "a")
        };
        let node = open(config).await;
        let event_log = EventLog::by(&node);
        node.register("orders", "a", 80).await;
        node.leads().await;
        let put_back = |event: &StoreEvent| matches!(event, StoreEvent::StatePutBack { .. });
        event_log.until("it is reported", put_back).await;
        assert_eq!(server.command(&["DUMP", aside]).await, before, "{key} is kept as it was");
        node.store.shutdown().await;
    }
}

/// The log is trimmed after each snapshot while three nodes follow it and a fourth starts. None of them
/// misses an entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimming_loses_nothing() {
    let server = RedisServer::start().await;
    let mut nodes = Vec::new();
    let config = |name: &str| RedisConfig {
        snapshot_every_entries: 10,
        snapshot_check_ms: 10,
        keep_entries: 0,
        ..quick(server.url(), name)
    };
    for name in ["a", "b", "c"] {
        nodes.push(open(config(name)).await);
    }
    leader(&nodes).await;
    for i in 0..400_usize {
        nodes[i % 3].register("orders", &format!("i{i}"), 80).await;
        if i % 100 == 50 {
            nodes.push(open(config(&format!("late-{i}"))).await);
        }
    }
    agree(&nodes).await;
    assert!(nodes.iter().all(|node| node.view.snapshot().state.instances_len() == 400));
    let left: u64 = server.command(&["XLEN", "maxine:registry:log"]).await.parse().unwrap();
    assert!(left < 200, "the log was trimmed, {left} entries are left");
    let parts = server.command(&["KEYS", "maxine:registry:snapshot2:data:*"]).await;
    assert!(!parts.is_empty());
    stop(&nodes).await;
}

/// The whole log was deleted by an operator: the state is restored, and nodes that start find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_is_made_good_by_a_snapshot() {
    let server = RedisServer::start().await;
    let nodes = three(&server).await;
    for i in 0..5 {
        nodes[0].register("orders", &format!("i{i}"), 80).await;
    }
    agree(&nodes).await;
    server.command(&["DEL", "maxine:registry:log"]).await;
    eventually("a snapshot is there", async || {
        let exists = server.command(&["EXISTS", "maxine:registry:snapshot2"]).await;
        (exists == "1").then_some(())
    })
    .await;
    nodes[1].register("orders", "later", 80).await;
    let fresh = open(quick(server.url(), "d")).await;
    fresh.reaches(nodes[1].view.index()).await;
    assert!(fresh.has("orders", "i3") && fresh.has("orders", "later"));
    fresh.store.barrier(Consistency::Strong, SOON).await.unwrap();
    stop(&nodes).await;
    fresh.store.shutdown().await;
}

/// The nodes use an ACL user with few rights, a database number and another prefix.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acl_user_a_database_and_a_prefix() {
    let server = RedisServer::start().await;
    let rights = [
        "ACL",
        "SETUSER",
        "mx",
        "on",
        ">s3cret",
        "~mine:*",
        "+@read",
        "+@write",
        "+@scripting",
        "+@blocking",
        "+@connection",
        "-@dangerous",
    ];
    server.command(&rights).await;
    let url = format!("redis://mx:s3cret@127.0.0.1:{}/3", server.port);
    let config = RedisConfig { key_prefix: "mine".into(), ..quick(url, "a") };
    let node = open(config.clone()).await;
    node.register("orders", "a", 80).await;
    node.leads().await;
    assert_eq!(server.command(&["DBSIZE"]).await, "0", "nothing in database 0");
    node.store.shutdown().await;
    let url = format!("redis://mx:wrong@127.0.0.1:{}/3", server.port);
    let refused = crate::redis_server::try_open(RedisConfig { url, ..config }).await;
    assert!(matches!(refused, Err(maxine_store::OpenError::Refused(_))));
}
