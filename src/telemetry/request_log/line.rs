//! How a request's log line looks.

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;

use axum::http::Version;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::state::{LogFormat, RuntimeConfig};
use crate::telemetry::FinishedRequest;

/// Whether a request is logged: looking at the logs or at the registry is not.
pub(super) fn is_logged(request: &FinishedRequest) -> bool {
    let path = request.path();
    !path.starts_with("/api/logs/") && !path.trim_end_matches('/').ends_with("/servers")
}

/// Formats lines. It remembers the text of the last second, since most lines share theirs with the one
/// before, and the room that a line took.
#[derive(Debug, Default)]
pub(super) struct LineFormat {
    second: u64,
    timestamp: String,
    line: Vec<u8>,
}

impl LineFormat {
    /// The line, UTF-8, without its end.
    pub(super) fn line(
        &mut self,
        request: &FinishedRequest,
        time_ms: u64,
        config: &RuntimeConfig,
    ) -> &[u8] {
        let second = time_ms / 1_000;
        if self.second != second || self.timestamp.is_empty() {
            self.second = second;
            self.timestamp = local_time(second * 1_000, "%d/%m/%Y %H:%M:%S");
        }
        let status = request.status.as_u16();
        let fields = Fields {
            level: if status >= 404 { "ERROR" } else { "INFO" },
            log_type: "WEBREQUEST",
            timestamp: &self.timestamp,
            status,
            method: request.method.as_str(),
            client: request.client,
            endpoint: &request.target,
            version: http_version(request.version),
            trace_id: request.trace_id.text(),
        };
        let line = &mut self.line;
        line.clear();
        // Memory takes every byte.
        let _written = match config.log_format {
            LogFormat::Plain => fields.plain(line).is_ok(),
            LogFormat::Json if config.log_json_prettify => {
                serde_json::to_writer_pretty(line, &fields).is_ok()
            }
            LogFormat::Json => serde_json::to_writer(line, &fields).is_ok(),
        };
        &self.line
    }
}

/// What a line says, by the names that existing readers of the log know.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Fields<'a> {
    #[serde(rename = "LogLevel")]
    level: &'static str,
    log_type: &'static str,
    timestamp: &'a str,
    status: u16,
    method: &'a str,
    #[serde(rename = "ClientIp")]
    client: IpAddr,
    endpoint: &'a str,
    #[serde(rename = "HTTPVersion")]
    version: &'static str,
    trace_id: Cow<'a, str>,
}

impl Fields<'_> {
    fn plain(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Self { level, log_type, timestamp, status, method, client, endpoint, version, .. } =
            self;
        write!(
            out,
            "[{timestamp}] {level} {log_type} {client} {method} {endpoint} HTTP/{version} {status} {}",
            // A trace id is any visible text: it must not end the line or begin another.
            self.trace_id.escape_debug()
        )
    }
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
    use axum::http::{HeaderValue, Method, StatusCode};

    use serde_json::json;

    use super::*;
    use crate::telemetry::TraceName;

    fn request(path: &'static str, status: u16) -> FinishedRequest {
        FinishedRequest {
            method: Method::GET,
            target: path.into(),
            version: Version::HTTP_11,
            client: [10, 0, 0, 1].into(),
            trace_id: TraceName::Given(HeaderValue::from_static("abc")),
            traceparent: TraceName::default(),
            started_us: 0,
            duration_us: 0,
            status: StatusCode::from_u16(status).unwrap(),
            attempts: crate::proxy::AttemptTrail::default(),
        }
    }

    #[test]
    fn a_json_line_has_the_known_fields() {
        let mut format = LineFormat::default();
        let line = format.line(&request("/x?a=1", 404), 0, &RuntimeConfig::default());
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["LogLevel"], "ERROR");
        assert_eq!(line["LogType"], "WEBREQUEST");
        assert_eq!(line["Endpoint"], "/x?a=1");
        assert_eq!((&line["Status"], &line["HTTPVersion"]), (&json!(404), &json!("1.1")));
        assert_eq!(line["Timestamp"].as_str().unwrap().len(), "31/12/2026 23:59:59".len());
    }

    #[test]
    fn plain_lines_are_one_line_and_looking_at_logs_is_not_logged() {
        let config = RuntimeConfig { log_format: LogFormat::Plain, ..RuntimeConfig::default() };
        let mut format = LineFormat::default();
        let line = format.line(&request("/x", 200), 0, &config);
        let line = String::from_utf8_lossy(line);
        assert!(line.contains(" INFO WEBREQUEST 10.0.0.1 GET /x HTTP/1.1 200 abc"), "{line}");
        assert!(is_logged(&request("/api/actuator/health", 200)));
        assert!(!is_logged(&request("/api/logs/recent", 200)));
        assert!(!is_logged(&request("/api/maxine/serviceops/servers", 200)));
    }
}
