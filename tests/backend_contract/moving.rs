//! Moving a state between backends, and importing that of the Node.js Maxine.

use std::path::Path;

use maxine::backend::redis::RedisConfig;
use maxine::backend::transfer::{Place, TransferError, transfer};
use maxine::state::{Command, Name};

use crate::files::{local, shared};
use crate::node::{Node, service};
use crate::redis_server::{RedisServer, open, quick};

fn place(text: &str) -> Place {
    Place::parse(text, &RedisConfig::default()).expect("a place")
}

fn file(path: &Path) -> Place {
    place(&format!("file:{}", path.display()))
}

async fn fill(node: &Node) {
    node.take_duties().await;
    for i in 0..30_u16 {
        node.register(&format!("service-{}", i % 3), &format!("i{i}"), 80 + i).await;
    }
    let policy = Command::PutPolicy {
        key: service("service-0"),
        policy_json: Some("{}".into()),
        expected_revision: None,
    };
    node.propose(policy).await;
}

/// From a file to Redis to a Raft backup to a file: equal digests all the way, the source serves
/// meanwhile, a repeat changes nothing, and a node on the target has the state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_any_two() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = RedisServer::start().await;
    let source_path = dir.path().join("source.log");
    let backup = place(&format!("raft-backup:{}", dir.path().join("raft.backup").display()));
    let target_path = dir.path().join("target.log");
    let redis = place(&server.url());

    let source = local(&source_path, "a").await;
    fill(&source).await;
    let digest = source.digest();
    let hops = [
        (file(&source_path), redis.clone()),
        (redis.clone(), backup.clone()),
        (backup, file(&target_path)),
    ];
    for (from, to) in &hops {
        let done = transfer(from, to, false).await.expect("it is copied");
        assert_eq!(done.digest, digest);
        assert!(!done.unchanged);
        assert_eq!((done.services, done.instances), (3, 30));
        let again = transfer(from, to, false).await.expect("it may be run again");
        assert!(again.unchanged);
    }
    assert!(source.has("service-0", "i0"), "the source serves all the while");

    let fence = source.view.snapshot().state.grant().expect("granted").fence;
    let on_redis = open(quick(server.url(), "r")).await;
    on_redis.reaches(digest.index).await;
    assert_eq!(on_redis.digest(), digest);
    assert!(on_redis.take_duties().await > fence, "a fence grows across a move");
    on_redis.register("service-0", "new", 80).await;
    let on_file = shared(&target_path, "f").await;
    assert_eq!(on_file.digest(), digest);
    on_file.store.shutdown().await;

    // The source went on meanwhile: a second run brings what is new, where that is wanted.
    source.register("service-0", "later", 80).await;
    let refused = transfer(&file(&source_path), &file(&target_path), false).await;
    assert!(matches!(refused, Err(TransferError::Occupied { .. })), "{refused:?}");
    let done = transfer(&file(&source_path), &file(&target_path), true).await.expect("replaced");
    assert_eq!(done.digest, source.digest());
    let led = transfer(&file(&source_path), &redis, true).await;
    assert!(matches!(led, Err(TransferError::Failed { .. })), "nodes run there: {led:?}");
    let held = transfer(&redis, &file(&source_path), true).await;
    assert!(matches!(held, Err(TransferError::Failed { .. })), "a node has it: {held:?}");
    source.store.shutdown().await;
    on_redis.store.shutdown().await;
    let absent = transfer(&file(&dir.path().join("none")), &redis, true).await;
    assert!(matches!(absent, Err(TransferError::Absent(_))), "{absent:?}");
}

const NODEJS: &str = r#"{"savedAt":1795440992705,"registry":{"orders":{"offset":3,"nodes":{
    "node-a-0":{"nodeName":"node-a-0","parentNode":"node-a","address":"http://10.0.0.1:8080","timeOut":5,"registeredAt":1795440992705,"healthCheckPath":"/up"},
    "node-a-1":{"nodeName":"node-a-1","parentNode":"node-a","address":"http://10.0.0.1:8080","timeOut":5,"registeredAt":1795440992705,"healthCheckPath":"/up"},
    "node-b-0":{"nodeName":"node-b-0","parentNode":"node-b","address":"http://10.0.0.2:8080","timeOut":5,"registeredAt":1795440992705,"healthCheckPath":""}}}}}"#;

/// The state file and the Redis snapshot of the Node.js Maxine are added to what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_nodejs_maxine() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = RedisServer::start().await;
    let old_path = dir.path().join("registry-state.json");
    std::fs::write(&old_path, NODEJS).unwrap();
    server.command(&["SET", "maxine:registry:snapshot", NODEJS]).await;

    let log_path = dir.path().join("state.log");
    let node = local(&log_path, "a").await;
    node.register("there", "before", 80).await;
    node.store.shutdown().await;
    let old = place(&format!("nodejs:{}", old_path.display()));
    let done = transfer(&old, &file(&log_path), false).await.expect("imported");
    assert_eq!((done.services, done.instances), (2, 3));
    let again = transfer(&old, &file(&log_path), false).await.expect("imported again");
    assert!(again.unchanged);
    let node = local(&log_path, "a").await;
    assert!(node.has("there", "before") && node.has("orders", "node-a"));
    let snapshot = node.view.snapshot();
    let orders = snapshot.state.service(&service("orders")).expect("imported");
    assert_eq!(orders.instances[&Name::trusted("node-a")].registration.weight, 2);
    node.store.shutdown().await;

    // In the very same Redis, under the very same prefix: the old keys stay as they are.
    let in_redis = place(&format!("nodejs+{}", server.url()));
    transfer(&in_redis, &place(&server.url()), false).await.expect("imported");
    let node = open(quick(server.url(), "a")).await;
    assert!(node.has("orders", "node-a") && node.has("orders", "node-b"));
    assert_eq!(server.command(&["GET", "maxine:registry:snapshot"]).await, NODEJS);
    node.store.shutdown().await;

    std::fs::write(&old_path, "{\"users\": []}").unwrap();
    let foreign = transfer(&old, &file(&log_path), false).await;
    assert!(matches!(foreign, Err(TransferError::Failed { .. })), "{foreign:?}");
}
