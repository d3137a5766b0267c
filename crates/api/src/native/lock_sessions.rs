//! Lock sessions, and the locks that they hold.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{JsonBody, NoParams, OptionalJsonBody, Params, path_problem, service_key};
use super::fresh::{AnswerBy, Answered, Fresh, Freshness, Write, Written, unexpected};
use super::history_index::HistoryIndex;
use super::kv::{KeyPath, VALUE_BODY_LEN_MAX, change_one, content_of, parse_session};
use super::kv_wait::{Wait, wait};
use super::page::{self, Page};
use super::watch::Watchers;
use crate::lists::{Listing, Lists};
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, CalledBy, RequestContext};
use maxine_state::{
    Command, KvAction, KvEntry, KvKey, KvMeta, KvOp, KvState, LockBehavior, LockSession,
    LockSessionCheck, LockSessionId, LockSessionSpec, Name, Reply, ServiceKey,
};
use maxine_view::KvScope;

/// The lock delay of a session that does not say so, in milliseconds.
const LOCK_DELAY_MS_DEFAULT: u64 = 15_000;

/// A lock session, named by the path.
pub(super) struct SessionPath(LockSessionId);

impl FromRequestParts<AppState> for SessionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state);
        let Path(id) = path.await.map_err(path_problem)?;
        parse_session(&id).map(Self)
    }
}

/// What happens to the keys of a lock session when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Behavior {
    /// They are unlocked and keep their values.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

impl From<LockBehavior> for Behavior {
    fn from(behavior: LockBehavior) -> Self {
        match behavior {
            LockBehavior::Release => Self::Release,
            LockBehavior::Delete => Self::Delete,
        }
    }
}

impl From<Behavior> for LockBehavior {
    fn from(behavior: Behavior) -> Self {
        match behavior {
            Behavior::Release => Self::Release,
            Behavior::Delete => Self::Delete,
        }
    }
}

/// An instance, or one of its checks, whose failure ends a lock session.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionCheckBody {
    /// The namespace; by default `default`.
    #[serde(default = "default_namespace")]
    namespace: String,
    /// The service.
    service: String,
    /// The instance. The session ends when it is deregistered or expires.
    instance: String,
    /// If set, the session also ends when this check of the instance is critical or removed. `probe` is the probe.
    #[serde(default)]
    check: Option<String>,
}

fn default_namespace() -> String {
    ServiceKey::DEFAULT_NAMESPACE.to_owned()
}

impl From<&LockSessionCheck> for SessionCheckBody {
    fn from(check: &LockSessionCheck) -> Self {
        let LockSessionCheck { instance, check } = check;
        Self {
            namespace: instance.service.namespace.as_str().into(),
            service: instance.service.service.as_str().into(),
            instance: instance.instance.as_str().into(),
            check: check.as_ref().map(|check| check.as_str().into()),
        }
    }
}

impl SessionCheckBody {
    fn into_check(self) -> Result<LockSessionCheck, Problem> {
        let service = service_key(&self.namespace, &self.service)?;
        let check = self.check.map(|check| Name::parse("check", &check)).transpose()?;
        Ok(LockSessionCheck {
            instance: service.instance(Name::parse("instance", &self.instance)?),
            check,
        })
    }
}

/// A new lock session.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LockSessionBody {
    /// A name for people.
    #[serde(default)]
    #[schema(max_length = 255)]
    name: String,
    /// The machine of the client.
    #[serde(default)]
    #[schema(max_length = 255)]
    node: String,
    /// The session ends after this time without a renewal, in milliseconds. Left out: only a request or one of `checks`
    /// ends it.
    #[serde(default)]
    #[schema(minimum = 1000, maximum = 86_400_000)]
    ttl_ms: Option<u64>,
    /// What happens to its keys when it ends; by default `release`.
    #[serde(default)]
    #[schema(inline)]
    behavior: Behavior,
    /// How long its keys cannot be locked again after it ended, in milliseconds; by default 15000.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 60000)]
    lock_delay_ms: Option<u64>,
    /// The instances and checks that end it.
    #[serde(default)]
    #[schema(max_items = 16)]
    checks: Vec<SessionCheckBody>,
}

impl LockSessionBody {
    fn into_spec(self) -> Result<LockSessionSpec, Problem> {
        let checks: Result<Vec<_>, Problem> =
            self.checks.into_iter().map(SessionCheckBody::into_check).collect();
        let spec = LockSessionSpec {
            name: self.name.into(),
            node: self.node.into(),
            ttl_ms: self.ttl_ms,
            behavior: self.behavior.into(),
            lock_delay_ms: self.lock_delay_ms.unwrap_or(LOCK_DELAY_MS_DEFAULT),
            checks: checks?,
        };
        spec.check()?;
        Ok(spec)
    }
}

/// A lock session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LockSessionView {
    /// Its id, a UUID.
    id: String,
    /// A name for people; may be empty.
    name: String,
    /// The machine of the client; may be empty.
    node: String,
    /// The session ends after this time without a renewal, in milliseconds; null if it needs none.
    ttl_ms: Option<u64>,
    /// What happens to its keys when it ends.
    #[schema(inline)]
    behavior: Behavior,
    /// How long its keys cannot be locked again after it ended, in milliseconds.
    lock_delay_ms: u64,
    /// The instances and checks that end it.
    checks: Vec<SessionCheckBody>,
    /// Index at which it was created.
    create_index: u64,
    /// When it was created, in milliseconds since 1970, by the log's clock.
    created_at_ms: u64,
    /// Who created it.
    created_by: String,
    /// The keys that it holds, at most the first 100.
    locks: Vec<String>,
    /// The number of keys that it holds.
    locks_len: usize,
}

/// Maximum number of held keys that one session shows.
const LOCKS_SHOWN_MAX: usize = 100;

impl LockSessionView {
    fn new(session: &LockSession, kv: &KvState) -> Self {
        let spec = &session.spec;
        let locks = kv.held_by(session.id).take(LOCKS_SHOWN_MAX);
        Self {
            id: session.id.to_string(),
            name: spec.name.as_ref().into(),
            node: spec.node.as_ref().into(),
            ttl_ms: spec.ttl_ms,
            behavior: spec.behavior.into(),
            lock_delay_ms: spec.lock_delay_ms,
            checks: spec.checks.iter().map(SessionCheckBody::from).collect(),
            create_index: session.create_index,
            created_at_ms: session.created_at_ms,
            created_by: session.created_by.as_ref().into(),
            locks: locks.map(|key| key.as_str().into()).collect(),
            locks_len: kv.held_by(session.id).count(),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListSessions {
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Wait for the creation or the end of a session after this index, or after `HISTORY-INDEX`.
    #[param(value_type = Option<String>)]
    index: Option<HistoryIndex>,
    /// How long to wait, in milliseconds; by default 30000. Only with `index`.
    #[param(minimum = 0, maximum = 60000)]
    wait_ms: Option<u64>,
}

/// Lists lock sessions, sorted by id, and the keys that they hold.
#[utoipa::path(
    get, path = "/api/v1/sessions", tag = "locks", operation_id = "listLockSessions",
    params(ListSessions, Freshness), responses((status = 200, body = Page<LockSessionView>)),
)]
pub(super) async fn list_sessions(
    State(state): State<AppState>,
    State(lists): State<Arc<Lists>>,
    Extension(watchers): Extension<Arc<Watchers>>,
    mut fresh: Fresh,
    Params(query): Params<ListSessions>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after = query.cursor.as_deref().map(page::cursor_parts::<1>).transpose()?;
    let after = after.and_then(|[id]| LockSessionId::parse(&id));
    let asked = Wait { index: query.index, wait_ms: query.wait_ms };
    let scope = KvScope::Sessions;
    wait(&state, &watchers, &caller, context.client.ip, &mut fresh, &scope, asked).await?;
    let listing = lists.begin(context.client.ip, &caller).await?;
    // What changed while the list waited for its turn is in it.
    fresh.renew(&state);
    let kv = fresh.state().kv();
    let sessions = kv.sessions().values();
    let sessions = sessions.filter(|session| after.is_none_or(|after| session.id > after));
    let cursor = |session: &&Arc<LockSession>| page::cursor_of(&[&session.id.to_string()]);
    let page = Page::take(sessions, limit, cursor, |session| LockSessionView::new(session, kv));
    Ok(listing.answer(fresh.json(page)))
}

/// Shows a lock session, and the keys that it holds.
#[utoipa::path(
    get, path = "/api/v1/sessions/{id}", tag = "locks", operation_id = "getLockSession",
    params(("id" = String, Path,), Freshness), responses((status = 200, body = LockSessionView)),
)]
pub(super) async fn get_session(
    SessionPath(id): SessionPath,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let kv = fresh.state().kv();
    let session = kv.session(id).ok_or_else(|| no_session(id))?;
    Ok(fresh.json(LockSessionView::new(session, kv)))
}

fn no_session(id: LockSessionId) -> Problem {
    Problem::not_found("lock session", &id.to_string())
}

/// A lock session that was created.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LockSessionMade {
    /// Its id, a UUID.
    id: String,
    /// The index of the state right after the change.
    index: u64,
}

/// Creates a lock session. It holds no key yet. Renew it before its `ttl_ms` is over.
#[utoipa::path(
    post, path = "/api/v1/sessions", tag = "locks", operation_id = "createLockSession",
    request_body = LockSessionBody, responses((status = 201, body = LockSessionMade)),
)]
pub(super) async fn create_session(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    OptionalJsonBody(body): OptionalJsonBody<LockSessionBody>,
) -> Result<(StatusCode, Json<LockSessionMade>), Problem> {
    let spec = body.into_spec()?;
    // A repeat with the same idempotency key names the same session.
    let named = write.request_id().map(|id| LockSessionId::from_random(id.name()));
    let id = named.unwrap_or_else(|| state.registry().new_lock_session_id());
    let applied = write.propose(&state, Command::CreateLockSession { id, spec }).await?;
    let Reply::Revision(_) = applied.reply else { return Err(unexpected(&applied.reply)) };
    let made = LockSessionMade { id: id.to_string(), index: applied.index };
    Ok((StatusCode::CREATED, Json(made)))
}

/// A lock session that was renewed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LockSessionRenewed {
    /// Renew the session again within this time, in milliseconds; null if it needs no renewal.
    ttl_ms: Option<u64>,
}

/// Renews a lock session. 404 if it ended: its locks are lost.
#[utoipa::path(
    post, path = "/api/v1/sessions/{id}/renew", tag = "locks", operation_id = "renewLockSession",
    params(("id" = String, Path,)), responses((status = 200, body = LockSessionRenewed)),
)]
pub(super) async fn renew_session(
    State(state): State<AppState>,
    SessionPath(id): SessionPath,
    _: Params<NoParams>,
    AnswerBy(answer_by_ms): AnswerBy,
    answered: Answered,
) -> Result<Json<LockSessionRenewed>, Problem> {
    let known = state.registry().renew_lock_session(id, answer_by_ms).await?;
    let snapshot = answered.by_present(&state);
    let session = snapshot.state.kv().session(id).filter(|_| known);
    let session = session.ok_or_else(|| no_session(id))?;
    Ok(Json(LockSessionRenewed { ttl_ms: session.spec.ttl_ms }))
}

/// Ends a lock session. Its keys are unlocked or deleted. 404 if it does not exist.
#[utoipa::path(
    delete, path = "/api/v1/sessions/{id}", tag = "locks", operation_id = "endLockSession",
    params(("id" = String, Path,)), responses((status = 200, body = Written)),
)]
pub(super) async fn end_session(
    State(state): State<AppState>,
    SessionPath(id): SessionPath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<Written>, Problem> {
    let applied = write.propose(&state, Command::EndLockSession { id }).await?;
    match applied.reply {
        Reply::Changed(ended) if ended == [true] => Ok(Json(Written { index: applied.index })),
        Reply::Changed(_) => Err(no_session(id)),
        reply => Err(unexpected(&reply)),
    }
}

/// A key as a lock.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LockView {
    /// The key.
    key: String,
    /// The lock session that holds it; null if none does.
    session: Option<String>,
    /// The name of that session; null if none holds it.
    holder: Option<String>,
    /// The machine of that session; null if none holds it.
    node: Option<String>,
    /// Index at which the present or last holder took the lock; 0 if nobody has. It grows with each new holder, also if the
    /// key was deleted meanwhile, so it is a fencing token.
    lock_index: u64,
    /// Index of the last change to the key; 0 if it does not exist.
    revision: u64,
    /// Whether the key cannot be locked yet, because the lock delay of a session that held it is not over.
    delayed: bool,
}

impl LockView {
    fn new(key: &KvKey, entry: Option<&KvEntry>, kv: &KvState) -> Self {
        let meta = entry.map_or_else(KvMeta::default, |entry| entry.meta);
        let session = meta.session.and_then(|id| kv.session(id));
        Self {
            key: key.as_str().into(),
            session: meta.session.map(|id| id.to_string()),
            holder: session.map(|session| session.spec.name.as_ref().into()),
            node: session.map(|session| session.spec.node.as_ref().into()),
            lock_index: meta.lock_index,
            revision: meta.modify_index,
            delayed: kv.is_delayed(key.as_str()),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListLocks {
    /// Only keys that begin with this text.
    prefix: Option<String>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the keys that lock sessions hold, sorted by their bytes.
#[utoipa::path(
    get, path = "/api/v1/locks", tag = "locks", operation_id = "listLocks",
    params(ListLocks, Freshness), responses((status = 200, body = Page<LockView>)),
)]
pub(super) async fn list_locks(
    fresh: Fresh,
    Params(query): Params<ListLocks>,
    listing: Listing,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let prefix = KvKey::parse_prefix(query.prefix.as_deref().unwrap_or_default())?;
    let after = query.cursor.as_deref().map(page::cursor_parts::<1>).transpose()?;
    let after = after.as_ref().map(|[key]| key.as_str());
    let kv = fresh.state().kv();
    let held = kv.below(prefix.as_str(), after).filter(|entry| entry.meta.session.is_some());
    let cursor = |entry: &&Arc<KvEntry>| page::cursor_of(&[entry.key.as_str()]);
    let show = |entry: &Arc<KvEntry>| LockView::new(&entry.key, Some(entry), kv);
    Ok(listing.answer(fresh.json(Page::take(held, limit, cursor, show))))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GetLock {
    /// Wait for a change of the key after this index, or after `HISTORY-INDEX`: `x-maxine-index` of the answer before.
    /// The end of a lock delay is no change.
    #[param(value_type = Option<String>)]
    index: Option<HistoryIndex>,
    /// How long to wait, in milliseconds; by default 30000. Only with `index`.
    #[param(minimum = 0, maximum = 60000)]
    wait_ms: Option<u64>,
}

/// Shows who holds a key. A key that does not exist is held by nobody.
#[utoipa::path(
    get, path = "/api/v1/locks/{key}", tag = "locks", operation_id = "getLock",
    params(("key" = String, Path, description = "The key, percent-encoded: `/` as `%2F`."), GetLock, Freshness),
    responses((status = 200, body = LockView)),
)]
pub(super) async fn get_lock(
    State(state): State<AppState>,
    Extension(watchers): Extension<Arc<Watchers>>,
    KeyPath(key): KeyPath,
    mut fresh: Fresh,
    Params(query): Params<GetLock>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
) -> Result<Response, Problem> {
    let scope = KvScope::Key(key.clone());
    let asked = Wait { index: query.index, wait_ms: query.wait_ms };
    wait(&state, &watchers, &caller, context.client.ip, &mut fresh, &scope, asked).await?;
    let kv = fresh.state().kv();
    let entry = kv.entry(key.as_str()).map(AsRef::as_ref);
    Ok(fresh.json(LockView::new(&key, entry, kv)))
}

/// Who takes a lock, and the value that the key gets.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LockBody {
    /// The lock session.
    session: String,
    /// The new value as text. Left out, as `base64`: the key keeps its value.
    #[serde(default)]
    text: Option<String>,
    /// The new value in base64.
    #[serde(default)]
    base64: Option<String>,
    /// A number that only clients interpret. Only with a value.
    #[serde(default)]
    flags: u64,
}

/// A lock after it was taken or given back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LockChanged {
    /// The index of the state right after the change.
    index: u64,
    /// The new revision of the key.
    revision: u64,
    /// How often the key was locked. Pass it along with requests to what the lock protects: a holder with a lower number
    /// has lost the lock.
    lock_index: u64,
}

impl LockChanged {
    fn new(index: u64, meta: KvMeta) -> Self {
        Self { index, revision: meta.modify_index, lock_index: meta.lock_index }
    }
}

/// Takes the lock on a key for a lock session. Does not wait: 409 if another session holds it, or if a lock delay is not
/// over. Taking it again changes nothing.
#[utoipa::path(
    put, path = "/api/v1/locks/{key}", tag = "locks", operation_id = "takeLock",
    params(("key" = String, Path, description = "The key, percent-encoded: `/` as `%2F`.")),
    request_body = LockBody, responses((status = 200, body = LockChanged)),
)]
pub(super) async fn take_lock(
    State(state): State<AppState>,
    KeyPath(key): KeyPath,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<LockBody, VALUE_BODY_LEN_MAX>,
) -> Result<Json<LockChanged>, Problem> {
    let session = parse_session(&body.session)?;
    let content = content_of(body.text, body.base64, body.flags)?;
    if content.is_none() && body.flags != 0 {
        let detail = "flags need a value: send text or base64";
        return Err(Problem::new(ProblemKind::InvalidRequest, detail).with_field("flags"));
    }
    let op = KvOp { key, action: KvAction::Lock { content, session } };
    let (index, meta) = change_one(&state, write, op).await?;
    Ok(Json(LockChanged::new(index, meta)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReleaseLock {
    /// The lock session, which must hold the key.
    session: String,
}

/// Gives the lock on a key back. The key keeps its value. There is no lock delay. 409 if the session does not hold it.
#[utoipa::path(
    delete, path = "/api/v1/locks/{key}", tag = "locks", operation_id = "releaseLock",
    params(("key" = String, Path, description = "The key, percent-encoded: `/` as `%2F`."), ReleaseLock),
    responses((status = 200, body = LockChanged)),
)]
pub(super) async fn release_lock(
    State(state): State<AppState>,
    KeyPath(key): KeyPath,
    Params(query): Params<ReleaseLock>,
    write: Write,
) -> Result<Json<LockChanged>, Problem> {
    let session = parse_session(&query.session)?;
    let op = KvOp { key, action: KvAction::Unlock { content: None, session } };
    let (index, meta) = change_one(&state, write, op).await?;
    Ok(Json(LockChanged::new(index, meta)))
}
