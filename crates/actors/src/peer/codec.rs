//! The encoding of all messages between nodes.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError;
use bincode::{Decode, Encode};
use bytes::Bytes;

/// Maximum length of a message, in bytes. Every backend can carry a message of this length.
pub const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;

/// A message that cannot be sent or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It has a kind, or a value, that this build does not know.
    #[error("unknown message: it comes from a newer version of Maxine, or is damaged")]
    Unknown,
    /// It is cut off, too long, or not written by Maxine.
    #[error("the message is damaged, or comes from a newer version of Maxine: {0}")]
    Damaged(String),
    /// It is too long to be sent.
    #[error("the message is {len} bytes long, the limit is {MESSAGE_LEN_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It has more items than a message may have.
    #[error("the message has {len} items, the limit is {max}")]
    TooMany {
        /// The number of items.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// It answers another question.
    #[error("the node answered another question")]
    WrongAnswer,
}

fn config() -> Configuration<LittleEndian, Varint, Limit<MESSAGE_LEN_MAX>> {
    bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>()
}

/// A question or an answer.
pub(super) trait Message: Encode + Decode<()> {
    /// Checks the limits on what it holds.
    fn check(&self) -> Result<(), MessageError>;
}

/// Encodes a question or an answer.
pub(super) fn encode(message: &impl Message) -> Result<Bytes, MessageError> {
    message.check()?;
    let bytes = bincode::encode_to_vec(message, config());
    let bytes = bytes.map_err(|error| MessageError::Damaged(error.to_string()))?;
    // The library applies the limit only when it decodes.
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(MessageError::TooLong { len: bytes.len() });
    }
    Ok(bytes.into())
}

/// Decodes a whole question or answer.
pub(super) fn decode<M: Message>(bytes: &[u8]) -> Result<M, MessageError> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(MessageError::TooLong { len: bytes.len() });
    }
    match bincode::decode_from_slice::<M, _>(bytes, config()) {
        Ok((message, len)) if len == bytes.len() => message.check().map(|()| message),
        Ok((_, len)) => {
            let rest = bytes.len() - len;
            Err(MessageError::Damaged(format!("{rest} bytes follow its end")))
        }
        Err(DecodeError::UnexpectedVariant { .. }) => Err(MessageError::Unknown),
        Err(error) => Err(MessageError::Damaged(error.to_string())),
    }
}
