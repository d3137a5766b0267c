//! Discovery on the fast path and through the HTTP library: the same requests get the same answers.

use std::time::Duration;

use maxine_api::access::AccessMode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Server, node};

const PATIENCE: Duration = Duration::from_secs(10);
const HEALTH: &str = "GET /api/actuator/health HTTP/1.1\r\nhost: h\r\n\r\n";

/// A discovery request, with additional header fields.
fn discover(query: &str, fields: &str) -> String {
    format!("GET /api/maxine/serviceops/discover?{query} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

/// An answer, in which values that differ from one answer to the next are replaced.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: String,
    fields: Vec<(String, String)>,
    body: String,
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    /// Whether its requests have a field that keeps them off the fast path.
    is_slow: bool,
}

impl Connection {
    async fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.addr).await.unwrap();
        Self { stream, read: Vec::new(), is_slow: false }
    }

    /// A connection whose requests take the slow path.
    async fn beside_the_fast_path(server: &Server) -> Self {
        Self { is_slow: true, ..Self::open(server).await }
    }

    async fn send(&mut self, bytes: &str) {
        // HTTP/1.0, which the fast path never answers, would read the field in another way.
        let lines = bytes.split_once(" HTTP/1.1\r\n").filter(|_| self.is_slow);
        let bytes = match lines {
            Some((line, rest)) => {
                format!("{line} HTTP/1.1\r\nconnection: keep-alive, other\r\n{rest}")
            }
            None => bytes.to_owned(),
        };
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Reads more; `false` at the end.
    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read));
        // A connection may end by a reset.
        read.await.expect("it hangs").is_ok_and(|len| len > 0)
    }

    async fn answer(&mut self) -> Answer {
        let head_len = loop {
            if let Some(at) = self.read.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more().await, "no answer");
        };
        let head = String::from_utf8(self.read.drain(..head_len).collect()).unwrap();
        let (status, fields) = head.trim_end().split_once("\r\n").unwrap();
        let mut body_len = 0;
        let mut fields: Vec<(String, String)> = fields
            .split("\r\n")
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                if name.eq_ignore_ascii_case("content-length") {
                    body_len = value.parse().unwrap();
                }
                (name.to_owned(), levelled(name, value))
            })
            .collect();
        fields.sort();
        while self.read.len() < body_len {
            assert!(self.more().await, "the answer is cut off");
        }
        let body = String::from_utf8(self.read.drain(..body_len).collect()).unwrap();
        Answer { status: status.to_owned(), fields, body }
    }
}

/// Replaces dates and generated ids by their form.
fn levelled(name: &str, value: &str) -> String {
    let is_made = matches!(name, "x-trace-id" | "traceparent") && !value.starts_with("00-4bf9");
    let shape = |c: char| if c.is_ascii_hexdigit() { '0' } else { c };
    match name {
        // The staleness differs from one moment to the next.
        "x-maxine-staleness-ms" => "an age".into(),
        "date" | "Date" => {
            assert!(value.len() == 29 && value.ends_with(" GMT"), "{value}");
            "a date".into()
        }
        _ if is_made && value.len() >= 32 => value.chars().map(shape).collect(),
        _ => value.into(),
    }
}

fn taken(server: &Server) -> u64 {
    server.state.telemetry().metrics().fast_path.get()
}

/// Clients of the Node.js Maxine that store header fields in a plain map find them only by these names.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_fields_are_written_as_the_node_js_maxine_writes_them() {
    let server = Server::start().await;
    server.register(node("orders", "a", 9000)).await;
    let short = discover("serviceName=orders", "");
    let by_library = discover("serviceName=orders", "connection: close\r\n");
    let html = discover("serviceName=orders", "accept: text/html\r\nconnection: close\r\n");
    for request in [short, by_library, html] {
        let mut connection = Connection::open(&server).await;
        connection.send(&request).await;
        let fields = connection.answer().await.fields;
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "Location",
            "Vary",
            "Content-Type",
            "Content-Length",
            "Date",
            "x-trace-id",
            "traceparent",
        ] {
            assert!(names.contains(&name), "{request:?}: {name} in {names:?}");
        }
    }
    let request = "GET /api/actuator/health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let answer = server.raw(request.as_bytes()).await;
    assert!(answer.contains("\r\nETag: W/") && answer.contains("\r\nContent-Type: "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_answer_alike() {
    let server = Server::start().await;
    server.register(node("orders", "a", 9000)).await;
    server.register(node("a b/ü", "a", 9001)).await;
    let shorts = [
        discover("serviceName=orders", ""),
        discover("serviceName=orders", "").replace("discover?", "discover/?"),
        discover("serviceName=orders&endPoint=x%2Fy%3Fa%3D1", "accept: */*\r\n"),
        discover("endPoint=/a%20b+c%zz&serviceName=orders&serviceName=none&x", ""),
        discover(
            "serviceName=a+b%2F%C3%BC&mode=redirect",
            "accept: application/json, text/plain\r\n",
        ),
        discover("serviceName=orders", "ACCEPT: application/json\r\nconnection: Keep-Alive\r\n"),
        discover("serviceName=orders", "x-trace-id: my own\r\nX-Trace-Id: another\r\n"),
        discover(
            "serviceName=orders",
            "x-trace-id:\r\ntraceparent: any text\r\nauthorization: Bearer x\r\n",
        ),
        discover(
            "serviceName=orders",
            "TraceParent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
             if-none-match: *\r\norigin: https://a.example\r\ncookie: a=b\r\n",
        ),
    ];
    let resolve = |path: &str, fields: &str| {
        format!("GET /api/v1/resolve/{path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
    };
    let shorts = shorts.into_iter().chain([
        resolve("default/orders?redirect=1", ""),
        resolve("default/orders?path=/x?a=1&redirect=1&key=me", "accept: text/html\r\n"),
        resolve("default/orders?redirect=1", "x-trace-id: my own\r\nauthorization: Bearer x\r\n"),
    ]);
    let others = [
        // Requests that do not lead to a redirect.
        resolve("default/none?redirect=1", ""),
        resolve("default/orders?redirect=0", ""),
        resolve("default/orders?key=a", ""),
        resolve("default/orders?redirect=1&redirect=1", ""),
        resolve("default/orders?redirect=1&path=x", ""),
        resolve("default/orders?redirect=1&path=/../x", ""),
        resolve("default/orders?redirect=1&other=1", ""),
        resolve("default/orders?redirect=1&consistency=nonsense", ""),
        resolve("default/o_r(d)ers?redirect=1", ""),
        // Redirects with more than the plain parameters.
        resolve("default/orders?redirect=1&consistency=leader", ""),
        resolve("default/orders?redirect=1&min_index=1", ""),
        resolve("default/orders?redirect=1&key=%61", ""),
        resolve("default/order%73?redirect=1", ""),
        resolve("default/orders/?redirect=1", ""),
        resolve("default/orders?redirect=1", "").replace("GET", "HEAD"),
        discover("", ""),
        discover("serviceName=none", ""),
        discover("serviceName=orders&mode=PROXY", ""),
        // Requests with fields that the fast path does not handle.
        discover("serviceName=orders", "accept: text/html\r\n"),
        discover("serviceName=orders", "connection: close\r\n"),
        discover("serviceName=orders", "connection: keep-alive, close\r\n"),
        discover("serviceName=orders", "host: another\r\n"),
        discover("serviceName=orders", "content-length: 0\r\n"),
        discover("serviceName=orders", "expect: 100-continue\r\n"),
        discover("serviceName=orders\"", ""),
        discover("serviceName=orders", "").replace("HTTP/1.1", "HTTP/1.0"),
        discover("serviceName=orders", "").replace("Host: h\r\n", ""),
        discover("serviceName=orders", "").replace("GET /", "GET http://h/"),
        discover("serviceName=orders", "").replace("GET", "POST"),
        discover("serviceName=orders", "").replace("GET", "OPTIONS"),
        discover("serviceName=orders", "no colon\r\n"),
    ];
    let shorts: Vec<String> = shorts.collect();
    for (requests, short) in [(&shorts[..], true), (&others[..], false)] {
        for request in requests {
            let before = taken(&server);
            let mut connection = Connection::open(&server).await;
            connection.send(request).await;
            let answer = connection.answer().await;
            assert_eq!(taken(&server) - before, u64::from(short), "{request}");
            assert!(!short || answer.status == "HTTP/1.1 302 Found", "{answer:?}");
            let mut connection = Connection::beside_the_fast_path(&server).await;
            connection.send(request).await;
            assert_eq!(answer, connection.answer().await, "{request}");
            assert_eq!(taken(&server) - before, u64::from(short), "{request}");
        }
    }
}

/// Without the announcement, a client sends its next request on the connection and loses it: the rest of the
/// body is not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_look_up_with_an_unfinished_body_announces_the_end_of_its_connection() {
    let server = Server::start().await;
    for (fields, closes) in [("content-length: 5\r\n", true), ("content-length: 0\r\n", false)] {
        let mut connection = Connection::open(&server).await;
        connection.send(&discover("serviceName=none", fields)).await;
        let answer = connection.answer().await;
        assert!(answer.status.starts_with("HTTP/1.1 503 "), "{answer:?}");
        let close = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        };
        assert_eq!(answer.fields.iter().any(close), closes, "{answer:?}");
        if closes {
            assert!(!connection.more().await, "the connection stays open");
        } else {
            connection.send(HEALTH).await;
            assert_eq!(connection.answer().await.body, r#"{"status":"UP"}"#);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hash_strategies_read_is_read_both_ways() {
    let server = Server::start().await;
    let token = server.admin().await;
    for n in 0..8 {
        server.register(node("orders", &format!("n{n}"), 9000 + n)).await;
    }
    let policy = json!({
        "selection": {"strategy": "consistent_hash", "hash_key": {"from": "header", "name": "x-user"}},
    });
    let answer = server.put("/api/v1/services/default/orders/policy", &policy);
    let answer = answer.bearer_auth(&token).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let mut short = Connection::open(&server).await;
    let mut slow = Connection::beside_the_fast_path(&server).await;
    let mut bodies = std::collections::HashSet::new();
    for user in 0..50 {
        let request = discover("serviceName=orders", &format!("X-User: u{user}\r\n"));
        short.send(&request).await;
        slow.send(&request).await;
        let body = short.answer().await.body;
        assert_eq!(body, slow.answer().await.body);
        bodies.insert(body);
    }
    assert_eq!(taken(&server), 50);
    assert!(bodies.len() > 4, "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_look_ups_and_other_requests_wherever_it_is_cut() {
    let server = Server::start().await;
    server.register(node("orders", "a", 9000)).await;
    let one = discover("serviceName=orders", "");
    let post = "POST /api/maxine/signin HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n\
                content-length: 2\r\n\r\n{}";
    let all = format!("{one}{one}{HEALTH}{one}{post}{one}");
    for cut in (1..all.len()).step_by(7) {
        let before = taken(&server);
        let mut connection = Connection::open(&server).await;
        connection.stream.set_nodelay(true).unwrap();
        connection.send(&all[..cut]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        connection.send(&all[cut..]).await;
        for status in ["302 Found", "302 Found", "200 OK", "302 Found", "", "302 Found"] {
            let answer = connection.answer().await;
            assert!(answer.status.contains(status), "cut at {cut}: {answer:?}");
        }
        assert_eq!(
            taken(&server) - before,
            4,
            "a look-up after another request, too; cut at {cut}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_gets_every_answer() {
    const REQUESTS: usize = 30_000;
    let server = Server::start().await;
    server.register(node("orders", "a", 9000)).await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sent = tokio::spawn(async move {
        let each = discover("serviceName=orders", "x-trace-id: a\r\n").repeat(1_000);
        for _ in 0..REQUESTS / 1_000 {
            writer.write_all(each.as_bytes()).await.unwrap();
        }
        writer
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (mut answers, mut buffer, mut tail) = (0, vec![0; 64 * 1_024], Vec::new());
    while answers < REQUESTS {
        let read = tokio::time::timeout(PATIENCE, reader.read(&mut buffer)).await;
        let len = read.expect("it hangs").unwrap();
        assert!(len > 0, "it ended after {answers} answers");
        tail.extend_from_slice(&buffer[..len]);
        let text = std::str::from_utf8(&tail).unwrap();
        answers += text.matches("HTTP/1.1 302 Found\r\n").count();
        let keep = tail.len().min("HTTP/1.1 302 Found\r".len());
        tail.drain(..tail.len() - keep);
    }
    drop(sent.await.unwrap());
    assert_eq!(answers, REQUESTS);
}

/// Answers that wait for such a client are counted, and the client has the same time as for any other answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_its_look_ups_is_let_go() {
    let server = Server::start_with(|options| options.limits.send_timeout_ms = 400).await;
    server.register(node("orders", "a", 9000)).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let each = discover("serviceName=orders", "").repeat(1_000);
    let sent = async { while stream.write_all(each.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, sent).await.expect("the node closes the connection");
    assert_eq!(server.state.telemetry().metrics().connections_stalled.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_let_go_and_a_busy_one_kept() {
    let server = Server::start_with(|options| options.limits.header_timeout_ms = 400).await;
    server.register(node("orders", "a", 9000)).await;
    let mut connection = Connection::open(&server).await;
    for _ in 0..10 {
        connection.send(&discover("serviceName=orders", "")).await;
        assert_eq!(connection.answer().await.status, "HTTP/1.1 302 Found");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!connection.more().await, "the client got an answer");
    assert_eq!(taken(&server), 10);
    // Regression: a connection was held forever if its first request arrived before the first read.
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = Connection::open(&server).await;
        connection.send(&discover("serviceName=orders", "")).await;
        connections.push(connection);
    }
    for mut connection in connections {
        connection.answer().await;
        assert!(!connection.more().await, "the client got an answer");
    }
    assert_eq!(server.state.telemetry().metrics().connections.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_lets_idle_connections_go() {
    let server = Server::start().await;
    server.register(node("orders", "a", 9000)).await;
    let mut connection = Connection::open(&server).await;
    connection.send(&discover("serviceName=orders", "")).await;
    connection.answer().await;
    drop(server);
    assert!(!connection.more().await, "the client got an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_past_a_guarded_discovery_or_unusual_fields() {
    let guarded =
        Server::start_with(|options| options.api.discovery_access = AccessMode::Token).await;
    let shared =
        Server::start_with(|options| options.api.cors_allow_origin = Some("*".into())).await;
    let named =
        Server::start_with(|options| options.api.trace_header_name = "traceparent".into()).await;
    for (server, status) in [(&guarded, "401"), (&shared, "302"), (&named, "302")] {
        server.register(node("orders", "a", 9000)).await;
        let mut connection = Connection::open(server).await;
        connection.send(&discover("serviceName=orders", "")).await;
        let answer = connection.answer().await;
        assert!(answer.status.contains(status), "{answer:?}");
        let granted = answer.fields.iter().any(|(name, _)| name == "Access-Control-Allow-Origin");
        assert_eq!(granted, std::ptr::eq(server, &shared));
        let traces = answer.fields.iter().filter(|(name, _)| name == "traceparent").count();
        assert_eq!(traces, 1);
        assert_eq!(taken(server), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_are_accounted_for() {
    let server = Server::start().await;
    server.register(node("orders", "a", 9000)).await;
    let metrics = server.state.telemetry().metrics();
    let token = server.admin().await;
    for connection in
        [Connection::open(&server).await, Connection::beside_the_fast_path(&server).await]
    {
        let (mut connection, before) =
            (connection, (metrics.discoveries.get(), metrics.requests.get()));
        connection.send(&discover("serviceName=orders&mode=x", "x-trace-id: mine\r\n")).await;
        connection.answer().await;
        let after = (metrics.discoveries.get(), metrics.requests.get());
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
        let traces = server.get("/api/actuator/traces").bearer_auth(&token).send().await.unwrap();
        let traces = traces.text().await.unwrap();
        assert!(traces.contains("/discover\""), "{traces}");
        assert!(
            !traces.contains("mode=x"),
            "a query is not kept unless a setting asks for it: {traces}"
        );
    }
    let events = server.get("/api/actuator/audit").bearer_auth(&token).send().await.unwrap();
    let events = events.text().await.unwrap();
    assert_eq!(events.matches("discovery.lookup").count(), 2, "{events}");
}
