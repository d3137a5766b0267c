//! Changes of the cluster that find everything as it was asked for. They succeed, and their records say that nothing was
//! changed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dev::PATIENCE;
use crate::in_process::node;

#[test]
fn a_change_that_changes_nothing_is_recorded_as_such() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path()).await;
        let token = std::fs::read_to_string(dir.path().join("break-glass")).unwrap();
        let token = token.trim();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = |path: &str| format!("http://{}/api/v1/{path}", node.http_addr());
        let items = async |path: &str| -> Vec<Value> {
            let answer = client.get(url(path)).bearer_auth(token).send().await.unwrap();
            let page: Value = answer.json().await.unwrap();
            page["items"].as_array().cloned().unwrap_or_default()
        };
        let started = Instant::now();
        while items("cluster/leadership").await.is_empty() {
            assert!(started.elapsed() < PATIENCE, "no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let before = items("cluster/leadership").await;
        for (path, body, action, ending) in [
            ("cluster/transfer", json!({"to": 1}), "leadership.transfer", ", which led already"),
            (
                "cluster/members/1/promote",
                json!(null),
                "member.promote",
                "1, which had a vote already",
            ),
        ] {
            let request = client.post(url(path)).bearer_auth(token);
            let request = if body.is_null() { request } else { request.json(&body) };
            assert_eq!(request.send().await.unwrap().status(), 200, "{path}");
            let records = items(&format!("audit?action={action}")).await;
            let object = records[0]["object"].as_str().unwrap();
            assert!(object.ends_with(ending), "{object}");
        }
        assert_eq!(items("cluster/leadership").await, before);
        node.stop().await;
    });
}
