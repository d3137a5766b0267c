//! One selection: the same caller gets the same instance by redirect, by proxy and by resolve, and if callers are not
//! distinguished, all ways give the same shares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use maxine_gateway::TrustedProxies;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::support::Server;

/// Each instance with its weight, version and zone. The node runs in `east`.
const INSTANCES: [(&str, u16, &str, &str); 6] = [
    ("a", 1, "stable", "east"),
    ("b", 2, "stable", "east"),
    ("c", 1, "stable", "west"),
    ("d", 1, "canary", "east"),
    ("e", 3, "canary", "west"),
    ("f", 2, "canary", "west"),
];

/// A filter for the choice, as a part of `traffic`.
const FILTERS: [(&str, &str); 5] = [
    ("no filter", "{}"),
    (
        "split",
        r#"{"split": [{"version": "stable", "weight": 3}, {"version": "canary", "weight": 1}]}"#,
    ),
    ("zone", r#"{"zone": {"local_instances_min": 1, "spill_in_flight": 50}}"#),
    (
        "split and zone",
        r#"{"split": [{"version": "stable", "weight": 3}, {"version": "canary", "weight": 1}], "zone": {}}"#,
    ),
    ("sticky header", r#"{"sticky": {"header": {"name": "x-session"}}}"#),
];

/// A way to an instance.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// A redirect of discovery.
    Redirect,
    /// The same with a slash at the end of the path.
    RedirectWithSlash,
    /// Discovery that forwards the request.
    DiscoverByProxy,
    /// The proxy's own path.
    Proxy,
    Resolve,
    ResolveByRedirect,
}

const WAYS: [Way; 6] = [
    Way::Redirect,
    Way::RedirectWithSlash,
    Way::DiscoverByProxy,
    Way::Proxy,
    Way::Resolve,
    Way::ResolveByRedirect,
];

/// A caller, with everything that a policy can hash.
struct Caller {
    address: &'static str,
    user: &'static str,
    /// The user as a query parameter, encoded.
    parameter: &'static str,
    session: String,
}

fn callers() -> Vec<Caller> {
    let caller = |address, user, parameter| {
        let session = format!("session of {user:?} at {address}");
        Caller { address, user, parameter, session }
    };
    vec![
        caller("10.0.0.1", "ada", "user=ada"),
        caller("10.0.0.2", "a b+c", "x=1&user=a+b%2Bc&user=other"),
        caller("2001:db8::7", "Zoë", "user=Zo%C3%AB"),
        caller("10.0.0.4", "%41", "us%65r=%2541"),
        caller("10.0.0.5", "customer-4711", "user=&user=customer-4711"),
        // Without a value, the address is used.
        caller("10.0.0.6", "", "user="),
    ]
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Way {
    fn path(self, parameter: &str) -> String {
        let (discover, target) = ("/api/maxine/serviceops/discover", format!("/x?{parameter}"));
        let target_encoded = encoded(&target);
        match self {
            Self::Redirect => format!("{discover}?serviceName=s&endPoint={target_encoded}"),
            Self::RedirectWithSlash => format!("{discover}/?serviceName=s&{parameter}"),
            Self::DiscoverByProxy => {
                format!("{discover}?serviceName=s&mode=proxy&endPoint={target_encoded}")
            }
            Self::Proxy => format!("/api/maxine/serviceops/proxy/s{target}"),
            Self::Resolve => format!("/api/v1/resolve/default/s?path={target_encoded}"),
            Self::ResolveByRedirect => {
                format!("/api/v1/resolve/default/s?redirect=1&path={target_encoded}")
            }
        }
    }
}

/// Answers requests to an instance with their target. Its first segment is the instance.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = Router::new().fallback(async |request: Request| {
        Response::new(Body::from(request.uri().path().to_owned()))
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

/// The instance to which an answer leads, or which has answered.
fn instance_of(status: u16, location: Option<&HeaderValue>, body: &str) -> String {
    let url = match (status, serde_json::from_str::<Value>(body)) {
        (302, _) => location.unwrap().to_str().unwrap().to_owned(),
        (200, Ok(resolution)) => return resolution["id"].as_str().unwrap().to_owned(),
        (200, Err(_)) => format!("http://h{body}"),
        _ => panic!("{status} {body}"),
    };
    url.split('/').nth(3).unwrap().to_owned()
}

fn request(uri: &str, caller: &Caller) -> hyper::http::request::Builder {
    hyper::Request::get(uri)
        .header("x-forwarded-for", caller.address)
        .header("x-session", HeaderValue::from_bytes(caller.session.as_bytes()).unwrap())
        .header("x-user", HeaderValue::from_bytes(caller.user.as_bytes()).unwrap())
}

/// The instance that the caller got.
async fn got(answer: hyper::Result<Response<hyper::body::Incoming>>) -> String {
    let (parts, body) = answer.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = std::str::from_utf8(&body).unwrap();
    instance_of(parts.status.as_u16(), parts.headers.get("location"), body)
}

/// A node with the instances, and a connection of each kind to it.
struct Rig {
    server: Server,
    token: String,
    http1: http1::SendRequest<Empty<bytes::Bytes>>,
    http2: http2::SendRequest<Empty<bytes::Bytes>>,
}

impl Rig {
    async fn start() -> Self {
        let server = Server::start_with(|options| {
            let loopback = "127.0.0.0/8".parse().unwrap();
            options.api.trusted_proxies = TrustedProxies::new(vec![loopback]);
            options.zone = Some("east".into());
        })
        .await;
        let token = server.admin().await;
        let upstream = upstream().await;
        for (id, weight, version, zone) in INSTANCES {
            let body = json!({"address": format!("http://{upstream}/{id}"), "weight": weight,
                "version": version, "zone": zone, "ttl_ms": 600_000});
            let path = format!("/api/v1/services/default/s/instances/{id}");
            let put = server.put(&path, &body).bearer_auth(&token).send().await.unwrap();
            assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
        }
        let io = || async { TokioIo::new(TcpStream::connect(server.addr).await.unwrap()) };
        let (http1, connection) = http1::handshake(io().await).await.unwrap();
        tokio::spawn(connection);
        let (http2, connection) = http2::handshake(TokioExecutor::new(), io().await).await.unwrap();
        tokio::spawn(connection);
        Self { server, token, http1, http2 }
    }

    async fn set(&self, strategy: &str, hash_key: &Value, filter: &str) {
        let traffic: Value = serde_json::from_str(filter).unwrap();
        let selection = json!({"strategy": strategy, "hash_key": hash_key});
        let policy = json!({"selection": selection, "traffic": traffic});
        let put = self.server.put("/api/v1/services/default/s/policy", &policy);
        let put = put.bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
    }

    /// Asks by HTTP/1.1 or HTTP/2, and returns the instance that the caller got.
    async fn ask(&mut self, path: &str, caller: &Caller, over_http2: bool) -> String {
        let authority = self.server.addr;
        if !over_http2 {
            self.http1.ready().await.unwrap();
            let request = request(path, caller).header("host", authority.to_string());
            return got(self.http1.send_request(request.body(Empty::new()).unwrap()).await).await;
        }
        let request = request(&format!("http://{authority}{path}"), caller);
        got(self.http2.send_request(request.body(Empty::new()).unwrap()).await).await
    }

    /// Asks by every way, over both protocols, and on the fast path of discovery.
    async fn ask_all(&mut self, caller: &Caller) -> BTreeMap<String, String> {
        let mut got = BTreeMap::new();
        for way in WAYS {
            for over_http2 in [false, true] {
                let path = way.path(caller.parameter);
                let instance = self.ask(&path, caller, over_http2).await;
                got.insert(format!("{way:?}, HTTP/2: {over_http2}"), instance);
            }
        }
        got.insert("the fast path".into(), self.ask_fast(caller).await);
        got
    }

    /// Asks for a redirect on a connection that only the fast path has served.
    async fn ask_fast(&self, caller: &Caller) -> String {
        let fast = || self.server.state.telemetry().metrics().fast_path.get();
        let before = fast();
        let stream = TokioIo::new(TcpStream::connect(self.server.addr).await.unwrap());
        let (mut http1, connection) = http1::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = request(&Way::Redirect.path(caller.parameter), caller).header("host", "h");
        let got =
            got(http1.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await)
                .await;
        assert_eq!(fast() - before, 1, "not on the fast path");
        connection.abort();
        got
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_caller_gets_the_same_instance_by_every_way() {
    let mut rig = Rig::start().await;
    let sources = [
        json!({"from": "client_address"}),
        json!({"from": "header", "name": "X-User"}),
        json!({"from": "query", "name": "user"}),
    ];
    for strategy in ["consistent_hash", "rendezvous", "round_robin", "least_request"] {
        let hashes = matches!(strategy, "consistent_hash" | "rendezvous");
        for (filter, traffic) in FILTERS {
            if !hashes && filter != "sticky header" {
                continue;
            }
            for source in &sources {
                rig.set(strategy, source, traffic).await;
                let mut chosen = BTreeSet::new();
                for caller in callers() {
                    let got = rig.ask_all(&caller).await;
                    let instances: BTreeSet<&String> = got.values().collect();
                    let at = format!("{strategy}, {source}, {filter}, {:?}", caller.user);
                    assert_eq!(instances.len(), 1, "{at}: {got:#?}");
                    chosen.extend(got.into_values());
                }
                assert!(
                    chosen.len() > 1,
                    "{strategy}, {source}, {filter}: all callers got {chosen:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_the_value_that_the_policy_hashes() {
    let mut rig = Rig::start().await;
    for source in [
        json!({"from": "client_address"}),
        json!({"from": "header", "name": "x-user"}),
        json!({"from": "query", "name": "user"}),
    ] {
        rig.set("consistent_hash", &source, FILTERS[1].1).await;
        for caller in callers() {
            let expected = rig.ask(&Way::Proxy.path(caller.parameter), &caller, false).await;
            let by_address = source["from"] == "client_address" || caller.user.is_empty();
            let keys = if !by_address {
                vec![caller.user.to_owned()]
            } else if source["from"] == "client_address" && caller.address.contains('.') {
                vec![caller.address.into(), format!("::ffff:{}", caller.address)]
            } else {
                continue;
            };
            // Somebody else asks in the caller's place.
            let other =
                Caller { address: "10.9.9.9", user: "eve", parameter: "", session: String::new() };
            for key in keys {
                let path = format!("/api/v1/resolve/default/s?key={}", encoded(&key));
                assert_eq!(rig.ask(&path, &other, false).await, expected, "{source} {key}");
            }
        }
    }
}

/// Whether a count of 100 random choices fits an expected share. A difference of six standard deviations
/// practically never happens.
fn fits(count: usize, expected: usize) -> bool {
    let deviation = ((expected * (100 - expected)) as f64 / 100.0).sqrt();
    count.abs_diff(expected) as f64 <= 6.0 * deviation + 1.0
}

/// The expected shares of the instances in 100 choices.
fn expected_shares(split: bool, zone: bool) -> BTreeMap<&'static str, usize> {
    let is_peer = |of_version: &str, in_zone: &str, version: &str| {
        (of_version == version || !split) && (in_zone == "east" || !zone)
    };
    let share = |(id, weight, version, in_zone): (&'static str, u16, &str, &str)| {
        let peers = INSTANCES.iter().filter(|peer| is_peer(peer.2, peer.3, version));
        let total: usize = peers.map(|peer| usize::from(peer.1)).sum();
        let part = match version {
            _ if !split => 100,
            "stable" => 75,
            _ => 25,
        };
        let gets_some = in_zone == "east" || !zone;
        (id, if gets_some { part * usize::from(weight) / total } else { 0 })
    };
    INSTANCES.into_iter().map(share).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hash_every_way_gives_the_same_shares() {
    let mut rig = Rig::start().await;
    let caller = callers().remove(0);
    for strategy in ["round_robin", "least_request"] {
        for (filter, traffic) in &FILTERS[..4] {
            rig.set(strategy, &json!({"from": "client_address"}), traffic).await;
            let split = filter.contains("split");
            let expected = expected_shares(split, filter.contains("zone"));
            for way in WAYS {
                let mut shares: BTreeMap<String, usize> = BTreeMap::new();
                for _ in 0..100 {
                    let got = rig.ask(&way.path(caller.parameter), &caller, false).await;
                    *shares.entry(got).or_default() += 1;
                }
                let at = format!("{strategy}, {filter}, {way:?}: {shares:?}, not {expected:?}");
                let count = |id: &str| shares.get(id).copied().unwrap_or(0);
                for (id, share) in &expected {
                    if strategy == "round_robin" && !split {
                        assert_eq!(count(id), *share, "{at}");
                    } else {
                        assert!(fits(count(id), *share) && (*share > 0 || count(id) == 0), "{at}");
                    }
                }
                assert!(!split || fits(["d", "e", "f"].map(count).iter().sum(), 25), "{at}");
            }
        }
    }
}
