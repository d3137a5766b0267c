//! A whole node: starts every part in order, and stops the parts in the reverse order.
//!
//! **Invariant:** only the command line imports this module.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::Arbiter;
use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{BackendKind, NodeConfig};
use maxine_actors::Registry;
use maxine_actors::clock_check::{self, ClockReport};
use maxine_actors::peer::PeerRouter;
use maxine_api::ServeLimits;
use maxine_api::face::Face;
use maxine_clock::Clock;
use maxine_consul::ConsulMetrics;
use maxine_dns::{Dns, DnsMetrics, Listener};
use maxine_gateway::{OwnAddresses, TlsRoots};
use maxine_identity::{Security, SecuritySettings};
use maxine_store::local::LocalStore;
use maxine_store::redis::RedisStore;
use maxine_store::shared_file::SharedFileStore;
use maxine_store::{ControlStore, PeerHandler, RaftStore};
use maxine_telemetry::audit_forward::{AuditForward, AuditForwardParts};
use maxine_telemetry::{LogLevels, Telemetry};
use maxine_view::View;

mod alert_conditions;
mod alert_events;
mod assemble;
mod audit_room;
mod backups;
mod cluster_contact;
mod consul;
mod data_dir;
mod first_identities;
mod health_sink;
mod objectives;
mod own_addresses;
mod preflight;
pub mod private;
mod progress;
mod proxy_metrics;
mod retention;
mod settings;
mod tls_reload;

use tls_reload::TlsFiles;

pub use assemble::{Assembled, NodeParts, NodeSettings, assemble};
pub use first_identities::OneTimePassword;
pub use objectives::objectives;
pub use preflight::{preflight, start_problems};
pub use settings::{certificates, revocation_lists, unread_files};

/// Time limit for the transfer of leadership when the node stops.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node that stops waits for the next leader to ask for the remaining times of the leases.
const LEASES_TIMEOUT: Duration = Duration::from_secs(1);
/// How long requests in flight may continue after the node began to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running node.
pub struct Node {
    http_addr: SocketAddr,
    raft: Option<Arc<RaftStore>>,
    assembled: Assembled,
    arbiter: Arbiter,
    cancel: CancellationToken,
    tasks: TaskTracker,
    store_failed: watch::Receiver<Option<String>>,
    /// Held until the node has stopped.
    _data_dir_lock: Option<File>,
}

impl Node {
    /// Starts a node. Returns once it serves requests.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        Self::start_with(config, Clock::system()).await
    }

    /// Starts a node that reads the time from `clock`.
    pub async fn start_with(config: NodeConfig, clock: Clock) -> anyhow::Result<Self> {
        maxine_identity::crypto_provider::install_crypto_provider();
        std::fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("{} cannot be made", config.data_dir.display()))?;
        let data_dir_lock = data_dir::lock(&config)?;
        let limits = settings::serve(&config)?;
        private::restrict_permissions(&config);
        let listen = config.http_listen();
        let listener = maxine_api::listen(listen)
            .with_context(|| format!("cannot listen on {listen} (http.host, http.port)"))?;
        let http_addr = listener.local_addr()?;
        // Opened before anything starts, so that a port in use ends the start.
        let dns_listener = match config.dns_listen() {
            Some(listen) => Some(Listener::bind(listen).with_context(|| {
                format!("cannot listen on {listen} over TCP and UDP (dns.host, dns.port)")
            })?),
            None => None,
        };
        let consul_listener = match config.consul_listen() {
            Some(listen) => Some(maxine_api::listen(listen).with_context(|| {
                format!("cannot listen on {listen} (consul.host, consul.port)")
            })?),
            None => None,
        };
        settings::warn_if_open(&config, http_addr);
        settings::unread_files(&config).iter().for_each(|text| tracing::warn!("{text}"));

        if config.backend == BackendKind::Raft {
            clock.require_comparison();
        }
        let zone = (!config.zone.is_empty()).then(|| config.zone.clone());
        let view = View::in_zone(clock.clone(), zone);
        let peers = PeerRouter::new();
        let advertise = config.http_advertise(http_addr);
        let OpenStore { store, raft, files } =
            open_store(&config, &advertise, &view, &clock, &peers).await?;

        clock.note_start(view.snapshot().state.time_ms());
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        clock_check::serve(&peers, &clock);
        let (clock_report, clocks) = watch::channel(ClockReport::default());
        let compare = clock_check::run(Arc::clone(&store), clock.clone(), clock_report);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(compare));

        let arbiter = Arbiter::new();
        let break_glass = Some(settings::break_glass(&config)?);
        let own = OwnAddresses::default();
        let configured = own_addresses::configured(&config, http_addr)?;
        own.set(own_addresses::with_members(&configured, store.as_ref()));
        let assembled = assemble(NodeParts {
            store: Arc::clone(&store),
            view: Arc::clone(&view),
            peers,
            clock: clock.clone(),
            arbiter: arbiter.handle(),
            settings: NodeSettings {
                registry: settings::registry(&config),
                api: settings::api(&config, http_addr),
                security: SecuritySettings { break_glass, ..settings::security(&config)? },
                telemetry: settings::telemetry(&config),
                forwarder: settings::forwarder(&config, http_addr, own.clone())?,
                health: settings::health(&config),
            },
        })?;
        let (registry, telemetry) = (assembled.state.registry(), assembled.state.telemetry());
        let security = assembled.state.security().clone();
        take_outside(&config, &security)
            .map_err(|why| anyhow::anyhow!("security.identities_file: {why}"))?;

        if let Some(levels) = LogLevels::of_process() {
            let clock = clock.clone();
            let end = async move { levels.end_in_time(|| clock.wall_ms()).await };
            tasks.spawn(cancel.clone().run_until_cancelled_owned(end));
        }
        let (failed, store_failed) = watch::channel(None);
        let shown_by = config.clone();
        assembled
            .keep_duties(&tasks, &cancel, move |made| settings::show_password(&shown_by, made));
        if let Some(settings) = settings::audit_forward(&config) {
            let (telemetry, view, clock) = (telemetry.clone(), Arc::clone(&view), clock.clone());
            let (cluster, node) = (config.raft.cluster_id.clone(), config.name());
            let parts = AuditForwardParts { telemetry, view, clock, cluster, node, settings };
            let forward = AuditForward::start(parts, &tasks, &cancel);
            registry.set_change_gate(Box::new(move || forward.refusal()));
        }
        let expiry = registry.expiry().clone();
        let own = own_addresses::follow(own, configured, Arc::clone(&store));
        tasks.spawn(cancel.clone().run_until_cancelled_owned(own));
        let alarms = alert_events::raise(
            telemetry.clone(),
            config.name(),
            expiry,
            Arc::clone(&store),
            Arc::clone(&view),
            failed,
        );
        tasks.spawn(cancel.clone().run_until_cancelled_owned(alarms));
        let refused_files = tls_reload::Refused::default();
        let mut files = tls_files(&config, &limits, files, assembled.upstream_trust());
        files.push(outside_files(&config, security));
        let reload = tls_reload::watch(files, telemetry.clone(), refused_files.clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(reload));
        let watched = alert_conditions::Monitored {
            node: config.name(),
            telemetry: telemetry.clone(),
            store: Arc::clone(&store),
            view: Arc::clone(&view),
            registry: registry.clone(),
            clock: clock.clone(),
            clocks,
            directories: settings::directories(&config),
            certificates: settings::certificates(&config),
            revocation_lists: settings::revocation_lists(&config),
            refused_files: refused_files.clone(),
        };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(alert_conditions::watch(watched)));
        if let Some(backups) = backups::Backups::new(&config, &assembled) {
            tasks.spawn(cancel.clone().run_until_cancelled_owned(backups.run()));
        }
        if let Some(listener) = dns_listener {
            tracing::info!(dns = %listener.local_addr()?, "the node answers DNS");
            let metrics = DnsMetrics::new(telemetry.metrics().registry());
            let of_cluster = Arc::clone(&store);
            let is_serving = Box::new(move || of_cluster.exclusion().is_none());
            let (settings, view) = (settings::dns(&config), Arc::clone(&view));
            let dns = Dns::new(settings, view, clock, metrics, is_serving);
            tasks.spawn(listener.serve(Arc::new(dns), cancel.clone()));
        }
        let consul_metrics = ConsulMetrics::new(telemetry.metrics().registry());
        let reaper = consul::reaper(&assembled, consul_metrics.clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(reaper));
        let (mut limits, mut faces) = (limits, Vec::new());
        if consul_listener.is_some() || config.consul.on_http {
            let consul = consul::face(&assembled.state, &config, consul_metrics);
            let follow = consul.follow();
            tasks.spawn(cancel.clone().run_until_cancelled_owned(follow));
            if let Some(listener) = consul_listener {
                tracing::info!(consul = %listener.local_addr()?, "the node answers clients of Consul");
                let (own, rest) = settings::consul_limits(&config, limits);
                limits = rest;
                let face: Arc<dyn Face> = Arc::new(consul.clone());
                tasks.spawn(assembled.serve_face(listener, own, face, cancel.clone()));
            }
            faces.extend(config.consul.on_http.then(|| Arc::new(consul) as Arc<dyn Face>));
        }
        let pointer = settings::log_first_password_node(Arc::clone(&view), config);
        tasks.spawn(cancel.clone().run_until_cancelled_owned(pointer));
        tasks.spawn(assembled.serve_with(listener, limits, faces, cancel.clone()));
        tracing::info!(http = %http_addr, backend = %store.kind(), "the node serves");
        let _data_dir_lock = data_dir_lock;
        Ok(Self {
            http_addr,
            raft,
            assembled,
            arbiter,
            cancel,
            tasks,
            store_failed,
            _data_dir_lock,
        })
    }

    /// The address on which it serves HTTP.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The registry, for tests that run a node in their own process.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.assembled.state.registry()
    }

    /// The view, for tests.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        self.assembled.state.view()
    }

    /// Metrics and alerts, for tests.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        self.assembled.state.telemetry()
    }

    /// The thread of the actors, for tests that stall it.
    #[must_use]
    pub fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }

    /// Returns a part of the node that did not react within `limit`, so that a service manager restarts the node. The
    /// module `progress` says what is checked, and what is not.
    pub async fn stuck(&self, limit: Duration) -> Option<&'static str> {
        progress::stuck(&self.arbiter.handle(), self.http_addr, limit).await
    }

    /// Returns the reason when the node can no longer continue its log.
    pub async fn failed(&self) -> String {
        let raft = async {
            match &self.raft {
                Some(raft) => raft.failed().await,
                None => std::future::pending().await,
            }
        };
        let mut store_failed = self.store_failed.clone();
        let other = async {
            match store_failed.wait_for(Option::is_some).await {
                Ok(why) => why.clone().unwrap_or_default(),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            why = raft => why,
            why = other => why,
        }
    }

    /// Transfers leadership, waits for requests in flight, and stops every part.
    pub async fn stop(self) {
        // Leadership is transferred first, while this node can still answer and forward requests. So nobody
        // has to wait for an election.
        let state = &self.assembled.state;
        if let Some(admin) = state.store().cluster()
            && state.store().leadership_now().is_leader
            && admin.status().members.iter().filter(|member| member.voter).count() > 1
        {
            let handed =
                tokio::time::timeout(TRANSFER_TIMEOUT, admin.transfer_leadership(None)).await;
            if !matches!(handed, Ok(Ok(()))) {
                tracing::warn!(
                    "leadership could not be transferred; the other nodes will elect a leader"
                );
            } else if !state.registry().handed_over(LEASES_TIMEOUT).await {
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
        self.assembled.stop(DRAIN_TIMEOUT).await;
        state.store().shutdown().await;
        self.arbiter.stop();
        state.telemetry().stop().await;
        tracing::info!("the node has stopped");
    }
}

/// The files of certificates and keys that are taken again when they change.
fn tls_files(
    config: &NodeConfig,
    limits: &ServeLimits,
    of_store: Option<TlsFiles>,
    trust: impl Fn(&TlsRoots) -> Result<(), String> + Send + Sync + 'static,
) -> Vec<TlsFiles> {
    let mut groups = Vec::from_iter(of_store);
    if let Some(tls) = limits.tls.clone() {
        let files = tls.files();
        groups.push(TlsFiles { purpose: "HTTPS", files, take: Box::new(move || tls.reload()) });
    }
    if !config.security.upstream_ca.as_os_str().is_empty() {
        let config = config.clone();
        groups.push(TlsFiles {
            purpose: "connections to instances",
            files: vec![config.security.upstream_ca.clone()],
            take: Box::new(move || trust(&settings::upstream_roots(&config)?)),
        });
    }
    groups
}

/// Takes the present content of the file of outside identities. Blocks.
fn take_outside(config: &NodeConfig, security: &Security) -> Result<(), String> {
    let read = settings::outside(config).map_err(|problems| problems.join("; "))?;
    security.set_outside(&read)
}

/// The file of outside identities, with the certificates and keys that it names.
fn outside_files(config: &NodeConfig, security: Security) -> TlsFiles {
    let files = settings::outside(config).map(|settings| settings.files()).unwrap_or_default();
    let own = Some(&config.security.identities_file).filter(|path| !path.as_os_str().is_empty());
    let files = own.cloned().into_iter().chain(files).collect();
    let config = config.clone();
    let take = Box::new(move || take_outside(&config, &security));
    TlsFiles { purpose: "outside identities", files, take }
}

/// A store that was opened.
struct OpenStore {
    store: Arc<dyn ControlStore>,
    /// The same store, if it is Raft.
    raft: Option<Arc<RaftStore>>,
    /// The files from which its connections are made.
    files: Option<TlsFiles>,
}

async fn open_store(
    config: &NodeConfig,
    advertise: &str,
    view: &Arc<View>,
    clock: &Clock,
    peers: &Arc<PeerRouter>,
) -> anyhow::Result<OpenStore> {
    let named = |files: &[&PathBuf]| -> Vec<PathBuf> {
        files.iter().filter(|path| !path.as_os_str().is_empty()).copied().cloned().collect()
    };
    let (view, peers) = (Arc::clone(view), Arc::clone(peers) as Arc<dyn PeerHandler>);
    match config.backend {
        BackendKind::Raft => {
            let node = config.raft_node(advertise);
            let store = RaftStore::open(node, config.first_members(advertise), view, peers).await;
            let store = store.map_err(anyhow::Error::msg)?;
            let tls = &config.raft;
            let raft = Arc::clone(&store);
            let mut files = named(&[&tls.tls_ca, &tls.tls_cert, &tls.tls_key, &tls.tls_denied]);
            files.extend(tls.tls_crl.iter().cloned());
            let files = TlsFiles {
                purpose: "connections between nodes",
                files,
                take: Box::new(move || raft.reload_tls()),
            };
            Ok(OpenStore { store: Arc::clone(&store) as _, raft: Some(store), files: Some(files) })
        }
        BackendKind::Redis => {
            let mut settings = settings::redis(config)?;
            settings.api_addresses = own_addresses::of_api(advertise);
            let store = RedisStore::open(settings, view, clock.clone(), peers).await?;
            let (redis, of_node) = (Arc::clone(&store), config.clone());
            let state = &config.state;
            let (ca, cert) = (&state.redis_tls_ca, &state.redis_tls_cert);
            let files = TlsFiles {
                purpose: "connections to Redis",
                files: named(&[&state.redis_url_file, ca, cert, &state.redis_tls_key]),
                take: Box::new(move || {
                    let settings =
                        settings::redis(&of_node).map_err(|error| format!("{error:#}"))?;
                    redis.reload(&settings)
                }),
            };
            Ok(OpenStore { store, raft: None, files: Some(files) })
        }
        BackendKind::Local => {
            let settings = settings::local(config);
            let store = LocalStore::open(settings, view, clock.clone(), peers).await?;
            Ok(OpenStore { store, raft: None, files: None })
        }
        BackendKind::SharedFile => {
            let mut settings = settings::shared_file(config);
            settings.api_addresses = own_addresses::of_api(advertise);
            let store = SharedFileStore::open(settings, view, clock.clone(), peers).await?;
            Ok(OpenStore { store, raft: None, files: None })
        }
    }
}
