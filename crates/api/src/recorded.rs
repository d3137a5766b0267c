//! The outcome of an action outside the log, as the audit log records it.

use crate::problem::Problem;
use maxine_state::{AuditAction, Command};
use maxine_store::WriteOutcome;

/// The outcome of an action outside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It took effect.
    Success,
    /// It was refused or failed.
    Refused,
    /// It is not known whether it took effect.
    Unknown,
}

impl Recorded {
    /// The outcome of an action that failed with this problem; success without one.
    pub(super) fn of(failed: Option<&Problem>) -> Self {
        match failed.map(|problem| problem.kind.outcome()) {
            None => Self::Success,
            Some(WriteOutcome::NotDone) => Self::Refused,
            Some(WriteOutcome::Unknown) => Self::Unknown,
        }
    }

    /// The command that records it in a state of this version. Version 1 has no outcome "unknown".
    pub(super) fn command(
        self,
        action: AuditAction,
        object: Box<str>,
        state_version: u32,
    ) -> Command {
        let items = vec![(action, object.clone(), self == Self::Success)];
        let recorded = Command::RecordAudit { items };
        let unknown = Command::RecordUnknown { items: vec![(action, object)] };
        if self == Self::Unknown && unknown.needs() <= state_version { unknown } else { recorded }
    }
}

impl From<bool> for Recorded {
    fn from(success: bool) -> Self {
        if success { Self::Success } else { Self::Refused }
    }
}
