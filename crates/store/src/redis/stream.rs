//! Reads the log in pages, and rebuilds a state from the snapshot and the entries after it. It has no state
//! of its own and changes nothing in Redis.
//!
//! Stream entries that Maxine did not write are skipped and reported. The chain of nonces shows whether
//! anything is missing.

use std::time::Duration;

use redis::{RedisError, RedisResult, cmd};

use super::config::Keys;
use super::connect::Link;
use super::propose::ENTRY_LEN_MAX;
use super::replica::{Entry, Nonce, Position, Rebuilt, Refusal, Skipped};
use super::scripts;
use super::snapshot::{self, SnapshotFailure};
use super::survey::{Survey, parse_id};
use maxine_state::ControlState;

/// Maximum number of entries in one read.
pub(super) const PAGE_ENTRIES_MAX: usize = 256;
/// Maximum size of one read, in bytes. A single entry is always smaller.
const PAGE_LEN_MAX: usize = 2 * ENTRY_LEN_MAX;
/// The nonce before the first entry.
pub(super) const FIRST: Nonce = [0; 16];
/// Maximum number of attempts to rebuild a state while the snapshot or the log changes.
const REBUILD_ATTEMPTS_MAX: u32 = 5;

/// An id with its fields, as Redis returns them.
type RawEntry = (String, Vec<Vec<u8>>);
/// A key with its entries.
type RawStream = (String, Vec<RawEntry>);

/// Why a state could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebuildError {
    /// Redis did not answer, or refused.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// A newer version wrote it. This node must stop.
    #[error("{0}")]
    Newer(String),
}

/// A random name for a new log.
pub(super) fn new_epoch() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// The end of the log; `None` if no head can be read.
pub(super) async fn head(
    link: &mut Link,
    keys: &Keys,
    timeout: Duration,
) -> RedisResult<Option<Position>> {
    let fields: Vec<Vec<u8>> = scripts::HEAD.run(link, &[&keys.head], &[], timeout).await?;
    let [epoch, seq, nonce] = fields.as_slice() else { return Ok(None) };
    let read = || {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let nonce = Nonce::try_from(nonce.as_slice()).ok()?;
        Some(Position { epoch: text(epoch)?, seq: text(seq)?.parse().ok()?, nonce })
    };
    Ok(read())
}

/// Creates an empty log if there is none and nothing is left of an earlier one.
pub(super) async fn create(link: &mut Link, keys: &Keys, timeout: Duration) -> RedisResult<()> {
    let epoch = new_epoch();
    let args: [&[u8]; 2] = [epoch.as_bytes(), &FIRST];
    let all = [&*keys.head, &*keys.log, &*keys.snapshot];
    scripts::CREATE.run(link, &all, &args, timeout).await
}

/// The result of one read of the stream.
#[derive(Default)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// Entries that Maxine did not write.
    pub(super) skipped: Vec<Skipped>,
    /// The last id. The next page begins after it.
    pub(super) last_id: Option<String>,
    /// Whether there may be more.
    pub(super) is_full: bool,
}

/// Reads the entries after the id `after`. If there are none, waits up to `block_ms` milliseconds for one.
///
/// A script reads existing entries and leaves out values that are too long. Redis cannot wait for an entry
/// without reading it. So if another program writes a large value while a node waits, that node reads it as a
/// whole, once.
pub(super) async fn page(
    link: &mut Link,
    keys: &Keys,
    after: &str,
    block_ms: u64,
    timeout: Duration,
) -> RedisResult<Page> {
    let bounds = [PAGE_ENTRIES_MAX, ENTRY_LEN_MAX, PAGE_LEN_MAX].map(|bound| bound.to_string());
    let mut args = vec![after.as_bytes()];
    args.extend(bounds.iter().map(String::as_bytes));
    let (more, found): (u64, Vec<RawEntry>) =
        scripts::PAGE.run(link, &[&keys.log], &args, timeout).await?;
    if block_ms == 0 || !found.is_empty() {
        return Ok(Page { is_full: more > 0, ..Page::of(found) });
    }
    let mut command = cmd("XREAD");
    command.arg("COUNT").arg(1).arg("BLOCK").arg(block_ms);
    command.arg("STREAMS").arg(&keys.log).arg(after);
    let wait = Duration::from_millis(block_ms) + timeout;
    let streams: Option<Vec<RawStream>> = match link.query(&command, wait).await {
        // The key is no stream, so it counts as empty. Redis does not wait in this case.
        Err(error) if error.code() == Some("WRONGTYPE") => {
            tokio::time::sleep(Duration::from_millis(block_ms)).await;
            None
        }
        other => other?,
    };
    Ok(Page::of(streams.into_iter().flatten().flat_map(|(_, entries)| entries)))
}

impl Page {
    fn of(found: impl IntoIterator<Item = RawEntry>) -> Self {
        let mut page = Self::default();
        for (id, fields) in found {
            match parse(&id, &fields) {
                Some(entry) => page.entries.push(entry),
                None => {
                    let reason = String::from("it is not an entry of Maxine's");
                    page.skipped.push(Skipped { id: id.clone(), reason });
                }
            }
            page.last_id = Some(id);
        }
        page
    }
}

/// An entry, if it has a position in the chain. Its payload may still be unreadable.
fn parse(id: &str, fields: &[Vec<u8>]) -> Option<Entry> {
    let (seq, 0) = parse_id(id)? else { return None };
    let (mut nonce, mut previous, mut version, mut payload) = (None, None, 0, &[][..]);
    for pair in fields.chunks_exact(2) {
        let value = pair[1].as_slice();
        match pair[0].as_slice() {
            b"n" => nonce = Nonce::try_from(value).ok(),
            b"p" => previous = Nonce::try_from(value).ok(),
            b"v" => version = std::str::from_utf8(value).ok()?.parse().ok()?,
            b"b" if value.len() <= ENTRY_LEN_MAX => payload = value,
            _ => {}
        }
    }
    Some(Entry { seq, nonce: nonce?, previous: previous?, version, payload: payload.into() })
}

/// What can be read of the log.
pub(super) struct ReadLog {
    pub(super) survey: Survey,
    /// The state, as far as the snapshot and the entries after it reach without a gap.
    pub(super) rebuilt: Rebuilt,
    /// What is wrong with the snapshot, if it cannot be used.
    pub(super) damage: Option<String>,
}

impl ReadLog {
    /// Whether it is the state at the head.
    pub(super) fn is_whole(&self) -> bool {
        self.survey.head.as_ref().is_some_and(|head| head.is_same_entry(self.rebuilt.position()))
    }

    /// What is wrong, in one line.
    pub(super) fn problem(&self) -> String {
        let readable = self.rebuilt.position().seq;
        let damage = self.damage.as_deref().map(|text| format!("{text}; ")).unwrap_or_default();
        match &self.survey.head {
            None => format!(
                "{damage}the log in redis has no head; its entries can be read up to {readable}"
            ),
            Some(head) => format!(
                "{damage}the log in redis has {}, but can be read only up to {readable}",
                maxine_wording::count(head.seq, "entry")
            ),
        }
    }
}

/// Builds the state at the present end of the log from the snapshot and the entries after it, or as much of
/// it as can be read.
pub(super) async fn rebuild(
    link: &mut Link,
    keys: &Keys,
    timeout: Duration,
) -> Result<ReadLog, RebuildError> {
    let mut attempt = 1;
    loop {
        let found = try_rebuild(link, keys, timeout).await?;
        if found.is_whole() || attempt >= REBUILD_ATTEMPTS_MAX {
            return Ok(found);
        }
        // Another node may have written, or published a snapshot, during the read.
        if Survey::read(link, keys, timeout).await? == found.survey {
            return Ok(found);
        }
        attempt += 1;
    }
}

async fn try_rebuild(
    link: &mut Link,
    keys: &Keys,
    timeout: Duration,
) -> Result<ReadLog, RebuildError> {
    let survey = Survey::read(link, keys, timeout).await?;
    let mut damage = None;
    let mut rebuilt = empty(&survey);
    if let Some(manifest) = survey.base() {
        match snapshot::read(link, keys, manifest, timeout).await {
            Ok(state) => {
                let (position, recent) = (manifest.position.clone(), manifest.recent.clone());
                rebuilt = Rebuilt::new(state, position, recent);
            }
            Err(SnapshotFailure::Redis(error)) => return Err(error.into()),
            Err(newer @ SnapshotFailure::Newer(_)) => {
                return Err(RebuildError::Newer(newer.to_string()));
            }
            Err(other) => damage = Some(other.to_string()),
        }
    }
    let end = survey.head.as_ref().map_or(u64::MAX, |head| head.seq);
    let mut after = format!("{}-0", rebuilt.position().seq);
    while rebuilt.position().seq < end {
        let page = page(link, keys, &after, 0, timeout).await?;
        let Some(last_id) = page.last_id else { break };
        after = last_id;
        rebuilt.skipped.extend(page.skipped);
        let entries = page.entries.into_iter().filter(|entry| entry.seq <= end).collect();
        match rebuilt.apply(entries) {
            Ok(()) => {}
            Err(Refusal::Broken) => break,
            Err(other @ Refusal::OtherVersion { .. }) => {
                return Err(RebuildError::Newer(other.to_string()));
            }
        }
    }
    Ok(ReadLog { survey, rebuilt, damage })
}

fn empty(survey: &Survey) -> Rebuilt {
    let epoch = survey.head.as_ref().map(|head| head.epoch.clone()).unwrap_or_default();
    let position = Position { epoch, seq: 0, nonce: FIRST };
    Rebuilt::new(ControlState::default(), position, Vec::new())
}
