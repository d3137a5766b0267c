//! Fuzz target: any bytes at the position of a frame are a frame, the end, or a known kind of damage.

use super::frame::{FrameRead, encode, read};

/// Files grow large, but small ones show every case.
const LEN_MAX: usize = 4_096;

pub(crate) fn frame(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(LEN_MAX)];
    match read(bytes) {
        FrameRead::Frame { first, entries, len, .. } => {
            assert!(len <= bytes.len());
            let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
            let (again, _) = encode(first, 0, &entries);
            assert_eq!(again.len(), len);
        }
        FrameRead::End => assert!(bytes.is_empty()),
        FrameRead::Torn | FrameRead::Damaged => {}
    }
    // Any bytes can be written as an entry, and are read back unchanged.
    let (whole, chain) = encode(7, 9, &[bytes, b"", bytes]);
    let entries = vec![bytes.to_vec(), Vec::new(), bytes.to_vec()];
    assert_eq!(read(&whole), FrameRead::Frame { first: 7, entries, len: whole.len(), chain });
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (first, chain) = encode(1, 0, &[b"one", b"", b"three"]);
    let (second, _) = encode(4, chain, &[b"four"]);
    vec![[first.clone(), second].concat(), first, vec![0; 64]]
}
