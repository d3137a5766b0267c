//! Authentication: passwords, sessions, API tokens, and limits on attempts.
//!
//! Place in the flow: the API calls [`Security::identify`] for every request. Sign-in and the change of a
//! password use the other functions. Users, keys and tokens are replicated state, which this crate reads from
//! the view and never writes.
//!
//! **Invariant:** no secret appears in a log, an error or a `Debug` text.

mod api_token;
mod audience;
mod break_glass;
mod caller;
pub mod crypto_provider;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod jwt;
mod outside;
mod password;
mod server_tls;
mod settings;
mod signin_limit;
pub mod tls_files;

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use maxine_admission::Pace;
use maxine_clock::Clock;
use maxine_state::{Actor, ControlState, EndedSession, History, Identities, Name, Role, User};
use maxine_view::{Snapshot, View};

pub use api_token::{MintedToken, hex};
pub use break_glass::{break_glass_file, is_break_glass, make_break_glass_token};
pub use caller::{AuthMethod, Caller, OutsideToken, SessionRef};
pub use error::{AuthError, CredentialKind, ExpiredCredential, MintError, RenewError, SigninError};
pub use outside::{
    Begun, BegunDevice, Callback, OutsideSettings, Polled, Proven, ProviderError, ProviderName,
    Return,
};
pub use password::{
    PASSWORD_CHARS_MIN, PASSWORD_LEN_MAX, PasswordBusy, PasswordCaller, PasswordCost,
    PasswordError, Passwords, check_password,
};
pub use server_tls::{CertificateFiles, ClientAuth, ServerTls, ServerTlsSettings, TlsVersion};
pub use settings::{Account, EnvSigningKeys, Secret, SecuritySettings};

use jwt::{Realm, Renewed, Sessions, TokenError};
use outside::Outside;
use signin_limit::SigninLimit;

/// A session can be renewed until the sign-in was this long ago, in seconds (12 hours).
const SESSION_AGE_MAX_S: u64 = 12 * 3_600;

/// How often a user may change their own password through one node: so often at once, and then once in this time, in
/// milliseconds. In any hour this is at most ten times. Each change leaves a record in the class of the audit log that
/// has the changes of all users, and keeps a few thousand of them.
const OWN_PASSWORDS_AT_ONCE: u32 = 5;
const OWN_PASSWORD_INTERVAL_MS: u64 = 12 * 60_000;

/// The cookie of the dashboard's session over plain HTTP.
pub const SESSION_COOKIE: &str = "maxine_session";
/// The cookie of the dashboard's session over HTTPS. Browsers accept a name with this prefix only from the very host
/// that it is for, and only over HTTPS (RFC 6265bis, section 4.1.3.2).
pub const SECURE_SESSION_COOKIE: &str = "__Host-maxine_session";
/// A header for a token that is only for Maxine. With it, a request keeps its `Authorization` for the
/// instance to which it is forwarded.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-maxine-token");
/// The header in which clients of Consul send a token.
const CONSUL_TOKEN_HEADER: HeaderName = HeaderName::from_static("x-consul-token");
/// The header that a request with the session cookie must have if it changes something. A page of another
/// site cannot set it without a preflight request (CSRF).
pub const CSRF_HEADER: &str = "x-maxine-csrf";

/// A new session.
pub struct SignedIn {
    /// The JWT.
    pub access_token: String,
    /// The user's role.
    pub role: Role,
    /// The lifetime of the session, in seconds.
    pub lifetime_s: u64,
}

/// What the session cookie may authorize for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieUse {
    /// The request, because it only reads.
    Reads,
    /// A change, if the request has the CSRF header.
    Changes,
    /// Nothing, because the request is a change by GET, which a redirect can cause.
    Never,
}

/// This node's contact with the cluster. Credentials are only accepted while the node's state is recent
/// enough, and sessions only within the history for which they were issued.
pub trait ClusterContact: Send + Sync {
    /// The staleness of this node's state, in milliseconds; `None` while it is unknown.
    fn staleness_ms(&self) -> Option<u64>;

    /// The line of history of the store; `None` if the store has none.
    fn line(&self) -> Option<u64>;
}

struct Inner {
    view: Arc<View>,
    contact: Arc<dyn ClusterContact>,
    clock: Clock,
    started_ms: u64,
    settings: SecuritySettings,
    sessions: Sessions,
    passwords: Passwords,
    limit: SigninLimit,
    own_passwords: Pace,
    outside: Outside,
}

/// Authenticates callers. Clones are cheap.
#[derive(Clone)]
pub struct Security(Arc<Inner>);

/// Reads base 64 with or without padding.
const ANY_BASE64: GeneralPurpose = {
    let padding = DecodePaddingMode::Indifferent;
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding);
    GeneralPurpose::new(&STANDARD, config.with_decode_allow_trailing_bits(true))
};

/// The user and the password of an `Authorization` of the scheme `Basic` (RFC 7617), as text. Instances may accept it
/// without padding, and in the alphabet for URLs.
fn basic_credentials(value: &str) -> Option<String> {
    let (scheme, credentials) = value.trim_start().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = credentials.trim().replace('-', "+").replace('_', "/");
    let decoded = ANY_BASE64.decode(credentials).ok()?;
    Some(String::from_utf8_lossy(&decoded).into_owned())
}

impl Security {
    /// The authentication of one node.
    #[must_use]
    pub fn new(
        view: Arc<View>,
        contact: Arc<dyn ClusterContact>,
        clock: Clock,
        settings: SecuritySettings,
    ) -> Self {
        let sessions = Sessions::new(settings.env_keys.clone(), settings.session_lifetime_s);
        let passwords = Passwords::new(settings.password_cost);
        let limit = SigninLimit::new(settings.signin_attempts_max, settings.signin_window_ms);
        let own_passwords = Pace::new(OWN_PASSWORDS_AT_ONCE, OWN_PASSWORD_INTERVAL_MS);
        let started_ms = clock.monotonic_ms();
        let outside = Outside::new(clock.clone());
        Self(Arc::new(Inner {
            view,
            contact,
            clock,
            started_ms,
            settings,
            sessions,
            passwords,
            limit,
            own_passwords,
            outside,
        }))
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &SecuritySettings {
        &self.0.settings
    }

    /// Takes new settings of outside identities. Blocks.
    ///
    /// # Errors
    ///
    /// A file that they name cannot be used. The former settings stay in use.
    pub fn set_outside(&self, settings: &OutsideSettings) -> Result<(), String> {
        self.0.outside.set(settings)
    }

    /// Identifies the caller of a request: by `x-maxine-token`, or else by `Authorization`, or else by the
    /// dashboard's cookie. `is_https` is whether the client uses HTTPS.
    pub fn identify(
        &self,
        cookie: CookieUse,
        is_https: bool,
        headers: &HeaderMap,
    ) -> Result<Caller, AuthError> {
        if let Some(value) = headers.get(TOKEN_HEADER) {
            let token = value.to_str().map_err(|_| AuthError::Invalid)?.trim();
            return self.identify_token(token, AuthMethod::Session);
        }
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = bearer_token(value.as_bytes()).ok_or(AuthError::Missing)?;
            return self.identify_token(token, AuthMethod::Session);
        }
        let Some(token) = session_cookie(is_https, headers) else { return Err(AuthError::Missing) };
        let may = match cookie {
            CookieUse::Reads => true,
            CookieUse::Changes => headers.contains_key(CSRF_HEADER),
            CookieUse::Never => false,
        };
        if !may {
            return Err(AuthError::CrossSite);
        }
        self.identify_token(token, AuthMethod::Cookie)
    }

    /// Whether the credential of a caller that was identified earlier is still valid: an answer that takes long must end
    /// when it is not.
    #[must_use]
    pub fn is_still_valid(&self, caller: &Caller) -> bool {
        let snapshot = self.0.view.snapshot();
        let identities = snapshot.state.identities();
        let Some(role) = caller.role else { return true };
        match (&caller.session, caller.user.strip_prefix("token:")) {
            (Some(SessionRef { credential_version, session, .. }), _) => {
                identities.users.get(&*caller.user).is_some_and(|user| {
                    user.credential_version == *credential_version
                        && user.role == role
                        && !has_ended(user, session)
                })
            }
            (None, Some(id)) if caller.via == AuthMethod::ApiToken => {
                let record = identities.tokens.get(id);
                let now_ms = self.0.clock.wall_ms();
                let is_over = |at_ms: u64| at_ms <= now_ms;
                record.is_some_and(|record| {
                    record.role == role && !record.expires_at_ms.is_some_and(is_over)
                })
            }
            // The token of a node's file is valid while the node runs.
            (None, _) => {
                caller.outside.as_ref().is_none_or(|token| self.0.outside.is_still_valid(token))
            }
        }
    }

    /// Removes tokens for Maxine from a request before it is forwarded to an instance. These are
    /// `x-maxine-token`, and an `Authorization` or `X-Consul-Token` with a token that names this cluster, in whatever form,
    /// because even an unaccepted form reveals the token. The cluster's name in the token is sufficient: a
    /// token that has expired, or that this node does not know yet, must not reach an instance either. Other
    /// credentials are not changed.
    pub fn strip_tokens(&self, headers: &mut HeaderMap) {
        headers.remove(TOKEN_HEADER);
        let is_own = |value: &HeaderValue| {
            let text = String::from_utf8_lossy(value.as_bytes());
            let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let has_own = |text: &str| {
                let mut words = text.split(|c| !is_of_token(c)).filter(|word| !word.is_empty());
                words.any(|word| self.is_own_token(word))
            };
            has_own(&text) || basic_credentials(&text).is_some_and(|decoded| has_own(&decoded))
        };
        for name in [header::AUTHORIZATION, CONSUL_TOKEN_HEADER] {
            if headers.get_all(&name).iter().any(is_own) {
                headers.remove(&name);
            }
        }
    }

    fn is_own_token(&self, token: &str) -> bool {
        if is_break_glass(token) || self.0.outside.is_for_us(token) {
            return true;
        }
        let snapshot = self.0.view.snapshot();
        let Some(audience) = self.audience(snapshot.state.identities()) else { return false };
        match api_token::audience_of(token) {
            Some(named) => named == audience,
            None => jwt::audience_of(token).is_some_and(|named| named == audience),
        }
    }

    fn identify_token(&self, token: &str, via: AuthMethod) -> Result<Caller, AuthError> {
        if is_break_glass(token) {
            return self.identify_break_glass(token);
        }
        let snapshot = self.0.view.snapshot();
        if !snapshot.has_state() {
            return Err(AuthError::NoState);
        }
        let identities = snapshot.state.identities();
        let audience = self.audience(identities).ok_or(AuthError::Invalid)?;
        let caller = if token.starts_with(api_token::PREFIX) {
            let record = api_token::find(identities, &audience, token, self.0.clock.wall_ms())?;
            let user = format!("token:{}", record.id).into();
            let role = Some(record.role);
            Caller { user, role, via: AuthMethod::ApiToken, ..Caller::default() }
        } else if let Some(identified) = self.of_workload(token, via) {
            identified?
        } else {
            self.identify_session(&snapshot.state, &audience, token, via)?
        };
        match self.too_stale_s() {
            Some(age_s) => Err(AuthError::Stale { age_s }),
            None => Ok(caller),
        }
    }

    /// The workload with this token; `None` if it is no token of an issuer that is set. A cookie has a session's token
    /// only.
    fn of_workload(&self, token: &str, via: AuthMethod) -> Option<Result<Caller, AuthError>> {
        if via == AuthMethod::Cookie { None } else { self.0.outside.identify(token) }
    }

    fn identify_session(
        &self,
        state: &ControlState,
        audience: &str,
        token: &str,
        via: AuthMethod,
    ) -> Result<Caller, AuthError> {
        let history = self.history_of(state).ok_or(AuthError::HistoryEnded)?;
        let identities = state.identities();
        let now_s = self.0.clock.wall_ms() / 1_000;
        let checked = self.0.sessions.check(identities, Realm { audience, history }, token, now_s);
        let claims = checked.map_err(|error| match error {
            TokenError::Expired { at_s } => AuthError::Expired(ExpiredCredential {
                kind: CredentialKind::Session,
                at_ms: at_s.saturating_mul(1_000),
                now_ms: now_s * 1_000,
            }),
            TokenError::HistoryEnded => AuthError::HistoryEnded,
            TokenError::Invalid => AuthError::Invalid,
        })?;
        let user = identities.users.get(claims.user_name.as_str()).ok_or(AuthError::Revoked)?;
        let session = claims.session();
        if has_ended(user, &session) || user.credential_version != claims.credential_version {
            return Err(AuthError::Revoked);
        }
        let session = SessionRef {
            credential_version: user.credential_version,
            session,
            signed_in_s: claims.signed_in_s(),
        };
        let user_name = user.name.as_str().into();
        let (role, session) = (Some(user.role), Some(session));
        Ok(Caller { user: user_name, role, via, session, ..Caller::default() })
    }

    fn identify_break_glass(&self, token: &str) -> Result<Caller, AuthError> {
        let settings = &self.0.settings;
        let own = settings.break_glass.as_ref().ok_or(AuthError::Invalid)?;
        if !api_token::is_same(own.expose().as_bytes(), token.as_bytes()) {
            return Err(AuthError::Invalid);
        }
        let user = Actor::break_glass_user(&settings.node_name).into();
        let role = Some(Role::Admin);
        Ok(Caller { user, role, via: AuthMethod::BreakGlass, ..Caller::default() })
    }

    /// How long this node has had no contact with the cluster, in seconds, if that is too long for accepting
    /// credentials. Before the first contact, the time counts from the start.
    fn too_stale_s(&self) -> Option<u64> {
        let since_start_ms = self.0.clock.monotonic_ms().saturating_sub(self.0.started_ms);
        let age_ms = self.0.contact.staleness_ms().unwrap_or(u64::MAX).min(since_start_ms);
        (age_ms > self.0.settings.credential_staleness_max_ms).then_some(age_ms / 1_000)
    }

    /// Whether this node knows enough to sign anybody in.
    fn may_sign_in(&self) -> Result<(), SigninError> {
        if let Some(age_s) = self.too_stale_s() {
            return Err(SigninError::Stale { age_s });
        }
        if !self.0.view.with_snapshot(Snapshot::has_state) {
            return Err(SigninError::NoState);
        }
        // The first leader creates the first account a moment after it begins to lead.
        let knows_users = |now: &Snapshot| !now.state.identities().users.is_empty();
        if self.0.view.with_snapshot(knows_users) { Ok(()) } else { Err(SigninError::NotReady) }
    }

    /// Opens a session if the name and the password are right. An unknown user takes as long as a wrong
    /// password. The future can be dropped safely.
    pub async fn sign_in(
        &self,
        user_name: &str,
        password: &str,
        client: IpAddr,
    ) -> Result<SignedIn, SigninError> {
        self.may_sign_in()?;
        let now_ms = self.0.clock.monotonic_ms();
        self.0
            .limit
            .try_begin(user_name, client, now_ms)
            .map_err(|retry_after_s| SigninError::TooManyAttempts { retry_after_s })?;
        let user = self.user(user_name);
        // A user from outside has no password, which must not show in the time either.
        let user = user.filter(|user| !is_from_outside(user));
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let asked_by = PasswordCaller::Stranger(client);
        let right = self.0.passwords.verify(password, hash, asked_by).await;
        let right = right.map_err(|_| self.take_back_attempt(user_name, client))?;
        let Some(user) = user.filter(|_| right) else { return Err(SigninError::Refused) };
        self.0.limit.take_back(user_name, client);
        self.open_session(&user).ok_or(SigninError::NotReady)
    }

    /// Takes back an attempt whose password was not checked, so that the limit does not count it.
    fn take_back_attempt(&self, user_name: &str, client: IpAddr) -> SigninError {
        self.0.limit.take_back(user_name, client);
        SigninError::Busy
    }

    /// Opens a session for a person whom a provider has signed in. The state must have the user already.
    ///
    /// # Errors
    ///
    /// [`SigninError::NotReady`] if this node does not know the user yet.
    pub fn open_proven(&self, proven: &Proven) -> Result<SignedIn, SigninError> {
        let user = self
            .user(proven.user_name.as_str())
            .filter(|user| user.password_hash == proven.credential && user.role == proven.role);
        user.and_then(|user| self.open_session(&user)).ok_or(SigninError::NotReady)
    }

    /// A person with the name that their user has already. The account at the provider may have been renamed since.
    #[must_use]
    pub fn with_own_name(&self, proven: Proven) -> Proven {
        let snapshot = self.0.view.snapshot();
        let users = &snapshot.state.identities().users;
        let is_own = |user: &User| user.password_hash == proven.credential;
        let name = proven.user_name.as_str();
        if users.get(name).is_some_and(|user| is_own(user)) {
            return proven;
        }
        // Two providers in the file may have the same issuer. Each has its own users. There are at most 1,000.
        let prefix = name.split_inclusive('/').next().unwrap_or_default();
        let mut own = users.values().filter(|user| user.name.as_str().starts_with(prefix));
        let own = own.find(|user| is_own(user)).map(|user| user.name.clone());
        Proven { user_name: own.unwrap_or_else(|| proven.user_name.clone()), ..proven }
    }

    fn open_session(&self, user: &User) -> Option<SignedIn> {
        let now_s = self.0.clock.wall_ms() / 1_000;
        self.issue(user, |identities, realm| self.0.sessions.issue(identities, realm, user, now_s))
    }

    fn issue(
        &self,
        user: &User,
        token: impl FnOnce(&Identities, Realm<'_>) -> Option<String>,
    ) -> Option<SignedIn> {
        let snapshot = self.0.view.snapshot();
        let identities = snapshot.state.identities();
        let audience = &self.audience(identities)?;
        let realm = Realm { audience, history: self.history_of(&snapshot.state)? };
        let access_token = token(identities, realm)?;
        let lifetime_s = self.0.settings.session_lifetime_s;
        Some(SignedIn { access_token, role: user.role, lifetime_s })
    }

    /// Issues a further token for the session of a caller, with the whole lifetime. The previous token stays valid for
    /// the rest of its own, because other requests of the page may be under way with it.
    ///
    /// # Errors
    ///
    /// See [`RenewError`].
    pub fn renew_session(&self, caller: &Caller) -> Result<SignedIn, RenewError> {
        let session = caller.session.ok_or(RenewError::NoSession)?;
        let now_s = self.0.clock.wall_ms() / 1_000;
        if now_s.saturating_sub(session.signed_in_s) >= SESSION_AGE_MAX_S {
            return Err(RenewError::TooOld);
        }
        let user = self.user(&caller.user).ok_or(RenewError::NoSession)?;
        let renewed = Renewed { id: session.session.id, signed_in_s: session.signed_in_s };
        let issue = |identities: &Identities, realm: Realm<'_>| {
            self.0.sessions.renew(renewed, identities, realm, &user, now_s)
        };
        self.issue(&user, issue).ok_or(RenewError::NotReady)
    }

    /// What the state must remember of a session that ends now, so that none of its tokens is accepted again. A token that
    /// was issued by [`Self::renew_session`] may expire later than the one that ended the session.
    #[must_use]
    pub fn ending_now(&self, session: EndedSession) -> EndedSession {
        let now_s = self.0.clock.wall_ms() / 1_000;
        let last_s = now_s + self.0.settings.session_lifetime_s;
        EndedSession { expires_at_s: session.expires_at_s.max(last_s), ..session }
    }

    /// A user, as the state has them now.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        let snapshot = self.0.view.snapshot();
        snapshot.state.identities().users.get(name).cloned()
    }

    /// Whether `password` is the user's present password. Attempts count like sign-ins.
    pub async fn verify_own_password(
        &self,
        user: &User,
        password: &str,
        client: IpAddr,
    ) -> Result<bool, SigninError> {
        let now_ms = self.0.clock.monotonic_ms();
        let name = user.name.as_str();
        self.0
            .limit
            .try_begin(name, client, now_ms)
            .map_err(|retry_after_s| SigninError::TooManyAttempts { retry_after_s })?;
        let hash = Some(user.password_hash.clone());
        let right = self.0.passwords.verify(password, hash, PasswordCaller::Known).await;
        let right = right.map_err(|_| self.take_back_attempt(name, client))?;
        if right {
            self.0.limit.take_back(name, client);
        }
        Ok(right)
    }

    /// Counts a change of the user's own password, before it is written. The error is the number of seconds until the next
    /// one is possible; then nothing was counted.
    pub fn count_own_password(&self, user: &User) -> Result<(), u64> {
        self.0.own_passwords.take(user.name.as_str(), self.0.clock.monotonic_ms())
    }

    /// Takes back a change of a user's own password that was counted and not made.
    pub fn uncount_own_password(&self, user: &User) {
        self.0.own_passwords.take_back(user.name.as_str());
    }

    /// Hashes a password for [`maxine_state::Command::PutUser`], if users may have it. The number of
    /// concurrent hashes is limited.
    pub async fn hash_password(&self, password: &str) -> Result<Box<str>, PasswordError> {
        self.0.passwords.hash(password).await
    }

    /// Creates an API token for [`maxine_state::Command::PutToken`].
    pub fn mint_api_token(&self, id: &Name) -> Result<MintedToken, MintError> {
        let snapshot = self.0.view.snapshot();
        let audience = self.audience(snapshot.state.identities()).ok_or(MintError::NotReady)?;
        api_token::mint(&audience, id).map_err(|_| MintError::NoRandomness)
    }

    /// The present history, for sessions. `None` if there is none yet, or if it has ended because the cluster was
    /// restored or recovered and the leader has not begun a new one.
    fn history_of(&self, state: &ControlState) -> Option<History> {
        let has_ended = self.0.contact.line().is_some_and(|line| line != state.line());
        state.history().filter(|_| !has_ended)
    }

    fn audience(&self, identities: &Identities) -> Option<String> {
        audience::of(&self.0.settings.cluster_name, identities)
    }
}

/// The token in `Bearer TOKEN`, with the scheme in upper or lower case. Nothing else is accepted.
fn bearer_token(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The token in the session's cookie. Over HTTPS only the cookie with the prefix counts, because another site of the same
/// domain, or whoever answers over plain HTTP, can set the other one, and so sign a person in as somebody else.
fn session_cookie(is_https: bool, headers: &HeaderMap) -> Option<&str> {
    let wanted = if is_https { SECURE_SESSION_COOKIE } else { SESSION_COOKIE };
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, value)| *name == wanted && !value.is_empty())
        .map(|(_, value)| value)
}

/// Whether a user signs in at a provider, and so has no password here.
#[must_use]
pub fn is_from_outside(user: &User) -> bool {
    user.password_hash.starts_with(outside::sign_in::CREDENTIAL_PREFIX)
}

/// Whether a session was ended. A session that was renewed has several tokens, which all end together.
fn has_ended(user: &User, session: &EndedSession) -> bool {
    user.ended_sessions.iter().any(|ended| ended.id == session.id)
}

/// The user for a role in the compatible API, which has one account for each role.
#[must_use]
pub fn first_user_with(identities: &Identities, role: Role) -> Option<&Name> {
    identities.users.values().find(|user| user.role == role).map(|user| &user.name)
}
