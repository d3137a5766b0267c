//! The wait for a head that may arrive in pieces.

/// A head that is shorter than this (in bytes) is parsed again with each piece that arrives. A longer one is parsed
/// again only when its end may have arrived. Otherwise the cost of a head that arrives byte by byte would grow with the
/// square of its length.
const EAGER_LEN: usize = 64;

/// How many bytes of an incomplete head were parsed already.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadWait {
    seen_len: usize,
}

impl HeadWait {
    /// Whether `bytes`, which begin with the head, are worth parsing now. `len_max` is the limit for the head, in
    /// bytes.
    pub fn is_worth_reading(&mut self, bytes: &[u8], len_max: usize) -> bool {
        let seen_len = std::mem::replace(&mut self.seen_len, bytes.len());
        !bytes.is_empty()
            && (seen_len < EAGER_LEN || bytes.len() >= len_max || may_end(bytes, seen_len))
    }

    /// Reports that the first `len` bytes were taken out of the buffer.
    pub fn take(&mut self, len: usize) {
        self.seen_len = self.seen_len.saturating_sub(len);
    }
}

/// Whether bytes from `from` on may hold the end of a head.
fn may_end(bytes: &[u8], from: usize) -> bool {
    let part = &bytes[from.saturating_sub(3)..];
    part.windows(2).any(|pair| pair == b"\n\n" || pair == b"\n\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_when_it_is_complete_and_seldom_before() {
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let head = format!("GET / HTTP/1.1\r\nX: {}{end}", "a".repeat(1_000));
            let mut wait = HeadWait::default();
            let mut worth = 0;
            for len in 1..head.len() {
                worth += usize::from(wait.is_worth_reading(&head.as_bytes()[..len], 8_192));
            }
            assert!(worth <= EAGER_LEN + 3, "{end:?}: {worth}");
            assert!(wait.is_worth_reading(head.as_bytes(), 8_192), "{end:?}");
        }
        let mut wait = HeadWait::default();
        let long = vec![b'a'; 8_192];
        assert!(wait.is_worth_reading(&long[..100], 8_192));
        assert!(!wait.is_worth_reading(&long[..8_191], 8_192));
        assert!(wait.is_worth_reading(&long, 8_192), "it is too long");
        wait.take(8_192);
        assert!(!wait.is_worth_reading(&[], 8_192));
        assert!(wait.is_worth_reading(b"G", 8_192), "another head");
    }
}
