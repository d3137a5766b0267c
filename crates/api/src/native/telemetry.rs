//! Data that belongs to this node alone: alerts, their silences, traffic, and recent traces.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{JsonBody, NamePath, NoParams, NumberPath, Params};
use super::fresh::{Fresh, Freshness, Write};
use super::page::{self, Page};
use crate::AppState;
use crate::lists::Listing;
use crate::problem::{Problem, ProblemKind};
use maxine_actors::peer::TrafficSteps;
use maxine_state::limits::{TEXT_LEN_MAX, check_range, check_text};
use maxine_state::{Actor, LimitExceeded, Name, ServiceKey};
use maxine_telemetry::{Alert, AlertKind, AttemptOutcome, AttemptRecord, Silence, Subject, Trace};
use maxine_telemetry::{Telemetry, TrafficExtent, TrafficRange, TrafficStep, TrafficSum};

/// Maximum duration of a silence, in milliseconds (30 days).
const SILENCE_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Newest {
    /// Maximum number of items.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
}

/// Lists this node's latest alerts, newest first.
#[utoipa::path(
    get, path = "/api/v1/alerts", tag = "alerts", operation_id = "listAlerts",
    params(Newest, Freshness), responses((status = 200, body = Page<Alert>)),
)]
pub(super) async fn list_alerts(
    State(state): State<AppState>,
    fresh: Fresh,
    Params(query): Params<Newest>,
    listing: Listing,
) -> Result<Response, Problem> {
    let mut alerts = state.telemetry().alerts().newest_first();
    alerts.truncate(page::limit(query.limit)?);
    Ok(listing.answer(fresh.json(Page::whole(alerts))))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TrafficQuery {
    /// Only calls to this service. Its namespace is `default` if `namespace` is left out.
    service: Option<String>,
    /// The service's namespace.
    namespace: Option<String>,
    /// `recent`: the last hour of the node, or the last quarter of an hour of a service. `day`: the last 24 hours, in steps
    /// of a minute, or of ten minutes for a service. `recent` if left out.
    #[serde(default)]
    #[param(inline)]
    range: TrafficRange,
    /// Only steps that began at this time or later, in milliseconds since 1970.
    since_ms: Option<u64>,
}

impl TrafficQuery {
    /// What is asked for, as another node can be asked the same, and the extent of the steps.
    pub(super) fn question(&self, now_ms: u64) -> Result<(TrafficSteps, TrafficExtent), Problem> {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        let key = self.service.as_deref().map(|service| {
            let namespace = Name::parse_namespace(namespace)?;
            Ok::<_, LimitExceeded>(ServiceKey::new(namespace, Name::parse("service", service)?))
        });
        let service = key.transpose()?;
        let extent = TrafficExtent::of(self.range, service.is_some());
        // Steps without traffic are not stored, so older ones than those of the range may be there.
        let since_ms = self.since_ms.unwrap_or(0).max(now_ms.saturating_sub(extent.span_ms()));
        let is_day = self.range == TrafficRange::Day;
        Ok((TrafficSteps { service, is_day, since_ms }, extent))
    }
}

/// The traffic of a node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TrafficView {
    /// Length of a step, in milliseconds.
    step_ms: u64,
    /// This node's clock, in milliseconds since 1970. The step that contains this time is not complete.
    now_ms: u64,
    /// The steps, oldest first. Steps without traffic are left out.
    items: Vec<TrafficStep>,
    /// The sum of all these steps.
    total: TrafficStep,
}

/// Shows the traffic of this node: all traffic of the last hour, or the traffic of one service in the last quarter of
/// an hour, or of the last 24 hours in longer steps. A service without requests in that time has none.
#[utoipa::path(
    get, path = "/api/v1/traffic", tag = "traffic", operation_id = "traffic",
    params(TrafficQuery, Freshness), responses((status = 200, body = TrafficView)),
)]
pub(super) async fn traffic(
    State(state): State<AppState>,
    fresh: Fresh,
    Params(query): Params<TrafficQuery>,
) -> Result<Response, Problem> {
    let now_ms = state.clock().wall_ms();
    let (TrafficSteps { service, since_ms, .. }, extent) = query.question(now_ms)?;
    let sum = state.with_telemetry(move |telemetry| match &service {
        Some(key) => telemetry.traffic().of_service(key, query.range, since_ms),
        None => telemetry.traffic().of_node(query.range, since_ms),
    });
    let TrafficSum { steps: items, total } = sum.await?;
    Ok(fresh.json(TrafficView { step_ms: extent.step_ms, now_ms, items, total }))
}

/// Acknowledges an alert, and records who did so.
#[utoipa::path(
    post, path = "/api/v1/alerts/{id}/ack", tag = "alerts", operation_id = "acknowledgeAlert",
    params(("id" = u64, Path,)), responses((status = 200, body = Alert)),
)]
pub(super) async fn acknowledge_alert(
    State(state): State<AppState>,
    NumberPath(id): NumberPath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<Alert>, Problem> {
    let alerts = state.telemetry().alerts();
    let missing = || Problem::not_found("alert", &id.to_string());
    state.registry().count_recorded_change(&write.actor)?;
    if !alerts.acknowledge(id, &write.actor.user) {
        return Err(missing());
    }
    let alert = alerts.newest_first().into_iter().find(|alert| alert.id == id);
    let of = alert.as_ref().map(|alert| format!(": {} {}", alert.kind.name(), alert.object));
    let what = format!("alert/{id}, acknowledged{}", of.unwrap_or_default());
    state.audit().record_node_change(write.actor, &state.settings().instance_id, &what, true);
    alert.map(Json).ok_or_else(missing)
}

/// Lists the silences that are in force.
#[utoipa::path(
    get, path = "/api/v1/alerts/silences", tag = "alerts", operation_id = "listSilences",
    params(Freshness), responses((status = 200, body = Page<Silence>)),
)]
pub(super) async fn list_silences(
    State(state): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Response {
    fresh.json(Page::whole(state.telemetry().alerts().silences(state.clock().wall_ms())))
}

/// How long a kind of alert is silenced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SilenceBody {
    /// Duration from now, in milliseconds, at most 30 days.
    #[schema(minimum = 1000, maximum = 2_592_000_000_u64)]
    duration_ms: u64,
    /// Why the alerts are silenced.
    #[serde(default)]
    #[schema(max_length = 1024)]
    reason: String,
}

/// Stops sending a kind of alert to the webhook for some time. The alerts are still listed.
#[utoipa::path(
    put, path = "/api/v1/alerts/silences/{type}", tag = "alerts", operation_id = "silenceAlerts",
    params(("type" = String, Path,)), request_body = SilenceBody,
    responses((status = 200, body = Silence)),
)]
pub(super) async fn silence_alerts(
    State(state): State<AppState>,
    NamePath(kind): NamePath,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<SilenceBody>,
) -> Result<Json<Silence>, Problem> {
    let kind = alert_kind(&kind)?;
    check_text("reason", &body.reason, 0, TEXT_LEN_MAX)?;
    check_range("duration_ms", body.duration_ms, 1_000, SILENCE_MS_MAX)?;
    let now_ms = state.clock().wall_ms();
    let silence = Silence {
        kind,
        until_ms: now_ms + body.duration_ms,
        reason: body.reason,
        by: write.actor.user.clone().into(),
    };
    let reason =
        if silence.reason.is_empty() { "no reason given" } else { silence.reason.as_str() };
    let what = format!("silence/{}, for {} ms: {reason}", kind.name(), body.duration_ms);
    set_silence(&state, write.actor, what, silence.clone(), now_ms).await?;
    Ok(Json(silence))
}

/// Sets a silence, and records `what` was done, even if the client does not wait for the answer.
async fn set_silence(
    state: &AppState,
    actor: Actor,
    what: String,
    silence: Silence,
    now_ms: u64,
) -> Result<(), Problem> {
    state.registry().count_recorded_change(&actor)?;
    let state = state.clone();
    let audit = state.audit().clone();
    let set = async move {
        let stored = store_silence(&state, silence, now_ms).await;
        let (node, is_done) = (&state.settings().instance_id, stored.is_ok());
        state.audit().record_node_change(actor, node, &what, is_done);
        stored
    };
    audit.run_recorded(set).await
}

/// Stores a silence in the data directory, and puts it in force. It may wait for the disk.
async fn store_silence(state: &AppState, silence: Silence, now_ms: u64) -> Result<(), Problem> {
    let set = state.with_telemetry(move |telemetry| telemetry.alerts().silence(silence, now_ms));
    match set.await? {
        Ok(true) => Ok(()),
        Ok(false) => Err(Problem::limit("silences", "fewer at a time", "one more")),
        Err(error) => {
            tracing::error!(%error, "a silence of alerts was not kept");
            let detail =
                "nothing was changed: the silence cannot be written to this node's data directory";
            Err(Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(5))
        }
    }
}

fn alert_kind(name: &Name) -> Result<AlertKind, Problem> {
    AlertKind::named(name.as_str()).ok_or_else(|| {
        let known: Vec<_> = AlertKind::ALL.iter().map(|kind| kind.name()).collect();
        Problem::limit("type", &known.join(", "), name.as_str())
    })
}

/// Ends a silence.
#[utoipa::path(
    delete, path = "/api/v1/alerts/silences/{type}", tag = "alerts",
    operation_id = "unsilenceAlerts",
    params(("type" = String, Path,)), responses((status = 204)),
)]
pub(super) async fn unsilence_alerts(
    State(state): State<AppState>,
    NamePath(kind): NamePath,
    _: Params<NoParams>,
    write: Write,
) -> Result<StatusCode, Problem> {
    // A silence that has already ended replaces the present one.
    let ended = Silence {
        kind: alert_kind(&kind)?,
        until_ms: 0,
        reason: String::new(),
        by: write.actor.user.clone().into(),
    };
    let what = format!("silence/{}, ended", ended.kind.name());
    set_silence(&state, write.actor, what, ended, state.clock().wall_ms()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RequestKind {
    /// A caller's look-up: a redirect to an instance, or a resolve.
    Lookup,
    /// A caller's request that was forwarded to an instance.
    Proxied,
    /// A registration, a heartbeat, or a batch of them.
    Registration,
    /// Anything else.
    Other,
}

impl RequestKind {
    /// The kind, and the service that the request was for.
    fn of(subject: &Subject) -> (Self, Option<&ServiceKey>) {
        match subject {
            Subject::Lookup(service) => (Self::Lookup, service.as_ref().map(|found| &found.key)),
            Subject::Proxied(service) => (Self::Proxied, service.as_ref().map(|found| &found.key)),
            Subject::Registration => (Self::Registration, None),
            Subject::Other => (Self::Other, None),
        }
    }
}

/// A request that this node has answered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TraceView {
    /// Trace id of the request.
    trace_id: String,
    /// W3C trace parent of the request.
    traceparent: String,
    /// The method.
    method: String,
    /// Target of the request, with its query.
    path: String,
    /// What kind of request it was.
    kind: RequestKind,
    /// Namespace of the service that the request was for; null if it was for none, or for one that did not exist.
    namespace: Option<String>,
    /// The service that the request was for; null if it was for none, or for one that did not exist.
    service: Option<String>,
    /// Status of the answer.
    status: u16,
    /// Time until the answer's head was ready, in milliseconds.
    duration_ms: f64,
    /// When the request began, in milliseconds since 1970.
    time_ms: u64,
    /// The client's network address.
    client: String,
    /// The attempts of a forwarded request, in the order in which they began. If there were more than eight, the first
    /// seven and the last. Empty for any other request.
    attempts: Vec<AttemptView>,
}

/// One attempt to get an answer from an instance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AttemptView {
    /// The instance.
    instance: String,
    /// Address of the instance.
    address: String,
    /// Start of the attempt, in milliseconds after the start of the request.
    start_ms: f64,
    /// Time until the head of the answer arrived, or the attempt was given up, in milliseconds.
    duration_ms: f64,
    /// The status that the instance answered; null if it gave no answer.
    status: Option<u16>,
    /// Why there was no answer: the code of `x-maxine-error`, or `lost_hedge` if another instance answered first. Null
    /// if there was an answer.
    error: Option<&'static str>,
}

impl AttemptView {
    fn new(attempt: &AttemptRecord, request_us: u64) -> Self {
        let (status, error) = match attempt.outcome {
            AttemptOutcome::Answered(status) => (Some(status.as_u16()), None),
            AttemptOutcome::Failed(code) => (None, Some(code)),
            AttemptOutcome::LostHedge => (None, Some("lost_hedge")),
        };
        let registration = &attempt.instance.registration;
        Self {
            instance: registration.id.to_string(),
            address: registration.address.to_string(),
            start_ms: attempt.started_us.saturating_sub(request_us) as f64 / 1_000.0,
            duration_ms: attempt.duration_us as f64 / 1_000.0,
            status,
            error,
        }
    }
}

/// Lists this node's latest requests, newest first.
#[utoipa::path(
    get, path = "/api/v1/traces", tag = "traces", operation_id = "listTraces",
    params(Newest, Freshness), responses((status = 200, body = Page<TraceView>)),
)]
pub(super) async fn list_traces(
    State(state): State<AppState>,
    fresh: Fresh,
    Params(query): Params<Newest>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let traces = state.with_telemetry(Telemetry::traces).await?;
    let traces = traces.into_iter().take(limit).map(TraceView::new);
    Ok(fresh.json(Page::whole(traces.collect())))
}

impl TraceView {
    fn new(Trace { time_ms, request }: Trace) -> Self {
        let (kind, service) = RequestKind::of(&request.subject);
        let mut attempts: Vec<&AttemptRecord> = request.attempts.as_slice().iter().collect();
        attempts.sort_by_key(|attempt| attempt.started_us);
        Self {
            trace_id: request.trace_id.text().into_owned(),
            traceparent: request.traceparent.text().into_owned(),
            method: request.method.to_string(),
            path: (&*request.target).into(),
            kind,
            namespace: service.map(|key| key.namespace.as_str().into()),
            service: service.map(|key| key.service.as_str().into()),
            status: request.status.as_u16(),
            duration_ms: request.duration_us as f64 / 1_000.0,
            time_ms,
            client: request.client.to_string(),
            attempts: attempts.iter().map(|a| AttemptView::new(a, request.started_us)).collect(),
        }
    }
}
