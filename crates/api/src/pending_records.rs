//! Audit records that wait until the cluster accepts writes. They are stored in a file, so that a restart loses none.
//!
//! Place in the flow: [`super::AuditRelay`] adds records, and writes them to the log one after the other. A record is
//! removed from the file only when it is in the log. Its request id is stored with it, so that a record with an unknown
//! outcome is written only once. Equal records become one record with a count, so that a client that repeats a request
//! often does not fill the file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::recorded::Recorded;
use maxine_state::{Actor, AuditAction, Command, RequestId};

/// Maximum number of waiting records.
pub(super) const RECORDS_MAX: usize = 256;
/// Maximum length of the file, in bytes. [`RECORDS_MAX`] records need less.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// A waiting record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingRecord {
    /// The request id with which the record is written, in hexadecimal.
    request_id: String,
    user: Box<str>,
    address: Box<str>,
    /// The trace id of the first request.
    trace_id: Box<str>,
    action: AuditAction,
    object: Box<str>,
    success: bool,
    /// Whether the outcome is not known; `success` is false then, so that an older version takes it as a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unknown: bool,
    /// A hash of the request's idempotency key. It identifies the request if its client repeats it.
    key: Option<u64>,
    /// How often it happened.
    count: u64,
    /// When it happened first, in milliseconds since 1970. The record in the log gets the time at which it is written.
    first_ms: u64,
    /// When it happened last, in milliseconds since 1970.
    last_ms: u64,
}

impl PendingRecord {
    /// The actor, the request id and the command with which the record is written to the log of a state of this
    /// version.
    pub(super) fn command(&self, state_version: u32) -> (Actor, RequestId, Command) {
        let (what, first, last) = (&self.object, at(self.first_ms), at(self.last_ms));
        let object = match self.count {
            0 | 1 => format!("{what}, at {first}").into(),
            count => format!("{what}, {count} times, from {first} to {last}").into(),
        };
        let actor = Actor {
            user: self.user.clone(),
            address: self.address.clone(),
            trace_id: self.trace_id.clone(),
            via_node: None,
        };
        let request_id = u128::from_str_radix(&self.request_id, 16).unwrap_or_default();
        let command = self.outcome().command(self.action, object, state_version);
        (actor, RequestId(request_id), command)
    }

    fn outcome(&self) -> Recorded {
        match (self.unknown, self.success) {
            (true, _) => Recorded::Unknown,
            (false, success) => success.into(),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        let what = |record: &Self| {
            let Self { user, address, action, object, .. } = record.clone();
            (user, address, action, object, record.outcome())
        };
        what(self) == what(other)
    }
}

/// A time as text.
fn at(time_ms: u64) -> String {
    let time = i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[derive(Default)]
struct Inner {
    records: Vec<PendingRecord>,
    /// Whether the first record is being written. It may be in the log already, so its count must not change any more.
    is_writing: bool,
}

/// The waiting records.
pub(super) struct PendingRecords {
    /// The file. `None` if the records are kept in memory only.
    file: Option<PathBuf>,
    inner: Mutex<Inner>,
    /// Locked while the file is written.
    saving: Mutex<()>,
}

/// The result of adding a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// The record waits. Nothing is being written, so the caller must begin.
    Begin,
    /// The record waits behind others that are being written.
    Waits,
    /// There are too many waiting records.
    NoRoom,
}

impl PendingRecords {
    /// Reads the records of an earlier run. An error means that the file could not be read and that its records are
    /// lost.
    pub(super) fn open(file: Option<PathBuf>) -> (Self, io::Result<()>) {
        let read = file.as_deref().map_or_else(|| Ok(Vec::new()), read);
        let (records, outcome) = match read {
            Ok(records) => (records, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let inner = Mutex::new(Inner { records, is_writing: false });
        (Self { file, inner, saving: Mutex::new(()) }, outcome)
    }

    /// Adds a record, or adds it to the count of an equal one. A repeat of the same request, by its `key`, is not
    /// counted again.
    pub(super) fn add(
        &self,
        actor: Actor,
        action: AuditAction,
        object: Box<str>,
        outcome: Recorded,
        key: Option<&[u8]>,
        now_ms: u64,
    ) -> Added {
        let record = PendingRecord {
            request_id: format!("{:032x}", rand::random::<u128>()),
            user: actor.user,
            address: actor.address,
            trace_id: actor.trace_id,
            action,
            object,
            success: outcome == Recorded::Success,
            unknown: outcome == Recorded::Unknown,
            key: key.map(xxh3_64),
            count: 1,
            first_ms: now_ms,
            last_ms: now_ms,
        };
        let mut inner = self.inner.lock();
        let is_repeat = |other: &PendingRecord| other.key == record.key && other.is_like(&record);
        if record.key.is_some() && inner.records.iter().any(is_repeat) {
            return if inner.is_writing { Added::Waits } else { Added::Begin };
        }
        let in_flight = usize::from(inner.is_writing);
        let mut waiting = inner.records.iter().skip(in_flight);
        let equal = waiting.position(|other| other.is_like(&record));
        let has_no_room = inner.records.len() >= RECORDS_MAX;
        match equal.and_then(|at| inner.records.get_mut(in_flight + at)) {
            Some(equal) => {
                equal.count = equal.count.saturating_add(1);
                equal.last_ms = now_ms;
            }
            None if has_no_room => return Added::NoRoom,
            None => inner.records.push(record),
        }
        if inner.is_writing { Added::Waits } else { Added::Begin }
    }

    /// Takes the first record for writing. `None` if there is none, or if one is being written already.
    pub(super) fn begin(&self) -> Option<PendingRecord> {
        let mut inner = self.inner.lock();
        let first = inner.records.first().cloned().filter(|_| !inner.is_writing)?;
        inner.is_writing = true;
        Some(first)
    }

    /// Removes the first record, which is in the log now, and takes the next one.
    pub(super) fn written(&self) -> Option<PendingRecord> {
        let mut inner = self.inner.lock();
        if inner.is_writing && !inner.records.is_empty() {
            inner.records.remove(0);
        }
        let next = inner.records.first().cloned();
        inner.is_writing = next.is_some();
        next
    }

    /// Writes the file. This blocks the thread.
    pub(super) fn save(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let _one = self.saving.lock();
        let records = self.inner.lock().records.clone();
        if records.is_empty() {
            return match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let draft = file.with_extension("new");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        out.write_all(&serde_json::to_vec(&records)?)?;
        out.sync_all()?;
        fs::rename(&draft, file)
    }
}

fn read(file: &Path) -> io::Result<Vec<PendingRecord>> {
    let opened = match maxine_files::open(OpenOptions::new().read(true), file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    opened.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    let mut records: Vec<PendingRecord> = serde_json::from_slice(&bytes)?;
    records.truncate(RECORDS_MAX);
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn actor(address: &str) -> Actor {
        let user = "break-glass:node-1".into();
        Actor { user, address: address.into(), trace_id: "t".into(), via_node: None }
    }

    fn add(pending: &PendingRecords, actor: Actor, object: Box<str>) -> Added {
        let outcome = Recorded::Success;
        pending.add(actor, AuditAction::BreakGlassUse, object, outcome, None, 1_795_440_992_705)
    }

    /// A client that repeats one request until there is a leader has used the token once.
    #[test]
    fn repeats_of_one_request_are_one_record_for_each_outcome() {
        let (pending, _) = PendingRecords::open(None);
        let add = |key: &str, object: &str, success: bool| {
            let (actor, key) = (actor("a"), Some(key.as_bytes()));
            pending.add(
                actor,
                AuditAction::BreakGlassUse,
                object.into(),
                success.into(),
                key,
                1_795_440_992_705,
            )
        };
        assert_eq!(add("k1", "PATCH /x, answered 503", false), Added::Begin);
        let first = pending.begin().unwrap();
        assert_eq!(add("k1", "PATCH /x, answered 503", false), Added::Waits);
        assert_eq!(add("k1", "PATCH /x, answered 200", true), Added::Waits);
        assert_eq!(add("k1", "PATCH /x, answered 200", true), Added::Waits);
        let items = |record: PendingRecord| match record.command(2) {
            (_, _, Command::RecordAudit { items }) => items,
            other => panic!("{other:?}"),
        };
        let record = |what: &str, success| {
            let object = format!("{what}, at 2026-11-23T13:36:32.705Z").into();
            vec![(AuditAction::BreakGlassUse, object, success)]
        };
        assert_eq!(items(first), record("PATCH /x, answered 503", false));
        assert_eq!(items(pending.written().unwrap()), record("PATCH /x, answered 200", true));
        assert_eq!(pending.written(), None);
        // Another request is another use.
        assert_eq!(add("k2", "PATCH /x, answered 200", true), Added::Begin);
    }

    #[test]
    fn an_unknown_outcome_is_kept_and_is_a_refusal_while_the_state_has_version_1() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pending-audit");
        let (pending, _) = PendingRecords::open(Some(file.clone()));
        let action = AuditAction::MemberRemove;
        for outcome in [Recorded::Unknown, Recorded::Refused] {
            pending.add(actor("a"), action, "3".into(), outcome, None, 1_795_440_992_705);
        }
        pending.save().unwrap();
        let (pending, read) = PendingRecords::open(Some(file));
        read.unwrap();
        let record = pending.begin().unwrap();
        let object: Box<str> = "3, at 2026-11-23T13:36:32.705Z".into();
        let items = vec![(action, object.clone(), false)];
        assert_eq!(record.command(1).2, Command::RecordAudit { items: items.clone() });
        let unknown = vec![(action, object)];
        assert_eq!(record.command(2).2, Command::RecordUnknown { items: unknown });
        let refused = pending.written().expect("another outcome is another record");
        assert_eq!(refused.command(2).2, Command::RecordAudit { items });
    }

    #[test]
    fn waiting_records_are_counted_bounded_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pending-audit");
        let (pending, read) = PendingRecords::open(Some(file.clone()));
        read.unwrap();
        assert_eq!(add(&pending, actor("a"), "GET /x".into()), Added::Begin);
        let first = pending.begin().unwrap();
        for _ in 0..3 {
            assert_eq!(add(&pending, actor("a"), "GET /x".into()), Added::Waits);
        }
        pending.save().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        // The first record may be in the log, so it is not changed, and the others are counted separately.
        let (again, read) = PendingRecords::open(Some(file.clone()));
        read.unwrap();
        assert_eq!(again.begin(), Some(first));
        assert_eq!(again.begin(), None, "one after the other");
        let (_, _, command) = again.written().unwrap().command(2);
        let items = vec![(
            AuditAction::BreakGlassUse,
            "GET /x, 3 times, from 2026-11-23T13:36:32.705Z to 2026-11-23T13:36:32.705Z".into(),
            true,
        )];
        assert_eq!(command, Command::RecordAudit { items });
        assert_eq!(again.written(), None);
        again.save().unwrap();
        assert!(!file.exists());

        for n in 0..RECORDS_MAX {
            assert_ne!(add(&again, actor(&n.to_string()), "o".into()), Added::NoRoom);
        }
        assert_eq!(add(&again, actor("one more"), "o".into()), Added::NoRoom);
        assert_ne!(add(&again, actor("7"), "o".into()), Added::NoRoom, "an equal one is counted");
        again.save().unwrap();
        assert!(fs::metadata(&file).unwrap().len() < FILE_LEN_MAX);
        fs::write(&file, "not records").unwrap();
        PendingRecords::open(Some(file)).1.unwrap_err();
    }
}
