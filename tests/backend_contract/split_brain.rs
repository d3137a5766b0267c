//! Two nodes that both believe that they lead: after a pause of the leader, a partition, or a jump of the
//! wall clock. The tests for Raft are in `raft`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use maxine_clock::Clock;
use maxine_state::{Fence, Name, Reply};
use maxine_store::ProposeError;
use maxine_store::redis::RedisConfig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::contract::agree;
use crate::files;
use crate::node::{Node, deregister, eventually, instance, leader};
use crate::redis_server::{EventLog, RedisServer, open, open_with_clock, quick};

/// The store of the child: a Redis URL, or a path.
const CHILD_STORE: &str = "MAXINE_TEST_CHILD_STORE";
/// Where the child keeps the tokens of its processes. With it, the child's lease is [`LONG_LEASE_MS`].
const CHILD_TOKENS: &str = "MAXINE_TEST_CHILD_TOKENS";
/// A lease that is longer than any test, in milliseconds.
const LONG_LEASE_MS: u64 = 300_000;

/// This is not a test, but the process that the tests below pause and resume. It does nothing unless one of
/// them started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let Ok(place) = std::env::var(CHILD_STORE) else { return };
    let tokens = std::env::var_os(CHILD_TOKENS).map(PathBuf::from);
    let node = match place.strip_prefix("local:") {
        None if tokens.is_some() => with_long_lease(&place, "child", tokens).await,
        Some(path) => files::local(path.as_ref(), "child").await,
        None if place.starts_with("raft:") => crate::raft::Layout::child(&place).await,
        None if place.starts_with("redis://") => open(quick(place, "child")).await,
        None => files::shared(place.as_ref(), "child").await,
    };
    let runtime = tokio::runtime::Handle::current();
    // A store has events only if it depends on a service.
    let event_log = node.store.events().is_some().then(|| EventLog::by(&node));
    let serving = tokio::task::spawn_blocking(move || {
        let mut fence = None;
        for line in std::io::stdin().lines() {
            let line = line.expect("a line");
            let answer = match line.split_once(' ').unwrap_or((&line, "")) {
                ("leads", _) => node.is_leader().to_string(),
                ("take", _) => {
                    fence = Some(runtime.block_on(node.take_duties()));
                    format!("{fence:?}")
                }
                ("expire", epoch) => {
                    let item = (instance("orders", "a"), epoch.parse().expect("an epoch"));
                    let fence = fence.expect("taken before");
                    format!("{:?}", runtime.block_on(node.try_expire(fence, item)))
                }
                ("register", id) => {
                    let command = crate::node::register("written", id, 80);
                    format!("{:?}", runtime.block_on(node.try_propose(command)).is_ok())
                }
                ("has", id) => node.has("written", id).to_string(),
                ("refuses", _) => node.store.refuses_writes().unwrap_or("nothing".into()),
                ("events", _) => format!("{:?}", event_log.as_ref().expect("it has events").all()),
                ("fill", path) => {
                    let mut file = std::fs::File::create(path).expect("a file");
                    while file.write_all(&[0; 4_096]).is_ok() {}
                    String::from("full")
                }
                ("free", path) => format!("{:?}", std::fs::remove_file(path)),
                ("grant", _) => {
                    let holder = Name::trusted("child");
                    let command = maxine_state::Command::GrantLeadership { holder };
                    format!("{:?}", runtime.block_on(node.try_propose(command)))
                }
                _ => break,
            };
            println!("\nANSWER {answer}");
        }
    });
    serving.await.expect("it served");
}

pub(crate) struct ChildNode {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl ChildNode {
    pub(crate) fn start(place: &str) -> Self {
        Self::run(place, Command::new(std::env::current_exe().expect("this binary")))
    }

    /// A child whose files cannot be longer than this number of blocks, as on a full disk.
    pub(crate) fn start_with_room(place: &str, blocks: u32) -> Self {
        // A signal that is ignored stays ignored in the child. So the write fails, and the process does not
        // end.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(std::env::current_exe().expect("this binary"));
        Self::run(place, shell)
    }

    /// A child with a small storage of its own at `mount_point`. If namespaces are not allowed, it fails.
    pub(crate) fn start_on_small_storage(place: &str, mount_point: &Path) -> Self {
        let here = mount_point.display();
        let script = format!("mount -t tmpfs -o size=1m tmpfs '{here}' && exec \"$0\" \"$@\"");
        let mut namespace = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            namespace.args(["--user", "--map-root-user"]);
        }
        namespace.args(["--mount", "sh", "-c"]).arg(script);
        namespace.arg(std::env::current_exe().expect("this binary"));
        Self::run(place, namespace)
    }

    /// A child that keeps the tokens of its processes at `tokens`.
    fn start_with_tokens(place: &str, tokens: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.env(CHILD_TOKENS, tokens);
        Self::run(place, command)
    }

    fn run(place: &str, mut command: Command) -> Self {
        let mut child = command
            .args(["--exact", "split_brain::child_process", "--nocapture"])
            .env(CHILD_STORE, place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    pub(crate) fn say(&mut self, words: &str) {
        writeln!(self.input, "{words}").expect("it listens");
    }

    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("it speaks") > 0, "it died");
            if let Some(answer) = line.trim_end().strip_prefix("ANSWER ") {
                return answer.to_owned();
            }
        }
    }

    pub(crate) fn ask(&mut self, words: &str) -> String {
        self.say(words);
        self.hear()
    }

    /// Waits until it leads.
    fn leads(&mut self) {
        assert!(self.ask("take").starts_with("Some(Fence("));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it is ours");
    }
}

impl Drop for ChildNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The leader is stopped for longer than its lease, another node takes over, and the first one resumes. It
/// never claims again that it leads, and nothing that it does as leader takes effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader() {
    let server = RedisServer::start().await;
    let mut old = ChildNode::start(&server.url());
    old.leads();
    let new = open(quick(server.url(), "b")).await;
    paused(old, std::slice::from_ref(&new)).await;
    new.store.shutdown().await;
}

/// The same with a shared file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_on_a_shared_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.log");
    let mut old = ChildNode::start(path.to_str().expect("a plain path"));
    old.leads();
    let new = files::shared(&path, "b").await;
    paused(old, std::slice::from_ref(&new)).await;
    new.store.shutdown().await;
}

/// Stops `old`, which leads, until another node has its duties, and then resumes it.
pub(crate) async fn paused(mut old: ChildNode, others: &[Node]) {
    let granted = old.ask("take");
    assert!(granted.starts_with("Some(Fence("), "{granted}");
    let epoch = others[0].register("orders", "a", 80).await;

    old.signal(Signal::SIGSTOP);
    let new = leader(others).await;
    let fence = new.take_duties().await;
    // These commands are sent while the process is paused, so that it handles them first when it is resumed.
    old.say("leads");
    old.say(&format!("expire {epoch}"));
    old.say("grant");
    old.signal(Signal::SIGCONT);
    assert_eq!(old.hear(), "false", "its lease has lapsed");
    let expired = old.hear();
    assert!(expired.contains("NotLeader"), "{expired}");
    let granted = old.hear();
    assert!(granted.contains("NotLeader"), "{granted}");
    for _ in 0..100 {
        assert_eq!(old.ask("leads"), "false");
    }
    assert!(new.has("orders", "a"), "nothing that the old leader did took effect");
    assert_eq!(new.view.snapshot().state.grant().expect("granted").fence, fence);
    let expired = new.expire(fence, (instance("orders", "a"), epoch)).await;
    assert_eq!(expired, Reply::Changed(vec![true]));
    old.say("quit");
}

/// A node of a Redis, or of a shared file, whose lease does not run out within a test.
async fn with_long_lease(place: &str, name: &str, tokens: Option<PathBuf>) -> Node {
    if place.starts_with("redis://") {
        let config = quick(place.into(), name);
        return open(RedisConfig { lease_ms: LONG_LEASE_MS, lease_tokens: tokens, ..config }).await;
    }
    files::shared_with_lease(place.as_ref(), name, LONG_LEASE_MS, tokens).await
}

/// The leader is killed, and started again before its lease has expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_leader_gives_back_the_lease_that_it_left() {
    let server = RedisServer::start().await;
    restarted(&server.url()).await;
}

/// The same with a shared file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_leader_on_a_shared_file_gives_back_the_lease_that_it_left() {
    let dir = tempfile::tempdir().expect("a directory");
    restarted(dir.path().join("state.log").to_str().expect("a plain path")).await;
}

async fn restarted(place: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = dir.path().join("lease-tokens");
    let mut killed = ChildNode::start_with_tokens(place, &tokens);
    killed.leads();
    drop(killed);
    let other = with_long_lease(place, "b", None).await;
    let seen = || Some(other.store.leadership_now()).filter(|now| now.term > 0);
    let before = eventually("the lease that was left is seen", async || seen()).await;
    assert_eq!((before.leader.as_deref(), before.is_leader), (Some("child"), false));

    // Without its tokens, it knows only that the lease with its name is not its own.
    let nameless = with_long_lease(place, "child", None).await;
    let never_named = |node: &Node| {
        let now = node.store.leadership_now();
        assert_eq!(now.is_leader, now.leader.as_deref() == Some("child"), "{now:?}");
        now
    };
    let seen = || Some(never_named(&nameless)).filter(|now| now.term == before.term);
    let now = eventually("the lease that was left is seen", async || seen()).await;
    assert_eq!((now.leader, now.is_leader), (None, false));
    nameless.store.shutdown().await;
    assert_eq!(other.store.leadership_now(), before, "nobody gave it back");

    let again = with_long_lease(place, "child", Some(tokens)).await;
    let nodes = [again, other];
    let leads = || {
        let _ = never_named(&nodes[0]);
        nodes.iter().find(|node| node.is_leader()).cloned()
    };
    let leader = eventually("the lease is given back long before its end", async || leads()).await;
    assert!(leader.store.leadership_now().term > before.term, "with a new fencing token");
    leader.take_duties().await;
    for node in &nodes {
        node.store.shutdown().await;
    }
}

/// A node that does not compete leaves the lease to nodes that do, and takes it if no node does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_compete_leads_only_where_nobody_does() {
    let server = RedisServer::start().await;
    let config = RedisConfig { election_enabled: false, ..quick(server.url(), "a") };
    let (competes, looks_on) = (open(quick(server.url(), "b")).await, open(config).await);
    let first = competes.take_duties().await;
    competes.store.shutdown().await;
    assert!(!looks_on.is_leader());
    assert!(looks_on.take_duties().await > first, "alone it does the work");
    looks_on.store.shutdown().await;

    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.log");
    let (competes, looks_on) =
        (files::shared(&path, "b").await, files::shared_looking_on(&path, "a").await);
    let first = competes.take_duties().await;
    competes.store.shutdown().await;
    assert!(!looks_on.is_leader());
    assert!(looks_on.take_duties().await > first, "alone it does the work");
    looks_on.store.shutdown().await;
}

/// What a link does with bytes.
#[derive(Clone, Copy, PartialEq)]
enum Passage {
    Open,
    Held,
    Cut,
}

/// Forwards bytes, and keeps them while the link holds them.
async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Passage>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        let _ = state.wait_for(|passage| *passage != Passage::Held).await;
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Forwards to a port, until it is set to drop everything in both directions.
pub(crate) struct Partition {
    pub(crate) port: u16,
    passage: watch::Sender<Passage>,
}

impl Partition {
    pub(crate) async fn before(server: &RedisServer) -> Self {
        Self::to(server.port).await
    }

    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let port = listener.local_addr().expect("it is bound").port();
        let (passage, state) = watch::channel(Passage::Open);
        tokio::spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                let (mut state, relayed) = (state.clone(), state.clone());
                tokio::spawn(async move {
                    if *state.borrow() == Passage::Cut {
                        // As in a real partition, there is no answer, not even a refusal.
                        let _ = state.wait_for(|passage| *passage != Passage::Cut).await;
                        return;
                    }
                    let Ok(mut outer) = TcpStream::connect(("127.0.0.1", target)).await else {
                        return;
                    };
                    let cut = async {
                        let _ = state.wait_for(|passage| *passage == Passage::Cut).await;
                    };
                    let (inner_read, inner_write) = inner.split();
                    let (outer_read, outer_write) = outer.split();
                    let there = relay(inner_read, outer_write, relayed.clone());
                    let back = relay(outer_read, inner_write, relayed);
                    let ended = tokio::select! {
                        () = cut => true,
                        _ = async { tokio::join!(there, back) } => false,
                    };
                    if ended {
                        // Both ends stay open and silent until the partition heals.
                        let _ = state.wait_for(|passage| *passage != Passage::Cut).await;
                    }
                });
            }
        });
        Self { port, passage }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn cut(&self) {
        self.passage.send_replace(Passage::Cut);
    }

    /// Keeps what is sent, and delivers it when the partition ends, however late that is.
    pub(crate) fn hold(&self) {
        self.passage.send_replace(Passage::Held);
    }

    pub(crate) fn heal(&self) {
        self.passage.send_replace(Passage::Open);
    }
}

/// The leader is cut off from Redis: it steps down before another node leads, reports the age of its
/// view, and continues when the partition ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_from_redis() {
    let server = RedisServer::start().await;
    let partition = Partition::before(&server).await;
    let old = open(quick(partition.url(), "a")).await;
    let old_fence = old.take_duties().await;
    let new = open(quick(server.url(), "b")).await;
    let epoch = new.register("orders", "a", 80).await;
    old.reaches(new.view.index()).await;

    partition.cut();
    let fence = takes_over_alone(&old, &new).await;
    assert!(old.has("orders", "a"), "the view stays");
    assert!(old.store.staleness_ms() > Some(1_000));
    let cut_off = old.try_expire(old_fence, (instance("orders", "a"), epoch)).await;
    assert!(matches!(cut_off, Err(ProposeError::NotLeader { .. })), "{cut_off:?}");
    new.propose(deregister("orders", "none")).await;

    partition.heal();
    old.reaches(new.view.index()).await;
    let late = old.try_expire(old_fence, (instance("orders", "a"), epoch)).await;
    assert!(matches!(late, Err(ProposeError::NotLeader { .. })), "{late:?}");
    assert!(new.has("orders", "a") && new.is_leader() && !old.is_leader());
    let expired = new.expire(fence, (instance("orders", "a"), epoch)).await;
    assert_eq!(expired, Reply::Changed(vec![true]));
    agree(&[old.clone(), new.clone()]).await;
    old.store.shutdown().await;
    new.store.shutdown().await;
}

/// Waits for the new leader; at no moment do both say that they lead.
async fn takes_over_alone(old: &Node, new: &Node) -> Fence {
    eventually("the other one leads", async || {
        let (first, second) = (old.is_leader(), new.is_leader());
        assert!(!(first && second), "two leaders at once");
        second.then_some(())
    })
    .await;
    new.take_duties().await
}

/// The wall clock of the leader, and of a node that wants to lead, jumps a day in either direction. The lease
/// ends neither early nor late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_clock_jumps() {
    let server = RedisServer::start().await;
    let jump = Arc::new(AtomicI64::new(0));
    let clock = Clock::system_with_wall_offset(Arc::clone(&jump));
    let leads = open_with_clock(quick(server.url(), "a"), clock.clone()).await;
    leads.leads().await;
    let follows = open_with_clock(quick(server.url(), "b"), clock.clone()).await;
    wall_clock_jumps(&leads, &follows, &jump).await;
}

pub(crate) const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// `leads` leads, and `follows` takes over when it ends, whatever the clocks of both show.
pub(crate) async fn wall_clock_jumps(leads: &Node, follows: &Node, jump: &AtomicI64) {
    let fence = leads.take_duties().await;
    let term = leads.store.leadership_now().term;
    for offset_ms in [DAY_MS, -DAY_MS, 0] {
        jump.store(offset_ms, Ordering::Relaxed);
        // This is longer than a lease, so that the test notices a leader that misjudges its own lease.
        for _ in 0..200 {
            assert!(leads.is_leader() && !follows.is_leader());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let epoch = follows.register("orders", "a", 80).await;
        let expired = leads.expire(fence, (instance("orders", "a"), epoch)).await;
        assert_eq!(expired, Reply::Changed(vec![true]), "the leader's duties go on");
    }
    assert_eq!(leads.store.leadership_now().term, term);
    // The lease still ends: the leader stops and the other node takes over, whatever the wall clock shows.
    jump.store(-DAY_MS, Ordering::Relaxed);
    leads.store.shutdown().await;
    follows.leads().await;
    follows.store.shutdown().await;
}
