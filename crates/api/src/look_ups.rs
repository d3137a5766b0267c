//! Reports look-ups to telemetry, for the fast path, the [`super::Front`] and `resolve`.

use std::sync::Arc;

use axum::http::Method;

use super::{AppState, RequestContext};
use maxine_discovery::{Choice, Outcome};
use maxine_state::ServiceRef;
use maxine_telemetry::events::shown_service;
use maxine_telemetry::{LookupHit, Mode, Subject};

/// Longest text of a client that is noted of a look-up, in characters.
const SHOWN_LEN_MAX: usize = 64;

/// A request for an instance's address.
pub(super) struct LookUpRequest<'a> {
    /// The service that it asks for; an empty name where it names none.
    pub(super) service: ServiceRef<'a>,
    /// The way to the instance that Maxine offers it.
    pub(super) way: &'static str,
    /// The way that the request names itself.
    pub(super) mode: Option<&'a str>,
    /// Its method.
    pub(super) method: &'a Method,
    /// Its ids.
    pub(super) context: &'a RequestContext,
    /// When it is answered, in milliseconds since 1970.
    pub(super) time_ms: u64,
}

impl LookUpRequest<'_> {
    /// Counts and notes the outcome, and says what the request was.
    pub(super) fn account(&self, state: &AppState, outcome: Outcome) -> Subject {
        let service = outcome.service().map(Arc::clone);
        match outcome {
            Outcome::Found(Choice { service, instance, share }) => {
                state.telemetry().lookup_hit(|| LookupHit {
                    time_ms: self.time_ms,
                    service,
                    instance,
                    share,
                    mode: self.mode.map_or(Mode::Way(self.way), |mode| Mode::Asked(shown(mode))),
                    trace_id: self.context.trace_id.clone(),
                });
            }
            Outcome::NoInstance(_) | Outcome::NoService => {
                miss(state, self.context, self.service, self.method);
            }
            Outcome::NoName => {}
        }
        Subject::Lookup(service)
    }
}

/// Notes a look-up for which there is no instance.
pub(super) fn miss(
    state: &AppState,
    context: &RequestContext,
    service: ServiceRef<'_>,
    method: &Method,
) {
    state.telemetry().record(
        "discovery.lookup",
        "MISS",
        vec![
            ("serviceName", shown(&shown_service(service)).into_string().into()),
            ("method", method.as_str().into()),
            ("traceId", context.trace_id_text().into()),
        ],
    );
}

/// What is noted of a client's text.
pub(super) fn shown(text: &str) -> Box<str> {
    text.chars().take(SHOWN_LEN_MAX).collect::<String>().into()
}
