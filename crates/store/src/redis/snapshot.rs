//! Snapshots in Redis: the parts are in a list, and a manifest names them.
//!
//! A snapshot is valid from the moment its manifest names it. The same step trims the log, and only up to the
//! snapshot. So a reader finds either the entry that it needs, or a later snapshot.

use std::io::Read;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

use super::config::Keys;
use super::connect::Link;
use super::replica::{Nonce, Position};
use super::scripts;
use maxine_state::{CodecError, ControlState, SnapshotError, is_newer_version};

/// Size of one part, in bytes.
const PART_LEN: usize = 1024 * 1024;
/// Maximum size of a snapshot, in bytes. No node reads a longer one, so none is written.
const SNAPSHOT_LEN_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// How long unpublished parts are kept, in milliseconds.
const UNPUBLISHED_MS: u64 = 600_000;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotFailure {
    /// Redis failed.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It was replaced by a newer one while it was read.
    #[error("the snapshot was replaced in the meantime")]
    Replaced,
    /// It is damaged.
    #[error("the snapshot in redis is damaged: {0}")]
    Damaged(String),
    /// Written by a newer Maxine.
    #[error(
        "the snapshot in redis was written by a newer Maxine (state version {0}): upgrade this node"
    )]
    Newer(u32),
    /// This node's state cannot be written as a snapshot; the text says why.
    #[error("{0}")]
    Unwritable(String),
}

/// The content of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) position: Position,
    pub(super) id: String,
    pub(super) parts: u64,
    pub(super) len: u64,
    pub(super) crc: u32,
    /// The version of the state.
    pub(super) version: u32,
    /// The nonces of the last entries in the state, the last one last.
    pub(super) recent: Vec<Nonce>,
}

/// An encoded state.
pub(super) struct Encoded {
    parts: Vec<Vec<u8>>,
    len: u64,
    crc: u32,
    version: u32,
}

/// Encodes a state into parts. Fails if no node could read the snapshot. Call it on a blocking thread.
pub(super) fn encode(state: &ControlState) -> Result<Encoded, SnapshotFailure> {
    encode_within(state, SNAPSHOT_LEN_MAX)
}

fn encode_within(state: &ControlState, len_max: u64) -> Result<Encoded, SnapshotFailure> {
    struct Parts {
        out: Encoded,
        len_max: u64,
        is_too_long: bool,
    }
    impl std::io::Write for Parts {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let Self { out, len_max, is_too_long } = self;
            if out.len + bytes.len() as u64 > *len_max {
                *is_too_long = true;
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
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
    let out = Encoded { parts: Vec::new(), len: 0, crc: 0, version: state.version() };
    let mut parts = Parts { out, len_max, is_too_long: false };
    let written = state.write_to(&mut parts);
    if parts.is_too_long {
        let text = format!("the state has more than {len_max} bytes, and no node could read it");
        return Err(SnapshotFailure::Unwritable(text));
    }
    written.map_err(|error| SnapshotFailure::Unwritable(error.to_string()))?;
    Ok(parts.out)
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
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut found = 0;
    for i in 0..manifest.parts {
        let (data, number, len_max) =
            (keys.snapshot_data(&manifest.id), i.to_string(), PART_LEN.to_string());
        let args = [number.as_bytes(), len_max.as_bytes()];
        let part: Option<Vec<u8>> = scripts::PART.run(link, &[&data], &args, timeout).await?;
        let part = part.ok_or(SnapshotFailure::Replaced)?;
        found += part.len() as u64;
        if found > manifest.len {
            let text = format!("its parts have more than {} bytes", manifest.len);
            return Err(SnapshotFailure::Damaged(text));
        }
        parts.push(part);
    }
    let (len, crc, version) = (manifest.len, manifest.crc, manifest.version);
    let decode = move || decode(&parts, len, crc, version);
    let state = tokio::task::spawn_blocking(decode).await;
    state.map_err(|error| SnapshotFailure::Damaged(error.to_string()))?
}

/// Decodes the parts of a snapshot. The other arguments are what its manifest says: if the parts and the manifest name
/// different state versions, the snapshot is damaged, and not from a newer Maxine.
fn decode(
    parts: &[Vec<u8>],
    len: u64,
    crc: u32,
    version: u32,
) -> Result<ControlState, SnapshotFailure> {
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
    ControlState::read_from(&mut Chain(parts, 0)).map_err(|error| match error {
        SnapshotError::Format(CodecError::NewerState(named)) if named == version => {
            SnapshotFailure::Newer(version)
        }
        SnapshotError::Format(CodecError::Newer(_)) if is_newer_version(version) => {
            SnapshotFailure::Newer(version)
        }
        error => SnapshotFailure::Damaged(error.to_string()),
    })
}

/// Uploads an encoded state at `position`. No manifest names it yet.
pub(super) async fn upload(
    link: &mut Link,
    keys: &Keys,
    encoded: &Encoded,
    position: Position,
    recent: Vec<Nonce>,
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
        position,
        id,
        parts: encoded.parts.len() as u64,
        len: encoded.len,
        crc: encoded.crc,
        version: encoded.version,
        recent,
    })
}

impl Manifest {
    /// The nine fields, in the order that the scripts expect.
    fn fields(&self) -> Vec<Vec<u8>> {
        let number = |number: u64| number.to_string().into_bytes();
        vec![
            self.position.epoch.clone().into_bytes(),
            number(self.position.seq),
            self.position.nonce.to_vec(),
            self.id.clone().into_bytes(),
            number(self.parts),
            number(self.len),
            number(self.crc.into()),
            number(self.version.into()),
            self.recent.concat(),
        ]
    }

    /// An empty manifest at `position`.
    #[cfg(test)]
    pub(super) fn at(position: Position) -> Self {
        let (id, recent) = (String::from("id"), vec![position.nonce]);
        Self { position, id, parts: 0, len: 0, crc: 0, version: 1, recent }
    }
}

/// Publishes an uploaded snapshot and trims the log before it. Returns the answer of the script: `OK`, or the
/// reason.
pub(super) async fn publish(
    link: &mut Link,
    keys: &Keys,
    uploaded: &Manifest,
    keep_entries: u64,
    lease: &str,
    timeout: Duration,
) -> RedisResult<String> {
    let keep_from = (uploaded.position.seq + 1).saturating_sub(keep_entries).max(1).to_string();
    let data = keys.snapshot_data(&uploaded.id);
    let all = [&*keys.head, &*keys.log, &*keys.snapshot, &*data, &*keys.leader];
    let (fields, parts_prefix) = (uploaded.fields(), keys.snapshot_data(""));
    let mut args: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    args.extend([keep_from.as_bytes(), lease.as_bytes(), parts_prefix.as_bytes()]);
    scripts::PUBLISH_SNAPSHOT.run(link, &all, &args, timeout).await
}

/// The result of writing a state to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installed {
    /// The state was written.
    Done,
    /// Redis has another head than the one to be replaced.
    Changed,
    /// A node leads, and only a log without a leader was to be replaced.
    Led,
}

/// Replaces the content of Redis with an uploaded state, if the head is still `replaces`.
pub(super) async fn install(
    link: &mut Link,
    keys: &Keys,
    uploaded: &Manifest,
    replaces: Option<&Position>,
    unled: bool,
    timeout: Duration,
) -> RedisResult<Installed> {
    let data = keys.snapshot_data(&uploaded.id);
    let all = [&*keys.head, &*keys.log, &*keys.snapshot, &*data, &*keys.leader];
    let (fields, parts_prefix, aside) =
        (uploaded.fields(), keys.snapshot_data(""), keys.replaced_prefix());
    let (epoch, seq, nonce) = match replaces {
        None => (&b""[..], String::new(), &b""[..]),
        Some(at) => (at.epoch.as_bytes(), at.seq.to_string(), &at.nonce[..]),
    };
    let rule: &[u8] = if unled { b"unled" } else { b"any" };
    let mut args: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    args.extend([epoch, seq.as_bytes(), nonce, rule, parts_prefix.as_bytes(), aside.as_bytes()]);
    let word: String = scripts::INSTALL.run(link, &all, &args, timeout).await?;
    Ok(match word.as_str() {
        "OK" => Installed::Done,
        "LED" => Installed::Led,
        _ => Installed::Changed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::STATE_VERSION;

    #[test]
    fn a_snapshot_that_no_node_could_read_is_not_written() {
        let state = ControlState::default();
        let len = encode(&state).unwrap().len;
        assert_eq!(encode_within(&state, len).unwrap().len, len);
        let refused = encode_within(&state, len - 1);
        assert!(matches!(refused, Err(SnapshotFailure::Unwritable(_))));
    }

    #[test]
    fn a_snapshot_is_of_a_newer_maxine_only_if_its_manifest_says_the_same() {
        let read = |format: u8, inside: u32, beside: u32| {
            let bytes = [&b"MXS"[..], &[format], &inside.to_le_bytes(), b"more"].concat();
            let (len, crc) = (bytes.len() as u64, crc32c::crc32c(&bytes));
            decode(&[bytes], len, crc, beside).map(drop)
        };
        let newer = STATE_VERSION + 1;
        for format in [3, 4] {
            let found = read(format, newer, newer);
            assert!(matches!(found, Err(SnapshotFailure::Newer(named)) if named == newer));
        }
        for (format, inside, beside) in
            [(3, newer, 1), (3, newer, newer + 1), (3, 65_537, 65_537), (4, 1, 1), (4, 1, 65_537)]
        {
            let found = read(format, inside, beside);
            assert!(
                matches!(found, Err(SnapshotFailure::Damaged(_))),
                "{format} {inside} {beside}"
            );
        }
    }
}
