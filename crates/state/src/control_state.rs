//! The state itself, and the questions that it answers without changing.

use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::OrdMap;

use super::audit::AuditLog;
use super::command::Fence;
use super::dedup::Dedup;
use super::identity::Identities;
use super::instance::{Drain, Instance};
use super::name::{InstanceKey, Name, ServiceKey};
use super::policy::PolicyRecord;
use super::runtime_config::{ConfigHistory, ConfigRecord};

/// A service: its instances, its drains and its policy. It exists while it has any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Instances by id.
    pub instances: OrdMap<Name, Arc<Instance>>,
    /// Drains by instance id, whether or not the instance is registered now.
    pub drains: OrdMap<Name, Arc<Drain>>,
    /// The policy, if one is set.
    pub policy: Option<Arc<PolicyRecord>>,
    /// Index of the last change to any of them.
    pub modified_index: u64,
}

impl ServiceState {
    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.drains.is_empty() && self.policy.is_none()
    }

    /// The instance itself, or else the one before it or after it in the order of the ids.
    pub(super) fn neighbour(&self, id: &Name) -> Option<&Arc<Instance>> {
        let before = self.instances.get_prev(id);
        before.or_else(|| self.instances.get_next(id)).map(|(_, instance)| instance)
    }

    /// The instance with this id, or else the first one whose id differs from it in upper and lower case only. Without
    /// an exact match it looks at all instances.
    #[must_use]
    pub fn find_ignoring_case(&self, id: &str) -> Option<&Arc<Instance>> {
        self.instances.get(id).or_else(|| {
            let wanted = id.to_lowercase();
            let mut all = self.instances.iter();
            all.find(|(id, _)| id.as_str().to_lowercase() == wanted).map(|(_, instance)| instance)
        })
    }

    /// Whether no operator keeps traffic away from an instance.
    #[must_use]
    pub fn is_undrained(&self, instance: &Instance) -> bool {
        !self.drains.contains_key(&instance.registration.id)
    }

    /// Whether a larger share of the undrained instances is unhealthy than the policy's panic
    /// threshold. Then the probes are more likely wrong than the fleet, and all are used.
    #[must_use]
    pub fn in_panic_mode(&self) -> bool {
        let health = self.policy.as_ref().and_then(|record| record.policy.health);
        let Some(percent) = health.map(|h| h.panic_percent).filter(|percent| *percent > 0) else {
            return false;
        };
        let undrained = || self.instances.values().filter(|i| self.is_undrained(i));
        let bad = undrained().filter(|instance| !instance.is_healthy()).count();
        bad > 0 && bad * 100 > undrained().count() * percent as usize
    }
}

/// Who holds the leader's duties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token.
    pub fence: Fence,
    /// The node's name.
    pub holder: Name,
    /// Since when, in milliseconds since 1970, by the log's clock.
    pub since_ms: u64,
    /// The grant that it ended.
    pub before: Option<FormerGrant>,
}

/// A grant that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FormerGrant {
    /// Its fencing token.
    pub fence: Fence,
    /// The node's name.
    pub holder: Name,
}

/// Everything that Maxine knows. Cloning is cheap: the maps share what is unchanged.
#[derive(Clone, Debug, Default)]
pub struct ControlState {
    /// Counts changes; every event and every proposal has an index of its own.
    pub(super) index: u64,
    /// Which history the index counts in; another one after a restore or a loss.
    pub(super) history: u64,
    /// The line of the store under which that history began.
    pub(super) line: u64,
    /// The log's clock, in milliseconds since 1970; never runs backwards.
    pub(super) time_ms: u64,
    /// By how much the version is above the first.
    pub(super) version_raised: u32,
    pub(super) services: OrdMap<ServiceKey, Arc<ServiceState>>,
    /// Index at which a service was last gone.
    pub(super) service_gone_index: u64,
    pub(super) instances_len: usize,
    /// Sum of [`super::Instance::stored_len`] over all instances.
    pub(super) registrations_len: u64,
    pub(super) config: Arc<ConfigRecord>,
    pub(super) config_history: ConfigHistory,
    pub(super) identities: Arc<Identities>,
    pub(super) grant: Option<Arc<Grant>>,
    pub(super) audit: AuditLog,
    pub(super) dedup: Dedup,
    #[cfg(feature = "next")]
    pub(super) note: Box<str>,
}

impl ControlState {
    /// How many changes were made so far. Equal on every replica that applied the same commands.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Names the history that the index counts in. Where data was restored from an older copy, or
    /// acknowledged writes were lost, indexes are given out again, and another history begins: an
    /// index of one says nothing in another.
    #[must_use]
    pub fn history(&self) -> u64 {
        self.history
    }

    /// The line of the store that the present history belongs to; 0 before the first restore.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The log's clock, in milliseconds since 1970.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The version of the state: commands of a newer one are refused. It begins at 1 and is raised by
    /// [`Command::RaiseStateVersion`](super::Command::RaiseStateVersion).
    #[must_use]
    pub fn version(&self) -> u32 {
        1 + self.version_raised
    }

    /// All services, in the order of their keys.
    #[must_use]
    pub fn services(&self) -> &OrdMap<ServiceKey, Arc<ServiceState>> {
        &self.services
    }

    /// One service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceState>> {
        self.services.get(key)
    }

    /// One instance.
    #[must_use]
    pub fn instance(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.services.get(&key.service)?.instances.get(&key.instance)
    }

    /// How many instances are registered.
    #[must_use]
    pub fn instances_len(&self) -> usize {
        self.instances_len
    }

    /// The index of the last change to a service. For one that does not exist, the index at which a service was last
    /// gone, whichever it was. So the index of a service never goes back, and one that is gone has a higher index than
    /// it had before: a reader who waits for a change of it misses nothing.
    #[must_use]
    pub fn service_index(&self, key: &ServiceKey) -> u64 {
        self.services.get(key).map_or(self.service_gone_index, |service| service.modified_index)
    }

    /// How many bytes all registrations take.
    #[must_use]
    pub fn registrations_len(&self) -> u64 {
        self.registrations_len
    }

    /// The runtime configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<ConfigRecord> {
        &self.config
    }

    /// The configurations that held lately.
    #[must_use]
    pub fn config_history(&self) -> &ConfigHistory {
        &self.config_history
    }

    /// Users, keys and tokens.
    #[must_use]
    pub fn identities(&self) -> &Arc<Identities> {
        &self.identities
    }

    /// Who holds the leader's duties.
    #[must_use]
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.grant.as_ref()
    }

    /// The note of the whole cluster; empty where none is set.
    #[cfg(feature = "next")]
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }
}
