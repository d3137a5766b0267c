//! Reports look-ups to telemetry, for the fast path, the [`super::Front`] and `resolve`.

use std::sync::Arc;

use axum::http::Method;

use super::{AppState, RequestContext};
use maxine_discovery::{Choice, Outcome};
use maxine_state::ServiceRef;
use maxine_telemetry::events::shown_service;
use maxine_telemetry::{LookupHit, Mode, Subject};

/// Maximum length of a client's text that is recorded for a look-up, in characters.
const SHOWN_LEN_MAX: usize = 64;

/// A request for an instance's address.
pub(super) struct LookUpRequest<'a> {
    /// The service that the request asks for. Its name is empty if the request names none.
    pub(super) service: ServiceRef<'a>,
    /// How Maxine leads the client to the instance, such as `redirect`.
    pub(super) way: &'static str,
    /// The mode that the request itself names, if any.
    pub(super) mode: Option<&'a str>,
    /// The method of the request.
    pub(super) method: &'a Method,
    /// The trace ids and the client of the request.
    pub(super) context: &'a RequestContext,
    /// When the request is answered, in milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
}

impl LookUpRequest<'_> {
    /// Counts and records the outcome. Returns the subject of the request, for telemetry.
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

/// Records a look-up for which there is no instance.
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

/// The part of a client's text that is recorded.
pub(super) fn shown(text: &str) -> Box<str> {
    text.chars().take(SHOWN_LEN_MAX).collect::<String>().into()
}
