//! Keys, lock sessions and transactions through the API of Consul.

use serde_json::{Value, json};

use super::{Answer, Server, run, until};

impl Server {
    /// A write of an administrator, with any bytes.
    async fn put_raw(&self, path: &str, body: &'static [u8]) -> Answer {
        let request = self.client.put(format!("{}{path}", self.url)).body(body);
        self.ask(request.header("X-Consul-Token", &self.token)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        let request = self.client.delete(format!("{}{path}", self.url));
        self.ask(request.header("X-Consul-Token", &self.token)).await
    }

    async fn session(&self, body: Value) -> String {
        let answer = self.put_known("session/create", body).await;
        answer.body["ID"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
    }

    /// Whether a change of a key was carried out.
    async fn put_if(&self, path: &str) -> bool {
        let answer = self.put_raw(path, b"v").await;
        answer.body.as_bool().unwrap_or_else(|| panic!("{} {}", answer.status, answer.text()))
    }
}

/// A name that is not UTF-8 must not stand for another key.
#[test]
fn keys_that_are_not_utf8_and_times_that_are_too_short_are_refused() {
    run(async {
        let server = Server::start(|_| {}).await;
        assert_eq!(server.put_raw("kv/x%ff", b"one").await.status, 400);
        assert_eq!(server.get_known("kv/x%fe").await.status, 400);
        assert_eq!(server.delete("kv/x%fd").await.status, 400);
        assert_eq!(server.get_known("kv/x?dc=%ff").await.status, 400);
        // A time to live that is rounded to nothing would make a session that never ends.
        for ttl in [json!(15), json!(30_000), json!("1ns"), json!("0.5ms"), json!("1ms")] {
            let refused = server.put_known("session/create", json!({"TTL": ttl})).await;
            assert_eq!(refused.status, 400, "{ttl}: {}", refused.body);
        }
        for verb in ["lock", "unlock", "check-session"] {
            let op = json!([{"KV": {"Verb": verb, "Key": "a", "Session": "nosuch"}}]);
            let refused = server.put_known("txn", op).await;
            assert_eq!(
                (refused.status, &refused.body["Errors"][0]["OpIndex"]),
                (409, &json!(0)),
                "{verb}: {}",
                refused.body
            );
        }
        server.node.stop().await;
    });
}

#[test]
fn keys_are_read_written_and_deleted_as_in_consul() {
    run(async {
        let server = Server::start(|_| {}).await;
        let none = server.get_known("kv/app/a").await;
        assert_eq!((none.status, none.text()), (404, ""));
        assert!(none.index() >= 1);
        assert!(server.put_if("kv/app/a?flags=42&cas=0").await);
        assert!(!server.put_if("kv/app/a?cas=0").await, "it exists");
        let shown = server.get_known("kv/app%2Fa").await;
        let entry = &shown.body[0];
        assert_eq!((&entry["Key"], &entry["Value"]), (&json!("app/a"), &json!("dg==")));
        assert_eq!((&entry["Flags"], &entry["LockIndex"]), (&json!(42), &json!(0)));
        assert_eq!(entry["ModifyIndex"], shown.index());
        assert!(entry.get("Session").is_none(), "{entry}");
        // Not only text, and nothing at all.
        assert_eq!(server.put_raw("kv/app/b", &[0, 255]).await.body, true);
        assert_eq!(server.get_known("kv/app/b").await.body[0]["Value"], "AP8=");
        assert_eq!(server.put_raw("kv/app/c", b"").await.body, true);
        assert_eq!(server.get_known("kv/app/c").await.body[0]["Value"], Value::Null);
        let raw = server.get_known("kv/app/a?raw").await;
        assert_eq!((raw.text(), raw.header("x-content-type-options")), ("v", "nosniff"));
        assert!(server.put_if("kv/apq").await);
        assert_eq!(server.get_known("kv/app/?recurse").await.len(), 3);
        assert_eq!(server.get_known("kv/none?recurse").await.status, 404);
        let names = server.get_known("kv/?keys&separator=/").await;
        assert_eq!(names.body, json!(["app/", "apq"]));
        let below = server.get_known("kv/app/?keys").await;
        assert_eq!(below.body, json!(["app/a", "app/b", "app/c"]));
        let modified = entry["ModifyIndex"].as_u64().unwrap();
        assert_eq!(server.delete(&format!("kv/app/a?cas={}", modified + 1)).await.body, false);
        assert_eq!(server.delete(&format!("kv/app/a?cas={modified}")).await.body, true);
        assert_eq!(server.delete("kv/app/a").await.body, true, "also when it is absent");
        assert_eq!(server.delete("kv/app/?recurse").await.body, true);
        assert_eq!(server.get_known("kv/?keys").await.body, json!(["apq"]));
        assert_eq!(server.delete("kv/?recurse").await.body, true);
        assert_eq!(server.get_known("kv/?keys").await.body, json!([]));
        // Requests that Consul refuses, too.
        for (path, status, why) in [
            ("kv/", 400, "Missing key name"),
            ("kv/a?cas=1&acquire=x", 400, "Conflicting flags"),
            ("kv/a?flags=x", 400, "Invalid flags"),
            ("kv/a?acquire=x", 500, "invalid session \"x\""),
            // An empty condition is not the same as none.
            ("kv/a?acquire=", 500, "invalid session \"\""),
            ("kv/a?release", 500, "invalid session \"\""),
            ("kv/a?cas=", 400, "Invalid cas value"),
            ("kv/a?ns=team", 400, "keys have no namespaces"),
        ] {
            let refused = server.put_raw(path, b"v").await;
            assert_eq!(refused.status, status, "{path}");
            assert!(refused.text().contains(why), "{path}: {}", refused.text());
        }
        let long = server.client.put(format!("{}kv/long", server.url)).body(vec![b'x'; 524_289]);
        assert_eq!(server.ask(long.bearer_auth(&server.token)).await.status, 413);
        let long = server.client.put(format!("{}kv/long", server.url)).body(vec![b'x'; 524_288]);
        assert_eq!(server.ask(long.bearer_auth(&server.token)).await.body, true);
        // Without a token there are no keys, although registration and discovery are open.
        for path in ["kv/long", "session/list"] {
            assert_eq!(server.get(path).await.status, 403, "{path}");
        }
        assert_eq!(server.put("session/create", Value::Null).await.status, 403);
        server.node.stop().await;
    });
}

#[test]
fn a_blocking_read_wakes_for_its_keys_and_for_nothing_else() {
    run(async {
        let server = Server::start(|_| {}).await;
        assert!(server.put_if("kv/app/a").await);
        // A key that does not exist has the index of all keys.
        for path in ["kv/none/?recurse&index=1", "kv/none?index=1"] {
            let absent = server.get_known(path).await;
            assert_eq!(absent.status, 404, "{path}");
            assert!(absent.index() > 1, "it does not wait: {path}");
        }
        let index = server.get_known("kv/app/?recurse").await.index();
        let path = format!("kv/app/?recurse&index={index}&wait=60s");
        let short = format!("kv/app/?recurse&index={index}&wait=300ms");
        let (woken, ()) = tokio::join!(server.get_known(&path), async {
            assert!(server.put_if("kv/other").await);
            server.register_something().await;
            let unchanged = server.get_known(&short).await;
            assert_eq!(unchanged.index(), index, "foreign changes do not raise the index");
            assert_eq!(server.delete("kv/app/a").await.body, true);
        });
        assert_eq!(woken.status, 404, "the last key below the prefix was deleted");
        assert!(woken.index() > index);
        // A key that does not exist can be awaited.
        let index = server.get_known("kv/next").await.index();
        let path = format!("kv/next?index={index}&wait=60s");
        let (woken, put) = tokio::join!(server.get_known(&path), server.put_if("kv/next"));
        assert!(put && woken.body[0]["Key"] == "next", "{}", woken.body);
        server.node.stop().await;
    });
}

impl Server {
    async fn register_something(&self) {
        self.register(json!({"Name": "web", "Address": "10.0.0.9", "Port": 80})).await;
    }
}

#[test]
fn a_session_holds_locks_until_it_ends() {
    run(async {
        let server = Server::start(|_| {}).await;
        let one = server.session(json!({"Name": "one", "TTL": "10s", "LockDelay": "0s"})).await;
        let two = server.session(json!({"Name": "two", "Behavior": "delete"})).await;
        let acquire =
            async |session: &str| server.put_if(&format!("kv/lock?acquire={session}")).await;
        assert!(acquire(&one).await && acquire(&one).await && !acquire(&two).await);
        let held = server.get_known("kv/lock").await;
        let entry = &held.body[0];
        assert_eq!((&entry["Session"], &entry["LockIndex"]), (&json!(one), &entry["ModifyIndex"]));
        assert!(!server.put_if(&format!("kv/lock?release={two}")).await);
        assert!(server.put_if(&format!("kv/lock?release={one}")).await);
        assert!(acquire(&two).await, "released by its holder, so there is no delay");
        let renewed = server.put_known(&format!("session/renew/{one}"), Value::Null).await;
        assert_eq!((renewed.status, &renewed.body[0]["TTL"]), (200, &json!("10s")));
        let list = server.get_known("session/list").await;
        assert_eq!(list.len(), 2);
        let info = server.get_known(&format!("session/info/{two}")).await;
        let info = &info.body[0];
        assert_eq!(
            (&info["Behavior"], &info["LockDelay"]),
            (&json!("delete"), &json!(15e9 as u64))
        );
        let node = info["Node"].as_str().unwrap();
        assert_eq!(server.get_known(&format!("session/node/{node}")).await.len(), 2);
        // Its end deletes the key, wakes its readers, and begins the lock delay.
        let index = server.get_known("kv/lock").await.index();
        let path = format!("kv/lock?index={index}&wait=60s");
        let destroy = format!("session/destroy/{two}");
        let destroy = server.put_known(&destroy, Value::Null);
        let (woken, destroyed) = tokio::join!(server.get_known(&path), destroy);
        assert_eq!((woken.status, destroyed.body), (404, json!(true)));
        assert!(!acquire(&one).await, "its lock delay is not over");
        let again = server.put_known(&format!("session/destroy/{two}"), Value::Null).await;
        assert_eq!(again.body, true, "also when it is gone");
        let gone = server.put_known(&format!("session/renew/{two}"), Value::Null).await;
        assert_eq!(gone.status, 404);
        assert_eq!(gone.text(), format!("Session id '{two}' not found"));
        assert_eq!(server.get_known(&format!("session/info/{two}")).await.body, json!([]));
        let refused = server.put_raw(&format!("kv/lock?acquire={two}"), b"v").await;
        assert_eq!(refused.status, 500);
        assert_eq!(refused.text(), format!("invalid session {two:?}"));
        // A check that fails ends the session.
        let check = json!({"TTL": "600s", "Status": "passing"});
        server.register(json!({"Name": "web", "Port": 80, "Check": check})).await;
        let bound = json!({"ServiceChecks": [{"ID": "service:web"}], "LockDelay": "0s"});
        let bound = server.session(bound).await;
        assert!(server.put_if(&format!("kv/bound?acquire={bound}")).await);
        server.put("agent/check/fail/service:web", Value::Null).await;
        let freed = server.get_known("kv/bound").await;
        assert!(freed.body[0].get("Session").is_none(), "{}", freed.body);
        let missing = server.put_known("session/create", json!({"Checks": ["none"]})).await;
        assert_eq!(missing.status, 400, "{}", missing.text());
        server.node.stop().await;
    });
}

#[test]
fn a_transaction_is_carried_out_whole_or_not_at_all() {
    run(async {
        let server = Server::start(|_| {}).await;
        let kv = |verb: &str, key: &str| json!({"KV": {"Verb": verb, "Key": key, "Value": "dg=="}});
        let done = server
            .put_known("txn", json!([kv("check-not-exists", "a"), kv("set", "a"), kv("get", "a")]))
            .await;
        assert_eq!(done.status, 200, "{}", done.text());
        let results = done.body["Results"].as_array().unwrap();
        let values: Vec<_> = results.iter().map(|result| &result["KV"]["Value"]).collect();
        assert_eq!(values, [&Value::Null, &json!("dg==")], "only a read shows its value");
        let index = results[0]["KV"]["ModifyIndex"].as_u64().unwrap();
        let mut failing = json!([kv("set", "b"), kv("check-index", "a"), kv("set", "c")]);
        failing[1]["KV"]["Index"] = json!(index + 1);
        let refused = server.put_known("txn", failing.clone()).await;
        assert_eq!(refused.status, 409);
        assert_eq!(refused.body["Results"], Value::Null);
        assert_eq!(refused.body["Errors"][0]["OpIndex"], 1);
        assert_eq!(server.get_known("kv/?keys").await.body, json!(["a"]), "nothing was applied");
        failing[1]["KV"]["Index"] = json!(index);
        assert_eq!(server.put_known("txn", failing).await.status, 200);
        let before = server.written();
        let reads = json!([kv("get-tree", ""), kv("get-or-empty", "none"), kv("get", "a")]);
        let read = server.put_known("txn", reads).await;
        let keys: Vec<_> = read.body["Results"].as_array().unwrap().iter().collect();
        let keys: Vec<_> =
            keys.iter().map(|result| result["KV"]["Key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["a", "b", "c", "none", "a"]);
        assert_eq!(server.written(), before, "reads do not enter the log");
        assert_eq!(server.put_known("txn", json!([kv("get", "none")])).await.status, 409);
        let swept = json!([kv("delete", "a"), kv("delete-tree", ""), kv("get-or-empty", "b")]);
        assert_eq!(
            server.put_known("txn", swept).await.body["Results"].as_array().unwrap().len(),
            1
        );
        assert_eq!(server.get_known("kv/?keys").await.body, json!([]));
        let many: Vec<Value> = (0..129).map(|_| kv("get", "a")).collect();
        assert_eq!(server.put_known("txn", many.into()).await.status, 413);
        // What one answer may hold is limited, however often a value is asked for.
        static VALUE: [u8; 512 * 1_024] = [b'v'; 512 * 1_024];
        assert_eq!(server.put_raw("kv/big/a", &VALUE).await.body, true);
        assert_eq!(server.put_raw("kv/big/b", &VALUE).await.body, true);
        let trees = |n| -> Value { (0..n).map(|_| kv("get-tree", "big/")).collect() };
        assert_eq!(server.put_known("txn", trees(2)).await.status, 200);
        let refused = server.put_known("txn", trees(70)).await;
        assert_eq!(refused.status, 413, "{}", refused.text().len());
        let service = json!([{"Service": {"Verb": "get", "Service": {"ID": "a"}}}]);
        assert_eq!(server.put_known("txn", service).await.status, 400);
        server.node.stop().await;
    });
}

#[test]
fn keys_sessions_and_lock_delays_survive_a_restart() {
    run(async {
        let server = Server::start(|_| {}).await;
        let one = server.session(json!({"TTL": "600s", "LockDelay": "60s"})).await;
        let two = server.session(json!({})).await;
        assert!(server.put_if(&format!("kv/held?acquire={one}")).await);
        assert!(server.put_if(&format!("kv/delayed?acquire={two}")).await);
        server.put_known(&format!("session/destroy/{two}"), Value::Null).await;
        let server = server.restart().await;
        until("it serves its state", async || server.get_known("kv/held").await.status == 200)
            .await;
        let held = server.get_known("kv/held").await;
        assert_eq!(held.body[0]["Session"], json!(one));
        until("it leads", async || {
            server.put_known(&format!("session/renew/{one}"), Value::Null).await.status == 200
        })
        .await;
        assert!(!server.put_if(&format!("kv/delayed?acquire={one}")).await, "the delay is kept");
        server.node.stop().await;
    });
}
