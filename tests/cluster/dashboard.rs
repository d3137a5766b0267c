//! What the dashboard needs of a real cluster: members accept requests of each other's pages, each node can
//! be asked through any other, and the log records configurations and changes of leadership.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::dev::{Dev, PATIENCE};

async fn get(dev: &mut Dev, node: usize, path: &str) -> Value {
    let token = dev.token().await;
    let url = format!("{}/api/v1{path}", dev.nodes[node].http);
    let answer = dev.client.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_members_are_let_in_and_of_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(dir.path(), &[]);
    let other = dev.nodes[1].http.clone();
    let page = dev.client.get(format!("{}/", dev.nodes[0].http)).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for node in &dev.nodes {
        assert!(policy.contains(&node.http), "{policy}");
    }
    let ask = |path: &str, origin: &str, method: Method| {
        let url = format!("{}{path}", dev.nodes[0].http);
        let request = dev.client.request(method, url).header("origin", origin);
        request.header("access-control-request-headers", "authorization").send()
    };
    let native = "/api/v1/ready";
    let preflight = ask(native, &other, Method::OPTIONS).await.unwrap();
    assert_eq!(preflight.headers()["access-control-allow-origin"], *other);
    assert_eq!(preflight.headers()["access-control-allow-headers"], "authorization");
    assert!(!preflight.headers().contains_key("access-control-allow-credentials"));
    let answer = ask(native, &other, Method::GET).await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], *other);
    let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("x-maxine-leader"), "{exposed}");
    for (path, origin) in [
        (native, "http://127.0.0.1:1"),
        (native, "null"),
        (native, "https://evil.example"),
        // These paths lead to services, whose answers a member's page must not read.
        ("/api/maxine/serviceops/discover?serviceName=x", other.as_str()),
        ("/api/maxine/serviceops/proxy/x/y", other.as_str()),
    ] {
        for method in [Method::OPTIONS, Method::GET] {
            let answer = ask(path, origin, method).await.unwrap();
            let allowed = answer.headers().get("access-control-allow-origin");
            assert!(allowed.is_none(), "{path} to {origin}: {allowed:?}");
        }
    }
}

/// Of the nodes that were asked, exactly this one did not answer.
fn assert_silent(answer: &Value, name: &str) {
    let asked = answer["nodes"].as_array().unwrap();
    let silent: Vec<_> = asked.iter().filter(|node| node["problem"].is_string()).collect();
    assert_eq!((silent.len(), &silent[0]["name"]), (1, &json!(name)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_asked_through_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    assert_eq!(dev.register(0, "orders", "a").await.0, 200);
    let started = Instant::now();
    loop {
        let nodes = get(&mut dev, 2, "/cluster/nodes").await;
        let nodes = nodes["items"].as_array().unwrap().clone();
        assert_eq!(nodes.len(), 3);
        let reports: Vec<&Value> = nodes.iter().map(|node| &node["report"]).collect();
        let leaders = reports.iter().filter(|report| report["is_leader"] == true).count();
        let heads: Vec<_> = reports.iter().map(|r| (&r["index"], &r["audit_head"])).collect();
        if leaders == 1 && heads.iter().all(|head| head.0.is_u64() && *head == heads[0]) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{nodes:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let known = get(&mut dev, 1, "/services/default/orders/instances/a/nodes").await;
    assert_eq!((&known["in_flight"], &known["complete"]), (&json!(0), &json!(true)));
    assert_eq!(known["nodes"].as_array().unwrap().len(), 3);
    for node in [0, 2] {
        let url = format!("{}/api/v1/resolve/default/orders", dev.nodes[node].http);
        assert_eq!(dev.client.get(url).send().await.unwrap().status(), 200);
    }
    // Each of them counted one, and the third node adds both.
    for path in ["/cluster/traffic?service=orders", "/cluster/traffic?service=orders&range=day"] {
        let traffic = get(&mut dev, 1, path).await;
        assert_eq!((&traffic["total"]["lookups"], &traffic["complete"]), (&json!(2), &json!(true)));
    }
    let services = get(&mut dev, 1, "/traffic/services").await;
    let orders = &services["items"][0];
    assert_eq!((&orders["service"], &orders["lookups"]), (&json!("orders"), &json!(2)));
    let others = ["/traffic/services", "/objectives", "/cluster/alerts"];
    for path in others {
        let answer = get(&mut dev, 1, path).await;
        let asked = answer["nodes"].as_array().unwrap().len();
        assert_eq!((asked, &answer["complete"]), (3, &json!(true)), "{path}: {answer}");
    }
    dev.signal(0, Signal::SIGKILL);
    let traffic = get(&mut dev, 1, "/cluster/traffic?service=orders").await;
    assert_eq!((&traffic["total"]["lookups"], &traffic["complete"]), (&json!(1), &json!(false)));
    assert_silent(&traffic, &dev.nodes[0].instance);
    for path in others {
        let answer = get(&mut dev, 1, path).await;
        assert_eq!(answer["complete"], false, "{path}: {answer}");
        assert_silent(&answer, &dev.nodes[0].instance);
    }
    let known = get(&mut dev, 1, "/services/default/orders/instances/a/nodes").await;
    assert_eq!(known["complete"], false);
    let nodes = get(&mut dev, 1, "/cluster/nodes").await;
    let silent = nodes["items"].as_array().unwrap().iter().find(|n| n["report"].is_null()).unwrap();
    assert_eq!(silent["name"], dev.nodes[0].instance);
    assert!(silent["problem"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_and_failovers_are_remembered_on_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    let token = dev.token().await;
    for ttl in [7, 8] {
        let url = format!("{}/api/v1/config", dev.nodes[1].http);
        let body = json!({"heartbeat_timeout_s": ttl});
        let put = dev.client.patch(url).bearer_auth(&token).json(&body).send().await.unwrap();
        assert_eq!(put.status(), 200);
    }
    let leader = dev.leader().await;
    let survivor = (leader + 1) % 3;
    dev.signal(leader, Signal::SIGKILL);
    let started = Instant::now();
    let change = loop {
        let changes = get(&mut dev, survivor, "/cluster/leadership").await;
        let newest = changes["items"][0].clone();
        if newest["holder"] != dev.nodes[leader].instance {
            break newest;
        }
        assert!(started.elapsed() < PATIENCE, "nobody took over: {newest}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(change["cause"], "silence", "{change}");
    assert_eq!(change["from"], dev.nodes[leader].instance);
    // The old leader was last heard at least one election timeout before.
    assert!(change["gap_ms"].as_u64().unwrap() >= 400, "{change}");
    let kept = get(&mut dev, survivor, "/config/history").await;
    let ttls: Vec<&Value> = kept["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| &k["config"]["heartbeat_timeout_s"])
        .collect();
    assert_eq!(ttls, [8, 7, 5], "newest first, the defaults last");
    assert_eq!(kept["items"][0]["user"], "admin");
    dev.restart_dead();
    dev.wait_ready(leader).await;
    dev.assert_equal_digests().await;
}
