//! The content of Redis at one moment: the head, the stream, the snapshot and the lease.
//!
//! One script reads all of it, so that the parts are consistent. This module decides nothing; [`super::repair`] does.

use std::time::Duration;

use redis::{RedisResult, from_redis_value};

use super::config::Keys;
use super::connect::Link;
use super::replica::{Nonce, Position};
use super::scripts::SURVEY;
use super::snapshot::Manifest;

/// A stream id: the position, and 0 for entries of Maxine.
pub(super) type Id = (u64, u64);

/// The stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// The Redis type of the key: `stream`, `none` or another one.
    pub(super) kind: String,
    /// Number of entries.
    pub(super) len: u64,
    /// The greatest id that the stream ever had.
    pub(super) newest: Id,
    /// The ids of the first and the last entry.
    pub(super) ends: Option<(Id, Id)>,
}

/// The content of Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// The end of the log; `None` if it cannot be read.
    pub(super) head: Option<Position>,
    pub(super) stream: Stream,
    /// The snapshot, if its manifest can be read and its parts exist.
    pub(super) manifest: Option<Manifest>,
    /// The leader's lease; empty if there is none.
    pub(super) lease: String,
    /// Whether a node reported that it could not build the state at the head.
    pub(super) is_short: bool,
    /// Whether Redis has none of the head, the stream and the snapshot.
    pub(super) is_empty: bool,
}

impl Survey {
    pub(super) async fn read(link: &mut Link, keys: &Keys, timeout: Duration) -> RedisResult<Self> {
        let all = [&*keys.head, &*keys.log, &*keys.snapshot, &*keys.leader];
        let parts_prefix = keys.snapshot_data("");
        let fields: Vec<redis::Value> =
            SURVEY.run(link, &all, &[parts_prefix.as_bytes()], timeout).await?;
        let fields: Result<Vec<Vec<u8>>, _> = fields.into_iter().map(from_redis_value).collect();
        Ok(Self::parse(&fields?))
    }

    fn parse(fields: &[Vec<u8>]) -> Self {
        let bytes = |i: usize| fields.get(i).map_or(&[][..], Vec::as_slice);
        let text = |i: usize| String::from_utf8_lossy(bytes(i)).into_owned();
        let number = |i: usize| text(i).parse::<u64>().ok();
        let nonce = |i: usize| Nonce::try_from(bytes(i)).ok();
        let position = |i: usize| {
            let epoch = Some(text(i)).filter(|epoch| !epoch.is_empty())?;
            Some(Position { epoch, seq: number(i + 1)?, nonce: nonce(i + 2)? })
        };
        let manifest = || {
            let (recent, rest) = bytes(20).as_chunks::<16>();
            let manifest = Manifest {
                position: position(12)?,
                id: text(15),
                parts: number(16)?,
                len: number(17)?,
                crc: u32::try_from(number(18)?).ok()?,
                version: u32::try_from(number(19)?).ok()?,
                recent: recent.to_vec(),
            };
            let is_whole = rest.is_empty() && !manifest.id.is_empty();
            (is_whole && number(11) == Some(manifest.parts)).then_some(manifest)
        };
        let stream = Stream {
            kind: text(4),
            len: number(5).unwrap_or(0),
            newest: parse_id(&text(6)).unwrap_or_default(),
            ends: parse_id(&text(7)).zip(parse_id(&text(8))),
        };
        Self {
            head: position(0),
            manifest: manifest(),
            lease: text(9),
            is_short: !bytes(21).is_empty(),
            is_empty: [3, 4, 10].iter().all(|i| bytes(*i) == b"none"),
            stream,
        }
    }

    /// Whether the next entry can be appended: the stream exists, and never contained anything after the
    /// head.
    pub(super) fn takes_entries(&self) -> bool {
        let Some(head) = &self.head else { return false };
        self.stream.kind == "stream" && self.stream.newest <= (head.seq, 0)
    }

    /// The snapshot, if it belongs to this log.
    pub(super) fn base(&self) -> Option<&Manifest> {
        let manifest = self.manifest.as_ref()?;
        let fits = |head: &Position| {
            head.epoch == manifest.position.epoch && manifest.position.seq <= head.seq
        };
        self.head.as_ref().is_none_or(fits).then_some(manifest)
    }

    /// Whether the state at the head can be built from the snapshot and the stream, judged by their ids.
    pub(super) fn is_whole(&self) -> bool {
        let Some(head) = self.head.as_ref().filter(|_| !self.is_short) else { return false };
        let covered = self.base().map_or(0, |manifest| manifest.position.seq);
        if !self.takes_entries() || covered == head.seq {
            return self.takes_entries();
        }
        let Some(((first, 0), last)) = self.stream.ends else { return false };
        first <= covered + 1 && last == (head.seq, 0) && self.stream.len == head.seq - first + 1
    }
}

pub(super) fn parse_id(text: &str) -> Option<Id> {
    let (position, rest) = text.split_once('-')?;
    Some((position.parse().ok()?, rest.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(head: u64, covered: u64, ends: Option<(Id, Id)>, len: u64, newest: Id) -> Survey {
        let position = |seq| Position { epoch: "e".into(), seq, nonce: [1; 16] };
        Survey {
            head: Some(position(head)),
            stream: Stream { kind: "stream".into(), len, newest, ends },
            manifest: (covered > 0).then(|| Manifest::at(position(covered))),
            ..Survey::default()
        }
    }

    #[test]
    fn a_log_is_whole_only_without_a_hole_and_without_anything_behind_its_head() {
        let whole = survey(9, 5, Some(((4, 0), (9, 0))), 6, (9, 0));
        assert!(whole.is_whole());
        assert!(survey(9, 9, None, 0, (9, 0)).is_whole(), "the snapshot alone");
        assert!(survey(0, 0, None, 0, (0, 0)).is_whole(), "a new log");
        for (case, broken) in [
            ("the start is missing", survey(9, 5, Some(((7, 0), (9, 0))), 3, (9, 0))),
            ("the end is missing", survey(9, 5, Some(((4, 0), (8, 0))), 5, (9, 0))),
            ("one in between is missing", survey(9, 5, Some(((4, 0), (9, 0))), 5, (9, 0))),
            ("all are missing", survey(9, 5, None, 0, (9, 0))),
            ("a stranger's lies between", survey(9, 5, Some(((4, 0), (9, 0))), 7, (9, 0))),
            ("a stranger's lies behind", survey(9, 5, Some(((4, 0), (12, 0))), 7, (12, 0))),
            ("a stranger's lay behind", survey(9, 9, None, 0, (9, 1))),
        ] {
            assert!(!broken.is_whole(), "{case}");
        }
        let missing = Survey { stream: Stream::default(), ..whole };
        assert!(!missing.is_whole() && !missing.takes_entries());
    }
}
