//! Keys, lock sessions, locks and transactions.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

const PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    async fn as_admin(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.admin(method, path);
        let request = if body.is_null() { request } else { request.json(&body) };
        let (status, answer) = self.json(request).await;
        (status.as_u16(), answer)
    }

    async fn put_kv(&self, key: &str, text: &str) -> u64 {
        let path = format!("/kv/{key}");
        let (status, answer) = self.as_admin(Method::PUT, &path, json!({"text": text})).await;
        assert_eq!(status, 200, "{answer}");
        answer["revision"].as_u64().unwrap()
    }

    async fn new_session(&self, body: Value) -> String {
        let (status, answer) = self.as_admin(Method::POST, "/sessions", body).await;
        assert_eq!(status, 201, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_and_changed_under_conditions() {
    let server = Server::start().await;
    let (status, _) = server.as_admin(Method::GET, "/kv/app%2Fa", Value::Null).await;
    assert_eq!(status, 404);
    let revision = server.put_kv("app%2Fa", "one").await;
    let shown = server.get("/kv/app%2Fa").await;
    assert_eq!((&shown["key"], &shown["text"]), (&json!("app/a"), &json!("one")));
    assert_eq!((&shown["revision"], &shown["base64"]), (&json!(revision), &Value::Null));
    assert_eq!(shown["modified_by"], "admin");
    let condition = async |name: &str, value: &str, text: &str| {
        let request = server.admin(Method::PUT, "/kv/app%2Fa").header(name, value);
        server.json(request.json(&json!({"text": text}))).await.0.as_u16()
    };
    assert_eq!(condition("If-None-Match", "*", "two").await, 412);
    assert_eq!(condition("If-Match", "\"1\"", "two").await, 412);
    assert_eq!(condition("If-Match", &format!("\"{revision}\""), "two").await, 200);
    let unchanged = server.admin(Method::GET, "/kv/app%2Fa").send().await.unwrap();
    let tag = unchanged.headers()["etag"].to_str().unwrap().to_owned();
    let request = server.admin(Method::GET, "/kv/app%2Fa").header("If-None-Match", tag);
    assert_eq!(request.send().await.unwrap().status(), 304);
    let body = json!({"base64": "AP8=", "flags": 7});
    let (status, _) = server.as_admin(Method::PUT, "/kv/app%2Fb", body).await;
    assert_eq!(status, 200);
    let binary = server.get("/kv/app%2Fb").await;
    assert_eq!((&binary["text"], &binary["base64"]), (&Value::Null, &json!("AP8=")));
    for (path, body, status) in [
        ("/kv/a", json!({}), 400),
        ("/kv/a", json!({"text": "a", "base64": "dg=="}), 400),
        ("/kv/a", json!({"base64": "%"}), 400),
        ("/kv/a", json!({"text": "x".repeat(524_289)}), 422),
        ("/kv/a%0Ab", json!({"text": ""}), 422),
    ] {
        let (got, answer) = server.as_admin(Method::PUT, path, body).await;
        assert_eq!(got, status, "{path}: {answer}");
    }
    // A value of the maximum length is accepted even if JSON needs six bytes for each of its bytes.
    let body = json!({"text": "\u{1}".repeat(524_288)});
    assert_eq!(server.as_admin(Method::PUT, "/kv/other", body).await.0, 200);
    server.put_kv("other", "x").await;
    let page = server.get("/kv?prefix=app%2F&limit=1").await;
    assert_eq!(page["items"][0]["key"], "app/a");
    assert_eq!(page["items"][0]["text"], Value::Null, "values only on request");
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = server.get(&format!("/kv?prefix=app%2F&values=true&cursor={cursor}")).await;
    assert_eq!((&page["items"][0]["key"], &page["next_cursor"]), (&json!("app/b"), &Value::Null));
    assert_eq!(page["items"][0]["base64"], "AP8=");
    let (deleted, _) = server.as_admin(Method::DELETE, "/kv/app%2Fb", Value::Null).await;
    let (again, _) = server.as_admin(Method::DELETE, "/kv/app%2Fb", Value::Null).await;
    assert_eq!((deleted, again), (200, 404));
    let (swept, _) = server.as_admin(Method::DELETE, "/kv?prefix=", Value::Null).await;
    assert_eq!((swept, &server.get("/kv").await["items"]), (200, &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_its_own_keys() {
    let server = Server::start().await;
    server.put_kv("app%2Fa", "one").await;
    let answer = server.admin(Method::GET, "/kv/none").send().await.unwrap();
    let index = answer.headers()["x-maxine-index"].to_str().unwrap().to_owned();
    let wait = format!("/kv/none?index={index}&wait_ms=60000");
    let short = format!("/kv/none?index={index}&wait_ms=200");
    let woken = server.as_admin(Method::GET, &wait, Value::Null);
    let (woken, ()) = tokio::join!(woken, async {
        server.put_kv("app%2Fa", "two").await;
        let (status, _) = server.as_admin(Method::GET, &short, Value::Null).await;
        assert_eq!(status, 404, "another key changed");
        server.put_kv("none", "now").await;
    });
    assert_eq!((woken.0, &woken.1["text"]), (200, &json!("now")));
    let other = format!("/kv/none?index=0000000000000001-{index}&wait_ms=60000");
    assert_eq!(server.as_admin(Method::GET, &other, Value::Null).await.0, 410);
}

/// A list that waits holds nothing that other lists need, whatever it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_answered_while_others_wait_for_a_change() {
    let server = Server::start().await;
    server.put_kv("app%2Fa", "one").await;
    let index = server.view.index();
    let paths = ["/kv?prefix=none", "/kv?prefix=app%2F", "/sessions?limit=10"];
    let waiting: Vec<_> = (0..12)
        .map(|at| {
            let path = format!("{}&index={index}&wait_ms=60000", paths[at % paths.len()]);
            tokio::spawn(server.admin(Method::GET, &path).send())
        })
        .collect();
    // They have begun to wait when the node counts them as watchers. A list needs a turn that none of them may hold.
    for path in ["/services", "/kv", "/sessions", "/locks", "/users", "/audit"] {
        for _ in 0..3 {
            let listed = server.as_admin(Method::GET, path, Value::Null).await;
            assert_eq!(listed.0, 200, "{path}: {}", listed.1);
        }
    }
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "they wait");
    server.new_session(json!({"name": "one"})).await;
    server.put_kv("app%2Fb", "two").await;
    server.put_kv("none", "three").await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_until_its_session_ends() {
    let server = Server::start().await;
    let one = server.new_session(json!({"name": "one", "ttl_ms": 4_000, "lock_delay_ms": 0})).await;
    let two = server.new_session(json!({"name": "two"})).await;
    let take = async |session: &str| {
        server.as_admin(Method::PUT, "/locks/leader", json!({"session": session})).await
    };
    let (status, taken) = take(&one).await;
    assert_eq!((status, &taken["lock_index"]), (200, &taken["revision"]));
    let (status, held) = take(&two).await;
    assert_eq!(status, 409);
    assert!(held["detail"].as_str().unwrap().contains(&one), "{held}");
    let shown = server.get("/locks/leader").await;
    assert_eq!((&shown["session"], &shown["holder"]), (&json!(one), &json!("one")));
    assert_eq!(server.get("/locks").await["items"].as_array().unwrap().len(), 1);
    let (status, renewed) =
        server.as_admin(Method::POST, &format!("/sessions/{one}/renew"), Value::Null).await;
    assert_eq!((status, &renewed["ttl_ms"]), (200, &json!(4_000)));
    let written = server.view.index();
    // Nobody renews it any more.
    let started = Instant::now();
    while take(&two).await.0 != 200 {
        assert!(started.elapsed() < PATIENCE, "the session does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lost = server.as_admin(Method::POST, &format!("/sessions/{one}/renew"), Value::Null).await;
    assert_eq!(lost.0, 404, "it must not come back");
    assert!(server.view.index() > written);
    let shown = server.get("/locks/leader").await;
    assert_eq!(&shown["holder"], &json!("two"));
    assert!(shown["lock_index"].as_u64() > taken["lock_index"].as_u64(), "{shown}");
    let release = |session: &str| format!("/locks/leader?session={session}");
    assert_eq!(server.as_admin(Method::DELETE, &release(&one), Value::Null).await.0, 409);
    assert_eq!(server.as_admin(Method::DELETE, &release(&two), Value::Null).await.0, 200);
    let session = server.get(&format!("/sessions/{two}")).await;
    assert_eq!((&session["locks_len"], &session["created_by"]), (&json!(0), &json!("admin")));
    take(&two).await;
    let path = format!("/sessions/{two}");
    assert_eq!(server.as_admin(Method::DELETE, &path, Value::Null).await.0, 200);
    assert_eq!(server.as_admin(Method::DELETE, &path, Value::Null).await.0, 404);
    let shown = server.get("/locks/leader").await;
    assert_eq!((&shown["session"], &shown["delayed"]), (&Value::Null, &json!(true)));
    let three = server.new_session(Value::Null).await;
    let (status, delayed) = take(&three).await;
    assert_eq!(status, 409);
    assert!(delayed["detail"].as_str().unwrap().contains("lock delay"), "{delayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_never_enter_the_log_and_keep_a_session() {
    let server = Server::start().await;
    let id = server.new_session(json!({"ttl_ms": 1_500})).await;
    let written = server.view.index();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(3_500) {
        let path = format!("/sessions/{id}/renew");
        assert_eq!(server.as_admin(Method::POST, &path, Value::Null).await.0, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(server.view.index(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_names_the_operation_that_failed() {
    let server = Server::start().await;
    let revision = server.put_kv("a", "1").await;
    let run = async |operations: Value| {
        let body = json!({"operations": operations});
        server.as_admin(Method::POST, "/transactions", body).await
    };
    let put = |key: &str, revision: Option<u64>| json!({"verb": "put", "key": key, "text": "2", "revision": revision});
    let (status, refused) = run(json!([put("b", Some(0)), put("a", Some(revision + 1))])).await;
    assert_eq!(status, 412);
    assert!(refused["detail"].as_str().unwrap().starts_with("operation 1: "), "{refused}");
    assert_eq!(server.get("/kv").await["items"].as_array().unwrap().len(), 1);
    let check = json!({"verb": "check_revision", "key": "c", "revision": 0});
    let (status, done) = run(json!([check, put("b", Some(0)), put("a", Some(revision))])).await;
    assert_eq!((status, &done["results"][0]), (200, &Value::Null), "{done}");
    assert_eq!(done["results"][1]["revision"], done["results"][2]["revision"], "one change");
    let unknown =
        json!([{"verb": "lock", "key": "a", "session": "00000000-0000-4000-8000-000000000000"}]);
    assert_eq!(run(unknown).await.0, 404);
    assert_eq!(run(json!([{"verb": "lock", "key": "a"}])).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_would_be_ignored_is_refused() {
    let server = Server::start().await;
    let revision = server.put_kv("a", "1").await;
    let session = server.new_session(json!({"ttl_ms": 60_000})).await;
    for (operation, field) in [
        (json!({"verb": "put", "key": "a", "text": "2", "revision": null}), None),
        (json!({"verb": "delete", "key": "a", "revision": null}), None),
        (json!({"verb": "put", "key": "a", "text": "2", "session": session}), Some("session")),
        (json!({"verb": "lock", "key": "a", "session": session, "revision": 0}), Some("revision")),
        (json!({"verb": "lock", "key": "a", "session": session, "flags": 1}), Some("flags")),
        (json!({"verb": "delete_tree", "key": "a", "revision": revision}), Some("revision")),
        (
            json!({"verb": "check_session", "key": "a", "session": session, "text": "2"}),
            Some("text"),
        ),
    ] {
        let body = json!({"operations": [operation]});
        let (status, refused) = server.as_admin(Method::POST, "/transactions", body.clone()).await;
        assert_eq!(status, 400, "{body}: {refused}");
        if let Some(field) = field {
            assert_eq!(refused["field"], field, "{refused}");
        }
    }
    assert_eq!(server.get("/kv/a").await["revision"], revision);
}

/// Reading keys needs a viewer and changing them an operator, also where registration and discovery are open. Values
/// appear neither in watches nor in the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn keys_need_a_token_and_values_are_shown_to_readers_only() {
    let server = Server::start().await;
    let revision = server.put_kv("secret", "the value").await;
    for (method, path) in [
        (Method::GET, "/kv/secret"),
        (Method::GET, "/locks"),
        (Method::GET, "/sessions"),
        (Method::PUT, "/kv/secret"),
        (Method::POST, "/sessions"),
        (Method::POST, "/transactions"),
    ] {
        let (status, _) = server.json(server.open(method, path).json(&json!({}))).await;
        assert_eq!(status, 401, "{path}");
    }
    let body = json!({"role": "viewer"});
    let viewer = server.as_admin(Method::POST, "/tokens", body).await.1["token"].clone();
    let viewer = viewer.as_str().unwrap();
    let read = server.open(Method::GET, "/kv/secret").bearer_auth(viewer);
    assert_eq!(server.json(read).await.1["text"], "the value");
    let write = server.open(Method::PUT, "/kv/secret").bearer_auth(viewer);
    assert_eq!(server.json(write.json(&json!({"text": "x"}))).await.0, 403);
    let changes = server.get(&format!("/changes?index={}&wait_ms=0", revision - 1)).await;
    let change = &changes["changes"][0];
    assert_eq!((&change["type"], &change["keys"]), (&json!("kv_changed"), &json!(["secret"])));
    assert!(!changes.to_string().contains("the value"), "{changes}");
    let records = server.get("/audit?action=kv.put").await;
    assert_eq!(records["items"][0]["object"], "secret", "{records}");
    assert!(!records.to_string().contains("the value"), "{records}");
}
