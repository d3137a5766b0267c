//! What operators set about access, mostly through the environment.

use std::fmt;

use super::password::PasswordCost;
use maxine_state::Role;

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

/// Shortest secret that signs with HS256, in bytes: that of the hash (RFC 7518, section 3.2).
const JWT_SECRET_LEN_MIN: usize = 32;

impl EnvSigningKeys {
    /// The keys as the environment gives them; `previous` is a list with commas.
    ///
    /// # Errors
    /// Says which variable holds a secret that is too short. The secret is not shown.
    pub fn new(key_id: Option<&str>, current: &str, previous: &str) -> Result<Self, String> {
        let secret = |name: &str, text: &str| {
            if text.len() >= JWT_SECRET_LEN_MIN {
                return Ok(Secret::new(text));
            }
            Err(format!(
                "environment {name}: a secret must be at least {JWT_SECRET_LEN_MIN} bytes long, got {}; \
                 'openssl rand -hex 32' makes one",
                text.len()
            ))
        };
        let previous = previous.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self {
            key_id: key_id.unwrap_or("maxine-current").to_owned(),
            current: secret("MAXINE_JWT_SECRET", current)?,
            previous: previous
                .map(|text| secret("MAXINE_JWT_PREVIOUS_SECRETS", text))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Settings of this module.
#[derive(Clone, Debug)]
pub struct SecuritySettings {
    /// The cluster's configured name, which tokens carry together with the cluster's identity.
    pub cluster_name: String,
    /// This node's name, under which the audit log has its break-glass token.
    pub node_name: String,
    /// This node's break-glass token, if it has one.
    pub break_glass: Option<Secret>,
    /// How long credentials count without contact with the cluster, in milliseconds.
    pub credential_staleness_max_ms: u64,
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
            node_name: "maxine".into(),
            break_glass: None,
            credential_staleness_max_ms: 600_000,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_signing_secret_is_refused_and_not_shown() {
        let long = "0123456789abcdef0123456789abcdef";
        let keys = EnvSigningKeys::new(None, long, &format!("{long}, {long}")).unwrap();
        assert_eq!((keys.previous.len(), &*keys.key_id), (2, "maxine-current"));
        for (current, previous, name) in [
            ("a", "", "MAXINE_JWT_SECRET:"),
            (&long[1..], "", "MAXINE_JWT_SECRET:"),
            (long, "hunter2", "MAXINE_JWT_PREVIOUS_SECRETS:"),
        ] {
            let error = EnvSigningKeys::new(None, current, previous).unwrap_err();
            assert!(error.contains(name) && error.contains("32 bytes"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
