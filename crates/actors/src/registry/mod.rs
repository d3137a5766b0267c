//! The registry: accepts writes and heartbeats on every node.
//!
//! Place in the flow: the API calls [`Registry`]. Writes go through the mailbox of the [`RegistryActor`] into
//! batches ([`intake`]). Heartbeats do not: on the leader they renew the lease table directly, and another
//! node collects them and sends them to the leader ([`renewals`]). On the leader, the lease actor
//! ([`leases`]) expires leases that have run out. The next leader asks it for the remaining times
//! ([`handover`], [`takeover`]).

mod confirm;
pub mod expiry_status;
mod handover;
mod intake;
mod leases;
mod lock_sessions;
mod renewals;
mod takeover;
mod write_error;
pub mod write_trail;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::ArbiterHandle;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::clock_check;
use super::leadership::Duties;
use super::peer::PeerRouter;
use super::supervisor::{SendError, Supervised};
use maxine_admission::{Pace, site_of};
use maxine_clock::Clock;
use maxine_control::intake::{Write, WriteTimes};
use maxine_control::leases::{ExpirySettings, LeaseId, LeaseTable};
use maxine_state::{
    Actor as Who, Applied, CheckReport, Command, Fence, InstanceKey, Name, Proposal, Registration,
    Rejection, Reply, RequestId, ServiceKey,
};
use maxine_store::{ControlStore, WriteOutcome};
use maxine_view::View;

use expiry_status::ExpiryReports;
pub use expiry_status::ExpiryStatus;
pub use intake::RegistryActor;
use intake::{Reply as WriteReply, Submit};
use leases::{LeaseActor, LeaseParts};
use renewals::RenewalBatcher;
pub use write_error::WriteError;

/// Maximum time that a heartbeat waits until the leases and this node's view agree, in milliseconds.
const AGREE_MS: u64 = 300;
/// Pause between two such comparisons, in milliseconds.
const AGREE_PAUSE_MS: u64 = 5;

/// When a retry makes sense while this node refuses changes by callers, in seconds.
const GATE_RETRY_S: u64 = 5;

/// A user regains one recorded change in this time, in milliseconds: 43,200 in a day.
const RECORDED_CHANGE_MS: u64 = 2_000;

/// Limits of the registry's write path.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Maximum time for a write, in milliseconds; then it is answered with 503.
    pub write_timeout_ms: u64,
    /// Maximum number of waiting writes of one class. The classes are Maxine itself, callers with a
    /// credential, and strangers. Further writes are refused.
    pub pending_max: usize,
    /// Maximum number of changes of policies, configuration, users and tokens that one user or token makes at once
    /// through this node. Then it is one in two seconds.
    pub changes_at_once_max: u32,
    /// How much a new leader adds to every lease, in milliseconds: one election timeout.
    pub takeover_extra_ms: u64,
    /// Limits on expiry.
    pub expiry: ExpirySettings,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            write_timeout_ms: 5_000,
            pending_max: 16_384,
            changes_at_once_max: 1_000,
            takeover_extra_ms: 1_200,
            expiry: ExpirySettings::default(),
        }
    }
}

/// A write, as its caller requests it.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// The caller.
    pub actor: Who,
    /// Identifies the request, so that a repeat takes effect once. A new id is created if it is `None`.
    pub request_id: Option<RequestId>,
    /// The fence, for commands of the leader.
    pub fence: Option<Fence>,
    /// When the caller needs the answer, in milliseconds on the monotonic clock. A write that was not
    /// proposed by then is never proposed.
    pub answer_by_ms: Option<u64>,
    /// The command.
    pub command: Command,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The instance.
    pub key: InstanceKey,
    /// If set, only this registration is renewed.
    pub lease_epoch: Option<u64>,
}

/// A report of a check by its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnReport {
    /// The instance.
    pub key: InstanceKey,
    /// The check.
    pub check: Name,
    /// If set, the report only counts for this registration.
    pub lease_epoch: Option<u64>,
    /// The report.
    pub report: CheckReport,
}

/// Counts the outcomes of writes through this node.
#[derive(Debug, Default)]
pub struct WriteCounters {
    decided: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    last_refusal: Mutex<String>,
}

impl WriteCounters {
    fn note<T>(&self, result: &Result<T, WriteError>) {
        match result {
            Ok(_) | Err(WriteError::Rejected { .. } | WriteError::TooLarge { .. }) => {
                self.decided.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let is_unknown = error.outcome() == WriteOutcome::Unknown;
                self.unknown.fetch_add(u64::from(is_unknown), Ordering::Relaxed);
                *self.last_refusal.lock() = error.to_string();
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Number of writes that took effect, or that the state refused.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.decided.load(Ordering::Relaxed)
    }

    /// Number of writes that this node could not carry out.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many of these have an unknown outcome, and may have taken effect.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Why the latest of these was not carried out.
    #[must_use]
    pub fn last_refusal(&self) -> String {
        self.last_refusal.lock().clone()
    }
}

/// Returns why this node refuses changes by callers now; `None` if it does not.
pub type ChangeGate = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What the registry needs.
pub struct RegistryParts {
    /// This node's name.
    pub node: String,
    /// The store.
    pub store: Arc<dyn ControlStore>,
    /// The published state.
    pub view: Arc<View>,
    /// The clock.
    pub clock: Clock,
    /// Whether this node has the leader's duties.
    pub duties: Duties,
    /// The router of messages from other nodes.
    pub peers: Arc<PeerRouter>,
    /// The limits.
    pub settings: RegistrySettings,
}

/// The registry of this node. Clones are cheap.
#[derive(Clone)]
pub struct Registry {
    actor: Supervised<RegistryActor>,
    lease_actor: Supervised<LeaseActor>,
    store: Arc<dyn ControlStore>,
    view: Arc<View>,
    clock: Clock,
    leases: Arc<LeaseTable>,
    handed_over: watch::Receiver<bool>,
    duties: Duties,
    batcher: RenewalBatcher,
    expiry: ExpiryStatus,
    settings: RegistrySettings,
    writes: Arc<WriteCounters>,
    change_gate: Arc<OnceLock<ChangeGate>>,
    recorded_changes: Arc<Pace>,
}

impl Registry {
    /// Starts the registry's actors on `arbiter`.
    #[must_use]
    pub fn start(arbiter: &ArbiterHandle, parts: RegistryParts) -> Self {
        let RegistryParts { node, store, view, clock, duties, peers, settings } = parts;
        let leases = Arc::new(LeaseTable::new(&settings.expiry));
        let (followed, is_followed) = watch::channel(());
        let (handed_over, is_handed_over) = watch::channel(false);
        let expiry = ExpiryStatus::default();
        let lease_parts = LeaseParts {
            node: Name::trusted(&node),
            store: Arc::clone(&store),
            view: Arc::clone(&view),
            clock: clock.clone(),
            duties: duties.clone(),
            settings: settings.clone(),
            table: Arc::clone(&leases),
            followed,
            handed_over: handed_over.clone(),
            status: expiry.clone(),
        };
        let lease_actor = Supervised::start(arbiter, move |lifeline| {
            LeaseActor::new(lease_parts.clone(), lifeline)
        });
        peers.renew.set(renewals::RenewalService {
            store: Arc::clone(&store),
            leases: Arc::clone(&leases),
            followed: is_followed,
            view: Arc::clone(&view),
            clock: clock.clone(),
            duties: duties.clone(),
        });
        peers.former_leases.set(handover::HandoverService {
            actor: lease_actor.clone(),
            view: Arc::clone(&view),
            handed_over,
        });
        peers.confirm.set(confirm::Confirmer {
            leases: lease_actor.clone(),
            clock: clock.clone(),
            duties: duties.clone(),
        });
        peers
            .suspended_expiry
            .set(ExpiryReports { duties: duties.clone(), status: expiry.clone() });
        let actor = {
            let (store, clock, pending_max) =
                (Arc::clone(&store), clock.clone(), settings.pending_max);
            Supervised::start(arbiter, move |lifeline| {
                RegistryActor::new(Arc::clone(&store), clock.clone(), pending_max, lifeline)
            })
        };
        Self {
            batcher: RenewalBatcher::start(Arc::clone(&store)),
            actor,
            lease_actor,
            store,
            view,
            clock,
            leases,
            handed_over: is_handed_over,
            duties,
            expiry,
            recorded_changes: Arc::new(Pace::new(settings.changes_at_once_max, RECORDED_CHANGE_MS)),
            settings,
            writes: Arc::default(),
            change_gate: Arc::default(),
        }
    }

    /// Sets what decides whether this node refuses changes by callers. Only the first call has an effect.
    pub fn set_change_gate(&self, gate: ChangeGate) {
        // A second gate would be a defect of the wiring. The first one stays in force.
        let _is_set = self.change_gate.set(gate);
    }

    /// Refuses a change by a caller while the gate does. What Maxine itself does is never refused here.
    ///
    /// # Errors
    ///
    /// Nothing was written, and the reason.
    pub fn check_change(&self, actor: &Who) -> Result<(), WriteError> {
        if actor.is_system() {
            return Ok(());
        }
        match self.refuses_changes() {
            Some(reason) => Err(WriteError::Unavailable { retry_after_s: GATE_RETRY_S, reason }),
            None => Ok(()),
        }
    }

    /// Counts a change that leaves a record in the classes `identities` or `settings` of the audit log. These classes have
    /// room for a few thousand records, and must keep them for long. So no user or token may make such changes
    /// without end, and push out the records of others. The break-glass token and Maxine itself are exempt. So is a
    /// caller without a credential, whose records have a class of their own.
    ///
    /// # Errors
    ///
    /// The user has made too many of these changes through this node. Nothing was counted.
    pub fn count_recorded_change(&self, actor: &Who) -> Result<(), WriteError> {
        if is_unlimited(actor) {
            return Ok(());
        }
        let taken = self.recorded_changes.take(&actor.user, self.clock.monotonic_ms());
        taken.map_err(|retry_after_s| WriteError::TooManyChanges { retry_after_s })
    }

    /// Takes back a change that was counted and not made.
    pub fn uncount_recorded_change(&self, actor: &Who) {
        if !is_unlimited(actor) {
            self.recorded_changes.take_back(&actor.user);
        }
    }

    /// Why this node refuses changes by callers now. `None` if it does not.
    #[must_use]
    pub fn refuses_changes(&self) -> Option<String> {
        self.change_gate.get().and_then(|gate| gate())
    }

    /// How long ago the time to live of an instance ended, in milliseconds, if this node leads and keeps the
    /// instance only because expiry is suspended. Otherwise `None`.
    #[must_use]
    pub fn overdue_ms(&self, key: &InstanceKey) -> Option<u64> {
        let keeps_it = self.duties.borrow().is_some() && self.expiry.is_suspended();
        let id = LeaseId::of_key(key);
        keeps_it.then(|| self.leases.overdue_ms(id, self.clock.monotonic_ms())).flatten()
    }

    /// Proposes a command. When it returns, the view of this node shows the effect.
    ///
    /// The proposal is repeated within the time limit as long as that is safe. Its request id makes it take
    /// effect only once. Dropping the future does not cancel the proposal.
    pub async fn propose(&self, request: WriteRequest) -> Result<Applied, WriteError> {
        if !is_exempt(&request.command) {
            // It is not counted: another node may take it, and the gate has an alert of its own.
            self.check_change(&request.actor)?;
        }
        let counted = request.command.is_long_kept().then(|| request.actor.clone());
        if let Some(actor) = &counted {
            // It is not noted as a failed write: only this user has to wait.
            self.count_recorded_change(actor)?;
        }
        let result = self.submit(request).await;
        if let (Some(actor), Err(error)) = (&counted, &result)
            && error.outcome() == WriteOutcome::NotDone
        {
            self.uncount_recorded_change(actor);
        }
        self.writes.note(&result);
        result
    }

    async fn submit(&self, request: WriteRequest) -> Result<Applied, WriteError> {
        self.check_state_version(&request.command)?;
        clock_check::settled(&self.clock).await;
        let proposal = Proposal {
            request_id: request.request_id.unwrap_or_else(|| RequestId(rand::random())),
            proposed_at_ms: self.clock.proposal_ms(),
            fence: request.fence,
            actor: request.actor,
            command: request.command,
        };
        let end_ms = self.clock.monotonic_ms() + self.settings.write_timeout_ms;
        let begin_ms = request.answer_by_ms.map_or(end_ms, |by_ms| by_ms.min(end_ms));
        let time = WriteTimes { begin_ms, end_ms };
        let (reply, answer) = WriteReply::new();
        let address = site_of(address_of(&proposal.actor));
        let write = Write { proposal, time, address, reply };
        let submitted_us = self.clock.monotonic_us();
        self.actor.try_send(Submit(write)).map_err(|error| match error {
            SendError::Full => WriteError::Overloaded { retry_after_s: 1 },
            SendError::Down => WriteError::Unavailable {
                retry_after_s: 1,
                reason: "the registry is being started again".into(),
            },
        })?;
        // The actor answers in time by itself. This limit is for the case that the actor dies.
        let limit = Duration::from_millis(self.settings.write_timeout_ms + 1_000);
        let applied = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answered)) => {
                let now_us = || self.clock.monotonic_us();
                write_trail::note(&self.view, submitted_us, now_us, &answered);
                answered.result?
            }
            _ => return Err(WriteError::OutcomeUnknown { retry_after_s: 1 }),
        };
        match applied.reply {
            Reply::Rejected(rejection) => {
                Err(WriteError::Rejected { rejection, index: applied.index })
            }
            _ => Ok(applied),
        }
    }

    /// The version of the state on this node.
    #[must_use]
    pub fn state_version(&self) -> u32 {
        self.view.with_snapshot(|snapshot| snapshot.state.version())
    }

    /// Refuses a command that not every voter may understand, because such voters would stop.
    fn check_state_version(&self, command: &Command) -> Result<(), WriteError> {
        let needs = command.needs();
        if needs == 1 || matches!(command, Command::RaiseStateVersion { .. }) {
            return Ok(());
        }
        let snapshot = self.view.snapshot();
        let has = snapshot.state.version();
        if needs <= has {
            return Ok(());
        }
        let rejection = Rejection::StateVersion { needs, has };
        Err(WriteError::Rejected { rejection, index: snapshot.state.index() })
    }

    /// Registers instances. If this node knows an instance as registered and unchanged, the registration is a
    /// heartbeat and does not enter the log. If the node is behind, apply recognizes the equal registration
    /// and keeps its lease epoch. Returns the index and, for each item, its lease epoch.
    pub async fn register(
        &self,
        actor: Who,
        request_id: Option<RequestId>,
        answer_by_ms: Option<u64>,
        items: Vec<(ServiceKey, Registration)>,
    ) -> Result<(u64, Vec<Result<u64, Rejection>>), WriteError> {
        let items: Vec<(ServiceKey, Registration)> =
            items.into_iter().map(|(key, registration)| (key, registration.normalised())).collect();
        let mut answers: Vec<Option<Result<u64, Rejection>>> = vec![None; items.len()];
        let mut unchanged = self.unchanged(&items);
        // With the caller's own request id, the log answers either all items or none.
        if request_id.is_some() && unchanged.len() < items.len() {
            unchanged.clear();
        }
        if !unchanged.is_empty() && !self.store.confirms_applied().await {
            unchanged.clear();
        }
        if !unchanged.is_empty() {
            let renewals = unchanged
                .iter()
                .map(|(at, epoch)| Renewal {
                    key: items[*at].0.instance(items[*at].1.id.clone()),
                    lease_epoch: Some(*epoch),
                })
                .collect();
            // If the leader was not reached, the write through the log is tried, and decides.
            let agree = |known: bool, seen: bool| seen || !known;
            if let Ok((_, known)) = self.renew_until(renewals, answer_by_ms, agree).await {
                for ((at, epoch), known) in unchanged.iter().zip(known) {
                    answers[*at] = known.then_some(Ok(*epoch));
                }
            }
        }
        if request_id.is_some() && answers.iter().any(Option::is_none) {
            answers.fill(None);
        }
        let open: Vec<usize> = (0..items.len()).filter(|at| answers[*at].is_none()).collect();
        let mut index = self.view.index();
        if !open.is_empty() {
            let command =
                Command::Register { items: open.iter().map(|at| items[*at].clone()).collect() };
            let request = WriteRequest { actor, request_id, fence: None, answer_by_ms, command };
            let applied = self.propose(request).await?;
            index = applied.index;
            if let Reply::Registered(results) = applied.reply {
                for (at, result) in open.into_iter().zip(results) {
                    answers[at] = Some(result.map_err(|rejection| *rejection));
                }
            }
        }
        // The log answers each item. If it does not, nobody here knows what it did.
        let answers = answers.into_iter().collect::<Option<Vec<_>>>();
        let answers = answers.ok_or(WriteError::OutcomeUnknown { retry_after_s: 1 })?;
        Ok((index, answers))
    }

    fn unchanged(&self, items: &[(ServiceKey, Registration)]) -> Vec<(usize, u64)> {
        let snapshot = self.view.snapshot();
        let epoch_of = |key: &ServiceKey, registration: &Registration| {
            let instance = snapshot.state.service(key)?.instances.get(&registration.id)?;
            let is_leased = registration.expiry.ttl_ms().is_some();
            (is_leased && instance.registration == *registration).then_some(instance.lease_epoch)
        };
        let each = items.iter().enumerate();
        each.filter_map(|(at, (key, registration))| Some((at, epoch_of(key, registration)?)))
            .collect()
    }

    /// Records a report of a check. A report that is equal to what this node knows moves the deadline of the
    /// check and does not enter the log. Returns the index, and whether the report changed anything.
    pub async fn report_check(
        &self,
        actor: Who,
        request_id: Option<RequestId>,
        answer_by_ms: Option<u64>,
        report: OwnReport,
    ) -> Result<(u64, bool), WriteError> {
        let unchanged = request_id.is_none().then(|| self.unchanged_check(&report)).flatten();
        if let Some(renewal) = unchanged
            && self.store.confirms_applied().await
        {
            // If the leader was not reached, the write through the log is tried, and decides.
            let known = self.renew(vec![renewal], answer_by_ms).await;
            if known.is_ok_and(|known| known == [true]) {
                return Ok((self.view.index(), false));
            }
        }
        let OwnReport { key, check, lease_epoch, report } = report;
        let command = Command::ReportCheck { key, check, lease_epoch, report };
        let request = WriteRequest { actor, request_id, fence: None, answer_by_ms, command };
        let applied = self.propose(request).await?;
        let changed = matches!(&applied.reply, Reply::Changed(changed) if changed == &[true]);
        Ok((applied.index, changed))
    }

    /// The lease of a check, if the report has the known content. It names the last report in the log, so a
    /// node that is behind renews nothing.
    fn unchanged_check(&self, own: &OwnReport) -> Option<(LeaseId, u64)> {
        let snapshot = self.view.snapshot();
        let instance = snapshot.state.instance(&own.key)?;
        let is_meant = own.lease_epoch.is_none_or(|epoch| epoch == instance.lease_epoch);
        let state = instance.reported_checks().iter().find(|state| state.id == own.check)?;
        let lease = LeaseId::of_check(&own.key, &own.check);
        (is_meant && state.equals(&own.report)).then_some((lease, state.reported_index))
    }

    /// Renews leases. Returns for each item whether it is known. An unknown instance must register again,
    /// unless it is permanent and has no lease. Also returns the index of this node's state with which the
    /// answer was compared.
    ///
    /// If the leases and this node's view differ, one of them is slightly behind, and the renewal is repeated for a
    /// short time. So a heartbeat right after the removal of its instance is not reported as known, and one right
    /// after a registration through another node is not reported as unknown.
    pub async fn heartbeat(
        &self,
        items: Vec<Renewal>,
        answer_by_ms: Option<u64>,
    ) -> Result<(u64, Vec<bool>), WriteError> {
        self.renew_until(items, answer_by_ms, |known, seen| known == seen).await
    }

    /// Repeats the renewal, for at most [`AGREE_MS`], until `agree` accepts each item. Its arguments are whether the
    /// leases know the item, and whether this node's view has it.
    async fn renew_until(
        &self,
        items: Vec<Renewal>,
        answer_by_ms: Option<u64>,
        agree: impl Fn(bool, bool) -> bool,
    ) -> Result<(u64, Vec<bool>), WriteError> {
        let ids: Vec<(LeaseId, u64)> = items
            .iter()
            .map(|item| (LeaseId::of_key(&item.key), item.lease_epoch.unwrap_or(0)))
            .collect();
        let until_ms = self.clock.monotonic_ms() + AGREE_MS;
        loop {
            let known = self.renew(ids.clone(), answer_by_ms).await?;
            let snapshot = self.view.snapshot();
            let sees = |item: &Renewal| {
                let service = snapshot.state.service(&item.key.service);
                let instance = service.and_then(|s| s.instances.get(&item.key.instance));
                let instance = instance.filter(|i| i.registration.expiry.ttl_ms().is_some());
                let epoch = instance.map(|instance| instance.lease_epoch);
                epoch.is_some() && (item.lease_epoch.is_none() || item.lease_epoch == epoch)
            };
            let agreed = items.iter().zip(&known).all(|(item, known)| agree(*known, sees(item)));
            if agreed || self.clock.monotonic_ms() >= until_ms {
                return Ok((snapshot.state.index(), known));
            }
            tokio::time::sleep(Duration::from_millis(AGREE_PAUSE_MS)).await;
        }
    }

    /// Like [`Self::heartbeat`], for callers that have hashed the keys already. Epoch 0 means any.
    pub async fn renew(
        &self,
        ids: Vec<(LeaseId, u64)>,
        answer_by_ms: Option<u64>,
    ) -> Result<Vec<bool>, WriteError> {
        if self.duties.borrow().is_some() {
            let now_ms = self.clock.monotonic_ms();
            let renewed: Vec<bool> =
                ids.iter().map(|(id, epoch)| self.leases.renew(*id, *epoch, now_ms)).collect();
            if renewed.iter().all(|known| *known)
                && renewals::answers_for_leases(&*self.store, &self.duties, &self.leases)
            {
                return Ok(renewed);
            }
        }
        let left_ms = answer_by_ms.map(|by_ms| by_ms.saturating_sub(self.clock.monotonic_ms()));
        self.batcher.renew(ids, left_ms.map(Duration::from_millis)).await
    }

    /// The outcomes of writes through this node.
    #[must_use]
    pub fn writes(&self) -> &Arc<WriteCounters> {
        &self.writes
    }

    /// The status of expiry on this node.
    #[must_use]
    pub fn expiry(&self) -> &ExpiryStatus {
        &self.expiry
    }

    /// After a transfer of leadership away from this node, waits until the next leader has the remaining
    /// times of the leases; at most `timeout`.
    pub async fn handed_over(&self, timeout: Duration) -> bool {
        let mut handed_over = self.handed_over.clone();
        let handed_over = handed_over.wait_for(|handed_over| *handed_over);
        tokio::time::timeout(timeout, handed_over).await.is_ok_and(|done| done.is_ok())
    }

    /// The lease table, which is filled only on the leader.
    #[must_use]
    pub fn leases(&self) -> &Arc<LeaseTable> {
        &self.leases
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ControlStore> {
        &self.store
    }

    /// How often the actors were restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.actor.restarts() + self.lease_actor.restarts()
    }

    /// Stops the actors.
    pub fn stop(&self) {
        self.actor.stop();
        self.lease_actor.stop();
    }
}

/// Whether the command is carried out although this node refuses changes by callers: an audit record itself, and the end
/// of a session, which only takes rights away.
fn is_exempt(command: &Command) -> bool {
    matches!(
        command,
        Command::RecordAudit { .. } | Command::RecordUnknown { .. } | Command::EndSession { .. }
    )
}

/// Whether the changes of a caller are not counted.
fn is_unlimited(actor: &Who) -> bool {
    actor.user.is_empty() || actor.is_system() || actor.is_break_glass()
}

/// The address of a write's caller. All callers without an address share one.
fn address_of(actor: &Who) -> IpAddr {
    let address = actor.address.split(' ').next().unwrap_or_default();
    address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}
