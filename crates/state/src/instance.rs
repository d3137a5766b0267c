//! A service instance: the registration of its owner, and what the state adds to it.

use std::sync::{Arc, LazyLock};

use bincode::{Decode, Encode};

use super::address::Address;
use super::check::{Check, CheckKind, CheckState, Known};
use super::health::Health;
use super::limits::{self, Given, Limit, LimitExceeded, check_count, check_range, check_text};
use super::name::Name;
use super::versioned::{Needs, stored};

/// Estimated size of the fixed part of an instance, and of a check, in bytes.
const STORED_OVERHEAD_LEN: usize = 256;
/// Estimated size of the fixed part of a tag or a metadata entry, in bytes.
const STORED_ENTRY_OVERHEAD_LEN: usize = 64;

/// When an instance is removed without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Expiry {
    /// After a time without a heartbeat. The instance has a lease.
    AfterSilence {
        /// The time, in milliseconds.
        ttl_ms: u64,
    },
    /// Never. The instance is permanent: it has no lease, and stays until it is deregistered.
    Never,
}

impl Expiry {
    /// The time to live of the lease, in milliseconds; `None` if there is no lease.
    #[must_use]
    pub fn ttl_ms(self) -> Option<u64> {
        match self {
            Self::AfterSilence { ttl_ms } => Some(ttl_ms),
            Self::Never => None,
        }
    }
}

impl Needs for Expiry {
    fn needs(&self) -> u32 {
        match self {
            Self::AfterSilence { ttl_ms: _ } | Self::Never => 1,
        }
    }
}

/// What the owner registers. A registration that is equal to the present one is a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The instance's name within its service.
    pub id: Name,
    /// Address of the instance.
    pub address: Address,
    /// Its share of the traffic, relative to the other instances, 1 to [`limits::WEIGHT_MAX`].
    pub weight: u16,
    /// When it expires.
    pub expiry: Expiry,
    /// The zone in which it runs.
    pub zone: Option<Name>,
    /// The version of its software.
    pub version: Option<Name>,
    /// The name of the machine that it runs on.
    pub node: Option<Name>,
    /// Tags, in the order that the owner gave. Repeated tags are kept.
    pub tags: Arc<[Box<str>]>,
    /// Free key-value entries, sorted by key.
    pub metadata: Arc<[(Name, Box<str>)]>,
    /// Its checks, sorted by id. A probe given here replaces the probe of the service's policy.
    pub checks: Box<[Check]>,
}

stored!(Registration { id, address, weight, expiry, zone, version, node, tags, metadata, checks });

impl Registration {
    /// A registration with a lease, without any optional value.
    #[must_use]
    pub fn new(id: Name, address: Address, ttl_ms: u64) -> Self {
        Self {
            id,
            address,
            weight: 1,
            expiry: Expiry::AfterSilence { ttl_ms },
            zone: None,
            version: None,
            node: None,
            tags: Arc::default(),
            metadata: Arc::default(),
            checks: Box::default(),
        }
    }

    /// Sorts the metadata by key and the checks by id, so that equal registrations compare equal.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        if !self.metadata.is_sorted_by(|a, b| a.0 <= b.0) {
            let mut metadata = self.metadata.to_vec();
            metadata.sort_by(|a, b| a.0.cmp(&b.0));
            self.metadata = metadata.into();
        }
        self.checks.sort_by(|a, b| a.id.cmp(&b.id));
        self
    }

    /// Shares the memory of equal texts with another instance of the service. Most instances of a service
    /// have the same zone, version, tags and metadata, so they need not be stored again. Changes no value.
    pub(super) fn share_texts(&mut self, other: &Self) {
        let names = [
            (&mut self.zone, &other.zone),
            (&mut self.version, &other.version),
            (&mut self.node, &other.node),
        ];
        for (own, other) in names {
            if *own == *other {
                own.clone_from(other);
            }
        }
        if self.tags == other.tags {
            self.tags = Arc::clone(&other.tags);
        }
        if self.metadata == other.metadata {
            self.metadata = Arc::clone(&other.metadata);
        }
    }

    /// Its size for the limits of the registry, in bytes: the length of its texts, plus an estimate for the
    /// rest.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        let name = |name: &Option<Name>| name.as_ref().map_or(0, |name| name.as_str().len());
        let tags = self.tags.iter().map(|tag| tag.len() + STORED_ENTRY_OVERHEAD_LEN);
        let metadata = self.metadata.iter();
        let metadata =
            metadata.map(|(key, v)| key.as_str().len() + v.len() + STORED_ENTRY_OVERHEAD_LEN);
        let len = STORED_OVERHEAD_LEN
            + self.id.as_str().len()
            + self.address.as_str().len()
            + name(&self.zone)
            + name(&self.version)
            + name(&self.node)
            + tags.sum::<usize>()
            + metadata.sum::<usize>()
            + self
                .checks
                .iter()
                .map(|check| STORED_OVERHEAD_LEN + check.texts_len())
                .sum::<usize>();
        len as u64
    }

    /// Checks every limit. The error names the first one that is exceeded.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        limits::check_name("id", self.id.as_str())?;
        Address::parse(self.address.as_str())?;
        check_range("weight", self.weight.into(), 1, limits::WEIGHT_MAX.into())?;
        if let Expiry::AfterSilence { ttl_ms } = self.expiry {
            check_range("ttl_ms", ttl_ms, limits::TTL_MS_MIN, limits::TTL_MS_MAX)?;
        }
        for (field, name) in
            [("zone", &self.zone), ("version", &self.version), ("node", &self.node)]
        {
            if let Some(name) = name {
                limits::check_name(field, name.as_str())?;
            }
        }
        check_count("tags", self.tags.len(), limits::TAGS_MAX)?;
        for tag in &*self.tags {
            check_text("tags", tag, 1, limits::TAG_LEN_MAX)?;
        }
        check_count("metadata", self.metadata.len(), limits::METADATA_ENTRIES_MAX)?;
        let mut total = 0;
        for (key, value) in &*self.metadata {
            limits::check_name("metadata", key.as_str())?;
            check_text("metadata", value, 0, limits::METADATA_VALUE_LEN_MAX)?;
            total += key.as_str().len() + value.len();
        }
        if total > limits::METADATA_TOTAL_LEN_MAX {
            let limit = Limit::TotalLength { max: limits::METADATA_TOTAL_LEN_MAX as u64 };
            return Err(LimitExceeded::new("metadata", limit, Given::Bytes(total as u64)));
        }
        Check::check_all(&self.checks)
    }
}

/// An instance, as the registry stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The registration by its owner.
    pub registration: Registration,
    /// Index at which the present registration was made or last changed. An equal registration keeps it.
    /// Heartbeats and deregistrations may name it.
    pub lease_epoch: u64,
    /// Index of the last registration of this instance in the log, equal ones included. An expiry names this
    /// index, so an expiry that was decided before a later registration removes nothing.
    pub registered_index: u64,
    /// Index of the registration that set the present address. Health reports name it, so a result for an
    /// earlier address is ignored.
    pub address_index: u64,
    /// When the present registration was made or last changed, in milliseconds since 1970, by the log's clock.
    /// An equal registration keeps it.
    pub registered_at_ms: u64,
    /// Index of the last change to it.
    pub modified_index: u64,
    /// The known state of its checks. `None` while nothing is known, as for most instances.
    pub(super) known: Option<Box<Known>>,
}

/// The health of an instance that was never probed.
static UNOBSERVED: LazyLock<Health> = LazyLock::new(Health::default);

impl Instance {
    /// An instance that is registered for the first time, at `index`.
    #[must_use]
    pub fn new(registration: Registration, index: u64, time_ms: u64) -> Self {
        Self::replacing(None, registration, index, time_ms)
    }

    /// An instance with a new registration, which replaces an earlier one if there was one.
    ///
    /// The known state of the checks belongs to an address. If the address stays, the state stays too,
    /// whatever else the owner changed. Only a probe, a report or an operator changes it.
    pub(super) fn replacing(
        old: Option<&Self>,
        registration: Registration,
        index: u64,
        time_ms: u64,
    ) -> Self {
        let stays = old.filter(|old| old.registration.address == registration.address);
        let state = |check: &Check| {
            let CheckKind::Ttl { initial, .. } = check.kind else { return None };
            let kept =
                stays.and_then(|old| old.reported_checks().iter().find(|c| c.id == check.id));
            Some(match kept {
                Some(kept) => CheckState { reported_index: index, ..kept.clone() },
                None => CheckState {
                    id: check.id.clone(),
                    status: initial,
                    output: "".into(),
                    since_ms: time_ms,
                    modified_index: index,
                    reported_index: index,
                },
            })
        };
        let known = Known {
            health: stays.map_or_else(Health::default, |old| old.health().clone()),
            health_index: stays.and_then(|old| old.known.as_ref()).map_or(0, |k| k.health_index),
            checks: registration.checks.iter().filter_map(state).collect(),
            changed_ms: stays.and_then(|old| old.known.as_ref()).map_or(0, |k| k.changed_ms),
        };
        let mut new = Self {
            registration,
            lease_epoch: index,
            registered_index: index,
            address_index: stays.map_or(index, |old| old.address_index),
            registered_at_ms: time_ms,
            modified_index: index,
            known: (known != Known::default()).then(|| Box::new(known)),
        };
        if let Some(old) = stays.filter(|old| new.lacks_check_of(old)) {
            let (before, now) = (old.verdict(), new.verdict());
            let is_same = (before.liveness, before.readiness) == (now.liveness, now.readiness);
            let changed_ms = if is_same { before.since_ms } else { time_ms };
            new.known.get_or_insert_default().changed_ms = changed_ms;
        }
        new
    }

    /// Whether the owner of `old` reported a check that is no longer registered.
    fn lacks_check_of(&self, old: &Self) -> bool {
        let present = self.reported_checks();
        let is_gone = |check: &CheckState| present.iter().all(|other| other.id != check.id);
        old.reported_checks().iter().any(is_gone)
    }

    /// The verdict of the observers of its probe.
    #[must_use]
    pub fn health(&self) -> &Health {
        self.known.as_ref().map_or(&UNOBSERVED, |known| &known.health)
    }

    /// Its size for the limits of the registry, in bytes.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        let outputs = self.reported_checks().iter().map(|check| check.output.len() as u64);
        self.registration.stored_len() + outputs.sum::<u64>()
    }
}

stored!(Instance {
    registration,
    lease_epoch,
    registered_index,
    address_index,
    registered_at_ms,
    modified_index,
    known,
});

/// An operator's decision that an instance gets no new traffic. It survives a new registration and an expiry,
/// because an operator's decision has priority over what machines report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The user who drained it.
    pub by: Name,
    /// The reason that the operator gave; may be empty.
    pub reason: String,
    /// When it was drained, in milliseconds since 1970.
    pub since_ms: u64,
}

stored!(Drain { by, reason, since_ms });
