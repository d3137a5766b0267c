//! Faces of other protocols over HTTP, whose requests pass the same edge as all others.
//!
//! Place in the flow: the [`super::Front`] passes a request below a face's paths here. The edge identifies the caller
//! and decides access, the body is read within the usual limits, and the face translates. A face is a crate of its own,
//! which this crate does not know; the program connects them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::access::Access;
use super::body::{self, BodyError};
use super::middleware::{FaceRefusal, Shared};
pub use super::send_monitor::AnswerRoom;
use super::stopping::Stopping;
use super::{AppState, Caller, RequestContext, compat_error, native};
use maxine_gateway::{ClientAddr, Peer};
use maxine_identity::AuthError;
use maxine_state::{InstanceKey, Registration};
use maxine_telemetry::Subject;

/// An answer with at least this length holds a place for lists until it is delivered. In bytes.
const LONG_ANSWER_LEN_MIN: usize = 64 * 1_024;

/// A request that was admitted.
pub struct FaceRequest {
    /// The method.
    pub method: Method,
    /// The target.
    pub uri: Uri,
    /// The header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The caller.
    pub caller: Caller,
    /// The client and the names of the request.
    pub context: RequestContext,
    /// The room for the answer.
    pub room: AnswerRoom,
}

/// The face of another protocol. It translates, and decides nothing.
pub trait Face: Send + Sync + 'static {
    /// Whether a path on the API's own port belongs to this face.
    fn takes(&self, path: &str) -> bool;

    /// Who may use a route. A path without a route is open, because its answer says nothing.
    fn access(&self, method: &Method, path: &str) -> Access;

    /// The token of a request, where the protocol puts it.
    fn token(&self, uri: &Uri, headers: &HeaderMap) -> Option<String>;

    /// The maximum length of the body of a request, in bytes; `None` for the limit of JSON bodies.
    fn body_len_max(&self, method: &Method, path: &str) -> Option<usize>;

    /// The answer that refuses a request, in the form of the protocol.
    fn refusal(&self, status: StatusCode, text: String) -> Response<Bytes>;

    /// Answers a request. Dropping the future aborts it.
    fn answer(self: Arc<Self>, request: FaceRequest) -> BoxFuture<'static, Response<Bytes>>;
}

/// Answers a request through a face. Thousands of these futures can wait, so a test limits their size.
pub(super) async fn answer(
    state: &AppState,
    edge: &Shared,
    face: Arc<dyn Face>,
    (peer, room): (Peer, AnswerRoom),
    request: Box<Request>,
) -> Response<Body> {
    let mut record = edge.open(&request, peer);
    let access = face.access(request.method(), request.uri().path());
    if access == Access::Registration {
        record.about(Subject::Registration);
    }
    let token = face.token(request.uri(), request.headers());
    let context = record.context.clone();
    let admitted = edge.admit_to_face(&request, access, token.as_deref(), &context);
    drop(token);
    let response = match admitted {
        Ok(caller) => {
            edge.track_break_glass(&mut record, &caller, &request);
            let may_write = !request.method().is_safe();
            let admitted = Admitted { caller, context, room };
            let answered = admitted_answer(state, &face, admitted, request);
            // Each future through which it passes would hold its whole size, for as long as a read waits.
            let answered = Box::pin(AssertUnwindSafe(answered).catch_unwind());
            match edge.follow(&mut record, may_write, answered).await {
                Ok(response) => response,
                Err(panic) => {
                    compat_error::log_panic(panic.as_ref());
                    let text = "an internal error occurred".to_owned();
                    face.refusal(StatusCode::INTERNAL_SERVER_ERROR, text).map(Body::from)
                }
            }
        }
        Err(refusal) => {
            let (status, text) = (refusal.status(), state.with_reason(refusal.text()));
            face.refusal(status, text).map(Body::from)
        }
    };
    edge.close(record, response)
}

/// Who may have an answer, and where it waits.
struct Admitted {
    caller: Caller,
    context: RequestContext,
    room: AnswerRoom,
}

async fn admitted_answer(
    state: &AppState,
    face: &Arc<dyn Face>,
    Admitted { caller, context, room }: Admitted,
    request: Box<Request>,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(context.clone());
    if caller.role.is_some() {
        parts.extensions.insert(caller.clone());
    }
    let len_max = face.body_len_max(&parts.method, parts.uri.path());
    let len_max = len_max.unwrap_or(state.settings().json_body_len_max);
    let body = match body::read(state, &parts.extensions, body, len_max).await {
        Ok(body) => body,
        Err(error) => {
            let (status, text) = body_refusal(&error, len_max);
            return face.refusal(status, text).map(Body::from);
        }
    };
    let (client, caller_class) = (context.client.ip, caller.class());
    let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
    // Only the body needed them, and a read can wait.
    drop(parts.extensions);
    let is_read = method.is_safe();
    let request = FaceRequest { method, uri, headers, body, caller, context, room };
    let answer = Arc::clone(face).answer(request);
    // A read can wait for minutes, and must not hold up a node that stops. A write is answered.
    let answer = tokio::select! {
        answer = answer => answer,
        () = state.ending().cancelled(), if is_read => {
            face.refusal(StatusCode::INTERNAL_SERVER_ERROR, Stopping.into())
        }
    };
    if answer.body().len() < LONG_ANSWER_LEN_MIN {
        return answer.map(Body::from);
    }
    match state.lists().hold(client, caller_class, answer.map(Body::from)) {
        Ok(response) => response,
        Err(why) => {
            let error = compat_error::CompatError::from(why);
            face.refusal(error.status, error.message).map(Body::from)
        }
    }
}

fn body_refusal(error: &BodyError, len_max: usize) -> (StatusCode, String) {
    match error {
        BodyError::TooLong => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Request body too large, max size: {len_max} bytes"),
        ),
        BodyError::TooSlow => {
            (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())
        }
        BodyError::Broken => (StatusCode::BAD_REQUEST, "the body is malformed".to_owned()),
        BodyError::NoRoom(why) => {
            (StatusCode::TOO_MANY_REQUESTS, format!("too many bodies: {why}"))
        }
    }
}

impl FaceRefusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotAllowed(
                AuthError::Stale { .. } | AuthError::NoState | AuthError::KeysAwaited,
            ) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::NotServing(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn text(self) -> String {
        match self {
            Self::NotAllowed(
                error @ (AuthError::Stale { .. } | AuthError::NoState | AuthError::KeysAwaited),
            ) => error.explanation(),
            Self::NotAllowed(error) => format!("Permission denied: {}", error.explanation()),
            Self::NotServing(reason) => reason,
        }
    }
}

/// Why a read that has waited must not be answered, with the status of the refusal: this node does not belong to the
/// cluster any more, or the caller's credential is not valid any more. `None` if it may be answered.
#[must_use]
pub fn read_ended(state: &AppState, caller: &Caller) -> Option<(StatusCode, String)> {
    if let Some(reason) = state.store().exclusion() {
        return Some((StatusCode::INTERNAL_SERVER_ERROR, reason));
    }
    let text = || "Permission denied: the credential is not valid any more".to_owned();
    (!state.security().is_still_valid(caller)).then(|| (StatusCode::FORBIDDEN, text()))
}

/// The maximum length of an answer that could be delivered to this caller now, in bytes. A longer one need not be
/// built.
#[must_use]
pub fn answer_len_max(
    state: &AppState,
    caller: &Caller,
    client: &ClientAddr,
    room: &AnswerRoom,
) -> usize {
    let len_max = room.len_max();
    match state.lists().has_place(client.ip, caller.class()) {
        true => len_max,
        false => len_max.min(LONG_ANSWER_LEN_MIN - 1),
    }
}

/// Why the caller may not register this instance, with the status of the refusal. `None` if they may. Every way to
/// register decides the same.
#[must_use]
pub fn registration_refusal(
    state: &AppState,
    caller: &Caller,
    client: &ClientAddr,
    key: &InstanceKey,
    registration: &Registration,
) -> Option<(StatusCode, String)> {
    let allowed = native::check_probe(caller, registration.probe())
        .and_then(|()| native::check_target(state, registration))
        .and_then(|()| Ok(state.count_registrant(caller, client, key)?));
    let problem = allowed.err()?;
    let status = problem.status();
    let text = String::from(problem.detail);
    // Clients of other protocols know no 401 with a challenge and no 422.
    let status = match status {
        StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    Some((status, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that this function returns, in bytes.
    fn future_len<'a, F: Future + 'a>(
        _: impl FnOnce(&'a AppState, &'a Shared, Arc<dyn Face>, (Peer, AnswerRoom), Box<Request>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_that_waits_holds_little_memory() {
        let len = future_len(answer);
        assert!(len <= 4_096, "{len} bytes");
    }
}
