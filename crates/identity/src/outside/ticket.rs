//! The ticket of a sign-in at a provider: what a node must know again when the person comes back.
//!
//! No node remembers a sign-in that has begun, because the person may come back to another node. The browser keeps the
//! ticket in a cookie instead, and the command line in its memory. The cluster's signing key authenticates it. The
//! values that prove the sign-in, such as the verifier of PKCE, are derived from its id with that key, so whoever reads
//! a ticket or an address of the sign-in does not know them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, EncodingKey};
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};

use crate::api_token::is_same;

/// How long a sign-in may take, in seconds.
pub(super) const LIFETIME_S: u64 = 600;
/// Maximum length of a ticket, in bytes.
const LEN_MAX: usize = 3_800;

/// A sign-in that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    /// A random text.
    pub(super) id: String,
    /// The provider's name.
    pub(super) provider: String,
    /// When the sign-in is over, in seconds since 1970.
    pub(super) expires_s: u64,
    /// How the person comes back.
    pub(super) way: Way,
}

/// How a person comes back from the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// The browser is sent to the dashboard, and then to this path.
    Dashboard(String),
    /// The browser is sent to this URL of the command line.
    Loopback(String),
    /// The person types a code at the provider, and the command line asks whether they have signed in.
    Device {
        /// The code with which the node asks the provider.
        code: String,
        /// The pause between two questions that the provider wants, in seconds.
        interval_s: u64,
    },
}

/// The secret values of a sign-in.
pub(super) struct Derived {
    /// The `state` parameter.
    pub(super) state: String,
    /// The `nonce` parameter.
    pub(super) nonce: String,
    /// The verifier of PKCE (RFC 7636).
    pub(super) verifier: String,
}

impl Ticket {
    /// A new one. `None` if the system has no random numbers.
    pub(super) fn new(provider: &str, way: Way, now_s: u64) -> Option<Self> {
        let mut id = [0_u8; 32];
        OsRng.try_fill_bytes(&mut id).ok()?;
        let (id, provider) = (BASE64URL.encode(id), provider.to_owned());
        Some(Self { id, provider, expires_s: now_s + LIFETIME_S, way })
    }

    /// Its text, authenticated with `secret` for the cluster with this audience.
    pub(super) fn sealed(&self, secret: &[u8], audience: &str) -> Option<String> {
        let body = BASE64URL.encode(serde_json::to_vec(self).ok()?);
        let seal = mac(secret, &sealed_text(audience, &body))?;
        Some(format!("{body}.{seal}")).filter(|text| text.len() <= LEN_MAX)
    }

    /// Reads a ticket. Returns it with the secret that authenticates it; `None` if none does, or if its time is over.
    pub(super) fn open<'a>(
        text: &str,
        secrets: impl Iterator<Item = &'a [u8]>,
        audience: &str,
        now_s: u64,
    ) -> Option<(Self, &'a [u8])> {
        if text.len() > LEN_MAX {
            return None;
        }
        let (body, seal) = text.split_once('.')?;
        let signed = sealed_text(audience, body);
        let mut secrets = secrets;
        let secret = secrets.find(|secret| {
            mac(secret, &signed).is_some_and(|own| is_same(own.as_bytes(), seal.as_bytes()))
        })?;
        let ticket: Self = serde_json::from_slice(&BASE64URL.decode(body).ok()?).ok()?;
        (ticket.expires_s > now_s).then_some((ticket, secret))
    }

    /// The secret values of the sign-in.
    pub(super) fn derived(&self, secret: &[u8]) -> Option<Derived> {
        let of = |purpose: &str| mac(secret, &format!("maxine sign-in {purpose}\n{}", self.id));
        Some(Derived { state: of("state")?, nonce: of("nonce")?, verifier: of("verifier")? })
    }
}

// A session's token is signed over two texts in base64url with a dot between them. No text here has that form, so no
// value of one kind is one of the other.
fn sealed_text(audience: &str, body: &str) -> String {
    format!("maxine sign-in ticket\n{audience}\n{body}")
}

fn mac(secret: &[u8], text: &str) -> Option<String> {
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::crypto::sign(text.as_bytes(), &key, Algorithm::HS256).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_only_as_it_was_made_and_in_its_time() {
        let (old, new) = ([1_u8; 32], [2_u8; 32]);
        let ticket = Ticket::new("corp", Way::Dashboard("/".into()), 1_000).unwrap();
        let text = ticket.sealed(&old, "cluster").unwrap();
        let open = |text: &str, audience: &str, now_s| {
            let secrets = [&new[..], &old[..]];
            Ticket::open(text, secrets.into_iter(), audience, now_s)
        };
        let (read, secret) = open(&text, "cluster", 1_599).unwrap();
        assert_eq!((read, secret), (ticket.clone(), &old[..]));
        assert!(open(&text, "cluster", 1_600).is_none(), "too late");
        assert!(open(&text, "other", 1_000).is_none(), "of another cluster");
        let other = Ticket { provider: "evil".into(), ..ticket.clone() };
        let body = BASE64URL.encode(serde_json::to_vec(&other).unwrap());
        let forged = format!("{body}.{}", text.split_once('.').unwrap().1);
        let unsigned = format!("{body}.");
        for wrong in [forged.as_str(), unsigned.as_str(), body.as_str(), "", "."] {
            assert!(open(wrong, "cluster", 1_000).is_none(), "{wrong}");
        }
        assert!(Ticket::open(&text, [&new[..]].into_iter(), "cluster", 1_000).is_none());
    }

    #[test]
    fn the_values_of_two_sign_ins_and_of_two_purposes_differ_and_are_not_in_the_ticket() {
        let secret = [7_u8; 32];
        let of = || Ticket::new("corp", Way::Dashboard("/".into()), 0).unwrap();
        let (a, b) = (of(), of());
        let (x, y) = (a.derived(&secret).unwrap(), b.derived(&secret).unwrap());
        let mut all = vec![x.state, x.nonce, x.verifier, y.state, y.nonce, y.verifier];
        let text = a.sealed(&secret, "cluster").unwrap();
        assert!(all.iter().all(|value| value.len() == 43 && !text.contains(value.as_str())));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
    }
}
