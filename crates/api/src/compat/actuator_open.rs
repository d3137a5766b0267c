//! The open routes of the actuator. Their answers contain nothing that a stranger must not know.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::json;

use super::json::answer;
use crate::AppState;
use crate::compat_error::CompatError;

pub(super) async fn health() -> Response<Body> {
    answer(&json!({ "status": "UP" }))
}

pub(super) async fn info() -> Response<Body> {
    answer(&json!({
        "build": {
            "name": "maxine-discovery",
            "description": env!("CARGO_PKG_DESCRIPTION"),
            "version": env!("CARGO_PKG_VERSION"),
        }
    }))
}

/// This process's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    /// Resident memory.
    resident: Option<u64>,
    /// Reserved data and stack.
    data: Option<u64>,
    /// The part of the resident memory that belongs to this process alone.
    private: Option<u64>,
}

fn memory() -> Memory {
    // A value is null if the system does not report it.
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1_024)
    };
    Memory { resident: bytes("VmRSS"), data: bytes("VmData"), private: bytes("RssAnon") }
}

pub(super) async fn metrics(State(state): State<AppState>) -> Response<Body> {
    let memory = memory();
    // The conversion is exact for longer than any process runs.
    let uptime_s = state.telemetry().uptime_us() as f64 / 1e6;
    answer(&json!({
        "mem": {
            "rss": memory.resident,
            "heapTotal": memory.data,
            "heapUsed": memory.private,
            "external": 0,
            "arrayBuffers": 0,
        },
        "uptime": uptime_s,
    }))
}

pub(super) async fn performance(
    State(state): State<AppState>,
) -> Result<Response<Body>, CompatError> {
    let not_found = |text: &str| CompatError::new(StatusCode::NOT_FOUND, text);
    let Some(url) = &state.settings().performance_report_url else {
        return Err(not_found("Performance report URL is not configured."));
    };
    let report = state.performance_report().get(url, state.clock()).await;
    report.map(page).ok_or_else(|| not_found("Could not retrieve load test report."))
}

/// A page that may neither run scripts nor load anything from another address.
fn page(html: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(html.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; \
                  sandbox; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// `GET /api/actuator/status`: the status of the process as a page without scripts.
pub(super) async fn status(State(state): State<AppState>) -> Response<Body> {
    let memory = memory();
    let uptime_s = state.telemetry().uptime_us() / 1_000_000;
    let metrics = state.telemetry().metrics();
    let rows = [
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Uptime", format!("{uptime_s} s")),
        ("Resident memory", memory.resident.map_or_else(|| "unknown".into(), maxine_wording::size)),
        ("Open connections", metrics.connections.get().to_string()),
        ("Requests answered", metrics.requests.get().to_string()),
        ("Look-ups answered", metrics.discoveries.get().to_string()),
    ];
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{name}</th><td>{value}</td></tr>"))
        .collect();
    page(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>Maxine: process</title>\
         <style>body{{font:16px/1.5 system-ui;margin:2rem}}th{{text-align:left;padding-right:2rem}}\
         </style></head><body><h1>Process</h1><table>{rows}</table></body></html>"
    ))
}
