//! Checks whether the first request of a connection above the limit has a credential.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::Front;
use super::compat_error::CompatError;
use super::provisional::ProvisionalConnection;
use maxine_admission::{CallerClass, Place};

/// Maximum time until a connection above the limit has shown a credential, and maximum time that an answer to one
/// without a credential may take to arrive.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// The check of one connection.
#[derive(Clone)]
pub(super) struct CredentialCheck(Arc<State>);

struct State {
    connection: ProvisionalConnection,
    /// The place of the connection. Set once its first request has shown a credential.
    place: Mutex<Option<Place>>,
    /// Notified when a request has no valid credential.
    refused: Notify,
}

impl CredentialCheck {
    pub(super) fn new(connection: ProvisionalConnection) -> Self {
        Self(Arc::new(State { connection, place: Mutex::default(), refused: Notify::new() }))
    }

    /// The answer to a request without a valid credential; `None` if it has one. The connection ends after the answer.
    pub(super) fn refusal<B>(
        &self,
        front: &Front,
        request: &Request<B>,
        is_https: bool,
    ) -> Option<Response<Body>> {
        let text = match front.user_class(request, is_https) {
            Some(caller_class) if self.settle(caller_class) => return None,
            Some(_) => "too many connections of your user are open; retry in 1 s",
            None => {
                "too many connections are open; requests with a credential are still taken; retry in 1 s"
            }
        };
        self.0.refused.notify_one();
        let refusal = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text);
        let mut refusal = refusal.with_retry_after_s(Some(1)).into_response();
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Some(refusal)
    }

    /// Gives the connection a place of the user that has shown a credential, unless it has one. Returns false if there
    /// is none for the user.
    fn settle(&self, caller_class: CallerClass) -> bool {
        let mut place = self.0.place.lock();
        if place.is_none() {
            match self.0.connection.settle(caller_class) {
                Ok(settled) => *place = settled,
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits for the first byte. Returns false if another connection got the place first, or if no byte came in time.
    pub(super) async fn wait_for_first_byte(&self, stream: &TcpStream, idle: Duration) -> bool {
        tokio::select! {
            readable = stream.readable() => readable.is_ok(),
            () = self.0.connection.displaced() => false,
            () = tokio::time::sleep(idle.min(TIMEOUT)) => false,
        }
    }

    /// Returns when the connection must be closed: another one has taken its place, or a request was refused some
    /// time ago, so that its answer must have arrived.
    pub(super) async fn failed(&self) {
        let refused = async {
            self.0.refused.notified().await;
            tokio::time::sleep(TIMEOUT).await;
        };
        tokio::select! {
            () = self.0.connection.displaced() => {}
            () = refused => {}
        }
    }
}
