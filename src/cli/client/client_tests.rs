//! The client and real sockets, whose other ends misbehave in known ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use reqwest::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::connect::ClientTls;
use super::*;
use crate::cli::exit;

/// How a test's node treats one connection.
#[derive(Clone, Copy)]
enum Does {
    Answer(&'static str),
    HangUp,
    /// Answers that nothing was written, after so many milliseconds.
    RefuseAfter(u64),
}

const OK: Does =
    Does::Answer("HTTP/1.1 200 OK\r\ncontent-length: 11\r\nx-maxine-index: 7\r\n\r\n{\"index\":7}");
const BUSY_TEXT: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 48\r\n\r\n{\"type\":\"/problems/unavailable\",\"detail\":\"busy\"}";
const BUSY: Does = Does::Answer(BUSY_TEXT);
const UNKNOWN: Does = Does::Answer(
    "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 35\r\n\r\n{\"type\":\"/problems/outcome-unknown\"}",
);
const REFUSED: Does = Does::Answer("HTTP/1.1 422 Unprocessable\r\ncontent-length: 2\r\n\r\n{}");

struct Node {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// A node that treats each connection by the next step of `script`, and repeats the last step.
    async fn start(script: &'static [Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, step) = (requests.clone(), AtomicU32::new(0));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 8_192];
                let len = stream.read(&mut buffer).await.unwrap();
                seen.lock().push(String::from_utf8_lossy(&buffer[..len]).into_owned());
                let at = step.fetch_add(1, Ordering::Relaxed) as usize;
                let answer = match script[at.min(script.len() - 1)] {
                    Does::Answer(text) => Some(text),
                    Does::HangUp => None,
                    Does::RefuseAfter(ms) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        Some(BUSY_TEXT)
                    }
                };
                if let Some(text) = answer {
                    stream
                        .write_all(
                            text.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes(),
                        )
                        .await
                        .unwrap();
                }
                stream.shutdown().await.ok();
            }
        });
        Self { url, requests }
    }

    fn count(&self) -> usize {
        self.requests.lock().len()
    }
}

fn client(nodes: &[&str], timeout_ms: u64) -> Client {
    Client::of(&nodes.iter().map(ToString::to_string).collect::<Vec<_>>(), None, timeout_ms)
        .unwrap()
}

async fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_dead_node_is_passed_over_and_not_asked_first_again() {
    let (dead, node) = (dead_url().await, Node::start(&[OK]).await);
    let client = client(&[&dead, &node.url], 5_000);
    for _ in 0..2 {
        assert_eq!(client.send(&Request::get(&["config"])).await.unwrap().index(), Some(7));
    }
    assert_eq!(client.preferred.load(Ordering::Relaxed), 1);
}

/// A process that is paused keeps its connections open and answers nothing.
#[tokio::test]
async fn nodes_that_hang_do_not_keep_the_others_from_being_asked() {
    let hung = Node::start(&[Does::RefuseAfter(60_000)]).await;
    let node = Node::start(&[OK]).await;
    let servers = [&*hung.url, &hung.url, &hung.url, &hung.url, &node.url];
    let read = Request::get(&["cluster", "status"]);
    client(&servers, 2_000).send(&read).await.unwrap();
    let renewal = Request::keyed(Method::POST, &["sessions", "a", "renew"]).hedged(50);
    client(&servers, 2_000).send(&renewal).await.unwrap();
    let stream = client(&servers, 2_000).stream(&Request::get(&["watch"])).await.unwrap();
    assert!(stream.status().is_success());
    // If no node answers, each was asked and is named.
    let hung = client(&servers[..4], 1_000).send(&read).await.unwrap_err();
    assert!(matches!(&hung, CliError::Unavailable { tried, .. } if tried.len() == 4), "{hung}");
}

/// Regression: a change of the members, and later a sign-in, waited for a node that hangs until the time was over, and its
/// outcome was unknown then.
#[tokio::test]
async fn a_node_that_hangs_gets_no_write_that_is_sent_once() {
    const SCRIPTS: [&[Does]; 2] = [&[OK], &[REFUSED, OK]];
    let hung = Node::start(&[Does::RefuseAfter(60_000)]).await;
    for path in [&["cluster", "snapshot"][..], &["session"], &["tokens"]] {
        let write = Request::once(Method::POST, path);
        for script in SCRIPTS {
            let node = Node::start(script).await;
            let client = client(&[&hung.url, &node.url], 4_000);
            client.send(&write).await.unwrap();
            assert_eq!(client.answered().as_str().trim_end_matches('/'), node.url);
            let asked: Vec<String> =
                node.requests.lock().iter().map(|text| text[..4].to_owned()).collect();
            assert_eq!(asked, ["GET ", "POST"]);
        }
    }
    // If no node answers, nothing was sent, and the error says so.
    let write = Request::once(Method::DELETE, &["session"]);
    let error = client(&[&hung.url, &hung.url], 1_000).send(&write).await.unwrap_err();
    assert_eq!(error.exit_code(), exit::UNAVAILABLE, "{error}");
    assert!(hung.requests.lock().iter().all(|text| text.starts_with("GET ")));
}

#[tokio::test]
async fn a_request_ends_at_its_own_limit_before_that_of_the_client() {
    let hung = Node::start(&[Does::RefuseAfter(60_000)]).await;
    let client = client(&[&hung.url], 60_000);
    for request in [Request::get(&["config"]), Request::keyed(Method::PUT, &["config"])] {
        let began_ms = client.clock.monotonic_ms();
        client.send(&request.within(300)).await.unwrap_err();
        assert!(client.clock.monotonic_ms() - began_ms < 5_000);
    }
}

#[tokio::test]
async fn a_keyed_write_is_repeated_with_the_same_key_until_it_is_answered() {
    let node = Node::start(&[BUSY, Does::HangUp, UNKNOWN, OK]).await;
    let request = Request::keyed(Method::PUT, &["config"]).json(serde_json::json!({}));
    client(&[&node.url], 10_000).send(&request).await.unwrap();
    let keys: Vec<String> = node
        .requests
        .lock()
        .iter()
        .map(|text| {
            text.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap().to_owned()
        })
        .collect();
    assert_eq!(keys.len(), 4);
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
}

#[tokio::test]
async fn a_write_without_a_key_is_sent_once_and_its_lost_answer_is_told() {
    let node = Node::start(&[Does::HangUp, OK]).await;
    let error = client(&[&node.url], 5_000)
        .send(&Request::once(Method::POST, &["cluster", "transfer"]))
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), exit::OUTCOME_UNKNOWN);
    assert_eq!(node.count(), 1);
}

#[tokio::test]
async fn a_keyed_write_that_never_gets_an_answer_is_told_as_unknown() {
    let node = Node::start(&[Does::HangUp]).await;
    let error = client(&[&node.url], 1_000)
        .send(&Request::keyed(Method::PUT, &["config"]))
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), exit::OUTCOME_UNKNOWN);
    assert!(node.count() > 1);
}

/// Regression: the error had only the last answers, which said that nothing was written, and advised to leave out a node
/// that does not answer although all answered.
#[tokio::test]
async fn the_answer_that_leaves_the_outcome_open_is_shown_with_the_command_that_tells() {
    const UNKNOWN_ONCE: Does = Does::Answer(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 69\r\n\r\n{\"detail\":\"no answer\",\"outcome\":\"unknown\",\"retry\":\"later\",\"status\":1}",
    );
    let (one, two) = (Node::start(&[UNKNOWN_ONCE, BUSY]).await, Node::start(&[BUSY]).await);
    let write = Request::keyed(Method::PUT, &["kv", "a/b"]);
    let error = client(&[&one.url, &two.url], 2_000).send(&write).await.unwrap_err();
    assert_eq!(error.exit_code(), exit::OUTCOME_UNKNOWN, "{error}");
    let (text, advice) = (error.to_string(), error.action().unwrap());
    assert!(text.contains("no answer (HTTP 503)") && text.contains("busy (HTTP 503)"), "{text}");
    assert!(advice.contains("'maxine kv get a/b'"), "{advice}");
    assert!(!advice.contains("--server"), "{advice}");
    // One of two nodes is silent.
    let hung = Node::start(&[Does::HangUp]).await;
    let error = client(&[&hung.url, &two.url], 1_000).send(&write).await.unwrap_err();
    assert!(error.action().unwrap().contains("--server"), "{error}");
}

/// Without a leader every answer says, after a while, that nothing was written. One more try whose answer
/// does not arrive in time would make the outcome unknown.
#[tokio::test]
async fn a_write_that_every_answer_called_unwritten_ends_as_unavailable() {
    for request in [
        Request::keyed(Method::PUT, &["config"]),
        Request::once(Method::POST, &["cluster", "transfer"]),
    ] {
        let node = Node::start(&[Does::RefuseAfter(700)]).await;
        let error = client(&[&node.url], 4_000).send(&request).await.unwrap_err();
        assert_eq!(error.exit_code(), exit::UNAVAILABLE, "{error}");
        assert!(node.count() > 1, "it is tried again while there is time");
    }
}

/// A node can say that nothing was changed only if it knows how long it may take to find out.
#[tokio::test]
async fn a_write_tells_the_node_to_answer_before_its_time_is_up() {
    for (timeout_ms, expected_ms) in [(1_000, 700..=750), (20_000, 18_900..=19_000)] {
        let node = Node::start(&[OK]).await;
        let client = client(&[&node.url], timeout_ms);
        client.send(&Request::keyed(Method::PUT, &["config"])).await.unwrap();
        client.send(&Request::get(&["config"])).await.unwrap();
        let told_ms: Vec<Option<u64>> = node
            .requests
            .lock()
            .iter()
            .map(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("x-maxine-timeout-ms: "));
                line.map(|ms| ms.parse().unwrap())
            })
            .collect();
        assert!(expected_ms.contains(&told_ms[0].unwrap()), "{told_ms:?} of {timeout_ms}");
        assert_eq!(told_ms[1], None, "a read needs no such time");
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_a_read_asks_each_node_once() {
    let refusing = Node::start(&[REFUSED, OK]).await;
    let error = client(&[&refusing.url], 5_000)
        .send(&Request::keyed(Method::PUT, &["config"]))
        .await
        .unwrap_err();
    assert_eq!((error.exit_code(), refusing.count()), (exit::REFUSED, 1));
    let (one, two) = (Node::start(&[BUSY]).await, Node::start(&[BUSY]).await);
    let error =
        client(&[&one.url, &two.url], 5_000).send(&Request::get(&["config"])).await.unwrap_err();
    assert_eq!((error.exit_code(), one.count(), two.count()), (exit::UNAVAILABLE, 1, 1));
}

/// Regression: a backup that did not fit on one node stopped it, and then the next one.
#[tokio::test]
async fn a_backup_or_snapshot_that_one_node_has_no_room_for_is_not_asked_of_the_next() {
    const FULL: Does = Does::Answer(
        "HTTP/1.1 409 Conflict\r\ncontent-length: 93\r\n\r\n{\"detail\":\"the snapshot needs about 9 MiB\",\"outcome\":\"not_done\",\"retry\":\"never\",\"status\":409}",
    );
    let (full, next) = (Node::start(&[FULL]).await, Node::start(&[OK]).await);
    let of_two = client(&[&full.url, &next.url], 5_000);
    let backup = of_two.stream(&Request::get(&["cluster", "backup"])).await.unwrap_err();
    let write = Request::keyed(Method::POST, &["cluster", "snapshot"]);
    let snapshot = of_two.send(&write).await.unwrap_err();
    for error in [backup, snapshot] {
        assert_eq!(error.exit_code(), exit::REFUSED, "{error}");
        assert!(error.to_string().contains("the snapshot needs about 9 MiB"), "{error}");
    }
    assert_eq!((full.count(), next.count()), (2, 0));
}

/// Each attempt would count against the limit, so a password is sent once. An answer with status 429 counts
/// as a refusal.
#[tokio::test]
async fn at_the_limit_of_sign_ins_a_password_is_sent_once_and_the_request_is_refused() {
    const LIMIT: Does = Does::Answer(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 2\r\n\r\n{}",
    );
    for (method, path) in [(Method::POST, &["session"][..]), (Method::PUT, &["me", "password"][..])]
    {
        let (one, two) = (Node::start(&[LIMIT]).await, Node::start(&[LIMIT]).await);
        let request = Request::once(method, path);
        let error = client(&[&one.url, &two.url], 5_000).send(&request).await.unwrap_err();
        let sent = |node: &Node| {
            node.requests.lock().iter().filter(|text| !text.starts_with("GET ")).count()
        };
        assert_eq!((error.exit_code(), sent(&one), sent(&two)), (exit::REFUSED, 1, 0));
    }
    let busy = Node::start(&[LIMIT]).await;
    let error = client(&[&busy.url], 500).send(&Request::get(&["config"])).await.unwrap_err();
    assert_eq!(error.exit_code(), exit::UNAVAILABLE, "another limit passes");
}

/// A URL with https:// names a port that speaks plain HTTP.
#[tokio::test]
async fn a_server_without_tls_is_named_so() {
    let node = Node::start(&[REFUSED]).await;
    let url = node.url.replace("http://", "https://");
    let error = client(&[&url], 500).send(&Request::get(&["config"])).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("does not speak TLS on this port: use a URL with http://"), "{text}");
}

#[tokio::test]
async fn a_write_to_a_cluster_that_is_not_there_fails_at_once() {
    let dead = dead_url().await;
    let before = Clock::system();
    let error =
        client(&[&dead], 30_000).send(&Request::keyed(Method::PUT, &["config"])).await.unwrap_err();
    assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    assert!(before.monotonic_ms() < 5_000);
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

/// Regression: `maxine deregister .. a` removed the service `instances/a`.
#[tokio::test]
async fn a_name_that_means_another_path_is_never_sent() {
    let dead = dead_url().await;
    for name in ["", ".", ".."] {
        let path = ["services", "default", name, "instances", "a"];
        for request in [Request::get(&path), Request::keyed(Method::DELETE, &path)] {
            let client = client(&[&dead], 30_000);
            let sent = client.send(&request).await.unwrap_err();
            let streamed = client.stream(&request).await.unwrap_err();
            assert_eq!((sent.exit_code(), streamed.exit_code()), (exit::USAGE, exit::USAGE));
        }
    }
}

const NO_TOKEN: Does = Does::Answer(
    "HTTP/1.1 401 Unauthorized\r\ncontent-length: 41\r\n\r\n{\"detail\":\"the request carries no token\"}",
);

/// If other nodes answer that the request carries no token, this must not hide the answer of the session's
/// node.
#[tokio::test]
async fn the_node_of_the_session_is_asked_first_and_the_others_say_why_they_cannot_answer() {
    let (other, own) = (Node::start(&[NO_TOKEN]).await, Node::start(&[OK, BUSY]).await);
    let with_session_of = |servers: &[&str], session: &str| {
        let servers = servers.iter().map(|server| Url::parse(server).unwrap()).collect();
        let token = connect::Token::of_session("t", &[&format!("{session}/")]);
        Client::new(servers, Some(token), ClientTls::default(), 5_000).unwrap()
    };
    let client = with_session_of(&[&other.url, &own.url], &own.url);
    let status = Request::get(&["cluster", "status"]);
    assert_eq!(client.send(&status).await.unwrap().index(), Some(7));
    assert_eq!((own.count(), other.count()), (1, 0));
    assert!(own.requests.lock()[0].contains("authorization: Bearer t"));
    // The session's node cannot serve it now.
    for failed in
        [client.send(&status).await.unwrap_err(), client.stream(&status).await.unwrap_err()]
    {
        let shown = failed.to_string();
        assert_eq!(failed.exit_code(), exit::UNAVAILABLE, "{shown}");
        let why = format!("the stored session was made with {} only", own.url);
        assert!(shown.contains("busy (HTTP 503)") && shown.contains(&why), "{shown}");
    }
    assert!(other.requests.lock().iter().all(|text| !text.contains("authorization")));
    // If the node of the session was not named, the first refusal ends the request.
    let elsewhere = with_session_of(&[&other.url, &other.url], "http://own:1");
    let refused = elsewhere.send(&status).await.unwrap_err();
    assert_eq!(refused.exit_code(), exit::REFUSED, "{refused}");
    assert!(refused.to_string().contains("was made with http://own:1 only"), "{refused}");
    // If the only answer was a 401, a write is not tried again.
    let dead = dead_url().await;
    let client = with_session_of(&[&dead, &other.url], &dead);
    let failed = client.send(&Request::keyed(Method::PUT, &["config"])).await.unwrap_err();
    assert!(matches!(&failed, CliError::Unavailable { answered: true, tried } if tried.len() == 2));
    assert_eq!(other.requests.lock().iter().filter(|text| text.starts_with("PUT")).count(), 1);
}

/// A process that hangs, or that is no node, accepts connections too.
#[tokio::test]
async fn a_connection_that_is_only_accepted_is_no_answer() {
    let closes = Node::start(&[Does::HangUp]).await;
    let failed = client(&[&closes.url], 1_000).send(&Request::get(&["ready"])).await.unwrap_err();
    assert!(matches!(&failed, CliError::Unavailable { answered: false, .. }), "{failed}");
    let refuses = Node::start(&[BUSY]).await;
    let client = client(&[&closes.url, &refuses.url], 1_000);
    let failed = client.send(&Request::get(&["ready"])).await.unwrap_err();
    assert!(matches!(&failed, CliError::Unavailable { answered: true, .. }), "{failed}");
}

/// Regression: `maxine cluster backup` without a majority ended with "no answer in time".
#[tokio::test]
async fn a_stream_tells_the_node_to_answer_before_its_time_is_up() {
    let (slow, last) = (Node::start(&[Does::RefuseAfter(300)]).await, Node::start(&[BUSY]).await);
    let failed = client(&[&slow.url, &last.url], 20_000)
        .stream(&Request::get(&["cluster", "backup"]))
        .await
        .unwrap_err();
    assert!(failed.to_string().matches("busy (HTTP 503)").count() == 2, "{failed}");
    let told_ms = |node: &Node| -> u64 {
        let requests = node.requests.lock();
        let mut lines = requests[0].lines();
        lines.find_map(|line| line.strip_prefix("x-maxine-timeout-ms: ")).unwrap().parse().unwrap()
    };
    assert_eq!(told_ms(&slow), ATTEMPT_MS_MAX - RETURN_MS_MAX);
    // The last node gets all of the remaining time.
    assert!((10_000..=18_700).contains(&told_ms(&last)), "{}", told_ms(&last));
}

#[test]
fn paths_are_encoded_segment_by_segment() {
    assert_eq!(
        api_path(&["services", "default", "a/b c€"]),
        "/api/v1/services/default/a%2Fb%20c%E2%82%AC"
    );
}

#[test]
fn an_old_copy_is_told() {
    let note = |headers: &[(&'static str, &'static str)]| {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        stale_note(&headers.iter().map(pair).collect())
    };
    let (known, unknown) = (("x-maxine-leader", "known"), ("x-maxine-leader", "unknown"));
    assert_eq!(note(&[known, ("x-maxine-staleness-ms", "400")]), None);
    assert_eq!(
        note(&[known, ("x-maxine-staleness-ms", "12000")]).unwrap(),
        "the node that answered is behind: its copy is at most 12s old"
    );
    assert_eq!(
        note(&[unknown, ("x-maxine-staleness-ms", "31000")]).unwrap(),
        "the node that answered knows no leader, and its copy is at most 31s old"
    );
    assert_eq!(
        note(&[unknown, ("x-maxine-staleness", "unknown")]).unwrap(),
        "the node that answered knows no leader, and the age of its copy is not known"
    );
}

/// Only lists and three other commands told it once, and an error never did.
#[tokio::test]
async fn every_read_of_an_old_copy_is_told_once_and_a_404_too() {
    const GONE: Does = Does::Answer(
        "HTTP/1.1 404 Not Found\r\nx-maxine-leader: unknown\r\ncontent-length: 2\r\n\r\n{}",
    );
    const OLD: Does =
        Does::Answer("HTTP/1.1 200 OK\r\nx-maxine-leader: unknown\r\ncontent-length: 2\r\n\r\n{}");
    const NOTE: &str =
        "the node that answered knows no leader, and the age of its copy is not known";
    let why = Request::get(&["services", "default", "a", "instances", "b", "health"]);
    let node = Node::start(&[GONE]).await;
    let error = client(&[&node.url], 5_000).send(&why).await.unwrap_err();
    let mut shown = Vec::new();
    error.report(crate::cli::output::Format::Table, &mut shown);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.ends_with(&format!("\nnote: {NOTE}\n")), "{shown}");
    for path in [&["audit", "verify"][..], &["config"], &["keys"], &["cluster", "backup"]] {
        let node = Node::start(&[OLD]).await;
        let client = client(&[&node.url], 5_000);
        let headers = client.send(&Request::get(path)).await.unwrap().headers;
        assert!(client.told_stale.load(Ordering::Relaxed), "{path:?}");
        assert_eq!(client.first_stale_note(&Request::get(path), &headers), None, "told once");
    }
    // These commands show the age of each node's copy themselves, and a write has no old answer.
    let own = [&["cluster", "status"][..], &["cluster", "digest"], &["alerts", "silences"]];
    let requests = own.map(Request::get).into_iter();
    for request in requests.chain([Request::keyed(Method::PATCH, &["config"])]) {
        let node = Node::start(&[OLD]).await;
        let client = client(&[&node.url], 5_000);
        client.send(&request).await.unwrap();
        assert!(!client.told_stale.load(Ordering::Relaxed), "{}", request.path);
    }
}

#[test]
fn the_time_of_an_answer_is_read() {
    let of = |text: &'static str| {
        date_ms(&HeaderMap::from_iter([(DATE, HeaderValue::from_static(text))]))
    };
    assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
    assert_eq!(of("yesterday"), None);
    assert_eq!(date_ms(&HeaderMap::new()), None);
}
