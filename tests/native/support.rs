//! A whole node on loopback for tests of the native API: a listening server, the registry and its
//! leases, identities, and the in-memory order of commands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle, System};
use maxine::app::{NodeParts, NodeSettings, assemble};
use maxine_actors::peer::PeerRouter;
use maxine_actors::registry::RegistrySettings;
use maxine_api::ServeLimits;
use maxine_api::{self, ApiSettings};
use maxine_clock::Clock;
use maxine_control::health::ActiveDefaults;
use maxine_control::leases::ExpirySettings;
use maxine_gateway::{EgressPolicy, ForwarderConfig, TlsRoots};
use maxine_identity::{PasswordCost, Security, SecuritySettings};
use maxine_state::{History, Name};
use maxine_store::{ControlStore, MemoryStore};
use maxine_telemetry::TelemetrySettings;
use maxine_view::View;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A running node.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) view: Arc<View>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) token: String,
    pub(crate) client: reqwest::Client,
    pub(crate) router: axum::Router,
    pub(crate) security: Security,
    pub(crate) password: (String, String),
    system: System,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
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
        // Another test of this process may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock = Clock::system();
        let view = View::new(clock.clone());
        let peers = PeerRouter::new();
        let store =
            Arc::new(MemoryStore::new(Arc::clone(&view), "node-1", Arc::clone(&peers) as _));
        let (system, arbiter) = start_actors();
        let settings = NodeSettings {
            registry: RegistrySettings {
                write_timeout_ms: 2_000,
                // No test waits for a minute until its instances count as part of the fleet.
                expiry: ExpirySettings { established_ms: 0, ..ExpirySettings::default() },
                ..RegistrySettings::default()
            },
            api: ApiSettings { instance_id: "node-1".into(), ..settings },
            security: SecuritySettings {
                password_cost: PasswordCost { memory_kib: 8, passes: 1 },
                ..SecuritySettings::default()
            },
            telemetry: TelemetrySettings {
                objectives: maxine::app::objectives(),
                ..TelemetrySettings::default()
            },
            forwarder: ForwarderConfig::new(
                EgressPolicy::new(Vec::new(), Vec::new(), true),
                TlsRoots::default(),
            ),
            health,
        };
        let node = assemble(NodeParts {
            store: Arc::clone(&store) as _,
            view: Arc::clone(&view),
            peers,
            clock,
            arbiter,
            settings,
        });
        let node = node.expect("good settings");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (made, mut first) = mpsc::unbounded_channel();
        node.keep_duties(&tasks, &stop, move |password| {
            let _ = made.send(password.clone());
        });
        let once = first.recv().await.expect("a first start makes a password");
        // The state of a new cluster gets its version beside its identities.
        let mut changes = view.index_changes();
        let newest = |view: &View| view.snapshot().state.version() == maxine_state::STATE_VERSION;
        changes.wait_for(|_| newest(&view)).await.expect("the view is kept");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it listens");
        let router = maxine_api::router(node.state.clone());
        let security = node.state.security().clone();
        tasks.spawn(node.serve(listener, ServeLimits::default(), stop.clone()));
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
            security,
            password: (once.user_name.clone(), once.password.expose().to_owned()),
            system,
            stop,
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

    /// Sends a request. Returns the status and the body as JSON.
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

    /// The present history.
    pub(crate) fn history(&self) -> History {
        self.view.snapshot().state.history().expect("a founded cluster has a history")
    }

    /// Ends a history, as a restore or a loss does.
    pub(crate) async fn begin_history(&self, before: History, history: u64) {
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
            command: maxine_state::Command::BeginHistory {
                before: Some(before),
                history: History::from_random(history),
                line: 0,
                signing_key,
            },
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
