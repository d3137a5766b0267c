//! Finds instances in all services, for an operator who has an address or an id and not the name of the service.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::Params;
use super::fresh::{Fresh, Freshness};
use super::page::{self, Page};
use super::shape::{Detail, InstanceView};
use crate::lists::Listing;
use crate::problem::Problem;
use crate::{AppState, CalledBy};
use maxine_state::limits::{NAME_LEN_MAX, check_text};
use maxine_state::{ControlState, Instance};

/// Number of instances by default.
const LIMIT: u64 = 20;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Search {
    /// Text that the id, the address, the version, the zone, the node or a tag contains. Upper and lower case do not
    /// matter.
    #[param(min_length = 1, max_length = 255)]
    q: String,
    /// Maximum number of instances; 20 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
}

/// Finds instances in all services. The answer has no further pages: narrow the search instead. It ends early after 4 MiB of
/// registrations.
#[utoipa::path(
    get, path = "/api/v1/instances", tag = "instances", operation_id = "searchInstances",
    params(Search, Freshness), responses((status = 200, body = Page<InstanceView>)),
)]
pub(super) async fn search_instances(
    State(state): State<AppState>,
    fresh: Fresh,
    Params(query): Params<Search>,
    CalledBy(caller): CalledBy,
    listing: Listing,
) -> Result<Response, Problem> {
    check_text("q", &query.q, 1, NAME_LEN_MAX)?;
    let limit = page::limit(Some(query.limit.unwrap_or(LIMIT)))?;
    let detail = (Detail::of(&caller), state.clock().wall_ms());
    let found = find(fresh.state(), &query.q.to_lowercase(), limit, detail);
    match found.iter().any(InstanceView::may_have_secrets) {
        true => Ok(listing.answer(fresh.json(Page::whole(found)))),
        false => Ok(listing.json_without_secrets(&Page::whole(found))),
    }
}

fn find(
    state: &ControlState,
    wanted: &str,
    limit: usize,
    detail: (Detail, u64),
) -> Vec<InstanceView> {
    let found = state.services().iter().flat_map(|(key, service)| {
        let instances = service.instances.values().filter(|instance| matches(instance, wanted));
        instances.map(move |instance| (key, service, instance))
    });
    let mut len = 0;
    found
        .take(limit)
        .take_while(move |(_, _, instance)| {
            let has_room = len <= page::LEN_MAX;
            len += instance.stored_len();
            has_room
        })
        .map(|(key, service, instance)| {
            let routable = service.in_traffic().has(instance);
            InstanceView::new(key, service, routable, instance, detail)
        })
        .collect()
}

fn matches(instance: &Instance, wanted: &str) -> bool {
    let registration = &instance.registration;
    let has = |text: &str| text.to_lowercase().contains(wanted);
    has(registration.id.as_str())
        || has(registration.address.as_str())
        || [&registration.zone, &registration.version, &registration.node]
            .into_iter()
            .flatten()
            .any(|name| has(name.as_str()))
        || registration.tags.iter().any(|tag| has(tag))
}
