//! The OpenAPI document. It is generated from the handlers. This module adds what all routes have in common, and serves
//! the document as JSON and as an interactive page.
//!
//! **Invariant:** its statements about access come from the access table, which decides access.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Redirect, Response as HttpResponse};
use axum::routing::get;
use parking_lot::Mutex;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Components, ContentBuilder, Header, Info, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
    Response, ResponseBuilder, Tag,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_swagger_ui::Config;

use super::access::{Access, AccessTable, Decision};
use super::caller::TIMEOUT_NAME;
use super::problem::{OTHER_HISTORY_ACTION, PROBLEM_JSON, Problem, ProblemKind};
use super::send_monitor::SharedBytes;
use super::{AppState, hosts};
use maxine_identity::SESSION_COOKIE;

/// The document without routes: its title and tags.
pub(super) fn skeleton() -> OpenApi {
    let mut info = Info::new("Maxine", env!("CARGO_PKG_VERSION"));
    let about = "A control plane for service-to-service traffic. Errors are problem+json \
                 (RFC 9457) with a stable `type`; lists page by cursor; writes take \
                 `Idempotency-Key`.";
    info.description = Some(about.into());
    let tag = |(name, about): (&str, &str)| {
        let mut tag = Tag::new(name);
        tag.description = Some(about.into());
        tag
    };
    let tags = [
        ("services", "Namespaces and services."),
        ("instances", "Registration, heartbeats, drains, health."),
        ("discovery", "From a name to an instance."),
        ("policies", "How a service's traffic is handled."),
        ("config", "Settings that change at run time."),
        ("watch", "Changes as they happen."),
        ("kv", "Keys, values and transactions."),
        ("locks", "Locks on keys, and the lock sessions that hold them."),
        ("cluster", "Nodes, leadership, backups."),
        ("audit", "Who did what, provably."),
        ("alerts", "What an operator should look at."),
        ("traces", "Recent requests of this node."),
        ("traffic", "How much was asked of this node, and of all nodes."),
        ("session", "Sign-in."),
        ("identities", "Users, API tokens, signing keys."),
    ];
    OpenApiBuilder::new().info(info).tags(Some(tags.map(tag))).build()
}

/// Adds what all routes have in common: errors, headers, conditions, access.
pub(super) fn complete(document: &mut OpenApi) {
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(Problem::name().into(), Problem::schema());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION_COOKIE)));
    components.add_security_scheme("cookie", cookie);
    for (_, name, about) in UNREAD_HEADS {
        components.responses.insert(name.into(), RefOr::T(unread_head_response(about)));
    }
    let table = AccessTable::default();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in [
            (Method::GET, &mut item.get),
            (Method::PUT, &mut item.put),
            (Method::POST, &mut item.post),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ] {
            if let Some(operation) = operation {
                complete_operation(&table, path, &method, operation);
            }
        }
    }
}

fn complete_operation(table: &AccessTable, path: &str, method: &Method, operation: &mut Operation) {
    let access = match table.of_route(method, path) {
        Decision::Route(rule) => rule.access,
        // The edge refuses a route that is not in the table, and a test fails for it.
        _ => Access::Admin,
    };
    operation.security = Some(security(access));
    for kind in problems(path, method, operation.request_body.is_some()) {
        let status = kind.status().as_u16().to_string();
        let response = problem_response(kind);
        operation.responses.responses.entry(status).or_insert_with(|| RefOr::T(response));
    }
    for (status, name, _) in UNREAD_HEADS {
        let response = RefOr::Ref(Ref::from_response_name(name));
        operation.responses.responses.entry(status.into()).or_insert(response);
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            put_headers(status, response);
        }
    }
    if matches!(path, "/api/v1/config" | "/api/v1/kv/{key}") || path.ends_with("/policy") {
        conditions(method, operation);
    }
    // A sign-in at a provider is proved by what can be used once.
    let is_sign_in = path == "/api/v1/session" || path.starts_with("/api/v1/session/providers/");
    if *method != Method::GET && !is_sign_in {
        let about = "1 to 255 visible characters: a repeat takes effect once.";
        add_header(operation, "Idempotency-Key", about);
        let about = "1 to 600000: how long the client waits. A change that has not begun by then is not made.";
        add_header(operation, TIMEOUT_NAME, about);
    }
}

fn security(access: Access) -> Vec<SecurityRequirement> {
    let none: [String; 0] = [];
    let known = || {
        [
            SecurityRequirement::new("bearer", none.clone()),
            SecurityRequirement::new("cookie", none.clone()),
        ]
    };
    match access {
        Access::Open => vec![SecurityRequirement::default()],
        // A setting of the node decides whether a token is required.
        Access::Registration | Access::Discovery => {
            let mut all = vec![SecurityRequirement::default()];
            all.extend(known());
            all
        }
        Access::Viewer | Access::Operator | Access::Admin => known().into(),
    }
}

/// The kinds of problem with which a route may answer.
fn problems(path: &str, method: &Method, has_body: bool) -> Vec<ProblemKind> {
    use ProblemKind as Kind;
    let mut kinds = vec![
        Kind::InvalidRequest,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::LimitExceeded,
        Kind::TooManyRequests,
        Kind::Unavailable,
    ];
    if *method != Method::GET {
        kinds.extend([Kind::Conflict, Kind::RevisionMismatch]);
    }
    if has_body {
        kinds.extend([Kind::RequestTimeout, Kind::PayloadTooLarge, Kind::UnsupportedMediaType]);
    }
    let waits = ["/api/v1/kv", "/api/v1/kv/{key}", "/api/v1/sessions", "/api/v1/locks/{key}"];
    if path == "/api/v1/changes" || *method == Method::GET && waits.contains(&path) {
        kinds.push(Kind::Compacted);
    }
    if path.starts_with("/api/v1/cluster/") {
        kinds.push(Kind::NotSupported);
    }
    kinds
}

fn problem_response(kind: ProblemKind) -> Response {
    let content = ContentBuilder::new()
        .schema(Some(RefOr::Ref(Ref::from_schema_name(Problem::name()))))
        .build();
    ResponseBuilder::new().description(kind.title()).content(PROBLEM_JSON, content).build()
}

/// The answers to a request whose head is too long: status, name, and what is too long. They are given before the path is
/// known, so they have the form of the compatible API.
const UNREAD_HEADS: [(&str, &str, &str); 2] = [
    ("414", "TargetTooLong", "The request's target is too long."),
    ("431", "HeadTooLong", "The request's head is too long, or has too many fields."),
];

fn unread_head_response(about: &str) -> Response {
    let text =
        ObjectBuilder::new().schema_type(Type::String).description(Some("What is too long."));
    let body = ObjectBuilder::new().property("message", text).required("message").build();
    let content = ContentBuilder::new().schema(Some(body)).build();
    ResponseBuilder::new().description(about).content("application/json", content).build()
}

fn put_headers(status: &str, response: &mut Response) {
    let mut put = |name: &str, kind: Type, about: &str| {
        let mut header = Header::new(ObjectBuilder::new().schema_type(kind).build());
        header.description = Some(about.into());
        response.headers.entry(name.into()).or_insert(header);
    };
    if matches!(status, "429" | "503") {
        put("Retry-After", Type::Integer, "When a retry makes sense, in seconds.");
    }
    if status.starts_with('2') {
        put("x-maxine-index", Type::Integer, "The index of the state that answered.");
        put("x-maxine-history", Type::String, "The history that the index counts in.");
        let about = "How old the state can be, in milliseconds: everything that was acknowledged \
                     longer ago is in it. Left out where that is not known.";
        put("x-maxine-staleness-ms", Type::Integer, about);
        let about = "`unknown` where the age of the state is not known; else left out.";
        put("x-maxine-staleness", Type::String, about);
        let about = "`known` where a majority has confirmed a leader lately, else `unknown`.";
        put("x-maxine-leader", Type::String, about);
    }
}

/// Describes the conditional reads and changes of policies, of the configuration and of keys.
fn conditions(method: &Method, operation: &mut Operation) {
    if *method == Method::GET {
        let unchanged = ResponseBuilder::new().description("`If-None-Match` has its revision.");
        let unchanged = RefOr::T(unchanged.build());
        operation.responses.responses.insert("304".into(), unchanged);
        return;
    }
    let about = "The revision that the change is based on: the quoted value of `ETag`.";
    add_header(operation, "If-Match", about);
}

fn add_header(operation: &mut Operation, name: &str, about: &str) {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let parameter: Parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(text))
        .build();
    operation.parameters.get_or_insert_with(Vec::new).push(parameter);
}

/// Routes for the document, its interactive page, and the pages about the types of problems. The interactive page acts
/// for the user who is signed in. So it is only served under this node's own names, like the dashboard.
pub(super) fn pages(document: OpenApi) -> Router<AppState> {
    let text = serde_json::to_vec(&document).expect("the document is plain data");
    let files =
        Arc::new(Files { document: text.into(), config: DOCUMENT.into(), page: Mutex::default() });
    let pages = Arc::clone(&files);
    let page = get(async move |State(state): State<AppState>, request: Request| {
        hosts::refusal(&state, &request).unwrap_or_else(|| page(&pages, request.uri().path()))
    });
    let moved = get(async |State(state): State<AppState>, request: Request| {
        let moved = || Redirect::to("/api/docs/").into_response();
        hosts::refusal(&state, &request).unwrap_or_else(moved)
    });
    let router = Router::new()
        .route(DOCUMENT, get(the_document).with_state(files))
        .route("/api/docs", moved)
        .route("/api/docs/", page.clone())
        .route("/api/docs/{*rest}", page)
        .route("/problems/{slug}", get(explain));
    router.layer(axum::middleware::map_response(super::ui::secured))
}

/// The path of the document.
const DOCUMENT: &str = "/api/v1/openapi.json";

/// The document and the files of the interactive page, shared by all requests.
struct Files {
    document: Bytes,
    config: Config<'static>,
    /// The files that were requested so far, by name, with their types.
    page: Mutex<HashMap<String, (Bytes, String)>>,
}

impl Files {
    /// A file of the interactive page; `None` if there is none with this name.
    fn page(&self, name: &str) -> Option<(Bytes, String)> {
        if let Some(kept) = self.page.lock().get(name) {
            return Some(kept.clone());
        }
        let found = utoipa_swagger_ui::serve(name, Arc::new(self.config.clone()));
        let file =
            found.inspect_err(|error| tracing::error!(%error, "a page could not be rendered"));
        let file = file.ok().flatten()?;
        let kept = (Bytes::from(file.bytes.into_owned()), file.content_type);
        self.page.lock().insert(name.to_owned(), kept.clone());
        Some(kept)
    }
}

async fn the_document(State(files): State<Arc<Files>>) -> HttpResponse {
    shared(files.document.clone(), "application/json")
}

fn page(files: &Files, path: &str) -> HttpResponse {
    match files.page(path.trim_start_matches("/api/docs/")) {
        Some((bytes, kind)) => shared(bytes, &kind),
        None => axum::http::StatusCode::NOT_FOUND.into_response(),
    }
}

fn shared(bytes: Bytes, kind: &str) -> HttpResponse {
    let mut response = HttpResponse::new(Body::from(bytes));
    response.extensions_mut().insert(SharedBytes);
    if let Ok(kind) = HeaderValue::from_str(kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

/// The paths that [`pages`] serves.
pub(super) const PAGES: [&str; 4] =
    ["/api/v1/openapi.json", "/api/docs", "/api/docs/{*rest}", "/problems/{slug}"];

/// Explains a type of problem.
async fn explain(Path(slug): Path<String>) -> HttpResponse {
    let Some(kind) = ProblemKind::from_slug(&slug) else {
        return Problem::new(ProblemKind::NotFound, "there is no problem of this type")
            .into_response();
    };
    let mut text = format!(
        "{}\n\nStatus: {}\nMeaning: {}\nWhat to do: {}\n",
        kind.type_uri(),
        kind.status().as_u16(),
        kind.title(),
        kind.action(),
    );
    if kind == ProblemKind::Compacted {
        text += &format!("After a read with min_index: {OTHER_HISTORY_ACTION}\n");
    }
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    ([(header::CONTENT_TYPE, plain)], text).into_response()
}
