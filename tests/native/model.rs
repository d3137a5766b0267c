//! The fields of an instance: its address as a URL and as parts, its tags, its node, and whether it expires.

use std::time::Duration;

use crate::support::Server;
use reqwest::Method;
use serde_json::{Value, json};

const INSTANCES: &str = "/services/default/orders/instances";
const PATH: &str = "/services/default/orders/instances/a";

async fn put(server: &Server, body: Value) -> (u16, Value) {
    let (status, answer) = server.json(server.open(Method::PUT, PATH).json(&body)).await;
    (status.as_u16(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_given_as_a_url_or_as_parts_and_shown_as_both() {
    let server = Server::start().await;
    for (body, address, port, base_path) in [
        (
            json!({"address": "http://10.0.0.1:8080"}),
            "http://10.0.0.1:8080",
            json!(8080),
            Value::Null,
        ),
        (
            json!({"host": "10.0.0.1", "port": 8080}),
            "http://10.0.0.1:8080",
            json!(8080),
            Value::Null,
        ),
        (json!({"host": "10.0.0.1"}), "http://10.0.0.1", Value::Null, Value::Null),
        (
            json!({"scheme": "https", "host": "10.0.0.1", "base_path": "/api/"}),
            "https://10.0.0.1/api",
            Value::Null,
            json!("/api"),
        ),
        (
            json!({"address": "https://10.0.0.1/api", "scheme": "https", "host": "10.0.0.1", "port": 443}),
            "https://10.0.0.1/api",
            Value::Null,
            json!("/api"),
        ),
    ] {
        let (status, answer) = put(&server, body.clone()).await;
        assert_eq!(status, 200, "{body} {answer}");
        let (_, shown) = server.json(server.open(Method::GET, PATH)).await;
        assert_eq!(shown["address"], address, "{body}");
        assert_eq!((&shown["port"], &shown["base_path"]), (&port, &base_path), "{body}");
        assert_eq!(
            (&shown["host"], &shown["scheme"]),
            (&json!("10.0.0.1"), &json!(address.split(':').next()))
        );
    }
    let (status, answer) = put(&server, json!({"host": "2001:db8::1", "port": 80})).await;
    assert_eq!(status, 200, "{answer}");
    let (_, shown) = server.json(server.open(Method::GET, PATH)).await;
    assert_eq!(
        (&shown["address"], &shown["host"]),
        (&json!("http://[2001:db8::1]:80"), &json!("2001:db8::1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_contradict_the_address_or_are_not_allowed_are_named() {
    let server = Server::start().await;
    let address = "http://10.0.0.1:8080/api";
    for (body, status, field) in [
        (json!({"address": address, "host": "10.0.0.2"}), 422, "host"),
        (json!({"address": address, "port": 80}), 422, "port"),
        (json!({"address": address, "scheme": "https"}), 422, "scheme"),
        (json!({"address": address, "base_path": "/"}), 422, "base_path"),
        (json!({"host": "10.0.0.1:80"}), 422, "host"),
        (json!({"host": "10.0.0.1", "port": 0}), 422, "port"),
        (json!({"host": "10.0.0.1", "port": 65_536}), 422, "port"),
        (json!({"host": "10.0.0.1", "base_path": "api"}), 422, "base_path"),
        (json!({"host": "169.254.169.254"}), 422, "address"),
        (json!({"port": 80}), 400, "address"),
        (json!({"address": address, "tags": ["x".repeat(1_025)]}), 422, "tags"),
        (json!({"address": address, "tags": ["a\u{7}"]}), 422, "tags"),
        (json!({"address": address, "node": ""}), 422, "node"),
        (json!({"address": address, "permanent": true, "ttl_ms": 5_000}), 422, "ttl_ms"),
    ] {
        let (got, problem) = put(&server, body.clone()).await;
        assert_eq!((got, &problem["field"]), (status, &json!(field)), "{body} {problem}");
        let mut item = body;
        item["service"] = json!("orders");
        item["id"] = json!("a");
        let batch = server.open(Method::POST, "/registrations").json(&json!({"items": [item]}));
        let (_, answer) = server.json(batch).await;
        assert_eq!(answer["results"][0]["problem"]["field"], field, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_shown_as_given_and_the_node_is_kept() {
    let server = Server::start().await;
    let tags = json!(["traefik.http.routers.a.rule=Host(`a`) && Path(`/b`)", "b", "a", "b"]);
    let body = json!({"address": "http://h:1", "tags": tags, "node": "m1"});
    let (status, first) = put(&server, body.clone()).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(put(&server, body).await.1["lease_epoch"], first["lease_epoch"]);
    let (_, shown) = server.json(server.open(Method::GET, PATH)).await;
    assert_eq!((&shown["tags"], &shown["node"]), (&tags, &json!("m1")));
    let other = json!({"address": "http://h:1", "tags": ["b", "a"], "node": "m1"});
    let (_, second) = put(&server, other).await;
    assert_ne!(second["lease_epoch"], first["lease_epoch"], "other tags are another registration");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_instance_is_asked_for_and_every_heartbeat_for_it_says_so() {
    let server = Server::start().await;
    let body = json!({"address": "http://h:1", "permanent": true});
    let (status, first) = put(&server, body.clone()).await;
    assert_eq!(status, 200, "{first}");
    let (_, shown) = server.json(server.open(Method::GET, PATH)).await;
    assert_eq!((&shown["permanent"], &shown["ttl_ms"]), (&json!(true), &Value::Null));
    let why = server.get(&format!("{PATH}/health")).await;
    assert_eq!(why["permanent"], true);
    assert_eq!(why["why"], "it is permanent, and it has no checks");
    assert_eq!(put(&server, body).await.1["lease_epoch"], first["lease_epoch"]);
    let beat = server.open(Method::POST, &format!("{PATH}/heartbeat"));
    let (status, problem) = server.json(beat).await;
    assert_eq!(
        (status.as_u16(), &problem["type"]),
        (409, &json!("/problems/conflict")),
        "{problem}"
    );
    let items =
        json!({"items": [{"service": "orders", "id": "a"}, {"service": "orders", "id": "b"}]});
    let (_, answer) = server.json(server.open(Method::POST, "/heartbeats").json(&items)).await;
    assert_eq!(answer, json!({"unknown": [1], "permanent": [0]}));
    let (_, leased) = put(&server, json!({"address": "http://h:1"})).await;
    assert_ne!(leased["lease_epoch"], first["lease_epoch"]);
    let beat = server.open(Method::POST, &format!("{PATH}/heartbeat"));
    assert_eq!(beat.send().await.unwrap().status(), 204, "it has a lease now");
}

/// Nothing answers at the second address, so its first probe is still running.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_the_former_address_is_not_shown_as_one_of_the_present_address() {
    let server = Server::start().await;
    let failing = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url =
        |listener: &std::net::TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (first, second) = (url(&failing), url(&hanging));
    drop(failing);
    let body = |address: &str| {
        let probe =
            json!({"kind": "http", "path": "/", "timeout_ms": 10_000, "interval_ms": 20_000});
        json!({"address": address, "permanent": true, "probe": probe})
    };
    let put = async |address: &str| {
        let request = server.admin(Method::PUT, PATH).json(&body(address));
        assert_eq!(server.json(request).await.0, 200);
    };
    put(&first).await;
    let shown = async || server.get(&format!("{PATH}/health")).await;
    let probed = async {
        while shown().await["observations"] == json!([]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), probed)
        .await
        .expect("the first address is probed");
    put(&second).await;
    let why = shown().await;
    assert_eq!(why["observations"], json!([]));
    assert_eq!(why["why"], "it is permanent, and this node knows no result of its probe");
    assert_eq!(why["checks"][0]["status"], "unknown");
    let (_, nodes) = server.json(server.admin(Method::GET, &format!("{PATH}/nodes"))).await;
    assert_eq!(nodes["nodes"][0]["observations"], json!([]), "{nodes}");
}

const CHECK: &str = "/services/default/orders/instances/a/checks/disk";

async fn report(server: &Server, body: Value) -> (u16, Value) {
    let (status, answer) = server.json(server.open(Method::PUT, CHECK).json(&body)).await;
    (status.as_u16(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_check_is_shown_and_decides_about_traffic() {
    let server = Server::start().await;
    let body = json!({"address": "http://h:1", "ttl_ms": 60_000, "probe": {"kind": "http", "path": "/"},
        "checks": [{"id": "disk", "ttl_ms": 60_000}]});
    let (status, registered) = put(&server, body.clone()).await;
    assert_eq!(status, 200, "{registered}");
    let resolve = || server.open(Method::GET, "/resolve/default/orders").send();
    let shown = async || server.json(server.admin(Method::GET, PATH)).await.1;
    let first = shown().await;
    let ids: Vec<&Value> = first["checks"].as_array().unwrap().iter().map(|c| &c["id"]).collect();
    assert_eq!(ids, ["disk", "probe"]);
    assert_eq!(first["checks"][0]["kind"], "ttl");
    assert_eq!(first["checks"][0]["status"], "unknown");
    assert_eq!(resolve().await.unwrap().status(), 200);

    let warning = json!({"status": "warning", "output": "91 % full"});
    let (status, answer) = report(&server, warning.clone()).await;
    assert_eq!((status, &answer["changed"]), (200, &json!(true)), "{answer}");
    let (_, again) = report(&server, warning).await;
    assert_eq!(again["changed"], false);
    assert_eq!(again["index"], answer["index"], "an equal report does not enter the log");
    let warned = shown().await;
    assert_eq!(
        (&warned["routable"], &warned["checks"][0]["status"]),
        (&json!(true), &json!("warning"))
    );
    assert_eq!(warned["checks"][0]["modified_index"], answer["index"]);
    assert_eq!(warned["health"]["reason"], "check disk: 91 % full");
    assert_eq!(warned["lease_epoch"], registered["lease_epoch"]);
    let why = server.get(&format!("{PATH}/health")).await;
    let text = why["why"].as_str().unwrap();
    let warning = "its other health checks pass, with a warning: check disk: 91 % full, and ";
    assert!(text.starts_with(warning) && text.contains("probe"), "{text}");
    let (_, open) = server.json(server.open(Method::GET, PATH)).await;
    assert_eq!(open["checks"][0]["output"], "", "what was found is for callers with a credential");

    let epoch = &registered["lease_epoch"];
    let critical = json!({"status": "critical", "output": "full", "lease_epoch": epoch});
    let (_, answer) = report(&server, critical).await;
    assert_eq!(answer["changed"], true);
    assert_eq!(shown().await["routable"], false);
    assert_eq!(resolve().await.unwrap().status(), 503);
    let why = server.get(&format!("{PATH}/health")).await;
    assert_eq!(why["why"], "its health checks fail: check disk: full");
    assert_eq!(why["checks"][0]["status"], "critical");
    let listed = server.get("/services/default/orders/instances?health=unhealthy").await;
    assert_eq!(listed["items"][0]["id"], "a");
    let index = answer["index"].as_u64().unwrap();
    let changes = format!("/changes?service=orders&index={}", index - 1);
    let (_, changes) = server.json(server.admin(Method::GET, &changes)).await;
    let change = &changes["changes"][0];
    assert_eq!(
        (&change["type"], &change["data"]["checks"][0]["status"]),
        (&json!("health_changed"), &json!("critical"))
    );
    assert_eq!(put(&server, body).await.1["lease_epoch"], registered["lease_epoch"]);
    assert_eq!(shown().await["routable"], false, "a heartbeat does not bring it back");
    report(&server, json!({"status": "passing"})).await;
    assert_eq!(resolve().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_not_reported_in_time_is_critical_until_it_is() {
    let server = Server::start().await;
    let body = json!({"address": "http://h:1", "permanent": true,
        "checks": [{"id": "disk", "ttl_ms": 1_000, "initial_status": "passing"}]});
    let (status, answer) = put(&server, body).await;
    assert_eq!(status, 200, "{answer}");
    let index = answer["index"].as_u64().unwrap();
    let changes = format!("/changes?service=orders&index={index}&wait_ms=30000");
    let (_, changes) = server.json(server.admin(Method::GET, &changes)).await;
    let check = &changes["changes"][0]["data"]["checks"][0];
    assert_eq!(
        (&check["status"], &check["output"]),
        (&json!("critical"), &json!("no report within 1000 ms"))
    );
    let (_, shown) = server.json(server.admin(Method::GET, PATH)).await;
    assert_eq!((&shown["routable"], &shown["permanent"]), (&json!(false), &json!(true)));
    let (_, answer) = report(&server, json!({"status": "passing"})).await;
    assert_eq!(answer["changed"], true);
    let (_, shown) = server.json(server.admin(Method::GET, PATH)).await;
    assert_eq!(shown["routable"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_check_or_report_is_refused_and_named() {
    let server = Server::start().await;
    let with = |checks: Value| json!({"address": "http://h:1", "ttl_ms": 60_000, "checks": checks});
    for (checks, status, field) in [
        (json!([{"id": "probe", "ttl_ms": 9_000}]), 422, "checks.id"),
        (json!([{"id": "a", "ttl_ms": 9_000}, {"id": "a", "ttl_ms": 8_000}]), 422, "checks.id"),
        (json!([{"id": "a", "ttl_ms": 1}]), 422, "checks.ttl_ms"),
        (json!([{"id": "a", "ttl_ms": 9_000, "kind": "ttl"}]), 400, "kind"),
        (
            json!(
                (0..17).map(|n| json!({"id": n.to_string(), "ttl_ms": 9_000})).collect::<Vec<_>>()
            ),
            422,
            "checks",
        ),
    ] {
        let (got, problem) = put(&server, with(checks.clone())).await;
        assert_eq!((got, &problem["field"]), (status, &json!(field)), "{checks} {problem}");
    }
    let (status, _) = report(&server, json!({"status": "passing"})).await;
    assert_eq!(status, 404, "the instance is not registered");
    put(&server, with(json!([{"id": "memory", "ttl_ms": 60_000}]))).await;
    let (status, problem) = report(&server, json!({"status": "passing"})).await;
    assert_eq!(status, 404, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("check default/orders/a/disk"),
        "{problem}"
    );
    put(&server, with(json!([{"id": "disk", "ttl_ms": 60_000}]))).await;
    for (body, status, field) in [
        (json!({"status": "passing", "output": "x".repeat(4_097)}), 422, json!("output")),
        (json!({"status": "passing", "output": "a\u{7}"}), 422, json!("output")),
        (json!({"status": "passing", "note": "x"}), 400, json!("note")),
    ] {
        let (got, problem) = report(&server, body).await;
        assert_eq!((got, &problem["field"]), (status, &field), "{problem}");
    }
    let (status, _) = report(&server, json!({"status": "fine"})).await;
    assert_eq!(status, 400);
    let (status, _) = report(&server, json!({"status": "passing", "lease_epoch": 1})).await;
    assert_eq!(status, 404, "another registration");
}

/// Most of the instances become silent at the same time, so expiry is suspended. An instance whose lease has
/// expired still gets traffic.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_kept_by_a_suspended_expiry_is_explained_so() {
    let server = Server::start().await;
    let path = |id: usize| format!("/services/default/silent/instances/i{id}");
    // In one batch, so that all become silent at the same moment, also on a busy machine.
    let items = (0..60).map(|id| {
        json!({"namespace": "default", "service": "silent", "id": format!("i{id}"),
               "address": "http://127.0.0.1:9", "ttl_ms": 1_000})
    });
    let batch = json!({"items": items.collect::<Vec<_>>()});
    let registered = server.open(Method::POST, "/registrations").json(&batch);
    let (status, answer) = server.json(registered).await;
    assert_eq!(status, 200, "{answer}");
    let lasting = json!({"address": "http://127.0.0.1:9", "ttl_ms": 600_000});
    server.json(server.open(Method::PUT, &path(60)).json(&lasting)).await;
    let why = async |id: usize| {
        let health = server.get(&format!("{}/health", path(id))).await;
        health["why"].as_str().unwrap_or_default().to_owned()
    };
    let over = "its time to live ended at least ";
    let explained = async {
        while !why(7).await.starts_with(over) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(20), explained).await;
    let text = why(7).await;
    assert!(in_time.is_ok() && text.contains(" s ago, but expiry is suspended"), "{text}");
    let text = why(60).await;
    assert!(text.starts_with("its lease has not expired"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_no_node_probes_shows_no_probe_among_its_checks() {
    let server = Server::start().await;
    let none = "its lease has not expired, and only the lease decides: it has no checks";
    // A client of the compatible API registers a path. Without node-wide health checks it is not probed.
    let heartbeat = json!({"kind": "heartbeat", "path": "/health"});
    for (probe, list, from) in [
        (Value::Null, json!([]), Value::Null),
        (heartbeat, json!([]), Value::Null),
        (json!({"kind": "http", "path": "/health"}), json!(["probe"]), json!("instance")),
    ] {
        let mut body = json!({"address": "http://127.0.0.1:9", "ttl_ms": 600_000});
        if !probe.is_null() {
            body["probe"] = probe.clone();
        }
        assert_eq!(put(&server, body).await.0, 200, "{probe}");
        let ids = |checks: &Value| -> Value {
            checks.as_array().unwrap().iter().map(|check| check["id"].clone()).collect()
        };
        let (_, shown) = server.json(server.open(Method::GET, PATH)).await;
        assert_eq!(ids(&shown["checks"]), list, "{probe}");
        let (_, all) = server.json(server.open(Method::GET, INSTANCES)).await;
        assert_eq!(ids(&all["items"][0]["checks"]), list, "{probe}");
        let health = server.get(&format!("{PATH}/health")).await;
        assert_eq!((ids(&health["checks"]), &health["probe_from"]), (list, &from), "{probe}");
        assert_eq!(health["why"] == none, from.is_null(), "{probe} {health}");
    }
}
