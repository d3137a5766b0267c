//! A whole node with a real socket on loopback: registry, security, telemetry, API. Only the log is in
//! memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use maxine::app::{NodeParts, NodeSettings, assemble};
use maxine_actors::peer::PeerRouter;
use maxine_actors::registry::RegistrySettings;
use maxine_api::ServeLimits;
use maxine_api::{ApiSettings, AppState};
use maxine_clock::Clock;
use maxine_control::health::ActiveDefaults;
use maxine_gateway::{ConnectionLimits, EgressPolicy, ForwarderConfig, TlsRoots};
use maxine_identity::{PasswordCost, SecuritySettings};
use maxine_state::Role;
use maxine_store::MemoryStore;
use maxine_telemetry::TelemetrySettings;
use maxine_view::View;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a test changes about the node.
pub(crate) struct Options {
    pub(crate) api: ApiSettings,
    pub(crate) security: SecuritySettings,
    pub(crate) telemetry: TelemetrySettings,
    pub(crate) health: ActiveDefaults,
    pub(crate) limits: ServeLimits,
    /// Maximum number of connections to instances.
    pub(crate) upstreams_max: usize,
    /// The zone of the node.
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
    stop: CancellationToken,
    system: actix::System,
}

/// An actix system on its own thread, as the server has one.
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

impl Server {
    /// A node with the defaults.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A node with the options that the test changes.
    pub(crate) async fn start_with(customise: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            api: ApiSettings { instance_id: "node-1".into(), ..ApiSettings::default() },
            security: SecuritySettings {
                password_cost: PasswordCost { memory_kib: 64, passes: 1 },
                ..SecuritySettings::default()
            },
            telemetry: TelemetrySettings::default(),
            limits: ServeLimits::default(),
            upstreams_max: 65_536,
            health: ActiveDefaults::default(),
            zone: None,
        };
        customise(&mut options);
        let clock = Clock::system();
        let view = View::in_zone(clock.clone(), options.zone);
        let peers = PeerRouter::new();
        let store = Arc::new(MemoryStore::new(Arc::clone(&view), "node-1", peers.clone()));
        let (system, arbiter) = start_system();
        let accounts = options.security.accounts.clone();
        let settings = NodeSettings {
            registry: RegistrySettings::default(),
            api: options.api,
            security: options.security,
            telemetry: options.telemetry,
            forwarder: ForwarderConfig {
                connections: ConnectionLimits::of(options.upstreams_max),
                ..ForwarderConfig::new(
                    EgressPolicy::new(Vec::new(), Vec::new(), true),
                    TlsRoots::default(),
                )
            },
            health: options.health,
        };
        let node = assemble(NodeParts {
            store: store.clone(),
            view: Arc::clone(&view),
            peers,
            clock,
            arbiter,
            settings,
        });
        let node = node.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (made, mut first) = mpsc::unbounded_channel();
        node.keep_duties(&tasks, &stop, move |password| {
            let _ = made.send(password.password.expose().to_owned());
        });
        let admin_password = match accounts.iter().any(|account| account.role == Role::Admin) {
            false => first.recv().await.expect("a first start makes a password"),
            true => String::new(),
        };
        let are_written = || {
            let snapshot = view.snapshot();
            let users = &snapshot.state.identities().users;
            snapshot.state.version() == maxine_state::STATE_VERSION
                && accounts
                    .iter()
                    .all(|a| users.values().any(|user| user.name.as_str() == a.user_name))
        };
        while !are_written() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tasks.spawn(node.serve(listener, options.limits, stop.clone()));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { addr, state: node.state.clone(), view, store, admin_password, http, stop, system }
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

    /// Accepts no more connections, and lets requests in flight finish.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Signs in and returns the token.
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

    /// Registers an instance and returns the body of the answer.
    pub(crate) async fn register(&self, body: Value) -> Value {
        let answer = self.post("/api/maxine/serviceops/register", &body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Discovers a service. Returns the status and the `Location`.
    pub(crate) async fn discover(&self, query: &str) -> (u16, String) {
        let path = format!("/api/maxine/serviceops/discover?{query}");
        let answer = self.get(&path).send().await.unwrap();
        let location = answer.headers().get("location");
        let location = location.map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), location.unwrap_or_default())
    }

    /// Sends raw bytes, and returns everything that is answered.
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

/// The registration of an instance on loopback.
pub(crate) fn node(service: &str, name: &str, port: u16) -> Value {
    json!({"hostName": "127.0.0.1", "serviceName": service, "nodeName": name, "port": port})
}
