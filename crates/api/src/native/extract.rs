//! Reads requests: paths, queries, bodies, and the headers of writes. Each has limits.
//!
//! Every failure is a [`Problem`] that names what is wrong. Values are never converted; only the compatible
//! API does that.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::AppState;
use crate::body::{self, BodyError};
use crate::problem::{Problem, ProblemKind};
use maxine_state::{Actor, InstanceKey, Name, RequestId, ServiceKey};

/// Maximum length of a JSON body on most routes, in bytes.
pub(crate) const BODY_LEN_MAX: usize = 1024 * 1024;
/// Maximum length of a JSON body on the batch routes, in bytes.
pub(crate) const BATCH_BODY_LEN_MAX: usize = 4 * 1024 * 1024;
/// Maximum length of an idempotency key, in bytes.
const IDEMPOTENCY_KEY_LEN_MAX: usize = 255;

/// Query parameters of every `GET`. [`super::fresh::Fresh`] reads them.
pub(super) const FRESHNESS_PARAMETERS: [&str; 2] = ["consistency", "min_index"];

/// Query parameters. An unknown or repeated parameter is refused, and the error names it.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let takes_freshness = matches!(parts.method, Method::GET | Method::HEAD);
        let own = parts.uri.query().unwrap_or_default().split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            let shared = takes_freshness && FRESHNESS_PARAMETERS.contains(&name);
            !pair.is_empty() && !shared
        });
        parse_query(&own.collect::<Vec<_>>().join("&")).map(Self)
    }
}

/// Reads a query string.
pub(super) fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let uri: Uri = format!("/?{query}").parse().map_err(|_| {
        Problem::new(ProblemKind::InvalidRequest, "the query string is not valid in a URL")
    })?;
    Query::<T>::try_from_uri(&uri).map(|Query(value)| value).map_err(|rejection| {
        let text = rejection.body_text();
        let message = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        Problem::from_parse_error(message)
    })
}

/// A query without parameters.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

/// A service, named by the path.
pub(super) struct ServicePath(pub(super) ServiceKey);

/// An instance, named by the path.
pub(super) struct InstancePath(pub(super) InstanceKey);

/// A check of an instance, named by the path.
pub(super) struct CheckPath(pub(super) InstanceKey, pub(super) Name);

/// A name in the path.
pub(super) struct NamePath(pub(super) Name);

/// A text in the path, which the handler checks.
pub(super) struct TextPath(pub(super) String);

/// A number in the path.
pub(super) struct NumberPath(pub(super) u64);

pub(super) fn path_problem(rejection: PathRejection) -> Problem {
    let text = rejection.body_text();
    let detail = if text.contains("Cannot parse") {
        String::from("the number in the path must be a whole number of 0 or more")
    } else {
        String::from("the path is not valid in a URL: its parts must be UTF-8, percent-encoded")
    };
    Problem::new(ProblemKind::InvalidRequest, detail)
}

/// Checks the names of a service.
pub(super) fn service_key(namespace: &str, service: &str) -> Result<ServiceKey, Problem> {
    let namespace = Name::parse_namespace(namespace)?;
    Ok(ServiceKey::new(namespace, Name::parse("service", service)?))
}

impl FromRequestParts<AppState> for ServicePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let Path((namespace, service)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(path_problem)?;
        service_key(&namespace, &service).map(Self)
    }
}

impl FromRequestParts<AppState> for InstancePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let Path((namespace, service, id)) =
            Path::<(String, String, String)>::from_request_parts(parts, state)
                .await
                .map_err(path_problem)?;
        Ok(Self(service_key(&namespace, &service)?.instance(Name::parse("id", &id)?)))
    }
}

impl FromRequestParts<AppState> for CheckPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let path = Path::<(String, String, String, String)>::from_request_parts(parts, state);
        let Path((namespace, service, id, check)) = path.await.map_err(path_problem)?;
        let key = service_key(&namespace, &service)?.instance(Name::parse("id", &id)?);
        Ok(Self(key, Name::parse("check", &check)?))
    }
}

impl FromRequestParts<AppState> for NamePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let Path(name) =
            Path::<String>::from_request_parts(parts, state).await.map_err(path_problem)?;
        Ok(Self(Name::parse("name", &name)?))
    }
}

impl FromRequestParts<AppState> for TextPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(path_problem)?;
        Ok(Self(text))
    }
}

impl FromRequestParts<AppState> for NumberPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let Path(number) =
            Path::<u64>::from_request_parts(parts, state).await.map_err(path_problem)?;
        Ok(Self(number))
    }
}

/// A JSON body of at most `LEN_MAX` bytes.
pub(super) struct JsonBody<T, const LEN_MAX: usize = BODY_LEN_MAX>(pub(super) T);

impl<T: DeserializeOwned, const LEN_MAX: usize> FromRequest<AppState> for JsonBody<T, LEN_MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        require_json(request.headers())?;
        parse_json(&read_body(request, LEN_MAX, state).await?).map(Self)
    }
}

/// The bytes of a JSON body of at most `LEN_MAX` bytes, for parsing in place.
pub(super) struct RawJson<const LEN_MAX: usize>(pub(super) Bytes);

impl<const LEN_MAX: usize> FromRequest<AppState> for RawJson<LEN_MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        require_json(request.headers())?;
        read_body(request, LEN_MAX, state).await.map(Self)
    }
}

/// A JSON body that may be missing.
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<AppState> for OptionalJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let headers = request.headers().clone();
        let bytes = read_body(request, BODY_LEN_MAX, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        require_json(&headers)?;
        parse_json(&bytes).map(Self)
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    require_type(headers, &["application/json"])
}

/// Refuses a body whose media type is none of `types`.
pub(super) fn require_type(headers: &HeaderMap, types: &[&str]) -> Result<(), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if types.iter().any(|accepted| essence.eq_ignore_ascii_case(accepted)) {
        return Ok(());
    }
    let got = content_type.unwrap_or("no Content-Type");
    let accepted = types.join(" or ");
    let detail = format!("the body must be {accepted}, got {}", got.escape_debug());
    Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
}

/// Reads a body of at most `len_max` bytes within the configured time. If the request has an idempotency key, the body
/// becomes part of the request's digest.
pub(super) async fn read_body(
    request: Request,
    len_max: usize,
    state: &AppState,
) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let read = body::read(state, &parts.extensions, body, len_max).await;
    if let Ok(bytes) = &read
        && parts.headers.contains_key("idempotency-key")
    {
        Content::of(&parts).add(bytes);
    }
    read.map_err(|error| match error {
        BodyError::TooLong => {
            let detail = format!("the body is longer than {len_max} bytes");
            Problem::new(ProblemKind::PayloadTooLarge, detail)
        }
        BodyError::TooSlow => {
            let timeout_ms = state.settings().body_timeout_ms;
            let detail = format!("the body did not arrive completely within {timeout_ms} ms");
            Problem::new(ProblemKind::RequestTimeout, detail)
        }
        BodyError::Broken => {
            Problem::new(ProblemKind::InvalidRequest, "the body did not arrive completely")
        }
        BodyError::NoRoom(why) => {
            let detail = format!("too many bytes of request bodies are arriving: {why}");
            Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1)
        }
    })
}

/// Reads JSON. The types refuse unknown and repeated fields.
pub(super) fn parse_json<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    maxine_wording::read_json(bytes).map_err(Problem::from)
}

/// The conditions of a write in its headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WriteConditions {
    /// The revision that `If-Match` names.
    pub(super) if_match: Option<u64>,
    /// Whether `If-None-Match: *` was sent.
    pub(super) create_only: bool,
}

impl WriteConditions {
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let bad = |field: &str, text: &str| {
            Problem::new(ProblemKind::InvalidRequest, text.to_owned()).with_field(field)
        };
        let mut conditions = Self::default();
        if let Some(value) = single(headers, "if-match")? {
            let revision = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let text = "If-Match must be one revision in quotes, as ETag gave it, such as \"17\"";
            let parsed = revision.and_then(|revision| revision.parse().ok());
            conditions.if_match = Some(parsed.ok_or_else(|| bad("If-Match", text))?);
        }
        if let Some(value) = single(headers, "if-none-match")? {
            if value != "*" {
                return Err(bad("If-None-Match", "If-None-Match of a write can only be *"));
            }
            conditions.create_only = true;
        }
        Ok(conditions)
    }

    /// The revision that the object must have for the command to take effect. 0 if it must not exist, and `None` for
    /// any.
    pub(super) fn expected_revision(self) -> Option<u64> {
        if self.create_only { Some(0) } else { self.if_match }
    }
}

impl FromRequestParts<AppState> for WriteConditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        Self::from_headers(&parts.headers)
    }
}

/// A digest of the request: of its query and, once the body was read, of its body. It detects an idempotency key that
/// is used for two different requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Content(Arc<AtomicU32>);

impl Content {
    pub(super) fn of_query(uri: &Uri) -> Self {
        let content = Self::default();
        content.add(uri.query().unwrap_or_default().as_bytes());
        content
    }

    /// The digest of the request with these parts.
    pub(super) fn of(parts: &Parts) -> Self {
        parts.extensions.get().cloned().unwrap_or_else(|| Self::of_query(&parts.uri))
    }

    fn add(&self, bytes: &[u8]) {
        // Half of the hash's bits are enough.
        let added = xxh3_64(bytes) as u32;
        self.0.store(self.digest().rotate_left(7) ^ added, Ordering::Relaxed);
    }

    pub(super) fn digest(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The owner of an idempotency key: the user, or the address of a caller without a credential. No user's name
/// contains a zero byte.
pub(super) fn principal_of(actor: &Actor) -> Cow<'_, str> {
    match actor.user.is_empty() {
        true => Cow::Owned(format!("\0{}", actor.address)),
        false => Cow::Borrowed(&actor.user),
    }
}

/// The request id from the `Idempotency-Key` header, bound to the caller and the request.
pub(super) fn request_id(
    headers: &HeaderMap,
    principal: &str,
    method: &Method,
    path: &str,
) -> Result<Option<RequestId>, Problem> {
    let Some(key) = single(headers, "idempotency-key")? else { return Ok(None) };
    let visible = key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_LEN_MAX || !visible {
        let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters";
        return Err(Problem::new(ProblemKind::InvalidRequest, detail).with_field("Idempotency-Key"));
    }
    let mut hasher = Sha256::new();
    for part in [principal, method.as_str(), path, key] {
        // Each part is preceded by its length, so that different parts never have the same encoding.
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let hash = hasher.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    Ok(Some(RequestId(u128::from_le_bytes(id))))
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let bad = |detail: String| Problem::new(ProblemKind::InvalidRequest, detail).with_field(name);
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad(format!("the header {name} came more than once")));
    }
    let text = value.to_str().map_err(|_| bad(format!("the header {name} is not ASCII")))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn conditions_are_read_strictly() {
        let read = |pairs: &[_]| WriteConditions::from_headers(&headers(pairs));
        assert_eq!(read(&[]).unwrap().expected_revision(), None);
        assert_eq!(read(&[("if-match", "\"17\"")]).unwrap().expected_revision(), Some(17));
        assert_eq!(read(&[("if-none-match", "*")]).unwrap().expected_revision(), Some(0));
        for bad in ["17", "W/\"17\"", "\"x\"", "*", "\"1\", \"2\""] {
            assert_eq!(read(&[("if-match", bad)]).unwrap_err().status(), 400, "{bad}");
        }
        assert!(read(&[("if-match", "\"1\""), ("if-match", "\"2\"")]).is_err());
    }

    #[test]
    fn an_idempotency_key_is_bound_to_its_principal_and_route() {
        let headers = headers(&[("idempotency-key", "k1")]);
        let id = |who: &str, path: &str| request_id(&headers, who, &Method::PUT, path).unwrap();
        assert_eq!(id("ada", "/a"), id("ada", "/a"));
        assert_ne!(id("ada", "/a"), id("bob", "/a"));
        assert_ne!(id("ada", "/a"), id("ada", "/b"));
        assert_ne!(id("ada", "/a"), id("ad", "a/a"));
        let nobody = |address: &str| {
            let actor = Actor {
                user: "".into(),
                address: address.into(),
                trace_id: "".into(),
                via_node: None,
            };
            id(&principal_of(&actor), "/a")
        };
        assert_eq!(nobody("10.0.0.1"), nobody("10.0.0.1"));
        assert_ne!(
            nobody("10.0.0.1"),
            nobody("10.0.0.2"),
            "callers without a credential do not share keys"
        );
    }

    #[test]
    fn an_unknown_parameter_is_refused_by_name() {
        let error = parse_query::<NoParams>("limt=3").err().unwrap();
        assert_eq!(error.field.as_deref(), Some("limt"), "{error:?}");
    }
}
