//! A real `redis-server` on a free loopback port, and the contract on it.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use maxine_clock::Clock;
use maxine_store::redis::{RedisConfig, RedisStore};
use maxine_store::{OpenError, StoreEvent};
use maxine_view::View;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use std::sync::Arc;
use tempfile::TempDir;

use crate::node::{Fixture, Node, Peers, eventually};

/// A port on which nobody listens. It is below the ports that the kernel uses for outgoing connections, and
/// no other test of this process gets it.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().insert(port) {
            return port;
        }
    }
}

/// A server process. It is killed when this value is dropped.
pub(crate) struct RedisServer {
    child: Option<Child>,
    pub(crate) port: u16,
    dir: TempDir,
    args: Vec<String>,
}

impl RedisServer {
    /// Starts a server with an append-only file.
    pub(crate) async fn start() -> Self {
        Self::start_with(&["--appendonly", "yes"]).await
    }

    pub(crate) async fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let args = args.iter().map(|arg| String::from(*arg)).collect();
        let mut server = Self { child: None, port: free_port(), dir, args };
        server.resume().await;
        server
    }

    /// Starts it (again) on its port and directory, and waits until it answers.
    pub(crate) async fn resume(&mut self) {
        self.spawn();
        eventually("redis answers", async || self.try_command(&["PING"]).await).await;
    }

    /// Starts it without waiting.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--daemonize", "no", "--protected-mode", "no"])
            .args(["--dir", self.dir.path().to_str().expect("a plain path")])
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
    }

    /// Kills it, as a crash does.
    pub(crate) fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Removes the directory to which the server saves.
    pub(crate) fn lose_directory(&self) {
        std::fs::remove_dir_all(self.dir.path()).expect("it is ours");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it is ours");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn try_command(&self, words: &[&str]) -> Option<String> {
        let client = redis::Client::open(self.url()).expect("a url");
        let patient =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        let link = client.get_multiplexed_async_connection_with_config(&patient).await;
        let mut link = link.ok()?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let value: redis::Value = command.query_async(&mut link).await.ok()?;
        Some(match value {
            redis::Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            redis::Value::Int(number) => number.to_string(),
            redis::Value::Nil => String::new(),
            other => format!("{other:?}"),
        })
    }

    /// The code with which the server refuses a command, such as `LOADING`; `None` if it accepts the command.
    pub(crate) async fn error_of(&self, words: &[&str]) -> Option<String> {
        let client = redis::Client::open(self.url()).expect("a url");
        let mut link = match client.get_multiplexed_async_connection().await {
            Ok(link) => link,
            Err(error) => return error.code().map(String::from),
        };
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let value: Result<redis::Value, _> = command.query_async(&mut link).await;
        value.err().and_then(|error| error.code().map(String::from))
    }

    /// A second server on the same directory and another port, while this one is down.
    pub(crate) async fn moved(&self) -> RedisServer {
        assert!(self.child.is_none(), "two servers on one directory");
        let mut args = self.args.clone();
        args.extend(["--dir".into(), self.dir.path().to_str().expect("a plain path").into()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        RedisServer::start_with(&args).await
    }

    pub(crate) async fn command(&self, words: &[&str]) -> String {
        self.try_command(words).await.unwrap_or_else(|| panic!("redis refused {words:?}"))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Settings with short times, so that the tests are fast.
pub(crate) fn quick(url: String, name: &str) -> RedisConfig {
    RedisConfig {
        url,
        instance_id: name.into(),
        api_addresses: vec![format!("{name}.test:80")],
        lease_ms: 1_500,
        renew_ms: 300,
        connect_timeout_ms: 1_000,
        command_timeout_ms: 1_000,
        ..RedisConfig::default()
    }
}

pub(crate) async fn try_open(config: RedisConfig) -> Result<Arc<RedisStore>, OpenError> {
    let clock = Clock::system();
    let peers = Arc::new(Peers::new(&config.instance_id));
    RedisStore::open(config, View::new(clock.clone()), clock, peers).await
}

pub(crate) async fn open(config: RedisConfig) -> Node {
    open_with_clock(config, Clock::system()).await
}

pub(crate) async fn open_with_clock(config: RedisConfig, clock: Clock) -> Node {
    let view = View::new(clock.clone());
    let name = config.instance_id.clone();
    let peers = Arc::new(Peers::new(&name));
    let router = Arc::clone(&peers.router);
    let store = RedisStore::open(config, Arc::clone(&view), clock, peers).await.expect("it opens");
    Node { name, store, view, router }
}

/// Every event that a store reported since it was opened, kept for the test.
pub(crate) struct EventLog(Arc<Mutex<Vec<StoreEvent>>>);

impl EventLog {
    pub(crate) fn by(node: &Node) -> Self {
        let mut events = node.store.events().expect("redis tells events");
        let event_log = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&event_log);
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                list.lock().push(event);
            }
        });
        Self(event_log)
    }

    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&StoreEvent) -> bool) {
        eventually(what, async || self.0.lock().iter().any(&wanted).then_some(())).await;
    }

    pub(crate) fn all(&self) -> Vec<StoreEvent> {
        self.0.lock().clone()
    }

    pub(crate) fn any(&self, wanted: impl Fn(&StoreEvent) -> bool) -> bool {
        self.0.lock().iter().any(wanted)
    }
}

pub(crate) struct OneServer {
    pub(crate) server: RedisServer,
    pub(crate) snapshot_every_entries: u64,
    pub(crate) keep_entries: u64,
}

#[async_trait]
impl Fixture for OneServer {
    async fn start(&self, name: &str) -> Node {
        let config = RedisConfig {
            snapshot_every_entries: self.snapshot_every_entries,
            snapshot_check_ms: 10,
            keep_entries: self.keep_entries,
            ..quick(self.server.url(), name)
        };
        open(config).await
    }

    fn trims(&self) -> bool {
        self.keep_entries == 0
    }
}

mod whole_log {
    use super::*;
    crate::contract::contract_suite!(OneServer {
        server: RedisServer::start().await,
        snapshot_every_entries: 1_000_000,
        keep_entries: 1_000,
    });
}

/// The log is trimmed all the time while the suite runs.
mod trimmed_log {
    use super::*;
    crate::contract::contract_suite!(OneServer {
        server: RedisServer::start().await,
        snapshot_every_entries: 10,
        keep_entries: 0,
    });
}

/// A Redis replica acknowledges each entry before the client gets its answer.
pub(crate) mod replicated {
    use super::*;

    pub(crate) struct Pair {
        pub(crate) master: RedisServer,
        pub(crate) replica: RedisServer,
    }

    #[async_trait]
    impl Fixture for Pair {
        async fn start(&self, name: &str) -> Node {
            let config = RedisConfig { wait_replicas: 1, ..quick(self.master.url(), name) };
            open(config).await
        }
    }

    pub(crate) async fn pair() -> Pair {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.port.to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        eventually("the replica follows", async || {
            let info = replica.command(&["INFO", "replication"]).await;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        Pair { master, replica }
    }

    crate::contract::contract_suite!(pair().await; ordering, idempotency, fencing, restart);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_its_replica_a_write_is_of_unknown_outcome() {
        let mut pair = pair().await;
        let node = pair.start("a").await;
        node.register("orders", "a", 80).await;
        pair.replica.crash();
        let outcome = node.store.propose(
            crate::node::batch(crate::node::register("orders", "b", 80)),
            Duration::from_secs(2).into(),
        );
        assert_eq!(outcome.await, Err(maxine_store::ProposeError::OutcomeUnknown));
        node.store.shutdown().await;
    }
}

/// The lease is stored as the Node.js Maxine stores it, under the same key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_has_the_shape_of_the_nodejs_maxine() {
    let server = RedisServer::start().await;
    let node = open(RedisConfig { key_prefix: "mx".into(), ..quick(server.url(), "a\"b") }).await;
    node.leads().await;
    let lease = server.command(&["GET", "mx:cluster:leader"]).await;
    let lease: serde_json::Value = serde_json::from_str(&lease).expect("it is JSON");
    assert_eq!(lease["instanceId"], "a\"b");
    assert_eq!(lease["fencingToken"], 1);
    assert!(lease["token"].is_string() && lease["acquiredAt"].is_u64());
    assert_eq!(server.command(&["GET", "mx:cluster:leader:fence"]).await, "1");
    let left_ms: i64 = server.command(&["PTTL", "mx:cluster:leader"]).await.parse().unwrap();
    assert!((1..=1_500).contains(&left_ms));
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(
        server.command(&["GET", "mx:cluster:leader:fence"]).await,
        "1",
        "renewals take none"
    );
    node.store.shutdown().await;
    assert_eq!(server.command(&["EXISTS", "mx:cluster:leader"]).await, "0", "given back");
}
