//! The form of services and instances in requests and answers, and their conversion from and to the state's types.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::counts::InstanceCounts;
use crate::Caller;
use crate::problem::{Problem, ProblemKind};
use crate::reserved::is_reserved;
use maxine_control::health::flap_score;
use maxine_state::limits::{self, check_count, check_range};
use maxine_state::{
    Address, AddressParts, Check, CheckKind, CheckReading, CheckStatus, Drain, Expiry, Given,
    Instance, Limit, LimitExceeded, Liveness, Name, ProbeSpec, Readiness, Registration, Role,
    RuntimeConfig, Scheme, SelectionStrategy, ServiceKey, ServiceState,
};

/// Entries with unique keys. A repeated key is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
pub(super) struct Metadata(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = BTreeMap<String, String>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object whose values are strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if entries.contains_key(&key) {
                        return Err(de::Error::custom(format!("metadata has {key} twice")));
                    }
                    entries.insert(key, value);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(Self)
    }
}

/// A registration, as the owner of the instance sends it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrationBody {
    /// Where the instance is reached, as a URL: `http://` or `https://`, host, optional port, optional base path.
    /// Either `address` or `host` is required.
    #[serde(default)]
    #[schema(example = "http://10.0.0.1:8080", min_length = 1, max_length = 2048)]
    pub(super) address: Option<String>,
    /// How the instance is called; by default `http`.
    #[serde(default)]
    pub(super) scheme: Option<Scheme>,
    /// A host name or an IP address, in place of `address`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2048)]
    pub(super) host: Option<String>,
    /// The port. If it is left out, HTTP clients use the port of the scheme.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65535)]
    pub(super) port: Option<u64>,
    /// Prefix of every path on the instance, such as `/api`.
    #[serde(default)]
    #[schema(max_length = 2048)]
    pub(super) base_path: Option<String>,
    /// Share of the traffic, relative to the other instances; by default 1.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub(super) weight: Option<u64>,
    /// How long the registration lives after its last heartbeat, in milliseconds; by default `heartbeat_timeout_s` of
    /// the runtime configuration.
    #[serde(default)]
    #[schema(minimum = 1000, maximum = 34_560_000_000_u64)]
    pub(super) ttl_ms: Option<u64>,
    /// If true, the registration never expires: it has no `ttl_ms`, needs no heartbeats, and stays until it is
    /// deregistered.
    #[serde(default)]
    pub(super) permanent: bool,
    /// The zone that the instance runs in.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub(super) zone: Option<String>,
    /// The version that the instance runs.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub(super) version: Option<String>,
    /// The name of the machine that the instance runs on.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub(super) node: Option<String>,
    /// Labels, each of 1 to 1024 bytes. Their order and repeats are kept.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub(super) tags: Vec<String>,
    /// Metadata entries. Keys that begin with `consul-` belong to the API of Consul: they stay as they are, and a request
    /// cannot set them.
    #[serde(default)]
    pub(super) metadata: Metadata,
    /// The probe of the instance, if it differs from that of the service's policy.
    #[serde(default)]
    pub(super) probe: Option<ProbeSpec>,
    /// Checks that the instance's owner reports.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub(super) checks: Vec<CheckBody>,
}

/// A check that the owner of an instance reports.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckBody {
    /// Name of the check within the instance. It cannot be `probe`, which is the check that Maxine makes.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// Maximum time between two reports, in milliseconds. If no report arrives in that time, the check becomes
    /// critical.
    #[schema(minimum = 1000, maximum = 34_560_000_000_u64)]
    ttl_ms: u64,
    /// Status until the first report.
    #[serde(default)]
    initial_status: CheckStatus,
}

impl CheckBody {
    fn into_check(self) -> Result<Check, LimitExceeded> {
        let kind = CheckKind::Ttl { ttl_ms: self.ttl_ms, initial: self.initial_status };
        Ok(Check { id: Name::parse("checks.id", &self.id)?, kind })
    }
}

impl RegistrationBody {
    /// Checks all limits and makes a registration. `config` has the default time to live.
    pub(super) fn into_registration(
        self,
        id: Name,
        config: &RuntimeConfig,
    ) -> Result<Registration, Problem> {
        let (address, expiry) = (self.address()?, self.expiry(config)?);
        let weight = self.weight.unwrap_or(1);
        check_range("weight", weight, 1, limits::WEIGHT_MAX.into())?;
        check_count("tags", self.tags.len(), limits::TAGS_MAX)?;
        check_count("checks", self.checks.len(), limits::CHECKS_MAX)?;
        check_count("metadata", self.metadata.0.len(), limits::METADATA_ENTRIES_MAX)?;
        let name = |field: &str, text: &Option<String>| {
            text.as_deref().map(|text| Name::parse(field, text)).transpose()
        };
        let entry = |(key, value): (String, String)| {
            Name::parse("metadata", &key).map(|key| (key, value.into()))
        };
        let probe = self.probe.map(Check::probe).map(Ok);
        let checks = self.checks.into_iter().map(CheckBody::into_check).chain(probe);
        let checks: Result<Box<[Check]>, _> = checks.collect();
        let metadata: Result<Vec<_>, _> = self.metadata.0.into_iter().map(entry).collect();
        let registration = Registration {
            id,
            address,
            weight: u16::try_from(weight).unwrap_or(limits::WEIGHT_MAX),
            expiry,
            zone: name("zone", &self.zone)?,
            version: name("version", &self.version)?,
            node: name("node", &self.node)?,
            tags: self.tags.into_iter().map(String::into_boxed_str).collect(),
            metadata: metadata?.into(),
            checks: checks?,
        }
        .normalised();
        registration.check()?;
        Ok(registration)
    }

    fn expiry(&self, config: &RuntimeConfig) -> Result<Expiry, LimitExceeded> {
        match (self.permanent, self.ttl_ms) {
            (true, Some(ttl_ms)) => {
                Err(LimitExceeded::new("ttl_ms", Limit::NotIfPermanent, ttl_ms))
            }
            (true, None) => Ok(Expiry::Never),
            (false, given) => {
                let default_ms = config.heartbeat_timeout_s.saturating_mul(1_000);
                Ok(Expiry::AfterSilence { ttl_ms: given.unwrap_or(default_ms) })
            }
        }
    }

    /// The address, from a URL or from its parts. Both may be sent if they are equal.
    fn address(&self) -> Result<Address, Problem> {
        let port = self.port.map(|port| {
            check_range("port", port, 1, u16::MAX.into())?;
            Ok::<_, LimitExceeded>(u16::try_from(port).unwrap_or(u16::MAX))
        });
        let port = port.transpose()?;
        let Some(url) = self.address.as_deref() else {
            let Some(host) = self.host.as_deref() else {
                let detail = "the address is missing: send address, or host and port";
                return Err(Problem::new(ProblemKind::InvalidRequest, detail).with_field("address"));
            };
            return Ok(Address::from_parts(&AddressParts {
                scheme: self.scheme.unwrap_or_default(),
                host,
                port,
                base_path: self.base_path.as_deref().unwrap_or_default(),
            })?);
        };
        let address = Address::parse(url)?;
        let parts = address.parts();
        let differs = |field: &str, given: Given| {
            let limit = format!("the same as in address ({address}), or left out");
            Err(Problem::limit(field, &limit, given))
        };
        if let Some(scheme) = self.scheme.filter(|scheme| *scheme != parts.scheme) {
            return differs("scheme", scheme.as_str().into());
        }
        let host = self.host.as_deref();
        let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if let Some(host) = host.filter(|host| !bare(host).eq_ignore_ascii_case(parts.host)) {
            return differs("host", host.into());
        }
        if let Some(port) = port.filter(|port| *port != parts.http_port()) {
            return differs("port", u64::from(port).into());
        }
        let base_path = self.base_path.as_deref();
        let same = |path: &str| path.strip_suffix('/').unwrap_or(path) == parts.base_path;
        if let Some(base_path) = base_path.filter(|path| !same(path)) {
            return differs("base_path", base_path.into());
        }
        Ok(address)
    }
}

/// Result of the health checks.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct HealthView {
    /// Whether the instance may get traffic.
    pub(super) readiness: Readiness,
    /// Whether the instance is alive, or evicted.
    pub(super) liveness: Liveness,
    /// Why the verdict is so, in one line; empty to callers without a credential.
    pub(super) reason: String,
    /// Since when the verdict is so, in milliseconds since 1970; null if nothing has been observed.
    pub(super) since_ms: Option<u64>,
    /// How often the instance's health changed recently (flap score): at the time of the answer or, in the change of a
    /// watch, at the time of the last change of its health.
    pub(super) flap_score: u32,
}

impl HealthView {
    /// The verdict on an instance, with its flap score at `now_ms`.
    pub(super) fn present(service: &ServiceState, instance: &Instance, now_ms: u64) -> Self {
        let policy = service.policy.as_ref().and_then(|record| record.policy.health);
        let flap_score = flap_score(instance.health(), policy, now_ms);
        Self { flap_score, ..Self::changed(instance) }
    }

    /// The verdict on an instance, with its flap score at the time of the last change.
    fn changed(instance: &Instance) -> Self {
        let health = instance.verdict();
        Self {
            readiness: health.readiness,
            liveness: health.liveness,
            reason: health.reason.as_ref().into(),
            since_ms: (health.since_ms > 0).then_some(health.since_ms),
            flap_score: health.flap_score,
        }
    }
}

/// The source of a check's results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckKindView {
    /// Nodes of Maxine probe the instance.
    Probe,
    /// The owner of the instance reports its state.
    Ttl,
}

impl CheckKindView {
    /// The name of the kind in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Ttl => "ttl",
        }
    }
}

/// A check of an instance.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct CheckView {
    /// Name of the check within the instance; `probe` is the check that Maxine makes.
    pub(super) id: String,
    /// The source of the check's results.
    kind: CheckKindView,
    /// Maximum time between two reports, in milliseconds; null for the probe.
    ttl_ms: Option<u64>,
    /// Status until the first report; null for the probe.
    initial_status: Option<CheckStatus>,
    /// Present status of the check. That of the probe is `unknown` until there is a verdict on it. The routes of a
    /// single instance show the result of the latest probe instead.
    pub(super) status: CheckStatus,
    /// What the check found; empty to callers without a credential.
    pub(super) output: String,
    /// Since when the check has this status, in milliseconds since 1970; null if that is unknown.
    pub(super) since_ms: Option<u64>,
    /// The index of the last change to the check.
    modified_index: u64,
}

impl CheckView {
    pub(super) fn new(check: &CheckReading<'_>, detail: Detail) -> Self {
        let ttl = match check.kind {
            Some(CheckKind::Ttl { ttl_ms, initial }) => Some((*ttl_ms, *initial)),
            Some(CheckKind::Probe(_)) | None => None,
        };
        let output = if detail == Detail::WithoutProbes { "" } else { check.output };
        Self {
            id: check.id.into(),
            kind: if ttl.is_some() { CheckKindView::Ttl } else { CheckKindView::Probe },
            ttl_ms: ttl.map(|(ttl_ms, _)| ttl_ms),
            initial_status: ttl.map(|(_, initial)| initial),
            status: check.status,
            output: output.into(),
            since_ms: check.since_ms,
            modified_index: check.modified_index,
        }
    }
}

/// An operator's decision that an instance gets no new traffic.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct DrainView {
    /// Who drained the instance.
    by: String,
    /// Why the instance was drained.
    reason: String,
    /// Since when the instance is drained, in milliseconds since 1970.
    since_ms: u64,
}

impl From<&Drain> for DrainView {
    fn from(drain: &Drain) -> Self {
        Self {
            by: drain.by.as_str().into(),
            reason: drain.reason.clone(),
            since_ms: drain.since_ms,
        }
    }
}

/// An instance without its role in the service. A change of a watch contains it in this form.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct InstanceRecord {
    /// The namespace.
    namespace: String,
    /// The service.
    service: String,
    /// Name of the instance within the service.
    id: String,
    /// Address of the instance, as a URL.
    address: String,
    /// How the instance is called.
    scheme: Scheme,
    /// Host name or IP address of the instance; an IPv6 address has no brackets here.
    host: String,
    /// Port of the instance; null if its owner named none, so that HTTP clients use the port of the scheme.
    port: Option<u16>,
    /// Prefix of every path on the instance.
    base_path: Option<String>,
    /// Share of the traffic, relative to the other instances.
    weight: u16,
    /// Time after the last heartbeat at which the registration expires, in milliseconds; null if it is permanent.
    ttl_ms: Option<u64>,
    /// Whether the registration never expires.
    permanent: bool,
    /// The zone that the instance runs in.
    zone: Option<String>,
    /// The version that the instance runs.
    version: Option<String>,
    /// The name of the machine that the instance runs on.
    node: Option<String>,
    /// Labels, in the order in which the owner sent them.
    tags: Vec<String>,
    /// Metadata entries.
    metadata: Metadata,
    /// The probe that the owner registered, if any; null to callers without a credential.
    probe: Option<ProbeSpec>,
    /// The checks of the instance, in the order of their ids, with their present states.
    checks: Vec<CheckView>,
    /// The verdict that follows from the checks.
    health: HealthView,
    /// The index of the registration. A heartbeat, an expiry or a conditional removal refers to the registration by it.
    lease_epoch: u64,
    /// When the instance was registered, in milliseconds since 1970.
    registered_at_ms: u64,
    /// The index of the last change to the instance.
    modified_index: u64,
}

/// How much of an instance a caller may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// The caller may see everything.
    Full,
    /// The caller may see everything except the values of the probe's header fields, which may be secrets.
    WithoutSecrets,
    /// The caller may see everything except the requests and results of the probes. Otherwise, a caller who may
    /// register addresses could learn what answers there.
    WithoutProbes,
}

impl Detail {
    /// What this caller may see.
    pub(crate) fn of(caller: &Caller) -> Self {
        match caller.role {
            Some(role) if role >= Role::Operator => Self::Full,
            Some(_) => Self::WithoutSecrets,
            None => Self::WithoutProbes,
        }
    }

    /// What this caller may see of changes. All watchers with the same role share the text of a change, so it never
    /// contains secrets.
    pub(crate) fn of_changes(caller: &Caller) -> Self {
        if caller.role.is_some() { Self::WithoutSecrets } else { Self::WithoutProbes }
    }
}

impl InstanceRecord {
    /// The instance as it was at a change.
    pub(crate) fn changed(key: &ServiceKey, instance: &Instance, detail: Detail) -> Self {
        Self::new(key, instance, HealthView::changed(instance), detail)
    }

    fn new(key: &ServiceKey, instance: &Instance, mut health: HealthView, detail: Detail) -> Self {
        let registration = &instance.registration;
        if detail == Detail::WithoutProbes {
            health.reason.clear();
        }
        let probe = match detail {
            Detail::Full => registration.probe().cloned(),
            Detail::WithoutSecrets => registration.probe().cloned().map(ProbeSpec::without_secrets),
            Detail::WithoutProbes => None,
        };
        let text = |name: &Name| name.as_str().to_owned();
        let entry = |(key, value): &(Name, Box<str>)| (text(key), value.as_ref().to_owned());
        // What the face for clients of Consul keeps includes what its checks call.
        let is_shown = |(key, _): &&(Name, Box<str>)| {
            detail != Detail::WithoutProbes || !is_reserved(key.as_str())
        };
        let shown = registration.metadata.iter().filter(is_shown);
        let parts = registration.address.parts();
        let ttl_ms = registration.expiry.ttl_ms();
        Self {
            namespace: text(&key.namespace),
            service: text(&key.service),
            id: text(&registration.id),
            address: registration.address.as_str().into(),
            scheme: parts.scheme,
            host: parts.host.into(),
            port: parts.port,
            base_path: Some(parts.base_path.to_owned()).filter(|path| !path.is_empty()),
            weight: registration.weight,
            ttl_ms,
            permanent: ttl_ms.is_none(),
            zone: registration.zone.as_ref().map(text),
            version: registration.version.as_ref().map(text),
            node: registration.node.as_ref().map(text),
            tags: registration.tags.iter().map(|tag| tag.as_ref().to_owned()).collect(),
            metadata: Metadata(shown.map(entry).collect()),
            probe,
            checks: instance.checks().map(|check| CheckView::new(&check, detail)).collect(),
            health,
            lease_epoch: instance.lease_epoch,
            registered_at_ms: instance.registered_at_ms,
            modified_index: instance.modified_index,
        }
    }
}

/// An instance with its role in the service.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct InstanceView {
    #[serde(flatten)]
    record: InstanceRecord,
    /// Whether the instance gets traffic now. It must not be drained; it must be healthy, unless the service is in
    /// panic mode; and if the policy splits the traffic, its version must have a share.
    routable: bool,
    /// Who drained the instance, and why; null if it is not drained.
    drain: Option<DrainView>,
}

impl InstanceView {
    /// Whether it may show secrets: values of the probe's header fields, or what the face for clients of Consul keeps.
    pub(super) fn may_have_secrets(&self) -> bool {
        let InstanceRecord { probe, metadata, .. } = &self.record;
        probe.as_ref().is_some_and(|probe| !probe.headers.is_empty())
            || metadata.0.keys().any(|name| is_reserved(name))
    }

    /// The instance as it is at `now_ms`, in milliseconds since 1970.
    pub(super) fn new(
        key: &ServiceKey,
        service: &ServiceState,
        routable: bool,
        instance: &Instance,
        (detail, now_ms): (Detail, u64),
    ) -> Self {
        let drain = service.drains.get(&instance.registration.id);
        Self {
            record: InstanceRecord::new(
                key,
                instance,
                HealthView::present(service, instance, now_ms),
                detail,
            ),
            routable,
            drain: drain.map(|drain| DrainView::from(drain.as_ref())),
        }
    }

    /// Replaces the stored checks, because more is known about them.
    pub(super) fn with_checks(mut self, checks: Vec<CheckView>) -> Self {
        self.record.checks = checks;
        self
    }
}

/// State of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceHealth {
    /// At least one instance gets traffic, and every instance that is not drained is healthy.
    Healthy,
    /// At least one instance gets traffic, and an instance that is not drained is unhealthy or evicted.
    Degraded,
    /// No instance gets traffic.
    Down,
}

impl ServiceHealth {
    /// All states, from the best to the worst.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Down];

    /// The name of the state in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// A service in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ServiceSummary {
    /// The namespace.
    namespace: String,
    /// The service's name.
    name: String,
    /// State of the service.
    pub(super) health: ServiceHealth,
    #[serde(flatten)]
    pub(super) counts: InstanceCounts,
    /// Whether the service is in panic mode: so many instances are unhealthy that all instances that are not drained
    /// get traffic.
    panic_mode: bool,
    /// The strategy in force: that of the policy, or else that of the configuration.
    strategy: SelectionStrategy,
    /// Revision of the policy; null if none is set.
    policy_revision: Option<u64>,
    /// The index of the last change to the service.
    modified_index: u64,
}

impl ServiceSummary {
    pub(super) fn new(key: &ServiceKey, service: &ServiceState, config: &RuntimeConfig) -> Self {
        let mut counts = InstanceCounts::default();
        counts.add(service);
        let is_bad =
            |instance: &Arc<Instance>| service.is_undrained(instance) && !instance.is_healthy();
        let health = match counts.routable {
            0 => ServiceHealth::Down,
            _ if service.instances.values().any(is_bad) => ServiceHealth::Degraded,
            _ => ServiceHealth::Healthy,
        };
        let policy = service.policy.as_ref();
        Self {
            namespace: key.namespace.as_str().into(),
            name: key.service.as_str().into(),
            health,
            counts,
            panic_mode: service.in_panic_mode(),
            strategy: policy
                .and_then(|record| record.policy.selection.strategy)
                .unwrap_or(config.selection_strategy),
            policy_revision: policy.map(|record| record.revision),
            modified_index: service.modified_index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_in_answers_and_on_the_command_line() {
        for health in ServiceHealth::ALL {
            assert_eq!(serde_json::to_value(health).unwrap(), health.as_str());
        }
        for kind in [CheckKindView::Probe, CheckKindView::Ttl] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
