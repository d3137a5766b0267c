//! Proxying: `discover` in proxy mode and the proxy route, against an upstream that returns what it received.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{Server, message, node};

const CONFIG: &str = "/api/maxine/control/config";

/// Fields for the whole origin of the node, which an instance must not set.
const OF_THE_ORIGIN: [&str; 8] = [
    "clear-site-data",
    "service-worker-allowed",
    "strict-transport-security",
    "alt-svc",
    "nel",
    "report-to",
    "expect-ct",
    "public-key-pins",
];

/// Answers each request with what it received, as JSON. Some paths add fields to the answer, or a redirect.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = Router::new().fallback(async |request: Request| {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 20 << 20).await.unwrap();
        let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        let seen = json!({
            "method": parts.method.as_str(),
            "target": parts.uri.path_and_query().unwrap().as_str(),
            "len": body.len(),
            "host": header("host"),
            "traceId": header("x-trace-id"),
            "traceparent": header("traceparent"),
            "own": header("x-own"),
            "hop": header("x-hop"),
            "cookie": header("cookie"),
            "authorization": header("authorization"),
            "token": header("x-maxine-token"),
            "prefix": header("x-forwarded-prefix"),
        });
        let mut response = Response::new(Body::from(seen.to_string()));
        let headers = response.headers_mut();
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        if parts.uri.path().ends_with("/redirect") {
            headers.insert("location", HeaderValue::from_static("/elsewhere"));
            *response.status_mut() = axum::http::StatusCode::FOUND;
        }
        if parts.uri.path().ends_with("/page") {
            let headers = response.headers_mut();
            headers.insert("content-security-policy", HeaderValue::from_static("img-src 'self'"));
            headers.append("set-cookie", HeaderValue::from_static("maxine_session=x; Path=/api"));
            for name in OF_THE_ORIGIN {
                headers.insert(name, HeaderValue::from_static("x"));
            }
        }
        if parts.uri.path().ends_with("/tagged") {
            response.headers_mut().insert("etag", HeaderValue::from_static("\"v1\""));
        }
        if parts.uri.path().ends_with("/own-trace") {
            response.headers_mut().insert("x-trace-id", HeaderValue::from_static("upstreams"));
        }
        response
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

async fn server_with_upstream() -> Server {
    let server = Server::start().await;
    let mut body = node("s p", "n", upstream().await.port());
    body["path"] = json!("/base");
    server.register(body).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy() {
    let server = server_with_upstream().await;
    let proxy = |path: &str| format!("/api/maxine/serviceops/proxy/s%20p{path}");
    let none = server.get("/api/maxine/serviceops/proxy/none/x").send().await.unwrap();
    assert_eq!(message(none).await, (503, "Service Unavailable".into()));
    for (path, target) in [
        ("/x", "/base/x"),
        ("/", "/base"),
        ("", "/base"),
        ("/x/", "/base/x/"),
        ("/x?a=1&a=2&b=", "/base/x?a=1&a=2&b="),
        ("/a%2Fb%20c", "/base/a%2Fb%20c"),
        ("?a=1", "/base?a=1"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let method = method.parse::<reqwest::Method>().unwrap();
            let request = server.http.request(method.clone(), server.url(&proxy(path)));
            let request =
                request.body("0123456789").header("x-own", "kept").header("x-hop", "gone");
            let request = request.header("connection", "x-hop").header("x-trace-id", "mine");
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
            assert_eq!(answer.headers()["x-trace-id"], "mine");
            let traceparent = answer.headers()["traceparent"].to_str().unwrap().to_owned();
            let seen: Value = answer.json().await.unwrap();
            assert_eq!(seen["method"], method.as_str());
            assert_eq!(seen["target"], target);
            assert_eq!((&seen["len"], &seen["own"]), (&json!(10), &json!("kept")));
            assert_eq!((&seen["traceId"], &seen["hop"]), (&json!("mine"), &Value::Null));
            assert_eq!(seen["traceparent"], traceparent);
            assert_ne!(seen["host"], json!(server.addr.to_string()));
        }
    }
    let redirect = server.get(&proxy("/redirect")).send().await.unwrap();
    assert_eq!(
        (redirect.status().as_u16(), &redirect.headers()["location"]),
        (302, &HeaderValue::from_static("/elsewhere"))
    );
    assert!(!redirect.headers().contains_key("x-content-type-options"), "the instance's to say");
    let own = server.get(&proxy("/own-trace")).send().await.unwrap();
    assert_eq!(own.headers()["x-trace-id"], "upstreams");
    let head = server.http.head(server.url(&proxy("/x"))).send().await.unwrap();
    assert!(head.headers()["content-length"].to_str().unwrap().parse::<u64>().unwrap() > 0);
}

/// Only the instance decides whether an answer is 304.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_an_instance_is_compared_by_nobody_else() {
    let server = server_with_upstream().await;
    let discover = "/api/maxine/serviceops/discover?serviceName=s%20p&mode=proxy&endPoint=/tagged";
    for path in ["/api/maxine/serviceops/proxy/s%20p/tagged", discover] {
        let answer = server.get(path).header("if-none-match", "\"v1\"").send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["etag"]),
            (200, &"\"v1\"".parse().unwrap())
        );
        assert!(answer.text().await.unwrap().contains("/base/tagged"));
    }
}

/// Maxine answers `OPTIONS`, unless the service's policy forwards it to the instance. Locations
/// and cookies lead through the proxy if the policy says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_leaves_options_to_instances_and_has_paths_lead_through_the_proxy() {
    let server = server_with_upstream().await;
    let prefix = "/api/maxine/serviceops/proxy/s%20p";
    let url = server.url(&format!("{prefix}/redirect"));
    let options = || server.http.request(reqwest::Method::OPTIONS, &url).send();
    assert_eq!(options().await.unwrap().status(), 204);
    let redirect = server.get(&format!("{prefix}/redirect")).send().await.unwrap();
    assert_eq!(redirect.headers()["location"], "/elsewhere");
    let policy = json!({"traffic": {"options": "forward", "prefix": {}}});
    let path = "/api/v1/services/default/s%20p/policy";
    let put = server.put(path, &policy).bearer_auth(server.admin().await).send().await.unwrap();
    assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
    let answer = options().await.unwrap();
    assert_eq!(answer.status(), 302);
    // `/elsewhere` is not below the instance's `/base`, so it is not changed.
    assert_eq!(answer.headers()["location"], "/elsewhere");
    let seen: Value = answer.json().await.unwrap();
    assert_eq!((&seen["method"], &seen["target"]), (&json!("OPTIONS"), &json!("/base/redirect")));
    assert_eq!(seen["prefix"], prefix);
    let root: Value = server.get(&format!("{prefix}/")).send().await.unwrap().json().await.unwrap();
    assert_eq!(root["target"], "/base/");
    let mut at_root = node("root", "n", upstream().await.port());
    at_root["path"] = json!("");
    server.register(at_root).await;
    let path = "/api/v1/services/default/root/policy";
    let put = server.put(path, &policy).bearer_auth(server.admin().await).send().await.unwrap();
    assert_eq!(put.status(), 200);
    let root = "/api/maxine/serviceops/proxy/root";
    let answer = server.get(&format!("{root}/redirect")).send().await.unwrap();
    assert_eq!(answer.headers()["location"], format!("{root}/elsewhere").as_str());
}

/// The kind of a request is recorded by the code that answered it, and not guessed from its URL.
#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_that_forwards_counts_as_proxied_whatever_its_url_says() {
    let server = server_with_upstream().await;
    let token = server.admin().await;
    let discover = "/api/maxine/serviceops/discover?serviceName=s%20p";
    assert_eq!(server.get(discover).send().await.unwrap().status(), 302);
    let mode = json!({"discoveryMode": "PROXY"});
    let put = server.put(CONFIG, &mode).bearer_auth(&token).send().await.unwrap();
    assert_eq!(put.status(), 200);
    for path in
        [discover, &format!("{discover}&mode=redirect"), "/api/maxine/serviceops/proxy/s%20p/x"]
    {
        assert_eq!(server.get(path).send().await.unwrap().status(), 200);
    }
    // The name of a service may be escaped in any way, and of several parameters the first one is used.
    let resolve = server.get("/api/v1/resolve/default/%73%20p").send().await.unwrap();
    assert_eq!(resolve.status(), 200);
    // A drain does not count as a registration.
    let drain = "/api/v1/services/default/s%20p/instances/n/drain";
    let drained = server.put(drain, &json!({"reason": "x"})).bearer_auth(&token).send().await;
    assert_eq!(drained.unwrap().status(), 200);
    let refused = server.get(discover).send().await.unwrap();
    assert_eq!(refused.status(), 503, "nothing is left");
    let traffic = async |query: &str| -> Value {
        let answer = server.get(&format!("/api/v1/traffic{query}")).bearer_auth(&token);
        answer.send().await.unwrap().json().await.unwrap()
    };
    let of_service = traffic("?service=s%20p").await;
    let total = &of_service["total"];
    let counts = ["lookups", "proxied", "failed"].map(|name| total[name].as_u64().unwrap());
    assert_eq!(counts, [2, 4, 1], "{total}");
    assert_eq!(traffic("").await["total"]["registrations"], 1);
    // A day has the same calls, in longer steps.
    let day = traffic("?service=s%20p&range=day").await;
    assert_eq!((&day["step_ms"], &day["total"]["proxied"]), (&json!(600_000), &json!(4)));
    let day = traffic("?range=day").await;
    assert_eq!((&day["step_ms"], &day["total"]["registrations"]), (&json!(60_000), &json!(1)));
}

/// The shares of `traffic.split` are the same whether a client is redirected, resolves or is proxied.
#[tokio::test(flavor = "multi_thread")]
async fn a_split_gives_its_shares_on_all_three_ways() {
    let server = Server::start().await;
    let token = server.admin().await;
    let upstream = upstream().await;
    // There are many canaries and one stable instance, but shares are those of the versions.
    for (id, version) in [("a", "stable"), ("b", "canary"), ("c", "canary"), ("d", "canary")] {
        let body = json!({"address": format!("http://{upstream}/{id}"), "version": version});
        let path = format!("/api/v1/services/default/split/instances/{id}");
        let put = server.put(&path, &body).bearer_auth(&token).send().await.unwrap();
        assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
    }
    let split = json!({"traffic": {"split": [
        {"version": "stable", "weight": 90}, {"version": "canary", "weight": 10}]}});
    let path = "/api/v1/services/default/split/policy";
    let put = server.put(path, &split).bearer_auth(&token).send().await.unwrap();
    assert_eq!(put.status(), 200);
    const TURNS: usize = 400;
    let mut canaries = [0; 3];
    for _ in 0..TURNS {
        let (status, location) = server.discover("serviceName=split").await;
        assert_eq!(status, 302);
        canaries[0] += usize::from(!location.ends_with("/a"));
        let resolve = server.get("/api/v1/resolve/default/split").send().await.unwrap();
        let resolved: Value = resolve.json().await.unwrap();
        canaries[1] += usize::from(resolved["version"] == "canary");
        let proxied = server.get("/api/maxine/serviceops/proxy/split/x").send().await.unwrap();
        let seen: Value = proxied.json().await.unwrap();
        canaries[2] += usize::from(seen["target"] != "/a/x");
    }
    // 10 % of 400 is 40, with a deviation of 6.
    assert!(canaries.iter().all(|count| (10..80).contains(count)), "{canaries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxied_path_never_leaves_the_base_path() {
    let server = server_with_upstream().await;
    for path in [
        "/../x",
        "/a/../../x",
        "/%2e%2e/x",
        "/..%2fx",
        "/%2e%2e%2f%2e%2e%2fx",
        "/.%2e/x",
        "/..",
        "/..%5cx",
    ] {
        let request = format!(
            "GET /api/maxine/serviceops/proxy/s%20p{path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        );
        let answer = server.raw(request.as_bytes()).await;
        let status = &answer[9..12];
        let inside = answer.contains(r#""target":"/base"#);
        assert!(status == "400" || (status == "200" && inside), "{path}: {answer}");
        assert!(!answer.contains(r#""target":"/base/.."#), "{path}: {answer}");
    }
    for path in ["/%zz", "/%", "/a%2"] {
        let request = format!(
            "GET /api/maxine/serviceops/proxy/s%20p{path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        );
        assert!(server.raw(request.as_bytes()).await.starts_with("HTTP/1.1 400"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_and_an_upstream_that_is_not_there_502() {
    let server = server_with_upstream().await;
    let url = server.url("/api/maxine/serviceops/proxy/s%20p/x");
    let fits = server.http.post(&url).body(vec![7; 10 << 20]).send().await.unwrap();
    let seen: Value = fits.json().await.unwrap();
    assert_eq!(seen["len"], 10 << 20);
    let over = server.http.post(&url).body(vec![7; (10 << 20) + 1]).send().await.unwrap();
    assert_eq!(over.status(), 413);
    // Nobody listens on this port, because it has just been released.
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    server.register(node("gone", "n", unused)).await;
    let answer = server.get("/api/maxine/serviceops/proxy/gone/x").send().await.unwrap();
    assert!([502, 503].contains(&answer.status().as_u16()), "{}", answer.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_in_proxy_mode() {
    let server = server_with_upstream().await;
    let target = async |query: &str| -> Value {
        let path = format!("/api/maxine/serviceops/discover?serviceName=s%20p{query}");
        let answer = server.get(&path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{query}");
        answer.json::<Value>().await.unwrap()["target"].clone()
    };
    assert_eq!(target("&mode=proxy").await, "/base");
    assert_eq!(target("&mode=PROXY&endPoint=x").await, "/base/x");
    // A query in the end point becomes the query of the request.
    assert_eq!(target("&mode=proxy&endPoint=%2Fx%3Fa%3D1%26b%3D2").await, "/base/x?a=1&b=2");
    let token = server.admin().await;
    let body = json!({"discoveryMode": "PROXY"});
    server.put(CONFIG, &body).bearer_auth(&token).send().await.unwrap();
    assert_eq!(target("&endPoint=/a%20b").await, "/base/a%20b");
    let none = server.get("/api/maxine/serviceops/discover?serviceName=none").send().await.unwrap();
    assert_eq!(message(none).await, (503, "Service Unavailable".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_instance_has_an_origin_of_its_own_in_a_browser() {
    const PAGE: &str = "/api/maxine/serviceops/proxy/s%20p/page";
    const SANDBOX: &str =
        "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts";
    let policies = |answer: &reqwest::Response| -> Vec<String> {
        let all = answer.headers().get_all("content-security-policy").iter();
        all.map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let server = server_with_upstream().await;
    for path in [PAGE, "/api/maxine/serviceops/discover?serviceName=s%20p&mode=proxy&endPoint=page"]
    {
        for (name, value) in [("sec-fetch-dest", "document"), ("user-agent", "Mozilla/5.0 (X11)")] {
            let request = server.get(path).header(name, value);
            let request = request.header("cookie", "a=1; maxine_session=x.y.z; b=2");
            let answer = request.send().await.unwrap();
            assert_eq!(policies(&answer), ["img-src 'self'", SANDBOX], "{path}, {name}");
            let set: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
            let below = match path == PAGE {
                true => "/api/maxine/serviceops/proxy/s%20p",
                false => "/api/maxine/serviceops/discover",
            };
            let kept = ["a=1", "b=2"].map(|cookie| format!("{cookie}; Path={below}"));
            assert_eq!(set, kept.each_ref(), "the session is not an instance's to set");
            let seen: Value = answer.json().await.unwrap();
            assert_eq!(seen["cookie"], "a=1; b=2", "nor to see");
        }
        let worker = server.get(path).header("sec-fetch-dest", "serviceworker");
        let worker = worker.header("service-worker", "script").send().await.unwrap();
        assert_eq!(message(worker).await.0, 403, "{path}");
        // Other clients get the instance's answer.
        let plain = server.get(path).header("user-agent", "curl/8.9").send().await.unwrap();
        assert_eq!(policies(&plain), ["img-src 'self'"], "{path}");
        for name in OF_THE_ORIGIN {
            assert!(!plain.headers().contains_key(name), "{name} is the node's to say");
        }
    }
    let off = Server::start_with(|options| options.api.proxy_sandbox = false).await;
    let mut body = node("s p", "n", upstream().await.port());
    body["path"] = json!("/base");
    off.register(body).await;
    let answer = off.get(PAGE).header("sec-fetch-dest", "document").send().await.unwrap();
    assert_eq!(policies(&answer), ["img-src 'self'"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_tells_each_attempt() {
    let server = Server::start().await;
    let token = server.admin().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    server.register(node("s", "gone", unused)).await;
    server.register(node("s", "well", upstream().await.port())).await;
    let policy = json!({"traffic": {"retries": {"attempts": 3, "budget_percent": 100}}});
    let put = server.put("/api/v1/services/default/s/policy", &policy).bearer_auth(&token);
    assert!(put.send().await.unwrap().status().is_success());
    let traces = async || -> Vec<Value> {
        let answer = server.get("/api/v1/traces").bearer_auth(&token).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["items"].as_array().unwrap().clone()
    };
    // Two requests in round robin, by both ways. At least one of the two meets the dead instance first.
    for path in [
        "/api/maxine/serviceops/proxy/s/x",
        "/api/maxine/serviceops/discover?serviceName=s&mode=proxy",
    ] {
        for _ in 0..2 {
            assert_eq!(server.get(path).send().await.unwrap().status(), 200);
        }
        let all = traces().await;
        let path = path.split('?').next().unwrap();
        let tried: Vec<&Value> =
            all.iter().filter(|trace| trace["path"] == path).map(|t| &t["attempts"]).collect();
        assert_eq!(tried.len(), 2);
        let twice = tried.iter().find(|attempts| attempts.as_array().unwrap().len() == 2).unwrap();
        let (first, second) = (&twice[0], &twice[1]);
        assert_eq!((&first["instance"], &first["status"]), (&json!("gone"), &Value::Null));
        assert_eq!(first["error"], "connect_failed");
        assert_eq!((&second["instance"], &second["status"]), (&json!("well"), &json!(200)));
        assert_eq!(second["error"], Value::Null);
        let at = |attempt: &Value, name: &str| attempt[name].as_f64().unwrap();
        assert!(at(first, "start_ms") + at(first, "duration_ms") <= at(second, "start_ms"));
    }
    let own = traces().await;
    let own = own.iter().find(|trace| trace["path"] == "/api/v1/traces").unwrap();
    assert_eq!(own["attempts"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_maxine_used_stops_here_and_any_other_goes_on() {
    use maxine_api::access::AccessMode;
    let server =
        Server::start_with(|options| options.api.discovery_access = AccessMode::Token).await;
    let mut body = node("s p", "n", upstream().await.port());
    body["path"] = json!("/base");
    server.register(body).await;
    let admin = server.admin().await;
    let made = server.post("/api/v1/tokens", &json!({"role": "viewer"})).bearer_auth(&admin);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let api_token = made["token"].as_str().unwrap().to_owned();
    let paths = [
        "/api/maxine/serviceops/proxy/s%20p/x",
        "/api/maxine/serviceops/discover?serviceName=s%20p&mode=proxy&endPoint=x",
    ];
    let seen = async |path: &str, fields: &[(&str, String)]| -> (u16, Value) {
        let mut request = server.get(path);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    for path in paths {
        for token in [&admin, &api_token] {
            let bearer = ("authorization", format!("bearer {token}"));
            let (status, got) = seen(path, &[bearer]).await;
            assert_eq!((status, &got["authorization"]), (200, &Value::Null), "{path}");
            // A token does not reach the instance either in a form that Maxine does not accept.
            for spelling in ["Bearer\t", "Token ", "JWT ", "Bearer x=", ""] {
                let fields = [
                    ("x-maxine-token", token.clone()),
                    ("authorization", format!("{spelling}{token}")),
                ];
                let (status, got) = seen(path, &fields).await;
                assert_eq!((status, &got["authorization"]), (200, &Value::Null), "{spelling}");
            }
            for (user, password) in [("u", token.as_str()), (token.as_str(), "")] {
                let request = server.http.get(server.url("/")).basic_auth(user, Some(password));
                let basic = request.build().unwrap().headers()["authorization"].clone();
                let basic = ("authorization", basic.to_str().unwrap().to_owned());
                let (status, got) = seen(path, &[("x-maxine-token", token.clone()), basic]).await;
                assert_eq!((status, &got["authorization"]), (200, &Value::Null), "{path}");
            }
            // If the token is in Maxine's own header, the caller's `Authorization` goes to the instance.
            for own in ["Bearer of-the-instance", "Basic YTpi", "Bearer mxt_other_id_secret"] {
                let own = ("authorization", own.to_owned());
                let (status, got) =
                    seen(path, &[("x-maxine-token", token.clone()), own.clone()]).await;
                assert_eq!((status, &got["authorization"]), (200, &json!(own.1)), "{path}");
                assert_eq!(got["token"], Value::Null, "{path}");
            }
        }
        let cookie = ("cookie", format!("maxine_session={admin}; a=1"));
        let (status, got) = seen(path, &[cookie]).await;
        assert_eq!((status, &got["cookie"]), (200, &json!("a=1")), "{path}");
        assert_eq!(seen(path, &[("x-maxine-token", "forged".into())]).await.0, 403, "{path}");
    }
    // If discovery is open, a token of this cluster that has expired does not reach an instance either.
    let open = server_with_upstream().await;
    let ended = open.admin().await;
    let change = json!({"password": open.admin_password, "newPassword": "another one"});
    let changed = open.put("/api/maxine/change-password", &change).bearer_auth(&ended);
    assert_eq!(changed.send().await.unwrap().status(), 200);
    for (bearer, expected) in [(&ended, Value::Null), (&admin, json!(format!("Bearer {admin}")))] {
        let answer = open.get(paths[0]).bearer_auth(bearer).send().await.unwrap();
        let got: Value = answer.json().await.unwrap();
        assert_eq!(got["authorization"], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_no_token_of_maxine() {
    let server = server_with_upstream().await;
    let (sender, mut copies) = tokio::sync::mpsc::channel(4);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().fallback(async move |request: Request| {
        sender.send(request.headers().clone()).await.unwrap();
        Response::new(Body::empty())
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    server.register(node("shadow", "n", port)).await;
    let admin = server.admin().await;
    let policy = json!({"traffic": {"mirror": {"service": "shadow", "percent": 100}}});
    let set = server.put("/api/v1/services/default/s%20p/policy", &policy).bearer_auth(&admin);
    assert_eq!(set.send().await.unwrap().status(), 200);
    let path = "/api/maxine/serviceops/proxy/s%20p/x";
    let request = server.get(path).header("x-maxine-token", &admin).bearer_auth(&admin);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let copy = copies.recv().await.unwrap();
    assert!(
        !copy.contains_key("authorization") && !copy.contains_key("x-maxine-token"),
        "{copy:?}"
    );
}
