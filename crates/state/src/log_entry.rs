//! Encodes what the log contains: the commands of an entry, the replies to them, and the codes of refusals.

use bincode::error::DecodeError;

use super::codec::{
    BATCH_MAGIC, BODY_LEN_MAX, CodecError, FORMAT_VERSION, HEAD_LEN, check_head, config, head,
    of_short_head,
};
use super::command::{Applied, Batch, Rejection};

/// Encodes the payload of one log entry.
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&head(BATCH_MAGIC, batch.needs()));
    bincode::encode_into_std_write(batch, &mut out, config())?;
    // The library applies the limit only when it decodes, and then nobody could read the entry.
    match out.len() - HEAD_LEN {
        len if len > BODY_LEN_MAX => Err(CodecError::TooLarge { len, max: BODY_LEN_MAX }),
        _ => Ok(out),
    }
}

/// Decodes the payload of a log entry. If this build does not understand it, the result is an error, and the
/// caller must stop before that entry.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, CodecError> {
    let Some((head, body)) = bytes.split_first_chunk() else { return Err(of_short_head(bytes)) };
    let version = check_head(*head, BATCH_MAGIC)?;
    let batch: Batch = bincode::decode_from_slice(body, config())?.0;
    match batch.needs() {
        // The header must not name an older version than the commands need.
        needs if needs > version => Err(DecodeError::Other("its state version is too low").into()),
        _ => Ok(batch),
    }
}

/// The state version that the header of a log entry names, whether this build understands it or not. `None` if the
/// bytes do not begin with a header of the present format.
#[must_use]
pub fn named_version(bytes: &[u8]) -> Option<u32> {
    let ([a, b, c, format, version @ ..], _) = bytes.split_first_chunk::<HEAD_LEN>()?;
    let is_header = [*a, *b, *c] == BATCH_MAGIC && *format == FORMAT_VERSION;
    is_header.then(|| u32::from_le_bytes(*version))
}

/// Encodes the replies to one batch, for the node that proposed it.
#[must_use]
pub fn encode_applied(applied: &[Applied]) -> Vec<u8> {
    // Replies are smaller than their commands, which were within the limit.
    bincode::encode_to_vec(applied, config()).unwrap_or_default()
}

/// Decodes the replies to one batch.
pub fn decode_applied(bytes: &[u8]) -> Result<Vec<Applied>, CodecError> {
    Ok(bincode::decode_from_slice(bytes, config())?.0)
}

/// Encodes the code of a refusal, as the hashes of the audit log cover it.
#[must_use]
pub fn encode_rejection(rejection: &Rejection) -> Vec<u8> {
    // Refusals are far below the codec's limit.
    bincode::encode_to_vec(rejection, config()).unwrap_or_default()
}

/// Decodes the code of a refusal.
pub fn decode_rejection(bytes: &[u8]) -> Result<Rejection, CodecError> {
    Ok(bincode::decode_from_slice(bytes, config())?.0)
}

#[cfg(test)]
mod tests {
    use super::super::STATE_VERSION;
    use super::super::codec::{SNAPSHOT_MAGIC, is_newer_version};
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
                actor: Actor {
                    user: "u".into(),
                    address: "".into(),
                    trace_id: "t".into(),
                    via_node: None,
                },
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
            "4d5843030100000001fb0201fdc1619f08a201000001090175000174000001010764656661756c74\
             066f726465727301610107000000"
        );
        assert_eq!(decode_batch(&bytes).unwrap(), sample());
    }

    #[test]
    fn foreign_newer_and_cut_bytes_are_refused() {
        let bytes = encode_batch(&sample()).unwrap();
        assert!(matches!(decode_batch(b"x"), Err(CodecError::Foreign)));
        assert!(matches!(decode_batch(b"nope!"), Err(CodecError::Foreign)));
        let mut newer = bytes.clone();
        newer[3] = FORMAT_VERSION + 1;
        assert!(matches!(decode_batch(&newer), Err(CodecError::Newer(4))));
        let mut older = bytes.clone();
        older[3] = 1;
        let refused = decode_batch(&older).unwrap_err().to_string();
        assert!(refused.contains("before the first release (format 1"), "{refused}");
        let snapshot = *b"MXS\x01....";
        assert!(matches!(check_head(snapshot, SNAPSHOT_MAGIC), Err(CodecError::Older(1))));
        assert!(matches!(
            check_head(*b"\0\x01\x02\x03....", SNAPSHOT_MAGIC),
            Err(CodecError::Foreign)
        ));
        // If an entry is for a newer version of the state, only its header is parsed.
        let newer = STATE_VERSION + 1;
        let head = head(BATCH_MAGIC, newer);
        assert!(matches!(decode_batch(&head), Err(CodecError::NewerState(v)) if v == newer));
        let raise = Command::RaiseStateVersion { to: newer };
        let mut too_low = sample();
        too_low.proposals[0].command = raise;
        let mut too_low = encode_batch(&too_low).unwrap();
        assert!(matches!(decode_batch(&too_low), Err(CodecError::NewerState(_))));
        too_low[4] = 1;
        assert!(matches!(decode_batch(&too_low), Err(CodecError::Damaged(_))));
        for cut in 8..bytes.len() {
            assert!(decode_batch(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    /// One changed byte of the header must not look like the entry of a newer build.
    #[test]
    fn a_state_version_that_no_build_can_have_is_damage() {
        let bytes = encode_batch(&sample()).unwrap();
        assert_eq!(named_version(&bytes), Some(1));
        for version in [0, 65_537, u32::MAX] {
            let mut forged = bytes.clone();
            forged[4..8].copy_from_slice(&version.to_le_bytes());
            let refused = decode_batch(&forged);
            assert!(
                matches!(refused, Err(CodecError::NoVersion(named)) if named == version),
                "{refused:?}"
            );
            assert_eq!(named_version(&forged), Some(version));
            assert!(!is_newer_version(version));
        }
        assert!(is_newer_version(STATE_VERSION + 1) && !is_newer_version(STATE_VERSION));
        assert_eq!(named_version(&bytes[..7]), None);
        assert_eq!(named_version(b"MXC\x04\x01\0\0\0"), None);
    }
}
