//! Keys and values, and transactions of several operations on them.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{JsonBody, NoParams, Params, path_problem};
use super::fresh::{Fresh, Freshness, Revised, Write, Written, etag, unexpected};
use super::history_index::HistoryIndex;
use super::kv_wait::{Wait, wait};
use super::page::{self, Page};
use super::watch::Watchers;
use crate::lists::{LONG_OBJECT_LEN_MIN, Lists};
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, CalledBy, RequestContext};
use maxine_state::limits::KV_VALUE_LEN_MAX;
use maxine_state::{
    Command, KvAction, KvContent, KvEntry, KvKey, KvMeta, KvOp, KvRefusal, LockSessionId,
    Rejection, Reply,
};
use maxine_view::KvScope;

/// Maximum length of the body with a value, in bytes. A byte of a value takes up to six in JSON text.
pub(super) const VALUE_BODY_LEN_MAX: usize = 6 * KV_VALUE_LEN_MAX + 64 * 1_024;
/// Maximum length of the body of a transaction, in bytes. Its values are in base64.
const TRANSACTION_BODY_LEN_MAX: usize = 2 * 1_024 * 1_024;

/// A key, named by the path.
pub(super) struct KeyPath(pub(super) KvKey);

impl FromRequestParts<AppState> for KeyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state);
        let Path(key) = path.await.map_err(path_problem)?;
        Ok(Self(KvKey::parse(&key)?))
    }
}

/// A key and its value.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KvKeyView {
    /// The key.
    key: String,
    /// The value, if it is text; null if it is not, or if values were not asked for.
    text: Option<String>,
    /// The value in base64, if it is not text; null if it is, or if values were not asked for.
    base64: Option<String>,
    /// Length of the value, in bytes.
    value_len: usize,
    /// A number that only clients interpret.
    flags: u64,
    /// Index of the last change to the key, for `If-Match`.
    revision: u64,
    /// Index at which the key was created.
    create_index: u64,
    /// Index at which the present or last holder took the lock; 0 if nobody has. It grows with each new holder, also if the
    /// key was deleted meanwhile, so it is a fencing token.
    lock_index: u64,
    /// The lock session that holds the key; null if none does.
    session: Option<String>,
    /// When the key last changed, in milliseconds since 1970, by the log's clock.
    modified_at_ms: u64,
    /// Who changed the key last.
    modified_by: String,
}

impl KvKeyView {
    fn new(entry: &KvEntry, with_value: bool) -> Self {
        let value = with_value.then_some(&*entry.content.value.0);
        let text = value.and_then(|value| std::str::from_utf8(value).ok());
        let base64 = value.filter(|_| text.is_none());
        Self {
            key: entry.key.as_str().into(),
            text: text.map(Into::into),
            base64: base64.map(|value| STANDARD.encode(value)),
            value_len: entry.content.value.0.len(),
            flags: entry.content.flags,
            revision: entry.meta.modify_index,
            create_index: entry.meta.create_index,
            lock_index: entry.meta.lock_index,
            session: entry.meta.session.map(|session| session.to_string()),
            modified_at_ms: entry.modified_at_ms,
            modified_by: entry.modified_by.as_ref().into(),
        }
    }
}

/// A value and its flags.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KvBody {
    /// The value as text. Either `text` or `base64` is required.
    #[serde(default)]
    text: Option<String>,
    /// The value in base64, for values that are not text.
    #[serde(default)]
    base64: Option<String>,
    /// A number that only clients interpret; by default 0.
    #[serde(default)]
    flags: u64,
}

/// The value in a body; `None` if the body has none.
pub(super) fn content_of(
    text: Option<String>,
    base64: Option<String>,
    flags: u64,
) -> Result<Option<KvContent>, Problem> {
    let invalid = |field: &str, detail: &str| {
        Problem::new(ProblemKind::InvalidRequest, detail.to_owned()).with_field(field)
    };
    let value = match (text, base64) {
        (Some(_), Some(_)) => {
            return Err(invalid("base64", "a value is either text or base64, not both"));
        }
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(base64.as_bytes());
            decoded.map_err(|_| invalid("base64", "base64 must be valid base64 with padding"))?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(KvContent { value: value.as_slice().into(), flags }))
}

fn required(content: Option<KvContent>) -> Result<KvContent, Problem> {
    content.ok_or_else(|| {
        let detail = "the value is missing: send text or base64";
        Problem::new(ProblemKind::InvalidRequest, detail).with_field("text")
    })
}

/// The problem for a condition that does not hold.
pub(super) fn refused(op: &KvOp, why: KvRefusal) -> Problem {
    let key = op.key.as_str();
    let conflict = |detail: String| Problem::new(ProblemKind::Conflict, detail);
    match why {
        KvRefusal::Index { actual } => {
            let expected = match op.action {
                KvAction::Put { expected, .. } | KvAction::Delete { expected } => expected,
                KvAction::CheckIndex { index } => Some(index),
                _ => None,
            };
            Rejection::RevisionMismatch { expected: expected.unwrap_or(0), actual }.into()
        }
        KvRefusal::Missing => Problem::not_found("key", key),
        KvRefusal::Held { by } => conflict(format!("{key} is held by the lock session {by}")),
        KvRefusal::NotHeld => conflict(format!("the lock session does not hold {key}")),
        KvRefusal::Delayed => conflict(format!(
            "{key} cannot be locked yet: a session that held it ended, and its lock delay is not over"
        )),
        KvRefusal::NoSession => {
            let session = match op.action {
                KvAction::Lock { session, .. } => session.to_string(),
                _ => String::new(),
            };
            Problem::not_found("lock session", &session)
        }
    }
}

/// Carries out operations. Returns the index, and what is known about each key afterwards.
pub(super) async fn change(
    state: &AppState,
    write: Write,
    ops: Vec<KvOp>,
) -> Result<(u64, Vec<Option<KvMeta>>), Problem> {
    KvOp::check_all(&ops)?;
    let applied = write.propose(state, Command::ChangeKv { ops: ops.clone() }).await?;
    match applied.reply {
        Reply::Kv(metas) => Ok((applied.index, metas)),
        Reply::KvRefused { at, why } => {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let Some(op) = ops.get(at) else { return Err(unexpected(&applied.reply)) };
            let mut problem = refused(op, why);
            if ops.len() > 1 {
                problem.detail = format!("operation {at}: {}", problem.detail).into();
            }
            Err(problem)
        }
        reply => Err(unexpected(&reply)),
    }
}

/// Carries out one operation that leaves its key. Returns the index, and what is known about the key afterwards.
pub(super) async fn change_one(
    state: &AppState,
    write: Write,
    op: KvOp,
) -> Result<(u64, KvMeta), Problem> {
    let (index, metas) = change(state, write, vec![op]).await?;
    let meta = metas.first().copied().flatten();
    Ok((index, meta.ok_or_else(|| unexpected(&Reply::Kv(metas)))?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListKv {
    /// Only keys that begin with this text.
    prefix: Option<String>,
    /// Whether to show the values; by default false.
    #[serde(default)]
    values: bool,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
    /// Wait for a change of a key with the prefix after this index, or after `HISTORY-INDEX`: `x-maxine-index` of the
    /// answer before.
    #[param(value_type = Option<String>)]
    index: Option<HistoryIndex>,
    /// How long to wait, in milliseconds; by default 30000. Only with `index`.
    #[param(minimum = 0, maximum = 60000)]
    wait_ms: Option<u64>,
}

/// Lists keys, sorted by their bytes. With `index`, waits for a change first.
#[utoipa::path(
    get, path = "/api/v1/kv", tag = "kv", operation_id = "listKeysAndValues",
    params(ListKv, Freshness), responses((status = 200, body = Page<KvKeyView>)),
)]
pub(super) async fn list_kv(
    State(state): State<AppState>,
    State(lists): State<Arc<Lists>>,
    Extension(watchers): Extension<Arc<Watchers>>,
    mut fresh: Fresh,
    Params(query): Params<ListKv>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let prefix = KvKey::parse_prefix(query.prefix.as_deref().unwrap_or_default())?;
    let after = query.cursor.as_deref().map(page::cursor_parts::<1>).transpose()?;
    let scope = KvScope::Prefix(prefix.clone());
    let asked = Wait { index: query.index, wait_ms: query.wait_ms };
    wait(&state, &watchers, &caller, context.client.ip, &mut fresh, &scope, asked).await?;
    let listing = lists.begin(context.client.ip, &caller).await?;
    // What changed while the list waited for its turn is in it.
    fresh.renew(&state);
    let after = after.as_ref().map(|[key]| key.as_str());
    let mut entries = fresh.state().kv().below(prefix.as_str(), after).peekable();
    let (mut items, mut len, mut next_cursor) = (Vec::new(), 0, None);
    while let Some(entry) = entries.next() {
        items.push(KvKeyView::new(entry, query.values));
        len += entry.stored_len();
        let is_full = items.len() == limit || query.values && len > page::LEN_MAX;
        if is_full {
            let is_last = entries.peek().is_none();
            next_cursor = (!is_last).then(|| page::cursor_of(&[entry.key.as_str()]));
            break;
        }
    }
    let answer = fresh.json(Page { items, next_cursor });
    Ok(listing.answer(answer))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GetKv {
    /// Wait for a change of the key after this index, or after `HISTORY-INDEX`: `x-maxine-index` of the answer before.
    #[param(value_type = Option<String>)]
    index: Option<HistoryIndex>,
    /// How long to wait, in milliseconds; by default 30000. Only with `index`.
    #[param(minimum = 0, maximum = 60000)]
    wait_ms: Option<u64>,
}

/// Shows a key and its value. With `index`, waits for a change of the key first; a key that does not exist can be
/// awaited too.
#[utoipa::path(
    get, path = "/api/v1/kv/{key}", tag = "kv", operation_id = "getKeyAndValue",
    params(("key" = String, Path, description = "The key, percent-encoded: `/` as `%2F`."), GetKv, Freshness),
    responses((status = 200, body = KvKeyView, headers(("ETag" = String, description = "The revision, quoted.")))),
)]
pub(super) async fn get_kv(
    State(state): State<AppState>,
    Extension(watchers): Extension<Arc<Watchers>>,
    KeyPath(key): KeyPath,
    mut fresh: Fresh,
    Params(query): Params<GetKv>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
) -> Result<Response, Problem> {
    let scope = KvScope::Key(key.clone());
    let asked = Wait { index: query.index, wait_ms: query.wait_ms };
    wait(&state, &watchers, &caller, context.client.ip, &mut fresh, &scope, asked).await?;
    let is_long = |fresh: &Fresh| {
        let entry = fresh.state().kv().entry(key.as_str());
        entry.is_some_and(|entry| entry.stored_len() >= LONG_OBJECT_LEN_MIN)
    };
    let mut listing = None;
    if is_long(&fresh) {
        listing = Some(state.lists().begin(context.client.ip, &caller).await?);
        fresh.renew(&state);
    }
    let entry = fresh.state().kv().entry(key.as_str());
    let entry = entry.ok_or_else(|| Problem::not_found("key", key.as_str()))?;
    let mut response = fresh.json(KvKeyView::new(entry, true));
    response.headers_mut().insert(header::ETAG, etag(entry.meta.modify_index));
    Ok(match listing {
        Some(listing) => listing.answer(response),
        None => response,
    })
}

/// Sets the value of a key. `If-None-Match: *` creates it only. An equal value changes nothing. A lock on the key stays
/// as it is, because locks are advisory.
#[utoipa::path(
    put, path = "/api/v1/kv/{key}", tag = "kv", operation_id = "putKeyAndValue",
    params(("key" = String, Path, description = "The key, percent-encoded: `/` as `%2F`.")),
    request_body = KvBody,
    responses((status = 200, body = Revised, headers(("ETag" = String, description = "The new revision, quoted.")))),
)]
pub(super) async fn put_kv(
    State(state): State<AppState>,
    KeyPath(key): KeyPath,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<KvBody, VALUE_BODY_LEN_MAX>,
) -> Result<Response, Problem> {
    let content = required(content_of(body.text, body.base64, body.flags)?)?;
    let expected = write.conditions.expected_revision();
    let op = KvOp { key, action: KvAction::Put { content, expected } };
    let (index, meta) = change_one(&state, write, op).await?;
    let revision = meta.modify_index;
    let mut response = Json(Revised { index, revision, warnings: Vec::new() }).into_response();
    response.headers_mut().insert(header::ETAG, etag(revision));
    Ok(response)
}

/// Deletes a key. 404 if it does not exist.
#[utoipa::path(
    delete, path = "/api/v1/kv/{key}", tag = "kv", operation_id = "deleteKeyAndValue",
    params(("key" = String, Path, description = "The key, percent-encoded: `/` as `%2F`.")),
    responses((status = 200, body = Written)),
)]
pub(super) async fn delete_kv(
    State(state): State<AppState>,
    KeyPath(key): KeyPath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<Written>, Problem> {
    let expected = write.conditions.expected_revision();
    let ops = vec![
        KvOp { key: key.clone(), action: KvAction::Get { must_exist: true } },
        KvOp { key, action: KvAction::Delete { expected } },
    ];
    let (index, _) = change(&state, write, ops).await.map_err(|mut problem| {
        problem.detail = problem.detail.trim_start_matches("operation 0: ").into();
        problem.detail = problem.detail.trim_start_matches("operation 1: ").into();
        problem
    })?;
    Ok(Json(Written { index }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteTree {
    /// Delete the keys that begin with this text. An empty text deletes every key.
    prefix: String,
}

/// Deletes all keys that begin with a text.
#[utoipa::path(
    delete, path = "/api/v1/kv", tag = "kv", operation_id = "deleteKeysAndValues",
    params(DeleteTree), responses((status = 200, body = Written)),
)]
pub(super) async fn delete_tree(
    State(state): State<AppState>,
    Params(query): Params<DeleteTree>,
    write: Write,
) -> Result<Json<Written>, Problem> {
    let op = KvOp { key: KvKey::parse_prefix(&query.prefix)?, action: KvAction::DeleteTree };
    let (index, _) = change(&state, write, vec![op]).await?;
    Ok(Json(Written { index }))
}

/// What an operation of a transaction does.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verb {
    /// Set the value; with `revision` only if the key has it (0: only if the key does not exist).
    Put,
    /// Take the lock for `session`, and set the value if there is one.
    Lock,
    /// Give the lock of `session` back, and set the value if there is one.
    Unlock,
    /// Delete the key, if it exists; with `revision` only if it has that revision.
    Delete,
    /// Delete every key that begins with `key`.
    DeleteTree,
    /// The key must have `revision`; 0: it must not exist.
    CheckRevision,
    /// `session` must hold the lock.
    CheckSession,
}

/// One operation of a transaction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OperationBody {
    /// What to do.
    verb: Verb,
    /// The key.
    key: String,
    /// The value as text.
    #[serde(default)]
    text: Option<String>,
    /// The value in base64.
    #[serde(default)]
    base64: Option<String>,
    /// A number that only clients interpret; by default 0.
    #[serde(default)]
    flags: u64,
    /// The revision that the key must have.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    revision: Option<u64>,
    /// The lock session.
    #[serde(default)]
    session: Option<String>,
}

/// A field that has a value if it is there: a condition that is `null` may be one that the client has lost.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

impl OperationBody {
    /// Refuses a field that the operation would ignore.
    fn check_fields(&self) -> Result<(), Problem> {
        let takes_content = matches!(self.verb, Verb::Put | Verb::Lock | Verb::Unlock);
        let has_value = self.text.is_some() || self.base64.is_some();
        let takes_session = matches!(self.verb, Verb::Lock | Verb::Unlock | Verb::CheckSession);
        let takes_revision = matches!(self.verb, Verb::Put | Verb::Delete | Verb::CheckRevision);
        let fields = [
            ("text", self.text.is_some(), takes_content),
            ("base64", self.base64.is_some(), takes_content),
            ("flags", self.flags != 0, takes_content && has_value),
            ("session", self.session.is_some(), takes_session),
            ("revision", self.revision.is_some(), takes_revision),
        ];
        for (field, is_given, is_taken) in fields {
            if is_given && !is_taken {
                let detail = format!("the operation on {} takes no {field}", self.key);
                return Err(Problem::new(ProblemKind::InvalidRequest, detail).with_field(field));
            }
        }
        Ok(())
    }

    fn into_op(self) -> Result<KvOp, Problem> {
        self.check_fields()?;
        let content = content_of(self.text, self.base64, self.flags)?;
        let missing = |field: &str| {
            let detail = format!("the operation on {} needs {field}", self.key);
            Problem::new(ProblemKind::InvalidRequest, detail).with_field(field)
        };
        let session = || {
            let text = self.session.as_deref().ok_or_else(|| missing("session"))?;
            parse_session(text)
        };
        let action = match self.verb {
            Verb::Put => KvAction::Put { content: required(content)?, expected: self.revision },
            Verb::Lock => KvAction::Lock { content, session: session()? },
            Verb::Unlock => KvAction::Unlock { content, session: session()? },
            Verb::Delete => KvAction::Delete { expected: self.revision },
            Verb::DeleteTree => KvAction::DeleteTree,
            Verb::CheckRevision => match self.revision.ok_or_else(|| missing("revision"))? {
                0 => KvAction::CheckAbsent,
                index => KvAction::CheckIndex { index },
            },
            Verb::CheckSession => KvAction::CheckSession { session: session()? },
        };
        let key = match self.verb {
            Verb::DeleteTree => KvKey::parse_prefix(&self.key)?,
            _ => KvKey::parse(&self.key)?,
        };
        Ok(KvOp { key, action })
    }
}

/// A lock session of a request.
pub(super) fn parse_session(text: &str) -> Result<LockSessionId, Problem> {
    LockSessionId::parse(text).ok_or_else(|| Problem::not_found("lock session", text))
}

/// Operations that are carried out together.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TransactionBody {
    /// The operations, in order.
    #[schema(max_items = 128)]
    operations: Vec<OperationBody>,
}

/// A key after a transaction.
#[derive(Debug, Serialize, ToSchema)]
struct OperationResult {
    /// Index of the last change to the key.
    revision: u64,
    /// How often the key was locked.
    lock_index: u64,
}

/// The outcome of a transaction.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TransactionMade {
    /// The index of the state right after the transaction.
    index: u64,
    /// For each operation, its key afterwards; null if the key does not exist.
    results: Vec<Option<OperationResult>>,
}

/// Carries out all operations, or none of them. The problem names the operation that failed, counted from 0: 412 for
/// another revision, 409 for a lock, 404 for a lock session or key that does not exist.
#[utoipa::path(
    post, path = "/api/v1/transactions", tag = "kv", operation_id = "runTransaction",
    request_body = TransactionBody, responses((status = 200, body = TransactionMade)),
)]
pub(super) async fn run_transaction(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<TransactionBody, TRANSACTION_BODY_LEN_MAX>,
) -> Result<Json<TransactionMade>, Problem> {
    let ops: Result<Vec<KvOp>, Problem> =
        body.operations.into_iter().map(OperationBody::into_op).collect();
    let (index, metas) = change(&state, write, ops?).await?;
    let result =
        |meta: KvMeta| OperationResult { revision: meta.modify_index, lock_index: meta.lock_index };
    let results = metas.into_iter().map(|meta| meta.map(result)).collect();
    Ok(Json(TransactionMade { index, results }))
}
