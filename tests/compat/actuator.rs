//! The actuator and the logs: sections 6, 7, 8 and 9 of the compatible API.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use maxine_control::health::ActiveDefaults;
use maxine_telemetry::{AlertKind, Notice, WebhookSettings};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{Server, message, node};

async fn read(server: &Server, path: &str, token: &str) -> Value {
    let answer = server.get(path).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{addr}")
}

async fn open(path: &str) -> Value {
    let server = Server::start().await;
    let answer = server.get(path).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json; charset=utf-8");
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health() {
    assert_eq!(open("/api/actuator/health").await, json!({"status": "UP"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn info() {
    let info = open("/api/actuator/info").await;
    assert_eq!(info.as_object().unwrap().len(), 1);
    assert_eq!(info["build"]["name"], "maxine-discovery");
    assert!(info["build"]["description"].is_string() && info["build"]["version"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics() {
    let metrics = open("/api/actuator/metrics").await;
    for field in ["rss", "heapTotal", "heapUsed"] {
        assert!(metrics["mem"][field].as_u64().unwrap() > 100_000, "{metrics}");
    }
    assert!(metrics["mem"]["external"].is_u64() && metrics["mem"]["arrayBuffers"].is_u64());
    assert!(metrics["uptime"].is_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn status() {
    let server = Server::start().await;
    let status = server.get("/api/actuator/status").send().await.unwrap();
    assert_eq!(status.status(), 200);
    assert_eq!(status.headers()["content-type"], "text/html; charset=utf-8");
    assert!(status.headers().contains_key("content-security-policy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn performance() {
    let path = "/api/actuator/performance";
    let server = Server::start().await;
    let none = server.get(path).send().await.unwrap();
    assert_eq!(message(none).await, (404, "Performance report URL is not configured.".into()));
    let reports = serve(Router::new().route("/r", get(async || "<h1>fast</h1>"))).await;
    for (url, expected) in [(format!("{reports}/r"), 200), (format!("{reports}/none"), 404)] {
        let server =
            Server::start_with(|options| options.api.performance_report_url = Some(url)).await;
        let answer = server.get(path).send().await.unwrap();
        assert_eq!(answer.status(), expected);
        if expected == 200 {
            assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
            assert_eq!(answer.text().await.unwrap(), "<h1>fast</h1>");
        } else {
            let text = "Could not retrieve load test report.";
            assert_eq!(message(answer).await, (404, text.into()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audit() {
    let server = Server::start().await;
    let token = server.admin().await;
    let wrong = json!({"userName": "admin", "password": "wrong"});
    server.post("/api/maxine/signin", &wrong).send().await.unwrap();
    let mut body = node("s", "n", 1);
    body["weight"] = json!(2);
    server.register(body).await;
    server.discover("serviceName=s").await;
    server.discover("serviceName=none").await;
    server.get("/api/maxine/serviceops/proxy/none/x").send().await.unwrap();
    let change = json!({"logAsync": false});
    server.put("/api/maxine/control/config", &change).bearer_auth(&token).send().await.unwrap();
    let listed = read(&server, "/api/actuator/audit", &token).await;
    let events = listed["events"].as_array().unwrap();
    let find = |kind: &str, outcome: &str| -> &Value {
        let found = events.iter().find(|e| e["type"] == kind && e["outcome"] == outcome);
        found.unwrap_or_else(|| panic!("no {kind} {outcome} in {events:?}"))
    };
    let signed_in = find("auth.signin", "SUCCESS");
    assert_eq!((&signed_in["userName"], &signed_in["role"]), (&json!("admin"), &json!("admin")));
    let failed = find("auth.signin", "FAILED");
    assert_eq!((&failed["userName"], &failed["role"]), (&json!("admin"), &Value::Null));
    let registered = find("registry.register", "REGISTERED");
    assert_eq!(
        (&registered["nodeName"], &registered["address"]),
        (&json!("n"), &json!("http://127.0.0.1:1"))
    );
    let hit = find("discovery.lookup", "HIT");
    assert_eq!((&hit["nodeName"], &hit["mode"]), (&json!("n-0"), &json!("redirect")));
    assert_eq!(hit["traceId"].as_str().unwrap().len(), 32);
    assert_eq!(find("discovery.lookup", "MISS")["method"], "GET");
    assert_eq!(find("proxy.request", "MISS")["proxyPath"], "x");
    assert_eq!(find("config.updated", "UPDATED")["changes"], json!({"logAsync": "Success"}));
    let time = events[0]["timestamp"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    // Sign-ins are in the replicated audit log too.
    let recorded = async {
        while !server
            .view
            .snapshot()
            .state
            .audit()
            .records()
            .iter()
            .any(|r| r.action == maxine_state::AuditAction::SessionCreate)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), recorded).await.unwrap();
    for n in 0..300 {
        server.discover(&format!("serviceName=none-{n}")).await;
    }
    let listed = read(&server, "/api/actuator/audit", &token).await;
    let events = listed["events"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["serviceName"]), (200, &json!("none-299")));
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts() {
    let posted: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = Arc::clone(&posted);
    let hook = post(async move |body: String| {
        seen.lock().push(serde_json::from_str(&body).unwrap());
    });
    let url = serve(Router::new().route("/hook", hook)).await;
    let server = Server::start_with(|options| {
        let webhook = WebhookSettings { url: format!("{url}/hook"), timeout_ms: 2_000 };
        options.telemetry.webhook = Some(webhook);
    })
    .await;
    let token = server.admin().await;
    let telemetry = server.state.telemetry();
    let evicted = Notice::new(AlertKind::UpstreamEvicted, "default/s/a", "gone");
    telemetry.alert(evicted.details(json!({"serviceName": "s"})));
    let listed = read(&server, "/api/actuator/alerts", &token).await;
    let alert = &listed["alerts"][0];
    assert_eq!(
        (&alert["severity"], &alert["type"]),
        (&json!("critical"), &json!("upstream.evicted"))
    );
    assert_eq!(
        (&alert["message"], &alert["details"]),
        (&json!("gone"), &json!({"serviceName": "s"}))
    );
    assert_eq!(alert.as_object().unwrap().len(), 5);
    let delivered = async {
        while posted.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), delivered).await.unwrap();
    for (field, shown) in alert.as_object().unwrap() {
        assert_eq!(posted.lock()[0][field], *shown, "{field}");
    }
    assert_eq!(posted.lock()[0]["state"], "event");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_is_told_that_a_condition_began_and_that_it_is_over_though_it_failed_at_first()
{
    let posted: Arc<Mutex<Vec<Value>>> = Arc::default();
    let (seen, failures) = (Arc::clone(&posted), Arc::new(Mutex::new(1)));
    let hook = post(async move |body: String| {
        let mut failures = failures.lock();
        if *failures > 0 {
            *failures -= 1;
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        seen.lock().push(serde_json::from_str(&body).unwrap());
        StatusCode::OK
    });
    let url = serve(Router::new().route("/hook", hook)).await;
    let server = Server::start_with(|options| {
        let webhook = WebhookSettings { url: format!("{url}/hook"), timeout_ms: 2_000 };
        options.telemetry.webhook = Some(webhook);
    })
    .await;
    let until = async |len: usize| {
        let reported = async {
            while posted.lock().len() < len {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reported).await.unwrap();
    };
    let telemetry = server.state.telemetry();
    for _ in 0..3 {
        telemetry.raise(Notice::new(AlertKind::MemberUnreachable, "node-2", "not heard"));
    }
    until(1).await;
    let token = server.admin().await;
    let metrics = async || {
        let answer = server.get("/api/actuator/prometheus").bearer_auth(&token).send().await;
        answer.unwrap().text().await.unwrap()
    };
    let active = |n: u8| {
        format!(
            "\nmaxine_alerts_active{{kind=\"cluster.member_unreachable\",severity=\"critical\"}} {n}\n"
        )
    };
    assert!(metrics().await.contains(&active(1)));
    telemetry.clear(AlertKind::MemberUnreachable, "node-2");
    telemetry.clear(AlertKind::MemberUnreachable, "node-2");
    until(2).await;
    assert!(metrics().await.contains(&active(0)));
    let reported = posted.lock().clone();
    let states: Vec<&Value> = reported.iter().map(|body| &body["state"]).collect();
    assert_eq!(states, [&json!("active"), &json!("resolved")]);
    for body in &reported {
        assert_eq!(body["key"], "maxine/cluster.member_unreachable/node-2");
        assert_eq!((&body["object"], &body["severity"]), (&json!("node-2"), &json!("critical")));
        assert_eq!((&body["node"], &body["runbook"]), (&json!("node-1"), &json!("replica-lost")));
    }
    assert_eq!(reported[0]["resolved"], Value::Null);
    assert!(reported[1]["resolved"].is_string(), "{}", reported[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn traces() {
    // A query can contain a token, so it is kept only if the operator allows it.
    for (log_queries, path) in [(false, "/nowhere"), (true, "/nowhere?a=1")] {
        let server = Server::start_with(|options| options.api.log_queries = log_queries).await;
        let token = server.admin().await;
        server.get("/nowhere?a=1").header("x-trace-id", "mine").send().await.unwrap();
        let listed = read(&server, "/api/actuator/traces", &token).await;
        let trace = &listed["traces"][0];
        assert_eq!((&trace["traceId"], &trace["path"]), (&json!("mine"), &json!(path)));
        assert_eq!((&trace["method"], &trace["status"]), (&json!("GET"), &json!(404)));
        assert!(trace["durationMs"].is_f64() && trace["traceparent"].is_string());
        assert_eq!(trace.as_object().unwrap().len(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster() {
    let single = Server::start().await;
    let token = single.admin().await;
    let mut shown = read(&single, "/api/actuator/cluster", &token).await;
    assert_eq!(shown["observedAt"].take().as_str().unwrap().len(), 24);
    let expected = json!({
        "enabled": false, "instanceId": "node-1", "isLeader": true, "hasLeader": true,
        "fencingToken": 0, "leaderInstanceId": "node-1", "observedAt": null,
    });
    assert_eq!(shown, expected);
    let several = Server::start_with(|options| options.api.clustered = true).await;
    let token = several.admin().await;
    let shown = read(&several, "/api/actuator/cluster", &token).await;
    assert_eq!((&shown["enabled"], &shown["isLeader"]), (&json!(true), &json!(true)));
    assert!(shown["fencingToken"].as_u64().unwrap() > 0);
    several.store.set_available(false);
    let shown = read(&several, "/api/actuator/cluster", &token).await;
    assert_eq!(shown["isLeader"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams() {
    let server = Server::start_with(|options| {
        options.health = ActiveDefaults {
            enabled: true,
            interval_ms: 100,
            timeout_ms: 500,
            // The instance is never evicted, so that the count still exists when it is read.
            fall: 1_000,
            ..ActiveDefaults::default()
        };
    })
    .await;
    let token = server.admin().await;
    let shown = read(&server, "/api/actuator/upstreams", &token).await;
    assert_eq!(shown, json!({"started": true, "unhealthyNodes": 0, "failureCounts": {}}));
    // Nobody listens on this port.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut body = node("s", "n", unused);
    body["healthCheckPath"] = json!("/health");
    let name = server.register(body).await["nodeName"].as_str().unwrap().to_owned();
    let failures = async {
        loop {
            let shown = read(&server, "/api/actuator/upstreams", &token).await;
            if shown["unhealthyNodes"] == 1 {
                return shown["failureCounts"].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let failures = tokio::time::timeout(std::time::Duration::from_secs(20), failures).await;
    let failures = failures.expect("the probe fails");
    let (key, count) = failures.as_object().unwrap().iter().next().unwrap();
    assert_eq!(*key, format!("s:{name}"));
    assert!(count.as_u64().unwrap() >= 1, "{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus() {
    let server = Server::start().await;
    let token = server.admin().await;
    let mut body = node("s", "n", 1);
    body["weight"] = json!(3);
    server.register(body).await;
    server.discover("serviceName=s").await;
    server.get("/api/actuator/audit").send().await.unwrap();
    let answer = server.get("/api/actuator/prometheus").bearer_auth(&token).send().await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = answer.text().await.unwrap();
    for (name, kind, value) in [
        ("maxine_requests_total", "counter", "4"),
        ("maxine_auth_failures_total", "counter", "1"),
        ("maxine_auth_success_total", "counter", "1"),
        ("maxine_registrations_total", "counter", "1"),
        ("maxine_discoveries_total", "counter", "1"),
        ("maxine_proxied_requests_total", "counter", "0"),
        ("maxine_health_checks_total", "counter", "0"),
        ("maxine_health_check_failures_total", "counter", "0"),
        ("maxine_health_evictions_total", "counter", "0"),
        ("maxine_alerts_total", "counter", "0"),
        ("maxine_registered_services", "gauge", "1"),
        ("maxine_registered_parent_nodes", "gauge", "1"),
        ("maxine_registered_virtual_nodes", "gauge", "3"),
        ("maxine_cluster_is_leader", "gauge", "1"),
        ("maxine_cluster_has_leader", "gauge", "1"),
        ("maxine_unhealthy_upstreams", "gauge", "0"),
    ] {
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(text.contains(&format!("\n{name} {value}\n")), "{name} is not {value} in {text}");
    }
}

/// A server that keeps its logs in files below a directory, and the token of its administrator.
async fn server_with_log_files(directory: &tempfile::TempDir) -> (Server, String) {
    let path = directory.path().to_owned();
    let server = Server::start_with(|options| {
        options.telemetry.request_log.audit_file = Some(path.join("audit/Maxine-audit.log"));
        options.telemetry.request_log.directory = Some(path);
    })
    .await;
    let token = server.admin().await;
    (server, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_recent() {
    let directory = tempfile::tempdir().unwrap();
    let (server, token) = server_with_log_files(&directory).await;
    server.get("/nowhere").header("x-trace-id", "one").send().await.unwrap();
    server.get("/api/maxine/serviceops/servers").send().await.unwrap();
    let logs = read(&server, "/api/logs/recent", &token).await;
    let lines: Vec<&str> = logs["logs"].as_str().unwrap().lines().collect();
    let line: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!((&line["LogLevel"], &line["LogType"]), (&json!("ERROR"), &json!("WEBREQUEST")));
    assert_eq!((&line["Endpoint"], &line["TraceId"]), (&json!("/nowhere"), &json!("one")));
    assert_eq!((&line["Status"], &line["ClientIp"]), (&json!(404), &json!("127.0.0.1")));
    assert_eq!(lines.len(), 2, "neither the logs nor the registry is logged: {lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_download() {
    let directory = tempfile::tempdir().unwrap();
    let (server, token) = server_with_log_files(&directory).await;
    // Reading the latest lines waits until they are written.
    read(&server, "/api/logs/recent", &token).await;
    let files = read(&server, "/api/logs/download", &token).await;
    let files = files.as_object().unwrap();
    assert!(!files.is_empty());
    for (name, url) in files {
        assert_eq!(url, &json!(format!("/logs/{name}")));
    }
    let audit_file = directory.path().join("audit/Maxine-audit.log");
    let audited = std::fs::read_to_string(audit_file).unwrap();
    let events: Vec<Value> =
        audited.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let signed_in = |event: &&Value| event["type"] == "auth.signin";
    assert_eq!(events.iter().find(signed_in).expect("a record")["outcome"], "SUCCESS");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_file() {
    let directory = tempfile::tempdir().unwrap();
    let (server, token) = server_with_log_files(&directory).await;
    server.get("/nowhere").send().await.unwrap();
    let logs = read(&server, "/api/logs/recent", &token).await;
    let files = read(&server, "/api/logs/download", &token).await;
    let (_, url) = files.as_object().unwrap().iter().next().unwrap();
    let file = server.get(url.as_str().unwrap()).bearer_auth(&token).send().await.unwrap();
    assert_eq!(file.status(), 200);
    assert_eq!(file.text().await.unwrap(), format!("{}\n", logs["logs"].as_str().unwrap()));
    let none = server.get("/logs/none").bearer_auth(&token).send().await.unwrap();
    assert_eq!(message(none).await, (404, "Not found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_recent_clear() {
    let directory = tempfile::tempdir().unwrap();
    let (server, token) = server_with_log_files(&directory).await;
    for method in ["GET", "POST", "DELETE"] {
        let method = method.parse::<reqwest::Method>().unwrap();
        let clear = server.http.request(method, server.url("/api/logs/recent/clear"));
        let answer = clear.bearer_auth(&token).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, ""));
        assert_eq!(read(&server, "/api/logs/recent", &token).await, json!({"logs": ""}));
    }
}
