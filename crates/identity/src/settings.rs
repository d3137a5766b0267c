//! Settings of authentication, most of them from the environment.

use std::fmt;

use super::password::PasswordCost;
use maxine_state::Role;

/// A secret text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// A secret from a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself. Callers should say why they need it.
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

/// An account from the environment, such as `MAXINE_ADMIN_USERNAME` with `MAXINE_ADMIN_PASSWORD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The role.
    pub role: Role,
    /// The name to sign in with.
    pub user_name: String,
    /// The password.
    pub password: Secret,
}

/// Signing keys from the environment. They stay on the node and out of the log. If they are set, every node
/// needs the same ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvSigningKeys {
    /// `MAXINE_JWT_SECRET_KEY_ID`, by default `maxine-current`.
    pub key_id: String,
    /// `MAXINE_JWT_SECRET`, which signs.
    pub current: Secret,
    /// `MAXINE_JWT_PREVIOUS_SECRETS`, which are still accepted.
    pub previous: Vec<Secret>,
}

/// Minimum length of a secret for HS256, in bytes: the length of the hash (RFC 7518, section 3.2).
const JWT_SECRET_LEN_MIN: usize = 32;

impl EnvSigningKeys {
    /// The keys from the environment's texts. `previous` is a comma-separated list.
    ///
    /// # Errors
    ///
    /// Names the variable with a secret that is too short. The secret is not shown.
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

/// Settings of authentication.
#[derive(Clone, Debug)]
pub struct SecuritySettings {
    /// The configured name of the cluster. Tokens contain a hash of it and of the cluster's identity.
    pub cluster_name: String,
    /// This node's name. The audit log shows it for the break-glass token.
    pub node_name: String,
    /// This node's break-glass token, if it has one.
    pub break_glass: Option<Secret>,
    /// How long credentials are accepted without contact with the cluster, in milliseconds.
    pub credential_staleness_max_ms: u64,
    /// Accounts from the environment, at most one for each role.
    pub accounts: Vec<Account>,
    /// The name of the administrator that the first start creates, if the environment sets none.
    pub first_admin: String,
    /// Signing keys from the environment. If there are none, the replicated keys sign.
    pub env_keys: Option<EnvSigningKeys>,
    /// Lifetime of a session, in seconds.
    pub session_lifetime_s: u64,
    /// Cost of a password's hash.
    pub password_cost: PasswordCost,
    /// Number of failed sign-ins of one user from one address before it has to wait.
    pub signin_attempts_max: u32,
    /// The window in which they count, in milliseconds.
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
