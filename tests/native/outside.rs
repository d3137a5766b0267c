//! Identities of others: sign-in at OpenID providers, with the attacks on it, and tokens of workloads.

use std::collections::HashMap;

use maxine_api::ApiSettings;
use maxine_api::access::AccessMode;
use maxine_identity::{CookieUse, OutsideSettings};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::idp::{Idp, query};
use crate::support::Server;

fn ada() -> Value {
    json!({"sub": "42", "preferred_username": "ada", "groups": ["staff"]})
}

/// Two providers and one issuer of tokens.
async fn set(server: &Server, corp: &str, other: &str, workloads: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let provider = |name: &str, issuer: &str| {
        format!(
            "[[provider]]\nname = \"{name}\"\ntitle = \"The {name}\"\nissuer = \"{issuer}\"\nclient_id = \"maxine\"\n\
             client_secret_file = \"{}\"\nroles = {{ admin = [\"platform\"], viewer = [\"staff\"] }}\n",
            dir.path().join("secret").display()
        )
    };
    let text = format!(
        "public_url = \"http://{}\"\n{}{}[[issuer]]\nname = \"k8s\"\nissuer = \"{workloads}\"\naudiences = [\"maxine\"]\n\
         [[issuer.rule]]\nrole = \"operator\"\nclaims = {{ sub = \"shop:*\" }}\n",
        server.addr,
        provider("corp", corp),
        provider("other", other)
    );
    std::fs::write(dir.path().join("secret"), "s: %cret\n").unwrap();
    std::fs::write(dir.path().join("identities.toml"), text).unwrap();
    let settings = OutsideSettings::read(&dir.path().join("identities.toml")).unwrap();
    server.security.set_outside(&settings).unwrap();
    // The secret is read at each sign-in.
    dir
}

/// What a browser has after a sign-in was begun.
struct Begun {
    location: String,
    cookie: String,
}

fn cookies(answer: &Response) -> Vec<String> {
    let all = answer.headers().get_all("set-cookie").iter();
    all.map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn location(answer: &Response) -> String {
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    answer.headers()["location"].to_str().unwrap().to_owned()
}

async fn begin(server: &Server, provider: &str, return_to: &str) -> Begun {
    let request = server.open(Method::GET, &format!("/session/providers/{provider}/start"));
    let answer = request.query(&[("return_to", return_to)]).send().await.unwrap();
    let cookie = cookies(&answer).remove(0);
    assert!(cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
    Begun { location: location(&answer), cookie: cookie.split(';').next().unwrap().to_owned() }
}

async fn come_back(
    server: &Server,
    provider: &str,
    cookie: &str,
    params: &HashMap<String, String>,
) -> Response {
    let request = server.open(Method::GET, &format!("/session/providers/{provider}/callback"));
    request.query(params).header("cookie", cookie).send().await.unwrap()
}

/// The cookie of the session that an answer sets.
fn session(answer: &Response) -> Option<String> {
    let cookie =
        cookies(answer).into_iter().find(|cookie| cookie.starts_with("maxine_session="))?;
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    cookie.split(';').next().map(str::to_owned)
}

async fn sign_in(server: &Server, idp: &Idp, claims: Value) -> (String, Option<String>) {
    let begun = begin(server, "corp", "/#/services").await;
    let params = idp.authorize(&begun.location, claims);
    let answer = come_back(server, "corp", &begun.cookie, &params).await;
    (location(&answer), session(&answer))
}

/// Waits until the audit log has a sign-in with this object.
async fn recorded(server: &Server, object: &str) {
    while !server.get("/audit?action=session.create").await.to_string().contains(object) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn me(server: &Server, cookie: &str) -> (StatusCode, Value) {
    server.json(server.open(Method::GET, "/me").header("cookie", cookie)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_with_the_account_of_the_company() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, "https://other.invalid", "https://k8s.invalid").await;
    let (_, listed) = server.json(server.open(Method::GET, "/session/providers")).await;
    assert_eq!(listed["items"][0], json!({"name": "corp", "title": "The corp"}));
    let (to, cookie) = sign_in(&server, &idp, ada()).await;
    assert_eq!(to, "/#/services");
    assert_eq!(idp.requests(), ["Basic bWF4aW5lOnMlM0ElMjAlMjVjcmV0"], "RFC 6749, section 2.3.1");
    let cookie = cookie.unwrap();
    let (_, known) = me(&server, &cookie).await;
    assert_eq!((&known["user"], &known["role"]), (&"corp/ada".into(), &"viewer".into()));
    recorded(&server, &format!("corp/ada issuer={} subject=42", idp.issuer)).await;
    // The user has no password, and gets none by guessing.
    for password in ["", "outside:", "long enough"] {
        let body = json!({"user": "corp/ada", "password": password});
        let (status, _) = server.json(server.open(Method::POST, "/session").json(&body)).await;
        assert!(status == 401 || status == 422 || status == 400, "{status}");
    }
    // Another group is another role, and sessions with the former role end.
    let (_, again) = sign_in(
        &server,
        &idp,
        json!({"sub": "42", "preferred_username": "ada", "groups": ["platform"]}),
    )
    .await;
    let again = again.unwrap();
    assert_eq!(me(&server, &again).await.1["role"], "admin");
    assert_eq!(me(&server, &cookie).await.0, 401);
    // Sign-out ends it, and so does the deletion of the user.
    let out = server.open(Method::DELETE, "/session").header("cookie", &again);
    assert_eq!(out.header("x-maxine-csrf", "1").send().await.unwrap().status(), 204);
    assert_eq!(me(&server, &again).await.0, 401);
    let third = sign_in(&server, &idp, ada()).await.1.unwrap();
    let (status, _) = server.json(server.admin(Method::DELETE, "/users/corp%2Fada")).await;
    assert_eq!(status, 200);
    assert_eq!(me(&server, &third).await.0, 401);
    let fourth = sign_in(&server, &idp, ada()).await.1.unwrap();
    assert_eq!(me(&server, &fourth).await.0, 200);
    assert_eq!(me(&server, &third).await.0, 401, "a user who is made again inherits no session");
    let at_provider = server.open(Method::GET, "/session/providers/corp/sign-out");
    let to = location(&at_provider.send().await.unwrap());
    assert!(to.starts_with(&format!("{}/end?", idp.issuer)), "{to}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_the_one_who_began_the_sign_in_gets_no_session() {
    let (server, idp, evil) = (Server::start().await, Idp::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, &evil.issuer, "https://k8s.invalid").await;
    let refused =
        async |cookie: &str, provider: &str, params: &HashMap<String, String>, why: &str| {
            let answer = come_back(&server, provider, cookie, params).await;
            assert_eq!(location(&answer), format!("/?sign_in={why}"));
            assert_eq!(session(&answer), None);
        };
    let (mine, victims) = (begin(&server, "corp", "/").await, begin(&server, "corp", "/").await);
    let params = idp.authorize(&mine.location, ada());
    // The browser of a victim: without a ticket, with its own, and with a changed one.
    refused("", "corp", &params, "start_again").await;
    refused(&victims.cookie, "corp", &params, "start_again").await;
    refused(&mine.cookie[..mine.cookie.len() - 1], "corp", &params, "start_again").await;
    let mut other = params.clone();
    other.insert("state".into(), query(&victims.location)["state"].clone());
    refused(&mine.cookie, "corp", &other, "start_again").await;
    // The answer of one provider at the address of another, and with the name of another.
    refused(&mine.cookie, "other", &params, "start_again").await;
    let mut other = params.clone();
    other.insert("iss".into(), evil.issuer.clone());
    refused(&mine.cookie, "corp", &other, "invalid_answer").await;
    assert!(idp.requests().is_empty(), "no code went to the provider");
    // A provider that must name itself and does not.
    let begun = begin(&server, "corp", "/").await;
    let mut unnamed = idp.authorize(&begun.location, ada());
    unnamed.remove("iss");
    refused(&begun.cookie, "corp", &unnamed, "invalid_answer").await;
    // A code that was used, with the same ticket and with another.
    let begun = begin(&server, "corp", "/").await;
    let params = idp.authorize(&begun.location, ada());
    let answer = come_back(&server, "corp", &begun.cookie, &params).await;
    assert!(session(&answer).is_some());
    refused(&begun.cookie, "corp", &params, "start_again").await;
    let next = begin(&server, "corp", "/").await;
    let mut replayed = idp.authorize(&next.location, ada());
    replayed.insert("code".into(), params["code"].clone());
    refused(&next.cookie, "corp", &replayed, "denied").await;
    // A code of another sign-in, which was caught on its way: the verifier does not fit.
    let (begun, caught) = (begin(&server, "corp", "/").await, begin(&server, "corp", "/").await);
    let mut injected = idp.authorize(&begun.location, ada());
    injected.insert("code".into(), idp.authorize(&caught.location, ada())["code"].clone());
    refused(&begun.cookie, "corp", &injected, "denied").await;
    let begun = begin(&server, "corp", "/").await;
    let mut denied = idp.authorize(&begun.location, ada());
    denied.remove("code");
    denied.insert("error".into(), "access_denied".into());
    refused(&begun.cookie, "corp", &denied, "denied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_token_that_is_not_for_this_sign_in_opens_no_session() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, "https://other.invalid", "https://k8s.invalid").await;
    for (change, why) in [
        (("aud", json!("another")), "invalid_answer"),
        (("aud", json!(["maxine", "another"])), "invalid_answer"),
        (("azp", json!("another")), "invalid_answer"),
        (("iss", json!("https://other.invalid")), "invalid_answer"),
        (("nonce", json!("replayed")), "invalid_answer"),
        (("nonce", Value::Null), "invalid_answer"),
        (("exp", json!(1_000)), "invalid_answer"),
        (("iat", json!(9_999_999_999_u64)), "invalid_answer"),
        (("sub", Value::Null), "invalid_answer"),
        (("groups", json!(["stafff"])), "no_role"),
        (("preferred_username", json!("a:b")), "unusable_name"),
        (("preferred_username", json!("a\u{202e}b")), "unusable_name"),
    ] {
        idp.change(vec![change.clone()]);
        let refused = sign_in(&server, &idp, ada()).await;
        assert_eq!(refused, (format!("/?sign_in={why}"), None), "{change:?}");
    }
    idp.change(Vec::new());
    idp.forge(true);
    assert_eq!(sign_in(&server, &idp, ada()).await.0, "/?sign_in=invalid_answer");
    idp.forge(false);
    // A name belongs to the account that had it first, and a user with a password to nobody at a provider.
    assert!(sign_in(&server, &idp, ada()).await.1.is_some());
    let other = json!({"sub": "43", "preferred_username": "ada", "groups": ["platform"]});
    assert_eq!(sign_in(&server, &idp, other).await.0, "/?sign_in=name_taken");
    let body = json!({"role": "admin", "password": "long enough"});
    let (status, _) = server.json(server.admin(Method::PUT, "/users/corp%2Fbob").json(&body)).await;
    assert_eq!(status, 200);
    let bob = json!({"sub": "44", "preferred_username": "bob", "groups": ["staff"]});
    assert_eq!(sign_in(&server, &idp, bob).await.0, "/?sign_in=name_taken");
    recorded(&server, "provider=corp reason=no_role").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_sent_to_this_host_only_and_a_provider_that_is_away_harms_no_password() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, "http://127.0.0.1:1", "https://k8s.invalid").await;
    for hostile in ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x"] {
        let begun = begin(&server, "corp", hostile).await;
        let params = idp.authorize(&begun.location, ada());
        let answer = come_back(&server, "corp", &begun.cookie, &params).await;
        assert_eq!(location(&answer), "/", "{hostile}");
    }
    // The own name of the redirect comes from the configuration, and never from the request.
    let start = server.open(Method::GET, "/session/providers/corp/start");
    let answer = start.header("host", "evil.example").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    let own = format!("http://{}/api/v1/session/providers/corp/callback", server.addr);
    assert_eq!(query(&begin(&server, "corp", "/").await.location)["redirect_uri"], own);
    for (provider, why) in [("other", "provider_away"), ("nobody", "not_set_up")] {
        let start = server.open(Method::GET, &format!("/session/providers/{provider}/start"));
        let answer = start.send().await.unwrap();
        assert_eq!(location(&answer), format!("/?sign_in={why}"));
    }
    let (user, password) = server.password.clone();
    server.sign_in(&user, &password).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_signs_in_on_its_own_machine_or_on_another_device() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, "https://other.invalid", "https://k8s.invalid").await;
    let post = async |path: &str, body: Value| {
        let request = server.open(Method::POST, &format!("/session/providers/corp/{path}"));
        server.json(request.json(&body)).await
    };
    for elsewhere in ["https://evil.example/", "http://localhost:1/", "http://10.0.0.1:1/"] {
        let (status, answer) = post("start", json!({"redirect_uri": elsewhere})).await;
        assert_eq!(status, 400, "{answer}");
    }
    let (_, begun) = post("start", json!({"redirect_uri": "http://127.0.0.1:4000/callback"})).await;
    let params = idp.authorize(begun["authorization_url"].as_str().unwrap(), ada());
    assert_eq!(begun["state"], params["state"]);
    let body = json!({
        "ticket": begun["ticket"], "state": params["state"], "code": params["code"], "iss": params["iss"],
    });
    // The ticket of a program is none of a browser's sign-in, and the other way round.
    let cookie = format!("maxine_sign_in={}", begun["ticket"].as_str().unwrap());
    let (status, answer) = post("finish", body.clone()).await;
    assert_eq!((status, &answer["user"]), (StatusCode::OK, &"corp/ada".into()), "{answer}");
    assert_eq!(
        location(&come_back(&server, "corp", &cookie, &params).await),
        "/?sign_in=start_again"
    );
    assert_eq!(post("finish", body).await.0, 401);
    let (_, device) = post("device", json!({})).await;
    assert_eq!(device["user_code"], "ABCD-EFGH");
    let ticket = json!({"ticket": device["ticket"]});
    assert_eq!(
        post("device/poll", ticket.clone()).await,
        (StatusCode::ACCEPTED, json!({"slow_down": false}))
    );
    idp.approve_device();
    let (status, answer) = loop {
        let polled = post("device/poll", ticket.clone()).await;
        if polled.0 != StatusCode::ACCEPTED {
            break polled;
        }
        // The interval of the provider is not over.
        assert_eq!(polled.1, json!({"slow_down": true}));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((status, &answer["role"]), (StatusCode::OK, &"viewer".into()), "{answer}");
    assert_eq!(post("device/poll", ticket).await.0, 401, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_without_a_code_does_not_end_the_sign_in() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, "https://other.invalid", "https://k8s.invalid").await;
    let begun = begin(&server, "corp", "/").await;
    let params = idp.authorize(&begun.location, ada());
    for (name, value, why) in
        [("error", "x", "denied"), ("code", "", "invalid_answer"), ("iss", "x", "invalid_answer")]
    {
        let mut wrong = params.clone();
        wrong.insert(name.into(), value.into());
        let answer = come_back(&server, "corp", &begun.cookie, &wrong).await;
        assert_eq!((location(&answer), session(&answer)), (format!("/?sign_in={why}"), None));
    }
    assert!(idp.requests().is_empty(), "nothing went to the provider");
    let answer = come_back(&server, "corp", &begun.cookie, &params).await;
    assert!(session(&answer).is_some(), "{}", location(&answer));
    // New settings do not make the node forget the sign-in.
    let _files = set(&server, &idp.issuer, "https://other.invalid", "https://k8s.invalid").await;
    let answer = come_back(&server, "corp", &begun.cookie, &params).await;
    assert_eq!(location(&answer), "/?sign_in=start_again");
}

/// Waits until the provider was asked for a token this often.
async fn asked(idp: &Idp, times: usize) {
    while idp.requests().len() < times {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_finds_no_place_can_be_tried_again() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, "https://other.invalid", "https://k8s.invalid").await;
    assert!(sign_in(&server, &idp, ada()).await.1.is_some());
    idp.hold(Some("authorization_code"));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let begun = begin(&server, "corp", "/").await;
        let params = idp.authorize(&begun.location, ada());
        let request = server.open(Method::GET, "/session/providers/corp/callback");
        let request = request.query(&params).header("cookie", begun.cookie);
        waiting.spawn(async { session(&request.send().await.unwrap()) });
    }
    asked(&idp, 9).await;
    let begun = begin(&server, "corp", "/").await;
    let params = idp.authorize(&begun.location, ada());
    let answer = come_back(&server, "corp", &begun.cookie, &params).await;
    assert_eq!(location(&answer), "/?sign_in=try_later");
    assert!(cookies(&answer).is_empty(), "the browser keeps the ticket");
    idp.hold(None);
    while let Some(session) = waiting.join_next().await {
        assert!(session.unwrap().is_some());
    }
    let answer = come_back(&server, "corp", &begun.cookie, &params).await;
    assert!(session(&answer).is_some(), "{}", location(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_other_devices_come_at_the_interval_and_take_no_place_of_other_sign_ins() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, "https://other.invalid", "https://k8s.invalid").await;
    idp.want_interval(60);
    let post = |path: &str, body: &Value| {
        server.open(Method::POST, &format!("/session/providers/corp/{path}")).json(body)
    };
    let begin = async || {
        let (status, device) = server.json(post("device", &json!({}))).await;
        assert_eq!((status, &device["interval_ms"]), (StatusCode::OK, &json!(60_000)), "{device}");
        json!({"ticket": device["ticket"]})
    };
    let ticket = begin().await;
    for slow_down in [false, true, true] {
        let polled = server.json(post("device/poll", &ticket)).await;
        assert_eq!(polled, (StatusCode::ACCEPTED, json!({ "slow_down": slow_down })));
    }
    assert_eq!(idp.requests().len(), 1, "the provider was asked once");
    // One address takes all its places for questions.
    idp.hold(Some("device_code"));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let poll = post("device/poll", &begin().await);
        waiting.spawn(async { poll.send().await.unwrap().status() });
    }
    asked(&idp, 9).await;
    let (status, answer) = server.json(post("device/poll", &begin().await)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert!(sign_in(&server, &idp, ada()).await.1.is_some());
    idp.hold(None);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::ACCEPTED);
    }
}

/// A provider that accepts connections and never answers.
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    (listener, issuer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_provider_does_not_delay_another() {
    let (server, idp, (_listener, silent)) = (Server::start().await, Idp::start().await, silent());
    let _files = set(&server, &idp.issuer, &silent, "https://k8s.invalid").await;
    // Whoever wants an answer soon gets one, without the URLs and the causes within the network.
    let body = json!({"redirect_uri": "http://127.0.0.1:4000/callback"});
    let request = server.open(Method::POST, "/session/providers/other/start").json(&body);
    let (status, answer) = server.json(request.header("x-maxine-timeout-ms", "300")).await;
    let text = answer.to_string();
    assert!(status == 503 && text.contains("the provider cannot be reached"), "{text}");
    assert!(!text.contains(silent.rsplit(':').next().unwrap()), "{text}");
    // One address fills only its share of the places of this provider, and none of the other's.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let start = server.open(Method::GET, "/session/providers/other/start").send();
        waiting.spawn(async { location(&start.await.unwrap()) });
    }
    for _ in 0..32 {
        assert_eq!(waiting.join_next().await.unwrap().unwrap(), "/?sign_in=try_later");
    }
    assert!(sign_in(&server, &idp, ada()).await.1.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_renamed_at_the_provider_keeps_its_user() {
    let (server, idp) = (Server::start().await, Idp::start().await);
    let _files = set(&server, &idp.issuer, &idp.issuer, "https://k8s.invalid").await;
    let first = sign_in(&server, &idp, ada()).await.1.unwrap();
    let renamed = json!({"sub": "42", "preferred_username": "ada-l", "groups": ["staff"]});
    let second = sign_in(&server, &idp, renamed.clone()).await.1.unwrap();
    assert_eq!(me(&server, &second).await.1["user"], "corp/ada");
    assert!(!server.get("/users").await.to_string().contains("corp/ada-l"));
    // The identities file can name two providers with the same issuer. Each of them has its own users.
    let begun = begin(&server, "other", "/").await;
    let params = idp.authorize(&begun.location, renamed);
    let other = session(&come_back(&server, "other", &begun.cookie, &params).await).unwrap();
    assert_eq!(me(&server, &other).await.1["user"], "other/ada-l");
    // The deletion of the user ends all sessions of the account.
    let (status, _) = server.json(server.admin(Method::DELETE, "/users/corp%2Fada")).await;
    assert_eq!(status, 200);
    assert_eq!(
        (me(&server, &first).await.0, me(&server, &second).await.0),
        (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_registers_with_the_token_of_its_platform() {
    let settings = ApiSettings { registration_access: AccessMode::Token, ..ApiSettings::default() };
    let (server, idp) = (Server::start_with(settings).await, Idp::start().await);
    let _files = set(&server, "https://corp.invalid", "https://other.invalid", &idp.issuer).await;
    let token = idp.sign(json!({"sub": "shop:orders"}));
    // The keys are fetched in the background. Until then, the answer asks for patience.
    let mine = loop {
        let (status, answer) =
            server.json(server.open(Method::GET, "/me").bearer_auth(&token)).await;
        if status != 503 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&mine["user"], &mine["via"]),
        (&"jwt:k8s/shop:orders".into(), &"jwt".into()),
        "{mine}"
    );
    let path = "/services/default/orders/instances/orders-1";
    let body = json!({"address": "http://10.0.0.1:80", "ttl_ms": 60_000});
    let register = |token: &str| server.open(Method::PUT, path).bearer_auth(token).json(&body);
    let (status, answer) = server.json(register(&token)).await;
    assert_eq!(status, 200, "{answer}");
    let audit = server.get("/audit?limit=50").await.to_string();
    assert!(audit.contains("jwt:k8s/shop:orders"), "{audit}");
    for (name, value, status) in [
        ("aud", json!("another"), 401),
        ("exp", json!(1_000), 401),
        ("sub", json!("pay:orders"), 403),
        ("iss", json!("https://k8s.invalid"), 401),
    ] {
        idp.change(vec![(name, value)]);
        let refused = register(&idp.sign(json!({"sub": "shop:orders"}))).send().await.unwrap();
        assert_eq!(refused.status(), status, "{name}");
    }
    idp.change(Vec::new());
    idp.forge(true);
    let forged = idp.sign(json!({"sub": "shop:orders"}));
    assert_eq!(register(&forged).send().await.unwrap().status(), 401);
    idp.forge(false);
    // Such a token is no cookie, and it does not reach an instance.
    let (status, _) = me(&server, &format!("maxine_session={token}")).await;
    assert_eq!(status, 401);
    let bearer = format!("Bearer {token}").parse().unwrap();
    let mut headers =
        reqwest::header::HeaderMap::from_iter([(reqwest::header::AUTHORIZATION, bearer)]);
    let caller = server.security.identify(CookieUse::Never, false, &headers).unwrap();
    assert!(server.security.is_still_valid(&caller));
    server.security.strip_tokens(&mut headers);
    assert!(headers.is_empty());
    // Without the issuer, the token and what runs with it end.
    server.security.set_outside(&OutsideSettings::default()).unwrap();
    assert!(!server.security.is_still_valid(&caller));
    assert_eq!(register(&token).send().await.unwrap().status(), 401);
}
