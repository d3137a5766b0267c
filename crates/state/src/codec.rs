//! What log entries and snapshots have in common: the header, its versions, and the encoding of the rest.
//!
//! A log payload is `magic "MXC" | format | state version | bincode body`. A snapshot is `magic "MXS" |
//! format | state version | bincode records`. The format is one byte. The state version is the version that a
//! reader must understand: for an entry, the version that its commands need; for a snapshot, the version of
//! the state. A build that does not understand the version stops there and parses nothing of the rest. Enum
//! variants are only ever appended. The golden bytes in `log_entry` and in `fuzz` fail if a variant moves.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};

use super::STATE_VERSION;

/// Largest body that is encoded or decoded, in bytes.
pub(super) const BODY_LEN_MAX: usize = 16 * 1024 * 1024;
pub(super) const BATCH_MAGIC: [u8; 3] = *b"MXC";
pub(super) const SNAPSHOT_MAGIC: [u8; 3] = *b"MXS";
/// The format that this build writes and reads. Formats 1 and 2 are not read, because no release wrote them.
pub(super) const FORMAT_VERSION: u8 = 3;
/// By how much the state version of a newer build can be higher than that of this build. A release raises it by one
/// at most.
const VERSIONS_AHEAD_MAX: u32 = 1_000;

/// Whether a newer Maxine can have this state version, and this build does not understand it. A much higher number is
/// damage, or was written by something else.
#[must_use]
pub fn is_newer_version(state_version: u32) -> bool {
    (STATE_VERSION + 1..=STATE_VERSION + VERSIONS_AHEAD_MAX).contains(&state_version)
}

pub(super) fn config() -> Configuration<LittleEndian, Varint, Limit<BODY_LEN_MAX>> {
    bincode::config::standard().with_limit::<BODY_LEN_MAX>()
}

/// Bytes that this build cannot read, or values that it cannot encode.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes were not written by Maxine, or are cut off.
    #[error(
        "not written by Maxine, or by a build before the first release: the first bytes are wrong"
    )]
    Foreign,
    /// Written by an older Maxine in a format that is no longer read.
    #[error(
        "written by a build before the first release (format {0}; this build reads format {FORMAT_VERSION}): start \
         with an empty data directory"
    )]
    Older(u8),
    /// Written by a newer Maxine in a format that this build does not know.
    #[error(
        "written by a newer Maxine (format {0}; this build reads format {FORMAT_VERSION}): upgrade this node"
    )]
    Newer(u8),
    /// The bytes belong to a newer version of the state.
    #[error(
        "it has state version {0}, and this build understands up to {STATE_VERSION}: upgrade this node"
    )]
    NewerState(u32),
    /// The bytes name a state version that no Maxine can have.
    #[error(
        "damaged, or not written by Maxine: it names state version {0}, and this build understands up to {STATE_VERSION}"
    )]
    NoVersion(u32),
    /// The bytes are damaged, or contain something that only a newer Maxine knows.
    #[error("damaged, or written by a newer Maxine: {0}")]
    Damaged(#[from] bincode::error::DecodeError),
    /// A value that cannot be encoded.
    #[error("cannot be encoded: {0}")]
    Unencodable(#[from] bincode::error::EncodeError),
    /// The encoded value is longer than the limit.
    #[error("{len} bytes long, the limit is {max}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
}

/// Length of the header, in bytes.
pub(super) const HEAD_LEN: usize = 8;

/// The header of a snapshot of a state of this version.
pub(super) fn snapshot_head(state_version: u32) -> [u8; HEAD_LEN] {
    head(SNAPSHOT_MAGIC, state_version)
}

/// Checks the header of a snapshot. Returns the version of its state.
pub(super) fn check_snapshot_head(head: [u8; HEAD_LEN]) -> Result<u32, CodecError> {
    check_head(head, SNAPSHOT_MAGIC)
}

pub(super) fn head([a, b, c]: [u8; 3], state_version: u32) -> [u8; HEAD_LEN] {
    let [d, e, f, g] = state_version.to_le_bytes();
    [a, b, c, FORMAT_VERSION, d, e, f, g]
}

/// The error for bytes that are too short for a header of this format. Another format may have a shorter
/// header.
pub(super) fn of_short_head(bytes: &[u8]) -> CodecError {
    match bytes {
        [a, b, c, format, ..] if [*a, *b, *c] == BATCH_MAGIC && *format < FORMAT_VERSION => {
            CodecError::Older(*format)
        }
        [a, b, c, format, ..] if [*a, *b, *c] == BATCH_MAGIC && *format > FORMAT_VERSION => {
            CodecError::Newer(*format)
        }
        _ => CodecError::Foreign,
    }
}

pub(super) fn check_head(
    [a, b, c, format, version @ ..]: [u8; HEAD_LEN],
    magic: [u8; 3],
) -> Result<u32, CodecError> {
    match (format, u32::from_le_bytes(version)) {
        _ if [a, b, c] != magic => Err(CodecError::Foreign),
        (0..FORMAT_VERSION, _) => Err(CodecError::Older(format)),
        (FORMAT_VERSION, version @ 1..=STATE_VERSION) => Ok(version),
        (FORMAT_VERSION, version) if is_newer_version(version) => {
            Err(CodecError::NewerState(version))
        }
        (FORMAT_VERSION, version) => Err(CodecError::NoVersion(version)),
        _ => Err(CodecError::Newer(format)),
    }
}
