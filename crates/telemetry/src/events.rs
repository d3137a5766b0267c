//! Recent events of this node, as `/api/actuator/audit` shows them. The replicated, hash-chained
//! audit log is in the state; this is the short memory that existing clients know.

use std::sync::Arc;

use http::uri::PathAndQuery;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::TraceName;
use maxine_state::{Address, Instance, Name};
use maxine_view::ServiceCounter;

/// An event that is not on the hot path.
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

/// A look-up that found a node. Nothing in it is formatted before somebody reads it.
#[derive(Clone, Debug)]
pub struct LookupHit {
    /// Time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The service.
    pub service: Arc<ServiceCounter>,
    /// The instance.
    pub instance: Arc<Instance>,
    /// Which of its shares, from 0.
    pub share: u32,
    /// The mode: `redirect` or `proxy`, or what the request said.
    pub mode: Mode,
    /// The trace id.
    pub trace_id: TraceName,
}

/// A request that was handed to an instance. Nothing in it is formatted before somebody reads it.
#[derive(Clone, Debug)]
pub struct ForwardHit {
    /// Time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The service.
    pub service: Name,
    /// The instance.
    pub instance: Arc<Instance>,
    /// Which of its shares, from 0.
    pub share: u32,
    /// The path after the service's name, as it was asked for, cut at [`SHOWN_PATH_LEN_MAX`] bytes. Its own
    /// copy, as in [`super::FinishedRequest`].
    pub path: Box<str>,
    /// Path and query as the instance is asked.
    pub target: PathAndQuery,
    /// The trace id.
    pub trace_id: TraceName,
}

/// How a look-up was answered, as the event tells it.
#[derive(Clone, Debug)]
pub enum Mode {
    /// As the configuration says.
    Configured(&'static str),
    /// What the request said.
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
            Mode::Configured(mode) => (*mode).to_owned(),
            Mode::Asked(mode) => mode.to_string(),
        };
        let fields = [
            ("serviceName", self.service.key.service.to_string()),
            ("nodeName", format!("{}-{}", registration.id, self.share)),
            ("address", registration.address.to_string()),
            ("mode", mode),
            ("traceId", self.trace_id.text().into_owned()),
        ];
        event.extend(fields.map(|(name, value)| (name.to_owned(), Value::String(value))));
        Value::Object(event)
    }
}

/// Longest path that is shown, in bytes.
const SHOWN_PATH_LEN_MAX: usize = 1_024;

/// What is shown of a path: without the `/` that it begins with, and not all of a long one.
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

/// The URL of a path, base path included, on an instance. The query is left out: it may hold what only the
/// instance should read.
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

/// ISO 8601 in UTC with milliseconds.
#[must_use]
pub fn iso_8601(time_ms: u64) -> String {
    let time = i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
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

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(iso_8601(1_795_440_992_705), "2026-11-23T13:36:32.705Z");
        assert_eq!(iso_8601(0), "1970-01-01T00:00:00.000Z");
    }
}
