//! The cluster: its status as this node knows it, the history of leaders, and its membership.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cluster_audit::{record, record_refused, recorded_object};
use super::counts::InstanceCounts;
use super::extract::{JsonBody, NoParams, NumberPath, OptionalJsonBody, Params};
use super::fresh::{Fresh, Freshness, Write};
use super::ready::{no_answer_for, without_leader};
use super::upgrade::StateVersions;
use crate::AppState;
use crate::access::AccessMode;
use crate::problem::{Problem, ProblemKind};
use crate::recorded::Recorded;
use crate::stopping::Stopping;
use maxine_actors::peer::Confirmation;
use maxine_actors::{members, state_version};
use maxine_state::Leadership;
use maxine_state::limits::check_text;
use maxine_state::{AuditAction, ControlState, Name, STATE_VERSION, StateDigest};
use maxine_store::{
    AdminError, CallError, ClusterAdmin, ClusterStatus, MemberView, StoreKind, StoreNode,
    WriteOutcome,
};
use maxine_telemetry::{Alert, AlertKind, AlertState};
use maxine_view::NO_STATE;

/// Time limit for a change of the membership, in milliseconds.
const ADMIN_TIMEOUT_MS: u64 = 30_000;
/// How long the answer to a transfer waits until this node knows the new leader, in milliseconds. After that, the
/// answer names no leader.
const NEXT_LEADER_TIMEOUT_MS: u64 = 1_000;
/// If this node's state is older than this, its status has a warning. In milliseconds.
const STALE_WARNING_MS: u64 = 10_000;
/// If the time of the log is ahead of this node's clock by more than this, the status has a warning. In milliseconds.
/// The clocks of the nodes always differ a little.
const TIME_AHEAD_WARNING_MS: u64 = 60_000;

/// Who holds the leader's duties, according to the log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantView {
    /// The name of the node that holds them.
    holder: String,
    /// The fencing token of the node.
    fence: u64,
    /// Since when the node holds them, in milliseconds since 1970.
    since_ms: u64,
}

/// Counts of what is registered.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Totals {
    /// Namespaces that have services.
    namespaces: usize,
    /// Services.
    services: usize,
    #[serde(flatten)]
    counts: InstanceCounts,
}

impl Totals {
    fn of(state: &ControlState) -> Self {
        let mut totals = Self::default();
        let mut namespaces = BTreeSet::new();
        for (key, service) in state.services() {
            namespaces.insert(key.namespace.as_str());
            totals.services += 1;
            totals.counts.add(service);
        }
        totals.namespaces = namespaces.len();
        totals
    }
}

/// State of expiry.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExpiryView {
    /// Whether expiry is suspended because too many instances stopped sending heartbeats at the same time. Only the
    /// leader knows this, so this node asks it; null if it gave no answer, or if no leader is known.
    suspended: Option<bool>,
    /// How many instances this node has expired.
    expired_total: u64,
}

/// The cluster as this node sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterView {
    /// This node's name.
    node: String,
    /// Where the state is stored.
    #[schema(inline)]
    backend: StoreKind,
    /// Version of Maxine on this node.
    version: &'static str,
    /// The version of the state, and the newest version that this node understands.
    state_version: StateVersions,
    /// How long this node has been running, in milliseconds.
    uptime_ms: u64,
    /// The index of this node's state; null while it has none.
    index: Option<u64>,
    /// The log's clock, in milliseconds since 1970; null while this node has no state.
    time_ms: Option<u64>,
    /// How old this node's state can be, in milliseconds; null if that is unknown.
    staleness_ms: Option<u64>,
    /// The leader, as this node knows it.
    leadership: Leadership,
    /// Who holds the leader's duties, according to the log.
    grant: Option<GrantView>,
    /// What is registered; null while this node has no state that it may serve.
    totals: Option<Totals>,
    /// State of expiry.
    expiry: ExpiryView,
    /// Conditions that an operator should know about.
    warnings: Vec<String>,
    /// Why this node does not belong to the cluster any more; null if it belongs. A node that does not belong serves no
    /// registrations.
    excluded: Option<String>,
    /// The nodes that share the store, in redis and shared-file mode; null in other modes, or if the store gave no
    /// answer.
    nodes: Option<Vec<StoreNode>>,
    /// The log and its members; null if the backend has none.
    raft: Option<ClusterStatus>,
}

/// Shows the cluster as this node sees it.
#[utoipa::path(
    get, path = "/api/v1/cluster/status", tag = "cluster", operation_id = "clusterStatus",
    params(Freshness), responses((status = 200, body = ClusterView)),
)]
pub(super) async fn status(
    State(app): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Response {
    let (state, has_state) = (fresh.state(), fresh.has_state());
    // This is read from the store, because the published value may be from before a pause of this process.
    let leadership = app.store().leadership_now();
    let (raft, nodes, suspended) = tokio::join!(
        members::status(&**app.store()),
        state_version::store_nodes(&**app.store()),
        app.registry().is_expiry_suspended(),
    );
    let view = ClusterView {
        node: app.settings().instance_id.clone(),
        backend: app.store().kind(),
        version: env!("CARGO_PKG_VERSION"),
        state_version: StateVersions {
            current: has_state.then(|| state.version()),
            understood: STATE_VERSION,
        },
        uptime_ms: app.clock().monotonic_ms(),
        index: has_state.then(|| state.index()),
        time_ms: has_state.then(|| state.time_ms()),
        staleness_ms: fresh.staleness_ms(&app),
        warnings: warnings(&app, &leadership, raft.as_ref(), &nodes, suspended),
        excluded: app.store().exclusion(),
        leadership,
        grant: state.grant().map(|grant| GrantView {
            holder: grant.holder.as_str().into(),
            fence: grant.fence.0,
            since_ms: grant.since_ms,
        }),
        totals: (has_state && app.store().exclusion().is_none()).then(|| Totals::of(state)),
        expiry: ExpiryView { suspended, expired_total: app.registry().expiry().expired_total() },
        nodes: nodes.ok().flatten(),
        raft,
    };
    fresh.json(view)
}

/// A warning if the time of the log is ahead. The time of the log never decreases. After a clock that was ahead, it
/// stays ahead until the other clocks reach it.
fn time_ahead(log_ms: u64, clock_ms: u64) -> Option<String> {
    let ahead_ms = log_ms.saturating_sub(clock_ms);
    (ahead_ms > TIME_AHEAD_WARNING_MS).then(|| {
        format!(
            "the time of the log is {} s ahead of this node's clock: new records carry it until the clock reaches it",
            ahead_ms / 1_000
        )
    })
}

fn warnings(
    app: &AppState,
    leadership: &Leadership,
    raft: Option<&ClusterStatus>,
    nodes: &Result<Option<Vec<StoreNode>>, ()>,
    is_suspended: Option<bool>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(text.to_owned());
    let snapshot = app.view().snapshot();
    if let Some(reason) = app.store().exclusion() {
        warn(&reason);
        // This node's knowledge of the cluster is outdated, so no further warnings are derived from it.
        return warnings;
    }
    let refuses_writes = app.store().refuses_writes();
    if let Some(why) = &refuses_writes {
        warn(why);
    }
    if let Some(why) = app.registry().refuses_changes() {
        warn(&why);
    }
    let silence_ms = app.store().service_silence_ms();
    let silent = silence_ms.map(|silence_ms| no_answer_for(app.store().kind(), silence_ms));
    if let Some(silent) = &silent {
        warn(silent);
    }
    if leadership.leader.is_none() {
        let lookups = if snapshot.has_state() { "; look-ups continue" } else { "" };
        let missing = without_leader(app.store().kind(), refuses_writes.or(silent));
        warn(&format!("no leader is known: {missing}{lookups}"));
    }
    match app.store().staleness_ms() {
        Some(staleness_ms) if staleness_ms <= STALE_WARNING_MS => {}
        Some(staleness_ms) => {
            let age_s = staleness_ms / 1_000;
            warn(&format!(
                "this node's state may be {age_s} s old: it lacks what has been written since, if anything has"
            ));
        }
        None if !snapshot.has_state() => warn(NO_STATE),
        None => warn(
            "the age of this node's state is not known: it has not been confirmed since this node started",
        ),
    }
    if let Some(ahead) = time_ahead(snapshot.state.time_ms(), app.clock().wall_ms()) {
        warn(&ahead);
    }
    if is_suspended == Some(true) {
        warn("expiry is suspended: too many instances stopped sending heartbeats at the same time");
    }
    if app.settings().registration_access == AccessMode::Open {
        warn("registration is open: anyone who reaches this port can register instances");
    }
    let version = snapshot.state.version();
    if snapshot.has_state() && version < STATE_VERSION {
        warn(&format!(
            "an upgrade is not finished: the state has version {version}, this node understands {STATE_VERSION}"
        ));
    }
    if nodes.is_err() {
        warn("the list of nodes cannot be read from the store now");
    }
    if let Some(raft) = raft {
        if raft.disk_stalled {
            warn("this node's disk is stalled");
        }
        if raft.is_changing() {
            warn(
                "a change of the voters is not finished: writes need a majority of the old and of the new voters",
            );
        }
        let knows_voters = raft.members.iter().any(|member| member.voter);
        if knows_voters && raft.lacks_majority() {
            warn(&format!(
                "no majority: writes need {}, {} reachable",
                maxine_wording::count(raft.majority, "voter"),
                raft.reachable_voters.unwrap_or_default()
            ));
        } else if raft.members.len() > 1 && raft.failures_tolerated == Some(0) {
            warn("one more lost voter stops writes");
        }
    }
    warnings.extend(certificate_warnings(app.telemetry().alerts().newest_first()));
    warnings
}

/// The active alerts about certificates of this node.
fn certificate_warnings(alerts: Vec<Alert>) -> Vec<String> {
    let is_active = |alert: &Alert| {
        alert.kind == AlertKind::CertificateEnds && alert.state == AlertState::Active
    };
    let active = alerts.into_iter().filter(is_active);
    active.map(|alert| format!("{}: {}", alert.object, alert.message)).collect()
}

/// Hashes the state. The digest is equal on every node at the same index.
#[utoipa::path(
    get, path = "/api/v1/cluster/digest", tag = "cluster", operation_id = "clusterDigest",
    params(Freshness), responses((status = 200, body = DigestView)),
)]
pub(super) async fn digest(
    State(app): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    if !fresh.has_state() {
        let why = app.with_reason(NO_STATE.to_owned());
        return Err(Problem::new(ProblemKind::Unavailable, why).with_retry_after_s(1));
    }
    let state = fresh.state().clone();
    let StateDigest { index, digest } =
        tokio::task::spawn_blocking(move || state.digest()).await.map_err(|_| Stopping)?;
    Ok(fresh.json(DigestView { index, digest }))
}

/// A hash of the state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DigestView {
    /// The index at which the state was hashed.
    index: u64,
    /// SHA-256 of the state's canonical encoding, in hexadecimal.
    digest: String,
}

/// A node that joins.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberBody {
    /// Number of the new member, which no member has ever had before.
    id: u64,
    /// Name of the new member.
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// Address at which the other nodes reach the new member, `host:port`.
    #[schema(min_length = 1, max_length = 255)]
    peer_addr: String,
    /// URL at which clients reach the new member.
    #[schema(min_length = 1, max_length = 2048)]
    http_addr: String,
}

/// The member that was changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemberChanged {
    /// Number of the member.
    id: u64,
}

/// Whether the checks before a change of the voters are skipped.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Checks {
    /// Skips the checks of which voters are reachable and have caught up. The risk: if the voters after the change have
    /// no reachable majority, writes stop until enough of them are back, and the change cannot be undone before.
    force: bool,
}

/// The membership operations of the backend. An error if it has no members.
pub(super) fn admin(app: &AppState) -> Result<Arc<dyn ClusterAdmin>, Problem> {
    app.store().cluster().ok_or_else(|| {
        let detail = format!("the backend {} has no members", app.store().kind());
        Problem::new(ProblemKind::NotSupported, detail)
    })
}

/// Waits for a change of membership, for a limited time. After that, the outcome is unknown.
pub(super) async fn in_time<T>(
    work: impl Future<Output = Result<T, AdminError>>,
) -> Result<T, Problem> {
    let limit = Duration::from_millis(ADMIN_TIMEOUT_MS);
    match tokio::time::timeout(limit, work).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            let detail = "there was no answer in time: the change may still take effect";
            let mut problem = Problem::new(ProblemKind::OutcomeUnknown, detail);
            problem.action = "Look at GET /api/v1/cluster/status before repeating it.";
            Err(problem.with_retry_after_s(5))
        }
    }
}

/// Waits for a leader, as long as the client waits for its answer. If there is none, the change is refused before it
/// was sent, and the refusal is recorded.
pub(super) async fn led(
    app: &AppState,
    write: &Write,
    action: AuditAction,
    object: &str,
) -> Result<(), Problem> {
    let Some(answer_by_ms) = write.answer_by_ms else { return Ok(()) };
    let left_ms = answer_by_ms.saturating_sub(app.clock().monotonic_ms());
    let mut leadership = app.store().leadership();
    let led = leadership.wait_for(|now| now.leader.is_some());
    match tokio::time::timeout(Duration::from_millis(left_ms), led).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            let text = "no leader was found within the time allowed";
            let problem = AdminError::Unavailable(text.into()).into();
            record_refused(app, write, action, object, &problem);
            Err(problem)
        }
    }
}

/// Adds a learner, which receives the log but has no vote. Give it a vote once it has caught up.
#[utoipa::path(
    post, path = "/api/v1/cluster/members", tag = "cluster", operation_id = "addMember",
    request_body = MemberBody, responses((status = 200, body = MemberChanged)),
)]
pub(super) async fn add_member(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<MemberBody>,
) -> Result<Json<MemberChanged>, Problem> {
    let name = Name::parse("name", &body.name)?;
    check_peer_addr(&body.peer_addr)?;
    maxine_state::Address::parse(&body.http_addr)
        .map_err(|error| maxine_state::LimitExceeded { field: "http_addr".into(), ..error })?;
    let (admin, id) = (admin(&app)?, body.id);
    app.registry().check_change(&write.actor)?;
    led(&app, &write, AuditAction::MemberAdd, &id.to_string()).await?;
    let audit = app.audit().clone();
    let join = async move {
        let name = name.as_str().into();
        let joined = in_time(admin.add_learner(id, name, body.peer_addr, body.http_addr)).await;
        record(&app, write, AuditAction::MemberAdd, id.to_string(), joined.as_ref().err()).await;
        joined
    };
    audit.run_recorded(join).await.map(|()| Json(MemberChanged { id }))
}

/// Refuses a value that cannot be the address of a peer: `host:port`, with an IPv6 address in brackets.
fn check_peer_addr(addr: &str) -> Result<(), Problem> {
    check_text("peer_addr", addr, 3, 255)?;
    let valid = addr.rsplit_once(':').is_some_and(|(host, port)| {
        let is_ipv6 = host.starts_with('[') && host.ends_with(']');
        let is_name = !host.is_empty() && !host.contains([':', '/', '[', ']', '@', ' ']);
        (is_ipv6 || is_name) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let refused = || Problem::limit("peer_addr", "host:port, an IPv6 address in brackets", addr);
    valid.then_some(()).ok_or_else(refused)
}

/// Refuses to give a vote, forced or not, to a node that would stop at an entry of the log that it cannot understand.
fn check_understands(member: &MemberView, state_version: u32) -> Result<(), Problem> {
    match member.state_version {
        Some(understands) if understands < state_version => {
            let detail = format!(
                "{} understands only state version {understands}, and the cluster has version {state_version}: upgrade \
                 it first",
                member.name
            );
            Err(Problem::new(ProblemKind::Conflict, detail))
        }
        _ => Ok(()),
    }
}

/// Gives a learner a vote. The leader asks the learner first: it must answer and have nearly all of the log, and a
/// majority of the voters after the change must be reachable. It must also understand the version of the state. Otherwise
/// the answer is 409 and nothing was changed.
#[utoipa::path(
    post, path = "/api/v1/cluster/members/{id}/promote", tag = "cluster",
    operation_id = "promoteMember",
    params(("id" = u64, Path,), Checks), responses((status = 200, body = MemberChanged)),
)]
pub(super) async fn promote_member(
    State(app): State<AppState>,
    NumberPath(id): NumberPath,
    Params(Checks { force }): Params<Checks>,
    write: Write,
) -> Result<Json<MemberChanged>, Problem> {
    let admin = admin(&app)?;
    app.registry().check_change(&write.actor)?;
    let mut object = if force { format!("{id}, forced") } else { id.to_string() };
    led(&app, &write, AuditAction::MemberPromote, &object).await?;
    let status = members::status(&**app.store()).await;
    let member = status.iter().flat_map(|status| &status.members).find(|member| member.id == id);
    if let Some(member) = member {
        let understands = check_understands(member, app.view().snapshot().state.version());
        if let Err(problem) = &understands {
            record_refused(&app, &write, AuditAction::MemberPromote, &object, problem);
        }
        understands?;
        if member.voter {
            object.push_str(", which had a vote already");
        }
    }
    let audit = app.audit().clone();
    let promote = async move {
        let promoted = in_time(admin.promote(id, force)).await;
        record(&app, write, AuditAction::MemberPromote, object, promoted.as_ref().err()).await;
        promoted
    };
    audit.run_recorded(promote).await.map(|()| Json(MemberChanged { id }))
}

/// Removes a member for good; its number must never be used again. If no majority of the other voters is reachable,
/// the answer is 409 and nothing was changed.
#[utoipa::path(
    delete, path = "/api/v1/cluster/members/{id}", tag = "cluster", operation_id = "removeMember",
    params(("id" = u64, Path,), Checks), responses((status = 200, body = MemberChanged)),
)]
pub(super) async fn remove_member(
    State(app): State<AppState>,
    NumberPath(id): NumberPath,
    Params(Checks { force }): Params<Checks>,
    write: Write,
) -> Result<Json<MemberChanged>, Problem> {
    let admin = admin(&app)?;
    app.registry().check_change(&write.actor)?;
    let object = if force { format!("{id}, forced") } else { id.to_string() };
    led(&app, &write, AuditAction::MemberRemove, &object).await?;
    let audit = app.audit().clone();
    let remove = async move {
        // A node that removes itself cannot write afterwards. So the request is recorded before, and a failure after it.
        if admin.status().node_id == id {
            let actor = write.actor.clone();
            let requested = format!("{object}, requested");
            record(&app, write, AuditAction::MemberRemove, requested, None).await;
            let removed = in_time(admin.remove(id, force)).await;
            if let Err(problem) = &removed {
                let object = recorded_object(object, Some(problem));
                let action = AuditAction::MemberRemove;
                let outcome = Recorded::of(Some(problem));
                let at_ms = app.clock().wall_ms();
                app.audit().record_for_sure(actor, action, &object, outcome, at_ms, None);
            }
            return removed;
        }
        let was_member = admin.status().members.iter().any(|member| member.id == id);
        let removed = in_time(admin.remove(id, force)).await;
        // If the member had been removed before, that removal was already recorded.
        if removed.is_err() || was_member {
            record(&app, write, AuditAction::MemberRemove, object, removed.as_ref().err()).await;
        }
        removed
    };
    audit.run_recorded(remove).await.map(|()| Json(MemberChanged { id }))
}

/// Which voter becomes the next leader.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TransferBody {
    /// Number of the voter; by default, the voter that has most of the log.
    to: Option<u64>,
}

/// The leader after a transfer, as this node knows it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Transferred {
    /// Name of the leader, if one is known yet.
    leader: Option<String>,
}

/// Moves leadership to another voter.
#[utoipa::path(
    post, path = "/api/v1/cluster/transfer", tag = "cluster", operation_id = "transferLeadership",
    request_body = Option<TransferBody>, responses((status = 200, body = Transferred)),
)]
pub(super) async fn transfer(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    OptionalJsonBody(body): OptionalJsonBody<TransferBody>,
) -> Result<Json<Transferred>, Problem> {
    let admin = admin(&app)?;
    app.registry().check_change(&write.actor)?;
    let object = body.to.map_or_else(|| "any voter".to_owned(), |to| format!("node {to}"));
    led(&app, &write, AuditAction::LeadershipTransfer, &object).await?;
    let audit = app.audit().clone();
    audit.run_recorded(hand_over(app, admin, write, body.to)).await.map(Json)
}

async fn hand_over(
    app: AppState,
    admin: Arc<dyn ClusterAdmin>,
    write: Write,
    to: Option<u64>,
) -> Result<Transferred, Problem> {
    let before = app.store().leadership_now().leader;
    let leads_already =
        to.is_some() && admin.status().members.iter().any(|m| Some(m.id) == to && m.leader);
    let handed_over = in_time(admin.transfer_leadership(to)).await;
    let asked = to.map(|to| {
        let members = admin.status().members;
        let member = members.into_iter().find(|member| member.id == to);
        member.map_or_else(|| format!("node {to}"), |member| member.name)
    });
    let leader = match (&handed_over, asked) {
        (Err(_), asked) => asked,
        (Ok(()), Some(asked)) => Some(asked),
        (Ok(()), None) => next_leader(&app, before).await,
    };
    let mut object = leader.clone().unwrap_or_else(|| "any voter".into());
    // The history of leaders takes a record that names exactly the new leader for the cause of its grant.
    if leads_already {
        object.push_str(", which led already");
    }
    record(&app, write, AuditAction::LeadershipTransfer, object, handed_over.as_ref().err()).await;
    handed_over.map(|()| Transferred { leader })
}

/// The leader that comes after `before`, as soon as this node knows it.
async fn next_leader(app: &AppState, before: Option<String>) -> Option<String> {
    let mut leadership = app.store().leadership();
    let another = leadership.wait_for(|now| now.leader.is_some() && now.leader != before);
    let found = tokio::time::timeout(Duration::from_millis(NEXT_LEADER_TIMEOUT_MS), another).await;
    found.ok()?.ok()?.leader.clone()
}

/// Writes a snapshot on this node now, so that its log can be purged.
#[utoipa::path(
    post, path = "/api/v1/cluster/snapshot", tag = "cluster", operation_id = "takeSnapshot",
    responses((status = 204)),
)]
pub(super) async fn snapshot(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
) -> Result<StatusCode, Problem> {
    let admin = admin(&app).map_err(|problem| no_snapshot(problem, app.store().kind()))?;
    let audit = app.audit().clone();
    let take = async move {
        let taken = in_time(admin.snapshot()).await;
        let node = app.settings().instance_id.clone();
        record(&app, write, AuditAction::ClusterSnapshot, node, taken.as_ref().err()).await;
        taken
    };
    audit.run_recorded(take).await.map(|()| StatusCode::NO_CONTENT)
}

/// Members and snapshots are different things, so a backend without members has its own text.
fn no_snapshot(problem: Problem, kind: StoreKind) -> Problem {
    let detail = format!(
        "in {kind} mode a snapshot cannot be requested: Maxine shortens the log by itself when it has grown"
    );
    let action = "There is nothing to do.";
    Problem { detail: detail.into(), action, ..problem }
}

/// Sends a confirmation to the leader, and records it in the audit log. `needless` is the error text if there is
/// nothing to confirm.
pub(super) async fn confirm(
    app: AppState,
    write: Write,
    what: Confirmation,
    action: AuditAction,
    object: &'static str,
    needless: &'static str,
) -> Result<StatusCode, Problem> {
    app.registry().check_change(&write.actor)?;
    let audit = app.audit().clone();
    let confirm = async move {
        let confirmed = match app.registry().confirm(what).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Problem::new(ProblemKind::Conflict, needless)),
            Err(error) => Err(not_confirmed(error, app.store().leadership_now().leader.is_some())),
        };
        record(&app, write, action, object.into(), confirmed.as_ref().err()).await;
        confirmed
    };
    audit.run_recorded(confirm).await.map(|()| StatusCode::NO_CONTENT)
}

/// Why a confirmation has not reached the leader, if this node knows one.
fn not_confirmed(error: CallError, has_leader: bool) -> Problem {
    let outcome = error.outcome();
    let mut problem = Problem::from(error);
    problem.detail = match outcome {
        WriteOutcome::NotDone if !has_leader => {
            "there is no leader that could take the confirmation".into()
        }
        WriteOutcome::NotDone => {
            format!("the leader did not take the confirmation: {}", problem.detail).into()
        }
        WriteOutcome::Unknown => {
            let detail = problem.detail;
            format!("whether the leader took the confirmation is unknown: {detail}").into()
        }
    };
    problem.action = "Repeat the request after a moment. A repeat does no harm.";
    problem
}

/// Confirms that the instances that are silent now are gone, so that a suspended expiry continues. 409 if expiry is not
/// suspended. Any node passes the request to the leader.
#[utoipa::path(
    post, path = "/api/v1/cluster/expiry/confirm", tag = "cluster", operation_id = "confirmSilence",
    responses((status = 204)),
)]
pub(super) async fn confirm_silence(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
) -> Result<StatusCode, Problem> {
    let needless = "nothing is suspended, so there is no silence to confirm";
    confirm(app, write, Confirmation::Silence, AuditAction::ExpiryConfirm, "fleet", needless).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_warns_if_the_time_of_the_log_is_far_ahead() {
        let clock_ms = 1_795_440_992_705;
        let ahead = time_ahead(clock_ms + 3_542_400_000, clock_ms).unwrap();
        assert!(
            ahead.starts_with("the time of the log is 3542400 s ahead of this node's clock"),
            "{ahead}"
        );
        // The clocks of the nodes differ a little, and the time of a log without writes is behind.
        for log_ms in [0, clock_ms - 1_000, clock_ms + 1_000] {
            assert_eq!(time_ahead(log_ms, clock_ms), None);
        }
    }

    /// Regression: the status did not show that a certificate of the node had expired.
    #[test]
    fn the_status_warns_of_a_certificate_while_its_alert_is_active() {
        let alert = |kind: AlertKind, state| Alert {
            id: 1,
            node: "node-1".into(),
            time_ms: 1,
            state,
            resolved_ms: None,
            severity: kind.severity(),
            stage: 0,
            kind,
            object: "cert.pem".into(),
            message: "the certificate expired".into(),
            details: serde_json::Map::new(),
            runbook: kind.runbook(),
            acknowledged_by: None,
            silenced: false,
        };
        let alerts = vec![
            alert(AlertKind::CertificateEnds, AlertState::Resolved),
            alert(AlertKind::NoLeader, AlertState::Active),
            alert(AlertKind::CertificateEnds, AlertState::Active),
        ];
        assert_eq!(certificate_warnings(alerts), ["cert.pem: the certificate expired"]);
    }

    #[test]
    fn a_confirmation_without_a_leader_says_that_there_is_none() {
        let without = not_confirmed(CallError::Unreachable, false);
        assert_eq!(&*without.detail, "there is no leader that could take the confirmation");
        let refused = not_confirmed(CallError::Refused("this node does not lead".into()), true);
        assert!(refused.detail.starts_with("the leader did not take"), "{}", refused.detail);
        let unknown = not_confirmed(CallError::NoAnswer("the time is over".into()), false);
        assert!(unknown.detail.starts_with("whether the leader took"), "{}", unknown.detail);
    }

    #[test]
    fn a_snapshot_without_members_is_refused_in_words_about_snapshots() {
        let without = Problem::new(ProblemKind::NotSupported, "the backend redis has no members");
        let problem = no_snapshot(without, StoreKind::Redis);
        assert_eq!(problem.status(), 501);
        assert!(problem.detail.starts_with("in redis mode a snapshot"), "{}", problem.detail);
        assert!(!problem.action.contains("Raft"), "{}", problem.action);
    }

    #[test]
    fn the_record_of_a_failure_says_what_failed_and_whether_the_outcome_is_known() {
        let object = |failed: Option<&Problem>| recorded_object("fleet".into(), failed);
        assert_eq!(object(None), "fleet");
        let refused = Problem::new(ProblemKind::Conflict, "nothing is suspended");
        assert_eq!(object(Some(&refused)), "fleet, not done: nothing is suspended");
        let without = not_confirmed(CallError::Unreachable, false);
        assert_eq!(
            object(Some(&without)),
            "fleet, not done: there is no leader that could take the confirmation"
        );
        let unknown = object(Some(&not_confirmed(CallError::NoAnswer("late".into()), true)));
        assert!(
            unknown.starts_with("fleet, outcome unknown: whether the leader took"),
            "{unknown}"
        );
        let long = Problem::new(ProblemKind::Conflict, "x".repeat(2_000));
        assert!(object(Some(&long)).len() <= 512);
    }

    #[test]
    fn a_peer_address_is_a_host_and_a_port() {
        for good in ["10.0.0.7:7400", "node-4.example:1", "[2001:db8::1]:7400"] {
            assert!(check_peer_addr(good).is_ok(), "{good}");
        }
        for bad in
            ["127.0.0.1", "node-4:", ":7400", "a:0", "2001:db8::1:7400", "http://a:1", "a:99999"]
        {
            assert!(check_peer_addr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_learner_of_an_older_version_gets_no_vote_once_the_state_is_newer() {
        let learner = |state_version| MemberView {
            id: 4,
            name: "node-4".into(),
            peer_addr: String::new(),
            http_addr: String::new(),
            voter: false,
            leader: false,
            reachable: Some(true),
            acknowledges: None,
            matched_index: None,
            last_contact_ms: None,
            state_version,
        };
        let refused = check_understands(&learner(Some(1)), 2).unwrap_err();
        let expected = "node-4 understands only state version 1, and the cluster has version 2: upgrade it first";
        assert_eq!((&*refused.detail, refused.status().as_u16()), (expected, 409));
        assert!(check_understands(&learner(Some(1)), 1).is_ok());
        assert!(check_understands(&learner(Some(2)), 1).is_ok());
        // The leader asks an unknown node for its version before it gives the node a vote.
        assert!(check_understands(&learner(None), 2).is_ok());
    }
}
