//! The keys of one issuer, and what its discovery document says. They are fetched when they are needed, kept, and
//! fetched again: after some minutes, and when a token names a key that is not known.
//!
//! Place in the flow: [`crate::Security::keep_keys`] makes all attempts. Requests use what is known. They wait for an
//! attempt only if nothing is known, or if a token names a key that is not known, and they all share its result.
//!
//! **Invariant:** however many tokens with invented key ids arrive, an issuer is asked at most once in [`PAUSE_MS`],
//! counted from the end of the last attempt, and by one attempt at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::keys::Keys;
use super::metadata::Metadata;
use super::remote::{Away, Proof, Remote};
use maxine_clock::Clock;

/// Keys are fetched again when they are older, in milliseconds.
const REFRESH_MS: u64 = 5 * 60_000;
/// Keys are not used any more when they are older and could not be fetched again, in milliseconds.
const AGE_MS_MAX: u64 = 24 * 3_600_000;
/// Minimum time between the end of an attempt to fetch them and the next one, in milliseconds.
const PAUSE_MS: u64 = 5_000;
/// Time limit of an attempt, which may need two requests.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for an attempt. It is over earlier, unless new settings have replaced the source.
const WAIT_TIMEOUT: Duration = Duration::from_secs(12);

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its discovery document names the URL.
    Discovery,
    /// At this URL. A token may be needed to read them.
    Url(String),
    /// In this file.
    File(PathBuf),
}

/// What is known of an issuer.
pub(super) struct Known {
    /// What the discovery document says; empty if it is not used.
    pub(super) metadata: Metadata,
    /// The keys.
    pub(super) keys: Keys,
    at_ms: u64,
}

/// The attempts to fetch the keys.
#[derive(Default)]
struct Attempts {
    is_running: bool,
    /// When the last one ended; `None` before that.
    ended_ms: Option<u64>,
    /// Why it failed.
    failed: Option<Away>,
    /// Whether a request needs the keys now.
    is_wanted: bool,
}

impl Attempts {
    fn may_begin(&self, now_ms: u64) -> bool {
        let is_soon = |ended_ms| now_ms.saturating_sub(ended_ms) < PAUSE_MS;
        !self.is_running && !self.ended_ms.is_some_and(is_soon)
    }
}

/// The source of what is known of an issuer.
pub(super) struct Source {
    issuer: String,
    place: Place,
    token_file: Option<PathBuf>,
    pub(super) remote: Remote,
    known: ArcSwapOption<Known>,
    attempts: Mutex<Attempts>,
    /// Changes at the end of each attempt.
    ended: watch::Sender<()>,
}

impl Source {
    pub(super) fn new(
        issuer: &str,
        place: Place,
        token_file: Option<PathBuf>,
        remote: Remote,
    ) -> Self {
        Self {
            issuer: issuer.to_owned(),
            place,
            token_file,
            remote,
            known: ArcSwapOption::empty(),
            attempts: Mutex::default(),
            ended: watch::Sender::new(()),
        }
    }

    /// Begins with what another source of the same issuer and place knows.
    pub(super) fn take_over<'a>(&self, mut others: impl Iterator<Item = &'a Arc<Self>>) {
        let is_same = |other: &&Arc<Self>| other.issuer == self.issuer && other.place == self.place;
        if let Some(other) = others.find(is_same) {
            self.known.store(other.known.load_full());
        }
    }

    /// What is known and not too old.
    pub(super) fn known(&self, now_ms: u64) -> Option<Arc<Known>> {
        self.known.load_full().filter(|known| now_ms.saturating_sub(known.at_ms) < AGE_MS_MAX)
    }

    fn is_fresh(&self, now_ms: u64) -> bool {
        self.known(now_ms).is_some_and(|known| now_ms.saturating_sub(known.at_ms) < REFRESH_MS)
    }

    /// Asks for the keys again, because a token names one that is not known, or there are none. Returns whether it is
    /// worth waiting for them: an attempt runs or is due. The caller must wake [`crate::Security::keep_keys`].
    pub(super) fn want(&self, now_ms: u64) -> bool {
        let mut attempts = self.attempts.lock();
        let may_begin = attempts.may_begin(now_ms);
        attempts.is_wanted |= may_begin;
        may_begin || attempts.is_running
    }

    /// Begins an attempt if it is time for one: a request wants the keys, or they are kept fresh and are old.
    pub(super) fn begin(self: &Arc<Self>, clock: &Clock, keeps_fresh: bool) -> Option<Attempt> {
        let now_ms = clock.monotonic_ms();
        let mut attempts = self.attempts.lock();
        let is_due = attempts.is_wanted || (keeps_fresh && !self.is_fresh(now_ms));
        if !is_due || !attempts.may_begin(now_ms) {
            return None;
        }
        attempts.is_running = true;
        attempts.is_wanted = false;
        let failed = Some(Away::new("the attempt was ended"));
        Some(Attempt { source: Arc::clone(self), clock: clock.clone(), failed })
    }

    /// Waits for the end of the attempt that runs or is due. Returns at once if there is none.
    pub(super) async fn attempted(&self, clock: &Clock, wake: &Notify) {
        let mut ended = self.ended.subscribe();
        if self.want(clock.monotonic_ms()) {
            wake.notify_one();
            // An error means that the time is over, which the caller sees from what is known.
            let _late = tokio::time::timeout(WAIT_TIMEOUT, ended.changed()).await;
        }
    }

    /// What is known now. An older copy is used at once, and fetched again in the background. Without a copy, this
    /// waits for an attempt.
    pub(super) async fn get(&self, clock: &Clock, wake: &Notify) -> Result<Arc<Known>, Away> {
        if let Some(known) = self.known(clock.monotonic_ms()) {
            if !self.is_fresh(clock.monotonic_ms()) && self.want(clock.monotonic_ms()) {
                wake.notify_one();
            }
            return Ok(known);
        }
        self.attempted(clock, wake).await;
        if let Some(known) = self.known(clock.monotonic_ms()) {
            return Ok(known);
        }
        let failed = self.attempts.lock().failed.clone();
        Err(failed.unwrap_or_else(|| Away::new(&format!("{}: no answer in time", self.issuer))))
    }

    async fn fetch(&self) -> Result<(Metadata, Keys), Away> {
        let token = match &self.token_file {
            None => None,
            Some(path) => Some(read(path).await?),
        };
        let proof = || token.as_deref().map_or(Proof::Nothing, |token| Proof::Bearer(token.trim()));
        let mut metadata = Metadata::default();
        let (at, set): (String, Value) = match &self.place {
            Place::File(path) => {
                let text = read(path).await?;
                let set = serde_json::from_str(&text);
                let at = path.display().to_string();
                (at.clone(), set.map_err(|_| Away::new(&format!("{at}: it is no JSON")))?)
            }
            Place::Url(url) => (url.clone(), self.remote.get(url, proof()).await?),
            Place::Discovery => {
                let issuer = self.issuer.trim_end_matches('/');
                let url = format!("{issuer}/.well-known/openid-configuration");
                metadata = self.remote.get(&url, proof()).await?;
                // Otherwise another provider could pass its keys off as those of this one.
                if metadata.issuer.as_ref() != Some(&self.issuer) {
                    return Err(Away::new(&format!("{url} names another issuer")));
                }
                let keys = metadata.jwks_uri.clone();
                let keys = keys.ok_or_else(|| Away::new(&format!("{url} names no jwks_uri")))?;
                let set = self.remote.get(&keys, proof()).await?;
                (keys, set)
            }
        };
        let keys = Keys::parse(&set).map_err(|why| Away::new(&format!("{why}, at {at}")))?;
        Ok((metadata, keys))
    }
}

/// An attempt to fetch the keys, which has begun. Dropping it ends it.
pub(super) struct Attempt {
    source: Arc<Source>,
    clock: Clock,
    failed: Option<Away>,
}

impl Attempt {
    /// Fetches the keys.
    pub(super) async fn run(mut self) -> Result<(), Away> {
        let fetched = tokio::time::timeout(ATTEMPT_TIMEOUT, self.source.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| {
            let issuer = &self.source.issuer;
            Err(Away::new(&format!("{issuer}: there was no complete answer within 10 s")))
        });
        let outcome = fetched.map(|(metadata, keys)| {
            let known = Known { metadata, keys, at_ms: self.clock.monotonic_ms() };
            self.source.known.store(Some(Arc::new(known)));
        });
        self.failed = outcome.clone().err();
        outcome
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut attempts = self.source.attempts.lock();
        attempts.is_running = false;
        attempts.ended_ms = Some(self.clock.monotonic_ms());
        attempts.failed = self.failed.take();
        drop(attempts);
        self.source.ended.send_replace(());
    }
}

async fn read(path: &std::path::Path) -> Result<String, Away> {
    maxine_files::read_text_on_thread(path)
        .await
        .map_err(|error| Away::new(&format!("{}: {}", path.display(), maxine_wording::io(&error))))
}

#[cfg(test)]
mod tests {
    use super::super::settings::Scope;
    use super::*;

    fn source(dir: &std::path::Path) -> Arc<Source> {
        let remote = Remote::new(None, Scope::Https).unwrap();
        Arc::new(Source::new("https://idp", Place::File(dir.join("keys.json")), None, remote))
    }

    fn publish(dir: &std::path::Path) {
        let jwk =
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        std::fs::write(dir.join("keys.json"), format!(r#"{{"keys":[{jwk}]}}"#)).unwrap();
    }

    /// An attempt that has begun and is not polled is a provider that does not answer.
    #[tokio::test]
    async fn a_silent_provider_does_not_delay_itself_while_its_keys_are_known() {
        let (dir, clock, wake) = (tempfile::tempdir().unwrap(), Clock::manual(), Notify::new());
        publish(dir.path());
        let source = source(dir.path());
        assert!(source.begin(&clock, false).is_none(), "nobody wants its keys yet");
        source.begin(&clock, true).unwrap().run().await.unwrap();
        clock.advance(Duration::from_millis(REFRESH_MS));
        assert!(source.get(&clock, &wake).await.is_ok());
        let silent = source.begin(&clock, false).expect("the old copy is fetched again");
        assert!(source.get(&clock, &wake).await.is_ok());
        assert!(source.begin(&clock, true).is_none(), "one attempt at a time");
        drop(silent);
        assert!(source.get(&clock, &wake).await.is_ok());
    }

    #[tokio::test]
    async fn all_who_wait_share_the_attempt_and_the_pause_begins_at_its_end() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual());
        let (source, wake) = (source(dir.path()), Arc::new(Notify::new()));
        let ask = || {
            let (source, clock, wake) = (Arc::clone(&source), clock.clone(), Arc::clone(&wake));
            tokio::spawn(async move { source.get(&clock, &wake).await.map(drop) })
        };
        let first = ask();
        wake.notified().await;
        let attempt = source.begin(&clock, false).unwrap();
        let second = ask();
        wake.notified().await;
        clock.advance(Duration::from_millis(2 * PAUSE_MS));
        let failed = attempt.run().await.unwrap_err();
        assert_eq!(first.await.unwrap(), Err(failed.clone()));
        assert_eq!(second.await.unwrap(), Err(failed.clone()));
        // Whoever comes in the pause gets the same answer at once.
        clock.advance(Duration::from_millis(PAUSE_MS - 1));
        assert_eq!(ask().await.unwrap(), Err(failed));
        assert!(source.begin(&clock, true).is_none());
        publish(dir.path());
        clock.advance(Duration::from_millis(1));
        let third = ask();
        wake.notified().await;
        source.begin(&clock, false).unwrap().run().await.unwrap();
        assert_eq!(third.await.unwrap(), Ok(()));
    }
}
