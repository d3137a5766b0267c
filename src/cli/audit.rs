//! `maxine audit verify`: finds a changed, removed or reordered record in an exported audit log.
//!
//! A file alone proves that its records fit each other, and that none is missing between the oldest kept
//! record of each class and the end that its first line names. It cannot prove that the cluster's log had the
//! same end. Whoever can write the file can cut its end off and write a first line that fits, or write the
//! whole chain anew. A second source proves the end: the running cluster (`--cluster`), a head that was
//! written down (`--contains`), or another export.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::client::{ConnectArgs, Request};
use super::exit::CliError;
use super::output::{Output, timestamp};
use maxine_state::{
    AuditAction, AuditClass, AuditLog, AuditOutcome, AuditRecord, decode_rejection,
    encode_rejection,
};

/// Maximum length of an export that is read, in bytes.
const EXPORT_LEN_MAX: u64 = 256 * 1024 * 1024;
/// Arguments of `maxine audit verify`.
#[derive(Debug, Default, Args)]
pub struct VerifyArgs {
    /// Files of 'maxine audit export' to check; without one, a node checks the cluster's log. Several files are also
    /// compared with each other
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A hash that every file must contain, such as a head that you wrote down earlier
    #[arg(long, value_name = "HEX", requires = "files")]
    contains: Option<String>,
    /// Also compare the files with the running cluster, which has a record of every export: this shows whether the
    /// end of a file was cut off
    #[arg(long, requires = "files")]
    cluster: bool,
    /// File with anchors that the nodes have forwarded, one JSON object per line; every file must agree with each of
    /// them. Lines without an anchor are left out, so a forwarded file can be given as it is
    #[arg(long, value_name = "FILE", requires = "files")]
    anchor: Option<PathBuf>,
}

impl VerifyArgs {
    /// Whether files are to be checked, rather than the log of a node.
    #[must_use]
    pub fn checks_files(&self) -> bool {
        !self.files.is_empty()
    }
}

/// A defect of an exported log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A line is not part of an export.
    #[error("line {line} cannot be read: {reason}")]
    Unreadable {
        /// The number of the line, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
    /// A record is missing, or is at another position than before.
    #[error(
        "record {seq} is out of order: record {expected} of class {class} is missing, record {got} is in its place \
         (records were removed or reordered)"
    )]
    OutOfOrder {
        /// Its number in the whole log.
        seq: u64,
        /// Its class.
        class: &'static str,
        /// The number in its class that was expected.
        expected: u64,
        /// The number in its class that the record has.
        got: u64,
    },
    /// A record was changed, or the one before it was.
    #[error("record {seq} was changed: its hash is not the recorded one")]
    Changed {
        /// Its number.
        seq: u64,
    },
    /// Records are missing at the end.
    #[error("records are missing at the end: {records} were exported, the file has {read}")]
    Truncated {
        /// Number of records according to the export's first line.
        records: usize,
        /// Number of records in the file.
        read: usize,
    },
    /// The last hash or the counts of the classes differ from the export's first line.
    #[error("the records do not match the head and the counts in the first line of the export")]
    WrongHead,
}

/// A log whose hashes are correct.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The hash of the newest record.
    pub head: [u8; 32],
    /// Number of records that were ever written.
    pub next_seq: u64,
    /// The hash of each record, by its number.
    pub hashes: BTreeMap<u64, [u8; 32]>,
    /// The same, with the hashes of records that are no longer kept, as far as the next record has them.
    known: BTreeMap<u64, [u8; 32]>,
    /// Number of records that are no longer kept, by class.
    pub dropped: Vec<(&'static str, u64)>,
    /// The earlier exports that are recorded in it: the number of each record, and its text.
    pub exports: Vec<(u64, String)>,
    /// Number of refusals whose text differs from the text of this version. The hashes cover only their
    /// codes.
    pub reworded: usize,
}

impl Verified {
    /// The number of the first record that both logs have and that differs; `None` if there is none.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        let differs = |(seq, own): (&u64, &[u8; 32])| {
            let theirs = other.hashes.get(seq)?;
            (own != theirs).then_some(*seq)
        };
        self.hashes.iter().find_map(differs)
    }

    fn contains(&self, hash: &[u8; 32]) -> bool {
        self.head == *hash || self.hashes.values().any(|own| own == hash)
    }

    /// Compares this log with an anchor. Returns false if that is not possible, because its record is no longer kept.
    /// The error says how the two differ.
    pub fn agrees_with(&self, anchor: &Anchor) -> Result<bool, String> {
        let (next_seq, taken) = (anchor.next_seq, timestamp(anchor.time_ms));
        if next_seq > self.next_seq {
            return Err(format!(
                "the anchor of {taken} is newer: it has {next_seq} records, and the file ends after {}; the end of the \
                 file was cut off, or the file was exported before",
                self.next_seq
            ));
        }
        let known = match next_seq.checked_sub(1) {
            None => Some([0; 32]),
            Some(_) if next_seq == self.next_seq => Some(self.head),
            Some(seq) => self.known.get(&seq).copied(),
        };
        match known {
            Some(known) if known == anchor.head => Ok(true),
            Some(_) => Err(format!(
                "it differs from the anchor of {taken}: one of the first {next_seq} records was changed, or the cluster \
                 was restored from a backup after that"
            )),
            None => Ok(false),
        }
    }

    /// Compares this exported log with the cluster's log. Returns what was found, or an error if the two
    /// differ or cannot be compared.
    pub fn against(&self, cluster: &Self) -> Result<String, String> {
        if let Some(seq) = self.first_difference(cluster) {
            return Err(format!("record {seq} differs from the cluster's"));
        }
        if self.next_seq > cluster.next_seq {
            return Err(format!(
                "it has records up to {}, the cluster only up to {}: the cluster was restored, or the node asked \
                 is behind",
                self.next_seq, cluster.next_seq
            ));
        }
        if !self.hashes.keys().any(|seq| cluster.hashes.contains_key(seq)) {
            return Err(
                "the cluster no longer has any of its records, so nothing can be compared".into()
            );
        }
        if self.head == cluster.head {
            return Ok("it ends where the cluster's log ends".into());
        }
        let head = hex(&self.head);
        match cluster.exports.iter().find(|(_, text)| text.contains(&head)) {
            Some((seq, _)) => {
                Ok(format!("record {seq} of the cluster says that an export ended there"))
            }
            None => Err(format!(
                "the cluster has no record of an export that ended with {head}: its end may have been cut off, \
                 or the record of the export is no longer kept"
            )),
        }
    }
}

/// The end of the log at one moment, as a node has forwarded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Number of records that had ever been written.
    pub next_seq: u64,
    /// The hash of the newest record.
    pub head: [u8; 32],
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: u64,
}

#[derive(Deserialize)]
struct AnchorLine {
    next_seq: u64,
    head: String,
    time_ms: u64,
}

/// The anchors in a text: one JSON object per line, with `anchor` or itself an anchor. What is before the object, such as
/// the head of a syslog message, and lines without an anchor are left out. The error names the line.
pub fn anchors(text: &str) -> Result<Vec<Anchor>, String> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let Some((_, object)) = line.split_once('{') else { continue };
        let bad = |why: &str| format!("line {number} cannot be read: {why}");
        let object: serde_json::Value = maxine_wording::read_json(format!("{{{object}").as_bytes())
            .map_err(|error| bad(&error.text))?;
        let anchor = match object.get("anchor") {
            Some(anchor) => anchor,
            // A record has a number, and what is missing has neither.
            None if object.get("head").is_some() && object.get("seq").is_none() => &object,
            None => continue,
        };
        if anchor.is_null() {
            continue;
        }
        let read: AnchorLine =
            serde_json::from_value(anchor.clone()).map_err(|error| bad(&error.to_string()))?;
        let head =
            unhex_hash(&read.head).ok_or_else(|| bad("a hash must be 64 hexadecimal digits"))?;
        found.push(Anchor { next_seq: read.next_seq, head, time_ms: read.time_ms });
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Head {
    head: String,
    next_seq: u64,
    records: usize,
    classes: Vec<ClassHead>,
}

#[derive(Deserialize)]
struct ClassHead {
    class: AuditClass,
    base: String,
    kept: u64,
    dropped: u64,
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    class: AuditClass,
    class_seq: u64,
    index: u64,
    time_ms: u64,
    user: Box<str>,
    address: Box<str>,
    trace_id: Box<str>,
    via_node: Option<u64>,
    action: Box<str>,
    object: Box<str>,
    outcome: Outcome,
    detail: String,
    refusal: String,
    previous: String,
    hash: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Success,
    Refused,
    Unknown,
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

fn unhex_hash(text: &str) -> Option<[u8; 32]> {
    unhex(text)?.try_into().ok()
}

fn unreadable(line: usize, reason: &str) -> Finding {
    Finding::Unreadable { line, reason: reason.to_owned() }
}

fn hash_of(text: &str, line: usize) -> Result<[u8; 32], Finding> {
    unhex_hash(text).ok_or_else(|| unreadable(line, "a hash must be 64 hexadecimal digits"))
}

/// The outcome in a line. Fails if this version would encode that outcome differently.
fn outcome_of(line: &Line, number: usize) -> Result<AuditOutcome, Finding> {
    match line.outcome {
        Outcome::Success if line.refusal.is_empty() => return Ok(AuditOutcome::Success),
        Outcome::Refused if line.refusal.is_empty() => return Ok(AuditOutcome::Refused(None)),
        Outcome::Unknown if line.refusal.is_empty() => return Ok(AuditOutcome::Unknown),
        Outcome::Success | Outcome::Unknown => {
            return Err(unreadable(number, "only a refused action has a refusal"));
        }
        Outcome::Refused => {}
    }
    let code = unhex(&line.refusal).unwrap_or_default();
    let why = decode_rejection(&code).ok().filter(|why| encode_rejection(why) == code);
    let why = why.ok_or_else(|| {
        unreadable(number, "this version of maxine does not know the code of its refusal")
    })?;
    Ok(AuditOutcome::Refused(Some(Box::new(why))))
}

/// The record in a line, and whether the text of its refusal is that of this version.
fn record_of(text: &str, number: usize) -> Result<(AuditRecord, bool), Finding> {
    let line: Line = maxine_wording::read_json(text.as_bytes())
        .map_err(|error| unreadable(number, &error.text))?;
    let outcome = outcome_of(&line, number)?;
    let action = AuditAction::parse(&line.action)
        .ok_or_else(|| unreadable(number, "this version of maxine does not know its action"))?;
    let detail = match &outcome {
        AuditOutcome::Refused(Some(why)) => why.to_string(),
        AuditOutcome::Refused(None) | AuditOutcome::Success | AuditOutcome::Unknown => {
            String::new()
        }
    };
    let record = AuditRecord {
        seq: line.seq,
        class: line.class,
        class_seq: line.class_seq,
        index: line.index,
        time_ms: line.time_ms,
        user: line.user,
        address: line.address,
        trace_id: line.trace_id,
        via_node: line.via_node,
        action,
        object: line.object,
        outcome,
        previous: hash_of(&line.previous, number)?,
        hash: hash_of(&line.hash, number)?,
    };
    Ok((record, line.detail == detail))
}

/// Checks one export.
pub fn verify(export: &str) -> Result<Verified, Finding> {
    let mut lines = export.lines().zip(1..);
    let (first, _) = lines.next().ok_or_else(|| unreadable(1, "the file is empty"))?;
    let head: Head =
        maxine_wording::read_json(first.as_bytes()).map_err(|error| unreadable(1, &error.text))?;
    let mut log = AuditLog::restore(hash_of(&head.head, 1)?, head.next_seq);
    let mut expected = [0; AuditClass::ALL.len()];
    for class in &head.classes {
        let next_seq = class.dropped.checked_add(class.kept).ok_or(Finding::WrongHead)?;
        log.restore_chain(class.class, hash_of(&class.base, 1)?, next_seq);
        expected[class.class as usize] = class.dropped;
    }
    let dropped = head.classes.iter().map(|c| (c.class.as_str(), c.dropped)).collect();
    let mut verified = Verified {
        head: log.head(),
        next_seq: head.next_seq,
        hashes: BTreeMap::new(),
        known: BTreeMap::new(),
        dropped,
        exports: Vec::new(),
        reworded: 0,
    };
    for (text, number) in lines {
        let (record, same_words) = record_of(text, number)?;
        verified.reworded += usize::from(!same_words);
        let newest = verified.hashes.last_key_value().map(|(seq, _)| *seq);
        let next = &mut expected[record.class as usize];
        if record.class_seq != *next || newest.is_some_and(|newest| record.seq <= newest) {
            let (seq, class, got) = (record.seq, record.class.as_str(), record.class_seq);
            return Err(Finding::OutOfOrder { seq, class, expected: *next, got });
        }
        *next += 1;
        verified.hashes.insert(record.seq, record.hash);
        verified.known.insert(record.seq, record.hash);
        if let Some(before) = record.seq.checked_sub(1) {
            verified.known.insert(before, record.previous);
        }
        if record.action == AuditAction::AuditExport {
            verified.exports.push((record.seq, record.object.to_string()));
        }
        log.restore_record(record);
    }
    let read = verified.hashes.len();
    if read != head.records {
        return Err(Finding::Truncated { records: head.records, read });
    }
    match log.verify() {
        Ok(()) => Ok(verified),
        Err(seq) if verified.hashes.contains_key(&seq) => Err(Finding::Changed { seq }),
        Err(_) => Err(Finding::WrongHead),
    }
}

/// Checks files, each by itself, all against each other, and against the cluster if requested.
///
/// # Errors
/// See [`CliError`]. All defects are reported first; then the first one is returned.
pub async fn verify_files(
    connect: &ConnectArgs,
    args: &VerifyArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let not_a_hash = || CliError::Usage("--contains must be 64 hexadecimal digits".into());
    let contains = args.contains.as_deref().map(|text| unhex_hash(text).ok_or_else(not_a_hash));
    let contains = contains.transpose()?;
    let cluster = if args.cluster { Some(of_cluster(connect).await?) } else { None };
    let anchors = args.anchor.as_deref().map(read_anchors).transpose()?;
    let mut good: Vec<(String, Verified)> = Vec::new();
    let mut faults = Vec::new();
    for path in &args.files {
        let name = path.display().to_string();
        let log = match verify(&read(path)?) {
            Ok(log) => log,
            Err(finding) => {
                faults.push(format!("{name}: {finding}"));
                continue;
            }
        };
        if let Some(hash) = contains
            && !log.contains(&hash)
        {
            faults.push(format!("{name}: it does not contain the hash {}", hex(&hash)));
        }
        for (other, known) in &good {
            if let Some(seq) = log.first_difference(known) {
                faults.push(format!("{name}: record {seq} differs from {other}"));
            }
        }
        let compared = cluster.as_ref().map(|cluster| log.against(cluster));
        if let Some(Err(why)) = &compared {
            faults.push(format!("{name}: {why}"));
        }
        let anchored = anchors.as_ref().map(|anchors| {
            let (agreed, differing) = against_anchors(&log, anchors);
            faults.extend(differing.into_iter().map(|why| format!("{name}: {why}")));
            (agreed, anchors.len())
        });
        show(&name, &log, compared, anchored, out)?;
        good.push((name, log));
    }
    if faults.is_empty() { Ok(()) } else { Err(CliError::Failed(faults.join("\n"))) }
}

/// How many anchors a log agrees with, and what does not fit.
fn against_anchors(log: &Verified, anchors: &[Anchor]) -> (usize, Vec<String>) {
    let (mut agreed, mut faults) = (0, Vec::new());
    for anchor in anchors {
        match log.agrees_with(anchor) {
            Ok(true) => agreed += 1,
            Ok(false) => {}
            Err(why) => faults.push(why),
        }
    }
    if agreed == 0 && faults.is_empty() {
        faults.push("no anchor can be checked, because none of their records is kept".into());
    }
    (agreed, faults)
}

fn read_anchors(path: &Path) -> Result<Vec<Anchor>, CliError> {
    let failed = |why: String| CliError::Usage(format!("{}: {why}", path.display()));
    let anchors = anchors(&read(path)?).map_err(failed)?;
    if anchors.is_empty() { Err(failed("it has no anchors".into())) } else { Ok(anchors) }
}

fn show(
    name: &str,
    log: &Verified,
    compared: Option<Result<String, String>>,
    anchored: Option<(usize, usize)>,
    out: &mut Output,
) -> Result<(), CliError> {
    let (records, head) = (log.hashes.len(), hex(&log.head));
    let left = log.dropped.iter().filter(|(_, n)| *n > 0).map(|(class, n)| format!("{n} {class}"));
    let left: Vec<String> = left.collect();
    let left = if left.is_empty() { "none".into() } else { left.join(", ") };
    let proof = match &compared {
        Some(Ok(compared)) => compared.as_str(),
        Some(Err(_)) => "it does not agree with the cluster",
        None => {
            "a file alone cannot prove that its end was not cut off: compare it with the cluster (--cluster) or with a \
             head that you wrote down (--contains)"
        }
    };
    let next_seq = log.next_seq;
    let reworded = match log.reworded {
        0 => String::new(),
        count => format!(
            "\n{name}: refusals worded otherwise than by this version: {count}; the hashes cover the codes of \
             refusals (refusal), not their texts (detail)"
        ),
    };
    let checked = maxine_wording::count(records, "record");
    let agrees = match anchored {
        Some((agreed, all)) => format!("\n{name}: it agrees with {agreed} of {all} anchors"),
        None => String::new(),
    };
    let text = format!(
        "{name}: {checked} of {next_seq} checked and correct; removed for room or age: {left}; head {head}\n{name}: {proof}{agrees}{reworded}"
    );
    let mut json = serde_json::json!({
        "file": name, "records": records, "next_seq": next_seq, "head": head,
        "dropped": log.dropped.iter().copied().collect::<BTreeMap<_, _>>(), "compared": compared.as_ref().and_then(|agreed| agreed.as_ref().ok()),
        "reworded": log.reworded,
    });
    if let Some((agreed, all)) = anchored {
        json["anchors"] = serde_json::json!({"checked": all, "agree": agreed});
    }
    out.done(&json, text)
}

/// The cluster's own log, checked.
async fn of_cluster(connect: &ConnectArgs) -> Result<Verified, CliError> {
    let failed = |error: &dyn std::fmt::Display| {
        CliError::Failed(format!("the cluster's own audit log: {error}"))
    };
    let mut response = connect.client()?.stream(&Request::get(&["audit", "export"])).await?;
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        text.extend_from_slice(&chunk);
        if text.len() as u64 > EXPORT_LEN_MAX {
            return Err(failed(&format!("it is longer than {EXPORT_LEN_MAX} bytes")));
        }
    }
    let text = String::from_utf8(text).map_err(|error| failed(&error))?;
    verify(&text).map_err(|finding| failed(&finding))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Blocks, which is fine for a command that does nothing else meanwhile.
fn read(path: &Path) -> Result<String, CliError> {
    maxine_files::read_text_up_to(path, EXPORT_LEN_MAX).map_err(|error| {
        CliError::Usage(format!("{}: {}", path.display(), maxine_wording::io(&error)))
    })
}
