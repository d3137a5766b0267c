//! Checks in requests, and the checks of Maxine that they become.

use http::Uri;

use super::answer::Refusal;
use super::body::Object;
use super::model::CheckExtra;
use super::shape::{is_reserved_check, is_same_node};
use maxine_state::limits::{TTL_MS_MAX, TTL_MS_MIN};
use maxine_state::{AddressParts, Check, CheckKind, CheckStatus, Name, ProbeKind, ProbeSpec};

/// Minimum interval of a probe, in milliseconds. Consul raises a shorter one too.
const INTERVAL_MS_MIN: u64 = 1_000;
/// Maximum interval of a probe, in milliseconds.
const INTERVAL_MS_MAX: u64 = 3_600_000;
/// Maximum time limit of a probe, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// The time limit of a probe that has none, in milliseconds.
const TIMEOUT_MS_DEFAULT: u64 = 10_000;
/// Maximum number of results in a row that a probe can ask for.
const THRESHOLD_MAX: u64 = 100;
/// Minimum of `DeregisterCriticalServiceAfter`, in milliseconds. Consul raises a shorter one too.
const DEREGISTER_MS_MIN: u64 = 60_000;

/// Kinds of checks that a node of Maxine cannot make.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("Args", "nodes run no scripts"),
    ("ScriptArgs", "nodes run no scripts"),
    ("Script", "nodes run no scripts"),
    ("DockerContainerID", "nodes run no scripts"),
    ("UDP", "there are HTTP, TCP, gRPC and TTL checks"),
    ("H2PING", "there are HTTP, TCP, gRPC and TTL checks"),
    ("OSService", "there are HTTP, TCP, gRPC and TTL checks"),
    ("AliasService", "there are HTTP, TCP, gRPC and TTL checks"),
    ("AliasNode", "there are HTTP, TCP, gRPC and TTL checks"),
];

/// A check as a client sent it.
#[derive(Debug)]
pub(crate) struct CheckBody {
    /// Its id; empty if the client gave none.
    pub(crate) id: String,
    pub(crate) name: String,
    /// The service that it belongs to, for routes that name it here.
    pub(crate) service_id: String,
    /// The node that a check of the catalog names; empty if it names none.
    node: String,
    /// Empty if it names none.
    pub(crate) namespace: String,
    notes: String,
    initial: Option<CheckStatus>,
    deregister_after_ms: Option<u64>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Ttl {
        ttl_ms: u64,
    },
    Probe(Box<Probe>),
    /// Neither: only the catalog has such checks.
    Static {
        output: String,
    },
}

#[derive(Debug)]
struct Probe {
    spec: ProbeSpec,
    target: Target,
    /// The target as the client wrote it.
    written: String,
    uses_tls: bool,
}

/// Where a probe goes.
#[derive(Debug)]
struct Target {
    host: String,
    port: Option<u16>,
}

fn invalid(why: impl std::fmt::Display) -> Refusal {
    Refusal::bad(format!("Invalid check: {why}"))
}

/// Reads a status; `None` if it is empty.
pub(crate) fn status(text: &str) -> Result<Option<CheckStatus>, Refusal> {
    match text {
        "" => Ok(None),
        "passing" => Ok(Some(CheckStatus::Passing)),
        "warning" => Ok(Some(CheckStatus::Warning)),
        "critical" => Ok(Some(CheckStatus::Critical)),
        _ => Err(Refusal::bad(format!(
            "Invalid check status: {text:?}: use passing, warning or critical"
        ))),
    }
}

impl CheckBody {
    /// Reads a check of the agent.
    pub(crate) fn of_agent(object: Object) -> Result<Self, Refusal> {
        Self::read(object, false)
    }

    /// Reads a check of the catalog, whose state the client sets.
    pub(crate) fn of_catalog(object: Object) -> Result<Self, Refusal> {
        Self::read(object, true)
    }

    fn read(mut object: Object, is_static: bool) -> Result<Self, Refusal> {
        let check_id = object.text("CheckID")?;
        let id = object.text("ID")?;
        let name = object.text("Name")?;
        let service_id = object.text("ServiceID")?;
        let node = object.text("Node")?;
        let notes = object.text("Notes")?;
        let initial = status(&object.text("Status")?)?;
        let deregister_after_ms = object.duration_ms("DeregisterCriticalServiceAfter")?;
        for (field, why) in UNSUPPORTED {
            object.refuse(field, why)?;
        }
        let namespace = object.namespace()?;
        for field in ["ServiceName", "ServiceTags", "Shell", "Type"] {
            object.ignore(field);
        }
        for field in ["CreateIndex", "ModifyIndex", "ExposedPort", "OutputMaxSize"] {
            object.ignore(field);
        }
        let kind = if is_static {
            for field in ["Definition", "Interval", "Timeout"] {
                object.ignore(field);
            }
            Kind::Static { output: object.text("Output")? }
        } else {
            Self::kind(&mut object)?
        };
        object.finish()?;
        Ok(Self {
            id: if check_id.is_empty() { id } else { check_id },
            name,
            service_id,
            node,
            namespace,
            notes,
            initial,
            deregister_after_ms: deregister_after_ms.map(|ms| ms.max(DEREGISTER_MS_MIN)),
            kind,
        })
    }

    fn kind(object: &mut Object) -> Result<Kind, Refusal> {
        let ttl_ms = object.duration_ms("TTL")?;
        let interval_ms = object.duration_ms("Interval")?;
        let timeout_ms = object.duration_ms("Timeout")?;
        let (http, tcp, grpc) = (object.text("HTTP")?, object.text("TCP")?, object.text("GRPC")?);
        let (http_method, body) = (object.text("Method")?, object.text("Body")?);
        let headers = headers(object)?;
        let skips_verification = object.boolean("TLSSkipVerify")?;
        let grpc_uses_tls = object.boolean("GRPCUseTLS")?;
        object.refuse("TLSServerName", "the name of the instance's address is verified")?;
        object.refuse("TCPUseTLS", "a TCP check only connects")?;
        object.ignore("DisableRedirects");
        object.ignore("H2PingUseTLS");
        let rise = object.number("SuccessBeforePassing", THRESHOLD_MAX)?.unwrap_or(0).max(1);
        let fall = object.number("FailuresBeforeCritical", THRESHOLD_MAX)?.unwrap_or(0).max(1);
        let before_warning = object.number("FailuresBeforeWarning", THRESHOLD_MAX)?;
        if before_warning.is_some_and(|count| count > 0 && count != fall) {
            let why = "FailuresBeforeWarning must be equal to FailuresBeforeCritical: a probe passes or fails";
            return Err(invalid(why));
        }
        if !body.is_empty() {
            return Err(invalid("Body is not supported: a probe sends none"));
        }
        let targets = [(&http, ProbeKind::Http), (&tcp, ProbeKind::Tcp), (&grpc, ProbeKind::Grpc)];
        let mut given = targets.into_iter().filter(|(target, _)| !target.is_empty());
        let (first, second) = (given.next(), given.next());
        match (ttl_ms, first) {
            _ if second.is_some() => Err(invalid("only one of TTL, HTTP, TCP and GRPC is allowed")),
            (Some(_), Some(_)) => Err(invalid("TTL cannot be used with an interval or a target")),
            (Some(_), None) if interval_ms.is_some() => {
                Err(invalid("TTL cannot be used with an interval or a target"))
            }
            (Some(ttl_ms), None) if (TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms) => {
                Ok(Kind::Ttl { ttl_ms })
            }
            (Some(_), None) => Err(invalid("TTL must be from 1s to 9600h")),
            (None, None) => {
                Err(invalid("TTL must be set, or Interval with one of HTTP, TCP and GRPC"))
            }
            (None, Some((written, kind))) => {
                let Some(interval_ms) = interval_ms else {
                    return Err(invalid("Interval must be > 0 for HTTP, TCP or GRPC checks"));
                };
                let interval_ms = interval_ms.max(INTERVAL_MS_MIN);
                let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT);
                if interval_ms > INTERVAL_MS_MAX || timeout_ms > TIMEOUT_MS_MAX {
                    return Err(invalid("Interval may be up to 1h, and Timeout up to 1m"));
                }
                let target = Target::read(written, &kind)?;
                let uses_tls = target.uses_tls || kind == ProbeKind::Grpc && grpc_uses_tls;
                let method = if http_method.is_empty() { "GET".to_owned() } else { http_method };
                let spec = ProbeSpec {
                    kind,
                    path: target.path,
                    method,
                    headers,
                    insecure_tls: skips_verification,
                    interval_ms,
                    timeout_ms,
                    rise: u32::try_from(rise).unwrap_or(1),
                    fall: u32::try_from(fall).unwrap_or(1),
                    ..ProbeSpec::default()
                };
                let target = target.target;
                Ok(Kind::Probe(Box::new(Probe {
                    spec,
                    target,
                    written: written.clone(),
                    uses_tls,
                })))
            }
        }
    }

    /// Whether nodes of Maxine make it.
    pub(crate) fn is_probe(&self) -> bool {
        matches!(self.kind, Kind::Probe(_))
    }

    /// Whether an instance with this check is called over TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        matches!(&self.kind, Kind::Probe(probe) if probe.uses_tls)
    }

    /// The state that the client sets, for a check of the catalog.
    pub(crate) fn static_state(&self) -> Option<(CheckStatus, &str)> {
        match &self.kind {
            Kind::Static { output } => {
                Some((self.initial.unwrap_or(CheckStatus::Critical), output))
            }
            Kind::Ttl { .. } | Kind::Probe(_) => None,
        }
    }

    /// Refuses a check of the catalog that names another node or service than the registration that it came with.
    pub(crate) fn check_place(&self, node: &str, service_id: &str) -> Result<(), Refusal> {
        if !self.node.is_empty() && !is_same_node(&self.node, node) {
            return Err(invalid(format!(
                "its Node {:?} is not that of the registration, {node:?}",
                self.node
            )));
        }
        if !self.service_id.is_empty() && self.service_id != service_id {
            return Err(invalid(format!(
                "its ServiceID {:?} is not that of the registration, {service_id:?}",
                self.service_id
            )));
        }
        Ok(())
    }

    /// Makes the check of an instance with this address. `id` is used if the client gave none.
    pub(crate) fn into_check(
        self,
        id: String,
        address: AddressParts<'_>,
    ) -> Result<(Check, CheckExtra), Refusal> {
        let id = if self.id.is_empty() { id } else { self.id };
        if is_reserved_check(&id) {
            return Err(invalid(format!("the CheckID {id:?} is reserved")));
        }
        let initial = self.initial.unwrap_or(CheckStatus::Critical);
        let mut extra = CheckExtra {
            id: id.clone(),
            name: self.name,
            notes: self.notes,
            deregister_after_ms: self.deregister_after_ms,
            passes_first: initial == CheckStatus::Passing,
            ..CheckExtra::default()
        };
        let ttl = |id: &str, ttl_ms| {
            if id == Check::PROBE {
                return Err(invalid("the CheckID probe is reserved"));
            }
            let id = Name::parse("CheckID", id)?;
            Ok(Check { id, kind: CheckKind::Ttl { ttl_ms, initial } })
        };
        let check = match self.kind {
            Kind::Ttl { ttl_ms } => ttl(&id, ttl_ms)?,
            Kind::Static { .. } => {
                extra.is_static = true;
                ttl(&id, TTL_MS_MAX)?
            }
            Kind::Probe(probe) => {
                Name::parse("CheckID", &id)?;
                probe.target.check(address)?;
                extra.probe = true;
                extra.target = probe.written;
                Check::probe(probe.spec)
            }
        };
        Ok((check, extra))
    }
}

/// The request headers of an HTTP check: names, each with a list of values.
fn headers(object: &mut Object) -> Result<Vec<(String, String)>, Refusal> {
    let Some(fields) = object.object("Header")? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for (name, values) in fields.into_entries() {
        let values = match values {
            serde_json::Value::Array(values) => values,
            other => vec![other],
        };
        for value in values {
            let serde_json::Value::String(value) = value else {
                return Err(invalid("the values of Header must be lists of strings"));
            };
            all.push((name.clone(), value));
        }
    }
    Ok(all)
}

/// What is read from a target.
struct ReadTarget {
    target: Target,
    path: String,
    uses_tls: bool,
}

impl Target {
    fn read(written: &str, kind: &ProbeKind) -> Result<ReadTarget, Refusal> {
        let wrong = || invalid(format!("{written:?} is no target of an HTTP, TCP or gRPC check"));
        match kind {
            ProbeKind::Http | ProbeKind::Heartbeat => {
                let uri: Uri = written.parse().map_err(|_| wrong())?;
                let uses_tls = match uri.scheme_str() {
                    Some("http") => false,
                    Some("https") => true,
                    _ => return Err(wrong()),
                };
                if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
                    return Err(invalid("HTTP must not contain a user or a password"));
                }
                let host = unbracketed(uri.host().ok_or_else(wrong)?);
                let default_port = if uses_tls { 443 } else { 80 };
                let port = uri.port_u16().unwrap_or(default_port);
                let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                let target = Self { host, port: Some(port) };
                Ok(ReadTarget { target, path, uses_tls })
            }
            ProbeKind::Tcp => Ok(ReadTarget {
                target: Self::host_port(written).ok_or_else(wrong)?,
                path: String::new(),
                uses_tls: false,
            }),
            ProbeKind::Grpc => {
                let (address, service) = written.split_once('/').unwrap_or((written, ""));
                let target = Self::host_port(address).ok_or_else(wrong)?;
                Ok(ReadTarget { target, path: service.to_owned(), uses_tls: false })
            }
        }
    }

    fn host_port(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: unbracketed(host), port: Some(port.parse().ok()?) })
    }

    /// Refuses a target that is not the instance itself. A loopback address means the instance's machine, because with
    /// Consul the agent runs there.
    fn check(&self, address: AddressParts<'_>) -> Result<(), Refusal> {
        let is_loopback = self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_own = is_loopback || self.host.eq_ignore_ascii_case(address.host);
        if is_own && (self.port == address.port || self.port == Some(address.http_port())) {
            return Ok(());
        }
        let own = match address.port {
            Some(port) => format!("{}:{port}", address.host),
            None => address.host.to_owned(),
        };
        Err(invalid(format!(
            "it asks {}:{}, but a node only probes the address of the instance itself, {own}",
            self.host,
            self.port.unwrap_or_default()
        )))
    }
}

fn unbracketed(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::Address;

    fn check(body: &str) -> Result<(Check, CheckExtra), String> {
        let address = Address::parse("http://10.0.0.1:8080").unwrap();
        let body = CheckBody::of_agent(Object::parse(body.as_bytes()).unwrap());
        let made = body.and_then(|body| body.into_check("service:a".into(), address.parts()));
        made.map_err(|refusal| refusal.text)
    }

    #[test]
    fn checks_become_those_of_maxine() {
        let (ttl, extra) = check(r#"{"TTL":"15s","DeregisterCriticalServiceAfter":"5s"}"#).unwrap();
        assert_eq!(ttl.kind, CheckKind::Ttl { ttl_ms: 15_000, initial: CheckStatus::Critical });
        assert_eq!((extra.id.as_str(), extra.deregister_after_ms), ("service:a", Some(60_000)));
        let http = r#"{"HTTP":"http://localhost:8080/up?x=1","Interval":"10s","Status":"passing"}"#;
        let (http, extra) = check(http).unwrap();
        let CheckKind::Probe(spec) = http.kind else { panic!("{http:?}") };
        let times = (spec.interval_ms, spec.timeout_ms, spec.rise, spec.fall);
        assert_eq!((spec.path.as_str(), times), ("/up?x=1", (10_000, 10_000, 1, 1)));
        assert!(extra.probe && extra.passes_first);
        let (tcp, _) = check(r#"{"tcp":"10.0.0.1:8080","interval":"1s"}"#).unwrap();
        assert!(matches!(tcp.kind, CheckKind::Probe(spec) if spec.kind == ProbeKind::Tcp));
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for (body, part) in [
            (r#"{"HTTP":"http://10.0.0.2:8080/","Interval":"10s"}"#, "only probes the address"),
            (r#"{"HTTP":"http://10.0.0.1:9090/","Interval":"10s"}"#, "only probes the address"),
            (r#"{"HTTP":"http://a:b@10.0.0.1:8080/","Interval":"10s"}"#, "a password"),
            (r#"{"HTTP":"ftp://10.0.0.1:8080/","Interval":"10s"}"#, "no target"),
            (r#"{"HTTP":"http://10.0.0.1:8080/"}"#, "Interval must be"),
            (r#"{"Args":["x"],"Interval":"1s"}"#, "no scripts"),
            (r#"{"TTL":"1s","TCP":"10.0.0.1:8080"}"#, "TTL cannot be used"),
            (r#"{"TTL":"10s","Interval":"5s"}"#, "TTL cannot be used"),
            (r#"{"TTL":"1ms"}"#, "TTL must be"),
            (r#"{"TTL":"x"}"#, "no duration"),
            (r#"{}"#, "TTL must be set"),
            (r#"{"TTL":"5s","CheckID":"probe"}"#, "reserved"),
            (r#"{"TTL":"5s","CheckID":"serfHealth"}"#, "reserved"),
            (r#"{"TTL":"5s","ID":"_node_maintenance"}"#, "reserved"),
            (
                r#"{"TCP":"10.0.0.1:8080","Interval":"1s","ID":"_service_maintenance:a"}"#,
                "reserved",
            ),
            (r#"{"TTL":"5s","Surprise":1}"#, "unknown field"),
        ] {
            let refused = check(body).unwrap_err();
            assert!(refused.contains(part), "{body}: {refused}");
        }
    }
}
