//! Tokens of workloads: JWTs of other issuers, such as those of Kubernetes service accounts.

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::Outside;
use super::keys::{self, Unverified};
use super::settings::{Issuer, texts};
use crate::{
    AuthError, AuthMethod, Caller, CredentialKind, ExpiredCredential, OutsideToken, Security,
};
use maxine_state::Role;
use maxine_state::limits::check_name;

/// Maximum number of checked tokens that are remembered.
const VERIFIED_MAX: usize = 4_096;
/// For how long a checked token is not checked again, in seconds. Keys that change end this earlier.
const VERIFIED_S: u64 = 60;
/// Longest pause between two looks at whether keys must be fetched.
const PAUSE: Duration = Duration::from_secs(15);

/// The result of a check that was made a moment ago.
#[derive(Clone)]
pub(super) struct Verified {
    caller: Caller,
    until_s: u64,
}

impl Outside {
    /// The caller with this token; `None` if no issuer that is set has issued it.
    pub(crate) fn identify(&self, token: &str) -> Option<Result<Caller, AuthError>> {
        let config = self.config.load();
        if config.issuers.is_empty() {
            return None;
        }
        let now_s = self.clock.wall_ms() / 1_000;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(verified) = self.verified.lock().get(&hash).filter(|v| v.until_s > now_s) {
            return Some(Ok(verified.caller.clone()));
        }
        let named = keys::issuer_of(token)?;
        let issuer = config.issuers.iter().find(|issuer| issuer.settings.issuer == named)?;
        let now_ms = self.clock.monotonic_ms();
        let claims = match issuer.source.known(now_ms) {
            Some(known) => known.keys.verify(token),
            None => Err(Unverified::UnknownKey),
        };
        let claims = match claims {
            Ok(claims) => claims,
            Err(Unverified::UnknownKey) if issuer.source.want(now_ms) => {
                self.wake.notify_one();
                return Some(Err(AuthError::KeysAwaited));
            }
            Err(_) => return Some(Err(AuthError::Invalid)),
        };
        let checked = caller(&issuer.settings, &claims, now_s);
        if let Ok(caller) = &checked {
            let expires_s = caller.outside.as_ref().map_or(0, |token| token.expires_at_s);
            let until_s = expires_s.min(now_s + VERIFIED_S);
            let mut verified = self.verified.lock();
            if verified.len() >= VERIFIED_MAX {
                verified.clear();
            }
            verified.insert(hash, Verified { caller: caller.clone(), until_s });
        }
        Some(checked)
    }

    /// Whether a token is meant for this cluster: an issuer that is set has issued it, for one of its audiences. Neither
    /// the signature nor the time counts.
    pub(crate) fn is_for_us(&self, token: &str) -> bool {
        let config = self.config.load();
        if config.issuers.is_empty() || token.len() > keys::TOKEN_LEN_MAX {
            return false;
        }
        let Ok(data) = jsonwebtoken::dangerous::insecure_decode::<Value>(token) else {
            return false;
        };
        let named = data.claims.get("iss").and_then(Value::as_str);
        let issuer = config.issuers.iter().find(|issuer| named == Some(&*issuer.settings.issuer));
        issuer.is_some_and(|issuer| is_for(&issuer.settings, &data.claims))
    }

    /// Whether a token that was accepted earlier would still be accepted, as far as time and settings decide.
    pub(crate) fn is_still_valid(&self, token: &OutsideToken) -> bool {
        let config = self.config.load();
        let is_set = config.issuers.iter().any(|issuer| issuer.settings.issuer == *token.issuer);
        is_set && token.expires_at_s > self.clock.wall_ms() / 1_000
    }
}

fn is_for(issuer: &Issuer, claims: &Value) -> bool {
    texts(claims.get("aud")).iter().any(|aud| issuer.audiences.iter().any(|own| own == aud))
}

/// Checks what the signature does not: times, audience and rules. Returns the caller.
fn caller(issuer: &Issuer, claims: &Value, now_s: u64) -> Result<Caller, AuthError> {
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).map(|at| at as u64);
    let skew_s = issuer.clock_skew_s;
    let expires_s = seconds("exp").ok_or(AuthError::Invalid)?;
    if expires_s.saturating_add(skew_s) <= now_s {
        return Err(AuthError::Expired(ExpiredCredential {
            kind: CredentialKind::WorkloadToken,
            at_ms: expires_s.saturating_mul(1_000),
            now_ms: now_s * 1_000,
        }));
    }
    let is_early = |name: &str| {
        let is_number = claims.get(name).is_none_or(Value::is_number);
        !is_number || seconds(name).is_some_and(|at_s| at_s > now_s.saturating_add(skew_s))
    };
    if is_early("nbf") || is_early("iat") || !is_for(issuer, claims) {
        return Err(AuthError::Invalid);
    }
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(AuthError::Invalid)?;
    check_name("sub", subject).map_err(|_| AuthError::Invalid)?;
    let role: Role = issuer.role_of(claims).ok_or(AuthError::NoRule)?;
    Ok(Caller {
        user: format!("jwt:{}/{subject}", issuer.name).into(),
        role: Some(role),
        via: AuthMethod::Jwt,
        outside: Some(OutsideToken {
            issuer: issuer.issuer.as_str().into(),
            expires_at_s: expires_s.saturating_add(skew_s),
        }),
        ..Caller::default()
    })
}

impl Security {
    /// Fetches the keys of issuers at the start, regularly, and when a token needs one that is not known, and those of
    /// providers when somebody signs in. Each is fetched by itself, so a silent one delays no other. Runs for as long
    /// as it is polled.
    pub async fn keep_keys(&self) {
        let outside = &self.0.outside;
        let mut running = JoinSet::new();
        loop {
            let config = outside.config.load_full();
            let issuers =
                config.issuers.iter().map(|each| (&each.source, &each.settings.name, true));
            let providers = config.providers.iter();
            let providers = providers.map(|each| (&each.source, &each.settings.name, false));
            for (source, name, is_issuer) in issuers.chain(providers) {
                if let Some(attempt) = source.begin(&outside.clock, is_issuer) {
                    let name = name.clone();
                    running.spawn(async move { (name, is_issuer, attempt.run().await) });
                }
            }
            let has_issuers = !config.issuers.is_empty();
            drop(config);
            tokio::select! {
                Some(ended) = running.join_next() => match ended {
                    Ok((_, true, Ok(()))) => outside.verified.lock().clear(),
                    Ok((name, true, Err(away))) => {
                        tracing::warn!(issuer = name, %away, "the keys of an issuer could not be fetched");
                    }
                    Ok((name, false, Err(away))) => {
                        tracing::warn!(provider = name, %away, "a provider of sign-ins could not be asked for its keys");
                    }
                    Ok((_, false, Ok(()))) => {}
                    Err(error) => tracing::error!(%error, "an attempt to fetch keys ended"),
                },
                () = outside.wake.notified() => {}
                // Without issuers there is nothing to look at before somebody signs in or the settings change.
                () = tokio::time::sleep(PAUSE), if has_issuers => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::json;

    use super::super::settings::OutsideSettings;
    use super::*;
    use maxine_clock::Clock;

    /// A key of an issuer.
    struct Signer {
        id: &'static str,
        pair: rcgen::KeyPair,
    }

    impl Signer {
        fn new(id: &'static str) -> Self {
            Self { id, pair: rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
        }

        fn jwk(&self) -> Value {
            let x = BASE64URL.encode(self.pair.public_key_raw());
            json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.id, "x": x})
        }

        fn sign(&self, claims: &Value) -> String {
            let header = Header { kid: Some(self.id.into()), ..Header::new(Algorithm::EdDSA) };
            let key = EncodingKey::from_ed_der(&self.pair.serialize_der());
            jsonwebtoken::encode(&header, claims, &key).unwrap()
        }
    }

    struct World {
        dir: tempfile::TempDir,
        clock: Clock,
        outside: Arc<Outside>,
    }

    impl World {
        async fn new(signers: &[&Signer]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let clock = Clock::manual();
            let outside = Arc::new(Outside::new(clock.clone()));
            let world = Self { dir, clock, outside };
            world.publish(signers);
            let file = world.dir.path().join("identities.toml");
            std::fs::write(
                &file,
                "[[issuer]]\nname = \"k8s\"\nissuer = \"https://k8s\"\naudiences = [\"maxine\"]\n\
                 jwks_file = \"keys.json\"\n[[issuer.rule]]\nrole = \"operator\"\nclaims = { sub = \"shop:*\" }\n",
            )
            .unwrap();
            world.outside.set(&OutsideSettings::read(Path::new(&file)).unwrap()).unwrap();
            world.fetch().await;
            world
        }

        fn publish(&self, signers: &[&Signer]) {
            let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
            let text = json!({ "keys": keys }).to_string();
            std::fs::write(self.dir.path().join("keys.json"), text).unwrap();
        }

        async fn fetch(&self) -> bool {
            let config = self.outside.config.load_full();
            let Some(attempt) = config.issuers[0].source.begin(&self.clock, true) else {
                return false;
            };
            attempt.run().await.unwrap();
            self.outside.verified.lock().clear();
            true
        }

        fn claims(&self) -> Value {
            let now_s = self.clock.wall_ms() / 1_000;
            json!({"iss": "https://k8s", "aud": ["other", "maxine"], "sub": "shop:orders", "exp": now_s + 600, "iat": now_s})
        }

        fn identify(&self, token: &str) -> Result<Caller, AuthError> {
            self.outside.identify(token).unwrap()
        }
    }

    fn with(mut claims: Value, name: &str, value: Value) -> Value {
        claims[name] = value;
        claims
    }

    #[tokio::test]
    async fn a_token_is_accepted_for_its_audience_in_its_time_and_by_a_rule() {
        let signer = Signer::new("a");
        let world = World::new(&[&signer]).await;
        let claims = world.claims();
        let token = signer.sign(&claims);
        let caller = world.identify(&token).unwrap();
        assert_eq!((&*caller.user, caller.role), ("jwt:k8s/shop:orders", Some(Role::Operator)));
        let now_s = world.clock.wall_ms() / 1_000;
        let expired = AuthError::Expired(ExpiredCredential {
            kind: CredentialKind::WorkloadToken,
            at_ms: (now_s - 61) * 1_000,
            now_ms: now_s * 1_000,
        });
        for (name, value, why) in [
            ("aud", json!("other"), AuthError::Invalid),
            ("aud", json!(null), AuthError::Invalid),
            ("sub", json!("pay:orders"), AuthError::NoRule),
            ("sub", json!("shop:\n"), AuthError::Invalid),
            ("sub", json!(7), AuthError::Invalid),
            ("exp", json!(now_s - 61), expired),
            ("exp", json!("never"), AuthError::Invalid),
            ("exp", json!(null), AuthError::Invalid),
            ("nbf", json!(now_s + 61), AuthError::Invalid),
            ("iat", json!(now_s + 61), AuthError::Invalid),
            ("nbf", json!("now"), AuthError::Invalid),
        ] {
            let refused = world.identify(&signer.sign(&with(claims.clone(), name, value.clone())));
            assert_eq!(refused.unwrap_err(), why, "{name}: {value}");
        }
        let skewed = with(claims.clone(), "exp", json!(now_s - 59));
        assert!(world.identify(&signer.sign(&skewed)).is_ok(), "within the skew");
        // Another issuer's token, and no token at all, are left to others.
        let foreign = with(claims, "iss", json!("https://k8s/"));
        assert!(world.outside.identify(&signer.sign(&foreign)).is_none());
        assert!(world.outside.identify("mxt_a_b_c").is_none());
        // A remembered token ends in time, too.
        world.clock.advance(Duration::from_secs(661));
        assert!(matches!(world.identify(&token).unwrap_err(), AuthError::Expired(_)));
        assert!(!world.outside.is_still_valid(caller.outside.as_ref().unwrap()));
    }

    #[tokio::test]
    async fn no_header_makes_a_forged_token_valid() {
        let signer = Signer::new("a");
        let world = World::new(&[&signer]).await;
        let claims = world.claims();
        let good = signer.sign(&claims);
        let payload = good.split('.').nth(1).unwrap();
        let part = |value: Value| BASE64URL.encode(value.to_string());
        // HMAC with the public key as the secret, in the forms in which an attacker has it.
        let raw = signer.pair.public_key_raw().to_vec();
        let pem = signer.pair.public_key_pem().into_bytes();
        let jwk = signer.jwk().to_string().into_bytes();
        for secret in [raw, pem, jwk] {
            let header = Header { kid: Some("a".into()), ..Header::new(Algorithm::HS256) };
            let forged = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&secret));
            assert_eq!(world.identify(&forged.unwrap()).unwrap_err(), AuthError::Invalid);
        }
        for header in [
            json!({"alg": "none", "kid": "a"}),
            json!({"alg": "None"}),
            json!({"alg": "ES256", "kid": "a"}),
            json!({"alg": "EdDSA", "kid": "a", "crit": ["exp"]}),
        ] {
            let header = part(header);
            for signature in ["", good.rsplit('.').next().unwrap()] {
                let forged = format!("{header}.{payload}.{signature}");
                assert!(!matches!(world.outside.identify(&forged), Some(Ok(_))), "{forged}");
            }
        }
        // A key that the token brings along does not count.
        let stranger = Signer::new("a");
        assert_eq!(world.identify(&stranger.sign(&claims)).unwrap_err(), AuthError::Invalid);
        let other = part(with(claims, "sub", json!("shop:admin")));
        let parts: Vec<_> = good.split('.').collect();
        let changed = format!("{}.{other}.{}", parts[0], parts[2]);
        assert_eq!(world.identify(&changed).unwrap_err(), AuthError::Invalid);
    }

    #[tokio::test]
    async fn a_new_key_is_fetched_once_and_a_removed_one_counts_no_more() {
        let (old, new) = (Signer::new("old"), Signer::new("new"));
        let world = World::new(&[&old]).await;
        let of_old = old.sign(&world.claims());
        assert!(world.identify(&of_old).is_ok());
        world.publish(&[&new]);
        let of_new = new.sign(&world.claims());
        assert_eq!(world.identify(&of_new).unwrap_err(), AuthError::Invalid, "asked a moment ago");
        assert!(!world.fetch().await, "invented key ids must not make this node ask all the time");
        world.clock.advance(Duration::from_secs(6));
        assert_eq!(world.identify(&of_new).unwrap_err(), AuthError::KeysAwaited);
        assert!(world.fetch().await);
        assert!(world.identify(&of_new).is_ok());
        assert_eq!(world.identify(&of_old).unwrap_err(), AuthError::Invalid);
        // The keys stay in use while they cannot be read, but not without end.
        std::fs::remove_file(world.dir.path().join("keys.json")).unwrap();
        world.clock.advance(Duration::from_secs(301));
        let config = world.outside.config.load_full();
        assert!(config.issuers[0].source.begin(&world.clock, true).unwrap().run().await.is_err());
        assert!(world.identify(&new.sign(&world.claims())).is_ok());
        world.clock.advance(Duration::from_secs(24 * 3_600));
        assert_eq!(world.identify(&new.sign(&world.claims())).unwrap_err(), AuthError::KeysAwaited);
    }
}
