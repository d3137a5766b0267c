//! One finished request, as traces, the request log and the counters use it.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use http::{Method, StatusCode, Uri, Version};

use super::TraceName;
use crate::AttemptTrail;
use maxine_view::ServiceCounter;

/// Maximum length of a stored request target, in bytes.
const TARGET_LEN_MAX: usize = 2_048;

/// The kind of a request, as its handler reports it, with the requested service if it is registered.
#[derive(Clone, Debug, Default)]
pub enum Subject {
    /// A look-up: a redirect to an instance, or a resolve.
    Lookup(Option<Arc<ServiceCounter>>),
    /// A request to forward to an instance.
    Proxied(Option<Arc<ServiceCounter>>),
    /// A registration, a heartbeat, or a batch of them.
    Registration,
    /// Anything else.
    #[default]
    Other,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub struct FinishedRequest {
    /// The kind of the request.
    pub subject: Subject,
    /// The method.
    pub method: Method,
    /// The request target, up to 2,048 bytes. It has the query only if a setting asks for it. It is a copy:
    /// the original is part of the connection's read buffer, which could not be reused while it is kept.
    pub target: Box<str>,
    /// The protocol's version.
    pub version: Version,
    /// The client's network address.
    pub client: IpAddr,
    /// The trace id.
    pub trace_id: TraceName,
    /// The W3C trace parent.
    pub traceparent: TraceName,
    /// The client's span, if this node exports traces and the client named one.
    pub parent_span: Option<NonZeroU64>,
    /// Whether the client used HTTPS.
    pub is_https: bool,
    /// When it began, on the monotonic clock, in microseconds.
    pub started_us: u64,
    /// Time until the head of the answer was ready, in microseconds.
    pub duration_us: u64,
    /// The answer's status.
    pub status: StatusCode,
    /// The attempts of a forwarded request.
    pub attempts: AttemptTrail,
    /// The writes that the request caused. Empty unless this node exports traces.
    pub writes: Vec<WriteRecord>,
}

/// One write that a request caused, with its times on the monotonic clock, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRecord {
    /// When the request passed it to the registry's actor.
    pub submitted_us: u64,
    /// When the request had the answer.
    pub answered_us: u64,
    /// Why it was not carried out. `None` if it was.
    pub error: Option<String>,
    /// Its way into the state. `None` if it did not get there.
    pub stages: Option<WriteStages>,
}

/// The way of one write into the state, with its times on the monotonic clock, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteStages {
    /// When the actor took it from its mailbox.
    pub received_us: u64,
    /// When its batch was passed to the backend.
    pub proposed_us: u64,
    /// When the backend had answered.
    pub decided_us: u64,
    /// Number of writes in the batch.
    pub batch_len: usize,
    /// When this node began to apply it, and when the result was published. `None` if that is not known any more.
    pub applied_us: Option<(u64, u64)>,
    /// The index of the state after it.
    pub index: u64,
}

impl FinishedRequest {
    /// The part of a request's target that is stored.
    #[must_use]
    pub fn target_of(uri: &Uri, with_query: bool) -> Box<str> {
        Self::kept(uri.path_and_query().map_or("/", |target| target.as_str()), with_query)
    }

    /// The part of a target's text that is stored. A query may contain data that is only for its receiver.
    #[must_use]
    pub fn kept(target: &str, with_query: bool) -> Box<str> {
        let end = target.find('?').filter(|_| !with_query).unwrap_or(target.len());
        let target = &target[..end];
        target[..target.floor_char_boundary(TARGET_LEN_MAX)].into()
    }

    /// The target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// A finished request with its time.
#[derive(Clone, Debug)]
pub struct Trace {
    /// When it began, in milliseconds since 1970.
    pub time_ms: u64,
    /// The request.
    pub request: FinishedRequest,
}
