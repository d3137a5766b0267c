//! The public keys of an issuer (JWKS, RFC 7517), and the check of a signature with them.
//!
//! **Invariant:** the kind of a key decides which algorithms it may verify, and the token's header only chooses among
//! them. No key verifies HMAC, so nobody can sign a token with a public key as the secret, and `none` is no algorithm.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde_json::Value;

/// Maximum length of a token, in bytes.
pub(super) const TOKEN_LEN_MAX: usize = 16_384;
/// Maximum number of keys of one issuer.
const KEYS_MAX: usize = 64;
/// Minimum length of the modulus of an RSA key, as base64url characters: 2048 bits.
const RSA_MODULUS_CHARS_MIN: usize = 341;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// It is no JWT that this node can check, or its algorithm is not allowed.
    Malformed,
    /// No key has its id. The issuer may have a new one.
    UnknownKey,
    /// The signature does not belong to it.
    Signature,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The keys of one issuer.
#[derive(Default)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// Parses a set. Keys of other kinds and uses are left out, as the specification asks.
    pub(super) fn parse(set: &Value) -> Result<Self, &'static str> {
        let items = set.get("keys").and_then(Value::as_array).ok_or("it has no list of keys")?;
        if items.len() > KEYS_MAX {
            return Err("it has more than 64 keys");
        }
        let keys: Vec<Key> = items.iter().filter_map(key).collect();
        if keys.is_empty() {
            Err("it has no key for signatures that can be used")
        } else {
            Ok(Self(keys))
        }
    }

    /// The claims of a token, if one of the keys signed it. Times, issuer and audience are not checked.
    pub(super) fn verify(&self, token: &str) -> Result<Value, Unverified> {
        let header = header(token)?;
        let may = |key: &&Key| key.algorithms.contains(&header.alg);
        let key = match &header.kid {
            Some(id) => {
                let named = self.0.iter().find(|key| key.id.as_ref() == Some(id));
                let named = named.ok_or(Unverified::UnknownKey)?;
                Some(named).filter(may).ok_or(Unverified::Malformed)?
            }
            // Without an id, only one key may come into question.
            None => {
                let mut usable = self.0.iter().filter(may);
                match (usable.next(), usable.next()) {
                    (Some(key), None) => key,
                    _ => return Err(Unverified::UnknownKey),
                }
            }
        };
        let mut validation = Validation::new(header.alg);
        // The node's own clock decides later.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Value>(token, &key.key, &validation)
            .map(|data| data.claims)
            .map_err(|_| Unverified::Signature)
    }
}

/// The header of a token. A token with extensions that must be understood is refused (RFC 7515, section 4.1.11).
fn header(token: &str) -> Result<Header, Unverified> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(Unverified::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Unverified::Malformed)?;
    if header.crit.is_some() { Err(Unverified::Malformed) } else { Ok(header) }
}

/// The issuer in a JWT, whoever signed it.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    if token.len() > TOKEN_LEN_MAX {
        return None;
    }
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token).ok()?.claims;
    claims.get("iss")?.as_str().map(str::to_owned)
}

fn key(item: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(item.clone()).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return None;
    }
    let of_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if rsa.n.len() >= RSA_MODULUS_CHARS_MIN => RSA,
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
        _ => return None,
    };
    let algorithms = match item.get("alg").and_then(Value::as_str) {
        None => of_kind.to_vec(),
        Some(named) => {
            let named: Algorithm = named.parse().ok()?;
            of_kind.iter().copied().filter(|each| *each == named).collect()
        }
    };
    if algorithms.is_empty() {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithms, key })
}
