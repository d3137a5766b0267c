//! One finished request, as the traces, the request log and the counters take it.

use std::net::IpAddr;

use axum::http::{HeaderValue, Method, StatusCode, Uri, Version};

/// A request that has been answered. Cheap to clone: what is long is shared with the request.
#[derive(Clone, Debug)]
pub struct FinishedRequest {
    /// The method.
    pub method: Method,
    /// The request target, query included.
    pub uri: Uri,
    /// The protocol's version.
    pub version: Version,
    /// The client's network address.
    pub client: IpAddr,
    /// The trace id.
    pub trace_id: HeaderValue,
    /// The W3C trace parent.
    pub traceparent: HeaderValue,
    /// When it began, on the monotonic clock, in microseconds.
    pub started_us: u64,
    /// How long it took until the answer's head was ready, in microseconds.
    pub duration_us: u64,
    /// The answer's status.
    pub status: StatusCode,
}

/// A finished request with its time.
#[derive(Clone, Debug)]
pub struct Trace {
    /// When it began, in milliseconds since 1970.
    pub time_ms: u64,
    /// The request.
    pub request: FinishedRequest,
}
