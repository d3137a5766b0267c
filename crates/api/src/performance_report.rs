//! The performance report that an operator's own server makes, for the open route that shows it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use tokio::sync::Mutex;

use maxine_clock::Clock;
use maxine_telemetry::http_client;

/// Time limit for fetching the report.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of the report, in bytes.
const LEN_MAX: usize = 5 * 1_024 * 1_024;
/// For this time the report, or the failure to fetch it, is used again. In milliseconds.
const KEPT_MS: u64 = 10_000;

/// The report that was fetched last.
#[derive(Default)]
pub(super) struct PerformanceReport(Mutex<Option<Fetched>>);

struct Fetched {
    at_ms: u64,
    /// `None` if the report could not be fetched.
    html: Option<Bytes>,
}

impl PerformanceReport {
    /// The report at this URL; `None` if it cannot be fetched. One caller fetches it, and the others wait for it, so that
    /// nobody can make this node send many requests.
    pub(super) async fn get(&self, url: &str, clock: &Clock) -> Option<Bytes> {
        let mut kept = self.0.lock().await;
        if let Some(kept) = &*kept
            && clock.monotonic_ms() - kept.at_ms < KEPT_MS
        {
            return kept.html.clone();
        }
        let fetched = fetch(url).await;
        if let Err(error) = &fetched {
            tracing::warn!(%error, "the performance report could not be fetched");
        }
        let html = fetched.ok();
        *kept = Some(Fetched { at_ms: clock.monotonic_ms(), html: html.clone() });
        html
    }
}

async fn fetch(url: &str) -> Result<Bytes, String> {
    let client = http_client(TIMEOUT)?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let answer = answer.map_err(|error| error.without_url().to_string())?;
    let body = reqwest::Body::from(answer);
    let body = Limited::new(body, LEN_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
    match std::str::from_utf8(&body) {
        Ok(_) => Ok(body),
        Err(error) => Err(error.to_string()),
    }
}
