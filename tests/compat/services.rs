//! Registration, discovery and config: sections 3, 4, 5 and 10 of the compatible API.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Server, message, node};

const REGISTER: &str = "/api/maxine/serviceops/register";
const SERVERS: &str = "/api/maxine/serviceops/servers";
const DISCOVER: &str = "/api/maxine/serviceops/discover";
const CONFIG: &str = "/api/maxine/control/config";
const INVALID: &str = "Invalid or missing -> hostName, nodeName, serviceName or weight (Maximum allowed size of weight is 10 (One server can maximum be 10x more powerful than others)";
const WRONG: &str = "Wrong value Or Invalid value";

async fn list(server: &Server, token: &str) -> Value {
    let answer = server.get(SERVERS).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn register() {
    let server = Server::start().await;
    let body = server
        .register(json!({
            "hostName": "10.0.0.1", "nodeName": "node-a", "serviceName": "orders", "port": "8080",
            "ssl": true, "path": "api/", "timeOut": "7.9", "weight": 2, "healthCheckPath": "health",
            "unknown": {"field": 1},
        }))
        .await;
    let fields: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "hostName",
        "nodeName",
        "serviceName",
        "timeOut",
        "weight",
        "address",
        "healthCheckPath",
        "registeredAt",
    ];
    assert_eq!(fields, expected);
    assert_eq!(body["hostName"], "10.0.0.1");
    assert_eq!((&body["timeOut"], &body["weight"]), (&json!(7), &json!(2)));
    assert_eq!(body["address"], "https://10.0.0.1:8080/api");
    assert_eq!(body["healthCheckPath"], "health");
    let registered_at = body["registeredAt"].as_str().unwrap();
    assert!(registered_at.ends_with("AM") || registered_at.ends_with("PM"), "{registered_at}");

    for body in [
        json!({}),
        json!({"hostName": "h", "nodeName": "n"}),
        json!({"hostName": "", "nodeName": "n", "serviceName": "s"}),
        json!({"hostName": 5, "nodeName": "n", "serviceName": "s"}),
        json!({"hostName": "h", "nodeName": "n", "serviceName": "s", "weight": 11}),
    ] {
        let answer = server.post(REGISTER, &body).send().await.unwrap();
        assert_eq!(message(answer).await, (400, INVALID.into()), "{body}");
    }
    let none = server.http.post(server.url(REGISTER)).send().await.unwrap();
    assert_eq!(message(none).await, (400, INVALID.into()));
    let malformed = server.http.post(server.url(REGISTER)).body("{\"hostName\":");
    let malformed = malformed.header("content-type", "application/json").send().await.unwrap();
    assert_eq!(message(malformed).await.0, 400);
    for bad in [
        json!({"port": "x"}),
        json!({"healthCheckPath": "http://elsewhere/"}),
        json!({"hostName": "169.254.169.254"}),
    ] {
        let mut body = node("s", "n", 1);
        body.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        let answer = server.post(REGISTER, &body).send().await.unwrap();
        assert_eq!(message(answer).await.0, 400, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_is_a_heartbeat_and_does_not_enter_the_log() {
    let server = Server::start().await;
    server.register(node("s", "n", 1)).await;
    let index = server.view.index();
    for _ in 0..20 {
        server.register(node("s", "n", 1)).await;
    }
    assert_eq!(server.view.index(), index);
    server.register(node("s", "n", 2)).await;
    assert!(server.view.index() > index);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers() {
    let server = Server::start().await;
    let token = server.admin().await;
    assert_eq!(list(&server, &token).await, json!({}));
    let mut body = node("orders", "node-a", 8080);
    body["weight"] = json!(3);
    body["healthCheckPath"] = json!("health");
    server.register(body.clone()).await;
    for _ in 0..4 {
        server.discover("serviceName=orders").await;
    }
    let listed = list(&server, &token).await;
    assert_eq!(listed["orders"]["offset"], 4);
    let nodes = listed["orders"]["nodes"].as_object().unwrap();
    let names: Vec<&String> = nodes.keys().collect();
    assert_eq!(names, ["node-a-0", "node-a-1", "node-a-2"]);
    let registered_at = &nodes["node-a-1"]["registeredAt"];
    assert!(registered_at.is_u64());
    let expected = json!({
        "nodeName": "node-a-1", "parentNode": "node-a", "address": "http://127.0.0.1:8080",
        "timeOut": 5, "registeredAt": registered_at, "healthCheckPath": "health",
    });
    assert_eq!(nodes["node-a-1"], expected);
    // A smaller weight leaves nothing of the larger one.
    body["weight"] = json!(1);
    body["port"] = json!(9090);
    server.register(body).await;
    let listed = list(&server, &token).await;
    let nodes = listed["orders"]["nodes"].as_object().unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes["node-a-0"]["address"], "http://127.0.0.1:9090");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_ends_with_its_time_each_service_for_itself() {
    let server = Server::start().await;
    for (service, time_out) in [("short", 1), ("long", 2_147_484)] {
        let mut body = node(service, "same-name", 1);
        body["timeOut"] = json!(time_out);
        server.register(body).await;
    }
    assert_eq!(server.discover("serviceName=short").await.0, 302);
    let gone = async {
        while server.discover("serviceName=short").await.0 == 302 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let started_ms = server.state.clock().monotonic_ms();
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it never ends");
    // It must not expire early: after 1 s and an additional half second, less the time that registering took.
    assert!(server.state.clock().monotonic_ms() - started_ms >= 1_300);
    assert_eq!(server.discover("serviceName=long").await.0, 302);
    let token = server.admin().await;
    assert!(list(&server, &token).await.get("short").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn discover() {
    let server = Server::start().await;
    for none in ["", "?serviceName=", "?endPoint=/x"] {
        let answer = server.get(&format!("{DISCOVER}{none}")).send().await.unwrap();
        assert_eq!(message(answer).await, (400, "Please provide the serviceName.".into()));
    }
    let answer = server.get(&format!("{DISCOVER}?serviceName=none")).send().await.unwrap();
    assert_eq!(message(answer).await, (503, "Service Unavailable".into()));
    let mut body = node("s", "n", 81);
    body["path"] = json!("/base");
    server.register(body).await;
    let base = "http://127.0.0.1:81/base";
    for (query, rest) in [
        ("", ""),
        ("&endPoint=", ""),
        ("&endPoint=x", "/x"),
        ("&endPoint=/x", "/x"),
        ("&endPoint=%2Fx%3Fa%3D1%26b%3D2", "/x?a=1&b=2"),
        ("&endPoint=//x", "//x"),
        ("&endPoint=/a%20b", "/a%20b"),
        ("&endPoint=/a+b", "/a%20b"),
        ("&endPoint=/%E2%82%AC", "/%E2%82%AC"),
        ("&endPoint=/x&other=1", "/x"),
        ("&mode=a&mode=b", ""),
        ("&endPoint=/x%0d%0aSet-Cookie:%20a=b", "/x%0D%0ASet-Cookie:%20a=b"),
        ("&endPoint=%5C%5Cevil.example", "/%5C%5Cevil.example"),
        ("&endPoint=%00", "/%00"),
    ] {
        let (status, location) = server.discover(&format!("serviceName=s{query}")).await;
        assert_eq!((status, location), (302, format!("{base}{rest}")), "{query}");
    }
    for (accept, kind, body) in [
        ("*/*", Some("text/plain; charset=utf-8"), format!("Found. Redirecting to {base}")),
        ("text/html", Some("text/html; charset=utf-8"), String::from("<p>")),
        ("image/png", None, String::new()),
    ] {
        let request = server.get(&format!("{DISCOVER}?serviceName=s")).header("accept", accept);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["vary"], "Accept");
        let got = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap());
        assert_eq!(got, kind);
        assert!(answer.text().await.unwrap().starts_with(&body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_kind_are_names() {
    let server = Server::start().await;
    for name in ["__proto__", "constructor", "hasOwnProperty", "a b", "ä/€?&#", "...", "%2e%2e"]
    {
        server.register(node(name, name, 80)).await;
        let set = percent_encoding::NON_ALPHANUMERIC;
        let escaped = percent_encoding::utf8_percent_encode(name, set);
        let (status, location) = server.discover(&format!("serviceName={escaped}")).await;
        assert_eq!((status, location.as_str()), (302, "http://127.0.0.1:80"), "{name}");
    }
    let token = server.admin().await;
    assert_eq!(list(&server, &token).await.as_object().unwrap().len(), 7);
    // In a URL these mean another path, so a service with such a name could neither be shown nor removed.
    for (service, id, name) in
        [(".", "a", "."), ("..", "a", ".."), ("s", ".", "."), ("s", "..", "..")]
    {
        let answer = server.post(REGISTER, &node(service, id, 80)).send().await.unwrap();
        let (status, reported) = message(answer).await;
        assert_eq!(status, 400);
        assert!(
            reported.ends_with(&format!("must be a name other than . and .., got {name}")),
            "{reported}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_gives_each_node_its_weight_whatever_heartbeats_come_between() {
    let server = Server::start().await;
    let mut nodes = Vec::new();
    for (name, port, weight) in [("a", 1, 1), ("b", 2, 3), ("c", 3, 2)] {
        let mut body = node("s", name, port);
        body["weight"] = json!(weight);
        server.register(body.clone()).await;
        nodes.push(body);
    }
    for _ in 0..3 {
        let mut seen: HashMap<String, u32> = HashMap::new();
        for turn in 0..6 {
            let (_, location) = server.discover("serviceName=s").await;
            *seen.entry(location).or_default() += 1;
            server.register(nodes[turn % 3].clone()).await;
        }
        let count = |port: u16| seen[&format!("http://127.0.0.1:{port}")];
        assert_eq!((count(1), count(2), count(3)), (1, 3, 2), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hashing_strategies_keep_a_client_on_its_node() {
    let server = Server::start().await;
    let token = server.admin().await;
    for port in 1..=3 {
        server.register(node("s", &format!("n{port}"), port)).await;
    }
    for strategy in ["CH", "RH"] {
        let body = json!({"serverSelectionStrategy": strategy});
        let answer = server.put(CONFIG, &body).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), r#"{"serverSelectionStrategy":"Success"}"#);
        let (_, first) = server.discover("serviceName=s").await;
        for _ in 0..20 {
            assert_eq!(server.discover("serviceName=s").await.1, first);
        }
        // Other addresses of loopback are other clients.
        let mut seen = HashSet::new();
        for last in 1..=40 {
            let client = reqwest::Client::builder()
                .local_address(std::net::IpAddr::from([127, 0, 0, last]))
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap();
            let answer = client.get(server.url(&format!("{DISCOVER}?serviceName=s"))).send().await;
            seen.insert(answer.unwrap().headers()["location"].clone());
        }
        assert_eq!(seen.len(), 3, "{strategy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_registrations_lose_nothing() {
    let server = Arc::new(Server::start().await);
    let each = (0..100_u16).map(|n| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.register(node("s", &format!("n{n}"), n + 1)).await })
    });
    for task in each.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let token = server.admin().await;
    let listed = list(&server, &token).await;
    assert_eq!(listed["s"]["nodes"].as_object().unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn config() {
    let server = Server::start().await;
    let token = server.admin().await;
    let read = async || -> Value {
        let answer = server.get(CONFIG).bearer_auth(&token).send().await.unwrap();
        answer.json().await.unwrap()
    };
    let show = |name: &str, code: u8, message: &str| json!({"name": name, "code": code.to_string(), "message": message, "ordinal": code});
    let defaults = json!({
        "logAsync": true, "heartBeatTimeout": 5, "logJsonPrettify": false, "actuatorEnabled": true,
        "statusMonitorEnabled": true,
        "serverSelectionStrategy": show("RR", 0, "Round Robin"),
        "discoveryMode": show("REDIRECT", 0, "Redirect"),
        "logFormat": show("JSON", 0, "Jsonified logging"),
        "port": 8080,
    });
    assert_eq!(read().await, defaults);
    let change = async |body: Value| -> Value {
        let answer = server.put(CONFIG, &body).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    };
    assert_eq!(change(json!({})).await, json!({}));
    assert_eq!(change(json!({"port": 1, "actuatorEnabled": false, "x": 1})).await, json!({}));
    for name in ["toString", "constructor", "rr", ""] {
        let answer = change(json!({"serverSelectionStrategy": name, "discoveryMode": name})).await;
        assert_eq!(answer, json!({"serverSelectionStrategy": WRONG, "discoveryMode": WRONG}));
    }
    let answer = change(json!({
        "logAsync": null, "heartBeatTimeout": 0, "logFormat": 5, "logJsonPrettify": true,
    }));
    let expected = json!({
        "logAsync": "Type Error", "heartBeatTimeout": WRONG, "logFormat": WRONG,
        "logJsonPrettify": "Success",
    });
    assert_eq!(answer.await, expected);
    change(json!({"heartBeatTimeout": 9, "serverSelectionStrategy": "RH", "logFormat": "PLAIN"}))
        .await;
    let now = read().await;
    assert_eq!((&now["heartBeatTimeout"], &now["logJsonPrettify"]), (&json!(9), &json!(true)));
    assert_eq!(now["serverSelectionStrategy"], show("RH", 2, "Rendezvous Hashing"));
    assert_eq!(now["logFormat"], show("PLAIN", 1, "Plain logs"));
    assert_eq!(server.register(node("s", "n", 1)).await["timeOut"], 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_of_the_config_lose_nothing() {
    let server = Server::start().await;
    let token = server.admin().await;
    let changes = [
        json!({"logAsync": false}),
        json!({"heartBeatTimeout": 8}),
        json!({"logJsonPrettify": true}),
        json!({"logFormat": "PLAIN"}),
        json!({"serverSelectionStrategy": "CH"}),
    ];
    let all = changes.iter().map(|body| server.put(CONFIG, body).bearer_auth(&token).send());
    for answer in futures::future::join_all(all).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    let config = server.view.snapshot().state.config().config.clone();
    assert!(!config.log_async && config.log_json_prettify && config.heartbeat_timeout_s == 8);
    assert_eq!(config.log_format, maxine_state::LogFormat::Plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_reads_go_on_and_writes_say_so() {
    let server = Server::start().await;
    server.register(node("s", "n", 1)).await;
    server.store.set_available(false);
    assert_eq!(server.discover("serviceName=s").await.0, 302);
    let answer = server.post(REGISTER, &node("s", "other", 2)).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
}
