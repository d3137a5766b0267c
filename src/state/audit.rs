//! Who did what to which object with which result: a projection of the log, chained by hashes.
//!
//! Each record's hash covers its content and the hash before it, so a changed, removed or
//! reordered record breaks the chain. Old records leave from the front; the chain then starts at
//! the hash that the oldest one names.
//!
//! Who led when must not be forgotten because a fleet registered: records on leadership are kept
//! when they leave the chain.

use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::Vector;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::codec;

/// Most records kept.
pub(super) const AUDIT_RECORDS_MAX: usize = 20_000;
/// Most records on leadership kept that have left the chain.
pub(super) const LEADERSHIP_RECORDS_MAX: usize = 1_000;
const LEADERSHIP: &str = "leadership.";
/// Longest time that a record is kept, in milliseconds (30 days).
pub(super) const AUDIT_RETENTION_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// Outcome of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// It took effect.
    Success,
    /// It was refused.
    Refused,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Number of the record; there are no gaps.
    pub seq: u64,
    /// The index of the state right after the action.
    pub index: u64,
    /// When, in milliseconds since 1970, by the log's clock.
    pub time_ms: u64,
    /// The user or the part of Maxine; empty for an open request.
    pub user: Box<str>,
    /// Network address of the caller.
    pub address: Box<str>,
    /// The request's trace id.
    pub trace_id: Box<str>,
    /// The action, such as `instance.register`.
    pub action: Box<str>,
    /// The object, such as `default/orders/a`.
    pub object: Box<str>,
    /// Outcome.
    pub outcome: AuditOutcome,
    /// Why it was refused; empty on success.
    pub detail: Box<str>,
    /// SHA-256 over the hash before it and this record's other fields.
    #[serde(serialize_with = "as_hex")]
    #[schema(value_type = String)]
    pub hash: [u8; 32],
}

fn as_hex<S: serde::Serializer>(hash: &[u8; 32], out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&hex(hash))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl AuditRecord {
    /// The hash that this record must carry if `previous` is the hash before it.
    #[must_use]
    pub fn expected_hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let content = (
            (self.seq, self.index, self.time_ms),
            (&self.user, &self.address, &self.trace_id),
            (&self.action, &self.object, self.outcome, &self.detail),
        );
        let mut hasher = Sha256::new();
        hasher.update(previous);
        // The fields are far below the codec's limit: a failure would be a defect in the codec.
        let bytes = bincode::encode_to_vec(content, codec::config()).unwrap_or_default();
        hasher.update(&bytes);
        hasher.finalize().into()
    }
}

fn is_on_leadership(record: &AuditRecord) -> bool {
    record.action.starts_with(LEADERSHIP)
}

/// The records that are kept, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    /// Shared, for a copy of the list is published after every batch and the next record then copies
    /// a part of the list.
    records: Vector<Arc<AuditRecord>>,
    /// Those on leadership that have left the chain, oldest first.
    leadership: Vector<Arc<AuditRecord>>,
    /// The hash before the oldest kept record.
    base: [u8; 32],
    next_seq: u64,
}

impl AuditLog {
    pub(super) fn restore(base: [u8; 32], next_seq: u64) -> Self {
        Self { base, next_seq, ..Self::default() }
    }

    pub(super) fn restore_record(&mut self, record: AuditRecord) {
        self.records.push_back(Arc::new(record));
    }

    /// Keeps a record that has left the chain, if it is on leadership.
    pub(super) fn keep_leadership(&mut self, record: Arc<AuditRecord>) {
        if !is_on_leadership(&record) {
            return;
        }
        self.leadership.push_back(record);
        if self.leadership.len() > LEADERSHIP_RECORDS_MAX {
            self.leadership.pop_front();
        }
    }

    /// Appends a record; sets its number and its hash, and lets the oldest go where needed.
    pub(super) fn append(&mut self, mut record: AuditRecord) {
        let previous = self.head();
        record.seq = self.next_seq;
        self.next_seq += 1;
        record.hash = record.expected_hash(&previous);
        let now_ms = record.time_ms;
        self.records.push_back(Arc::new(record));
        while let Some(oldest) = self.records.front() {
            let expired = now_ms.saturating_sub(oldest.time_ms) > AUDIT_RETENTION_MS;
            if self.records.len() <= AUDIT_RECORDS_MAX && !expired {
                break;
            }
            self.base = oldest.hash;
            if let Some(left) = self.records.pop_front() {
                self.keep_leadership(left);
            }
        }
    }

    /// The newest hash: it names the whole history.
    #[must_use]
    pub fn head(&self) -> [u8; 32] {
        self.records.back().map_or(self.base, |record| record.hash)
    }

    /// The hash before the oldest kept record.
    #[must_use]
    pub fn base(&self) -> [u8; 32] {
        self.base
    }

    /// The number that the next record gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The kept records, oldest first.
    #[must_use]
    pub fn records(&self) -> &Vector<Arc<AuditRecord>> {
        &self.records
    }

    /// The records on leadership, oldest first; they may be older than the chain.
    pub fn leadership(&self) -> impl DoubleEndedIterator<Item = &AuditRecord> {
        let in_chain = self.records.iter().filter(|record| is_on_leadership(record));
        self.leadership.iter().chain(in_chain).map(AsRef::as_ref)
    }

    /// Those of them that have left the chain.
    pub(super) fn leadership_before_chain(&self) -> &Vector<Arc<AuditRecord>> {
        &self.leadership
    }

    /// Checks the chain; the error names the first record that does not fit.
    pub fn verify(&self) -> Result<(), u64> {
        let mut previous = self.base;
        let first = self.next_seq.saturating_sub(self.records.len() as u64);
        for (seq, record) in (first..).zip(&self.records) {
            if record.seq != seq || record.expected_hash(&previous) != record.hash {
                return Err(seq);
            }
            previous = record.hash;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(len: u64) -> AuditLog {
        let mut log = AuditLog::default();
        for index in 1..=len {
            log.append(AuditRecord {
                seq: 0,
                index,
                time_ms: index,
                user: "ops".into(),
                address: "".into(),
                trace_id: "".into(),
                action: "instance.register".into(),
                object: format!("default/a/{index}").into(),
                outcome: AuditOutcome::Success,
                detail: "".into(),
                hash: [0; 32],
            });
        }
        log
    }

    #[test]
    fn the_chain_holds_past_its_retention() {
        let log = log(AUDIT_RECORDS_MAX as u64 + 50);
        assert_eq!(log.records().len(), AUDIT_RECORDS_MAX);
        assert_eq!(log.verify(), Ok(()));
    }

    #[test]
    fn who_led_is_remembered_for_longer_than_what_a_fleet_did() {
        let mut log = log(10);
        let model = AuditRecord::clone(&log.records[9]);
        let led = |n: u64| AuditRecord {
            action: "leadership.grant".into(),
            object: format!("node-{n}").into(),
            ..model.clone()
        };
        for n in 0..LEADERSHIP_RECORDS_MAX as u64 + 5 {
            log.append(led(n));
        }
        for _ in 0..AUDIT_RECORDS_MAX {
            log.append(model.clone());
        }
        assert!(log.records().iter().all(|record| &*record.action == "instance.register"));
        log.append(led(9_999));
        let holders: Vec<&str> = log.leadership().map(|record| &*record.object).collect();
        assert_eq!(holders.len(), LEADERSHIP_RECORDS_MAX + 1);
        assert_eq!((holders[0], holders[LEADERSHIP_RECORDS_MAX]), ("node-5", "node-9999"));
    }

    #[test]
    fn old_records_leave_and_the_chain_goes_on_from_them() {
        let mut log = log(10);
        let mut late = AuditRecord::clone(&log.records[9]);
        late.time_ms = AUDIT_RETENTION_MS + 6;
        let left = log.records[4].hash;
        log.append(late);
        let kept: Vec<u64> = log.records().iter().map(|record| record.seq).collect();
        assert_eq!(kept, [5, 6, 7, 8, 9, 10], "what is 30 days old stays, what is older goes");
        assert_eq!((log.base(), log.verify()), (left, Ok(())));
        // Whoever also takes the next one off the front is found out.
        log.records.pop_front();
        assert_eq!(log.verify(), Err(6));
    }

    #[test]
    fn a_changed_removed_or_reordered_record_is_found() {
        let good = log(10);
        let mut changed = good.clone();
        Arc::make_mut(&mut changed.records[4]).object = "default/b/5".into();
        assert_eq!(changed.verify(), Err(4));
        let mut removed = good.clone();
        removed.records.remove(4);
        assert!(removed.verify().is_err());
        let mut reordered = good;
        reordered.records.swap(2, 3);
        assert!(reordered.verify().is_err());
    }
}
