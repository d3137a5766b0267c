//! The checks of an instance, each with its present state, and the verdict on the instance.
//!
//! [`Instance::verdict`] derives the verdict on an instance from its checks. Nothing else does.

use super::check::{Check, CheckKind, CheckState, CheckStatus};
use super::health::{Health, Liveness, Readiness};
use super::instance::{Instance, Registration};
use super::name::Name;
use super::policy::ProbeSpec;

impl Registration {
    /// The probe, if the owner registered one.
    #[must_use]
    pub fn probe(&self) -> Option<&ProbeSpec> {
        self.checks.iter().find_map(|check| match &check.kind {
            CheckKind::Probe(spec) => Some(spec.as_ref()),
            CheckKind::Ttl { .. } => None,
        })
    }

    /// Adds a probe to the registration.
    #[must_use]
    pub fn with_probe(mut self, spec: ProbeSpec) -> Self {
        let others = self.checks.iter().filter(|check| check.id.as_str() != Check::PROBE);
        let mut checks: Vec<Check> = others.cloned().collect();
        checks.push(Check::probe(spec));
        self.checks = checks.into();
        self.normalised()
    }
}

/// A check of an instance, with its present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckReading<'a> {
    /// Its id.
    pub id: &'a str,
    /// The kind that the owner registered; `None` if the probe comes from a policy or from the node's
    /// settings.
    pub kind: Option<&'a CheckKind>,
    /// The status.
    pub status: CheckStatus,
    /// The output of the last probe or report; may be empty.
    pub output: &'a str,
    /// When the status last changed, in milliseconds since 1970; `None` if nothing is known.
    pub since_ms: Option<u64>,
    /// Index at which it last changed.
    pub modified_index: u64,
}

impl Instance {
    /// The known state of the checks that the owner reports.
    #[must_use]
    pub fn reported_checks(&self) -> &[CheckState] {
        self.known.as_ref().map_or(&[], |known| &known.checks)
    }

    /// The checks that the owner must report in time, each with its time to live in milliseconds. Expired
    /// checks are left out.
    pub fn leased_checks(&self) -> impl Iterator<Item = (&CheckState, u64)> {
        let ttl_ms = |id: &Name| {
            let check = self.registration.checks.iter().find(|check| check.id == *id);
            match check?.kind {
                CheckKind::Ttl { ttl_ms, .. } => Some(ttl_ms),
                CheckKind::Probe(_) => None,
            }
        };
        let reported = self.reported_checks().iter().filter(|state| !state.is_expired());
        reported.filter_map(move |state| Some((state, ttl_ms(&state.id)?)))
    }

    /// All checks, sorted by id. The probe is included if the owner registered one that nodes make, or if there is a
    /// verdict on it. What a policy or a node's settings ask for is not known here.
    pub fn checks(&self) -> impl Iterator<Item = CheckReading<'_>> {
        let is_registered = self.registration.probe().is_some_and(ProbeSpec::is_made);
        self.checks_if(is_registered || self.health().readiness != Readiness::Unknown)
    }

    /// All checks, sorted by id. The probe is included if nodes probe the instance (`is_probed`), or if a verdict on it
    /// takes the instance out of traffic.
    pub fn checks_if(&self, is_probed: bool) -> impl Iterator<Item = CheckReading<'_>> {
        let registered = &self.registration.checks;
        let kind_of = |id: &str| {
            let check = registered.iter().find(|check| check.id.as_str() == id);
            check.map(|check| &check.kind)
        };
        let health = self.health();
        let probe_kind = kind_of(Check::PROBE);
        let health_index = self.known.as_ref().map_or(0, |known| known.health_index);
        let has_probe = is_probed || !health.is_routable();
        let probe = has_probe.then(|| CheckReading {
            id: Check::PROBE,
            kind: probe_kind,
            status: match (health.is_routable(), health.readiness) {
                (false, _) => CheckStatus::Critical,
                (true, Readiness::Ready) => CheckStatus::Passing,
                (true, _) => CheckStatus::Unknown,
            },
            output: &health.reason,
            since_ms: (health.since_ms > 0).then_some(health.since_ms),
            modified_index: health_index.max(self.address_index),
        });
        let reported = self.reported_checks();
        let (before, after) =
            reported.split_at(reported.partition_point(|check| check.id.as_str() < Check::PROBE));
        let reading = move |check| CheckReading::of(check, registered);
        before.iter().map(reading).chain(probe).chain(after.iter().map(reading))
    }

    /// The worst status of all checks.
    #[must_use]
    pub fn status(&self) -> CheckStatus {
        self.checks().map(|check| check.status).max().unwrap_or_default()
    }

    /// The verdict on the instance. It is the verdict of the probe, unless a check that the owner reports is
    /// worse. Its `since_ms` is the time at which the probe's verdict or a reported check last changed. Two kinds
    /// of changes do not count: those of reported checks while the probe takes the instance out of traffic, and
    /// those of the other reported checks while one is critical.
    #[must_use]
    pub fn verdict(&self) -> Health {
        let verdict = self.verdict_of_present_checks();
        let changed_ms = self.known.as_ref().map_or(0, |known| known.changed_ms);
        Health { since_ms: verdict.since_ms.max(changed_ms), ..verdict }
    }

    /// The verdict from the present checks alone, as if no check had ever been removed.
    fn verdict_of_present_checks(&self) -> Health {
        let health = self.health();
        let reported = self.reported_checks();
        let worst =
            reported.iter().max_by_key(|check| (check.status, std::cmp::Reverse(&check.id)));
        let Some(worst) = worst.filter(|_| health.is_routable()) else { return health.clone() };
        let last_ms = reported.iter().map(|check| check.since_ms).max().unwrap_or_default();
        let last_ms = health.since_ms.max(last_ms);
        let (readiness, since_ms) = match worst.status {
            CheckStatus::Critical => (Readiness::NotReady, health.since_ms.max(worst.since_ms)),
            CheckStatus::Unknown => return health.clone(),
            CheckStatus::Passing => {
                let readiness = Readiness::Ready;
                return Health { readiness, since_ms: last_ms, ..health.clone() };
            }
            CheckStatus::Warning => (Readiness::Ready, last_ms),
        };
        Health {
            readiness,
            liveness: Liveness::Alive,
            reason: match (&*worst.output, worst.status) {
                ("", CheckStatus::Warning) => format!("check {} warns, without a note", worst.id),
                ("", _) => format!("check {} is critical, without a note", worst.id),
                (output, _) => format!("check {}: {output}", worst.id),
            }
            .into(),
            since_ms,
            flap_score: health.flap_score,
        }
    }

    /// Whether the instance is healthy enough for traffic: no check of it is critical.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let Some(known) = &self.known else { return true };
        known.health.is_routable()
            && known.checks.iter().all(|check| check.status != CheckStatus::Critical)
    }
}

impl<'a> CheckReading<'a> {
    fn of(state: &'a CheckState, registered: &'a [Check]) -> Self {
        let check = registered.iter().find(|check| check.id == state.id);
        Self {
            id: state.id.as_str(),
            kind: check.map(|check| &check.kind),
            status: state.status,
            output: &state.output,
            since_ms: Some(state.since_ms),
            modified_index: state.modified_index,
        }
    }
}

#[cfg(test)]
#[path = "check_reading_tests.rs"]
mod tests;
