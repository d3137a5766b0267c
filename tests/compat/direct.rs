//! Requests that are forwarded on the fast path and in the general way: the same bytes both ways, the same request to the
//! instance, and the same answer to the client.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Server, node};

const PATIENCE: Duration = Duration::from_secs(10);

/// A request or an answer: its first line, its fields, and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    line: String,
    fields: Vec<(String, String)>,
    content: String,
}

impl Message {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.0.eq_ignore_ascii_case(name))
            .map(|field| field.1.as_str())
    }
}

/// Reads messages from a connection.
struct Reader {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Reader {
    /// Reads more; `false` at the end.
    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read));
        read.await.expect("it hangs").is_ok_and(|len| len > 0)
    }

    async fn line_end(&mut self, end: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|part| part == end) {
                return Some(at + end.len());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn take(&mut self, len: usize) -> String {
        while self.read.len() < len {
            assert!(self.more().await, "it is cut off");
        }
        String::from_utf8_lossy(&self.read.drain(..len).collect::<Vec<u8>>()).into_owned()
    }

    /// The next message; `None` at the end of the connection.
    async fn message(&mut self) -> Option<Message> {
        let len = self.line_end(b"\r\n\r\n").await?;
        let head = self.take(len).await;
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let mut fields: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_owned(), levelled(name, value.trim()))
            })
            .collect();
        fields.sort();
        let mut message = Message { line, fields, content: String::new() };
        if message.field("transfer-encoding").is_some() {
            loop {
                let len = self.line_end(b"\r\n").await?;
                let size = self.take(len).await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let chunk = self.take(size + 2).await;
                if size == 0 {
                    break;
                }
                message.content.push_str(chunk.trim_end());
            }
        } else if let Some(len) = message.field("content-length")
            && !message.line.contains(" 304 ")
        {
            message.content = self.take(len.parse().unwrap()).await;
        }
        Some(message)
    }
}

/// The value of a field. A date, and an id that Maxine has made, differ in every answer, so a fixed text replaces them.
fn levelled(name: &str, value: &str) -> String {
    let is_made = matches!(name, "x-trace-id" | "traceparent") && value.len() >= 32;
    match name {
        "date" | "Date" => "a date".into(),
        _ if is_made && !value.contains("4bf92f") => "an id".into(),
        _ => value.into(),
    }
}

/// What an instance does with a request, by its target.
fn script(target: &str) -> &'static [&'static str] {
    match target {
        "/base/plain" => &[
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Two: 1\r\nx-two: 2\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nhello",
        ],
        "/base/fields" => &[
            "HTTP/1.1 201 Made\r\nX-Maxine-Index: 5\r\nStrict-Transport-Security: max-age=1\r\nSet-Cookie: maxine_session=x\r\nSet-Cookie: a=b\r\nProxy-Authenticate: x\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-Accel-Redirect: /x\r\nServer: mine\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
        ],
        "/base/own-trace" => &[
            "HTTP/1.1 200 OK\r\nX-Trace-Id: of the instance\r\nTraceparent: too\r\nContent-Length: 0\r\n\r\n",
        ],
        "/base/error" => {
            &["HTTP/1.1 503 Odd words\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy"]
        }
        "/base/odd" => &["HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"],
        "/base/chunked" => {
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
        }
        "/base/none" => &["HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"],
        "/base/same" => &["HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n"],
        "/base/parts" => &["HTTP/1.1 200 OK\r\nContent-Le", "ngth: 5\r\n\r\n", "hel", "lo"],
        "/base/hint" => &[
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nSet-Cookie: a=b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ],
        "/base/hint-at-once" => &[
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ],
        "/base/continue" => {
            &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
        }
        "/base/switch" => &["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"],
        "/base/upgrade-required" => &[
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n",
        ],
        "/base/old" => &["HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"],
        "/base/last" => &["HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"],
        "/base/lengths" => &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"],
        "/base/two-lengths" => {
            &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"]
        }
        "/base/both" => &[
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ],
        "/base/nonsense" => &["no HTTP\r\n\r\n"],
        "/base/long-name" => &[
            "HTTP/1.1 200 OK\r\nX-A-Name-That-Is-Longer-Than-Sixty-Four-Bytes-And-That-Nobody-Uses-Anywhere: 1\r\nContent-Length: 2\r\n\r\nok",
        ],
        "/base/close" => &[],
        _ => &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"],
    }
}

/// An instance that keeps what it was sent.
#[derive(Clone, Default)]
struct Instance {
    requests: Arc<Mutex<Vec<Message>>>,
    connections: Arc<Mutex<usize>>,
}

impl Instance {
    async fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *this.connections.lock() += 1;
                tokio::spawn(this.clone().serve(stream));
            }
        });
        port
    }

    async fn serve(self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut reader = Reader { stream, read: Vec::new() };
        while let Some(request) = reader.message().await {
            let target = request.line.split(' ').nth(1).unwrap().to_owned();
            self.requests.lock().push(request);
            let parts = script(&target);
            for part in parts {
                reader.stream.write_all(part.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if parts.is_empty() {
                return;
            }
        }
    }

    /// The last request, which is forgotten together with those before it.
    fn last(&self) -> Option<Message> {
        std::mem::take(&mut *self.requests.lock()).pop()
    }
}

struct Rig {
    server: Server,
    instance: Instance,
}

impl Rig {
    async fn start() -> Self {
        let (server, instance) = (Server::start().await, Instance::default());
        let port = instance.start().await;
        let mut body = node("orders", "a", port);
        body["path"] = json!("/base");
        server.register(body).await;
        Self { server, instance }
    }

    fn taken(&self) -> u64 {
        self.server.state.telemetry().metrics().proxy_fast_path.get()
    }

    async fn connect(&self) -> Reader {
        let stream = TcpStream::connect(self.server.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Reader { stream, read: Vec::new() }
    }

    /// Sends a request on a connection of its own, and returns what the instance got and all answers, and whether the
    /// connection stays open.
    async fn ask(&self, request: &str) -> (Option<Message>, Vec<Message>, bool) {
        let mut client = self.connect().await;
        client.stream.write_all(request.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        while let Some(answer) = client.message().await {
            let is_interim =
                answer.line.starts_with("HTTP/1.1 1") && !answer.line.contains(" 101 ");
            answers.push(answer);
            if !is_interim {
                break;
            }
        }
        let request = self.instance.last();
        client.stream.write_all(b"GET /api/v1/live HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let stays = client.message().await.is_some();
        (request, answers, stays)
    }
}

/// A request below the proxy's path, with more fields.
fn get(path: &str, fields: &str) -> String {
    format!("GET /api/maxine/serviceops/proxy/orders{path} HTTP/1.1\r\nHost: h:80\r\n{fields}\r\n")
}

/// The same request with an option of the connection for which the fast path leaves it alone.
fn slow(request: &str) -> String {
    request.replacen(" HTTP/1.1\r\n", " HTTP/1.1\r\nConnection: keep-alive, other\r\n", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_forward_the_same_request_and_answer_alike() {
    let rig = Rig::start().await;
    let plain = [
        get("/plain", ""),
        get("", ""),
        get("/", ""),
        get("/a/b//c/?x=1&y=%20z&x=2", ""),
        get("/plain?", ""),
        get("/plain?a?b/../c", ""),
        get(
            "/plain",
            "Accept: text/html\r\nX-Own: 1\r\nx-own: 2\r\nCookie: a=b; c=d\r\nVia: 1.0 other\r\n",
        ),
        get("/plain", "X-Trace-Id: my own\r\nX-Trace-Id: second\r\nKeep-Alive: 5\r\n"),
        get(
            "/plain",
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nProxy-Connection: x\r\nConnection: Keep-Alive\r\n",
        ),
        get(
            "/plain",
            "Traceparent: nonsense\r\nProxy-Authorization: x\r\nRange: bytes=0-1\r\nIf-None-Match: \"a\"\r\n",
        ),
        get("/plain", "User-Agent: curl\r\nMax-Forwards: 3\r\nX-Empty:\r\n"),
        get("/fields", ""),
        get("/own-trace", ""),
        get("/error", ""),
        get("/odd", ""),
        get("/chunked", ""),
        get("/none", ""),
        get("/same", ""),
        get("/parts", ""),
        get("/hint", ""),
        get("/hint-at-once", ""),
        get("/continue", ""),
        get("/switch", ""),
        get("/upgrade-required", ""),
        get("/old", ""),
        get("/last", ""),
        get("/lengths", ""),
        get("/two-lengths", ""),
        get("/both", ""),
        get("/nonsense", ""),
        get("/long-name", ""),
        get("/close", ""),
    ];
    let others = [
        // Not a plain target.
        get("/a/../plain", ""),
        get("/a/.", ""),
        get("/.hidden", ""),
        get("/a%20b", ""),
        get("/a;b", ""),
        get("/%zz", ""),
        get("/plain?a\"b", ""),
        get("/plain", "").replace("orders", "order%73"),
        get("/plain", "").replace("orders", "none"),
        get("/plain", "").replace("GET /", "GET http://h/"),
        // Not a plain request.
        get("/plain", "").replace("GET", "DELETE"),
        get("/plain", "Content-Length: 0\r\n"),
        get("/plain", "Content-Length: 3\r\n").replace("\r\n\r\n", "\r\n\r\nabc"),
        get("/plain", "TE: trailers\r\nConnection: te\r\n"),
        get("/plain", "Connection: close\r\n"),
        get("/plain", "Connection: x-own\r\nX-Own: 1\r\n"),
        get("/plain", "Upgrade: websocket\r\nConnection: upgrade\r\n"),
        get("/plain", "Expect: 100-continue\r\n"),
        get("/plain", "Host: h\r\n"),
        get("/plain", "X-Forwarded-For: 1.2.3.4\r\n"),
        get("/plain", "Forwarded: for=1.2.3.4\r\n"),
        get("/plain", "X-Real-IP: 1.2.3.4\r\nTrue-Client-IP: 1.2.3.4\r\n"),
        get("/plain", "X_Forwarded_For: 1.2.3.4\r\n"),
        get("/plain", "X-Maxine-Hops: 3\r\n"),
        get("/plain", "X-Maxine-Token: x\r\n"),
        get("/plain", "Authorization: Bearer x\r\n"),
        get("/plain", "Cookie: maxine_session=x; a=b\r\n"),
        get("/plain", "Cookie: a=b\r\nCookie: c=d\r\n"),
        get("/plain", "User-Agent: Mozilla/5.0\r\n"),
        get("/plain", "Sec-Fetch-Dest: document\r\n"),
        get("/plain", "Origin: https://a.example\r\n"),
        get(
            "/plain",
            "X-A-Name-That-Is-Longer-Than-Sixty-Four-Bytes-And-That-Nobody-Uses-Anywhere: 1\r\n",
        ),
    ];
    for (requests, is_plain) in [(&plain[..], true), (&others[..], false)] {
        for request in requests {
            let before = rig.taken();
            let fast = rig.ask(request).await;
            assert_eq!(rig.taken() - before, u64::from(is_plain), "{request}");
            let general = rig.ask(&slow(request)).await;
            assert_eq!(fast, general, "{request}");
            assert_eq!(rig.taken() - before, u64::from(is_plain), "{request}");
            assert!(!fast.1.is_empty(), "{request}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_changes_is_changed() {
    let rig = Rig::start().await;
    let token = rig.server.admin().await;
    let policies = [
        json!({"traffic": {"retries": {"attempts": 2}}}),
        json!({"traffic": {"request_headers": {"set": [["x-own", "1"]]}}}),
        json!({"traffic": {"response_headers": {"set": [["x-own", "1"]]}}}),
        json!({"traffic": {"rewrite": {"strip_prefix": "/plain", "add_prefix": "/other"}}}),
        json!({"traffic": {"prefix": {"forwarded": true}}}),
        json!({"traffic": {"rate_limit": {"requests_per_s": 1000, "burst": 1000}}}),
        json!({"traffic": {"hedging": {"after_ms": 1000}}}),
        json!({"traffic": {"timeouts": {"total_ms": 5000}}}),
        json!({"traffic": {"sticky": {"cookie": {"name": "s", "max_age_s": 0}}}}),
    ];
    for policy in policies {
        let put = rig.server.put("/api/v1/services/default/orders/policy", &policy);
        let answer = put.bearer_auth(&token).send().await.unwrap();
        let is_set = answer.status().is_success();
        assert!(is_set, "{policy}: {}", answer.text().await.unwrap());
        let before = rig.taken();
        let (_, answers, _) = rig.ask(&get("/plain", "")).await;
        assert_eq!(answers[0].line, "HTTP/1.1 200 OK", "{policy}");
        assert_eq!(rig.taken(), before, "{policy}");
    }
    // A policy that concerns the choice alone.
    let policy =
        json!({"traffic": {"circuit_breaker": {}}, "selection": {"strategy": "least_request"}});
    let put = rig.server.put("/api/v1/services/default/orders/policy", &policy);
    let answer = put.bearer_auth(&token).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let before = rig.taken();
    rig.ask(&get("/plain", "")).await;
    assert_eq!(rig.taken() - before, 1);
}

/// Requests of one connection are answered in their order, and use one connection to the instance.
#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_row_share_the_connections_on_both_sides() {
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let all = [get("/plain", ""), get("/error", ""), get("/chunked", ""), get("/fields", "")];
    let expected = ["200", "503", "200", "201"];
    client.stream.write_all(all.concat().repeat(10).as_bytes()).await.unwrap();
    for status in expected.iter().cycle().take(40) {
        let answer = client.message().await.unwrap();
        assert!(answer.line.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
    assert_eq!((rig.taken(), *rig.instance.connections.lock()), (40, 1));
}

/// A `GET` may be repeated: the client learns nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_instance_has_closed_costs_no_request() {
    let rig = Rig::start().await;
    for _ in 0..20 {
        let (_, answers, _) = rig.ask(&get("/plain", "")).await;
        assert_eq!(answers[0].content, "hello");
        // The instance closes the connection instead of an answer: it was used, so the request goes out once more, and
        // that connection is closed, too.
        let (_, answers, _) = rig.ask(&get("/close", "")).await;
        assert_eq!(answers[0].line, "HTTP/1.1 502 Bad Gateway");
        assert_eq!(answers[0].field("x-maxine-error"), Some("upstream_reset"));
    }
    assert_eq!(rig.taken(), 40);
    assert_eq!(*rig.instance.connections.lock(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forwarded_is_counted_and_shown_like_every_other_request() {
    let rig = Rig::start().await;
    let token = rig.server.admin().await;
    let metrics = rig.server.state.telemetry().metrics();
    let mut shown = Vec::new();
    for request in [
        get("/plain?a=b", "X-Trace-Id: mine\r\n"),
        slow(&get("/plain?a=b", "X-Trace-Id: mine\r\n")),
    ] {
        let before = (metrics.proxied_requests.get(), metrics.requests.get());
        let mut client = rig.connect().await;
        client.stream.write_all(request.as_bytes()).await.unwrap();
        client.message().await.unwrap();
        let after = (metrics.proxied_requests.get(), metrics.requests.get());
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
        let events =
            rig.server.get("/api/actuator/audit").bearer_auth(&token).send().await.unwrap();
        let events: serde_json::Value = events.json().await.unwrap();
        // The sign-in is recorded after its answer was sent, so it may come before or after this event.
        let proxied = |event: &&serde_json::Value| event["type"] == "proxy.request";
        let mut event = events["events"].as_array().unwrap().iter().find(proxied).unwrap().clone();
        assert_eq!(event["traceId"], "mine", "{events}");
        event["timestamp"].take();
        event["at"].take();
        event["time"].take();
        shown.push(event);
    }
    assert_eq!(shown[0], shown[1]);
    assert_eq!(rig.taken(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_request_along() {
    let rig = Rig::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    rig.server.register(node("silent", "a", port)).await;
    let mut client = rig.connect().await;
    let request = get("/plain", "").replace("orders", "silent");
    client.stream.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = silent.accept().await.unwrap();
    let mut head = vec![0; 64];
    assert!(stream.read(&mut head).await.unwrap() > 0);
    drop(client);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    ended.expect("the connection to the instance is closed").unwrap();
    assert_eq!(rig.taken(), 1);
}

/// Nor does it help a client to send its next request before it leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_behind_more_bytes_takes_its_request_along() {
    let rig = Rig::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    rig.server.register(node("silent", "a", port)).await;
    let plain = get("/plain", "").replace("orders", "silent");
    for request in [plain.clone(), slow(&plain)] {
        for behind in ["G", "\n", &plain] {
            let mut client = rig.connect().await;
            client.stream.write_all(format!("{request}{behind}").as_bytes()).await.unwrap();
            let (mut stream, _) = silent.accept().await.unwrap();
            let mut head = vec![0; 64];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            drop(client);
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            ended.expect("the connection to the instance is closed").unwrap();
        }
    }
}
