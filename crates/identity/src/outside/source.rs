//! The keys of one issuer, and what its discovery document says. They are fetched when they are needed, kept, and
//! fetched again: after some minutes, and when a token names a key that is not known.
//!
//! **Invariant:** however many tokens with invented key ids arrive, an issuer is asked at most once in [`PAUSE_MS`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use serde_json::Value;
use tokio::sync::Mutex;

use super::keys::Keys;
use super::remote::{Away, Proof, Remote};
use maxine_clock::Clock;

/// Keys are fetched again when they are older, in milliseconds.
const REFRESH_MS: u64 = 5 * 60_000;
/// Keys are not used any more when they are older and could not be fetched again, in milliseconds.
const AGE_MS_MAX: u64 = 24 * 3_600_000;
/// Minimum time between two attempts to fetch them, in milliseconds.
const PAUSE_MS: u64 = 5_000;

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
    /// The discovery document; null if it is not used.
    pub(super) metadata: Value,
    /// The keys.
    pub(super) keys: Keys,
    at_ms: u64,
}

/// The source of what is known of an issuer.
pub(super) struct Source {
    issuer: String,
    place: Place,
    token_file: Option<PathBuf>,
    pub(super) remote: Remote,
    known: ArcSwapOption<Known>,
    /// When the last attempt began; `u64::MAX` before the first one. Changed under `fetching`.
    tried_ms: AtomicU64,
    /// Why the last attempt failed.
    fetching: Mutex<Option<Away>>,
    /// Whether a token named a key that is not known.
    wanted: AtomicBool,
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
            tried_ms: AtomicU64::new(u64::MAX),
            fetching: Mutex::new(None),
            wanted: AtomicBool::new(false),
        }
    }

    /// Begins with what another source of the same issuer and place knows.
    pub(super) fn take_over<'a>(&self, mut others: impl Iterator<Item = &'a Self>) {
        let is_same = |other: &&Self| other.issuer == self.issuer && other.place == self.place;
        if let Some(other) = others.find(is_same) {
            self.known.store(other.known.load_full());
        }
    }

    /// What is known and not too old.
    pub(super) fn known(&self, now_ms: u64) -> Option<Arc<Known>> {
        self.known.load_full().filter(|known| now_ms.saturating_sub(known.at_ms) < AGE_MS_MAX)
    }

    /// Asks for the keys again, because a token names one that is not known, or there are none. Returns whether it is
    /// worth waiting for them: an attempt is due.
    pub(super) fn want(&self, now_ms: u64) -> bool {
        let is_due = self.may_try(now_ms);
        if is_due {
            self.wanted.store(true, Ordering::Relaxed);
        }
        is_due
    }

    fn may_try(&self, now_ms: u64) -> bool {
        let tried_ms = self.tried_ms.load(Ordering::Relaxed);
        tried_ms == u64::MAX || now_ms.saturating_sub(tried_ms) >= PAUSE_MS
    }

    fn is_due(&self, now_ms: u64) -> bool {
        let is_fresh = |known: Arc<Known>| now_ms.saturating_sub(known.at_ms) < REFRESH_MS;
        let wanted = self.wanted.load(Ordering::Relaxed);
        (wanted || !self.known.load_full().is_some_and(is_fresh)) && self.may_try(now_ms)
    }

    /// Fetches the keys again if it is time. The error is that of this attempt. One caller fetches, and others wait
    /// for it.
    pub(super) async fn refresh(&self, clock: &Clock) -> Result<bool, Away> {
        let mut failed = self.fetching.lock().await;
        if !self.is_due(clock.monotonic_ms()) {
            return Ok(false);
        }
        self.tried_ms.store(clock.monotonic_ms(), Ordering::Relaxed);
        self.wanted.store(false, Ordering::Relaxed);
        match self.fetch().await {
            Ok((metadata, keys)) => {
                let at_ms = clock.monotonic_ms();
                self.known.store(Some(Arc::new(Known { metadata, keys, at_ms })));
                *failed = None;
                Ok(true)
            }
            Err(away) => {
                *failed = Some(away.clone());
                Err(away)
            }
        }
    }

    /// What is known now, after an attempt to fetch it if it is time for one. An older copy serves while the issuer is
    /// away.
    pub(super) async fn get(&self, clock: &Clock) -> Result<Arc<Known>, Away> {
        let outcome = self.refresh(clock).await;
        if let Some(known) = self.known(clock.monotonic_ms()) {
            return Ok(known);
        }
        outcome?;
        let failed = self.fetching.lock().await.clone();
        Err(failed.unwrap_or_else(|| Away(format!("the keys of {} are too old", self.issuer))))
    }

    async fn fetch(&self) -> Result<(Value, Keys), Away> {
        let token = match &self.token_file {
            None => None,
            Some(path) => Some(read(path).await?),
        };
        let proof = || token.as_deref().map_or(Proof::Nothing, |token| Proof::Bearer(token.trim()));
        let mut metadata = Value::Null;
        let (at, set) = match &self.place {
            Place::File(path) => {
                let text = read(path).await?;
                let set = serde_json::from_str(&text);
                let at = path.display().to_string();
                (at.clone(), set.map_err(|_| Away(format!("{at}: it is no JSON")))?)
            }
            Place::Url(url) => (url.clone(), self.remote.get(url, proof()).await?),
            Place::Discovery => {
                let issuer = self.issuer.trim_end_matches('/');
                let url = format!("{issuer}/.well-known/openid-configuration");
                metadata = self.remote.get(&url, proof()).await?;
                // Otherwise another provider could pass its keys off as those of this one.
                if metadata.get("issuer").and_then(Value::as_str) != Some(&self.issuer) {
                    return Err(Away(format!("{url} names another issuer than {}", self.issuer)));
                }
                let keys = metadata.get("jwks_uri").and_then(Value::as_str);
                let keys = keys.ok_or_else(|| Away(format!("{url} names no jwks_uri")))?;
                (keys.to_owned(), self.remote.get(keys, proof()).await?)
            }
        };
        let keys = Keys::parse(&set).map_err(|why| Away(format!("{at}: {why}")))?;
        Ok((metadata, keys))
    }
}

async fn read(path: &std::path::Path) -> Result<String, Away> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|error| Away(format!("{}: {}", path.display(), maxine_wording::io(&error))))
}
