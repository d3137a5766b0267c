//! Access: sign-in, the dashboard's cookie, users, tokens, keys.

use maxine_api::ApiSettings;
use maxine_api::access::{Access, AccessMode, rules};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn every_guarded_route_refuses_the_unknown_and_the_lower_role() {
    let settings = ApiSettings {
        registration_access: AccessMode::Token,
        discovery_access: AccessMode::Token,
        ..ApiSettings::default()
    };
    let server = Server::start_with(settings).await;
    for role in ["viewer", "operator"] {
        let path = format!("/users/{role}");
        let body = json!({"role": role, "password": "long enough"});
        let (status, answer) = server.json(server.admin(Method::PUT, &path).json(&body)).await;
        assert_eq!(status, 200, "{answer}");
    }
    let viewer = server.sign_in("viewer", "long enough").await;
    let operator = server.sign_in("operator", "long enough").await;
    let listed = server.get("/access").await["items"].as_array().unwrap().clone();
    let mut seen = 0;
    for rule in rules().filter(|rule| rule.path.starts_with("/api/v1/")) {
        let method: Method = rule.method.parse().unwrap();
        let path = rule.path.trim_start_matches("/api/v1").replace("{id}", "1");
        let path = path.replace(['{', '}'], "");
        let asked = |token: Option<&str>| {
            let request = server.open(method.clone(), &path);
            let request = request.header("content-type", "application/json").body("[]");
            match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            }
        };
        let status = async |token| asked(token).send().await.unwrap().status().as_u16();
        let (of_nobody, of_viewer, of_operator) = match rule.access {
            Access::Open => continue,
            Access::Discovery | Access::Viewer => (401, None, None),
            Access::Registration | Access::Operator => (401, Some(403), None),
            Access::Admin => (401, Some(403), Some(403)),
        };
        // What is listed is what happens.
        let rights = listed.iter().find(|r| r["method"] == rule.method && r["path"] == rule.path);
        let rights = rights.unwrap_or_else(|| panic!("{method} {path} is not listed"));
        let may = |role: &str| rights["roles"].as_array().unwrap().contains(&json!(role));
        let expected = (of_viewer.is_none(), of_operator.is_none(), true);
        assert_eq!((may("viewer"), may("operator"), may("admin")), expected, "{method} {path}");
        assert_eq!(rights["open"], false, "{method} {path}");
        assert_eq!(status(None).await, of_nobody, "{method} {path}");
        if let Some(refused) = of_viewer {
            assert_eq!(status(Some(&viewer)).await, refused, "{method} {path}");
        }
        if let Some(refused) = of_operator {
            assert_eq!(status(Some(&operator)).await, refused, "{method} {path}");
        }
        seen += 1;
    }
    assert!(seen > 40, "{seen} routes were walked");
}

/// Sign-outs and changed passwords are lost if the state is restored from an older copy. So a session is valid only in
/// the history in which it began, and the keys that signed earlier sessions are no longer used.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_history_in_which_it_was_opened() {
    let server = Server::start().await;
    let made = server.admin(Method::POST, "/tokens").json(&json!({"role": "viewer", "note": ""}));
    let (status, made) = server.json(made).await;
    assert_eq!(status, 201, "{made}");
    let api_token = made["token"].as_str().unwrap();
    let keys = server.get("/keys").await;
    let me = |token: &str| server.open(Method::GET, "/me").bearer_auth(token);
    assert_eq!(server.json(me(&server.token)).await.0, 200);

    server.begin_history(server.history(), 0xa1).await;
    let (status, problem) = server.json(me(&server.token)).await;
    assert_eq!((status.as_u16(), &problem["type"]), (401, &json!("/problems/unauthorized")));
    assert!(problem["detail"].as_str().unwrap().contains("sign in again"), "{problem}");
    let cookie = format!("maxine_session={}", server.token);
    assert_eq!(server.json(server.open(Method::GET, "/me").header("cookie", cookie)).await.0, 401);
    assert_eq!(server.json(me(api_token)).await.0, 200, "API tokens are of the cluster");
    let (name, password) = &server.password;
    let again = server.sign_in(name, password).await;
    assert_eq!(server.json(me(&again)).await.0, 200);
    let listed = server.open(Method::GET, "/keys").bearer_auth(&again);
    let (_, now) = server.json(listed).await;
    assert_eq!(now["items"].as_array().unwrap().len(), 1, "{now}");
    assert_ne!(now["items"][0]["key_id"], keys["items"][0]["key_id"]);

    server.begin_history(server.history(), 0xb2).await;
    assert_eq!(server.json(me(&again)).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_signs_in_but_changes_nothing_without_the_csrf_header() {
    let server = Server::start().await;
    let body = json!({"role": "operator", "password": "long enough"});
    server.json(server.admin(Method::PUT, "/users/olga").json(&body)).await;
    let sign_in = server.open(Method::POST, "/session");
    let answer =
        sign_in.json(&json!({"user": "olga", "password": "long enough"})).send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with_cookie = |method, path| server.open(method, path).header("cookie", &cookie);
    let (status, mut me) = server.json(with_cookie(Method::GET, "/me")).await;
    assert!(me["expires_at_ms"].take().is_u64(), "{me}");
    assert_eq!(
        (status.as_u16(), me),
        (200, json!({"user": "olga", "role": "operator", "via": "cookie", "expires_at_ms": null}))
    );
    let put = || with_cookie(Method::PATCH, "/config").json(&json!({}));
    assert_eq!(server.json(put()).await.0, 403);
    assert_eq!(server.json(put().header("x-maxine-csrf", "1")).await.0, 200);
    let out = server.open(Method::DELETE, "/session").send().await.unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_user_loses_their_sessions_and_the_last_admin_stays() {
    let server = Server::start().await;
    let put = |body| server.admin(Method::PUT, "/users/ada").json(&body);
    let (status, _) = server.json(put(json!({"role": "viewer"}))).await;
    assert_eq!(status, 422, "a new user needs a password");
    let (status, short) = server.json(put(json!({"role": "viewer", "password": "short"}))).await;
    assert_eq!(status, 422);
    assert!(!short.to_string().contains("short\""), "a password is never repeated: {short}");
    assert_eq!(server.json(put(json!({"role": "viewer", "password": "long enough"}))).await.0, 200);
    let session = server.sign_in("ada", "long enough").await;
    let me = || server.open(Method::GET, "/me").bearer_auth(&session);
    assert_eq!(server.json(me()).await.0, 200);
    // Only the role changes. The password stays the same.
    assert_eq!(server.json(put(json!({"role": "operator"}))).await.0, 200);
    assert_eq!(server.json(me()).await.0, 401);
    let session = server.sign_in("ada", "long enough").await;
    assert_eq!(server.json(server.admin(Method::DELETE, "/users/ada")).await.0, 200);
    let me = || server.open(Method::GET, "/me").bearer_auth(&session);
    assert_eq!(server.json(me()).await.0, 401);
    // A user with the same name and more rights is created. The old session does not belong to that user.
    assert_eq!(server.json(put(json!({"role": "admin", "password": "long enough"}))).await.0, 200);
    assert_eq!(server.json(me()).await.0, 401);
    assert_eq!(server.json(server.admin(Method::DELETE, "/users/ada")).await.0, 200);
    let tokens = server.admin(Method::PUT, "/users/token:ada");
    let tokens = tokens.json(&json!({"role": "viewer", "password": "long enough"}));
    assert_eq!(server.json(tokens).await.0, 422, "a user is never taken for a token");

    let users = server.get("/users").await;
    let admin = users["items"][0]["name"].as_str().unwrap().to_owned();
    assert!(!users.to_string().contains("argon2"), "{users}");
    assert_eq!(server.json(server.admin(Method::DELETE, &format!("/users/{admin}"))).await.0, 422);
    let demote =
        server.admin(Method::PUT, &format!("/users/{admin}")).json(&json!({"role": "viewer"}));
    assert_eq!(server.json(demote).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_works_until_it_is_taken_out() {
    let server = Server::start().await;
    let body = json!({"role": "viewer", "note": "ci", "ttl_ms": 600_000});
    let (status, made) = server.json(server.admin(Method::POST, "/tokens").json(&body)).await;
    assert_eq!(status, 201, "{made}");
    let token = made["token"].as_str().unwrap();
    let ask = |method, path| server.open(method, path).bearer_auth(token);
    assert_eq!(server.json(ask(Method::GET, "/me")).await.1["via"], "api_token");
    assert_eq!(server.json(ask(Method::GET, "/users")).await.0, 403);
    assert!(!server.get("/tokens").await.to_string().contains(token));
    let id = made["id"].as_str().unwrap();
    assert_eq!(server.json(server.admin(Method::DELETE, &format!("/tokens/{id}"))).await.0, 200);
    assert_ne!(server.json(ask(Method::GET, "/me")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_signs_and_the_older_ones_are_accepted_as_long_as_they_are_kept() {
    let server = Server::start().await;
    let rotate = |keep: u32| {
        server.admin(Method::POST, "/keys/rotate").json(&json!({"keep_previous": keep}))
    };
    let (status, rotated) = server.json(rotate(1)).await;
    assert_eq!(status, 200, "{rotated}");
    let keys = server.get("/keys").await;
    assert_eq!(keys["items"][0]["key_id"], rotated["key_id"]);
    assert_eq!(keys["items"][0]["signs"], true);
    assert_eq!(keys["items"].as_array().unwrap().len(), 2);
    assert!(keys["items"][0].get("secret").is_none());
    assert_eq!(server.json(rotate(0)).await.0, 200);
    assert_eq!(server.json(server.admin(Method::GET, "/me")).await.0, 401, "its key is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_passwords_is_slowed_down_and_audited() {
    let server = Server::start().await;
    let guess =
        || server.open(Method::POST, "/session").json(&json!({"user": "eve", "password": "guess"}));
    let mut refused = 0;
    let throttled = loop {
        let answer = guess().send().await.unwrap();
        match answer.status().as_u16() {
            401 => refused += 1,
            429 => break answer,
            other => panic!("{other}"),
        }
        assert!(refused < 50, "never throttled");
    };
    assert!(throttled.headers().contains_key("retry-after"));
    // The record is written concurrently with the answer.
    let mut changes = server.view.index_changes();
    let found = async || {
        let audit = server.get("/audit?action=session.&outcome=refused").await;
        audit["items"].as_array().unwrap().len() >= refused
    };
    while !found().await {
        changes.changed().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_signed_out_of_is_over() {
    let server = Server::start().await;
    let (user, password) = server.password.clone();
    let session = server.sign_in(&user, &password).await;
    let me = async |token: &str| {
        server.json(server.open(Method::GET, "/me").bearer_auth(token)).await.0.as_u16()
    };
    // A request that has only the cookie also needs the header that another site cannot send.
    let cookie = format!("maxine_session={session}");
    let out = || server.open(Method::DELETE, "/session").header("cookie", &cookie);
    assert_eq!(server.json(out()).await.0, 403);
    assert_eq!(me(&session).await, 200);
    // A page under another site's name that resolves to this node is refused too.
    let rebound = out().header("x-maxine-csrf", "1").header("host", "elsewhere.example");
    let answer = rebound.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("set-cookie")), (403, None));
    assert_eq!(me(&session).await, 200);
    // Another session of the same second stays valid when this one ends.
    let other = server.sign_in(&user, &password).await;
    assert_ne!(other, session);
    let answer = out().header("x-maxine-csrf", "1").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert!(answer.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!((me(&session).await, me(&other).await), (401, 200));
    let read = server.open(Method::GET, "/me").header("cookie", &cookie);
    assert_eq!(server.json(read).await.0, 401);
    // A user who signs in again at once gets a valid session, and can end that too.
    for _ in 0..3 {
        let again = server.sign_in(&user, &password).await;
        assert_eq!(me(&again).await, 200);
        let out = server.open(Method::DELETE, "/session").bearer_auth(&again);
        assert_eq!(server.json(out).await.0, 204);
        assert_eq!(me(&again).await, 401);
        assert_eq!(me(&session).await, 401);
    }
    // An API token is not a session. It is revoked by its id.
    let admin = server.sign_in(&user, &password).await;
    let made = server.open(Method::POST, "/tokens").bearer_auth(&admin);
    let made = server.json(made.json(&json!({"role": "viewer"}))).await.1;
    let token = made["token"].as_str().unwrap();
    let out = server.open(Method::DELETE, "/session").bearer_auth(token);
    assert_eq!(server.json(out).await.0, 204);
    assert_eq!(me(token).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn header_values_of_a_policy_are_for_those_who_may_change_it() {
    let server = Server::start().await;
    let policy = json!({
        "probe": {"kind": "http", "headers": [["authorization", "Bearer s3cret-a"]]},
        "traffic": {"request_headers": {"set": [["x-key", "s3cret-b"]], "add": [["x-key", "s3cret-c"]]}}
    });
    let put =
        server.admin(Method::PUT, "/services/default/orders/policy?create=true").json(&policy);
    assert_eq!(server.json(put).await.0, 200);
    let own = json!({
        "address": "http://127.0.0.1:9", "ttl_ms": 60_000,
        "probe": {"kind": "http", "headers": [["authorization", "Bearer s3cret-d"]]}
    });
    let put = server.admin(Method::PUT, "/services/default/orders/instances/a").json(&own);
    assert_eq!(server.json(put).await.0, 200);
    for role in ["viewer", "operator"] {
        let body = json!({"role": role, "password": "long enough"});
        server.json(server.admin(Method::PUT, &format!("/users/{role}")).json(&body)).await;
        let token = server.sign_in(role, "long enough").await;
        let sees = async |path: &str| {
            let asked = server.open(Method::GET, path).bearer_auth(&token);
            let (status, body) = server.json(asked).await;
            assert_eq!(status, 200, "{path}: {body}");
            let text = body.to_string();
            (text.contains("s3cret"), text.contains("[redacted]"))
        };
        for path in [
            "/services/default/orders/policy",
            "/services/default/orders",
            "/services/default/orders/instances/a/health",
            "/services/default/orders/instances",
            "/services/default/orders/instances/a",
        ] {
            let expected = if role == "operator" { (true, false) } else { (false, true) };
            assert_eq!(sees(path).await, expected, "{role} {path}");
        }
        for path in ["/services", "/changes?index=0&wait_ms=0", "/audit"] {
            assert!(!sees(path).await.0, "{role} {path}");
        }
    }
    // If discovery is open, these lists are too, but secret values are not shown.
    for path in ["/services/default/orders/instances", "/services/default/orders/instances/a"] {
        let (status, body) = server.json(server.open(Method::GET, path)).await;
        assert_eq!(status, 200);
        assert!(!body.to_string().contains("s3cret"), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_changes_their_own_password_with_the_present_one() {
    let server = Server::start().await;
    let eve = json!({"role": "viewer", "password": "long enough"});
    server.json(server.admin(Method::PUT, "/users/eve").json(&eve)).await;
    let session = server.sign_in("eve", "long enough").await;
    let change = async |token: &str, present: &str, new: &str| {
        let body = json!({"password": present, "new_password": new});
        let request = server.open(Method::PUT, "/me/password").bearer_auth(token);
        server.json(request.json(&body)).await.0.as_u16()
    };
    assert_eq!(change(&session, "another one", "long enough 2").await, 403);
    assert_eq!(change(&session, "long enough", "short").await, 422);
    assert_eq!(change(&session, "long enough", "long enough 2").await, 200);
    assert_eq!(change(&session, "long enough 2", "long enough 3").await, 401, "it has ended");
    server.sign_in("eve", "long enough 2").await;
    let made = server.admin(Method::POST, "/tokens").json(&json!({"role": "admin"}));
    let made = server.json(made).await.1;
    let token = made["token"].as_str().unwrap();
    assert_eq!(change(token, "long enough", "long enough 2").await, 403, "it has no password");
}

/// Regression: two viewers changed their own passwords again and again, and pushed out all records of users.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_cannot_push_out_the_records_of_others_with_changes_of_their_own_password() {
    let server = Server::start().await;
    for (user, role) in [("eve", "viewer"), ("bob", "viewer"), ("ann", "admin")] {
        let body = json!({"role": role, "password": "password 0"});
        let put = server.admin(Method::PUT, &format!("/users/{user}")).json(&body);
        assert_eq!(server.json(put).await.0, 200);
    }
    let change = async |user: &str, from: u32, to: u32| {
        let session = server.sign_in(user, &format!("password {from}")).await;
        let (from, to) = (format!("password {from}"), format!("password {to}"));
        let body = json!({"password": from, "new_password": to});
        let request = server.open(Method::PUT, "/me/password").bearer_auth(session);
        request.json(&body).send().await.expect("an answer")
    };
    for n in 0..5 {
        assert_eq!(change("eve", n, n + 1).await.status(), 200, "{n}");
    }
    let refused = change("eve", 5, 6).await;
    assert_eq!(refused.status(), 429);
    let after_s: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((600..=720).contains(&after_s), "{after_s}");
    let problem: Value = refused.json().await.expect("a problem");
    assert_eq!(problem["type"], "/problems/too-many-requests");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("10 times in an hour") && detail.contains("audit log"), "{detail}");
    // The compatible API, which only administrators may use for this, has the same limit.
    for n in 0..5 {
        assert_eq!(change("ann", n, n + 1).await.status(), 200, "{n}");
    }
    let session = server.sign_in("ann", "password 5").await;
    let url = format!("http://{}/api/maxine/change-password", server.addr);
    let body = json!({"password": "password 5", "newPassword": "password 6"});
    let compat = server.client.put(url).bearer_auth(session).json(&body).send().await.unwrap();
    assert_eq!(compat.status(), 429);
    assert!(compat.headers().contains_key("retry-after"));
    // It is a limit for this user alone, and a wrong password does not count.
    assert_eq!(change("bob", 0, 1).await.status(), 200);
    let session = server.sign_in("bob", "password 1").await;
    let wrong = json!({"password": "another one", "new_password": "password 2"});
    for _ in 0..6 {
        let request = server.open(Method::PUT, "/me/password").bearer_auth(&session).json(&wrong);
        assert_eq!(server.json(request).await.0, 403);
    }
    assert_eq!(change("bob", 1, 2).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cannot_push_out_the_records_of_others_with_changes_of_policies() {
    let server = Server::start().await;
    let made = server.admin(Method::POST, "/tokens").json(&json!({"role": "operator"}));
    let token = server.json(made).await.1["token"].as_str().unwrap().to_owned();
    let path = "/services/default/flood/policy?create=true";
    let put = async |token: &str, n: u64| {
        let policy = json!({"traffic": {"timeouts": {"response_ms": 1_000 + n}}});
        let request = server.open(Method::PUT, path).bearer_auth(token).json(&policy);
        request.send().await.expect("an answer")
    };
    let mut accepted = 0;
    let refused = loop {
        let answer = put(&token, accepted).await;
        if answer.status() != 200 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 2_000, "there is no limit");
    };
    assert!(accepted >= 1_000, "{accepted}");
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let problem: Value = refused.json().await.expect("a problem");
    assert!(problem["detail"].as_str().unwrap().contains("audit records of others"), "{problem}");
    assert_eq!((&problem["outcome"], &problem["retry"]), (&json!("not_done"), &json!("later")));
    // A change of this node alone leaves a record of the same class. The user may regain one change meanwhile.
    let silence = json!({"duration_ms": 60_000, "reason": "maintenance"});
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let put = server.open(Method::PUT, "/alerts/silences/node.stalled").bearer_auth(&token);
        statuses.push(server.json(put.json(&silence)).await.0.as_u16());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(put(&server.token, 0).await.status(), 200, "another user does not wait");
}
