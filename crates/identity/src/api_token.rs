//! API tokens: `mxt_CLUSTER_ID_SECRET`. The state stores the SHA-256 of the whole text. The text itself is
//! shown once, when the token is created.

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

use super::{AuthError, CredentialKind, ExpiredCredential, Secret};
use maxine_state::{Identities, Name, TokenRecord};

/// Prefix of every API token.
pub(super) const PREFIX: &str = "mxt_";

/// A new token.
#[derive(Debug)]
pub struct MintedToken {
    /// The text that the bearer sends. It is shown once.
    pub text: Secret,
    /// The hash that the state stores.
    pub hash: [u8; 32],
}

/// Creates a token for `id` with 256 random bits, for the cluster with this audience. Fails only if the
/// operating system provides no random numbers.
pub(super) fn mint(audience: &str, id: &Name) -> Result<MintedToken, rand::rand_core::OsError> {
    let mut secret = [0_u8; 32];
    OsRng.try_fill_bytes(&mut secret)?;
    let text = format!("{PREFIX}{audience}_{id}_{}", hex(&secret));
    let hash = Sha256::digest(text.as_bytes()).into();
    Ok(MintedToken { text: Secret::new(&text), hash })
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The audience in a token; `None` if the text is no API token.
pub(super) fn audience_of(token: &str) -> Option<&str> {
    token.strip_prefix(PREFIX)?.split_once('_').map(|(audience, _)| audience)
}

/// The record of a token, if it belongs to the cluster with this audience and has not expired.
pub(super) fn find<'a>(
    identities: &'a Identities,
    audience: &str,
    token: &str,
    now_ms: u64,
) -> Result<&'a TokenRecord, AuthError> {
    let body = token.strip_prefix(PREFIX).ok_or(AuthError::Invalid)?;
    let (for_cluster, body) = body.split_once('_').ok_or(AuthError::Invalid)?;
    if for_cluster != audience {
        return Err(AuthError::Invalid);
    }
    let (id, _) = body.rsplit_once('_').ok_or(AuthError::Invalid)?;
    let record = identities.tokens.get(id).ok_or(AuthError::Invalid)?;
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    if !is_same(&hash, &record.token_hash) {
        return Err(AuthError::Invalid);
    }
    if let Some(at_ms) = record.expires_at_ms.filter(|at_ms| *at_ms <= now_ms) {
        let kind = CredentialKind::ApiToken;
        return Err(AuthError::Expired(ExpiredCredential { kind, at_ms, now_ms }));
    }
    Ok(record)
}

/// Compares in constant time, so that the duration reveals only the length.
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use maxine_state::Role;

    const AUDIENCE: &str = "0011223344556677";

    fn made(audience: &str) -> (MintedToken, Identities) {
        let id = Name::trusted("ci_deploy");
        let minted = mint(audience, &id).unwrap();
        let record = TokenRecord {
            id: id.clone(),
            note: "".into(),
            role: Role::Operator,
            token_hash: minted.hash,
            created_by: Name::trusted("ada"),
            created_at_ms: 0,
            expires_at_ms: Some(100),
        };
        let mut identities = Identities::default();
        identities.tokens.insert(id, Arc::new(record));
        (minted, identities)
    }

    #[test]
    fn a_token_is_found_by_its_whole_text_until_it_runs_out() {
        let (minted, identities) = made(AUDIENCE);
        let text = minted.text.expose();
        assert!(find(&identities, AUDIENCE, text, 99).is_ok());
        let kind = CredentialKind::ApiToken;
        let expired = AuthError::Expired(ExpiredCredential { kind, at_ms: 100, now_ms: 101 });
        assert_eq!(find(&identities, AUDIENCE, text, 101).unwrap_err(), expired);
        assert!(find(&identities, AUDIENCE, text, 100).is_err());
        let begin = format!("mxt_{AUDIENCE}_");
        for wrong in [
            &text[..text.len() - 1],
            "mxt_",
            &begin,
            &format!("{begin}ci_deploy_"),
            &format!("{begin}other_00"),
        ] {
            assert_eq!(find(&identities, AUDIENCE, wrong, 0).unwrap_err(), AuthError::Invalid);
        }
        assert!(!format!("{minted:?}").contains(text));
    }

    #[test]
    fn a_token_of_another_cluster_is_not_accepted_even_with_a_copy_of_its_state() {
        let (minted, identities) = made(AUDIENCE);
        let text = minted.text.expose();
        assert_eq!(audience_of(text), Some(AUDIENCE));
        let other = "8899aabbccddeeff";
        assert_eq!(find(&identities, other, text, 0).unwrap_err(), AuthError::Invalid);
        let renamed = text.replace(AUDIENCE, other);
        assert_eq!(find(&identities, other, &renamed, 0).unwrap_err(), AuthError::Invalid);
    }
}
