//! Nodes as separate processes, which can be paused, traced and given a slow disk individually.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

/// Long timings, so that a loaded machine does not look like a failed node.
pub const TIMINGS: [&str; 4] = [
    "heartbeat_interval_ms=150",
    "election_timeout_min_ms=1000",
    "election_timeout_max_ms=1500",
    "disk_stall_ms=600",
];
pub const ELECTION_MAX: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(30);

type Waiting = Arc<Mutex<HashMap<String, SyncSender<Result<String, String>>>>>;

pub struct NodeProcess {
    pub id: u64,
    pub fault_file: PathBuf,
    child: Child,
    input: Mutex<ChildStdin>,
    waiting: Waiting,
    next_tag: AtomicU64,
}

/// An answer that has not arrived yet.
pub struct Pending(Receiver<Result<String, String>>);

impl Pending {
    /// Panics if nothing arrives, because no command of a node may hang.
    pub fn wait(self) -> Result<String, String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => panic!("no answer within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the node process ended"),
        }
    }
}

/// The example `raft_node`, which `cargo test` builds together with the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/raft_node");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build -p maxine-raft --example raft_node` with the features of this test, or the whole of `cargo test -p maxine-raft`",
        path.display()
    );
    path
}

impl NodeProcess {
    /// Starts node `id` of those at `addrs`, optionally under another program.
    pub fn start(dir: &TempDir, id: u64, engine: &str, addrs: &str, under: &[String]) -> Self {
        let fault_file = dir.path().join(format!("faults-{id}"));
        std::fs::write(&fault_file, "").unwrap();
        let mut words = under.to_vec();
        words.push(program().to_str().unwrap().to_owned());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .arg(dir.path().join(format!("node-{id}")))
            .args([&id.to_string(), engine, addrs])
            .args(TIMINGS)
            .env("MAXINE_FAULT_FILE", &fault_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let waiting = Waiting::default();
        let (started, start) = sync_channel(1);
        waiting.lock().insert("start".to_owned(), started);
        let output = BufReader::new(child.stdout.take().unwrap());
        let answers = waiting.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut words = line.splitn(3, ' ');
                let (Some(tag), Some(kind)) = (words.next(), words.next()) else { continue };
                let text = words.next().unwrap_or_default().to_owned();
                if let Some(answer) = answers.lock().remove(tag) {
                    let _ = answer.send(if kind == "ok" { Ok(text) } else { Err(text) });
                }
            }
            answers.lock().clear();
        });
        let input = Mutex::new(child.stdin.take().unwrap());
        let node = Self { id, fault_file, child, input, waiting, next_tag: AtomicU64::new(1) };
        Pending(start).wait().unwrap();
        node
    }

    pub fn send(&self, command: &str) -> Pending {
        let tag = format!("r{}", self.next_tag.fetch_add(1, Ordering::Relaxed));
        self.send_tagged(&tag, command)
    }

    fn send_tagged(&self, tag: &str, command: &str) -> Pending {
        let (answer, pending) = sync_channel(1);
        self.waiting.lock().insert(tag.to_owned(), answer);
        writeln!(self.input.lock(), "{tag} {command}").unwrap();
        Pending(pending)
    }

    pub fn ask(&self, command: &str) -> Result<String, String> {
        self.send(command).wait()
    }

    /// Sends a command with a tag that a trace of the process shows. Panics on a refusal.
    pub fn ask_tagged(&self, tag: &str, command: &str) {
        self.send_tagged(tag, command).wait().unwrap();
    }

    /// The node's status.
    pub fn status(&self) -> Status {
        let text = self.ask("status").unwrap();
        let of = |key: &str| {
            let word = text.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            word.unwrap_or_else(|| panic!("no {key} in {text:?}")).to_owned()
        };
        // 0 if there is none: no leader, or nothing applied.
        let number = |key: &str| match of(key).as_str() {
            "-" => 0,
            text => text.parse().unwrap(),
        };
        Status {
            term: number("term"),
            leader: number("leader"),
            is_leader: of("is_leader") == "true",
            applied: number("applied"),
            stalled: of("stalled") == "true",
            disk_stalls: of("disk_stalls").parse().unwrap(),
            leader_heard_ms: of("leader_heard_ms").parse().ok(),
        }
    }

    /// Sends a signal to the node itself, and not to the program that runs it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name} failed");
    }

    pub fn set_faults(&self, words: &str) {
        // The file is replaced in one step, so that a node never reads an incomplete word.
        let next = self.fault_file.with_extension("next");
        std::fs::write(&next, words).unwrap();
        std::fs::rename(next, &self.fault_file).unwrap();
    }

    /// Stops in an orderly way and waits for the end.
    pub fn quit(mut self) {
        let _ = writeln!(self.input.lock(), "q quit");
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the node does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub struct Status {
    pub term: u64,
    pub leader: u64,
    pub is_leader: bool,
    pub applied: u64,
    pub stalled: bool,
    pub disk_stalls: u64,
    pub leader_heard_ms: Option<u64>,
}

pub fn addrs(count: usize) -> String {
    (0..count).map(|_| super::free_addr()).collect::<Vec<_>>().join(",")
}

/// Three node processes with a leader.
pub struct Processes {
    pub nodes: Vec<NodeProcess>,
    pub dir: TempDir,
}

impl Processes {
    pub fn start(engine: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addrs = addrs(3);
        let nodes: Vec<_> =
            (1..=3).map(|id| NodeProcess::start(&dir, id, engine, &addrs, &[])).collect();
        nodes[0].ask("bootstrap").unwrap();
        let cluster = Self { nodes, dir };
        cluster.leader_among(&[1, 2, 3]);
        cluster.node(1).ask("propose first").unwrap();
        cluster
    }

    pub fn node(&self, id: u64) -> &NodeProcess {
        &self.nodes[id as usize - 1]
    }

    pub fn others(&self, id: u64) -> Vec<u64> {
        (1..=3).filter(|other| *other != id).collect()
    }

    /// Waits until one of these nodes leads and the others agree.
    pub fn leader_among(&self, ids: &[u64]) -> u64 {
        until("a leader", PATIENCE, || {
            let leader = ids.iter().copied().find(|id| self.node(*id).status().is_leader)?;
            ids.iter().all(|id| self.node(*id).status().leader == leader).then_some(leader)
        })
    }

    /// Waits until all three have applied as much as the leader.
    pub fn converged(&self) {
        let leader = self.leader_among(&[1, 2, 3]);
        let applied = self.node(leader).status().applied;
        until("all to apply", PATIENCE, || {
            (1..=3).all(|id| self.node(id).status().applied >= applied).then_some(())
        });
    }
}

/// Polls a condition, and panics after a time.
pub fn until<T>(what: &str, patience: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(started.elapsed() < patience, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
