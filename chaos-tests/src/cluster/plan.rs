//! The plan of a cluster: addresses, directories and flags.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::node::{Node, NodePlan};
use super::ports;
use super::{ADMIN_PASSWORD, ADMIN_USER, WallClock};
use crate::network::{Network, NetworkKind};
use crate::program;

/// The backend that orders the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The Raft log of the nodes themselves.
    Raft,
    /// A Redis that the harness starts.
    Redis,
    /// A file that all nodes share.
    SharedFile,
    /// The log of the only node.
    Local,
}

/// The settings of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Number of nodes.
    pub nodes: u64,
    /// The program; `None` for the one next to this program.
    pub program: Option<PathBuf>,
    /// The backend.
    pub backend: Backend,
    /// The kind of network.
    pub network: NetworkKind,
    /// Number of log entries between two snapshots. It is low, so that tests have snapshots.
    pub snapshot_every_entries: u64,
    /// Additional flags of `maxine serve`.
    pub flags: Vec<String>,
    /// Additional environment variables of the nodes.
    pub env: Vec<(String, String)>,
    /// Whether the log (of each node, or of Redis) is on a separate disk.
    pub disks: bool,
    /// Whether each node has its own wall clock.
    pub wall_clocks: bool,
    /// Whether Sentinels monitor Redis.
    pub sentinels: bool,
    /// Whether the output of each node goes to the disk of its data.
    pub logs_on_disks: bool,
}

impl ClusterPlan {
    /// Three nodes.
    pub fn new(backend: Backend, network: NetworkKind) -> Self {
        Self {
            nodes: 3,
            program: None,
            backend,
            network,
            snapshot_every_entries: 2_000,
            flags: Vec::new(),
            env: Vec::new(),
            disks: false,
            wall_clocks: false,
            sentinels: false,
            logs_on_disks: false,
        }
    }

    /// The program that the nodes run.
    pub(super) fn program(&self) -> anyhow::Result<String> {
        let program = match &self.program {
            Some(program) => program.canonicalize()?,
            None => program::locate()?,
        };
        Ok(program.display().to_string())
    }
}

/// The address of Redis.
#[derive(Clone, Debug)]
pub(super) struct RedisAt {
    pub(super) url: String,
    pub(super) sentinels: bool,
}

/// What distinguishes one node from the others.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its number in the harness. A replacement keeps it.
    pub(super) id: u64,
    /// Its number in the cluster, which is never reused.
    pub(super) member: u64,
    pub(super) http: SocketAddr,
    pub(super) peer: SocketAddr,
}

pub(super) fn nodes(
    plan: &ClusterPlan,
    dir: &Path,
    network: &mut Network,
    redis: Option<&RedisAt>,
) -> anyhow::Result<Vec<Node>> {
    let mut places = Vec::new();
    for id in 1..=plan.nodes {
        places.push(place(network, id, id)?);
    }
    let mut members = Vec::new();
    for Place { id, http, peer, .. } in &places {
        let advertised = network.advertise(*id, *peer)?;
        members.push(format!("{id}@{advertised}@http://{http}"));
    }
    let members = format!("--raft-members={}", members.join(","));
    let each = |place: &Place| {
        let mut node = node(plan, dir, network, redis, place)?;
        if plan.backend == Backend::Raft {
            node.flags.push(members.clone());
        }
        Ok(Node::new(node))
    };
    places.iter().map(each).collect()
}

pub(super) fn place(network: &Network, id: u64, member: u64) -> anyhow::Result<Place> {
    let ip = network.address(id);
    let http = free_address(network, ip, member, 0)?;
    Ok(Place { id, member, http, peer: free_address(network, ip, member, 1)? })
}

/// How a node is started. It finds its peers by itself, or other nodes introduce it to them.
pub(super) fn node(
    plan: &ClusterPlan,
    dir: &Path,
    network: &Network,
    redis: Option<&RedisAt>,
    place: &Place,
) -> anyhow::Result<NodePlan> {
    let Place { id, member, http, peer } = place.clone();
    let data_dir = dir.join(format!("node-{member}"));
    let mut flags = vec![
        format!("--instance-id=node-{member}"),
        format!("--data-dir={}", data_dir.display()),
        format!("--host={}", http.ip()),
        "--allow-open=true".into(),
        format!("--port={}", http.port()),
        "--token-ttl-s=86400".into(),
    ];
    let mut env = plan.env.clone();
    env.push(("MAXINE_ADMIN_USERNAME".into(), ADMIN_USER.into()));
    env.push(("MAXINE_ADMIN_PASSWORD".into(), ADMIN_PASSWORD.into()));
    // All clients use one token, and the workload changes policies without end.
    env.push(("MAXINE_CHANGES_AT_ONCE_MAX".into(), "1000000".into()));
    if matches!(plan.backend, Backend::Redis | Backend::SharedFile) {
        flags.push("--leader-lease-ms=2000".into());
        flags.push("--leader-renew-ms=500".into());
    }
    match plan.backend {
        Backend::Redis => flags.push("--mode=redis".into()),
        Backend::SharedFile => flags.extend([
            "--mode=shared-file".into(),
            format!("--state-file={}", dir.join("shared").join("state.json").display()),
        ]),
        Backend::Local => flags.push("--mode=local".into()),
        Backend::Raft => {
            flags.extend([
                "--mode=raft".into(),
                format!("--node-id={member}"),
                "--cluster-id=maxine-chaos".into(),
                format!("--raft-listen={peer}"),
                format!("--raft-snapshot-every-entries={}", plan.snapshot_every_entries),
            ]);
            if plan.network == NetworkKind::Namespaces {
                flags.push("--raft-allow-plain=true".into());
            }
        }
    }
    if let Some(redis) = redis {
        if redis.sentinels {
            flags.push(format!("--redis-sentinel-master={}", super::sentinel::MASTER_NAME));
        }
        env.push(("MAXINE_REGISTRY_REDIS_URL".into(), redis.url.clone()));
    }
    flags.extend(plan.flags.iter().cloned());
    let wall_clock = match plan.wall_clocks {
        true => Some(WallClock::new(dir.join(format!("clock-{id}")))?),
        false => None,
    };
    let log = match plan.logs_on_disks {
        true => data_dir.join("output.log"),
        false => dir.join("logs").join(format!("node-{member}.log")),
    };
    Ok(NodePlan {
        id,
        http,
        peer,
        data_dir,
        log,
        command: network.command(id, &plan.program()?),
        flags,
        env,
        wall_clock,
    })
}

fn free_address(
    network: &Network,
    ip: Ipv4Addr,
    id: u64,
    which: u16,
) -> anyhow::Result<SocketAddr> {
    // In a separate namespace every port is free.
    if network.kind() == NetworkKind::Namespaces {
        return Ok((ip, 7_000 + which * 1_000 + u16::try_from(id % 1_000)?).into());
    }
    Ok((ip, ports::free(ip)?).into())
}
