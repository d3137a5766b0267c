//! The registered instances as scrape targets of Prometheus.

use crate::support::Server;
use reqwest::Method;
use serde_json::{Value, json};

const TARGETS: &str = "/prometheus/targets";

async fn put(server: &Server, path: &str, body: Value) {
    let (status, answer) = server.json(server.admin(Method::PUT, path).json(&body)).await;
    assert_eq!(status, 200, "{path}: {answer}");
}

/// The targets by the label of their instance, each with its address and its labels.
async fn targets(server: &Server, query: &str) -> Vec<(String, Value, Value)> {
    let groups = server.get(&format!("{TARGETS}{query}")).await;
    let group = |group: &Value| {
        let labels = group["labels"].clone();
        let id = labels["__meta_maxine_instance"].as_str().unwrap().to_owned();
        (id, group["targets"].clone(), labels)
    };
    groups.as_array().unwrap().iter().map(group).collect()
}

async fn ids(server: &Server, query: &str) -> Vec<String> {
    targets(server, query).await.into_iter().map(|(id, ..)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_a_target_with_its_labels() {
    let server = Server::start().await;
    let path = "/services/payments/orders/instances/a";
    let body = json!({
        "address": "https://10.0.0.1/api", "ttl_ms": 60_000, "zone": "eu-1a", "version": "1.4.0",
        "node": "vm-17", "weight": 3, "tags": ["blue", "canary"],
        "metadata": {"team.name": "first", "team-name": "before it in the order of keys",
                     "prometheus.path": "/internal/metrics", "prometheus.port": "9100"},
    });
    put(&server, path, body).await;
    let answer = server.admin(Method::GET, TARGETS).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // Prometheus accepts no other type, and no other parameter than the character set.
    assert_eq!(answer.headers()["content-type"], "application/json");
    let answer: Value = answer.json().await.unwrap();
    let expected = json!([{"targets": ["10.0.0.1:9100"], "labels": {
        "__scheme__": "https", "__metrics_path__": "/internal/metrics",
        "__meta_maxine_namespace": "payments", "__meta_maxine_service": "orders",
        "__meta_maxine_instance": "a", "__meta_maxine_address": "https://10.0.0.1/api",
        "__meta_maxine_scheme": "https", "__meta_maxine_base_path": "/api",
        "__meta_maxine_weight": "3", "__meta_maxine_zone": "eu-1a",
        "__meta_maxine_version": "1.4.0", "__meta_maxine_node": "vm-17",
        "__meta_maxine_health": "healthy", "__meta_maxine_routable": "true",
        "__meta_maxine_drained": "false", "__meta_maxine_tags": ",blue,canary,",
        "__meta_maxine_metadata_team_name": "before it in the order of keys",
        "__meta_maxine_metadata_prometheus_path": "/internal/metrics",
        "__meta_maxine_metadata_prometheus_port": "9100",
    }}]);
    assert_eq!(answer, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn unhealthy_and_drained_instances_stay_targets_until_they_are_deregistered() {
    let server = Server::start().await;
    let base = "/services/default/orders/instances";
    assert_eq!(server.get(TARGETS).await, json!([]));
    let checked = json!({"address": "http://10.0.0.1:80", "ttl_ms": 60_000,
        "checks": [{"id": "own", "ttl_ms": 60_000}]});
    put(&server, &format!("{base}/a"), checked).await;
    server.register("orders", "b", "http://10.0.0.2:80").await;
    let hidden = json!({"address": "http://10.0.0.3:80", "ttl_ms": 60_000,
        "metadata": {"prometheus.scrape": "false"}});
    put(&server, &format!("{base}/c"), hidden).await;
    assert_eq!(ids(&server, "").await, ["a", "b"], "c does not want to be scraped");

    put(&server, &format!("{base}/a/checks/own"), json!({"status": "critical"})).await;
    put(&server, &format!("{base}/b/drain"), json!({"reason": "maintenance"})).await;
    let all = targets(&server, "").await;
    let shown = |labels: &Value| {
        ["health", "drained", "routable"]
            .map(|label| labels[format!("__meta_maxine_{label}")].as_str().unwrap().to_owned())
    };
    assert_eq!(shown(&all[0].2), ["unhealthy", "false", "false"]);
    assert_eq!(shown(&all[1].2), ["healthy", "true", "false"]);

    let path = format!("{base}/a");
    assert_eq!(server.json(server.admin(Method::DELETE, &path)).await.0, 200);
    assert_eq!(ids(&server, "").await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_chosen_by_namespace_service_and_tag() {
    let server = Server::start().await;
    for (namespace, service, id, tags) in [
        ("default", "carts", "a", json!(["blue"])),
        ("default", "orders", "b", json!(["green"])),
        ("payments", "orders", "c", json!(["blue"])),
    ] {
        let path = format!("/services/{namespace}/{service}/instances/{id}");
        put(
            &server,
            &path,
            json!({"address": "http://10.0.0.1:80", "ttl_ms": 60_000, "tags": tags}),
        )
        .await;
    }
    for (query, expected) in [
        ("", &["a", "b", "c"][..]),
        ("?namespace=default", &["a", "b"]),
        ("?service=orders", &["b", "c"]),
        ("?tag=blue", &["a", "c"]),
        ("?namespace=payments&service=orders&tag=blue&consistency=strong", &["c"]),
        ("?tag=blu", &[]),
        ("?namespace=unknown", &[]),
    ] {
        assert_eq!(ids(&server, query).await, expected, "{query}");
    }
    for (query, field) in
        [("?namespace=No_Label", "namespace"), ("?q=orders", "q"), ("?tag=", "tag")]
    {
        let path = format!("{TARGETS}{query}");
        let (status, problem) = server.json(server.admin(Method::GET, &path)).await;
        assert!(status.is_client_error(), "{query}: {problem}");
        assert_eq!(problem["field"], field, "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_need_the_role_that_the_list_of_services_needs() {
    let server = Server::start().await;
    for path in ["/services", TARGETS] {
        let (status, _) = server.json(server.open(Method::GET, path)).await;
        assert_eq!(status, 401, "{path}");
    }
}
