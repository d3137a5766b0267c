//! The short name of a lease, in tables and in messages between nodes.

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::Xxh3;

use maxine_state::{InstanceKey, LockSessionId, Name};

/// Identifies a lease in 16 bytes, so that messages between nodes stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LeaseId(pub u128);

impl LeaseId {
    /// The id of an instance's lease: a 128-bit hash of its key.
    #[must_use]
    pub fn of(namespace: &str, service: &str, instance: &str) -> Self {
        Self::of_parts(&[namespace, service, instance])
    }

    fn of_parts(parts: &[&str]) -> Self {
        let mut hasher = Xxh3::new();
        // 0xff does not occur in UTF-8, so it separates the parts without ambiguity.
        for part in parts {
            hasher.update(part.as_bytes());
            hasher.update(&[0xff]);
        }
        Self(hasher.digest128())
    }

    /// The id of an instance's lease.
    #[must_use]
    pub fn of_key(key: &InstanceKey) -> Self {
        let service = &key.service;
        Self::of(service.namespace.as_str(), service.service.as_str(), key.instance.as_str())
    }

    /// The id of the lease of a check that its owner reports.
    #[must_use]
    pub fn of_check(key: &InstanceKey, check: &Name) -> Self {
        let service = &key.service;
        let (namespace, service) = (service.namespace.as_str(), service.service.as_str());
        Self::of_parts(&[namespace, service, key.instance.as_str(), check.as_str()])
    }

    /// The id of a lock session's lease. Instances have three parts and checks four, so no id is used twice.
    #[must_use]
    pub fn of_session(session: LockSessionId) -> Self {
        Self::of_parts(&["lock session", &session.to_string()])
    }

    /// The id of the lease that measures a lock delay. Nobody renews it.
    #[must_use]
    pub fn of_lock_delay(session: LockSessionId) -> Self {
        Self::of_parts(&["lock delay", &session.to_string()])
    }
}
