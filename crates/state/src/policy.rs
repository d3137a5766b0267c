//! The policy of a service: how its instances are chosen, probed and called.
//!
//! Every field has a default, so an empty object is a valid policy. The log and the snapshot store a policy
//! in binary form, like every other value of the state (see [`super::versioned`]).

use bincode::enc::write::SizeWriter;
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::address::Address;
use super::codec;
use super::limits::{
    self, Given, Limit, LimitExceeded, check_range, check_text, is_field_value, is_token,
};
use super::runtime_config::SelectionStrategy;
use super::traffic::{HealthPolicy, TrafficPolicy};
use super::versioned::{Needs, first_version, stored};

/// The hash key of the strategies that hash.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case", tag = "from", content = "name")]
pub enum HashKey {
    /// The client's network address.
    #[default]
    ClientAddress,
    /// Value of a request header; if it is missing or empty, the client's address.
    Header(String),
    /// Value of a query parameter of the request to the instance, or else of the request to Maxine; if both are
    /// missing or empty, the client's address.
    Query(String),
}

impl Needs for HashKey {
    fn needs(&self) -> u32 {
        match self {
            Self::ClientAddress => 1,
            Self::Header(name) | Self::Query(name) => name.needs(),
        }
    }
}

/// How an instance is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionPolicy {
    /// The strategy; by default that of the runtime configuration.
    pub strategy: Option<SelectionStrategy>,
    /// The hash key of the strategies that hash.
    pub hash_key: HashKey,
}

stored!(SelectionPolicy { strategy, hash_key });

/// The protocol of a probe.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// No probe is made. Only the heartbeat counts.
    #[default]
    Heartbeat,
    /// An HTTP request; 2xx is good unless `expected_statuses` says otherwise.
    Http,
    /// A TCP connection.
    Tcp,
    /// The gRPC health service, `grpc.health.v1`.
    Grpc,
}

first_version!(ProbeKind { Heartbeat, Http, Tcp, Grpc });

/// One probe, of a service or of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeSpec {
    /// Kind of the probe.
    pub kind: ProbeKind,
    /// HTTP: the path on the instance, appended to its address.
    pub path: String,
    /// HTTP: the method.
    pub method: String,
    /// HTTP: request headers.
    pub headers: Vec<(String, String)>,
    /// HTTP: statuses that mean success; if empty, 200 to 299.
    pub expected_statuses: Vec<u16>,
    /// HTTP: text that the first 64 KiB of the body must contain.
    pub expected_body: Option<String>,
    /// HTTPS: if true, the certificate is not verified.
    pub insecure_tls: bool,
    /// HTTP: a separate path for readiness; `path` is then for liveness only.
    pub readiness_path: Option<String>,
    /// Interval between two probes, in milliseconds, 100 to 3,600,000.
    #[schema(minimum = 100, maximum = 3_600_000)]
    pub interval_ms: u64,
    /// Time limit for one probe, in milliseconds, 10 to 60,000.
    #[schema(minimum = 10, maximum = 60_000)]
    pub timeout_ms: u64,
    /// Number of successful probes in a row until an instance is healthy, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub rise: u32,
    /// Number of failed probes in a row until an instance is unhealthy, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub fall: u32,
    /// Time after registration in which failed probes do not count, in milliseconds, up to
    /// 3,600,000.
    #[schema(minimum = 0, maximum = 3_600_000)]
    pub grace_ms: u64,
    /// Share of the interval by which each probe is moved at random, in percent, 0 to 50.
    #[schema(minimum = 0, maximum = 50)]
    pub jitter_percent: u32,
}

stored!(ProbeSpec {
    kind,
    path,
    method,
    headers,
    expected_statuses,
    expected_body,
    insecure_tls,
    readiness_path,
    interval_ms,
    timeout_ms,
    rise,
    fall,
    grace_ms,
    jitter_percent,
});

impl Default for ProbeSpec {
    fn default() -> Self {
        Self {
            kind: ProbeKind::Heartbeat,
            path: String::new(),
            method: "GET".into(),
            headers: Vec::new(),
            expected_statuses: Vec::new(),
            expected_body: None,
            insecure_tls: false,
            readiness_path: None,
            interval_ms: 15_000,
            timeout_ms: 3_000,
            rise: 1,
            fall: 3,
            grace_ms: 0,
            jitter_percent: 10,
        }
    }
}

/// Replacement for the value of a header field that may be a secret.
const REDACTED: &str = "[redacted]";

/// Replaces the values of header fields.
pub(super) fn redact(fields: &mut [(String, String)]) {
    for (_, value) in fields {
        *value = REDACTED.into();
    }
}

impl ProbeSpec {
    /// Whether nodes make this probe. With the kind `heartbeat` there is none, and only the lease counts.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.kind != ProbeKind::Heartbeat
    }

    /// Whether fields are set that have no effect, because with the kind `heartbeat` no probe is made.
    #[must_use]
    pub fn has_unused_fields(&self) -> bool {
        !self.is_made() && *self != Self::default()
    }

    /// The URL that this probe asks on an instance, for its liveness. `None` if it sends no HTTP request.
    #[must_use]
    pub fn url_on(&self, address: &Address) -> Option<String> {
        let base = address.as_str().trim_end_matches('/');
        let path = self.path.trim_start_matches('/');
        (self.kind == ProbeKind::Http).then(|| format!("{base}/{path}"))
    }

    /// The total length of the probe's texts, in bytes.
    pub(super) fn texts_len(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.path.len()
            + self.method.len()
            + headers.sum::<usize>()
            + optional(&self.expected_body)
            + optional(&self.readiness_path)
    }

    /// The same probe without the values of its header fields, for readers who may not change it.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        redact(&mut self.headers);
        self
    }

    /// Checks every bound.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        for (field, path) in [
            ("probe.path", Some(&self.path)),
            ("probe.readiness_path", self.readiness_path.as_ref()),
        ] {
            let Some(path) = path else { continue };
            check_text(field, path, 0, limits::ADDRESS_LEN_MAX)?;
            if path.contains("://") || path.starts_with("//") {
                return Err(LimitExceeded::new(field, Limit::NoUrl, path.as_str()));
            }
        }
        // Clients of the compatible API give a path without a kind, and may omit the leading slash.
        let path = Some(&self.path).filter(|_| self.kind == ProbeKind::Http);
        for (field, path) in
            [("probe.path", path), ("probe.readiness_path", self.readiness_path.as_ref())]
        {
            if let Some(path) = path.filter(|path| !path.is_empty() && !path.starts_with('/')) {
                return Err(LimitExceeded::new(field, Limit::RootedPath, path.as_str()));
            }
        }
        check_text("probe.method", &self.method, 1, 16)?;
        limits::check_count("probe.headers", self.headers.len(), 32)?;
        for (name, value) in &self.headers {
            let valid = is_token(name) && is_field_value(value);
            if !valid || value.len() > limits::TEXT_LEN_MAX {
                return Err(LimitExceeded::new(
                    "probe.headers",
                    Limit::HeaderFields,
                    name.as_str(),
                ));
            }
        }
        limits::check_count("probe.expected_statuses", self.expected_statuses.len(), 100)?;
        for status in &self.expected_statuses {
            check_range("probe.expected_statuses", (*status).into(), 100, 599)?;
        }
        if let Some(body) = &self.expected_body {
            check_text("probe.expected_body", body, 1, limits::TEXT_LEN_MAX)?;
        }
        check_range("probe.interval_ms", self.interval_ms, 100, 3_600_000)?;
        check_range("probe.timeout_ms", self.timeout_ms, 10, 60_000)?;
        check_range("probe.rise", self.rise.into(), 1, 100)?;
        check_range("probe.fall", self.fall.into(), 1, 100)?;
        check_range("probe.grace_ms", self.grace_ms, 0, 3_600_000)?;
        check_range("probe.jitter_percent", self.jitter_percent.into(), 0, 50)
    }
}

/// What operators set for one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServicePolicy {
    /// How an instance is chosen.
    pub selection: SelectionPolicy,
    /// Probe of instances that did not register their own.
    pub probe: Option<ProbeSpec>,
    /// How probe results lead to a verdict; by default one observer and no panic mode.
    pub health: Option<HealthPolicy>,
    /// How instances are called.
    pub traffic: TrafficPolicy,
}

stored!(ServicePolicy { selection, probe, health, traffic });

impl ServicePolicy {
    /// The same policy without the values of the header fields that are sent to instances, for readers who
    /// may not change it.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.probe = self.probe.map(ProbeSpec::without_secrets);
        redact(&mut self.traffic.request_headers.set);
        redact(&mut self.traffic.request_headers.add);
        self
    }

    /// Checks every bound.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        match &self.selection.hash_key {
            HashKey::ClientAddress => {}
            HashKey::Header(name) => {
                if !is_token(name) {
                    let (field, limit) = ("selection.hash_key.name", Limit::HeaderName);
                    return Err(LimitExceeded::new(field, limit, name.as_str()));
                }
            }
            HashKey::Query(name) => {
                check_text("selection.hash_key.name", name, 1, limits::NAME_LEN_MAX)?;
            }
        }
        self.probe.as_ref().map_or(Ok(()), ProbeSpec::check)?;
        self.health.as_ref().map_or(Ok(()), HealthPolicy::check)?;
        self.traffic.check()?;
        let (len, max) = (self.encoded_len(), limits::POLICY_LEN_MAX);
        if len > max {
            let limit = Limit::TotalLength { max: max as u64 };
            return Err(LimitExceeded::new("policy", limit, Given::Bytes(len as u64)));
        }
        Ok(())
    }

    /// The length of the policy in the log, in bytes; `usize::MAX` if it is above the limit of the codec.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let mut len = SizeWriter::default();
        let written = bincode::encode_into_writer(self, &mut len, codec::config());
        if written.is_ok() { len.bytes_written } else { usize::MAX }
    }
}

/// A policy with its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRecord {
    /// Index of the last change.
    pub revision: u64,
    /// The policy.
    pub policy: ServicePolicy,
}

stored!(PolicyRecord { revision, policy });

#[cfg(test)]
mod tests {
    use super::*;

    /// A path without a leading slash would change the host of the URL, or give a request that no server
    /// understands.
    #[test]
    fn the_path_of_an_http_probe_begins_with_a_slash() {
        let check = |kind: ProbeKind, path: &str, readiness_path: Option<&str>| {
            let readiness_path = readiness_path.map(str::to_owned);
            let spec = ProbeSpec { kind, path: path.into(), readiness_path, ..Default::default() };
            spec.check().map_err(|error| error.to_string())
        };
        let refused = |field: &str, given: &str| {
            Err(format!("{field} must be a path on the instance that begins with /, got {given}"))
        };
        assert_eq!(check(ProbeKind::Http, "health", None), refused("probe.path", "health"));
        assert_eq!(check(ProbeKind::Http, "", Some("r")), refused("probe.readiness_path", "r"));
        for path in ["", "/", "/health?x=1"] {
            assert_eq!(check(ProbeKind::Http, path, Some("/ready")), Ok(()), "{path}");
        }
        // A path as the compatible API registers it, and the name of a gRPC service.
        assert_eq!(check(ProbeKind::Heartbeat, "health", None), Ok(()));
        assert_eq!(check(ProbeKind::Grpc, "orders.v1", None), Ok(()));
    }

    #[test]
    fn fields_of_a_probe_that_is_not_made_are_unused() {
        let of = |kind: ProbeKind, path: &str| {
            ProbeSpec { kind, path: path.into(), ..Default::default() }.has_unused_fields()
        };
        assert!(of(ProbeKind::Heartbeat, "/healthz"));
        assert!(!of(ProbeKind::Heartbeat, ""));
        assert!(!of(ProbeKind::Http, "/healthz"));
    }
}
