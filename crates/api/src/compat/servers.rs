//! `GET /api/maxine/serviceops/servers`: the whole registry, with the virtual nodes of each instance.

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde_json::{Map, Value, json};

use super::json::answer;
use super::{NAMESPACE, registration};
use crate::AppState;
use crate::lists::Listing;
use maxine_state::ServiceState;
use maxine_view::is_listed;

pub(super) async fn servers(State(state): State<AppState>, listing: Listing) -> Response<Body> {
    let snapshot = state.view().snapshot();
    let mut services = Map::new();
    for (key, service) in snapshot.state.services() {
        if key.namespace.as_str() != NAMESPACE {
            continue;
        }
        let nodes = virtual_nodes(service);
        if nodes.is_empty() {
            continue;
        }
        let offset = state.view().with_table(key.as_ref(), |table| table.lookups()).unwrap_or(0);
        let entry = json!({ "offset": offset, "nodes": nodes });
        services.insert(key.service.as_str().into(), entry);
    }
    listing.answer(answer(&Value::Object(services)))
}

fn virtual_nodes(service: &ServiceState) -> Map<String, Value> {
    let mut nodes = Map::new();
    for instance in service.instances.values().filter(|instance| is_listed(instance)) {
        let own = &instance.registration;
        for share in 0..own.weight {
            let name = format!("{}-{share}", own.id);
            let node = json!({
                "nodeName": name,
                "parentNode": own.id,
                "address": own.address,
                "timeOut": registration::time_out_s(own),
                "registeredAt": instance.registered_at_ms,
                "healthCheckPath": registration::health_check_path(own),
            });
            nodes.insert(name, node);
        }
    }
    nodes
}
