//! The forwarding of audit records to real receivers: over syslog with TLS, over HTTP, and to a file.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use maxine::app::Node;
use maxine::config::NodeConfig;
use maxine_telemetry::audit_forward::AuditSinkMode;
use maxine_telemetry::{AlertKind, AlertState, Severity};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use crate::authority::server_for_loopback;
use crate::dev::{Dev, PATIENCE};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Runs a test with nodes in this process.
fn run(test: impl Future<Output = ()>) {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(test);
}

/// Settings of a node of its own, without a sink and without anchors.
fn config(dir: &Path) -> NodeConfig {
    let mut config = NodeConfig::defaults();
    config.instance_id = "node-1".into();
    config.data_dir = dir.join("data");
    config.http.port = 0;
    config.security.initial_password_file = dir.join("password");
    config.audit.anchor_interval_ms = 0;
    config
}

fn key_file(dir: &Path) -> PathBuf {
    let path = dir.join("audit-key");
    std::fs::write(&path, [KEY, b"\n"].concat()).unwrap();
    path
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Registers an instance without a credential.
async fn register(node: &Node, id: &str) -> (StatusCode, Value) {
    let url = format!("http://{}/api/v1/services/default/orders/instances/{id}", node.http_addr());
    let body = json!({"address": format!("http://10.0.0.1:80/{id}"), "ttl_ms": 3_600_000});
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.put(url).json(&body).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

/// Registers an instance as soon as the node accepts writes.
async fn registered(node: &Node, id: &str) {
    until("the instance is not registered", async || register(node, id).await.0 == 200).await;
}

fn next_seq(node: &Node) -> u64 {
    node.view().snapshot().state.audit().next_seq()
}

/// HMAC-SHA256 as RFC 2104 describes it, made here so that the node's is not checked with itself.
fn hmac(key: &[u8], message: &[u8]) -> String {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(own, key)| *own ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An HTTP receiver that keeps the batches that it has taken.
#[derive(Clone, Default)]
struct Receiver {
    batches: Arc<Mutex<Vec<Value>>>,
    refuses: Arc<AtomicBool>,
    /// Maximum length of a body, in bytes; 0 for none. Longer ones are refused with 413.
    body_len_max: Arc<AtomicUsize>,
    /// Batches that were refused.
    refused: Arc<Mutex<u32>>,
}

impl Receiver {
    async fn serve(&self) -> String {
        let own = self.clone();
        let take = post(async move |headers: HeaderMap, body: Bytes| {
            let signature = headers["x-maxine-signature"].to_str().unwrap();
            assert_eq!(signature, format!("sha256={}", hmac(KEY, &body)));
            if own.refuses.load(Ordering::SeqCst) {
                *own.refused.lock() += 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let body_len_max = own.body_len_max.load(Ordering::SeqCst);
            if body_len_max > 0 && body.len() > body_len_max {
                *own.refused.lock() += 1;
                return StatusCode::PAYLOAD_TOO_LARGE;
            }
            own.batches.lock().push(serde_json::from_slice(&body).unwrap());
            StatusCode::NO_CONTENT
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/audit", take);
        let app = app.layer(axum::extract::DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        format!("http://{addr}/audit")
    }

    fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// The hash of each record, by its number. Two nodes or two deliveries never differ in one.
    fn records(&self) -> BTreeMap<u64, String> {
        let mut records = BTreeMap::new();
        for record in self.batches.lock().iter().flat_map(|b| b["records"].as_array().unwrap()) {
            let hash = record["hash"].as_str().unwrap().to_owned();
            let before = records.insert(record["seq"].as_u64().unwrap(), hash.clone());
            assert!(before.is_none_or(|before| before == hash), "{record}");
        }
        records
    }

    /// Whether it has every record below this number.
    fn has_all(&self, next_seq: u64) -> bool {
        self.records().range(..next_seq).map(|(seq, _)| *seq).eq(0..next_seq)
    }
}

#[test]
fn an_http_receiver_that_fails_at_first_gets_every_record_in_signed_batches_also_after_a_restart() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        receiver.refuse(true);
        let mut config = config(dir.path());
        config.audit.http_url = receiver.serve().await;
        config.audit.http_key_file = Some(key_file(dir.path()));
        config.audit.batch_max = 4;
        let node = Node::start(config.clone()).await.unwrap();
        for id in 0..10 {
            registered(&node, &format!("i{id}")).await;
        }
        until("nothing was sent", async || *receiver.refused.lock() >= 2).await;
        assert!(receiver.batches.lock().is_empty());
        receiver.refuse(false);
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;
        {
            let batches = receiver.batches.lock();
            assert!(batches.len() >= 3, "{batches:?}");
            for batch in &*batches {
                let records = batch["records"].as_array().unwrap();
                assert!((1..=4).contains(&records.len()), "{batch}");
                assert_eq!(batch["first_seq"], records[0]["seq"]);
                assert_eq!(batch["last_seq"], records.last().unwrap()["seq"]);
                assert_eq!((&batch["missing"], &batch["node"]), (&Value::Null, &"node-1".into()));
            }
        }
        let metrics = node.telemetry().metrics().clone();
        let counted = || metrics.audit_forwarded.with_label_values(&["http"]).get();
        until("they are not counted", async || counted() >= next).await;
        assert!(metrics.audit_forward_failures.with_label_values(&["http"]).get() >= 2);
        node.stop().await;

        // After the restart, at most the last batch is repeated, and the following records are sent.
        let last = receiver.batches.lock().last().unwrap()["first_seq"].as_u64().unwrap();
        let before = receiver.batches.lock().len();
        let node = Node::start(config).await.unwrap();
        registered(&node, "later").await;
        let next = next_seq(&node);
        until("later records are missing", async || receiver.has_all(next)).await;
        let first = receiver.batches.lock()[before]["first_seq"].as_u64().unwrap();
        assert!(first >= last, "{first} is before the last batch, which began at {last}");
        let position = dir.path().join("data/audit-forward/http");
        let mode = std::fs::metadata(position).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        node.stop().await;
    });
}

/// The messages of a syslog receiver, without their heads.
type Messages = Arc<Mutex<Vec<(String, Value)>>>;

/// Reads messages with octet counting until the connection ends. After `messages_max`, it breaks the connection.
async fn read_syslog(
    mut stream: impl tokio::io::AsyncRead + Unpin,
    messages: Messages,
    messages_max: usize,
) {
    let mut unread = Vec::new();
    let mut taken = 0;
    while stream.read_buf(&mut unread).await.is_ok_and(|len| len > 0) {
        while let Some(space) = unread.iter().position(|byte| *byte == b' ') {
            let len: usize = std::str::from_utf8(&unread[..space]).unwrap().parse().unwrap();
            if unread.len() < space + 1 + len {
                break;
            }
            if taken == messages_max {
                return;
            }
            let message: Vec<u8> = unread.drain(..space + 1 + len).skip(space + 1).collect();
            let message = String::from_utf8(message).unwrap();
            assert!(message.is_ascii());
            let (head, _) = message.split_once('{').unwrap();
            let object = serde_json::from_str(&message[head.len()..]).unwrap();
            messages.lock().push((head.to_owned(), object));
            taken += 1;
        }
    }
}

#[test]
fn a_syslog_receiver_over_tls_gets_every_record_although_its_first_connection_breaks() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (server, authority) = server_for_loopback();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, authority).unwrap();
        let messages = Messages::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::clone(&messages);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            // The first connection ends in the middle of a batch.
            for messages_max in [1].into_iter().chain(std::iter::repeat(usize::MAX)) {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                read_syslog(stream, Arc::clone(&kept), messages_max).await;
            }
        });
        let mut config = config(dir.path());
        config.audit.syslog_address = address.to_string();
        config.audit.syslog_ca = Some(ca);
        let node = Node::start(config).await.unwrap();
        for id in 0..5 {
            registered(&node, &format!("i{id}")).await;
        }
        let next = next_seq(&node);
        let has_all = || {
            let messages = messages.lock();
            let numbers = messages.iter().filter_map(|(_, record)| record["seq"].as_u64());
            numbers.filter(|seq| *seq < next).collect::<BTreeSet<u64>>().into_iter().eq(0..next)
        };
        until("records are missing", async || has_all()).await;
        let of_i3 = |(_, record): &&(String, Value)| record["object"] == "default/orders/i3";
        let (head, record) = messages.lock().iter().find(of_i3).unwrap().clone();
        assert_eq!(record["action"], "instance.register");
        assert!(head.starts_with("<110>1 20"), "{head}");
        assert!(head.ends_with("Z node-1 maxine - instance.register - "), "{head}");
        node.stop().await;
    });
}

/// A certificate of an unknown authority could be anybody's, and records hold names and addresses.
#[test]
fn a_syslog_receiver_with_a_certificate_of_another_authority_gets_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let ((server, _), (_, other)) = (server_for_loopback(), server_for_loopback());
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, other).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(dir.path());
        config.audit.syslog_address = listener.local_addr().unwrap().to_string();
        config.audit.syslog_ca = Some(ca);
        let accepted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&accepted);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen.fetch_or(acceptor.accept(stream).await.is_ok(), Ordering::SeqCst);
            }
        });
        let node = Node::start(config).await.unwrap();
        let metrics = node.telemetry().metrics().clone();
        let failures = || metrics.audit_forward_failures.with_label_values(&["syslog"]).get();
        until("no delivery failed", async || failures() >= 2).await;
        assert_eq!(metrics.audit_forwarded.with_label_values(&["syslog"]).get(), 0);
        assert!(!accepted.load(Ordering::SeqCst));
        node.stop().await;
    });
}

/// The state, the severity and the message of the alert about a sink.
fn alert(node: &Node, kind: AlertKind, sink: &str) -> Option<(AlertState, Severity, String)> {
    let object = format!("node-1 {sink}");
    let alerts = node.telemetry().alerts().newest_first();
    let found = alerts.into_iter().find(|alert| alert.kind == kind && alert.object == object)?;
    Some((found.state, found.severity, found.message))
}

#[test]
fn a_blocking_sink_that_fails_stops_changes_and_neither_heartbeats_nor_look_ups() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        let mut config = config(dir.path());
        config.audit.http_url = receiver.serve().await;
        config.audit.http_key_file = Some(key_file(dir.path()));
        config.audit.http_mode = AuditSinkMode::Blocking;
        config.audit.block_after_ms = 500;
        let node = Node::start(config).await.unwrap();
        registered(&node, "a").await;
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;

        receiver.refuse(true);
        let mut tries = 0;
        let mut refused = Value::Null;
        until("changes are accepted", async || {
            tries += 1;
            let (status, answer) = register(&node, &format!("b{tries}")).await;
            refused = answer;
            status == 503
        })
        .await;
        assert_eq!(refused["outcome"], "not_done", "{refused}");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("sink http") && detail.contains("audit.http_mode"), "{detail}");
        assert!(detail.contains("; the next try is at 20"), "{detail}");
        let blocked = next_seq(&node);
        // The same registration again is a heartbeat.
        assert_eq!(register(&node, "a").await.0, 200);
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        let base = format!("http://{}", node.http_addr());
        let discover = format!("{base}/api/maxine/serviceops/discover?serviceName=orders");
        assert_eq!(client.get(discover).send().await.unwrap().status(), 302);
        // An administrator changes nothing either, and can read.
        let token = std::fs::read_to_string(dir.path().join("data/break-glass")).unwrap();
        let drain = client.put(format!("{base}/api/v1/services/default/orders/instances/a/drain"));
        let drain = drain.bearer_auth(token.trim()).json(&json!({"reason": "r"}));
        let drained = drain.send().await.unwrap();
        assert_eq!(drained.status(), 503, "{}", drained.text().await.unwrap());
        let list = client.get(format!("{base}/api/v1/audit")).bearer_auth(token.trim());
        assert_eq!(list.send().await.unwrap().status(), 200);
        let records = node.view().snapshot().state.audit().since(blocked, 100);
        let changed = records.iter().any(|record| record.action.as_str().starts_with("instance."));
        assert!(!changed, "{records:?}");

        let failing = AlertKind::AuditForwardFailing;
        until("there is no alert", async || {
            let alert = alert(&node, failing, "http");
            alert.is_some_and(|(state, severity, message)| {
                (state, severity) == (AlertState::Active, Severity::Critical)
                    && message.contains("since 20")
                    && message.contains("refuses changes")
            })
        })
        .await;
        receiver.refuse(false);
        registered(&node, "c").await;
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;
        until("the alert stays", async || {
            alert(&node, failing, "http").is_some_and(|(state, ..)| state == AlertState::Resolved)
        })
        .await;
        node.stop().await;
    });
}

/// Scripts and load balancers that ask whether a node is ready send writes elsewhere. Look-ups continue.
#[test]
fn a_node_that_refuses_changes_because_of_a_blocking_sink_is_not_ready_for_writes() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        let mut config = config(dir.path());
        config.audit.http_url = receiver.serve().await;
        config.audit.http_key_file = Some(key_file(dir.path()));
        config.audit.http_mode = AuditSinkMode::Blocking;
        config.audit.block_after_ms = 500;
        let node = Node::start(config).await.unwrap();
        registered(&node, "a").await;
        let base = format!("http://{}/api/v1", node.http_addr());
        let token = std::fs::read_to_string(dir.path().join("data/break-glass")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = async |path: &str| -> (u16, Value) {
            let request = client.get(format!("{base}/{path}")).bearer_auth(token.trim());
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json().await.unwrap())
        };
        until("the node is not ready", async || ask("ready").await.0 == 200).await;

        receiver.refuse(true);
        let mut tries = 0;
        until("changes are accepted", async || {
            tries += 1;
            register(&node, &format!("b{tries}")).await.0 == 503
        })
        .await;
        let (status, answer) = ask("ready").await;
        assert_eq!((status, &answer["ready"]), (503, &json!(false)), "{answer}");
        let names_sink = |text: &Value| {
            let text = text.as_str().unwrap_or_default();
            text.contains("could not forward audit records to its sink http")
        };
        assert!(names_sink(&answer["reason"]), "{answer}");
        let (status, answer) = ask("ready?scope=reads").await;
        assert_eq!((status, &answer["ready"]), (200, &json!(true)), "{answer}");
        let (_, answer) = ask("cluster/status").await;
        let warnings = answer["warnings"].as_array().unwrap();
        assert!(warnings.iter().any(names_sink), "{answer}");

        receiver.refuse(false);
        until("the node stays not ready", async || ask("ready").await.0 == 200).await;
        node.stop().await;
    });
}

/// Regression: while the position could not be stored, each try delivered the same records again.
#[test]
fn records_whose_position_cannot_be_stored_are_delivered_once() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        let mut config = config(dir.path());
        config.audit.http_url = receiver.serve().await;
        config.audit.http_key_file = Some(key_file(dir.path()));
        let node = Node::start(config).await.unwrap();
        registered(&node, "a").await;
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;
        // A folder where the new file of the position is written.
        let draft = dir.path().join("data/audit-forward/http.new");
        until("the folder is not made", async || std::fs::create_dir(&draft).is_ok()).await;
        let came_once = || {
            let batches = receiver.batches.lock();
            let records = batches.iter().map(|batch| batch["records"].as_array().unwrap().len());
            let all: usize = records.sum();
            drop(batches);
            all == receiver.records().len()
        };
        registered(&node, "b").await;
        let failing = AlertKind::AuditForwardFailing;
        until("there is no alert", async || alert(&node, failing, "http").is_some()).await;
        let (_, _, message) = alert(&node, failing, "http").unwrap();
        assert!(message.starts_with("the sink http took audit records, but"), "{message}");
        assert!(message.contains("the file with the position cannot be used"), "{message}");
        let metrics = node.telemetry().metrics().clone();
        let failures = || metrics.audit_forward_failures.with_label_values(&["http"]).get();
        assert!(failures() >= 2, "it is tried again");
        assert!(came_once(), "{:?}", receiver.batches.lock());

        std::fs::remove_dir(&draft).unwrap();
        registered(&node, "c").await;
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;
        assert!(came_once(), "{:?}", receiver.batches.lock());
        node.stop().await;
    });
}

/// Nobody knows what became of a delivery without an answer. The words are those of the runbook.
#[test]
fn a_receiver_that_does_not_answer_is_reported_in_the_words_of_the_runbook() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        // It takes connections, and never answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(dir.path());
        config.audit.http_url = format!("http://{}/audit", listener.local_addr().unwrap());
        config.audit.http_key_file = Some(key_file(dir.path()));
        config.audit.timeout_ms = 500;
        let node = Node::start(config).await.unwrap();
        registered(&node, "a").await;
        let failing = AlertKind::AuditForwardFailing;
        until("there is no alert", async || alert(&node, failing, "http").is_some()).await;
        let (_, _, message) = alert(&node, failing, "http").unwrap();
        assert!(message.contains("wait: there was no answer in time; the next try"), "{message}");
        node.stop().await;
        drop(listener);
    });
}

/// Every record was forwarded before. What fails is the proof of them.
#[test]
fn an_anchor_that_cannot_be_delivered_is_reported_as_such_and_with_the_time_of_the_next_try() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        let mut config = config(dir.path());
        config.audit.http_url = receiver.serve().await;
        config.audit.http_key_file = Some(key_file(dir.path()));
        config.audit.anchor_interval_ms = 200;
        let node = Node::start(config).await.unwrap();
        registered(&node, "a").await;
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;
        receiver.refuse(true);
        let failing = AlertKind::AuditForwardFailing;
        until("there is no alert", async || alert(&node, failing, "http").is_some()).await;
        let (_, severity, message) = alert(&node, failing, "http").unwrap();
        assert_eq!(severity, Severity::Warning);
        let says = |text: &str| message.contains(text);
        assert!(says("an anchor could not be delivered to the sink http since 20"), "{message}");
        assert!(says("; no record waits: ") && says("; the next try is at 20"), "{message}");
        node.stop().await;
    });
}

#[test]
fn a_receiver_of_small_bodies_gets_every_record_and_one_that_it_refuses_alone_is_named_and_kept() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        receiver.refuse(true);
        let mut config = config(dir.path());
        config.audit.http_url = receiver.serve().await;
        config.audit.http_key_file = Some(key_file(dir.path()));
        let node = Node::start(config).await.unwrap();
        for id in 0..20 {
            registered(&node, &format!("i{id}")).await;
        }
        receiver.body_len_max.store(4_096, Ordering::SeqCst);
        receiver.refuse(false);
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;
        assert!(receiver.batches.lock().len() >= 3, "20 records do not fit into 4 KiB");

        receiver.body_len_max.store(64, Ordering::SeqCst);
        registered(&node, "later").await;
        let failing = AlertKind::AuditForwardFailing;
        until("the record is not named", async || {
            let (last, _) = receiver.records().pop_last().unwrap();
            let text = format!("status 413 to record {} alone", last + 1);
            alert(&node, failing, "http").is_some_and(|(_, _, message)| message.contains(&text))
        })
        .await;
        receiver.body_len_max.store(0, Ordering::SeqCst);
        let next = next_seq(&node);
        until("a record was left out", async || receiver.has_all(next)).await;
        node.stop().await;
    });
}

#[test]
fn a_file_that_cannot_be_written_raises_an_alert_and_has_every_record_afterwards() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        // A file is in the place of the directory.
        let place = dir.path().join("forwarded");
        std::fs::write(&place, "").unwrap();
        let file = place.join("audit.jsonl");
        let mut config = config(dir.path());
        config.audit.file = Some(file.clone());
        config.audit.anchor_interval_ms = 200;
        let node = Node::start(config).await.unwrap();
        registered(&node, "a").await;
        let failing = AlertKind::AuditForwardFailing;
        until("there is no alert", async || alert(&node, failing, "file").is_some()).await;
        let (_, severity, message) = alert(&node, failing, "file").unwrap();
        assert_eq!(severity, Severity::Warning);
        assert!(message.contains("wait") && !message.contains("refuses changes"), "{message}");
        assert_eq!(register(&node, "b").await.0, 200, "an alerting sink stops nothing");

        std::fs::remove_file(&place).unwrap();
        let next = next_seq(&node);
        let lines = || -> Vec<Value> {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let is_anchor = |line: &Value| line["anchor"]["next_seq"].as_u64() >= Some(next);
        until("there is no anchor", async || lines().iter().any(is_anchor)).await;
        let numbers: BTreeSet<u64> = lines().iter().filter_map(|l| l["seq"].as_u64()).collect();
        assert!((0..next).all(|seq| numbers.contains(&seq)), "{numbers:?}");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // The file proves that an export is unchanged, with the command that an auditor uses.
        let token = std::fs::read_to_string(dir.path().join("data/break-glass")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/api/v1/audit/export", node.http_addr());
        let export = client.get(url).bearer_auth(token.trim()).send().await.unwrap();
        let export = export.text().await.unwrap();
        node.stop().await;
        let (exported, anchors) = (dir.path().join("export.jsonl"), dir.path().join("anchors"));
        std::fs::write(&exported, export).unwrap();
        let verify = |anchors: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_maxine"));
            command.args(["audit", "verify"]).arg(&exported).arg("--anchor").arg(anchors);
            let output = command.output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            (output.status.success(), text)
        };
        let anchor = lines().into_iter().find(is_anchor).unwrap()["anchor"].take();
        std::fs::write(&anchors, anchor.to_string()).unwrap();
        let (success, text) = verify(&anchors);
        assert!(success && text.contains("agrees with 1 of 1 anchors"), "{text}");
        let mut forged = anchor.clone();
        forged["head"] = "0".repeat(64).into();
        std::fs::write(&anchors, json!({"anchor": forged}).to_string()).unwrap();
        let (success, text) = verify(&anchors);
        assert!(!success && text.contains("differs from the anchor"), "{text}");
    });
}

/// The class of callers without a credential keeps 20,000 records.
#[test]
fn records_that_left_the_log_while_a_sink_failed_are_reported_as_missing_and_counted() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::default();
        let mut config = config(dir.path());
        config.audit.http_url = receiver.serve().await;
        config.audit.http_key_file = Some(key_file(dir.path()));
        config.audit.batch_max = 5_000;
        config.audit.timeout_ms = 30_000;
        let node = Node::start(config).await.unwrap();
        registered(&node, "first").await;
        let next = next_seq(&node);
        until("records are missing", async || receiver.has_all(next)).await;
        receiver.refuse(true);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/api/v1/registrations", node.http_addr());
        for batch in 0..21 {
            let item = |n: usize| {
                let address = format!("http://h:{}", 1 + (batch * 1_000 + n) % 60_000);
                json!({"service": "flood", "id": format!("i{n}"), "address": address, "ttl_ms": 3_600_000})
            };
            let items: Vec<Value> = (0..1_000).map(item).collect();
            let answer = client.post(&url).json(&json!({"items": items})).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        }
        receiver.refuse(false);
        let next = next_seq(&node);
        let reported = || -> u64 {
            let batches = receiver.batches.lock();
            batches.iter().filter_map(|batch| batch["missing"]["records"].as_u64()).sum()
        };
        let received = || receiver.records().range(..next).count() as u64;
        until("some records are neither sent nor missing", async || {
            received() + reported() == next
        })
        .await;
        assert!(reported() >= 1_000, "{}", reported());
        let counted = node.telemetry().metrics().audit_forward_missing.clone();
        until("they are not counted", async || {
            counted.with_label_values(&["http"]).get() == reported()
        })
        .await;
        let (state, severity, message) = alert(&node, AlertKind::AuditForwardGap, "http").unwrap();
        assert_eq!((state, severity), (AlertState::Event, Severity::Critical));
        assert!(message.contains("left the audit log"), "{message}");
        node.stop().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_no_record_that_it_had_acknowledged_and_nodes_never_differ_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::default();
    let (url, key) = (receiver.serve().await, key_file(dir.path()));
    let env = [
        ("MAXINE_AUDIT_HTTP_URL", url.as_str()),
        ("MAXINE_AUDIT_HTTP_KEY_FILE", key.to_str().unwrap()),
    ];
    let nodes = dir.path().join("nodes");
    std::fs::create_dir(&nodes).unwrap();
    let mut dev = Dev::start_in(&nodes, &[], &env);
    let token = dev.token().await;
    for node in 0..3 {
        dev.wait_ready(node).await;
    }
    let leader = dev.leader().await;
    for id in 0..20 {
        let (status, answer) = dev.register(leader, "orders", &format!("i{id}")).await;
        assert_eq!(status, 200, "{answer}");
    }
    dev.signal(leader, Signal::SIGKILL);
    let survivor = (leader + 1) % 3;
    until("no other leader", async || dev.register(survivor, "orders", "later").await.0 == 200)
        .await;
    let request = dev.client.get(format!("{}/api/v1/audit/verify", dev.nodes[survivor].http));
    let proof: Value = request.bearer_auth(&token).send().await.unwrap().json().await.unwrap();
    let next = proof["next_seq"].as_u64().unwrap();
    let head = proof["head"].as_str().unwrap();
    until("records are missing", async || receiver.has_all(next)).await;
    // The receiver has the log as the survivors have it.
    assert_eq!(receiver.records()[&(next - 1)], head);
    let nodes: BTreeSet<String> =
        receiver.batches.lock().iter().map(|b| b["node"].as_str().unwrap().to_owned()).collect();
    assert!(nodes.len() >= 2, "each node forwards: {nodes:?}");

    // A node that returns continues where it was, and the other nodes' records agree with its own.
    dev.restart_dead();
    let returned = dev.hear_of_return();
    dev.wait_ready(returned).await;
    let name = dev.nodes[returned].instance.clone();
    until("the returned node does not catch up", async || {
        let batches = receiver.batches.lock();
        let own = batches.iter().filter(|batch| batch["node"] == name.as_str());
        own.filter_map(|batch| batch["last_seq"].as_u64()).max() >= Some(next - 1)
    })
    .await;
    receiver.records();
}
