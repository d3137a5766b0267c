//! Direct forwarding: a plain `GET` below the proxy's path, without maps of header fields.
//!
//! Place in the flow: the fast path offers a request whose head it has parsed in its buffer. `maxine_gateway::Direct`
//! forwards it.

use std::sync::Arc;
use std::sync::OnceLock;

use axum::body::Body;
use axum::http::Response;
use httparse::Header;
use maxine_balance::Fields;

use super::proxy::{Forward, Way};
use super::{NAMESPACE, browsers};
use crate::middleware::TRACEPARENT;
use crate::{AppState, RequestContext};
use maxine_gateway::{Direct, DirectOutcome, InterimSink, PlainRequest};
use maxine_http1::{Interim, LowerCase, PlainAnswer};
use maxine_state::ServiceRef;
use maxine_telemetry::{AttemptTrail, Subject};
use maxine_view::{ServiceCounter, ServiceTable};

/// A plain request for which an instance was chosen.
pub(crate) struct DirectForward {
    counter: Arc<ServiceCounter>,
    /// `None` once the outcome was recorded.
    way: Option<Way>,
    direct: Direct,
}

/// The answer to a plain request.
pub(crate) enum Relayed<T> {
    /// The value that was made from a plain answer.
    Plain(T),
    /// The answer was not plain.
    Other(Response<Body>),
}

impl Forward<'_> {
    /// Prepares a `GET` over HTTP/1.1 for direct forwarding, if the request and the service's policy are plain.
    /// Otherwise `None`, and nothing was done for the request.
    pub(crate) fn direct(
        &self,
        state: &AppState,
        context: &RequestContext,
        fields: &[Header<'_>],
        choice_fields: &dyn Fields,
    ) -> Option<DirectForward> {
        let Self::ByPath { name, raw_path, raw_query } = self else { return None };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_plain) || !are_plain(state, fields) {
            return None;
        }
        let service = ServiceRef { namespace: NAMESPACE, service: name };
        let find = |table: &Arc<ServiceTable>| {
            (!table.endpoints().is_empty()).then(|| Arc::clone(table.counter()))
        };
        let counter = state.view().with_table(service, find).flatten()?;
        let traceparent = context.traceparent.of_attempt(1);
        let direct = state.forwarder().direct(&PlainRequest {
            service,
            raw_path,
            raw_query: *raw_query,
            fields,
            choice_fields,
            client: context.client,
            trace_id: (state.trace_header(), &context.trace_id),
            traceparent: (&TRACEPARENT, &traceparent),
        })?;
        Some(DirectForward { counter, way: Some(Way::path(raw_path)), direct })
    }
}

/// Whether the fields of a request need no special handling: it has no credential, and was not sent by a page.
fn are_plain(state: &AppState, fields: &[Header<'_>]) -> bool {
    let is_sandboxing = state.settings().proxy_sandbox;
    let mut cookies = 0;
    fields.iter().all(|Header { name, value }| {
        let Some(lower) = LowerCase::of(name) else { return false };
        let lower = lower.as_str();
        cookies += usize::from(lower == "cookie");
        !matches!(lower, "authorization" | "origin")
            && !lower.starts_with("x-maxine-")
            && !browsers::concerns(lower, value, is_sandboxing)
            && cookies <= 1
    })
}

impl DirectForward {
    /// The subject of the request, for telemetry.
    pub(crate) fn subject(&self) -> Subject {
        Subject::Proxied(Some(Arc::clone(&self.counter)))
    }

    /// Waits for the answer, and records which instance gave it. `take` is called with a plain answer, and reads it in
    /// its buffer. If it returns `None`, the answer is handled like any other. Interim answers go to `interim`.
    pub(crate) async fn run<T>(
        &mut self,
        state: &AppState,
        context: &RequestContext,
        interim: &OnceLock<Interim>,
        take: impl FnMut(&PlainAnswer<'_>) -> Option<T>,
    ) -> (Relayed<T>, AttemptTrail) {
        let sink = || {
            let interim = interim.get_or_init(Interim::default).clone();
            InterimSink::new(interim, browsers::strip_reserved_fields)
        };
        let (relayed, chosen, trail) = match self.direct.run(sink, take).await {
            DirectOutcome::Plain { taken, chosen, trail } => (Relayed::Plain(taken), chosen, trail),
            DirectOutcome::Other(forwarded) => {
                let mut response = forwarded.response;
                browsers::strip_reserved_fields(response.headers_mut());
                (Relayed::Other(response), forwarded.chosen, forwarded.trail)
            }
        };
        if let Some(chosen) = chosen
            && let Some(way) = self.way.take()
        {
            way.hit(state, context, self.counter.key.clone(), chosen);
        }
        (relayed, trail)
    }
}
