//! The data plane of a cluster: probes are divided among the nodes and move to others, every node reports the
//! verdicts, and an instance dies under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::dev::{Dev, PATIENCE};

/// An instance that answers every request with 200 until it is killed.
struct Instance {
    url: String,
    port: u16,
    task: JoinHandle<()>,
}

impl Instance {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                tasks.spawn(async move {
                    let mut buffer = vec![0; 16 * 1024];
                    let mut matched = Vec::new();
                    while let Ok(len) = stream.read(&mut buffer).await {
                        if len == 0 {
                            return;
                        }
                        matched.extend_from_slice(&buffer[..len]);
                        while let Some(at) = matched.windows(4).position(|w| w == b"\r\n\r\n") {
                            matched.drain(..at + 4);
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { url: format!("http://127.0.0.1:{port}"), port, task }
    }

    /// Cuts every connection and refuses new ones, as a killed process does.
    async fn kill(&self) {
        self.task.abort();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Dev {
    async fn put(&mut self, path: &str, body: &Value) {
        let token = self.token().await;
        let url = format!("{}/api/v1/services/default/{path}", self.nodes[0].http);
        let answer = self.client.put(url).bearer_auth(token).json(body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}: {:?}", answer.text().await);
    }

    /// The health of an instance as a node reports it; `None` if it is not registered.
    async fn health(&self, node: usize, service: &str, id: &str) -> Option<Value> {
        let url = format!(
            "{}/api/v1/services/default/{service}/instances/{id}/health",
            self.nodes[node].http
        );
        let token = self.known_token()?;
        let request = self.client.get(url).bearer_auth(token).timeout(Duration::from_secs(3));
        request.send().await.ok()?.json().await.ok()
    }

    /// Waits until a node reports the expected health of an instance.
    async fn until_health(
        &self,
        node: usize,
        (service, id): (&str, &str),
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let started = Instant::now();
        loop {
            let health = self.health(node, service, id).await.unwrap_or(Value::Null);
            if wanted(&health) {
                return health;
            }
            assert!(started.elapsed() < PATIENCE, "node {node} of {service}/{id}: {health}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether a health report has a probe by this node itself. Only such probes have a latency.
fn probed_here(health: &Value, name: &str) -> bool {
    let own = |o: &Value| o["node"] == name && !o["latency_ms"].is_null();
    health["observations"].as_array().is_some_and(|all| all.iter().any(own))
}

const PROBE: &str =
    r#"{"probe":{"kind":"http","path":"/","interval_ms":200,"timeout_ms":1000,"fall":2,"rise":1}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_shared_move_when_a_node_dies_and_every_node_tells_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let instance = Instance::start().await;
    dev.put("probed/policy?create=true", &serde_json::from_str(PROBE).unwrap()).await;
    let ids: Vec<String> = (0..12).map(|n| format!("i{n}")).collect();
    for id in &ids {
        let body = json!({"address": instance.url, "ttl_ms": 3_600_000});
        dev.put(&format!("probed/instances/{id}"), &body).await;
    }
    let names: Vec<String> = dev.nodes.iter().map(|node| node.instance.clone()).collect();
    // Each instance is probed by one node, and no node probes all. The other nodes know the result.
    let started = Instant::now();
    let probers = loop {
        let mut probers = vec![Vec::new(); 3];
        for id in &ids {
            for (node, name) in names.iter().enumerate() {
                let seen = |health: &Value| {
                    let any = |field| health[field].as_array().is_some_and(|all| !all.is_empty());
                    any("observations") || any("reports")
                };
                let health = dev.until_health(node, ("probed", id), seen).await;
                if probed_here(&health, name) {
                    probers[node].push(id.clone());
                }
            }
        }
        let by_one =
            |id: &String| probers.iter().filter(|ids: &&Vec<String>| ids.contains(id)).count() == 1;
        if ids.iter().all(by_one) {
            break probers;
        }
        // The nodes are still finding out which of them are alive.
        assert!(started.elapsed() < PATIENCE, "who probes what: {probers:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let shares: Vec<usize> = probers.iter().map(Vec::len).collect();
    assert!(shares.iter().all(|share| *share < ids.len()), "nobody probes all: {shares:?}");
    // If two observers must agree, three nodes probe, and the verdict names those that agreed.
    let watched = Instance::start().await;
    let mut policy: Value = serde_json::from_str(PROBE).unwrap();
    policy["health"] = json!({"observers": 2});
    dev.put("watched/policy?create=true", &policy).await;
    dev.put("watched/instances/w", &json!({"address": watched.url, "ttl_ms": 3_600_000})).await;
    for (node, name) in names.iter().enumerate() {
        dev.until_health(node, ("watched", "w"), |health| probed_here(health, name)).await;
    }
    watched.kill().await;
    let evicted = |health: &Value| health["verdict"]["liveness"] == "evicted";
    let health = dev.until_health(0, ("watched", "w"), evicted).await;
    let why = health["why"].as_str().unwrap();
    assert!(why.matches("seen by ").count() >= 2, "{why}");
    // The node with the most work dies, and the others take its work over.
    let dead = (0..3).max_by_key(|node| shares[*node]).unwrap();
    assert!(shares[dead] > 0);
    dev.signal(dead, Signal::SIGKILL);
    let started = Instant::now();
    for id in &probers[dead] {
        loop {
            let mut moved = false;
            for node in (0..3).filter(|node| *node != dead) {
                let health = dev.health(node, "probed", id).await.unwrap_or(Value::Null);
                moved |= probed_here(&health, &names[node]);
            }
            if moved {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "nobody probes {id} now");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // They evict an instance that dies now, and both report the reason and the time.
    instance.kill().await;
    for node in (0..3).filter(|node| *node != dead) {
        let evicted = |health: &Value| health["verdict"]["liveness"] == "evicted";
        let health = dev.until_health(node, ("probed", &ids[0]), evicted).await;
        assert!(health["verdict"]["since_ms"].as_u64().unwrap() > 0);
        let why = health["why"].as_str().unwrap();
        assert!(why.starts_with("evicted by its health checks: "), "{why}");
        assert!(why.contains("seen by "), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_of_three_instances_under_load_costs_no_request_through_any_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let policy = json!({"traffic": {
        "retries": {"attempts": 4, "budget_percent": 100},
        "circuit_breaker": {},
        "timeouts": {"connect_ms": 10_000},
    }});
    dev.put("loaded/policy?create=true", &policy).await;
    let mut instances = Vec::new();
    for n in 0..3 {
        let instance = Instance::start().await;
        let body = json!({"address": instance.url, "ttl_ms": 3_600_000});
        dev.put(&format!("loaded/instances/i{n}"), &body).await;
        instances.push(instance);
    }
    let url =
        |node: usize| format!("{}/api/maxine/serviceops/proxy/loaded/x", dev.nodes[node].http);
    for node in 0..3 {
        let started = Instant::now();
        while dev.client.get(url(node)).send().await.unwrap().status() != 200 {
            assert!(started.elapsed() < PATIENCE, "node {node} does not know the service");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..9)
        .map(|n| {
            let (client, url) = (dev.client.clone(), url(n % 3));
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match client.get(&url).send().await {
                        Ok(answer) if answer.status() == 200 => {
                            assert_eq!(answer.text().await.unwrap(), "ok");
                        }
                        Ok(answer) => failures.push(format!("{answer:?}")),
                        Err(error) => failures.push(error.to_string()),
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                failures
            })
        })
        .collect();
    let reach = |count: usize| {
        let done = Arc::clone(&done);
        async move {
            let started = Instant::now();
            while done.load(Ordering::SeqCst) < count {
                assert!(started.elapsed() < PATIENCE, "the load stands still");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    reach(300).await;
    instances[1].kill().await;
    reach(done.load(Ordering::SeqCst) + 900).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), Vec::<String>::new());
    }
}

/// An HTTPS server for `127.0.0.1` that answers 200 once it has read a whole request, and the certificate of
/// its authority in PEM.
async fn secured() -> (String, String) {
    let (config, pem) = crate::authority::server_for_loopback();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let answer = |request: hyper::Request<hyper::body::Incoming>| async move {
                    let body = http_body_util::BodyExt::collect(request.into_body()).await?;
                    let len = body.to_bytes().len().to_string();
                    Ok::<_, hyper::Error>(hyper::Response::new(axum::body::Body::from(len)))
                };
                let service = hyper::service::service_fn(answer);
                let stream = hyper_util::rt::TokioIo::new(stream);
                let _ended = hyper::server::conn::http1::Builder::new()
                    .serve_connection(stream, service)
                    .await;
            });
        }
    });
    (url, pem)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_vouches_for_instances_and_a_body_over_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (url, pem) = secured().await;
    let ca = dir.path().join("upstream-ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let data = dir.path().join("data");
    let env = [("MAXINE_UPSTREAM_CA", ca.to_str().unwrap()), ("MAXINE_PROXY_BODY_LEN_MAX", "1000")];
    let mut dev = Dev::start_in(&data, &["--nodes", "1"], &env);
    dev.put("secured/instances/a", &json!({"address": url, "ttl_ms": 3_600_000})).await;
    let url = format!("{}/api/maxine/serviceops/proxy/secured/", dev.nodes[0].http);
    let post = |len: usize| dev.client.post(&url).body(vec![b'x'; len]).send();
    let started = Instant::now();
    let answer = loop {
        let answer = post(1_000).await.unwrap();
        if answer.status() == 200 || started.elapsed() > PATIENCE {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "1000");
    let refused = post(1_001).await.unwrap();
    assert_eq!(refused.status(), 413);
    // The same without a `Content-Length`.
    let stream = futures::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let body = reqwest::Body::wrap_stream(stream);
    let refused = dev.client.post(&url).body(body).send().await.unwrap();
    assert_eq!(refused.status(), 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_instance_is_unhealthy_all_are_used_and_an_alert_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--nodes", "1"]);
    let mut policy: Value = serde_json::from_str(PROBE).unwrap();
    policy["health"] = json!({"panic_percent": 50});
    dev.put("panicking/policy?create=true", &policy).await;
    for id in ["a", "b", "c"] {
        // Nothing listens at this address.
        let body = json!({"address": "http://127.0.0.1:1", "ttl_ms": 3_600_000});
        dev.put(&format!("panicking/instances/{id}"), &body).await;
    }
    for id in ["a", "b", "c"] {
        let evicted = |health: &Value| health["verdict"]["liveness"] == "evicted";
        dev.until_health(0, ("panicking", id), evicted).await;
    }
    let token = dev.token().await;
    let started = Instant::now();
    loop {
        let url = format!("{}/api/v1/alerts", dev.nodes[0].http);
        let alerts: Value =
            dev.client.get(url).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
        let reported = alerts["items"].as_array().unwrap().iter().any(|alert| {
            alert["type"] == "service.panic"
                && alert["message"].as_str().is_some_and(|text| text.contains("panicking"))
        });
        if reported {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "no alert: {alerts}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let url = format!("{}/api/v1/resolve/default/panicking", dev.nodes[0].http);
    let resolved = dev.client.get(url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(resolved.status(), 200, "{:?}", resolved.text().await);
}
