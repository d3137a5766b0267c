//! Locks over three nodes: never two holders, also while the leader is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};

use crate::dev::{Dev, PATIENCE};

/// One time for which a contender certainly held the lock: from the answer to its request until it sent the last renewal
/// that was answered.
#[derive(Clone, Debug)]
struct Hold {
    who: usize,
    lock_index: u64,
    from: Instant,
    until: Instant,
}

/// A process that wants the lock, as one of many.
struct Contender {
    who: usize,
    urls: Vec<String>,
    client: reqwest::Client,
    token: String,
    holds: Arc<Mutex<Vec<Hold>>>,
    stop: Arc<AtomicBool>,
}

impl Contender {
    /// Asks one node after the other until one answers with a status that says something.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let started = Instant::now();
        loop {
            for node in 0..self.urls.len() {
                let url = &self.urls[(self.who + node) % self.urls.len()];
                let request = self.client.request(method.clone(), format!("{url}/api/v1{path}"));
                let request = request.bearer_auth(&self.token).timeout(Duration::from_secs(2));
                let request = match &body {
                    Some(body) => request.json(body),
                    None => request,
                };
                let Ok(answer) = request.send().await else { continue };
                let status = answer.status().as_u16();
                if status < 500 {
                    return (status, answer.json().await.unwrap_or_default());
                }
            }
            assert!(started.elapsed() < PATIENCE, "nobody answers {path}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn session(&self) -> String {
        let body = json!({"name": format!("contender {}", self.who), "ttl_ms": 2_000, "lock_delay_ms": 300});
        let (status, made) = self.ask(Method::POST, "/sessions", Some(body)).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    async fn renewed(&self, session: &str) -> bool {
        let path = format!("/sessions/{session}/renew");
        self.ask(Method::POST, &path, None).await.0 == 200
    }

    async fn run(self) {
        let mut session = self.session().await;
        while !self.stop.load(Ordering::SeqCst) {
            let body = json!({"session": session});
            let (status, taken) = self.ask(Method::PUT, "/locks/leader", Some(body)).await;
            let from = Instant::now();
            match status {
                200 => {}
                404 => {
                    session = self.session().await;
                    continue;
                }
                _ => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    if !self.renewed(&session).await {
                        session = self.session().await;
                    }
                    continue;
                }
            }
            let lock_index = taken["lock_index"].as_u64().unwrap();
            let mut until = from;
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(40)).await;
                let sent = Instant::now();
                if !self.renewed(&session).await {
                    break;
                }
                until = sent;
            }
            self.holds.lock().push(Hold { who: self.who, lock_index, from, until });
            // The answer may be lost, so the session may have given the lock back already.
            let path = format!("/locks/leader?session={session}");
            self.ask(Method::DELETE, &path, None).await;
        }
    }
}

/// The state of a new cluster gets its version as soon as the leader has met all voters.
async fn at_newest_version(dev: &Dev, token: &str) {
    let started = Instant::now();
    loop {
        let url = format!("{}/api/v1/cluster/status", dev.nodes[0].http);
        let answer = dev.client.get(url).bearer_auth(token).send().await.unwrap();
        let version = answer.json::<Value>().await.unwrap()["state_version"].take();
        if version["current"] == version["understood"] {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{version}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn check(holds: &[Hold]) {
    let mut holds = holds.to_vec();
    holds.sort_by_key(|hold| hold.from);
    for pair in holds.windows(2) {
        let [before, after] = pair else { unreachable!("windows of two") };
        assert!(before.until <= after.from, "two holders at once: {before:?} {after:?}");
        assert!(
            before.lock_index < after.lock_index,
            "the token did not grow: {before:?} {after:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_never_has_two_holders_while_the_leader_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let token = dev.token().await;
    let leader = dev.leader().await;
    at_newest_version(&dev, &token).await;
    let holds: Arc<Mutex<Vec<Hold>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let contender = |who| Contender {
        who,
        urls: dev.nodes.iter().map(|node| node.http.clone()).collect(),
        client: dev.client.clone(),
        token: token.clone(),
        holds: Arc::clone(&holds),
        stop: Arc::clone(&stop),
    };
    let running: Vec<_> = (0..3).map(|who| tokio::spawn(contender(who).run())).collect();
    let several_of_each = async |after: usize| {
        let started = Instant::now();
        loop {
            let counts = (0..3)
                .map(|who| holds.lock().iter().skip(after).filter(|hold| hold.who == who).count());
            if counts.into_iter().all(|count| count >= 2) {
                return holds.lock().len();
            }
            assert!(
                started.elapsed() < PATIENCE,
                "somebody never gets the lock: {:?}",
                holds.lock()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let before = several_of_each(0).await;
    dev.signal(leader, Signal::SIGKILL);
    several_of_each(before).await;
    stop.store(true, Ordering::SeqCst);
    for contender in running {
        contender.await.unwrap();
    }
    check(&holds.lock());
}
