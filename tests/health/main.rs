//! Probes, verdicts and their effect on routing, with real servers and the real actors.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

#[path = "../support/authority.rs"]
mod authority;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use actix_rt::Arbiter;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use maxine::app::{Assembled, NodeParts, NodeSettings, assemble};
use maxine_actors::peer::{self, Observations, ObserverReports, PeerRouter, To};
use maxine_actors::registry::RegistrySettings;
use maxine_actors::{HealthChecker, Registry, WriteRequest};
use maxine_api::ApiSettings;
use maxine_clock::Clock;
use maxine_control::health::{ActiveDefaults, LastResult, Observation, ProbeStatus};
use maxine_gateway::{EgressPolicy, ForwarderConfig, TlsRoots};
use maxine_identity::SecuritySettings;
use maxine_state::{
    Actor, Address, Command, Health, InstanceKey, Liveness, Name, ProbeKind, ProbeSpec, Readiness,
    Registration, Reply, ServiceKey,
};
use maxine_store::{CallError, MemoryStore};
use maxine_telemetry::{AlertKind, AlertState, TelemetrySettings};
use maxine_view::View;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time limit for everything that a test waits for.
const SOON: Duration = Duration::from_secs(10);

/// A whole node with a store in memory.
struct Rig {
    node: Assembled,
    view: Arc<View>,
    store: Arc<MemoryStore>,
    /// The store of another node, through which it sends messages to this one.
    other: MemoryStore,
    registry: Registry,
    health: HealthChecker,
    arbiter: Arbiter,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.health.stop();
        self.registry.stop();
        self.arbiter.stop();
    }
}

fn service() -> ServiceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted("orders"))
}

fn key(id: &str) -> InstanceKey {
    service().instance(Name::trusted(id))
}

impl Rig {
    async fn new(defaults: ActiveDefaults) -> Self {
        Self::trusting(defaults, &TlsRoots::System).await
    }

    async fn trusting(health: ActiveDefaults, roots: &TlsRoots) -> Self {
        // Another test of this process may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock = Clock::system();
        let view = View::new(clock.clone());
        let peers = PeerRouter::new();
        let store =
            Arc::new(MemoryStore::new(Arc::clone(&view), "node-1", Arc::clone(&peers) as _));
        let elsewhere = View::new(clock.clone());
        let other = MemoryStore::new(elsewhere, "node-2", Arc::clone(&peers) as _);
        let arbiter = Arbiter::new();
        let egress = EgressPolicy::new(vec![], vec![], true);
        let settings = NodeSettings {
            registry: RegistrySettings::default(),
            api: ApiSettings { instance_id: "node-1".into(), ..ApiSettings::default() },
            security: SecuritySettings::default(),
            telemetry: TelemetrySettings::default(),
            forwarder: ForwarderConfig::new(egress, roots.clone()),
            health,
        };
        let node = assemble(NodeParts {
            store: Arc::clone(&store) as _,
            view: Arc::clone(&view),
            peers,
            clock,
            arbiter: arbiter.handle(),
            settings,
        });
        let node = node.unwrap();
        let (registry, health) = (node.state.registry().clone(), node.state.health().clone());
        let rig = Self { node, view, store, other, registry, health, arbiter };
        rig.has_duties(true).await;
        rig
    }

    /// Waits until this node has the leader's duties, or no longer has them.
    async fn has_duties(&self, has: bool) {
        let mut duties = self.node.duties.clone();
        let changed = duties.wait_for(|duties| duties.is_some() == has);
        tokio::time::timeout(SOON, changed).await.expect("in time").expect("it lives");
    }

    /// Reports to this node what another one observed of instance `a`.
    async fn observe(
        &self,
        observer: &str,
        address_index: u64,
        status: ProbeStatus,
    ) -> Result<(), CallError> {
        let observation = Observation {
            key: key("a"),
            address_index,
            status: Some(status),
            passive: false,
            last: LastResult {
                at_ms: 7,
                ok: status == ProbeStatus::Good,
                detail: "connection refused".into(),
            },
        };
        let question = Observations { observer: observer.into(), items: vec![observation] };
        peer::call(&self.other, To::Leader, question, SOON).await
    }

    /// Whether the alert of a service in panic mode is active.
    fn has_panic_alert(&self) -> bool {
        let alerts = self.node.state.telemetry().alerts().newest_first();
        alerts.iter().any(|alert| {
            alert.kind == AlertKind::ServicePanic
                && alert.object == service().to_string()
                && alert.state == AlertState::Active
        })
    }

    async fn write(&self, command: Command) -> Reply {
        let actor = Actor::system("test");
        // The actors start on their own thread. Until then the registry answers that it is not ready.
        for _ in 0..100 {
            let request = WriteRequest {
                actor: actor.clone(),
                request_id: None,
                fence: None,
                answer_by_ms: None,
                command: command.clone(),
            };
            match self.registry.propose(request).await {
                Ok(applied) => return applied.reply,
                Err(maxine_actors::WriteError::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the registry did not start");
    }

    async fn register(&self, id: &str, address: SocketAddr, probe: Option<ProbeSpec>) -> u64 {
        self.register_at(id, &format!("http://{address}"), probe).await
    }

    async fn register_at(&self, id: &str, url: &str, probe: Option<ProbeSpec>) -> u64 {
        let address = Address::parse(url).unwrap();
        let mut registration = Registration::new(Name::trusted(id), address, 600_000);
        if let Some(probe) = probe {
            registration = registration.with_probe(probe);
        }
        let reply = self.write(Command::Register { items: vec![(service(), registration)] }).await;
        let Reply::Registered(epochs) = reply else { panic!("{reply:?}") };
        epochs[0].clone().unwrap()
    }

    async fn policy(&self, json: &str) {
        let policy = Some(serde_json::from_str(json).unwrap());
        let key = service();
        self.write(Command::PutPolicy { key, policy, expected_revision: None, create: true }).await;
    }

    fn verdict(&self, id: &str) -> Health {
        let snapshot = self.view.snapshot();
        let service = snapshot.state.service(&service()).unwrap();
        service.instances[&Name::trusted(id)].health().clone()
    }

    fn routed(&self) -> Vec<String> {
        let table = self.view.table(service().as_ref());
        let endpoints = table.iter().flat_map(|table| table.endpoints().to_vec());
        endpoints.map(|e| e.instance.registration.id.to_string()).collect()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn server<F>(answer: F) -> Server
where
    F: Fn(Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tasks.spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Server { address, task }
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(Body::from("all is well")).unwrap()
}

fn probe(kind: ProbeKind, path: &str) -> ProbeSpec {
    ProbeSpec {
        kind,
        path: path.into(),
        interval_ms: 100,
        timeout_ms: 500,
        rise: 1,
        fall: 2,
        ..ProbeSpec::default()
    }
}

async fn a_failing_instance_is_evicted_with_a_reason_and_comes_back_by_itself() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    let mode = Arc::new(AtomicU8::new(0));
    let flag = Arc::clone(&mode);
    let server = server(move |request| {
        assert_eq!(request.uri().path(), "/health");
        status(if flag.load(Ordering::SeqCst) == 0 { 200 } else { 500 })
    })
    .await;
    rig.register("a", server.address, Some(probe(ProbeKind::Http, "/health"))).await;
    until("probed", || rig.health.track(&key("a")).is_some_and(|t| !t.records.is_empty())).await;
    assert_eq!(rig.verdict("a"), Health::default(), "a good start is no transition");
    mode.store(1, Ordering::SeqCst);
    until("evicted", || rig.verdict("a").liveness == Liveness::Evicted).await;
    let verdict = rig.verdict("a");
    assert_eq!(&*verdict.reason, "status 500 (seen by node-1)");
    assert!(verdict.since_ms > 0);
    assert_eq!(rig.routed(), Vec::<String>::new());
    assert_eq!(rig.health.failing(), vec![], "one that is gone is not counted");
    let track = rig.health.track(&key("a")).unwrap();
    assert_eq!(track.records[0].detail, "status 500", "it is watched on");
    mode.store(0, Ordering::SeqCst);
    until("back", || rig.verdict("a").readiness == Readiness::Ready).await;
    assert_eq!(rig.routed(), ["a"]);
}

async fn not_ready_means_no_traffic_and_not_alive_means_eviction() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    let mode = Arc::new(AtomicU8::new(0));
    let flag = Arc::clone(&mode);
    let server = server(move |request| {
        let mode = flag.load(Ordering::SeqCst);
        let bad = match request.uri().path() {
            "/live" => mode == 2,
            _ => mode >= 1,
        };
        status(if bad { 503 } else { 200 })
    })
    .await;
    let spec =
        ProbeSpec { readiness_path: Some("/ready".into()), ..probe(ProbeKind::Http, "/live") };
    rig.register("a", server.address, Some(spec)).await;
    mode.store(1, Ordering::SeqCst);
    until("not ready", || rig.verdict("a").readiness == Readiness::NotReady).await;
    assert_eq!(rig.verdict("a").liveness, Liveness::Alive);
    assert_eq!(rig.routed(), Vec::<String>::new());
    mode.store(2, Ordering::SeqCst);
    until("evicted", || rig.verdict("a").liveness == Liveness::Evicted).await;
}

async fn methods_headers_statuses_and_bodies_are_checked() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    // A redirect to a sign-in page is no success for a probe that an instance has defined.
    let sign_in = self::server(|_| status(302)).await;
    rig.register("redirects", sign_in.address, Some(probe(ProbeKind::Http, "/"))).await;
    until("evicted", || rig.verdict("redirects").liveness == Liveness::Evicted).await;
    let reason = rig.verdict("redirects").reason;
    assert!(reason.starts_with("status 302 (a redirect); 200 to 299 counts as good"), "{reason}");
    let server = server(|request| {
        assert_eq!(request.method(), "POST");
        assert_eq!(request.headers()["x-probe"], "1");
        assert_eq!(request.uri(), "/deep?full=1");
        status(418)
    })
    .await;
    let good = ProbeSpec {
        method: "POST".into(),
        headers: vec![("x-probe".into(), "1".into())],
        expected_statuses: vec![418],
        expected_body: Some("is well".into()),
        ..probe(ProbeKind::Http, "/deep?full=1")
    };
    let wrong = ProbeSpec { expected_body: Some("is lost".into()), ..good.clone() };
    rig.register("a", server.address, Some(good)).await;
    rig.register("b", server.address, Some(wrong)).await;
    until("b evicted", || rig.verdict("b").liveness == Liveness::Evicted).await;
    assert!(rig.verdict("b").reason.contains("the body lacks the text"));
    assert_eq!(rig.routed(), ["a"]);
}

async fn tcp_probes_connect_and_a_probe_that_hangs_times_out() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    rig.register("tcp", address, Some(probe(ProbeKind::Tcp, ""))).await;
    rig.register("http", address, Some(probe(ProbeKind::Http, "/"))).await;
    until("http evicted", || rig.verdict("http").liveness == Liveness::Evicted).await;
    assert!(rig.verdict("http").reason.contains("no answer within 500 ms"));
    assert_eq!(rig.routed(), ["tcp"]);
    drop(listener);
    until("tcp evicted", || rig.verdict("tcp").liveness == Liveness::Evicted).await;
}

async fn the_grpc_health_service_tells_serving_from_not_serving() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    let serving = Arc::new(AtomicU8::new(1));
    let flag = Arc::clone(&serving);
    let server = server(move |request| {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.version(), hyper::Version::HTTP_2);
        let message = Bytes::from(vec![0, 0, 0, 0, 2, 0x08, flag.load(Ordering::SeqCst)]);
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = vec![
            Ok::<_, std::convert::Infallible>(Frame::data(message)),
            Ok(Frame::trailers(trailers)),
        ];
        let body = Body::new(StreamBody::new(futures::stream::iter(frames).boxed()));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await;
    rig.register("a", server.address, Some(probe(ProbeKind::Grpc, "orders"))).await;
    until("probed", || {
        rig.health.track(&key("a")).is_some_and(|t| t.settled == Some(ProbeStatus::Good))
    })
    .await;
    serving.store(2, Ordering::SeqCst);
    until("not ready", || rig.verdict("a").readiness == Readiness::NotReady).await;
    assert_eq!(rig.verdict("a").liveness, Liveness::Alive, "NOT_SERVING is alive");
    serving.store(1, Ordering::SeqCst);
    until("ready", || rig.verdict("a").readiness == Readiness::Ready).await;
}

async fn node_wide_checks_take_the_path_that_clients_register() {
    let defaults = ActiveDefaults {
        enabled: true,
        interval_ms: 100,
        timeout_ms: 500,
        fall: 3,
        ..ActiveDefaults::default()
    };
    let rig = Rig::new(defaults).await;
    let server =
        server(|request| status(if request.uri().path() == "/alive" { 302 } else { 404 })).await;
    let named = |path: &str| ProbeSpec { path: path.into(), ..ProbeSpec::default() };
    rig.register("good", server.address, Some(named("alive"))).await;
    rig.register("bad", server.address, Some(named("/gone"))).await;
    rig.register("silent", server.address, None).await;
    until("counted", || rig.health.failing().iter().any(|(k, _)| *k == key("bad"))).await;
    until("evicted", || rig.verdict("bad").liveness == Liveness::Evicted).await;
    assert_eq!(rig.routed(), ["good", "silent"], "a redirect is good and is not followed");
    let found = rig.health.track(&key("good")).unwrap().records[0].detail.clone();
    assert_eq!(found, "status 302 (a redirect)");
    assert!(rig.health.track(&key("silent")).is_none());
}

/// The owner of an evicted instance continues to register it, as clients of the compatible API do for a
/// heartbeat.
async fn a_heartbeat_does_not_undo_an_eviction() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answer = {
        let well = Arc::clone(&well);
        move |_| status(if well.load(Ordering::SeqCst) { 200 } else { 500 })
    };
    let (here, there) = (server(answer.clone()).await, server(answer).await);
    let spec = || Some(probe(ProbeKind::Http, "/"));
    let epoch = rig.register("a", here.address, spec()).await;
    until("evicted", || rig.verdict("a").liveness == Liveness::Evicted).await;
    let verdict = rig.verdict("a");
    let mut registration = Registration::new(
        Name::trusted("a"),
        Address::parse(&format!("http://{}", here.address)).unwrap(),
        600_000,
    );
    registration = registration.with_probe(spec().expect("a probe"));
    let beat = async |registration: &Registration| {
        let items = vec![(service(), registration.clone())];
        let (_, answers) =
            rig.registry.register(Actor::system("test"), None, None, items).await.unwrap();
        answers[0].clone().unwrap()
    };
    for _ in 0..10 {
        assert_eq!(beat(&registration).await, epoch);
        assert_eq!(rig.register("a", here.address, spec()).await, epoch, "by the log");
        assert_eq!((rig.verdict("a"), rig.routed()), (verdict.clone(), vec![]));
    }
    // A change of other fields than the address changes no verdict, and restarts no probe.
    let probed = rig.health.track(&key("a")).unwrap().failures;
    registration.weight = 7;
    assert_ne!(beat(&registration).await, epoch);
    assert_eq!((rig.verdict("a"), rig.routed()), (verdict, vec![]));
    until("probed on", || rig.health.track(&key("a")).unwrap().failures > probed).await;
    // With another address the instance gets a new verdict.
    rig.register("a", there.address, spec()).await;
    assert_eq!(rig.routed(), ["a"]);
    until("evicted there", || rig.verdict("a").liveness == Liveness::Evicted).await;
    well.store(true, Ordering::SeqCst);
    until("back", || rig.routed() == ["a"]).await;
}

async fn when_too_many_are_unhealthy_all_are_used() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    rig.policy(r#"{"health":{"panic_percent":60}}"#).await;
    let server = server(|_| status(500)).await;
    rig.register("c", server.address, None).await;
    rig.register("a", server.address, Some(probe(ProbeKind::Http, "/"))).await;
    until("a evicted", || rig.verdict("a").liveness == Liveness::Evicted).await;
    assert_eq!(rig.routed(), ["c"], "one of two is below 60 %");
    rig.register("b", server.address, Some(probe(ProbeKind::Http, "/"))).await;
    until("b evicted", || rig.verdict("b").liveness == Liveness::Evicted).await;
    until("all used", || rig.routed() == ["a", "b", "c"]).await;
    assert!(rig.view.table(service().as_ref()).unwrap().in_panic_mode());
    until("an alert", || rig.has_panic_alert()).await;
}

/// The probe may be defined in the policy. A person who repeats it by hand must send the same request.
async fn the_alert_of_an_eviction_names_the_url_that_was_asked() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    rig.node.keep_duties(&tasks, &cancel, |_| {});
    let server =
        server(|request| status(if request.uri().path() == "/h" { 500 } else { 200 })).await;
    rig.policy(
        r#"{"probe":{"kind":"http","path":"/h","interval_ms":100,"timeout_ms":1000,"fall":1}}"#,
    )
    .await;
    rig.register("a", server.address, None).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    rig.register("b", gone, Some(probe(ProbeKind::Tcp, ""))).await;
    let url_of = |id: &str| {
        let alerts = rig.node.state.telemetry().alerts().newest_first();
        let of_it = |alert: &&maxine_telemetry::Alert| {
            alert.kind == AlertKind::UpstreamEvicted && alert.object == key(id).to_string()
        };
        alerts.iter().find(of_it).map(|alert| alert.details["healthUrl"].clone())
    };
    until("both evicted", || url_of("a").is_some() && url_of("b").is_some()).await;
    assert_eq!(url_of("a").unwrap(), format!("http://{}/h", server.address));
    assert!(url_of("b").unwrap().is_null(), "a connection asks no URL");
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn other_nodes_observations_count_and_two_have_to_agree() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    rig.policy(r#"{"health":{"observers":2}}"#).await;
    let server = server(|_| status(200)).await;
    let epoch = rig.register("a", server.address, Some(probe(ProbeKind::Http, "/"))).await;
    until("probed", || rig.health.track(&key("a")).is_some_and(|t| t.settled.is_some())).await;
    until_heard(&rig, &["node-1"]).await;
    rig.observe("node-2", epoch, ProbeStatus::Dead).await.unwrap();
    until_heard(&rig, &["node-1", "node-2"]).await;
    // This is long enough for a verdict, if the report of one node were sufficient.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.verdict("a").liveness, Liveness::Alive, "one badly placed node");
    rig.observe("node-3", epoch, ProbeStatus::Dead).await.unwrap();
    until("evicted", || rig.verdict("a").liveness == Liveness::Evicted).await;
    rig.store.set_available(false);
    rig.has_duties(false).await;
    let refused = rig.observe("node-2", epoch, ProbeStatus::Good).await;
    let only_leader = "this node does not hold the leader's duties".to_owned();
    assert_eq!(refused, Err(CallError::Refused(only_leader)), "only the leader takes them");
}

/// Waits until the leader has heard exactly these observers of instance `a`.
async fn until_heard(rig: &Rig, observers: &[&str]) {
    let heard = async {
        loop {
            let reports = rig.health.reports(&key("a")).await;
            let heard = reports.iter().flatten().map(|report| report.observer.as_str());
            if heard.eq(observers.iter().copied()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, heard).await.expect("the leader hears them in time");
}

async fn what_the_proxy_saw_counts_where_the_policy_says_so() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    rig.policy(r#"{"health":{"passive_observers":1}}"#).await;
    let server = server(|_| status(200)).await;
    let epoch = rig.register("a", server.address, None).await;
    rig.health.ejection_changed(key("a"), epoch, Some("9 of 10 requests failed".into())).unwrap();
    until("not ready", || rig.verdict("a").readiness == Readiness::NotReady).await;
    assert!(rig.verdict("a").reason.contains("9 of 10 requests failed"));
    rig.health.ejection_changed(key("a"), epoch, None).unwrap();
    until("ready", || rig.verdict("a").readiness == Readiness::Ready).await;
}

/// An HTTPS server for `127.0.0.1`, and the root of its certificate.
async fn secured() -> (Server, TlsRoots) {
    let (config, pem) = authority::server_for_loopback();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tasks.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|_: Request<Incoming>| async {
                    Ok::<_, std::convert::Infallible>(status(200))
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (Server { address, task }, TlsRoots::Pem(pem.into_bytes()))
}

async fn https_probes_verify_the_certificate_unless_told_not_to() {
    let (server, roots) = secured().await;
    let settled = |rig: &Rig, id: &str| rig.health.track(&key(id)).and_then(|track| track.settled);
    let url = format!("https://{}", server.address);
    let strict = probe(ProbeKind::Http, "/");
    let lax = ProbeSpec { insecure_tls: true, ..strict.clone() };
    let rig = Rig::new(ActiveDefaults::default()).await;
    rig.register_at("strict", &url, Some(strict.clone())).await;
    rig.register_at("lax", &url, Some(lax)).await;
    until("judged", || settled(&rig, "strict").is_some() && settled(&rig, "lax").is_some()).await;
    assert_eq!(settled(&rig, "strict"), Some(ProbeStatus::Dead), "nobody vouches for it");
    assert_eq!(settled(&rig, "lax"), Some(ProbeStatus::Good));
    let rig = Rig::trusting(ActiveDefaults::default(), &roots).await;
    rig.register_at("strict", &url, Some(strict)).await;
    until("judged", || settled(&rig, "strict").is_some()).await;
    assert_eq!(settled(&rig, "strict"), Some(ProbeStatus::Good), "its root is trusted");
}

async fn the_leader_tells_what_every_observer_said_last() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    let server = server(|_| status(503)).await;
    let epoch = rig.register("a", server.address, Some(probe(ProbeKind::Http, "/"))).await;
    rig.observe("node-2", epoch, ProbeStatus::Good).await.unwrap();
    until_heard(&rig, &["node-1", "node-2"]).await;
    let said = peer::call(&rig.other, To::Leader, ObserverReports(key("a")), SOON).await.unwrap();
    assert_eq!(said[1].last.at_ms, 7, "the time of the probe, not of the report");
    let said: Vec<_> = said.iter().map(|w| (w.observer.as_str(), w.last.ok)).collect();
    assert_eq!(said, [("node-1", false), ("node-2", true)]);
    let reports = rig.health.reports(&key("a")).await;
    assert_eq!(reports.unwrap().len(), 2, "the leader need not ask itself");
}

async fn a_recovered_instance_starts_slowly() {
    let rig = Rig::new(ActiveDefaults::default()).await;
    rig.policy(r#"{"health":{"slow_start_ms":600000}}"#).await;
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server = {
        let well = Arc::clone(&well);
        server(move |_| status(if well.load(Ordering::SeqCst) { 200 } else { 503 })).await
    };
    rig.register("a", server.address, Some(probe(ProbeKind::Http, "/"))).await;
    until("evicted", || rig.verdict("a").liveness == Liveness::Evicted).await;
    well.store(true, Ordering::SeqCst);
    until("back", || rig.verdict("a").readiness == Readiness::Ready).await;
    // An instance that has just recovered gets far less than half of the requests, although both instances
    // are equal.
    rig.register("b", server.address, None).await;
    let forwarder = rig.node.state.forwarder();
    let mut recovered = 0;
    for _ in 0..400 {
        let context = maxine_gateway::ForwardContext {
            service: service(),
            raw_path: "/".into(),
            raw_query: None,
            prefix: None,
            client: maxine_gateway::ClientAddr::direct(maxine_gateway::Peer::plain(
                [127, 0, 0, 1].into(),
            )),
            caller_class: maxine_admission::CallerClass::Stranger,
            body_len_max: None,
            trace: Vec::new(),
            span: None,
            keep_trailer: false,
            interim: None,
        };
        let forwarded = forwarder.forward(context, Request::new(Body::empty())).await;
        let chosen = forwarded.chosen.unwrap().instance;
        recovered += usize::from(chosen.registration.id.as_str() == "a");
    }
    assert!((1..140).contains(&recovered), "the recovered one got {recovered} of 400");
}

/// The actors need an actix system around each test.
macro_rules! in_a_system {
    ($($name:ident),* $(,)?) => {
        mod case {
            $(
                #[test]
                fn $name() {
                    actix_rt::System::new().block_on(super::$name());
                }
            )*
        }
    };
}

in_a_system!(
    a_failing_instance_is_evicted_with_a_reason_and_comes_back_by_itself,
    not_ready_means_no_traffic_and_not_alive_means_eviction,
    methods_headers_statuses_and_bodies_are_checked,
    tcp_probes_connect_and_a_probe_that_hangs_times_out,
    the_grpc_health_service_tells_serving_from_not_serving,
    node_wide_checks_take_the_path_that_clients_register,
    a_heartbeat_does_not_undo_an_eviction,
    when_too_many_are_unhealthy_all_are_used,
    the_alert_of_an_eviction_names_the_url_that_was_asked,
    other_nodes_observations_count_and_two_have_to_agree,
    what_the_proxy_saw_counts_where_the_policy_says_so,
    https_probes_verify_the_certificate_unless_told_not_to,
    the_leader_tells_what_every_observer_said_last,
    a_recovered_instance_starts_slowly,
);
