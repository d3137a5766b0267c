//! Instances: lists, registration, heartbeats, removal, and drains.

use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{InstancePath, JsonBody, NoParams, OptionalJsonBody, Params, ServicePath};
use super::fresh::{AnswerBy, Answered, Fresh, Freshness, Write, unexpected};
use super::known_checks::KnownChecks;
use super::page::{self, Page};
use super::shape::{Detail, InstanceView, RegistrationBody};
use crate::lists::{LONG_OBJECT_LEN_MIN, Listing};
use crate::observations;
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, CalledBy, RequestContext, reserved};
use maxine_actors::registry::Renewal;
use maxine_state::limits::{NAME_LEN_MAX, TEXT_LEN_MAX, check_text};
use maxine_state::{
    Command, Deregistration, Expiry, InTraffic, Instance, Liveness, Name, Reply, ServiceState,
};

/// State of an instance, for filtering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum InstanceFilter {
    /// It gets traffic.
    Routable,
    /// It is alive, but not ready.
    Unhealthy,
    /// It is evicted by its health checks, which continue.
    Evicted,
    /// It is drained by an operator.
    Draining,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListInstances {
    /// Only instances whose id or address contains this text, in any case.
    #[param(max_length = 255)]
    q: Option<String>,
    /// Only instances in this state.
    #[param(inline)]
    health: Option<InstanceFilter>,
    /// Only instances in this zone.
    zone: Option<String>,
    /// Only instances with this tag.
    tag: Option<String>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

impl ListInstances {
    fn matches(
        &self,
        service: &ServiceState,
        in_traffic: &InTraffic<'_>,
        instance: &Instance,
        wanted: Option<&str>,
    ) -> bool {
        let registration = &instance.registration;
        let contains = |text: &str, wanted: &str| text.to_lowercase().contains(wanted);
        let found = wanted.is_none_or(|wanted| {
            contains(registration.id.as_str(), wanted)
                || contains(registration.address.as_str(), wanted)
        });
        let evicted = instance.health().liveness == Liveness::Evicted;
        let does = self.health.is_none_or(|filter| match filter {
            InstanceFilter::Routable => in_traffic.has(instance),
            InstanceFilter::Unhealthy => !evicted && !instance.is_healthy(),
            InstanceFilter::Evicted => evicted,
            InstanceFilter::Draining => service.drains.contains_key(&registration.id),
        });
        let zone = self.zone.as_deref();
        let tag = self.tag.as_deref();
        found
            && does
            && zone
                .is_none_or(|zone| registration.zone.as_ref().is_some_and(|z| z.as_str() == zone))
            && tag.is_none_or(|tag| registration.tags.iter().any(|t| **t == *tag))
    }
}

/// Lists a service's instances, including those that are evicted or drained.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}/instances", tag = "instances",
    operation_id = "listInstances",
    params(("namespace" = String, Path,), ("service" = String, Path,), ListInstances, Freshness),
    responses((status = 200, body = Page<InstanceView>)),
)]
pub(super) async fn list_instances(
    State(state): State<AppState>,
    fresh: Fresh,
    ServicePath(key): ServicePath,
    Params(query): Params<ListInstances>,
    CalledBy(caller): CalledBy,
    listing: Listing,
) -> Result<Response, Problem> {
    let detail = Detail::of(&caller);
    let limit = page::limit(query.limit)?;
    let wanted =
        query.q.as_ref().map(|q| check_text("q", q, 0, NAME_LEN_MAX).map(|()| q.to_lowercase()));
    let wanted = wanted.transpose()?;
    let start = match query.cursor.as_deref() {
        Some(cursor) => {
            let [id] = page::cursor_parts::<1>(cursor)?;
            Bound::Excluded(Name::trusted(&id))
        }
        None => Bound::Unbounded,
    };
    let service = fresh.service(&key)?;
    let in_traffic = service.in_traffic();
    let instances = service
        .instances
        .range((start, Bound::Unbounded))
        .filter(|(_, instance)| query.matches(service, &in_traffic, instance, wanted.as_deref()));
    let cursor = |(id, _): &(&Name, &Arc<Instance>)| page::cursor_of(&[id.as_str()]);
    let now_ms = state.clock().wall_ms();
    let show = |(_, instance): (&Name, &Arc<Instance>)| {
        InstanceView::new(&key, service, in_traffic.has(instance), instance, (detail, now_ms))
    };
    let len = |(_, instance): &(&Name, &Arc<Instance>)| instance.stored_len();
    let page = Page::take_bounded(instances, limit, len, cursor, show);
    match page.items.iter().any(InstanceView::may_have_secrets) {
        true => Ok(listing.answer(fresh.json(page))),
        false => Ok(listing.json_without_secrets(&page)),
    }
}

/// Shows an instance.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}/instances/{id}", tag = "instances",
    operation_id = "getInstance",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,), Freshness),
    responses((status = 200, body = InstanceView)),
)]
pub(super) async fn get_instance(
    State(state): State<AppState>,
    mut fresh: Fresh,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
) -> Result<Response, Problem> {
    let is_long = |fresh: &Fresh| {
        fresh.state().instance(&key).is_some_and(|one| one.stored_len() >= LONG_OBJECT_LEN_MIN)
    };
    let mut listing = None;
    if is_long(&fresh) {
        listing = Some(state.lists().begin(context.client.ip, &caller).await?);
        fresh.renew(&state);
    }
    let service = fresh.service(&key.service)?;
    let instance = service.instances.get(&key.instance);
    let instance = instance.ok_or_else(|| Problem::not_found("instance", &key.to_string()))?;
    let routable = service.in_traffic().has(instance);
    let detail = Detail::of(&caller);
    let policy = service.policy.as_ref().map(|record| &record.policy);
    let is_probed = state.health().effective_probe(instance, policy).is_some();
    let observations = observations::own(&state, &key, instance.address_index);
    let known = KnownChecks::of(instance, is_probed, detail, &observations);
    let detail = (detail, state.clock().wall_ms());
    let view = InstanceView::new(&key.service, service, routable, instance, detail);
    let response = fresh.json(view.with_checks(known.into_views()));
    Ok(match listing {
        Some(listing) => listing.answer(response),
        None => response,
    })
}

/// A registration that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Registered {
    /// The index at which this node's state has the registration.
    index: u64,
    /// Number of the registration, which a heartbeat or a removal may contain.
    lease_epoch: u64,
}

/// Registers an instance, or renews an equal registration.
///
/// A registration that equals the present one is a heartbeat. Repeat it, or send heartbeats, within `ttl_ms`. A
/// permanent instance needs neither.
#[utoipa::path(
    put, path = "/api/v1/services/{namespace}/{service}/instances/{id}", tag = "instances",
    operation_id = "registerInstance",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,)),
    request_body = RegistrationBody,
    responses((status = 200, body = Registered)),
)]
pub(super) async fn register_instance(
    State(state): State<AppState>,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
    write: Write,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    JsonBody(body): JsonBody<RegistrationBody>,
) -> Result<Json<Registered>, Problem> {
    super::check_probe(&caller, body.probe.as_ref())?;
    let config = state.view().snapshot().state.config().clone();
    let registration = body.into_registration(key.instance.clone(), &config.config)?;
    let registration = reserved::keep(&state.view().snapshot().state, &key.service, registration)?;
    super::check_target(&state, &registration)?;
    state.count_registrant(&caller, &context.client, &key)?;
    let items = vec![(key.service, registration)];
    let request_id = write.request_id();
    let Write { actor, answer_by_ms, answered, .. } = write;
    let (index, results) =
        state.registry().register(actor, request_id, answer_by_ms, items).await?;
    answered.at(index);
    match results.into_iter().next() {
        Some(Ok(lease_epoch)) => Ok(Json(Registered { index, lease_epoch })),
        Some(Err(rejection)) => Err(rejection.into()),
        None => Err(unexpected(&Reply::Registered(Vec::new()))),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveInstance {
    /// Only remove this registration; a newer one of the instance stays.
    lease_epoch: Option<u64>,
}

/// Outcome of a removal.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Removed {
    /// The index of the state right after the removal.
    index: u64,
    /// Whether there was a registration to remove.
    removed: bool,
}

/// Deregisters an instance. If an operator drained it, the drain stays.
#[utoipa::path(
    delete, path = "/api/v1/services/{namespace}/{service}/instances/{id}", tag = "instances",
    operation_id = "deregisterInstance",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,), RemoveInstance),
    responses((status = 200, body = Removed)),
)]
pub(super) async fn deregister_instance(
    State(state): State<AppState>,
    InstancePath(key): InstancePath,
    Params(query): Params<RemoveInstance>,
    write: Write,
) -> Result<Json<Removed>, Problem> {
    let item = Deregistration { key, lease_epoch: query.lease_epoch, forget_drain: false };
    let applied = write.propose(&state, Command::Deregister { items: vec![item] }).await?;
    let Reply::Changed(changed) = &applied.reply else { return Err(unexpected(&applied.reply)) };
    let removed = changed.first().copied().unwrap_or(false);
    Ok(Json(Removed { index: applied.index, removed }))
}

/// Which registration a heartbeat belongs to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HeartbeatBody {
    /// Only renew this registration; 404 if the instance has a newer one.
    lease_epoch: Option<u64>,
}

/// Renews an instance's lease. 404 means that it is not registered: register it again. 409 means that it is permanent
/// and has no lease.
#[utoipa::path(
    post, path = "/api/v1/services/{namespace}/{service}/instances/{id}/heartbeat",
    tag = "instances", operation_id = "heartbeat",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,)),
    request_body = Option<HeartbeatBody>,
    responses((status = 204)),
)]
pub(super) async fn heartbeat(
    State(state): State<AppState>,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
    AnswerBy(answer_by_ms): AnswerBy,
    answered: Answered,
    OptionalJsonBody(body): OptionalJsonBody<HeartbeatBody>,
) -> Result<StatusCode, Problem> {
    let name = key.to_string();
    let renewal = Renewal { key: key.clone(), lease_epoch: body.lease_epoch };
    let (index, known) = state.registry().heartbeat(vec![renewal], answer_by_ms).await?;
    answered.at(index);
    if known.first() == Some(&true) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let snapshot = state.view().snapshot();
    if snapshot.state.instance(&key).is_some_and(|i| i.registration.expiry == Expiry::Never) {
        let detail = format!("{name} is permanent and has no lease");
        let mut problem = Problem::new(ProblemKind::Conflict, detail);
        problem.action = "Send no heartbeats for it: it stays until it is deregistered.";
        return Err(problem);
    }
    let mut problem = match body.lease_epoch {
        Some(epoch) => {
            let detail = format!("{name} has no registration with the lease_epoch {epoch}");
            Problem::new(ProblemKind::NotFound, detail)
        }
        None => Problem::not_found("registration", &name),
    };
    problem.action = "Register the instance again.";
    Err(problem)
}

/// Why an instance is drained.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DrainBody {
    /// The reason, as the operator wrote it.
    #[schema(max_length = 1024)]
    reason: String,
}

/// Answer to a change that may have been made before.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Changed {
    /// The index of the state right after the change.
    pub(super) index: u64,
    /// Whether the request changed anything.
    pub(super) changed: bool,
}

/// Drains an instance: it gets no new traffic until an operator returns it, whatever it reports.
#[utoipa::path(
    put, path = "/api/v1/services/{namespace}/{service}/instances/{id}/drain", tag = "instances",
    operation_id = "drainInstance",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,)),
    request_body = Option<DrainBody>,
    responses((status = 200, body = Changed)),
)]
pub(super) async fn drain_instance(
    State(state): State<AppState>,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
    write: Write,
    OptionalJsonBody(body): OptionalJsonBody<DrainBody>,
) -> Result<Json<Changed>, Problem> {
    check_text("reason", &body.reason, 0, TEXT_LEN_MAX)?;
    let command = Command::SetDrain { key, reason: Some(body.reason.into()) };
    set_drain(&state, write, command).await
}

/// Ends the drain of an instance.
#[utoipa::path(
    delete, path = "/api/v1/services/{namespace}/{service}/instances/{id}/drain",
    tag = "instances", operation_id = "undrainInstance",
    params(("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,)),
    responses((status = 200, body = Changed)),
)]
pub(super) async fn undrain_instance(
    State(state): State<AppState>,
    InstancePath(key): InstancePath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<Changed>, Problem> {
    set_drain(&state, write, Command::SetDrain { key, reason: None }).await
}

async fn set_drain(
    state: &AppState,
    write: Write,
    command: Command,
) -> Result<Json<Changed>, Problem> {
    let applied = write.propose(state, command).await?;
    let Reply::Changed(changed) = &applied.reply else { return Err(unexpected(&applied.reply)) };
    let changed = changed.first().copied().unwrap_or(false);
    Ok(Json(Changed { index: applied.index, changed }))
}

/// The answer to a request for a service without a routable instance. It is not a defect of the node.
pub(super) fn none_routable(service: &str) -> Problem {
    let detail = format!("no instance of service {service} is routable now");
    let mut problem = Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1);
    problem.action = "Look at the instances of the service: all are unhealthy or drained, or the service has no instances.";
    problem
}
