//! What a W3C trace parent is.

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
    use maxine_telemetry::TraceName;

    #[test]
    fn what_is_made_is_valid() {
        for _ in 0..100 {
            let (id, parent) = (TraceName::new_id(), TraceName::new_parent());
            assert!(is_valid_traceparent(parent.header_value().as_bytes()));
            assert_eq!(id.text().len(), 32);
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
