//! Sends every kind of command that clients and operators can cause, repeatedly, through any node that
//! answers.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

const PASSWORD: &str = "a-password-for-tests-only";
/// Maximum time in which no node accepts a step.
const STEP_MAX: Duration = Duration::from_secs(40);

/// A client that works until it is stopped. It is paused while a caller holds its gate.
pub struct Load {
    gate: Arc<Mutex<()>>,
    rounds: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Load {
    pub fn start(http: reqwest::Client, bases: Vec<String>, token: String) -> Self {
        let gate = Arc::<Mutex<()>>::default();
        let (done, rounds) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let worker = Worker { http, bases, token, gate: Arc::clone(&gate), at: 0 };
        let task = tokio::spawn(worker.work(done, stopped));
        Self { gate, rounds, stop, task }
    }

    /// Waits for this many more complete rounds.
    pub async fn rounds(&self, more: u64) {
        let mut rounds = self.rounds.clone();
        // The present round may have begun before the call.
        let goal = *rounds.borrow() + more + 1;
        rounds.wait_for(|done| *done >= goal).await.expect("the load has stopped");
    }

    /// Stops all writes while the guard exists.
    pub async fn pause(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.gate).lock_owned().await
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("no step failed");
    }
}

struct Worker {
    http: reqwest::Client,
    bases: Vec<String>,
    token: String,
    gate: Arc<Mutex<()>>,
    /// The next node.
    at: usize,
}

impl Worker {
    async fn work(mut self, done: watch::Sender<u64>, stop: watch::Receiver<bool>) {
        for round in 0_u64.. {
            if *stop.borrow() {
                return;
            }
            self.round(round).await;
            done.send_replace(round + 1);
        }
    }

    async fn round(&mut self, round: u64) {
        let orders = "/api/v1/services/default/orders";
        let id = format!("i{}", round % 20);
        let instance = format!("{orders}/instances/{id}");
        let weight = 1 + round % 5;
        let registration = json!({
            "address": format!("http://10.0.0.1:{}/base", 1_000 + round % 100), "weight": weight, "ttl_ms": 600_000,
            "zone": "eu-1", "version": "1.2.3", "tags": ["blue", "green"], "metadata": {"owner": "payments"},
        });
        self.step(Method::PUT, &instance, Some(registration), &[200]).await;
        let short = format!("{orders}/instances/short-{}", round % 50);
        let expires = json!({"address": "http://10.0.0.2:80", "ttl_ms": 1_000});
        self.step(Method::PUT, &short, Some(expires), &[200]).await;
        let drain = format!("{instance}/drain");
        self.step(Method::PUT, &drain, Some(json!({"reason": "kernel update"})), &[200]).await;
        self.step(Method::DELETE, &drain, None, &[200]).await;
        let policy = json!({
            "selection": {"strategy": "consistent_hash", "hash_key": {"from": "header", "name": "x-user"}},
            "health": {"panic_percent": 50 + round % 10},
            "traffic": {"retries": {"statuses": [503]}, "rate_limit": {"requests_per_s": 100}, "zone": {},
                "split": [{"version": "1.2.3", "weight": 5}], "sticky": {"cookie": {"name": "s"}}},
        });
        self.step(Method::PUT, &format!("{orders}/policy?create=true"), Some(policy), &[200]).await;
        let probed = "/api/v1/services/default/probed";
        let probe =
            json!({"probe": {"kind": "tcp", "interval_ms": 200, "timeout_ms": 200, "fall": 1}});
        self.step(Method::PUT, &format!("{probed}/policy?create=true"), Some(probe), &[200]).await;
        let dead = json!({"address": "http://127.0.0.1:1", "ttl_ms": 600_000});
        self.step(Method::PUT, &format!("{probed}/instances/dead"), Some(dead), &[200]).await;
        let other = "/api/v1/services/default/other/policy";
        self.step(Method::PUT, &format!("{other}?create=true"), Some(json!({})), &[200]).await;
        self.step(Method::DELETE, other, None, &[200, 404]).await;
        let config = json!({"heartbeat_timeout_s": 5 + round % 3});
        self.step(Method::PATCH, "/api/v1/config", Some(config), &[200]).await;
        let user = json!({"role": "viewer", "password": PASSWORD});
        self.step(Method::PUT, "/api/v1/users/ada", Some(user), &[200]).await;
        let signed_in = json!({"user": "ada", "password": PASSWORD});
        let session = self.step(Method::POST, "/api/v1/session", Some(signed_in), &[200]).await;
        let token = session["access_token"].as_str().unwrap_or_default().to_owned();
        self.step_as(&token, Method::DELETE, "/api/v1/session", None, &[204, 401]).await;
        self.step(Method::DELETE, "/api/v1/users/ada", None, &[200, 204, 404]).await;
        // The state itself refuses it, and records that.
        self.step(Method::DELETE, "/api/v1/users/nobody", None, &[404]).await;
        let made = json!({"role": "viewer", "note": "mixed builds"});
        let made = self.step(Method::POST, "/api/v1/tokens", Some(made), &[201]).await;
        let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap_or_default());
        self.step(Method::DELETE, &path, None, &[200, 404]).await;
        self.step(Method::POST, "/api/v1/keys/rotate", Some(json!({"keep_previous": 8})), &[200])
            .await;
        self.step(Method::DELETE, &instance, None, &[200, 204, 404]).await;
    }

    async fn step(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
        good: &[u16],
    ) -> Value {
        let token = self.token.clone();
        self.step_as(&token, method, path, body, good).await
    }

    /// Sends a request until a node answers it as expected. A node that is stopping or has no leader is
    /// skipped.
    async fn step_as(
        &mut self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
        good: &[u16],
    ) -> Value {
        let gate = Arc::clone(&self.gate);
        let _open = gate.lock().await;
        let trying = async {
            loop {
                self.at = (self.at + 1) % self.bases.len();
                let url = format!("{}{path}", self.bases[self.at]);
                let request = self.http.request(method.clone(), url).bearer_auth(token);
                let request = match &body {
                    Some(body) => request.json(body),
                    None => request,
                };
                if let Ok(answer) = request.send().await {
                    let status = answer.status().as_u16();
                    let text = answer.text().await.unwrap_or_default();
                    if good.contains(&status) {
                        return serde_json::from_str(&text).unwrap_or(Value::Null);
                    }
                    // 401 and 404 come from a node that has not applied yet what another one acknowledged.
                    let passes = matches!(status, 401 | 404 | 429 | 503 | 504);
                    assert!(passes, "{method} {path}: {status} {text}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let done = tokio::time::timeout(STEP_MAX, trying).await;
        done.unwrap_or_else(|_| panic!("no node takes {method} {path}"))
    }
}
