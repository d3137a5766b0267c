//! Maxine nodes under measurement: real `maxine serve` processes with default settings.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::process::{Server, wait_until};
use super::wire::{self, Connection};
use super::{Bench, free_port};
use maxine::cli::client::{Client, Request};
use maxine::cli::exit::CliError;

/// The name of the administrator of the nodes under measurement.
const USER: &str = "bench";
/// Maximum number of times that a refused sign-in is repeated.
const SIGN_IN_TRIES_MAX: u32 = 50;
/// Environment variables of this process that must not reach the nodes under measurement.
const OWN_SETTINGS: [&str; 4] =
    ["MAXINE_SERVER", "MAXINE_TOKEN", "MAXINE_OUTPUT", "MAXINE_NAMESPACE"];

/// One node.
pub(super) struct Node {
    program: PathBuf,
    pub(super) server: Option<Server>,
    args: Vec<String>,
    dir: PathBuf,
    port: u16,
    core: Option<usize>,
    password: String,
}

impl Node {
    /// The address for HTTP, as `HOST:PORT`.
    pub(super) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it. A process that was started before must have been killed, because it uses the same port and data.
    pub(super) fn start(&mut self) -> Result<(), CliError> {
        let mut command = Command::new(&self.program);
        command.arg("serve").args(&self.args);
        command.env("MAXINE_ADMIN_USERNAME", USER).env("MAXINE_ADMIN_PASSWORD", &self.password);
        command.env("MAXINE_LOG", "warn");
        // All clients of a measurement use one address.
        command.env("MAXINE_HTTP_CONNECTIONS_PER_ADDRESS_MAX", "1000000");
        command.env("MAXINE_HTTP_WATCHERS_PER_ADDRESS_MAX", "1000000");
        for name in OWN_SETTINGS {
            command.env_remove(name);
        }
        self.server = Some(Server::start(command, &self.dir, self.core)?);
        Ok(())
    }

    /// Its process. Fails if it was never started.
    pub(super) fn running_mut(&mut self) -> Result<&mut Server, CliError> {
        self.server.as_mut().ok_or_else(|| CliError::Failed("the node is not running".into()))
    }

    /// Its process. Fails if it was never started.
    pub(super) fn running(&self) -> Result<&Server, CliError> {
        self.server.as_ref().ok_or_else(|| CliError::Failed("the node is not running".into()))
    }

    /// Kills it as a crash would, and waits until it has ended.
    pub(super) fn kill_and_wait(&mut self) {
        if let Some(server) = &mut self.server {
            server.kill();
        }
    }

    fn has_ended(&self) -> bool {
        self.server.as_ref().is_none_or(Server::has_ended)
    }

    /// The end of its log.
    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Whether it answers within 2 s that it is ready.
    pub(super) async fn is_ready(&self) -> bool {
        let ask = async {
            let mut connection = Connection::open(&self.addr()).await?;
            connection.call(&wire::get("/api/v1/ready")).await.map(|(status, _)| status)
        };
        matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(200..=299)))
    }
}

/// The backend of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Raft,
    Redis,
    SharedFile,
    Local,
}

impl Backend {
    /// The value for `--mode`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Redis => "redis",
            Self::SharedFile => "shared-file",
            Self::Local => "local",
        }
    }
}

/// Whether a node leads and has the leader's duties.
pub(super) async fn has_duties(client: &Client) -> bool {
    let Ok(answer) = client.send(&Request::get(&["cluster", "status"])).await else { return false };
    let body = &answer.body;
    body["leadership"]["is_leader"] == Value::Bool(true) && body["grant"]["holder"] == body["node"]
}

/// Nodes that form a cluster.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    password: String,
}

impl Cluster {
    /// A Raft cluster of one node, on one core.
    pub(super) async fn single(bench: &Bench, dir: &Path, core: usize) -> Result<Self, CliError> {
        Self::of(bench, dir, 1, Some(core), &[]).await
    }

    /// A Raft cluster of one node, on one core and with further options.
    pub(super) async fn single_with(
        bench: &Bench,
        dir: &Path,
        core: usize,
        options: &[&str],
    ) -> Result<Self, CliError> {
        Self::of(bench, dir, 1, Some(core), options).await
    }

    /// Starts `count` nodes with a backend and waits until they are ready. In Redis mode, they use the Redis at
    /// `redis_url`.
    pub(super) async fn on(
        bench: &Bench,
        dir: &Path,
        backend: Backend,
        count: usize,
        redis_url: Option<String>,
    ) -> Result<Self, CliError> {
        if backend == Backend::Raft {
            return Self::of(bench, dir, count, None, &[]).await;
        }
        let password = secret();
        let mut nodes = Vec::new();
        for n in 0..count {
            let (home, port) = (dir.join(format!("node-{}", n + 1)), free_port()?);
            std::fs::create_dir_all(&home)?;
            let mut args = common(&home, port);
            args.extend([
                format!("--mode={}", backend.name()),
                format!("--instance-id=node-{}", n + 1),
            ]);
            args.extend(redis_url.iter().map(|url| format!("--redis-url={url}")));
            if backend == Backend::SharedFile {
                args.push(format!("--state-file={}", dir.join("registry-state.json").display()));
            }
            let (core, password) = (None, password.clone());
            nodes.push(Node {
                program: bench.program.clone(),
                server: None,
                args,
                dir: home,
                port,
                core,
                password,
            });
        }
        Self { nodes, password }.started().await
    }

    /// Three nodes in Raft mode.
    pub(super) async fn three(bench: &Bench, dir: &Path) -> Result<Self, CliError> {
        Self::of(bench, dir, 3, None, &[]).await
    }

    /// Three nodes in Raft mode with further options.
    pub(super) async fn three_with(
        bench: &Bench,
        dir: &Path,
        options: &[&str],
    ) -> Result<Self, CliError> {
        Self::of(bench, dir, 3, None, options).await
    }

    async fn of(
        bench: &Bench,
        dir: &Path,
        count: usize,
        core: Option<usize>,
        options: &[&str],
    ) -> Result<Self, CliError> {
        let password = secret();
        let mut ports = Vec::new();
        for _ in 0..2 * count {
            ports.push(free_port()?);
        }
        let member = |n: usize| {
            format!("{}@127.0.0.1:{}@http://127.0.0.1:{}", n + 1, ports[n + count], ports[n])
        };
        let members: Vec<String> = (0..count).map(member).collect();
        let mut nodes = Vec::new();
        for n in 0..count {
            let home = dir.join(format!("node-{}", n + 1));
            std::fs::create_dir_all(&home)?;
            let mut args = common(&home, ports[n]);
            args.extend([
                "--mode=raft".into(),
                format!("--node-id={}", n + 1),
                "--cluster-id=bench".into(),
                format!("--raft-listen=127.0.0.1:{}", ports[n + count]),
                format!("--raft-members={}", members.join(",")),
            ]);
            args.extend(options.iter().map(|option| (*option).to_owned()));
            nodes.push(Node {
                program: bench.program.clone(),
                server: None,
                args,
                dir: home,
                port: ports[n],
                core,
                password: password.clone(),
            });
        }
        Self { nodes, password }.started().await
    }

    async fn started(mut self) -> Result<Self, CliError> {
        for node in &mut self.nodes {
            node.start()?;
        }
        self.wait_ready().await?;
        Ok(self)
    }

    /// Waits until every node is ready. Fails if one of them has ended.
    pub(super) async fn wait_ready(&self) -> Result<(), CliError> {
        wait_until("the nodes do not get ready", Duration::from_secs(60), || async {
            for node in &self.nodes {
                if !node.is_ready().await {
                    // A node that has ended never gets ready, so the wait ends. The error is returned below.
                    return node.has_ended();
                }
            }
            true
        })
        .await?;
        match self.nodes.iter().find(|node| node.has_ended()) {
            Some(node) => Err(CliError::Failed(format!("a node ended:\n{}", node.log_tail()))),
            None => Ok(()),
        }
    }

    /// The addresses for HTTP.
    pub(super) fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(Node::addr).collect()
    }

    /// A signed-in client of some of the nodes.
    pub(super) async fn client(&self, nodes: &[usize]) -> Result<Client, CliError> {
        let servers: Vec<String> =
            nodes.iter().map(|n| format!("http://{}", self.nodes[*n].addr())).collect();
        let anonymous = Client::of(&servers, None, 10_000)?;
        let body = json!({"user": USER, "password": self.password});
        let sign_in = Request::once(Method::POST, &["session"]).json(body);
        // A node that has just started may not have the account yet.
        let mut tries_left = SIGN_IN_TRIES_MAX;
        let answer = loop {
            match anonymous.send(&sign_in).await {
                Err(CliError::Problem(problem)) if problem.status == 401 && tries_left > 0 => {
                    tries_left -= 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answer => break answer?,
            }
        };
        let token = answer.body["access_token"].as_str().map(str::to_owned);
        Client::of(&servers, token, 10_000)
    }

    /// The position of the node that says it is the leader.
    pub(super) async fn leader(&self) -> Result<usize, CliError> {
        let found = async {
            loop {
                for n in 0..self.nodes.len() {
                    let Ok(client) = self.client(&[n]).await else { continue };
                    let Ok(answer) = client.send(&Request::get(&["cluster", "status"])).await
                    else {
                        continue;
                    };
                    if answer.body["leadership"]["is_leader"] == Value::Bool(true) {
                        return n;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found)
            .await
            .map_err(|_| CliError::Failed("no node leads after 30 s".into()))
    }
}

fn common(dir: &Path, port: u16) -> Vec<String> {
    vec![
        "--exit-with-stdin".into(),
        format!("--port={port}"),
        format!("--data-dir={}", dir.join("data").display()),
    ]
}

fn secret() -> String {
    format!("{}{}", ulid::Ulid::new(), ulid::Ulid::new())
}

/// The body of a registration of an instance, about as long as real ones.
pub(super) fn registration(n: u64) -> String {
    format!(
        "{{\"address\":\"http://10.{}.{}.{}:8080\",\"weight\":1,\"ttl_ms\":3600000,\"zone\":\"eu-1a\",\"version\":\"1.4.0\",\"tags\":[\"blue\"]}}",
        n >> 16 & 255,
        n >> 8 & 255,
        n & 255
    )
}

/// The same registration as an item of a batch.
pub(super) fn batch_item(service: &str, id: &str, n: u64) -> String {
    format!(
        "{{\"namespace\":\"default\",\"service\":\"{service}\",\"id\":\"{id}\",{}",
        &registration(n)[1..]
    )
}

/// Whether the answer to a batch refuses an item.
pub(super) fn has_problem(answer: &[u8]) -> bool {
    const REFUSED: &[u8] = b"\"problem\":{";
    answer.windows(REFUSED.len()).any(|window| window == REFUSED)
}

/// Registers `count` instances in services `s0`, `s1` and so on, with `per_service` each, in batches.
pub(super) async fn fill(addr: &str, count: u64, per_service: u64) -> Result<(), CliError> {
    const BATCH: u64 = 500;
    let request = move |batch: u64| {
        let first = batch * BATCH;
        let items: Vec<String> = (first..(first + BATCH).min(count))
            .map(|n| {
                batch_item(&format!("s{}", n / per_service), &format!("i{}", n % per_service), n)
            })
            .collect();
        let body = format!("{{\"items\":[{}]}}", items.join(","));
        wire::with_json("POST", "/api/v1/registrations", &body)
    };
    send_all(addr, count.div_ceil(BATCH), request).await
}

/// Sends `count` requests over a few connections. Fails if one is not answered with 200, or with a problem.
pub(super) async fn send_all(
    addr: &str,
    count: u64,
    request: impl Fn(u64) -> Vec<u8> + Clone + Send + 'static,
) -> Result<(), CliError> {
    const CONNECTIONS: u64 = 8;
    let mut workers = Vec::new();
    for worker in 0..CONNECTIONS {
        let (addr, request) = (addr.to_owned(), request.clone());
        workers.push(tokio::spawn(async move {
            let mut connection = Connection::open(&addr).await?;
            let mut n = worker;
            while n < count {
                let bytes = request(n);
                let (status, answer) = connection.call(&bytes).await?;
                if status != 200 || has_problem(answer) {
                    let text: String = String::from_utf8_lossy(answer).chars().take(300).collect();
                    return Err(std::io::Error::other(format!("HTTP {status}: {text}")));
                }
                n += CONNECTIONS;
            }
            Ok::<(), std::io::Error>(())
        }));
    }
    for worker in workers {
        worker
            .await
            .map_err(|error| CliError::Failed(error.to_string()))?
            .map_err(super::failed("registering instances"))?;
    }
    Ok(())
}
