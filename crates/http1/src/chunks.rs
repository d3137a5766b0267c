//! The chunked coding (RFC 9112 section 7.1), read strictly: a chunk's line ends with CRLF, its size consists of
//! hexadecimal digits only, and all lengths are limited.

use bytes::{Buf, Bytes, BytesMut};
use http::header::HeaderMap;

use super::fields::HeadCopy;
use super::head_wait::HeadWait;
use super::reader::take;

/// Maximum length of a chunk's first line, with its extensions, in bytes.
const LINE_LEN_MAX: usize = 4_096;
/// Maximum length of the trailer section, in bytes.
const TRAILERS_LEN_MAX: usize = 16 * 1_024;
/// Maximum number of fields in the trailer section.
const TRAILERS_MAX: usize = 64;
/// Maximum number of digits of a chunk's size. A size of this many digits fits into 60 bits.
const DIGITS_MAX: usize = 15;

/// The bytes are not the chunked coding, or are above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunks are malformed")]
pub struct BadChunks;

/// What the decoder has read.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// Content.
    Data(Bytes),
    /// The end of the content, with the fields of the trailer section.
    End(Option<HeaderMap>),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The line with the size of the next chunk.
    Line,
    /// Content of a chunk, of which this number of bytes is left.
    Data(u64),
    /// The line end after the content of a chunk.
    AfterData,
    /// The trailer section after the last chunk.
    Trailers(HeadWait),
    Ended,
}

/// Reads the chunked coding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder(State);

impl Decoder {
    /// A decoder that expects the beginning of the content.
    pub(super) fn new() -> Self {
        Self(State::Line)
    }

    /// Takes the next part out of `bytes`. `None` if more bytes are needed.
    pub(super) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Part>, BadChunks> {
        loop {
            match self.0 {
                State::Line => {
                    let Some(len) = line_len(bytes, LINE_LEN_MAX)? else { return Ok(None) };
                    let size = size(&bytes[..len])?;
                    bytes.advance(len + 2);
                    self.0 = if size == 0 {
                        State::Trailers(HeadWait::default())
                    } else {
                        State::Data(size)
                    };
                }
                State::Data(left) => {
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let data = take(bytes, len);
                    let left = left - len as u64;
                    self.0 = if left == 0 { State::AfterData } else { State::Data(left) };
                    return Ok(Some(Part::Data(data)));
                }
                State::AfterData => {
                    if bytes.len() < 2 {
                        return if b"\r\n".starts_with(bytes) { Ok(None) } else { Err(BadChunks) };
                    }
                    if &bytes[..2] != b"\r\n" {
                        return Err(BadChunks);
                    }
                    bytes.advance(2);
                    self.0 = State::Line;
                }
                State::Trailers(mut wait) => {
                    let is_worth_reading = wait.is_worth_reading(bytes, TRAILERS_LEN_MAX + 1);
                    self.0 = State::Trailers(wait);
                    if !is_worth_reading {
                        return Ok(None);
                    }
                    let Some((len, fields)) = trailers(bytes)? else { return Ok(None) };
                    bytes.advance(len);
                    self.0 = State::Ended;
                    return Ok(Some(Part::End(fields)));
                }
                State::Ended => return Ok(Some(Part::End(None))),
            }
        }
    }
}

/// The length of the first line without its CRLF; `None` if its end has not arrived yet.
fn line_len(bytes: &[u8], max: usize) -> Result<Option<usize>, BadChunks> {
    let part = &bytes[..bytes.len().min(max + 2)];
    match part.iter().position(|byte| *byte == b'\n') {
        None if part.len() == max + 2 => Err(BadChunks),
        None => Ok(None),
        Some(end) => match end.checked_sub(1).filter(|at| part[*at] == b'\r') {
            Some(len) if !part[..len].contains(&b'\r') => Ok(Some(len)),
            _ => Err(BadChunks),
        },
    }
}

/// The size in a chunk's line. Extensions are ignored (RFC 9112 section 7.1.1), but must not contain control
/// characters.
fn size(line: &[u8]) -> Result<u64, BadChunks> {
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(BadChunks);
    }
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let mut rest = line[digits..].iter().skip_while(|byte| matches!(byte, b' ' | b'\t'));
    let is_size = (1..=DIGITS_MAX).contains(&digits) && matches!(rest.next(), None | Some(b';'));
    if !is_size {
        return Err(BadChunks);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| BadChunks)?;
    u64::from_str_radix(text, 16).map_err(|_| BadChunks)
}

/// The length of the trailer section and its fields; `None` if its end has not arrived yet.
fn trailers(bytes: &[u8]) -> Result<Option<(usize, Option<HeaderMap>)>, BadChunks> {
    if bytes.starts_with(b"\r\n") {
        return Ok(Some((2, None)));
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((len, fields)))
            if len <= TRAILERS_LEN_MAX && has_only_crlf(&bytes[..len]) =>
        {
            let fields = HeadCopy::new(&bytes[..len]).fields(fields).ok_or(BadChunks)?;
            Ok(Some((len, Some(fields))))
        }
        Ok(httparse::Status::Partial) if bytes.len() <= TRAILERS_LEN_MAX => Ok(None),
        _ => Err(BadChunks),
    }
}

/// Whether each line ends with CRLF.
fn has_only_crlf(lines: &[u8]) -> bool {
    lines.split(|byte| *byte == b'\n').rev().skip(1).all(|line| line.ends_with(b"\r"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All parts that the decoder reads when the bytes arrive in pieces of this length.
    fn read(
        bytes: &[u8],
        piece_len: usize,
    ) -> Result<(Vec<u8>, Option<HeaderMap>, usize), BadChunks> {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        let mut content = Vec::new();
        let mut pieces = bytes.chunks(piece_len);
        loop {
            match decoder.decode(&mut buffer)? {
                Some(Part::Data(data)) => content.extend_from_slice(&data),
                Some(Part::End(fields)) => {
                    let left = buffer.len() + pieces.map(<[u8]>::len).sum::<usize>();
                    return Ok((content, fields, left));
                }
                None => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Ok((content, None, usize::MAX)),
                },
            }
        }
    }

    #[test]
    fn chunks_extensions_and_trailers_are_read_in_pieces_of_any_length() {
        let bytes = b"5\r\nhello\r\n00A;a=b\r\n, chunked!\r\n0\r\nx-sum: 1\r\nx-own:2\r\n\r\nHTTP";
        for piece_len in 1..=bytes.len() {
            let (content, fields, left) = read(bytes, piece_len).unwrap();
            assert_eq!(content, b"hello, chunked!");
            let fields = fields.unwrap();
            assert_eq!((fields.len(), &fields["x-sum"], left), (2, &"1".parse().unwrap(), 4));
        }
        assert_eq!(read(b"0\r\n\r\n", 1), Ok((vec![], None, 0)));
    }

    #[test]
    fn bytes_that_could_be_read_in_two_ways_are_refused() {
        let bad: [&[u8]; 18] = [
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\r\nhello\r\n",
            b"5 \rx\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"\r\n5\r\nhello\r\n",
            b"5\r\nhelloo\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5,5\r\nhello\r\n",
            b"1000000000000000\r\n",
            b"g\r\n",
            b";a=b\r\n",
            b"5;\0\r\nhello\r\n0\r\n\r\n",
            b"5;a=\"\x7f\"\r\nhello\r\n0\r\n\r\n",
            b"0\r\nno field\r\n\r\n",
            b"0\r\nx: 1\n\r\n",
            b"0\r\nx: 1\r\n\n",
        ];
        for bytes in bad {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(read(bytes, bytes.len()), Err(BadChunks), "{shown:?}");
            assert_eq!(read(bytes, 1), Err(BadChunks), "{shown:?}");
        }
        let long_line = [&b"1;"[..], &[b'a'; LINE_LEN_MAX]].concat();
        assert_eq!(read(&long_line, 7), Err(BadChunks));
        let long_trailers = [&b"0\r\na:"[..], &[b'a'; TRAILERS_LEN_MAX], b"\r\n\r\n"].concat();
        assert_eq!(read(&long_trailers, 1_000), Err(BadChunks));
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILERS_MAX + 1));
        assert_eq!(read(many.as_bytes(), 1_000), Err(BadChunks));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..8),
            piece_len in 1_usize..64,
        ) {
            let mut bytes = Vec::new();
            for part in &parts {
                bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\nrest");
            prop_assert_eq!(read(&bytes, piece_len), Ok((parts.concat(), None, 4)));
        }

        #[test]
        fn no_bytes_make_it_panic_or_depend_on_how_they_arrive(
            bytes in prop::collection::vec(prop::sample::select(b"0123a;=\r\n :x".to_vec()), 0..60),
        ) {
            prop_assert_eq!(read(&bytes, 1), read(&bytes, bytes.len().max(1)));
        }
    }
}
