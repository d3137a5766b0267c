//! `maxine audit verify`: finds a changed, removed or reordered record in an exported audit log.
//!
//! The chain of hashes proves that records fit each other. That nobody wrote the whole chain anew
//! is proved by a second source: another node, an older export, or a head that was written down.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::exit::CliError;
use super::output::Output;
use crate::state::{AuditOutcome, AuditRecord};
use crate::words;

/// Largest export that is read, in bytes.
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
}

impl VerifyArgs {
    /// Whether files are to be checked, and no node needs to be asked.
    #[must_use]
    pub fn names_files(&self) -> bool {
        !self.files.is_empty()
    }
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// The export is not one.
    #[error("line {line} cannot be read: {reason}")]
    Unreadable {
        /// Which line, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A record is missing, or stands elsewhere than it stood.
    #[error(
        "record {expected} is missing; record {got} is in its place (records were removed or reordered)"
    )]
    OutOfOrder {
        /// The number that comes next.
        expected: u64,
        /// The number that came.
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
        /// How many the export says it has.
        records: usize,
        /// How many it has.
        read: usize,
    },
    /// The last hash is not what the export says.
    #[error("the hash of the last record is not the head in the first line of the export")]
    WrongHead,
}

/// A log whose chain holds.
#[derive(Debug)]
pub struct Verified {
    /// The number of its first record.
    pub first_seq: u64,
    /// The hash before its first record.
    pub base: [u8; 32],
    /// The hash of each record.
    pub hashes: Vec<[u8; 32]>,
}

impl Verified {
    /// The newest hash.
    #[must_use]
    pub fn head(&self) -> [u8; 32] {
        self.hashes.last().copied().unwrap_or(self.base)
    }

    fn hash_at(&self, seq: u64) -> Option<&[u8; 32]> {
        let at = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        self.hashes.get(at)
    }

    /// The first record that differs between two logs, if any that both have does.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        let start = self.first_seq.max(other.first_seq);
        (start..)
            .map_while(|seq| Some((seq, self.hash_at(seq)?, other.hash_at(seq)?)))
            .find_map(|(seq, own, theirs)| (own != theirs).then_some(seq))
    }
}

#[derive(Deserialize)]
struct Head {
    base: String,
    head: String,
    first_seq: u64,
    records: usize,
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    index: u64,
    time_ms: u64,
    user: Box<str>,
    address: Box<str>,
    trace_id: Box<str>,
    action: Box<str>,
    object: Box<str>,
    outcome: Outcome,
    detail: Box<str>,
    hash: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Success,
    Refused,
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

/// Checks one export.
pub fn verify(export: &str) -> Result<Verified, Finding> {
    let unreadable =
        |line: usize, reason: &str| Finding::Unreadable { line, reason: reason.to_owned() };
    let mut lines = export.lines().zip(1..);
    let (first, _) = lines.next().ok_or_else(|| unreadable(1, "the file is empty"))?;
    let head: Head =
        words::read_json(first.as_bytes()).map_err(|error| unreadable(1, &error.text))?;
    let hash = |text: &str, line| {
        unhex(text).ok_or_else(|| unreadable(line, "a hash must be 64 hexadecimal digits"))
    };
    let base = hash(&head.base, 1)?;
    let mut verified = Verified { first_seq: head.first_seq, base, hashes: Vec::new() };
    for (text, number) in lines {
        let line: Line =
            words::read_json(text.as_bytes()).map_err(|error| unreadable(number, &error.text))?;
        let expected = head.first_seq + verified.hashes.len() as u64;
        if line.seq != expected {
            return Err(Finding::OutOfOrder { expected, got: line.seq });
        }
        let record = AuditRecord {
            seq: line.seq,
            index: line.index,
            time_ms: line.time_ms,
            user: line.user,
            address: line.address,
            trace_id: line.trace_id,
            action: line.action,
            object: line.object,
            outcome: match line.outcome {
                Outcome::Success => AuditOutcome::Success,
                Outcome::Refused => AuditOutcome::Refused,
            },
            detail: line.detail,
            hash: hash(&line.hash, number)?,
        };
        if record.expected_hash(&verified.head()) != record.hash {
            return Err(Finding::Changed { seq: record.seq });
        }
        verified.hashes.push(record.hash);
    }
    let read = verified.hashes.len();
    if read != head.records {
        return Err(Finding::Truncated { records: head.records, read });
    }
    if verified.head() != hash(&head.head, 1)? {
        return Err(Finding::WrongHead);
    }
    Ok(verified)
}

/// Checks files, each by itself and all against each other.
///
/// # Errors
/// See [`CliError`]; the first fault ends it after all were told.
pub async fn verify_files(args: &VerifyArgs, out: &mut Output) -> Result<(), CliError> {
    let not_a_hash = || CliError::Failed("--contains must be 64 hexadecimal digits".into());
    let contains = args.contains.as_deref().map(|text| unhex(text).ok_or_else(not_a_hash));
    let contains = contains.transpose()?;
    let mut good: Vec<(String, Verified)> = Vec::new();
    let mut faults = Vec::new();
    for path in &args.files {
        let name = path.display().to_string();
        let log = match verify(&read(path).await?) {
            Ok(log) => log,
            Err(finding) => {
                faults.push(format!("{name}: {finding}"));
                continue;
            }
        };
        if let Some(hash) = contains
            && log.base != hash
            && !log.hashes.contains(&hash)
        {
            faults.push(format!("{name}: it does not contain the hash {}", hex(&hash)));
        }
        for (other, known) in &good {
            if let Some(seq) = log.first_difference(known) {
                faults.push(format!("{name}: record {seq} differs from {other}"));
            }
        }
        let (records, head) = (log.hashes.len(), hex(&log.head()));
        let text = format!(
            "{name}: {records} records are correct, from record {} on; head {head}",
            log.first_seq
        );
        let json = serde_json::json!({
            "file": name, "records": records, "first_seq": log.first_seq, "head": head,
        });
        out.done(&json, text)?;
        good.push((name, log));
    }
    if faults.is_empty() { Ok(()) } else { Err(CliError::Failed(faults.join("\n"))) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn read(path: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| {
        CliError::Failed(format!("{}: {}", path.display(), words::io(&error)))
    };
    let len = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if len > EXPORT_LEN_MAX {
        let text = format!("{} is {len} bytes long, the limit is {EXPORT_LEN_MAX}", path.display());
        return Err(CliError::Failed(text));
    }
    tokio::fs::read_to_string(path).await.map_err(failed)
}
