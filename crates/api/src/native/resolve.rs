//! Resolution: chooses one instance of a service by the service's strategy. It only reads the view, and neither waits
//! nor takes a lock.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use maxine_balance::{Fields, HashInput, query_of};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Params, ServicePath, service_key};
use super::fresh::{Answered, Fresh, Freshness};
use super::instances::none_routable;
use crate::look_ups::LookUpRequest;
use crate::problem::Problem;
use crate::{AppState, RequestContext};
use maxine_discovery::{Outcome, Redirect};
use maxine_state::limits::{ADDRESS_LEN_MAX, check_text};
use maxine_state::{Given, Registration, SelectionStrategy, ServiceKey};
use maxine_telemetry::Subject;
use maxine_view::ServiceTable;

/// The part of the path before the namespace.
const PATH: &str = "/api/v1/resolve/";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Resolve {
    /// Only for strategies that hash: replaces the value that the policy hashes, such as the value of a header. If the
    /// policy hashes the client's address, this can be another client's address.
    #[param(max_length = 2048)]
    key: Option<String>,
    /// Path, with an optional query, to append to the instance's address. It begins with `/`.
    #[param(max_length = 2048)]
    path: Option<String>,
    /// With 1, the answer is a redirect to the instance.
    #[param(minimum = 0, maximum = 1)]
    redirect: Option<u8>,
}

/// A chosen instance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Resolution {
    /// The namespace.
    namespace: String,
    /// The service.
    service: String,
    /// The instance.
    id: String,
    /// Address of the instance.
    address: String,
    /// Address of the instance with `path` appended. A path with a space or a character outside ASCII must be
    /// percent-encoded.
    url: String,
    /// Weight of the instance.
    weight: u16,
    /// Zone of the instance.
    zone: Option<String>,
    /// Version of the instance.
    version: Option<String>,
    /// The strategy that chose the instance.
    strategy: SelectionStrategy,
    /// Number of instances from which it was chosen.
    candidates: usize,
}

/// Chooses an instance of a service.
#[utoipa::path(
    get, path = "/api/v1/resolve/{namespace}/{service}", tag = "discovery", operation_id = "resolve",
    params(("namespace" = String, Path,), ("service" = String, Path,), Resolve, Freshness),
    responses(
        (status = 200, body = Resolution),
        (status = 302, description = "With `redirect=1`: `Location` is the instance.",
         headers(("Location" = String, description = "The `url` of the instance."))),
    ),
)]
pub(super) async fn resolve(
    State(state): State<AppState>,
    fresh: Fresh,
    answered: Answered,
    ServicePath(key): ServicePath,
    Params(query): Params<Resolve>,
    context: RequestContext,
    (method, headers): (Method, HeaderMap),
) -> Response {
    let (answer, subject) = match query.check() {
        Err(problem) => (Err(problem), Subject::Lookup(state.view().counter(key.as_ref()))),
        Ok(()) => {
            let (index, table, outcome) = query.choose(&state, &key, context.client.ip, &headers);
            answered.at(index);
            if matches!(outcome, Outcome::NoInstance(_)) {
                state.telemetry().metrics().lookups_without_instance.inc();
            }
            let answer = answer(&fresh, &key, &query, &outcome, table.as_deref());
            let time_ms = state.clock().wall_ms();
            (answer, account(&state, &key, outcome, &method, &context, time_ms))
        }
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    response.extensions_mut().insert(subject);
    response
}

/// Counts and records the outcome. Returns the subject of the request, for telemetry.
fn account(
    state: &AppState,
    key: &ServiceKey,
    outcome: Outcome,
    method: &Method,
    context: &RequestContext,
    time_ms: u64,
) -> Subject {
    let (service, way) = (key.as_ref(), "resolve");
    LookUpRequest { service, way, mode: None, method, context, time_ms }.account(state, outcome)
}

fn answer(
    fresh: &Fresh,
    key: &ServiceKey,
    query: &Resolve,
    outcome: &Outcome,
    table: Option<&ServiceTable>,
) -> Result<Response, Problem> {
    let (choice, table) = match (outcome, table) {
        (Outcome::Found(choice), Some(table)) => (choice, table),
        (Outcome::NoInstance(_), _) => return Err(none_routable(&key.to_string())),
        _ => return Err(Problem::not_found("service", &key.to_string())),
    };
    let registration = &choice.instance.registration;
    let redirect = Redirect::new(registration.address.as_str(), query.path.as_deref());
    if query.redirect != Some(1) {
        return Ok(fresh.json(shown(key, table, registration, redirect.url())));
    }
    let mut response = StatusCode::FOUND.into_response();
    response.headers_mut().insert(header::LOCATION, redirect.location);
    Ok(response)
}

fn shown(
    key: &ServiceKey,
    table: &ServiceTable,
    registration: &Registration,
    url: &str,
) -> Resolution {
    Resolution {
        namespace: key.namespace.as_str().into(),
        service: key.service.as_str().into(),
        id: registration.id.as_str().into(),
        address: registration.address.as_str().into(),
        url: url.into(),
        weight: registration.weight,
        zone: registration.zone.as_ref().map(|zone| zone.as_str().into()),
        version: registration.version.as_ref().map(|version| version.as_str().into()),
        strategy: table.strategy(),
        candidates: table.endpoints().len(),
    }
}

/// A resolution that the fast path answers with a redirect, from this node's present state.
pub(crate) struct PlainResolve {
    key: ServiceKey,
    query: Resolve,
}

impl PlainResolve {
    /// The resolution of a `GET` with this path and query. `None` if it has escapes, asks for freshness, or is not
    /// valid.
    pub(crate) fn of(path: &str, raw_query: &str) -> Option<Self> {
        let (namespace, service) = path.strip_prefix(PATH)?.split_once('/')?;
        if path.contains('%') || service.contains('/') || raw_query.contains(['%', '+']) {
            return None;
        }
        let mut query = Resolve { key: None, path: None, redirect: None };
        for pair in raw_query.split('&') {
            let (name, value) = pair.split_once('=')?;
            let was_given = match name {
                "key" => query.key.replace(value.to_owned()).is_some(),
                "path" => query.path.replace(value.to_owned()).is_some(),
                "redirect" if value == "1" => query.redirect.replace(1).is_some(),
                _ => return None,
            };
            if was_given {
                return None;
            }
        }
        query.redirect?;
        query.check().ok()?;
        Some(Self { key: service_key(namespace, service).ok()?, query })
    }

    /// Chooses an instance. Returns the index at which the choice is true, and the choice. Nothing is counted or
    /// recorded before [`Self::account`].
    pub(crate) fn outcome(
        &self,
        state: &AppState,
        client: IpAddr,
        fields: &dyn Fields,
    ) -> (u64, Outcome) {
        let (index, _, outcome) = self.query.choose(state, &self.key, client, fields);
        (index, outcome)
    }

    /// The path to append to the instance's address.
    pub(crate) fn appended(&self) -> Option<&str> {
        self.query.path.as_deref()
    }

    /// Counts and records the outcome. Returns the subject of the request, for telemetry.
    pub(crate) fn account(
        &self,
        state: &AppState,
        outcome: Outcome,
        context: &RequestContext,
        time_ms: u64,
    ) -> Subject {
        account(state, &self.key, outcome, &Method::GET, context, time_ms)
    }
}

impl Resolve {
    /// Returns the index at which the choice is true, the service's table, and the choice.
    fn choose(
        &self,
        state: &AppState,
        key: &ServiceKey,
        client: IpAddr,
        fields: &dyn Fields,
    ) -> (u64, Option<Arc<ServiceTable>>, Outcome) {
        let (index, table) = state.view().table_at(key);
        let path = self.path.as_deref().unwrap_or_default();
        let queries = [query_of(path), ""];
        let input = HashInput { address: client, fields, queries, key: self.key.as_deref() };
        let choose = |table| maxine_discovery::choose(table, &input);
        let outcome = table.as_deref().map_or(Outcome::NoService, choose);
        (index, table, outcome)
    }

    /// Refuses parameters that are beyond their limits.
    fn check(&self) -> Result<(), Problem> {
        check_path(self.path.as_deref().unwrap_or_default())?;
        if let Some(key) = &self.key {
            check_text("key", key, 0, ADDRESS_LEN_MAX)?;
        }
        match self.redirect {
            Some(redirect) if redirect > 1 => Err(Problem::limit("redirect", "0 or 1", redirect)),
            _ => Ok(()),
        }
    }
}

/// Refuses a path that has characters which are not allowed in a URL, or that leads out of the instance's base path.
pub(super) fn check_path(path: &str) -> Result<(), Problem> {
    if path.is_empty() {
        return Ok(());
    }
    check_text("path", path, 1, ADDRESS_LEN_MAX)?;
    let bad = |limit: &str| Err(Problem::limit("path", limit, Given::from(path)));
    if !path.starts_with('/') || path.contains(['#', '\\', '"', '<', '>']) || !path.is_ascii() {
        return bad("a percent-encoded path that begins with /, without a fragment");
    }
    if path.parse::<Uri>().is_err() {
        return bad("a percent-encoded path that begins with /");
    }
    let only_path = path.split('?').next().unwrap_or_default().to_ascii_lowercase();
    let plain = only_path.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    if plain.split('/').any(|segment| segment == "..") {
        return bad("a path without .. in it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_accepted_path_makes_a_header_and_stays_below_the_base(path in "\\PC{0,40}|[/.%2eEfF\\\\?#a]{0,24}") {
            if check_path(&path).is_ok() {
                let redirect = Redirect::new("http://h:81/base", Some(&path));
                let uri: Uri = redirect.url().parse().unwrap();
                prop_assert_eq!(uri.host(), Some("h"));
                prop_assert!(uri.path().starts_with("/base"));
                prop_assert!(!uri.path().to_ascii_lowercase().replace("%2e", ".").contains("/../"));
            }
        }
    }

    #[test]
    fn injection_and_paths_with_dots_are_refused() {
        for bad in [
            "x",
            "/a\r\nSet-Cookie: x",
            "/../x",
            "/%2e%2E/x",
            "/a/..%2fx",
            "/\u{20ac}",
            "/a b",
            "/x#f",
            "/\\x",
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        for good in ["", "/", "/x?a=1&b=%20", "//x", "/a..b"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
    }
}
