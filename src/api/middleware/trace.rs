//! The names that a request goes by: its trace id, and its W3C trace parent.

use axum::http::HeaderValue;
use bytes::Bytes;

const HEX: &[u8; 16] = b"0123456789abcdef";

const TRACE_ID_LEN: usize = 32;

/// A new trace id, 32 lower-case hex digits, and a new trace parent, `00-<32 hex>-<16 hex>-01`. They
/// share their memory, for nearly every request needs both.
pub(super) fn new_names() -> (HeaderValue, HeaderValue) {
    let mut text =
        *b"0000000000000000000000000000000000-00000000000000000000000000000000-0000000000000000-01";
    let (trace_id, parent) = text.split_at_mut(TRACE_ID_LEN);
    write_hex(trace_id, fastrand::u128(..));
    // An id of zeros is not valid; 1 is.
    write_hex(&mut parent[3..35], fastrand::u128(1..));
    write_hex(&mut parent[36..52], u128::from(fastrand::u64(1..)));
    let mut trace_id = Bytes::copy_from_slice(&text);
    let parent = trace_id.split_off(TRACE_ID_LEN);
    (header_value(trace_id), header_value(parent))
}

fn write_hex(out: &mut [u8], mut number: u128) {
    for digit in out.iter_mut().rev() {
        *digit = HEX[(number & 0xf) as usize];
        number >>= 4;
    }
}

fn header_value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("hex digits and hyphens are valid in a header")
}

/// Whether a value is a `traceparent` by the W3C's Trace Context, section 3.2.2. A version after
/// 00 may add fields.
pub(super) fn is_valid_traceparent(value: &[u8]) -> bool {
    if value.len() < 55 || value.len() > 512 {
        return false;
    }
    let (head, tail) = value.split_at(55);
    let hex = |range: std::ops::Range<usize>| {
        head[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zeros = |range: std::ops::Range<usize>| head[range].iter().all(|b| *b == b'0');
    let shape = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let version_00 = head.starts_with(b"00");
    shape
        && hex(0..2)
        && hex(3..35)
        && hex(36..52)
        && hex(53..55)
        && !head.starts_with(b"ff")
        && !zeros(3..35)
        && !zeros(36..52)
        && (tail.is_empty() || (!version_00 && tail[0] == b'-'))
        && tail.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_valid() {
        for _ in 0..100 {
            let (id, parent) = new_names();
            assert!(is_valid_traceparent(parent.as_bytes()));
            assert_eq!(id.len(), TRACE_ID_LEN);
            assert!(id.as_bytes().iter().all(|b| b.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn what_is_not_a_traceparent_is_told() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_valid_traceparent(good.as_bytes()));
        assert!(is_valid_traceparent(format!("cc{}-more", &good[2..]).as_bytes()));
        for bad in [
            "",
            "anything",
            &good[..54],
            &format!("{good}-more"),
            &format!("ff{}", &good[2..]),
            &good.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!is_valid_traceparent(bad.as_bytes()), "{bad}");
        }
        // What a later version adds is text, not any bytes that a header may hold.
        let strange = [format!("cc{}-", &good[2..]).as_bytes(), b"\xe9\xff"].concat();
        assert!(!is_valid_traceparent(&strange));
    }
}
