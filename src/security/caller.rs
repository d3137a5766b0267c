//! Who calls.

use crate::state::Role;

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
}

/// Who calls. Anyone on an open route; on a guarded one, someone whose present role suffices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user's name, `token:ID` for an API token, empty for nobody.
    pub user: Box<str>,
    /// The present role; `None` for nobody.
    pub role: Option<Role>,
    /// How they proved it.
    pub via: Via,
}

impl Caller {
    /// Whether they have at least this role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }
}
