//! Who calls.

use maxine_state::{EndedSession, Role};

/// How a caller proved who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Not at all.
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
}

/// The session that a caller came with; what is needed to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef {
    /// The version of the user's credentials that it was issued for.
    pub credential_version: u64,
    /// What names it.
    pub session: EndedSession,
}

/// Who calls. Anyone on an open route; on a guarded one, someone whose present role suffices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user's name, `token:ID` for an API token, `break-glass:NODE` for that node's break-glass token,
    /// empty for nobody.
    pub user: Box<str>,
    /// The present role; `None` for nobody.
    pub role: Option<Role>,
    /// How they proved it.
    pub via: Via,
    /// Their session, where they came with one.
    pub session: Option<SessionRef>,
}

impl Caller {
    /// Whether they have at least this role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }
}
