//! Three of five nodes are killed. The tests check what the two survivors report in that time.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::dev::{Dev, PATIENCE};

/// The default of the maximum election timeout.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(600);
/// How long the survivors are watched. In this time each of them stands for election about ten times.
const WATCHED: Duration = Duration::from_millis(12 * 600);

struct Survivor<'a> {
    dev: &'a Dev,
    base: &'a str,
    token: &'a str,
}

impl Survivor<'_> {
    async fn ask(&self, path: &str) -> reqwest::Response {
        let request = self.dev.client.get(format!("{}{path}", self.base));
        request.bearer_auth(self.token).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        self.ask(path).await.json().await.unwrap()
    }

    async fn ready_status(&self) -> u16 {
        self.ask("/api/v1/ready").await.status().as_u16()
    }

    /// Only a leader knows what other nodes observed, and accepts heartbeats.
    async fn assert_says_what_it_does_not_know_of(&self, instance: &str) {
        let path = format!("/api/v1/services/default/{instance}");
        let health = self.json(&format!("{path}/health")).await;
        assert_eq!(health.get("reports"), Some(&Value::Null), "{health}");
        let why = health["why"].as_str().unwrap_or_default();
        assert!(why.starts_with("this node knows no leader") && why.contains("not known"), "{why}");
        let url = format!("{}{path}/heartbeat", self.base);
        let request = self.dev.client.post(url).bearer_auth(self.token);
        let answer = request.header("x-maxine-timeout-ms", "500").send().await.unwrap();
        assert_eq!(answer.status(), 503);
        let problem = answer.text().await.unwrap();
        assert!(problem.contains("no leader is known"), "{problem}");
    }

    /// Checks everything that could name a leader at this moment.
    async fn assert_says_that_nobody_leads(&self, quiet_for: Duration) {
        let answer = self.ask("/api/v1/ready").await;
        let status = answer.status().as_u16();
        let ready: Value = answer.json().await.unwrap();
        assert_eq!(status, 503, "{ready}");
        assert_eq!(ready["reason"], "no leader is confirmed: writes are not taken");
        assert_eq!((&ready["leader"], &ready["is_leader"]), (&Value::Null, &false.into()));

        // What was confirmed once is still served.
        let reads = self.json("/api/v1/ready?scope=reads").await;
        assert_eq!((&reads["ready"], &reads["reason"]), (&true.into(), &Value::Null), "{reads}");

        let metrics = self.ask("/api/actuator/prometheus").await.text().await.unwrap();
        for line in ["maxine_cluster_has_leader 0", "maxine_cluster_is_leader 0"] {
            assert!(metrics.lines().any(|reported| reported == line), "{line} in {metrics}");
        }

        let answer = self.ask("/api/v1/cluster/status").await;
        assert_eq!(answer.headers()["x-maxine-leader"], "unknown");
        let status: Value = answer.json().await.unwrap();
        let (leadership, raft) = (&status["leadership"], &status["raft"]);
        assert_eq!(
            (&leadership["leader"], &leadership["is_leader"]),
            (&Value::Null, &false.into())
        );
        assert_eq!(raft["leader"], Value::Null);
        assert!(raft["members"].as_array().unwrap().iter().all(|member| member["leader"] == false));
        assert_ne!(raft["role"], "leader");
        assert_eq!(raft["majority"], 3);
        // A node that was heard within two seconds counts as reachable.
        if quiet_for > Duration::from_secs(3) {
            let reported = (&raft["reachable_voters"], &raft["failures_tolerated"]);
            assert_eq!(reported, (&2.into(), &0.into()));
        }
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("no leader is known"), "{warnings}");

        let compat = self.json("/api/actuator/cluster").await;
        assert_eq!((&compat["hasLeader"], &compat["isLeader"]), (&false.into(), &false.into()));
        assert_eq!(compat["leaderInstanceId"], Value::Null);

        let nodes = self.json("/api/v1/cluster/nodes").await;
        for report in nodes["items"].as_array().unwrap().iter().map(|node| &node["report"]) {
            assert_eq!(report["leader"], Value::Null, "{nodes}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_survivors_of_five_name_no_leader_and_stay_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--nodes", "5"]);
    let token = dev.token().await;
    for node in 0..5 {
        dev.wait_ready(node).await;
    }
    // The leader is among the killed, so that the survivors are followers that stand for election.
    let leader = dev.leader().await;
    let (killed, left): (Vec<usize>, Vec<usize>) =
        (0..5).map(|step| (leader + step) % 5).partition(|node| (node + 5 - leader) % 5 < 3);
    for node in killed {
        dev.signal(node, Signal::SIGKILL);
    }
    let survivors: Vec<Survivor<'_>> = left
        .iter()
        .map(|node| Survivor { dev: &dev, base: &dev.nodes[*node].http, token: &token })
        .collect();
    let started = Instant::now();
    for survivor in &survivors {
        while survivor.ready_status().await != 503 {
            assert!(started.elapsed() < PATIENCE, "it stays ready without a majority");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // From here on no report may change.
    let term =
        async || survivors[0].json("/api/v1/cluster/status").await["leadership"]["term"].clone();
    let (first_term, watched, mut samples) = (term().await, Instant::now(), 0);
    while watched.elapsed() < WATCHED {
        for survivor in &survivors {
            survivor.assert_says_that_nobody_leads(watched.elapsed()).await;
        }
        samples += 1;
        tokio::time::sleep(ELECTION_TIMEOUT / 8).await;
    }
    assert!(samples >= 5, "{samples} samples in {WATCHED:?}");
    // With pre-votes the term may stay the same. It never decreases.
    assert!(term().await.as_u64() >= first_term.as_u64());
}

/// How long the commands below wait; less than a node's own time for a write.
const COMMAND_TIME: Duration = Duration::from_millis(1_500);

/// Without a leader nothing can have been proposed, so no command may end with "unknown".
#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_every_change_ends_in_its_time_as_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let token = dev.token().await;
    for node in 0..3 {
        dev.wait_ready(node).await;
    }
    assert_eq!(dev.register(0, "orders", "a").await.0, 200);
    let leader = dev.leader().await;
    let left = &dev.nodes[(leader + 1) % 3].http;
    // The survivor may be the last node to get the registration.
    let url = format!("{left}/api/v1/services/default/orders");
    let started = Instant::now();
    while !dev.client.get(&url).bearer_auth(&token).send().await.unwrap().status().is_success() {
        assert!(started.elapsed() < PATIENCE, "the survivor never gets the registration");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for node in [leader, (leader + 2) % 3] {
        dev.signal(node, Signal::SIGKILL);
    }
    let survivor = Survivor { dev: &dev, base: left, token: &token };
    let started = Instant::now();
    while survivor.json("/api/v1/ready").await["leader"] != Value::Null {
        assert!(started.elapsed() < PATIENCE, "it still names a leader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    survivor.assert_says_what_it_does_not_know_of("orders/instances/a").await;
    let password = dir.path().join("password");
    std::fs::write(&password, "another-password-for-tests").unwrap();
    let password = password.to_str().unwrap();
    let changes: [&[&str]; 12] = [
        &["register", "--address", "http://127.0.0.1:9", "orders", "b"],
        &["deregister", "orders", "a"],
        &["drain", "orders", "a"],
        &["services", "delete", "orders", "--yes"],
        &["policy", "set", "orders", "traffic.retries.attempts=2"],
        &["config", "set", "heartbeat_timeout_s=7"],
        &["user", "add", "eve", "--password-file", password],
        &["token", "create"],
        &["key", "rotate", "--yes"],
        &["cluster", "transfer"],
        &["cluster", "remove", "3", "--yes"],
        &["cluster", "add", "4", "--peer-addr", "127.0.0.1:9", "--http-addr", "http://127.0.0.1:9"],
    ];
    let running = changes.map(|args| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_maxine"));
        let time_ms = COMMAND_TIME.as_millis().to_string();
        command.args(args).args(["--server", left, "--timeout-ms", &time_ms]);
        command.env("MAXINE_TOKEN", &token).stdin(std::process::Stdio::null());
        async move { (args, command.output().await.unwrap()) }
    });
    for (args, output) in futures::future::join_all(running).await {
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{args:?}: {reported}");
        assert!(!reported.contains("no answer in time"), "{args:?}: {reported}");
    }
}
