//! Services in requests, and the instances of Maxine that they become.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::Refusal;
use super::body::Object;
use super::check_body::CheckBody;
use super::model::{CheckExtra, Extras, NodeExtra, RESERVED, ServiceExtra, TaggedAddress, Through};
use super::shape::scheme_of;
use maxine_state::limits::{CHECKS_MAX, WEIGHT_MAX};
use maxine_state::{Address, AddressParts, Check, CheckStatus, Expiry, Name, Registration, Scheme};

/// Maximum number of entries of `Meta`, and of tagged addresses.
const ENTRIES_MAX: usize = 64;

/// A service as a client sent it.
#[derive(Debug)]
pub(crate) struct ServiceBody {
    pub(crate) name: String,
    pub(crate) id: String,
    address: String,
    port: Option<u16>,
    tags: Vec<String>,
    meta: Vec<(String, String)>,
    weight: u16,
    weight_warning: Option<u16>,
    tag_override: bool,
    tagged: BTreeMap<String, TaggedAddress>,
    checks: Vec<CheckBody>,
    namespace: String,
    /// Empty if it names none.
    pub(crate) datacenter: String,
}

/// A registration that was made of a body.
pub(crate) struct Made {
    pub(crate) service: Name,
    pub(crate) registration: Registration,
    /// What is kept about its checks.
    pub(crate) checks: Vec<CheckExtra>,
    /// The states of the checks that the client sets, by their ids.
    pub(crate) states: Vec<(Name, CheckStatus, String)>,
}

impl ServiceBody {
    /// Reads the body of a registration through the agent.
    pub(crate) fn of_agent(mut object: Object) -> Result<Self, Refusal> {
        let mut checks = Vec::new();
        if let Some(check) = object.object("Check")? {
            checks.push(CheckBody::of_agent(check)?);
        }
        for check in object.objects("Checks")? {
            checks.push(CheckBody::of_agent(check)?);
        }
        let name = object.text("Name")?;
        if name.is_empty() {
            return Err(Refusal::bad("Missing service name"));
        }
        // Files with services can have it. Consul, too, takes the token of a request from its header or query only.
        object.ignore("Token");
        let weights = weights(&mut object, false)?;
        Self::read(object, name, checks, weights)
    }

    /// Reads the service of a registration through the catalog.
    pub(crate) fn of_catalog(mut object: Object, checks: Vec<CheckBody>) -> Result<Self, Refusal> {
        let name = object.text("Service")?;
        if name.is_empty() {
            return Err(Refusal::bad(
                "Must provide service name (Service.Service) when service ID is provided",
            ));
        }
        // Go sends 0 and 0 for weights that were not set. With the agent it sends none.
        let weights = weights(&mut object, true)?;
        Self::read(object, name, checks, weights)
    }

    fn read(
        mut object: Object,
        name: String,
        checks: Vec<CheckBody>,
        (weight, weight_warning): (u16, Option<u16>),
    ) -> Result<Self, Refusal> {
        let id = object.text("ID")?;
        let address = object.text("Address")?;
        if matches!(address.as_str(), "0.0.0.0" | "::" | "[::]") {
            return Err(Refusal::bad("Invalid service address"));
        }
        let port = object.number("Port", u16::MAX.into())?.filter(|port| *port > 0);
        let tags = object.texts("Tags")?;
        let meta = object.map("Meta")?;
        check_meta(&meta)?;
        let tag_override = object.boolean("EnableTagOverride")?;
        let tagged = tagged_addresses(&mut object)?;
        let mesh = "there is no service mesh";
        object.refuse("Kind", mesh)?;
        object.refuse("Proxy", mesh)?;
        refuse_connect(&mut object, mesh)?;
        object.refuse("SocketPath", "an instance has a host and a port")?;
        let (namespace, datacenter) = (object.namespace()?, object.text("Datacenter")?);
        for field in ["CreateIndex", "ModifyIndex", "ContentHash"] {
            object.ignore(field);
        }
        object.finish()?;
        if checks.len() > CHECKS_MAX {
            return Err(Refusal::bad(format!("a service has at most {CHECKS_MAX} checks")));
        }
        Ok(Self {
            id: if id.is_empty() { name.clone() } else { id },
            name,
            address,
            port: port.and_then(|port| u16::try_from(port).ok()),
            tags,
            meta,
            weight,
            weight_warning,
            tag_override,
            tagged,
            checks,
            namespace,
            datacenter,
        })
    }

    /// The namespaces that it and its checks name; an empty text if one names none.
    pub(crate) fn namespaces(&self) -> Vec<&str> {
        let of_checks = self.checks.iter().map(|check| check.namespace.as_str());
        std::iter::once(self.namespace.as_str()).chain(of_checks).collect()
    }

    /// Whether a check of it takes the place of this one.
    pub(crate) fn replaces(&self, present: &CheckExtra) -> bool {
        self.checks.iter().enumerate().any(|(at, check)| {
            let default_id = default_check_id(&self.id, self.checks.len(), at);
            let id = if check.id.is_empty() { &default_id } else { &check.id };
            *id == present.id || check.is_probe() && present.probe
        })
    }

    /// The address of the instance. An empty one becomes `fallback`.
    pub(crate) fn address(&self, fallback: &str) -> Result<Address, Refusal> {
        let host = if self.address.is_empty() { fallback } else { &self.address };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let scheme: Scheme = scheme_of(self.checks.iter().any(CheckBody::uses_tls));
        Ok(Address::from_parts(&AddressParts { scheme, host, port: self.port, base_path: "" })?)
    }

    /// Refuses checks that name another node or service than this one on its node.
    pub(crate) fn check_places(&self, node: &str) -> Result<(), Refusal> {
        self.checks.iter().try_for_each(|check| check.check_place(node, &self.id))
    }

    /// Makes the registration on a node, or on the agent's without one. An empty address becomes that of the node, or
    /// that of the client. `kept` are the checks of the present registration that it does not replace.
    pub(crate) fn into_registration(
        mut self,
        node: Option<Name>,
        node_extra: Option<NodeExtra>,
        client: &str,
        kept: Vec<(Check, CheckExtra)>,
    ) -> Result<Made, Refusal> {
        let service = Name::parse("Name", &self.name)?;
        let through = if node.is_some() { Through::Catalog } else { Through::Agent };
        let own_id = std::mem::take(&mut self.id);
        let id = instance_id(&own_id, node.as_ref().map(Name::as_str));
        let shown_id = (id != own_id).then(|| own_id.clone());
        let of_node = node_extra.as_ref().map(|extra| extra.address.as_str());
        let fallback = of_node.filter(|address| !address.is_empty()).unwrap_or(client);
        let address = self.address(fallback)?;
        let checks = std::mem::take(&mut self.checks);
        let count = checks.len();
        let mut all: Vec<(Check, CheckExtra)> = Vec::new();
        let mut states = Vec::new();
        for (at, check) in checks.into_iter().enumerate() {
            let default_id = default_check_id(&own_id, count, at);
            let state = check.static_state().map(|(status, output)| (status, output.to_owned()));
            let made = check.into_check(default_id, address.parts())?;
            if let Some((status, output)) = state {
                states.push((made.0.id.clone(), status, output));
            }
            all.push(made);
        }
        all.extend(kept);
        check_unique(&all)?;
        if all.iter().filter(|(_, extra)| extra.probe).count() > 1 {
            let why = "Invalid check: an instance has at most one HTTP, TCP or gRPC check";
            return Err(Refusal::bad(why));
        }
        let (checks, extras): (Vec<Check>, Vec<CheckExtra>) = all.into_iter().unzip();
        let extras = Extras {
            service: Some(ServiceExtra {
                through,
                id: shown_id,
                tag_override: self.tag_override,
                weight_warning: self.weight_warning,
                tagged: self.tagged,
            }),
            node: node_extra,
            checks: extras,
        };
        let own = self.meta.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let registration = Registration {
            id: Name::parse("ID", &id)?,
            address,
            weight: self.weight,
            expiry: Expiry::Never,
            zone: None,
            version: None,
            node,
            tags: self.tags.into_iter().map(String::into_boxed_str).collect(),
            metadata: extras.metadata(own)?,
            checks: checks.into(),
        }
        .normalised();
        registration.check()?;
        Ok(Made { service, registration, checks: extras.checks, states })
    }
}

/// The id of the instance that is the service with this id, on a node or on the agent's. Consul's id is unique on its
/// node only. Each id on each node has an instance of its own: only that of a node has an `@`, and only one.
fn instance_id(id: &str, node: Option<&str>) -> String {
    let escaped = |part: &str| part.replace('%', "%25").replace('@', "%40");
    match node {
        None => escaped(id),
        Some(node) => format!("{}@{}", escaped(id), escaped(node)),
    }
}

/// Refuses two checks with the same id in Consul.
fn check_unique(checks: &[(Check, CheckExtra)]) -> Result<(), Refusal> {
    let mut ids = BTreeSet::new();
    for (_, extra) in checks {
        if !ids.insert(extra.id.as_str()) {
            let why = format!("Invalid check: there are two with the CheckID {:?}", extra.id);
            return Err(Refusal::bad(why));
        }
    }
    Ok(())
}

/// The id of the check at this position, of so many, if the client gave it none.
fn default_check_id(service_id: &str, count: usize, at: usize) -> String {
    match count {
        0 | 1 => format!("service:{service_id}"),
        _ => format!("service:{service_id}:{}", at + 1),
    }
}

/// Refuses a service that takes part in a mesh. An empty object asks for a proxy beside the service.
fn refuse_connect(object: &mut Object, why: &str) -> Result<(), Refusal> {
    let Some(mut connect) = object.object("Connect")? else { return Ok(()) };
    if connect.take("SidecarService").is_some() {
        return Err(Refusal::bad(format!("Connect.SidecarService is not supported: {why}")));
    }
    connect.refuse("Native", why)?;
    connect.finish()
}

fn check_meta(meta: &[(String, String)]) -> Result<(), Refusal> {
    if meta.len() > ENTRIES_MAX {
        return Err(Refusal::bad(format!(
            "Invalid Service Meta: at most {ENTRIES_MAX} entries are allowed"
        )));
    }
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    for (key, value) in meta {
        let is_key = !key.is_empty() && key.len() <= 128 && key.bytes().all(is_part);
        if !is_key || key.starts_with(RESERVED) || value.len() > 512 {
            return Err(Refusal::bad(format!(
                "Invalid Service Meta: {key:?}: a key has up to 128 letters, digits, - and _, and does not begin with \
                 {RESERVED}; a value has up to 512 bytes"
            )));
        }
    }
    Ok(())
}

/// The weight, and that of an instance with a warning if it is not 1. `zeros_are_unset`: 0 and 0 are as good as none.
fn weights(object: &mut Object, zeros_are_unset: bool) -> Result<(u16, Option<u16>), Refusal> {
    let Some(mut weights) = object.object("Weights")? else { return Ok((1, None)) };
    let passing = weights.number("Passing", u16::MAX.into())?;
    let warning = weights.number("Warning", u16::MAX.into())?;
    weights.finish()?;
    if zeros_are_unset && passing.unwrap_or(0) == 0 && warning.unwrap_or(0) == 0 {
        return Ok((1, None));
    }
    let passing =
        u16::try_from(passing.unwrap_or(1)).ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
    let passing = passing
        .ok_or_else(|| Refusal::bad(format!("Weights.Passing must be from 1 to {WEIGHT_MAX}")))?;
    Ok((
        passing,
        warning.and_then(|weight| u16::try_from(weight).ok()).filter(|weight| *weight != 1),
    ))
}

fn tagged_addresses(object: &mut Object) -> Result<BTreeMap<String, TaggedAddress>, Refusal> {
    let mut tagged = BTreeMap::new();
    let Some(fields) = object.object("TaggedAddresses")? else { return Ok(tagged) };
    for (name, value) in fields.into_entries() {
        let serde_json::Value::Object(fields) = value else {
            return Err(Refusal::bad("TaggedAddresses must be an object of objects"));
        };
        let mut fields = Object::parse(&serde_json::to_vec(&fields).unwrap_or_default())?;
        let address = fields.text("Address")?;
        let port = fields.number("Port", u16::MAX.into())?.unwrap_or(0);
        fields.finish()?;
        tagged.insert(name, TaggedAddress { address, port: u16::try_from(port).unwrap_or(0) });
    }
    if tagged.len() > ENTRIES_MAX {
        return Err(Refusal::bad(format!("at most {ENTRIES_MAX} TaggedAddresses are allowed")));
    }
    Ok(tagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise one registration would overwrite another one.
    #[test]
    fn no_two_ids_on_nodes_share_an_instance() {
        let parts = ["a", "b", "a@b", "b@c", "@", "%", "%40", "a%40b", "a@", "@b", "%25"];
        let mut seen = BTreeMap::new();
        for id in parts {
            for node in std::iter::once(None).chain(parts.map(Some)) {
                let other = seen.insert(instance_id(id, node), (id, node));
                assert_eq!(other, None, "{id} {node:?}");
            }
        }
        assert_eq!(instance_id("web-1", None), "web-1");
        assert_eq!(instance_id("web-1", Some("laptop")), "web-1@laptop");
        assert_eq!(instance_id("a@b", Some("c%")), "a%40b@c%25");
    }
}
