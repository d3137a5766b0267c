//! The caller and the names of a request, which the edge sets and handlers read.

use std::borrow::Cow;
use std::convert::Infallible;
use std::num::NonZeroU64;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::settings::ApiSettings;
use maxine_gateway::{ClientAddr, Peer};
use maxine_state::Actor;
use maxine_telemetry::TraceName;

pub use maxine_identity::{AuthMethod, Caller};

/// The caller, for a handler. It has no user if the edge has not set one.
pub(crate) struct CalledBy(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for CalledBy {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Caller>().cloned().unwrap_or_default()))
    }
}

/// Header with the time that the caller of a write waits for its answer, in milliseconds.
pub const TIMEOUT_NAME: &str = "x-maxine-timeout-ms";
const TIMEOUT_HEADER: HeaderName = HeaderName::from_static(TIMEOUT_NAME);
/// Maximum value of [`TIMEOUT_NAME`], in milliseconds.
const TIMEOUT_MS_MAX: u64 = 600_000;

/// Parses [`TIMEOUT_NAME`].
///
/// # Errors
///
/// A text that says which values are valid, if this one is not.
pub fn timeout_ms(headers: &HeaderMap) -> Result<Option<u64>, String> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let valid = |ms: &u64| (1..=TIMEOUT_MS_MAX).contains(ms);
    text.parse()
        .ok()
        .filter(valid)
        .map(Some)
        .ok_or_else(|| format!("{TIMEOUT_NAME} must be a whole number from 1 to {TIMEOUT_MS_MAX}"))
}

/// What the edge knows of a request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request's trace id: the client's, or a new one.
    pub trace_id: TraceName,
    /// The W3C trace parent. If this node exports traces, it names this node's span of the request. Otherwise it is the
    /// client's if that is valid, or a new one.
    pub traceparent: TraceName,
    /// The client's span, if this node exports traces and the client named one.
    pub parent_span: Option<NonZeroU64>,
    /// The address of the client.
    pub client: ClientAddr,
    /// When the caller needs the answer to a write, in milliseconds on the monotonic clock. `None` if the request does
    /// not say so.
    pub answer_by_ms: Option<u64>,
}

impl Default for RequestContext {
    fn default() -> Self {
        let (trace_id, traceparent) = (TraceName::default(), TraceName::default());
        let client = ClientAddr::direct(Peer::plain([0, 0, 0, 0].into()));
        Self { trace_id, traceparent, parent_span: None, client, answer_by_ms: None }
    }
}

impl RequestContext {
    /// The trace id as text; empty if it is not UTF-8.
    #[must_use]
    pub fn trace_id_text(&self) -> Cow<'_, str> {
        match &self.trace_id {
            TraceName::Given(value) => value.to_str().unwrap_or_default().into(),
            made => made.text(),
        }
    }

    /// Whether a password in this request may be used. Over plain HTTP from another machine, others on the way could
    /// read it.
    #[must_use]
    pub fn may_send_password(&self, settings: &ApiSettings) -> bool {
        let ClientAddr { ip, is_unknown, is_https, .. } = self.client;
        let is_here = ip.is_loopback() && !is_unknown;
        is_https || is_here || settings.allow_plain_http
    }

    /// The caller, as the audit log records it.
    #[must_use]
    pub fn actor(&self, caller: &Caller) -> Actor {
        Actor {
            user: caller.user.clone(),
            address: self.client.ip.to_string().into(),
            trace_id: self.trace_id_text().into(),
            via_node: None,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
