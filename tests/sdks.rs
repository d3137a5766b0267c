//! The SDKs as their users have them: each runs `sdks/spec/cases.json` with its language's ordinary HTTP client,
//! then its own client, against a real cluster of three nodes and an upstream that returns what it received. The client
//! also sends heartbeats to a faulty node.
//!
//! Node.js and Python are required. Go and Java are tested if they are installed, and Rust if its example was
//! built, which `cargo test --workspace` does.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

const TIME_TO_START: Duration = Duration::from_secs(120);
const ACCOUNTS: [(&str, &str, &str); 3] = [
    ("ADMIN", "ada", "ada-password"),
    ("OPERATOR", "oda", "oda-password"),
    ("VIEWER", "eve", "eve-password"),
];

/// A three-node `maxine dev`, stopped when dropped.
struct Cluster {
    child: Child,
    servers: String,
    _home: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_maxine"));
        command.args(["dev", "--output", "json", "--no-samples", "--port", "0", "--data-dir"]);
        command.arg(home.path().join("dev")).stdout(Stdio::piped()).stderr(Stdio::null());
        set_accounts(&mut command);
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let nodes: Vec<String> = (0..3)
            .map(|_| {
                let line = lines.recv_timeout(TIME_TO_START).expect("the cluster starts");
                let node: Value = serde_json::from_str(&line).unwrap();
                node["http"].as_str().unwrap().to_owned()
            })
            .collect();
        Self { child, servers: nodes.join(","), _home: home }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        // `maxine dev` stops its nodes in an orderly way when it gets this signal.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn set_accounts(command: &mut Command) {
    for (role, name, password) in ACCOUNTS {
        command.env(format!("MAXINE_{role}_USERNAME"), name);
        command.env(format!("MAXINE_{role}_PASSWORD"), password);
    }
}

/// The upstream that `sdks/spec/README.md` describes.
async fn answer(request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let field =
        |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let seen = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().unwrap().as_str(),
        "body": String::from_utf8_lossy(&body),
        "contentType": field("content-type"),
        "own": field("x-own"),
        "traceId": field("x-trace-id"),
    });
    let mut response = Response::new(Body::from(seen.to_string()));
    let path = parts.uri.path();
    if let Some((_, status)) = path.rsplit_once("/status/") {
        *response.status_mut() = status.parse::<StatusCode>().unwrap();
    }
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, HeaderValue::from_static("a=1"));
    headers.append(header::SET_COOKIE, HeaderValue::from_static("b=2"));
    if path.ends_with("/redirect") {
        headers.insert(header::LOCATION, HeaderValue::from_static("/elsewhere"));
        *response.status_mut() = StatusCode::FOUND;
    }
    response
}

/// Starts the upstream on its own runtime, which ends when the returned value is dropped.
fn start_upstream() -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime
        .spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    (runtime, address)
}

/// What the faulty node answers after its first answer, one for each request.
const FAULTY_ANSWERS: [&str; 6] = [
    "",
    "SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{\"timeOut\"",
    "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]",
    "HTTP/1.1 500 Oops\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]",
];

/// Starts the faulty node that `sdks/spec/README.md` describes. It runs until the process ends.
fn start_faulty_node() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let registered = json!({
            "hostName": "h", "nodeName": "a", "serviceName": "s", "address": "http://h",
            "healthCheckPath": "", "registeredAt": "", "timeOut": 1, "weight": 1,
        })
        .to_string();
        let good = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{registered}",
            registered.len()
        );
        let begin = [good.as_str()].into_iter().chain(FAULTY_ANSWERS);
        for answer in begin.chain(std::iter::repeat(good.as_str())) {
            let (stream, _) = listener.accept().unwrap();
            // The client may have given up.
            let _ = answer_with(stream, answer);
        }
    });
    address
}

/// Reads one request, and answers it. The whole request is read, so that the end of the connection is not a reset.
fn answer_with(stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut body_len) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(len) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            body_len = len.trim().parse().unwrap();
        }
        line.clear();
    }
    reader.read_exact(&mut vec![0; body_len])?;
    reader.get_mut().write_all(answer.as_bytes())
}

/// One SDK: the program that must be installed, and the command that runs its conformance cases.
struct Sdk {
    program: String,
    required: bool,
    prepare: Option<Command>,
    run: Command,
}

fn command(program: &str, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).args(args);
    command
}

fn sdks(scratch: &Path) -> Vec<Sdk> {
    let folder =
        |name: &str| -> PathBuf { Path::new(env!("CARGO_MANIFEST_DIR")).join("sdks").join(name) };
    let classes = scratch.to_str().unwrap();
    let sources = ["Json", "MaxineException", "Maxine", "Conformance"]
        .map(|name| format!("src/maxine/{name}.java"));
    let mut javac =
        command("javac", &folder("java"), &["-Xlint:all,-try", "-Werror", "-d", classes]);
    javac.args(sources);
    let mut python = command("python3", &folder("python"), &["conformance.py"]);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    // Nothing is downloaded: the client has no dependencies, and any newer toolchain builds it.
    let go = |args: &[&str]| {
        let mut command = command("go", &folder("go"), args);
        command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly");
        command
    };
    let built = scratch.join("conformance");
    let example = Path::new(env!("CARGO_BIN_EXE_maxine")).with_file_name("examples/conformance");
    let example = example.to_str().unwrap();
    let java = command(
        "java",
        &folder("java"),
        &["-cp", classes, "maxine.Conformance", "../spec/cases.json"],
    );
    vec![
        Sdk {
            program: "node".into(),
            required: true,
            prepare: None,
            run: command("node", &folder("node"), &["conformance.mjs"]),
        },
        Sdk { program: "python3".into(), required: true, prepare: None, run: python },
        Sdk {
            program: "go".into(),
            required: false,
            prepare: Some(go(&["build", "-o", built.to_str().unwrap(), "./cmd/conformance"])),
            run: command(built.to_str().unwrap(), &folder("go"), &["../spec/cases.json"]),
        },
        Sdk { program: "javac".into(), required: false, prepare: Some(javac), run: java },
        Sdk {
            program: example.into(),
            required: false,
            prepare: None,
            run: command(example, &folder("rust"), &["../spec/cases.json"]),
        },
    ]
}

fn is_installed(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// Runs a command. Returns its output, as an error if the command failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[test]
fn every_sdk_passes_the_conformance_cases() {
    let scratch = tempfile::tempdir().unwrap();
    let mut sdks = sdks(scratch.path());
    for sdk in &sdks {
        let installed = is_installed(&sdk.program);
        assert!(
            installed || !sdk.required,
            "{} is not installed; scripts/install-tools.sh does it",
            sdk.program
        );
        if !installed {
            eprintln!("NOT RUN: {} is not installed", sdk.program);
        }
    }
    sdks.retain(|sdk| is_installed(&sdk.program));
    let (_runtime, upstream) = start_upstream();
    let cluster = Cluster::start();
    let mut failed = Vec::new();
    for sdk in &mut sdks {
        // The SDKs run one after another, because a case changes the configuration of the whole cluster.
        sdk.run
            .env("MAXINE_SERVER", &cluster.servers)
            .env("MAXINE_UPSTREAM", upstream.to_string())
            .env("MAXINE_FAULTY", start_faulty_node().to_string());
        set_accounts(&mut sdk.run);
        let prepared = sdk.prepare.as_mut().map_or(Ok(String::new()), run);
        match prepared.and_then(|_| run(&mut sdk.run)) {
            // A runner that runs no case has not passed.
            Ok(text) if text.contains(" passed, 0 failed") && !text.contains("\n0 passed") => {}
            Ok(text) | Err(text) => failed.push(format!("{}:\n{text}", sdk.program)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Shows that the runners detect errors: a copy of the cases with one false expectation fails.
#[test]
fn a_runner_fails_where_an_answer_is_not_the_expected_one() {
    let (_runtime, upstream) = start_upstream();
    let scratch = tempfile::tempdir().unwrap();
    let node = scratch.path().join("node");
    std::fs::create_dir_all(&node).unwrap();
    std::fs::create_dir_all(scratch.path().join("spec")).unwrap();
    let sdks = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdks");
    for file in ["maxine.mjs", "conformance.mjs"] {
        std::fs::copy(sdks.join("node").join(file), node.join(file)).unwrap();
    }
    // Here the upstream takes the place of a node. It answers every request with 200 and JSON.
    let step =
        |expect: Value| json!({"request": {"method": "GET", "path": "/x"}, "expect": expect});
    let good = [
        json!({"status": 200, "headers": {"set-cookie": "a=1, b=2"}, "json": {"...": true, "target": "/x"}}),
    ];
    let bad = [
        json!({"status": 404}),
        json!({"status": 200, "headers": {"set-cookie": "a=1"}}),
        json!({"status": 200, "headers": {"set-cookie": null}}),
        json!({"status": 200, "text": "$re:nothing"}),
        json!({"status": 200, "json": {"...": true, "target": "$integer"}}),
        json!({"status": 200, "json": {"...": true, "missing": "$string"}}),
        json!({"status": 200, "json": {"target": "/x"}}),
    ];
    let case =
        |expect: &Value| json!({"name": expect.to_string(), "steps": [step(expect.clone())]});
    let cases: Vec<Value> = good.iter().chain(&bad).map(case).collect();
    std::fs::write(scratch.path().join("spec/cases.json"), json!({"cases": cases}).to_string())
        .unwrap();
    let mut runner = command("node", &node, &["conformance.mjs"]);
    runner
        .env("MAXINE_SERVER", format!("http://{upstream}"))
        .env("MAXINE_UPSTREAM", upstream.to_string());
    set_accounts(&mut runner);
    let text = run(&mut runner).unwrap_err();
    let failed = text.lines().filter(|line| line.starts_with("FAILED {")).count();
    assert_eq!(failed, bad.len(), "{text}");
}
