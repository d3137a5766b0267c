//! Who calls, and what their request is called: set by the edge, taken by handlers.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::HeaderValue;
use axum::http::request::Parts;

use crate::state::Actor;

pub use crate::security::{Caller, Via};

/// Longest trace id that is written into audit records, in bytes.
const AUDITED_TRACE_ID_LEN_MAX: usize = 128;

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// What the edge knows of a request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request's trace id: the client's, or a new one.
    pub trace_id: HeaderValue,
    /// The W3C trace parent: the client's if it is valid, or a new one.
    pub traceparent: HeaderValue,
    /// The client's network address: the TCP peer.
    pub client: IpAddr,
}

impl Default for RequestContext {
    fn default() -> Self {
        let empty = HeaderValue::from_static("");
        Self { trace_id: empty.clone(), traceparent: empty, client: [0, 0, 0, 0].into() }
    }
}

impl RequestContext {
    /// The trace id as text; empty where it is not.
    #[must_use]
    pub fn trace_id_text(&self) -> &str {
        self.trace_id.to_str().unwrap_or_default()
    }

    /// Who asks, as the log records it.
    #[must_use]
    pub fn actor(&self, caller: &Caller) -> Actor {
        let trace_id = self.trace_id_text();
        // ASCII, for `to_str` answered: any cut is at a character's boundary.
        let trace_id = &trace_id[..trace_id.len().min(AUDITED_TRACE_ID_LEN_MAX)];
        Actor {
            user: caller.user.clone(),
            address: self.client.to_string().into(),
            trace_id: trace_id.into(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
