//! The caller of a request, and how the caller was authenticated.

use maxine_admission::CallerClass;
use maxine_state::{EndedSession, Role};

/// How a caller was authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMethod {
    /// The caller was not authenticated.
    #[default]
    Nothing,
    /// With a session's JWT in the `Authorization` or the `x-maxine-token` header.
    Session,
    /// With a session's JWT in the dashboard's cookie.
    Cookie,
    /// With an API token.
    ApiToken,
    /// With the node's break-glass token.
    BreakGlass,
    /// With the token of an outside issuer.
    Jwt,
}

/// The token of an outside issuer that a caller showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideToken {
    /// The issuer.
    pub issuer: Box<str>,
    /// When it is no longer accepted, in seconds since 1970.
    pub expires_at_s: u64,
}

/// The session of a caller, with the values that are needed to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef {
    /// The version of the user's credentials for which it was issued.
    pub credential_version: u64,
    /// The identity of the session.
    pub session: EndedSession,
    /// When the user signed in, in seconds since 1970.
    pub signed_in_s: u64,
}

/// The caller of a request. On an open route it may be anyone. On a guarded route the caller's present role
/// is sufficient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user's name. It is `token:ID` for an API token, `jwt:ISSUER/SUBJECT` for the token of an outside issuer,
    /// `break-glass:NODE` for that node's break-glass token, and empty without a credential.
    pub user: Box<str>,
    /// The present role; `None` without a credential.
    pub role: Option<Role>,
    /// How the caller was authenticated.
    pub via: AuthMethod,
    /// The session, if there is one.
    pub session: Option<SessionRef>,
    /// The token of an outside issuer, if there is one.
    pub outside: Option<OutsideToken>,
}

impl Caller {
    /// Whether the caller has at least this role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }

    /// Which limits apply to the caller. Those with a credential count by their name.
    #[must_use]
    pub fn class(&self) -> CallerClass {
        match self.role {
            Some(role) => CallerClass::of_user(&self.user, role >= Role::Operator),
            None => CallerClass::Stranger,
        }
    }
}
