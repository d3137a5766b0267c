//! Whether the servers that the settings name are what the settings take them for: one server, its
//! Sentinels, or nodes of a Cluster. Each says so itself in `INFO server`.

use std::time::Duration;

use redis::{AsyncConnectionConfig, IntoConnectionInfo, cmd};

use super::config::{RedisConfig, Topology};
use super::connect::client;

/// The longest that one server is waited for.
const TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// What is wrong, if a server that answers is of another kind. One that does not answer, or is not
/// allowed to say, is passed over.
pub(super) async fn check(config: &RedisConfig) -> Result<(), String> {
    let first = std::slice::from_ref(&config.url);
    let (urls, expected): (Vec<&String>, &str) = match &config.topology {
        Topology::Single => (first.iter().collect(), "standalone"),
        Topology::Sentinel { sentinels, .. } => (sentinels.iter().collect(), "sentinel"),
        Topology::Cluster { nodes } => (first.iter().chain(nodes).collect(), "cluster"),
    };
    let asked = urls.iter().map(|url| mode(url, config));
    for (url, mode) in urls.iter().zip(futures::future::join_all(asked).await) {
        if let Some(mode) = mode.filter(|mode| mode != expected) {
            return Err(mismatch(&host(url), expected, &mode));
        }
    }
    Ok(())
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

/// Where a URL leads, without its password.
fn host(url: &str) -> String {
    url.into_connection_info().map_or_else(|_| "a server".into(), |info| info.addr().to_string())
}

async fn mode(url: &str, config: &RedisConfig) -> Option<String> {
    let timeout = Duration::from_millis(config.connect_timeout_ms).min(TIMEOUT_MAX);
    let ask = async {
        let info = url.into_connection_info().ok()?;
        let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(timeout));
        let client = client(info, super::connect::certificates(config).ok()?).ok()?;
        let mut link = client.get_multiplexed_async_connection_with_config(&settings).await.ok()?;
        let info: String = cmd("INFO").arg("server").query_async(&mut link).await.ok()?;
        let mode = info.lines().find_map(|line| line.strip_prefix("redis_mode:"))?;
        Some(mode.trim().to_owned())
    };
    tokio::time::timeout(timeout, ask).await.ok().flatten()
}
