//! Redis with Sentinels, as a Cluster, and with TLS. All are real processes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use maxine_clock::Clock;
use maxine_state::Batch;
use maxine_store::redis::{RedisConfig, RedisStore, Topology};
use maxine_store::{ControlStore, StoreEvent};
use maxine_view::View;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::contract::agree;
use crate::node::{Node, Peers, eventually, leader, proposal, register};
use crate::redis_server::{EventLog, RedisServer, free_port, open, quick};

struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Sentinel {
    fn watching(master_port: u16) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nprotected-mode no\n\
             sentinel monitor main 127.0.0.1 {master_port} 1\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, settings).expect("a file");
        let child = Command::new("redis-sentinel")
            .arg(&file)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-sentinel is installed");
        Self { child, port, _dir: dir }
    }

    async fn ask(&self, words: &[&str]) -> Option<redis::Value> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).ok()?;
        let mut link = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd("SENTINEL").arg(words).query_async(&mut link).await.ok()
    }

    /// Waits until it knows the replica, without which it could not fail over.
    async fn knows_a_replica(&self) {
        eventually("the sentinel knows the replica", async || {
            let replicas = self.ask(&["replicas", "main"]).await?;
            matches!(replicas, redis::Value::Array(list) if !list.is_empty()).then_some(())
        })
        .await;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinel: Sentinel,
}

impl Watched {
    async fn start() -> Self {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.port.to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        eventually("the replica follows", async || {
            let info = replica.command(&["INFO", "replication"]).await;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        let sentinel = Sentinel::watching(master.port);
        sentinel.knows_a_replica().await;
        Self { master, replica, sentinel }
    }

    async fn node(&self, name: &str) -> Node {
        let topology = Topology::Sentinel {
            sentinels: vec![format!("redis://127.0.0.1:{}", self.sentinel.port)],
            master_name: "main".into(),
        };
        // Only the user, the password, the database and TLS of this URL are used.
        open(RedisConfig { topology, ..quick("redis://ignored:1/0".into(), name) }).await
    }

    async fn nodes(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            nodes.push(self.node(name).await);
        }
        leader(&nodes).await;
        nodes
    }
}

/// The master dies and its replica has everything: the nodes continue with the new master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_without_loss() {
    let mut redis = Watched::start().await;
    let nodes = redis.nodes().await;
    let event_log = EventLog::by(&nodes[0]);
    for i in 0..10 {
        nodes[i % 3].register("orders", &format!("i{i}"), 80).await;
    }
    agree(&nodes).await;
    let have = redis.master.command(&["HGET", "maxine:registry:log:head", "seq"]).await;
    eventually("the replica has everything", async || {
        let seq = redis.replica.command(&["HGET", "maxine:registry:log:head", "seq"]).await;
        (seq == have).then_some(())
    })
    .await;
    redis.master.crash();
    nodes[1].register("orders", "later", 80).await;
    agree(&nodes).await;
    leader(&nodes).await;
    let replica = format!("127.0.0.1:{}", redis.replica.port);
    eventually("it is known where no instance may be", async || {
        nodes[0].store.own_addresses().contains(&replica).then_some(())
    })
    .await;
    let role = redis.replica.command(&["INFO", "replication"]).await;
    assert!(role.contains("role:master"));
    assert!(nodes.iter().all(|node| node.has("orders", "i9") && node.has("orders", "later")));
    assert!(!event_log.any(StoreEvent::is_loss));
    for node in &nodes {
        node.store.shutdown().await;
    }
}

/// The master dies with writes that it had acknowledged and not sent to its replica. The nodes notice
/// and report the loss, and restore the writes from their memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_that_loses_acknowledged_writes() {
    let mut redis = Watched::start().await;
    let nodes = redis.nodes().await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    nodes[0].register("orders", "before", 80).await;
    redis.master.command(&["WAIT", "1", "5000"]).await;
    redis.replica.signal(Signal::SIGSTOP);
    redis.master.command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    for i in 0..10 {
        nodes[i % 3].register("orders", &format!("lost-{i}"), 80).await;
    }
    agree(&nodes).await;
    redis.master.crash();
    redis.replica.signal(Signal::SIGCONT);
    eventually("the loss is noticed and mended", async || {
        // A replica that was receiving a full copy starts empty.
        let put_back = |event: &StoreEvent| {
            matches!(event, StoreEvent::WritesPutBack { .. } | StoreEvent::StatePutBack { .. })
        };
        event_log.iter().any(|event_log| event_log.any(put_back)).then_some(())
    })
    .await;
    nodes[2].register("orders", "later", 80).await;
    agree(&nodes).await;
    let fresh = redis.node("d").await;
    fresh.reaches(nodes[2].view.index()).await;
    for id in ["before", "lost-0", "lost-9", "later"] {
        assert!(fresh.has("orders", id), "{id}");
    }
    for node in nodes.iter().chain([&fresh]) {
        node.store.shutdown().await;
    }
}

/// A Cluster of one node that has all slots: keys share a hash tag, so every script may use them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster() {
    let server = RedisServer::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &free_port().to_string(),
    ])
    .await;
    server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    eventually("the cluster is up", async || {
        let info = server.command(&["CLUSTER", "INFO"]).await;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    let config = |name: &str| RedisConfig {
        topology: Topology::Cluster { nodes: Vec::new() },
        snapshot_every_entries: 10,
        snapshot_check_ms: 50,
        ..quick(server.url(), name)
    };
    let nodes = [open(config("a")).await, open(config("b")).await];
    let leads = leader(&nodes).await;
    leads.take_duties().await;
    for i in 0..30 {
        nodes[i % 2].register("orders", &format!("i{i}"), 80).await;
    }
    agree(&nodes).await;
    for node in &nodes {
        // A lease that a busy machine renews late leaves a moment in which nobody leads.
        eventually("the leader answers", async || {
            let body = bytes::Bytes::from_static(b"x");
            node.store.call_leader(body, crate::node::SOON).await.ok()
        })
        .await;
    }
    assert_eq!(server.command(&["EXISTS", "{maxine:registry}:log"]).await, "1");
    let own = format!("127.0.0.1:{}", server.port);
    eventually("its port and its bus port are known", async || {
        let servers = nodes[0].store.own_addresses();
        (servers.contains(&own) && servers.len() > 1).then_some(())
    })
    .await;
    for node in &nodes {
        node.store.shutdown().await;
    }
}

/// A server of another kind than the settings name is refused immediately, and the error says what to
/// set: two plain servers, a node of a Cluster on its own, a Sentinel in place of its master, and a
/// master in place of its Sentinels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_another_kind_are_refused() {
    let (plain, other) = (RedisServer::start().await, RedisServer::start().await);
    let port = free_port().to_string();
    let of_cluster =
        RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-port", &port]).await;
    let sentinel = Sentinel::watching(plain.port);
    let sentinel_url = format!("redis://127.0.0.1:{}", sentinel.port);
    eventually("the sentinel answers", async || sentinel.ask(&["masters"]).await).await;
    let two = Topology::Cluster { nodes: vec![other.url()] };
    let watched =
        Topology::Sentinel { sentinels: vec![other.url()], master_name: String::from("main") };
    for (url, topology, expected) in [
        (plain.url(), two, "without cluster support"),
        (of_cluster.url(), Topology::Single, "is a node of a Redis Cluster"),
        (sentinel_url, Topology::Single, "set state.redis_sentinel_master"),
        (plain.url(), watched, "no Sentinel"),
    ] {
        let config = RedisConfig { topology, ..quick(url, "a") };
        let Err(error) = crate::redis_server::try_open(config).await else {
            panic!("it was opened: {expected}");
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a plain path").to_owned()
}

/// `rediss://` with a private authority and a client certificate. Another authority is not trusted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let cert = leaf.signed_by(&key, &issuer).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca_file = write(dir.path(), "ca.pem", &ca_cert.pem());
    let cert_file = write(dir.path(), "cert.pem", &cert.pem());
    let key_file = write(dir.path(), "key.pem", &key.serialize_pem());
    let other_file = write(dir.path(), "other.pem", &other.cert.pem());

    let tls_port = free_port();
    let server = RedisServer::start_with(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &cert_file,
        "--tls-key-file",
        &key_file,
        "--tls-ca-cert-file",
        &ca_file,
    ])
    .await;
    let config = RedisConfig {
        tls_ca_file: Some(ca_file.into()),
        tls_client_files: Some((cert_file.into(), key_file.into())),
        ..quick(format!("rediss://localhost:{tls_port}"), "a")
    };
    let node = open(config.clone()).await;
    node.register("orders", "a", 80).await;
    assert_eq!(server.command(&["EXISTS", "maxine:registry:log"]).await, "1");
    node.store.shutdown().await;
    let stranger = open(RedisConfig { tls_ca_file: Some(other_file.into()), ..config }).await;
    assert_eq!(stranger.store.staleness_ms(), None, "it trusts no such server");
    stranger.store.shutdown().await;
}

/// A password that is replaced on the server and then at the node, without a restart of either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_is_used_without_a_restart() {
    let server = RedisServer::start().await;
    server.command(&["ACL", "SETUSER", "node", "on", ">first", "~*", "&*", "+@all"]).await;
    let address = server.url().trim_start_matches("redis://").to_owned();
    let config = quick(format!("redis://node:first@{address}"), "a");
    let clock = Clock::system();
    let view = View::new(clock.clone());
    let peers = Arc::new(Peers::new("a"));
    let router = Arc::clone(&peers.router);
    let redis = RedisStore::open(config.clone(), Arc::clone(&view), clock, peers).await.unwrap();
    let store = Arc::clone(&redis) as Arc<dyn ControlStore>;
    let node = Node { name: "a".into(), store, view, router };
    node.register("orders", "a", 80).await;
    server.command(&["ACL", "SETUSER", "node", "resetpass", ">second"]).await;
    server.command(&["CLIENT", "KILL", "USER", "node"]).await;
    let is_refused = async || {
        let proposals = vec![proposal(register("orders", "c", 82))];
        let written = node.store.propose(Batch { proposals }, Duration::from_secs(2).into());
        written.await.err()
    };
    eventually("the former password is refused", is_refused).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_refused().await.is_some());
    redis.reload(&RedisConfig { url: format!("redis://node:second@{address}"), ..config }).unwrap();
    eventually("the new password is used", async || {
        let proposals = vec![proposal(register("orders", "b", 81))];
        node.store.propose(Batch { proposals }, Duration::from_secs(2).into()).await.ok()
    })
    .await;
    node.store.shutdown().await;
}
