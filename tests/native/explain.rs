//! Explained choices, compared with the choices themselves.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

async fn explain(server: &Server, query: &str) -> Value {
    server.get(&format!("/resolve/default/orders/explain{query}")).await
}

async fn resolve(server: &Server, query: &str) -> Value {
    server.get(&format!("/resolve/default/orders{query}")).await["id"].clone()
}

async fn policy(server: &Server, policy: Value) {
    let put = server.admin(Method::PUT, "/services/default/orders/policy").json(&policy);
    let answer = put.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

fn candidate<'a>(explained: &'a Value, id: &str) -> &'a Value {
    let all = explained["candidates"].as_array().unwrap();
    all.iter().find(|candidate| candidate["id"] == id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_explained_is_what_is_chosen_and_an_explanation_uses_up_no_turn() {
    let server = Server::start().await;
    for id in ["a", "b", "c"] {
        server.register("orders", id, &format!("http://10.0.0.1/{id}")).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let first = explain(&server, "").await;
        let second = explain(&server, "").await;
        assert_eq!(first["chosen"], second["chosen"]);
        assert_eq!(resolve(&server, "").await, first["chosen"]);
        let chosen = first["chosen"].as_str().unwrap().to_owned();
        assert_eq!(candidate(&first, &chosen)["outcome"], "chosen");
        let possible = first["candidates"].as_array().unwrap();
        assert_eq!(possible.iter().filter(|c| c["outcome"] == "possible").count(), 2);
        seen.insert(chosen);
    }
    assert_eq!(seen.len(), 3, "the turns go on");

    policy(&server, json!({"selection": {"strategy": "consistent_hash"}})).await;
    for last in 1..=8 {
        let explained = explain(&server, &format!("?from=10.0.0.{last}")).await;
        let by_key = resolve(&server, &format!("?key=10.0.0.{last}")).await;
        assert_eq!(explained["chosen"], by_key, "{explained}");
        assert_eq!(explained["from"], format!("10.0.0.{last}"));
    }
    let rules = explain(&server, "").await["rules"].to_string();
    assert!(rules.contains("consistent hashing of the caller's address"), "{rules}");

    policy(&server, json!({"traffic": {"sticky": {"header": {"name": "x-user"}}}})).await;
    for user in ["ann", "ben", "cy"] {
        let explained = explain(&server, &format!("?headers=x-user%3A%20{user}")).await;
        let chosen = server.open(Method::GET, "/resolve/default/orders").header("x-user", user);
        let chosen: Value = chosen.send().await.unwrap().json().await.unwrap();
        assert_eq!(explained["chosen"], chosen["id"]);
        let rules = explained["rules"].to_string();
        assert!(rules.contains("x-user ties the caller to one instance"), "{rules}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_that_is_left_out_has_a_reason() {
    let server = Server::start().await;
    for (id, version) in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")] {
        let put = server.admin(Method::PUT, &format!("/services/default/orders/instances/{id}"));
        let body = json!({"address": format!("http://10.0.0.1/{id}"), "version": version});
        assert_eq!(put.json(&body).send().await.unwrap().status(), 200);
    }
    let drain = server.admin(Method::PUT, "/services/default/orders/instances/a/drain");
    let drain = drain.json(&json!({"reason": "kernel update"})).send().await.unwrap();
    assert_eq!(drain.status(), 200);
    let split = json!([{"version": "1", "weight": 1}, {"version": "2", "weight": 1}]);
    policy(&server, json!({"traffic": {"split": split}})).await;
    let mut drawn = std::collections::BTreeSet::new();
    for by in ["resolve", "proxy"].into_iter().cycle().take(200) {
        let explained = explain(&server, &format!("?by={by}")).await;
        let chosen = explained["chosen"].as_str().unwrap().to_owned();
        let why = |id: &str| candidate(&explained, id)["why"].as_str().unwrap().to_owned();
        assert!(
            why("a").contains("drained by") && why("a").contains("kernel update"),
            "{}",
            why("a")
        );
        assert!(why("d").contains("version 3 has no share"), "{}", why("d"));
        let other = if chosen == "b" { "c" } else { "b" };
        assert_eq!(candidate(&explained, other)["outcome"], "left_out");
        assert!(why(other).contains("another one was drawn"), "{}", why(other));
        drawn.insert((by, chosen));
        if drawn.len() == 4 {
            break;
        }
    }
    assert_eq!(drawn.len(), 4, "both versions are drawn both ways: {drawn:?}");
    for bad in ["?from=nowhere", "?headers=x", "?by=magic", "?colour=1"] {
        let answer = server.admin(Method::GET, &format!("/resolve/default/orders/explain{bad}"));
        assert_eq!(answer.send().await.unwrap().status(), 400, "{bad}");
    }
    let stranger = server.open(Method::GET, "/resolve/default/orders/explain");
    assert_eq!(stranger.send().await.unwrap().status(), 401);
    let missing = server.admin(Method::GET, "/resolve/default/nobody/explain");
    assert_eq!(missing.send().await.unwrap().status(), 404);
}
