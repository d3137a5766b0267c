//! Reading the log: the head, pages of entries, and the rebuilding of a state from the snapshot
//! and what comes after it. Holds no state of its own.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, cmd};

use super::config::Keys;
use super::connect::Link;
use super::replica::{Entry, Nonce, Position, Rebuilt, Refusal};
use super::scripts;
use super::snapshot::{self, SnapshotFailure};
use crate::state::{CodecError, ControlState};

/// Most entries read at once.
pub(super) const PAGE_ENTRIES_MAX: usize = 256;
/// The nonce before the first entry.
const FIRST: Nonce = [0; 16];
/// How often a rebuild starts again because the snapshot was replaced under it.
const REBUILD_ATTEMPTS_MAX: u32 = 5;

/// An id with its fields, as Redis gives them.
type RawEntry = (String, Vec<Vec<u8>>);
/// A key with its entries.
type RawStream = (String, Vec<RawEntry>);

/// Why a state could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebuildError {
    /// Redis did not answer, or said no.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Entries are missing between the snapshot and the log, or one is not what it should be.
    #[error("the log in redis is damaged: {0}")]
    Damaged(String),
    /// An entry of a newer version.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Where the log ends; `None` where there is no log.
pub(super) async fn head(
    link: &mut Link,
    keys: &Keys,
    timeout: Duration,
) -> RedisResult<Option<Position>> {
    let mut command = cmd("HMGET");
    command.arg(&keys.head).arg(&["epoch", "seq", "nonce"]);
    let fields: (Option<String>, Option<String>, Option<Vec<u8>>) =
        link.query(&command, timeout).await?;
    let (Some(epoch), Some(seq), Some(nonce)) = fields else { return Ok(None) };
    match (seq.parse(), nonce.try_into()) {
        (Ok(seq), Ok(nonce)) => Ok(Some(Position { epoch, seq, nonce })),
        _ => Err(malformed("the head of the log is not one")),
    }
}

/// Makes an empty log where there is none. What is left of one that lost its head, or belongs to
/// somebody else, is not touched.
pub(super) async fn create(link: &mut Link, keys: &Keys, timeout: Duration) -> RedisResult<()> {
    let epoch = format!("{:016x}", rand::random::<u64>());
    let args: [&[u8]; 2] = [epoch.as_bytes(), &FIRST];
    let all = [&*keys.head, &*keys.log, &*keys.snapshot];
    let done: i64 = scripts::CREATE.run(link, &all, &args, timeout).await?;
    if done < 0 {
        return Err(malformed(HEADLESS));
    }
    Ok(())
}

/// Waits up to `block_ms` for entries after `seq`.
pub(super) async fn follow(
    link: &mut Link,
    keys: &Keys,
    seq: u64,
    block_ms: u64,
    timeout: Duration,
) -> RedisResult<Vec<Entry>> {
    let mut command = cmd("XREAD");
    command.arg("COUNT").arg(PAGE_ENTRIES_MAX);
    if block_ms > 0 {
        command.arg("BLOCK").arg(block_ms);
    }
    command.arg("STREAMS").arg(&keys.log).arg(format!("{seq}-0"));
    let wait = Duration::from_millis(block_ms) + timeout;
    let streams: Option<Vec<RawStream>> = link.query(&command, wait).await?;
    let raw = streams.into_iter().flatten().flat_map(|(_, entries)| entries);
    raw.map(parse).collect()
}

fn parse((id, fields): RawEntry) -> RedisResult<Entry> {
    let whole = || -> Option<Entry> {
        let seq = id.strip_suffix("-0")?.parse().ok()?;
        let mut found = (None, None, None);
        for pair in fields.chunks_exact(2) {
            match pair[0].as_slice() {
                b"n" => found.0 = Some(Nonce::try_from(pair[1].as_slice()).ok()?),
                b"p" => found.1 = Some(Nonce::try_from(pair[1].as_slice()).ok()?),
                b"b" => found.2 = Some(pair[1].as_slice().into()),
                _ => {}
            }
        }
        Some(Entry { seq, nonce: found.0?, previous: found.1?, payload: found.2? })
    };
    whole().ok_or_else(|| malformed("an entry of the log is not one of Maxine's"))
}

/// Why no log is made where there is something already.
pub(super) const HEADLESS: &str = "the log's head is missing although its entries or its snapshot \
     are there; a node that remembers the state puts it back, to start empty delete them";

fn malformed(text: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, text))
}

/// Whether an error came from [`head`] or [`follow`] finding something that is not a log.
pub(super) fn is_malformed(error: &RedisError) -> bool {
    error.kind() == ErrorKind::UnexpectedReturnType
}

/// Builds the state at the log's present end from the snapshot and the entries after it.
pub(super) async fn rebuild(
    link: &mut Link,
    keys: &Keys,
    timeout: Duration,
) -> Result<Rebuilt, RebuildError> {
    for _ in 0..REBUILD_ATTEMPTS_MAX {
        match try_rebuild(link, keys, timeout).await {
            Ok(Some(rebuilt)) => return Ok(rebuilt),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
    }
    let text = "its entries do not follow on the snapshot";
    Err(RebuildError::Damaged(String::from(text)))
}

/// `None` where the snapshot or the log changed under the reader: start again.
async fn try_rebuild(
    link: &mut Link,
    keys: &Keys,
    timeout: Duration,
) -> Result<Option<Rebuilt>, RebuildError> {
    let head = match head(link, keys, timeout).await? {
        Some(head) => head,
        None => {
            create(link, keys, timeout).await?;
            return Ok(None);
        }
    };
    let manifest = match snapshot::manifest(link, keys, timeout).await {
        Ok(manifest) => manifest.filter(|manifest| manifest.position.epoch == head.epoch),
        Err(SnapshotFailure::Redis(error)) => return Err(error.into()),
        Err(other) => return Err(RebuildError::Damaged(other.to_string())),
    };
    let mut rebuilt = match manifest {
        None => {
            let position = Position { epoch: head.epoch.clone(), seq: 0, nonce: FIRST };
            Rebuilt::new(ControlState::default(), position)
        }
        Some(manifest) => match snapshot::read(link, keys, &manifest, timeout).await {
            Ok(state) => Rebuilt::new(state, manifest.position),
            Err(SnapshotFailure::Replaced) => return Ok(None),
            Err(SnapshotFailure::Redis(error)) => return Err(error.into()),
            Err(other) => return Err(RebuildError::Damaged(other.to_string())),
        },
    };
    while rebuilt.position().seq < head.seq {
        let entries = follow(link, keys, rebuilt.position().seq, 0, timeout).await?;
        if entries.is_empty() {
            return Ok(None);
        }
        match rebuilt.apply(entries) {
            Ok(()) => {}
            Err(Refusal::Broken) => return Ok(None),
            Err(Refusal::Codec(error)) => return Err(error.into()),
        }
    }
    Ok(Some(rebuilt))
}
