//! A whole node on loopback for tests of the native API: a listening server, the registry and its
//! leases, identities, and the in-memory order of commands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle, System};
use axum::body::Body;
use axum::http::{Request, Response};
use futures::future::BoxFuture;
use maxine::actors::peer::PeerRouter;
use maxine::actors::registry::{RegistryParts, RegistrySettings};
use maxine::actors::supervisor::Supervised;
use maxine::actors::{LeadershipActor, Registry, WriteError};
use maxine::api::{
    self, ApiSettings, AppParts, AppState, Forward, ForwardAnswer, ForwardRequest, HealthReports,
    UpstreamsReport,
};
use maxine::app::{BootstrapError, StoreContact, ensure_identities};
use maxine::health::{ActiveDefaults, EffectiveProbe, effective_probe};
use maxine_clock::Clock;
use maxine_identity::{PasswordCost, Security, SecuritySettings};
use maxine_state::{Address, Instance, Name, ServicePolicy};
use maxine_store::{ControlStore, MemoryStore};
use maxine_telemetry::AttemptTrail;
use maxine_telemetry::{Telemetry, TelemetrySettings};
use maxine_view::View;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::sync::watch;

struct NoProxy;

impl Forward for NoProxy {
    fn forward(&self, _: ForwardRequest, _: Request<Body>) -> BoxFuture<'static, ForwardAnswer> {
        Box::pin(async {
            ForwardAnswer {
                response: Response::new(Body::empty()),
                forwarded: None,
                attempts: AttemptTrail::default(),
            }
        })
    }
    fn check_address(&self, address: &Address) -> Result<(), String> {
        match address.as_str().contains("169.254.169.254") {
            true => Err("link-local".into()),
            false => Ok(()),
        }
    }
}

/// Health checks that are set up but do not run.
struct NoChecks(ActiveDefaults);

impl HealthReports for NoChecks {
    fn upstreams(&self) -> UpstreamsReport {
        UpstreamsReport::default()
    }

    fn effective_probe(
        &self,
        instance: &Instance,
        policy: Option<&ServicePolicy>,
    ) -> Option<EffectiveProbe> {
        effective_probe(instance, policy, &self.0)
    }
}

/// A running node.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) view: Arc<View>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) token: String,
    pub(crate) client: reqwest::Client,
    pub(crate) router: axum::Router,
    pub(crate) password: (String, String),
    system: System,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
        self.system.stop();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(ApiSettings::default()).await
    }

    pub(crate) async fn start_with(settings: ApiSettings) -> Self {
        Self::start_probing(settings, ActiveDefaults::default()).await
    }

    pub(crate) async fn start_probing(settings: ApiSettings, health: ActiveDefaults) -> Self {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock = Clock::system();
        let view = View::new(clock.clone());
        let peers = PeerRouter::new();
        let store =
            Arc::new(MemoryStore::new(Arc::clone(&view), "node-1", Arc::clone(&peers) as _));
        let dyn_store: Arc<dyn ControlStore> = Arc::clone(&store) as _;
        let (system, arbiter) = start_actors();
        let (duties_sender, duties) = watch::channel(None);
        let leadership = {
            let (store, view, clock) = (Arc::clone(&dyn_store), Arc::clone(&view), clock.clone());
            Supervised::start(&arbiter, move |lifeline| {
                LeadershipActor::new(
                    Name::trusted("node-1"),
                    Arc::clone(&store),
                    Arc::clone(&view),
                    clock.clone(),
                    duties_sender.clone(),
                    lifeline,
                )
            })
        };
        let mut registry_settings = RegistrySettings::default();
        registry_settings.write_timeout_ms = 2_000;
        let parts = RegistryParts {
            node: "node-1".into(),
            store: Arc::clone(&dyn_store),
            view: Arc::clone(&view),
            clock: clock.clone(),
            duties: duties.clone(),
            peers,
            settings: registry_settings,
        };
        let registry = Registry::start(&arbiter, parts);
        let mut held = duties.clone();
        held.wait_for(Option::is_some).await.expect("the leadership actor runs");
        std::mem::forget(leadership);
        let security_settings = SecuritySettings {
            accounts: vec![],
            password_cost: PasswordCost { memory_kib: 8, passes: 1 },
            ..SecuritySettings::default()
        };
        let security = Security::new(
            Arc::clone(&view),
            Arc::new(StoreContact(Arc::clone(&dyn_store))),
            clock.clone(),
            security_settings,
        );
        let once = loop {
            match ensure_identities(&registry, &view, &clock, security.settings()).await {
                Ok(once) => break once.expect("a first start shows a password"),
                // The registry's actor is not up yet: it is the only one that knows when it is.
                Err(BootstrapError::Write(WriteError::Unavailable { .. })) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let telemetry =
            Telemetry::start(Arc::clone(&view), clock.clone(), &TelemetrySettings::default());
        let state = AppState::new(AppParts {
            view: Arc::clone(&view),
            store: dyn_store,
            registry: registry.clone(),
            clock,
            settings,
            duties,
            security,
            telemetry,
            forwarder: Arc::new(NoProxy),
            health: Arc::new(NoChecks(health)),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it listens");
        let router = api::router(state);
        let app = router.clone().into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.expect("it serves");
        });
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .build()
            .expect("a client");
        let mut server = Self {
            addr,
            view,
            store,
            token: String::new(),
            client,
            router,
            password: (once.user_name.clone(), once.password.expose().to_owned()),
            system,
            serving,
        };
        server.token = server.sign_in(&once.user_name, once.password.expose()).await;
        server
    }

    pub(crate) async fn sign_in(&self, user: &str, password: &str) -> String {
        let body = serde_json::json!({"user": user, "password": password});
        let (status, answer) = self.json(self.open(Method::POST, "/session").json(&body)).await;
        assert_eq!(status, 200, "{answer}");
        answer["access_token"].as_str().expect("a token").into()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1{path}", self.addr)
    }

    /// A request without credentials.
    pub(crate) fn open(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// A request of the first administrator.
    pub(crate) fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.open(method, path).bearer_auth(&self.token)
    }

    /// Sends it and reads JSON.
    pub(crate) async fn json(&self, request: RequestBuilder) -> (StatusCode, Value) {
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.json(self.admin(Method::GET, path)).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Ends a history, as a restore or a loss does.
    pub(crate) async fn begin_history(&self, before: u64, history: u64) {
        let signing_key = maxine_state::SigningKey {
            key_id: Name::trusted(&format!("key-{history}")),
            secret: vec![7; 32].into(),
            created_at_ms: 1,
        };
        let proposal = maxine_state::Proposal {
            request_id: maxine_state::RequestId((u128::from(history) << 64) | 1),
            proposed_at_ms: 1,
            fence: None,
            actor: maxine_state::Actor::system("history"),
            command: maxine_state::Command::BeginHistory { before, history, line: 0, signing_key },
        };
        let batch = maxine_state::Batch { proposals: vec![proposal] };
        let written =
            ControlStore::propose(&*self.store, batch, Duration::from_secs(5).into()).await;
        written.expect("it is written");
    }

    /// Registers an instance of a service in `default`.
    pub(crate) async fn register(&self, service: &str, id: &str, address: &str) -> Value {
        let path = format!("/services/default/{service}/instances/{id}");
        let body = serde_json::json!({"address": address, "ttl_ms": 60_000});
        let (status, answer) = self.json(self.open(Method::PUT, &path).json(&body)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

/// A thread for the actors, which lives until its system is stopped.
fn start_actors() -> (System, ArbiterHandle) {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let system = System::new();
        let arbiter = Arbiter::new();
        sender.send((System::current(), arbiter.handle())).expect("the test waits");
        system.run().expect("the actors run");
    });
    receiver.recv().expect("the thread of the actors starts")
}
