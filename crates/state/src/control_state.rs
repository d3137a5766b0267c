//! The replicated state, and the functions that read it. `apply` is the only way to change it.

use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::OrdMap;

use super::audit::AuditLog;
use super::command::Fence;
use super::dedup::Dedup;
use super::history::History;
use super::identity::Identities;
use super::instance::{Drain, Instance};
use super::kv_state::KvState;
use super::name::{InstanceKey, Name, ServiceKey};
use super::policy::PolicyRecord;
use super::runtime_config::{ConfigHistory, ConfigRecord};

/// A service: its instances, drains and policy. It exists as long as it has any of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Instances, by id.
    pub instances: OrdMap<Name, Arc<Instance>>,
    /// Drains, by instance id. The instance need not be registered.
    pub drains: OrdMap<Name, Arc<Drain>>,
    /// The policy, if one is set.
    pub policy: Option<Arc<PolicyRecord>>,
    /// Index of the last change to any of these.
    pub modified_index: u64,
}

impl ServiceState {
    /// Whether the service has no instances, no drains and no policy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.drains.is_empty() && self.policy.is_none()
    }

    /// The instance with this id, or else the one before or after it in the order of ids.
    pub(super) fn neighbour(&self, id: &Name) -> Option<&Arc<Instance>> {
        let before = self.instances.get_prev(id);
        before.or_else(|| self.instances.get_next(id)).map(|(_, instance)| instance)
    }

    /// The instance with this id. If there is none, the first one whose id differs only in upper and lower
    /// case; that search reads all instances of the service.
    #[must_use]
    pub fn find_ignoring_case(&self, id: &str) -> Option<&Arc<Instance>> {
        self.instances.get(id).or_else(|| {
            let wanted = id.to_lowercase();
            let mut all = self.instances.iter();
            all.find(|(id, _)| id.as_str().to_lowercase() == wanted).map(|(_, instance)| instance)
        })
    }

    /// Whether the instance has no drain.
    #[must_use]
    pub fn is_undrained(&self, instance: &Instance) -> bool {
        !self.drains.contains_key(&instance.registration.id)
    }

    /// Whether the share of unhealthy instances is above the panic threshold of the policy. Drained instances
    /// are not counted. In panic mode, all instances get traffic, because the probes are more likely wrong
    /// than the whole fleet.
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

/// The grant of the leader's duties to one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token.
    pub fence: Fence,
    /// The name of the node.
    pub holder: Name,
    /// When it was granted, in milliseconds since 1970, by the log's clock.
    pub since_ms: u64,
    /// The previous grant, which this one ended.
    pub before: Option<FormerGrant>,
}

/// An earlier grant, which has ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FormerGrant {
    /// Its fencing token.
    pub fence: Fence,
    /// The name of the node.
    pub holder: Name,
}

/// The complete state of Maxine. A clone is cheap, because clones share what is unchanged.
#[derive(Clone, Debug, Default)]
pub struct ControlState {
    /// The number of changes. Every event and every proposal has its own index.
    pub(super) index: u64,
    /// The history in which the index counts; `None` before the cluster is founded. A restore or a loss of
    /// data begins a new one.
    pub(super) history: Option<History>,
    /// The line of the store under which the history began.
    pub(super) line: u64,
    /// The log's clock, in milliseconds since 1970. It never runs backwards.
    pub(super) time_ms: u64,
    /// The difference between the state's version and the first version.
    pub(super) version_raised: u32,
    pub(super) services: OrdMap<ServiceKey, Arc<ServiceState>>,
    /// Index at which a service was last removed.
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
    pub(super) kv: Arc<KvState>,
    #[cfg(feature = "next")]
    pub(super) note: Box<str>,
}

impl ControlState {
    /// The number of changes so far. It is equal on every replica that applied the same commands.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Identifies the history in which the index counts; `None` before the cluster is founded. When data was
    /// restored from an older copy, or acknowledged writes were lost, the same indexes are used again, so a new
    /// history begins. Indexes of different histories cannot be compared.
    #[must_use]
    pub fn history(&self) -> Option<History> {
        self.history
    }

    /// This state for another cluster, which founds a history of its own: both clusters may change from here on.
    #[must_use]
    pub fn for_another_cluster(self) -> Self {
        Self { history: None, line: 0, ..self }
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

    /// The index of the last change to a service. For a service that does not exist, it is the index at which
    /// any service was last removed. So the index of a service never decreases, and a reader who waits for a
    /// change of a removed service misses nothing.
    #[must_use]
    pub fn service_index(&self, key: &ServiceKey) -> u64 {
        self.services.get(key).map_or(self.service_gone_index, |service| service.modified_index)
    }

    /// The size of all registrations, in bytes.
    #[must_use]
    pub fn registrations_len(&self) -> u64 {
        self.registrations_len
    }

    /// The runtime configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<ConfigRecord> {
        &self.config
    }

    /// The most recent configurations.
    #[must_use]
    pub fn config_history(&self) -> &ConfigHistory {
        &self.config_history
    }

    /// Users, signing keys and tokens.
    #[must_use]
    pub fn identities(&self) -> &Arc<Identities> {
        &self.identities
    }

    /// The present grant of the leader's duties.
    #[must_use]
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.grant.as_ref()
    }

    /// Keys, lock sessions and lock delays.
    #[must_use]
    pub fn kv(&self) -> &Arc<KvState> {
        &self.kv
    }

    /// The note of the whole cluster; empty if none is set.
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
