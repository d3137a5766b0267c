//! The content of a message, read from its connection.

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};

use super::chunks::{BadChunks, Decoder, Part};
use super::framing::Framing;
use super::reader::take;

/// The part of a message's content that was not read yet.
#[derive(Clone, Copy, Debug)]
pub struct Content(Left);

#[derive(Clone, Copy, Debug)]
enum Left {
    Length(u64),
    Chunks(Decoder),
    UntilClose,
    Nothing,
}

impl Content {
    /// The whole content of a message with this framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => Left::Nothing,
            Framing::Length(len) => Left::Length(len),
            Framing::Chunked => Left::Chunks(Decoder::new()),
            Framing::UntilClose => Left::UntilClose,
        })
    }

    /// Whether the whole content was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.0, Left::Nothing)
    }

    /// The number of bytes that were not read yet, if the framing tells it.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self.0 {
            Left::Length(left) => SizeHint::with_exact(left),
            Left::Nothing => SizeHint::with_exact(0),
            Left::Chunks(_) | Left::UntilClose => SizeHint::default(),
        }
    }

    /// Takes the next part out of `bytes`, which were read from the connection. `None` if more bytes are needed, or if
    /// the content is over.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame<Bytes>>, BadChunks> {
        match &mut self.0 {
            Left::Nothing => Ok(None),
            _ if bytes.is_empty() => Ok(None),
            Left::UntilClose => {
                let len = bytes.len();
                Ok(Some(Frame::data(take(bytes, len))))
            }
            Left::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                let data = take(bytes, len);
                if *left == 0 {
                    self.0 = Left::Nothing;
                }
                Ok(Some(Frame::data(data)))
            }
            Left::Chunks(decoder) => match decoder.decode(bytes)? {
                None => Ok(None),
                Some(Part::Data(data)) => Ok(Some(Frame::data(data))),
                Some(Part::End(fields)) => {
                    self.0 = Left::Nothing;
                    Ok(fields.map(Frame::trailers))
                }
            },
        }
    }

    /// Reports that the connection has ended. Returns true if the content is complete, and false if it was cut off.
    pub fn ends_with_connection(&mut self) -> bool {
        if matches!(self.0, Left::UntilClose) {
            self.0 = Left::Nothing;
        }
        self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::super::reader::{READ_LEN_MAX, READ_LEN_MIN, Reader};
    use super::*;

    /// Memory use must follow the length of the parts that are kept, however their bytes arrive.
    #[tokio::test]
    async fn the_buffer_is_used_again_while_small_parts_are_kept() {
        let (mut client, near) = duplex(READ_LEN_MAX);
        let mut reader = Reader::new(near, BytesMut::new());
        let mut content = Content::new(Framing::Length(u64::MAX));
        let mut buffers = std::collections::HashSet::new();
        let mut kept = Vec::new();
        for _ in 0..1_000 {
            client.write_all(b"a").await.unwrap();
            poll_fn(|cx| reader.poll_read(cx)).await.unwrap();
            buffers.insert(reader.bytes.as_ptr().addr() / READ_LEN_MAX);
            kept.push(content.next(&mut reader.bytes).unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!((kept.len(), reader.bytes.capacity() <= 2 * READ_LEN_MIN), (1_000, true));
        assert!(buffers.len() <= 3, "{buffers:?}");
    }
}
