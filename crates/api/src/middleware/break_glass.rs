//! Records uses of the break-glass token in the audit log.

use axum::http::{self, StatusCode};

use crate::AuditRelay;
use maxine_state::{Actor, AuditAction};

/// A request that was admitted with the break-glass token. When this value is dropped, the use is recorded with its
/// outcome.
pub(super) struct BreakGlassUse {
    audit: AuditRelay,
    actor: Actor,
    what: String,
    /// The idempotency key of the request. Repeats of one request count as one use of the token.
    key: Option<Box<[u8]>>,
    /// The status of the answer; `None` if the client left before.
    status: Option<StatusCode>,
}

impl BreakGlassUse {
    /// Logs the use. The record follows when the request ends.
    pub(super) fn new<B>(audit: &AuditRelay, actor: Actor, request: &http::Request<B>) -> Self {
        let what = format!("{} {}", request.method(), request.uri().path());
        tracing::warn!(client = %actor.address, request = %what, "the break-glass token was used");
        let key = request.headers().get("idempotency-key").map(|key| key.as_bytes().into());
        Self { audit: audit.clone(), actor, what, key, status: None }
    }

    /// Stores the status of the answer, for the record.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for BreakGlassUse {
    fn drop(&mut self) {
        let what = &self.what;
        let (object, success) = match self.status {
            Some(status) => {
                (format!("{what}, answered {}", status.as_u16()), status.as_u16() < 400)
            }
            None => (format!("{what}, the client left before the answer"), false),
        };
        let (actor, key) = (self.actor.clone(), self.key.as_deref());
        let (action, at_ms) = (AuditAction::BreakGlassUse, self.audit.wall_ms());
        self.audit.record_for_sure(actor, action, &object, success.into(), at_ms, key);
    }
}
