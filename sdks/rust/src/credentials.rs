//! Keeps the token of an OpenID provider, and replaces it before it expires.
//!
//! [`State`] decides what has to be done, and does no I/O.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock;
use crate::error::Error;
use crate::provider::{ClientCredentialsOptions, Endpoint, Failure, Fetched, Provider};

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// From this number of failures on the pause is the longest one.
const FAILURES_MAX: u32 = 6;
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(60);
/// A younger token that a node refuses is not replaced: the next one would be refused too.
const REFUSED_AFTER: Duration = Duration::from_secs(5);

/// Fetches tokens from an OpenID provider by the grant `client_credentials` (RFC 6749, section 4.4), and uses each
/// until it is about to expire. Clones share the token.
#[derive(Clone)]
pub struct ClientCredentials(Arc<Shared>);

struct Shared {
    provider: Provider,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Ends with the fetch in flight.
    fetching: Option<watch::Receiver<()>>,
    endpoint: Option<Endpoint>,
    failures: u32,
    /// Why the last fetch has failed, and when the next one may begin.
    failed: Option<(Failure, Instant)>,
}

struct Held {
    token: String,
    fetched_at: Instant,
    renew_at: Instant,
    expires_at: Instant,
}

/// What a request for a token has to do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Use this token, and fetch the next one if `renew` is set.
    Use { token: String, renew: bool },
    /// Wait for a fetch.
    Fetch,
    /// Wait until another fetch may begin.
    Pause(Instant),
    /// There will be no token in time, because of this.
    Fail(String),
}

impl ClientCredentials {
    /// Checks the settings. Nothing is fetched before the first token is needed.
    ///
    /// # Errors
    /// [`Error::Settings`] if the settings cannot be used.
    pub fn new(options: ClientCredentialsOptions) -> Result<Self, Error> {
        let (provider, state) = (Provider::new(options)?, Mutex::default());
        Ok(Self(Arc::new(Shared { provider, state })))
    }

    /// A token that is valid now. If none is held, it is fetched.
    ///
    /// # Errors
    /// [`Error::Token`] if the provider has refused the client, or gives no token until the deadline.
    pub async fn token(&self, deadline: Instant) -> Result<String, Error> {
        loop {
            let step = self.0.state().step(clock::now(), deadline);
            match step {
                Step::Use { token, renew } => {
                    if renew {
                        self.begin_fetch();
                    }
                    return Ok(token);
                }
                Step::Fail(message) => return Err(Error::Token(message)),
                Step::Pause(until) => tokio::time::sleep_until(until).await,
                Step::Fetch => {
                    let mut fetching = self.begin_fetch();
                    // The sender is dropped at the end of the fetch.
                    if tokio::time::timeout_at(deadline, fetching.changed()).await.is_err() {
                        return Err(Error::Token(self.0.state().why_late()));
                    }
                }
            }
        }
    }

    /// Notes that a node has refused this token. Returns whether to ask again, with another one.
    pub(crate) fn refused(&self, token: &str) -> bool {
        self.0.state().refused(token, clock::now())
    }

    /// Begins a fetch, if there is none in flight. It ends also if nobody waits for it.
    fn begin_fetch(&self) -> watch::Receiver<()> {
        let mut state = self.0.state();
        if let Some(fetching) = state.fetching.as_ref().filter(|one| one.has_changed().is_ok()) {
            return fetching.clone();
        }
        let (ended, fetching) = watch::channel(());
        state.fetching = Some(fetching.clone());
        let (shared, endpoint) = (Arc::clone(&self.0), state.endpoint.clone());
        tokio::spawn(async move {
            shared.fetch(endpoint).await;
            drop(ended);
        });
        fetching
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, endpoint: Option<Endpoint>) {
        let begun_at = clock::now();
        let result = self.ask(endpoint).await;
        let error = result.as_ref().err().map(|failure| failure.message.clone());
        let has_token = self.state().take(result, begun_at, clock::now(), fastrand::f64());
        if let (Some(error), true, Some(on_error)) =
            (error, has_token, &self.provider.options().on_error)
        {
            on_error(&Error::Token(error));
        }
    }

    async fn ask(&self, endpoint: Option<Endpoint>) -> Result<(Endpoint, Fetched), Failure> {
        let endpoint = match endpoint {
            Some(endpoint) => endpoint,
            None => self.provider.discover().await?,
        };
        let fetched = self.provider.fetch(&endpoint).await?;
        Ok((endpoint, fetched))
    }
}

impl State {
    fn valid(&self, now: Instant) -> Option<&Held> {
        self.held.as_ref().filter(|held| now < held.expires_at)
    }

    fn is_fetching(&self) -> bool {
        self.fetching.as_ref().is_some_and(|fetching| fetching.has_changed().is_ok())
    }

    fn step(&self, now: Instant, deadline: Instant) -> Step {
        let pause = self.failed.as_ref().filter(|(_, until)| now < *until);
        if let Some(held) = self.valid(now) {
            let renew = now >= held.renew_at && pause.is_none();
            return Step::Use { token: held.token.clone(), renew };
        }
        match pause {
            _ if self.is_fetching() => Step::Fetch,
            Some((failure, until)) if failure.is_final || *until > deadline => {
                Step::Fail(failure.message.clone())
            }
            Some((_, until)) => Step::Pause(*until),
            None => Step::Fetch,
        }
    }

    fn why_late(&self) -> String {
        let last = self.failed.as_ref().map(|(failure, _)| failure.message.clone());
        last.unwrap_or_else(|| "the provider has not answered in time".into())
    }

    /// Notes the result of a fetch. Returns whether there is a valid token. `random`, from 0 to 1, keeps clients from
    /// fetching together.
    fn take(
        &mut self,
        result: Result<(Endpoint, Fetched), Failure>,
        begun_at: Instant,
        now: Instant,
        random: f64,
    ) -> bool {
        match result {
            Ok((endpoint, Fetched { token, lifetime })) => {
                let margin = (lifetime / 5).min(RENEW_BEFORE_MAX).mul_f64(1.0 + random / 2.0);
                let expires_at = begun_at + lifetime;
                let renew_at = expires_at - margin;
                self.held = Some(Held { token, fetched_at: begun_at, renew_at, expires_at });
                (self.endpoint, self.failures, self.failed) = (Some(endpoint), 0, None);
            }
            Err(failure) => {
                let pause = match self.failures {
                    failures if failures < FAILURES_MAX => PAUSE_MIN * (1_u32 << failures),
                    _ => PAUSE_MAX,
                };
                let pause = pause.mul_f64(0.5 + random / 2.0).max(failure.retry_after);
                self.failures = self.failures.saturating_add(1);
                self.failed = Some((failure, now + pause));
                // The provider may have moved.
                self.endpoint = None;
            }
        }
        self.valid(now).is_some()
    }

    fn refused(&mut self, token: &str, now: Instant) -> bool {
        let Some(held) = self.held.as_ref().filter(|held| held.token == token) else {
            return true;
        };
        if now.saturating_duration_since(held.fetched_at) < REFUSED_AFTER {
            return false;
        }
        self.held = None;
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The endpoint of settings that name it.
    async fn endpoint() -> Endpoint {
        let options = ClientCredentialsOptions {
            client_id: "orders".into(),
            token_url: Some("https://id.test/token".into()),
            client_secret_env: Some("SECRET".into()),
            ..ClientCredentialsOptions::default()
        };
        Provider::new(options).unwrap().discover().await.unwrap()
    }

    fn fetched(token: &str, seconds: u32) -> Fetched {
        Fetched { token: token.into(), lifetime: SECOND * seconds }
    }

    fn failure(is_final: bool) -> Failure {
        Failure { message: "why".into(), is_final, retry_after: Duration::ZERO }
    }

    #[tokio::test]
    async fn a_token_is_renewed_before_it_expires_and_used_while_the_provider_fails() {
        let now = clock::now();
        let mut state = State::default();
        assert_eq!(state.step(now, now + SECOND), Step::Fetch);
        assert!(state.take(Ok((endpoint().await, fetched("one", 100))), now, now, 1.0));
        let use_of = |renew| Step::Use { token: "one".into(), renew };
        assert_eq!(state.step(now + SECOND * 69, now), use_of(false));
        assert_eq!(state.step(now + SECOND * 70, now), use_of(true));
        // It has failed: the next fetch waits, the token is used.
        let later = now + SECOND * 70;
        assert!(state.take(Err(failure(true)), later, later, 0.0));
        assert_eq!(state.step(later, later), use_of(false));
        assert_eq!(state.step(later + PAUSE_MIN / 2, later), use_of(true));
        let expired = now + SECOND * 100;
        assert_eq!(state.step(expired, expired), Step::Fetch);
    }

    #[tokio::test]
    async fn a_provider_that_fails_is_asked_again_after_a_pause_that_grows() {
        let now = clock::now();
        let (soon, late) = (now + SECOND / 10, now + SECOND * 100);
        let mut state = State::default();
        assert!(!state.take(Err(failure(false)), now, now, 1.0));
        assert_eq!(state.step(now, late), Step::Pause(now + PAUSE_MIN));
        assert_eq!(state.step(now, soon), Step::Fail("why".into()));
        assert_eq!(state.step(now + PAUSE_MIN, soon), Step::Fetch);
        for _ in 0..20 {
            state.take(Err(failure(false)), now, now, 1.0);
        }
        assert_eq!(state.step(now, late), Step::Pause(now + PAUSE_MAX));
        let told = Failure { retry_after: SECOND * 90, ..failure(false) };
        state.take(Err(told), now, now, 1.0);
        assert_eq!(state.step(now, late), Step::Pause(now + SECOND * 90));
        state.take(Err(failure(true)), now, now, 1.0);
        assert_eq!(state.step(now, late), Step::Fail("why".into()));
    }

    #[tokio::test]
    async fn a_token_that_a_node_refuses_is_replaced_unless_it_is_new() {
        let now = clock::now();
        let mut state = State::default();
        state.take(Ok((endpoint().await, fetched("one", 100))), now, now, 0.0);
        assert!(!state.refused("one", now + SECOND * 4));
        assert!(state.refused("an older one", now));
        assert!(state.refused("one", now + SECOND * 5));
        assert_eq!(state.step(now + SECOND * 5, now), Step::Fetch);
    }
}
