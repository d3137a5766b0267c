//! The format of entries in the log file: one frame with a checksum for each sync.
//!
//! `length u32 | first entry u64 | chain u32 | checksum of the body u32 | checksum of the head u32 | body`,
//! all little endian. The body has the length and the bytes of each entry. Unless syncing is turned off, a frame is
//! synced before the next one is written. So only the last frame can be torn, and no caller was answered for it.
//!
//! The chain is a checksum over all bodies so far. With it, a reader notices that a file was replaced by an
//! older copy and then continued.

/// Maximum length of the body of a frame, in bytes.
pub(super) const BODY_LEN_MAX: usize = 32 * 1024 * 1024;
const HEAD_LEN: usize = 24;

/// What was found at a position in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameRead {
    /// A complete frame: the number of its first entry, its entries, its length, and the chain after it.
    Frame { first: u64, entries: Vec<Vec<u8>>, len: usize, chain: u32 },
    /// The end of the file.
    End,
    /// An incomplete frame with nothing after it: its writer died.
    Torn,
    /// Bytes that are no frame, although complete frames follow.
    Damaged,
}

/// Encodes entries as a frame that follows on `chain`. Returns the frame and the new chain.
pub(super) fn encode(first: u64, chain: u32, entries: &[&[u8]]) -> (Vec<u8>, u32) {
    let body_len: usize = entries.iter().map(|entry| entry.len() + 4).sum();
    let mut out = Vec::with_capacity(HEAD_LEN + body_len);
    out.resize(HEAD_LEN, 0);
    for entry in entries {
        out.extend_from_slice(&length(entry.len()).to_le_bytes());
        out.extend_from_slice(entry);
    }
    let body_sum = crc32c::crc32c(&out[HEAD_LEN..]);
    let chain = crc32c::crc32c_append(chain, &out[HEAD_LEN..]);
    out[..4].copy_from_slice(&length(body_len).to_le_bytes());
    out[4..12].copy_from_slice(&first.to_le_bytes());
    out[12..16].copy_from_slice(&chain.to_le_bytes());
    out[16..20].copy_from_slice(&body_sum.to_le_bytes());
    let head_sum = crc32c::crc32c(&out[..20]);
    out[20..HEAD_LEN].copy_from_slice(&head_sum.to_le_bytes());
    (out, chain)
}

/// Length of the body for these entries.
pub(super) fn body_len(entries: &[Vec<u8>]) -> usize {
    entries.iter().map(|entry| entry.len() + 4).sum()
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("entries and frames are bounded far below 4 GiB")
}

/// Decodes the frame at the start of `bytes`, which extend to the end of the file.
pub(super) fn read(bytes: &[u8]) -> FrameRead {
    if bytes.is_empty() {
        return FrameRead::End;
    }
    if let Some(head) = head(bytes)
        && let Some(body) = head.body(bytes)
        && let Some(entries) = split(body)
    {
        let len = HEAD_LEN + body.len();
        return FrameRead::Frame { first: head.first, entries, len, chain: head.chain };
    }
    let follows = (1..bytes.len()).any(|at| is_whole(&bytes[at..]));
    if follows { FrameRead::Damaged } else { FrameRead::Torn }
}

struct Head {
    first: u64,
    body_len: usize,
    chain: u32,
    body_sum: u32,
}

impl Head {
    /// The body, if it is complete and its checksum is right.
    fn body<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let body = bytes.get(HEAD_LEN..HEAD_LEN + self.body_len)?;
        (crc32c::crc32c(body) == self.body_sum).then_some(body)
    }
}

fn head(bytes: &[u8]) -> Option<Head> {
    let head = bytes.get(..HEAD_LEN)?;
    let number = |from: usize| {
        let bytes = head.get(from..from + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let body_len = usize::try_from(number(0)?).ok()?;
    let first = u64::from_le_bytes(head.get(4..12)?.try_into().ok()?);
    let sound = crc32c::crc32c(&head[..20]) == number(20)? && body_len <= BODY_LEN_MAX;
    let (chain, body_sum) = (number(12)?, number(16)?);
    (sound && body_len > 0).then_some(Head { first, body_len, chain, body_sum })
}

fn is_whole(bytes: &[u8]) -> bool {
    head(bytes).is_some_and(|head| head.body(bytes).is_some())
}

fn split(mut body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while !body.is_empty() {
        let (len, rest) = body.split_at_checked(4)?;
        let len = usize::try_from(u32::from_le_bytes(len.try_into().ok()?)).ok()?;
        let (entry, rest) = rest.split_at_checked(len)?;
        entries.push(entry.to_vec());
        body = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_every_cut_of_it_is_torn() {
        let (frame, chain) = encode(7, 9, &[b"one", b"", b"three"]);
        let entries = vec![b"one".to_vec(), Vec::new(), b"three".to_vec()];
        assert_eq!(read(&frame), FrameRead::Frame { first: 7, entries, len: frame.len(), chain });
        assert_eq!(read(&[]), FrameRead::End);
        for cut in 1..frame.len() {
            assert_eq!(read(&frame[..cut]), FrameRead::Torn, "cut at {cut}");
        }
        assert_eq!(read(&[0; 4096]), FrameRead::Torn, "a file that was lengthened but not written");
    }

    #[test]
    fn a_flipped_bit_is_damage_where_whole_frames_follow() {
        let (first, chain) = encode(1, 0, &[b"one"]);
        let (second, _) = encode(2, chain, &[b"two"]);
        for at in 0..first.len() {
            let mut bytes = [first.clone(), second.clone()].concat();
            bytes[at] ^= 0x10;
            assert_eq!(read(&bytes), FrameRead::Damaged, "flipped at {at}");
        }
    }
}
