//! The addresses of this cluster itself, which may neither be registered nor called as instances, because its
//! API, its peer and call ports and its Redis trust requests from their own machines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{BackendKind, NodeConfig};
use maxine_gateway::{HostPort, OwnAddresses};
use maxine_store::ControlStore;
use maxine_store::redis::{RedisConfig, Topology};

use super::settings;

/// Interval at which changes of the membership, and of the store's servers, are read.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The port of a Redis URL without one.
const REDIS_PORT: u16 = 6_379;

/// The addresses in the settings, without those of members that were added later.
pub(super) fn configured(
    config: &NodeConfig,
    http_addr: SocketAddr,
) -> anyhow::Result<Vec<HostPort>> {
    let mut own = vec![HostPort::from(http_addr)];
    own.extend(of_http(&config.http_advertise(http_addr)));
    own.extend(config.consul_listen().map(HostPort::from));
    own.extend(config.dns_listen().map(HostPort::from));
    match config.backend {
        BackendKind::Raft => {
            own.push(HostPort::from(config.raft.listen));
            own.extend(HostPort::parse(&config.raft.advertise));
            for member in &config.raft.members {
                own.extend(HostPort::parse(&member.peer_addr));
                own.extend(of_http(&member.http_addr));
            }
        }
        BackendKind::Redis => own.extend(of_redis(&settings::redis(config)?)),
        BackendKind::Local | BackendKind::SharedFile => {}
    }
    Ok(own)
}

/// Updates the list until dropped.
pub(super) async fn follow(
    own: OwnAddresses,
    configured: Vec<HostPort>,
    store: Arc<dyn ControlStore>,
) {
    loop {
        own.set(with_members(&configured, store.as_ref()));
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The configured addresses, the members or other nodes, and the servers that the store has found.
pub(super) fn with_members(configured: &[HostPort], store: &dyn ControlStore) -> Vec<HostPort> {
    let mut own = configured.to_vec();
    own.extend(store.own_addresses().iter().filter_map(|address| HostPort::parse(address)));
    if let Some(cluster) = store.cluster() {
        for member in cluster.status().members {
            own.extend(HostPort::parse(&member.peer_addr));
            own.extend(of_http(&member.http_addr));
        }
    }
    own
}

/// The address of this node's API, as `host:port`, for the other nodes that share its store.
pub(super) fn of_api(advertise: &str) -> Vec<String> {
    of_http(advertise).map(|HostPort { host, port }| format!("{host}:{port}")).into_iter().collect()
}

fn of_http(url: &str) -> Option<HostPort> {
    HostPort::of_url(url, if url.starts_with("https") { 443 } else { 80 })
}

fn of_redis(config: &RedisConfig) -> Vec<HostPort> {
    let others: &[String] = match &config.topology {
        Topology::Single => &[],
        Topology::Sentinel { sentinels, .. } => sentinels,
        Topology::Cluster { nodes } => nodes,
    };
    let urls = std::iter::once(&config.url).chain(others);
    urls.filter_map(|url| HostPort::of_url(url, REDIS_PORT)).collect()
}
