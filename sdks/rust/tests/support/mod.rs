//! Servers that answer as a test tells them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses a part; a test fails by panicking"
)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const CONTENT_LEN_MAX: usize = 1 << 20;
/// How long a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request as it has arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// The path, with the query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An answer.
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

pub fn reply(status: u16, body: &Value) -> Reply {
    Reply { status, headers: Vec::new(), body: body.to_string() }
}

impl Reply {
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn text(self, body: &str) -> Self {
        Self { body: body.into(), ..self }
    }
}

/// A server on loopback. It ends with this.
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server. `answer` gets the number of the request, from 1, and the request. A watch is opened, and has no
    /// changes.
    pub async fn start(answer: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (all, answer) = (Arc::clone(&seen), Arc::new(answer));
        let handler = move |request: Request| {
            let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, CONTENT_LEN_MAX).await.unwrap();
                let request = Seen {
                    method: parts.method.to_string(),
                    target: parts.uri.to_string(),
                    headers: parts.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(request.clone());
                    all.len()
                };
                if request.target.starts_with("/api/v1/watch") {
                    return Response::new(silent_watch());
                }
                let Reply { status, headers, body } = answer(number, &request);
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                response.body(Body::from(body)).unwrap()
            }
        };
        let router = axum::Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, task }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests so far as texts, with the token if there is one. Watches are left out.
    pub fn lines(&self) -> Vec<String> {
        let seen = self.seen();
        let requests = seen.iter().filter(|one| !one.target.starts_with("/api/v1/watch"));
        let line =
            |one: &Seen| format!("{} {} {}", one.method, one.target, one.header("authorization"));
        requests.map(|one| line(one).trim().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn silent_watch() -> Body {
    let ready = "id: h-1\nevent: ready\ndata: {}\n\n";
    Body::from_stream(stream::iter([Ok::<_, Infallible>(ready)]).chain(stream::pending()))
}

/// A node of a cluster in which each service has these instances: names and addresses.
pub async fn node_with(instances: &[(&str, &str)]) -> Server {
    let item = |(id, address): &(&str, &str)| json!({"id": id, "address": address, "weight": 1});
    let items: Vec<Value> = instances.iter().map(item).collect();
    Server::start(move |_, request| {
        let list = reply(200, &json!({"items": items, "next_cursor": null}))
            .header("x-maxine-history", "h")
            .header("x-maxine-index", "1");
        if request.target.contains("/instances?") { list } else { reply(403, &json!({})) }
    })
    .await
}

/// An address that refuses connections.
pub async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}");
}
