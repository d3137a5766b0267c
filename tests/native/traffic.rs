//! What a node records about its traffic and its configurations.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_told_by_service_and_in_all() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    for _ in 0..3 {
        let answer = server.open(Method::GET, "/resolve/default/orders").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    server.open(Method::GET, "/resolve/default/nobody").send().await.unwrap();
    let orders = server.get("/traffic?service=orders").await;
    assert_eq!(orders["total"]["lookups"], 3);
    assert_eq!(orders["total"]["failed"], 0);
    assert!(orders["total"]["p50_us"].as_u64().unwrap() >= 64);
    let steps = orders["items"].as_array().unwrap();
    assert_eq!(steps.iter().map(|s| s["lookups"].as_u64().unwrap()).sum::<u64>(), 3);
    assert_eq!(steps[0]["at_ms"].as_u64().unwrap() % orders["step_ms"].as_u64().unwrap(), 0);
    let all = server.get("/traffic").await;
    assert_eq!(all["total"]["lookups"], 4);
    assert!(all["total"]["registrations"].as_u64().unwrap() >= 1);
    let later = all["now_ms"].as_u64().unwrap() + 60_000;
    let none = server.get(&format!("/traffic?since_ms={later}")).await;
    assert_eq!((&none["items"], &none["total"]["requests"]), (&json!([]), &json!(0)));
    assert_eq!(server.get("/traffic?service=nobody").await["items"], json!([]));
    // The only node of the cluster has counted everything.
    let cluster = server.get("/cluster/traffic?service=orders").await;
    assert_eq!((&cluster["complete"], &cluster["step_ms"]), (&json!(true), &orders["step_ms"]));
    let total = &cluster["total"];
    assert_eq!((&total["lookups"], &total["lookups_failed"]), (&json!(3), &json!(0)));
    // Its durations are those of forwarded requests.
    assert_eq!((&total["proxied"], &total["p95_us"]), (&json!(0), &Value::Null));
    let cluster = server.get("/cluster/traffic").await;
    assert_eq!(cluster["total"]["lookups"], 4);
    assert!(cluster["total"]["registrations"].as_u64().unwrap() >= 1);
    let none = server.get(&format!("/cluster/traffic?since_ms={later}")).await;
    assert_eq!((&none["items"], &none["total"]["at_ms"]), (&json!([]), &json!(later)));
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_are_kept_newest_first_by_pages() {
    let server = Server::start().await;
    assert_eq!(server.get("/config/history").await["items"], json!([]));
    for ttl in [7, 8] {
        let put = server.admin(Method::PATCH, "/config").json(&json!({"heartbeat_timeout_s": ttl}));
        assert_eq!(put.send().await.unwrap().status(), 200);
    }
    // The compatible API changes the same configuration.
    let url = format!("http://{}/api/maxine/control/config", server.addr);
    let put =
        server.client.put(url).bearer_auth(&server.token).json(&json!({"heartBeatTimeout": 9}));
    assert_eq!(put.send().await.unwrap().status(), 200);
    let mut found = Vec::new();
    let mut path = String::from("/config/history?limit=1");
    loop {
        let page = server.get(&path).await;
        let item = page["items"][0].clone();
        found.push((item["config"]["heartbeat_timeout_s"].as_u64().unwrap(), item["user"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/config/history?limit=1&cursor={cursor}");
    }
    let who = Value::from(server.password.0.as_str());
    let expected = [(9, who.clone()), (8, who.clone()), (7, who), (5, Value::Null)];
    assert_eq!(found, expected);
    let now = server.get("/config").await;
    assert_eq!(server.get("/config/history").await["items"][0]["revision"], now["revision"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_declared_objective_counts_its_requests_and_only_failures_of_maxine() {
    let server = Server::start().await;
    // Nobody listens there.
    server.register("orders", "a", "http://127.0.0.1:9").await;
    for path in ["/resolve/default/orders", "/resolve/default/nobody"] {
        server.open(Method::GET, path).send().await.unwrap();
    }
    for service in ["orders", "nobody"] {
        let proxy = format!("http://{}/api/maxine/serviceops/proxy/{service}/x", server.addr);
        let answer = server.client.get(proxy).send().await.unwrap();
        assert!(answer.status().is_server_error());
    }
    let answer = server.get("/objectives").await;
    let items = answer["items"].as_array().unwrap();
    let counted = |name: &str| {
        let item = items.iter().find(|item| item["name"] == name).unwrap();
        (item["requests"].as_u64().unwrap(), item["failures"].as_u64().unwrap())
    };
    // A service without an instance is not Maxine's failure.
    assert_eq!(counted("discovery-availability"), (2, 0));
    let (calls, failed) = counted("proxy-success");
    assert!(calls >= 1 && failed == 1, "{calls} {failed}");
    let (writes, failed) = counted("write-availability");
    assert!(writes >= 1 && failed == 0, "{writes} {failed}");
    let proxy = items.iter().find(|item| item["name"] == "proxy-success").unwrap();
    assert!(proxy["budget_left"].as_f64().unwrap() < -400.0, "{proxy}");
    let node = &answer["nodes"][0];
    assert_eq!((&node["name"], &answer["complete"]), (&json!("node-1"), &json!(true)));
    assert!(node["began_ms"].as_u64().unwrap() <= answer["now_ms"].as_u64().unwrap());
    assert!(node["missing_ms"].as_u64().unwrap() < 1_000, "{node}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_members_tells_of_itself() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let nodes = server.get("/cluster/nodes").await;
    assert_eq!(nodes["items"].as_array().unwrap().len(), 1);
    assert_eq!(nodes["items"][0]["report"]["is_leader"], true);
    let known = server.get("/services/default/orders/instances/a/nodes").await;
    assert_eq!((&known["in_flight"], &known["complete"]), (&json!(0), &json!(true)));
    let missing = server.admin(Method::GET, "/services/default/orders/instances/b/nodes");
    assert_eq!(missing.send().await.unwrap().status(), 404);
}

/// One place decides which instances get traffic. Lists, counts and explanations agree with that choice.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_a_share_is_nowhere_said_to_get_traffic() {
    let server = Server::start().await;
    for (id, version) in [("a", "1"), ("b", "2"), ("c", "2")] {
        let path = format!("/services/default/split/instances/{id}");
        let body = json!({"address": "http://h:1", "ttl_ms": 60_000, "version": version});
        let put = server.open(Method::PUT, &path).json(&body);
        assert_eq!(put.send().await.unwrap().status(), 200);
    }
    let policy = json!({"traffic": {"split": [{"version": "1", "weight": 100}]}});
    let put = server.admin(Method::PUT, "/services/default/split/policy").json(&policy);
    assert_eq!(put.send().await.unwrap().status(), 200);
    for _ in 0..6 {
        assert_eq!(server.get("/resolve/default/split").await["id"], "a");
    }
    assert_eq!(server.get("/resolve/default/split").await["candidates"], 1);
    let service = server.get("/services/default/split").await;
    assert_eq!((&service["routable"], &service["health"]), (&json!(1), &json!("healthy")));
    let listed = server.get("/services/default/split/instances?health=routable").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(server.get("/namespaces").await["items"][0]["routable"], 1);
    assert_eq!(server.get("/cluster/status").await["totals"]["routable"], 1);
    let b = server.get("/services/default/split/instances/b").await;
    assert_eq!(b["routable"], false);
    let why = server.get("/services/default/split/instances/b/health").await;
    assert_eq!(why["routable"], false);
    let text = why["why"].as_str().unwrap();
    assert!(text.contains("version 2 has no share"), "{text}");
}

/// Even with an idempotency key nothing is written, and no watcher gets an event.
#[tokio::test(flavor = "multi_thread")]
async fn an_equal_registration_with_a_key_is_a_heartbeat() {
    let server = Server::start().await;
    let put = async |key: &str, ids: &[&str], weight: u16| {
        let items = ids.iter().map(|id| {
            json!({"namespace": "default", "service": "eq", "id": id,
                   "address": "http://h:1", "ttl_ms": 60_000, "weight": weight})
        });
        let body = json!({"items": items.collect::<Vec<_>>()});
        let request = server.open(Method::POST, "/registrations").header("idempotency-key", key);
        let (status, answer) = server.json(request.json(&body)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let first = put("k1", &["a", "b"], 1).await;
    // The sign-in of this test is recorded concurrently with its answer, which also raises the index.
    let records = async || server.get("/audit?action=session.create").await;
    while records().await["items"].as_array().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let index = server.view.index();
    let again = put("k2", &["a", "b"], 1).await;
    assert_eq!(server.view.index(), index, "nothing was written");
    assert_eq!(again["results"], first["results"]);
    // If one of the items changes, all are written to the log with the key, and a repeat gets the first
    // answer.
    let (heavier, both) = (put("k3", &["b"], 2).await, put("k4", &["a", "b"], 3).await);
    assert_ne!(heavier["results"][0], both["results"][1]);
    let written = server.view.index();
    assert!(written > index);
    put("k5", &["b"], 4).await;
    assert_eq!(put("k4", &["a", "b"], 3).await["results"], both["results"]);
    assert_eq!(server.get("/services/default/eq/instances/b").await["weight"], 4);
}
