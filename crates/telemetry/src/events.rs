//! The recent events of this node, as `/api/actuator/audit` shows them. They are kept in memory for existing
//! clients. The replicated audit log, which is chained by hashes, is in the state.

use std::sync::Arc;

use http::uri::PathAndQuery;
use serde_json::{Map, Value};

use super::TraceName;
use maxine_state::{Address, Instance, Name, ServiceKey, ServiceRef};
use maxine_view::ServiceCounter;

pub use maxine_wording::iso_8601;

/// An event outside the hot path.
#[derive(Clone, Debug)]
pub struct RecentEvent {
    /// Time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The type, such as `auth.signin`.
    pub kind: &'static str,
    /// The outcome, such as `SUCCESS`.
    pub outcome: &'static str,
    /// Further fields, in order.
    pub fields: Vec<(&'static str, Value)>,
}

/// A look-up that found an instance. It is only formatted when somebody reads it.
#[derive(Clone, Debug)]
pub struct LookupHit {
    /// Time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The service.
    pub service: Arc<ServiceCounter>,
    /// The instance.
    pub instance: Arc<Instance>,
    /// The number of this turn among the turns of the instance in one cycle of round robin, from 0.
    pub share: u32,
    /// How the caller reaches the instance.
    pub mode: Mode,
    /// The trace id.
    pub trace_id: TraceName,
}

/// A request that was forwarded to an instance. It is only formatted when somebody reads it.
#[derive(Clone, Debug)]
pub struct ForwardHit {
    /// Time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The service.
    pub service: Name,
    /// The instance.
    pub instance: Arc<Instance>,
    /// The number of this turn among the turns of the instance in one cycle of round robin, from 0.
    pub share: u32,
    /// The path after the service's name, as requested, up to [`SHOWN_PATH_LEN_MAX`] bytes. It is a copy, for
    /// the reason given at [`super::FinishedRequest`].
    pub path: Box<str>,
    /// Path and query of the request to the instance.
    pub target: PathAndQuery,
    /// The trace id.
    pub trace_id: TraceName,
}

/// How the caller of a look-up reaches the instance.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The request names no mode: `redirect` or `resolve`, depending on the route.
    Way(&'static str),
    /// The mode that the request names.
    Asked(Box<str>),
}

impl RecentEvent {
    pub(super) fn to_json(&self) -> Value {
        let mut event = head(self.time_ms, self.kind, self.outcome);
        let fields = self.fields.iter();
        event.extend(fields.map(|(name, value)| ((*name).to_owned(), value.clone())));
        Value::Object(event)
    }
}

impl LookupHit {
    pub(super) fn to_json(&self) -> Value {
        let mut event = head(self.time_ms, "discovery.lookup", "HIT");
        let registration = &self.instance.registration;
        let mode = match &self.mode {
            Mode::Way(way) => (*way).to_owned(),
            Mode::Asked(mode) => mode.to_string(),
        };
        let fields = [
            ("serviceName", shown_service(self.service.key.as_ref())),
            ("nodeName", format!("{}-{}", registration.id, self.share)),
            ("address", registration.address.to_string()),
            ("mode", mode),
            ("traceId", self.trace_id.text().into_owned()),
        ];
        event.extend(fields.map(|(name, value)| (name.to_owned(), Value::String(value))));
        Value::Object(event)
    }
}

/// A service as events name it: by its name alone in the default namespace, as `NAMESPACE/NAME` in another.
#[must_use]
pub fn shown_service(service: ServiceRef<'_>) -> String {
    let ServiceRef { namespace, service } = service;
    match namespace == ServiceKey::DEFAULT_NAMESPACE {
        true => service.to_owned(),
        false => format!("{namespace}/{service}"),
    }
}

/// Maximum length of a path that is shown, in bytes.
const SHOWN_PATH_LEN_MAX: usize = 1_024;

/// The part of a path that is shown: without its leading `/`, and up to the maximum length.
#[must_use]
pub fn shown_path(path: &str) -> Box<str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path[..path.floor_char_boundary(SHOWN_PATH_LEN_MAX)].into()
}

impl ForwardHit {
    pub(super) fn to_json(&self) -> Value {
        let mut event = head(self.time_ms, "proxy.request", "PROXIED");
        let registration = &self.instance.registration;
        let fields = [
            ("serviceName", self.service.to_string()),
            ("proxyPath", self.path.to_string()),
            ("nodeName", format!("{}-{}", registration.id, self.share)),
            ("address", url_of(&registration.address, &self.target)),
            ("traceId", self.trace_id.text().into_owned()),
        ];
        event.extend(fields.map(|(name, value)| (name.to_owned(), Value::String(value))));
        Value::Object(event)
    }
}

/// The URL of a request to an instance. `target` already contains the instance's base path. The query is left out,
/// because it may contain data that is only for the instance.
#[must_use]
pub fn url_of(address: &Address, target: &PathAndQuery) -> String {
    let address = address.as_str();
    let authority_at = address.find("://").map_or(0, |at| at + 3);
    let path_at = address[authority_at..].find('/').map_or(address.len(), |at| authority_at + at);
    format!("{}{}", &address[..path_at], target.path())
}

fn head(time_ms: u64, kind: &str, outcome: &str) -> Map<String, Value> {
    let mut event = Map::new();
    event.insert("timestamp".into(), Value::String(iso_8601(time_ms)));
    event.insert("type".into(), Value::String(kind.into()));
    event.insert("outcome".into(), Value::String(outcome.into()));
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_the_addresss_authority_and_the_target() {
        let target = PathAndQuery::from_static("/base/x?a=1");
        for (address, expected) in
            [("http://h:1/base", "http://h:1/base/x"), ("https://[::1]", "https://[::1]/base/x")]
        {
            assert_eq!(url_of(&Address::parse(address).unwrap(), &target), expected);
        }
    }
}
