//! Formats the lines of the request log.

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;

use http::{Method, StatusCode, Version};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::FinishedRequest;
use maxine_state::{LogFormat, RuntimeConfig};

/// Whether a request is logged. Reads of logs and of the registry are not.
pub(super) fn is_logged(request: &FinishedRequest) -> bool {
    let path = request.path();
    !path.starts_with("/api/logs/") && !path.trim_end_matches('/').ends_with("/servers")
}

/// Formats lines. Most lines begin like the previous one, so the beginning and the buffer are kept.
#[derive(Debug, Default)]
pub(super) struct LineFormat {
    second: u64,
    timestamp: String,
    /// The JSON of a [`Head`], and the values from which it was made.
    head: Vec<u8>,
    head_of: Option<(u64, StatusCode, Method, IpAddr)>,
    trace_id: Vec<u8>,
    line: Vec<u8>,
}

impl LineFormat {
    /// The line in UTF-8, without a line end.
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
        self.trace_id.clear();
        request.trace_id.push_to(&mut self.trace_id);
        let status = request.status.as_u16();
        let head = Head {
            level: if status >= 404 { "ERROR" } else { "INFO" },
            log_type: "WEBREQUEST",
            timestamp: &self.timestamp,
            status,
            method: request.method.as_str(),
            client: request.client,
        };
        let tail = Tail {
            endpoint: &request.target,
            version: http_version(request.version),
            trace_id: String::from_utf8_lossy(&self.trace_id),
        };
        let line = &mut self.line;
        line.clear();
        // Writing to memory cannot fail.
        let _written = match config.log_format {
            LogFormat::Plain => plain(&head, &tail, line).is_ok(),
            LogFormat::Json if config.log_json_prettify => {
                serde_json::to_writer_pretty(line, &Whole { head, tail }).is_ok()
            }
            LogFormat::Json => {
                let of = (second, request.status, request.method.clone(), request.client);
                if self.head_of.as_ref() != Some(&of) {
                    self.head.clear();
                    self.head_of = serde_json::to_writer(&mut self.head, &head).ok().map(|()| of);
                }
                // Two JSON objects are joined into one.
                line.extend_from_slice(self.head.strip_suffix(b"}").unwrap_or_default());
                let joint = line.len();
                let written = serde_json::to_writer(&mut *line, &tail).is_ok();
                line[joint] = b',';
                written
            }
        };
        &self.line
    }
}

/// The first fields of a line. Existing readers of the log know these names.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Head<'a> {
    #[serde(rename = "LogLevel")]
    level: &'static str,
    log_type: &'static str,
    timestamp: &'a str,
    status: u16,
    method: &'a str,
    #[serde(rename = "ClientIp")]
    client: IpAddr,
}

/// The last fields of a line.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tail<'a> {
    endpoint: &'a str,
    #[serde(rename = "HTTPVersion")]
    version: &'static str,
    trace_id: Cow<'a, str>,
}

#[derive(serde::Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    #[serde(flatten)]
    tail: Tail<'a>,
}

fn plain(head: &Head<'_>, tail: &Tail<'_>, out: &mut Vec<u8>) -> std::io::Result<()> {
    let Head { level, log_type, timestamp, status, method, client } = head;
    let Tail { endpoint, version, trace_id } = tail;
    write!(
        out,
        "[{timestamp}] {level} {log_type} {client} {method} {endpoint} HTTP/{version} {status} {}",
        // A trace id can be any visible text. It must neither end the line nor begin another one.
        trace_id.escape_debug()
    )
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
    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::{TraceName, samples};

    fn request(path: &'static str, status: u16) -> FinishedRequest {
        FinishedRequest {
            target: path.into(),
            client: [10, 0, 0, 1].into(),
            trace_id: TraceName::Given(HeaderValue::from_static("abc")),
            ..samples::request(status)
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
    fn a_line_is_the_same_whatever_line_was_before_it() {
        let pretty = RuntimeConfig { log_json_prettify: true, ..RuntimeConfig::default() };
        let requests = [
            (request("/x?a=\"1\"", 404), 0),
            (request("/x", 404), 0),
            (request("/y", 200), 0),
            (request("/y", 200), 999),
            (request("/y", 200), 1_000),
            (FinishedRequest { method: Method::PUT, ..request("/y", 200) }, 1_000),
            (FinishedRequest { client: [10, 0, 0, 2].into(), ..request("/y", 200) }, 1_000),
        ];
        let mut format = LineFormat::default();
        for (request, time_ms) in requests {
            let line = format.line(&request, time_ms, &RuntimeConfig::default()).to_vec();
            let fresh =
                LineFormat::default().line(&request, time_ms, &RuntimeConfig::default()).to_vec();
            assert_eq!(line, fresh);
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let whole = LineFormat::default().line(&request, time_ms, &pretty).to_vec();
            assert_eq!(value, serde_json::from_slice::<serde_json::Value>(&whole).unwrap());
            assert_eq!(value.to_string().as_bytes(), line);
        }
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
