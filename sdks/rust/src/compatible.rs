//! The calls of the Node.js Maxine.
//!
//! [`Maxine`] registers a service and keeps it registered, finds instances of others, calls them through the proxy, and
//! watches for changes. If a node cannot be reached, it uses the next one of the given nodes. Cloning is cheap; all
//! futures can be dropped safely.

mod watch;

use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::path::{checked, encoded};
use crate::tls;

pub use watch::Change;

const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node may take to answer, in milliseconds, so that the answer arrives within [`TIMEOUT`]. A node
/// that has not begun a write by then answers that nothing was changed.
const ANSWER_MS: &str = "9000";
const CONFIG: &str = "/api/maxine/control/config";

/// The registration of one instance of a service. The server decides about fields that are `None`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// A host, or `http://` or `https://` and a host.
    pub host_name: String,
    /// The name of the instance within its service.
    pub node_name: String,
    /// The service.
    pub service_name: String,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether it speaks HTTPS.
    pub ssl: bool,
    /// The base path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long it stays registered after its last heartbeat, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_out: Option<u64>,
    /// Its share of the traffic, 1 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The path of health checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_path: Option<String>,
}

/// A registration as it is stored.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// The URL at which it is reached.
    pub address: String,
    /// How long it stays registered after its last heartbeat, in seconds.
    pub time_out: u64,
    /// Its share of the traffic.
    pub weight: u32,
}

struct Inner {
    http: reqwest::Client,
    nodes: Vec<String>,
    at: AtomicUsize,
    token: RwLock<Option<String>>,
}

/// A client of the nodes of one cluster.
#[derive(Clone)]
pub struct Maxine(Arc<Inner>);

impl Maxine {
    /// A client of the nodes at these addresses, such as `http://127.0.0.1:8080`; at least one.
    ///
    /// # Errors When no HTTP client can be created on this machine.
    pub fn new<S: AsRef<str>>(nodes: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let http = tls::builder(None, None)?.connect_timeout(TIMEOUT).build()?;
        let nodes: Vec<String> =
            nodes.into_iter().map(|node| node.as_ref().trim_end_matches('/').into()).collect();
        if nodes.is_empty() {
            return Err(Error::Settings("at least one node is needed".into()));
        }
        let (at, token) = (AtomicUsize::new(0), RwLock::default());
        Ok(Self(Arc::new(Inner { http, nodes, at, token })))
    }

    /// Sends a request to the node in use. If that cannot be reached, tries the other nodes in turn. Returns
    /// the answer, whatever its status is. `complete` adds headers and a body.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        complete: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let mut tries = 1;
        loop {
            let at = self.0.at.load(Ordering::Relaxed);
            let node = &self.0.nodes[at % self.0.nodes.len()];
            let mut request = self.0.http.request(method.clone(), format!("{node}{path}"));
            if let Some(token) = self.0.token.read().ok().and_then(|token| token.clone()) {
                request = request.bearer_auth(token);
            }
            match complete(request).send().await {
                Err(error) if error.is_connect() && tries < self.0.nodes.len() => {
                    tries += 1;
                    let (next, order) = (at.wrapping_add(1), Ordering::Relaxed);
                    // Another task may have changed to the next node already.
                    let _ = self.0.at.compare_exchange(at, next, order, order);
                }
                answer => return Ok(answer?),
            }
        }
    }

    async fn json<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let complete = |request: RequestBuilder| match body {
            Some(body) => {
                request.timeout(TIMEOUT).header("x-maxine-timeout-ms", ANSWER_MS).json(body)
            }
            None => request.timeout(TIMEOUT),
        };
        let answer = self.send(method, path, complete).await?;
        if !answer.status().is_success() {
            return Err(refused(answer).await);
        }
        Ok(answer.json().await?)
    }

    /// Signs in. Later requests are sent with the token. Returns the role.
    pub async fn sign_in(&self, user_name: &str, password: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Session {
            access_token: String,
            role: String,
        }
        let body = json!({"userName": user_name, "password": password});
        let session: Session = self.json(Method::POST, "/api/maxine/signin", Some(&body)).await?;
        if let Ok(mut token) = self.0.token.write() {
            *token = Some(session.access_token);
        }
        Ok(session.role)
    }

    /// Registers once.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, Error> {
        let body = serde_json::to_value(registration);
        let body = body.map_err(|error| Error::Malformed(error.to_string()))?;
        self.json(Method::POST, "/api/maxine/serviceops/register", Some(&body)).await
    }

    /// Registers, and repeats the registration twice within each time-out until the returned value is
    /// dropped. `beat` is called with the result of every repetition.
    pub async fn keep_registered(
        &self,
        registration: Registration,
        mut beat: impl FnMut(Result<Registered, Error>) + Send + 'static,
    ) -> Result<Kept, Error> {
        let first = self.register(&registration).await?;
        if first.time_out == 0 {
            return Err(Error::Malformed("a registration that does not live".into()));
        }
        let client = self.clone();
        let interval = Duration::from_millis(first.time_out.saturating_mul(500));
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let registered = client.register(&registration).await;
                if !matches!(registered, Ok(_) | Err(Error::Refused { .. })) {
                    // The node gives no usable answer, so the next request goes to another one.
                    client.0.at.fetch_add(1, Ordering::Relaxed);
                }
                beat(registered);
            }
        });
        Ok(Kept { registered: first, task })
    }

    /// The URL of an instance, with an end point appended (empty for none).
    pub async fn discover(&self, service_name: &str, end_point: &str) -> Result<String, Error> {
        let mut path =
            format!("/api/maxine/serviceops/discover?serviceName={}", encoded(service_name));
        if !end_point.is_empty() {
            path.push_str(&format!("&endPoint={}", encoded(end_point)));
        }
        let answer = self.send(Method::GET, &path, |request| request.timeout(TIMEOUT)).await?;
        if answer.status() != StatusCode::FOUND {
            return Err(refused(answer).await);
        }
        let location = answer.headers().get(header::LOCATION).and_then(|url| url.to_str().ok());
        location.map(Into::into).ok_or_else(|| Error::Malformed("a redirect to nowhere".into()))
    }

    /// Sends a request to an instance through Maxine's proxy.
    pub async fn call(
        &self,
        service_name: &str,
        method: Method,
        path: &str,
        complete: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let service = encoded(checked(service_name)?);
        let path = format!("/api/maxine/serviceops/proxy/{service}{path}");
        self.send(method, &path, complete).await
    }

    /// The whole registry. Needs the role viewer.
    pub async fn servers(&self) -> Result<Map<String, Value>, Error> {
        self.json(Method::GET, "/api/maxine/serviceops/servers", None).await
    }

    /// The configuration. Needs the role viewer.
    pub async fn config(&self) -> Result<Map<String, Value>, Error> {
        self.json(Method::GET, CONFIG, None).await
    }

    /// Changes fields of the configuration, and returns the outcome for each. Needs the role operator.
    pub async fn change_config(&self, fields: &Value) -> Result<Map<String, Value>, Error> {
        self.json(Method::PUT, CONFIG, Some(fields)).await
    }
}

/// A registration that is kept alive. Dropping it ends the heartbeats.
pub struct Kept {
    /// The answer to the first registration.
    pub registered: Registered,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn refused(answer: Response) -> Error {
    let status = answer.status();
    match answer.text().await {
        Ok(text) => Error::of_answer(status, &text),
        Err(error) => error.into(),
    }
}
