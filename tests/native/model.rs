//! What an instance is: its address as a URL and as parts, its tags, its node, and whether it expires.

use crate::support::Server;
use reqwest::Method;
use serde_json::{Value, json};

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
    assert_eq!(why["why"], "it is permanent, and no probe of it has a result");
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
