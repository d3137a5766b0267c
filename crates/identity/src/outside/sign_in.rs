//! Sign-in at an OpenID provider: the authorization code flow with PKCE, and the device flow (RFC 8628).
//!
//! Each provider has a redirect URL of its own, so that the answer of one is never taken for that of another. A sign-in
//! is finished only by the browser or the command line that began it, which has its ticket. Only one code is sent to the
//! provider for a ticket.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use maxine_admission::{WorkTurn, WorkTurns};
use reqwest::Url;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::keys::Unverified;
use super::remote::{Away, Proof, encoded};
use super::settings::{claim, texts};
use super::source::Known;
use super::ticket::{Derived, LIFETIME_S, Ticket, Way};
use super::{OfProvider, Outside};
use crate::api_token::is_same;
use crate::{Security, SigninError};
use maxine_state::limits::check_user_name;
use maxine_state::{Name, Role};

/// Maximum length of a path in the dashboard, in bytes.
const PATH_LEN_MAX: usize = 512;
/// What the stored credential of a user from outside begins with. No password's hash does.
pub(crate) const CREDENTIAL_PREFIX: &str = "outside:";

/// A provider, for the sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderName {
    /// Its name in URLs and commands.
    pub name: String,
    /// Its name for people.
    pub title: String,
}

/// Where the person returns to.
#[derive(Clone, Debug)]
pub enum Return {
    /// The dashboard. The text is a path of it, or anything else for its first page.
    Dashboard(String),
    /// A URL of the command line on the person's own machine.
    Loopback(String),
}

/// A sign-in that has begun.
#[derive(Debug)]
pub struct Begun {
    /// Where the browser goes.
    pub authorization_url: String,
    /// The `state` with which the provider sends the browser back.
    pub state: String,
    /// The ticket, which is needed to finish the sign-in.
    pub ticket: String,
    /// How long it may take, in seconds.
    pub lifetime_s: u64,
}

/// A sign-in on another device that has begun.
#[derive(Debug)]
pub struct BegunDevice {
    /// What the person types.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it, if the provider has such a URL.
    pub verification_uri_complete: Option<String>,
    /// The pause between two questions whether the person has signed in, in seconds.
    pub interval_s: u64,
    /// The ticket, which is needed to ask.
    pub ticket: String,
    /// How long it may take, in seconds.
    pub lifetime_s: u64,
}

/// What the provider sent back with the browser.
#[derive(Clone, Debug, Default)]
pub struct Callback {
    /// The code.
    pub code: Option<String>,
    /// The `state`.
    pub state: Option<String>,
    /// The issuer (RFC 9207).
    pub iss: Option<String>,
    /// Why the provider did not sign the person in.
    pub error: Option<String>,
}

/// A person whom a provider has signed in.
#[derive(Debug)]
pub struct Proven {
    /// The name of their user here: the provider's name, a slash and a claim.
    pub user_name: Name,
    /// Their role.
    pub role: Role,
    /// What the state stores instead of a password's hash. It names the account at the provider.
    pub credential: Box<str>,
    /// The issuer.
    pub issuer: String,
    /// The account at the issuer.
    pub subject: String,
    /// The path of the dashboard to go to.
    pub path: String,
}

/// The answer to the question whether a person has signed in on the other device.
#[derive(Debug)]
pub enum Polled {
    /// They have.
    Proven(Proven),
    /// Not yet. The provider may ask for a longer pause.
    Pending {
        /// Whether the pause must become 5 seconds longer.
        slow_down: bool,
    },
}

/// Why a sign-in at a provider fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// No provider has this name.
    #[error("there is no provider with this name")]
    Unknown,
    /// The file of outside identities has no `public_url`.
    #[error(
        "public_url is not set in the file of outside identities, so the provider cannot send browsers back"
    )]
    NoPublicUrl,
    /// The URL of the command line is not on the person's machine.
    #[error("the redirect URI must be http://127.0.0.1:PORT/PATH or http://[::1]:PORT/PATH")]
    NotLoopback,
    /// The provider cannot be reached. Whoever signs in is a stranger, so the reason is for the log only: see
    /// [`Self::reason`].
    #[error(
        "the provider cannot be reached, or its answer cannot be used; the log of this node says why"
    )]
    Away(#[from] Away),
    /// The provider does not offer this kind of sign-in.
    #[error("the provider does not offer this: it has no {0}")]
    Unsupported(&'static str),
    /// The ticket is missing, too old, used, or of another sign-in.
    #[error(
        "this sign-in took more than 10 minutes, was finished before, or began in another browser: start again"
    )]
    NotBegun,
    /// The provider did not sign the person in.
    #[error("the provider refused the sign-in: {0}")]
    Denied(String),
    /// The provider's answer is not valid.
    #[error("the answer of the provider is not valid: {0}")]
    Invalid(&'static str),
    /// The person has no role here.
    #[error("no group of this account has a role here")]
    NoRole,
    /// The name cannot be that of a user.
    #[error("the claim with the user's name has a value that cannot be a user name")]
    UnusableName,
    /// Too many sign-ins take place, or too many of this address did not succeed within 10 minutes.
    #[error("too many sign-ins at this node, or from this address; try again later")]
    Busy,
    /// No sign-in is possible at this node now, of whatever kind.
    #[error(transparent)]
    NotNow(#[from] SigninError),
}

impl ProviderError {
    /// The complete text for the log.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Away(away) => format!("the provider cannot be reached: {away}"),
            other => other.to_string(),
        }
    }

    /// The error of a sign-in whose request has no time left.
    #[must_use]
    pub fn late() -> Self {
        Self::Away(Away::new("there was no answer within the time of the request"))
    }

    /// A fixed word for the dashboard, which has a text for each.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown | Self::NoPublicUrl | Self::NotLoopback | Self::Unsupported(_) => {
                "not_set_up"
            }
            Self::Away(_) => "provider_away",
            Self::NotBegun => "start_again",
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid_answer",
            Self::NoRole => "no_role",
            Self::UnusableName => "unusable_name",
            Self::Busy | Self::NotNow(_) => "try_later",
        }
    }
}

/// The path of the callback of a provider.
fn callback_path(provider: &str) -> String {
    format!("/api/v1/session/providers/{provider}/callback")
}

/// A path of the dashboard that is safe to redirect to: on this host, whatever a browser makes of it.
fn safe_path(path: &str) -> String {
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_own = path.starts_with('/') && !path.starts_with("//");
    if is_plain && is_own && path.len() <= PATH_LEN_MAX { path.into() } else { "/".into() }
}

/// Whether a URL leads to a program on the person's own machine (RFC 8252, section 7.3). The text itself is sent to the
/// provider, so it must be what the check has understood.
fn is_loopback(url: &str) -> bool {
    let Ok(parsed) = Url::parse(url) else { return false };
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    is_plain
        && parsed.as_str() == url
        && parsed.scheme() == "http"
        && matches!(parsed.host_str(), Some("127.0.0.1" | "[::1]"))
        && parsed.port().is_some()
        && parsed.username().is_empty()
        && parsed.password().is_none()
        && parsed.fragment().is_none()
        && url.len() <= 256
}

/// Waits until a client may ask the provider.
async fn turn(turns: &WorkTurns, client: IpAddr) -> Result<WorkTurn, ProviderError> {
    turns.take(client).await.ok_or(ProviderError::Busy)
}

fn text<'a>(document: &'a Value, name: &str) -> Option<&'a str> {
    document.get(name).and_then(Value::as_str)
}

/// An error code of a provider, fit for logs and messages (RFC 6749, section 4.1.2.1).
fn error_code(code: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    code.chars().filter(is_plain).take(64).collect()
}

impl OfProvider {
    fn endpoint<'a>(&self, known: &'a Known, name: &'static str) -> Result<&'a str, ProviderError> {
        let url = known.metadata.endpoint(name).ok_or(ProviderError::Unsupported(name))?;
        if self.source.remote.is_guarded(url) {
            Ok(url)
        } else {
            Err(ProviderError::Invalid("it names an endpoint without https"))
        }
    }

    /// What is known of the provider. Waits only if nothing is known.
    async fn known(&self, outside: &Outside) -> Result<Arc<Known>, Away> {
        self.source.get(&outside.clock, &outside.wake).await
    }

    /// Posts a form with the proof of who Maxine is.
    async fn post(
        &self,
        known: &Known,
        endpoint: &'static str,
        form: &[(&str, &str)],
    ) -> Result<(u16, Value), ProviderError> {
        let url = self.endpoint(known, endpoint)?;
        let id = self.settings.client_id.as_str();
        let mut form = form.to_vec();
        let Some(path) = &self.settings.client_secret_file else {
            form.push(("client_id", id));
            return Ok(self.source.remote.post(url, Proof::Nothing, &form).await?);
        };
        // The file is read each time, so a new secret needs no restart.
        let secret = maxine_files::read_text_on_thread(path).await.map_err(|error| {
            tracing::error!(file = %path.display(), %error, "the secret of a provider cannot be read");
            Away::new("this node cannot read the secret of the provider")
        })?;
        let secret = secret.trim();
        if known.metadata.takes_basic() {
            let (id, secret) = (encoded(id), encoded(secret));
            return Ok(self.source.remote.post(url, Proof::Basic(&id, &secret), &form).await?);
        }
        form.extend([("client_id", id), ("client_secret", secret)]);
        Ok(self.source.remote.post(url, Proof::Nothing, &form).await?)
    }

    /// The verified claims of an ID token (OpenID Connect Core 1.0, section 3.1.3.7).
    async fn claims(
        &self,
        outside: &Outside,
        id_token: &str,
        nonce: Option<&str>,
    ) -> Result<Value, ProviderError> {
        let invalid = |why| Err(ProviderError::Invalid(why));
        let mut verified = self.known(outside).await?.keys.verify(id_token);
        if verified == Err(Unverified::UnknownKey) {
            self.source.attempted(&outside.clock, &outside.wake).await;
            verified = self.known(outside).await?.keys.verify(id_token);
        }
        let Ok(claims) = verified else { return invalid("its ID token is not signed by it") };
        let (now_s, skew_s) = (outside.clock.wall_ms() / 1_000, self.settings.clock_skew_s);
        let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).map(|at| at as u64);
        if text(&claims, "iss") != Some(&self.settings.issuer) {
            return invalid("its ID token is of another issuer");
        }
        let (id, audiences) = (self.settings.client_id.as_str(), texts(claims.get("aud")));
        let party = claims.get("azp");
        let is_own_party = party.is_none_or(|party| party.as_str() == Some(id));
        if !audiences.contains(&id) || !is_own_party || (audiences.len() > 1 && party.is_none()) {
            return invalid("its ID token is for another client");
        }
        let expires_s = seconds("exp").unwrap_or(0);
        let starts_s = seconds("nbf").unwrap_or(0);
        let Some(issued_s) = seconds("iat") else { return invalid("its ID token has no time") };
        if expires_s.saturating_add(skew_s) <= now_s {
            return invalid("its ID token has expired, or the clocks differ");
        }
        if issued_s.max(starts_s) > now_s.saturating_add(skew_s) {
            return invalid("its ID token is not valid yet, or the clocks differ");
        }
        let own = text(&claims, "nonce").unwrap_or_default();
        if nonce.is_some_and(|nonce| !is_same(nonce.as_bytes(), own.as_bytes())) {
            return invalid("its ID token is of another sign-in");
        }
        Ok(claims)
    }

    /// The person whom the answer of the token endpoint is about.
    async fn prove(
        &self,
        outside: &Outside,
        known: &Known,
        answer: &Value,
        nonce: Option<&str>,
    ) -> Result<Proven, ProviderError> {
        let id_token = text(answer, "id_token");
        let id_token = id_token.ok_or(ProviderError::Invalid("it sent no ID token"))?;
        let mut claims = self.claims(outside, id_token, nonce).await?;
        let subject = text(&claims, "sub").unwrap_or_default().to_owned();
        if subject.is_empty() || subject.len() > 255 {
            return Err(ProviderError::Invalid("its ID token has no subject"));
        }
        let settings = &self.settings;
        let is_missing = |name: &str| claim(&claims, name).is_none();
        if (is_missing(&settings.user_claim) || is_missing(&settings.groups_claim))
            && let (Ok(url), Some(token)) =
                (self.endpoint(known, "userinfo_endpoint"), text(answer, "access_token"))
        {
            let info: Value = self.source.remote.get(url, Proof::Bearer(token)).await?;
            if text(&info, "sub") != Some(&subject) {
                return Err(ProviderError::Invalid("its user info is of another account"));
            }
            if let (Value::Object(own), Value::Object(more)) = (&mut claims, info) {
                for (name, value) in more {
                    own.entry(name).or_insert(value);
                }
            }
        }
        let role = settings.role_of(&claims).ok_or(ProviderError::NoRole)?;
        let is_unverified = claims.get("email_verified") == Some(&Value::Bool(false));
        if settings.user_claim == "email" && is_unverified {
            return Err(ProviderError::UnusableName);
        }
        let name = claim(&claims, &settings.user_claim).and_then(Value::as_str);
        let name = format!("{}/{}", settings.name, name.unwrap_or(&subject));
        check_user_name("user", &name).map_err(|_| ProviderError::UnusableName)?;
        let user_name = Name::parse("user", &name).map_err(|_| ProviderError::UnusableName)?;
        let issuer = settings.issuer.clone();
        // An issuer is a URL and has no line break, so the two texts cannot be mistaken.
        let account = Sha256::digest(format!("{issuer}\n{subject}"));
        let credential = format!("{CREDENTIAL_PREFIX}{}", BASE64URL.encode(account)).into();
        Ok(Proven { user_name, role, credential, issuer, subject, path: "/".into() })
    }
}

impl Outside {
    fn provider(&self, name: &str) -> Result<Arc<OfProvider>, ProviderError> {
        let config = self.config.load();
        let found = config.providers.iter().find(|provider| provider.settings.name == name);
        found.cloned().ok_or(ProviderError::Unknown)
    }

    /// The URL to which a provider sends browsers back.
    fn callback_url(&self, provider: &str) -> Result<String, ProviderError> {
        let config = self.config.load();
        let own = config.public_url.as_deref().ok_or(ProviderError::NoPublicUrl)?;
        Ok(format!("{own}{}", callback_path(provider)))
    }
}

impl Security {
    /// The providers at which people may sign in.
    #[must_use]
    pub fn providers(&self) -> Vec<ProviderName> {
        let config = self.0.outside.config.load();
        let names = config.providers.iter().map(|provider| ProviderName {
            name: provider.settings.name.clone(),
            title: provider.settings.title.clone(),
        });
        names.collect()
    }

    /// Seals a ticket with the key that signs sessions. Returns its text and the secret values of the sign-in.
    fn seal(&self, ticket: &Ticket) -> Result<(String, Derived), ProviderError> {
        let snapshot = self.0.view.snapshot();
        let identities = snapshot.state.identities();
        let not_ready = ProviderError::NotNow(SigninError::NotReady);
        let (Some(audience), Some(secret)) =
            (self.audience(identities), self.0.sessions.secrets(identities).next())
        else {
            return Err(not_ready);
        };
        let sealed = ticket.sealed(secret, &audience).zip(ticket.derived(secret));
        sealed.ok_or(ProviderError::Busy)
    }

    fn open_ticket(&self, provider: &str, text: &str) -> Result<(Ticket, Derived), ProviderError> {
        let snapshot = self.0.view.snapshot();
        let identities = snapshot.state.identities();
        let not_ready = ProviderError::NotNow(SigninError::NotReady);
        let audience = self.audience(identities).ok_or(not_ready)?;
        let now_s = self.0.clock.wall_ms() / 1_000;
        let secrets = self.0.sessions.secrets(identities);
        let opened = Ticket::open(text, secrets, &audience, now_s);
        let (ticket, secret) = opened.ok_or(ProviderError::NotBegun)?;
        let derived = ticket.derived(secret).ok_or(ProviderError::Busy)?;
        if ticket.provider != provider {
            return Err(ProviderError::NotBegun);
        }
        Ok((ticket, derived))
    }

    fn new_ticket(&self, provider: &str, way: Way) -> Result<Ticket, ProviderError> {
        let now_s = self.0.clock.wall_ms() / 1_000;
        Ticket::new(provider, way, now_s).ok_or(ProviderError::Busy)
    }

    /// Begins a sign-in: the browser goes to the provider.
    ///
    /// # Errors
    ///
    /// See [`ProviderError`].
    pub async fn begin_at_provider(
        &self,
        name: &str,
        back: Return,
        client: IpAddr,
    ) -> Result<Begun, ProviderError> {
        self.may_sign_in()?;
        let outside = &self.0.outside;
        let provider = outside.provider(name)?;
        let (redirect_uri, way) = match back {
            Return::Dashboard(path) => {
                (outside.callback_url(name)?, Way::Dashboard(safe_path(&path)))
            }
            Return::Loopback(url) if is_loopback(&url) => (url.clone(), Way::Loopback(url)),
            Return::Loopback(_) => return Err(ProviderError::NotLoopback),
        };
        // Nothing is asked if the provider is known.
        let is_known = provider.source.known(self.0.clock.monotonic_ms()).is_some();
        let _question =
            if is_known { None } else { Some(turn(&provider.questions, client).await?) };
        let known = provider.known(outside).await?;
        let endpoint = provider.endpoint(&known, "authorization_endpoint")?;
        let ticket = self.new_ticket(name, way)?;
        let (text, derived) = self.seal(&ticket)?;
        let challenge = BASE64URL.encode(Sha256::digest(derived.verifier.as_bytes()));
        let mut url = Url::parse(endpoint)
            .map_err(|_| ProviderError::Invalid("its authorization endpoint is no URL"))?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &provider.settings.client_id)
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("scope", &provider.settings.scopes.join(" "))
            .append_pair("state", &derived.state)
            .append_pair("nonce", &derived.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let (authorization_url, state) = (url.into(), derived.state);
        Ok(Begun { authorization_url, state, ticket: text, lifetime_s: LIFETIME_S })
    }

    /// Finishes a sign-in with what the provider sent back. Once a code was sent to the provider, the sign-in is
    /// finished, whatever comes of it. After a failure before that, it can be tried again.
    ///
    /// # Errors
    ///
    /// See [`ProviderError`].
    pub async fn finish_at_provider(
        &self,
        name: &str,
        ticket: &str,
        callback: &Callback,
        client: IpAddr,
    ) -> Result<Proven, ProviderError> {
        self.may_sign_in()?;
        let outside = &self.0.outside;
        let provider = outside.provider(name)?;
        let (ticket, derived) = self.open_ticket(name, ticket)?;
        // First of all, so that nobody else's page can end the sign-in with an error.
        let state = callback.state.as_deref().unwrap_or_default();
        if !is_same(state.as_bytes(), derived.state.as_bytes()) {
            return Err(ProviderError::NotBegun);
        }
        let (redirect_uri, path) = match &ticket.way {
            Way::Dashboard(path) => (outside.callback_url(name)?, path.clone()),
            Way::Loopback(url) => (url.clone(), "/".into()),
            Way::Device { .. } => return Err(ProviderError::NotBegun),
        };
        let _question = turn(&provider.questions, client).await?;
        self.begin_attempt(&ticket.id, client)?;
        let known = provider.known(outside).await?;
        let names_issuer = known.metadata.authorization_response_iss_parameter_supported;
        match callback.iss.as_deref() {
            Some(issuer) if issuer == provider.settings.issuer => {}
            None if !names_issuer => {}
            _ => return Err(ProviderError::Invalid("it came from another issuer")),
        }
        if let Some(code) = &callback.error {
            return Err(ProviderError::Denied(error_code(code)));
        }
        let code = callback.code.as_deref().unwrap_or_default();
        if code.is_empty() || code.len() > 4_096 {
            return Err(ProviderError::Invalid("it has no code"));
        }
        // The sign-in is stored only now, just before the request to the provider. If it were stored earlier, strangers
        // could fill the table with callbacks that cause no such request.
        provider.finished.finish(&ticket, client, &outside.clock)?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri.as_str()),
            ("code_verifier", derived.verifier.as_str()),
        ];
        let (status, answer) = provider.post(&known, "token_endpoint", &form).await?;
        if status != 200 {
            let code = text(&answer, "error").unwrap_or("no reason given");
            return Err(ProviderError::Denied(error_code(code)));
        }
        let proven = provider.prove(outside, &known, &answer, Some(&derived.nonce)).await?;
        provider.finished.succeeded(&ticket);
        self.0.limit.take_back(&ticket.id, client);
        Ok(Proven { path, ..proven })
    }

    /// Begins a sign-in on another device.
    ///
    /// # Errors
    ///
    /// See [`ProviderError`].
    pub async fn begin_on_device(
        &self,
        name: &str,
        client: IpAddr,
    ) -> Result<BegunDevice, ProviderError> {
        self.may_sign_in()?;
        let outside = &self.0.outside;
        let provider = outside.provider(name)?;
        // A user name has no colon, so this counts apart from passwords.
        self.begin_attempt("device:", client)?;
        let _question = turn(&provider.questions, client).await?;
        let known = provider.known(outside).await?;
        let scope = provider.settings.scopes.join(" ");
        let form = [("scope", scope.as_str()), ("client_id", &provider.settings.client_id)];
        let (status, answer) =
            provider.post(&known, "device_authorization_endpoint", &form).await?;
        if status != 200 {
            let code = text(&answer, "error").unwrap_or("no reason given");
            return Err(ProviderError::Denied(error_code(code)));
        }
        let shown = |name: &str| {
            let value = text(&answer, name)?;
            let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
            (is_plain && !value.is_empty() && value.len() <= 1_024).then(|| value.to_owned())
        };
        let url = |name: &str| shown(name).filter(|url| provider.source.remote.is_guarded(url));
        let (Some(user_code), Some(verification_uri), Some(device_code)) =
            (shown("user_code"), url("verification_uri"), shown("device_code"))
        else {
            return Err(ProviderError::Invalid("it has no code for the device"));
        };
        let interval_s = answer.get("interval").and_then(Value::as_u64).unwrap_or(5).clamp(1, 60);
        let way = Way::Device { code: device_code, interval_s };
        let mut ticket = self.new_ticket(name, way)?;
        let given_s = answer.get("expires_in").and_then(Value::as_u64).unwrap_or(LIFETIME_S);
        let lifetime_s = given_s.clamp(1, LIFETIME_S);
        ticket.expires_s = ticket.expires_s - LIFETIME_S + lifetime_s;
        let (text, _) = self.seal(&ticket)?;
        Ok(BegunDevice {
            user_code,
            verification_uri,
            verification_uri_complete: url("verification_uri_complete"),
            interval_s,
            ticket: text,
            lifetime_s,
        })
    }

    /// Asks whether the person has signed in on the other device. The provider is not asked if the last question came
    /// less than its interval before this one.
    ///
    /// # Errors
    ///
    /// See [`ProviderError`].
    pub async fn poll_device(
        &self,
        name: &str,
        ticket: &str,
        client: IpAddr,
    ) -> Result<Polled, ProviderError> {
        self.may_sign_in()?;
        let outside = &self.0.outside;
        let provider = outside.provider(name)?;
        let (ticket, _) = self.open_ticket(name, ticket)?;
        let Way::Device { code, interval_s } = &ticket.way else {
            return Err(ProviderError::NotBegun);
        };
        let _question = turn(&provider.polls, client).await?;
        self.begin_attempt(&ticket.id, client)?;
        // The question is stored only now, so that a refused one takes no room in the table.
        if !provider.asked.may_ask(&ticket, *interval_s, client, &outside.clock)? {
            self.0.limit.take_back(&ticket.id, client);
            return Ok(Polled::Pending { slow_down: true });
        }
        let known = provider.known(outside).await?;
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        let form = [("grant_type", grant), ("device_code", code.as_str())];
        let (status, answer) = provider.post(&known, "token_endpoint", &form).await?;
        let polled = match (status, text(&answer, "error")) {
            (200, _) => {
                provider.asked.finish(&ticket, client, &outside.clock)?;
                let proven = provider.prove(outside, &known, &answer, None).await?;
                provider.asked.succeeded(&ticket);
                Polled::Proven(proven)
            }
            (_, Some("authorization_pending")) => Polled::Pending { slow_down: false },
            (_, Some("slow_down")) => Polled::Pending { slow_down: true },
            (_, code) => {
                let code = code.unwrap_or("no reason given");
                return Err(ProviderError::Denied(error_code(code)));
            }
        };
        self.0.limit.take_back(&ticket.id, client);
        Ok(polled)
    }

    /// Where a browser signs out at the provider. `None` if the provider has no such page, or is not known now.
    #[must_use]
    pub fn sign_out_url(&self, name: &str) -> Option<String> {
        let outside = &self.0.outside;
        let provider = outside.provider(name).ok()?;
        let known = provider.source.known(self.0.clock.monotonic_ms())?;
        let endpoint = provider.endpoint(&known, "end_session_endpoint").ok()?;
        let mut url = Url::parse(endpoint).ok()?;
        url.query_pairs_mut().append_pair("client_id", &provider.settings.client_id);
        if let Some(own) = &outside.config.load().public_url {
            url.query_pairs_mut().append_pair("post_logout_redirect_uri", &format!("{own}/"));
        }
        Some(url.into())
    }

    /// Counts an attempt against the limit of sign-ins.
    fn begin_attempt(&self, key: &str, client: IpAddr) -> Result<(), ProviderError> {
        let now_ms = self.0.clock.monotonic_ms();
        let begun = self.0.limit.try_begin(key, client, now_ms);
        begun.map_err(|retry_after_s| SigninError::TooManyAttempts { retry_after_s }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_host_are_redirected_to() {
        for path in ["/", "/#/services?namespace=a", "/ui/x"] {
            assert_eq!(safe_path(path), path);
        }
        let long = format!("/{}", "a".repeat(PATH_LEN_MAX));
        for path in [
            "",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "https://evil.example",
            "evil",
            "/a\r\nset-cookie: x=y",
            "/\t/evil.example",
            "/a b",
            "/é",
            &long,
        ] {
            assert_eq!(safe_path(path), "/", "{path:?}");
        }
    }

    #[test]
    fn a_code_is_sent_to_a_program_on_the_own_machine_only() {
        for url in ["http://127.0.0.1:4000/", "http://[::1]:4000/callback?x=1"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://127.0.0.1:4000",
            "http:\\\\127.0.0.1:4000/",
            "http:/127.0.0.1:4000/",
            " http://127.0.0.1:4000/",
            "http://127.0.0.1:4000/\tx",
            "http://127.0.0.1:4000/?a b",
            "http://127.0.0.1:4000/?a\\b",
            "http://127.0.0.1:4000/a\\b",
            "http://127.0.0.1:4000/é",
            "http://2130706433:4000/",
            "http://127.1:4000/",
            "HTTP://127.0.0.1:4000/",
            "http://127.0.0.1:04000/",
            "http://127.0.0.1/",
            "http://localhost:4000/",
            "https://127.0.0.1:4000/",
            "http://127.0.0.1.evil.example:4000/",
            "http://user@127.0.0.1:4000/",
            "http://127.0.0.1:4000/#x",
            "http://10.0.0.1:4000/",
            "x:127.0.0.1",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[test]
    fn an_error_of_a_provider_is_one_short_word() {
        assert_eq!(error_code("access_denied"), "access_denied");
        assert_eq!(error_code("<b>\r\nx: y</b>"), "bxyb");
        assert_eq!(error_code(&"a".repeat(100)).len(), 64);
    }
}
