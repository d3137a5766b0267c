//! One node, put together: every part started in order, and stopped in the reverse order.
//!
//! **Invariant:** imported by the command line alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::Arbiter;
use anyhow::Context;
use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actors::clock_check::{self, ClockReport};
use crate::actors::peer::{PeerKind, PeerRouter};
use crate::actors::registry::RegistryParts;
use crate::actors::supervisor::Supervised;
use crate::actors::{LeadershipActor, Registry};
use crate::actors::{history, members};
use crate::api::{self, AppParts, AppState};
use crate::config::{BackendKind, NodeConfig};
use maxine_clock::Clock;
use maxine_gateway::OwnAddresses;
use maxine_identity::{Security, SecuritySettings};
use maxine_state::{Fence, Name};
use maxine_store::local::LocalStore;
use maxine_store::redis::RedisStore;
use maxine_store::shared_file::SharedFileStore;
use maxine_store::{ControlStore, PeerHandler, RaftStore};
use maxine_telemetry::Telemetry;
use maxine_telemetry::projection::{self, ProjectionParts};
use maxine_view::View;

use data_plane::DataPlane;

mod alarms;
mod cluster_contact;
mod conditions;
mod data_plane;
mod first_identities;
mod own_addresses;
mod preflight;
pub mod private;
mod proxy_metrics;
mod retention;
mod settings;

pub use cluster_contact::StoreContact;
pub use first_identities::{BootstrapError, OneTimePassword, ensure_identities};
pub use preflight::preflight;
pub use settings::certificates;

/// How long transferring leadership may take when the node stops.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the next leader may take to ask what is left of the leases.
const LEASES_TIMEOUT: Duration = Duration::from_secs(1);
/// How long requests in flight may go on after the node was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before identities are tried again.
const IDENTITIES_PAUSE: Duration = Duration::from_millis(500);

/// A running node.
pub struct Node {
    http_addr: SocketAddr,
    store: Arc<dyn ControlStore>,
    raft: Option<Arc<RaftStore>>,
    registry: Registry,
    view: Arc<View>,
    telemetry: Telemetry,
    leadership: Supervised<LeadershipActor>,
    data_plane: DataPlane,
    arbiter: Arbiter,
    cancel: CancellationToken,
    tasks: TaskTracker,
    store_failed: watch::Receiver<Option<String>>,
    api: AppState,
}

impl Node {
    /// Starts a node. Returns when it serves.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        Self::start_with(config, Clock::system()).await
    }

    /// Starts a node that goes by `clock`.
    pub async fn start_with(config: NodeConfig, clock: Clock) -> anyhow::Result<Self> {
        maxine_identity::tls::install_crypto_provider();
        std::fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("{} cannot be made", config.data_dir.display()))?;
        let limits = settings::serve(&config)?;
        private::tighten(&config);
        let listen = config.http_listen();
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen} (http.host, http.port)"))?;
        let http_addr = listener.local_addr()?;
        settings::warn_if_open(&config, http_addr);
        settings::tell_of_old_files(&config);

        if config.backend == BackendKind::Raft {
            clock.ask_others();
        }
        let zone = (!config.zone.is_empty()).then(|| config.zone.clone());
        let view = View::in_zone(clock.clone(), zone);
        let peers = PeerRouter::new();
        let advertise = config.http_advertise(http_addr);
        let (store, raft) = open_store(&config, &advertise, &view, &clock, &peers).await?;

        clock.note_start(view.snapshot().state.time_ms());
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        clock_check::serve(&peers, &clock);
        let (clock_report, clocks) = watch::channel(ClockReport::default());
        let compare = clock_check::run(Arc::clone(&store), clock.clone(), clock_report);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(compare));

        let arbiter = Arbiter::new();
        let (duties_sender, duties) = watch::channel(None);
        let name = Name::parse("node.name", &config.name()).map_err(anyhow::Error::msg)?;
        let leadership = {
            let (store, view, clock) = (Arc::clone(&store), Arc::clone(&view), clock.clone());
            Supervised::start(&arbiter.handle(), move |lifeline| {
                LeadershipActor::new(
                    name.clone(),
                    Arc::clone(&store),
                    Arc::clone(&view),
                    clock.clone(),
                    duties_sender.clone(),
                    lifeline,
                )
            })
        };
        let registry = Registry::start(
            &arbiter.handle(),
            RegistryParts {
                node: config.name(),
                store: Arc::clone(&store),
                view: Arc::clone(&view),
                clock: clock.clone(),
                duties: duties.clone(),
                peers: Arc::clone(&peers),
                settings: settings::registry(&config),
            },
        );

        members::serve(&store, &peers);

        let break_glass = Some(settings::break_glass(&config)?);
        let security_settings = SecuritySettings { break_glass, ..settings::security(&config)? };
        let security = Security::new(
            Arc::clone(&view),
            Arc::new(StoreContact(Arc::clone(&store))),
            clock.clone(),
            security_settings,
        );
        let telemetry =
            Telemetry::start(Arc::clone(&view), clock.clone(), &settings::telemetry(&config));
        let own = OwnAddresses::default();
        let configured = own_addresses::configured(&config, http_addr)?;
        own.set(own_addresses::with_members(&configured, store.as_ref()));
        let data_plane = {
            let config = &config;
            let parts = |forwarder: &maxine_gateway::ForwarderConfig| {
                let (egress, roots) = (forwarder.egress.clone(), &forwarder.tls_roots);
                Ok(crate::actors::HealthParts {
                    node: config.name(),
                    view: Arc::clone(&view),
                    store: Arc::clone(&store),
                    registry: registry.clone(),
                    duties: duties.clone(),
                    peers: Arc::clone(&peers),
                    clock: clock.clone(),
                    prober: crate::health::Prober::new(egress, roots, clock.clone())?,
                    defaults: settings::health(config),
                    sink: Arc::new(data_plane::TelemetryHealth(telemetry.clone())),
                })
            };
            let forwarder = settings::forwarder(config, http_addr, own.clone())?;
            let counters = proxy_metrics::ProxyCounters::new(telemetry.metrics().registry());
            let arbiter = arbiter.handle();
            DataPlane::start(&arbiter, &view, &clock, forwarder, Arc::new(counters), parts)?
        };
        let state = AppState::new(AppParts {
            view: Arc::clone(&view),
            store: Arc::clone(&store),
            registry: registry.clone(),
            clock: clock.clone(),
            settings: settings::api(&config, http_addr),
            duties: duties.clone(),
            security: security.clone(),
            telemetry: telemetry.clone(),
            forwarder: Arc::new(data_plane::ApiForward(
                data_plane.forwarder.clone(),
                config.name(),
            )),
            health: Arc::new(data_plane::ApiHealth(data_plane.health.clone(), clock.clone())),
        });

        peers.set(PeerKind::Report, Box::new(api::native::NodeReports::new(&state)));
        peers.set(PeerKind::Instance, Box::new(api::native::InstanceReports::new(&state)));

        let (failed, store_failed) = watch::channel(None);
        let projection = projection::run(
            ProjectionParts {
                telemetry: telemetry.clone(),
                view: Arc::clone(&view),
                duties: duties.clone(),
                leadership: store.leadership(),
                instance_id: config.name(),
            },
            cancel.clone(),
        );
        tasks.spawn(projection);
        let expiry = registry.expiry().clone();
        let own = own_addresses::follow(own, configured, Arc::clone(&store));
        tasks.spawn(cancel.clone().run_until_cancelled_owned(own));
        let alarms =
            alarms::raise(telemetry.clone(), config.name(), expiry, Arc::clone(&store), failed);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(alarms));
        let watched = conditions::Watched {
            node: config.name(),
            telemetry: telemetry.clone(),
            store: Arc::clone(&store),
            registry: registry.clone(),
            clock: clock.clone(),
            clocks,
            directories: settings::directories(&config),
            certificates: settings::certificates(&config),
        };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(conditions::watch(watched)));
        let pointer = settings::point_to_first_password(Arc::clone(&view), config.clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(pointer));
        let history = history::keep(Arc::clone(&store), Arc::clone(&view), clock.clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(history));
        let retention = retention::run(
            registry.clone(),
            Arc::clone(&view),
            clock.clone(),
            duties.clone(),
            telemetry.clone(),
        );
        tasks.spawn(cancel.clone().run_until_cancelled_owned(retention));
        let identities =
            keep_identities(registry.clone(), Arc::clone(&view), clock, security, duties, config);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(identities));
        let serve = api::serve::serve(
            listener,
            Arc::new(api::Front::new(state.clone())),
            limits,
            telemetry.metrics().clone(),
            cancel.clone(),
        );
        tasks.spawn(serve);
        tracing::info!(http = %http_addr, backend = store.kind(), "the node serves");
        Ok(Self {
            http_addr,
            store,
            raft,
            registry,
            view,
            telemetry,
            leadership,
            data_plane,
            arbiter,
            cancel,
            tasks,
            store_failed,
            api: state,
        })
    }

    /// The address that it serves HTTP on.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The registry, for tests that run a node in their own process.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What readers see, for tests.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Metrics and alerts, for tests.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The thread of the actors, for tests that stall it.
    #[must_use]
    pub fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }

    /// Returns when the node's log can go on no more, with the reason.
    pub async fn failed(&self) -> String {
        let raft = async {
            match &self.raft {
                Some(raft) => raft.failed().await,
                None => std::future::pending().await,
            }
        };
        let mut told = self.store_failed.clone();
        let other = async {
            match told.wait_for(Option::is_some).await {
                Ok(why) => why.clone().unwrap_or_default(),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            why = raft => why,
            why = other => why,
        }
    }

    /// Hands leadership over, lets requests in flight finish, and stops every part.
    pub async fn stop(self) {
        // Leadership goes first, while this node can still answer and forward: nobody has to wait
        // for an election.
        if let Some(admin) = self.store.cluster()
            && self.store.leadership_now().is_leader
            && admin.status().members.iter().filter(|member| member.voter).count() > 1
        {
            let handed =
                tokio::time::timeout(TRANSFER_TIMEOUT, admin.transfer_leadership(None)).await;
            if !matches!(handed, Ok(Ok(()))) {
                tracing::warn!(
                    "leadership could not be transferred; the other nodes will elect a leader"
                );
            } else if !self.registry.handed_over(LEASES_TIMEOUT).await {
                tracing::warn!(
                    "the new leader did not ask for the remaining times of the leases; it gives each lease its whole TTL"
                );
            }
        }
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("requests in flight did not finish in time and are closed");
        }
        self.data_plane.stop(DRAIN_TIMEOUT).await;
        self.api.audit().stop().await;
        self.registry.stop();
        self.leadership.stop();
        self.store.shutdown().await;
        self.arbiter.stop();
        self.telemetry.stop().await;
        tracing::info!("the node has stopped");
    }
}

async fn open_store(
    config: &NodeConfig,
    advertise: &str,
    view: &Arc<View>,
    clock: &Clock,
    peers: &Arc<PeerRouter>,
) -> anyhow::Result<(Arc<dyn ControlStore>, Option<Arc<RaftStore>>)> {
    let (view, peers) = (Arc::clone(view), Arc::clone(peers) as Arc<dyn PeerHandler>);
    match config.backend {
        BackendKind::Raft => {
            let node = config.raft_node(advertise).map_err(anyhow::Error::msg)?;
            let store = RaftStore::open(node, config.first_members(advertise), view, peers).await;
            let store = store.map_err(anyhow::Error::msg)?;
            Ok((Arc::clone(&store) as _, Some(store)))
        }
        BackendKind::Redis => {
            let settings = settings::redis(config)?;
            Ok((RedisStore::open(settings, view, clock.clone(), peers).await?, None))
        }
        BackendKind::Local => {
            let settings = settings::local(config);
            Ok((LocalStore::open(settings, view, clock.clone(), peers).await?, None))
        }
        BackendKind::SharedFile => {
            let settings = settings::shared_file(config);
            Ok((SharedFileStore::open(settings, view, clock.clone(), peers).await?, None))
        }
    }
}

/// Makes the identities that nobody can sign in without, whenever this node comes to lead.
async fn keep_identities(
    registry: Registry,
    view: Arc<View>,
    clock: Clock,
    security: Security,
    mut duties: watch::Receiver<Option<Fence>>,
    config: NodeConfig,
) {
    loop {
        if duties.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let made = ensure_identities(&registry, &view, &clock, security.settings());
        match made.boxed().await {
            Ok(None) => {}
            Ok(Some(password)) => settings::show_password(&config, &password),
            Err(error) => {
                tracing::warn!(%error, "the accounts could not be written yet; trying again");
                tokio::time::sleep(IDENTITIES_PAUSE).await;
                continue;
            }
        }
        if duties.wait_for(Option::is_none).await.is_err() {
            return;
        }
    }
}
