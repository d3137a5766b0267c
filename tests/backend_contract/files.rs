//! The local and the shared-file mode: the contract, and damage to their files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use maxine_clock::Clock;
use maxine_store::local::{LocalConfig, LocalStore};
use maxine_store::shared_file::{SharedFileConfig, SharedFileStore};
use maxine_store::{OpenError, ProposeError, StoreEvent, WriteTime};
use maxine_view::View;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::contract::agree;
use crate::node::{Fixture, Node, Peers, eventually, leader};
use crate::redis_server::EventLog;
use crate::split_brain::{ChildNode, DAY_MS, wall_clock_jumps};

async fn try_local(config: LocalConfig) -> Result<Node, OpenError> {
    local_with_clock(config, Clock::system()).await
}

async fn local_with_clock(config: LocalConfig, clock: Clock) -> Result<Node, OpenError> {
    let view = View::new(clock.clone());
    let name = config.instance_id.clone();
    let peers = Arc::new(Peers::new(&name));
    let router = Arc::clone(&peers.router);
    let store = LocalStore::open(config, Arc::clone(&view), clock, peers).await?;
    Ok(Node { name, store, view, router })
}

pub(crate) async fn local(path: &Path, name: &str) -> Node {
    let config =
        LocalConfig { path: path.into(), instance_id: name.into(), ..LocalConfig::default() };
    try_local(config).await.expect("it opens")
}

fn quick(path: &Path, name: &str) -> SharedFileConfig {
    SharedFileConfig {
        path: path.into(),
        instance_id: name.into(),
        api_addresses: vec![format!("{name}.test:80")],
        lease_ms: 1_500,
        renew_ms: 300,
        poll_ms: 5,
        ..SharedFileConfig::default()
    }
}

async fn open_shared(config: SharedFileConfig) -> Node {
    try_shared(config, Clock::system()).await.expect("it opens")
}

async fn try_shared(config: SharedFileConfig, clock: Clock) -> Result<Node, OpenError> {
    let view = View::new(clock.clone());
    let name = config.instance_id.clone();
    let peers = Arc::new(Peers::new(&name));
    let router = Arc::clone(&peers.router);
    let store = SharedFileStore::open(config, Arc::clone(&view), clock, peers).await?;
    Ok(Node { name, store, view, router })
}

pub(crate) async fn shared(path: &Path, name: &str) -> Node {
    open_shared(quick(path, name)).await
}

pub(crate) async fn shared_with_lease(
    path: &Path,
    name: &str,
    lease_ms: u64,
    lease_tokens: Option<PathBuf>,
) -> Node {
    open_shared(SharedFileConfig { lease_ms, lease_tokens, ..quick(path, name) }).await
}

/// A node on a shared file that does not compete to lead.
pub(crate) async fn shared_looking_on(path: &Path, name: &str) -> Node {
    open_shared(SharedFileConfig { election_enabled: false, ..quick(path, name) }).await
}

pub(crate) struct OneDirectory {
    dir: TempDir,
    compact_after_len: u64,
}

impl OneDirectory {
    pub(crate) fn new(compact_after_len: u64) -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), compact_after_len }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state.log")
    }
}

pub(crate) struct Local(pub(crate) OneDirectory, pub(crate) parking_lot::Mutex<Option<Node>>);

#[async_trait]
impl Fixture for Local {
    async fn start(&self, name: &str) -> Node {
        let config = LocalConfig {
            path: self.0.path(),
            instance_id: name.into(),
            compact_after_len: self.0.compact_after_len,
            ..LocalConfig::default()
        };
        let node = try_local(config).await.expect("it opens");
        self.1.lock().replace(node.clone());
        node
    }

    fn nodes_max(&self) -> usize {
        1
    }
}

pub(crate) struct Shared(pub(crate) OneDirectory);

#[async_trait]
impl Fixture for Shared {
    async fn start(&self, name: &str) -> Node {
        let compact_after_len = self.0.compact_after_len;
        open_shared(SharedFileConfig { compact_after_len, ..quick(&self.0.path(), name) }).await
    }

    fn trims(&self) -> bool {
        self.0.compact_after_len == 1
    }
}

mod local_log {
    use super::*;
    crate::contract::contract_suite!(Local(
        OneDirectory::new(1 << 30),
        parking_lot::Mutex::new(None)
    ));
}

/// The log is written anew all the time while the suite runs.
mod compacted_local_log {
    use super::*;
    crate::contract::contract_suite!(Local(OneDirectory::new(1), parking_lot::Mutex::new(None)));
}

mod shared_log {
    use super::*;
    crate::contract::contract_suite!(Shared(OneDirectory::new(1 << 30)));
}

/// The log is written anew all the time while the suite runs.
mod compacted_shared_log {
    use super::*;
    crate::contract::contract_suite!(Shared(OneDirectory::new(1)));
}

fn append_garbage(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).expect("the log");
    file.write_all(bytes).expect("it is written");
}

/// The incomplete frame of a writer that died is cut off. Complete frames stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_cut_off() {
    let dir = OneDirectory::new(1 << 30);
    let path = dir.path();
    let node = local(&path, "a").await;
    node.register("orders", "a", 80).await;
    node.store.shutdown().await;
    let whole = fs::read(&path).unwrap();
    let node = local(&path, "a").await;
    node.register("orders", "b", 80).await;
    node.store.shutdown().await;
    let both = fs::read(&path).unwrap();
    // The file is cut at different places within the second frame.
    for cut in [whole.len() + 1, whole.len() + 23, whole.len() + 30, both.len() - 1] {
        fs::write(&path, &both[..cut]).unwrap();
        let node = local(&path, "a").await;
        assert!(node.has("orders", "a") && !node.has("orders", "b"), "cut at {cut}");
        assert_eq!(fs::metadata(&path).unwrap().len(), whole.len() as u64);
        node.register("orders", "c", 80).await;
        node.store.shutdown().await;
        let again = local(&path, "a").await;
        assert!(again.has("orders", "c"));
        again.store.shutdown().await;
    }
}

/// A flipped bit before complete frames is not a torn tail. The node refuses to start, reports the
/// position, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_refused_and_left_as_it_is() {
    let dir = OneDirectory::new(1 << 30);
    let path = dir.path();
    let node = local(&path, "a").await;
    for i in 0..5 {
        node.register("orders", &format!("i{i}"), 80).await;
    }
    node.store.shutdown().await;
    let good = fs::read(&path).unwrap();
    for at in [0, 20, 70, good.len() / 2, good.len() - 400] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let config = LocalConfig { path: path.clone(), ..LocalConfig::default() };
        let refused = try_local(config).await;
        let Err(OpenError::Damaged(text)) = refused else { panic!("opened with a flip at {at}") };
        assert!(text.contains("state.log"), "{text}");
        assert!(text.ends_with("see docs/operations/disk-corrupt.md"), "{text}");
        let refused = try_shared(quick(&path, "a"), Clock::system()).await;
        let Err(OpenError::Damaged(text)) = refused else { panic!("opened with a flip at {at}") };
        assert!(text.contains("state.log"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), bad, "nothing was changed");
    }
}

/// The runbook says that a log can be cut at the byte that the node names. Then the node starts with what is before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_that_is_cut_at_the_named_byte_has_everything_before_it() {
    let dir = OneDirectory::new(1 << 30);
    let path = dir.path();
    let node = local(&path, "a").await;
    node.register("orders", "before", 80).await;
    node.store.shutdown().await;
    let len = fs::metadata(&path).unwrap().len();
    let node = local(&path, "a").await;
    for i in 0..5 {
        node.register("orders", &format!("i{i}"), 80).await;
    }
    node.store.shutdown().await;
    flip_byte(&path, usize::try_from(len).unwrap() + 30);
    let config = LocalConfig { path: path.clone(), ..LocalConfig::default() };
    let Err(OpenError::Damaged(text)) = try_local(config).await else { panic!("it opened") };
    let at: u64 =
        text.split_once("at byte ").unwrap().1.split(':').next().unwrap().parse().unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(at).unwrap();
    let node = local(&path, "a").await;
    assert!(node.has("orders", "before") && !node.has("orders", "i4"), "{text}");
    node.register("orders", "after", 80).await;
    node.store.shutdown().await;
}

/// The shared storage is full, so it accepts no writes from any node. No node stops, and reads continue. Each
/// node knows that writes are refused, even if no client writes. It is reported as one outage until there is
/// room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_shared_storage_refuses_writes_and_the_node_lives() {
    let dir = OneDirectory::new(1 << 30);
    let mounted = dir.dir.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let path = mounted.join("state.log");
    let mut child = ChildNode::start_on_small_storage(&path.display().to_string(), &mounted);
    assert_eq!(child.ask("register before"), "true");
    let filler = mounted.join("filler").display().to_string();
    child.ask(&format!("fill {filler}"));
    let full = "the shared storage is full: only small writes may succeed";
    eventually("a report finds out", async || (child.ask("refuses") == full).then_some(())).await;
    // Some registrations fit into the last block of the log.
    let mut acknowledged = vec![String::from("before")];
    let refused = (0..500).map(|i| format!("i{i}")).find(|id| {
        let is_written = child.ask(&format!("register {id}")) == "true";
        acknowledged.extend(is_written.then(|| id.clone()));
        !is_written
    });
    let refused = refused.expect("the storage is full");
    eventually("it is known", async || (child.ask("refuses") == full).then_some(())).await;
    assert_eq!(child.ask("register later"), "false", "it is refused again");
    for id in &acknowledged {
        assert_eq!(child.ask(&format!("has {id}")), "true", "reads continue");
    }
    assert_eq!(child.ask(&format!("free {filler}")), "Ok(())");
    eventually("there is room", async || (child.ask("refuses") == "nothing").then_some(())).await;
    assert_eq!(child.ask("register after"), "true");
    assert_eq!(child.ask(&format!("has {refused}")), "false", "it was not written");
    let events = child.ask("events");
    assert!(!events.contains("Failed") && !events.contains("Unreachable"), "{events}");
    assert_eq!(events.matches("WritesRefused").count(), 1, "it is one outage: {events}");
}

/// A local disk is full: the node reports it and writes nothing more. After a restart with free space,
/// everything that it had acknowledged is present. On a shared file the node continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_node_and_loses_nothing() {
    for prefix in ["local:", ""] {
        let dir = OneDirectory::new(1 << 30);
        let path = dir.path();
        let mut child = ChildNode::start_with_room(&format!("{prefix}{}", path.display()), 32);
        let mut acknowledged = Vec::new();
        for i in 0.. {
            if child.ask(&format!("register i{i}")) != "true" {
                break;
            }
            acknowledged.push(format!("i{i}"));
        }
        assert!(!acknowledged.is_empty());
        assert_eq!(child.ask("register later"), "false", "nothing is tried again");
        assert_eq!(child.ask("leads"), if prefix.is_empty() { "true" } else { "false" });
        drop(child);
        let node =
            if prefix.is_empty() { shared(&path, "z").await } else { local(&path, "z").await };
        for id in &acknowledged {
            assert!(node.has("written", id), "{prefix}: {id} was acknowledged");
        }
        node.register("written", "with room", 80).await;
        node.store.shutdown().await;
    }
}

/// The log and its lock were removed: the node notices it without a write, and writes its state again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_log_that_is_removed_under_a_running_node_is_written_again() {
    let dir = OneDirectory::new(1 << 30);
    let node = local(&dir.path(), "a").await;
    node.register("orders", "a", 80).await;
    let event_log = EventLog::by(&node);
    fs::remove_file(format!("{}.lock", dir.path().display())).unwrap();
    fs::remove_file(dir.path()).unwrap();
    event_log
        .until("the state is put back", |event| matches!(event, StoreEvent::StatePutBack { .. }))
        .await;
    let path = dir.path().display().to_string();
    let says_where = |event: &StoreEvent| match event {
        StoreEvent::Damaged { reason, is_repaired } => *is_repaired && reason.contains(&path),
        _ => false,
    };
    assert!(event_log.any(says_where), "{:?}", event_log.all());
    let config = LocalConfig { path: dir.path(), ..LocalConfig::default() };
    assert!(matches!(try_local(config).await, Err(OpenError::Refused(_))), "it has the lock");
    node.register("orders", "b", 80).await;
    node.store.shutdown().await;
    let again = local(&dir.path(), "a").await;
    assert!(["a", "b"].iter().all(|id| again.has("orders", id)));
    again.store.shutdown().await;
}

/// An older copy takes the place of the log, and a write comes before the node looks. Nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_log_that_is_replaced_under_a_running_node_is_kept_and_written_again() {
    let dir = OneDirectory::new(1 << 30);
    let node = local(&dir.path(), "a").await;
    node.register("orders", "a", 80).await;
    let older = fs::read(dir.path()).unwrap();
    node.register("orders", "b", 80).await;
    let copy = dir.path().with_extension("older");
    fs::write(&copy, &older).unwrap();
    fs::rename(&copy, dir.path()).unwrap();
    node.register("orders", "c", 80).await;
    assert!(node.is_leader());
    assert!(fs::read(format!("{}.damaged", dir.path().display())).unwrap() == older);
    node.store.shutdown().await;
    let again = local(&dir.path(), "a").await;
    assert!(["a", "b", "c"].iter().all(|id| again.has("orders", id)));
    again.store.shutdown().await;
}

/// The directory of the log is gone. The node keeps its state, takes no writes and says so without a write, until it
/// can write its state again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_node_without_its_directory_takes_no_writes_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let path = data.join("state.log");
    let node = local(&path, "a").await;
    let event_log = EventLog::by(&node);
    node.register("orders", "a", 80).await;
    fs::rename(&data, dir.path().join("taken")).unwrap();
    let named = path.display().to_string();
    let refuses = |event: &StoreEvent| match event {
        StoreEvent::WritesRefused { reason } => {
            reason.contains(&named) && reason.contains("do not stop this node")
        }
        _ => false,
    };
    event_log.until("it is reported", refuses).await;
    let why = node.store.refuses_writes().expect("it refuses writes");
    assert!(why.contains("only in memory") && !why.contains(&named), "{why}");
    let refused = node.try_propose(crate::node::register("orders", "b", 80)).await;
    assert!(matches!(refused, Err(ProposeError::StoreUnavailable(_))), "{refused:?}");
    assert!(node.has("orders", "a") && node.is_leader(), "it does not stop");

    fs::create_dir(&data).unwrap();
    event_log
        .until("writes are taken", |event| matches!(event, StoreEvent::WritesAccepted { .. }))
        .await;
    assert_eq!(node.store.refuses_writes(), None);
    node.register("orders", "c", 80).await;
    assert!(!event_log.any(|event| matches!(event, StoreEvent::Failed { .. })));
    node.store.shutdown().await;
    let again = local(&path, "a").await;
    assert!(["a", "c"].iter().all(|id| again.has("orders", id)) && !again.has("orders", "b"));
    again.store.shutdown().await;
}

/// Puts a pipe in the place of a file, in one step.
fn replace_by_pipe(path: &Path) {
    let pipe = path.with_extension("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    fs::rename(&pipe, path).unwrap();
}

/// Reading a pipe waits for a writer, perhaps forever. Nodes do not wait: they take no writes, continue when the pipe is
/// gone, and stop when they are told to. A node that starts says what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_place_of_a_shared_log_does_not_hang_the_nodes() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    replace_by_pipe(&dir.path());
    for node in &nodes {
        eventually("it takes no writes", async || node.store.refuses_writes()).await;
        assert!(node.has("orders", "a"), "reads go on");
    }
    let refused = try_shared(quick(&dir.path(), "z"), Clock::system()).await;
    let Err(OpenError::Io(reason)) = refused else { panic!("it opened") };
    assert!(reason.contains("it is not a regular file"), "{reason}");
    let stopped = nodes[2].store.shutdown();
    tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("it stops");
    fs::remove_file(dir.path()).unwrap();
    for (node, id) in nodes[..2].iter().zip(["b", "c"]) {
        node.register("orders", id, 80).await;
    }
    agree(&nodes[..2]).await;
    assert!(["a", "b", "c"].iter().all(|id| nodes[0].has("orders", id)));
    stop(&nodes[..2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_place_of_a_local_log_does_not_hang_the_node() {
    let dir = OneDirectory::new(1 << 30);
    let node = local(&dir.path(), "a").await;
    node.register("orders", "a", 80).await;
    replace_by_pipe(&dir.path());
    eventually("it takes no writes", async || node.store.refuses_writes()).await;
    fs::remove_file(dir.path()).unwrap();
    node.register("orders", "b", 80).await;
    replace_by_pipe(&dir.path());
    eventually("it takes no writes", async || node.store.refuses_writes()).await;
    let stopped = node.store.shutdown();
    tokio::time::timeout(Duration::from_secs(10), stopped).await.expect("it stops");
    let config = LocalConfig { path: dir.path(), ..LocalConfig::default() };
    let Err(OpenError::Io(reason)) = try_local(config).await else { panic!("it opened") };
    assert!(reason.contains("it is not a regular file"), "{reason}");
}

/// Another process has the lock. A write that cannot begin in time is not carried out, not even later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_for_the_lock_until_its_time_ends_is_not_made() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = vec![shared(&dir.path(), "a").await];
    leader(&nodes).await;
    let lock = dir.dir.path().join("state.log.lock");
    let lock = fs::File::options().read(true).write(true).open(lock).unwrap();
    lock.lock().unwrap();
    let (begin, end) = (Duration::from_millis(200), Duration::from_secs(5));
    let late = crate::node::batch(crate::node::register("orders", "late", 80));
    let refused = nodes[0].store.propose(late, WriteTime { begin, end }).await;
    assert_eq!(refused, Err(ProposeError::NotBegun));
    lock.unlock().unwrap();
    nodes[0].register("orders", "next", 81).await;
    assert!(!nodes[0].has("orders", "late"), "it was not made");
    stop(&nodes).await;
}

/// The shared storage becomes unavailable: reads continue, writes are refused, no node leads. When it is
/// available again, the nodes continue without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_storage_goes_away_and_comes_back() {
    let dir = OneDirectory::new(1 << 30);
    let mounted = dir.dir.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let path = mounted.join("state.log");
    let nodes = three(&path).await;
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    let away = dir.dir.path().join("away");
    fs::rename(&mounted, &away).unwrap();
    for event_log in &event_log {
        event_log
            .until("it is reported", |event| matches!(event, StoreEvent::Unreachable { .. }))
            .await;
    }
    eventually("nobody leads", async || nodes.iter().all(|node| !node.is_leader()).then_some(()))
        .await;
    for node in &nodes {
        let refused = node.try_propose(crate::node::register("orders", "b", 80)).await;
        assert!(refused.is_err(), "{refused:?}");
        assert!(node.has("orders", "a"), "reads go on");
    }
    eventually("the view tells its age", async || {
        nodes.iter().all(|node| node.store.staleness_ms() > Some(500)).then_some(())
    })
    .await;
    eventually("no leader is known", async || {
        let known = |node: &Node| node.store.leadership_now().leader.is_some();
        (!nodes.iter().any(known)).then_some(())
    })
    .await;
    fs::rename(&away, &mounted).unwrap();
    leader(&nodes).await;
    nodes[2].register("orders", "c", 80).await;
    agree(&nodes).await;
    assert!(!event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)));
    stop(&nodes).await;
}

/// A node is started while the storage that it used is not mounted. It does not begin a new registry, and
/// leaves the mount point unchanged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_does_not_start_where_the_shared_storage_that_it_used_is_away() {
    let dir = OneDirectory::new(1 << 30);
    let mounted = dir.dir.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let path = mounted.join("state.log");
    let used = dir.dir.path().join("shared-log");
    let config = || SharedFileConfig { used_log: Some(used.clone()), ..quick(&path, "a") };
    let node = open_shared(config()).await;
    leader(std::slice::from_ref(&node)).await;
    node.register("orders", "a", 80).await;
    node.store.shutdown().await;
    let away = dir.dir.path().join("away");
    fs::rename(&mounted, &away).unwrap();
    fs::create_dir(&mounted).unwrap();
    let refused = try_shared(config(), Clock::system()).await;
    let Err(OpenError::Refused(reason)) = refused else { panic!("it opened") };
    assert!(reason.contains("is its storage mounted?"), "{reason}");
    assert_eq!(fs::read_dir(&mounted).unwrap().count(), 0, "the mount point is as it was");
    fs::remove_dir(&mounted).unwrap();
    fs::rename(&away, &mounted).unwrap();
    let again = open_shared(config()).await;
    assert!(again.has("orders", "a"));
    again.store.shutdown().await;
    // Another log, or a decision of an operator, begins a new registry.
    let other = SharedFileConfig { path: mounted.join("other.log"), ..config() };
    open_shared(other).await.store.shutdown().await;
}

/// The wall clock jumps a day in either direction: a local node continues to lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_clock_of_a_local_node_jumps() {
    let dir = OneDirectory::new(1 << 30);
    let jump = Arc::new(AtomicI64::new(0));
    let clock = Clock::system_with_wall_offset(Arc::clone(&jump));
    let config = LocalConfig { path: dir.path(), ..LocalConfig::default() };
    let node = local_with_clock(config, clock).await.expect("it opens");
    let fence = node.take_duties().await;
    for offset_ms in [DAY_MS, -DAY_MS, 0] {
        jump.store(offset_ms, Ordering::Relaxed);
        let epoch = node.register("orders", "a", 80).await;
        assert!(node.is_leader());
        let expired = node.expire(fence, (crate::node::instance("orders", "a"), epoch)).await;
        assert_eq!(expired, maxine_state::Reply::Changed(vec![true]));
    }
    node.store.shutdown().await;
}

/// The same on a shared file: the lease ends neither early nor late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_clock_jumps_on_a_shared_file() {
    let dir = OneDirectory::new(1 << 30);
    let jump = Arc::new(AtomicI64::new(0));
    let clock = Clock::system_with_wall_offset(Arc::clone(&jump));
    let open = async |name: &str| {
        try_shared(quick(&dir.path(), name), clock.clone()).await.expect("it opens")
    };
    let leads = open("a").await;
    leads.leads().await;
    let follows = open("b").await;
    wall_clock_jumps(&leads, &follows, &jump).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_a_local_log_is_refused() {
    let dir = OneDirectory::new(1 << 30);
    let node = local(&dir.path(), "a").await;
    let config = LocalConfig { path: dir.path(), ..LocalConfig::default() };
    assert!(matches!(try_local(config).await, Err(OpenError::Refused(_))));
    node.store.shutdown().await;
}

/// The node is killed at random moments: everything that was acknowledged is present afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    for prefix in ["local:", ""] {
        let dir = OneDirectory::new(1 << 30);
        let path = dir.path();
        let place = format!("{prefix}{}", path.display());
        let mut acknowledged = Vec::new();
        for round in 0..4 {
            let mut child = ChildNode::start(&place);
            for i in 0..10 {
                let id = format!("{round}-{i}");
                if child.ask(&format!("register {id}")) == "true" {
                    acknowledged.push(id);
                }
            }
            // More registrations are in flight when the process is killed.
            for i in 10..40 {
                child.say(&format!("register {round}-{i}"));
            }
            for i in 10..(10 + round * 3) {
                if child.hear() == "true" {
                    acknowledged.push(format!("{round}-{i}"));
                }
            }
            child.signal(Signal::SIGKILL);
        }
        assert!(acknowledged.len() >= 40);
        let node =
            if prefix.is_empty() { shared(&path, "z").await } else { local(&path, "z").await };
        for id in &acknowledged {
            assert!(node.has("written", id), "{place}: {id} was acknowledged");
        }
        node.store.shutdown().await;
    }
}

async fn three(path: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(shared(path, name).await);
    }
    leader(&nodes).await;
    nodes
}

async fn stop(nodes: &[Node]) {
    for node in nodes {
        node.store.shutdown().await;
    }
}

/// The next writer removes the incomplete frame of a dead writer, and all nodes continue with the same state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_of_a_shared_log_is_cut_off_by_the_next_writer() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    append_garbage(&dir.path(), &[7, 0, 0, 0, 1, 2, 3]);
    nodes[1].register("orders", "b", 80).await;
    agree(&nodes).await;
    assert!(nodes.iter().all(|node| node.has("orders", "a") && node.has("orders", "b")));
    let cut = |event: &StoreEvent| matches!(event, StoreEvent::TornTailCut { len_bytes: 7 });
    assert!(event_log.iter().any(|event_log| event_log.any(cut)));
    stop(&nodes).await;
}

/// A log that was deleted, or replaced by an older copy, is restored from a node's memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_or_older_shared_log_is_put_back() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    let older = fs::read(dir.path()).unwrap();
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    nodes[1].register("orders", "b", 80).await;
    agree(&nodes).await;
    fs::remove_file(dir.path()).unwrap();
    nodes[2].register("orders", "c", 80).await;
    agree(&nodes).await;
    fs::write(dir.path().with_extension("older"), older).unwrap();
    fs::rename(dir.path().with_extension("older"), dir.path()).unwrap();
    nodes[0].register("orders", "d", 80).await;
    agree(&nodes).await;
    let fresh = shared(&dir.path(), "z").await;
    for id in ["a", "b", "c", "d"] {
        assert!(fresh.has("orders", id), "{id}");
    }
    assert!(!event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)));
    stop(&nodes).await;
    fresh.store.shutdown().await;
}

/// A record before the nodes' positions is damaged, and the record after it is complete. The nodes write
/// their state in its place, keep a copy of the old log, and continue. A node that starts finds the state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_of_a_shared_log_does_not_stop_running_nodes() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    let before = fs::read(dir.path()).unwrap();
    nodes[1].register("orders", "b", 80).await;
    agree(&nodes).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    let mut bytes = fs::read(dir.path()).unwrap();
    let frame = bytes[before.len()..].to_vec();
    bytes.extend_from_slice(&[7; 50]);
    bytes.extend_from_slice(&frame);
    let mut file = fs::File::options().write(true).open(dir.path()).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    eventually("it is reported", async || {
        let damaged = |event: &StoreEvent| matches!(event, StoreEvent::Damaged { .. });
        event_log.iter().any(|event_log| event_log.any(damaged)).then_some(())
    })
    .await;
    for (node, id) in nodes.iter().zip(["c", "d", "e"]) {
        node.register("orders", id, 80).await;
    }
    agree(&nodes).await;
    let fresh = shared(&dir.path(), "z").await;
    for id in ["a", "b", "c", "d", "e"] {
        assert!(fresh.has("orders", id), "{id}");
    }
    assert!(!event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)));
    let mut aside = dir.path().into_os_string();
    aside.push(".damaged");
    assert_eq!(fs::read(aside).unwrap(), bytes);
    stop(&nodes).await;
    fresh.store.shutdown().await;
}

/// Flips one byte of a log in place.
fn flip_byte(path: &Path, at: usize) -> Vec<u8> {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    bytes
}

/// A byte that running nodes have read already is damaged: in the state at the front, in a frame, and in the
/// last frame. They notice it without a write, keep the damaged file, and write their state in its place. A
/// node can start afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_what_running_nodes_have_read_is_noticed_and_repaired() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "a", 80).await;
    let mut ids = vec!["a"];
    for (part, id) in [(0, "b"), (1, "c"), (2, "d")] {
        nodes[1].register("orders", id, 80).await;
        ids.push(id);
        agree(&nodes).await;
        let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
        let len = fs::read(dir.path()).unwrap().len();
        let damaged = flip_byte(&dir.path(), [70, len / 2, len - 1][part]);
        let aside = format!("{}.damaged", dir.path().display());
        eventually("the damaged file is kept, and the state is put back", async || {
            let is_kept = fs::read(&aside).is_ok_and(|kept| kept == damaged);
            (is_kept && fs::read(dir.path()).unwrap() != damaged).then_some(())
        })
        .await;
        let is_damage = |event: &StoreEvent| matches!(event, StoreEvent::Damaged { .. });
        let told =
            || event_log.iter().flat_map(EventLog::all).filter(|event| is_damage(event)).count();
        eventually("it is reported", async || (told() > part).then_some(())).await;
        assert_eq!(told(), part + 1, "one node repairs it");
        assert!(!event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)));
        nodes[2].register("orders", "later", 80 + u16::try_from(part).unwrap()).await;
        agree(&nodes).await;
        // Regression: the node that repaired it also reported that the storage does not answer.
        let is_silence = |event: &StoreEvent| matches!(event, StoreEvent::Unreachable { reason, .. } if reason.contains("is damaged"));
        assert!(!event_log.iter().any(|event_log| event_log.any(is_silence)));
        let fresh = shared(&dir.path(), "z").await;
        assert!(ids.iter().all(|id| fresh.has("orders", id)), "flipped in part {part}");
        assert_eq!(fresh.digest(), nodes[0].digest());
        fresh.store.shutdown().await;
    }
    stop(&nodes).await;
}

/// The same on a local node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_a_local_log_is_noticed_and_repaired_by_the_running_node() {
    let dir = OneDirectory::new(1 << 30);
    let node = local(&dir.path(), "a").await;
    node.register("orders", "a", 80).await;
    node.register("orders", "b", 80).await;
    let event_log = EventLog::by(&node);
    let len = fs::read(dir.path()).unwrap().len();
    let damaged = flip_byte(&dir.path(), len / 2);
    event_log
        .until("the state is put back", |event| matches!(event, StoreEvent::StatePutBack { .. }))
        .await;
    assert!(fs::read(format!("{}.damaged", dir.path().display())).unwrap() == damaged);
    node.register("orders", "c", 80).await;
    node.store.shutdown().await;
    let again = local(&dir.path(), "a").await;
    assert!(["a", "b", "c"].iter().all(|id| again.has("orders", id)));
    again.store.shutdown().await;
}

/// The log is replaced by an older copy while every node is stopped. The nodes have stored on their own disks
/// that there was a newer state. So the loss is reported, and indexes that are used again belong to another
/// history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_that_was_put_in_place_of_a_shared_log_while_all_nodes_were_stopped_is_noticed()
 {
    let dir = OneDirectory::new(1 << 30);
    let config = |name: &str| SharedFileConfig {
        newest_state: Some(dir.dir.path().join(format!("newest-{name}"))),
        ..quick(&dir.path(), name)
    };
    let node = open_shared(config("a")).await;
    node.founded().await;
    node.register("orders", "a", 80).await;
    node.store.shutdown().await;
    let older = fs::read(dir.path()).unwrap();
    let node = open_shared(config("a")).await;
    assert!(!EventLog::by(&node).any(StoreEvent::is_loss), "the log is as the node left it");
    let other = open_shared(config("b")).await;
    let had = node.register("orders", "lost", 80).await;
    other.reaches(had).await;
    stop(&[node, other]).await;
    fs::write(dir.path(), older).unwrap();
    let node = open_shared(config("a")).await;
    begins_another_history(&node, had).await;
    let other = open_shared(config("b")).await;
    other.register("orders", "later", 80).await;
    let lost = EventLog::by(&other).any(StoreEvent::is_loss);
    assert!(!lost, "the other node finds the history that was begun for this loss");
    stop(&[node, other]).await;
}

/// The same on a local node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_that_was_put_in_place_of_a_local_log_is_noticed() {
    let dir = OneDirectory::new(1 << 30);
    let config = || LocalConfig {
        path: dir.path(),
        newest_state: Some(dir.dir.path().join("newest")),
        ..LocalConfig::default()
    };
    let node = try_local(config()).await.unwrap();
    node.founded().await;
    node.register("orders", "a", 80).await;
    let older = fs::read(dir.path()).unwrap();
    let had = node.register("orders", "lost", 80).await;
    node.store.shutdown().await;
    fs::write(dir.path(), older).unwrap();
    let node = try_local(config()).await.unwrap();
    begins_another_history(&node, had).await;
    node.store.shutdown().await;
}

/// A node that starts with a state that is older than index `had` reports the loss, and another history begins.
pub(crate) async fn begins_another_history(node: &Node, had: u64) {
    let history = || node.view.snapshot().state.history();
    let (before, event_log) = (history(), EventLog::by(node));
    let is_loss = |event: &StoreEvent| matches!(event, StoreEvent::OlderState { had: known, now } if *known == had && *now < had);
    event_log.until("the loss is reported", is_loss).await;
    let keeper = node.keep_history();
    eventually("another history begins", async || (history() != before).then_some(())).await;
    keeper.abort();
}

/// The file system cuts the file off within the state at the front of the log. The running nodes write their
/// state again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_log_that_is_cut_off_at_its_front_is_put_back_by_running_nodes() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    for (len, id) in [(0, "b"), (7, "c"), (100, "d")] {
        let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
        fs::File::options().write(true).open(dir.path()).unwrap().set_len(len).unwrap();
        eventually("the state is put back", async || {
            let put_back = |event: &StoreEvent| matches!(event, StoreEvent::StatePutBack { .. });
            event_log.iter().any(|event_log| event_log.any(put_back)).then_some(())
        })
        .await;
        nodes[1].register("orders", id, 80).await;
        agree(&nodes).await;
        assert!(
            !event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)),
            "cut to {len}"
        );
    }
    let fresh = shared(&dir.path(), "z").await;
    for id in ["a", "b", "c", "d"] {
        assert!(fresh.has("orders", id), "{id}");
    }
    stop(&nodes).await;
    fresh.store.shutdown().await;
}

/// Appends whole frames of entries to a shared log, under its lock, as a program other than Maxine would have to.
fn append_foreign(path: &Path, entries: &[&[u8]]) {
    let lock = fs::File::open(PathBuf::from(format!("{}.lock", path.display()))).unwrap();
    lock.lock().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let number = |bytes: &[u8], at: usize, len: usize| {
        bytes[at..at + len].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let mut at = 64 + usize::try_from(number(&bytes, 32, 8)).unwrap();
    let (mut seq, mut chain) =
        (number(&bytes, 24, 8), u32::try_from(number(&bytes, 48, 8)).unwrap());
    while at < bytes.len() {
        let body = at + 24..at + 24 + usize::try_from(number(&bytes, at, 4)).unwrap();
        chain = u32::try_from(number(&bytes, at + 12, 4)).unwrap();
        seq = number(&bytes, at + 4, 8) - 1;
        let mut entry = body.start;
        while entry < body.end {
            entry += 4 + usize::try_from(number(&bytes, entry, 4)).unwrap();
            seq += 1;
        }
        at = body.end;
    }
    for entry in entries {
        let len = u32::try_from(entry.len()).unwrap();
        let body = [&len.to_le_bytes(), *entry].concat();
        chain = crc32c::crc32c_append(chain, &body);
        seq += 1;
        let mut head = Vec::new();
        head.extend_from_slice(&(len + 4).to_le_bytes());
        head.extend_from_slice(&seq.to_le_bytes());
        head.extend_from_slice(&chain.to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
        bytes.extend([head, body].concat());
    }
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
}

/// Another program appends complete entries that cannot be decoded. Every node skips the same entries and
/// reports them, and a node that starts finds the same state. An entry of a newer version is not skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_a_shared_log_that_cannot_be_read_stop_nobody() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    // An instance must not have the leader's address, because a request to it would reach the node itself.
    let call_addr = leader(&nodes).await.store.own_addresses().swap_remove(0);
    for node in &nodes {
        eventually("the leader's call port is known", async || {
            let own = node.store.own_addresses();
            let is_known = own.contains(&call_addr) && (node.is_leader() || own[0] != call_addr);
            is_known.then_some(())
        })
        .await;
    }
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    // The last one names state version 65,537, which no build can have.
    let unreadable: [&[u8]; 3] = [b"garbage", b"MXC\x03\xff\xff", b"MXC\x03\x01\0\x01\0more"];
    append_foreign(&dir.path(), &unreadable);
    for (node, id) in nodes.iter().zip(["b", "c", "d"]) {
        node.register("orders", id, 80).await;
    }
    agree(&nodes).await;
    let skipped = |event: &StoreEvent| matches!(event, StoreEvent::EntriesSkipped { .. });
    for event_log in &event_log {
        event_log.until("each node reports what it passed over", skipped).await;
    }
    let fresh = shared(&dir.path(), "z").await;
    agree(&[&nodes[..], std::slice::from_ref(&fresh)].concat()).await;
    assert!(["a", "b", "c", "d"].iter().all(|id| fresh.has("orders", id)));
    assert!(!event_log.iter().any(|event_log| event_log.any(StoreEvent::is_loss)));
    stop(&nodes).await;
    fresh.store.shutdown().await;

    append_foreign(&dir.path(), &[b"MXC\xff"]);
    let refused = try_shared(quick(&dir.path(), "y"), Clock::system()).await;
    let Err(OpenError::Damaged(reason)) = refused else { panic!("it opened") };
    assert!(reason.contains("upgrade this node"), "{reason}");
}

/// Without the lock file no node can tell whether this is the right storage. No node considers its copy
/// current, and all continue when the lock file exists again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_lock_a_shared_log_is_away_and_no_copy_is_current() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    let lock = PathBuf::from(format!("{}.lock", dir.path().display()));
    fs::remove_file(&lock).unwrap();
    for node in &nodes {
        eventually("the copy grows old", async || {
            node.store.staleness_ms().is_none_or(|age_ms| age_ms > 500).then_some(())
        })
        .await;
    }
    let text = format!("the lock file {} is missing", lock.display());
    let away = |event: &StoreEvent| match event {
        StoreEvent::Unreachable { cause: Some(cause), .. } => cause.starts_with(&text),
        _ => false,
    };
    for event_log in &event_log {
        event_log.until("the node reports that the storage is away", away).await;
    }
    let why = "the lock file of the shared storage is missing: the storage may not be mounted";
    for node in &nodes {
        assert_eq!(node.store.refuses_writes().as_deref(), Some(why));
    }
    fs::write(&lock, b"").unwrap();
    nodes[1].register("orders", "b", 80).await;
    agree(&nodes).await;
    assert!(nodes.iter().all(|node| node.has("orders", "a") && node.has("orders", "b")));
    stop(&nodes).await;
}

/// The log was replaced by another one: every node follows it, and reports what was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_shared_log_is_followed_and_the_loss_told() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "lost", 80).await;
    agree(&nodes).await;
    let other_path = dir.dir.path().join("other.log");
    let other = shared(&other_path, "o").await;
    for i in 0..5 {
        other.register("orders", &format!("o{i}"), 80).await;
    }
    other.store.shutdown().await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    fs::rename(&other_path, dir.path()).unwrap();
    for event_log in &event_log {
        event_log.until("the loss is reported", StoreEvent::is_loss).await;
    }
    nodes[1].register("orders", "lost", 80).await;
    agree(&nodes).await;
    assert!(nodes[2].has("orders", "o3") && nodes[2].has("orders", "lost"));
    stop(&nodes).await;
}

/// An older copy to which nodes elsewhere have appended has another chain, although it is longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_of_a_shared_log_is_noticed() {
    let dir = OneDirectory::new(1 << 30);
    let nodes = three(&dir.path()).await;
    nodes[0].register("orders", "before", 80).await;
    agree(&nodes).await;
    let fork_path = dir.dir.path().join("fork.log");
    fs::copy(dir.path(), &fork_path).unwrap();
    nodes[0].register("orders", "lost", 80).await;
    agree(&nodes).await;
    let fork = shared(&fork_path, "f").await;
    for i in 0..5 {
        fork.register("orders", &format!("f{i}"), 80).await;
    }
    fork.store.shutdown().await;
    let event_log: Vec<EventLog> = nodes.iter().map(EventLog::by).collect();
    // The content is replaced in place, so that it is the same file.
    let bytes = fs::read(&fork_path).unwrap();
    let file = OpenOptions::new().write(true).open(dir.path()).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for event_log in &event_log {
        event_log.until("the loss is reported", StoreEvent::is_loss).await;
    }
    nodes[1].register("orders", "later", 80).await;
    agree(&nodes).await;
    assert!(nodes[0].has("orders", "f4") && !nodes[0].has("orders", "lost"));
    stop(&nodes).await;
}
