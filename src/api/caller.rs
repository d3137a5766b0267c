//! Who calls, and what their request is called: set by the edge, taken by handlers.

use std::borrow::Cow;
use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use maxine_gateway::ClientAddr;
use maxine_state::Actor;
use maxine_telemetry::TraceName;

pub use maxine_identity::{Caller, Via};

/// The caller, for a handler that asks for them; nobody where the edge has not said who calls.
pub(crate) struct CalledBy(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for CalledBy {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Caller>().cloned().unwrap_or_default()))
    }
}

/// What the edge knows of a request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request's trace id: the client's, or a new one.
    pub trace_id: TraceName,
    /// The W3C trace parent: the client's if it is valid, or a new one.
    pub traceparent: TraceName,
    /// Where the request came from.
    pub client: ClientAddr,
}

impl Default for RequestContext {
    fn default() -> Self {
        let (trace_id, traceparent) = (TraceName::default(), TraceName::default());
        Self { trace_id, traceparent, client: ClientAddr::direct([0, 0, 0, 0].into()) }
    }
}

impl RequestContext {
    /// The trace id as text; empty where it is not.
    #[must_use]
    pub fn trace_id_text(&self) -> Cow<'_, str> {
        match &self.trace_id {
            TraceName::Given(value) => value.to_str().unwrap_or_default().into(),
            made => made.text(),
        }
    }

    /// Who asks, as the log records it.
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
