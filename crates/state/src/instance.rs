//! What a service instance is, as its owner registered it and as the state holds it.

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::health::Health;
use super::limits::{self, Given, Limit, LimitExceeded, check_count, check_range, check_text};
use super::name::Name;
use super::policy::ProbeSpec;
use super::versioned::stored;

/// About what is kept beside the texts of an instance, and of a probe, in bytes.
const STORED_BESIDE_LEN: usize = 256;
/// About what is kept beside the texts of a tag or a metadata entry, in bytes.
const STORED_BESIDE_ENTRY_LEN: usize = 64;

/// What the owner of an instance says of it. A registration equal to the present one is a
/// heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The instance's name within its service.
    pub id: Name,
    /// Address of the instance.
    pub address: Address,
    /// Its share of the traffic against its peers, 1 to [`limits::WEIGHT_MAX`].
    pub weight: u16,
    /// Time after the last heartbeat at which it expires, in milliseconds.
    pub ttl_ms: u64,
    /// The zone that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// The version that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Name>,
    /// Labels, sorted and without repeats.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tags: Box<[Name]>,
    /// Free entries, sorted by key.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub metadata: Box<[(Name, Box<str>)]>,
    /// Its probe, if it differs from that of the service's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Box<ProbeSpec>>,
}

stored!(Registration { id, address, weight, ttl_ms, zone, version, tags, metadata, probe });

impl Registration {
    /// A registration with everything optional left out.
    #[must_use]
    pub fn new(id: Name, address: Address, ttl_ms: u64) -> Self {
        Self {
            id,
            address,
            weight: 1,
            ttl_ms,
            zone: None,
            version: None,
            tags: Box::default(),
            metadata: Box::default(),
            probe: None,
        }
    }

    /// Sorts what is unordered, so that equal registrations compare equal.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        let mut tags = std::mem::take(&mut self.tags).into_vec();
        tags.sort();
        tags.dedup();
        self.tags = tags.into();
        self.metadata.sort_by(|a, b| a.0.cmp(&b.0));
        self
    }

    /// The bytes that it counts in the registry: the length of its texts, plus an estimate of the overhead of each.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        let name = |name: &Option<Name>| name.as_ref().map_or(0, |name| name.as_str().len());
        let tags = self.tags.iter().map(|tag| tag.as_str().len() + STORED_BESIDE_ENTRY_LEN);
        let metadata = self.metadata.iter();
        let metadata =
            metadata.map(|(key, v)| key.as_str().len() + v.len() + STORED_BESIDE_ENTRY_LEN);
        let len = STORED_BESIDE_LEN
            + self.id.as_str().len()
            + self.address.as_str().len()
            + name(&self.zone)
            + name(&self.version)
            + tags.sum::<usize>()
            + metadata.sum::<usize>()
            + self.probe.as_ref().map_or(0, |probe| STORED_BESIDE_LEN + probe.texts_len());
        len as u64
    }

    /// Checks every bound; the first one broken is told.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        limits::check_name("id", self.id.as_str())?;
        Address::parse(self.address.as_str())?;
        check_range("weight", self.weight.into(), 1, limits::WEIGHT_MAX.into())?;
        check_range("ttl_ms", self.ttl_ms, limits::TTL_MS_MIN, limits::TTL_MS_MAX)?;
        for (field, name) in [("zone", &self.zone), ("version", &self.version)] {
            if let Some(name) = name {
                limits::check_name(field, name.as_str())?;
            }
        }
        check_count("tags", self.tags.len(), limits::TAGS_MAX)?;
        for tag in &self.tags {
            limits::check_name("tags", tag.as_str())?;
        }
        check_count("metadata", self.metadata.len(), limits::METADATA_ENTRIES_MAX)?;
        let mut total = 0;
        for (key, value) in &self.metadata {
            limits::check_name("metadata", key.as_str())?;
            check_text("metadata", value, 0, limits::METADATA_VALUE_LEN_MAX)?;
            total += key.as_str().len() + value.len();
        }
        if total > limits::METADATA_TOTAL_LEN_MAX {
            let limit = Limit::TotalLength { max: limits::METADATA_TOTAL_LEN_MAX as u64 };
            return Err(LimitExceeded::new("metadata", limit, Given::Bytes(total as u64)));
        }
        if let Some(probe) = &self.probe {
            probe.check()?;
        }
        Ok(())
    }
}

/// An instance as the registry holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// What its owner said.
    #[serde(flatten)]
    pub registration: Registration,
    /// Index at which the present registration came or last changed. An equal registration keeps
    /// it. Heartbeats and removals may name it.
    pub lease_epoch: u64,
    /// Index of the last registration of this instance in the log, equal ones included. An expiry
    /// names it, so an expiry that was decided before a heartbeat by registration removes nothing.
    pub registered_index: u64,
    /// Index of the registration that brought the present address. Health reports name it: what
    /// was observed at another address does not count.
    pub address_index: u64,
    /// When it was registered, in milliseconds since 1970, by the log's clock.
    pub registered_at_ms: u64,
    /// Index of the last change to it.
    pub modified_index: u64,
    /// Result of the health checks.
    pub health: Health,
}

stored!(Instance {
    registration,
    lease_epoch,
    registered_index,
    address_index,
    registered_at_ms,
    modified_index,
    health,
});

/// An operator's word that an instance gets no new traffic. It outlives re-registration and
/// expiry: what the operator decided outranks what machines report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Who drained it.
    pub by: Name,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

stored!(Drain { by, reason, since_ms });
