//! Users, signing keys and API tokens. They are replicated, so that every node accepts the tokens of every
//! other node.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::name::Name;
use super::versioned::{first_version, stored};

/// What a user may do. Each role includes the lower ones.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May read.
    Viewer,
    /// May read, and may change services.
    Operator,
    /// May do everything, including the management of users and members.
    Admin,
}

first_version!(Role { Viewer, Operator, Admin });

impl Role {
    /// The name on the wire: `viewer`, `operator` or `admin`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A person who signs in with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name to sign in with.
    pub name: Name,
    /// What the user may do.
    pub role: Role,
    /// The password's argon2id hash in PHC form; never the password.
    pub password_hash: Box<str>,
    /// Grows with every change of the password or role, and older tokens then stop working. It begins at the
    /// index at which the user was created (at 0 for the first admin). So a user who is deleted and created
    /// again never has a version that an old token was issued for.
    pub credential_version: u64,
    /// Whether the account is managed by the operator's environment variables, and so cannot be changed here.
    pub managed: bool,
    /// Sessions of this credential version that were ended before they expired.
    pub ended_sessions: Vec<EndedSession>,
}

stored!(User { name, role, password_hash, credential_version, managed, ended_sessions });

/// A session that was ended before it expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// When its token was issued, in seconds since 1970.
    pub issued_at_s: u64,
    /// When its token expires, in seconds since 1970.
    pub expires_at_s: u64,
    /// Distinguishes it from other sessions that began in the same second.
    pub id: u64,
}

stored!(EndedSession { issued_at_s, expires_at_s, id });

// The hash must not appear in logs.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("credential_version", &self.credential_version)
            .field("managed", &self.managed)
            .finish_non_exhaustive()
    }
}

/// A key that signs the tokens of sessions.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Its name in the token's header.
    pub key_id: Name,
    /// The HMAC secret.
    pub secret: Box<[u8]>,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
}

stored!(SigningKey { key_id, secret, created_at_ms });

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A long-lived API token. Only its hash is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public name.
    pub id: Name,
    /// What the token is for, in the words of the person who created it.
    pub note: Box<str>,
    /// What the bearer of the token may do.
    pub role: Role,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// The user who created it.
    pub created_by: Name,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it expires, in milliseconds since 1970; `None` if it never does.
    pub expires_at_ms: Option<u64>,
}

stored!(TokenRecord { id, note, role, token_hash, created_by, created_at_ms, expires_at_ms });

/// Users, signing keys and tokens: the data that decides who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// The identity of this cluster: a random text that the first leader creates once. Empty until then.
    /// Tokens contain it, so a token of one cluster is not accepted by another.
    pub cluster: Box<str>,
    /// Users by name.
    pub users: OrdMap<Name, Arc<User>>,
    /// Signing keys, newest first. The first one signs; all of them are accepted.
    pub signing_keys: Vec<SigningKey>,
    /// API tokens by id.
    pub tokens: OrdMap<Name, Arc<TokenRecord>>,
}
