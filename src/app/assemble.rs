//! Builds a whole node from a store and a clock: actors, data plane, authentication, telemetry, and the HTTP
//! front.
//!
//! The program and the tests build the same node. Only the store and the settings differ.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::ArbiterHandle;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cluster_contact::StoreContact;
use super::first_identities::{OneTimePassword, ensure_identities};
use super::{audit_room, health_sink, proxy_metrics, retention};
use maxine_actors::peer::PeerRouter;
use maxine_actors::registry::{RegistryParts, RegistrySettings};
use maxine_actors::supervisor::Supervised;
use maxine_actors::{
    HealthChecker, HealthParts, LeadershipActor, ProxyActor, Registry, history, members,
    state_version,
};
use maxine_api::ServeLimits;
use maxine_api::face::Face;
use maxine_api::serve::serve;
use maxine_api::{self, ApiSettings, AppParts, AppState, Front};
use maxine_clock::Clock;
use maxine_control::health::ActiveDefaults;
use maxine_gateway::{Forwarder, ForwarderConfig, Prober, TlsRoots};
use maxine_identity::{Security, SecuritySettings};
use maxine_state::{Fence, Name};
use maxine_store::ControlStore;
use maxine_telemetry::projection::{self, ProjectionParts};
use maxine_telemetry::{Telemetry, TelemetrySettings};
use maxine_view::View;

/// Pause before the next attempt to create the identities.
const IDENTITIES_PAUSE: Duration = Duration::from_millis(500);

/// The settings of the parts of a node.
#[derive(Clone)]
pub struct NodeSettings {
    /// Leases, expiry and writes.
    pub registry: RegistrySettings,
    /// The HTTP interface. Its `instance_id` is the node's name.
    pub api: ApiSettings,
    /// Accounts, sessions and passwords.
    pub security: SecuritySettings,
    /// Logs, metrics and alerts.
    pub telemetry: TelemetrySettings,
    /// The networks to which the proxy and the probes may connect.
    pub forwarder: ForwarderConfig,
    /// Active health checks.
    pub health: ActiveDefaults,
}

/// The parts of a node.
pub struct NodeParts {
    /// Orders the commands, and publishes to `view`.
    pub store: Arc<dyn ControlStore>,
    /// The view, for reads.
    pub view: Arc<View>,
    /// The router of messages from other nodes. The store passes them to it.
    pub peers: Arc<PeerRouter>,
    /// The clock.
    pub clock: Clock,
    /// The thread that runs the actors.
    pub arbiter: ArbiterHandle,
    /// The settings.
    pub settings: NodeSettings,
}

/// A node that was built. It answers other nodes and carries out its duties. It serves HTTP once
/// [`Self::serve`] runs.
pub struct Assembled {
    /// The data and services that handlers use.
    pub state: AppState,
    /// Whether this node holds the leader's duties.
    pub duties: watch::Receiver<Option<Fence>>,
    /// Kept to replace the roots that it trusts.
    prober: Prober,
    leadership: Supervised<LeadershipActor>,
    proxy: Supervised<ProxyActor>,
}

/// Builds a node and starts its actors. Must be called inside a tokio runtime.
///
/// # Errors
///
/// The name is invalid, or the trusted roots for TLS to instances cannot be used.
pub fn assemble(parts: NodeParts) -> anyhow::Result<Assembled> {
    let NodeParts { store, view, peers, clock, arbiter, settings } = parts;
    let node = settings.api.instance_id.clone();
    let name = Name::parse("node.name", &node)?;
    // It comes before the actors, so that the first election is traced too.
    let telemetry = Telemetry::start(Arc::clone(&view), clock.clone(), &settings.telemetry);
    let (duties_sender, duties) = watch::channel(None);
    let leadership = {
        let (store, view, clock) = (Arc::clone(&store), Arc::clone(&view), clock.clone());
        Supervised::start(&arbiter, move |lifeline| {
            let (store, view) = (Arc::clone(&store), Arc::clone(&view));
            let duties = duties_sender.clone();
            LeadershipActor::new(name.clone(), store, view, clock.clone(), duties, lifeline)
        })
    };
    let registry = Registry::start(
        &arbiter,
        RegistryParts {
            node: node.clone(),
            store: Arc::clone(&store),
            view: Arc::clone(&view),
            clock: clock.clone(),
            duties: duties.clone(),
            peers: Arc::clone(&peers),
            settings: settings.registry,
        },
    );
    members::serve(&store, &peers);
    let contact = Arc::new(StoreContact(Arc::clone(&store)));
    let security = Security::new(Arc::clone(&view), contact, clock.clone(), settings.security);
    let prober = Prober::new(
        settings.forwarder.egress.clone(),
        &settings.forwarder.tls_roots,
        clock.clone(),
    )?;
    let health = HealthChecker::start(
        &arbiter,
        HealthParts {
            node,
            view: Arc::clone(&view),
            store: Arc::clone(&store),
            registry: registry.clone(),
            duties: duties.clone(),
            peers: Arc::clone(&peers),
            clock: clock.clone(),
            prober: prober.clone(),
            defaults: settings.health,
            sink: Arc::new(health_sink::TelemetryHealth(telemetry.clone())),
        },
    );
    let counters = Arc::new(proxy_metrics::ProxyCounters::new(telemetry.metrics().registry()));
    let forwarder = Forwarder::new(Arc::clone(&view), settings.forwarder, clock.clone(), counters)?;
    let proxy = {
        let (forwarder, health, clock) = (forwarder.clone(), health.clone(), clock.clone());
        Supervised::start(&arbiter, move |lifeline| {
            ProxyActor::new(forwarder.clone(), Some(health.clone()), clock.clone(), lifeline)
        })
    };
    let state = AppState::new(AppParts {
        view,
        store,
        registry,
        clock,
        settings: settings.api,
        security,
        telemetry,
        forwarder,
        health,
    });
    maxine_api::native::answer_peers(&state, &peers);
    Ok(Assembled { state, duties, prober, leadership, proxy })
}

impl Assembled {
    /// Starts the background work of a node: events and alerts, the history, retention, and the identities
    /// without which nobody can sign in. `first_password` gets the first administrator's password, if it is
    /// created here.
    pub fn keep_duties(
        &self,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
        first_password: impl Fn(&OneTimePassword) + Send + Sync + 'static,
    ) {
        let state = &self.state;
        let health = state.health().clone();
        let projection = projection::run(
            ProjectionParts {
                telemetry: state.telemetry().clone(),
                view: Arc::clone(state.view()),
                duties: self.duties.clone(),
                leadership: state.store().leadership(),
                instance_id: state.settings().instance_id.clone(),
                health_url: Box::new(move |instance, policy| {
                    health
                        .effective_probe(instance, policy)?
                        .spec
                        .url_on(&instance.registration.address)
                }),
            },
            cancel.clone(),
        );
        tasks.spawn(projection);
        let objectives = Arc::clone(state.telemetry().objectives());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(objectives.keep()));
        let (store, view) = (Arc::clone(state.store()), Arc::clone(state.view()));
        let history = history::keep(store, view, state.clock().clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(history));
        let retention = retention::run(
            state.registry().clone(),
            Arc::clone(state.view()),
            state.clock().clone(),
            self.duties.clone(),
            state.telemetry().clone(),
        );
        tasks.spawn(cancel.clone().run_until_cancelled_owned(retention));
        let room = audit_room::run(
            Arc::clone(state.view()),
            state.clock().clone(),
            self.duties.clone(),
            state.telemetry().clone(),
        );
        tasks.spawn(cancel.clone().run_until_cancelled_owned(room));
        let security = state.security().clone();
        let keys = async move { security.keep_keys().await };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(keys));
        let identities = keep_identities(state.clone(), self.duties.clone(), first_password);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(identities));
    }

    /// What trusts the certificates of instances: the proxy and the health checks.
    pub(super) fn upstream_trust(
        &self,
    ) -> impl Fn(&TlsRoots) -> Result<(), String> + Send + Sync + use<> {
        let (forwarder, prober) = (self.state.forwarder().clone(), self.prober.clone());
        move |roots| {
            forwarder.trust(roots).map_err(|error| error.to_string())?;
            prober.trust(roots).map_err(|error| error.to_string())
        }
    }

    /// Serves HTTP on `listener` until `stop`.
    pub fn serve(
        &self,
        listener: TcpListener,
        limits: ServeLimits,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        self.serve_with(listener, limits, Vec::new(), stop)
    }

    /// Serves HTTP on `listener` until `stop`. The faces take their own paths.
    pub fn serve_with(
        &self,
        listener: TcpListener,
        limits: ServeLimits,
        faces: Vec<Arc<dyn Face>>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let front = Front::with_faces(self.state.clone(), faces);
        self.serve_front(listener, limits, front, stop)
    }

    /// Serves one face on a port of its own until `stop`.
    pub fn serve_face(
        &self,
        listener: TcpListener,
        limits: ServeLimits,
        face: Arc<dyn Face>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        self.serve_front(listener, limits, Front::of_face(self.state.clone(), face), stop)
    }

    fn serve_front(
        &self,
        listener: TcpListener,
        limits: ServeLimits,
        front: Front,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let metrics = self.state.telemetry().metrics().clone();
        serve(listener, Arc::new(front), limits, metrics, stop)
    }

    /// Stops the actors in the reverse order, lets forwarded requests finish for up to `grace`, and writes
    /// waiting audit records.
    pub async fn stop(&self, grace: Duration) {
        self.proxy.stop();
        self.state.health().stop();
        self.state.forwarder().shutdown(grace).await;
        self.state.audit().stop().await;
        self.state.registry().stop();
        self.leadership.stop();
    }
}

/// Founds a new cluster, and creates the identities without which nobody can sign in, whenever this node becomes leader.
async fn keep_identities(
    state: AppState,
    mut duties: watch::Receiver<Option<Fence>>,
    first_password: impl Fn(&OneTimePassword),
) {
    let (registry, view) = (state.registry(), state.view());
    loop {
        let Ok(Some(fence)) = duties.wait_for(Option::is_some).await.map(|fence| *fence) else {
            return;
        };
        // The state must exist first, because a new cluster gets its history and its first signing key
        // together.
        view.has_state().await;
        // The identities are written while the voters of a new cluster are not all known yet: without them, nobody
        // could see why.
        let is_new = state_version::founds_cluster(view, fence).await;
        let mut lost = duties.clone();
        let begin_at_newest = async {
            let (store, node) = (&**state.store(), &state.settings().instance_id);
            let raised = state_version::begin_at_newest(store, registry, node, fence);
            let lost = lost.wait_for(|duties| *duties != Some(fence));
            if is_new {
                tokio::select! {
                    () = raised => {}
                    _ = lost => {}
                }
            }
        };
        let identities = async {
            while duties.borrow().is_some() {
                let made = ensure_identities(registry, view, state.security().settings());
                match made.boxed().await {
                    Ok(None) => break,
                    Ok(Some(password)) => {
                        first_password(&password);
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the accounts could not be written yet; trying again");
                        tokio::time::sleep(IDENTITIES_PAUSE).await;
                    }
                }
            }
        };
        tokio::join!(begin_at_newest.boxed(), identities);
        if duties.wait_for(Option::is_none).await.is_err() {
            return;
        }
    }
}
