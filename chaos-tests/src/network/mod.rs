//! The network between the nodes, and how it is cut.
//!
//! There are two kinds. With network namespaces, each node has its own address, and packets are dropped; this
//! needs root. With proxies on loopback, each peer port has a proxy that stops bytes. Both kinds can cut one
//! direction between two nodes, and all other faults consist of such cuts. Clients always reach the nodes.

mod namespaces;
mod proxy;
mod socket_owner;

use std::net::{Ipv4Addr, SocketAddr};

pub use namespaces::Namespaces;
pub use proxy::ProxyNetwork;

/// The kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// Loopback without anything between the nodes.
    Loopback,
    /// Loopback with a proxy before each peer port.
    Proxied,
    /// A namespace for each node.
    Namespaces,
}

/// The network of a cluster.
#[derive(Debug)]
pub enum Network {
    /// Loopback without anything between the nodes, so it cannot be cut.
    Loopback,
    /// Loopback with a proxy before each peer port.
    Proxied(ProxyNetwork),
    /// A namespace for each node.
    Namespaces(Namespaces),
}

impl Network {
    /// Creates the network for a number of nodes.
    pub fn open(kind: NetworkKind, nodes: u64) -> anyhow::Result<Self> {
        Ok(match kind {
            NetworkKind::Loopback => Self::Loopback,
            NetworkKind::Proxied => Self::Proxied(ProxyNetwork::new(nodes)),
            NetworkKind::Namespaces => Self::Namespaces(Namespaces::make(nodes)?),
        })
    }

    /// Its kind.
    pub fn kind(&self) -> NetworkKind {
        match self {
            Self::Loopback => NetworkKind::Loopback,
            Self::Proxied(_) => NetworkKind::Proxied,
            Self::Namespaces(_) => NetworkKind::Namespaces,
        }
    }

    pub(crate) fn address(&self, id: u64) -> Ipv4Addr {
        match self {
            Self::Namespaces(namespaces) => namespaces.address(id),
            _ => Ipv4Addr::LOCALHOST,
        }
    }

    /// The address at which the nodes reach the harness.
    pub fn host(&self) -> Ipv4Addr {
        match self {
            Self::Namespaces(namespaces) => namespaces.host(),
            _ => Ipv4Addr::LOCALHOST,
        }
    }

    /// The address that peers use for a node that listens on `peer`.
    pub(crate) fn advertise(&mut self, id: u64, peer: SocketAddr) -> anyhow::Result<SocketAddr> {
        match self {
            Self::Proxied(proxy) => proxy.listen_for(id, peer),
            _ => Ok(peer),
        }
    }

    /// The command that starts `program` on node `id`.
    pub(crate) fn command(&self, id: u64, program: &str) -> Vec<String> {
        match self {
            Self::Namespaces(namespaces) => namespaces.command(id, program),
            _ => vec![program.into()],
        }
    }

    pub(crate) fn set_process(&self, id: u64, pid: i32) {
        if let Self::Proxied(proxy) = self {
            proxy.set_process(id, pid);
        }
    }

    /// Stops everything from one node to another, in this direction only.
    pub fn block(&self, from: u64, to: u64) -> anyhow::Result<()> {
        match self {
            Self::Loopback => anyhow::bail!("this network cannot be cut"),
            Self::Proxied(proxy) => proxy.block(from, to, true),
            Self::Namespaces(namespaces) => namespaces.block(from, to)?,
        }
        Ok(())
    }

    /// Ends all cuts.
    pub fn heal(&self) -> anyhow::Result<()> {
        match self {
            Self::Loopback => {}
            Self::Proxied(proxy) => proxy.heal(),
            Self::Namespaces(namespaces) => namespaces.heal()?,
        }
        Ok(())
    }

    /// Cuts the nodes of one side off from those of the other, in both directions.
    pub fn cut_between(&self, side: &[u64], other_side: &[u64]) -> anyhow::Result<()> {
        for one in side {
            for other in other_side.iter().filter(|other| *other != one) {
                self.block(*one, *other)?;
                if !side.contains(other) {
                    self.block(*other, *one)?;
                }
            }
        }
        Ok(())
    }

    /// Each node hears only its two neighbours; with three nodes, only the one before it.
    pub fn ring(&self, all: &[u64]) -> anyhow::Result<()> {
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                let steps = (other_at + all.len() - at) % all.len();
                let neighbours = steps == 1 || (all.len() > 3 && steps == all.len() - 1);
                if steps != 0 && !neighbours {
                    self.block(*one, *other)?;
                }
            }
        }
        Ok(())
    }

    /// Cuts a node off from all others, in both directions.
    pub fn isolate(&self, id: u64, all: &[u64]) -> anyhow::Result<()> {
        for other in all.iter().filter(|other| **other != id) {
            self.block(id, *other)?;
            self.block(*other, id)?;
        }
        Ok(())
    }
}
