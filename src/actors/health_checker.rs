//! Runs the probes that fall to this node, tells the leader what changed, and, on the leader,
//! proposes the verdicts that enough observers agree on.
//!
//! Started again after a panic, the actor follows the published state anew; observers repeat what
//! they see, so a new leader knows all of it after one round. Nothing that a request needs waits
//! for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, WrapFuture,
};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::Duties;
use super::members;
use super::peer::{self, PeerKind, PeerRouter, PeerService};
use super::registry::{Registry, WriteRequest};
use super::supervisor::{Lifeline, Supervised};
use crate::health::{
    ActiveDefaults, EffectiveProbe, HealthCore, Observation, ObserverReport, ProbeAnswer, ProbeJob,
    Prober, TrackView, VerdictContext, Verdicts, decode_ask, decode_observations, decode_reports,
    effective_probe, encode_ask, encode_observations, encode_reports,
};
use maxine_clock::Clock;
use maxine_state::{
    Actor as Who, Command, Fence, HealthReport, Instance, InstanceKey, ServiceKey, ServicePolicy,
};
use maxine_store::{ClusterStatus, ControlStore};
use maxine_view::{View, WatchScope};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(50);
/// Between two full reports to the leader, in milliseconds.
const REPEAT_MS: u64 = 10_000;
/// Between two looks at which nodes live, in milliseconds.
const LIVE_MS: u64 = 1_000;
/// Observations in one message, and verdicts in one proposal.
const BATCH_MAX: usize = 500;
/// For one message to the leader.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// For one question to the leader, which somebody waits for.
const REPORTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes what the health checker tells; for metrics and alerts. Must not block.
pub trait HealthSink: Send + Sync + 'static {
    /// A probe was made.
    fn probed(&self, key: &InstanceKey, answer: &ProbeAnswer) {
        let _ = (key, answer);
    }
    /// A service came to use all of its instances because too many are unhealthy, or no longer does.
    /// Told on every node.
    fn panic_changed(&self, service: &ServiceKey, panics: bool) {
        let _ = (service, panics);
    }
}

/// A sink that takes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSink;

impl HealthSink for NoSink {}

/// What the health checker stands on.
pub struct HealthParts {
    /// This node's name, as the cluster's members know it.
    pub node: String,
    /// What is published.
    pub view: Arc<View>,
    /// Who leads, and the way to it.
    pub store: Arc<dyn ControlStore>,
    /// The way to write.
    pub registry: Registry,
    /// Whether this node has the leader's duties.
    pub duties: Duties,
    /// Where messages of other nodes come in.
    pub peers: Arc<PeerRouter>,
    /// The clock.
    pub clock: Clock,
    /// What runs the probes.
    pub prober: Prober,
    /// The node-wide settings of active health checks.
    pub defaults: ActiveDefaults,
    /// Takes counts and alerts.
    pub sink: Arc<dyn HealthSink>,
}

/// Health on this node. Cloning is cheap.
#[derive(Clone)]
pub struct HealthChecker {
    actor: Supervised<HealthCheckerActor>,
    shared: Arc<Shared>,
}

struct Shared {
    parts: HealthParts,
    /// Held for a moment only; the actor writes, those who ask read.
    core: Mutex<HealthCore>,
    /// The leader's memory.
    verdicts: Mutex<Verdicts>,
}

impl HealthChecker {
    /// Starts the actor on `arbiter`.
    #[must_use]
    pub fn start(arbiter: &ArbiterHandle, parts: HealthParts) -> Self {
        let core = HealthCore::new(&parts.node, parts.defaults.clone());
        let shared = Arc::new(Shared {
            parts,
            core: Mutex::new(core),
            verdicts: Mutex::new(Verdicts::new()),
        });
        let service = ObservationService(Arc::clone(&shared));
        shared.parts.peers.set(PeerKind::Observations, Box::new(service));
        shared.parts.peers.set(PeerKind::Reports, Box::new(ReportService(Arc::clone(&shared))));
        let actor = {
            let shared = Arc::clone(&shared);
            Supervised::start(arbiter, move |lifeline| {
                HealthCheckerActor::new(Arc::clone(&shared), lifeline)
            })
        };
        Self { actor, shared }
    }

    /// What this node's probes know of an instance; `None` where it does not probe it.
    #[must_use]
    pub fn track(&self, key: &InstanceKey) -> Option<TrackView> {
        self.shared.core.lock().view(key)
    }

    /// What all observers said last of an instance, as the leader heard it; empty where it cannot be
    /// asked.
    pub async fn reports(&self, key: &InstanceKey) -> Vec<ObserverReport> {
        let parts = &self.shared.parts;
        if parts.duties.borrow().is_some() {
            return self.shared.reports(key);
        }
        let Ok(ask) = encode_ask(key) else { return Vec::new() };
        let store = parts.store.as_ref();
        let answer = peer::call_leader(store, PeerKind::Reports, &ask, REPORTS_TIMEOUT).await;
        let Ok(answer) = answer else { return Vec::new() };
        decode_reports(&answer).unwrap_or_default()
    }

    /// The probe that this node runs for an instance; `None` if only the heartbeat counts.
    #[must_use]
    pub fn effective_probe(
        &self,
        instance: &Instance,
        policy: Option<&ServicePolicy>,
    ) -> Option<EffectiveProbe> {
        effective_probe(instance, policy, &self.shared.parts.defaults)
    }

    /// Whether active health checks of the compatible kind run.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.shared.parts.defaults.enabled
    }

    /// Instances that count and have failures in a row.
    #[must_use]
    pub fn failing(&self) -> Vec<(InstanceKey, u32)> {
        let snapshot = self.shared.parts.view.snapshot();
        let counts = |key: &InstanceKey| {
            let service = snapshot.state.service(&key.service);
            service
                .and_then(|service| service.instances.get(&key.instance))
                .is_some_and(|instance| maxine_view::is_listed(instance))
        };
        let core = self.shared.core.lock();
        core.failing().filter(|(key, _)| counts(key)).map(|(key, n)| (key.clone(), n)).collect()
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.shared.parts.node
    }

    /// Takes the proxy's experience in: why it holds an instance back, or that it no longer does.
    pub fn held_by_proxy(&self, key: InstanceKey, address_index: u64, reason: Option<String>) {
        self.shared.core.lock().passive(&key, address_index, reason);
    }

    /// How often the actor had to be started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.actor.restarts()
    }

    /// Ends the actor.
    pub fn stop(&self) {
        self.actor.stop();
    }
}

impl Shared {
    fn reports(&self, key: &InstanceKey) -> Vec<ObserverReport> {
        self.verdicts.lock().reports(key, self.parts.clock.monotonic_ms())
    }
}

/// Tells other nodes what observers said, on the leader.
struct ReportService(Arc<Shared>);

impl PeerService for ReportService {
    fn answer(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let shared = Arc::clone(&self.0);
        async move {
            if shared.parts.duties.borrow().is_none() {
                return Err("this node does not hold the leader's duties".into());
            }
            let key = decode_ask(&body).map_err(|error| error.to_string())?;
            let said = encode_reports(shared.reports(&key)).map_err(|error| error.to_string())?;
            Ok(said.into())
        }
        .boxed()
    }
}

/// Takes other nodes' observations in, on the leader.
struct ObservationService(Arc<Shared>);

impl PeerService for ObservationService {
    fn answer(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let shared = Arc::clone(&self.0);
        async move {
            if shared.parts.duties.borrow().is_none() {
                return Err("this node does not hold the leader's duties".into());
            }
            let (observer, items) =
                decode_observations(&body).map_err(|error| error.to_string())?;
            let now_ms = shared.parts.clock.monotonic_ms();
            let mut verdicts = shared.verdicts.lock();
            items.into_iter().for_each(|item| verdicts.hear(&observer, item, now_ms));
            Ok(Bytes::new())
        }
        .boxed()
    }
}

/// Runs the probes; see the module.
pub struct HealthCheckerActor {
    shared: Arc<Shared>,
    repeated_at_ms: u64,
    live_at_ms: Option<u64>,
    looking: bool,
    /// The leadership's term that was reported under.
    term: u64,
    reporting: bool,
    proposing: bool,
    panicking: BTreeSet<ServiceKey>,
    /// The grant that the duties were taken up under.
    fence: Option<Fence>,
    _lifeline: Lifeline,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Tick;

/// Services that changed, or everything.
#[derive(Message)]
#[rtype(result = "()")]
struct Follow(Option<BTreeSet<ServiceKey>>);

impl HealthCheckerActor {
    fn new(shared: Arc<Shared>, lifeline: Lifeline) -> Self {
        // The one before may have died with probes under way: start from what is published.
        let core = HealthCore::new(&shared.parts.node, shared.parts.defaults.clone());
        *shared.core.lock() = core;
        Self {
            shared,
            repeated_at_ms: 0,
            live_at_ms: None,
            looking: false,
            term: 0,
            reporting: false,
            proposing: false,
            panicking: BTreeSet::new(),
            fence: None,
            _lifeline: lifeline,
        }
    }

    fn sync(&self, services: Option<&BTreeSet<ServiceKey>>) {
        let (view, clock) = (&self.shared.parts.view, &self.shared.parts.clock);
        let (now_ms, wall_ms) = (clock.monotonic_ms(), clock.wall_ms());
        let snapshot = view.snapshot();
        let mut core = self.shared.core.lock();
        match services {
            None => core.sync(&snapshot.state, now_ms, wall_ms),
            Some(services) => {
                for key in services {
                    let service = snapshot.state.service(key);
                    core.sync_service(key, service.map(AsRef::as_ref), now_ms, wall_ms);
                }
            }
        }
    }

    fn look_who_lives(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        if self.looking
            || self.live_at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < LIVE_MS)
        {
            return;
        }
        self.looking = true;
        self.live_at_ms = Some(now_ms);
        let shared = Arc::clone(&self.shared);
        let look = async move { live_nodes(&shared.parts).await };
        ctx.spawn(look.into_actor(self).map(|live, actor, _| {
            actor.looking = false;
            let changed = actor.shared.core.lock().set_live(live);
            if changed {
                actor.sync(None);
            }
        }));
    }

    fn probe(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        let jobs = self.shared.core.lock().due(now_ms);
        for job in jobs {
            let shared = Arc::clone(&self.shared);
            ctx.spawn(
                async move {
                    let answer = shared.parts.prober.run(&job).await;
                    finish(&shared, &job, answer.as_ref());
                }
                .into_actor(self)
                // Its place is free for the next one.
                .map(|(), actor, ctx| actor.probe(actor.shared.parts.clock.monotonic_ms(), ctx)),
            );
        }
    }

    /// Tells the leader what changed, and now and then everything.
    fn report(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        if self.reporting {
            return;
        }
        let term = self.shared.parts.store.leadership().borrow().term;
        let all = term != self.term || now_ms.saturating_sub(self.repeated_at_ms) >= REPEAT_MS;
        if all {
            self.term = term;
            self.repeated_at_ms = now_ms;
        }
        let observations = self.shared.core.lock().outbox(all, BATCH_MAX);
        if observations.is_empty() {
            return;
        }
        self.reporting = true;
        let shared = Arc::clone(&self.shared);
        let send = async move {
            let sent = send(&shared, &observations).await;
            if let Err(error) = &sent {
                tracing::debug!(%error, "the leader was not told of probe results yet");
                shared.core.lock().not_sent(&observations);
            }
            sent.is_ok()
        };
        ctx.spawn(send.into_actor(self).then(|sent, actor, ctx| {
            // After a failure the next attempt waits, so that it does not spin.
            let pause = if sent { Duration::ZERO } else { Duration::from_millis(500) };
            actor.reporting = true;
            ctx.run_later(pause, |actor, _| actor.reporting = false);
            actix::fut::ready(())
        }));
    }

    /// On the leader: proposes what enough observers agree on.
    fn decide(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        let parts = &self.shared.parts;
        let Some(fence) = *parts.duties.borrow() else {
            self.shared.verdicts.lock().clear();
            self.fence = None;
            return;
        };
        if self.fence != Some(fence) {
            self.shared.verdicts.lock().listen_from(now_ms);
            self.fence = Some(fence);
        }
        let parts = &self.shared.parts;
        if self.proposing || !self.shared.verdicts.lock().is_due(now_ms) {
            return;
        }
        let snapshot = parts.view.snapshot();
        let status = parts.store.cluster().map(|cluster| cluster.status());
        let context = VerdictContext {
            state: &snapshot.state,
            live_nodes: heard_nodes(status, &parts.node).len().max(1),
            observers: parts.defaults.observers,
            now_ms,
            wall_ms: parts.clock.wall_ms(),
        };
        let items: Vec<HealthReport> = {
            let unprobed = self.shared.core.lock().unprobed().clone();
            let decisions = self.shared.verdicts.lock().decide(&context, &unprobed);
            decisions.into_iter().take(BATCH_MAX).map(|decision| decision.report).collect()
        };
        if items.is_empty() {
            return;
        }
        for item in &items {
            let health = &item.health;
            tracing::info!(
                instance = %item.key, liveness = ?health.liveness, readiness = ?health.readiness,
                reason = %health.reason, "the health verdict of an instance changed"
            );
        }
        self.proposing = true;
        let registry = parts.registry.clone();
        let write = WriteRequest {
            actor: Who::system("health-checker"),
            request_id: None,
            fence: Some(fence),
            answer_by_ms: None,
            command: Command::ReportHealth { items },
        };
        let propose = async move { registry.propose(write).await };
        ctx.spawn(propose.into_actor(self).map(|result, actor, _| {
            actor.proposing = false;
            if let Err(error) = result {
                tracing::warn!(%error, "health verdicts could not be written yet");
            }
        }));
    }

    /// Tells when a service starts or stops to use all of its instances. Every node does, so that
    /// whoever leads next knows which services do.
    fn watch_panic(&mut self, services: Option<&BTreeSet<ServiceKey>>) {
        let parts = &self.shared.parts;
        let snapshot = parts.view.snapshot();
        let panics =
            |key: &ServiceKey| snapshot.state.service(key).is_some_and(|s| s.in_panic_mode());
        let candidates: BTreeMap<ServiceKey, bool> = match services {
            Some(services) => services.iter().map(|key| (key.clone(), panics(key))).collect(),
            None => {
                let known = self.panicking.iter().cloned();
                let all = snapshot.state.services().keys().cloned();
                known.chain(all).map(|key| (key.clone(), panics(&key))).collect()
            }
        };
        for (key, now) in candidates {
            let before = self.panicking.contains(&key);
            if now && !before {
                parts.sink.panic_changed(&key, true);
                self.panicking.insert(key);
            } else if before && !now {
                parts.sink.panic_changed(&key, false);
                self.panicking.remove(&key);
            }
        }
    }
}

fn finish(shared: &Shared, job: &ProbeJob, answer: Option<&ProbeAnswer>) {
    let clock = &shared.parts.clock;
    shared.core.lock().done(job, answer, clock.monotonic_ms(), clock.wall_ms());
    if let Some(answer) = answer {
        shared.parts.sink.probed(&job.key, answer);
    }
}

/// The nodes that live, as the leader hears them; only itself where the backend has no members. A
/// node that cannot ask the leader takes those that it knows of itself, which are fewer: then an
/// instance may be probed twice, but never by nobody.
async fn live_nodes(parts: &HealthParts) -> Vec<String> {
    heard_nodes(members::status(parts.store.as_ref()).await, &parts.node)
}

fn heard_nodes(status: Option<ClusterStatus>, own: &str) -> Vec<String> {
    let Some(status) = status else { return vec![own.to_owned()] };
    let members = status.members.into_iter();
    members
        .filter(|member| member.reachable == Some(true) || member.name == own)
        .map(|member| member.name)
        .collect()
}

async fn send(shared: &Shared, observations: &[Observation]) -> Result<(), String> {
    let parts = &shared.parts;
    if parts.duties.borrow().is_some() {
        let now_ms = parts.clock.monotonic_ms();
        let mut verdicts = shared.verdicts.lock();
        for observation in observations {
            verdicts.hear(&parts.node, observation.clone(), now_ms);
        }
        return Ok(());
    }
    let bytes =
        encode_observations(&parts.node, observations).map_err(|error| error.to_string())?;
    peer::call_leader(parts.store.as_ref(), PeerKind::Observations, &bytes, REPORT_TIMEOUT)
        .await
        .map(|_| ())
        .map_err(|error| error.to_string())
}

impl Actor for HealthCheckerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, |_, ctx| ctx.notify(Tick));
        let (view, addr) = (Arc::clone(&self.shared.parts.view), ctx.address());
        ctx.spawn(
            async move {
                loop {
                    let after = view.index();
                    // The history may be cut off between the two lines; the next round starts later.
                    let Ok(mut watcher) = view.hub().subscribe(WatchScope::Everything, after)
                    else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    if addr.send(Follow(None)).await.is_err() {
                        return;
                    }
                    while let Ok(events) = watcher.next(1_024).await {
                        let services: BTreeSet<ServiceKey> = events
                            .iter()
                            .filter_map(|event| event.kind.service())
                            .cloned()
                            .collect();
                        if !services.is_empty() && addr.send(Follow(Some(services))).await.is_err()
                        {
                            return;
                        }
                    }
                }
            }
            .into_actor(self),
        );
    }
}

impl Handler<Follow> for HealthCheckerActor {
    type Result = ();

    fn handle(&mut self, Follow(services): Follow, _: &mut Self::Context) {
        self.sync(services.as_ref());
        self.watch_panic(services.as_ref());
    }
}

impl Handler<Tick> for HealthCheckerActor {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Self::Context) {
        let now_ms = self.shared.parts.clock.monotonic_ms();
        self.look_who_lives(now_ms, ctx);
        self.probe(now_ms, ctx);
        self.report(now_ms, ctx);
        self.decide(now_ms, ctx);
    }
}
