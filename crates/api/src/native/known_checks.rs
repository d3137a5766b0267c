//! What this node knows about the checks of an instance.
//!
//! The list of checks and the explanation of an instance's traffic both come from here, so that they never contradict
//! each other. A verdict on the probe is stored only when it changes. Before its first change, the latest probes tell
//! the state of the instance.

use super::shape::{CheckView, Detail};
use crate::observations::ProbeObservation;
use maxine_state::{Check, CheckStatus, Instance};

/// The checks of one instance.
pub(super) struct KnownChecks {
    checks: Vec<CheckView>,
    /// The latest probe, if no verdict on the probe is stored yet.
    last_probe: Option<ProbeObservation>,
}

impl KnownChecks {
    /// `is_probed` is whether nodes of Maxine probe the instance, because its owner, the policy or the node's settings
    /// say so.
    pub(super) fn of(
        instance: &Instance,
        is_probed: bool,
        detail: Detail,
        observations: &[ProbeObservation],
    ) -> Self {
        let readings = instance.checks_if(is_probed);
        let checks = readings.map(|check| CheckView::new(&check, detail)).collect();
        Self::with_probes(checks, detail, observations)
    }

    /// The stored checks. While there is no verdict on the probe, the check of the probe shows what the latest probe
    /// found.
    fn with_probes(
        mut checks: Vec<CheckView>,
        detail: Detail,
        observations: &[ProbeObservation],
    ) -> Self {
        let is_open = |check: &&mut CheckView| {
            check.id == Check::PROBE && check.status == CheckStatus::Unknown
        };
        let probes = observations.iter().filter(|seen| !seen.passive);
        let last = probes.max_by_key(|seen| seen.at_ms);
        let last_probe = match (checks.iter_mut().find(is_open), last) {
            (Some(probe), Some(last)) => {
                if last.ok {
                    // The stored time is that of the status `unknown`. It is not known which probe was the first to
                    // pass.
                    (probe.status, probe.since_ms) = (CheckStatus::Passing, None);
                }
                if detail != Detail::WithoutProbes {
                    probe.output.clone_from(&last.detail);
                }
                Some(last.clone())
            }
            _ => None,
        };
        Self { checks, last_probe }
    }

    /// The checks, in the order of their ids.
    pub(super) fn into_views(self) -> Vec<CheckView> {
        self.checks
    }

    /// What the checks say about an instance that none of them takes out of traffic, in one line. `reason` is the text
    /// of a warning.
    pub(super) fn text(&self, reason: &str) -> String {
        let failed = self.last_probe.as_ref().filter(|last| !last.ok);
        let is_open = |check: &&CheckView| check.status == CheckStatus::Unknown;
        let mut unknown: Vec<&str> =
            self.checks.iter().filter(is_open).map(|check| &*check.id).collect();
        let passing = self.checks.len() - unknown.len();
        let mut parts = Vec::new();
        if passing > 0 {
            let whose = if unknown.is_empty() { "its" } else { "its other" };
            let warns = self.checks.iter().any(|check| check.status == CheckStatus::Warning);
            let warning = if warns { format!(", with a warning: {reason}") } else { String::new() };
            let passed = self.last_probe.as_ref().filter(|last| last.ok);
            let by = passed.map_or_else(String::new, |last| {
                format!(" (the last probe, by {}, passed)", last.node)
            });
            parts.push(format!("{whose} health checks pass{warning}{by}"));
        }
        if let Some(last) = failed {
            unknown.retain(|id| *id != Check::PROBE);
            parts.push(format!(
                "its probe has not failed often enough to take it out (the last one, by {}, failed)",
                last.node
            ));
        }
        match &unknown[..] {
            [] => {}
            [id] if *id == Check::PROBE => {
                parts.push("this node knows no result of its probe".into())
            }
            [id] => parts.push(format!("nothing is known yet of its check {id}")),
            ids => parts.push(format!("nothing is known yet of its checks {}", ids.join(", "))),
        }
        if parts.is_empty() { "it has no checks".into() } else { parts.join(", and ") }
    }

    /// Whether there are no checks at all, so that only the lease decides.
    pub(super) fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{
        Actor, Address, CheckKind, CheckReading, Command, ControlState, Name, ProbeKind, ProbeSpec,
        Proposal, Registration, RequestId, ServiceKey,
    };

    fn probe(at_ms: u64, ok: bool) -> ProbeObservation {
        let (node, detail) = ("node-1".into(), "status 200".into());
        ProbeObservation { node, at_ms, ok, detail, latency_ms: None, passive: false }
    }

    /// An instance with these checks of its owner. The first of them passes.
    fn instance(owned: &[&str], probed: bool) -> Instance {
        let address = Address::parse("http://10.0.0.1:80").unwrap();
        let mut registration = Registration::new(Name::trusted("a"), address, 5_000);
        let check = |(at, id): (usize, &&str)| {
            let initial = if at == 0 { CheckStatus::Passing } else { CheckStatus::Unknown };
            Check { id: Name::trusted(id), kind: CheckKind::Ttl { ttl_ms: 5_000, initial } }
        };
        registration.checks = owned.iter().enumerate().map(check).collect();
        if probed {
            let spec = ProbeSpec { kind: ProbeKind::Tcp, ..ProbeSpec::default() };
            registration = registration.with_probe(spec);
        }
        let key = ServiceKey::new(Name::trusted("default"), Name::trusted("s"));
        let proposal = Proposal {
            request_id: RequestId(1),
            proposed_at_ms: 1,
            fence: None,
            actor: Actor::system("test"),
            command: Command::Register { items: vec![(key.clone(), registration)] },
        };
        let mut state = ControlState::default();
        state.apply(&proposal, &mut Vec::new());
        state.service(&key).unwrap().instances.values().next().unwrap().as_ref().clone()
    }

    fn text(instance: &Instance, is_probed: bool, seen: &[ProbeObservation]) -> (String, String) {
        let known = KnownChecks::of(instance, is_probed, Detail::Full, seen);
        let text = known.text("no reason given");
        let shown = known.into_views().into_iter().map(|check| {
            format!(
                "{} {}",
                check.id,
                serde_json::to_value(check.status).unwrap().as_str().unwrap()
            )
        });
        (text, shown.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn the_list_of_checks_and_the_explanation_agree() {
        let says = |owned: &[&str],
                    probed,
                    is_probed,
                    seen: &[ProbeObservation],
                    all: &str,
                    list: &str| {
            let said = text(&instance(owned, probed), is_probed, seen);
            assert_eq!((&*said.0, &*said.1), (all, list));
        };
        says(&[], false, false, &[], "it has no checks", "");
        // A probe that only the policy asks for is a check from the beginning.
        says(&[], false, true, &[], "this node knows no result of its probe", "probe unknown");
        let passed = "its health checks pass (the last probe, by node-1, passed)";
        says(&[], false, true, &[probe(2, true), probe(1, false)], passed, "probe passing");
        says(&[], true, true, &[probe(1, true)], passed, "probe passing");
        let failed = "its probe has not failed often enough to take it out (the last one, by node-1, failed)";
        says(&[], true, true, &[probe(1, true), probe(2, false)], failed, "probe unknown");
        // A result that a proxy saw is not a probe.
        let proxy = ProbeObservation { passive: true, ..probe(3, true) };
        says(&[], true, true, &[probe(2, false), proxy], failed, "probe unknown");
        says(&["mem"], false, false, &[], "its health checks pass", "mem passing");
        let other = "its other health checks pass, and nothing is known yet of its check mem";
        says(&["cpu", "mem"], false, false, &[], other, "cpu passing, mem unknown");
        let none = "its other health checks pass, and this node knows no result of its probe";
        says(&["cpu"], true, true, &[], none, "cpu passing, probe unknown");
    }

    /// The stored verdict says since when nothing was known.
    #[test]
    fn a_probe_that_passes_before_there_is_a_verdict_has_no_known_beginning() {
        let withdrawn = || {
            let reading = CheckReading {
                id: Check::PROBE,
                kind: None,
                status: CheckStatus::Unknown,
                output: "no node had probed it",
                since_ms: Some(1_000),
                modified_index: 7,
            };
            vec![CheckView::new(&reading, Detail::Full)]
        };
        let since_ms = |seen: &[ProbeObservation]| {
            let known = KnownChecks::with_probes(withdrawn(), Detail::Full, seen);
            known.into_views()[0].since_ms
        };
        assert_eq!(since_ms(&[]), Some(1_000));
        assert_eq!(since_ms(&[probe(9_000, false)]), Some(1_000), "it is unknown as before");
        assert_eq!(since_ms(&[probe(9_000, true)]), None);
    }
}
