//! The state as a snapshot in Redis: parts in a list of their own, and a manifest that names them.
//!
//! A snapshot counts from the moment its manifest names it; the log is trimmed in that same step,
//! and only behind it. So a reader finds either the entry that it wants or a snapshot past it.

use std::io::Read;
use std::time::Duration;

use redis::{RedisError, Value, cmd};

use super::config::Keys;
use super::connect::Link;
use super::replica::{Nonce, Position};
use super::scripts;
use crate::state::ControlState;

/// Size of one part.
const PART_LEN: usize = 1024 * 1024;
/// Largest snapshot that is written or read.
const SNAPSHOT_LEN_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// How long parts stay that nobody published.
const UNPUBLISHED_MS: u64 = 600_000;

/// A snapshot that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotFailure {
    /// Redis did not do it.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It was replaced by a newer one while it was read.
    #[error("the snapshot was replaced in the meantime")]
    Replaced,
    /// It is damaged.
    #[error("the snapshot in redis is damaged: {0}")]
    Damaged(String),
}

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) position: Position,
    id: String,
    parts: u64,
    len: u64,
    crc: u32,
}

/// A state, encoded.
pub(super) struct Encoded {
    parts: Vec<Vec<u8>>,
    len: u64,
    crc: u32,
}

/// Encodes a state into parts; not for a runtime thread.
pub(super) fn encode(state: &ControlState) -> std::io::Result<Encoded> {
    struct Parts(Encoded);
    impl std::io::Write for Parts {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let Self(out) = self;
            if out.parts.last().is_none_or(|part| part.len() == PART_LEN) {
                out.parts.push(Vec::with_capacity(PART_LEN));
            }
            let Some(part) = out.parts.last_mut() else { return Ok(0) };
            let take = bytes.len().min(PART_LEN - part.len());
            part.extend_from_slice(&bytes[..take]);
            out.crc = crc32c::crc32c_append(out.crc, &bytes[..take]);
            out.len += take as u64;
            Ok(take)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut out = Parts(Encoded { parts: Vec::new(), len: 0, crc: 0 });
    state.write_to(&mut out)?;
    Ok(out.0)
}

/// What the present snapshot is, if there is one.
pub(super) async fn manifest(
    link: &mut Link,
    keys: &Keys,
    timeout: Duration,
) -> Result<Option<Manifest>, SnapshotFailure> {
    let mut command = cmd("HMGET");
    command.arg(&keys.snapshot).arg(&["epoch", "seq", "nonce", "id", "parts", "len", "crc"]);
    let fields: Vec<Option<Vec<u8>>> = link.query(&command, timeout).await?;
    if fields.iter().all(Option::is_none) {
        return Ok(None);
    }
    parse(&fields)
        .map(Some)
        .ok_or_else(|| SnapshotFailure::Damaged(String::from("its manifest is not whole")))
}

fn parse(fields: &[Option<Vec<u8>>]) -> Option<Manifest> {
    let text = |i: usize| String::from_utf8(fields.get(i)?.clone()?).ok();
    let number = |i: usize| text(i)?.parse::<u64>().ok();
    let nonce: Nonce = fields.get(2)?.as_deref()?.try_into().ok()?;
    Some(Manifest {
        position: Position { epoch: text(0)?, seq: number(1)?, nonce },
        id: text(3)?,
        parts: number(4)?,
        len: number(5)?,
        crc: u32::try_from(number(6)?).ok()?,
    })
}

/// Reads the snapshot that the manifest names.
pub(super) async fn read(
    link: &mut Link,
    keys: &Keys,
    manifest: &Manifest,
    timeout: Duration,
) -> Result<ControlState, SnapshotFailure> {
    if manifest.len > SNAPSHOT_LEN_MAX {
        return Err(SnapshotFailure::Damaged(format!("{} bytes are too many", manifest.len)));
    }
    let mut parts = Vec::new();
    for i in 0..manifest.parts {
        let mut command = cmd("LINDEX");
        command.arg(keys.snapshot_data(&manifest.id)).arg(i);
        let part: Option<Vec<u8>> = link.query(&command, timeout).await?;
        parts.push(part.ok_or(SnapshotFailure::Replaced)?);
    }
    let (len, crc) = (manifest.len, manifest.crc);
    let decode = move || decode(&parts, len, crc);
    let state = tokio::task::spawn_blocking(decode).await;
    state.map_err(|error| SnapshotFailure::Damaged(error.to_string()))?
}

fn decode(parts: &[Vec<u8>], len: u64, crc: u32) -> Result<ControlState, SnapshotFailure> {
    let found: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let sum = parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part));
    if found != len || sum != crc {
        let text = format!("{found} of {len} bytes, checksum {sum:08x} instead of {crc:08x}");
        return Err(SnapshotFailure::Damaged(text));
    }
    struct Chain<'a>(&'a [Vec<u8>], usize);
    impl Read for Chain<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            while let [first, rest @ ..] = self.0 {
                let mut left = &first[self.1..];
                if left.is_empty() {
                    *self = Self(rest, 0);
                    continue;
                }
                let read = left.read(out)?;
                self.1 += read;
                return Ok(read);
            }
            Ok(0)
        }
    }
    ControlState::read_from(&mut Chain(parts, 0))
        .map_err(|error| SnapshotFailure::Damaged(error.to_string()))
}

/// Uploads an encoded state; it is named by nobody yet.
pub(super) async fn upload(
    link: &mut Link,
    keys: &Keys,
    encoded: &Encoded,
    timeout: Duration,
) -> Result<Manifest, RedisError> {
    let id = format!("{:032x}", rand::random::<u128>());
    let key = keys.snapshot_data(&id);
    for part in &encoded.parts {
        let mut pipeline = redis::pipe();
        pipeline.cmd("RPUSH").arg(&key).arg(part.as_slice());
        pipeline.cmd("PEXPIRE").arg(&key).arg(UNPUBLISHED_MS);
        for answer in link.query_all(&pipeline, 2, timeout).await? {
            if let Value::ServerError(error) = answer {
                return Err(error.into());
            }
        }
    }
    Ok(Manifest {
        position: Position::default(),
        id,
        parts: encoded.parts.len() as u64,
        len: encoded.len,
        crc: encoded.crc,
    })
}

/// Makes an uploaded snapshot the present one and trims the log behind it. Returns the script's
/// word: `OK`, or why not.
pub(super) async fn publish(
    link: &mut Link,
    keys: &Keys,
    uploaded: &Manifest,
    position: &Position,
    keep_entries: u64,
    lease: &str,
    timeout: Duration,
) -> Result<String, RedisError> {
    let keep_from = (position.seq + 1).saturating_sub(keep_entries).max(1);
    let data = keys.snapshot_data(&uploaded.id);
    let all = [&*keys.head, &*keys.log, &*keys.snapshot, &*data, &*keys.leader];
    let numbers = [
        position.seq.to_string(),
        uploaded.parts.to_string(),
        uploaded.len.to_string(),
        uploaded.crc.to_string(),
        keep_from.to_string(),
    ];
    let parts_prefix = keys.snapshot_data("");
    let args: [&[u8]; 10] = [
        position.epoch.as_bytes(),
        numbers[0].as_bytes(),
        &position.nonce,
        uploaded.id.as_bytes(),
        numbers[1].as_bytes(),
        numbers[2].as_bytes(),
        numbers[3].as_bytes(),
        numbers[4].as_bytes(),
        lease.as_bytes(),
        parts_prefix.as_bytes(),
    ];
    scripts::PUBLISH_SNAPSHOT.run(link, &all, &args, timeout).await
}

/// Puts a whole state in the place of an empty log, or of the one at `replaces`. Returns whether
/// it did.
pub(super) async fn install(
    link: &mut Link,
    keys: &Keys,
    uploaded: &Manifest,
    position: &Position,
    replaces: &Position,
    timeout: Duration,
) -> Result<bool, RedisError> {
    let data = keys.snapshot_data(&uploaded.id);
    let all = [&*keys.head, &*keys.log, &*keys.snapshot, &*data];
    let numbers = [
        position.seq.to_string(),
        uploaded.parts.to_string(),
        uploaded.len.to_string(),
        uploaded.crc.to_string(),
        replaces.seq.to_string(),
    ];
    let args: [&[u8]; 9] = [
        position.epoch.as_bytes(),
        numbers[0].as_bytes(),
        &position.nonce,
        uploaded.id.as_bytes(),
        numbers[1].as_bytes(),
        numbers[2].as_bytes(),
        numbers[3].as_bytes(),
        replaces.epoch.as_bytes(),
        numbers[4].as_bytes(),
    ];
    scripts::INSTALL.run(link, &all, &args, timeout).await
}
