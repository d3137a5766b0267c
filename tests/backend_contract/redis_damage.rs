//! Redis is damaged repeatedly while nodes write. Whatever its content is, the nodes agree how to continue.
//!
//! The damage is chosen by a seed, which a failure prints. Everything else is real: the server, the
//! nodes' stores, the writers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use maxine_state::{Command, STATE_VERSION};
use maxine_store::redis::RedisConfig;
use maxine_store::{OpenError, StoreEvent};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::node::{Node, batch, register};
use crate::redis_server::{EventLog, RedisServer, open, quick, try_open};

const LEASE_MS: u64 = 600;
/// The documented limit is two leases plus the time for one snapshot. The rest is for a busy machine.
const SETTLES_WITHIN: Duration = Duration::from_millis(2 * LEASE_MS + 12_000);
const PREFIX: &str = "maxine:registry";

fn config(server: &RedisServer, name: &str) -> RedisConfig {
    RedisConfig {
        lease_ms: LEASE_MS,
        renew_ms: 150,
        snapshot_every_entries: 60,
        snapshot_check_ms: 20,
        keep_entries: 20,
        ..quick(server.url(), name)
    }
}

async fn three(server: &RedisServer) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(open(config(server, name)).await);
    }
    nodes
}

async fn stop(nodes: &[Node]) {
    for node in nodes {
        node.store.shutdown().await;
    }
}

/// Waits until every node accepts a write and all have the same state.
async fn settles(nodes: &[Node], event_log: &[EventLog], what: &str) {
    let settled = async {
        'again: loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            for node in nodes {
                let write = batch(register("settled", &node.name, 80));
                if node.store.propose(write, Duration::from_secs(2).into()).await.is_err() {
                    continue 'again;
                }
            }
            for _ in 0..50 {
                let digests: Vec<_> = nodes.iter().map(Node::digest).collect();
                if digests.iter().all(|digest| *digest == digests[0]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    if tokio::time::timeout(SETTLES_WITHIN, settled).await.is_err() {
        let digests: Vec<_> = nodes.iter().map(Node::digest).collect();
        let event_log: Vec<_> = event_log.iter().map(EventLog::all).collect();
        panic!("the nodes found no way on after {what}: {digests:?}, reported {event_log:#?}");
    }
}

/// Writes through `node` until it is stopped, and keeps what was acknowledged.
async fn write(node: Node, stop: Arc<AtomicBool>, acknowledged: Arc<Mutex<BTreeSet<String>>>) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{}-{n}", node.name);
        n += 1;
        let write = batch(register("orders", &id, 80));
        match node.store.propose(write, Duration::from_millis(500).into()).await {
            Ok(_) => drop(acknowledged.lock().insert(id)),
            // A refusal arrives at once. Without a pause the writers would use all of the processor's time.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Damages Redis in one way, and returns its name.
async fn damage(server: &RedisServer, rng: &mut StdRng) -> String {
    let key = |name: &str| format!("{PREFIX}:{name}");
    let run = async |words: &[&str]| {
        server.command(words).await;
        words.join(" ")
    };
    match rng.random_range(0..10) {
        0..3 => run(&["DEL", &key("log")]).await,
        3 => run(&["DEL", &key("log:head")]).await,
        4 => run(&["DEL", &key("log"), &key("snapshot2")]).await,
        5 => run(&["XTRIM", &key("log"), "MAXLEN", &rng.random_range(0..3).to_string()]).await,
        6 => {
            let newest = "for _, e in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 5)) \
                 do redis.call('XDEL', KEYS[1], e[1]) end";
            run(&["EVAL", newest, "1", &key("log")]).await
        }
        7 => run(&["FLUSHALL"]).await,
        // Like `maxmemory` with another policy than `noeviction`, this removes any key.
        _ => {
            let evict = "local all = redis.call('KEYS', ARGV[1]) \
                 table.sort(all) \
                 if #all == 0 then return 'nothing' end \
                 local key = all[tonumber(ARGV[2]) % #all + 1] \
                 redis.call('DEL', key) return key";
            let chosen = rng.random_range(0..1_000).to_string();
            let all = format!("{PREFIX}:*");
            format!("evict {}", server.command(&["EVAL", evict, "0", &all, &chosen]).await)
        }
    }
}

async fn damaged_again_and_again(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let mut nodes = three(&server).await;
    let mut event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..6 {
        let end = Arc::new(AtomicBool::new(false));
        let writers = nodes.iter().map(|node| {
            tokio::spawn(write(node.clone(), Arc::clone(&end), Arc::clone(&acknowledged)))
        });
        let writers: Vec<_> = writers.collect();
        let mut done = Vec::new();
        for _ in 0..rng.random_range(1..12) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
            done.push(damage(&server, &mut rng).await);
        }
        end.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.expect("a writer does not panic");
        }
        let what = format!("seed {seed}, round {round}: {done:?}");
        settles(&nodes, &event_log, &what).await;
        // A node without memory of the state reads the same state, and replaces another node.
        let fresh = open(config(&server, &format!("fresh-{round}"))).await;
        let leaves = rng.random_range(0..nodes.len());
        event_log.push(EventLog::by(&fresh));
        nodes.push(fresh);
        settles(&nodes, &event_log, &format!("{what}, a fresh node")).await;
        nodes.swap_remove(leaves).store.shutdown().await;
    }
    let missing: Vec<String> =
        acknowledged.lock().iter().filter(|id| !nodes[0].has("orders", id)).cloned().collect();
    let reported = event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss));
    assert!(missing.is_empty() || reported, "seed {seed}: lost and not reported: {missing:?}");
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_under_writes_never_locks_the_nodes_up_seed_1() {
    damaged_again_and_again(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_under_writes_never_locks_the_nodes_up_seed_2() {
    damaged_again_and_again(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_under_writes_never_locks_the_nodes_up_seed_3() {
    damaged_again_and_again(3).await;
}

/// Adds an entry that follows the last one. Keys: head, log. Arguments: the state version beside the payload, the one in
/// the payload, and `head` if the head has to name the entry.
const NEXT: &str = "local h = redis.call('HMGET', KEYS[1], 'seq', 'nonce') \
     local next, version = string.format('%.0f', tonumber(h[1]) + 1), tonumber(ARGV[2]) \
     local payload = 'MXC' .. string.char(3, version % 256, math.floor(version / 256) % 256, \
        math.floor(version / 65536) % 256, math.floor(version / 16777216)) .. 'more' \
     redis.call('XADD', KEYS[2], next .. '-0', 'n', next .. string.rep('b', 16 - #next), 'p', h[2], \
        'v', ARGV[1], 'b', payload) \
     if ARGV[3] == 'head' then \
        redis.call('HSET', KEYS[1], 'seq', next, 'nonce', next .. string.rep('b', 16 - #next)) \
     end";

/// Another program writes to Maxine's keys, one thing at a time, while nodes run. Nothing of it stops them,
/// they skip the same entries, and a node that starts afterwards finds the same state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stranger_writes_stops_nobody() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let nodes = three(&server).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    settles(&nodes, &event_log, "the start").await;
    let forged = "local h = redis.call('HMGET', KEYS[1], 'seq', 'nonce') \
         local next = string.format('%.0f', tonumber(h[1]) + 1) \
         redis.call('XADD', KEYS[2], next .. '-0', 'n', 'aaaaaaaaaaaaaaaa', 'p', h[2], 'v', '1', 'b', 'garbage') \
         redis.call('HSET', KEYS[1], 'seq', next, 'nonce', 'aaaaaaaaaaaaaaaa')";
    let between = "local seq = redis.call('HGET', KEYS[1], 'seq') \
         redis.call('XADD', KEYS[2], seq .. '-7', 'field', 'garbage')";
    let elsewhere =
        "redis.call('HSET', KEYS[1], 'seq', '999999999999', 'nonce', 'aaaaaaaaaaaaaaaa')";
    let long_nonce = "redis.call('HSET', KEYS[1], 'nonce', string.rep('x', 64 * 1024 * 1024))";
    let newer = (STATE_VERSION + 1).to_string();
    let (head, log) = (&*format!("{PREFIX}:log:head"), &*format!("{PREFIX}:log"));
    let (snapshot, lease) = (&*format!("{PREFIX}:snapshot2"), &*format!("{PREFIX}:cluster:leader"));
    let fence = &*format!("{PREFIX}:cluster:leader:fence");
    let known = &*format!("{PREFIX}:cluster:nodes");
    let long = "9".repeat(40);
    let writes: &[(&str, &[&str])] = &[
        ("a payload that cannot be read, well chained", &["EVAL", forged, "2", head, log]),
        (
            "another state version in the payload",
            &["EVAL", NEXT, "2", head, log, "1", "65537", "head"],
        ),
        ("a state version of no build", &["EVAL", NEXT, "2", head, log, "65537", "65537", "head"]),
        ("the same, without the head", &["EVAL", NEXT, "2", head, log, "65537", "65537", ""]),
        (
            "the next state version, without the head",
            &["EVAL", NEXT, "2", head, log, &newer, &newer, ""],
        ),
        ("an entry between two positions", &["EVAL", between, "2", head, log]),
        ("an entry behind the head", &["XADD", log, "*", "field", "garbage"]),
        ("a head far behind the last entry", &["EVAL", elsewhere, "1", head]),
        ("a head that went back", &["HSET", head, "seq", "1", "nonce", "bbbbbbbbbbbbbbbb"]),
        ("a nonce that is far too long", &["EVAL", long_nonce, "1", head]),
        ("a position that is no number", &["HSET", head, "seq", "many"]),
        ("another name of the log", &["HSET", head, "epoch", "abc"]),
        ("a string as the head", &["SET", head, "x"]),
        ("a string as the log", &["SET", log, "x"]),
        ("a string as the snapshot", &["SET", snapshot, "x"]),
        ("a snapshot without a checksum", &["HSET", snapshot, "crc", "x"]),
        ("a snapshot of the future", &["HSET", snapshot, "seq", "999999999999"]),
        ("a lease that nobody can read, without an end", &["SET", lease, "x"]),
        (
            "a lease of another type",
            &["EVAL", "redis.call('DEL', KEYS[1]) redis.call('SADD', KEYS[1], 'x')", "1", lease],
        ),
        (
            "a node of a version that no number holds",
            &["HSET", known, "z", "9999999999 9999999999999 z:80"],
        ),
        (
            "a node whose name is no text",
            &["EVAL", "redis.call('HSET', KEYS[1], '\\255', '3 9999999999999 z:80')", "1", known],
        ),
        ("a fence that is no number", &["SET", fence, &long]),
        (
            "a fence of another type",
            &["EVAL", "redis.call('DEL', KEYS[1]) redis.call('SADD', KEYS[1], 'x')", "1", fence],
        ),
    ];
    for (what, words) in writes {
        server.command(words).await;
        settles(&nodes, &event_log, what).await;
        // A leader notices at its next renewal that its lease was taken away. Until then two nodes may lead.
        crate::node::eventually("one node leads", async || {
            (nodes.iter().filter(|node| node.is_leader()).count() == 1).then_some(())
        })
        .await;
        let fresh = open(config(&server, "fresh")).await;
        let all: Vec<Node> = nodes.iter().cloned().chain([fresh.clone()]).collect();
        settles(&all, &event_log, &format!("{what}, a fresh node")).await;
        fresh.store.shutdown().await;
    }
    for event_log in &event_log {
        let skipped = |event: &StoreEvent| matches!(event, StoreEvent::EntriesSkipped { .. });
        assert!(event_log.any(skipped), "each node reports what it skipped");
    }
    crate::node::eventually("the list of nodes can be read", async || {
        let listed = nodes[0].store.nodes().await.ok().flatten()?;
        ["a", "b", "c"]
            .iter()
            .all(|name| listed.iter().any(|node| node.name == *name))
            .then_some(())
    })
    .await;
    stop(&nodes).await;
}

/// A newer Maxine has written an entry. A node that does not understand it must not guess what it does: it stops before
/// the entry, and does not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_a_newer_maxine_stops_a_node_that_does_not_understand_it() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let node = open(config(&server, "a")).await;
    let event_log = EventLog::by(&node);
    node.leads().await;
    node.register("orders", "a", 80).await;
    let before = node.digest();
    let raise = batch(Command::RaiseStateVersion { to: STATE_VERSION + 1 });
    let answer = node.store.propose(raise, Duration::from_secs(2).into()).await;
    assert!(answer.is_err(), "{answer:?}");
    let stops = |event: &StoreEvent| match event {
        StoreEvent::Failed { reason } => reason.contains("upgrade this node"),
        _ => false,
    };
    event_log.until("it stops", stops).await;
    assert_eq!(node.digest(), before, "nothing of the entry was applied");
    node.store.shutdown().await;
    let refused = try_open(config(&server, "b")).await.map(drop);
    let Err(OpenError::Damaged(reason)) = refused else { panic!("it opened") };
    assert!(reason.contains("upgrade this node"), "{reason}");
}

/// Redis accepts values of up to 512 MB. A value that is too long for an entry is left out inside Redis, so a
/// node that reads the log does not receive it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_too_long_is_not_read() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let config = |name| RedisConfig { snapshot_every_entries: 10_000_000, ..config(&server, name) };
    let nodes = vec![open(config("a")).await, open(config("b")).await];
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    settles(&nodes, &event_log, "the start").await;
    let forged = "local h = redis.call('HMGET', KEYS[1], 'seq', 'nonce') \
         local next = string.format('%.0f', tonumber(h[1]) + 1) \
         redis.call('XADD', KEYS[2], next .. '-0', 'n', 'aaaaaaaaaaaaaaaa', 'p', h[2], 'v', '1', 'b', \
            string.rep('x', 64 * 1024 * 1024)) \
         redis.call('HSET', KEYS[1], 'seq', next, 'nonce', 'aaaaaaaaaaaaaaaa')";
    let (head, log) = (format!("{PREFIX}:log:head"), format!("{PREFIX}:log"));
    server.command(&["EVAL", forged, "2", &head, &log]).await;
    settles(&nodes, &event_log, "a long value").await;
    let before = sent_len(&server).await;
    let fresh = open(config("fresh")).await;
    let all = [&nodes[..], &[fresh]].concat();
    settles(&all, &event_log, "a long value, a fresh node").await;
    let read_len = sent_len(&server).await - before;
    assert!(read_len < 16 * 1024 * 1024, "{read_len} bytes were sent");
    assert!(
        !event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)),
        "nothing was lost"
    );
    stop(&all).await;
}

/// The number of bytes that the server has sent to all clients.
async fn sent_len(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "stats"]).await;
    let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    sent.unwrap().trim().parse().unwrap()
}

/// Another program puts messages into the inbox of the leader that are too long, and some that cannot be read. The
/// leader receives at most one of the long ones, the one that it waited for, and answers the calls after them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_too_long_are_not_read_and_keep_no_call_out() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let config = |name| RedisConfig { lease_ms: 10_000, ..config(&server, name) };
    let leads = open(config("a")).await;
    leads.leads().await;
    let follows = open(config("b")).await;
    let lease = server.command(&["GET", &format!("{PREFIX}:cluster:leader")]).await;
    let lease: serde_json::Value = serde_json::from_str(&lease).unwrap();
    let inbox = format!("{PREFIX}:inbox:{}", lease["token"].as_str().unwrap());
    let before = sent_len(&server).await;
    let push = "local long = string.rep('x', 32 * 1024 * 1024) \
         redis.call('RPUSH', KEYS[1], long, long, long, long, 'garbage', '')";
    server.command(&["EVAL", push, "1", &inbox]).await;
    let answer = crate::node::eventually("the leader answers", async || {
        follows.store.call_leader("hi".into(), Duration::from_secs(2)).await.ok()
    })
    .await;
    assert_eq!(answer, "a heard hi");
    let read_len = sent_len(&server).await - before;
    assert!(read_len < 48 * 1024 * 1024, "{read_len} bytes were sent");
    stop(&[leads, follows]).await;
}

/// The bytes of the snapshot were changed, and the first entries are missing. A node that starts cannot
/// use the snapshot, and the leader writes a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_written_anew() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let nodes = three(&server).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    for i in 0..200 {
        nodes[0].register("orders", &format!("i{i}"), 80).await;
    }
    settles(&nodes, &event_log, "the start").await;
    let spoil = "local id = redis.call('HGET', KEYS[1], 'id') \
         return redis.call('LSET', ARGV[1] .. id, 0, 'spoilt')";
    let prefix = format!("{PREFIX}:snapshot2:data:");
    server.command(&["EVAL", spoil, "1", &format!("{PREFIX}:snapshot2"), &prefix]).await;
    let fresh = open(config(&server, "fresh")).await;
    let all: Vec<Node> = nodes.iter().cloned().chain([fresh]).collect();
    settles(&all, &event_log, "a spoilt snapshot").await;
    assert!(all.iter().all(|node| node.has("orders", "i0")));
    assert!(
        !event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)),
        "nothing was lost"
    );
    stop(&all).await;
}

/// All nodes were restarted, and the log in Redis cannot be read to its end. The part that can be read is
/// restored, and the loss is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_can_read_is_cut_where_it_ends() {
    let server = RedisServer::start_with(&["--appendonly", "no"]).await;
    let nodes = three(&server).await;
    for i in 0..40 {
        nodes[0].register("orders", &format!("i{i}"), 80).await;
    }
    stop(&nodes).await;
    server.command(&["XDEL", &format!("{PREFIX}:log"), "30-0"]).await;
    let mut nodes = Vec::new();
    let mut event_log = Vec::new();
    for name in ["d", "e"] {
        let config = RedisConfig { connect_timeout_ms: 200, ..config(&server, name) };
        nodes.push(open(config).await);
        event_log.push(EventLog::by(&nodes[nodes.len() - 1]));
    }
    settles(&nodes, &event_log, "a hole").await;
    assert!(nodes[0].has("orders", "i20") && !nodes[0].has("orders", "i39"));
    assert!(
        event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)),
        "the loss is reported"
    );
    stop(&nodes).await;
}
