//! The native API over a real listening server: registration, lists, conditions, errors, access.

use crate::support::Server;
use maxine_api::ApiSettings;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_registered_listed_resolved_and_taken_out() {
    let server = Server::start().await;
    let path = "/services/default/orders/instances/a";
    let body = json!({
        "address": "http://10.0.0.1:8080", "weight": 3, "ttl_ms": 60_000, "zone": "eu-1a",
        "version": "1.4.0", "tags": ["blue"], "metadata": {"owner": "payments"},
        "probe": {"kind": "http", "path": "/healthz"},
    });
    let (status, first) = server.json(server.open(Method::PUT, path).json(&body)).await;
    assert_eq!(status, 200, "{first}");
    // The same registration again is a heartbeat, so the lease stays.
    let (status, again) = server.json(server.open(Method::PUT, path).json(&body)).await;
    assert_eq!((status.as_u16(), &again["lease_epoch"]), (200, &first["lease_epoch"]));

    let (status, shown) = server.json(server.admin(Method::GET, path)).await;
    assert_eq!(status, 200);
    assert_eq!(shown["metadata"], json!({"owner": "payments"}));
    assert_eq!(shown["routable"], true);
    assert_eq!(shown["drain"], Value::Null);
    assert_eq!(shown["probe"]["path"], "/healthz");

    let services = server.get("/services?q=RDER&health=healthy").await;
    assert_eq!(services["items"][0]["name"], "orders");
    assert_eq!(services["items"][0]["routable"], 1);
    assert_eq!(server.get("/namespaces").await["items"][0]["name"], "default");

    let resolve = server.open(Method::GET, "/resolve/default/orders?path=/x%3Fa=1");
    let (status, resolved) = server.json(resolve).await;
    assert_eq!((status.as_u16(), &resolved["url"]), (200, &json!("http://10.0.0.1:8080/x?a=1")));
    let redirect = server.open(Method::GET, "/resolve/default/orders?redirect=1&path=/x");
    let answer = redirect.send().await.unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.headers()["location"], "http://10.0.0.1:8080/x");

    let beat = server.open(Method::POST, &format!("{path}/heartbeat"));
    assert_eq!(beat.send().await.unwrap().status(), 204);
    let (status, gone) = server.json(server.open(Method::DELETE, path)).await;
    assert_eq!((status.as_u16(), &gone["removed"]), (200, &json!(true)));
    let beat = server.open(Method::POST, &format!("{path}/heartbeat"));
    assert_eq!(beat.send().await.unwrap().status(), 404);
    let (status, problem) = server.json(server.open(Method::GET, path)).await;
    assert_eq!((status.as_u16(), &problem["type"]), (404, &json!("/problems/not-found")));
}

/// A caller that may register any address must not choose what a probe requests there, or read its answer.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_a_probe_is_a_path_and_its_outcome_is_not_shown() {
    let server = Server::start().await;
    let path = "/services/default/orders/instances/a";
    let body =
        |probe: Value| json!({"address": "http://10.0.0.1:8080", "ttl_ms": 60_000, "probe": probe});
    for probe in [
        json!({"kind": "http", "path": "/", "method": "DELETE"}),
        json!({"kind": "http", "path": "/", "headers": [["Host", "admin.internal"]]}),
        json!({"kind": "http", "path": "/", "headers": [["Authorization", "Basic eDp5"]]}),
        json!({"kind": "http", "path": "/", "expected_body": "root:"}),
        json!({"kind": "http", "path": "/", "expected_statuses": [200]}),
        json!({"kind": "http", "path": "/", "interval_ms": 100}),
        json!({"kind": "http", "path": "/", "timeout_ms": 5_001}),
        json!({"kind": "tcp"}),
        json!({"kind": "grpc"}),
    ] {
        let body = body(probe);
        let (status, problem) = server.json(server.open(Method::PUT, path).json(&body)).await;
        assert_eq!((status.as_u16(), &problem["field"]), (401, &json!("probe")), "{problem}");
        let mut item = body.clone();
        item["service"] = json!("orders");
        item["id"] = json!("a");
        let batch = server.open(Method::POST, "/registrations").json(&json!({"items": [item]}));
        let (status, answer) = server.json(batch).await;
        assert_eq!(
            (status.as_u16(), &answer["results"][0]["problem"]["status"]),
            (200, &json!(401))
        );
        let (status, answer) = server.json(server.admin(Method::PUT, path).json(&body)).await;
        assert_eq!(status, 200, "{answer}");
    }
    let plain = body(json!({"kind": "http", "path": "/healthz"}));
    let (status, registered) = server.json(server.open(Method::PUT, path).json(&plain)).await;
    assert_eq!(status, 200, "{registered}");
    let index = registered["index"].as_u64().unwrap();
    let verdict = maxine_state::Health {
        readiness: maxine_state::Readiness::NotReady,
        reason: "status 401 (seen by node-1)".into(),
        ..Default::default()
    };
    set_health(&server, verdict).await;
    let changes = format!("/changes?service=orders&index={index}");
    for (known, reason) in [(true, "status 401 (seen by node-1)"), (false, "")] {
        let ask = |path: &str| match known {
            true => server.admin(Method::GET, path),
            false => server.open(Method::GET, path),
        };
        let (_, one) = server.json(ask(path)).await;
        let (_, list) = server.json(ask("/services/default/orders/instances")).await;
        let (_, changes) = server.json(ask(&changes)).await;
        for shown in [&one, &list["items"][0], &changes["changes"][0]["data"]] {
            assert_eq!(shown["health"]["reason"], reason, "{shown}");
            assert_eq!(shown["health"]["readiness"], "not_ready");
            assert_eq!(shown["probe"].is_null(), !known, "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_one_address_are_bounded_and_some_places_are_for_the_known() {
    let limits = maxine_admission::PlaceLimits { max: 6, per_address_max: 3, reserved: 2 };
    let settings = maxine_api::ApiSettings { watchers: limits, ..Default::default() };
    let server = Server::start_with(settings).await;
    let watch = "/watch?service=orders";
    let mut held = Vec::new();
    for _ in 0..3 {
        let answer = server.open(Method::GET, watch).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    let (status, problem) = server.json(server.open(Method::GET, watch)).await;
    assert_eq!(status, 429, "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("your address has 3 watchers"),
        "{problem}"
    );
    drop(held);
}

/// Clients that hold all watchers lose some of them to a client that has none. What they lose ends as a watch ends.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_other_addresses_do_not_keep_out_a_new_client() {
    let limits = maxine_admission::PlaceLimits { max: 4, per_address_max: 4, reserved: 0 };
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let settings = maxine_api::ApiSettings {
        watchers: limits,
        trusted_proxies: maxine_gateway::TrustedProxies::new(proxies),
        ..Default::default()
    };
    let server = Server::start_with(settings).await;
    let ask = |path: &str, client: &str| {
        server.open(Method::GET, path).header("x-forwarded-for", client).send()
    };
    let watch = "/watch?service=orders";
    let mut held = Vec::new();
    for _ in 0..4 {
        let answer = ask(watch, "203.0.113.1").await.unwrap();
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    // A long poll of a new client takes the place of the oldest stream.
    let poll = "/changes?service=orders&wait_ms=60000";
    let first_poll = tokio::spawn(ask(poll, "203.0.113.2"));
    let ended = held.remove(0).text().await.unwrap();
    assert!(ended.contains("event: ready"), "{ended}");
    let second_poll = tokio::spawn(ask(poll, "203.0.113.2"));
    held.remove(0).text().await.unwrap();
    // Both clients have two watchers, so two further clients take one place of each.
    let of_others = [ask(watch, "203.0.113.3").await, ask(watch, "203.0.113.4").await];
    assert!(of_others.iter().all(|answer| answer.as_ref().unwrap().status() == 200));
    held.remove(0).text().await.unwrap();
    let (answer, _, _) = futures::future::select_all([first_poll, second_poll]).await;
    let answer = answer.unwrap().unwrap();
    assert_eq!(answer.status(), 200, "as after a wait without a change");
    let changes: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(changes["changes"], serde_json::json!([]), "{changes}");
    let refused = ask(watch, "203.0.113.5").await.unwrap();
    assert_eq!(refused.status(), 429, "nobody has more than one");
}

/// A token counts by itself, from however many addresses it is used. It keeps out no other token and no administrator.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_at_many_addresses_has_the_watchers_of_one_and_keeps_nobody_out() {
    let limits = maxine_admission::PlaceLimits { max: 8, per_address_max: 4, reserved: 4 };
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let settings = maxine_api::ApiSettings {
        watchers: limits,
        trusted_proxies: maxine_gateway::TrustedProxies::new(proxies),
        ..Default::default()
    };
    let server = Server::start_with(settings).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let body = json!({"role": "viewer", "note": ""});
        let (status, made) = server.json(server.admin(Method::POST, "/tokens").json(&body)).await;
        assert_eq!(status, 201, "{made}");
        tokens.push(made["token"].as_str().unwrap().to_owned());
    }
    let watch = async |token: &str, client: u8| {
        let ask = server.open(Method::GET, "/watch?service=orders").bearer_auth(token);
        ask.header("x-forwarded-for", format!("203.0.113.{client}")).send().await.unwrap()
    };
    let mut held = Vec::new();
    for client in 1..=4 {
        let answer = watch(&tokens[0], client).await;
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    for client in 5..=12 {
        let refused = watch(&tokens[0], client).await;
        assert_eq!(refused.status(), 429, "another address is no other token");
        let problem = refused.text().await.unwrap();
        assert!(problem.contains("your user has 4 watchers"), "{problem}");
    }
    let mut of_second = Vec::new();
    for client in 1..=3 {
        let answer = watch(&tokens[1], client).await;
        assert_eq!(answer.status(), 200, "the same addresses, and another token");
        of_second.push(answer);
    }
    let stranger = server.open(Method::GET, "/watch?service=orders").send().await.unwrap();
    assert_eq!(stranger.status(), 429, "tokens do not give way to callers without one");
    let of_admin = watch(&server.token, 1).await;
    assert_eq!(of_admin.status(), 200, "the last place is for operators and administrators");
    drop(of_admin);
    let of_third = watch(&tokens[2], 1).await;
    assert_eq!(of_third.status(), 200, "the token with the most watchers gives way");
    let ended = held.remove(0).text().await.unwrap();
    assert!(ended.contains("event: ready"), "{ended}");
}

async fn set_health(server: &Server, health: maxine_state::Health) {
    use maxine_state::*;
    use maxine_store::ControlStore;
    let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
    let fence = server.view.snapshot().state.grant().map(|grant| grant.fence);
    let snapshot = server.view.snapshot();
    let address_index = snapshot.state.service(&key).unwrap().instances["a"].address_index;
    let report = HealthReport { key: key.instance(Name::trusted("a")), address_index, health };
    let proposal = Proposal {
        request_id: RequestId(rand::random()),
        proposed_at_ms: 1,
        fence,
        actor: Actor::system("test"),
        command: Command::ReportHealth { items: vec![report] },
    };
    let batch = Batch { proposals: vec![proposal] };
    let applied =
        server.store.propose(batch, std::time::Duration::from_secs(5).into()).await.unwrap();
    assert!(!matches!(applied[0].reply, Reply::Rejected(_)), "{:?}", applied[0].reply);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_request_gets_a_problem_that_names_what_is_wrong() {
    let server = Server::start().await;
    let put = |body: &str| {
        server
            .open(Method::PUT, "/services/default/orders/instances/a")
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    let address = r#""address":"http://h:1""#;
    let long = "x".repeat(300);
    for (request, status, kind, field) in [
        (put("{"), 400, "invalid-request", None),
        (put("null"), 400, "invalid-request", None),
        (put("{}"), 400, "invalid-request", None),
        (put(&format!("{{{address},\"wieght\":1}}")), 400, "unknown-field", Some("wieght")),
        (put(&format!("{{{address},{address}}}")), 400, "invalid-request", None),
        (put(&format!("{{{address},\"weight\":\"1\"}}")), 400, "invalid-request", None),
        (put(&format!("{{{address},\"weight\":101}}")), 422, "limit-exceeded", Some("weight")),
        (put(&format!("{{{address},\"ttl_ms\":1}}")), 422, "limit-exceeded", Some("ttl_ms")),
        (put(&format!("{{{address},\"zone\":\"{long}\"}}")), 422, "limit-exceeded", Some("zone")),
        (
            put(&format!("{{{address},\"metadata\":{{\"a\":\"1\",\"a\":\"2\"}}}}")),
            400,
            "invalid-request",
            None,
        ),
        (put(r#"{"address":"ftp://h"}"#), 422, "limit-exceeded", Some("address")),
        (put(r#"{"address":"http://h\r\nx: y"}"#), 422, "limit-exceeded", Some("address")),
        (put(r#"{"address":"http://169.254.169.254"}"#), 422, "limit-exceeded", Some("address")),
        (
            // The answer comes before the request's end, so that the connection cannot be used again.
            put(&format!("\"{}\"", "x".repeat(1_100_000))).header("connection", "close"),
            413,
            "payload-too-large",
            None,
        ),
        (
            server.open(Method::PUT, "/services/default/orders/instances/a").body("x"),
            415,
            "unsupported-media-type",
            None,
        ),
        (
            server
                .open(Method::PUT, "/services/UPPER/orders/instances/a")
                .json(&json!({"address": "http://h"})),
            422,
            "limit-exceeded",
            Some("namespace"),
        ),
        (server.admin(Method::GET, "/services?limt=1"), 400, "unknown-field", Some("limt")),
        (server.admin(Method::GET, "/services?limit=0"), 422, "limit-exceeded", Some("limit")),
        (server.admin(Method::GET, "/services?limit=1&limit=2"), 400, "invalid-request", None),
        (server.admin(Method::GET, "/services?cursor=zz"), 400, "invalid-request", Some("cursor")),
        (server.admin(Method::GET, "/services?consistency=odd"), 400, "invalid-request", None),
        (server.open(Method::GET, "/services/default/%FF"), 401, "unauthorized", None),
        (server.admin(Method::GET, "/services/default/%FF"), 400, "invalid-request", None),
        (server.admin(Method::GET, "/services/default/nope"), 404, "not-found", None),
        (server.open(Method::GET, "/resolve/default/nope"), 404, "not-found", None),
        (
            server.open(Method::GET, "/resolve/default/nope?path=/../x"),
            422,
            "limit-exceeded",
            Some("path"),
        ),
        (server.admin(Method::POST, "/cluster/snapshot"), 501, "not-supported", None),
        (
            server.admin(Method::PUT, "/config").header("if-match", "W/\"1\"").json(&json!({})),
            400,
            "invalid-request",
            Some("If-Match"),
        ),
    ] {
        let what = format!("{request:?}");
        let answer = request.send().await.unwrap();
        let content_type = answer.headers().get("content-type").cloned();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status, "{what}: {problem}");
        assert_eq!(problem["type"], format!("/problems/{kind}"), "{what}: {problem}");
        assert_eq!(content_type.unwrap(), "application/problem+json", "{what}");
        assert!(problem["action"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        if let Some(field) = field {
            assert_eq!(problem["field"], field, "{what}: {problem}");
        }
    }
    assert_eq!(server.view.snapshot().state.instances_len(), 0, "a refusal leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_path_that_does_not_exist_is_a_problem_too() {
    let server = Server::start().await;
    let answer = server.admin(Method::GET, "/nothing-here").send().await.unwrap();
    assert_eq!(answer.status(), 404);
    let answer = server.admin(Method::POST, "/config").send().await.unwrap();
    assert_eq!(answer.status(), 405);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/method-not-allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_take_or_refuse_each_item_on_its_own() {
    let server = Server::start().await;
    let batch = json!({"items": [
        {"service": "orders", "id": "a", "address": "http://h:1", "ttl_ms": 60_000},
        {"service": "orders", "id": "b", "address": "nonsense"},
        {"service": "..", "id": "b", "address": "http://h:1"},
        {"service": "orders", "id": ".", "address": "http://h:1"},
        {"namespace": "shop", "service": "cart", "id": "c", "address": "http://h:3", "ttl_ms": 60_000},
    ]});
    let (status, answer) =
        server.json(server.open(Method::POST, "/registrations").json(&batch)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["results"][0]["lease_epoch"].is_u64());
    assert_eq!(answer["results"][1]["problem"]["field"], "address");
    // In a URL these names mean another path.
    assert_eq!(answer["results"][2]["problem"]["field"], "service");
    assert_eq!(answer["results"][3]["problem"]["field"], "id");
    assert!(answer["results"][4]["lease_epoch"].is_u64());
    let beats = json!({"items": [
        {"service": "orders", "id": "a"},
        {"service": "orders", "id": "b"},
        {"namespace": "shop", "service": "cart", "id": "c", "lease_epoch": answer["results"][4]["lease_epoch"]},
        {"namespace": "shop", "service": "cart", "id": "c", "lease_epoch": 999_999},
    ]});
    let (status, answer) = server.json(server.open(Method::POST, "/heartbeats").json(&beats)).await;
    assert_eq!((status.as_u16(), answer), (200, json!({"unknown": [1, 3], "permanent": []})));
    let many: Vec<Value> =
        (0..1_001).map(|n| json!({"service": "s", "id": n.to_string()})).collect();
    let (status, problem) =
        server.json(server.open(Method::POST, "/heartbeats").json(&json!({"items": many}))).await;
    assert_eq!((status.as_u16(), &problem["field"]), (422, &json!("items")));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_by_cursor_while_things_come_and_go() {
    let server = Server::start().await;
    for n in 0..7 {
        server.register(&format!("s{n}"), "a", "http://h:1").await;
    }
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/services?limit=2".to_owned();
    loop {
        let page = server.get(&path).await;
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().into()),
        );
        if seen.len() == 4 {
            let gone = server.admin(Method::DELETE, "/services/default/s3").send().await.unwrap();
            assert_eq!(gone.status(), 200);
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/services?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["s0", "s1", "s2", "s3", "s4", "s5", "s6"]);
    for n in 0..5 {
        server.register("many", &format!("i{n}"), "http://h:1").await;
    }
    let page = server.get("/services/default/many/instances?limit=3").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest =
        server.get(&format!("/services/default/many/instances?limit=3&cursor={cursor}")).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_make_changes_safe_against_each_other() {
    let server = Server::start().await;
    let answer = server.admin(Method::GET, "/config").send().await.unwrap();
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let whole = server.get("/config").await["config"].clone();
    let change = |method: Method, tag: &str, seconds: u64| {
        let mut config = whole.clone();
        config["heartbeat_timeout_s"] = seconds.into();
        server.admin(method, "/config").header("if-match", tag).json(&config)
    };
    let (status, revised) = server.json(change(Method::PUT, &tag, 7)).await;
    assert_eq!(status, 200, "{revised}");
    for method in [Method::PUT, Method::PATCH] {
        let (status, problem) = server.json(change(method, &tag, 8)).await;
        let mismatch = json!("/problems/revision-mismatch");
        assert_eq!((status.as_u16(), &problem["type"]), (412, &mismatch));
    }
    let config = server.get("/config").await;
    assert_eq!(config["config"]["heartbeat_timeout_s"], 7);
    assert_eq!(config["revision"], revised["revision"]);
    let unchanged = server
        .admin(Method::GET, "/config")
        .header("if-none-match", format!("\"{}\"", revised["revision"]));
    assert_eq!(unchanged.send().await.unwrap().status(), 304);

    let path = "/services/default/orders/policy";
    let policy = json!({"selection": {"strategy": "rendezvous"}});
    server.register("orders", "a", "http://h:1").await;
    let create = || server.admin(Method::PUT, path).header("if-none-match", "*").json(&policy);
    assert_eq!(server.json(create()).await.0, 200);
    assert_eq!(server.json(create()).await.0, 412);
    assert_eq!(server.get(path).await["policy"]["selection"]["strategy"], "rendezvous");
    let wrong = server.admin(Method::PUT, path).json(&json!({"selection": {"strategee": "x"}}));
    assert_eq!(server.json(wrong).await.1["field"], "strategee");
    assert_eq!(server.json(server.admin(Method::DELETE, path)).await.0, 200);
    assert_eq!(server.json(server.admin(Method::GET, path)).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_configuration_changes_alone_or_is_refused() {
    let server = Server::start().await;
    let whole = server.get("/config").await["config"].clone();
    let patch = |body: Value| server.admin(Method::PATCH, "/config").json(&body);
    let (status, answer) = server.json(patch(json!({"discovery_mode": "proxy"}))).await;
    assert_eq!(status, 200, "{answer}");
    let typed = server
        .admin(Method::PATCH, "/config")
        .header("content-type", "application/merge-patch+json")
        .body(r#"{"heartbeat_timeout_s": 9}"#);
    assert_eq!(server.json(typed).await.0, 200);
    let mut expected = whole.clone();
    expected["discovery_mode"] = "proxy".into();
    expected["heartbeat_timeout_s"] = 9.into();
    assert_eq!(server.get("/config").await["config"], expected, "one undoes not the other");
    // Regression: a `PUT` of some fields reset the others.
    let part = server.admin(Method::PUT, "/config").json(&json!({"heartbeat_timeout_s": 7}));
    let (status, problem) = server.json(part).await;
    assert_eq!((status.as_u16(), &problem["type"]), (422, &json!("/problems/incomplete")));
    assert_eq!(problem["field"], "log_async");
    for (body, status) in [
        (json!({"heartbeat_timeout": 7}), 400),
        (json!({"heartbeat_timeout_s": 0}), 422),
        (json!({"log_format": "xml"}), 400),
        (json!([1]), 400),
    ] {
        assert_eq!(server.json(patch(body.clone())).await.0, status, "{body}");
    }
    assert_eq!(server.get("/config").await["config"], expected, "nothing of these was kept");
    assert_eq!(server.json(patch(json!({"heartbeat_timeout_s": null}))).await.0, 200);
    expected["heartbeat_timeout_s"] = whole["heartbeat_timeout_s"].clone();
    assert_eq!(server.get("/config").await["config"], expected, "null gives the default");
    let changes: Vec<_> = (0..8)
        .map(|n| {
            let fields = ["log_async", "log_json_prettify"];
            server.json(patch(json!({fields[n % 2]: n % 2 == 0, "log_format": "plain"})))
        })
        .collect();
    for (status, answer) in futures::future::join_all(changes).await {
        assert_eq!(status, 200, "{answer}");
    }
}

/// Regression: the answer for a service without a policy read as if the service did not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_policy_is_distinguished_from_one_that_does_not_exist() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    for (service, detail) in [
        ("orders", "service default/orders has no policy, so the defaults apply"),
        ("odrers", "service default/odrers does not exist"),
    ] {
        let path = format!("/services/default/{service}/policy");
        let (status, problem) = server.json(server.admin(Method::GET, &path)).await;
        assert_eq!((status.as_u16(), &problem["type"]), (404, &json!("/problems/not-found")));
        assert_eq!(problem["detail"], detail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_a_mistyped_service_is_refused() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let policy = json!({"selection": {"strategy": "rendezvous"}});
    let send = |method: Method, path: &str| server.json(server.admin(method, path).json(&policy));
    for method in [Method::PUT, Method::PATCH] {
        let (status, problem) = send(method, "/services/default/odrers/policy").await;
        assert_eq!((status.as_u16(), &problem["type"]), (404, &json!("/problems/not-found")));
        assert!(problem["action"].as_str().unwrap().contains("create=true"), "{problem}");
    }
    assert_eq!(server.get("/services").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(send(Method::PATCH, "/services/default/orders/policy").await.0, 200);
    assert_eq!(send(Method::PUT, "/services/default/later/policy?create=true").await.0, 200);
    assert_eq!(server.get("/services").await["items"].as_array().unwrap().len(), 2);
    let probe = json!({"probe": {"kind": "tcp"}, "selection": null});
    let patch = server.admin(Method::PATCH, "/services/default/orders/policy").json(&probe);
    assert_eq!(server.json(patch).await.0, 200);
    let policy = server.get("/services/default/orders/policy").await["policy"].clone();
    assert_eq!(policy["probe"]["kind"], "tcp");
    assert_eq!(policy["selection"]["strategy"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_probe_that_is_not_made_are_answered_with_a_warning() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let path = "/services/default/orders/policy";
    for method in [Method::PUT, Method::PATCH] {
        let change = |probe: Value| {
            let body = json!({"probe": probe});
            server.json(server.admin(method.clone(), path).json(&body))
        };
        let (status, unused) = change(json!({"path": "/healthz"})).await;
        assert_eq!(status, 200, "{unused}");
        let warning = unused["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("probe.kind is heartbeat"), "{warning}");
        let (_, used) = change(json!({"kind": "http", "path": "/healthz"})).await;
        assert_eq!(used["warnings"], Value::Null, "{used}");
        server.json(server.admin(Method::DELETE, path)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_versions_that_no_instance_has_are_answered_with_a_warning() {
    let server = Server::start().await;
    for (id, version) in [("a", "1.0"), ("b", "2.0")] {
        let path = format!("/services/default/orders/instances/{id}");
        let body = json!({"address": "http://h:1", "version": version, "ttl_ms": 60_000});
        assert_eq!(server.json(server.admin(Method::PUT, &path).json(&body)).await.0, 200);
    }
    for method in [Method::PUT, Method::PATCH] {
        let split = async |shares: &[(&str, u32)]| {
            let share =
                |(version, weight): &(&str, u32)| json!({"version": version, "weight": weight});
            let shares: Vec<Value> = shares.iter().map(share).collect();
            let body = json!({"traffic": {"split": shares}});
            let path = "/services/default/orders/policy";
            server.json(server.admin(method.clone(), path).json(&body)).await.1["warnings"].clone()
        };
        let part = split(&[("1.0", 90), ("2.1", 10)]).await;
        let text = "traffic.split: no registered instance has version 2.1, so its share goes to the other versions of traffic.split";
        assert_eq!(part, json!([text]));
        let all = split(&[("3.0", 1), ("4.0", 1)]).await[0].clone();
        assert!(
            all.as_str().unwrap().contains("3.0, 4.0, so traffic.split has no effect"),
            "{all}"
        );
        // A version without a weight gets no traffic in any case.
        assert_eq!(split(&[("1.0", 1), ("2.0", 1), ("9.9", 0)]).await, Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_policy_has_who_changed_it_and_to_what() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let path = "/services/default/orders/policy";
    let history = async |query: &str| server.get(&format!("{path}/history{query}")).await;
    assert_eq!(history("").await["items"], json!([]));
    for strategy in ["rendezvous", "least_request"] {
        let body = json!({
            "selection": {"strategy": strategy}, "traffic": {"request_headers": {"set": [["x-key", "secret"]]}}
        });
        assert_eq!(server.json(server.admin(Method::PUT, path).json(&body)).await.0, 200);
    }
    let present = server.get(path).await;
    assert_eq!(server.json(server.admin(Method::DELETE, path)).await.0, 200);
    let items = history("").await["items"].clone();
    let contents: Vec<_> = items.as_array().unwrap().iter().map(|item| &item["content"]).collect();
    assert_eq!(contents, ["none", "set", "set", "none"]);
    assert_eq!(items[1]["revision"], present["revision"]);
    assert_eq!(items[1]["policy"], present["policy"]);
    assert_eq!(items[2]["policy"]["selection"]["strategy"], "rendezvous");
    assert_eq!((&items[0]["policy"], &items[3]["revision"]), (&Value::Null, &json!(0)));
    for item in &items.as_array().unwrap()[..3] {
        assert_eq!(item["user"], "admin");
        assert!(item["time_ms"].as_u64().unwrap() > 0);
    }
    // By pages.
    let first = history("?limit=3").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(history(&format!("?cursor={cursor}")).await["items"], json!([items[3]]));
    // Another service has none of it, and one that never existed is a mistake.
    server.register("carts", "a", "http://h:1").await;
    assert_eq!(server.get("/services/default/carts/policy/history").await["items"], json!([]));
    let unknown = server.json(server.admin(Method::GET, "/services/default/odrers/policy/history"));
    assert_eq!(unknown.await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_a_repeat_take_effect_once() {
    let server = Server::start().await;
    let patch = |seconds: u64| {
        server
            .admin(Method::PATCH, "/config")
            .header("idempotency-key", "k-1")
            .json(&json!({"heartbeat_timeout_s": seconds}))
    };
    let (status, first) = server.json(patch(7)).await;
    assert_eq!(status, 200, "{first}");
    let (_, repeat) = server.json(patch(7)).await;
    assert_eq!(first, repeat);
    // Another request with the same key must not get the answer to the first one.
    let (status, refused) = server.json(patch(9)).await;
    assert_eq!((status.as_u16(), &refused["type"]), (422, &"/problems/key-reused".into()));
    assert_eq!(server.get("/config").await["config"]["heartbeat_timeout_s"], 7);
    let batch = |id: &str| {
        let item = json!({"service": "orders", "id": id, "address": "http://h:1"});
        server
            .admin(Method::POST, "/registrations")
            .header("idempotency-key", "b-1")
            .json(&json!({"items": [item]}))
    };
    assert_eq!(server.json(batch("a")).await.0, 200);
    assert_eq!(server.json(batch("b")).await.0, 422);
    assert_eq!(server.json(batch("a")).await.0, 200);
    let make = || {
        server
            .admin(Method::POST, "/tokens")
            .header("idempotency-key", "t-1")
            .json(&json!({"role": "viewer"}))
    };
    assert_eq!(server.json(make()).await.0, 201);
    assert_eq!(server.json(make()).await.0, 409);
    assert_eq!(server.get("/tokens").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_tell_their_freshness_and_strong_ones_need_a_majority() {
    let server = Server::start().await;
    let written = server.register("orders", "a", "http://h:1").await;
    let index = written["index"].as_u64().unwrap();
    let answer = server
        .admin(Method::GET, &format!("/services?min_index={index}&consistency=strong"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["x-maxine-index"].to_str().unwrap().parse::<u64>().unwrap() >= index);
    assert_eq!(answer.headers()["x-maxine-leader"], "known");
    let age_ms: u64 = answer.headers()["x-maxine-staleness-ms"].to_str().unwrap().parse().unwrap();
    assert!(age_ms < 1_000, "{age_ms}");
    assert!(!answer.headers().contains_key("x-maxine-staleness"));
    server.store.set_available(false);
    let answer = server.admin(Method::GET, "/services?consistency=strong").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    // The node still answers with what it has.
    assert_eq!(
        server.open(Method::GET, "/resolve/default/orders").send().await.unwrap().status(),
        200
    );
    let put = server
        .open(Method::PUT, "/services/default/orders/instances/b")
        .json(&json!({"address": "http://h:2"}));
    let answer = put.send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let late = server.admin(Method::GET, "/services?min_index=99999999").send().await.unwrap();
    assert_eq!(late.status(), 503);
}

/// The probe that is shown is the one that the health checker runs, wherever its settings come from.
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_that_is_shown_is_the_one_that_runs() {
    let health = maxine_control::health::ActiveDefaults {
        enabled: true,
        interval_ms: 7_000,
        path: "/alive".into(),
        ..Default::default()
    };
    let server = Server::start_probing(ApiSettings::default(), health).await;
    server.register("orders", "a", "http://h:1").await;
    let shown = async |server: &Server| {
        let why = server.get("/services/default/orders/instances/a/health").await;
        (why["probe"].clone(), why["probe_from"].clone())
    };
    let (probe, from) = shown(&server).await;
    assert_eq!((&probe["kind"], &probe["path"]), (&json!("http"), &json!("/alive")));
    assert_eq!((&probe["interval_ms"], from), (&json!(7_000), json!("node")));
    // A policy that uses only heartbeats does not replace the node-wide check.
    for (probe, path, from_where) in [
        (json!({"kind": "heartbeat"}), "/alive", "node"),
        (json!({"kind": "http", "path": "/policy"}), "/policy", "policy"),
    ] {
        let put = server.admin(Method::PUT, "/services/default/orders/policy");
        let put = put.json(&json!({"probe": probe})).send().await.unwrap();
        assert_eq!(put.status(), 200);
        let (probe, from) = shown(&server).await;
        assert_eq!((&probe["path"], from), (&json!(path), json!(from_where)));
    }
    let quiet = Server::start().await;
    quiet.register("orders", "a", "http://h:1").await;
    let (probe, from) = shown(&quiet).await;
    assert_eq!((&probe["kind"], from), (&json!("heartbeat"), serde_json::Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_stops_traffic_and_says_why() {
    let server = Server::start().await;
    server.register("orders", "a", "http://h:1").await;
    let path = "/services/default/orders/instances/a";
    let drain = server
        .admin(Method::PUT, &format!("{path}/drain"))
        .json(&json!({"reason": "kernel update"}));
    assert_eq!(server.json(drain).await.1["changed"], true);
    let (status, problem) = server.json(server.open(Method::GET, "/resolve/default/orders")).await;
    assert_eq!((status.as_u16(), &problem["type"]), (503, &json!("/problems/unavailable")));
    let why = server.get(&format!("{path}/health")).await;
    assert_eq!(why["routable"], false);
    assert!(why["why"].as_str().unwrap().contains("kernel update"), "{why}");
    assert_eq!(
        server.get("/services/default/orders/instances?health=draining").await["items"][0]["drain"]
            ["reason"],
        "kernel update"
    );
    assert_eq!(server.get("/services/default/orders").await["health"], "down");
    assert_eq!(
        server.json(server.admin(Method::DELETE, &format!("{path}/drain"))).await.1["changed"],
        true
    );
    assert_eq!(
        server.open(Method::GET, "/resolve/default/orders").send().await.unwrap().status(),
        200
    );
    let missing =
        server.admin(Method::PUT, "/services/default/orders/instances/zz/drain").json(&json!({}));
    assert_eq!(server.json(missing).await.0, 404);
}
