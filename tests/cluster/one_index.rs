//! Users see one index: the same number everywhere, and never the number of a log entry.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::dev::{Dev, PATIENCE};

struct Operator<'a> {
    dev: &'a Dev,
    token: &'a str,
}

impl Operator<'_> {
    async fn ask(&self, node: usize, path: &str) -> reqwest::Response {
        let url = format!("{}{path}", self.dev.nodes[node].http);
        self.dev.client.get(url).bearer_auth(self.token).send().await.unwrap()
    }

    async fn json(&self, node: usize, path: &str) -> Value {
        self.ask(node, path).await.json().await.unwrap()
    }

    fn maxine(&self, args: &[&str]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_maxine"))
            .args(args)
            .args(["--output", "json"])
            .env("MAXINE_TOKEN", self.token)
            .env("MAXINE_SERVER", &self.dev.nodes[0].http)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The index in every answer of a node that has one, with the name of the answer.
    async fn reported(&self, node: usize) -> Vec<(&'static str, Value)> {
        let ready = self.ask(node, "/api/v1/ready").await;
        let header = ready.headers()["x-maxine-index"].to_str().unwrap();
        let header = header.parse::<u64>().unwrap().into();
        let ready: Value = ready.json().await.unwrap();
        let status = self.json(node, "/api/v1/cluster/status").await;
        let digest = self.json(node, "/api/v1/cluster/digest").await;
        let nodes = self.json(node, "/api/v1/cluster/nodes").await;
        let own = nodes["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["name"] == self.dev.nodes[node].instance.as_str());
        let metrics = self.ask(node, "/api/actuator/prometheus").await.text().await.unwrap();
        let metric = metrics.lines().find_map(|line| line.strip_prefix("maxine_state_index "));
        vec![
            ("x-maxine-index", header),
            ("ready", ready["index"].clone()),
            ("status", status["index"].clone()),
            ("digest", digest["index"].clone()),
            ("node's report", own.unwrap()["report"]["index"].clone()),
            ("metric", metric.unwrap().parse::<u64>().unwrap().into()),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_and_every_answer_tell_one_index_and_a_missing_snapshot_is_null() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&dir.path().join("dev"), &[]);
    let token = dev.token().await;
    for node in 0..3 {
        dev.wait_ready(node).await;
    }
    // One entry of the log raises the index very often, so that the two numbers are never equal by chance.
    let item = |n: u32| json!({"service": "orders", "id": format!("i{n}"), "address": "http://10.0.0.1:80", "ttl_ms": 3_600_000});
    let body = json!({"items": (0..500).map(item).collect::<Vec<_>>()});
    let url = format!("{}/api/v1/registrations", dev.nodes[0].http);
    assert_eq!(dev.client.post(url).json(&body).send().await.unwrap().status(), 200);
    let operator = Operator { dev: &dev, token: &token };

    // A new cluster has no snapshot and has compacted nothing.
    let raft = operator.json(0, "/api/v1/cluster/status").await["raft"].take();
    assert_eq!((&raft["snapshot_index"], &raft["purged_index"]), (&Value::Null, &Value::Null));
    assert!(raft["committed_index"].is_u64() && raft["last_sync_us"].is_u64(), "{raft}");

    // Maxine itself may write in between. Then the backup is taken again.
    let started = Instant::now();
    let (before, file, backup) = loop {
        let before = operator.json(0, "/api/v1/cluster/status?consistency=strong").await;
        let file = dir.path().join(format!("backup-{}", started.elapsed().as_micros()));
        let backup = operator.maxine(&["cluster", "backup", file.to_str().unwrap()]);
        let after = operator.json(0, "/api/v1/cluster/status?consistency=strong").await;
        // The audit record of the backup is one change.
        if after["index"].as_u64() == before["index"].as_u64().map(|index| index + 1) {
            break (before, file, backup);
        }
        assert!(started.elapsed() < PATIENCE, "{before} {after}");
    };
    let index = &before["index"];
    assert_eq!(&backup["index"], index, "{backup}");
    let entries = &before["raft"]["committed_index"];
    assert_ne!(entries, index, "the log's entries are counted apart, or this proves nothing");

    let restored = operator.maxine(&[
        "cluster",
        "restore",
        file.to_str().unwrap(),
        dir.path().join("restored").to_str().unwrap(),
        "--node-id=7",
        "--members=7@127.0.0.1:1@http://127.0.0.1:2",
        "--yes",
    ]);
    assert_eq!(&restored["index"], index, "{restored}");
    let audit = operator.json(0, "/api/v1/audit?action=cluster.backup").await;
    let object = audit["items"][0]["object"].as_str().unwrap();
    assert!(object.starts_with(&format!("index {index}, ")), "{object}");

    let after = json!(index.as_u64().unwrap() + 1);
    for node in 0..3 {
        while operator.json(node, "/api/v1/ready").await["index"] != after {
            assert!(started.elapsed() < PATIENCE, "node {node} does not come to {after}");
        }
        for (place, reported) in operator.reported(node).await {
            assert_eq!(reported, after, "{place} of node {node}");
        }
    }
}
