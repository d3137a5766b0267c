//! The Redis mode: a Redis Stream is the log, and a lease elects the leader.
//!
//! Place in the flow: [`RedisStore::propose`] appends a batch with one script. The tail of every node reads
//! the Stream into its own machine. The reply comes from there, so that a client sees its own write. A
//! command of the leader is refused in the script unless its lease is the present one.
//!
//! While Redis is unreachable, reads use the last view, writes are refused, and no node leads. The chain of
//! nonces in the log shows what Redis has lost. [`repair`] has the table of repairs, and
//! `docs/reference/backends.md` says what can be lost.
//!
//! This module never decides policy, and never relies on the wall clock.

mod config;
mod connect;
mod election;
mod mailbox;
mod nodes;
mod propose;
mod repair;
mod replica;
mod scripts;
mod snapshot;
mod snapshotter;
mod stream;
mod survey;
mod tail;
mod topology;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redis::{ErrorKind, RedisError};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::config::Keys;
use self::connect::{Connector, SharedLink, is_unauthenticated};
use self::election::LeaseState;
use self::mailbox::Calls;
use self::replica::{Position, Replica};
use super::lease_tokens::LeaseTokens;
use super::newest_state::NewestState;
use super::store_event::StoreEvents;
use super::{
    CallError, Consistency, ControlStore, Leadership, OpenError, PeerHandler, ProposeError,
    ReadError, StoreEvent, StoreKind, StoreNode, WriteTime,
};
use maxine_clock::Clock;
use maxine_state::{Applied, Batch};
use maxine_view::View;

pub use config::{RedisConfig, Topology};
pub(super) use transfer::{read_nodejs_snapshot, read_state, write_state};

/// Maximum number of batches in flight.
const IN_FLIGHT_MAX: usize = 1_024;
/// If Redis has not answered for this long, in milliseconds, this node no longer reports a leader.
const UNCONFIRMED_MS: u64 = 1_000;
/// If a question was not answered, and there was no answer to any other for this long, nothing confirms a lease either.
/// In milliseconds.
const SILENT_MS: u64 = 2_500;
/// A start that has waited for Redis for this long says so.
const NOTICE_AFTER: Duration = Duration::from_secs(1);
/// How long a start waits for the first answer of Redis, in milliseconds. Without one, the node starts without the state,
/// so that it can tell the reason.
const FIRST_ANSWER_MS: u64 = 2_000;
/// Interval at which a start checks whether Redis has stopped to answer.
const AWAY_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum time that a stop waits for the tasks.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Why nothing can be written while Redis is away.
const NO_ANSWER: &str = "the store does not answer";

/// Why nothing can be written while Redis does not accept the password of this node.
const WRONG_PASSWORD: &str = "the store refuses this node's password (WRONGPASS)";
/// Why nothing can be written while Redis demands a password that this node does not have.
const NO_PASSWORD: &str = "the store demands a password, and this node has none (NOAUTH)";

/// Why nothing can be written while the content of Redis is damaged.
const UNUSABLE: &str = "the content of the store cannot be used; the nodes repair it";

/// Why nothing can be written after the error `error` of a connection. Users and addresses are left out.
fn no_answer(error: &RedisError) -> &'static str {
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => WRONG_PASSWORD,
        (_, code) if code == Some("NOAUTH") || is_unauthenticated(error) => NO_PASSWORD,
        (_, Some("READONLY")) => "the store refuses writes (READONLY)",
        (_, Some("LOADING")) => "the store is loading its data (LOADING)",
        (_, Some("MASTERDOWN")) => "the store has lost its master (MASTERDOWN)",
        (_, Some("OOM")) => "the store refuses writes (OOM)",
        (_, Some("MISCONF")) => "the store refuses writes (MISCONF)",
        (_, Some("NOREPLICAS")) => "the store refuses writes (NOREPLICAS)",
        (_, Some(FORBIDDEN)) => "the store forbids what this node asks (NOPERM)",
        _ => NO_ANSWER,
    }
}

/// Whether Redis answered with the error, and refuses what the node needs.
fn is_refusal(error: &RedisError) -> bool {
    let code = refusal_code(error).unwrap_or_default();
    REFUSALS.contains(&code)
}

/// The codes with which Redis answers while it refuses every write.
const REFUSALS: [&str; 7] =
    ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "LOADING", "MASTERDOWN", FORBIDDEN];

/// The code with which Redis answers what its access rules forbid.
const FORBIDDEN: &str = "NOPERM";

/// Why nothing can be written while Redis answers writes with a code such as `OOM`.
fn refused_with(code: &str) -> String {
    format!("the store refuses writes ({code})")
}

/// The code with which Redis refused a command. If its access rules forbid a command inside a script, it
/// answers `ERR` and a text, where it answers `NOPERM` to the command itself.
fn refusal_code(error: &RedisError) -> Option<&str> {
    let detail = error.detail().unwrap_or_default();
    let is_forbidden = ["ACL failure in script", "The user executing the script"]
        .iter()
        .any(|text| detail.contains(text));
    if is_forbidden { Some(FORBIDDEN) } else { error.code() }
}

/// Redis refuses writes.
#[derive(Debug)]
struct Refusal {
    /// The code of its answer, such as `OOM`.
    code: String,
    since_ms: u64,
    /// Whether it refused the report of this node, too.
    is_of_report: bool,
}

/// Redis does not answer this node.
#[derive(Clone, Copy, Debug)]
struct Away {
    since_ms: u64,
    /// The reason, for any client.
    why: &'static str,
}

/// What the tasks share.
struct Core {
    config: RedisConfig,
    keys: Keys,
    clock: Clock,
    /// Tokens that identify this process, in the lease and as the name of its inbox, and the earlier processes of
    /// this node.
    tokens: LeaseTokens,
    replica: Replica,
    /// The last entry that the wanted number of replicas is known to have. Used only with `wait_replicas`.
    confirmed: Mutex<Position>,
    connector: Arc<Connector>,
    main: SharedLink,
    leadership: watch::Sender<Leadership>,
    lease: Mutex<LeaseState>,
    calls: Calls,
    peers: Arc<dyn PeerHandler>,
    events: StoreEvents,
    room: Semaphore,
    /// The time of the last question to Redis after whose answer this node had all entries, in milliseconds; 0 if
    /// there was none yet.
    complete_ms: AtomicU64,
    /// The time of the last answer of Redis to the task that follows the log, in milliseconds; 0 if there was none yet.
    answered_ms: AtomicU64,
    /// Whether a question of that task was not answered in time, and none was answered since.
    is_silent: AtomicBool,
    caught_up: watch::Sender<bool>,
    newest: Mutex<NewestState>,
    away: Mutex<Option<Away>>,
    /// Since when this node has found no way from its position to the end of the log.
    broken_since_ms: Mutex<Option<u64>>,
    repair_wanted: AtomicBool,
    run_id: Mutex<Option<String>>,
    /// Set while Redis answers and refuses writes.
    refusal: Mutex<Option<Refusal>>,
    /// Set while the access rules of Redis forbid the reports of this node, and other writes are carried out.
    only_report_forbidden: AtomicBool,
    failed: Mutex<Option<String>>,
    /// The servers that Sentinels or the nodes of a Redis Cluster name, as `host:port`.
    servers: Mutex<Vec<String>>,
    /// The addresses of all nodes that report, as `host:port`.
    node_addresses: Mutex<Vec<String>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Core {
    fn emit(&self, event: StoreEvent) {
        tracing::warn!(?event, "redis");
        self.events.emit(event);
    }

    /// Records that this node has everything that Redis had at `asked_ms`, when it asked. The time of the
    /// answer cannot be used, because the answer may have been delayed.
    fn note_complete(&self, asked_ms: u64) {
        if self.complete_ms.load(Ordering::Acquire) == 0 {
            let loss = self.newest.lock().compare(&self.replica.state().0);
            loss.into_iter().for_each(|loss| self.emit(loss));
        }
        self.complete_ms.fetch_max(asked_ms.max(1), Ordering::AcqRel);
        self.caught_up.send_if_modified(|before| !std::mem::replace(before, true));
    }

    fn note_heard(&self) {
        self.answered_ms.store(self.clock.monotonic_ms().max(1), Ordering::Release);
        self.is_silent.store(false, Ordering::Release);
    }

    /// Records that Redis has not answered in time. One such question proves nothing about Redis, because this process
    /// may have been paused, but an operator wants to know of it before that is clear.
    fn note_silence(&self, error: &RedisError) {
        let is_answer = matches!(
            error.kind(),
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed
        );
        self.is_silent.store(!is_answer, Ordering::Release);
    }

    fn silence_ms(&self) -> Option<u64> {
        let answered_ms = self.answered_ms.load(Ordering::Acquire);
        let is_silent = self.is_silent.load(Ordering::Acquire) && answered_ms > 0;
        is_silent.then(|| self.clock.monotonic_ms().saturating_sub(answered_ms))
    }

    /// Records that this node cannot work with Redis, and `why`. `reason` is the error, for the operators; `None` if Redis
    /// answers and refuses, which [`Self::note_refusal`] reports.
    fn note_unreachable(&self, why: &'static str, reason: Option<&str>) {
        let before = {
            let mut away = self.away.lock();
            let since_ms = away.map_or_else(|| self.clock.monotonic_ms(), |away| away.since_ms);
            away.replace(Away { since_ms, why })
        };
        if before.is_none() {
            // On the broken connection, the outcome of the next write would be unknown.
            self.main.reopen();
            if let Some(reason) = reason {
                let reason = maxine_wording::foreign(reason);
                let cause = self.password_refusal().map(str::to_owned);
                self.emit(StoreEvent::Unreachable { reason, cause });
            }
        }
        self.publish_leadership();
    }

    fn note_reachable(&self) {
        let away = self.away.lock().take();
        if let Some(Away { since_ms, .. }) = away {
            let after_ms = self.clock.monotonic_ms().saturating_sub(since_ms);
            self.emit(StoreEvent::Reachable { after_ms });
            self.publish_leadership();
        }
    }

    /// Why Redis carries out no command of this node, if the reason is its password. So nothing can be written.
    fn password_refusal(&self) -> Option<&'static str> {
        let away = *self.away.lock();
        away.map(|away| away.why).filter(|why| [WRONG_PASSWORD, NO_PASSWORD].contains(why))
    }

    /// Whether Redis has not answered for so long that nothing confirms a lease any more.
    fn is_unconfirmed(&self) -> bool {
        let away = *self.away.lock();
        let is_silent = self.silence_ms().is_some_and(|silent_ms| silent_ms >= SILENT_MS);
        is_silent
            || away.is_some_and(|away| {
                self.clock.monotonic_ms().saturating_sub(away.since_ms) >= UNCONFIRMED_MS
            })
    }

    /// Why Redis takes no writes now, as far as this node knows. Users and addresses are left out, because
    /// any client may read it.
    fn refuses_writes(&self) -> Option<String> {
        if self.is_broken() {
            return Some(UNUSABLE.to_owned());
        }
        if let Some(away) = *self.away.lock() {
            return Some(String::from(away.why));
        }
        self.refusal.lock().as_ref().map(|refusal| refused_with(&refusal.code))
    }

    /// Records that Redis answered a write with `error`, if that means that it refuses every write.
    fn note_refusal(&self, error: &RedisError, is_report: bool) {
        if !is_refusal(error) {
            return;
        }
        let code = refusal_code(error).unwrap_or_default();
        if code == FORBIDDEN {
            if is_report && self.only_report_forbidden.load(Ordering::Acquire) {
                return;
            }
            self.only_report_forbidden.store(false, Ordering::Release);
        }
        let now_ms = self.clock.monotonic_ms();
        let mut refusal = self.refusal.lock();
        let since_ms = refusal.as_ref().map_or(now_ms, |before| before.since_ms);
        let is_of_report = is_report || refusal.as_ref().is_some_and(|before| before.is_of_report);
        let before = refusal.replace(Refusal { code: code.to_owned(), since_ms, is_of_report });
        if before.is_none_or(|before| before.code != code) {
            let reason = format!("{code} {}", error.detail().unwrap_or_default());
            let reason = maxine_wording::foreign(&reason);
            // Under the lock, so that the events have the order of what they report.
            self.emit(StoreEvent::WritesRefused { reason });
        }
    }

    /// Records that Redis carried out a write. If the access rules forbade a report before, they may forbid
    /// reports only. Then a refused report says nothing about other writes, until a report is carried out.
    fn note_accepted(&self) {
        let mut refusal = self.refusal.lock();
        if let Some(Refusal { code, since_ms, is_of_report }) = refusal.take() {
            let is_forbidden = is_of_report && code == FORBIDDEN;
            self.only_report_forbidden.store(is_forbidden, Ordering::Release);
            let after_ms = self.clock.monotonic_ms().saturating_sub(since_ms);
            self.emit(StoreEvent::WritesAccepted { after_ms });
        }
    }

    /// Records that Redis carried out this node's report. If the access rules forbade other writes but no report,
    /// they may still forbid them.
    fn note_report_accepted(&self) {
        let is_of_others = |now: &Refusal| now.code == FORBIDDEN && !now.is_of_report;
        if !self.refusal.lock().as_ref().is_some_and(is_of_others) {
            self.note_accepted();
        }
        self.only_report_forbidden.store(false, Ordering::Release);
    }

    /// Records that the content of Redis cannot be used. Returns for how long that has been so, in
    /// milliseconds. Until [`Self::note_sound`] is called, this node neither writes nor leads.
    fn note_broken(&self, reason: &str) -> u64 {
        let now_ms = self.clock.monotonic_ms();
        let mut since = self.broken_since_ms.lock();
        let since_ms = *since.get_or_insert(now_ms);
        drop(since);
        self.caught_up.send_replace(false);
        self.step_down();
        if since_ms == now_ms {
            self.away.lock().get_or_insert(Away { since_ms: now_ms, why: UNUSABLE });
            self.emit(StoreEvent::Damaged { reason: reason.to_owned(), is_repaired: false });
        }
        now_ms - since_ms
    }

    fn note_sound(&self) {
        *self.broken_since_ms.lock() = None;
        self.note_reachable();
    }

    fn is_broken(&self) -> bool {
        self.broken_since_ms.lock().is_some()
    }

    fn is_caught_up(&self) -> bool {
        *self.caught_up.borrow()
    }

    fn want_repair(&self) {
        self.repair_wanted.store(true, Ordering::Release);
    }

    fn fail(&self, reason: String) {
        tracing::error!(%reason, "the log cannot be applied: this node must stop");
        *self.failed.lock() = Some(reason.clone());
        self.caught_up.send_replace(false);
        self.step_down();
        self.emit(StoreEvent::Failed { reason });
    }

    fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Checks the servers and connects for the first time, for up to [`FIRST_ANSWER_MS`]. Returns the last error if
    /// Redis cannot be reached.
    async fn first_answer(&self) -> Result<Option<RedisError>, OpenError> {
        let until_ms = self.clock.monotonic_ms() + FIRST_ANSWER_MS;
        let left = || Duration::from_millis(until_ms.saturating_sub(self.clock.monotonic_ms()));
        let checked = tokio::time::timeout(left(), topology::check(&self.config)).await;
        checked.unwrap_or(Ok(())).map_err(OpenError::Settings)?;
        loop {
            let error = match tokio::time::timeout(left(), self.main.get()).await {
                Ok(Ok(_)) => return Ok(None),
                Ok(Err(error)) => error,
                Err(_) => return Ok(Some(connect::timed_out())),
            };
            if error.kind() == ErrorKind::AuthenticationFailed {
                let hint = match &self.config.topology {
                    Topology::Sentinel { .. } => {
                        "; if the Sentinels have other passwords than Redis, or none, name them apart"
                    }
                    _ => "",
                };
                return Err(OpenError::Refused(format!("{error}{hint}")));
            }
            // A Redis that is started together with this node may need a moment.
            if left() <= AWAY_INTERVAL {
                return Ok(Some(error));
            }
            tokio::time::sleep(AWAY_INTERVAL).await;
        }
    }

    /// Returns when Redis is known not to answer. Content that cannot be used is repaired, so that is waited for.
    async fn wait_until_away(&self) {
        let is_away = || self.away.lock().is_some_and(|away| away.why != UNUSABLE);
        while !is_away() {
            tokio::time::sleep(AWAY_INTERVAL).await;
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.lock().is_some()
    }
}

/// A store that orders commands with Redis.
pub struct RedisStore {
    core: Arc<Core>,
}

impl RedisStore {
    /// Uses the user, the password and the certificates of `config` for connections that begin later. Open connections
    /// stay. Blocks.
    ///
    /// # Errors
    ///
    /// A file or an address cannot be used. Then nothing changes.
    pub fn reload(&self, config: &RedisConfig) -> Result<(), String> {
        self.core.connector.reload(config)
    }

    /// Opens the store. If Redis is unreachable, the store opens nevertheless and catches up later. Wrong
    /// settings and refused credentials are errors.
    pub async fn open(
        config: RedisConfig,
        view: Arc<View>,
        clock: Clock,
        peers: Arc<dyn PeerHandler>,
    ) -> Result<Arc<Self>, OpenError> {
        let servers = topology::hosts(&config);
        let state_limit = Duration::from_millis(config.connect_timeout_ms);
        let mut opening = Box::pin(Self::open_and_wait(config, view, clock, peers));
        if let Ok(opened) = tokio::time::timeout(NOTICE_AFTER, &mut opening).await {
            return opened;
        }
        tracing::warn!(
            redis = %servers,
            "this node waits for redis for up to {} s more, and if redis answers, for the state in it for up to {} s; until \
             then it answers no requests, and then it starts without the state and continues to try",
            Duration::from_millis(FIRST_ANSWER_MS).saturating_sub(NOTICE_AFTER).as_secs().max(1),
            state_limit.as_secs().max(1)
        );
        opening.await
    }

    async fn open_and_wait(
        config: RedisConfig,
        view: Arc<View>,
        clock: Clock,
        peers: Arc<dyn PeerHandler>,
    ) -> Result<Arc<Self>, OpenError> {
        config.check().map_err(|wrong| OpenError::Settings(wrong.join("; ")))?;
        let connector = Arc::new(Connector::new(&config).map_err(OpenError::Settings)?);
        let first_wait = Duration::from_millis(config.connect_timeout_ms);
        let core = Arc::new(Core {
            keys: Keys::new(&config),
            tokens: LeaseTokens::begin(config.lease_tokens.as_deref()),
            replica: Replica::new(view),
            main: SharedLink::new(Arc::clone(&connector), clock.clone()),
            connector,
            leadership: watch::Sender::new(Leadership::default()),
            lease: Mutex::default(),
            calls: Calls::default(),
            peers,
            events: StoreEvents::default(),
            room: Semaphore::new(IN_FLIGHT_MAX),
            complete_ms: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
            is_silent: AtomicBool::new(false),
            caught_up: watch::Sender::new(false),
            newest: Mutex::new(NewestState::read(config.newest_state.as_deref())),
            away: Mutex::default(),
            confirmed: Mutex::default(),
            broken_since_ms: Mutex::default(),
            repair_wanted: AtomicBool::new(false),
            run_id: Mutex::default(),
            refusal: Mutex::default(),
            only_report_forbidden: AtomicBool::new(false),
            failed: Mutex::default(),
            servers: Mutex::default(),
            node_addresses: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
            clock,
        });
        if let Some(error) = core.first_answer().await? {
            core.note_failed_attempt(&error, None);
        }
        core.tasks.spawn(Arc::clone(&core).run_tail());
        core.tasks.spawn(Arc::clone(&core).run_election());
        core.tasks.spawn(Arc::clone(&core).run_inbox());
        core.tasks.spawn(Arc::clone(&core).run_snapshots());
        core.tasks.spawn(Arc::clone(&core).run_topology());
        core.tasks.spawn(Arc::clone(&core).run_node_register());
        let mut caught_up = core.caught_up.subscribe();
        let arrived = caught_up.wait_for(|done| *done || core.has_failed());
        let arrived = tokio::select! {
            arrived = tokio::time::timeout(first_wait, arrived) => arrived.is_ok(),
            () = core.wait_until_away() => false,
        };
        if let Some(reason) = core.failure() {
            core.stop.cancel();
            return Err(OpenError::Damaged(reason));
        }
        if !arrived {
            tracing::warn!(
                "the state has not arrived from redis yet; this node starts without it and continues to try"
            );
        }
        Ok(Arc::new(Self { core }))
    }
}

#[async_trait]
impl ControlStore for RedisStore {
    async fn propose(&self, batch: Batch, time: WriteTime) -> Result<Vec<Applied>, ProposeError> {
        self.core.append(&batch, time).await
    }

    async fn confirms_applied(&self) -> bool {
        self.core.confirms_applied().await
    }

    async fn barrier(&self, level: Consistency, timeout: Duration) -> Result<(), ReadError> {
        if level == Consistency::Stale {
            return Ok(());
        }
        let core = &self.core;
        let wait = async {
            let mut applied = core.replica.applied();
            loop {
                let (mut link, generation) =
                    core.main.get().await.map_err(|_| ReadError::StoreUnavailable)?;
                let head = stream::head(&mut link, &core.keys, core.config.command_timeout()).await;
                let head = head.map_err(|error| {
                    core.main.report(generation, &error);
                    ReadError::StoreUnavailable
                })?;
                let Some(head) = head else { return Err(ReadError::StoreUnavailable) };
                let reached = applied.wait_for(|seq| *seq >= head.seq).await;
                reached.map_err(|_| ReadError::ShuttingDown)?;
                if core.replica.has(&head) {
                    return Ok(());
                }
                // This node has as many entries, but different ones. It takes over those in Redis.
                core.want_repair();
                applied.mark_unchanged();
                applied.changed().await.map_err(|_| ReadError::ShuttingDown)?;
            }
        };
        let limited = tokio::time::timeout(timeout, wait);
        tokio::select! {
            () = core.stop.cancelled() => Err(ReadError::ShuttingDown),
            done = limited => done.unwrap_or(Err(ReadError::Behind)),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    fn leadership_now(&self) -> Leadership {
        self.core.leadership_now()
    }

    fn staleness_ms(&self) -> Option<u64> {
        match self.core.complete_ms.load(Ordering::Acquire) {
            0 => None,
            complete_ms => Some(self.core.clock.monotonic_ms().saturating_sub(complete_ms)),
        }
    }

    fn service_silence_ms(&self) -> Option<u64> {
        self.core.silence_ms()
    }

    async fn call_leader(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        self.core.call(body, timeout).await
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Redis
    }

    async fn nodes(&self) -> Result<Option<Vec<StoreNode>>, ReadError> {
        // This node reports, so a list without it is incomplete.
        let nodes = self.core.registered_nodes().await.unwrap_or_default();
        let is_complete = nodes.iter().any(|node| node.name == self.core.config.instance_id);
        if is_complete { Ok(Some(nodes)) } else { Err(ReadError::StoreUnavailable) }
    }

    async fn forget_node(&self, name: &str) -> Result<bool, ReadError> {
        self.core.forget(name).await.map_err(|_| ReadError::StoreUnavailable)
    }

    fn refuses_writes(&self) -> Option<String> {
        self.core.refuses_writes()
    }

    fn events(&self) -> Option<broadcast::Receiver<StoreEvent>> {
        Some(self.core.events.listen())
    }

    fn own_addresses(&self) -> Vec<String> {
        let mut own = self.core.servers.lock().clone();
        own.extend_from_slice(&self.core.node_addresses.lock());
        own
    }

    async fn shutdown(&self) {
        self.core.room.close();
        self.core.stop.cancel();
        self.core.tasks.close();
        if tokio::time::timeout(STOP_LIMIT, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks of the redis store did not stop in time");
        }
    }
}
