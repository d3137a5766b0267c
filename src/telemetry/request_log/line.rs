//! How a request's log line looks.

use axum::http::Version;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::state::{LogFormat, RuntimeConfig};
use crate::telemetry::FinishedRequest;
use crate::telemetry::events::header_text;

/// Longest request target in a line, in bytes.
const TARGET_LEN_MAX: usize = 2_048;

/// Whether a request is logged: looking at the logs or at the registry is not.
pub(super) fn is_logged(request: &FinishedRequest) -> bool {
    let path = request.uri.path();
    !path.starts_with("/api/logs/") && !path.trim_end_matches('/').ends_with("/servers")
}

/// The line, without its end.
pub(super) fn format(request: &FinishedRequest, time_ms: u64, config: &RuntimeConfig) -> String {
    let status = request.status.as_u16();
    let level = if status >= 404 { "ERROR" } else { "INFO" };
    let endpoint = target(request);
    let version = http_version(request.version);
    let (method, client) = (request.method.as_str(), request.client);
    let timestamp = local_time(time_ms, "%d/%m/%Y %H:%M:%S");
    let trace_id = header_text(&request.trace_id);
    if config.log_format == LogFormat::Plain {
        return format!(
            "[{timestamp}] {level} WEBREQUEST {client} {method} {endpoint} HTTP/{version} {status} {}",
            // A trace id is any visible text: it must not end the line or begin another.
            trace_id.escape_debug()
        );
    }
    let line = json!({
        "LogLevel": level,
        "LogType": "WEBREQUEST",
        "Timestamp": timestamp,
        "Status": status,
        "Method": method,
        "ClientIp": client.to_string(),
        "Endpoint": endpoint,
        "HTTPVersion": version,
        "TraceId": trace_id,
    });
    if config.log_json_prettify {
        return serde_json::to_string_pretty(&line).unwrap_or_default();
    }
    line.to_string()
}

fn target(request: &FinishedRequest) -> &str {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let end = target.len().min(TARGET_LEN_MAX);
    target.get(..end).unwrap_or_default()
}

fn http_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    }
}

/// A time in the server's time zone.
fn local_time(time_ms: u64, format: &str) -> String {
    let time = i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let time = time.unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::system()).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Method, StatusCode, Uri};

    use super::*;

    fn request(path: &'static str, status: u16) -> FinishedRequest {
        FinishedRequest {
            method: Method::GET,
            uri: Uri::from_static(path),
            version: Version::HTTP_11,
            client: [10, 0, 0, 1].into(),
            trace_id: HeaderValue::from_static("abc"),
            traceparent: HeaderValue::from_static(""),
            started_us: 0,
            duration_us: 0,
            status: StatusCode::from_u16(status).unwrap(),
        }
    }

    #[test]
    fn a_json_line_has_the_known_fields() {
        let line = format(&request("/x?a=1", 404), 0, &RuntimeConfig::default());
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["LogLevel"], "ERROR");
        assert_eq!(line["LogType"], "WEBREQUEST");
        assert_eq!(line["Endpoint"], "/x?a=1");
        assert_eq!((&line["Status"], &line["HTTPVersion"]), (&json!(404), &json!("1.1")));
        assert_eq!(line["Timestamp"].as_str().unwrap().len(), "31/12/2026 23:59:59".len());
    }

    #[test]
    fn plain_lines_are_one_line_and_looking_at_logs_is_not_logged() {
        let config = RuntimeConfig { log_format: LogFormat::Plain, ..RuntimeConfig::default() };
        let line = format(&request("/x", 200), 0, &config);
        assert!(line.contains(" INFO WEBREQUEST 10.0.0.1 GET /x HTTP/1.1 200 abc"), "{line}");
        assert!(is_logged(&request("/api/actuator/health", 200)));
        assert!(!is_logged(&request("/api/logs/recent", 200)));
        assert!(!is_logged(&request("/api/maxine/serviceops/servers", 200)));
    }
}
