//! Writes of Consul's clients, each of which goes to another node than the one before, as behind a load balancer.

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::dev::Dev;

struct Nodes {
    dev: Dev,
    token: String,
    _dir: tempfile::TempDir,
}

impl Nodes {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut dev = Dev::start_in(dir.path(), &[], &[("MAXINE_CONSUL_ON_HTTP", "true")]);
        for node in 0..3 {
            dev.wait_ready(node).await;
        }
        let token = dev.token().await;
        let nodes = Self { dev, token, _dir: dir };
        // The connections are open before the writes: a new one would take as long as the other nodes need.
        for node in 0..3 {
            nodes.get(node, "status/leader").await;
        }
        nodes
    }

    async fn put(&self, node: usize, path: &str, body: Value) -> StatusCode {
        let url = format!("{}/v1/{path}", self.dev.nodes[node % 3].http);
        let request = self.dev.client.put(url).bearer_auth(&self.token).body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        answer.bytes().await.unwrap();
        status
    }

    async fn get(&self, node: usize, path: &str) -> Value {
        let url = format!("{}/v1/{path}", self.dev.nodes[node % 3].http);
        let answer = self.dev.client.get(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }

    async fn listed(&self, node: usize, service: &str) -> Vec<Value> {
        let found = self.get(node, &format!("health/service/{service}?consistent")).await;
        found.as_array().unwrap().clone()
    }
}

/// A registration with a TTL check, which is critical until it is reported.
fn service(id: &str, address: &str) -> Value {
    let check = json!({"CheckID": format!("c-{id}"), "TTL": "60s"});
    json!({"Name": "s", "ID": id, "Address": address, "Port": 80, "Check": check})
}

fn without_check(id: &str, address: &str) -> Value {
    json!({"Name": "s", "ID": id, "Address": address, "Port": 80})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deregistration_through_another_node_removes_what_was_just_registered() {
    let nodes = Nodes::start().await;
    for round in 0..40 {
        let (a, b) = (round, round + 1 + round / 3 % 2);
        let in_catalog = json!({"Node": "y", "Address": "10.0.0.1",
                                "Service": {"Service": "s", "ID": "1"}});
        assert_eq!(nodes.put(a, "catalog/register", in_catalog).await, 200);
        let gone = json!({"Node": "y", "ServiceID": "1"});
        assert_eq!(nodes.put(b, "catalog/deregister", gone).await, 200);
        assert_eq!(nodes.put(a, "agent/service/register", service("x", "10.0.0.1")).await, 200);
        assert_eq!(nodes.put(b, "agent/service/deregister/x", Value::Null).await, 200, "{round}");
        assert_eq!(nodes.listed(a, "s").await, Vec::<Value>::new(), "{round}");
        // A check does not bring it back.
        let check = json!({"Name": "late", "ServiceID": "x", "TTL": "60s"});
        assert_eq!(nodes.put(a, "agent/service/register", service("x", "10.0.0.1")).await, 200);
        assert_eq!(nodes.put(a, "agent/service/deregister/x", Value::Null).await, 200);
        assert_eq!(nodes.put(b, "agent/check/register", check).await, 404, "{round}");
        assert_eq!(nodes.listed(a, "s").await, Vec::<Value>::new(), "{round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_through_another_node_keeps_what_was_just_written() {
    let nodes = Nodes::start().await;
    for round in 0..40 {
        let (a, b) = (round, round + 1 + round / 3 % 2);
        let id = format!("x{round}");
        assert_eq!(nodes.put(a, "agent/service/register", service(&id, "10.0.0.1")).await, 200);
        let again = without_check(&id, "10.0.0.1");
        assert_eq!(nodes.put(b, "agent/service/register", again).await, 200);
        let listed = nodes.listed(a, "s").await;
        let checks = listed[0]["Checks"].as_array().unwrap();
        let own = checks.iter().find(|check| check["CheckID"] == format!("c-{id}"));
        let own = own.unwrap_or_else(|| panic!("{round}: the check is kept"));
        assert_eq!(own["Status"], "critical", "{round}");

        assert_eq!(nodes.put(a, &format!("agent/check/pass/c-{id}"), Value::Null).await, 200);
        assert_eq!(nodes.put(b, &format!("agent/check/fail/c-{id}"), Value::Null).await, 200);
        let moved = without_check(&id, "10.0.0.2");
        assert_eq!(nodes.put(a, "agent/service/register", moved).await, 200);
        let listed = nodes.listed(b, "s").await;
        assert_eq!(listed[0]["Service"]["Address"], "10.0.0.2", "{round}");
        let is_critical = |check: &Value| check["Status"] == "critical";
        assert!(listed[0]["Checks"].as_array().unwrap().iter().any(is_critical), "{round}");

        let path = format!("agent/check/deregister/c-{id}");
        assert_eq!(nodes.put(b, &path, Value::Null).await, 200);
        assert_eq!(nodes.listed(a, "s").await[0]["Service"]["Address"], "10.0.0.2", "{round}");
        let path = format!("agent/service/deregister/{id}");
        assert_eq!(nodes.put(a, &path, Value::Null).await, 200, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_registered_through_another_node_is_known_to_every_route() {
    let nodes = Nodes::start().await;
    for round in 0..40 {
        let (a, b) = (round, round + 1 + round / 3 % 2);
        let id = format!("x{round}");
        assert_eq!(nodes.put(a, "agent/service/register", service(&id, "10.0.0.1")).await, 200);
        let path = match round % 3 {
            0 => format!("agent/check/pass/c-{id}"),
            1 => format!("agent/service/maintenance/{id}?enable=true"),
            _ => "session/create".to_owned(),
        };
        if round % 3 == 2 {
            // A session needs checks that are not critical.
            let pass = format!("agent/check/pass/c-{id}");
            assert_eq!(nodes.put(a, &pass, Value::Null).await, 200);
        }
        let body = match round % 3 {
            2 => json!({"Checks": [format!("c-{id}")]}),
            _ => Value::Null,
        };
        assert_eq!(nodes.put(b, &path, body).await, 200, "{round}: {path}");
    }
}

/// There is no order of the two requests in which the service is still there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_registered_during_a_deregistration_does_not_bring_the_service_back() {
    let nodes = Nodes::start().await;
    for round in 0..40 {
        assert_eq!(nodes.put(round, "agent/service/register", service("x", "10.0.0.1")).await, 200);
        let check = json!({"Name": "late", "ServiceID": "x", "TTL": "60s"});
        let (removed, added) = tokio::join!(
            nodes.put(round, "agent/service/deregister/x", Value::Null),
            nodes.put(round, "agent/check/register", check),
        );
        assert_eq!(removed, 200, "{round}: {added}");
        assert_eq!(nodes.listed(round, "s").await, Vec::<Value>::new(), "{round}: {added}");
    }
}

/// A program that holds a lock watches it so. It must not believe that it has the lock when nobody can know.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_consistent_query_ends_on_a_node_that_is_cut_off() {
    let nodes = Nodes::start().await;
    let leader = nodes.dev.leader().await;
    let alone = (leader + 1) % 3;
    assert_eq!(nodes.put(alone, "kv/lock", json!(1)).await, 200);
    let http = &nodes.dev.nodes[alone].http;
    let entry = nodes.get(alone, "kv/lock?consistent").await;
    let index = &entry[0]["ModifyIndex"];
    let ask = |query: &str| {
        let url = format!("{http}/v1/kv/lock?index={index}&wait=50s{query}");
        nodes.dev.client.get(url).bearer_auth(&nodes.token).send()
    };
    let others = [leader, (alone + 1) % 3];
    let cut = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        others.iter().for_each(|other| nodes.dev.signal(*other, Signal::SIGSTOP));
    };
    let (consistent, ()) = tokio::join!(ask("&consistent"), cut);
    others.iter().for_each(|other| nodes.dev.signal(*other, Signal::SIGCONT));
    let consistent = consistent.unwrap();
    assert_eq!(consistent.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(consistent.text().await.unwrap(), "No cluster leader");
}
