//! The registry: the one way to write, on every node.
//!
//! Place in the flow: the API calls [`Registry`]. Writes go through the [`RegistryActor`]'s mailbox
//! into batches ([`intake`]). Heartbeats go past it, straight into the lease table or, on a node
//! that does not lead, in gathered batches to the one that does ([`renewals`]). On the leader, the
//! lease actor ([`leases`]) expires what has run out; the next leader asks it what was left of the leases
//! ([`former`]).

mod confirm;
pub mod expiry;
mod former;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod intake;
mod leases;
mod renewals;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::ArbiterHandle;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::clock_check;
use super::leadership::Duties;
use super::peer::{PeerKind, PeerRouter};
use super::supervisor::{SendError, Supervised};
use maxine_admission::network_of;
use maxine_clock::Clock;
use maxine_control::intake::{Write, WriteTimes};
use maxine_control::leases::{ExpirySettings, LeaseId, LeaseTable};
use maxine_state::{
    Actor as Who, Applied, CheckReport, Command, Fence, InstanceKey, Name, Proposal, Registration,
    Rejection, Reply, RequestId, ServiceKey,
};
use maxine_store::ControlStore;
use maxine_view::View;

pub use confirm::Confirmation;
pub use expiry::ExpiryStatus;
pub use intake::RegistryActor;
use intake::Submit;
use leases::{LeaseActor, LeaseParts};
use renewals::Gatherer;

/// How long a heartbeat waits for the leases and this node's view to agree, in milliseconds.
const AGREE_MS: u64 = 300;
/// Pause between two looks at them, in milliseconds.
const AGREE_PAUSE_MS: u64 = 5;

/// Bounds of the registry's write path.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// How long a write may take before it is answered with 503, in milliseconds.
    pub write_timeout_ms: u64,
    /// Most writes of one class that wait at once (Maxine's own, those of callers with a credential,
    /// those of strangers); one more is refused.
    pub pending_max: usize,
    /// Added to every lease by a new leader, in milliseconds: one election timeout.
    pub takeover_extra_ms: u64,
    /// Limits on expiry.
    pub expiry: ExpirySettings,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            write_timeout_ms: 5_000,
            pending_max: 16_384,
            takeover_extra_ms: 1_200,
            expiry: ExpirySettings::default(),
        }
    }
}

/// A write as its caller asks for it.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// Who asks.
    pub actor: Who,
    /// Names the request, so that a repeat of it takes effect once; a new one if `None`.
    pub request_id: Option<RequestId>,
    /// For duties of the leader alone.
    pub fence: Option<Fence>,
    /// By when its caller needs the answer, on the monotonic clock; if it was not proposed by then,
    /// it never is.
    pub answer_by_ms: Option<u64>,
    /// What for.
    pub command: Command,
}

/// A write that was not done, or not surely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Nothing was written: no majority, or no leader.
    #[error("nothing was written: {reason}")]
    Unavailable {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
        /// Why.
        reason: String,
    },
    /// Nothing was written: too much is under way.
    #[error("nothing was written: too many writes are in flight")]
    Overloaded {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
    },
    /// Nothing was written: too much of one address is under way.
    #[error("nothing was written: too many writes of your address are in flight")]
    AddressOverloaded {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
    },
    /// It may or may not take effect yet; a retry with the same request id takes effect once.
    #[error("the outcome is unknown; repeat the request with the same Idempotency-Key")]
    OutcomeUnknown {
        /// When a retry makes sense, in seconds.
        retry_after_s: u64,
    },
    /// Nothing was written: too large.
    #[error("the write is {len} bytes long, the limit is {max}")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Nothing was changed: the command does not fit the state.
    #[error("{rejection}")]
    Rejected {
        /// Why.
        rejection: Rejection,
        /// The index of the state that refused it.
        index: u64,
    },
    /// The store failed; this node stops.
    #[error("storage failed: {0}")]
    Storage(String),
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Whose.
    pub key: InstanceKey,
    /// Of this registration only, if given.
    pub lease_epoch: Option<u64>,
}

/// A check of an instance, as its owner reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnReport {
    /// The instance.
    pub key: InstanceKey,
    /// The check.
    pub check: Name,
    /// Only if this is still its registration.
    pub lease_epoch: Option<u64>,
    /// What the owner says.
    pub report: CheckReport,
}

/// How writes through this node have ended so far.
#[derive(Debug, Default)]
pub struct WriteTally {
    decided: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    last_refusal: Mutex<String>,
}

impl WriteTally {
    fn note<T>(&self, result: &Result<T, WriteError>) {
        match result {
            Ok(_) | Err(WriteError::Rejected { .. } | WriteError::TooLarge { .. }) => {
                self.decided.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let unknown =
                    matches!(error, WriteError::OutcomeUnknown { .. } | WriteError::Storage(_));
                self.unknown.fetch_add(u64::from(unknown), Ordering::Relaxed);
                *self.last_refusal.lock() = error.to_string();
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many took effect or were refused for what they asked.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.decided.load(Ordering::Relaxed)
    }

    /// How many this node could not carry out.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Of how many of these the outcome is unknown: they may have taken effect.
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

/// What the registry stands on.
pub struct RegistryParts {
    /// This node's name.
    pub node: String,
    /// What orders the commands.
    pub store: Arc<dyn ControlStore>,
    /// What is published.
    pub view: Arc<View>,
    /// The clock.
    pub clock: Clock,
    /// Whether this node has the leader's duties.
    pub duties: Duties,
    /// Where messages of other nodes come in.
    pub peers: Arc<PeerRouter>,
    /// Bounds.
    pub settings: RegistrySettings,
}

/// The registry of this node. Cloning is cheap.
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
    gatherer: Gatherer,
    expiry: ExpiryStatus,
    settings: RegistrySettings,
    writes: Arc<WriteTally>,
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
        let service = renewals::RenewalService {
            store: Arc::clone(&store),
            leases: Arc::clone(&leases),
            followed: is_followed,
            view: Arc::clone(&view),
            clock: clock.clone(),
            duties: duties.clone(),
        };
        peers.set(PeerKind::Renew, Box::new(service));
        let service = former::FormerService {
            actor: lease_actor.clone(),
            view: Arc::clone(&view),
            handed_over,
        };
        peers.set(PeerKind::FormerLeases, Box::new(service));
        let service = confirm::Confirmer {
            leases: lease_actor.clone(),
            clock: clock.clone(),
            duties: duties.clone(),
        };
        peers.set(PeerKind::Confirm, Box::new(service));
        let actor = {
            let (store, clock, pending_max) =
                (Arc::clone(&store), clock.clone(), settings.pending_max);
            Supervised::start(arbiter, move |lifeline| {
                RegistryActor::new(Arc::clone(&store), clock.clone(), pending_max, lifeline)
            })
        };
        Self {
            gatherer: Gatherer::start(Arc::clone(&store)),
            actor,
            lease_actor,
            store,
            view,
            clock,
            leases,
            handed_over: is_handed_over,
            duties,
            expiry,
            settings,
            writes: Arc::default(),
        }
    }

    /// Proposes a command. When it returns, the view of this node shows the effect.
    ///
    /// The proposal is repeated inside the time for as long as that is safe; the request id makes
    /// it take effect once. Dropping the future does not take the proposal back.
    pub async fn propose(&self, request: WriteRequest) -> Result<Applied, WriteError> {
        let result = self.submit(request).await;
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
        let (reply, answer) = oneshot::channel();
        let address = network_of(address_of(&proposal.actor));
        let write = Write { proposal, time, address, reply };
        self.actor.try_send(Submit(write)).map_err(|error| match error {
            SendError::Full => WriteError::Overloaded { retry_after_s: 1 },
            SendError::Down => WriteError::Unavailable {
                retry_after_s: 1,
                reason: "the registry is being started again".into(),
            },
        })?;
        // The actor answers in time by itself; this is for the case that it dies on the way.
        let limit = Duration::from_millis(self.settings.write_timeout_ms + 1_000);
        let applied = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result?,
            _ => return Err(WriteError::OutcomeUnknown { retry_after_s: 1 }),
        };
        match applied.reply {
            Reply::Rejected(rejection) => {
                Err(WriteError::Rejected { rejection, index: applied.index })
            }
            _ => Ok(applied),
        }
    }

    /// Refuses a command that not every voter may understand: once it is in the log, they would stop.
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

    /// Registers instances. What this node knows as registered and unchanged is a heartbeat and does
    /// not enter the log; where the node is behind, apply finds it equal and keeps its lease epoch.
    /// Answers the index and, for each item, its lease epoch.
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
        // Under a caller's own id the log answers for all items, or for none of them.
        if request_id.is_some() && unchanged.len() < items.len() {
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
            // Not reaching the leader is not final: the log's own path tries on and has the last word.
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
        let missing = || Err(Rejection::FenceMissing);
        Ok((index, answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()))
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

    /// Takes a report of a check. One that is equal to what this node knows moves the deadline of the check and does not
    /// enter the log. Answers the index, and whether the report changed anything.
    pub async fn report_check(
        &self,
        actor: Who,
        request_id: Option<RequestId>,
        answer_by_ms: Option<u64>,
        report: OwnReport,
    ) -> Result<(u64, bool), WriteError> {
        let unchanged = request_id.is_none().then(|| self.unchanged_check(&report)).flatten();
        if let Some(renewal) = unchanged {
            // Not reaching the leader is not final: the log's own path tries on and has the last word.
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

    /// The lease of a check, if a report says what this node knows already. It names the last report in the log, so a
    /// node that is behind renews nothing.
    fn unchanged_check(&self, own: &OwnReport) -> Option<(LeaseId, u64)> {
        let snapshot = self.view.snapshot();
        let instance = snapshot.state.instance(&own.key)?;
        let is_meant = own.lease_epoch.is_none_or(|epoch| epoch == instance.lease_epoch);
        let state = instance.reported_checks().iter().find(|state| state.id == own.check)?;
        let lease = LeaseId::of_check(&own.key, &own.check);
        (is_meant && state.equals(&own.report)).then_some((lease, state.reported_index))
    }

    /// Renews leases; for each, whether it is known. One that is not must be registered anew, unless it is permanent
    /// and has no lease. Before them, the index of this node's state that the answer was compared with.
    ///
    /// Where the leases and this node's view differ, one of them is behind by a moment: a heartbeat
    /// right after its instance's removal is not told as known, nor one right after a registration
    /// elsewhere as unknown.
    pub async fn heartbeat(
        &self,
        items: Vec<Renewal>,
        answer_by_ms: Option<u64>,
    ) -> Result<(u64, Vec<bool>), WriteError> {
        self.renew_until(items, answer_by_ms, |known, seen| known == seen).await
    }

    /// Renews until, for each item, `agree` takes what the leases know and what this node's view shows.
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

    /// [`Self::heartbeat`] for callers that have hashed the keys themselves; epoch 0 means any.
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
        self.gatherer.renew(ids, left_ms.map(Duration::from_millis)).await
    }

    /// How writes through this node have ended.
    #[must_use]
    pub fn writes(&self) -> &Arc<WriteTally> {
        &self.writes
    }

    /// How expiry is doing on this node.
    #[must_use]
    pub fn expiry(&self) -> &ExpiryStatus {
        &self.expiry
    }

    /// Waits until the next leader knows what is left of the leases, after this node has handed its
    /// leadership over and before it ends; at most `timeout`.
    pub async fn handed_over(&self, timeout: Duration) -> bool {
        let mut handed_over = self.handed_over.clone();
        let handed_over = handed_over.wait_for(|handed_over| *handed_over);
        tokio::time::timeout(timeout, handed_over).await.is_ok_and(|told| told.is_ok())
    }

    /// The leases; filled on the leader alone.
    #[must_use]
    pub fn leases(&self) -> &Arc<LeaseTable> {
        &self.leases
    }

    fn confirmer(&self) -> confirm::Confirmer {
        confirm::Confirmer {
            leases: self.lease_actor.clone(),
            clock: self.clock.clone(),
            duties: self.duties.clone(),
        }
    }

    /// The backend.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ControlStore> {
        &self.store
    }

    /// How often the actors had to be started again.
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

/// Where a write came from; all without an address count as one.
fn address_of(actor: &Who) -> IpAddr {
    let address = actor.address.split(' ').next().unwrap_or_default();
    address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}
