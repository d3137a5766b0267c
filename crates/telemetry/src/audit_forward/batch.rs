//! What is delivered to a sink at once: records, records that are missing, and an anchor.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::position::{Last, Position};
use crate::audit_record::{AuditRecordView, hex};
use maxine_state::{AuditClass, AuditLog, AuditRecord, ControlState, History};

/// Maximum length of the records of a batch as JSON, in bytes. A longer record is alone in its batch.
const RECORDS_LEN_MAX: usize = 256 * 1_024;

/// Records that were removed before they could be forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Missing {
    /// None of them has a smaller number.
    pub(super) first_seq: u64,
    /// None of them has a greater number.
    pub(super) last_seq: u64,
    /// How many there are.
    pub(super) records: u64,
}

/// The end of the log at one moment. Whoever keeps it can prove later that a record before it was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Anchor {
    /// The index of the state.
    pub(super) index: u64,
    /// The number of the next record.
    pub(super) next_seq: u64,
    /// The hash of the newest record.
    pub(super) head: String,
    /// The number of records that had left each class.
    pub(super) dropped: BTreeMap<&'static str, u64>,
    /// When it was taken, in milliseconds since 1970.
    pub(super) time_ms: u64,
}

impl Anchor {
    pub(super) fn of(state: &ControlState, time_ms: u64) -> Self {
        let audit = state.audit();
        let (index, next_seq, head) = (state.index(), audit.next_seq(), hex(&audit.head()));
        let of_class = |class: AuditClass| (class.as_str(), audit.chain(class).dropped());
        let dropped = AuditClass::of_version(state.version()).map(of_class).collect();
        Self { index, next_seq, head, dropped, time_ms }
    }
}

/// What is delivered at once.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) records: Vec<Arc<AuditRecord>>,
    pub(super) missing: Option<Missing>,
    pub(super) anchor: Option<Anchor>,
    /// Where the sink is after it.
    pub(super) after: Position,
}

/// Why a sink did not take a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// Its body was too large for the receiver, with so many bytes.
    TooLarge(usize),
    /// Another reason, as text for people.
    Failed(String),
}

impl From<String> for NotTaken {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Where a batch comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The name of the cluster.
    pub(super) cluster: String,
    /// The name of the node.
    pub(super) node: String,
}

/// One line of a file, or one message of syslog.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// When it happened, in milliseconds since 1970. 0 if that is not known.
    pub(super) time_ms: u64,
    /// The action of a record, `missing` or `anchor`.
    pub(super) kind: &'static str,
    /// Whether somebody should look at it.
    pub(super) is_notable: bool,
    /// A JSON object.
    pub(super) json: String,
}

#[derive(Serialize)]
struct Body<'a> {
    cluster: &'a str,
    node: &'a str,
    history: String,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    missing: Option<&'a Missing>,
    records: Vec<AuditRecordView>,
    anchor: Option<&'a Anchor>,
}

impl Batch {
    /// The records from a position on: at most `records_max`, and not too many bytes for one delivery, but always one if
    /// there is one.
    pub(super) fn from(position: &Position, audit: &AuditLog, records_max: usize) -> Self {
        let mut records = audit.since(position.next_seq, records_max);
        let mut len = 0;
        let fits = records.iter().take_while(|record| {
            len += record_json(record).len();
            len <= RECORDS_LEN_MAX
        });
        let fits = fits.count().max(1);
        let is_full = records.len() > fits || records.len() >= records_max;
        records.truncate(fits);
        // All kept records up to here are in the batch.
        let end = match records.last() {
            Some(last) if is_full => last.seq + 1,
            _ => audit.next_seq().max(position.next_seq),
        };
        // What was removed before forwarding began is not missing.
        let first_seq = position.next_seq.max(position.begin);
        let kept = records.iter().filter(|record| record.seq >= first_seq).count() as u64;
        let absent = end.saturating_sub(first_seq).saturating_sub(kept);
        let missing = Missing { first_seq, last_seq: end.saturating_sub(1), records: absent };
        let last = records.last().map(|record| Last { seq: record.seq, hash: hex(&record.hash) });
        let last = last.or_else(|| position.last.clone());
        Self {
            after: Position { next_seq: end, last, ..position.clone() },
            missing: (absent > 0).then_some(missing),
            anchor: None,
            records,
        }
    }

    /// Whether there is nothing to deliver.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.missing.is_none() && self.anchor.is_none()
    }

    /// One line for what is missing, for each record, and for the anchor.
    pub(super) fn lines(&self, source: &Source) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(missing) = &self.missing {
            let json = self.noted("missing", missing, source);
            lines.push(Line { time_ms: 0, kind: "missing", is_notable: true, json });
        }
        lines.extend(self.records.iter().map(|record| Line {
            time_ms: record.time_ms,
            kind: record.action.as_str(),
            is_notable: !record.outcome.is_success(),
            json: record_json(record),
        }));
        if let Some(anchor) = &self.anchor {
            let json = self.noted("anchor", anchor, source);
            lines.push(Line { time_ms: anchor.time_ms, kind: "anchor", is_notable: false, json });
        }
        lines
    }

    /// A line that is no record. It names where it comes from, because no hash of the log covers it.
    fn noted(&self, name: &'static str, value: &impl Serialize, source: &Source) -> String {
        json(&serde_json::json!({
            name: value,
            "history": history(self.after.history),
            "cluster": source.cluster,
            "node": source.node,
        }))
    }

    /// The body of a delivery over HTTP.
    pub(super) fn body(&self, source: &Source) -> Vec<u8> {
        let body = Body {
            cluster: &source.cluster,
            node: &source.node,
            history: history(self.after.history),
            first_seq: self.records.first().map(|record| record.seq),
            last_seq: self.records.last().map(|record| record.seq),
            missing: self.missing.as_ref(),
            records: self.records.iter().map(|record| AuditRecordView::from(&**record)).collect(),
            anchor: self.anchor.as_ref(),
        };
        json(&body).into_bytes()
    }
}

fn history(history: History) -> String {
    history.to_string()
}

fn record_json(record: &AuditRecord) -> String {
    json(&AuditRecordView::from(record))
}

fn json(value: &impl Serialize) -> String {
    // Texts and numbers can always be serialized.
    serde_json::to_string(value).unwrap_or_default()
}

/// Whether the log is still the one that was forwarded up to this position. It is not after a restore of an older
/// backup.
pub(super) fn continues(position: &Position, audit: &AuditLog, history: History) -> bool {
    let Some(last) = &position.last else { return position.history == history };
    match audit.since(last.seq, 1).first() {
        Some(record) if record.seq == last.seq => hex(&record.hash) == last.hash,
        // The record is not here yet, or not any more.
        _ => position.history == history,
    }
}

#[cfg(test)]
mod tests {
    use maxine_state::{AuditAction, AuditOutcome};

    use super::*;

    fn record(seq: u64) -> AuditRecord {
        AuditRecord {
            seq,
            class: AuditClass::Settings,
            class_seq: seq,
            index: seq,
            time_ms: 1_000 + seq,
            user: "ada".into(),
            address: "".into(),
            trace_id: "".into(),
            via_node: None,
            action: AuditAction::PolicyPut,
            object: "default/zoë".into(),
            outcome: AuditOutcome::Success,
            previous: [0; 32],
            hash: [u8::try_from(seq).unwrap(); 32],
        }
    }

    /// A log with these records, whose next record has the number `next_seq`.
    fn log(kept: impl IntoIterator<Item = u64>, next_seq: u64) -> AuditLog {
        let mut log = AuditLog::restore([9; 32], next_seq);
        kept.into_iter().for_each(|seq| log.restore_record(record(seq)));
        log
    }

    fn at(next_seq: u64) -> Position {
        Position { history: History::from_random(1), begin: 0, next_seq, last: None }
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.records.iter().map(|record| record.seq).collect()
    }

    #[test]
    fn batches_follow_each_other_without_a_record_between_them() {
        let log = log(0..7, 7);
        let first = Batch::from(&at(0), &log, 3);
        assert_eq!((numbers(&first), first.after.next_seq), (vec![0, 1, 2], 3));
        let second = Batch::from(&first.after, &log, 3);
        let third = Batch::from(&second.after, &log, 3);
        assert_eq!((numbers(&third), third.after.next_seq), (vec![6], 7));
        assert!(Batch::from(&third.after, &log, 3).is_empty());
        assert!(third.missing.is_none());
    }

    #[test]
    fn long_records_make_a_batch_end_early_and_one_that_is_too_long_is_sent_alone() {
        let lengths = [100, 100, 100, 300, 1, 1].map(|kib| kib * 1_024);
        let mut log = AuditLog::restore([9; 32], 6);
        for (seq, len) in (0..).zip(lengths) {
            log.restore_record(AuditRecord { object: "x".repeat(len).into(), ..record(seq) });
        }
        let mut position = at(0);
        let mut sent = Vec::new();
        while position.next_seq < 6 {
            let batch = Batch::from(&position, &log, 500);
            assert_eq!(batch.missing, None);
            sent.push(numbers(&batch));
            position = batch.after;
        }
        assert_eq!(sent, [vec![0, 1], vec![2], vec![3], vec![4, 5]]);
    }

    #[test]
    fn records_that_left_the_log_before_they_were_forwarded_are_counted() {
        let log = log([4, 5, 8], 12);
        let missing = |position: &Position, max| Batch::from(position, &log, max).missing;
        let all = Missing { first_seq: 2, last_seq: 11, records: 7 };
        assert_eq!(missing(&at(2), 10), Some(all));
        // A full batch says nothing about what follows it.
        assert_eq!(missing(&at(4), 2), None);
        assert_eq!(missing(&at(9), 10).unwrap().records, 3);
        assert_eq!(missing(&at(12), 10), None);
        // What was removed before forwarding began was never to be forwarded.
        let late = Position::beginning(History::from_random(1), 8);
        assert_eq!(numbers(&Batch::from(&late, &log, 10)), [4, 5, 8]);
        let since = Missing { first_seq: 8, last_seq: 11, records: 3 };
        assert_eq!(missing(&late, 10), Some(since));
    }

    #[test]
    fn a_log_that_was_replaced_is_told_from_one_that_is_behind() {
        let (own, other) = (History::from_random(1), History::from_random(2));
        let last = |seq, byte: u8| Some(Last { seq, hash: hex(&[byte; 32]) });
        let position = Position { last: last(5, 5), ..at(6) };
        assert!(continues(&position, &log(0..7, 7), own));
        assert!(continues(&position, &log(0..7, 7), other), "it was restored to a later point");
        assert!(continues(&position, &log(0..3, 3), own), "it is behind");
        assert!(!continues(&position, &log(0..3, 3), other));
        let changed = Position { last: last(5, 6), ..at(6) };
        assert!(!continues(&changed, &log(0..7, 7), own));
    }

    #[test]
    fn a_body_and_lines_have_what_a_receiver_needs_to_drop_repeats() {
        let source = Source { cluster: "shop".into(), node: "node-1".into() };
        let mut batch = Batch::from(&at(0), &log(1..3, 3), 10);
        let dropped = [("open", 1)].into();
        let anchor = Anchor { index: 7, next_seq: 3, head: "ab".into(), dropped, time_ms: 5 };
        batch.anchor = Some(anchor);
        let body: serde_json::Value = serde_json::from_slice(&batch.body(&source)).unwrap();
        assert_eq!((&body["first_seq"], &body["last_seq"]), (&1.into(), &2.into()));
        assert_eq!(body["missing"]["records"], 1);
        assert_eq!(body["records"][1]["object"], "default/zoë");
        assert_eq!((&body["cluster"], &body["anchor"]["next_seq"]), (&"shop".into(), &3.into()));
        let lines = batch.lines(&source);
        let kinds: Vec<&str> = lines.iter().map(|line| line.kind).collect();
        assert_eq!(kinds, ["missing", "policy.put", "policy.put", "anchor"]);
        let anchor: serde_json::Value = serde_json::from_str(&lines[3].json).unwrap();
        assert_eq!(
            (&anchor["anchor"]["head"], &anchor["anchor"]["dropped"]["open"]),
            (&"ab".into(), &1.into())
        );
        assert_eq!(anchor["history"], "0000000000000001");
        assert!(lines.iter().all(|line| !line.json.contains('\n')));
    }
}
