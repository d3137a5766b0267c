//! The files of the dashboard, which are built into the binary, and the answer to unknown paths.

use std::borrow::Cow;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use rust_embed::RustEmbed;

use super::codings::accepts;
use super::compat_error::{CompatError, edge_error, is_native};
use super::routes::Routes;
use super::send_monitor::SharedBytes;
use super::{AppState, hosts, origins};

/// The dashboard's files, which `make ui` builds. They may be missing.
#[derive(RustEmbed)]
#[folder = "../../ui/dist"]
#[allow_missing = true]
struct Files;

const INDEX: &str = "index.html";
/// The content security policy of the dashboard's pages. They may load their own files, and call the API of this node.
/// [`with_security`] adds the other members, so that an open page can continue when its node is unreachable.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      font-src 'self'; object-src 'none'; frame-ancestors 'none'; \
                      base-uri 'none'; form-action 'self'; connect-src 'self'";
/// The content security policy of the API's interactive page, which has inline styles and images.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; \
                           style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           font-src 'self'; object-src 'none'; frame-ancestors 'none'; \
                           base-uri 'none'; form-action 'self'; connect-src 'self'";
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
    <title>Maxine</title></head><body><h1>Maxine is running</h1>\
    <p>This binary was built without the dashboard. Build it with <code>npm ci &amp;&amp; npm run \
    build</code> in <code>ui/</code>, then build the server again.</p>\
    <p>The API is at <a href=\"/api/v1/openapi.json\">/api/v1</a>.</p></body></html>";

/// Adds the dashboard's routes.
pub(super) fn add_routes(routes: Routes) -> Routes {
    routes.add(&["GET"], "/", get(index)).add(&["GET"], "/ui/{*path}", get(page)).add(
        &["GET"],
        "/assets/{*path}",
        get(asset),
    )
}

async fn index(State(state): State<AppState>, request: Request) -> Response<Body> {
    hosts::refusal(&state, &request).unwrap_or_else(|| first_page(&state, request.headers()))
}

fn first_page(state: &AppState, headers: &HeaderMap) -> Response<Body> {
    match Files::get(INDEX) {
        Some(file) => respond(state, INDEX, file, headers),
        None => {
            with_security(state, Response::new(Body::from(NOT_BUILT)), "text/html; charset=utf-8")
        }
    }
}

/// A page of the dashboard. The page's script decides what to show.
async fn page(State(state): State<AppState>, request: Request) -> Response<Body> {
    hosts::refusal(&state, &request)
        .or_else(|| embedded(&state, request.uri().path(), request.headers()))
        .unwrap_or_else(|| first_page(&state, request.headers()))
}

async fn asset(State(state): State<AppState>, request: Request) -> Response<Body> {
    let refusal = hosts::refusal(&state, &request);
    let embedded = || embedded(&state, request.uri().path(), request.headers());
    let found = refusal.or_else(embedded);
    found.unwrap_or_else(|| CompatError::not_found().into_response())
}

/// Answers every path without a route: a file of the dashboard, or 404.
pub(super) async fn fallback(State(state): State<AppState>, request: Request) -> Response<Body> {
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if let Some(response) = embedded(&state, path, request.headers()).filter(|_| reads) {
        return hosts::refusal(&state, &request).unwrap_or(response);
    }
    if is_native(path) {
        let text = "there is nothing at this path; /api/v1/openapi.json lists every route";
        return edge_error(path, CompatError::new(StatusCode::NOT_FOUND, text));
    }
    CompatError::not_found().into_response()
}

fn embedded(state: &AppState, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let name = path.trim_start_matches('/');
    // A release looks files up by name, and never in the file system. A debug build reads them from the disk.
    let is_variant = CODINGS.iter().any(|coding| name.ends_with(coding.suffix));
    if name.is_empty() || name.contains("..") || name.contains('%') || is_variant {
        return None;
    }
    Files::get(name).map(|file| respond(state, name, file, headers))
}

/// A compressed form of the files.
struct Coding {
    name: &'static str,
    /// What the build adds to the name of the file.
    suffix: &'static str,
}

/// The compressed forms that the build makes, the smallest first.
const CODINGS: [Coding; 2] =
    [Coding { name: "br", suffix: ".br" }, Coding { name: "gzip", suffix: ".gz" }];

fn respond(
    state: &AppState,
    name: &str,
    plain: rust_embed::EmbeddedFile,
    request: &HeaderMap,
) -> Response<Body> {
    let kind = plain.metadata.mimetype();
    let kind =
        if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind.into() };
    // Files that are compressed already, such as fonts, have no further forms.
    let accepted =
        CODINGS.iter().filter(|coding| accepts(request, coding.name)).find_map(|coding| {
            Files::get(&format!("{name}{}", coding.suffix)).map(|file| (Some(coding.name), file))
        });
    let (coding, file) = accepted.unwrap_or((None, plain));
    // A release has the files in its binary, and all answers share those bytes.
    let body = match &file.data {
        Cow::Borrowed(bytes) => Body::from(Bytes::from_static(bytes)),
        Cow::Owned(bytes) => Body::from(bytes.clone()),
    };
    let mut response = with_security(state, Response::new(body), &kind);
    if matches!(file.data, Cow::Borrowed(_)) {
        response.extensions_mut().insert(SharedBytes);
    }
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    let hash = file.metadata.sha256_hash();
    let tag: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{tag}\"")) {
        headers.insert(header::ETAG, tag);
    }
    // The names of assets change with their content, but pages must be requested again.
    let caching = match name.starts_with("assets/") {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}

/// Adds the content security policy. Only documents that a browser opens as a page need the list of members, so scripts
/// and fonts do not get it.
fn with_security(state: &AppState, mut response: Response<Body>, kind: &str) -> Response<Body> {
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::try_from(kind) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    let members = match kind.starts_with("text/html") {
        true => origins::of_members(state.store().as_ref()),
        false => Vec::new(),
    };
    let policy = members.iter().fold(String::from(POLICY), |policy, origin| policy + " " + origin);
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static(POLICY));
    put_security_headers(headers, policy);
    response
}

/// Adds the security headers of the API's interactive page.
pub(super) async fn secured(mut response: Response<Body>) -> Response<Body> {
    put_security_headers(response.headers_mut(), HeaderValue::from_static(DOCS_POLICY));
    response
}

fn put_security_headers(headers: &mut HeaderMap, policy: HeaderValue) {
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}
