//! Users, signing keys and API tokens: replicated, so that every node accepts every node's tokens.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::name::Name;
use super::versioned::{first_version, stored};

/// What a user may do; each role includes the lower ones.
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
    /// Looks.
    Viewer,
    /// Looks and steers services.
    Operator,
    /// Everything, people and membership included.
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

/// Someone who signs in with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name to sign in with.
    pub name: Name,
    /// What they may do.
    pub role: Role,
    /// The password's argon2id hash in PHC form; never the password.
    pub password_hash: Box<str>,
    /// Grows with every change of the password or role; older tokens stop working. It begins at the
    /// index at which the user was made (the first admin's at 0), so that a user who is deleted and
    /// made again under the same name never has a version that an old token was issued for.
    pub credential_version: u64,
    /// Whether the account comes from the operator's environment and cannot be changed here.
    pub managed: bool,
    /// Sessions of this credential version that were ended before their time.
    pub ended_sessions: Vec<EndedSession>,
}

stored!(User { name, role, password_hash, credential_version, managed, ended_sessions });

/// A session that was ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// When its token was issued, in seconds since 1970.
    pub issued_at_s: u64,
    /// When its token stops working by itself, in seconds since 1970.
    pub expires_at_s: u64,
    /// Tells it from others that began in the same second.
    pub id: u64,
}

stored!(EndedSession { issued_at_s, expires_at_s, id });

// The hash stays out of logs.
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

/// A key that signs sessions' tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Its name in the token's header.
    pub key_id: Name,
    /// The HMAC secret.
    pub secret: Box<[u8]>,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
}

stored!(SigningKey { key_id, secret, created_at_ms });

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A long-lived API token; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public name.
    pub id: Name,
    /// What it is for, in its maker's words.
    pub note: Box<str>,
    /// What its bearer may do.
    pub role: Role,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// Who made it.
    pub created_by: Name,
    /// Time, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it stops working, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
}

stored!(TokenRecord { id, note, role, token_hash, created_by, created_at_ms, expires_at_ms });

/// Everything that decides who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// What tells this cluster from every other: random, made once by the first leader. Empty until
    /// then. Tokens carry it, so that one cluster's tokens are not accepted by another.
    pub cluster: Box<str>,
    /// Users by name.
    pub users: OrdMap<Name, Arc<User>>,
    /// Signing keys, newest first: the first signs, all are accepted.
    pub signing_keys: Vec<SigningKey>,
    /// API tokens by id.
    pub tokens: OrdMap<Name, Arc<TokenRecord>>,
}
