//! Fuzz target: credentials that were not issued here are never accepted.

use maxine_fuzzing::Target;
use std::sync::Arc;

use super::jwt::{Realm, Sessions};
use super::{api_token, bearer_token, session_cookie};
use maxine_state::{History, Identities, Name, Role, SigningKey, User};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[Target { name: "credentials", run: credentials, seeds }];

const NOW_S: u64 = 1_000;
const AUDIENCE: &str = "0011223344556677";
const REALM: Realm<'static> = Realm { audience: AUDIENCE, history: History::from_random(1) };

fn user() -> User {
    User {
        name: Name::trusted("ada"),
        role: Role::Admin,
        password_hash: "".into(),
        credential_version: 3,
        managed: false,
        ended_sessions: Vec::new(),
    }
}

fn identities() -> Identities {
    let key =
        SigningKey { key_id: Name::trusted("key-1"), secret: vec![7; 32].into(), created_at_ms: 0 };
    let mut identities = Identities { signing_keys: vec![key], ..Identities::default() };
    identities.users.insert(Name::trusted("ada"), Arc::new(user()));
    identities
}

fn genuine(sessions: &Sessions, identities: &Identities) -> String {
    sessions.issue_as(7, identities, REALM, &user(), NOW_S).expect("there is a key")
}

/// Header fields, one per line.
fn credentials(bytes: &[u8]) {
    let (sessions, identities) = (Sessions::new(None, 60), identities());
    let headers = maxine_fuzzing::headers(bytes);
    let genuine = genuine(&sessions, &identities);
    let authorization =
        headers.get("authorization").and_then(|value| bearer_token(value.as_bytes()));
    for token in authorization.into_iter().chain(session_cookie(false, &headers)) {
        assert!(!token.is_empty());
        if let Ok(claims) = sessions.check(&identities, REALM, token, NOW_S) {
            assert_eq!(token, genuine, "forged, and taken for {claims:?}");
        }
        assert!(
            api_token::find(&identities, AUDIENCE, token, 0).is_err(),
            "no token was ever made"
        );
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let genuine = genuine(&Sessions::new(None, 60), &identities());
    let payload = genuine.split('.').nth(1).unwrap_or_default();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("authorization: Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let bearer = format!("authorization: Bearer {genuine}");
    let cookie = format!("cookie: a=1; maxine_session={genuine}; b=2");
    maxine_fuzzing::texts(&[
        &bearer,
        &cookie,
        &unsigned,
        "authorization: bearer mxb_0123456789abcdef",
        "authorization: bearer mxt_0011223344556677_ci_0123456789abcdef",
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
