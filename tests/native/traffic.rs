//! What a node remembers of its traffic and of its configurations.

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
