//! The one place where commands become bytes and back.
//!
//! A log payload is `magic "MXC" | format version | bincode body`. Enum variants are only ever
//! appended; the golden bytes below fail if one moves.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};

use super::command::{Applied, Batch};

/// Largest body that is encoded or decoded, in bytes.
const BODY_LEN_MAX: usize = 16 * 1024 * 1024;
const MAGIC: [u8; 3] = *b"MXC";
const FORMAT_VERSION: u8 = 1;

pub(super) fn config() -> Configuration<LittleEndian, Varint, Limit<BODY_LEN_MAX>> {
    bincode::config::standard().with_limit::<BODY_LEN_MAX>()
}

/// Bytes that are not a command of this or an older version.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not written by Maxine, or cut off.
    #[error("not a Maxine command: the first bytes are wrong")]
    Foreign,
    /// Written by a newer Maxine.
    #[error("command format {0} is newer than this build understands ({FORMAT_VERSION})")]
    Newer(u8),
    /// Over the limit or damaged.
    #[error("command cannot be decoded: {0}")]
    Damaged(#[from] bincode::error::DecodeError),
    /// Over the limit.
    #[error("command cannot be encoded: {0}")]
    TooLarge(#[from] bincode::error::EncodeError),
}

/// Encodes what one log entry holds.
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&MAGIC);
    out.push(FORMAT_VERSION);
    bincode::encode_into_std_write(batch, &mut out, config())?;
    Ok(out)
}

/// Decodes a log entry's payload.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, CodecError> {
    let Some((head, body)) = bytes.split_at_checked(4) else { return Err(CodecError::Foreign) };
    if head[..3] != MAGIC {
        return Err(CodecError::Foreign);
    }
    if head[3] != FORMAT_VERSION {
        return Err(CodecError::Newer(head[3]));
    }
    Ok(bincode::decode_from_slice(body, config())?.0)
}

/// Encodes the answers to one batch, for the node that proposed it.
#[must_use]
pub fn encode_applied(applied: &[Applied]) -> Vec<u8> {
    // Answers are smaller than the commands they answer, which were within the limit.
    bincode::encode_to_vec(applied, config()).unwrap_or_default()
}

/// Decodes the answers to one batch.
pub fn decode_applied(bytes: &[u8]) -> Result<Vec<Applied>, CodecError> {
    Ok(bincode::decode_from_slice(bytes, config())?.0)
}

#[cfg(test)]
mod tests {
    use super::super::command::{Actor, Command, Deregistration, Fence, Proposal, RequestId};
    use super::super::name::{Name, ServiceKey};
    use super::*;

    fn sample() -> Batch {
        let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
        let item = Deregistration {
            key: key.instance(Name::trusted("a")),
            lease_epoch: Some(7),
            forget_drain: false,
        };
        Batch {
            proposals: vec![Proposal {
                request_id: RequestId(0x0102),
                proposed_at_ms: 1_795_440_992_705,
                fence: Some(Fence(9)),
                actor: Actor { user: "u".into(), address: "".into(), trace_id: "t".into() },
                command: Command::Deregister { items: vec![item] },
            }],
        }
    }

    #[test]
    fn the_bytes_of_a_command_never_change() {
        let bytes = encode_batch(&sample()).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "4d58430101fb0201fdc1619f08a201000001090175000174010107\
             64656661756c74066f72646572730161010700"
        );
        assert_eq!(decode_batch(&bytes).unwrap(), sample());
    }

    #[test]
    fn foreign_newer_and_cut_bytes_are_refused() {
        let bytes = encode_batch(&sample()).unwrap();
        assert!(matches!(decode_batch(b"x"), Err(CodecError::Foreign)));
        assert!(matches!(decode_batch(b"nope!"), Err(CodecError::Foreign)));
        let mut newer = bytes.clone();
        newer[3] = 2;
        assert!(matches!(decode_batch(&newer), Err(CodecError::Newer(2))));
        for cut in 4..bytes.len() {
            assert!(decode_batch(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
