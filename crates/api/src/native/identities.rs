//! Users, API tokens and signing keys. A secret is shown once, when it is created, and never again.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::{IntoParams, ToSchema};

use super::extract::{JsonBody, NamePath, NoParams, OptionalJsonBody, Params};
use super::fresh::{Fresh, Freshness, Write, Written, unexpected};
use super::page::{self, Page};
use super::session::plain_http;
use crate::lists::Listing;
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, RequestContext};
use maxine_identity::PasswordError;
use maxine_state::limits::{TEXT_LEN_MAX, check_range, check_text};
use maxine_state::{Command, Name, Rejection, Reply, Role, SigningKey, TokenRecord, User};

/// Maximum lifetime of a token, in milliseconds (10 years).
const TOKEN_MS_MAX: u64 = 10 * 365 * 24 * 3_600 * 1_000;
/// Number of older signing keys that stay accepted if a rotation does not name one.
const KEEP_PREVIOUS_DEFAULT: u32 = 2;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ByName {
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

impl ByName {
    fn after(&self) -> Result<Option<String>, Problem> {
        let parts = self.cursor.as_deref().map(page::cursor_parts::<1>).transpose()?;
        Ok(parts.map(|[name]| name))
    }
}

/// A user. It contains neither the password nor its hash.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserView {
    /// The name to sign in with.
    name: String,
    /// What the user may do.
    role: Role,
    /// Version of the user. It grows with every change; for `If-Match`.
    credential_version: u64,
    /// Whether the account is set by the operator's environment.
    managed: bool,
}

/// Lists users.
#[utoipa::path(
    get, path = "/api/v1/users", tag = "identities", operation_id = "listUsers",
    params(ByName, Freshness), responses((status = 200, body = Page<UserView>)),
)]
pub(super) async fn list_users(
    fresh: Fresh,
    Params(query): Params<ByName>,
    listing: Listing,
) -> Result<Response, Problem> {
    let (limit, after) = (page::limit(query.limit)?, query.after()?);
    let users = fresh.state().identities().users.values();
    let users =
        users.filter(|user| after.as_deref().is_none_or(|after| user.name.as_str() > after));
    let show = |user: &std::sync::Arc<User>| UserView {
        name: user.name.as_str().into(),
        role: user.role,
        credential_version: user.credential_version,
        managed: user.managed,
    };
    let cursor = |user: &&std::sync::Arc<User>| page::cursor_of(&[user.name.as_str()]);
    Ok(listing.answer(fresh.json(Page::take(users, limit, cursor, show))))
}

/// The settings of a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserBody {
    /// What the user may do.
    role: Role,
    /// The new password. If it is left out, the present one is kept; a new user needs one.
    #[serde(default)]
    #[schema(min_length = 8, max_length = 1024, format = Password)]
    password: Option<String>,
}

/// A user that was set.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserWritten {
    /// The index of the state right after the change.
    index: u64,
    /// The new credential version. Tokens of older versions no longer work.
    credential_version: u64,
}

/// Adds a user or changes one. Every earlier session of the user ends.
#[utoipa::path(
    put, path = "/api/v1/users/{name}", tag = "identities", operation_id = "putUser",
    params(("name" = String, Path,)), request_body = UserBody,
    responses((status = 200, body = UserWritten)),
)]
pub(super) async fn put_user(
    State(state): State<AppState>,
    NamePath(name): NamePath,
    _: Params<NoParams>,
    context: RequestContext,
    write: Write,
    JsonBody(body): JsonBody<UserBody>,
) -> Result<Json<UserWritten>, Problem> {
    if body.password.is_some() && !context.may_send_password(state.settings()) {
        return Err(plain_http());
    }
    let snapshot = write.answered.by_present(&state);
    let users = &snapshot.state.identities().users;
    let present = users.get(&name);
    if let Some(user) = present {
        if user.managed {
            return Err(Rejection::Managed(name.as_str().into()).into());
        }
        let admins = users.values().filter(|user| user.role == Role::Admin).count();
        if user.role == Role::Admin && body.role != Role::Admin && admins == 1 {
            return Err(Problem::limit("role", "admin for the last admin", "a lower one"));
        }
    }
    let password_hash = match (&body.password, present) {
        (Some(password), _) => hash(&state, password).await?,
        (None, Some(user)) => user.password_hash.clone(),
        (None, None) => {
            return Err(Problem::limit("password", "given for a new user", "nothing"));
        }
    };
    // The state that was read above must still be the present one at the write, even if the client set no condition.
    let read = present.map(|user| user.credential_version);
    let create_only = write.conditions.create_only;
    let command = Command::PutUser {
        name,
        role: body.role,
        password_hash,
        managed: false,
        create_only: create_only || read.is_none(),
        expected_version: write.conditions.if_match.or(read),
    };
    let applied = write.propose(&state, command).await?;
    let Reply::Revision(credential_version) = applied.reply else {
        return Err(unexpected(&applied.reply));
    };
    Ok(Json(UserWritten { index: applied.index, credential_version }))
}

async fn hash(state: &AppState, password: &str) -> Result<Box<str>, Problem> {
    state.security().hash_password(password).await.map_err(|error| match error {
        PasswordError::Refused(refused) => refused.into(),
        PasswordError::Busy(busy) => {
            Problem::new(ProblemKind::Unavailable, busy.to_string()).with_retry_after_s(1)
        }
    })
}

/// Deletes a user. All sessions of the user end.
#[utoipa::path(
    delete, path = "/api/v1/users/{name}", tag = "identities", operation_id = "deleteUser",
    params(("name" = String, Path,)), responses((status = 200, body = Written)),
)]
pub(super) async fn delete_user(
    State(state): State<AppState>,
    NamePath(name): NamePath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<Written>, Problem> {
    let applied = write.propose(&state, Command::DeleteUser { name }).await?;
    Ok(Json(Written { index: applied.index }))
}

/// An API token. It does not contain the token itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenView {
    /// Public name of the token.
    id: String,
    /// What the token is for.
    note: String,
    /// What the bearer of the token may do.
    role: Role,
    /// The user who created the token.
    created_by: String,
    /// When the token was created, in milliseconds since 1970.
    created_at_ms: u64,
    /// When the token stops working, in milliseconds since 1970; null for never.
    expires_at_ms: Option<u64>,
}

impl From<&TokenRecord> for TokenView {
    fn from(record: &TokenRecord) -> Self {
        Self {
            id: record.id.as_str().into(),
            note: record.note.as_ref().into(),
            role: record.role,
            created_by: record.created_by.as_str().into(),
            created_at_ms: record.created_at_ms,
            expires_at_ms: record.expires_at_ms,
        }
    }
}

/// Lists API tokens.
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "identities", operation_id = "listTokens",
    params(ByName, Freshness), responses((status = 200, body = Page<TokenView>)),
)]
pub(super) async fn list_tokens(
    fresh: Fresh,
    Params(query): Params<ByName>,
    listing: Listing,
) -> Result<Response, Problem> {
    let (limit, after) = (page::limit(query.limit)?, query.after()?);
    let tokens = fresh.state().identities().tokens.values();
    let tokens =
        tokens.filter(|token| after.as_deref().is_none_or(|after| token.id.as_str() > after));
    let cursor = |token: &&std::sync::Arc<TokenRecord>| page::cursor_of(&[token.id.as_str()]);
    let page = Page::take(tokens, limit, cursor, |token| TokenView::from(token.as_ref()));
    Ok(listing.answer(fresh.json(page)))
}

/// The settings of a new token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    /// What the bearer of the token may do.
    role: Role,
    /// What the token is for.
    #[serde(default)]
    #[schema(max_length = 1024)]
    note: String,
    /// Lifetime, in milliseconds; by default unlimited.
    #[serde(default)]
    #[schema(minimum = 1000, maximum = 315_360_000_000_u64)]
    ttl_ms: Option<u64>,
}

/// A token that was created.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenMade {
    #[serde(flatten)]
    view: TokenView,
    /// The index of the state right after the change.
    index: u64,
    /// The token, for `Authorization: Bearer`. It is never shown again.
    token: String,
}

/// Creates an API token. Only this answer shows the token.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "identities", operation_id = "createToken",
    request_body = TokenBody, responses((status = 201, body = TokenMade)),
)]
pub(super) async fn create_token(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<TokenBody>,
) -> Result<(StatusCode, Json<TokenMade>), Problem> {
    check_text("note", &body.note, 0, TEXT_LEN_MAX)?;
    if let Some(ttl_ms) = body.ttl_ms {
        check_range("ttl_ms", ttl_ms, 1_000, TOKEN_MS_MAX)?;
    }
    let now_ms = state.clock().wall_ms();
    let id = new_id("", now_ms)?;
    let minted = state.security().mint_api_token(&id).map_err(|error| {
        Problem::new(ProblemKind::Unavailable, error.to_string()).with_retry_after_s(1)
    })?;
    let record = TokenRecord {
        id: id.clone(),
        note: body.note.into(),
        role: body.role,
        token_hash: minted.hash,
        created_by: Name::parse("user", &write.actor.user)?,
        created_at_ms: now_ms,
        expires_at_ms: body.ttl_ms.map(|ttl_ms| now_ms + ttl_ms),
    };
    let view = TokenView::from(&record);
    let answered = write.answered.clone();
    let applied = write.propose(&state, Command::PutToken { token: record }).await?;
    // A repeat with the same idempotency key gets the first answer, and creates no token of its own.
    if !answered.by_present(&state).state.identities().tokens.contains_key(&id) {
        let detail =
            "the first request with this Idempotency-Key made the token; it is not shown again";
        return Err(Problem::new(ProblemKind::Conflict, detail));
    }
    // This is the only place where the token leaves the node.
    let token = minted.text.expose().to_owned();
    Ok((StatusCode::CREATED, Json(TokenMade { view, index: applied.index, token })))
}

/// Revokes an API token. It stops working.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "identities", operation_id = "deleteToken",
    params(("id" = String, Path,)), responses((status = 200, body = Written)),
)]
pub(super) async fn delete_token(
    State(state): State<AppState>,
    NamePath(id): NamePath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Json<Written>, Problem> {
    let applied = write.propose(&state, Command::DeleteToken { id }).await?;
    Ok(Json(Written { index: applied.index }))
}

/// A signing key. It does not contain the secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyView {
    /// Name of the key, in the header of the sessions that it signed.
    key_id: String,
    /// When the key was created, in milliseconds since 1970.
    created_at_ms: u64,
    /// Whether the key signs new sessions. Other keys are only accepted.
    signs: bool,
}

/// Lists the replicated signing keys, newest first.
#[utoipa::path(
    get, path = "/api/v1/keys", tag = "identities", operation_id = "listKeys",
    params(Freshness), responses((status = 200, body = Page<KeyView>)),
)]
pub(super) async fn list_keys(
    State(state): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
) -> Response {
    let from_environment = state.security().settings().env_keys.is_some();
    let keys = fresh.state().identities().signing_keys.iter().enumerate();
    let keys = keys.map(|(position, key)| KeyView {
        key_id: key.key_id.as_str().into(),
        created_at_ms: key.created_at_ms,
        signs: position == 0 && !from_environment,
    });
    fresh.json(Page::whole(keys.collect()))
}

/// Options of a rotation.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RotateBody {
    /// Number of older keys that are still accepted; by default 2. With 0, every session ends at once.
    #[schema(minimum = 0, maximum = 8)]
    keep_previous: Option<u32>,
}

/// A rotation that took effect.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rotated {
    /// The index of the state right after the rotation.
    index: u64,
    /// Name of the key that signs new sessions.
    key_id: String,
}

/// Creates a new signing key for sessions.
#[utoipa::path(
    post, path = "/api/v1/keys/rotate", tag = "identities", operation_id = "rotateKeys",
    request_body = Option<RotateBody>, responses((status = 200, body = Rotated)),
)]
pub(super) async fn rotate_keys(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    OptionalJsonBody(body): OptionalJsonBody<RotateBody>,
) -> Result<Json<Rotated>, Problem> {
    if state.security().settings().env_keys.is_some() {
        return Err(Rejection::Managed("the signing key".into()).into());
    }
    let keep_previous = body.keep_previous.unwrap_or(KEEP_PREVIOUS_DEFAULT);
    check_range("keep_previous", keep_previous.into(), 0, 8)?;
    let now_ms = state.clock().wall_ms();
    let mut secret = vec![0; 32];
    OsRng.try_fill_bytes(&mut secret).map_err(|_| no_randomness())?;
    let key_id = new_id("key-", now_ms)?;
    let key = SigningKey { key_id: key_id.clone(), secret: secret.into(), created_at_ms: now_ms };
    let command = Command::RotateSigningKey { key, keep_previous };
    let applied = write.propose(&state, command).await?;
    // A repeat with the same idempotency key created no key of its own. Then the newest key is the one of the first
    // request.
    let snapshot = state.view().snapshot();
    let keys = &snapshot.state.identities().signing_keys;
    let own = keys.iter().find(|key| key.key_id == key_id);
    let key_id = own.or(keys.first()).map_or(key_id.as_str(), |key| key.key_id.as_str());
    Ok(Json(Rotated { index: applied.index, key_id: key_id.into() }))
}

/// A unique name that sorts by time.
fn new_id(prefix: &str, now_ms: u64) -> Result<Name, Problem> {
    let mut random = [0; 16];
    OsRng.try_fill_bytes(&mut random).map_err(|_| no_randomness())?;
    let id = Ulid::from_parts(now_ms, u128::from_le_bytes(random));
    Ok(Name::parse("id", &format!("{prefix}{}", id.to_string().to_ascii_lowercase()))?)
}

fn no_randomness() -> Problem {
    Problem::new(ProblemKind::Unavailable, "the system gave no random numbers")
        .with_retry_after_s(1)
}
