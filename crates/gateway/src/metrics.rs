//! The events that the proxy reports for metrics. The proxy itself stores no metric.

use std::time::Duration;

use maxine_state::{Name, ServiceKey};

use super::tick::UpstreamEvent;

/// One forwarded request. It is reported when the head of its response is sent to the client.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// The service.
    pub service: &'a ServiceKey,
    /// The instance that answered or failed last, if one was chosen.
    pub instance: Option<&'a Name>,
    /// The status that the client gets.
    pub status: u16,
    /// The proxy's error code, if the proxy answers itself.
    pub error: Option<&'static str>,
    /// Number of attempts.
    pub attempts: u32,
    /// Time from the request's arrival to the head of its response.
    pub elapsed: Duration,
}

/// Receives the proxy's events. Called on the request path, so it must not block.
pub trait ProxyMetrics: Send + Sync + 'static {
    /// A request was answered.
    fn request(&self, record: &RequestRecord<'_>) {
        let _ = record;
    }
    /// A request is tried again because of this error code or status.
    fn retry(&self, service: &ServiceKey, reason: &str) {
        let _ = (service, reason);
    }
    /// A second attempt was sent because the first one took long.
    fn hedge(&self, service: &ServiceKey) {
        let _ = service;
    }
    /// A copy of a request was sent to the mirror. If `sent` is false, it was dropped because too many were in flight.
    fn mirror(&self, service: &ServiceKey, sent: bool) {
        let _ = (service, sent);
    }
    /// The status of an instance changed.
    fn upstream_changed(&self, event: &UpstreamEvent) {
        let _ = event;
    }
}

/// Ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMetrics;

impl ProxyMetrics for NoMetrics {}
