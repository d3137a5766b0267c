//! One node as a process of its own, which reads commands from its standard input. It is for trying the crate
//! by hand, and for the tests that pause a process, slow its disk or watch its system calls.
//!
//! `raft_node <directory> <id> <wal|sled|redb> <peer address of node 1>,<of node 2>,... [key=value ...]`
//! where a key is `heartbeat_interval_ms`, `election_timeout_min_ms`, `election_timeout_max_ms` or
//! `disk_stall_ms`.
//!
//! A line is `<tag> <command> [argument]` and gets one line `<tag> ok ...` or `<tag> err ...`, not
//! necessarily in order: `bootstrap`, `propose <text>`, `propose-local <text>`, `transfer <id>`,
//! `status`, `quit`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::future::BoxFuture;
use maxine_raft::{
    Application, CommittedEntry, Config, EngineKind, Member, NodeId, PeerHandler, Proposed,
    RaftNode, SnapshotEncoder,
};

/// Maximum number of commands in progress.
const COMMANDS_MAX: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(15);

/// Counts what it applies.
struct Count(u64);

impl SnapshotEncoder for Count {
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

impl Application for Count {
    fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>> {
        let reply = |entry: &CommittedEntry| {
            self.0 += u64::from(entry.payload.is_some());
            Bytes::from(self.0.to_string())
        };
        Ok(entries.iter().map(reply).collect())
    }

    fn snapshot(&self) -> Box<dyn SnapshotEncoder> {
        Box::new(Self(self.0))
    }

    fn restore(&mut self, _index: u64, input: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

struct Silent;

impl PeerHandler for Silent {
    fn handle(&self, _from: NodeId, _body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("this node takes no messages".to_owned()) })
    }
}

struct Arguments {
    config: Config,
    members: BTreeMap<NodeId, Member>,
}

fn parse() -> anyhow::Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let mut next = |what: &str| words.next().with_context(|| format!("the {what} is missing"));
    let dir = next("directory")?;
    let id: NodeId = next("id")?.parse()?;
    let engine: EngineKind = next("engine")?.parse().map_err(anyhow::Error::msg)?;
    let mut members = BTreeMap::new();
    for (number, addr) in (1..).zip(next("list of addresses")?.split(',')) {
        let member = Member {
            peer_addr: addr.to_owned(),
            http_addr: String::new(),
            name: format!("node-{number}"),
        };
        members.insert(number, member);
    }
    let me = members.get(&id).context("the list has no address for this id")?;
    let mut config = Config::new("demo", id, dir, me.peer_addr.parse()?);
    config.engine = Some(engine);
    for word in words {
        let (key, value) = word.split_once('=').context("a setting is key=value")?;
        let value = value.parse()?;
        match key {
            "heartbeat_interval_ms" => config.heartbeat_interval_ms = value,
            "election_timeout_min_ms" => config.election_timeout_min_ms = value,
            "election_timeout_max_ms" => config.election_timeout_max_ms = value,
            "disk_stall_ms" => config.disk_stall_ms = value,
            other => anyhow::bail!("unknown setting {other}"),
        }
    }
    Ok(Arguments { config, members })
}

fn status(node: &RaftNode) -> String {
    let status = node.status();
    let leadership = node.leadership();
    format!(
        "term={} leader={} is_leader={} applied={} stalled={} disk_stalls={} leader_heard_ms={}",
        leadership.term,
        leadership.leader.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        leadership.is_leader,
        status.applied_index.map_or_else(|| "-".to_owned(), |index| index.to_string()),
        status.stalled,
        status.counters.disk_stalls,
        status.last_leader_contact_age_ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string()),
    )
}

fn show(proposed: &Proposed) -> String {
    format!("index={} term={}", proposed.index, proposed.term)
}

async fn carry_out(
    node: &RaftNode,
    members: BTreeMap<NodeId, Member>,
    command: &str,
    argument: &str,
) -> Result<String, String> {
    let text = || Bytes::copy_from_slice(argument.as_bytes());
    match command {
        "bootstrap" => {
            node.bootstrap(members).await.map(|()| String::new()).map_err(|e| format!("{e:?}"))
        }
        "propose" => {
            node.propose(text(), TIMEOUT).await.map(|p| show(&p)).map_err(|e| format!("{e:?}"))
        }
        "propose-local" => node
            .propose_local(text(), TIMEOUT)
            .await
            .map(|p| show(&p))
            .map_err(|e| format!("{e:?}")),
        "transfer" => {
            let to = argument.parse().map_err(|_| "transfer needs a node id".to_owned())?;
            let moved = node.transfer_leadership(Some(to)).await;
            moved.map(|()| String::new()).map_err(|e| format!("{e:?}"))
        }
        "status" => Ok(status(node)),
        other => Err(format!("unknown command {other:?}")),
    }
}

/// Writes an answer with one system call, so that a trace shows it as a whole.
fn answer(tag: &str, result: Result<String, String>) -> io::Result<()> {
    let line = match result {
        Ok(text) => format!("{tag} ok {text}\n"),
        Err(text) => format!("{tag} err {text}\n"),
    };
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let Arguments { config, members } = parse()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let node = runtime.block_on(RaftNode::start(config, Box::new(Count(0)), Arc::new(Silent)))?;
    answer("start", Ok(node.listen_addr().to_string()))?;
    let places = Arc::new(tokio::sync::Semaphore::new(COMMANDS_MAX));
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let (Some(tag), Some(command)) = (words.next(), words.next()) else { continue };
        if command == "quit" {
            break;
        }
        let argument = words.next().unwrap_or_default();
        let Ok(place) = places.clone().try_acquire_owned() else {
            answer(&tag, Err("too many commands at once".to_owned()))?;
            continue;
        };
        let (node, members) = (node.clone(), members.clone());
        runtime.spawn(async move {
            let _place = place;
            let result = carry_out(&node, members, &command, &argument).await;
            // A write fails only if the process that reads the answers has ended. Then the input ends too,
            // and this process with it.
            let _ = answer(&tag, result);
        });
    }
    runtime.block_on(node.shutdown())?;
    Ok(())
}
