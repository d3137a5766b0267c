//! Long lists are compressed for clients that accept it, except those that may have secrets.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

/// Whether the list came compressed, and the list.
async fn listed(server: &Server, path: &str, accepted: &str) -> (bool, Value) {
    let request = server.admin(Method::GET, path).header("accept-encoding", accepted);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    let is_packed = answer.headers().get("content-encoding").is_some_and(|name| name == "gzip");
    let body = answer.bytes().await.unwrap();
    let mut text = Vec::new();
    match is_packed {
        true => _ = GzDecoder::new(&body[..]).read_to_end(&mut text).unwrap(),
        false => text.extend_from_slice(&body),
    }
    (is_packed, serde_json::from_slice(&text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_compressed_unless_it_may_have_secrets() {
    const INSTANCES: &str = "/services/default/orders/instances";
    let server = Server::start().await;
    for n in 0..20 {
        server.register("orders", &format!("instance-{n}"), "http://h:1").await;
        server.register(&format!("service-{n}"), "a", "http://h:1").await;
    }
    for path in ["/services", INSTANCES, "/instances?q=instance", "/audit"] {
        let (is_packed, list) = listed(&server, path, "br, gzip;q=0.5").await;
        assert!(is_packed, "{path}");
        let (is_packed, plain) = listed(&server, path, "gzip;q=0").await;
        assert!(!is_packed, "{path}");
        let len = |list: &Value| list["items"].as_array().unwrap().len();
        assert_eq!(len(&list), len(&plain), "{path}");
        assert!(len(&list) >= 20, "{path}");
    }
    // Who registers instances beside a secret could guess it from the length of the compressed list.
    let probe = json!({"kind": "http", "path": "/", "headers": [["x-key", "s3cret"]]});
    let body = json!({"address": "http://h:1", "ttl_ms": 60_000, "probe": probe});
    let put = server.admin(Method::PUT, &format!("{INSTANCES}/with-a-key")).json(&body);
    assert_eq!(put.send().await.unwrap().status(), 200);
    for path in [INSTANCES, "/instances?q=with-a-key"] {
        let (is_packed, list) = listed(&server, path, "gzip").await;
        assert!(!is_packed && list.to_string().contains("s3cret"), "{path}: {list}");
    }
}
