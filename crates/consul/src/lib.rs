//! The Consul face: registration, discovery, keys and locks through Consul's HTTP API.
//!
//! Place in the flow: the program passes requests below `/v1/` here, after the edge has identified the caller and decided
//! access. Reads are answered from the [`maxine_view`], and writes go through the [`maxine_actors::Registry`].
//!
//! **Invariant:** a face translates and decides nothing. Which caller may register what is decided by the [`Guard`], the
//! same for every API. What Maxine cannot do is refused with a clear answer, never ignored.

mod answer;
mod body;
mod built;
mod check_body;
mod filter;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod kv;
mod metrics;
mod model;
mod options;
mod parts;
mod read;
pub mod reaper;
mod request;
mod routes;
mod service_body;
mod sessions;
mod shape;
mod tables;
mod text;
mod txn;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Uri};

pub use metrics::ConsulMetrics;
pub use parts::ConsulParts;
pub use request::{Asked, Guard, NAMESPACE, PARTITION};
pub use routes::Right;
pub use shape::Names;

use answer::{Answer, Refusal};
use parts::Inner;
use routes::{Action, Found, find, methods_of};
use text::{Query, has_whole_escapes, is_utf8};
use write::Reported;

use maxine_state::limits::{KV_TRANSACTION_LEN_MAX, KV_VALUE_LEN_MAX};

/// The header that carries the token of a client of Consul.
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const DEFAULT_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");

/// The face. Clones are cheap.
#[derive(Clone)]
pub struct Consul(Arc<Inner>);

impl Consul {
    /// A face of this node.
    #[must_use]
    pub fn new(parts: ConsulParts) -> Self {
        Self(Arc::new(Inner::new(parts)))
    }

    /// Follows the changes of the registry, until it is dropped or the node stops. Lists are empty before this runs.
    pub async fn follow(self) {
        tokio::join!(self.0.tables.follow(&self.0.view), self.0.follow_keys());
    }

    /// Whether a path on a port with other APIs belongs to this face.
    #[must_use]
    pub fn takes(path: &str) -> bool {
        path == "/v1" || path.starts_with("/v1/")
    }

    /// What the caller of a route must be allowed to do.
    #[must_use]
    pub fn right(method: &Method, path: &str) -> Right {
        match find(method, path) {
            Found::Route(route, _) => route.right,
            Found::OtherMethod(_) | Found::Unknown => Right::Open,
        }
    }

    /// The maximum length of the body of a request, in bytes; `None` for the limit of other bodies.
    #[must_use]
    pub fn body_len_max(method: &Method, path: &str) -> Option<usize> {
        match find(method, path) {
            Found::Route(route, _) => match route.action {
                Action::KvPut => Some(KV_VALUE_LEN_MAX),
                // The values are in base64.
                Action::Txn => Some(2 * KV_TRANSACTION_LEN_MAX),
                _ => None,
            },
            Found::OtherMethod(_) | Found::Unknown => None,
        }
    }

    /// The token of a request: the first of `?token=`, `X-Consul-Token` and `Authorization: Bearer`.
    #[must_use]
    pub fn token(uri: &Uri, headers: &HeaderMap) -> Option<String> {
        let in_query = || {
            let query = Query::parse(uri.query()?)?;
            query.get("token").map(str::to_owned)
        };
        let in_header = || {
            let text = headers.get(TOKEN)?.to_str().ok()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let bearer = || {
            let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
            let (scheme, token) = text.trim().split_once(' ')?;
            let token = token.trim();
            let is_token = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
            is_token.then(|| token.to_owned())
        };
        in_query().or_else(in_header).or_else(bearer)
    }

    /// An answer that refuses a request.
    #[must_use]
    pub fn refusal(&self, status: StatusCode, text: String) -> Response<Bytes> {
        self.0.metrics.answered(status);
        answer::text(status, text)
    }

    /// Answers a request. Dropping the future aborts it.
    pub async fn answer(&self, asked: &Asked) -> Response<Bytes> {
        let answered = self.dispatch(asked).await;
        let mut answer = answered.unwrap_or_else(Answer::from);
        // A caller without a token is not known to be allowed anything.
        answer.headers_mut().insert(DEFAULT_POLICY, HeaderValue::from_static("deny"));
        self.0.metrics.answered(answer.status());
        answer
    }

    async fn dispatch(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (route, name) = match find(&asked.method, asked.uri.path()) {
            Found::Route(route, name) => (route, name),
            Found::OtherMethod(route) => return Ok(other_method(&asked.method, route.path)),
            Found::Unknown => return Err(Refusal::not_found("Invalid URL path: not found")),
        };
        // Names that differ only in such bytes would count as one.
        if !is_utf8(asked.uri.path()) {
            return Err(Refusal::bad("Invalid URL path: it is not UTF-8"));
        }
        if !has_whole_escapes(asked.uri.path()) {
            return Err(Refusal::bad("Invalid URL path: a % begins no escape of two digits"));
        }
        let (face, name) = (&self.0, name.as_ref());
        // The futures are boxed, because one blocked reader must not take the memory of the largest handler.
        match route.action {
            Action::CatalogServices => Box::pin(face.catalog_services(asked)).await,
            Action::CatalogService => Box::pin(face.catalog_service(asked, name)).await,
            Action::CatalogNodes => Box::pin(face.catalog_nodes(asked)).await,
            Action::CatalogNode => Box::pin(face.catalog_node(asked, name, false)).await,
            Action::CatalogNodeServices => Box::pin(face.catalog_node(asked, name, true)).await,
            Action::CatalogDatacenters => face.datacenters(asked),
            // No service has proxies of a mesh.
            Action::CatalogConnect => Box::pin(face.no_mesh(asked)).await,
            Action::HealthService => Box::pin(face.health_service(asked, name)).await,
            Action::HealthChecks => Box::pin(face.health_checks(asked, name)).await,
            Action::HealthNode => Box::pin(face.health_node(asked, name)).await,
            Action::HealthState => Box::pin(face.health_state(asked, name)).await,
            Action::StatusLeader => face.status(asked, false),
            Action::StatusPeers => face.status(asked, true),
            Action::AgentSelf => face.agent_self(asked),
            Action::AgentMembers => face.agent_members(asked),
            Action::AgentServices => Box::pin(face.agent_services(asked)).await,
            Action::AgentService => Box::pin(face.agent_service(asked, name)).await,
            Action::AgentChecks => Box::pin(face.agent_checks(asked)).await,
            Action::AgentHealthById => Box::pin(face.agent_health(asked, name, true)).await,
            Action::AgentHealthByName => Box::pin(face.agent_health(asked, name, false)).await,
            Action::ServiceRegister => Box::pin(face.register_service(asked)).await,
            Action::ServiceDeregister => Box::pin(face.deregister_service(asked, name)).await,
            Action::ServiceMaintenance => Box::pin(face.maintain_service(asked, name)).await,
            Action::CheckRegister => Box::pin(face.register_check(asked)).await,
            Action::CheckDeregister => Box::pin(face.deregister_check(asked, name)).await,
            Action::CheckPass => Box::pin(face.report_check(asked, name, Reported::Passing)).await,
            Action::CheckWarn => Box::pin(face.report_check(asked, name, Reported::Warning)).await,
            Action::CheckFail => Box::pin(face.report_check(asked, name, Reported::Critical)).await,
            Action::CheckUpdate => Box::pin(face.report_check(asked, name, Reported::InBody)).await,
            Action::CatalogRegister => Box::pin(face.catalog_register(asked)).await,
            Action::CatalogDeregister => Box::pin(face.catalog_deregister(asked)).await,
            Action::KvGet => Box::pin(face.kv_get(asked, name)).await,
            Action::KvPut => Box::pin(face.kv_put(asked, name)).await,
            Action::KvDelete => Box::pin(face.kv_delete(asked, name)).await,
            Action::SessionCreate => Box::pin(face.session_create(asked)).await,
            Action::SessionDestroy => Box::pin(face.session_destroy(asked, name)).await,
            Action::SessionRenew => Box::pin(face.session_renew(asked, name)).await,
            Action::SessionInfo => Box::pin(face.session_info(asked, name)).await,
            Action::SessionList => Box::pin(face.session_list(asked, None)).await,
            Action::SessionNode => Box::pin(face.session_list(asked, Some(name))).await,
            Action::Txn => Box::pin(face.txn(asked)).await,
        }
    }
}

/// The answer to `OPTIONS`, and to a method that the route does not have.
fn other_method(method: &Method, path: &str) -> Answer {
    let is_question = *method == Method::OPTIONS;
    let mut answer = match is_question {
        true => answer::done(),
        false => {
            answer::text(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))
        }
    };
    if let Ok(allowed) = HeaderValue::try_from(format!("OPTIONS,{}", methods_of(path))) {
        answer.headers_mut().insert(header::ALLOW, allowed);
    }
    answer
}
