//! A check: what the owner of the instance registered, what the owner reports, and the last known state.

use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::health::Health;
use super::limits::{self, Limit, LimitExceeded, check_count, check_range, check_text};
use super::name::Name;
use super::policy::ProbeSpec;
use super::versioned::{Needs, first_version, stored};

/// The state of a check.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Nothing is known yet. The instance gets traffic.
    #[default]
    Unknown,
    /// It works.
    Passing,
    /// It works, but something is wrong. The instance gets traffic.
    Warning,
    /// It does not work. The instance gets no traffic.
    Critical,
}

first_version!(CheckStatus { Unknown, Passing, Warning, Critical });

impl CheckStatus {
    /// All statuses, in the order in which users see them: from the best to the worst, then the unknown one.
    pub const ALL: [Self; 4] = [Self::Passing, Self::Warning, Self::Critical, Self::Unknown];

    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A check as the owner of the instance registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name within the instance.
    pub id: Name,
    /// Who reports the status of the check.
    pub kind: CheckKind,
}

stored!(Check { id, kind });

/// The kinds of checks. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CheckKind {
    /// Nodes of Maxine probe the instance. An instance has at most one such check, with the id
    /// [`Check::PROBE`].
    Probe(Box<ProbeSpec>),
    /// The owner reports the status. If no report arrives within the time to live, the check becomes
    /// critical.
    Ttl {
        /// The longest time between two reports, in milliseconds.
        ttl_ms: u64,
        /// The status until the first report.
        initial: CheckStatus,
    },
}

impl Needs for CheckKind {
    fn needs(&self) -> u32 {
        match self {
            Self::Probe(spec) => spec.needs(),
            Self::Ttl { ttl_ms, initial } => (ttl_ms, initial).needs(),
        }
    }
}

impl Check {
    /// The id of the check that Maxine itself makes.
    pub const PROBE: &'static str = "probe";

    /// The check that Maxine itself makes.
    #[must_use]
    pub fn probe(spec: ProbeSpec) -> Self {
        Self { id: Name::trusted(Self::PROBE), kind: CheckKind::Probe(Box::new(spec)) }
    }

    pub(super) fn texts_len(&self) -> usize {
        let spec = match &self.kind {
            CheckKind::Probe(spec) => spec.texts_len(),
            CheckKind::Ttl { .. } => 0,
        };
        self.id.as_str().len() + spec
    }

    fn check(&self) -> Result<(), LimitExceeded> {
        limits::check_name("checks.id", self.id.as_str())?;
        let is_probe = self.id.as_str() == Self::PROBE;
        match &self.kind {
            CheckKind::Probe(spec) if is_probe => spec.check(),
            CheckKind::Ttl { ttl_ms, .. } if !is_probe => {
                check_range("checks.ttl_ms", *ttl_ms, limits::TTL_MS_MIN, limits::TTL_MS_MAX)
            }
            _ => Err(LimitExceeded::new("checks.id", Limit::ProbeId, self.id.as_str())),
        }
    }

    /// Checks every bound of a registration's checks, which are sorted by id.
    pub(super) fn check_all(checks: &[Self]) -> Result<(), LimitExceeded> {
        check_count("checks", checks.len(), limits::CHECKS_MAX)?;
        checks.iter().try_for_each(Self::check)?;
        match checks.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            Some(pair) => Err(LimitExceeded::new("checks.id", Limit::Unique, pair[1].id.as_str())),
            None => Ok(()),
        }
    }
}

/// The last known state of a check that the owner reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    /// Its id.
    pub id: Name,
    /// The status.
    pub status: CheckStatus,
    /// The output of the last report; may be empty. Earlier values of the instance share its memory.
    pub output: Arc<str>,
    /// When the status last changed, in milliseconds since 1970.
    pub since_ms: u64,
    /// Index at which it last changed.
    pub modified_index: u64,
    /// Index of the last report in the log. Equal reports and registrations count too. An expiry names this
    /// index, so an expiry that was decided before a report has no effect.
    pub reported_index: u64,
}

stored!(CheckState { id, status, output, since_ms, modified_index, reported_index });

impl CheckState {
    /// Whether the check became critical because its owner did not report in time. It has no deadline until
    /// the next report.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.modified_index > self.reported_index
    }

    /// Whether a report has the same content as the last one.
    #[must_use]
    pub fn equals(&self, report: &CheckReport) -> bool {
        !self.is_expired() && self.status == report.status && self.output == report.output
    }
}

/// The known state of all checks of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The verdict of the observers of its probe.
    pub(super) health: Health,
    /// Index at which that verdict last changed; 0 if nothing was observed.
    pub(super) health_index: u64,
    /// The checks that the owner reports, sorted by id.
    pub(super) checks: Vec<CheckState>,
    /// When the verdict last changed, as of the last registration that removed a check, in milliseconds since
    /// 1970; 0 if no check was removed. It is stored because the state of a removed check is removed too.
    pub(super) changed_ms: u64,
}

stored!(Known { health, health_index, checks, changed_ms });

/// A report of a check by its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The status.
    pub status: CheckStatus,
    /// The output of the check, up to [`limits::CHECK_OUTPUT_LEN_MAX`] bytes; may be empty.
    pub output: Arc<str>,
}

stored!(CheckReport { status, output });

impl CheckReport {
    /// Checks every bound.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        check_text("output", &self.output, 0, limits::CHECK_OUTPUT_LEN_MAX)
    }
}
