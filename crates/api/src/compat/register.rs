//! `POST /api/maxine/serviceops/register`: registers an instance, or renews its lease.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::json::{answer, read_object};
use super::registration;
use super::time::us_english;
use crate::compat_error::CompatError;
use crate::{AppState, CalledBy, RequestContext, registrants, reserved};

pub(super) async fn register(
    State(state): State<AppState>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    request: Request,
) -> Result<Response<Body>, CompatError> {
    let body = read_object(&state, request).await?;
    let default_s = state.view().snapshot().state.config().config.heartbeat_timeout_s;
    let (key, asked) = registration::read(&body, default_s).map_err(CompatError::bad_request)?;
    let asked = reserved::keep(&state.view().snapshot().state, &key, asked)
        .map_err(|problem| CompatError::bad_request(problem.detail))?;
    let allowed = state.forwarder().egress().check_address(&asked.address);
    allowed.map_err(|denied| CompatError::bad_request(denied.to_string()))?;
    state.count_registrant(&caller, &context.client, &key.instance(asked.id.clone())).map_err(
        |refused| {
            let refusal = CompatError::new(StatusCode::TOO_MANY_REQUESTS, refused.to_string());
            refusal.with_retry_after_s(Some(registrants::RETRY_AFTER_S))
        },
    )?;
    let item = (key.clone(), asked.clone());
    let actor = context.actor(&caller);
    let (index, answers) =
        state.registry().register(actor, None, context.answer_by_ms, vec![item]).await?;
    match answers.into_iter().next() {
        Some(Ok(_)) => {}
        Some(Err(rejection)) => {
            return Err(maxine_actors::WriteError::Rejected { rejection, index }.into());
        }
        None => {
            let text = "the registry gave no answer";
            return Err(CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
    }
    let snapshot = state.view().snapshot();
    let stored =
        snapshot.state.service(&key).and_then(|service| service.instances.get(&asked.id).cloned());
    let registered_at_ms =
        stored.map_or_else(|| state.clock().wall_ms(), |instance| instance.registered_at_ms);
    let telemetry = state.telemetry();
    telemetry.metrics().registrations.inc();
    telemetry.record(
        "registry.register",
        "REGISTERED",
        vec![
            ("serviceName", Value::from(key.service.as_str())),
            ("nodeName", asked.id.as_str().into()),
            ("address", asked.address.as_str().into()),
            ("traceId", context.trace_id_text().into()),
        ],
    );
    Ok(answer(&json!({
        "hostName": body.get("hostName"),
        "nodeName": asked.id,
        "serviceName": key.service,
        "timeOut": registration::time_out_s(&asked),
        "weight": asked.weight,
        "address": asked.address,
        "healthCheckPath": registration::health_check_path(&asked),
        "registeredAt": us_english(registered_at_ms),
    })))
}
