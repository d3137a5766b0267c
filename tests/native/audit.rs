//! The audit log: queries, its proof, and what the verifier finds in a log that was tampered with.

use maxine::cli::audit::{Finding, verify};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

async fn with_history() -> (Server, String) {
    let server = Server::start().await;
    for n in 0..5 {
        server.register("orders", &format!("i{n}"), "http://h:1").await;
    }
    let drain = server.admin(Method::PUT, "/services/default/orders/instances/i0/drain");
    server.json(drain.header("x-trace-id", "trace-7").json(&json!({"reason": "r"}))).await;
    let export = server.admin(Method::GET, "/audit/export").send().await.expect("an answer");
    assert_eq!(export.status(), 200);
    let text = export.text().await.expect("text");
    (server, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_did_what_with_which_result() {
    let (server, _) = with_history().await;
    let audit = server.get("/audit?action=instance.drain").await;
    let record = &audit["items"][0];
    assert_eq!(record["object"], "default/orders/i0");
    assert_eq!(record["outcome"], "success");
    assert_eq!(record["address"], "127.0.0.1");
    assert_eq!(record["trace_id"], "trace-7");
    assert_eq!(record["user"], server.password.0);
    let first = server.get("/audit?action=instance.register&limit=2").await;
    assert_eq!(first["items"][0]["object"], "default/orders/i4", "newest first");
    let cursor = first["next_cursor"].as_str().unwrap();
    let next =
        server.get(&format!("/audit?action=instance.register&limit=2&cursor={cursor}")).await;
    assert_eq!(next["items"][0]["object"], "default/orders/i2");
    let leader = server.get("/cluster/leadership").await;
    assert_eq!(leader["items"][0]["holder"], "node-1");
    let proof = server.get("/audit/verify").await;
    assert_eq!((&proof["ok"], &proof["first_bad_seq"]), (&json!(true), &Value::Null));
}

/// The newest record of an action, as soon as there is one: it is on its way beside the answer.
async fn recorded(server: &Server, action: &str) -> Value {
    let mut changes = server.view.index_changes();
    let found = async {
        loop {
            let audit = server.get(&format!("/audit?action={action}&limit=1")).await;
            if let Some(record) = audit["items"].get(0) {
                return record.clone();
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), found).await.expect("a record")
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_recorded_with_who_tried_what() {
    let server = Server::start().await;
    let viewer = json!({"role": "viewer", "password": "long enough"});
    server.json(server.admin(Method::PUT, "/users/eve").json(&viewer)).await;
    let eve = server.sign_in("eve", "long enough").await;
    // Neither is a refusal that says something of anyone.
    assert_eq!(server.json(server.open(Method::GET, "/config")).await.0, 401);
    let change = server.open(Method::PUT, "/config").bearer_auth(&eve).json(&json!({}));
    let (status, problem) = server.json(change.header("x-trace-id", "tried")).await;
    assert_eq!((status.as_u16(), &problem["type"]), (403, &json!("/problems/forbidden")));
    assert_eq!(problem["detail"], "the route needs the role operator");
    let record = recorded(&server, "request.authorize").await;
    assert_eq!((&record["user"], &record["outcome"]), (&json!("eve"), &json!("refused")));
    assert_eq!(record["object"], "PUT /api/v1/config");
    assert_eq!((&record["address"], &record["trace_id"]), (&json!("127.0.0.1"), &json!("tried")));

    let forged = server.open(Method::GET, "/config?x=secret").bearer_auth(format!("{eve}x"));
    assert_eq!(server.json(forged).await.0, 401);
    let of_nobody = async {
        while server.get("/audit?action=request.authorize").await["items"][0]["user"] != "" {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), of_nobody).await.expect("a record");
    let all = server.get("/audit?action=request.authorize").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 2, "{all}");
    assert_eq!(all["items"][0]["object"], "GET /api/v1/config", "no query: it may hold secrets");
    assert!(!all.to_string().contains(&eve), "no token is written down");
    assert_eq!(server.get("/audit/verify").await["ok"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_removed_or_reordered_record_is_found() {
    let (_server, export) = with_history().await;
    let lines: Vec<&str> = export.lines().collect();
    let log = verify(&export).unwrap();
    assert_eq!(log.hashes.len(), lines.len() - 1);
    let first = log.first_seq;

    let changed = export.replacen("default/orders/i1", "default/orders/i9", 1);
    assert!(matches!(verify(&changed), Err(Finding::Changed { .. })));
    let mut removed = lines.clone();
    removed.remove(2);
    let finding = Finding::OutOfOrder { expected: first + 1, got: first + 2 };
    assert_eq!(verify(&removed.join("\n")).unwrap_err(), finding);
    let mut reordered = lines.clone();
    reordered.swap(2, 3);
    assert!(matches!(verify(&reordered.join("\n")), Err(Finding::OutOfOrder { .. })));
    let truncated = lines[..lines.len() - 1].join("\n");
    assert!(matches!(verify(&truncated), Err(Finding::Truncated { .. })));
    assert!(matches!(verify("{}"), Err(Finding::Unreadable { line: 1, .. })));
    assert!(matches!(verify(""), Err(Finding::Unreadable { .. })));

    // The same history on another node agrees as far as both go.
    let shorter = maxine::cli::audit::Verified {
        first_seq: first,
        base: log.base,
        hashes: log.hashes[..3].to_vec(),
    };
    assert_eq!(log.first_difference(&shorter), None);
    let mut other = shorter.hashes.clone();
    other[1] = [7; 32];
    let other = maxine::cli::audit::Verified { first_seq: first, base: log.base, hashes: other };
    assert_eq!(log.first_difference(&other), Some(first + 1));
}
