//! The audit log: who did what to which object, and with what result. It is derived from the log and chained
//! by hashes.
//!
//! Each record belongs to a *class* that has its own limits. So a fleet that registers, or a stranger who is
//! refused, cannot push out the records of changes to users, policies or the cluster. A class keeps its
//! newest records and drops its oldest. Within a class, whoever causes many records can push out those of others. The
//! registry limits how fast one user does so (`Command::is_long_kept`).
//!
//! Every record has its number in the whole log and its number in its class. Its hash covers both numbers,
//! its content, the previous hash in its class, and the previous hash in the whole log. This proves three
//! things. No record is missing between the oldest kept record of a class and the newest. The number of the
//! oldest record says how many were dropped before it. The counts of all classes add up to the count of the
//! whole log.
//!
//! A new record never causes older ones to be dropped for their age, whatever its time is. Only the leader drops
//! records for their age, after it has compared its clock with others ([`AuditLog::expire`]).

use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::Vector;
use sha2::{Digest, Sha256};

use super::audit_action::AuditAction;
use super::audit_class::AuditClass;
use super::codec;
use super::command::{Rejection, is_system};
use super::versioned::{Needs, stored};

/// Outcome of an action.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AuditOutcome {
    /// It took effect.
    Success,
    /// It was refused. The code says why, if the state refused it. It is a code and not a text, because the
    /// hash covers it.
    Refused(Option<Box<Rejection>>),
    /// It is not known whether it took effect. From state version 2 on.
    Unknown,
}

impl AuditOutcome {
    /// Whether it took effect.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Success
    }
}

/// The class of a record in a state of this version. A refused change gets another class than a successful one:
/// anyone can repeat a refused change, and it must not push out the records of successful changes. From version 2
/// on, callers without a credential, known callers and Maxine itself do not share a class, so none of them can push
/// out the records of another.
fn class_of(version: u32, record: &AuditRecord) -> AuditClass {
    let action = record.action;
    let is_refused = matches!(record.outcome, AuditOutcome::Refused(_));
    let is_stranger = record.user.is_empty();
    if version == 1 {
        return if !is_refused {
            action.first_class()
        } else if action.is_of_instances() {
            AuditClass::Registrations
        } else if is_stranger {
            AuditClass::Strangers
        } else {
            AuditClass::Requests
        };
    }
    if is_stranger {
        if is_refused { AuditClass::Strangers } else { AuditClass::Open }
    } else if action.is_of_instances() && is_system(&record.user) {
        AuditClass::Automatic
    } else if !is_refused || action == AuditAction::BreakGlassUse {
        // Only the holder of a break-glass token causes records of its use, whatever the outcome was.
        action.class()
    } else if action.is_of_instances() {
        AuditClass::Registrations
    } else if action.is_of_keys() {
        AuditClass::Keys
    } else {
        AuditClass::Requests
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Number of the record in the whole log, from 0.
    pub seq: u64,
    /// Class of the record.
    pub class: AuditClass,
    /// Number of the record in its class, from 0; there are no gaps.
    pub class_seq: u64,
    /// The index of the state right after the action.
    pub index: u64,
    /// The time of the action, in milliseconds since 1970, by the log's clock.
    pub time_ms: u64,
    /// The user, the token or the part of Maxine; empty for a request without a credential.
    pub user: Box<str>,
    /// Network address of the caller.
    pub address: Box<str>,
    /// The request's trace id.
    pub trace_id: Box<str>,
    /// The member that sent the request to the leader, as the leader authenticated it. `None` if the leader
    /// received the request directly, and in every mode but Raft.
    pub via_node: Option<u64>,
    /// The action.
    pub action: AuditAction,
    /// The object, such as `default/orders/a`.
    pub object: Box<str>,
    /// Whether the action took effect.
    pub outcome: AuditOutcome,
    /// The hash of the previous record in the whole log, even if that record is no longer kept.
    pub previous: [u8; 32],
    /// SHA-256 over the hash of the previous record in its class and this record's other fields.
    pub hash: [u8; 32],
}

stored!(AuditRecord {
    seq,
    class,
    class_seq,
    index,
    time_ms,
    user,
    address,
    trace_id,
    via_node,
    action,
    object,
    outcome,
    previous,
    hash,
});

impl Needs for AuditOutcome {
    fn needs(&self) -> u32 {
        match self {
            Self::Success | Self::Refused(_) => 1,
            Self::Unknown => 2,
        }
    }
}

impl AuditRecord {
    /// The hash that this record must have if `before` is the previous hash in its class.
    #[must_use]
    pub fn expected_hash(&self, before: &[u8; 32]) -> [u8; 32] {
        let content = (
            (self.seq, self.class, self.class_seq, self.index, self.time_ms),
            (&self.user, &self.address, &self.trace_id, self.via_node),
            (&self.action, &self.object, &self.outcome),
            self.previous,
            self.later_fields(),
        );
        let mut hasher = Sha256::new();
        hasher.update(before);
        // The fields are far below the codec's limit: a failure would be a defect in the codec.
        let bytes = bincode::encode_to_vec(content, codec::config()).unwrap_or_default();
        hasher.update(&bytes);
        hasher.finalize().into()
    }
}

/// The kept records of one class, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditChain {
    /// A shared list, because a copy of it is published after every batch. The next record then copies only a
    /// part of the list.
    records: Vector<Arc<AuditRecord>>,
    /// The hash of the record before the oldest kept one; zeros if no record was dropped.
    base: [u8; 32],
    next_seq: u64,
}

impl AuditChain {
    /// The hash of the record before the oldest kept one; zeros if no record was dropped.
    #[must_use]
    pub fn base(&self) -> [u8; 32] {
        self.base
    }

    /// The number of records that the class has ever had.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The number of kept records.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.records.len()
    }

    /// The number of dropped records.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.next_seq.saturating_sub(self.records.len() as u64)
    }

    /// How many records have left the class since `earlier`, a former content of it, although they were younger than its
    /// retention at `now_ms` by the log's clock. They had to make room for newer ones.
    #[must_use]
    pub fn dropped_early(&self, earlier: &Self, class: AuditClass, now_ms: u64) -> u64 {
        let left = self.dropped().saturating_sub(earlier.dropped());
        let is_early = |record: &&Arc<AuditRecord>| {
            now_ms.saturating_sub(record.time_ms) <= class.retention_ms()
        };
        let known = earlier.records.iter().take(usize::try_from(left).unwrap_or(usize::MAX));
        // The others came after `earlier`, so they have left at once.
        known.filter(is_early).count() as u64 + left.saturating_sub(earlier.kept() as u64)
    }

    fn head(&self) -> [u8; 32] {
        self.records.back().map_or(self.base, |record| record.hash)
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.records.pop_front() {
            self.base = oldest.hash;
        }
    }

    fn verify(&self, class: AuditClass) -> Result<(), u64> {
        let mut before = self.base;
        for (class_seq, record) in (self.dropped()..).zip(&self.records) {
            let fits = record.class == class && record.class_seq == class_seq;
            if !fits || record.expected_hash(&before) != record.hash {
                return Err(record.seq);
            }
            before = record.hash;
        }
        Ok(())
    }
}

/// The kept records of all classes.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    chains: [AuditChain; AuditClass::ALL.len()],
    head: [u8; 32],
    next_seq: u64,
}

impl AuditLog {
    /// An audit log without records. [`Self::restore_chain`] and [`Self::restore_record`] fill it.
    #[must_use]
    pub fn restore(head: [u8; 32], next_seq: u64) -> Self {
        Self { head, next_seq, ..Self::default() }
    }

    /// Sets the hash before the oldest kept record of a class, and the number of records that the class has had.
    pub fn restore_chain(&mut self, class: AuditClass, base: [u8; 32], next_seq: u64) {
        let chain = &mut self.chains[class as usize];
        (chain.base, chain.next_seq) = (base, next_seq);
    }

    /// Adds a stored record. The older records of its class must be added first.
    pub fn restore_record(&mut self, record: AuditRecord) {
        self.chains[record.class as usize].records.push_back(Arc::new(record));
    }

    /// Appends a record to the log of a state of this version. Sets its class, its numbers and its hashes, and
    /// drops the oldest records of its class if there are too many.
    pub(super) fn append(&mut self, mut record: AuditRecord, version: u32) {
        record.class = class_of(version, &record);
        let chain = &mut self.chains[record.class as usize];
        record.seq = self.next_seq;
        record.class_seq = chain.next_seq;
        record.previous = self.head;
        record.hash = record.expected_hash(&chain.head());
        self.head = record.hash;
        self.next_seq += 1;
        chain.next_seq += 1;
        let records_max = record.class.records_max();
        chain.records.push_back(Arc::new(record));
        while chain.records.len() > records_max {
            chain.drop_oldest();
        }
    }

    /// Drops the records that are older than the retention of their class. `now_ms` must come from a clock
    /// that was compared with others. Returns the number of dropped records.
    pub(super) fn expire(&mut self, now_ms: u64) -> u64 {
        let before = self.len();
        for class in AuditClass::ALL {
            let chain = &mut self.chains[class as usize];
            let is_old =
                |record: &AuditRecord| now_ms.saturating_sub(record.time_ms) > class.retention_ms();
            while chain.records.front().is_some_and(|oldest| is_old(oldest)) {
                chain.drop_oldest();
            }
        }
        (before - self.len()) as u64
    }

    /// Whether any record is older than the retention of its class.
    #[must_use]
    pub fn has_expired(&self, now_ms: u64) -> bool {
        AuditClass::ALL.iter().any(|class| {
            let oldest = self.chains[*class as usize].records.front();
            oldest.is_some_and(|r| now_ms.saturating_sub(r.time_ms) > class.retention_ms())
        })
    }

    /// The newest hash. It identifies the whole log.
    #[must_use]
    pub fn head(&self) -> [u8; 32] {
        self.head
    }

    /// The number of the next record.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The records of one class.
    #[must_use]
    pub fn chain(&self, class: AuditClass) -> &AuditChain {
        &self.chains[class as usize]
    }

    /// The number of kept records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.iter().map(AuditChain::kept).sum()
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kept records of all classes, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<&Arc<AuditRecord>> {
        let mut records: Vec<&Arc<AuditRecord>> =
            self.chains.iter().flat_map(|chain| &chain.records).collect();
        // The list consists of a few sorted runs, which this sort merges.
        records.sort_by_key(|record| record.seq);
        records
    }

    /// The kept records of all classes from this number on, oldest first; at most `records_max`. Unlike
    /// [`Self::records`], it does not look at older records.
    #[must_use]
    pub fn since(&self, seq: u64, records_max: usize) -> Vec<Arc<AuditRecord>> {
        let mut found = Vec::new();
        for chain in &self.chains {
            let records = &chain.records;
            // The numbers of a class ascend.
            let begin = records.binary_search_by(|record| record.seq.cmp(&seq));
            let begin = begin.unwrap_or_else(|at| at);
            let end = begin.saturating_add(records_max).min(records.len());
            found.extend((begin..end).filter_map(|at| records.get(at).cloned()));
        }
        found.sort_by_key(|record| record.seq);
        found.truncate(records_max);
        found
    }

    /// The records about leadership, oldest first.
    pub fn leadership(&self) -> impl DoubleEndedIterator<Item = &AuditRecord> {
        let of_cluster = self.chain(AuditClass::Cluster).records.iter();
        of_cluster.filter(|record| record.action.is_of_leadership()).map(AsRef::as_ref)
    }

    /// The newest kept record of this action by this user, if it was successful.
    #[must_use]
    pub fn newest_success(&self, action: AuditAction, user: &str) -> Option<&AuditRecord> {
        let of_class = self.chain(action.class()).records.iter().rev().map(|record| &**record);
        let mut found = of_class.filter(|record| record.action == action && &*record.user == user);
        found.find(|record| record.outcome.is_success())
    }

    /// Checks that no kept record was changed and that none is missing within a class. The error is the
    /// number of the first record that does not fit, or the number of the next record if the counts do not
    /// add up.
    pub fn verify(&self) -> Result<(), u64> {
        for class in AuditClass::ALL {
            self.chain(class).verify(class)?;
        }
        let mut before: Option<&AuditRecord> = None;
        for record in self.records() {
            let fits = before.is_none_or(|before| match record.seq - before.seq {
                0 => false,
                1 => record.previous == before.hash,
                _ => true,
            });
            if !fits || record.seq >= self.next_seq {
                return Err(record.seq);
            }
            before = Some(record);
        }
        let newest_fits =
            before.is_none_or(|newest| newest.seq + 1 < self.next_seq || newest.hash == self.head);
        let counted: u64 = self.chains.iter().map(AuditChain::next_seq).sum();
        if newest_fits && counted == self.next_seq { Ok(()) } else { Err(self.next_seq) }
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
