//! The objects of Consul's answers, made from the instances of the registry.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::filter::{Fields, Kind};
use super::model::{CheckExtra, Extras, TaggedAddress, own_metadata};
use super::text::duration_text;
use maxine_state::{
    Check, CheckKind, CheckReading, CheckStatus, Drain, Instance, ProbeKind, ProbeSpec, Scheme,
    ServiceKey, ServiceState,
};

/// The id of the check that an operator's drain adds is this and the id of the service.
const MAINTENANCE: &str = "_service_maintenance:";
/// The node check that every node has.
pub(crate) const NODE_CHECK: &str = "serfHealth";

/// The names that the face gives to what has none in Maxine.
#[derive(Clone, Debug)]
pub struct Names {
    /// The datacenter.
    pub datacenter: String,
    /// The node of all instances whose machine is not known.
    pub node: String,
}

/// The id of a node: the same on every member, for every instance of the node.
pub(crate) fn node_id(name: &str) -> String {
    let hash = xxh3_128(name.to_lowercase().as_bytes());
    let hex = format!("{hash:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A node, as a client sees it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Node {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) datacenter: String,
    pub(crate) tagged_addresses: BTreeMap<String, String>,
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Weights {
    passing: u16,
    warning: u16,
}

/// An empty object.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Nothing {}

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NoProxy {
    mode: &'static str,
    mesh_gateway: Nothing,
    expose: Nothing,
}

/// A service of an entry of `health/service`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Service<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: Vec<&'a str>,
    address: &'a str,
    tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    meta: BTreeMap<&'a str, &'a str>,
    port: u16,
    weights: Weights,
    enable_tag_override: bool,
    proxy: NoProxy,
    connect: Nothing,
    peer_name: &'static str,
    create_index: u64,
    modify_index: u64,
}

impl Service<'_> {
    /// The id.
    pub(crate) fn id(&self) -> &str {
        self.id
    }

    /// The name of the service.
    pub(crate) fn name(&self) -> &str {
        self.service
    }
}

/// A service of the agent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: Vec<&'a str>,
    meta: BTreeMap<&'a str, &'a str>,
    port: u16,
    address: &'a str,
    tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    weights: Weights,
    enable_tag_override: bool,
    datacenter: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
}

/// An entry of `catalog/service`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceNode<'a> {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    datacenter: String,
    tagged_addresses: BTreeMap<String, String>,
    node_meta: BTreeMap<String, String>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Vec<&'a str>,
    service_address: &'a str,
    service_tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    service_weights: Weights,
    service_meta: BTreeMap<&'a str, &'a str>,
    service_port: u16,
    service_socket_path: &'static str,
    service_enable_tag_override: bool,
    service_proxy: NoProxy,
    service_connect: Nothing,
    create_index: u64,
    modify_index: u64,
}

/// A check.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthCheck {
    node: String,
    #[serde(rename = "CheckID")]
    pub(crate) check_id: String,
    name: String,
    pub(crate) status: &'static str,
    notes: String,
    output: String,
    #[serde(rename = "ServiceID")]
    pub(crate) service_id: String,
    service_name: String,
    service_tags: Vec<String>,
    #[serde(rename = "Type")]
    kind: &'static str,
    interval: String,
    timeout: String,
    exposed_port: u16,
    definition: Value,
    create_index: u64,
    modify_index: u64,
}

/// An entry of `health/service`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry<'a> {
    node: Node,
    service: Service<'a>,
    checks: Vec<HealthCheck>,
}

const TEXTS: Kind = Kind::Map(&Kind::Text);
const TAGGED: Kind = Kind::Map(&Kind::Object(&[("Address", Kind::Text), ("Port", Kind::Number)]));
const WEIGHTS: Kind = Kind::Object(&[("Passing", Kind::Number), ("Warning", Kind::Number)]);

/// What an expression may ask of a node.
pub(crate) const OF_NODE: Fields = &[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("TaggedAddresses", TEXTS),
    ("Meta", TEXTS),
    ("CreateIndex", Kind::Index),
    ("ModifyIndex", Kind::Index),
];

/// What an expression may ask of a service.
pub(crate) const OF_SERVICE: Fields = &[
    ("ID", Kind::Text),
    ("Service", Kind::Text),
    ("Tags", Kind::Texts),
    ("Address", Kind::Text),
    ("TaggedAddresses", TAGGED),
    ("Meta", TEXTS),
    ("Port", Kind::Number),
    ("Weights", WEIGHTS),
    ("EnableTagOverride", Kind::Bool),
    ("Datacenter", Kind::Text),
    ("CreateIndex", Kind::Index),
    ("ModifyIndex", Kind::Index),
];

/// What an expression may ask of an entry of `catalog/service`.
pub(crate) const OF_SERVICE_NODE: Fields = &[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("TaggedAddresses", TEXTS),
    ("NodeMeta", TEXTS),
    ("ServiceKind", Kind::Text),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceTags", Kind::Texts),
    ("ServiceAddress", Kind::Text),
    ("ServiceTaggedAddresses", TAGGED),
    ("ServiceWeights", WEIGHTS),
    ("ServiceMeta", TEXTS),
    ("ServicePort", Kind::Number),
    ("ServiceEnableTagOverride", Kind::Bool),
    ("CreateIndex", Kind::Index),
    ("ModifyIndex", Kind::Index),
];

/// What an expression may ask of a check.
pub(crate) const OF_CHECK: Fields = &[
    ("Node", Kind::Text),
    ("CheckID", Kind::Text),
    ("Name", Kind::Text),
    ("Status", Kind::Text),
    ("Notes", Kind::Text),
    ("Output", Kind::Text),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceTags", Kind::Texts),
    ("Type", Kind::Text),
    ("Interval", Kind::Text),
    ("Timeout", Kind::Text),
    ("CreateIndex", Kind::Index),
    ("ModifyIndex", Kind::Index),
];

/// What an expression may ask of an entry of `health/service`.
pub(crate) const OF_ENTRY: Fields = &[
    ("Node", Kind::Object(OF_NODE)),
    ("Service", Kind::Object(OF_SERVICE)),
    ("Checks", Kind::Objects(OF_CHECK)),
];

/// An instance with what is kept about it, from which the objects of the answers are made.
pub(crate) struct Shown<'a> {
    names: &'a Names,
    key: &'a ServiceKey,
    pub(crate) instance: &'a Instance,
    drain: Option<&'a Drain>,
    pub(crate) extras: Extras,
    /// Whether the caller may see the outputs of checks, and what they call.
    sees_checks: bool,
}

static NO_TAGGED: BTreeMap<String, TaggedAddress> = BTreeMap::new();

impl<'a> Shown<'a> {
    pub(crate) fn new(
        names: &'a Names,
        key: &'a ServiceKey,
        service: &'a ServiceState,
        instance: &'a Instance,
        sees_checks: bool,
    ) -> Self {
        let drain = service.drains.get(&instance.registration.id).map(AsRef::as_ref);
        let extras = Extras::of(&instance.registration);
        Self { names, key, instance, drain, extras, sees_checks }
    }

    /// The id in Consul.
    pub(crate) fn id(&self) -> &str {
        self.extras.id(&self.instance.registration)
    }

    /// The name of its service.
    pub(crate) fn service_name(&self) -> &'a str {
        self.key.service.as_str()
    }

    /// The name of the node that it belongs to.
    pub(crate) fn node_name(&self) -> &str {
        self.instance.registration.node.as_ref().map_or(&self.names.node, |name| name.as_str())
    }

    fn host(&self) -> &'a str {
        self.instance.registration.address.parts().host
    }

    /// The port, or 0 if the client of Consul gave none.
    fn port(&self) -> u16 {
        let parts = self.instance.registration.address.parts();
        match self.extras.service {
            Some(_) => parts.port.unwrap_or(0),
            None => parts.http_port(),
        }
    }

    /// Whether its node has all of these entries.
    pub(crate) fn has_node_meta(&self, wanted: &[(String, String)]) -> bool {
        let meta = self.extras.node.as_ref().map(|node| &node.meta);
        wanted.iter().all(|(key, value)| meta.and_then(|meta| meta.get(key)) == Some(value))
    }

    /// Whether it has all of these tags, which are in lower case.
    pub(crate) fn has_tags(&self, wanted: &[String]) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let tags = &self.instance.registration.tags;
        let tags: HashSet<String> = tags.iter().map(|tag| tag.to_lowercase()).collect();
        wanted.iter().all(|wanted| tags.contains(wanted))
    }

    pub(crate) fn node(&self) -> Node {
        let name = self.node_name();
        let extra = self.extras.node.as_ref();
        let address = extra.map(|node| node.address.as_str()).filter(|text| !text.is_empty());
        let id = extra.map(|node| node.id.as_str()).filter(|id| !id.is_empty());
        let registered = self.instance.lease_epoch.max(1);
        Node {
            id: id.map_or_else(|| node_id(name), str::to_owned),
            node: name.to_owned(),
            address: address.unwrap_or_else(|| self.host()).to_owned(),
            datacenter: self.names.datacenter.clone(),
            tagged_addresses: extra.map(|node| node.tagged.clone()).unwrap_or_default(),
            meta: extra.map(|node| node.meta.clone()).unwrap_or_default(),
            create_index: registered,
            modify_index: registered,
        }
    }

    fn tags(&self) -> Vec<&str> {
        self.instance.registration.tags.iter().map(|tag| &**tag).collect()
    }

    fn tagged(&self) -> &BTreeMap<String, TaggedAddress> {
        self.extras.service.as_ref().map_or(&NO_TAGGED, |service| &service.tagged)
    }

    fn weights(&self) -> Weights {
        let warning = self.extras.service.as_ref().and_then(|service| service.weight_warning);
        Weights { passing: self.instance.registration.weight, warning: warning.unwrap_or(1) }
    }

    fn tag_override(&self) -> bool {
        self.extras.service.as_ref().is_some_and(|service| service.tag_override)
    }

    pub(crate) fn service(&self) -> Service<'_> {
        Service {
            id: self.id(),
            service: self.key.service.as_str(),
            tags: self.tags(),
            address: self.host(),
            tagged_addresses: self.tagged(),
            meta: own_metadata(&self.instance.registration).collect(),
            port: self.port(),
            weights: self.weights(),
            enable_tag_override: self.tag_override(),
            proxy: NoProxy::default(),
            connect: Nothing {},
            peer_name: "",
            create_index: self.instance.lease_epoch.max(1),
            modify_index: self.instance.modified_index.max(1),
        }
    }

    pub(crate) fn agent_service(&self) -> AgentService<'_> {
        AgentService {
            id: self.id(),
            service: self.key.service.as_str(),
            tags: self.tags(),
            meta: own_metadata(&self.instance.registration).collect(),
            port: self.port(),
            address: self.host(),
            tagged_addresses: self.tagged(),
            weights: self.weights(),
            enable_tag_override: self.tag_override(),
            datacenter: &self.names.datacenter,
            content_hash: None,
        }
    }

    /// The same with the hash of its content, for a blocking query by hash.
    pub(crate) fn hashed_agent_service(&self) -> (String, AgentService<'_>) {
        let service = self.agent_service();
        let written = serde_json::to_vec(&service).unwrap_or_default();
        let hash = format!("{:016x}", xxh3_64(&written));
        (hash.clone(), AgentService { content_hash: Some(hash), ..service })
    }

    pub(crate) fn service_node(&self) -> ServiceNode<'_> {
        let Node { id, node, address, datacenter, tagged_addresses, meta, .. } = self.node();
        let service = self.service();
        ServiceNode {
            id,
            node,
            address,
            datacenter,
            tagged_addresses,
            node_meta: meta,
            service_kind: "",
            service_id: service.id,
            service_name: service.service,
            service_tags: service.tags,
            service_address: service.address,
            service_tagged_addresses: service.tagged_addresses,
            service_weights: service.weights,
            service_meta: service.meta,
            service_port: service.port,
            service_socket_path: "",
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: service.proxy,
            service_connect: service.connect,
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        let mut checks = vec![node_check(self.node_name())];
        checks.extend(self.checks());
        Entry { node: self.node(), service: self.service(), checks }
    }

    /// The worst status of its checks.
    pub(crate) fn status(&self) -> &'static str {
        let states = self.instance.checks().map(|check| self.status_of(&check));
        let drained = self.drain.map(|_| CheckStatus::Critical);
        states.chain(drained).max().unwrap_or(CheckStatus::Passing).as_str()
    }

    /// Whether an operator drained it.
    pub(crate) fn is_drained(&self) -> bool {
        self.drain.is_some()
    }

    /// The checks of the instance, without that of its node.
    pub(crate) fn checks(&self) -> Vec<HealthCheck> {
        let own = self.instance.checks().map(|check| self.check(&check));
        own.chain(self.drain.map(|drain| self.maintenance(drain))).collect()
    }

    fn status_of(&self, check: &CheckReading<'_>) -> CheckStatus {
        if check.status != CheckStatus::Unknown {
            return check.status;
        }
        // A check that its client reports has its first state, which is critical unless the client says otherwise. A
        // probe without a verdict keeps nobody out of traffic, on any face, and a first good result is no verdict that
        // is stored.
        if check.id == Check::PROBE {
            return CheckStatus::Passing;
        }
        let extra = self.extras.check(check.id, false);
        match (&self.extras.service, extra) {
            (Some(_), Some(extra)) if !extra.passes_first => CheckStatus::Critical,
            _ => CheckStatus::Passing,
        }
    }

    fn check(&self, check: &CheckReading<'_>) -> HealthCheck {
        let is_probe = check.id == Check::PROBE;
        let extra = self.extras.check(check.id, is_probe);
        let check_id = match (&self.extras.service, extra) {
            (_, Some(extra)) => extra.id.clone(),
            (Some(_), None) if !is_probe => check.id.to_owned(),
            // A check of another client has a name within its instance only.
            _ => format!("service:{}:{}", self.id(), check.id),
        };
        let name = extra.map(|extra| extra.name.as_str()).filter(|name| !name.is_empty());
        let name = name.map_or_else(|| default_check_name(self.key), str::to_owned);
        let definition = Definition::of(check.kind, extra);
        let reported = self.instance.reported_checks();
        let state = reported.iter().find(|state| state.id.as_str() == check.id);
        let output = match state.filter(|_| !is_probe) {
            Some(state) if state.is_expired() => "TTL expired",
            _ => check.output,
        };
        HealthCheck {
            check_id,
            name,
            status: self.status_of(check).as_str(),
            notes: extra.map(|extra| extra.notes.clone()).unwrap_or_default(),
            output: if self.sees_checks { output.to_owned() } else { String::new() },
            kind: definition.kind,
            interval: definition.interval,
            timeout: definition.timeout,
            definition: if self.sees_checks { definition.fields } else { json!({}) },
            create_index: self.instance.lease_epoch.max(1),
            modify_index: check.modified_index.max(self.instance.lease_epoch).max(1),
            ..self.blank_check()
        }
    }

    fn blank_check(&self) -> HealthCheck {
        HealthCheck {
            node: self.node_name().to_owned(),
            service_id: self.id().to_owned(),
            service_name: self.key.service.as_str().to_owned(),
            service_tags: self.tags().into_iter().map(str::to_owned).collect(),
            ..node_check("")
        }
    }

    fn maintenance(&self, drain: &Drain) -> HealthCheck {
        let notes = match drain.reason.as_str() {
            "" => "Maintenance mode is enabled for this service, but no reason was provided.",
            reason => reason,
        };
        HealthCheck {
            check_id: format!("{MAINTENANCE}{}", self.id()),
            name: "Service Maintenance Mode".to_owned(),
            status: CheckStatus::Critical.as_str(),
            notes: notes.to_owned(),
            output: String::new(),
            kind: "maintenance",
            ..self.blank_check()
        }
    }
}

/// The name of a check that has none.
pub(crate) fn default_check_name(key: &ServiceKey) -> String {
    format!("Service '{}' check", key.service)
}

/// The check of every node. Maxine knows the health of instances, not of machines, so it always passes.
pub(crate) fn node_check(node: &str) -> HealthCheck {
    HealthCheck {
        node: node.to_owned(),
        check_id: NODE_CHECK.to_owned(),
        name: "Serf Health Status".to_owned(),
        status: CheckStatus::Passing.as_str(),
        notes: String::new(),
        output: "Agent alive and reachable".to_owned(),
        service_id: String::new(),
        service_name: String::new(),
        service_tags: Vec::new(),
        kind: "",
        interval: String::new(),
        timeout: String::new(),
        exposed_port: 0,
        definition: json!({}),
        create_index: 1,
        modify_index: 1,
    }
}

/// How a check is made.
struct Definition {
    kind: &'static str,
    interval: String,
    timeout: String,
    fields: Value,
}

impl Definition {
    fn of(kind: Option<&CheckKind>, extra: Option<&CheckExtra>) -> Self {
        let (interval, timeout) = (String::new(), String::new());
        match kind {
            Some(CheckKind::Probe(spec)) => Self::of_probe(spec, extra),
            Some(CheckKind::Ttl { .. }) if extra.is_some_and(|extra| extra.is_static) => {
                Self { kind: "", interval, timeout, fields: json!({}) }
            }
            Some(CheckKind::Ttl { ttl_ms, .. }) => {
                let mut fields = json!({ "TTL": duration_text(*ttl_ms) });
                add_deregistration(&mut fields, extra);
                Self { kind: "ttl", interval, timeout, fields }
            }
            // A probe that a policy or the node's settings ask for.
            None => Self { kind: "http", interval, timeout, fields: json!({}) },
        }
    }

    fn of_probe(spec: &ProbeSpec, extra: Option<&CheckExtra>) -> Self {
        let target = extra.map_or(spec.path.as_str(), |extra| extra.target.as_str());
        let (interval, timeout) = (duration_text(spec.interval_ms), duration_text(spec.timeout_ms));
        let (kind, field) = match spec.kind {
            ProbeKind::Tcp => ("tcp", "TCP"),
            ProbeKind::Grpc => ("grpc", "GRPC"),
            ProbeKind::Http | ProbeKind::Heartbeat => ("http", "HTTP"),
        };
        let mut fields = json!({ field: target, "Interval": interval, "Timeout": timeout });
        if spec.kind == ProbeKind::Http {
            fields["Method"] = spec.method.as_str().into();
            fields["TLSSkipVerify"] = spec.insecure_tls.into();
        }
        add_deregistration(&mut fields, extra);
        Self { kind, interval, timeout, fields }
    }
}

fn add_deregistration(fields: &mut Value, extra: Option<&CheckExtra>) {
    if let Some(after_ms) = extra.and_then(|extra| extra.deregister_after_ms) {
        fields["DeregisterCriticalServiceAfter"] = duration_text(after_ms).into();
    }
}

/// The scheme of an instance with these targets of checks.
pub(crate) fn scheme_of(is_https: bool) -> Scheme {
    if is_https { Scheme::Https } else { Scheme::Http }
}
