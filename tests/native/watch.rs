//! Watches: order, resumption, scopes, compaction, and many watchers at once.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

/// One server-sent event.
#[derive(Debug)]
struct Event {
    /// The history and the index.
    id: Option<String>,
    kind: String,
    data: Value,
}

/// Reads server-sent events.
struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Events {
    async fn open(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        // This field tells a proxy in front to forward each piece at once.
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        assert_eq!(answer.headers()["cache-control"], "no-store, no-transform");
        Self { body: answer.bytes_stream().boxed(), text: String::new() }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let mut lines = message.lines();
                    lines.find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                let Some(kind) = field("event: ") else { continue };
                let data = serde_json::from_str(&field("data: ").expect("data")).expect("JSON");
                return Some(Event { id: field("id: "), kind, data });
            }
            let piece = tokio::time::timeout(Duration::from_secs(30), self.body.next()).await;
            match piece.expect("an event in time") {
                Some(piece) => {
                    self.text.push_str(std::str::from_utf8(&piece.expect("bytes")).expect("text"))
                }
                None => return None,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_every_change_in_order_and_resumes_where_it_was() {
    let server = Server::start().await;
    let mut events = Events::open(server.open(Method::GET, "/watch?service=orders")).await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    let first = server.register("orders", "a", "http://h:1").await;
    server.register("other", "x", "http://h:9").await;
    server.register("orders", "b", "http://h:2").await;
    let seen = events.next().await.unwrap();
    let id = format!("{}-{}", server.history(), first["lease_epoch"]);
    assert_eq!((seen.kind.as_str(), seen.id.as_ref()), ("instance_registered", Some(&id)));
    assert_eq!(seen.data["data"]["address"], "http://h:1");
    let resume_at = seen.id.unwrap();
    assert_eq!(events.next().await.unwrap().data["instance"], "b", "another service is not seen");
    drop(events);

    server.open(Method::DELETE, "/services/default/orders/instances/a").send().await.unwrap();
    let again =
        server.open(Method::GET, "/watch?service=orders").header("last-event-id", &resume_at);
    let mut events = Events::open(again).await;
    let ready = events.next().await.unwrap();
    assert_eq!((ready.kind.as_str(), ready.id), ("ready", Some(resume_at)));
    assert_eq!(events.next().await.unwrap().data["instance"], "b");
    let removed = events.next().await.unwrap();
    assert_eq!(
        (removed.kind.as_str(), &removed.data["cause"]),
        ("instance_removed", &json!("deregistered"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_more_than_a_service_needs_a_role() {
    let server = Server::start().await;
    assert_eq!(server.open(Method::GET, "/watch").send().await.unwrap().status(), 401);
    assert_eq!(
        server
            .open(Method::GET, "/changes?namespace=shop&wait_ms=0")
            .send()
            .await
            .unwrap()
            .status(),
        401
    );
    let mut all = Events::open(server.admin(Method::GET, "/watch")).await;
    assert_eq!(all.next().await.unwrap().kind, "ready");
    server.json(server.admin(Method::PATCH, "/config").json(&json!({}))).await;
    assert_eq!(all.next().await.unwrap().kind, "config_changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_known_is_compacted_not_silence() {
    let server = Server::start().await;
    let request = server.open(Method::GET, "/watch?service=orders&index=99999999");
    let mut events = Events::open(request).await;
    let lost = events.next().await.unwrap();
    assert_eq!((lost.kind.as_str(), lost.id), ("compacted", None));
    assert!(events.next().await.is_none(), "the stream ends");
    let poll = server.open(Method::GET, "/changes?service=orders&index=99999999&wait_ms=0");
    let (status, problem) = server.json(poll).await;
    assert_eq!((status.as_u16(), &problem["type"]), (410, &json!("/problems/compacted")));
    let odd = server.open(Method::GET, "/watch?service=orders").header("last-event-id", "x");
    assert_eq!(server.json(odd).await.0, 400);
}

/// Indexes are used again after a restore. A position in the history before it is refused everywhere, and
/// watchers start again.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_a_history_that_has_ended_is_gone() {
    let server = Server::start().await;
    let written = server.register("orders", "a", "http://h:1").await;
    let index = written["index"].as_u64().unwrap();
    let list = |place: &str| {
        let path = format!("/services/default/orders/instances?min_index={place}");
        server.open(Method::GET, &path)
    };
    let answer = list(&index.to_string()).send().await.unwrap();
    let first = server.history();
    assert_eq!(answer.headers()["x-maxine-history"], first.to_string().as_str());
    let old = format!("{first}-{index}");
    assert_eq!(list(&old).send().await.unwrap().status(), 200);
    let mut events = Events::open(server.open(Method::GET, "/watch?service=orders")).await;
    let ready = events.next().await.unwrap();
    assert_eq!(ready.data["history"], first.to_string().as_str());

    server.begin_history(first, 0xa1).await;
    assert_eq!(events.next().await.unwrap().kind, "compacted");
    assert!(events.next().await.is_none(), "its stream ends");
    server.register("orders", "b", "http://h:2").await;
    let (status, problem) = server.json(list(&old)).await;
    assert_eq!((status.as_u16(), &problem["type"]), (410, &json!("/problems/compacted")));
    let poll = |place: &str| {
        server.open(Method::GET, &format!("/changes?service=orders&index={place}&wait_ms=0"))
    };
    let (status, problem) = server.json(poll(&old)).await;
    assert_eq!(status, 410);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("a place in another history; 00000000000000a1 holds now"), "{detail}");
    let resumed = server.open(Method::GET, "/watch?service=orders").header("last-event-id", &old);
    assert_eq!(Events::open(resumed).await.next().await.unwrap().kind, "compacted");
    // A caller with an index but no history gets the history in the answer.
    let answer = list(&index.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-maxine-history"], "00000000000000a1");
    let present = answer.headers()["x-maxine-index"].to_str().unwrap();
    let place = format!("00000000000000a1-{present}");
    let (status, changes) = server.json(poll(&place)).await;
    assert_eq!((status.as_u16(), &changes["history"]), (200, &json!("00000000000000a1")));
    // Another node that noticed the same loss changes nothing more.
    server.begin_history(first, 0xb2).await;
    assert_eq!(server.json(poll(&place)).await.0, 200);
}

/// A cluster that was wiped and founded again, or another cluster at the same address, also counts from 1. A
/// position in one is not valid in the other, although the index exists there.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_another_cluster_is_gone() {
    let (wiped, server) = (Server::start().await, Server::start().await);
    assert_ne!(wiped.history(), server.history());
    let index = wiped.register("orders", "old", "http://h:1").await["index"].as_u64().unwrap();
    let later = server.register("orders", "new", "http://h:2").await["index"].as_u64().unwrap();
    assert!(later >= index, "{later} {index}");
    // Nobody has the history of zeros.
    for history in [wiped.history().to_string(), "0".repeat(16)] {
        let place = format!("{history}-{index}");
        for path in [
            format!("/changes?service=orders&index={place}&wait_ms=0"),
            format!("/services/default/orders/instances?min_index={place}"),
            format!("/resolve/default/orders?min_index={place}"),
        ] {
            let (status, problem) = server.json(server.open(Method::GET, &path)).await;
            let seen = (status.as_u16(), &problem["type"]);
            assert_eq!(seen, (410, &json!("/problems/compacted")), "{path}: {problem}");
            // A read has no list to read again, and nothing to watch.
            let action = problem["action"].as_str().unwrap();
            assert_eq!(
                action.contains("without min_index"),
                path.contains("min_index"),
                "{problem}"
            );
            assert_eq!(action.contains("watch from"), path.contains("/changes"), "{problem}");
        }
        let resumed = server.open(Method::GET, "/watch?service=orders");
        let mut events = Events::open(resumed.header("last-event-id", &place)).await;
        assert_eq!(events.next().await.unwrap().kind, "compacted", "{place}");
    }
    let own = format!("/changes?service=orders&index={}-{index}&wait_ms=0", server.history());
    assert_eq!(server.json(server.open(Method::GET, &own)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_waits_for_the_next_change_and_goes_on_after_it() {
    let server = Server::start().await;
    let (_, empty) =
        server.json(server.open(Method::GET, "/changes?service=orders&wait_ms=0")).await;
    assert_eq!(empty["changes"], json!([]));
    let index = empty["index"].as_u64().unwrap();
    let poll =
        server.open(Method::GET, &format!("/changes?service=orders&index={index}&wait_ms=20000"));
    let (answer, _) = tokio::join!(server.json(poll), server.register("orders", "a", "http://h:1"));
    assert_eq!(answer.1["changes"][0]["instance"], "a");
    let next = answer.1["index"].as_u64().unwrap();
    assert!(next > index);
    let (_, none) = server
        .json(server.open(Method::GET, &format!("/changes?service=orders&index={next}&wait_ms=0")))
        .await;
    assert_eq!(none["changes"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_a_watch_from_its_index_miss_nothing() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let list = server.open(Method::GET, "/services/default/orders/instances").send().await.unwrap();
    let index = list.headers()["x-maxine-index"].to_str().unwrap().to_owned();
    server.register("orders", "b", "http://h:2").await;
    let mut events =
        Events::open(server.open(Method::GET, &format!("/watch?service=orders&index={index}")))
            .await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    assert_eq!(events.next().await.unwrap().data["instance"], "b");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Ten thousand watchers that never read cost a bounded amount of memory, and discovery continues.
/// They call the router directly, because the sockets are not part of the test.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watchers_that_do_not_read_cost_bounded_memory_and_do_not_hinder_discovery() {
    use axum::body::Body;
    use tower::ServiceExt;

    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let ask = async |path: &str| {
        let uri = format!("/api/v1{path}");
        let request = axum::http::Request::builder().uri(uri).body(Body::empty()).unwrap();
        server.router.clone().oneshot(request).await.unwrap()
    };
    let before_kib = resident_kib();
    let mut watchers = Vec::with_capacity(10_000);
    for _ in 0..10_000 {
        let answer = ask("/watch?service=orders").await;
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body().into_data_stream();
        assert!(body.next().await.is_some_and(|first| first.is_ok()), "the watch is confirmed");
        watchers.push(body);
    }
    for n in 0..2_000 {
        server.register("orders", &format!("i{n}"), "http://h:1").await;
        if n % 100 == 0 {
            assert_eq!(ask("/resolve/default/orders").await.status(), 200);
        }
    }
    let grown_kib = resident_kib().saturating_sub(before_kib);
    assert!(grown_kib < 400 * 1_024, "{grown_kib} KiB for 10,000 watchers and 2,000 changes");
    // A watcher that comes back late still gets all of it, in order.
    let mut text = String::new();
    while text.matches("event: instance_registered").count() < 2_000 {
        let piece = watchers[0].next().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    let ids: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .map(|id| id.split_once('-').unwrap().1.parse().unwrap())
        .collect();
    assert!(ids.is_sorted() && ids.len() == 2_000);
}

/// Watchers share the text of a change, and a part of a stream is short even if the changes are long.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_share_a_change_and_a_part_of_a_stream_is_bounded_in_bytes() {
    use axum::body::Body;
    use tower::ServiceExt;

    let server = Server::start().await;
    let watch = async || {
        let uri = "/api/v1/watch?service=orders";
        let request = axum::http::Request::builder().uri(uri).body(Body::empty()).unwrap();
        let answer = server.router.clone().oneshot(request).await.unwrap();
        let mut body = answer.into_body().into_data_stream();
        assert!(body.next().await.is_some_and(|first| first.is_ok()));
        body
    };
    let (mut one, mut other) = (watch().await, watch().await);
    server.register("orders", "a", "http://h:1").await;
    let (first, same) = (one.next().await.unwrap().unwrap(), other.next().await.unwrap().unwrap());
    assert_eq!((first.as_ptr(), first.len()), (same.as_ptr(), same.len()));
    let metadata: serde_json::Map<String, Value> =
        (0..7).map(|n| (format!("k{n}"), json!("x".repeat(1_000)))).collect();
    let item = |n| {
        let address = "http://h:1";
        json!({"service": "orders", "id": format!("i{n}"), "address": address, "ttl_ms": 60_000, "metadata": metadata})
    };
    let items: Vec<Value> = (0..40).map(item).collect();
    let batch = server.open(Method::POST, "/registrations").json(&json!({"items": items}));
    assert_eq!(server.json(batch).await.0, 200);
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let piece = one.next().await.unwrap().unwrap();
        assert!(piece.len() < 16 * 1_024 + 10_000, "{} bytes", piece.len());
        let text = std::str::from_utf8(&piece).unwrap();
        let changes = text.lines().filter_map(|line| line.strip_prefix("data: "));
        seen.extend(
            changes.map(|data| serde_json::from_str::<Value>(data).unwrap()["instance"].clone()),
        );
    }
    let expected: Vec<Value> = (0..40).map(|n| json!(format!("i{n}"))).collect();
    assert_eq!(seen, expected);
}

/// A stream and a poll end when their credential is not valid any more, and show nothing that comes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_whose_user_is_removed_sees_nothing_more() {
    let server = Server::start().await;
    let user = json!({"password": "correct horse", "role": "viewer"});
    let made = server.json(server.admin(Method::PUT, "/users/vera").json(&user)).await;
    assert!(made.0.is_success(), "{made:?}");
    let token = server.sign_in("vera", "correct horse").await;
    let mut events = Events::open(server.open(Method::GET, "/watch").bearer_auth(&token)).await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    server.register("orders", "a", "http://h:1").await;
    assert_eq!(events.next().await.unwrap().data["instance"], "a");
    let poll = server.open(Method::GET, "/changes?wait_ms=20000").bearer_auth(&token);
    let poll = tokio::spawn(poll.send());
    let removed = server.json(server.admin(Method::DELETE, "/users/vera")).await;
    assert!(removed.0.is_success(), "{removed:?}");
    server.register("orders", "b", "http://h:2").await;
    while let Some(event) = events.next().await {
        assert_ne!(event.data["instance"], "b", "{event:?}");
    }
    let polled = poll.await.unwrap().unwrap();
    let text = polled.text().await.unwrap();
    assert!(!text.contains("\"b\""), "{text}");
}

/// A watcher that falls behind by more than the length of the ring gets an error that says so, and its stream
/// ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_falls_behind_is_cut_off_and_told() {
    use axum::body::Body;
    use tower::ServiceExt;

    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let uri = "/api/v1/watch?service=orders";
    let request = axum::http::Request::builder().uri(uri).body(Body::empty()).unwrap();
    let mut body =
        server.router.clone().oneshot(request).await.unwrap().into_body().into_data_stream();
    assert!(body.next().await.is_some());
    // More changes of the service than its ring keeps.
    for batch in 0..6 {
        let items: Vec<Value> = (0..1_000)
            .map(|n| json!({"service": "orders", "id": format!("{batch}-{n}"), "address": "http://h:1", "ttl_ms": 60_000}))
            .collect();
        let (status, _) = server
            .json(server.open(Method::POST, "/registrations").json(&json!({"items": items})))
            .await;
        assert_eq!(status, 200);
    }
    let piece = body.next().await.unwrap().unwrap();
    assert!(piece.starts_with(b"event: compacted\n"), "{piece:?}");
    assert!(body.next().await.is_none());
}
