//! One node in this process, so that the tests can use its parts.

use std::time::{Duration, Instant};

use maxine::app::Node;
use maxine::config::NodeConfig;
use maxine_state::{Actor, Address, Name, Registration, ServiceKey};
use maxine_telemetry::{AlertKind, AlertState};

use crate::dev::PATIENCE;

pub(crate) async fn node(dir: &std::path::Path) -> Node {
    node_of(dir, &[1]).await
}

/// Node 1 of a cluster of these members. No other member runs.
async fn node_of(dir: &std::path::Path, members: &[u64]) -> Node {
    let mut config = NodeConfig::defaults();
    config.backend = maxine::config::BackendKind::Raft;
    config.node_id = 1;
    config.data_dir = dir.into();
    config.http.port = 0;
    config.raft.listen = "127.0.0.1:0".parse().unwrap();
    let member = |id: &u64| maxine::config::MemberSetting {
        id: *id,
        peer_addr: format!("127.0.0.1:{id}"),
        http_addr: String::new(),
    };
    config.raft.members = members.iter().map(member).collect();
    config.security.initial_password_file = dir.join("password");
    Node::start(config).await.unwrap()
}

/// An address with which the node would call itself or its peer port is refused at registration.
async fn refuses_its_own_addresses(node: &Node) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/api/maxine/serviceops/register", node.http_addr());
    let own = node.http_addr().port();
    for (host, port) in
        [("127.0.0.1", own), ("localhost", own), ("[::ffff:127.0.0.1]", own), ("127.0.0.1", 1)]
    {
        let body = serde_json::json!({
            "hostName": host, "port": port, "serviceName": "self", "nodeName": "a"});
        let answer = client.post(&url).json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 400, "{host}:{port}: {text}");
        assert!(text.contains("is an address of Maxine itself"), "{host}:{port}: {text}");
    }
}

fn registration(id: &str) -> (ServiceKey, Registration) {
    let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
    let address = Address::parse("http://10.0.0.1:80").unwrap();
    (key, Registration::new(Name::trusted(id), address, 3_600_000))
}

#[test]
fn discovery_answers_while_every_actor_is_stalled() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path()).await;
        let registry = node.registry().clone();
        let started = Instant::now();
        while registry
            .register(Actor::system("test"), None, None, vec![registration("a")])
            .await
            .is_err()
        {
            assert!(started.elapsed() < PATIENCE);
        }
        refuses_its_own_addresses(&node).await;
        assert_eq!(node.stuck(PATIENCE).await, None);
        // All actors run on one thread. While it is blocked, none of them handles a message.
        let stall = Duration::from_secs(3);
        assert!(node.arbiter().spawn_fn(move || std::thread::sleep(stall)));
        // A service manager learns of it.
        assert_eq!(node.stuck(Duration::from_millis(50)).await, Some("actors"));
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        let url = format!(
            "http://{}/api/maxine/serviceops/discover?serviceName=orders",
            node.http_addr()
        );
        let stalled_write = {
            let registry = registry.clone();
            tokio::spawn(async move {
                registry.register(Actor::system("test"), None, None, vec![registration("b")]).await
            })
        };
        let (mut answers, until) = (0, Instant::now() + Duration::from_secs(2));
        while Instant::now() < until {
            assert_eq!(client.get(&url).send().await.unwrap().status(), 302);
            answers += 1;
        }
        assert!(answers > 10, "{answers}");
        assert!(!stalled_write.is_finished(), "the actors were stalled indeed");
        assert!(stalled_write.await.unwrap().is_ok(), "and go on afterwards");
        node.stop().await;
    });
}

/// To a node that has not received a state yet, everything would seem not to exist, and every credential to be forged.
/// It answers that it does not know, so that callers ask another node.
#[test]
fn a_node_without_a_state_answers_nothing_definite() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let node = node_of(dir.path(), &[1, 2, 3]).await;
        // A service manager must not restart it: that would not bring the state.
        assert_eq!(node.stuck(PATIENCE).await, None);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://{}", node.http_addr());
        let break_glass = std::fs::read_to_string(dir.path().join("break-glass")).unwrap();
        for (token, path) in [
            ("", "/api/v1/resolve/default/s"),
            ("", "/api/maxine/serviceops/discover?serviceName=s"),
            ("mxt_unknown_to_this_node", "/api/v1/services"),
            ("mxt_unknown_to_this_node", "/api/v1/me"),
            ("mxt_unknown_to_this_node", "/api/maxine/serviceops/servers"),
            (break_glass.trim(), "/api/v1/services/default/s"),
            (break_glass.trim(), "/api/v1/services"),
            (break_glass.trim(), "/api/v1/watch?service=s"),
            (break_glass.trim(), "/api/v1/changes?index=0"),
            (break_glass.trim(), "/api/v1/users"),
            (break_glass.trim(), "/api/v1/audit/verify"),
            (break_glass.trim(), "/api/v1/cluster/digest"),
            ("", "/api/v1/ready?scope=reads"),
        ] {
            let mut request = client.get(format!("{base}{path}"));
            if !token.is_empty() {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, 503, "{path}: {text}");
            assert!(text.contains("no state yet"), "{path}: {text}");
        }
        for path in ["/api/v1/session", "/api/maxine/signin"] {
            let body = match path {
                "/api/v1/session" => serde_json::json!({"user": "admin", "password": "right"}),
                _ => serde_json::json!({"userName": "admin", "password": "right"}),
            };
            let answer = client.post(format!("{base}{path}")).json(&body).send().await.unwrap();
            assert_eq!(answer.status(), 503, "{path}: {}", answer.text().await.unwrap());
        }
        let forget = client.delete(format!("{base}/api/v1/cluster/nodes/node-2"));
        let forget = forget.bearer_auth(break_glass.trim()).send().await.unwrap();
        assert_eq!(forget.status(), 501);
        let text = forget.text().await.unwrap();
        assert!(text.contains("maxine cluster remove ID"), "{text}");
        let status = client.get(format!("{base}/api/v1/cluster/status"));
        let status = status.bearer_auth(break_glass.trim()).send().await.unwrap();
        for unknown in ["x-maxine-index", "x-maxine-history"] {
            assert!(!status.headers().contains_key(unknown), "{:?}", status.headers());
        }
        let status: serde_json::Value = status.json().await.unwrap();
        for unknown in ["/totals", "/index", "/time_ms", "/state_version/current"] {
            assert_eq!(
                status.pointer(unknown),
                Some(&serde_json::Value::Null),
                "{unknown}: {status}"
            );
        }
        let (ready, nodes) = (
            client.get(format!("{base}/api/v1/ready")),
            client.get(format!("{base}/api/v1/cluster/nodes")),
        );
        let ready = ready.send().await.unwrap();
        assert_eq!(ready.status(), 503);
        let ready: serde_json::Value = ready.json().await.unwrap();
        let nodes = nodes.bearer_auth(break_glass.trim()).send().await.unwrap();
        let nodes: serde_json::Value = nodes.json().await.unwrap();
        for (unknown, answer) in [
            ("/index", &ready),
            ("/staleness_ms", &ready),
            ("/items/0/report/index", &nodes),
            ("/items/0/report/audit_head", &nodes),
        ] {
            let value = answer.pointer(unknown);
            assert_eq!(value, Some(&serde_json::Value::Null), "{unknown}: {answer}");
        }
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("no state yet") && !warnings.contains("look-ups"), "{warnings}");
        let metrics = client.get(format!("{base}/api/actuator/prometheus"));
        let metrics = metrics.bearer_auth(break_glass.trim()).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        assert!(!metrics.contains("\nmaxine_registered_services "), "{metrics}");
        assert!(metrics.contains("\nmaxine_state_index NaN\n"), "{metrics}");
        node.stop().await;
    });
}

/// The person on call must learn why such a node answers nothing.
#[test]
fn a_node_that_starts_while_its_store_is_away_raises_an_alert() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::defaults();
        config.backend = maxine::config::BackendKind::Redis;
        config.data_dir = dir.path().into();
        config.http.port = 0;
        // Nobody listens on port 1.
        config.state.redis_url = "redis://127.0.0.1:1".into();
        config.state.redis_connect_timeout_ms = 100;
        config.security.initial_password_file = dir.path().join("password");
        let node = Node::start(config).await.unwrap();
        let started = Instant::now();
        let alert = loop {
            let mut alerts = node.telemetry().alerts().newest_first().into_iter();
            if let Some(alert) = alerts.find(|alert| alert.kind == AlertKind::StoreUnreachable) {
                break alert;
            }
            assert!(started.elapsed() < PATIENCE, "no alert");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(alert.state, AlertState::Active);
        assert!(alert.message.contains("no state yet"), "{}", alert.message);
        // The node knows no leader and no lease.
        let break_glass = std::fs::read_to_string(dir.path().join("break-glass")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (path, unknown) in [
            ("/api/v1/ready", "/index"),
            ("/api/v1/cluster/status", "/leadership/term"),
            ("/api/v1/cluster/nodes", "/items/0/report/term"),
        ] {
            let url = format!("http://{}{path}", node.http_addr());
            let answer = client.get(url).bearer_auth(break_glass.trim()).send().await.unwrap();
            assert!(!answer.headers().contains_key("x-maxine-index"), "{:?}", answer.headers());
            let answer: serde_json::Value = answer.json().await.unwrap();
            let value = answer.pointer(unknown);
            assert_eq!(value, Some(&serde_json::Value::Null), "{unknown}: {answer}");
        }
        node.stop().await;
    });
}

/// Regression: a node that was started while Redis accepted connections and did not answer was silent for 12 s.
#[test]
fn a_node_that_starts_while_its_store_hangs_says_why_within_seconds() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        // The system accepts the connections, and nobody answers.
        let redis = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = NodeConfig::defaults();
        config.backend = maxine::config::BackendKind::Redis;
        config.data_dir = dir.path().into();
        config.http.port = 0;
        config.state.redis_url = format!("redis://{}", redis.local_addr().unwrap());
        config.security.initial_password_file = dir.path().join("password");
        let began = Instant::now();
        let node = Node::start(config).await.unwrap();
        // The time limits for a connection to Redis alone are 5 s.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let break_glass = std::fs::read_to_string(dir.path().join("break-glass")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let get = async |path: &str| {
            let url = format!("http://{}{path}", node.http_addr());
            let answer = client.get(url).bearer_auth(break_glass.trim()).send().await.unwrap();
            (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
        };
        let (status, ready) = get("/api/v1/ready").await;
        let reason = ready["reason"].as_str().unwrap_or_default();
        assert_eq!(status, 503, "{ready}");
        assert!(reason.contains("no state yet"), "{ready}");
        assert!(reason.contains("the store does not answer"), "{ready}");
        // Regression: who had no break-glass token, or wanted to sign in, was not told why there is no state.
        for path in ["/api/v1/cluster/status", "/api/maxine/serviceops/servers", "/api/v1/session"]
        {
            let url = format!("http://{}{path}", node.http_addr());
            let request = match path {
                "/api/v1/session" => client
                    .post(url)
                    .json(&serde_json::json!({"user": "admin", "password": "right"})),
                _ => client.get(url).bearer_auth("mxt_unknown_to_this_node"),
            };
            let answer = request.send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, 503, "{path}: {text}");
            assert!(text.contains("no state yet"), "{path}: {text}");
            assert!(text.contains("the store does not answer"), "{path}: {text}");
        }
        assert_eq!(get("/api/actuator/health").await.0, 200);
        assert_eq!(get("/api/v1/cluster/status").await.0, 200);
        let started = Instant::now();
        let is_it = |alert: &maxine_telemetry::Alert| alert.kind == AlertKind::StoreUnreachable;
        while !node.telemetry().alerts().newest_first().iter().any(is_it) {
            assert!(started.elapsed() < PATIENCE, "no alert");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node.stop().await;
    });
}

/// A running node writes its entry again within two seconds, so it would be untrue that it was forgotten.
#[test]
fn only_a_silent_node_can_be_forgotten() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let start = async |name: &str| {
            let mut config = NodeConfig::defaults();
            config.backend = maxine::config::BackendKind::SharedFile;
            config.instance_id = name.into();
            config.data_dir = dir.path().join(name);
            config.http.port = 0;
            config.state.file = dir.path().join("state.json");
            config.security.initial_password_file = dir.path().join(name).join("password");
            Node::start(config).await.unwrap()
        };
        let (a, b) = (start("a").await, start("b").await);
        let token = std::fs::read_to_string(dir.path().join("a/break-glass")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://{}/api/v1/cluster/nodes", a.http_addr());
        let forget = async |name: &str| {
            let request = client.delete(format!("{base}/{name}")).bearer_auth(token.trim());
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        // Each node has a file as its entry. The storage sets the time of the file.
        let entries = dir.path().join("state.json.log.nodes");
        let started = Instant::now();
        let (file, entry) = loop {
            let files = std::fs::read_dir(&entries).into_iter().flatten().flatten();
            let texts = files
                .filter_map(|file| Some((file.path(), std::fs::read_to_string(file.path()).ok()?)));
            let of_b = |(_, text): &(_, String)| text.contains(r#""name":"b""#);
            if let Some(found) = texts.into_iter().find(of_b) {
                break found;
            }
            assert!(started.elapsed() < PATIENCE, "b does not report");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for (name, why) in [("a", "it answers this request"), ("b", "it reported ")] {
            let (status, text) = forget(name).await;
            assert_eq!(status, 409, "{text}");
            assert!(text.contains(&format!("{name} runs: {why}")), "{text}");
        }
        b.stop().await;
        assert_eq!(forget("b").await.0, 404, "it took its entry away");
        // The entry is as a node leaves it that was killed a minute ago.
        std::fs::write(&file, entry).unwrap();
        let ago = std::time::SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(ago).unwrap();
        let (status, text) = forget("b").await;
        assert_eq!(status, 204, "{text}");
        assert!(!file.exists());
        a.stop().await;
    });
}

/// Nodes that share a store know each other's API from the store. Through the proxy of one node, a caller could reach
/// the API of another one that is hidden from them.
#[test]
fn the_api_of_another_node_that_shares_the_store_is_no_instance() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let start = async |name: &str| {
            let mut config = NodeConfig::defaults();
            config.backend = maxine::config::BackendKind::SharedFile;
            config.instance_id = name.into();
            config.data_dir = dir.path().join(name);
            config.http.port = 0;
            config.state.file = dir.path().join("state.json");
            config.security.initial_password_file = dir.path().join(name).join("password");
            Node::start(config).await.unwrap()
        };
        let (a, b) = (start("a").await, start("b").await);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (asked, other) in [(&a, &b), (&b, &a)] {
            let url = format!("http://{}/api/maxine/serviceops/register", asked.http_addr());
            let body = serde_json::json!({"hostName": "127.0.0.1", "port": other.http_addr().port(),
                "serviceName": "other", "nodeName": "a"});
            let started = Instant::now();
            loop {
                let answer = client.post(&url).json(&body).send().await.unwrap();
                let (status, text) = (answer.status(), answer.text().await.unwrap());
                if status == 400 && text.contains("is an address of Maxine itself") {
                    break;
                }
                assert!(started.elapsed() < PATIENCE, "{status} {text}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        a.stop().await;
        b.stop().await;
    });
}
