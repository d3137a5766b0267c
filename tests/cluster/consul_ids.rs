//! Ids of Consul that several nodes of a cluster accept at the same time.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::dev::Dev;

/// Each node sees the others' registrations too late to refuse them. Without care, several stay forever, or none does.
#[tokio::test(flavor = "multi_thread")]
async fn one_id_that_is_registered_under_three_names_at_once_is_one_service() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(dir.path(), &[], &[("MAXINE_CONSUL_ON_HTTP", "true")]);
    for node in 0..3 {
        dev.wait_ready(node).await;
    }
    let names = ["one", "two", "three"];
    let registered = async |node: usize, round: u16| {
        let url = format!("{}/v1/agent/service/register", dev.nodes[node].http);
        let body = json!({"ID": "x", "Name": names[node], "Address": "10.0.0.1", "Port": round});
        let answer = dev.client.put(url).body(body.to_string()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
    };
    let listed = async |node: usize| {
        let mut ports = Vec::new();
        for name in names {
            let url = format!("{}/v1/catalog/service/{name}?consistent", dev.nodes[node].http);
            let answer = dev.client.get(url).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let found: Value = answer.json().await.unwrap();
            ports.extend(found.as_array().unwrap().iter().map(|one| one["ServicePort"].clone()));
        }
        ports
    };
    for round in 1..=20 {
        tokio::join!(registered(0, round), registered(1, round), registered(2, round));
        assert_eq!(listed(usize::from(round) % 3).await, [json!(round)]);
    }
    let url = format!("{}/v1/agent/service/deregister/x", dev.nodes[0].http);
    assert_eq!(dev.client.put(url).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(listed(1).await, Vec::<Value>::new());
}
