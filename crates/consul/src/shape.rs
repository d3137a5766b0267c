//! The objects of Consul's answers, made from the instances of the registry.
//!
//! They borrow from the state what they can: an answer has thousands of them, and each is written as soon as it is made.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::filter::{Fields, Kind};
use super::model::{CheckExtra, Extras, TaggedAddress, own_metadata};
use super::text::duration_text;
use maxine_state::{
    Check, CheckKind, CheckReading, CheckStatus, Drain, Instance, ProbeKind, ProbeSpec,
    Registration, Scheme, ServiceKey, ServiceState,
};

/// The id of the check that an operator's drain adds is this and the id of the service.
const MAINTENANCE: &str = "_service_maintenance:";
/// The id of the check of a node in maintenance. No node here is ever in it.
const NODE_MAINTENANCE: &str = "_node_maintenance";
/// The node check that every node has.
pub(crate) const NODE_CHECK: &str = "serfHealth";

/// Whether no client may have a check with this id. Readers would take it for the check of the node, or for an operator's
/// decision.
pub(crate) fn is_reserved_check(id: &str) -> bool {
    id == NODE_CHECK || id == NODE_MAINTENANCE || id.starts_with(MAINTENANCE)
}

/// The names that the face gives to what has none in Maxine.
#[derive(Clone, Debug)]
pub struct Names {
    /// The datacenter.
    pub datacenter: String,
    /// The node of all instances whose machine is not known.
    pub node: String,
}

impl Names {
    /// Whether this is the node of all instances whose machine is not known.
    pub(crate) fn is_own_node(&self, node: &str) -> bool {
        is_same_node(node, &self.node)
    }
}

/// Whether two names mean one node. They count without regard to case.
pub(crate) fn is_same_node(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

/// The id of a node: the same on every member, for every instance of the node.
pub(crate) fn node_id(name: &str) -> String {
    let hash = xxh3_128(name.to_lowercase().as_bytes());
    let hex = format!("{hash:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A list whose objects are made while it is written, so that an answer does not hold all of them.
pub(crate) struct Listed<I>(pub(crate) I);

impl<I> Serialize for Listed<I>
where
    I: Iterator<Item: Serialize> + Clone,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// The client's own metadata of an instance, which is sorted.
#[derive(Clone, Copy, Debug)]
struct Meta<'a>(&'a Registration);

impl Serialize for Meta<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(own_metadata(self.0))
    }
}

/// Texts by name.
type Texts = BTreeMap<String, String>;

static NO_TEXTS: Texts = BTreeMap::new();

/// A node, as a client sees it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Node<'a> {
    #[serde(rename = "ID")]
    id: Cow<'a, str>,
    pub(crate) node: Cow<'a, str>,
    address: Cow<'a, str>,
    datacenter: Cow<'a, str>,
    tagged_addresses: Cow<'a, Texts>,
    meta: Cow<'a, Texts>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> Node<'a> {
    /// The node of all instances whose machine is not known, with its id.
    pub(crate) fn own(names: &'a Names, id: &'a str) -> Self {
        Self {
            id: id.into(),
            node: names.node.as_str().into(),
            address: "127.0.0.1".into(),
            datacenter: names.datacenter.as_str().into(),
            tagged_addresses: Cow::Borrowed(&NO_TEXTS),
            meta: Cow::Borrowed(&NO_TEXTS),
            create_index: 1,
            modify_index: 1,
        }
    }

    /// A copy that borrows nothing.
    pub(crate) fn into_owned<'b>(self) -> Node<'b> {
        Node {
            id: owned(self.id),
            node: owned(self.node),
            address: owned(self.address),
            datacenter: owned(self.datacenter),
            tagged_addresses: owned(self.tagged_addresses),
            meta: owned(self.meta),
            create_index: self.create_index,
            modify_index: self.modify_index,
        }
    }
}

fn owned<'b, T: ToOwned + ?Sized>(value: Cow<'_, T>) -> Cow<'b, T> {
    Cow::Owned(value.into_owned())
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
    tags: &'a [Box<str>],
    address: &'a str,
    tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    meta: Meta<'a>,
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
    tags: &'a [Box<str>],
    meta: Meta<'a>,
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
    id: Cow<'a, str>,
    node: Cow<'a, str>,
    address: Cow<'a, str>,
    datacenter: Cow<'a, str>,
    tagged_addresses: Cow<'a, Texts>,
    node_meta: Cow<'a, Texts>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [Box<str>],
    service_address: &'a str,
    service_tagged_addresses: &'a BTreeMap<String, TaggedAddress>,
    service_weights: Weights,
    service_meta: Meta<'a>,
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
pub(crate) struct HealthCheck<'a> {
    node: Cow<'a, str>,
    #[serde(rename = "CheckID")]
    pub(crate) check_id: Cow<'a, str>,
    name: Cow<'a, str>,
    pub(crate) status: &'static str,
    notes: Cow<'a, str>,
    output: Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    service_id: Cow<'a, str>,
    service_name: Cow<'a, str>,
    service_tags: Cow<'a, [Box<str>]>,
    #[serde(rename = "Type")]
    kind: &'static str,
    interval: Cow<'a, str>,
    timeout: Cow<'a, str>,
    exposed_port: u16,
    definition: Definition<'a>,
    create_index: u64,
    modify_index: u64,
}

impl HealthCheck<'_> {
    /// A copy that borrows nothing.
    pub(crate) fn into_owned<'b>(self) -> HealthCheck<'b> {
        HealthCheck {
            node: owned(self.node),
            check_id: owned(self.check_id),
            name: owned(self.name),
            status: self.status,
            notes: owned(self.notes),
            output: owned(self.output),
            service_id: owned(self.service_id),
            service_name: owned(self.service_name),
            service_tags: owned(self.service_tags),
            kind: self.kind,
            interval: owned(self.interval),
            timeout: owned(self.timeout),
            exposed_port: self.exposed_port,
            definition: self.definition.into_owned(),
            create_index: self.create_index,
            modify_index: self.modify_index,
        }
    }
}

/// How a check is made: the fields that it has.
#[derive(Clone, Debug, Default, Serialize)]
struct Definition<'a> {
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<Cow<'a, str>>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<Cow<'a, str>>,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<Cow<'a, str>>,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<Cow<'a, str>>,
    #[serde(rename = "Interval", skip_serializing_if = "Option::is_none")]
    interval: Option<Cow<'a, str>>,
    #[serde(rename = "Timeout", skip_serializing_if = "Option::is_none")]
    timeout: Option<Cow<'a, str>>,
    #[serde(rename = "Method", skip_serializing_if = "Option::is_none")]
    method: Option<Cow<'a, str>>,
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "Option::is_none")]
    insecure_tls: Option<bool>,
    #[serde(rename = "DeregisterCriticalServiceAfter", skip_serializing_if = "Option::is_none")]
    deregister_after: Option<Cow<'a, str>>,
}

impl Definition<'_> {
    fn into_owned<'b>(self) -> Definition<'b> {
        Definition {
            ttl: self.ttl.map(owned),
            tcp: self.tcp.map(owned),
            grpc: self.grpc.map(owned),
            http: self.http.map(owned),
            interval: self.interval.map(owned),
            timeout: self.timeout.map(owned),
            method: self.method.map(owned),
            insecure_tls: self.insecure_tls,
            deregister_after: self.deregister_after.map(owned),
        }
    }
}

/// An entry of `health/service`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry<'a> {
    node: Node<'a>,
    service: Service<'a>,
    checks: Vec<HealthCheck<'a>>,
}

const TEXTS: Kind = Kind::Map(&Kind::Text);
const TAGGED: Kind = Kind::Map(&Kind::Object(&[("Address", Kind::Text), ("Port", Kind::Number)]));
const WEIGHTS: Kind = Kind::Object(&[("Passing", Kind::Number), ("Warning", Kind::Number)]);

/// There are no proxies of a mesh, so their mode is always empty.
const PROXY: Kind = Kind::Object(&[
    ("Mode", Kind::Text),
    ("MeshGateway", Kind::Object(&[])),
    ("Expose", Kind::Object(&[])),
]);
const CONNECT: Kind = Kind::Object(&[]);

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
    ("Proxy", PROXY),
    ("Connect", CONNECT),
    ("PeerName", Kind::Text),
    ("CreateIndex", Kind::Index),
    ("ModifyIndex", Kind::Index),
];

/// What an expression may ask of a service of the agent.
pub(crate) const OF_AGENT_SERVICE: Fields = &[
    ("ID", Kind::Text),
    ("Service", Kind::Text),
    ("Tags", Kind::Texts),
    ("Meta", TEXTS),
    ("Port", Kind::Number),
    ("Address", Kind::Text),
    ("TaggedAddresses", TAGGED),
    ("Weights", WEIGHTS),
    ("EnableTagOverride", Kind::Bool),
    ("Datacenter", Kind::Text),
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
    ("ServiceSocketPath", Kind::Text),
    ("ServiceEnableTagOverride", Kind::Bool),
    ("ServiceProxy", PROXY),
    ("ServiceConnect", CONNECT),
    ("CreateIndex", Kind::Index),
    ("ModifyIndex", Kind::Index),
];

/// What an expression may ask of a check. `Definition` is left out: which fields it has depends on the check, and a field
/// that an object does not have counts as a match of every regular expression.
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
    ("ExposedPort", Kind::Number),
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
    /// The id of the node of all instances whose machine is not known.
    own_node_id: &'a str,
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
        (names, own_node_id): (&'a Names, &'a str),
        key: &'a ServiceKey,
        service: &'a ServiceState,
        instance: &'a Instance,
        sees_checks: bool,
    ) -> Self {
        let drain = service.drains.get(&instance.registration.id).map(AsRef::as_ref);
        let extras = Extras::of(&instance.registration);
        Self { names, own_node_id, key, instance, drain, extras, sees_checks }
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

    /// Whether it is a service of the agent: a client of Consul registered it on the agent's node.
    pub(crate) fn is_of_agent(&self) -> bool {
        self.extras.service.is_some() && self.names.is_own_node(self.node_name())
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

    pub(crate) fn node(&self) -> Node<'_> {
        let name = self.node_name();
        let extra = self.extras.node.as_ref();
        let address = extra.map(|node| node.address.as_str()).filter(|text| !text.is_empty());
        let id = extra.map(|node| node.id.as_str()).filter(|id| !id.is_empty());
        let is_named = self.instance.registration.node.is_some();
        let registered = self.instance.lease_epoch.max(1);
        Node {
            id: match id {
                Some(id) => id.into(),
                None if is_named => node_id(name).into(),
                None => self.own_node_id.into(),
            },
            node: name.into(),
            address: address.unwrap_or_else(|| self.host()).into(),
            datacenter: self.names.datacenter.as_str().into(),
            tagged_addresses: Cow::Borrowed(extra.map_or(&NO_TEXTS, |node| &node.tagged)),
            meta: Cow::Borrowed(extra.map_or(&NO_TEXTS, |node| &node.meta)),
            create_index: registered,
            modify_index: registered,
        }
    }

    fn tags(&self) -> &'a [Box<str>] {
        &self.instance.registration.tags
    }

    fn meta(&self) -> Meta<'a> {
        Meta(&self.instance.registration)
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
            meta: self.meta(),
            port: self.port(),
            weights: self.weights(),
            enable_tag_override: self.tag_override(),
            proxy: NoProxy::default(),
            connect: Nothing {},
            peer_name: "",
            create_index: self.instance.lease_epoch.max(1),
            modify_index: self.instance.lease_epoch.max(1),
        }
    }

    pub(crate) fn agent_service(&self) -> AgentService<'_> {
        AgentService {
            id: self.id(),
            service: self.key.service.as_str(),
            tags: self.tags(),
            meta: self.meta(),
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
        let of_node = std::iter::once(node_check(self.node_name()));
        let checks = of_node.chain(self.checks()).collect();
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
    pub(crate) fn checks(&self) -> impl Iterator<Item = HealthCheck<'_>> {
        let own = self.instance.checks().map(move |check| self.check(&check));
        own.chain(self.drain.map(|drain| self.maintenance(drain)))
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

    fn check<'s>(&'s self, check: &CheckReading<'s>) -> HealthCheck<'s> {
        let is_probe = check.id == Check::PROBE;
        let extra = self.extras.check(check.id, is_probe);
        let check_id = match (&self.extras.service, extra) {
            (_, Some(extra)) => extra.id.as_str().into(),
            (Some(_), None) if !is_probe => check.id.into(),
            // A check of another client has a name within its instance only.
            _ => format!("service:{}:{}", self.id(), check.id).into(),
        };
        let name = extra.map(|extra| extra.name.as_str()).filter(|name| !name.is_empty());
        let how = How::of(check.kind, extra);
        let reported = self.instance.reported_checks();
        let state = reported.iter().find(|state| state.id.as_str() == check.id);
        let output = match state.filter(|_| !is_probe) {
            Some(state) if state.is_expired() => "TTL expired",
            _ => check.output,
        };
        let definition = self.sees_checks.then(|| how.definition(extra));
        HealthCheck {
            check_id,
            name: name.map_or_else(|| default_check_name(self.key).into(), Cow::Borrowed),
            status: self.status_of(check).as_str(),
            notes: extra.map_or("", |extra| extra.notes.as_str()).into(),
            output: if self.sees_checks { output.into() } else { "".into() },
            kind: how.kind(),
            definition: definition.unwrap_or_default(),
            interval: how.duration(|spec| spec.interval_ms),
            timeout: how.duration(|spec| spec.timeout_ms),
            create_index: self.instance.lease_epoch.max(1),
            modify_index: check.modified_index.max(self.instance.lease_epoch).max(1),
            ..self.blank_check()
        }
    }

    fn blank_check(&self) -> HealthCheck<'_> {
        HealthCheck {
            service_id: self.id().into(),
            service_name: self.key.service.as_str().into(),
            service_tags: self.tags().into(),
            ..node_check(self.node_name())
        }
    }

    fn maintenance<'s>(&'s self, drain: &'s Drain) -> HealthCheck<'s> {
        let notes = match drain.reason.as_str() {
            "" => "Maintenance mode is enabled for this service, but no reason was provided.",
            reason => reason,
        };
        HealthCheck {
            check_id: format!("{MAINTENANCE}{}", self.id()).into(),
            name: "Service Maintenance Mode".into(),
            status: CheckStatus::Critical.as_str(),
            notes: notes.into(),
            output: "".into(),
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
pub(crate) fn node_check(node: &str) -> HealthCheck<'_> {
    HealthCheck {
        node: node.into(),
        check_id: NODE_CHECK.into(),
        name: "Serf Health Status".into(),
        status: CheckStatus::Passing.as_str(),
        notes: "".into(),
        output: "Maxine does not check machines".into(),
        service_id: "".into(),
        service_name: "".into(),
        service_tags: Cow::Borrowed(&[]),
        kind: "",
        interval: "".into(),
        timeout: "".into(),
        exposed_port: 0,
        definition: Definition::default(),
        create_index: 1,
        modify_index: 1,
    }
}

/// How a check is made.
#[derive(Clone, Copy)]
enum How<'a> {
    Probe(&'a ProbeSpec),
    /// Its owner reports it within this time.
    Ttl {
        ttl_ms: u64,
    },
    /// Its client sets its state.
    Static,
    /// A probe that a policy or the node's settings ask for.
    Policy,
}

impl<'a> How<'a> {
    fn of(kind: Option<&'a CheckKind>, extra: Option<&CheckExtra>) -> Self {
        match kind {
            Some(CheckKind::Probe(spec)) => Self::Probe(spec),
            Some(CheckKind::Ttl { .. }) if extra.is_some_and(|extra| extra.is_static) => {
                Self::Static
            }
            Some(CheckKind::Ttl { ttl_ms, .. }) => Self::Ttl { ttl_ms: *ttl_ms },
            None => Self::Policy,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Probe(spec) => match spec.kind {
                ProbeKind::Tcp => "tcp",
                ProbeKind::Grpc => "grpc",
                ProbeKind::Http | ProbeKind::Heartbeat => "http",
            },
            Self::Ttl { .. } => "ttl",
            Self::Static => "",
            Self::Policy => "http",
        }
    }

    /// A duration of a probe, as a text; empty for another check.
    fn duration(self, ms: impl Fn(&ProbeSpec) -> u64) -> Cow<'static, str> {
        match self {
            Self::Probe(spec) => duration_text(ms(spec)).into(),
            Self::Ttl { .. } | Self::Static | Self::Policy => "".into(),
        }
    }

    fn definition(self, extra: Option<&'a CheckExtra>) -> Definition<'a> {
        let deregister_after_ms = extra.and_then(|extra| extra.deregister_after_ms);
        let with_time = Definition {
            deregister_after: deregister_after_ms.map(|ms| duration_text(ms).into()),
            ..Definition::default()
        };
        match self {
            Self::Probe(spec) => Self::definition_of_probe(spec, extra, with_time),
            Self::Ttl { ttl_ms } => {
                Definition { ttl: Some(duration_text(ttl_ms).into()), ..with_time }
            }
            Self::Static | Self::Policy => Definition::default(),
        }
    }

    fn definition_of_probe(
        spec: &'a ProbeSpec,
        extra: Option<&'a CheckExtra>,
        with_time: Definition<'a>,
    ) -> Definition<'a> {
        let target = extra.map_or(spec.path.as_str(), |extra| extra.target.as_str());
        let target = Some(Cow::Borrowed(target));
        let common = Definition {
            interval: Some(duration_text(spec.interval_ms).into()),
            timeout: Some(duration_text(spec.timeout_ms).into()),
            ..with_time
        };
        match spec.kind {
            ProbeKind::Tcp => Definition { tcp: target, ..common },
            ProbeKind::Grpc => Definition { grpc: target, ..common },
            ProbeKind::Heartbeat => Definition { http: target, ..common },
            ProbeKind::Http => Definition {
                http: target,
                method: Some(spec.method.as_str().into()),
                insecure_tls: Some(spec.insecure_tls),
                ..common
            },
        }
    }
}

/// The scheme of an instance with these targets of checks.
pub(crate) fn scheme_of(is_https: bool) -> Scheme {
    if is_https { Scheme::Https } else { Scheme::Http }
}

#[cfg(test)]
mod tests {
    use super::super::model::ServiceExtra;
    use super::*;
    use maxine_state::{Address, Name};

    /// Clients compare answers, and hashes of them, with earlier ones.
    #[test]
    fn the_bytes_of_an_entry_stay_the_same() {
        let address = Address::parse("http://10.0.0.1:80").unwrap();
        let ttl = CheckKind::Ttl { ttl_ms: 60_000, initial: CheckStatus::Passing };
        let spec = ProbeSpec {
            kind: ProbeKind::Http,
            path: "/up".into(),
            interval_ms: 10_000,
            timeout_ms: 1_000,
            ..ProbeSpec::default()
        };
        let checks = vec![
            CheckExtra {
                id: "own".into(),
                notes: "its own".into(),
                deregister_after_ms: Some(5_400_000),
                ..CheckExtra::default()
            },
            CheckExtra {
                id: "up".into(),
                probe: true,
                name: "Up".into(),
                target: "http://10.0.0.1/up".into(),
                ..CheckExtra::default()
            },
        ];
        let extras = Extras { service: Some(ServiceExtra::default()), node: None, checks };
        let mut registration = Registration::new(Name::trusted("web-1"), address, 5_000);
        registration.tags = vec![Box::from("a")].into();
        registration.metadata = extras.metadata([("k", "v")].into_iter()).unwrap();
        registration.checks =
            [Check { id: Name::trusted("own"), kind: ttl }, Check::probe(spec)].into();
        let instance = Instance::new(registration.normalised(), 7, 1);
        let names = Names { datacenter: "dc1".into(), node: "maxine".into() };
        let key = ServiceKey::new(Name::trusted("default"), Name::trusted("web"));
        let service = ServiceState::default();
        let written = |sees_checks| {
            let shown = Shown::new((&names, "n"), &key, &service, &instance, sees_checks);
            serde_json::to_string(&shown.entry()).unwrap()
        };
        let of_ttl = r#"{"TTL":"1m0s","DeregisterCriticalServiceAfter":"1h30m0s"}"#;
        let of_probe = concat!(
            r#"{"HTTP":"http://10.0.0.1/up","Interval":"10s","Timeout":"1s","Method":"GET","#,
            r#""TLSSkipVerify":false}"#
        );
        let entry = |of_ttl: &str, of_probe: &str| {
            let node = concat!(
                r#"{"ID":"n","Node":"maxine","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":{},"#,
                r#""Meta":{},"CreateIndex":7,"ModifyIndex":7}"#
            );
            let service = concat!(
                r#"{"ID":"web-1","Service":"web","Tags":["a"],"Address":"10.0.0.1","TaggedAddresses":{},"#,
                r#""Meta":{"k":"v"},"Port":80,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"#,
                r#""Proxy":{"Mode":"","MeshGateway":{},"Expose":{}},"Connect":{},"PeerName":"","#,
                r#""CreateIndex":7,"ModifyIndex":7}"#
            );
            let of_node = concat!(
                r#"{"Node":"maxine","CheckID":"serfHealth","Name":"Serf Health Status","Status":"passing","#,
                r#""Notes":"","Output":"Maxine does not check machines","ServiceID":"","ServiceName":"","#,
                r#""ServiceTags":[],"Type":"","Interval":"","Timeout":"","ExposedPort":0,"Definition":{},"#,
                r#""CreateIndex":1,"ModifyIndex":1}"#
            );
            let own = concat!(
                r#"{"Node":"maxine","CheckID":"own","Name":"Service 'web' check","Status":"passing","#,
                r#""Notes":"its own","Output":"","ServiceID":"web-1","ServiceName":"web","ServiceTags":["a"],"#,
                r#""Type":"ttl","Interval":"","Timeout":"","ExposedPort":0,"Definition":"#
            );
            let up = concat!(
                r#"{"Node":"maxine","CheckID":"up","Name":"Up","Status":"passing","Notes":"","Output":"","#,
                r#""ServiceID":"web-1","ServiceName":"web","ServiceTags":["a"],"Type":"http","#,
                r#""Interval":"10s","Timeout":"1s","ExposedPort":0,"Definition":"#
            );
            let end = r#","CreateIndex":7,"ModifyIndex":7}"#;
            format!(
                r#"{{"Node":{node},"Service":{service},"Checks":[{of_node},{own}{of_ttl}{end},{up}{of_probe}{end}]}}"#
            )
        };
        assert_eq!(written(true), entry(of_ttl, of_probe));
        assert_eq!(written(false), entry("{}", "{}"), "what a check calls can be secret");
        let listed = [1, 2, 3].iter().filter(|n| **n != 2);
        assert_eq!(serde_json::to_string(&Listed(listed)).unwrap(), "[1,3]");
    }
}
