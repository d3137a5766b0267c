//! Why someone is not let in, and with which status that is answered.

use super::CSRF_HEADER;
use maxine_state::Role;

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credentials, or none of a kind that is accepted: 401.
    #[error("Unauthorized")]
    Missing,
    /// The session has run out: 401.
    #[error("JWT token expired")]
    Expired,
    /// The token is not one of ours: 403.
    #[error("Forbidden")]
    Invalid,
    /// The user is gone, or their password changed since: 401.
    #[error("Unauthorized")]
    Revoked,
    /// The session is from a history of the cluster's state that has ended: 401.
    #[error("Unauthorized")]
    HistoryEnded,
    /// The cookie came without the header that proves it was not sent by another site: 403.
    #[error("Forbidden")]
    CrossSite,
    /// The cookie came with a name of this node that is not one of its own: 403.
    #[error("Forbidden")]
    WrongHost,
    /// This node has been without contact with the cluster for too long to know whether the credential
    /// was revoked: 503.
    #[error(
        "this node has not heard from the cluster for {age_s} s and cannot tell whether the credential was revoked"
    )]
    Stale {
        /// For how long, in seconds.
        age_s: u64,
    },
    /// This node has no state yet, so it knows no credentials at all: 503.
    #[error("{}", maxine_view::NO_STATE)]
    NoState,
    /// Known, but may not: 403.
    #[error("Forbidden")]
    RoleTooLow {
        /// The least role that may.
        required: Role,
    },
}

impl AuthError {
    /// Whether the refusal belongs into the audit log: someone tried what they may not, or with what is not theirs. No
    /// token, or one whose time or history is over, is everyday.
    #[must_use]
    pub fn is_worth_a_record(self) -> bool {
        !matches!(
            self,
            Self::Missing | Self::Expired | Self::HistoryEnded | Self::Stale { .. } | Self::NoState
        )
    }

    /// What is missing, for whoever sent the request.
    #[must_use]
    pub fn explained(self) -> String {
        match self {
            Self::Missing => "the request carries no token".into(),
            Self::Expired => "the session has run out".into(),
            Self::Invalid => "the token is not valid in this cluster, or was revoked".into(),
            Self::Revoked => "the token's user is gone, or their password or role changed".into(),
            Self::HistoryEnded => {
                "the cluster's data was restored from a copy, or acknowledged writes were lost, \
                                   since this session began: sign in again"
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
            Self::RoleTooLow { required } => {
                format!("the route needs the role {}", required.as_str())
            }
        }
    }

    /// The status that tells it.
    #[must_use]
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::Missing | Self::Expired | Self::Revoked | Self::HistoryEnded => {
                http::StatusCode::UNAUTHORIZED
            }
            Self::Invalid | Self::CrossSite | Self::WrongHost | Self::RoleTooLow { .. } => {
                http::StatusCode::FORBIDDEN
            }
            Self::Stale { .. } | Self::NoState => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A sign-in that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigninError {
    /// Unknown user or wrong password; which of the two is not told.
    #[error("Unauthorized")]
    Refused,
    /// Too many tries.
    #[error("too many sign-in attempts; try again in {retry_after_s} s")]
    TooManyAttempts {
        /// When a try is allowed again, in seconds.
        retry_after_s: u64,
    },
    /// Too many passwords are being checked at this moment.
    #[error("too many sign-ins at the same time; try again in 1 s")]
    Busy,
    /// This node has been without contact with the cluster for too long to know whether the password
    /// still holds.
    #[error(
        "this node has not heard from the cluster for {age_s} s and cannot tell whether the password still holds; sign in at another node"
    )]
    Stale {
        /// For how long, in seconds.
        age_s: u64,
    },
    /// This node has no state yet, so it knows no users.
    #[error("{}", maxine_view::NO_STATE)]
    NoState,
    /// No key to sign with yet: the cluster has had no leader so far.
    #[error("the cluster is not ready for sign-ins yet; try again in 1 s")]
    NotReady,
}

/// An API token could not be made; a retry is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The cluster has had no leader so far.
    #[error("the cluster has no identity yet: it has had no leader so far")]
    NotReady,
    /// The system has no randomness.
    #[error("the system gave no random numbers")]
    NoRandomness,
}
