//! Hands alerts to a webhook: a few at a time, each with a time limit, never more than fit.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::alerts::Alert;
use super::events::iso_8601;

/// Most deliveries under way.
const DELIVERIES_MAX: usize = 32;

/// Where alerts are posted.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// The URL (`MAXINE_ALERT_WEBHOOK_URL`).
    pub url: String,
    /// For one delivery, in milliseconds (`MAXINE_ALERT_WEBHOOK_TIMEOUT_MS`).
    pub timeout_ms: u64,
}

pub(super) struct Webhook {
    client: reqwest::Client,
    url: Arc<str>,
    running: Arc<Semaphore>,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Webhook {
    /// Must be called inside a tokio runtime: deliveries run there.
    pub(super) fn new(settings: &WebhookSettings) -> Result<Self, String> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let client = http_client(Duration::from_millis(settings.timeout_ms))?;
        let running = Arc::new(Semaphore::new(DELIVERIES_MAX));
        let (url, tasks) = (settings.url.as_str().into(), TaskTracker::new());
        Ok(Self { client, url, running, tasks, runtime })
    }

    /// Posts an alert; `failed` learns why if it could not be delivered.
    pub(super) fn deliver(&self, alert: &Alert, failed: impl FnOnce(String) + Send + 'static) {
        let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() else {
            failed("too many deliveries are under way".into());
            return;
        };
        let body = as_json(alert).to_string();
        let (client, url) = (self.client.clone(), Arc::clone(&self.url));
        let delivery = async move {
            let request = client.post(&*url).header("content-type", "application/json").body(body);
            let result = request.send().await.and_then(reqwest::Response::error_for_status);
            if let Err(error) = result {
                // Without the URL: it may hold a secret.
                failed(error.without_url().to_string());
            }
            drop(permit);
        };
        self.tasks.spawn_on(delivery, &self.runtime);
    }

    /// Waits for the deliveries under way; each has its time limit.
    pub(super) async fn stop(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// An alert as webhooks and `/api/actuator/alerts` show it.
#[must_use]
pub fn as_json(alert: &Alert) -> Value {
    json!({
        "timestamp": iso_8601(alert.time_ms),
        "severity": alert.severity,
        "type": alert.kind,
        "message": alert.message,
        "details": alert.details,
    })
}

/// A client for the few requests that Maxine itself sends to URLs that its operator set.
pub(crate) fn http_client(timeout: Duration) -> Result<reqwest::Client, String> {
    // Whoever comes first sets it; that it is set already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(1)
        .build()
        .map_err(|error| error.to_string())
}
