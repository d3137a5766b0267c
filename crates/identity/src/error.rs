//! Why a request or a sign-in is refused, and with which status.

use super::CSRF_HEADER;
use maxine_state::Role;

/// A kind of credential that ends at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// A session of a user.
    Session,
    /// An API token.
    ApiToken,
    /// A token of another issuer.
    WorkloadToken,
}

/// A credential whose time is over, by the time of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredCredential {
    /// What it is.
    pub kind: CredentialKind,
    /// When it expired, in milliseconds since 1970.
    pub at_ms: u64,
    /// The time of this node, in milliseconds since 1970. If it is wrong, so is the refusal.
    pub now_ms: u64,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There are no credentials, or none of an accepted kind: 401.
    #[error("Unauthorized")]
    Missing,
    /// The credential has expired: 401.
    #[error("JWT token expired")]
    Expired(ExpiredCredential),
    /// The token was not issued by this cluster, or it is an API token that was deleted: 403.
    #[error("Forbidden")]
    Invalid,
    /// The session was ended, the user was deleted, or the password or role was changed: 401.
    #[error("Unauthorized")]
    Revoked,
    /// The session belongs to an earlier history of the cluster's state: 401.
    #[error("Unauthorized")]
    HistoryEnded,
    /// The request has the cookie, but not the header that proves that it does not come from another site:
    /// 403.
    #[error("Forbidden")]
    CrossSite,
    /// The request has the cookie, but its host is none of this node's own host names: 403.
    #[error("Forbidden")]
    WrongHost,
    /// This node has had no contact with the cluster for too long, so it does not know whether the credential
    /// was revoked: 503.
    #[error(
        "this node has not heard from the cluster for {age_s} s and does not know whether the credential was revoked"
    )]
    Stale {
        /// The time without contact, in seconds.
        age_s: u64,
    },
    /// The token names a key of its issuer that is not known, and the keys are being fetched: 503.
    #[error("the keys of the token's issuer are being fetched; try again in 1 s")]
    KeysAwaited,
    /// The token is genuine, but no rule of its issuer gives it a role: 403.
    #[error("Forbidden")]
    NoRule,
    /// This node has no state yet, so it knows no credentials: 503.
    #[error("{}", maxine_view::NO_STATE)]
    NoState,
    /// The caller is known, but their role does not permit the request: 403.
    #[error("Forbidden")]
    RoleTooLow {
        /// The lowest role that permits it.
        required: Role,
    },
}

impl AuthError {
    /// Whether the refusal belongs in the audit log. It does if someone tried to do what they may not, or
    /// used a credential that is not theirs. A missing, expired or outdated token is normal.
    #[must_use]
    pub fn is_audited(self) -> bool {
        !matches!(
            self,
            Self::Missing
                | Self::Expired(_)
                | Self::HistoryEnded
                | Self::Stale { .. }
                | Self::NoState
                | Self::KeysAwaited
        )
    }

    /// A text for the caller that says what is missing.
    #[must_use]
    pub fn explanation(self) -> String {
        match self {
            Self::Missing => "the request carries no token".into(),
            Self::Expired(ExpiredCredential { kind, at_ms, now_ms }) => {
                let what = match kind {
                    CredentialKind::Session => "session",
                    CredentialKind::ApiToken => "API token",
                    CredentialKind::WorkloadToken => "token of another issuer",
                };
                let (at, now) = (maxine_wording::iso_8601(at_ms), maxine_wording::iso_8601(now_ms));
                format!("the {what} expired at {at}, by the time of this node, which is {now}")
            }
            Self::Invalid => "the token is not valid in this cluster, or was revoked".into(),
            Self::Revoked => {
                "the session was ended, its user was deleted, or the password or role was changed"
                    .into()
            }
            Self::HistoryEnded => {
                "the session belongs to another history of this cluster: one of both was restored from a copy or lost \
                 acknowledged writes: sign in again"
                    .into()
            }
            Self::CrossSite => format!(
                "with the cookie, a change needs the header {CSRF_HEADER}: 1, and a method other than GET"
            ),
            Self::WrongHost => "the cookie counts only where the request names this node by an IP \
                                address, as localhost, or as http.allowed_hosts says"
                .into(),
            Self::Stale { .. } | Self::NoState => format!(
                "{self}: ask another node, or use the token in the file break-glass of this node's data \
                 directory"
            ),
            Self::KeysAwaited => self.to_string(),
            Self::NoRule => {
                "the token is genuine, but no rule for its issuer gives it a role".into()
            }
            Self::RoleTooLow { required } => {
                format!("the route needs the role {}", required.as_str())
            }
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::Missing | Self::Expired(_) | Self::Revoked | Self::HistoryEnded => {
                http::StatusCode::UNAUTHORIZED
            }
            Self::Invalid
            | Self::CrossSite
            | Self::WrongHost
            | Self::NoRule
            | Self::RoleTooLow { .. } => http::StatusCode::FORBIDDEN,
            Self::Stale { .. } | Self::NoState | Self::KeysAwaited => {
                http::StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// Why a sign-in is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigninError {
    /// The user is unknown or the password is wrong. The answer does not say which.
    #[error("Unauthorized")]
    Refused,
    /// There were too many attempts.
    #[error("too many sign-in attempts; try again in {retry_after_s} s")]
    TooManyAttempts {
        /// Time until the next attempt is allowed, in seconds.
        retry_after_s: u64,
    },
    /// Too many passwords are being checked now.
    #[error("too many sign-ins at the same time; try again in 1 s")]
    Busy,
    /// This node has had no contact with the cluster for too long, so it does not know whether the password
    /// is still valid.
    #[error(
        "this node has not heard from the cluster for {age_s} s and does not know whether the password is still valid; sign in at another node"
    )]
    Stale {
        /// The time without contact, in seconds.
        age_s: u64,
    },
    /// This node has no state yet, so it knows no users.
    #[error("{}", maxine_view::NO_STATE)]
    NoState,
    /// There is no account or no signing key yet, because the cluster has not had a leader.
    #[error("the cluster is not ready for sign-ins yet; try again in 1 s")]
    NotReady,
    /// The password came over plain HTTP from another machine.
    #[error(
        "passwords are not accepted over plain HTTP from another machine, because others on the way can read them: use https, or set security.allow_plain_http (MAXINE_ALLOW_PLAIN_HTTP) to true on this node"
    )]
    PlainHttp,
}

/// Why a session is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// The caller has no session.
    #[error("only a session can be renewed")]
    NoSession,
    /// The sign-in is too long ago.
    #[error("the sign-in was more than 12 hours ago: sign in again")]
    TooOld,
    /// There is no signing key yet, because the cluster has not had a leader.
    #[error("the cluster is not ready for sign-ins yet; try again in 1 s")]
    NotReady,
}

/// Why an API token could not be created. A retry is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The cluster has not had a leader.
    #[error("the cluster has no identity yet: it has not had a leader so far")]
    NotReady,
    /// The operating system provides no random numbers.
    #[error("the operating system gave no random numbers")]
    NoRandomness,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: an API token that had expired by a wrong clock was called a session, without a time.
    #[test]
    fn an_expired_credential_is_named_with_its_time_and_that_of_the_node() {
        for (kind, name) in [
            (CredentialKind::Session, "the session expired"),
            (CredentialKind::ApiToken, "the API token expired"),
            (CredentialKind::WorkloadToken, "the token of another issuer expired"),
        ] {
            let (at_ms, now_ms) = (1_795_440_992_705, 1_830_000_992_705);
            let error = AuthError::Expired(ExpiredCredential { kind, at_ms, now_ms });
            let text = error.explanation();
            assert!(text.starts_with(name), "{text}");
            assert!(
                text.contains(" at 2026-11-23T13:36:32.705Z, by the time of this node"),
                "{text}"
            );
            assert!(text.ends_with(", which is 2027-12-28T13:36:32.705Z"), "{text}");
            // The compatible API has one text for all of them.
            assert_eq!(
                (error.to_string().as_str(), error.status().as_u16()),
                ("JWT token expired", 401)
            );
        }
    }
}
