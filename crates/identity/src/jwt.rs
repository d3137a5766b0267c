//! Sessions as JWTs, signed with HS256. The header has the id of the key.
//!
//! The newest key signs, and older keys are still accepted. Keys come from the environment if they are set
//! there, and from the replicated state.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::settings::EnvSigningKeys;
use maxine_state::{EndedSession, History, Identities, Role, User};

/// Maximum length of a token, in bytes.
const TOKEN_LEN_MAX: usize = 4_096;

/// The scope of sessions: one cluster, in one history of its state.
///
/// The state records what ends a session, such as a change of the password or a sign-out. If the state is
/// restored from an older copy, these records can be lost. A new history then begins, and all sessions of the
/// earlier one end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Realm<'a> {
    /// The audience of the cluster.
    pub(super) audience: &'a str,
    /// The history of the state.
    pub(super) history: History,
}

/// The content of a session's token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claims {
    /// The user's name.
    pub(super) user_name: String,
    /// The role at sign-in. It is never used: the present role counts.
    role: Role,
    /// The version of the credentials for which it was issued.
    pub(super) credential_version: u64,
    iat: u64,
    exp: u64,
    /// Distinguishes it from other sessions of the same second. A renewed session keeps it.
    jti: String,
    /// When the user signed in, in seconds since 1970, if the session was renewed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<u64>,
    /// The audience of the cluster.
    aud: String,
    /// The history of the cluster's state.
    history: u64,
}

impl Claims {
    /// The identity of the session, for ending it early.
    pub(super) fn session(&self) -> EndedSession {
        EndedSession {
            issued_at_s: self.iat,
            expires_at_s: self.exp,
            id: u64::from_str_radix(&self.jti, 16).unwrap_or(0),
        }
    }

    /// When the user signed in, in seconds since 1970.
    pub(super) fn signed_in_s(&self) -> u64 {
        self.auth_time.unwrap_or(self.iat)
    }
}

/// A session that is continued by a new token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewed {
    /// The session's id.
    pub(super) id: u64,
    /// When the user signed in, in seconds since 1970.
    pub(super) signed_in_s: u64,
}

/// The claims that are read before the signature is checked.
#[derive(Deserialize)]
struct Unchecked {
    aud: String,
    #[serde(default)]
    history: Option<u64>,
}

fn unchecked(token: &str) -> Option<Unchecked> {
    if token.len() > TOKEN_LEN_MAX {
        return None;
    }
    jsonwebtoken::dangerous::insecure_decode::<Unchecked>(token).ok().map(|data| data.claims)
}

/// The audience in a JWT, whoever signed it; `None` if the text is no JWT or has no audience.
pub(super) fn audience_of(token: &str) -> Option<String> {
    unchecked(token).map(|claims| claims.aud)
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    /// It was issued here, and has expired.
    Expired {
        /// When, in seconds since 1970.
        at_s: u64,
    },
    /// It was issued for this cluster in an earlier history. Its signature proves nothing, because the keys
    /// of that history are no longer valid.
    HistoryEnded,
    /// It was not issued here.
    Invalid,
}

/// Issues and checks the tokens of sessions.
pub(super) struct Sessions {
    env_keys: Option<EnvSigningKeys>,
    lifetime_s: u64,
    validation: Validation,
}

impl Sessions {
    pub(super) fn new(env_keys: Option<EnvSigningKeys>, lifetime_s: u64) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // The expiry is checked later, with the node's clock. The signature is checked first, so a forged
        // token is never reported as expired.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self { env_keys, lifetime_s, validation }
    }

    /// Issues a token for a user; `None` if there is no signing key yet.
    pub(super) fn issue(
        &self,
        identities: &Identities,
        realm: Realm<'_>,
        user: &User,
        now_s: u64,
    ) -> Option<String> {
        self.issue_as(rand::random(), identities, realm, user, now_s)
    }

    /// Issues a further token for a session.
    pub(super) fn renew(
        &self,
        Renewed { id, signed_in_s }: Renewed,
        identities: &Identities,
        realm: Realm<'_>,
        user: &User,
        now_s: u64,
    ) -> Option<String> {
        self.encode((id, Some(signed_in_s)), identities, realm, user, now_s)
    }

    /// Issues a token with a given session id.
    pub(super) fn issue_as(
        &self,
        id: u64,
        identities: &Identities,
        realm: Realm<'_>,
        user: &User,
        now_s: u64,
    ) -> Option<String> {
        self.encode((id, None), identities, realm, user, now_s)
    }

    fn encode(
        &self,
        (id, auth_time): (u64, Option<u64>),
        identities: &Identities,
        realm: Realm<'_>,
        user: &User,
        now_s: u64,
    ) -> Option<String> {
        let (key_id, secret) = match &self.env_keys {
            Some(keys) => (keys.key_id.as_str(), keys.current.expose().as_bytes()),
            None => {
                let key = identities.signing_keys.first()?;
                (key.key_id.as_str(), &*key.secret)
            }
        };
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key_id.into());
        let claims = Claims {
            user_name: user.name.as_str().into(),
            role: user.role,
            credential_version: user.credential_version,
            iat: now_s,
            exp: now_s + self.lifetime_s,
            jti: format!("{id:016x}"),
            auth_time,
            aud: realm.audience.into(),
            history: realm.history.get(),
        };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).ok()
    }

    /// Checks a token. It must be signed by one of the keys, for this realm, and must not have expired.
    pub(super) fn check(
        &self,
        identities: &Identities,
        realm: Realm<'_>,
        token: &str,
        now_s: u64,
    ) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        if header.alg != Algorithm::HS256 {
            return Err(TokenError::Invalid);
        }
        let ended = unchecked(token).filter(|claims| claims.aud == realm.audience);
        if ended.and_then(|claims| claims.history).is_some_and(|named| named != realm.history.get())
        {
            return Err(TokenError::HistoryEnded);
        }
        // Keys with the token's key id are tried first. Older secrets of the environment have no id.
        let kid = header.kid.as_deref();
        let keys = self.keys(identities);
        let (named, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(id, _)| *id == kid);
        for (_, secret) in named.into_iter().chain(others) {
            match self.verify(token, secret) {
                Ok(claims) if claims.aud != realm.audience => return Err(TokenError::Invalid),
                Ok(claims) if claims.exp <= now_s => {
                    return Err(TokenError::Expired { at_s: claims.exp });
                }
                Ok(claims) => return Ok(claims),
                Err(ErrorKind::InvalidSignature) => {}
                Err(_) => return Err(TokenError::Invalid),
            }
        }
        Err(TokenError::Invalid)
    }

    fn verify(&self, token: &str, secret: &[u8]) -> Result<Claims, ErrorKind> {
        let key = DecodingKey::from_secret(secret);
        jsonwebtoken::decode::<Claims>(token, &key, &self.validation)
            .map(|data| data.claims)
            .map_err(|error| error.into_kind())
    }

    /// The secrets of all keys. The first one signs.
    pub(super) fn secrets<'a>(
        &'a self,
        identities: &'a Identities,
    ) -> impl Iterator<Item = &'a [u8]> {
        self.keys(identities).into_iter().map(|(_, secret)| secret)
    }

    fn keys<'a>(&'a self, identities: &'a Identities) -> Vec<(Option<&'a str>, &'a [u8])> {
        let mut keys = Vec::new();
        if let Some(env) = &self.env_keys {
            keys.push((Some(env.key_id.as_str()), env.current.expose().as_bytes()));
            let previous = env.previous.iter();
            keys.extend(previous.map(|secret| (None, secret.expose().as_bytes())));
        }
        let replicated = identities.signing_keys.iter();
        keys.extend(replicated.map(|key| (Some(key.key_id.as_str()), &*key.secret)));
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;
    use maxine_state::{Name, SigningKey};

    const IN_C: Realm<'static> = Realm { audience: "c", history: History::from_random(1) };

    fn of(audience: &str) -> Realm<'_> {
        Realm { audience, history: History::from_random(1) }
    }

    fn user() -> User {
        User {
            name: Name::trusted("ada"),
            role: Role::Operator,
            password_hash: "".into(),
            credential_version: 3,
            managed: false,
            ended_sessions: Vec::new(),
        }
    }

    fn identities(keys: &[(&str, u8)]) -> Identities {
        let signing_keys = keys
            .iter()
            .map(|(id, byte)| SigningKey {
                key_id: Name::trusted(id),
                secret: vec![*byte; 32].into(),
                created_at_ms: 0,
            })
            .collect();
        Identities { signing_keys, ..Identities::default() }
    }

    #[test]
    fn a_renewed_session_keeps_its_id_and_the_time_of_its_sign_in() {
        let (sessions, keys) = (Sessions::new(None, 60), identities(&[("a", 1)]));
        let first = sessions.issue(&keys, IN_C, &user(), 100).unwrap();
        let first = sessions.check(&keys, IN_C, &first, 100).unwrap();
        let mut last = first;
        for now_s in [140, 180] {
            let renewed = Renewed { id: last.session().id, signed_in_s: last.signed_in_s() };
            let token = sessions.renew(renewed, &keys, IN_C, &user(), now_s).unwrap();
            let claims = sessions.check(&keys, IN_C, &token, now_s + 59).unwrap();
            assert_eq!(claims.session().id, last.session().id);
            assert_eq!((claims.signed_in_s(), claims.session().expires_at_s), (100, now_s + 60));
            last = claims;
        }
    }

    #[test]
    fn a_token_lives_through_a_rotation_and_dies_with_its_key() {
        let sessions = Sessions::new(None, 1_800);
        let token = sessions.issue(&identities(&[("a", 1)]), IN_C, &user(), 1_000).unwrap();
        let rotated = identities(&[("b", 2), ("a", 1)]);
        let claims = sessions.check(&rotated, IN_C, &token, 2_799).unwrap();
        assert_eq!((claims.user_name.as_str(), claims.credential_version), ("ada", 3));
        let expired = TokenError::Expired { at_s: 2_800 };
        assert_eq!(sessions.check(&rotated, IN_C, &token, 2_800).unwrap_err(), expired);
        let gone = identities(&[("b", 2)]);
        // A forged and expired token is reported as forged.
        assert_eq!(sessions.check(&gone, IN_C, &token, 9_999).unwrap_err(), TokenError::Invalid);
    }

    #[test]
    fn an_expired_token_of_an_older_environment_secret_is_expired_not_forbidden() {
        let old = EnvSigningKeys {
            key_id: "maxine-current".into(),
            current: Secret::new("old"),
            previous: Vec::new(),
        };
        let new = EnvSigningKeys {
            current: Secret::new("new"),
            previous: vec![Secret::new("old")],
            ..old.clone()
        };
        let none = identities(&[]);
        let token = Sessions::new(Some(old), 60).issue(&none, IN_C, &user(), 0).unwrap();
        let sessions = Sessions::new(Some(new), 60);
        assert!(sessions.check(&none, IN_C, &token, 59).is_ok());
        let expired = TokenError::Expired { at_s: 60 };
        assert_eq!(sessions.check(&none, IN_C, &token, 60).unwrap_err(), expired);
    }

    #[test]
    fn a_token_without_a_signature_is_refused() {
        let sessions = Sessions::new(None, 60);
        let keys = identities(&[("a", 1)]);
        let token = sessions.issue(&keys, IN_C, &user(), 0).unwrap();
        let payload = token.split('.').nth(1).unwrap();
        // {"alg":"none","typ":"JWT"}
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        for forged in [none.as_str(), "", "a.b.c", &token[..token.len() - 2]] {
            assert_eq!(sessions.check(&keys, IN_C, forged, 1).unwrap_err(), TokenError::Invalid);
        }
    }

    #[test]
    fn a_token_of_another_cluster_is_refused_even_where_the_secret_is_the_same() {
        let shared = EnvSigningKeys {
            key_id: "maxine-current".into(),
            current: Secret::new("the same secret on both clusters"),
            previous: Vec::new(),
        };
        let sessions = Sessions::new(Some(shared), 60);
        let none = identities(&[]);
        let token = sessions.issue(&none, of("staging"), &user(), 0).unwrap();
        assert!(sessions.check(&none, of("staging"), &token, 1).is_ok());
        assert_eq!(
            sessions.check(&none, of("production"), &token, 1).unwrap_err(),
            TokenError::Invalid
        );
        // A token that has expired and is for another cluster is reported as not issued here.
        assert_eq!(
            sessions.check(&none, of("production"), &token, 99).unwrap_err(),
            TokenError::Invalid
        );
        assert_eq!(audience_of(&token).as_deref(), Some("staging"));
        assert_eq!(audience_of("mxt_a_b_c"), None);
    }

    #[test]
    fn a_token_of_a_history_that_has_ended_is_refused_even_where_the_secret_is_the_same() {
        let sessions = Sessions::new(None, 60);
        let keys = identities(&[("a", 1)]);
        let token = sessions.issue(&keys, IN_C, &user(), 0).unwrap();
        let next = Realm { history: History::from_random(7), ..IN_C };
        assert_eq!(sessions.check(&keys, next, &token, 1).unwrap_err(), TokenError::HistoryEnded);
        let other_keys = identities(&[("b", 2)]);
        let refused = sessions.check(&other_keys, next, &token, 1).unwrap_err();
        assert_eq!(refused, TokenError::HistoryEnded, "the keys may have ended with it");
        let present = sessions.issue(&keys, next, &user(), 0).unwrap();
        assert!(sessions.check(&keys, next, &present, 1).is_ok());
        // A token of another cluster is reported as not issued here, whatever its history is.
        let foreign = sessions.issue(&keys, of("staging"), &user(), 0).unwrap();
        assert_eq!(sessions.check(&keys, next, &foreign, 1).unwrap_err(), TokenError::Invalid);
    }

    #[test]
    fn two_sign_ins_in_one_second_are_two_sessions() {
        let sessions = Sessions::new(None, 60);
        let keys = identities(&[("a", 1)]);
        let first = sessions.issue(&keys, IN_C, &user(), 100).unwrap();
        let second = sessions.issue(&keys, IN_C, &user(), 100).unwrap();
        let session = |token: &str| sessions.check(&keys, IN_C, token, 100).unwrap().session();
        let (first, second) = (session(&first), session(&second));
        assert_eq!((first.issued_at_s, first.expires_at_s), (100, 160));
        assert_eq!((second.issued_at_s, second.expires_at_s), (100, 160));
        assert_ne!(first, second, "the end of one is not the end of the other");
    }
}
