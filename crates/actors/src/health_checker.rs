//! Runs the probes of this node and reports changes to the leader. On the leader, proposes the verdicts that
//! enough observers agree on.
//!
//! [`Observer`] and [`Verdicts`] decide; this actor owns both and carries out what they return. After a panic
//! it starts again from the published state. The results of probes are in a [`ProbeTable`], so readers never
//! wait for the actor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, Message, WrapFuture,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Duties;
use super::members;
use super::peer::{
    self, OBSERVATIONS_MAX, Observations, ObserverReports, PeerRouter, PeerService, REPORTS_MAX, To,
};
use super::registry::{Registry, WriteRequest};
use super::supervisor::{DropNotifier, SendError, Supervised};
use maxine_clock::Clock;
use maxine_control::health::{
    ActiveDefaults, EffectiveProbe, Observation, Observer, ObserverReport, PROBE_TICK_MS,
    ProbeAnswer, ProbeTable, TrackView, VerdictContext, Verdicts, effective_probe,
};
use maxine_gateway::Prober;
use maxine_state::{
    Actor as Who, Command, HealthReport, Instance, InstanceKey, ServiceKey, ServicePolicy,
};
use maxine_store::{CallError, ClusterStatus, ControlStore};
use maxine_view::{View, WatchScope, WorkFact, WorkKind, WorkOutcome};

/// Interval at which the live nodes are determined, in milliseconds.
const LIVE_MS: u64 = 1_000;
/// Number of changed verdicts that their trace shows.
const NAMED_MAX: usize = 8;
/// Maximum number of messages that wait for the actor.
const MAILBOX_LEN: usize = 1_024;
/// Time limit of one message to the leader.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of one question about an instance, to this node's actor or to the leader.
const REPORTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Receives events of the health checker, for metrics and alerts. It must not block.
pub trait HealthSink: Send + Sync + 'static {
    /// A probe was made.
    fn probed(&self, key: &InstanceKey, answer: &ProbeAnswer);
    /// A service entered or left panic mode. Called on every node.
    fn panic_mode_changed(&self, service: &ServiceKey, active: bool);
}

/// What the health checker needs.
pub struct HealthParts {
    /// This node's name in the cluster's membership.
    pub node: String,
    /// The published state.
    pub view: Arc<View>,
    /// The store, which knows the leader and reaches it.
    pub store: Arc<dyn ControlStore>,
    /// The registry, for writes.
    pub registry: Registry,
    /// Whether this node has the leader's duties.
    pub duties: Duties,
    /// The router of messages from other nodes.
    pub peers: Arc<PeerRouter>,
    /// The clock.
    pub clock: Clock,
    /// Runs the probes.
    pub prober: Prober,
    /// The node-wide settings of active health checks.
    pub defaults: ActiveDefaults,
    /// Receives counts and alerts.
    pub sink: Arc<dyn HealthSink>,
}

/// The health checker of this node. Clones are cheap.
#[derive(Clone)]
pub struct HealthChecker {
    actor: Supervised<HealthCheckerActor>,
    parts: Arc<HealthParts>,
    probes: ProbeTable,
}

impl HealthChecker {
    /// Starts the actor on `arbiter`.
    #[must_use]
    pub fn start(arbiter: &ArbiterHandle, parts: HealthParts) -> Self {
        let (parts, probes) = (Arc::new(parts), ProbeTable::default());
        let actor = {
            let (parts, probes) = (Arc::clone(&parts), probes.clone());
            Supervised::start(arbiter, move |lifeline| {
                HealthCheckerActor::new(Arc::clone(&parts), probes.clone(), lifeline)
            })
        };
        parts.peers.observations.set(HealthService(actor.clone()));
        parts.peers.observer_reports.set(HealthService(actor.clone()));
        Self { actor, parts, probes }
    }

    /// The results of this node's probes of an instance; `None` if this node does not probe it.
    #[must_use]
    pub fn track(&self, key: &InstanceKey) -> Option<Arc<TrackView>> {
        self.probes.get(key)
    }

    /// The last report of each observer about an instance, as the leader received it. `None` if the leader
    /// does not answer.
    pub async fn reports(&self, key: &InstanceKey) -> Option<Vec<ObserverReport>> {
        if self.parts.duties.borrow().is_some() {
            let asked = self.actor.send(AskReports(key.clone()));
            let answer = tokio::time::timeout(REPORTS_TIMEOUT, asked).await;
            return answer.ok()?.ok()?.ok();
        }
        let (store, question) = (self.parts.store.as_ref(), ObserverReports(key.clone()));
        peer::call(store, To::Leader, question, REPORTS_TIMEOUT).await.ok()
    }

    /// The probe that this node runs for an instance; `None` if only the heartbeat counts.
    #[must_use]
    pub fn effective_probe(
        &self,
        instance: &Instance,
        policy: Option<&ServicePolicy>,
    ) -> Option<EffectiveProbe> {
        effective_probe(instance, policy, &self.parts.defaults)
    }

    /// Whether active health checks for the compatible API are enabled.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.parts.defaults.enabled
    }

    /// The listed instances whose last probe failed, each with its number of failures in a row.
    #[must_use]
    pub fn failing(&self) -> Vec<(InstanceKey, u32)> {
        let snapshot = self.parts.view.snapshot();
        let counts = |key: &InstanceKey| {
            let service = snapshot.state.service(&key.service);
            service
                .and_then(|service| service.instances.get(&key.instance))
                .is_some_and(|instance| maxine_view::is_listed(instance))
        };
        let mut failing = self.probes.failing();
        failing.retain(|(key, _)| counts(key));
        failing.sort();
        failing
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.parts.node
    }

    /// Reports that the proxy has ejected an instance, with the reason, or has admitted it again. Fails if
    /// the actor cannot accept it now.
    pub fn ejection_changed(
        &self,
        key: InstanceKey,
        address_index: u64,
        reason: Option<String>,
    ) -> Result<(), SendError> {
        self.actor.try_send(EjectionChanged { key, address_index, reason })
    }

    /// How often the actor was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.actor.restarts()
    }

    /// Stops the actor.
    pub fn stop(&self) {
        self.actor.stop();
    }
}

/// Answers other nodes, on the leader.
struct HealthService(Supervised<HealthCheckerActor>);

impl PeerService<ObserverReports> for HealthService {
    fn answer(
        &self,
        ObserverReports(key): ObserverReports,
    ) -> BoxFuture<'static, Result<Vec<ObserverReport>, String>> {
        let actor = self.0.clone();
        async move {
            let reports = actor.send(AskReports(key)).await.map_err(|error| error.to_string())?;
            let mut reports = reports?;
            reports.truncate(REPORTS_MAX);
            Ok(reports)
        }
        .boxed()
    }
}

impl PeerService<Observations> for HealthService {
    fn answer(&self, observations: Observations) -> BoxFuture<'static, Result<(), String>> {
        let actor = self.0.clone();
        async move {
            let heard = actor.send(Observed(observations)).await;
            heard.map_err(|error| error.to_string())?
        }
        .boxed()
    }
}

/// Runs the probes; see the module's documentation.
pub struct HealthCheckerActor {
    parts: Arc<HealthParts>,
    observer: Observer,
    /// The verdicts, used on the leader.
    verdicts: Verdicts,
    live_at_ms: Option<u64>,
    looking: bool,
    panicking: BTreeSet<ServiceKey>,
    _lifeline: DropNotifier,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Tick;

/// Services that changed; `None` for all.
#[derive(Message)]
#[rtype(result = "()")]
struct Follow(Option<BTreeSet<ServiceKey>>);

/// The proxy has ejected an instance, with the reason, or has admitted it again.
#[derive(Message)]
#[rtype(result = "()")]
struct EjectionChanged {
    key: InstanceKey,
    address_index: u64,
    reason: Option<String>,
}

/// Observations of another node.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
struct Observed(Observations);

/// Asks for the last report of each observer about an instance.
#[derive(Message)]
#[rtype(result = "Result<Vec<ObserverReport>, String>")]
struct AskReports(InstanceKey);

impl HealthCheckerActor {
    fn new(parts: Arc<HealthParts>, probes: ProbeTable, lifeline: DropNotifier) -> Self {
        let rng = fastrand::Rng::new();
        let observer = Observer::new(&parts.node, parts.defaults.clone(), probes, rng);
        Self {
            parts,
            observer,
            verdicts: Verdicts::new(),
            live_at_ms: None,
            looking: false,
            panicking: BTreeSet::new(),
            _lifeline: lifeline,
        }
    }

    fn now_ms(&self) -> u64 {
        self.parts.clock.monotonic_ms()
    }

    fn sync(&mut self, services: Option<&BTreeSet<ServiceKey>>) {
        let (now_ms, wall_ms) = (self.now_ms(), self.parts.clock.wall_ms());
        let snapshot = self.parts.view.snapshot();
        let Some(services) = services else {
            return self.observer.sync(&snapshot.state, now_ms, wall_ms);
        };
        for key in services {
            let service = snapshot.state.service(key);
            self.observer.sync_service(key, service.map(AsRef::as_ref), now_ms, wall_ms);
        }
    }

    fn check_duties(&self) -> Result<(), String> {
        let has_duties = self.parts.duties.borrow().is_some();
        has_duties.then_some(()).ok_or_else(|| "this node does not hold the leader's duties".into())
    }

    fn look_who_lives(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        if self.looking
            || self.live_at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < LIVE_MS)
        {
            return;
        }
        self.looking = true;
        self.live_at_ms = Some(now_ms);
        let parts = Arc::clone(&self.parts);
        let look = async move { live_nodes(&parts).await };
        ctx.spawn(look.into_actor(self).map(|live, actor, _| {
            actor.looking = false;
            if actor.observer.set_live(live) {
                actor.sync(None);
            }
        }));
    }

    fn probe(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        for job in self.observer.due(now_ms) {
            let parts = Arc::clone(&self.parts);
            let run = async move {
                let answer = parts.prober.run(&job).await;
                (job, answer)
            };
            ctx.spawn(run.into_actor(self).map(|(job, answer), actor, ctx| {
                let (now_ms, wall_ms) = (actor.now_ms(), actor.parts.clock.wall_ms());
                let counts = actor.observer.done(&job, answer.as_ref(), now_ms, wall_ms);
                if let Some(answer) = answer.filter(|_| counts) {
                    actor.parts.sink.probed(&job.key, &answer);
                }
                // The place of this probe is free for the next one.
                actor.probe(now_ms, ctx);
            }));
        }
    }

    /// Reports to the leader what the observer wants to send: changes, and at intervals everything.
    fn report(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        let term = self.parts.store.leadership().borrow().term;
        let observations = self.observer.outbox(term, now_ms);
        if observations.is_empty() {
            return;
        }
        if self.check_duties().is_ok() {
            for observation in &observations {
                self.verdicts.hear(&self.parts.node, observation.clone(), now_ms);
            }
            return self.observer.reported(&observations, true, now_ms);
        }
        let parts = Arc::clone(&self.parts);
        let send = async move {
            let sent = send(&parts, &observations).await;
            if let Err(error) = &sent {
                tracing::debug!(%error, "probe results could not be sent to the leader yet");
            }
            (observations, sent.is_ok())
        };
        ctx.spawn(send.into_actor(self).map(|(observations, is_delivered), actor, _| {
            actor.observer.reported(&observations, is_delivered, actor.now_ms());
        }));
    }

    /// On the leader, proposes the verdicts that enough observers agree on.
    fn decide(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        let parts = &self.parts;
        let fence = *parts.duties.borrow();
        self.verdicts.set_duties(fence, now_ms);
        if fence.is_none() || !self.verdicts.is_due(now_ms) {
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
        let items = self.verdicts.decide(&context, self.observer.unprobed());
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
        let (registry, working) =
            (parts.registry.clone(), parts.view.begin_work(WorkKind::Verdicts));
        let facts = working.as_ref().map(|_| facts_of(&items)).unwrap_or_default();
        let write = WriteRequest {
            actor: Who::system("health-checker"),
            request_id: None,
            fence,
            answer_by_ms: None,
            command: Command::ReportHealth { items },
        };
        let propose = async move { registry.propose(write).await };
        ctx.spawn(propose.into_actor(self).map(move |result, actor, _| {
            actor.verdicts.proposed();
            actor.parts.view.end_work(working, || WorkOutcome {
                index: result.as_ref().ok().map(|applied| applied.index),
                error: result.as_ref().err().map(ToString::to_string),
                facts,
            });
            if let Err(error) = result {
                tracing::warn!(%error, "health verdicts could not be written yet");
            }
        }));
    }

    /// Reports when a service enters or leaves panic mode. Every node does, so that a new leader knows the
    /// services in panic mode.
    fn watch_panic(&mut self, services: Option<&BTreeSet<ServiceKey>>) {
        let parts = &self.parts;
        let snapshot = parts.view.snapshot();
        let panic_mode =
            |key: &ServiceKey| snapshot.state.service(key).is_some_and(|s| s.in_panic_mode());
        let candidates: BTreeMap<ServiceKey, bool> = match services {
            Some(services) => services.iter().map(|key| (key.clone(), panic_mode(key))).collect(),
            None => {
                let known = self.panicking.iter().cloned();
                let all = snapshot.state.services().keys().cloned();
                known.chain(all).map(|key| (key.clone(), panic_mode(&key))).collect()
            }
        };
        for (key, now) in candidates {
            let before = self.panicking.contains(&key);
            if now && !before {
                parts.sink.panic_mode_changed(&key, true);
                self.panicking.insert(key);
            } else if before && !now {
                parts.sink.panic_mode_changed(&key, false);
                self.panicking.remove(&key);
            }
        }
    }
}

/// The number of changed verdicts and some of them, for a trace.
fn facts_of(items: &[HealthReport]) -> Vec<(&'static str, WorkFact)> {
    let shown = |item: &HealthReport| {
        format!("{} {:?} {:?}", item.key, item.health.liveness, item.health.readiness)
    };
    let verdicts: Vec<String> = items.iter().take(NAMED_MAX).map(shown).collect();
    let number = items.len() as u64;
    vec![("maxine.changed", number.into()), ("maxine.verdicts", verdicts.join(", ").into())]
}

/// The live nodes, as the leader hears them; only this node if the backend has no members. A node that cannot
/// ask the leader uses the nodes that it knows, which are fewer. An instance may then be probed twice, but it
/// is always probed.
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

async fn send(parts: &HealthParts, observations: &[Observation]) -> Result<(), CallError> {
    let items = observations.iter().take(OBSERVATIONS_MAX).cloned().collect();
    let question = Observations { observer: parts.node.clone(), items };
    peer::call(parts.store.as_ref(), To::Leader, question, REPORT_TIMEOUT).await
}

impl Actor for HealthCheckerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_LEN);
        ctx.run_interval(Duration::from_millis(PROBE_TICK_MS), |_, ctx| ctx.notify(Tick));
        let (view, addr) = (Arc::clone(&self.parts.view), ctx.address());
        ctx.spawn(
            async move {
                loop {
                    let after = view.index();
                    // If the history ends between these two lines, the next round subscribes to the new one.
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
        let now_ms = self.now_ms();
        self.look_who_lives(now_ms, ctx);
        self.probe(now_ms, ctx);
        self.report(now_ms, ctx);
        self.decide(now_ms, ctx);
    }
}

impl Handler<EjectionChanged> for HealthCheckerActor {
    type Result = ();

    fn handle(&mut self, held: EjectionChanged, _: &mut Self::Context) {
        let wall_ms = self.parts.clock.wall_ms();
        self.observer.passive(&held.key, held.address_index, held.reason, wall_ms);
    }
}

impl Handler<Observed> for HealthCheckerActor {
    type Result = Result<(), String>;

    fn handle(&mut self, Observed(seen): Observed, _: &mut Self::Context) -> Self::Result {
        self.check_duties()?;
        let now_ms = self.now_ms();
        let Observations { observer, items } = seen;
        items.into_iter().for_each(|item| self.verdicts.hear(&observer, item, now_ms));
        Ok(())
    }
}

impl Handler<AskReports> for HealthCheckerActor {
    type Result = Result<Vec<ObserverReport>, String>;

    fn handle(&mut self, AskReports(key): AskReports, _: &mut Self::Context) -> Self::Result {
        self.check_duties()?;
        Ok(self.verdicts.reports(&key, self.now_ms()))
    }
}
