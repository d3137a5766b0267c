//! Measures the replicated log: three nodes in this process, on this machine's disk, with one engine after
//! another under the same load.
//!
//! `cargo run --release -p maxine-raft --example log_bench -- [seconds per cell] [directory]`

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use maxine_raft::{
    Application, CommittedEntry, Config, EngineKind, Member, NodeId, PeerHandler, RaftNode,
    SnapshotEncoder,
};

const PAYLOAD_LEN: usize = 200;

/// Counts what it applies.
struct Count(u64);

impl SnapshotEncoder for Count {
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

impl Application for Count {
    fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>> {
        self.0 += entries.len() as u64;
        Ok(entries.iter().map(|_| Bytes::new()).collect())
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
        Box::pin(async { Ok(Bytes::new()) })
    }
}

struct Cell {
    per_second: f64,
    p50_us: u128,
    p99_us: u128,
}

async fn start(engine: EngineKind, dir: &std::path::Path) -> anyhow::Result<Vec<RaftNode>> {
    let mut members = BTreeMap::new();
    for id in 1..=3 {
        let addr = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        members.insert(
            id,
            Member {
                peer_addr: addr.to_string(),
                http_addr: String::new(),
                name: format!("node-{id}"),
            },
        );
    }
    let mut nodes = Vec::new();
    for (id, member) in &members {
        let mut config = Config::new(
            "bench",
            *id,
            dir.join(format!("{engine}-{id}")),
            member.peer_addr.parse()?,
        );
        config.engine = Some(engine);
        nodes.push(RaftNode::start(config, Box::new(Count(0)), Arc::new(Silent)).await?);
    }
    nodes[0].bootstrap(members).await?;
    nodes[0].propose(Bytes::from_static(b"first"), Duration::from_secs(10)).await?;
    Ok(nodes)
}

async fn measure(node: &RaftNode, in_flight: usize, duration: Duration) -> anyhow::Result<Cell> {
    let started = Instant::now();
    let mut proposers = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let node = node.clone();
        proposers.spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < duration {
                let asked = Instant::now();
                node.propose(Bytes::from(vec![7; PAYLOAD_LEN]), Duration::from_secs(10)).await?;
                times.push(asked.elapsed().as_micros());
            }
            Ok::<_, maxine_raft::ProposeError>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(part) = proposers.join_next().await {
        times.extend(part??);
    }
    times.sort_unstable();
    let per_second = times.len() as f64 / started.elapsed().as_secs_f64();
    Ok(Cell { per_second, p50_us: times[times.len() / 2], p99_us: times[times.len() * 99 / 100] })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let dir = match arguments.next() {
        Some(path) => tempfile::tempdir_in(path)?,
        None => tempfile::tempdir()?,
    };
    let mut out = io::stdout();
    writeln!(
        out,
        "three nodes, one process, one disk, {PAYLOAD_LEN}-byte payloads, {seconds} s per cell"
    )?;
    writeln!(
        out,
        "{:<7} {:<9} {:>9} {:>10} {:>9} {:>9} {:>12} {:>11}",
        "engine",
        "proposer",
        "in flight",
        "commits/s",
        "p50 us",
        "p99 us",
        "fsync p99 us",
        "disk MiB"
    )?;
    for engine in [EngineKind::Sled, EngineKind::Redb, EngineKind::Wal] {
        let nodes = start(engine, dir.path()).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        for role in ["leader", "follower"] {
            let node = nodes
                .iter()
                .find(|node| node.leadership().is_leader == (role == "leader"))
                .ok_or_else(|| anyhow::anyhow!("no {role}"))?;
            for in_flight in [1, 64, 256] {
                let cell = measure(node, in_flight, Duration::from_secs(seconds)).await?;
                let status = nodes[0].status();
                writeln!(
                    out,
                    "{engine:<7} {role:<9} {in_flight:>9} {:>10.0} {:>9} {:>9} {:>12} {:>11.1}",
                    cell.per_second,
                    cell.p50_us,
                    cell.p99_us,
                    status.sync_p99_us.map_or_else(|| "-".to_owned(), |us| us.to_string()),
                    status.log_disk_bytes as f64 / 1_048_576.0,
                )?;
            }
        }
        for node in nodes {
            node.stop_now().await;
        }
    }
    Ok(())
}
