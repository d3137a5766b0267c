//! How a cluster is laid out: addresses, folders, flags.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::node::{Node, NodePlan};
use super::ports;
use super::{ADMIN_PASSWORD, ADMIN_USER, RedisServer};
use crate::network::{Network, NetworkKind};
use crate::program;

/// What orders the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The Raft log of the nodes themselves.
    Raft,
    /// A Redis that the harness starts.
    Redis,
}

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// How many nodes.
    pub nodes: u64,
    /// The program, where it is not the one beside this one.
    pub program: Option<PathBuf>,
    /// What orders the commands.
    pub backend: Backend,
    /// What connects the nodes.
    pub network: NetworkKind,
    /// The engine of the Raft log.
    pub engine: &'static str,
    /// Log entries between two snapshots: low, so that tests see snapshots.
    pub snapshot_every_entries: u64,
    /// More flags of `maxine serve`.
    pub flags: Vec<String>,
    /// More environment of the nodes.
    pub env: Vec<(String, String)>,
}

impl ClusterPlan {
    /// Three nodes.
    pub fn new(backend: Backend, network: NetworkKind) -> Self {
        Self {
            nodes: 3,
            program: None,
            backend,
            network,
            engine: "redb",
            snapshot_every_entries: 2_000,
            flags: Vec::new(),
            env: Vec::new(),
        }
    }
}

pub(super) fn nodes(
    plan: &ClusterPlan,
    dir: &Path,
    network: &mut Network,
    redis: Option<&RedisServer>,
) -> anyhow::Result<Vec<Node>> {
    let program = match &plan.program {
        Some(program) => program.canonicalize()?,
        None => program::locate()?,
    };
    let program = program.display().to_string();
    let mut places = Vec::new();
    for id in 1..=plan.nodes {
        let ip = network.address(id);
        places.push((id, free_address(network, ip, id, 0)?, free_address(network, ip, id, 1)?));
    }
    let mut members = Vec::new();
    for (id, http, peer) in &places {
        let advertised = network.advertise(*id, *peer)?;
        members.push(format!("{id}@{advertised}@http://{http}"));
    }
    let members = members.join(",");
    let each = |(id, http, peer): &(u64, SocketAddr, SocketAddr)| {
        let data_dir = dir.join(format!("node-{id}"));
        let mut flags = vec![
            format!("--instance-id=node-{id}"),
            format!("--data-dir={}", data_dir.display()),
            format!("--host={}", http.ip()),
            format!("--port={}", http.port()),
            "--token-ttl-s=86400".into(),
        ];
        let mut env = plan.env.clone();
        env.push(("MAXINE_ADMIN_USERNAME".into(), ADMIN_USER.into()));
        env.push(("MAXINE_ADMIN_PASSWORD".into(), ADMIN_PASSWORD.into()));
        match (plan.backend, redis) {
            (Backend::Redis, Some(redis)) => {
                flags.push("--mode=redis".into());
                flags.push("--leader-lease-ms=2000".into());
                flags.push("--leader-renew-ms=500".into());
                env.push(("MAXINE_REGISTRY_REDIS_URL".into(), redis.url()));
            }
            _ => {
                flags.extend([
                    "--mode=raft".into(),
                    format!("--node-id={id}"),
                    "--cluster-id=maxine-chaos".into(),
                    format!("--raft-engine={}", plan.engine),
                    format!("--raft-listen={peer}"),
                    format!("--raft-members={members}"),
                    format!("--raft-snapshot-every-entries={}", plan.snapshot_every_entries),
                ]);
                if plan.network == NetworkKind::Namespaces {
                    flags.push("--raft-allow-plain=true".into());
                }
            }
        }
        flags.extend(plan.flags.iter().cloned());
        Node::new(NodePlan {
            id: *id,
            http: *http,
            peer: *peer,
            data_dir,
            log: dir.join("logs").join(format!("node-{id}.log")),
            command: network.command(*id, &program),
            flags,
            env,
        })
    };
    Ok(places.iter().map(each).collect())
}

fn free_address(
    network: &Network,
    ip: Ipv4Addr,
    id: u64,
    which: u16,
) -> anyhow::Result<SocketAddr> {
    // In a namespace of its own every port is free.
    if network.kind() == NetworkKind::Namespaces {
        return Ok((ip, 7_000 + which * 100 + u16::try_from(id)?).into());
    }
    Ok((ip, ports::free(ip)?).into())
}
