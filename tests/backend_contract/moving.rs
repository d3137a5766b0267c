//! Copies a state between backends, and imports that of the Node.js Maxine.

use std::path::Path;

use maxine_state::{Command, Name};
use maxine_store::redis::RedisConfig;
use maxine_store::transfer::{Place, TransferError, transfer};

use crate::files::{local, shared};
use crate::node::{Node, eventually, service};
use crate::redis_server::{RedisServer, free_port, open, quick};

fn place(text: &str) -> Place {
    Place::parse(text, &RedisConfig::default()).expect("a place")
}

fn file(path: &Path) -> Place {
    place(&format!("file:{}", path.display()))
}

async fn fill(node: &Node) {
    node.take_duties().await;
    node.founded().await;
    for i in 0..30_u16 {
        node.register(&format!("service-{}", i % 3), &format!("i{i}"), 80 + i).await;
    }
    let policy = Command::PutPolicy {
        key: service("service-0"),
        policy: Some(Box::default()),
        expected_revision: None,
        create: false,
    };
    node.propose(policy).await;
}

/// From a file to Redis, to a Raft backup, and to a file: the digests stay equal, the source serves
/// meanwhile, a repeat changes nothing, and a node on the target has the state. Only the history is not
/// copied, because the source continues it. So a position in the changes of one is not valid in the other.
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
    let state = source.view.snapshot().state.clone();
    assert!(state.history().is_some());
    let digest = state.for_another_cluster().digest();
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
    assert_eq!(on_redis.view.snapshot().state.history(), None);
    assert_ne!(on_redis.founded().await, source.founded().await);
    let on_file = shared(&target_path, "f").await;
    assert_eq!(on_file.digest(), digest);

    // The source has changed meanwhile. A second run copies the changes only if replacing is allowed.
    source.register("service-0", "later", 80).await;
    let refused = transfer(&file(&source_path), &file(&target_path), false).await;
    assert!(matches!(refused, Err(TransferError::Occupied { .. })), "{refused:?}");
    on_file.store.nodes().await.expect("it reports");
    let shared_by = transfer(&file(&source_path), &file(&target_path), true).await;
    assert!(
        matches!(shared_by, Err(TransferError::Held { .. })),
        "a node runs on it: {shared_by:?}"
    );
    assert_eq!(on_file.digest(), digest);
    on_file.store.shutdown().await;
    let done = transfer(&file(&source_path), &file(&target_path), true).await.expect("replaced");
    let later = source.view.snapshot().state.clone();
    assert_eq!(done.digest, later.for_another_cluster().digest());
    let led = transfer(&file(&source_path), &redis, true).await;
    assert!(matches!(led, Err(TransferError::Held { .. })), "nodes run there: {led:?}");
    let held = transfer(&redis, &file(&source_path), true).await;
    assert!(matches!(held, Err(TransferError::Held { .. })), "a node has it: {held:?}");
    source.store.shutdown().await;
    on_redis.store.shutdown().await;
    let absent = transfer(&file(&dir.path().join("none")), &redis, true).await;
    assert!(matches!(absent, Err(TransferError::Absent(_))), "{absent:?}");
}

const NODEJS: &str = r#"{"savedAt":1795440992705,"registry":{"orders":{"offset":3,"nodes":{
    "node-a-0":{"nodeName":"node-a-0","parentNode":"node-a","address":"http://10.0.0.1:8080","timeOut":5,"registeredAt":1795440992705,"healthCheckPath":"/up"},
    "node-a-1":{"nodeName":"node-a-1","parentNode":"node-a","address":"http://10.0.0.1:8080","timeOut":5,"registeredAt":1795440992705,"healthCheckPath":"/up"},
    "node-b-0":{"nodeName":"node-b-0","parentNode":"node-b","address":"http://10.0.0.2:8080","timeOut":5,"registeredAt":1795440992705,"healthCheckPath":""}}}}}"#;

/// The state file and the Redis snapshot of the Node.js Maxine are imported.
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

    // The target is the same Redis with the same prefix. The old keys are not changed.
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

/// A process that is killed when this value is dropped.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn maxine() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_maxine"));
    command.env("MAXINE_LOG", "error");
    command
}

/// `maxine migrate raft TO` takes a backup of the running cluster, copies it, and leaves no
/// temporary files. The cluster continues to serve. A second run replaces the copy only with `--replace`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_running_raft_cluster() {
    // Another test of this process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("a directory");
    let (http, raft) = (free_port(), free_port());
    let url = format!("http://127.0.0.1:{http}");
    let serve = maxine()
        .args(["serve", "--mode=raft", "--node-id=1", "--exit-with-stdin"])
        .arg(format!("--data-dir={}", dir.path().join("node").display()))
        .args([format!("--port={http}"), format!("--raft-listen=127.0.0.1:{raft}")])
        .arg(format!("--raft-members=1@127.0.0.1:{raft}@{url}"))
        .env("MAXINE_ADMIN_USERNAME", "root")
        .env("MAXINE_ADMIN_PASSWORD", "correct horse battery")
        .stdin(std::process::Stdio::piped())
        .spawn();
    let _node = Process(serve.expect("it starts"));
    maxine_identity::crypto_provider::install_crypto_provider();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let credentials = serde_json::json!({"user": "root", "password": "correct horse battery"});
    let token = eventually("the account is there", async || {
        let answer = client.post(format!("{url}/api/v1/session")).json(&credentials).send().await;
        let answer: serde_json::Value = answer.ok()?.json().await.ok()?;
        answer["access_token"].as_str().map(str::to_owned)
    })
    .await;
    let instance = format!("{url}/api/v1/services/default/orders/instances/a");
    let body = serde_json::json!({"address": "http://10.0.0.1:80", "ttl_ms": 3_600_000});
    let put = client.put(&instance).json(&body).send().await.expect("it answers");
    assert_eq!(put.status(), 200);

    let target = dir.path().join("moved.log");
    let migrate = |flags: &[&str]| {
        let mut command = maxine();
        command.args(["migrate", "--server", &url]).args(flags).arg("raft");
        command.arg(format!("file:{}", target.display())).env("MAXINE_TOKEN", &token);
        let run = command.output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (run.status.success(), text(&run.stdout), text(&run.stderr))
    };
    let (done, out, err) = migrate(&[]);
    assert!(done && out.contains("copied and compared: 1 service, 1 instance"), "{out}{err}");
    assert_eq!(client.get(&instance).send().await.expect("it serves on").status(), 200);
    // The source has recorded the backup in its audit log, so its state has changed.
    let (done, out, err) = migrate(&[]);
    assert!(!done && err.contains("--replace"), "{out}{err}");
    let (done, out, err) = migrate(&["--replace", "--output", "json"]);
    let event_log: serde_json::Value = serde_json::from_str(&out).expect("one document");
    assert!(done, "{err}");
    assert_eq!(
        (&event_log["unchanged"], &event_log["instances"]),
        (&false.into(), &1.into()),
        "{event_log}"
    );
    let left = std::fs::read_dir(dir.path()).expect("it is there");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("migration")), "{left:?}");
    let moved = local(&target, "a").await;
    assert!(moved.has("orders", "a"));
    moved.store.shutdown().await;
}

/// A password is in a file and never in an argument. The name of the Node.js Maxine's state file leads
/// to the log next to it.
#[test]
fn places_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("url");
    std::fs::write(&secret, "redis://:s3cret@10.0.0.1:6379/2\n").expect("it is written");
    let named = place(&format!("redis-file:{}", secret.display()));
    let Place::Redis(config) = &named else { panic!("{named:?}") };
    assert_eq!(config.url, "redis://:s3cret@10.0.0.1:6379/2");
    assert!(!named.describe().contains("s3cret"));
    let old = place(&format!("nodejs+redis-file:{}", secret.display()));
    assert!(matches!(old, Place::NodeJsRedis(_)));
    let Place::File(log) = place("file:data/registry-state.json") else { panic!() };
    assert_eq!(log, Path::new("data/registry-state.json.log"));
    let none = Place::parse("redis-file:/no/such/file", &RedisConfig::default());
    assert!(matches!(none, Err(TransferError::Usage(_))));
    let none = Place::parse("nodejs+file:x", &RedisConfig::default());
    assert!(matches!(none, Err(TransferError::Usage(_))));
}
