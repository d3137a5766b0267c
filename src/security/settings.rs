//! What operators set about access, mostly through the environment.

use std::fmt;

use super::password::PasswordCost;
use crate::state::Role;

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Keeps `text` out of sight.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself; say why where you call it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// An account from the environment (`MAXINE_ADMIN_USERNAME`, `MAXINE_ADMIN_PASSWORD` and so on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The role.
    pub role: Role,
    /// The name to sign in with.
    pub user_name: String,
    /// The password.
    pub password: Secret,
}

/// Signing keys from the environment. They stay on the node and out of the log; where they are
/// set, every node needs the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvSigningKeys {
    /// `MAXINE_JWT_SECRET_KEY_ID`, by default `maxine-current`.
    pub key_id: String,
    /// `MAXINE_JWT_SECRET`: signs.
    pub current: Secret,
    /// `MAXINE_JWT_PREVIOUS_SECRETS`: still accepted.
    pub previous: Vec<Secret>,
}

/// Settings of this module.
#[derive(Clone, Debug)]
pub struct SecuritySettings {
    /// The cluster's configured name, which tokens carry together with the cluster's identity.
    pub cluster_name: String,
    /// Accounts from the environment, at most one for each role.
    pub accounts: Vec<Account>,
    /// The name of the administrator who is made at the first start, where the environment sets
    /// none.
    pub first_admin: String,
    /// Signing keys from the environment, if they are set; else the replicated ones sign.
    pub env_keys: Option<EnvSigningKeys>,
    /// How long a session lasts, in seconds.
    pub session_lifetime_s: u64,
    /// What a password's hash costs.
    pub password_cost: PasswordCost,
    /// Failed sign-ins of one user from one address until it has to wait.
    pub signin_attempts_max: u32,
    /// The time over which they count, in milliseconds.
    pub signin_window_ms: u64,
}

impl Default for SecuritySettings {
    fn default() -> Self {
        Self {
            cluster_name: "maxine".into(),
            accounts: Vec::new(),
            first_admin: "admin".into(),
            env_keys: None,
            session_lifetime_s: 1_800,
            password_cost: PasswordCost::default(),
            signin_attempts_max: 10,
            signin_window_ms: 60_000,
        }
    }
}
