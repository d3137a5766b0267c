//! Delivers alerts to a webhook: a few at a time, each with a time limit. A failed delivery is repeated until the
//! webhook accepts the alert.
//!
//! Delivery is at least once. After a lost answer or a change of the leader, an alert is delivered again,
//! with the same `key` and `state`. So a receiver that keeps one incident per key has the incident once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alert_list::Alert;
use super::events::iso_8601;
use super::{Inner, Telemetry};

/// Maximum number of deliveries in flight.
const DELIVERIES_MAX: usize = 32;
/// Interval at which it is checked whether a failed delivery must be repeated.
const TICK: Duration = Duration::from_millis(500);

/// Settings of the webhook.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// The URL (`MAXINE_ALERT_WEBHOOK_URL`).
    pub url: String,
    /// Time limit of one delivery, in milliseconds (`MAXINE_ALERT_WEBHOOK_TIMEOUT_MS`).
    pub timeout_ms: u64,
}

pub(super) struct Webhook {
    client: reqwest::Client,
    url: Arc<str>,
    /// The cluster's name, which is the first part of each key.
    cluster: Arc<str>,
    running: Arc<Semaphore>,
    news: Arc<Notify>,
    stop: CancellationToken,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Webhook {
    /// Fails if the HTTP client cannot be made. Must be called inside a tokio runtime, which runs the deliveries.
    pub(super) fn new(settings: &WebhookSettings, cluster: &str) -> Result<Self, String> {
        Ok(Self {
            client: http_client(Duration::from_millis(settings.timeout_ms))?,
            url: settings.url.as_str().into(),
            cluster: cluster.into(),
            running: Arc::new(Semaphore::new(DELIVERIES_MAX)),
            news: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?,
        })
    }

    /// Starts to deliver the alerts of `telemetry`, until it is stopped or dropped.
    pub(super) fn start(&self, telemetry: Weak<Inner>) {
        let run = run(telemetry, Arc::clone(&self.news), self.stop.clone());
        self.tasks.spawn_on(run, &self.runtime);
    }

    /// Reports that there may be an alert to deliver.
    pub(super) fn wake(&self) {
        self.news.notify_one();
    }

    /// Delivers the alerts that are due, up to the maximum number in flight.
    fn deliver_due(&self, telemetry: &Telemetry) {
        let clock = &telemetry.0.clock;
        let free = self.running.available_permits();
        for alert in telemetry.alerts().due(free, clock.monotonic_ms(), clock.wall_ms()) {
            let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() else { return };
            let body = body(&alert, &self.cluster).to_string();
            let request = self.client.post(&*self.url).header("content-type", "application/json");
            let telemetry = telemetry.clone();
            let delivery = async move {
                let result = request.body(body).send().await;
                let result = result.and_then(reqwest::Response::error_for_status);
                let now_ms = telemetry.0.clock.monotonic_ms();
                telemetry.alerts().note_delivery(&alert, result.is_ok(), now_ms);
                if let Err(error) = result {
                    telemetry.delivery_failed(&alert, &why_failed(error));
                }
                drop(permit);
            };
            self.tasks.spawn_on(delivery, &self.runtime);
        }
    }

    /// Waits for the deliveries in flight. Each has a time limit.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn run(telemetry: Weak<Inner>, news: Arc<Notify>, stop: CancellationToken) {
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = news.notified() => false,
            () = tokio::time::sleep(TICK) => false,
        };
        let Some(telemetry) = telemetry.upgrade().map(Telemetry) else { return };
        if let Some(webhook) = &telemetry.0.webhook {
            webhook.deliver_due(&telemetry);
        }
        if stopped {
            return;
        }
    }
}

/// An alert as `/api/actuator/alerts` shows it.
#[must_use]
pub fn as_json(alert: &Alert) -> Value {
    json!({
        "timestamp": iso_8601(alert.time_ms),
        "severity": alert.severity,
        "type": alert.kind.name(),
        "message": alert.message,
        "details": alert.details,
    })
}

/// The body for the webhook: the alert, and the fields that distinguish a repeated delivery from a new alert.
fn body(alert: &Alert, cluster: &str) -> Value {
    let mut body = as_json(alert);
    body["key"] = format!("{cluster}/{}/{}", alert.kind.name(), alert.object).into();
    body["state"] = json!(alert.state);
    body["object"] = alert.object.as_str().into();
    body["node"] = alert.node.as_str().into();
    body["runbook"] = alert.runbook.into();
    body["resolved"] = alert.resolved_ms.map(iso_8601).into();
    body
}

/// An error with its causes, as one text.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Why a request to a receiver failed, as text for people. The URL is not shown, because it may contain a secret.
pub(crate) fn why_failed(error: reqwest::Error) -> String {
    if let Some(status) = error.status() {
        return format!("the receiver answered with status {}", status.as_u16());
    }
    if error.is_timeout() {
        return "there was no answer in time".to_owned();
    }
    let what = if error.is_connect() { "no connection" } else { "the connection broke" };
    format!("{what}: {}", with_causes(&error.without_url()))
}

/// A client for the few requests that Maxine itself sends to URLs that the operator has set.
pub fn http_client(timeout: Duration) -> Result<reqwest::Client, String> {
    http_client_with(timeout, None)
}

/// The same with the authorities that sign the receiver's certificate; `None` for those of the machine.
pub(crate) fn http_client_with(
    timeout: Duration,
    authorities: Option<Vec<reqwest::Certificate>>,
) -> Result<reqwest::Client, String> {
    // An error means that a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = match authorities {
        Some(authorities) => reqwest::Client::builder().tls_certs_only(authorities),
        None => reqwest::Client::builder(),
    };
    builder
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(1)
        .build()
        .map_err(|error| error.to_string())
}
