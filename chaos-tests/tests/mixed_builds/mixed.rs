//! A cluster whose nodes run this build or the next one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use maxine_chaos::cluster::{Backend, Cluster, ClusterPlan, READY_TIMEOUT};
use maxine_chaos::network::NetworkKind;
use maxine_chaos::program;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::Load;

/// Time limit for anything that must happen. It is far above the usual time.
const PATIENCE: Duration = Duration::from_secs(60);
/// What every node must answer alike at the same index.
const ALIKE: &[&str] = &[
    "/api/v1/cluster/digest",
    "/api/v1/services",
    "/api/v1/services/default/orders",
    "/api/v1/services/default/orders/instances?limit=1000",
    "/api/v1/services/default/probed/instances",
    "/api/v1/services/default/orders/policy",
    "/api/v1/config",
    "/api/v1/config/history?limit=100",
    "/api/v1/users",
    "/api/v1/tokens",
    "/api/v1/audit?limit=500",
    "/api/v1/audit/verify",
];
/// The audit actions of all kinds of commands that can be caused from outside. `ExpireAudit`
/// needs a month; the golden digest of the state covers it.
const ACTIONS: &[&str] = &[
    "cluster.identify",
    "cluster.raise_state_version",
    "config.put",
    "health.evict",
    "history.begin",
    "instance.deregister",
    "instance.drain",
    "instance.expire",
    "instance.register",
    "instance.undrain",
    "leadership.grant",
    "note.set",
    "policy.put",
    "session.create",
    "session.delete",
    "signing_key.rotate",
    "token.delete",
    "token.put",
    "user.delete",
    "user.put",
];

/// One cluster of several processes at a time, because they share the machine's cores.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub struct Mixed {
    pub cluster: Cluster,
    http: reqwest::Client,
    token: String,
    this: PathBuf,
    next: PathBuf,
    _alone: tokio::sync::MutexGuard<'static, ()>,
    _dir: TempDir,
}

pub fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().unwrap_or_default()
}

impl Mixed {
    /// A cluster of this build; `None`, with a message, if the next build does not exist.
    pub async fn start(backend: Backend) -> Option<Self> {
        let Some(next) = program::locate_next() else {
            eprintln!("SKIPPED: the next build is missing; scripts/build-next.sh makes it");
            return None;
        };
        let alone = ONE_AT_A_TIME.lock().await;
        let this = program::locate().unwrap();
        let version =
            |program: &Path| Command::new(program).arg("--version").output().unwrap().stdout;
        assert_ne!(version(&this), version(&next), "both programs are the same build");
        let dir = tempfile::tempdir().unwrap();
        let mut plan = ClusterPlan::new(backend, NetworkKind::Loopback);
        plan.nodes = match backend {
            Backend::Raft => 3,
            Backend::Redis | Backend::SharedFile => 2,
            Backend::Local => 1,
        };
        let cluster = Cluster::start(plan, dir.path()).await.unwrap();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let token = cluster.token().unwrap();
        Some(Self { cluster, http, token, this, next, _alone: alone, _dir: dir })
    }

    /// The leader raises the state of the new cluster by itself, to the newest version of the build that all nodes run.
    pub async fn begins_at_the_newest_version(&self) {
        let id = self.cluster.ids()[0];
        let newest = json!({"current": 3, "understood": 3});
        let started = Instant::now();
        while self.ask(Method::GET, id, "/api/v1/cluster/status", None).await.1["state_version"]
            != newest
        {
            assert!(started.elapsed() < PATIENCE, "a new cluster keeps an older state version");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn base(&self, id: u64) -> String {
        format!("http://{}", self.cluster.node(id).plan().http)
    }

    pub fn load(&self) -> Load {
        let bases = self.cluster.ids().into_iter().map(|id| self.base(id)).collect();
        Load::start(self.http.clone(), bases, self.token.clone())
    }

    pub async fn ask(
        &self,
        method: Method,
        id: u64,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.base(id));
        let request = self.http.request(method, url).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn stop(&mut self, id: u64) {
        let stopped = self.cluster.node_mut(id).stop(Duration::from_secs(20)).await.unwrap();
        assert!(stopped, "node {id} did not stop the graceful way");
    }

    pub async fn restart_as_next(&mut self, id: u64) {
        let next = self.next.clone();
        self.restart(id, &next).await;
    }

    pub async fn restart_as_this(&mut self, id: u64) {
        let this = self.this.clone();
        self.restart(id, &this).await;
    }

    async fn restart(&mut self, id: u64, program: &Path) {
        if self.cluster.node(id).is_up() {
            self.stop(id).await;
        }
        self.cluster.use_program(id, program).unwrap();
        self.cluster.start_node(id).unwrap();
        self.cluster.wait_node_ready(id, READY_TIMEOUT).await.unwrap();
    }

    /// Starts a node with this build after the upgrade. It must stop by itself, and report why.
    pub async fn stops_as_this(&mut self, id: u64) {
        self.cluster.use_program(id, &self.this.clone()).unwrap();
        self.cluster.start_node(id).unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.cluster.node_mut(id).ended().unwrap() {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "an older node stays in an upgraded cluster");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let words = self.cluster.node(id).log_tail();
        assert!(!status.success(), "{words}");
        let expected =
            "it has state version 4, and this build understands up to 3: upgrade this node";
        assert!(words.contains(expected), "{words}");
    }

    /// Checks that all running nodes have the same state at the same index, and answer alike.
    pub async fn agree(&self, load: &Load) {
        let _paused = load.pause().await;
        let up: Vec<u64> =
            self.cluster.ids().into_iter().filter(|id| self.cluster.node(*id).is_up()).collect();
        let started = Instant::now();
        // The leader expires instances and reports health by itself, so the index may change.
        'again: loop {
            assert!(started.elapsed() < PATIENCE, "the nodes are never at the same index");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let before = self.indexes(&up).await;
            if before.len() > 1 {
                continue;
            }
            let mut differences = Vec::new();
            for path in ALIKE {
                let mut answers = Vec::new();
                for id in &up {
                    let mut answer = self.ask(Method::GET, *id, path, None).await;
                    leave_out_flap_scores(&mut answer.1);
                    answers.push(answer);
                }
                if answers.iter().any(|answer| answer.0 != 200) {
                    continue 'again;
                }
                if answers.iter().any(|answer| *answer != answers[0]) {
                    differences.push((*path, answers));
                }
            }
            if self.indexes(&up).await == before {
                assert!(differences.is_empty(), "{differences:#?}");
                return;
            }
        }
    }

    async fn indexes(&self, nodes: &[u64]) -> BTreeSet<u64> {
        let mut indexes = BTreeSet::new();
        for id in nodes {
            let ready = self.ask(Method::GET, *id, "/api/v1/ready", None).await.1;
            indexes.insert(ready["index"].as_u64().unwrap());
        }
        indexes
    }

    /// Waits until the log has every kind of command. Leases end and probes fail after some time.
    pub async fn every_kind_of_command_is_in_the_log(&self, id: u64) {
        let started = Instant::now();
        for action in ACTIONS {
            let path = format!("/api/v1/audit?action={action}&limit=1");
            loop {
                let found = self.ask(Method::GET, id, &path, None).await.1;
                if found["items"].as_array().is_some_and(|found| !found.is_empty()) {
                    break;
                }
                assert!(started.elapsed() < PATIENCE, "{action} was never done");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Removes the flap scores from an answer. They decrease with time, so they depend on when each node was asked.
fn leave_out_flap_scores(answer: &mut Value) {
    match answer {
        Value::Object(fields) => {
            fields.remove("flap_score");
            fields.values_mut().for_each(leave_out_flap_scores);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_flap_scores),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
