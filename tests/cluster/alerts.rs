//! The alerts that an operator gets when something fails, and when it works again.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::routing::post;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::Value;

use crate::dev::{Dev, PATIENCE};

/// A webhook that keeps the alerts that it receives.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Vec<Value>>>);

impl Hook {
    async fn serve(&self) -> String {
        let reported = Arc::clone(&self.0);
        let take = post(async move |body: String| {
            reported.lock().push(serde_json::from_str(&body).unwrap());
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/hook", take);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        format!("http://{addr}/hook")
    }

    fn of(&self, key: &str, state: &str) -> Vec<Value> {
        let reported = self.0.lock();
        reported.iter().filter(|b| b["key"] == key && b["state"] == state).cloned().collect()
    }

    async fn until(&self, key: &str, state: &str) -> Value {
        let started = Instant::now();
        loop {
            if let Some(body) = self.of(key, state).first() {
                return body.clone();
            }
            assert!(started.elapsed() < PATIENCE, "no {state} of {key}: {:?}", self.0.lock());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What `maxine alerts` prints, with its exit code.
fn alerts(dev: &Dev, token: &str) -> (Option<i32>, String) {
    let servers: Vec<&str> = dev.nodes.iter().map(|node| node.http.as_str()).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_maxine"))
        .arg("alerts")
        .env("MAXINE_SERVER", servers.join(","))
        .env("MAXINE_TOKEN", token)
        .output()
        .unwrap();
    let shown = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(shown).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_and_a_lost_majority_are_told_with_their_names_and_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Hook::default();
    let url = hook.serve().await;
    let mut dev = Dev::start_in(dir.path(), &[], &[("MAXINE_ALERT_WEBHOOK_URL", &url)]);
    let token = dev.token().await;
    let leader = dev.leader().await;
    let name = dev.nodes[leader].instance.clone();
    let key = format!("maxine-dev/cluster.member_unreachable/{name}");
    dev.signal(leader, Signal::SIGKILL);
    let reported = hook.until(&key, "active").await;
    assert_eq!(reported["severity"], "critical");
    assert_ne!(reported["node"], name.as_str(), "a live node reports it");

    let (code, listed) = alerts(&dev, &token);
    assert_eq!(code, Some(4), "one node did not answer: {listed}");
    let row = listed.lines().find(|line| line.contains("cluster.member_unreachable")).unwrap();
    assert!(row.contains(&name) && row.contains("active"), "{listed}");
    assert!(row.contains("T") && row.contains("Z") && !row.trim_start().starts_with('-'), "{row}");
    assert!(listed.contains(&dev.nodes[leader].http), "the dead node is named: {listed}");

    dev.restart_dead();
    assert_eq!(dev.hear_of_return(), leader);
    let over = hook.until(&key, "resolved").await;
    assert!(over["resolved"].is_string(), "{over}");
    assert_eq!(hook.of(&key, "active").len(), 1, "one node reported it, once");

    // The majority is lost: the survivor reports it, and names the unreachable nodes.
    let survivor = dev.leader().await;
    let lost: Vec<usize> = (0..3).filter(|node| *node != survivor).collect();
    for node in &lost {
        dev.signal(*node, Signal::SIGKILL);
    }
    let key = "maxine-dev/cluster.no_majority/cluster";
    let reported = hook.until(key, "active").await;
    let missing: Vec<&str> = lost.iter().map(|node| dev.nodes[*node].instance.as_str()).collect();
    let message = reported["message"].as_str().unwrap();
    assert!(missing.iter().all(|name| message.contains(name)), "{message}");
    dev.restart_dead();
    dev.hear_of_return();
    hook.until(key, "resolved").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_a_snapshot_an_export_and_cleared_logs_are_recorded_with_who_and_when() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--nodes", "1"]);
    let token = dev.token().await;
    let base = dev.nodes[0].http.clone();
    let ask = async |method: reqwest::Method, path: &str| {
        let request = dev.client.request(method, format!("{base}{path}")).bearer_auth(&token);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.bytes().await.unwrap()
    };
    let since_ms = maxine_clock::Clock::system().wall_ms() - 1_000;
    ask(reqwest::Method::POST, "/api/v1/cluster/snapshot").await;
    ask(reqwest::Method::GET, "/api/v1/cluster/backup").await;
    ask(reqwest::Method::GET, "/api/v1/audit/export").await;
    ask(reqwest::Method::POST, "/api/logs/recent/clear").await;
    for action in ["cluster.snapshot", "cluster.backup", "audit.export", "logs.clear"] {
        let started = Instant::now();
        let record = loop {
            let audit = ask(reqwest::Method::GET, &format!("/api/v1/audit?action={action}")).await;
            let audit: Value = serde_json::from_slice(&audit).unwrap();
            if let Some(record) = audit["items"].get(0) {
                break record.clone();
            }
            assert!(started.elapsed() < PATIENCE, "no record of {action}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((&record["user"], &record["outcome"]), (&"admin".into(), &"success".into()));
        assert!(record["time_ms"].as_u64().unwrap() >= since_ms, "{record}");
    }
}

/// Waits until a node lists an alert of this kind for which `is_it` returns true. Returns that alert.
async fn listed(dev: &Dev, node: usize, kind: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let request = dev.client.get(format!("{}/api/v1/alerts", dev.nodes[node].http));
        let answer = request.bearer_auth(dev.known_token().unwrap()).send().await.unwrap();
        let alerts: Value = answer.json().await.unwrap_or_default();
        let items = alerts["items"].as_array().cloned().unwrap_or_default();
        if let Some(found) = items.iter().find(|alert| alert["type"] == kind && is_it(alert)) {
            return found.clone();
        }
        assert!(started.elapsed() < PATIENCE, "no such {kind}: {alerts}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Pauses a node until it must have noticed.
async fn pause(dev: &Dev, node: usize) {
    dev.signal(node, Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    dev.signal(node, Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_paused_says_what_it_knows_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    dev.token().await;
    for node in 0..3 {
        dev.wait_ready(node).await;
    }
    let leader = dev.leader().await;
    let follower = (leader + 1) % 3;
    pause(&dev, follower).await;
    let stalled = listed(&dev, follower, "node.stalled", |_| true).await;
    assert_eq!(stalled["object"], dev.nodes[follower].instance.as_str());
    let message = stalled["message"].as_str().unwrap();
    assert!(message.starts_with("this node's process did not run for at least "), "{message}");
    assert!(!message.contains("lease"), "a follower has none: {message}");

    // The others elect another leader meanwhile, so nothing else needs an alert.
    let leader = dev.leader().await;
    pause(&dev, leader).await;
    listed(&dev, leader, "node.stalled", |_| true).await;

    // A confirmation by an operator reaches the leader through any node.
    for node in 0..3 {
        dev.wait_ready(node).await;
        // Expiry is not suspended. A confirmation in advance would switch the protection off, so it is
        // refused.
        for (path, status) in [("audit/clock/confirm", 204), ("cluster/expiry/confirm", 409)] {
            let request = dev.client.post(format!("{}/api/v1/{path}", dev.nodes[node].http));
            let answer = request.bearer_auth(dev.known_token().unwrap()).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path} through node {node}");
        }
    }
}

/// Most of the instances become silent at the same time. Only the leader knows that expiry is suspended, and
/// the other nodes ask it. The leader does not know the age of the instances, so they count although they are new.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_says_that_expiry_is_suspended() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let token = dev.token().await;
    for node in 0..3 {
        dev.wait_ready(node).await;
    }
    for id in 0..60 {
        let path = format!("/api/v1/services/default/silent/instances/i{id}");
        let request = dev.client.put(format!("{}{path}", dev.nodes[0].http)).bearer_auth(&token);
        let body = serde_json::json!({"address": "http://127.0.0.1:9", "ttl_ms": 15_000});
        let answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{id}");
    }
    let leader = dev.leader().await;
    let transfer = format!("{}/api/v1/cluster/transfer", dev.nodes[leader].http);
    let request = dev.client.post(transfer).bearer_auth(&token).json(&serde_json::json!({}));
    assert_eq!(request.send().await.unwrap().status(), 200);
    for node in &dev.nodes {
        let started = Instant::now();
        let status = loop {
            let request = dev.client.get(format!("{}/api/v1/cluster/status", node.http));
            let answer = request.bearer_auth(&token).send().await.unwrap();
            let status: Value = answer.json().await.unwrap();
            if status["expiry"]["suspended"] == true {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "{}: {status}", node.instance);
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("expiry is suspended"), "{}: {warnings}", node.instance);
        for args in [&["services"][..], &["services", "show", "silent"]] {
            let output = Command::new(env!("CARGO_BIN_EXE_maxine"))
                .args(args)
                .env("MAXINE_SERVER", &node.http)
                .env("MAXINE_TOKEN", &token)
                .output()
                .unwrap();
            let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(shown.contains("note: expiry is suspended"), "{}: {shown}", node.instance);
        }
    }
}
