//! Converts a snapshot of the Node.js Maxine, from its state file or from Redis, into commands.
//!
//! It does no I/O: text in, commands out. `maxine migrate` applies the commands.

use std::collections::BTreeMap;

use serde::Deserialize;

use maxine_state::limits::{BATCH_ITEMS_MAX, TTL_MS_MAX, TTL_MS_MIN, WEIGHT_MAX};
use maxine_state::{
    Address, Command, Name, ProbeKind, ProbeSpec, Registration, RuntimeConfig, ServiceKey,
};

/// The stored snapshot.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    #[serde(default)]
    saved_at: u64,
    registry: BTreeMap<String, Service>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    nodes: BTreeMap<String, Node>,
}

/// A virtual node. A node of weight W has W virtual nodes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    parent_node: String,
    address: String,
    #[serde(default)]
    time_out: Option<f64>,
    #[serde(default)]
    health_check_path: Option<String>,
}

/// The converted snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// When it was saved, in milliseconds since 1970.
    pub saved_at_ms: u64,
    /// The registrations, in batches within the limits.
    pub commands: Vec<Command>,
    /// Number of instances in them.
    pub instances: usize,
    /// What could not be imported, and why, one line each.
    pub skipped: Vec<String>,
}

/// The text is not a snapshot of the Node.js Maxine.
#[derive(Debug, thiserror::Error)]
#[error("not a snapshot of the Node.js Maxine: {0}")]
pub struct NotASnapshot(#[from] serde_json::Error);

/// Reads a snapshot. What exceeds a limit is left out and described.
pub fn read_nodejs(text: &str) -> Result<Import, NotASnapshot> {
    let snapshot: Snapshot = serde_json::from_str(text)?;
    let mut items = Vec::new();
    let mut skipped = Vec::new();
    for (service_name, service) in &snapshot.registry {
        let mut parents: BTreeMap<&str, (u16, &Node)> = BTreeMap::new();
        for node in service.nodes.values() {
            let entry = parents.entry(&node.parent_node).or_insert((0, node));
            entry.0 = entry.0.saturating_add(1);
        }
        for (parent, (weight, node)) in parents {
            match registration(service_name, parent, weight, node) {
                Ok(item) => items.push(item),
                Err(why) => skipped.push(format!("{service_name}/{parent}: {why}")),
            }
        }
    }
    let instances = items.len();
    let commands = items
        .chunks(BATCH_ITEMS_MAX)
        .map(|items| Command::Register { items: items.to_vec() })
        .collect();
    Ok(Import { saved_at_ms: snapshot.saved_at, commands, instances, skipped })
}

fn registration(
    service_name: &str,
    parent: &str,
    weight: u16,
    node: &Node,
) -> Result<(ServiceKey, Registration), String> {
    let describe = |error: maxine_state::LimitExceeded| error.to_string();
    let service = Name::parse("service", service_name).map_err(describe)?;
    let key = ServiceKey::new(Name::trusted(ServiceKey::DEFAULT_NAMESPACE), service);
    let id = Name::parse("node", parent).map_err(describe)?;
    let address = Address::parse(&node.address).map_err(describe)?;
    let default_s = RuntimeConfig::default().heartbeat_timeout_s;
    let ttl_ms = match node.time_out {
        // The time is in seconds. The Node.js Maxine waits half a second longer before it expires a node.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within the limits by the clamp"
        )]
        Some(s) if s.is_finite() && s > 0.0 => {
            (s.trunc() * 1_000.0 + 500.0).clamp(TTL_MS_MIN as f64, TTL_MS_MAX as f64) as u64
        }
        _ => default_s * 1_000 + 500,
    };
    let mut registration = Registration::new(id, address, ttl_ms);
    registration.weight = weight.clamp(1, WEIGHT_MAX);
    if let Some(path) = node.health_check_path.as_deref().filter(|path| !path.is_empty()) {
        // The path may lack its leading slash, as in the compatible API.
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{path}");
        let probe = ProbeSpec { kind: ProbeKind::Http, path, ..ProbeSpec::default() };
        registration = registration.with_probe(probe);
    }
    registration.check().map_err(describe)?;
    Ok((key, registration))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"savedAt": 1795440992705, "registry": {
        "orders": {"offset": 3, "nodes": {
            "node-a-0": {"nodeName": "node-a-0", "parentNode": "node-a", "address": "http://10.0.0.1:8080",
                "timeOut": 5, "registeredAt": 1795440992705, "healthCheckPath": "/health"},
            "node-a-1": {"nodeName": "node-a-1", "parentNode": "node-a", "address": "http://10.0.0.1:8080",
                "timeOut": 5, "registeredAt": 1795440992705, "healthCheckPath": "/health"},
            "node-b-0": {"nodeName": "node-b-0", "parentNode": "node-b", "address": "https://h/base",
                "timeOut": 30, "registeredAt": 1795440992705, "healthCheckPath": ""}}},
        "odd": {"offset": 0, "nodes": {
            "x-0": {"nodeName": "x-0", "parentNode": "x", "address": "ftp://h", "timeOut": 5, "registeredAt": 1}}},
        "empty": {"offset": 0, "nodes": {}}}}"#;

    #[test]
    fn a_snapshot_becomes_registrations() {
        let import = read_nodejs(TEXT).unwrap();
        assert_eq!(import.saved_at_ms, 1_795_440_992_705);
        assert_eq!(import.instances, 2);
        assert_eq!(import.skipped.len(), 1, "{:?}", import.skipped);
        let [Command::Register { items }] = &import.commands[..] else { panic!("one batch") };
        let (key, first) = &items[0];
        assert_eq!(key.to_string(), "default/orders");
        assert_eq!(
            (first.id.as_str(), first.weight, first.expiry.ttl_ms()),
            ("node-a", 2, Some(5_500))
        );
        assert_eq!(first.probe().unwrap().path, "/health");
        assert_eq!((items[1].1.weight, items[1].1.expiry.ttl_ms()), (1, Some(30_500)));
        assert_eq!(items[1].1.probe(), None);
    }

    #[test]
    fn an_instance_whose_health_check_path_lacks_the_leading_slash_is_imported() {
        let text =
            TEXT.replace(r#""healthCheckPath": "/health""#, r#""healthCheckPath": "health""#);
        let import = read_nodejs(&text).unwrap();
        assert_eq!(import.instances, 2, "{:?}", import.skipped);
        let [Command::Register { items }] = &import.commands[..] else { panic!("one batch") };
        assert_eq!(items[0].1.probe().unwrap().path, "/health");
    }

    #[test]
    fn other_json_is_refused() {
        assert!(read_nodejs("{}").is_err());
        assert!(read_nodejs("[1]").is_err());
        assert!(read_nodejs(r#"{"registry": {"s": {"nodes": 5}}}"#).is_err());
    }
}
