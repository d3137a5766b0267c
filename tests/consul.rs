//! The API of Consul on a real node.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and has no users"
)]

#[path = "consul/bodies.rs"]
mod bodies;
#[path = "consul/ids.rs"]
mod ids;
#[path = "consul/kv.rs"]
mod kv;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use maxine::app::Node;
use maxine::config::{Access, NodeConfig};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node of local mode with a port for clients of Consul.
struct Server {
    node: Node,
    config: NodeConfig,
    url: String,
    client: reqwest::Client,
    token: String,
    _dir: tempfile::TempDir,
}

/// An answer: its status, its headers, and its body as JSON, or as text.
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn index(&self) -> u64 {
        self.header("x-consul-index").parse().unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        self.body.as_str().unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.body.as_array().unwrap().len()
    }
}

impl Server {
    async fn start(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::defaults();
        config.data_dir = dir.path().into();
        config.http.port = 0;
        config.security.initial_password_file = dir.path().join("password");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        config.consul.port = free.local_addr().unwrap().port();
        change(&mut config);
        let url = format!("http://127.0.0.1:{}/v1/", config.consul.port);
        drop(free);
        let node = Node::start(config.clone()).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut server = Self { node, config, url, client, token: String::new(), _dir: dir };
        let file = server._dir.path().join("password");
        until("a password", async || {
            std::fs::read_to_string(&file).is_ok_and(|word| word.ends_with('\n'))
        })
        .await;
        // The state of a new cluster gets its version beside its identities.
        until("the newest state version", async || {
            server.node.view().snapshot().state.version() == maxine_state::STATE_VERSION
        })
        .await;
        let password = std::fs::read_to_string(&file).unwrap();
        let url = format!("http://{}/api/v1/session", server.node.http_addr());
        let body = json!({"user": "admin", "password": password.trim()});
        let answer = server.client.post(url).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        server.token = answer["access_token"].as_str().unwrap().into();
        server
    }

    /// The same node once more, after it was stopped.
    async fn restart(self) -> Self {
        self.node.stop().await;
        let node = Node::start(self.config.clone()).await.unwrap();
        Self { node, ..self }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
        Answer { status, headers, body }
    }

    /// A read without a token.
    async fn get(&self, path: &str) -> Answer {
        self.ask(self.client.get(format!("{}{path}", self.url))).await
    }

    /// A read of an administrator.
    async fn get_known(&self, path: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.url));
        self.ask(request.header("X-Consul-Token", &self.token)).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        let request = self.client.put(format!("{}{path}", self.url));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        self.ask(request).await
    }

    async fn put_known(&self, path: &str, body: Value) -> Answer {
        let request = self.client.put(format!("{}{path}", self.url)).body(body.to_string());
        self.ask(request.bearer_auth(&self.token)).await
    }

    /// Registers a service that its client reports.
    async fn register(&self, body: Value) {
        let answer = self.put("agent/service/register", body).await;
        assert_eq!((answer.status, answer.text()), (200, ""));
    }

    /// The index of the registry, which counts what was written.
    fn written(&self) -> u64 {
        self.node.view().index()
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(test);
}

#[test]
fn a_service_with_a_ttl_lives_as_in_consul() {
    run(async {
        let server = Server::start(|_| ()).await;
        let web = json!({
            "ID": "web-1", "Name": "web", "Tags": ["v1", "V1", "primary"], "Port": 8080, "Meta": {"k": "v"},
            "Address": "10.0.0.1", "EnableTagOverride": true, "Weights": {"Passing": 5, "Warning": 2},
            "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 8080}},
            "Check": {"TTL": "60s", "Notes": "its own", "DeregisterCriticalServiceAfter": "90m"},
            "Checks": null, "Connect": null, "Ports": null,
        });
        let before = server.get("health/service/web").await;
        assert_eq!((before.status, before.len()), (200, 0));
        assert!(before.index() > 0);
        server.register(web.clone()).await;

        let all = server.get_known("health/service/WEB").await;
        let entry = &all.body[0];
        assert_eq!(entry["Node"]["Node"], "maxine");
        assert_eq!(entry["Node"]["ID"].as_str().unwrap().len(), 36);
        let service = &entry["Service"];
        assert_eq!(service["Tags"], json!(["v1", "V1", "primary"]));
        assert_eq!((&service["Address"], &service["Port"]), (&json!("10.0.0.1"), &json!(8080)));
        assert_eq!(
            (&service["Meta"], &service["Weights"]),
            (&json!({"k": "v"}), &json!({"Passing": 5, "Warning": 2}))
        );
        assert_eq!(
            service["TaggedAddresses"],
            json!({"lan": {"Address": "10.0.0.1", "Port": 8080}})
        );
        let checks = &entry["Checks"];
        assert_eq!(
            (&checks[0]["CheckID"], &checks[0]["Status"]),
            (&json!("serfHealth"), &json!("passing"))
        );
        let check = &checks[1];
        assert_eq!(
            (&check["CheckID"], &check["Status"]),
            (&json!("service:web-1"), &json!("critical"))
        );
        assert_eq!(
            (&check["Name"], &check["Notes"]),
            (&json!("Service 'web' check"), &json!("its own"))
        );
        assert_eq!(check["Definition"]["DeregisterCriticalServiceAfter"], "1h30m0s");
        assert_eq!(server.get("health/service/web?passing").await.len(), 0);

        // A waiting reader wakes for its service, and for no other one.
        let index = all.index();
        let path = format!("health/service/web?passing=1&wait=2m&index={index}");
        let waiting = server.get(&path);
        let change = async {
            server.register(json!({"Name": "other", "Port": 1})).await;
            let passed = server.put("agent/check/pass/service:web-1?note=fine", Value::Null).await;
            assert_eq!((passed.status, passed.text()), (200, ""));
        };
        let (woken, ()) = tokio::join!(waiting, change);
        assert_eq!(woken.len(), 1, "{}", woken.body);
        assert!(woken.index() > index);
        let quiet = format!("health/service/web?wait=150ms&index={}", woken.index());
        let (same, ()) =
            tokio::join!(server.get(&quiet), server.register(json!({"Name": "other", "Port": 2})));
        assert_eq!(same.index(), woken.index(), "a foreign change is no change");

        // Repeated passes are heartbeats, whatever their notes are.
        let written = server.written();
        for note in ["fine", "better", "best"] {
            let path = format!("agent/check/pass/service:web-1?note={note}");
            assert_eq!(server.put(&path, Value::Null).await.status, 200);
        }
        assert_eq!(server.written(), written, "a pass enters the log only if the status changes");

        // A repeated registration keeps the state of the check.
        server.register(web).await;
        assert_eq!(server.get("health/service/web?passing&tag=v1&tag=PRIMARY").await.len(), 1);
        assert_eq!(server.get("health/service/web?tag=v2").await.len(), 0);
        let health = server.get("agent/health/service/id/web-1").await;
        assert_eq!((health.status, &health.body["AggregatedStatus"]), (200, &json!("passing")));
        let warned = json!({"Status": "warning", "Output": "two\nlines"});
        assert_eq!(server.put("agent/check/update/service:web-1", warned).await.status, 200);
        let health = server.get_known("agent/health/service/name/web").await;
        assert_eq!((health.status, &health.body[0]["AggregatedStatus"]), (429, &json!("warning")));
        assert_eq!(health.body[0]["Checks"][0]["Output"], "two lines");
        server.put("agent/check/fail/service:web-1", Value::Null).await;
        let health = server.get("agent/health/service/id/web-1?format=text").await;
        assert_eq!((health.status, health.text()), (503, "critical"));

        // The same id under another name is the same service. It keeps its check, with its state.
        server.register(json!({"ID": "web-1", "Name": "shop", "Port": 8080})).await;
        assert_eq!(server.get("health/service/web").await.len(), 0);
        assert_eq!(server.get("health/service/shop?passing").await.len(), 0);
        server.put("agent/check/pass/service:web-1", Value::Null).await;
        assert_eq!(server.get("health/service/shop?passing").await.len(), 1);
        let index = server.get("catalog/service/shop").await.index();
        let path = format!("catalog/service/shop?wait=2m&index={index}");
        let waiting = server.get(&path);
        let (gone, left) =
            tokio::join!(waiting, server.put("agent/service/deregister/web-1", Value::Null));
        assert_eq!((left.status, gone.len()), (200, 0), "a vanished service wakes its waiters");
        assert!(gone.index() > index);
        let unknown = server.put("agent/check/pass/service:web-1", Value::Null).await;
        assert_eq!(unknown.status, 404);
        assert!(
            unknown.text().starts_with("Unknown check ID \"service:web-1\""),
            "{}",
            unknown.text()
        );
        let unknown = server.put("agent/service/deregister/web-1", Value::Null).await;
        assert!(
            unknown.status == 404 && unknown.text().starts_with("Unknown service ID \"web-1\"")
        );
        server.node.stop().await;
    });
}

#[test]
fn a_missed_report_makes_a_check_critical_and_keeps_the_service() {
    run(async {
        let server = Server::start(|_| ()).await;
        server
            .register(
                json!({"Name": "web", "Port": 1, "Check": {"TTL": "1s", "Status": "passing"}}),
            )
            .await;
        let answer = server.get_known("health/service/web?passing").await;
        assert_eq!(answer.len(), 1);
        let path = format!("health/service/web?wait=2m&index={}", answer.index());
        let expired = server.get_known(&path).await;
        let check = &expired.body[0]["Checks"][1];
        assert_eq!(
            (&check["Status"], &check["Output"]),
            (&json!("critical"), &json!("TTL expired"))
        );
        assert_eq!(server.get_known("health/state/critical").await.len(), 1);
        let states = server.get_known("health/state/any").await;
        assert_eq!(states.len(), 2, "the check of the node, and that of the service");
        server.put("agent/check/pass/service:web", Value::Null).await;
        let path = format!("health/state/any?wait=2m&index={}", states.index());
        let woken = server.get_known(&path).await;
        assert!(woken.index() > states.index());
        server.node.stop().await;
    });
}

#[test]
fn an_http_check_is_made_by_maxine_and_what_it_cannot_check_is_refused() {
    run(async {
        let server = Server::start(|_| ()).await;
        let up: SocketAddr = server.node.http_addr();
        let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = app.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = app.accept().await else { return };
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                // A connection that is closed with unread bytes is reset, and the answer is lost.
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1_024]).await;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
            }
        });
        let check = |check: Value| json!({"Name": "app", "Address": "127.0.0.1", "Port": port, "Check": check});
        let register = |body: Value| server.put("agent/service/register", body);
        for (body, status, part) in [
            (
                check(
                    json!({"HTTP": format!("http://127.0.0.1:{}/", up.port()), "Interval": "5s"}),
                ),
                400,
                "only probes the address",
            ),
            (check(json!({"Args": ["x"], "Interval": "5s"})), 400, "no scripts"),
            (
                check(
                    json!({"HTTP": format!("http://127.0.0.1:{port}/"), "Interval": "5s", "Method": "POST"}),
                ),
                403,
                "this check needs a token: without one",
            ),
            (
                check(json!({"TCP": format!("127.0.0.1:{port}"), "Interval": "5s"})),
                403,
                "this check needs a token: without one",
            ),
            (check(json!({"TTL": "5s", "Surprise": true})), 400, "unknown field \"Surprise\""),
            (json!({"Name": "app", "Kind": "connect-proxy"}), 400, "Kind is not supported"),
            (json!({"Name": "app", "Meta": {"consul-x": "1"}}), 400, "Invalid Service Meta"),
            (json!({"Name": "app", "Weights": {"Passing": 101}}), 400, "from 1 to 100"),
            (json!({"Name": "app", "Address": "0.0.0.0"}), 400, "Invalid service address"),
            (json!({"Port": 1}), 400, "Missing service name"),
            (json!([]), 400, "Request decode failed"),
        ] {
            let answer = register(body.clone()).await;
            assert_eq!(answer.status, status, "{body}: {}", answer.body);
            assert!(answer.text().contains(part), "{body}: {}", answer.body);
            assert!(answer.header("content-type").starts_with("text/plain"));
        }
        assert_eq!(server.get("health/service/app").await.len(), 0);
        let http = json!({"HTTP": format!("http://localhost:{port}/up"), "Interval": "5s", "CheckID": "up"});
        assert_eq!(register(check(http)).await.status, 200);
        until("the probe", async || server.get("health/service/app?passing").await.len() == 1)
            .await;
        let answer = server.get("health/checks/app").await;
        assert_eq!(
            (&answer.body[0]["CheckID"], &answer.body[0]["Type"]),
            (&json!("up"), &json!("http"))
        );
        // A check more, and away again.
        let more = json!({"Name": "own", "ServiceID": "app", "TTL": "1m"});
        assert_eq!(server.put("agent/check/register", more).await.status, 200);
        let with_both = server.get_known("agent/checks").await;
        assert_eq!(with_both.body["own"]["Status"], "critical");
        assert_eq!(with_both.body["up"]["Status"], "passing");
        assert_eq!(with_both.body["up"]["Timeout"], "5s", "without a token it is not longer");
        let missing = json!({"Name": "own", "ServiceID": "none", "TTL": "1m"});
        let missing = server.put("agent/check/register", missing).await;
        assert_eq!((missing.status, missing.text()), (404, "ServiceID \"none\" does not exist"));
        assert_eq!(server.put("agent/check/deregister/own", Value::Null).await.status, 200);
        assert_eq!(server.get("health/service/app?passing").await.len(), 1);
        server.node.stop().await;
    });
}

/// A service without an address is at the address of its node, whoever registers it.
#[test]
fn the_catalog_knows_its_nodes() {
    run(async {
        let server = Server::start(|_| {}).await;
        let register = async |node: Value, service: Value| {
            let mut body = node;
            body["Service"] = service;
            server.put("catalog/register", body).await
        };
        let full = json!({"Node": "Ext1", "Address": "10.60.0.1", "NodeMeta": {"rack": "a"}});
        let first = register(full.clone(), json!({"Service": "one", "Port": 1})).await;
        assert_eq!(first.body, json!(true));
        // Programs that register services of other machines send this.
        let known = json!({"Node": "ext1", "SkipNodeUpdate": true});
        let second = register(known, json!({"Service": "two", "Port": 2})).await;
        assert_eq!(second.body, json!(true));
        let two = server.get("catalog/service/two").await;
        assert_eq!(
            (&two.body[0]["Node"], &two.body[0]["Address"], &two.body[0]["NodeMeta"]["rack"]),
            (&json!("Ext1"), &json!("10.60.0.1"), &json!("a"))
        );
        let unknown = json!({"Node": "nowhere", "SkipNodeUpdate": true});
        let unknown = register(unknown, json!({"Service": "three", "Port": 3})).await;
        assert_eq!(unknown.status, 400, "{}", unknown.body);
        assert!(unknown.text().contains("not registered"), "{}", unknown.body);
        // The name of a node counts without regard to case: the same service is replaced.
        let again = json!({"Node": "EXT1", "Address": "10.60.0.9"});
        register(again, json!({"Service": "one", "Port": 1})).await;
        let one = server.get("catalog/service/one").await;
        assert_eq!((one.len(), &one.body[0]["Address"]), (1, &json!("10.60.0.9")));

        // A check that is not named stays, with its state.
        let check = json!({"CheckID": "up", "Name": "up", "Status": "critical"});
        let mut with_check = full.clone();
        with_check["Check"] = check;
        register(with_check, json!({"Service": "four", "Port": 4})).await;
        register(full.clone(), json!({"Service": "four", "Port": 4, "Tags": ["new"]})).await;
        assert_eq!(server.get("health/service/four?passing").await.len(), 0);
        assert_eq!(server.get("health/service/four").await.body[0]["Checks"][1]["CheckID"], "up");
        let moved = json!({"Node": "ext1", "Address": "10.60.0.2"});
        register(moved, json!({"Service": "four", "Port": 4})).await;
        let four = server.get("health/service/four").await;
        assert_eq!(four.body[0]["Node"]["Address"], "10.60.0.2");
        assert_eq!(server.get("health/service/four?passing").await.len(), 0, "{}", four.body);

        let elsewhere = json!({"Node": "ext1", "ServiceID": "one", "Datacenter": "mars"});
        let elsewhere = server.put("catalog/deregister", elsewhere).await;
        assert_eq!((elsewhere.status, elsewhere.text()), (500, "No path to datacenter"));
        let own = server.put("catalog/deregister", json!({"Node": "maxine"})).await;
        assert_eq!(own.status, 400, "{}", own.body);
        assert_eq!(server.get("catalog/service/one").await.len(), 1);
        let one = json!({"Node": "ext1", "ServiceID": "one"});
        assert_eq!(server.put("catalog/deregister", one).await.body, json!(true));
        assert_eq!(server.get("catalog/service/one").await.len(), 0);
        assert_eq!(server.get("catalog/service/two").await.len(), 1);
        let node = json!({"Node": "eXT1"});
        assert_eq!(server.put("catalog/deregister", node).await.body, json!(true));
        assert_eq!(server.get_known("catalog/services").await.body, json!({}));
        server.node.stop().await;
    });
}

/// A registration through the catalog can have the id of an instance of the agent, whose probe may call a secret path.
#[test]
fn a_stranger_does_not_send_the_probe_of_an_agents_instance_elsewhere_through_the_catalog() {
    run(async {
        let server = Server::start(|_| {}).await;
        let check = json!({"HTTP": "http://127.0.0.1:9/health?token=s3cret", "Interval": "5s"});
        let of_agent = json!({"ID": "web@ext1", "Name": "web", "Address": "127.0.0.1", "Port": 9, "Check": check});
        let registered = server.put_known("agent/service/register", of_agent).await;
        assert_eq!(registered.status, 200, "{}", registered.body);
        for (node, id) in [("ext1", "web"), ("maxine", "web@ext1")] {
            let service = json!({"Service": "web", "ID": id, "Port": 9});
            let moved = json!({"Node": node, "Address": "127.0.0.2", "Service": service});
            server.put("catalog/register", moved).await;
            let found = server.get_known("health/service/web").await;
            let all = found.body.as_array().unwrap();
            let secret = |entry: &&Value| entry["Checks"].to_string().contains("s3cret");
            let probed: Vec<_> = all.iter().filter(secret).collect();
            assert_eq!(probed.len(), 1, "{node}: {}", found.body);
            assert_eq!(probed[0]["Service"]["Address"], "127.0.0.1", "{node}: {}", found.body);
        }
        server.node.stop().await;
    });
}

/// A service whose port changes at its restart stays in traffic.
#[test]
fn checks_keep_their_state_at_another_address() {
    run(async {
        let server = Server::start(|_| {}).await;
        let body = |port: u16| json!({"Name": "moves", "Port": port, "Check": {"TTL": "1m"}});
        server.register(body(1)).await;
        assert_eq!(server.get("health/service/moves?passing").await.len(), 0);
        server.put("agent/check/pass/service:moves", Value::Null).await;
        server.register(body(2)).await;
        let found = server.get("health/service/moves?passing").await;
        assert_eq!((found.len(), &found.body[0]["Service"]["Port"]), (1, &json!(2)));
        server.register(body(2)).await;
        assert_eq!(server.get("health/service/moves?passing").await.len(), 1);
        server.node.stop().await;
    });
}

#[test]
fn the_list_of_services_is_filtered() {
    run(async {
        let server = Server::start(|_| {}).await;
        for (name, tag) in [("web", "v1"), ("db", "v2")] {
            server.register(json!({"Name": name, "Port": 1, "Tags": [tag]})).await;
        }
        let list = async |filter: &str| {
            server.get_known(&format!("catalog/services?filter={filter}")).await
        };
        assert_eq!(list("ServiceName==web").await.body, json!({"web": ["v1"]}));
        assert_eq!(list("v2%20in%20ServiceTags").await.body, json!({"db": ["v2"]}));
        assert_eq!(list("ServiceName==none").await.body, json!({}));
        let malformed = list("(").await;
        assert_eq!(malformed.status, 400, "{}", malformed.body);
        // A port can change while the names and tags stay the same.
        let before = list("ServicePort==2").await;
        assert_eq!(before.body, json!({}));
        let path =
            format!("catalog/services?filter=ServicePort==2&wait=2m&index={}", before.index());
        let change = server.register(json!({"Name": "db", "Port": 2, "Tags": ["v2"]}));
        let (woken, ()) = tokio::join!(server.get_known(&path), change);
        assert_eq!(woken.body, json!({"db": ["v2"]}));
        server.node.stop().await;
    });
}

/// An empty list that answers a revoked token would be taken for the whole list.
#[test]
fn a_token_that_is_not_valid_is_refused_where_none_is_needed() {
    run(async {
        let server = Server::start(|_| {}).await;
        server.register(json!({"Name": "web", "Port": 1})).await;
        for path in [
            "catalog/services",
            "catalog/nodes",
            "health/state/any",
            "agent/services",
            "agent/checks",
            "health/service/web",
            "catalog/service/web",
        ] {
            let url = format!("{}{path}", server.url);
            for request in [
                server.client.get(&url).header("X-Consul-Token", "bad"),
                server.client.get(&url).bearer_auth("bad"),
                server.client.get(format!("{url}?token=bad")),
            ] {
                let refused = server.ask(request).await;
                assert_eq!(refused.status, 403, "{path}: {}", refused.body);
                assert!(refused.text().starts_with("Permission denied"), "{}", refused.body);
            }
            // Clients send an empty token if they have none.
            let none = server.client.get(format!("{url}?token=")).header("X-Consul-Token", "");
            assert_eq!(server.ask(none).await.status, 200, "{path}");
        }
        let url = format!("{}agent/service/register", server.url);
        let body = json!({"Name": "other", "Port": 1}).to_string();
        let refused = server.client.put(url).header("X-Consul-Token", "bad").body(body);
        assert_eq!(server.ask(refused).await.status, 403);
        assert_eq!(server.get("catalog/service/other").await.len(), 0);
        server.node.stop().await;
    });
}

#[test]
fn catalog_nodes_filters_and_parameters() {
    run(async {
        let server = Server::start(|config| config.consul.on_http = true).await;
        for (node, address) in [("box-1", "10.0.0.1"), ("box-2", "10.0.0.2")] {
            let body = json!({
                "Node": node, "Address": address, "NodeMeta": {"rack": node},
                "Service": {"Service": "db", "Tags": ["t"], "Port": 5432},
                "Check": {"CheckID": format!("db@{node}"), "Name": "up", "Status": "passing", "ServiceID": "db"},
            });
            let answer = server.put("catalog/register", body).await;
            assert_eq!((answer.status, &answer.body), (200, &json!(true)));
        }
        let services = server.get_known("catalog/services").await;
        assert_eq!(services.body, json!({"db": ["t"]}));
        let found = server.get("catalog/service/db?node-meta=rack:box-2").await;
        assert_eq!((found.len(), &found.body[0]["ServiceID"]), (1, &json!("db")));
        assert_eq!(
            (&found.body[0]["Node"], &found.body[0]["Address"]),
            (&json!("box-2"), &json!("10.0.0.2"))
        );
        let near = server.get("catalog/service/db?near=box-2").await;
        assert_eq!(near.body[0]["Node"], "box-2");
        let filtered = server.get("health/service/db?passing&filter=Node.Meta.rack%3D%3D%22box-1%22%20and%20t%20in%20Service.Tags").await;
        assert_eq!((filtered.len(), &filtered.body[0]["Node"]["Node"]), (1, &json!("box-1")));
        let bad = server.get("health/service/db?filter=Nope%3D%3D1").await;
        assert!(
            bad.status == 400
                && bad.text().starts_with("Failed to create boolean expression evaluator")
        );
        let nodes = server.get_known("catalog/nodes").await;
        let names: Vec<_> =
            nodes.body.as_array().unwrap().iter().map(|node| &node["Node"]).collect();
        assert_eq!(names, ["box-1", "box-2", "maxine"]);
        let node = server.get_known("catalog/node/BOX-1").await;
        assert_eq!(
            (&node.body["Node"]["Address"], &node.body["Services"]["db"]["Port"]),
            (&json!("10.0.0.1"), &json!(5432))
        );
        assert_eq!(server.get_known("catalog/node/none").await.body, Value::Null);
        assert_eq!(server.get_known("health/node/box-1").await.len(), 2);
        // A list is woken by its own changes only.
        let path = format!("catalog/services?wait=2m&index={}", services.index());
        let change = async {
            server.put("agent/service/register", json!({"Name": "late", "Port": 1})).await
        };
        let (woken, _) = tokio::join!(server.get_known(&path), change);
        assert_eq!(woken.body, json!({"db": ["t"], "late": []}));
        let path = format!("catalog/services?wait=150ms&index={}", woken.index());
        let change = async {
            server.put("agent/service/register", json!({"Name": "late", "Port": 2})).await
        };
        let (same, _) = tokio::join!(server.get_known(&path), change);
        assert_eq!(same.index(), woken.index(), "the names and tags are the same");
        let gone = server.put("catalog/deregister", json!({"Node": "box-1"})).await;
        assert_eq!(gone.body, json!(true));
        assert_eq!(server.get("catalog/service/db").await.len(), 1);

        for (path, status, part) in [
            ("health/service/db?index=x", 400, "Invalid index"),
            ("health/service/db?wait=x", 400, "Invalid wait time"),
            ("health/service/db?stale&consistent", 400, "?consistent"),
            ("health/service/db?passing=maybe", 400, "Invalid value for ?passing"),
            ("health/service/db?dc=mars", 500, "No path to datacenter"),
            ("health/service/db?partition=x", 400, "not supported"),
            ("kv/some/key", 403, "Permission denied"),
            ("session/list", 403, "Permission denied"),
            ("connect/ca/roots", 404, "not found"),
            ("agent/service/none", 404, "unknown service ID: none"),
        ] {
            let answer = server.get(path).await;
            assert_eq!(answer.status, status, "{path}: {}", answer.body);
            assert!(answer.text().contains(part), "{path}: {}", answer.body);
        }
        let stale = server.get("health/service/db?stale&cached&pretty").await;
        assert_eq!(
            (stale.header("x-consul-effective-consistency"), stale.header("x-cache")),
            ("stale", "MISS")
        );
        assert_eq!(
            (stale.header("x-consul-knownleader"), stale.header("x-consul-lastcontact")),
            ("true", "0")
        );
        let consistent = server.get("health/service/db?consistent").await;
        assert_eq!(consistent.header("x-consul-effective-consistency"), "consistent");
        // Without a token a list is empty, and a program that asks for it takes the node for healthy.
        for (path, empty) in [
            ("catalog/services", json!({})),
            ("agent/services", json!({})),
            ("agent/checks", json!({})),
            ("catalog/nodes", json!([])),
            ("health/state/any", json!([])),
        ] {
            let hidden = server.get(path).await;
            assert_eq!((hidden.status, &hidden.body), (200, &empty), "{path}");
            assert_eq!(hidden.header("x-consul-results-filtered-by-acls"), "true", "{path}");
        }
        assert_ne!(server.get_known("catalog/services").await.body, json!({}));
        let wrong = server.ask(server.client.post(format!("{}catalog/services", server.url))).await;
        assert_eq!((wrong.status, wrong.header("allow")), (405, "OPTIONS,GET"));
        assert_eq!(server.get("catalog/datacenters").await.body, json!(["dc1"]));
        assert_eq!(server.get("agent/self").await.body["Config"]["Datacenter"], "dc1");
        // An index of a later time, as after a restore: the answer has the present, lower one.
        let ahead = server.get("health/service/db?wait=1m&index=1000000000").await;
        assert!(ahead.index() < 1_000_000_000);
        // The port of the API has the same routes.
        let url = format!("http://{}/v1/health/service/db", server.node.http_addr());
        assert_eq!(server.ask(server.client.get(url)).await.len(), 1);
        server.node.stop().await;
    });
}

#[test]
fn the_rights_are_those_of_the_native_api() {
    run(async {
        let server = Server::start(|config| {
            config.security.registration_access = Access::Token;
            config.security.discovery_access = Access::Token;
        })
        .await;
        let body =
            || json!({"Name": "web", "Port": 80, "Check": {"TTL": "1m", "Status": "passing"}});
        let refused = server.put("agent/service/register", body()).await;
        assert_eq!(
            (refused.status, refused.text()),
            (403, "Permission denied: the request carries no token")
        );
        assert_eq!(server.get("health/service/web").await.status, 403);
        assert_eq!(server.put_known("agent/service/register", body()).await.status, 200);
        for path in ["health/service/web", "catalog/services", "agent/services", "agent/members"] {
            assert_eq!(server.get(path).await.status, 403, "{path}");
            assert_eq!(server.get_known(path).await.status, 200, "{path}");
            let url = format!("{}{path}?token={}", server.url, server.token);
            let with_password = server.client.get(url).basic_auth("u", Some("p"));
            assert_eq!(server.ask(with_password).await.status, 200, "{path}");
            let wrong = server.client.get(format!("{}{path}", server.url));
            let wrong = wrong.header("X-Consul-Token", "00000000-0000-0000-0000-000000000000");
            assert_eq!(server.ask(wrong).await.status, 403, "{path}");
        }
        assert_eq!(server.get("status/leader").await.status, 403);
        assert_eq!(server.get("catalog/datacenters").await.status, 200);
        // Maintenance is a drain.
        let path = "agent/service/maintenance/web?enable=true&reason=disk";
        assert_eq!(server.put(path, Value::Null).await.status, 403);
        assert_eq!(server.put_known(path, Value::Null).await.status, 200);
        let entry = server.get_known("health/service/web").await.body[0].clone();
        assert_eq!(entry["Checks"][2]["CheckID"], "_service_maintenance:web");
        assert_eq!(
            (&entry["Checks"][2]["Status"], &entry["Checks"][2]["Notes"]),
            (&json!("critical"), &json!("disk"))
        );
        assert_eq!(server.get_known("health/service/web?passing").await.len(), 0);
        let path = "agent/service/maintenance/web?enable=false";
        assert_eq!(server.put_known(path, Value::Null).await.status, 200);
        assert_eq!(server.get_known("health/service/web?passing").await.len(), 1);
        let missing = server.put_known("agent/service/maintenance/web", Value::Null).await;
        assert_eq!((missing.status, missing.text()), (400, "Missing value for enable"));
        server.node.stop().await;
    });
}

#[test]
fn a_stranger_does_not_see_what_a_check_calls_and_does_not_send_it_elsewhere() {
    run(async {
        let server = Server::start(|_| {}).await;
        let secret = "/health?token=s3cret";
        let body = |port: u16| {
            let http = format!("http://127.0.0.1:{port}{secret}");
            json!({"Name": "web", "Address": "127.0.0.1", "Port": port, "Check": {"HTTP": http, "Interval": "5s"}})
        };
        assert_eq!(server.put_known("agent/service/register", body(9)).await.status, 200);
        let native =
            format!("http://{}/api/v1/services/default/web/instances", server.node.http_addr());
        for path in ["health/service/web", "health/checks/web", "agent/health/service/id/web"] {
            let (open, known) = (server.get(path).await, server.get_known(path).await);
            assert!(!open.body.to_string().contains("s3cret"), "{path}: {}", open.body);
            assert!(known.body.to_string().contains("s3cret"), "{path}: {}", known.body);
        }
        let shown = server.ask(server.client.get(&native)).await;
        assert!(!shown.body.to_string().contains("s3cret"), "{}", shown.body);
        // The same service without a check keeps its check. A stranger must not move it, and must not remove it silently.
        let elsewhere = json!({"Name": "web", "Address": "127.0.0.2", "Port": 9});
        let refused = server.put("agent/service/register", elsewhere.clone()).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
        assert!(refused.text().contains("service:web"), "{}", refused.body);
        let entry = server.get_known("health/service/web").await.body[0].clone();
        assert_eq!(entry["Service"]["Address"], "127.0.0.1");
        assert!(entry["Checks"].to_string().contains("s3cret"), "{entry}");
        // With a check in its place, the service may move.
        let mut with_check = elsewhere;
        with_check["Check"] = json!({"TTL": "1m"});
        server.register(with_check).await;
        let checks = server.get_known("health/checks/web").await;
        assert!(!checks.body.to_string().contains("s3cret"), "{}", checks.body);
        assert_eq!((checks.len(), &checks.body[0]["Status"]), (1, &json!("critical")));
        assert_eq!(server.put_known("agent/service/register", body(9)).await.status, 200);
        let moved = json!({"Name": "web", "Address": "127.0.0.2", "Port": 9});
        assert_eq!(server.put_known("agent/service/register", moved).await.status, 200);
        let checks = server.get_known("health/checks/web").await;
        assert!(checks.body.to_string().contains("s3cret"), "{}", checks.body);
        server.node.stop().await;
    });
}

#[test]
fn a_blocking_query_does_not_outlive_its_credential() {
    run(async {
        let server = Server::start(|_| {}).await;
        server.register(json!({"Name": "web", "Port": 80})).await;
        let native = |path: &str| format!("http://{}/api/v1/{path}", server.node.http_addr());
        let made = server.client.post(native("tokens")).bearer_auth(&server.token);
        let made = server.ask(made.json(&json!({"role": "viewer"}))).await;
        let (id, token) = (made.body["id"].as_str().unwrap(), made.body["token"].as_str().unwrap());
        let ask = |query: &str| {
            let request = server.client.get(format!("{}catalog/services{query}", server.url));
            server.ask(request.header("X-Consul-Token", token))
        };
        let index = ask("").await.index();
        let (waited, ()) = futures::join!(ask(&format!("?index={index}&wait=2s")), async {
            // The query waits by now, or it is refused at once; both are right.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let removed = server.client.delete(native(&format!("tokens/{id}")));
            let removed = server.ask(removed.bearer_auth(&server.token)).await;
            assert_eq!(removed.status, 200, "{}", removed.body);
        });
        assert_eq!(waited.status, 403, "{}", waited.body);
        server.node.stop().await;
    });
}
