//! Decides which probe applies to an instance.

use std::ops::RangeInclusive;

use serde::Serialize;
use utoipa::ToSchema;

use maxine_state::{Instance, ProbeKind, ProbeSpec, ServicePolicy};

/// The node-wide settings of active health checks (`MAXINE_ACTIVE_HEALTH_CHECK_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveDefaults {
    /// Whether instances without a probe of their own or of their service's policy are probed. The path is the one
    /// that the instance registered, or else `path`.
    pub enabled: bool,
    /// Interval between two probes, in milliseconds.
    pub interval_ms: u64,
    /// Time limit of a probe, in milliseconds.
    pub timeout_ms: u64,
    /// Number of failed probes in a row until an instance is evicted.
    pub fall: u32,
    /// The path for instances that register none. If it is empty, they are not probed.
    pub path: String,
    /// Number of observers that must agree if the policy does not set it, at least 1.
    pub observers: u32,
}

impl Default for ActiveDefaults {
    fn default() -> Self {
        Self {
            enabled: false,
            interval_ms: 15_000,
            timeout_ms: 3_000,
            fall: 3,
            path: String::new(),
            observers: 1,
        }
    }
}

/// The statuses that the Node.js Maxine accepts as a success, redirects included.
const COMPATIBLE_STATUSES: RangeInclusive<u16> = 200..=399;

/// Where the settings of a probe come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeFrom {
    /// The instance's own registration.
    Instance,
    /// The service's policy.
    Policy,
    /// The node-wide health checks (`health.enabled`).
    Node,
}

/// The probe that the health checker makes for an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveProbe {
    /// Its settings.
    pub spec: ProbeSpec,
    /// Where the settings come from.
    pub from: ProbeFrom,
}

/// The probe of an instance: its own, or else that of its service's policy, or else that of the node-wide
/// settings. `None` if only heartbeats count.
#[must_use]
pub fn effective_probe(
    instance: &Instance,
    policy: Option<&ServicePolicy>,
    defaults: &ActiveDefaults,
) -> Option<EffectiveProbe> {
    let own = instance.registration.probe();
    let of_policy = policy.and_then(|policy| policy.probe.as_ref());
    for (spec, from) in [(own, ProbeFrom::Instance), (of_policy, ProbeFrom::Policy)] {
        if let Some(spec) = spec.filter(|spec| spec.is_made()) {
            return Some(EffectiveProbe { spec: spec.clone(), from });
        }
    }
    if !defaults.enabled {
        return None;
    }
    // Clients of the compatible API register a path without a kind.
    let named = own.map(|spec| spec.path.as_str()).filter(|path| !path.is_empty());
    let path = named.unwrap_or(&defaults.path);
    let spec = || ProbeSpec {
        kind: ProbeKind::Http,
        path: path.into(),
        expected_statuses: COMPATIBLE_STATUSES.collect(),
        interval_ms: defaults.interval_ms,
        timeout_ms: defaults.timeout_ms,
        fall: defaults.fall,
        ..ProbeSpec::default()
    };
    (!path.is_empty()).then(|| EffectiveProbe { spec: spec(), from: ProbeFrom::Node })
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Address, Name, Registration};

    fn instance(probe: Option<ProbeSpec>) -> Instance {
        let address = Address::parse("http://10.0.0.1").unwrap();
        let mut registration = Registration::new(Name::trusted("a"), address, 5_000);
        if let Some(probe) = probe {
            registration = registration.with_probe(probe);
        }
        Instance::new(registration, 1, 0)
    }

    #[test]
    fn the_instances_own_probe_comes_before_its_services_and_the_nodes() {
        let path = |path: &str, kind| ProbeSpec { kind, path: path.into(), ..Default::default() };
        let policy =
            ServicePolicy { probe: Some(path("/policy", ProbeKind::Http)), ..Default::default() };
        let on = ActiveDefaults { enabled: true, path: "/node".into(), ..Default::default() };
        let off = ActiveDefaults::default();
        let own = instance(Some(path("/own", ProbeKind::Http)));
        let compatible = instance(Some(path("health", ProbeKind::Heartbeat)));
        let bare = instance(None);
        let chosen = |instance, policy, defaults| {
            let probe = effective_probe(instance, policy, defaults)?;
            Some((probe.spec.path, probe.from))
        };
        let expected = |path: &str, from| Some((path.to_owned(), from));
        assert_eq!(chosen(&own, Some(&policy), &on), expected("/own", ProbeFrom::Instance));
        assert_eq!(chosen(&bare, Some(&policy), &on), expected("/policy", ProbeFrom::Policy));
        assert_eq!(chosen(&compatible, None, &on), expected("health", ProbeFrom::Node));
        assert_eq!(chosen(&bare, None, &on), expected("/node", ProbeFrom::Node));
        assert_eq!(chosen(&compatible, None, &off), None);
        assert_eq!(chosen(&bare, None, &off), None);
    }
}
