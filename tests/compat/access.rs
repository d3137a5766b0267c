//! Sign-in, tokens and roles: sections 1, 2 and 10 (access) of the compatible API.

use super::support::{Server, message};
use maxine_api::access::rules;
use maxine_identity::{Account, Secret};
use maxine_state::Role;
use serde_json::{Value, json};

const SIGNIN: &str = "/api/maxine/signin";
const CHANGE: &str = "/api/maxine/change-password";
const CONFIG: &str = "/api/maxine/control/config";
const NEED_BOTH: &str = "Please provide both of these -> userName and password.";

fn account(role: Role, name: &str) -> Account {
    Account { role, user_name: name.into(), password: Secret::new(&format!("{name}-password")) }
}

fn claims(token: &str) -> (Value, Value) {
    let part = |at: usize| -> Value {
        let text = token.split('.').nth(at).unwrap();
        serde_json::from_slice(&base64url(text)).unwrap()
    };
    (part(0), part(1))
}

fn base64url(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bits, mut len, mut out) = (0_u32, 0, Vec::new());
    for byte in text.bytes() {
        let digit = DIGITS.iter().position(|d| *d == byte).unwrap();
        bits = bits << 6 | u32::try_from(digit).unwrap();
        len += 6;
        if len >= 8 {
            len -= 8;
            out.push((bits >> len & 0xff) as u8);
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn signin() {
    let server = Server::start().await;
    let right = json!({ "userName": "admin", "password": server.admin_password });
    let answer = server.post(SIGNIN, &right).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["role"], "admin");
    let (header, payload) = claims(body["accessToken"].as_str().unwrap());
    assert_eq!((&header["alg"], &header["typ"]), (&json!("HS256"), &json!("JWT")));
    assert!(header["kid"].is_string());
    assert_eq!(payload["userName"], "admin");
    assert_eq!(payload["credentialVersion"], 0);
    assert_eq!(payload["aud"].as_str().unwrap().len(), 16, "the cluster that it is for");
    let lifetime = payload["exp"].as_u64().unwrap() - payload["iat"].as_u64().unwrap();
    assert_eq!(lifetime, 1_800);
    assert!(payload["history"].as_u64().unwrap() > 0, "the history of the state that it is for");
    assert_eq!(payload["jti"].as_str().unwrap().len(), 16, "which session of that second");
    assert_eq!(payload.as_object().unwrap().len(), 8);

    for body in [json!({}), json!({"userName": "admin"}), json!({"userName": "", "password": "x"})]
    {
        let answer = server.post(SIGNIN, &body).send().await.unwrap();
        assert_eq!(message(answer).await, (400, NEED_BOTH.into()));
    }
    let no_json = server.http.post(server.url(SIGNIN)).body(right.to_string());
    assert_eq!(message(no_json.send().await.unwrap()).await, (400, NEED_BOTH.into()));
    for body in [
        json!({"userName": "admin", "password": "wrong"}),
        json!({"userName": "nobody", "password": "x"}),
    ] {
        let answer = server.post(SIGNIN, &body).send().await.unwrap();
        assert_eq!(message(answer).await, (401, "Unauthorized".into()));
    }
    for body in ["{", "null", "\"text\"", "[]", "\u{feff}{}"] {
        let request = server.http.post(server.url(SIGNIN)).body(body);
        let answer = request.header("content-type", "application/json; charset=utf-8").send();
        assert_eq!(message(answer.await.unwrap()).await.0, 400, "{body}");
    }
    let long = json!({ "userName": "x".repeat(110_000), "password": "y" });
    let answer = server.post(SIGNIN, &long).send().await.unwrap();
    assert_eq!(message(answer).await.0, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn signin_cannot_be_tried_without_limit() {
    let server = Server::start_with(|options| options.security.signin_attempts_max = 3).await;
    let wrong = json!({ "userName": "admin", "password": "wrong" });
    for _ in 0..3 {
        assert_eq!(server.post(SIGNIN, &wrong).send().await.unwrap().status(), 401);
    }
    let right = json!({ "userName": "admin", "password": server.admin_password });
    let answer = server.post(SIGNIN, &right).send().await.unwrap();
    assert_eq!(answer.status(), 429);
    let after_s: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&after_s));
}

#[tokio::test(flavor = "multi_thread")]
async fn guarded_routes_are_checked_in_order() {
    let server = Server::start_with(|options| {
        options.security.session_lifetime_s = 3;
        options.security.accounts = vec![account(Role::Viewer, "eve")];
    })
    .await;
    let expect = async |authorization: Option<&str>, expected: (u16, &str)| {
        let mut request = server.get(CONFIG);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let (status, text) = message(request.send().await.unwrap()).await;
        assert_eq!((status, text.as_str()), expected, "{authorization:?}");
    };
    let token = server.token("eve", "eve-password").await;
    for none in [None, Some(""), Some("Bearer"), Some("Bearer "), Some(&format!("Basic {token}"))] {
        expect(none, (401, "Unauthorized")).await;
    }
    for forged in ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", &format!("{token}x")] {
        expect(Some(&format!("Bearer {forged}")), (403, "Forbidden")).await;
    }
    let bearer = format!("bearer {token}");
    let answer = server.get(CONFIG).header("authorization", &bearer).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let change = server.put(CONFIG, &json!({})).header("authorization", &bearer).send();
    assert_eq!(message(change.await.unwrap()).await, (403, "Forbidden".into()));
    // `HEAD` needs the same role as `GET`.
    let head = server.http.head(server.url(CONFIG)).header("authorization", &bearer).send();
    assert_eq!(head.await.unwrap().status(), 200);
    tokio::time::sleep(std::time::Duration::from_millis(4_100)).await;
    expect(Some(&bearer), (401, "JWT token expired")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_is_decided_on_the_route_not_on_its_spelling() {
    let server = Server::start().await;
    for path in [
        "/api/maxine/control/CONFIG",
        "/api/maxine/serviceops/Servers",
        "/api/actuator/AUDIT",
        "/LOGS/maxine-requests.log",
        "/shutdown",
        "/api/maxine//control/config",
    ] {
        let answer = server.get(path).send().await.unwrap();
        assert_eq!(message(answer).await, (404, "Not found".into()), "{path}");
    }
    for path in [
        "/api/maxine/control/config/",
        "/api/maxine/control/config/more",
        "/api/maxine/verifyToken",
        "/api/maxine/serviceops/servers",
        "/api/actuator/audit",
        "/logs/maxine-requests.log",
        "/logs/..%2f..%2fetc%2fpasswd",
    ] {
        let answer = server.get(path).send().await.unwrap();
        assert_eq!(message(answer).await, (401, "Unauthorized".into()), "{path}");
    }
    let token = server.admin().await;
    for path in ["/api/maxine/verifyToken", "/logs/..%2f..%2fetc%2fpasswd", "/logs/none"] {
        let answer = server.get(path).bearer_auth(&token).send().await.unwrap();
        assert_eq!(message(answer).await, (404, "Not found".into()), "{path}");
    }
    // A wrong method is answered with 404, not with 405.
    let answer = server.get(SIGNIN).send().await.unwrap();
    assert_eq!(message(answer).await, (404, "Not found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_its_role() {
    use maxine_api::access::Access;
    let server = Server::start_with(|options| {
        options.security.accounts = vec![
            account(Role::Viewer, "eve"),
            account(Role::Operator, "oda"),
            account(Role::Admin, "ada"),
        ];
    })
    .await;
    let mut callers = vec![(None, None)];
    for (role, name) in [(Role::Viewer, "eve"), (Role::Operator, "oda"), (Role::Admin, "ada")] {
        callers.push((Some(role), Some(server.token(name, &format!("{name}-password")).await)));
    }
    for rule in rules().filter(|rule| !rule.path.starts_with("/api/v1")) {
        let path = rule.path.replace("{service}", "s").replace("{*path}", "x");
        let path = path.replace("{file}", "none");
        let method = if rule.method == "*" { "GET" } else { rule.method };
        let required = match rule.access {
            Access::Viewer => Some(Role::Viewer),
            Access::Operator => Some(Role::Operator),
            Access::Admin => Some(Role::Admin),
            Access::Open | Access::Registration | Access::Discovery => None,
        };
        for (role, token) in &callers {
            let method = method.parse::<reqwest::Method>().unwrap();
            let mut request = server.http.request(method, server.url(&path));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let status = request.send().await.unwrap().status().as_u16();
            let refused = match (required, role) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(required), Some(role)) => *role < required,
            };
            let expected = if role.is_none() { 401 } else { 403 };
            assert_eq!(status == expected, refused, "{rule:?} as {role:?}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn change_password() {
    let server = Server::start().await;
    let token = server.admin().await;
    let change = async |body: Value| {
        let answer = server.put(CHANGE, &body).bearer_auth(&token).send().await.unwrap();
        message(answer).await
    };
    let text = "Please provide valid existing password and new password both.";
    for body in [
        json!({}),
        json!({"password": server.admin_password}),
        json!({"password": server.admin_password, "newPassword": ""}),
        json!({"password": server.admin_password, "newPassword": {"an": "object"}}),
        json!({"password": server.admin_password, "newPassword": 5}),
        json!({"password": "wrong", "newPassword": "new-password"}),
    ] {
        assert_eq!(change(body).await, (400, text.into()));
    }
    // The Node.js Maxine accepted any text. Here one rule applies to every password of a user.
    for short in ["x", "admin2"] {
        let body = json!({"password": server.admin_password, "newPassword": short});
        let (status, text) = change(body).await;
        assert_eq!(status, 400);
        assert!(text.starts_with("newPassword must be at least 8 characters"), "{text}");
    }
    let good = json!({"password": server.admin_password, "newPassword": "new-password"});
    assert_eq!(change(good).await, (200, "successfully updated password".into()));
    let answer = server.get(CONFIG).bearer_auth(&token).send().await.unwrap();
    assert_eq!(message(answer).await, (401, "Unauthorized".into()));
    let old = json!({ "userName": "admin", "password": server.admin_password });
    assert_eq!(server.post(SIGNIN, &old).send().await.unwrap().status(), 401);
    let new = server.token("admin", "new-password").await;
    assert_eq!(claims(&new).1["credentialVersion"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn change_password_of_an_account_from_the_environment() {
    let server = Server::start_with(|options| {
        options.security.accounts = vec![account(Role::Admin, "ada")];
    })
    .await;
    assert_eq!(server.admin_password, "", "no other administrator is made");
    let token = server.token("ada", "ada-password").await;
    let body = json!({"password": "ada-password", "newPassword": "x"});
    let answer = server.put(CHANGE, &body).bearer_auth(&token).send().await.unwrap();
    let text =
        "Admin credentials are managed by environment variables and cannot be changed at runtime.";
    assert_eq!(message(answer).await, (409, text.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_and_discovery_can_ask_for_a_token() {
    use maxine_api::access::AccessMode;
    let server = Server::start_with(|options| {
        options.api.registration_access = AccessMode::Token;
        options.api.discovery_access = AccessMode::Token;
        options.security.accounts = vec![account(Role::Viewer, "eve")];
    })
    .await;
    let body = json!({"hostName": "h", "nodeName": "n", "serviceName": "s"});
    let register = "/api/maxine/serviceops/register";
    assert_eq!(server.post(register, &body).send().await.unwrap().status(), 401);
    let viewer = server.token("eve", "eve-password").await;
    let answer = server.post(register, &body).bearer_auth(&viewer).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let admin = server.admin().await;
    let answer = server.post(register, &body).bearer_auth(&admin).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let discover = "/api/maxine/serviceops/discover?serviceName=s";
    assert_eq!(server.get(discover).send().await.unwrap().status(), 401);
    assert_eq!(server.get("/api/maxine/serviceops/proxy/s/x").send().await.unwrap().status(), 401);
    let answer = server.get(discover).bearer_auth(&viewer).send().await.unwrap();
    assert_eq!(answer.status(), 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboards_cookie_needs_a_header_to_change_something() {
    let server = Server::start().await;
    let cookie = format!("other=1; maxine_session={}", server.admin().await);
    let read = server.get(CONFIG).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(read.status(), 200);
    let body = json!({"logAsync": false});
    let without = server.put(CONFIG, &body).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(without.status(), 403);
    let with = server.put(CONFIG, &body).header("cookie", &cookie).header("x-maxine-csrf", "1");
    assert_eq!(with.send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_each_client_has_its_own_sign_in_limit() {
    use maxine_gateway::TrustedProxies;
    let server = Server::start_with(|options| {
        options.security.signin_attempts_max = 3;
        options.api.trusted_proxies = TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
    })
    .await;
    let try_from = async |field: &str, value: &str, password: &str| {
        let body = json!({ "userName": "admin", "password": password });
        let request = server.post(SIGNIN, &body).header("x-forwarded-proto", "https");
        let answer = request.header(field, value).send().await.unwrap();
        answer.status().as_u16()
    };
    for _ in 0..3 {
        assert_eq!(try_from("x-forwarded-for", "6.6.6.6:1234", "wrong one").await, 401);
    }
    // Addresses that a client writes before those that the proxy adds make no difference.
    assert_eq!(try_from("x-forwarded-for", "9.9.9.9, 6.6.6.6", "wrong one").await, 429);
    assert_eq!(try_from("forwarded", "for=\"6.6.6.6:80\"", "wrong one").await, 429);
    // The administrator signs in from elsewhere through the same proxy.
    assert_eq!(try_from("x-forwarded-for", "7.7.7.7", &server.admin_password).await, 200);
    assert_eq!(try_from("forwarded", "for=\"[2a00::1]\"", &server.admin_password).await, 200);
    let token = server.token("admin", &server.admin_password).await;
    let traces = server.get("/api/v1/traces").bearer_auth(&token).send().await.unwrap();
    let traces = traces.text().await.unwrap();
    for client in ["6.6.6.6", "7.7.7.7", "2a00::1"] {
        assert!(traces.contains(&format!("\"{client}\"")), "{client}: {traces}");
    }
    // Redirect and resolve choose by the same address, on the fast path and on the slow path.
    let strategy = json!({"serverSelectionStrategy": "RH"});
    let set = server.put(CONFIG, &strategy).bearer_auth(&token).send().await.unwrap();
    assert_eq!(set.status(), 200);
    for n in 0..8 {
        let name = format!("n{n}");
        server.register(json!({"hostName": name, "nodeName": name, "serviceName": "s"})).await;
    }
    let discover = "/api/maxine/serviceops/discover?serviceName=s";
    let mut chosen = std::collections::BTreeSet::new();
    for n in 0..16 {
        let client = format!("203.0.113.{n}");
        let location = async |accept: &str| {
            let request = server.get(discover).header("x-forwarded-for", &client);
            let answer = request.header("accept", accept).send().await.unwrap();
            answer.headers()["location"].to_str().unwrap().to_owned()
        };
        let plain = location("*/*").await;
        assert_eq!(plain, location("text/html").await, "{client}");
        chosen.insert(plain);
    }
    assert!(chosen.len() > 1, "every client got the same instance: {chosen:?}");
}

/// The actions of an operator while the cluster accepted no writes are recorded later, even after a restart.
/// Equal uses that wait are counted in one record, so that a scraper does not fill the file.
#[tokio::test(flavor = "multi_thread")]
async fn uses_of_the_break_glass_token_outlive_a_restart_until_they_are_recorded() {
    const BREAK_GLASS: &str = "mxb_0123456789abcdef";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pending-audit");
    let start = async || {
        Server::start_with(|options| {
            options.security.break_glass = Some(Secret::new(BREAK_GLASS));
            options.api.pending_audit_file = Some(file.clone());
        })
        .await
    };
    let eventually = async |what: &str, mut is_so: Box<dyn FnMut() -> bool + '_>| {
        for _ in 0..1_000 {
            if is_so() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    };
    let server = start().await;
    server.store.set_available(false);
    for _ in 0..4 {
        let scraped = server.get("/api/actuator/prometheus").bearer_auth(BREAK_GLASS);
        assert_eq!(scraped.send().await.unwrap().status(), 200);
    }
    let kept = || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"count\":3"));
    eventually("all uses are in the file", Box::new(kept)).await;
    drop(server);

    let again = start().await;
    let used = || {
        again.view.with_snapshot(|now| {
            let records = now.state.audit().records();
            let uses = records
                .iter()
                .filter(|record| record.action == maxine_state::AuditAction::BreakGlassUse);
            uses.map(|record| record.object.to_string()).collect::<Vec<_>>()
        })
    };
    let scraped = "GET /api/actuator/prometheus, answered 200";
    // Each record has the time of the request, not the time at which it was written.
    let expected = [format!("{scraped}, at 20"), format!("{scraped}, 3 times, from 20")];
    let recorded = || {
        let used = used();
        used.len() == 2 && used.iter().zip(&expected).all(|(is, begins)| is.starts_with(begins))
    };
    eventually("they are recorded", Box::new(recorded)).await;
    eventually("the file is gone", Box::new(|| !file.exists())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_contact_refuses_credentials_but_its_break_glass_token() {
    const BREAK_GLASS: &str = "mxb_0123456789abcdef";
    let server = Server::start_with(|options| {
        options.security.break_glass = Some(Secret::new(BREAK_GLASS));
        options.security.credential_staleness_max_ms = 1;
    })
    .await;
    let token = server.admin().await;
    let made = server.post("/api/v1/tokens", &json!({"role": "admin"})).bearer_auth(&token);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    server.store.set_available(false);
    server.store.set_staleness_ms(None);
    for token in [&token, made["token"].as_str().unwrap()] {
        let refused = server.get(CONFIG).bearer_auth(token).send().await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (503, &"5".parse().unwrap())
        );
        let native = server.get("/api/v1/me").bearer_auth(token).send().await.unwrap();
        assert_eq!(native.status(), 503);
        let text = native.text().await.unwrap();
        assert!(text.contains("break-glass"), "an operator reads how to sign in: {text}");
    }
    let right = json!({ "userName": "admin", "password": server.admin_password });
    assert_eq!(server.post(SIGNIN, &right).send().await.unwrap().status(), 503);
    let open = server.get("/api/actuator/health").bearer_auth(&token).send().await.unwrap();
    assert_eq!(open.status(), 200, "what is open stays open");
    for wrong in ["mxb_", "mxb_0123456789abcdee", "mxb_0123456789abcdef0"] {
        let answer = server.get(CONFIG).bearer_auth(wrong).send().await.unwrap();
        assert_eq!(message(answer).await, (403, "Forbidden".into()));
    }
    for path in [
        CONFIG,
        "/api/actuator/prometheus",
        "/api/actuator/alerts",
        "/api/logs/recent",
        "/api/v1/cluster/leadership",
        "/api/v1/alerts",
        "/api/v1/audit",
    ] {
        let answer = server.get(path).bearer_auth(BREAK_GLASS).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let me = server.get("/api/v1/me").header("x-maxine-token", BREAK_GLASS).send().await.unwrap();
    let me: Value = me.json().await.unwrap();
    let of_glass = json!({"user": "break-glass:maxine", "role": "admin", "via": "break_glass", "expires_at_ms": null});
    assert_eq!(me, of_glass);
    // Its uses are in the audit log as soon as records can be written.
    server.store.set_available(true);
    let mut changes = server.view.index_changes();
    let used = || {
        server.view.with_snapshot(|now| {
            let records = now.state.audit().records();
            let uses = records
                .iter()
                .filter(|record| record.action == maxine_state::AuditAction::BreakGlassUse);
            uses.map(|record| record.object.to_string()).collect::<Vec<_>>()
        })
    };
    let config_was_read =
        |used: &String| used.starts_with(&format!("GET {CONFIG}, answered 200, "));
    while !used().iter().any(config_was_read) {
        changes.changed().await.unwrap();
    }
    server.store.set_staleness_ms(Some(0));
    let back = server.get(CONFIG).bearer_auth(&token).send().await.unwrap();
    assert_eq!(back.status(), 200, "contact is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_get_is_never_authorized_by_a_cookie() {
    const CLEAR: &str = "/api/logs/recent/clear";
    let server = Server::start().await;
    let token = server.admin().await;
    let cookie = format!("maxine_session={token}");
    // A browser follows an instance's redirect here, with the cookie.
    for csrf in [false, true] {
        let mut request = server.get(CLEAR).header("cookie", &cookie);
        if csrf {
            request = request.header("x-maxine-csrf", "1");
        }
        assert_eq!(message(request.send().await.unwrap()).await, (403, "Forbidden".into()));
    }
    let clients = server.get(CLEAR).bearer_auth(&token).send().await.unwrap();
    assert_eq!(clients.status(), 200, "a client with a token may, as ever");
    let post = server.post(CLEAR, &json!({})).header("cookie", &cookie);
    assert_eq!(post.header("x-maxine-csrf", "1").send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_its_cookie_are_for_names_of_the_node() {
    let server = Server::start_with(|options| {
        options.api.allowed_hosts = vec!["maxine.example".into()];
    })
    .await;
    let token = server.admin().await;
    let cookie = format!("maxine_session={token}");
    server.register(json!({"hostName": "h", "nodeName": "n", "serviceName": "s"})).await;
    let asked = async |path: &str, host: &str, name: &str, value: &str| {
        let request = server.get(path).header("host", host).header(name, value);
        request.send().await.unwrap().status().as_u16()
    };
    let port = server.addr.port();
    for own in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        "[::1]".into(),
        "192.0.2.7".into(),
        "Maxine.Example.:443".into(),
    ] {
        assert_eq!(asked("/", &own, "x-own", "1").await, 200, "{own}");
        assert_eq!(asked(CONFIG, &own, "cookie", &cookie).await, 200, "{own}");
    }
    for other in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "evil:81"]
    {
        for page in ["/", "/ui/services", "/api/docs", "/api/docs/", "/api/docs/index.css"] {
            assert_eq!(asked(page, other, "x-own", "1").await, 421, "{other} {page}");
        }
        assert_eq!(asked(CONFIG, other, "cookie", &cookie).await, 403, "{other}");
        // The check of the origin does not apply to requests with a token, to registration and to discovery.
        let bearer = format!("Bearer {token}");
        assert_eq!(asked(CONFIG, other, "authorization", &bearer).await, 200, "{other}");
        let discover = "/api/maxine/serviceops/discover?serviceName=s";
        assert_eq!(asked(discover, other, "accept", "*/*").await, 302, "{other}");
        let register = json!({"hostName": "h", "nodeName": "n", "serviceName": "s"});
        let register = server.post("/api/maxine/serviceops/register", &register);
        assert_eq!(register.header("host", other).send().await.unwrap().status(), 200, "{other}");
    }
}

/// Otherwise a client would send its next request on a connection that is being closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_before_the_end_of_the_request_says_that_the_connection_ends() {
    let server = Server::start().await;
    let put = |body: String| {
        let path = "/api/v1/services/default/orders/instances/a";
        server.http.put(server.url(path)).header("content-type", "application/json").body(body)
    };
    let refused = async |request: reqwest::RequestBuilder, status: u16| {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status);
        answer.headers().get("connection").cloned()
    };
    let close = Some(reqwest::header::HeaderValue::from_static("close"));
    assert_eq!(refused(put("x".repeat(1_100_000)), 413).await, close);
    // If the request was read to its end or has no body, the connection stays open.
    assert_eq!(refused(put("{}".into()), 400).await, None);
    assert_eq!(refused(server.get("/api/v1/resolve/default/nope"), 404).await, None);
}
