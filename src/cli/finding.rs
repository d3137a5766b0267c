//! What a check found, and what to do about it: the result of `maxine doctor`.
//!
//! What cannot be checked is reported as unknown, and never as good.

use serde_json::json;

use super::exit::CliError;
use super::output::Output;

/// The check whether a node gives its status.
pub(super) const ANSWERS: &str = "answers";
/// The check of how many files a node has open. No node reports that, so it is shown as text only beside something that
/// is wrong.
pub(super) const OPEN_FILES: &str = "open files";
/// What to do if a node does not show something without a token.
pub(super) const VIEWER: &str =
    "use the token of a viewer: 'maxine login', MAXINE_TOKEN or --token-file";

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Something does not work, or is not safe.
    Problem,
    /// Something can become a problem.
    Warning,
    /// It could not be checked.
    Unknown,
    /// It is as it should be.
    Good,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Good => "good",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The check.
    pub(super) check: &'static str,
    /// The URL of the node, or of several nodes with commas between them; a file; or empty for the whole cluster.
    pub(super) subject: String,
    /// What was found.
    pub(super) found: String,
    /// What to do; empty if nothing is to be done.
    pub(super) fix: String,
}

#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(
        &mut self,
        level: Level,
        check: &'static str,
        subject: &str,
        found: &str,
        fix: &str,
    ) {
        let (subject, found, fix) = (subject.to_owned(), found.to_owned(), fix.to_owned());
        self.0.push(Finding { level, check, subject, found, fix });
    }

    /// The most important findings first. Findings that say the same about several nodes, because something could not be checked,
    /// become one.
    pub(super) fn sorted(self) -> Vec<Finding> {
        let mut all: Vec<Finding> = Vec::new();
        for finding in self.0 {
            let says_the_same = |before: &&mut Finding| {
                finding.level == Level::Unknown
                    && (before.level, before.check) == (finding.level, finding.check)
                    && (&before.found, &before.fix) == (&finding.found, &finding.fix)
            };
            match all.iter_mut().find(says_the_same) {
                Some(before) => before.subject = format!("{}, {}", before.subject, finding.subject),
                None => all.push(finding),
            }
        }
        all.sort_by_key(|finding| finding.level);
        all
    }
}

/// Shows all findings. Returns an error if there is a problem, or if no node gave its status.
pub(super) fn show(findings: &[Finding], out: &mut Output) -> Result<(), CliError> {
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    if out.is_json() {
        findings.iter().try_for_each(|finding| out.json(&json!(finding)))?;
    } else {
        let row = |finding: &Finding| {
            let Finding { level, check, subject, found, fix } = finding;
            let or_cluster = if subject.is_empty() { "the cluster" } else { subject };
            let fix = if fix.is_empty() { "-" } else { fix };
            let level = level.as_str().to_owned();
            vec![level, (*check).into(), or_cluster.into(), found.clone(), fix.into()]
        };
        let rows = in_text(findings).map(row).collect();
        out.table(&["level", "check", "of", "found", "what to do"], rows)?;
    }
    match count(Level::Problem) {
        0 => cluster_was_checked(findings),
        problems => {
            let problems = maxine_wording::count(problems, "problem");
            Err(CliError::Failed(format!("{problems} found")))
        }
    }
}

/// The findings that are shown as text: all of them if something is wrong.
fn in_text(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    let is_wrong = |finding: &Finding| matches!(finding.level, Level::Problem | Level::Warning);
    let shows_all = findings.iter().any(is_wrong);
    findings.iter().filter(move |finding| shows_all || finding.check != OPEN_FILES)
}

/// An error if no node gave its status. That there is no problem says nothing then.
pub(super) fn cluster_was_checked(findings: &[Finding]) -> Result<(), CliError> {
    let answers = || findings.iter().filter(|finding| finding.check == ANSWERS);
    if answers().any(|finding| finding.level == Level::Good) {
        return Ok(());
    }
    let text = "no node gave its status: the cluster was not checked".to_owned();
    let is_refused = answers().any(|finding| finding.fix == VIEWER);
    Err(if is_refused { CliError::Refused(text) } else { CliError::Incomplete(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a healthy cluster always had a line about open files, which no node reports.
    #[test]
    fn what_no_node_reports_is_shown_only_if_something_is_wrong() {
        let checks = |level: Level| {
            let mut findings = Findings::default();
            findings.add(Level::Unknown, OPEN_FILES, "http://n:1", "not reported", "count them");
            findings.add(level, "disk", "http://n:1", "measured", "");
            let sorted = findings.sorted();
            in_text(&sorted).map(|finding| finding.check).collect::<Vec<_>>()
        };
        assert_eq!(checks(Level::Good), ["disk"]);
        assert_eq!(checks(Level::Unknown), ["disk"]);
        assert_eq!(checks(Level::Warning), ["disk", OPEN_FILES]);
        assert_eq!(checks(Level::Problem), ["disk", OPEN_FILES]);
    }
}
