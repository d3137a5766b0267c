//! Namespaces and services: lists, single services, and removal.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use xxhash_rust::xxh3::Xxh3Default;

use super::extract::{NoParams, Params, ServicePath};
use super::fresh::{Fresh, Freshness, Write};
use super::page::{self, Page};
use super::policies::shown_to;
use super::shape::{DrainView, ServiceHealth, ServiceSummary};
use crate::lists::Listing;
use crate::problem::Problem;
use crate::{AppState, CalledBy};
use maxine_state::limits::{BATCH_ITEMS_MAX, NAME_LEN_MAX, check_text};
use maxine_state::{
    Command, Deregistration, Drain, InstanceKey, Name, Reply, ServiceKey, ServicePolicy,
    ServiceState,
};

/// A namespace in a list.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct NamespaceSummary {
    /// Name of the namespace.
    name: String,
    /// Number of its services.
    services: usize,
    /// Number of the instances of these services.
    instances: usize,
    /// Number of these instances that get traffic.
    routable: usize,
}

/// Lists the namespaces that have services.
#[utoipa::path(
    get, path = "/api/v1/namespaces", tag = "services", operation_id = "listNamespaces",
    params(Freshness), responses((status = 200, body = Page<NamespaceSummary>)),
)]
pub(super) async fn list_namespaces(
    fresh: Fresh,
    _: Params<NoParams>,
    listing: Listing,
) -> Response {
    let mut namespaces: BTreeMap<&str, NamespaceSummary> = BTreeMap::new();
    for (key, service) in fresh.state().services() {
        let name = key.namespace.as_str();
        let entry = namespaces.entry(name).or_default();
        entry.services += 1;
        entry.instances += service.instances.len();
        let in_traffic = service.in_traffic();
        let routable = service.instances.values().filter(|instance| in_traffic.has(instance));
        entry.routable += routable.count();
    }
    let items = namespaces
        .into_iter()
        .map(|(name, summary)| NamespaceSummary { name: name.into(), ..summary });
    listing.answer(fresh.json(Page::whole(items.collect())))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListServices {
    /// Only this namespace.
    namespace: Option<String>,
    /// Only services whose name contains this text, in any case.
    #[param(max_length = 255)]
    q: Option<String>,
    /// Only services in this state.
    #[param(inline)]
    health: Option<ServiceHealth>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists services.
#[utoipa::path(
    get, path = "/api/v1/services", tag = "services", operation_id = "listServices",
    params(ListServices, Freshness), responses((status = 200, body = Page<ServiceSummary>)),
)]
pub(super) async fn list_services(
    fresh: Fresh,
    Params(query): Params<ListServices>,
    listing: Listing,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let namespace = query.namespace.as_deref().map(Name::parse_namespace).transpose()?;
    let wanted = query.q.map(|q| check_text("q", &q, 0, NAME_LEN_MAX).map(|()| q.to_lowercase()));
    let wanted = wanted.transpose()?;
    let after = match query.cursor.as_deref() {
        Some(cursor) => {
            let [namespace, service] = page::cursor_parts::<2>(cursor)?;
            Some(ServiceKey::new(Name::trusted(&namespace), Name::trusted(&service)))
        }
        None => None,
    };
    // The services of a namespace are adjacent, so the iteration starts at the first possible key of the namespace.
    let first = namespace.clone().map(|name| ServiceKey::new(name, Name::trusted("")));
    let start = match (after, first) {
        (Some(after), Some(first)) if first > after => Bound::Included(first),
        (Some(after), _) => Bound::Excluded(after),
        (None, Some(first)) => Bound::Included(first),
        (None, None) => Bound::Unbounded,
    };
    let state = fresh.state();
    let config = &state.config().config;
    let services = state
        .services()
        .range((start, Bound::Unbounded))
        .take_while(|(key, _)| namespace.as_ref().is_none_or(|name| key.namespace == *name))
        .filter(|(key, _)| {
            let name = key.service.as_str();
            wanted.as_ref().is_none_or(|wanted| name.to_lowercase().contains(wanted))
        })
        .map(|(key, service)| (key, ServiceSummary::new(key, service, config)))
        .filter(|(_, summary)| query.health.is_none_or(|health| summary.health == health));
    let cursor = |(key, _): &(&ServiceKey, ServiceSummary)| {
        page::cursor_of(&[key.namespace.as_str(), key.service.as_str()])
    };
    let page = Page::take(services, limit, cursor, |(_, summary)| summary);
    Ok(listing.json_without_secrets(&page))
}

/// A service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServiceView {
    #[serde(flatten)]
    summary: ServiceSummary,
    /// Policy of the service; null if none is set.
    policy: Option<ServicePolicy>,
    /// The drains of instances that are not registered, at most 100. An instance that registers under such a name is
    /// drained. The service exists as long as it has such a drain.
    kept_drains: Vec<KeptDrain>,
}

/// A drain of an instance that is not registered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeptDrain {
    /// The name of the instance.
    id: String,
    #[serde(flatten)]
    drain: DrainView,
}

/// Maximum number of such drains in an answer.
const KEPT_DRAINS_MAX: usize = 100;

fn kept_drains(service: &ServiceState) -> Vec<KeptDrain> {
    let kept = service.drains.iter().filter(|(id, _)| !service.instances.contains_key(*id));
    let view = |(id, drain): (&Name, &Arc<Drain>)| KeptDrain {
        id: id.as_str().into(),
        drain: DrainView::from(drain.as_ref()),
    };
    kept.take(KEPT_DRAINS_MAX).map(view).collect()
}

/// Shows a service.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}", tag = "services",
    operation_id = "getService",
    params(("namespace" = String, Path,), ("service" = String, Path,), Freshness),
    responses((status = 200, body = ServiceView)),
)]
pub(super) async fn get_service(
    fresh: Fresh,
    CalledBy(caller): CalledBy,
    ServicePath(key): ServicePath,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let service = fresh.service(&key)?;
    let config = &fresh.state().config().config;
    Ok(fresh.json(ServiceView {
        summary: ServiceSummary::new(&key, service, config),
        policy: service.policy.as_ref().map(|record| shown_to(&caller, &record.policy)),
        kept_drains: kept_drains(service),
    }))
}

/// Outcome of the removal of a service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServiceRemoved {
    /// The index of the state right after the removal.
    index: u64,
    /// Number of removed instances.
    removed: usize,
}

/// The step of a removal that removes the policy.
const POLICY_STEP: u128 = 1;

/// Removes a service: its instances, their drains, and its policy.
///
/// A large service is removed in several steps. An instance that registers meanwhile stays, so repeat the request until
/// it answers 404.
#[utoipa::path(
    delete, path = "/api/v1/services/{namespace}/{service}", tag = "services",
    operation_id = "deleteService",
    params(("namespace" = String, Path,), ("service" = String, Path,)),
    responses((status = 200, body = ServiceRemoved)),
)]
pub(super) async fn delete_service(
    State(state): State<AppState>,
    ServicePath(key): ServicePath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<ServiceRemoved>, Problem> {
    let snapshot = write.answered.by_present(&state);
    let found = snapshot.state.service(&key);
    let service = found.ok_or_else(|| Problem::not_found("service", &key.to_string()))?;
    let mut ids: Vec<&Name> = service.instances.keys().chain(service.drains.keys()).collect();
    ids.sort();
    ids.dedup();
    let mut outcome = ServiceRemoved { index: 0, removed: 0 };
    // Each step needs a request id of its own. Otherwise the second step would get the first step's answer. It is
    // derived from what the step removes: when a request is repeated after a failure, other instances are left.
    for chunk in ids.chunks(BATCH_ITEMS_MAX) {
        let item = |id: &&Name| Deregistration {
            key: InstanceKey { service: key.clone(), instance: Name::clone(id) },
            lease_epoch: None,
            forget_drain: true,
        };
        let command = Command::Deregister { items: chunk.iter().map(item).collect() };
        let mut removed = Xxh3Default::new();
        for id in chunk {
            removed.update(id.as_str().as_bytes());
            removed.update(&[0]);
        }
        let applied = write.step(removed.digest128()).propose(&state, command).await?;
        outcome.index = applied.index;
        if let Reply::Changed(changed) = applied.reply {
            outcome.removed += changed.into_iter().filter(|changed| *changed).count();
        }
    }
    if service.policy.is_some() {
        let command = Command::PutPolicy {
            key: key.clone(),
            policy: None,
            expected_revision: None,
            create: false,
        };
        outcome.index = write.step(POLICY_STEP).propose(&state, command).await?.index;
    }
    Ok(Json(outcome))
}
