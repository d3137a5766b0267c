//! A cluster of real processes, started with `maxine dev` as a user would.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};

/// Time limit for everything that must happen. It is far above the usual time.
pub const PATIENCE: Duration = Duration::from_secs(40);
pub const PASSWORD: &str = "a-password-for-tests-only";

/// One node as `maxine dev` announces it. Every promised field must exist.
#[derive(Clone, Debug, Deserialize)]
#[allow(dead_code, reason = "decoding them is the test")]
pub struct Node {
    pub id: u64,
    pub instance: String,
    pub pid: i32,
    pub http: String,
    pub peer: String,
    pub data_dir: String,
}

/// The cluster; it is stopped when dropped.
pub struct Dev {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    pub nodes: Vec<Node>,
    pub client: reqwest::Client,
    token: Option<String>,
}

impl Dev {
    pub fn start(dir: &Path, more: &[&str]) -> Self {
        Self::start_in(dir, more, &[])
    }

    /// Starts it with settings in the environment, which apply to each node.
    pub fn start_in(dir: &Path, more: &[&str], env: &[(&str, &str)]) -> Self {
        maxine_identity::crypto_provider::install_crypto_provider();
        let mut child = Command::new(env!("CARGO_BIN_EXE_maxine"))
            .args(["dev", "--output", "json", "--no-samples", "--port", "0", "--data-dir"])
            .arg(dir)
            .args(more)
            .env("MAXINE_ADMIN_USERNAME", "admin")
            .env("MAXINE_ADMIN_PASSWORD", PASSWORD)
            .env_remove("MAXINE_REGISTRY_STATE_MODE")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let count = more
            .iter()
            .position(|arg| *arg == "--nodes")
            .map_or(3, |at| more[at + 1].parse().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let nodes: Vec<Node> = (&mut lines)
            .take(count)
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect();
        assert_eq!(nodes.len(), count, "maxine dev ended early");
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(15))
            .no_proxy()
            .build()
            .unwrap();
        Self { child, lines, nodes, client, token: None }
    }

    pub fn dev_pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub async fn token(&mut self) -> String {
        if let Some(token) = &self.token {
            return token.clone();
        }
        let body = json!({"userName": "admin", "password": PASSWORD});
        let started = Instant::now();
        loop {
            let url = format!("{}/api/maxine/signin", self.nodes[0].http);
            let answer = self.client.post(url).json(&body).send().await.unwrap();
            if answer.status() == 200 {
                let answer: Value = answer.json().await.unwrap();
                let token = answer["accessToken"].as_str().unwrap().to_owned();
                self.token = Some(token.clone());
                return token;
            }
            assert!(started.elapsed() < PATIENCE, "no sign-in: {}", answer.status());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The token, if somebody has signed in.
    pub fn known_token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Registers an instance through a node. Returns the status, and the answer if it is JSON.
    pub async fn register(&self, node: usize, service: &str, id: &str) -> (u16, Value) {
        self.register_as(node, service, id, None).await
    }

    pub async fn register_as(
        &self,
        node: usize,
        service: &str,
        id: &str,
        key: Option<&str>,
    ) -> (u16, Value) {
        let url =
            format!("{}/api/v1/services/default/{service}/instances/{id}", self.nodes[node].http);
        let body = json!({"address": format!("http://10.0.0.1:80/{id}"), "ttl_ms": 3_600_000});
        let mut request = self.client.put(url).json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        match request.send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                (status, answer.json().await.unwrap_or(Value::Null))
            }
            Err(_) => (0, Value::Null),
        }
    }

    /// Discovers through a node: the status and all headers.
    pub async fn discover(&self, node: usize, service: &str) -> reqwest::Response {
        let url = format!(
            "{}/api/maxine/serviceops/discover?serviceName={service}",
            self.nodes[node].http
        );
        self.client.get(url).send().await.unwrap()
    }

    /// The report of a node about itself, if it answers.
    pub async fn ready(&self, node: usize) -> Option<Value> {
        let url = format!("{}/api/v1/ready", self.nodes[node].http);
        let request = self.client.get(url).timeout(Duration::from_secs(2));
        request.send().await.ok()?.json().await.ok()
    }

    /// The position of the node that reports that it leads.
    pub async fn leader(&self) -> usize {
        let started = Instant::now();
        loop {
            for node in 0..self.nodes.len() {
                if self.ready(node).await.is_some_and(|ready| ready["is_leader"] == true) {
                    return node;
                }
            }
            assert!(started.elapsed() < PATIENCE, "no leader");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn signal(&self, node: usize, signal: Signal) {
        kill(Pid::from_raw(self.nodes[node].pid), signal).unwrap();
    }

    /// Asks the running `maxine dev` to restart the processes that have ended.
    pub fn restart_dead(&self) {
        kill(Pid::from_raw(self.dev_pid()), Signal::SIGUSR1).unwrap();
    }

    /// Reads the line about a node that was restarted. Returns the node's position.
    pub fn hear_of_return(&mut self) -> usize {
        let line = self.lines.next().expect("maxine dev runs").unwrap();
        let node: Node = serde_json::from_str(&line).unwrap();
        let at = self.nodes.iter().position(|known| known.id == node.id).unwrap();
        self.nodes[at] = node;
        at
    }

    pub async fn wait_ready(&self, node: usize) {
        let started = Instant::now();
        while !self.ready(node).await.is_some_and(|ready| ready["ready"] == true) {
            assert!(started.elapsed() < PATIENCE, "node {node} is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Digest and index of a node's state.
    pub async fn digest(&mut self, node: usize) -> (u64, String) {
        let token = self.token().await;
        let url = format!("{}/api/v1/cluster/digest?consistency=strong", self.nodes[node].http);
        let answer: Value =
            self.client.get(url).bearer_auth(token).send().await.unwrap().json().await.unwrap();
        (answer["index"].as_u64().unwrap(), answer["digest"].as_str().unwrap().to_owned())
    }

    /// Waits until all nodes show the same digest at the same index.
    pub async fn assert_equal_digests(&mut self) {
        let started = Instant::now();
        loop {
            let mut seen = Vec::new();
            for node in 0..self.nodes.len() {
                seen.push(self.digest(node).await);
            }
            seen.dedup();
            if seen.len() == 1 {
                return;
            }
            let indices: Vec<u64> = seen.iter().map(|(index, _)| *index).collect();
            let same_index = indices.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(!same_index, "equal index, different digests: {seen:?}");
            assert!(started.elapsed() < PATIENCE, "{seen:?}");
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // The process has ended already if the test stopped it.
        let _gone = kill(Pid::from_raw(self.dev_pid()), Signal::SIGTERM);
        let _ended = self.child.wait();
    }
}
