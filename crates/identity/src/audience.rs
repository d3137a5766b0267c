//! The audience of tokens: a name that distinguishes this cluster from all others.

use sha2::{Digest, Sha256};

use super::api_token::hex;
use maxine_state::Identities;

/// Number of bytes of the hash that are used.
const LEN_BYTES: usize = 8;

/// A hash of the cluster's configured name and its random identity, in hexadecimal. A copy of the state under
/// another cluster name has another audience; a test cluster that was restored from a backup is an example.
/// `None` until the first leader has created the identity.
pub(super) fn of(cluster_name: &str, identities: &Identities) -> Option<String> {
    if identities.cluster.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    // A name has no control characters, so the separator is unambiguous.
    hash.update(cluster_name.as_bytes());
    hash.update(b"\n");
    hash.update(identities.cluster.as_bytes());
    Some(hex(&hash.finalize()[..LEN_BYTES]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_identity_both_count() {
        let with = |id: &str| Identities { cluster: id.into(), ..Identities::default() };
        let audience = of("maxine", &with("a")).unwrap();
        assert_eq!(audience.len(), 16);
        assert_eq!(of("maxine", &with("a")), Some(audience.clone()));
        assert_ne!(of("staging", &with("a")), Some(audience.clone()));
        assert_ne!(of("maxine", &with("b")), Some(audience));
        assert_eq!(of("maxine", &with("")), None);
    }
}
