//! Frames on a stream: `u32 length | u64 request id | envelope`.
//!
//! A frame above the length limit ends the connection before it is read.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::codec::{self, Body};

/// A connection, encrypted or not.
pub(crate) trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> PeerStream for T {}

const PREFIX_LEN: usize = 4;
const ID_LEN: usize = 8;

/// Appends one frame to `out`.
pub(crate) fn put_frame<B: Body>(id: u64, body: &B, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_LEN]);
    out.extend_from_slice(&id.to_be_bytes());
    codec::encode_into(body, out);
    finish_frame(start, out);
}

/// Appends a frame whose envelope is already encoded.
pub(crate) fn put_encoded(id: u64, envelope: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_LEN]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(envelope);
    finish_frame(start, out);
}

fn finish_frame(start: usize, out: &mut [u8]) {
    let len = u32::try_from(out.len() - start - PREFIX_LEN)
        .expect("a frame is bounded by the frame limit, far below 4 GiB");
    out[start..start + PREFIX_LEN].copy_from_slice(&len.to_be_bytes());
}

/// Reads frames. It may be dropped between two calls, but not during one.
pub(crate) struct FrameReader<R> {
    inner: R,
    buffer: BytesMut,
    frame_len_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(inner: R, frame_len_max: usize) -> Self {
        Self { inner, buffer: BytesMut::with_capacity(64 * 1024), frame_len_max }
    }

    /// The next frame, or `None` at the orderly end of the stream. Cancel-safe: data that was read stays in
    /// the buffer.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(u64, Bytes)>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_frame(&mut self) -> io::Result<Option<(u64, Bytes)>> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len < ID_LEN || len > self.frame_len_max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame of {len} bytes; the limit is {}", self.frame_len_max),
            ));
        }
        if self.buffer.len() < PREFIX_LEN + len {
            self.buffer.reserve(PREFIX_LEN + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX_LEN);
        let mut frame = self.buffer.split_to(len).freeze();
        let id = frame.get_u64();
        Ok(Some((id, frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Request;

    #[tokio::test]
    async fn frames_survive_any_split_of_the_stream() {
        let mut bytes = Vec::new();
        for id in 0..20 {
            put_frame(id, &Request::App { body: vec![id as u8; id as usize * 10] }, &mut bytes);
        }
        for step in [1, 3, 7, 1000] {
            let (mut writer, reader) = tokio::io::duplex(step);
            let copy = bytes.clone();
            tokio::spawn(
                async move { tokio::io::AsyncWriteExt::write_all(&mut writer, &copy).await },
            );
            let mut frames = FrameReader::new(reader, 4096);
            for id in 0..20 {
                let (got, body) = frames.next().await.unwrap().unwrap();
                assert_eq!(got, id);
                assert_eq!(
                    codec::decode::<Request>(&body).unwrap(),
                    Request::App { body: vec![id as u8; id as usize * 10] }
                );
            }
            assert!(frames.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_unread() {
        let mut frames = FrameReader::new(&b"\xff\xff\xff\xff"[..], 4096);
        assert!(frames.next().await.is_err());
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error() {
        let mut bytes = Vec::new();
        put_frame(1, &Request::Ping, &mut bytes);
        bytes.pop();
        let mut frames = FrameReader::new(&bytes[..], 4096);
        assert!(frames.next().await.is_err());
    }
}
