//! A whole node behind a real socket on loopback: registry, security, telemetry, API. Only the log
//! is kept in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures::future::BoxFuture;
use maxine::actors::peer::PeerRouter;
use maxine::actors::registry::{RegistryParts, RegistrySettings};
use maxine::actors::{Registry, WriteError};
use maxine::api::serve::{ServeLimits, serve};
use maxine::api::{
    ApiSettings, AppParts, AppState, ChosenInstance, Forward, ForwardAnswer, ForwardRequest, Front,
    HealthReports, UpstreamsReport,
};
use maxine::app::{BootstrapError, StoreContact, ensure_identities};
use maxine::health::{ActiveDefaults, EffectiveProbe, effective_probe};
use maxine_clock::Clock;
use maxine_gateway::{
    EgressPolicy, ForwardContext, Forwarder, ForwarderConfig, NoMetrics, TlsRoots,
};
use maxine_identity::{PasswordCost, Security, SecuritySettings};
use maxine_state::{
    Actor, Address, Batch, Command, Fence, Instance, Name, Proposal, Reply, RequestId,
    ServicePolicy,
};
use maxine_store::{ControlStore, MemoryStore};
use maxine_telemetry::{Telemetry, TelemetrySettings};
use maxine_view::View;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a test changes about the node.
pub(crate) struct Options {
    pub(crate) api: ApiSettings,
    pub(crate) security: SecuritySettings,
    pub(crate) telemetry: TelemetrySettings,
    pub(crate) limits: ServeLimits,
    pub(crate) upstreams: UpstreamsReport,
    /// The zone that the node runs in.
    pub(crate) zone: Option<String>,
}

/// A node that serves.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) state: AppState,
    pub(crate) view: Arc<View>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) admin_password: String,
    pub(crate) http: reqwest::Client,
    pub(crate) duties: watch::Sender<Option<Fence>>,
    stop: CancellationToken,
    system: actix::System,
}

/// The real forwarder behind the API's seam.
struct Proxy(Forwarder);

impl Forward for Proxy {
    fn forward(
        &self,
        context: ForwardRequest,
        request: Request<Body>,
    ) -> BoxFuture<'static, ForwardAnswer> {
        let forwarder = self.0.clone();
        let context = ForwardContext {
            service: context.service,
            raw_path: context.raw_path,
            raw_query: context.raw_query,
            prefix: context.prefix,
            client: context.client,
            https: false,
            body_len_max: context.body_len_max,
            trace: context.trace,
            keep_trailer: context.keep_trailer,
            interim: context.interim,
        };
        Box::pin(async move {
            let forwarded = forwarder.forward(context, request).await;
            let chosen = forwarded.chosen.map(|chosen| ChosenInstance {
                instance: chosen.instance,
                share: chosen.share,
                target: chosen.target,
            });
            ForwardAnswer {
                response: forwarded.response,
                forwarded: chosen,
                attempts: forwarded.trail,
            }
        })
    }

    fn check_address(&self, address: &Address) -> Result<(), String> {
        self.0.egress().check_address(address).map_err(|denied| denied.to_string())
    }
}

fn forwarder(view: &Arc<View>, clock: &Clock) -> Forwarder {
    let config = ForwarderConfig {
        egress: EgressPolicy::new(Vec::new(), Vec::new(), true),
        tls_roots: TlsRoots::default(),
    };
    Forwarder::new(Arc::clone(view), config, clock.clone(), Arc::new(NoMetrics)).unwrap()
}

struct Reports(UpstreamsReport);

impl HealthReports for Reports {
    fn upstreams(&self) -> UpstreamsReport {
        self.0.clone()
    }

    fn effective_probe(
        &self,
        instance: &Instance,
        policy: Option<&ServicePolicy>,
    ) -> Option<EffectiveProbe> {
        effective_probe(instance, policy, &ActiveDefaults::default())
    }
}

/// An actix system of its own thread, as the server has one.
fn start_system() -> (actix::System, actix::ArbiterHandle) {
    let (started, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let system = actix::System::new();
        let arbiter = actix::Arbiter::new();
        started.send((actix::System::current(), arbiter.handle())).unwrap();
        system.run().unwrap();
    });
    wait.recv().unwrap()
}

async fn take_duties(store: &MemoryStore) -> Fence {
    let proposal = Proposal {
        request_id: RequestId(rand::random()),
        proposed_at_ms: 1,
        fence: None,
        actor: Actor::system("test"),
        command: Command::GrantLeadership { holder: Name::trusted("node-1") },
    };
    let batch = Batch { proposals: vec![proposal] };
    let answer = store.propose(batch, Duration::from_secs(5).into()).await.unwrap();
    match answer[0].reply {
        Reply::Granted(fence) => fence,
        ref other => panic!("no grant: {other:?}"),
    }
}

impl Server {
    /// A node with the defaults.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A node with what the test wants otherwise.
    pub(crate) async fn start_with(customise: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            api: ApiSettings { instance_id: "node-1".into(), ..ApiSettings::default() },
            security: SecuritySettings {
                password_cost: PasswordCost { memory_kib: 64, passes: 1 },
                ..SecuritySettings::default()
            },
            telemetry: TelemetrySettings::default(),
            limits: ServeLimits::default(),
            upstreams: UpstreamsReport::default(),
            zone: None,
        };
        customise(&mut options);
        let clock = Clock::system();
        let view = View::in_zone(clock.clone(), options.zone);
        let peers = PeerRouter::new();
        let store = Arc::new(MemoryStore::new(Arc::clone(&view), "node-1", peers.clone()));
        let fence = take_duties(&store).await;
        let (duties, duties_seen) = watch::channel(Some(fence));
        let (system, arbiter) = start_system();
        let registry = Registry::start(
            &arbiter,
            RegistryParts {
                node: "node-1".into(),
                store: store.clone(),
                view: Arc::clone(&view),
                clock: clock.clone(),
                duties: duties_seen.clone(),
                peers,
                settings: RegistrySettings::default(),
            },
        );
        // The registry's actor starts on its own thread; until it runs, writes are refused.
        let made = loop {
            match ensure_identities(&registry, &view, &clock, &options.security).await {
                Ok(made) => break made,
                Err(BootstrapError::Write(WriteError::Unavailable { .. })) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let admin_password = made.map(|made| made.password.expose().to_owned());
        let telemetry = Telemetry::start(Arc::clone(&view), clock.clone(), &options.telemetry);
        let metrics = telemetry.metrics().clone();
        let state = AppState::new(AppParts {
            view: Arc::clone(&view),
            store: store.clone(),
            registry,
            clock: clock.clone(),
            settings: options.api,
            duties: duties_seen,
            security: Security::new(
                Arc::clone(&view),
                Arc::new(StoreContact(store.clone())),
                clock.clone(),
                options.security,
            ),
            telemetry,
            forwarder: Arc::new(Proxy(forwarder(&view, &clock))),
            health: Arc::new(Reports(options.upstreams)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let front = Arc::new(Front::new(state.clone()));
        tokio::spawn(serve(listener, front, options.limits, metrics, stop.clone()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self {
            addr,
            state,
            view,
            store,
            admin_password: admin_password.unwrap_or_default(),
            http,
            duties,
            stop,
            system,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.post(self.url(path)).json(body)
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.put(self.url(path)).json(body)
    }

    /// Takes no more connections, and lets requests in flight end.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Signs in and answers the token.
    pub(crate) async fn token(&self, user: &str, password: &str) -> String {
        let body = json!({ "userName": user, "password": password });
        let answer = self.post("/api/maxine/signin", &body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await.unwrap();
        body["accessToken"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn admin(&self) -> String {
        self.token("admin", &self.admin_password).await
    }

    /// Registers a node and answers the body.
    pub(crate) async fn register(&self, body: Value) -> Value {
        let answer = self.post("/api/maxine/serviceops/register", &body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The `Location` that discovery answers.
    pub(crate) async fn discover(&self, query: &str) -> (u16, String) {
        let path = format!("/api/maxine/serviceops/discover?{query}");
        let answer = self.get(&path).send().await.unwrap();
        let location = answer.headers().get("location");
        let location = location.map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), location.unwrap_or_default())
    }

    /// Sends raw bytes, and answers everything that comes back.
    pub(crate) async fn raw(&self, request: &[u8]) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("it hangs");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.system.stop();
    }
}

/// The status and the text of `message`.
pub(crate) async fn message(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    assert_eq!(kind.as_deref(), Some("application/json; charset=utf-8"));
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    (status, body["message"].as_str().unwrap().to_owned())
}

/// A registration of a node on loopback.
pub(crate) fn node(service: &str, name: &str, port: u16) -> Value {
    json!({"hostName": "127.0.0.1", "serviceName": service, "nodeName": name, "port": port})
}
