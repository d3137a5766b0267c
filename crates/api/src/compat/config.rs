//! `GET` and `PUT /api/maxine/control/config`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use serde_json::{Map, Value, json};

use super::json::{answer, read_object};
use crate::compat_error::CompatError;
use crate::{AppState, CalledBy, RequestContext};
use maxine_actors::{WriteError, WriteRequest};
use maxine_state::{
    Command, DiscoveryMode, LogFormat, Rejection, RuntimeConfig, SelectionStrategy,
};

const SUCCESS: &str = "Success";
const TYPE_ERROR: &str = "Type Error";
const WRONG_VALUE: &str = "Wrong value Or Invalid value";
/// Maximum number of attempts if another user changes the configuration at the same time.
const RETRIES_MAX: usize = 16;

/// One value of an enumeration in this API. Its ordinal is its position in the table.
struct Choice<T> {
    value: T,
    name: &'static str,
    message: &'static str,
}

const STRATEGIES: [Choice<SelectionStrategy>; 4] = [
    Choice { value: SelectionStrategy::RoundRobin, name: "RR", message: "Round Robin" },
    Choice { value: SelectionStrategy::ConsistentHash, name: "CH", message: "Consistent Hashing" },
    Choice { value: SelectionStrategy::Rendezvous, name: "RH", message: "Rendezvous Hashing" },
    Choice { value: SelectionStrategy::LeastRequest, name: "LR", message: "Least Requests" },
];
const MODES: [Choice<DiscoveryMode>; 2] = [
    Choice { value: DiscoveryMode::Redirect, name: "REDIRECT", message: "Redirect" },
    Choice { value: DiscoveryMode::Proxy, name: "PROXY", message: "Proxy" },
];
const FORMATS: [Choice<LogFormat>; 2] = [
    Choice { value: LogFormat::Json, name: "JSON", message: "Jsonified logging" },
    Choice { value: LogFormat::Plain, name: "PLAIN", message: "Plain logs" },
];

fn show<T: PartialEq>(choices: &[Choice<T>], value: &T) -> Value {
    let found = choices.iter().enumerate().find(|(_, choice)| choice.value == *value);
    found.map_or(Value::Null, |(ordinal, choice)| {
        json!({
            "name": choice.name,
            "code": ordinal.to_string(),
            "message": choice.message,
            "ordinal": ordinal,
        })
    })
}

fn choose<T: Copy>(choices: &[Choice<T>], value: &Value) -> Result<T, &'static str> {
    let name = value.as_str().ok_or(WRONG_VALUE)?;
    let found = choices.iter().find(|choice| choice.name == name);
    found.map(|choice| choice.value).ok_or(WRONG_VALUE)
}

pub(super) async fn read(State(state): State<AppState>) -> Response<Body> {
    let snapshot = state.view().snapshot();
    let config = &snapshot.state.config().config;
    answer(&json!({
        "logAsync": config.log_async,
        "heartBeatTimeout": config.heartbeat_timeout_s,
        "logJsonPrettify": config.log_json_prettify,
        "actuatorEnabled": true,
        "statusMonitorEnabled": true,
        "serverSelectionStrategy": show(&STRATEGIES, &config.selection_strategy),
        "discoveryMode": show(&MODES, &config.discovery_mode),
        "logFormat": show(&FORMATS, &config.log_format),
        "port": state.settings().port,
    }))
}

pub(super) async fn change(
    State(state): State<AppState>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    request: Request,
) -> Result<Response<Body>, CompatError> {
    let body = read_object(&state, request).await?;
    let mut retries = 0;
    let report = loop {
        let record = state.view().snapshot().state.config().clone();
        let (config, report) = changed(&record.config, &body);
        if config == record.config {
            break report;
        }
        let command = Command::PutConfig { config, expected_revision: Some(record.revision) };
        let actor = context.actor(&caller);
        let request = WriteRequest {
            actor,
            request_id: None,
            fence: None,
            answer_by_ms: context.answer_by_ms,
            command,
        };
        match state.registry().propose(request).await {
            Ok(_) => break report,
            Err(WriteError::Rejected {
                rejection: Rejection::RevisionMismatch { actual, .. },
                ..
            }) if retries < RETRIES_MAX => {
                retries += 1;
                // The other user's change may not be visible on this node yet.
                let limit = std::time::Duration::from_millis(500);
                let _ = state.view().wait_for(actual, limit).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let report = Value::Object(report);
    state.telemetry().record(
        "config.updated",
        "UPDATED",
        vec![
            ("userName", Value::from(caller.user.as_ref())),
            ("role", caller.role.map(maxine_state::Role::as_str).into()),
            ("changes", report.clone()),
            ("traceId", context.trace_id_text().into()),
        ],
    );
    Ok(answer(&report))
}

/// The configuration with the valid fields of `body`, and the result for each known field.
pub(super) fn changed(
    config: &RuntimeConfig,
    body: &Map<String, Value>,
) -> (RuntimeConfig, Map<String, Value>) {
    let mut new = config.clone();
    let mut report = Map::new();
    for (field, value) in body {
        let result = match field.as_str() {
            "logAsync" => boolean(value).map(|value| new.log_async = value),
            "logJsonPrettify" => boolean(value).map(|value| new.log_json_prettify = value),
            "heartBeatTimeout" => seconds(value).map(|value| new.heartbeat_timeout_s = value),
            "serverSelectionStrategy" => {
                choose(&STRATEGIES, value).map(|value| new.selection_strategy = value)
            }
            "discoveryMode" => choose(&MODES, value).map(|value| new.discovery_mode = value),
            "logFormat" => choose(&FORMATS, value).map(|value| new.log_format = value),
            _ => continue,
        };
        let text = result.map_or_else(|text| text, |()| SUCCESS);
        report.insert(field.clone(), text.into());
    }
    (new, report)
}

fn boolean(value: &Value) -> Result<bool, &'static str> {
    value.as_bool().ok_or(TYPE_ERROR)
}

fn seconds(value: &Value) -> Result<u64, &'static str> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0).ok_or(TYPE_ERROR)?;
    if number < 1.0 {
        return Err(WRONG_VALUE);
    }
    // A cast from f64 saturates, so a value above the limit stays above it.
    let config = RuntimeConfig { heartbeat_timeout_s: number as u64, ..RuntimeConfig::default() };
    config.check().map_err(|_| WRONG_VALUE)?;
    Ok(config.heartbeat_timeout_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_fields_take_effect_even_beside_bad_ones() {
        let body = json!({
            "logAsync": "true", "logJsonPrettify": true, "heartBeatTimeout": 7.0,
            "serverSelectionStrategy": "toString", "discoveryMode": "PROXY", "logFormat": null,
            "port": 1, "unknown": 2,
        });
        let (config, report) = changed(&RuntimeConfig::default(), body.as_object().unwrap());
        assert_eq!(
            Value::Object(report),
            json!({
                "logAsync": TYPE_ERROR, "logJsonPrettify": SUCCESS, "heartBeatTimeout": SUCCESS,
                "serverSelectionStrategy": WRONG_VALUE, "discoveryMode": SUCCESS,
                "logFormat": WRONG_VALUE,
            })
        );
        assert_eq!((config.heartbeat_timeout_s, config.log_json_prettify), (7, true));
        assert_eq!(config.discovery_mode, DiscoveryMode::Proxy);
    }

    #[test]
    fn a_heartbeat_timeout_is_a_whole_number_of_at_least_one() {
        for bad in [json!("5"), json!(5.5), json!(null), json!(true)] {
            assert_eq!(seconds(&bad), Err(TYPE_ERROR), "{bad}");
        }
        for bad in [json!(0), json!(-1), json!(1e300)] {
            assert_eq!(seconds(&bad), Err(WRONG_VALUE), "{bad}");
        }
        assert_eq!(seconds(&json!(1)), Ok(1));
    }
}
