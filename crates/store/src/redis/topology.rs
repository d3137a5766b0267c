//! Checks that the configured servers are of the configured kind: a single server, Sentinels, or nodes of a
//! Redis Cluster. Each server reports its kind in `INFO server`. It also lists the servers that these name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, cmd};

use super::Core;
use super::config::{RedisConfig, Topology};
use super::connect::client;

/// Maximum time to wait for one server.
const TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// Interval between two searches for servers.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Maximum number of servers that are kept.
const SERVERS_MAX: usize = 2_048;

/// The error, if a server answers that is of another kind. Servers that do not answer, or may not report
/// their kind, are skipped.
pub(super) async fn check(config: &RedisConfig) -> Result<(), String> {
    let (urls, expected) = expected(config);
    let asked = urls.iter().map(|url| mode(url, config));
    for (url, mode) in urls.iter().zip(futures::future::join_all(asked).await) {
        if let Some(mode) = mode.filter(|mode| mode != expected) {
            return Err(mismatch(&host(url), expected, &mode));
        }
    }
    Ok(())
}

/// The URLs of the servers that are asked first, and their kind according to the settings.
fn expected(config: &RedisConfig) -> (Vec<&String>, &'static str) {
    let first = std::slice::from_ref(&config.url);
    match &config.topology {
        Topology::Single => (first.iter().collect(), "standalone"),
        Topology::Sentinel { sentinels, .. } => (sentinels.iter().collect(), "sentinel"),
        Topology::Cluster { nodes } => (first.iter().chain(nodes).collect(), "cluster"),
    }
}

/// The servers that are asked first, as `host:port` with commas between them.
pub(super) fn hosts(config: &RedisConfig) -> String {
    let hosts: Vec<String> = expected(config).0.into_iter().map(|url| host(url)).collect();
    hosts.join(", ")
}

/// How long one server is waited for.
fn check_limit(config: &RedisConfig) -> Duration {
    Duration::from_millis(config.connect_timeout_ms).min(TIMEOUT_MAX)
}

fn mismatch(host: &str, expected: &str, mode: &str) -> String {
    let text = match (expected, mode) {
        (_, "sentinel") => {
            "is a Sentinel: set state.redis_sentinel_master to the name of the master that it watches"
        }
        ("standalone", _) => {
            "is a node of a Redis Cluster: name two or more of the Cluster's nodes, separated by commas"
        }
        ("cluster", _) => {
            "runs without cluster support, but several URLs mean the nodes of one Redis Cluster: \
             name one server; for a master with replicas name its Sentinels and set \
             state.redis_sentinel_master"
        }
        _ => {
            "is a Redis server and no Sentinel, but state.redis_sentinel_master is set: name the \
             Sentinels, usually on port 26379"
        }
    };
    format!("state.redis_url: {host} {text}")
}

/// The host and port of a URL, without its password.
fn host(url: &str) -> String {
    url.into_connection_info().map_or_else(|_| "a server".into(), |info| info.addr().to_string())
}

/// Asks one server, within a time limit.
async fn asked<T>(
    url: &str,
    config: &RedisConfig,
    ask: impl AsyncFnOnce(MultiplexedConnection) -> Option<T>,
) -> Option<T> {
    let timeout = check_limit(config);
    let asking = async {
        let info = url.into_connection_info().ok()?;
        let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(timeout));
        let client = client(info, super::connect::certificates(config).ok()?).ok()?;
        ask(client.get_multiplexed_async_connection_with_config(&settings).await.ok()?).await
    };
    tokio::time::timeout(timeout, asking).await.ok().flatten()
}

async fn mode(url: &str, config: &RedisConfig) -> Option<String> {
    asked(url, config, async |mut link| {
        let info: String = cmd("INFO").arg("server").query_async(&mut link).await.ok()?;
        let mode = info.lines().find_map(|line| line.strip_prefix("redis_mode:"))?;
        Some(mode.trim().to_owned())
    })
    .await
}

/// The servers that Sentinels or the nodes of a Redis Cluster name, as `host:port`, including other ports of
/// their own. The first answer is used; `None` if there is none. For a single server there is nothing to
/// find.
async fn servers(config: &RedisConfig) -> Option<Vec<String>> {
    let urls: Vec<&String> = match &config.topology {
        Topology::Single => return Some(Vec::new()),
        Topology::Sentinel { sentinels, .. } => sentinels.iter().collect(),
        Topology::Cluster { nodes } => std::iter::once(&config.url).chain(nodes).collect(),
    };
    for url in urls {
        let named = match &config.topology {
            Topology::Sentinel { master_name, .. } => {
                asked(url, config, async |link| of_sentinel(link, master_name).await).await
            }
            _ => asked(url, config, async |link| of_cluster(link, url).await).await,
        };
        if let Some(mut named) = named {
            named.truncate(SERVERS_MAX);
            return Some(named);
        }
    }
    None
}

/// The master, its replicas, and the other Sentinels.
async fn of_sentinel(mut link: MultiplexedConnection, master: &str) -> Option<Vec<String>> {
    let mut ask = cmd("SENTINEL");
    let ask = ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let (host, port): (String, u16) = ask.query_async(&mut link).await.ok()?;
    let mut named = vec![format!("{host}:{port}")];
    for others in ["REPLICAS", "SENTINELS"] {
        let mut ask = cmd("SENTINEL");
        let found: Vec<HashMap<String, String>> =
            ask.arg(others).arg(master).query_async(&mut link).await.ok()?;
        let address = |other: &HashMap<String, String>| {
            Some(format!("{}:{}", other.get("ip")?, other.get("port")?))
        };
        named.extend(found.iter().filter_map(address));
    }
    Some(named)
}

async fn of_cluster(mut link: MultiplexedConnection, url: &str) -> Option<Vec<String>> {
    let text: String = cmd("CLUSTER").arg("NODES").query_async(&mut link).await.ok()?;
    let asked = host(url);
    Some(cluster_nodes(&text, asked.rsplit_once(':').map_or("", |(host, _)| host)))
}

/// Reads the addresses of the nodes, `IP:PORT@BUS_PORT[,HOST_NAME]`, from the answer to `CLUSTER NODES` of
/// the node on the host `asked`. A node that has met no other node does not know its own address.
fn cluster_nodes(text: &str, asked: &str) -> Vec<String> {
    let each = text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (address, flags) = (fields.next()?, fields.next()?);
        let (address, name) = address.split_once(',').unwrap_or((address, ""));
        let (ip, ports) = address.rsplit_once(':')?;
        let ip = if ip.is_empty() && flags.contains("myself") { asked } else { ip };
        let (port, bus_port) = ports.split_once('@').unwrap_or((ports, ""));
        // More fields, `shard-id=...`, may follow the name.
        let name = name.split(',').next()?;
        let hosts = [ip, name].into_iter().filter(|host| !host.is_empty());
        let ports = [port, bus_port].into_iter().filter(|port| !port.is_empty());
        let all = hosts.flat_map(|host| ports.clone().map(move |port| format!("{host}:{port}")));
        Some(all.collect::<Vec<_>>())
    });
    each.flatten().collect()
}

impl Core {
    /// Searches for servers at an interval, until the node stops.
    pub(super) async fn run_topology(self: Arc<Self>) {
        if self.config.topology == Topology::Single {
            return;
        }
        let look = async {
            loop {
                // If no server answers, the earlier list stays in use.
                if let Some(found) = servers(&self.config).await {
                    *self.servers.lock() = found;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        self.stop.run_until_cancelled(look).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_and_name_of_a_clusters_nodes_is_found() {
        let text = "07c3 127.0.0.1:30004@31004,host-4,shard-id=69bc slave e7d1 0 1426238317239 4 connected\n\
                    67ed 10.0.0.2:30002@31002 master - 0 1426238316232 2 connected 5461-10922\n\
                    292f ::1:30003@31003, master - 0 0 3 connected\n\
                    8aa1 :30005@31005 myself,master - 0 0 4 connected\n\
                    9bb2 :0@0 master,noaddr - 0 0 3 disconnected\n";
        assert_eq!(
            cluster_nodes(text, "10.0.0.5"),
            [
                "127.0.0.1:30004",
                "127.0.0.1:31004",
                "host-4:30004",
                "host-4:31004",
                "10.0.0.2:30002",
                "10.0.0.2:31002",
                "::1:30003",
                "::1:31003",
                "10.0.0.5:30005",
                "10.0.0.5:31005",
            ]
        );
        assert!(cluster_nodes("garbage\n\n", "").is_empty());
    }
}
