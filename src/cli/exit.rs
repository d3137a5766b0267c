//! How a command ends: the error type of every command, its exit codes, and how an error is reported.
//!
//! Commands return [`CliError`]; only [`CliError::report`] writes to the error stream. Scripts depend on the
//! codes, so a code never changes its meaning. New codes may be added.

use std::io::Write;

use serde_json::json;

use super::client::{Problem, tls_remedy};
use super::output::{Format, printable_lines};

/// The command did what was asked.
pub const OK: u8 = 0;
/// It failed for a reason that has no code of its own.
pub const FAILURE: u8 = 1;
/// The command line or an input file is wrong; nothing was sent.
pub const USAGE: u8 = 2;
/// The named object does not exist.
pub const NOT_FOUND: u8 = 3;
/// No node answered, or none could serve the request now; nothing was written. Trying later may help.
pub const UNAVAILABLE: u8 = 4;
/// The cluster refused: an invalid value, no permission, a limit, a conflict, a changed revision.
pub const REFUSED: u8 = 5;
/// The write may or may not have taken effect; look before you repeat it.
pub const OUTCOME_UNKNOWN: u8 = 6;

/// `maxine lock` lost its lock, and ended the command that it ran.
pub const LOCK_LOST: u8 = 7;

/// The table of exit codes; `docs/reference/command-line.md` has the same rows.
pub const CODES: [(u8, &str); 8] = [
    (OK, "done"),
    (FAILURE, "failed for any other reason"),
    (USAGE, "wrong arguments or input file; nothing was sent"),
    (NOT_FOUND, "what was named does not exist"),
    (UNAVAILABLE, "no node could serve the request now; nothing was changed; try again later"),
    (
        REFUSED,
        "refused by the cluster: invalid value, permission, limit, conflict, or changed by somebody else in the meantime",
    ),
    (OUTCOME_UNKNOWN, "unknown whether the change was made; look before you repeat it"),
    (LOCK_LOST, "the lock was lost, and the command that held it was ended"),
];

/// The table of exit codes, for `--help`.
#[must_use]
pub fn help() -> String {
    let rows = CODES.iter().map(|(code, meaning)| format!("\n  {code}  {meaning}"));
    format!("Exit codes:{}", rows.collect::<String>())
}

/// Why a command ended without doing what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The user's input is wrong.
    #[error("{0}")]
    Usage(String),
    /// Something failed on this machine, or an answer could not be understood.
    #[error("{0}")]
    Failed(String),
    /// An object that was named does not exist. This was found without a problem answer of a server.
    #[error("{0}")]
    NotFound(String),
    /// A node answered with a problem.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No node could be reached, or none could serve the request.
    #[error("no node could serve the request:{}", list(.tried))]
    Unavailable {
        /// Whether a node answered, so that the addresses are right.
        answered: bool,
        /// Each node that was tried, and its error.
        tried: Vec<(String, String)>,
    },
    /// Some of the nodes that had to answer did not.
    #[error("{0}")]
    Incomplete(String),
    /// A change was made on some nodes. Others that had to make it did not answer.
    #[error("{0}")]
    Partial(String),
    /// A write went out and no answer came back.
    #[error("it is unknown whether the change was made:{}", list(.tried))]
    OutcomeUnknown {
        /// The answers that leave the outcome open, and then the last ones, each with its node.
        tried: Vec<(String, String)>,
        /// Whether one of several nodes gave no answer.
        is_silent: bool,
        /// The command that shows whether the change was made, if one is known.
        look: Option<String>,
    },
    /// The result cannot be written. The command itself was carried out.
    #[error("the result could not be written: {why}{}", .lost.as_ref().map_or_else(String::new, |lost| format!("; it was: {lost}")))]
    OutputFailed {
        /// The reason.
        why: String,
        /// The result, if it is one sentence.
        lost: Option<String>,
    },
    /// The cluster, or the named object, refuses. This was found without a problem answer of a server.
    #[error("{0}")]
    Refused(String),
    /// The lock was lost while a command ran under it.
    #[error("{0}")]
    LockLost(String),
    /// A command that this one ran ended with this exit code.
    #[error("the command ended with the exit code {0}")]
    Ended(u8),
    /// The reader of the output went away (`maxine watch | head`).
    #[error("the output was closed")]
    OutputClosed,
}

/// One line for each node: its URL, and why it did not carry out the request.
pub(super) fn list(tried: &[(String, String)]) -> String {
    tried.iter().map(|(server, why)| format!("\n  {server}: {why}")).collect()
}

impl CliError {
    /// An error of the files of a certificate authority. Where they belong to another cluster, or are not there, the user
    /// named the wrong directory or cluster.
    #[must_use]
    pub fn of_authority(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::InvalidInput => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }

    /// The exit code that this error ends the process with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Failed(_) | Self::OutputFailed { .. } => FAILURE,
            Self::NotFound(_) => NOT_FOUND,
            Self::Problem(problem) => problem.exit_code(),
            Self::Refused(_) => REFUSED,
            Self::Unavailable { .. } | Self::Incomplete(_) => UNAVAILABLE,
            Self::OutcomeUnknown { .. } | Self::Partial(_) => OUTCOME_UNKNOWN,
            Self::LockLost(_) => LOCK_LOST,
            Self::Ended(code) => *code,
            Self::OutputClosed => OK,
        }
    }

    /// The error of one node, for a text that already names the node: without its address.
    #[must_use]
    pub fn of_one_node(&self) -> String {
        match self {
            Self::Unavailable { tried, .. } if tried.len() == 1 => tried[0].1.clone(),
            Self::OutcomeUnknown { tried, .. } if tried.len() == 1 => {
                format!("it is unknown whether the change was made: {}", tried[0].1)
            }
            other => other.to_string().replace('\n', " "),
        }
    }

    /// What the user can do about it; `None` if nothing is known to help.
    #[must_use]
    pub fn action(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.advice(),
            Self::Unavailable { answered: false, tried } => {
                let of_tls = tried.iter().find_map(|(_, why)| tls_remedy(why));
                let names_nodes = "--server URL,URL or MAXINE_SERVER names the nodes";
                Some(match of_tls {
                    Some(remedy) => remedy.to_owned(),
                    None => format!("check that a node runs at this address; {names_nodes}"),
                })
            }
            Self::OutcomeUnknown { is_silent, look, .. } => {
                let look = match look {
                    Some(command) => format!("'{command}'"),
                    None => "'maxine services show' or 'maxine cluster status'".into(),
                };
                let of_silent = match is_silent {
                    true => "; leave a node that does not answer out of --server",
                    false => "",
                };
                Some(format!(
                    "look at the state first, with {look}, then repeat the change if needed{of_silent}"
                ))
            }
            _ => None,
        }
    }

    /// Reports the error to the user, as text or as one line of JSON, and returns the exit code. A closed
    /// output is not reported.
    pub fn report(&self, format: Format, sink: &mut dyn Write) -> u8 {
        let code = self.exit_code();
        // The command that ended has said why.
        if matches!(self, Self::OutputClosed | Self::Ended(_)) {
            return code;
        }
        let problem = match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        };
        let note = problem.and_then(|problem| problem.stale_note.as_ref());
        // If the error stream is closed too, the error cannot be reported.
        let _ = match format {
            Format::Json => {
                let raw = problem.map(|problem| &problem.raw);
                let mut line = json!({"error": self.to_string(), "action": self.action(), "exit_code": code, "problem": raw});
                if let Some(note) = note {
                    line["note"] = note.as_str().into();
                }
                writeln!(sink, "{line}")
            }
            Format::Table => {
                let action = self.action().map(|action| format!("\n  {action}"));
                let note = note.map(|note| format!("\nnote: {note}"));
                let (action, note) = (action.unwrap_or_default(), note.unwrap_or_default());
                writeln!(sink, "{}", printable_lines(&format!("error: {self}{action}{note}")))
            }
        };
        code
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_as_text_and_as_json_with_its_code() {
        let error = CliError::Unavailable {
            answered: false,
            tried: vec![("http://a".into(), "connection refused".into())],
        };
        let (mut text, mut line) = (Vec::new(), Vec::new());
        assert_eq!(error.report(Format::Table, &mut text), UNAVAILABLE);
        assert_eq!(error.report(Format::Json, &mut line), UNAVAILABLE);
        assert!(String::from_utf8(text).unwrap().contains("http://a: connection refused"));
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["exit_code"], 4);
    }

    /// Regression: the advice for a node with an expired certificate was to check that a node runs.
    #[test]
    fn a_node_whose_certificate_is_refused_is_not_said_not_to_run() {
        let action = |why: &[&str]| {
            let tried = why.iter().map(|why| ("http://a".into(), (*why).into())).collect();
            CliError::Unavailable { answered: false, tried }.action().unwrap()
        };
        assert!(action(&["Connection refused"]).starts_with("check that a node runs"));
        let expired = "the node's certificate has expired";
        for all in [&[expired][..], &["Connection refused", expired]] {
            let action = action(all);
            assert!(action.starts_with("something answers at this address: replace"), "{action}");
        }
    }

    #[test]
    fn the_error_of_one_node_does_not_repeat_its_address() {
        let tried = vec![("http://a/".into(), "Connection refused".into())];
        let lost = CliError::OutcomeUnknown { tried: tried.clone(), is_silent: false, look: None };
        let lost = lost.of_one_node();
        assert_eq!(lost, "it is unknown whether the change was made: Connection refused");
        let dead = CliError::Unavailable { answered: false, tried }.of_one_node();
        assert_eq!(dead, "Connection refused");
        assert_eq!(CliError::Failed("two\nlines".into()).of_one_node(), "two lines");
    }

    #[test]
    fn the_reference_page_has_every_code() {
        let page = include_str!("../../docs/reference/command-line.md");
        for (code, meaning) in CODES {
            assert!(page.contains(&format!("| {code} | {meaning} |")), "{code}: {meaning}");
        }
    }

    #[test]
    fn a_closed_output_is_success_and_silent() {
        let error = CliError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let mut sink = Vec::new();
        assert_eq!(error.report(Format::Table, &mut sink), OK);
        assert!(sink.is_empty());
    }
}
