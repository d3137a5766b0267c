//! The guarded routes of the actuator.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::json::answer;
use crate::AppState;
use crate::compat_error::CompatError;
use crate::lists::Listing;
use maxine_store::ClusterStatus;
use maxine_telemetry::events::iso_8601;
use maxine_telemetry::{Exposition, Gauges, RaftGauges, Telemetry, Trace, alert_as_json};

pub(super) async fn audit(State(state): State<AppState>, listing: Listing) -> Response<Body> {
    listing.answer(answer(&json!({ "events": state.telemetry().recent_events() })))
}

pub(super) async fn alerts(State(state): State<AppState>, listing: Listing) -> Response<Body> {
    let alerts = state.telemetry().alerts().newest_first();
    let alerts: Vec<Value> = alerts.iter().map(alert_as_json).collect();
    listing.answer(answer(&json!({ "alerts": alerts })))
}

pub(super) async fn traces(State(state): State<AppState>) -> Result<Response<Body>, CompatError> {
    let traces = state.with_telemetry(Telemetry::traces).await.map_err(|_| {
        CompatError::new(StatusCode::SERVICE_UNAVAILABLE, "the traces could not be read")
    })?;
    let traces: Vec<Value> = traces.iter().map(trace_as_json).collect();
    Ok(answer(&json!({ "traces": traces })))
}

fn trace_as_json(trace: &Trace) -> Value {
    let request = &trace.request;
    json!({
        "traceId": request.trace_id.text(),
        "traceparent": request.traceparent.text(),
        "method": request.method.as_str(),
        "path": &*request.target,
        "status": request.status.as_u16(),
        // The conversion is exact far beyond the duration of any request.
        "durationMs": request.duration_us as f64 / 1_000.0,
        "timestamp": iso_8601(trace.time_ms),
    })
}

pub(super) async fn cluster(State(state): State<AppState>) -> Response<Body> {
    let settings = state.settings();
    let observed_at = iso_8601(state.clock().wall_ms());
    if !settings.clustered {
        return answer(&json!({
            "enabled": false,
            "instanceId": settings.instance_id,
            "isLeader": true,
            "hasLeader": true,
            "fencingToken": 0,
            "leaderInstanceId": settings.instance_id,
            "observedAt": observed_at,
        }));
    }
    let leadership = state.store().leadership_now();
    let fence = state.view().snapshot().state.grant().map_or(0, |grant| grant.fence.0);
    answer(&json!({
        "enabled": true,
        "instanceId": settings.instance_id,
        "isLeader": leadership.is_leader,
        "hasLeader": leadership.leader.is_some(),
        "fencingToken": fence,
        "leaderInstanceId": leadership.leader,
        "observedAt": observed_at,
    }))
}

pub(super) async fn upstreams(State(state): State<AppState>, listing: Listing) -> Response<Body> {
    let counts = state.health().failing().into_iter().map(|(key, count)| {
        (format!("{}:{}", key.service.service, key.instance), Value::from(count))
    });
    let counts: Map<String, Value> = counts.collect();
    listing.answer(answer(&json!({
        "started": state.health().is_active(),
        "unhealthyNodes": counts.len(),
        "failureCounts": counts,
    })))
}

fn raft_gauges(status: &ClusterStatus) -> RaftGauges {
    RaftGauges {
        term: status.term,
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        last_sync_us: status.last_sync_us,
        disk_stalled: status.disk_stalled,
        log_disk_bytes: status.log_disk_bytes,
        majority: status.majority,
        reachable_voters: status.reachable_voters,
        failures_tolerated: status.failures_tolerated,
    }
}

pub(super) async fn prometheus(
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Response<Body> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Exposition::accepted(accept.unwrap_or_default());
    let leadership = state.store().leadership_now();
    let single = !state.settings().clustered;
    let gauges = Gauges {
        is_leader: single || leadership.is_leader,
        has_leader: single || leadership.leader.is_some(),
        unhealthy_upstreams: state.health().failing().len(),
        staleness_ms: state.store().staleness_ms(),
        raft: state.store().cluster().map(|cluster| raft_gauges(&cluster.status())),
    };
    let snapshot = state.view().snapshot();
    let text = state.telemetry().metrics().render(&snapshot.state, gauges, format);
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
