//! The `Date` of answers (RFC 9110 section 6.6.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

/// The date text of one second. It is kept because most answers have the same second as the answer before them.
#[derive(Default)]
struct Date {
    second: Option<u64>,
    text: String,
}

thread_local! {
    static DATE: RefCell<Date> = RefCell::default();
}

/// Writes a time as the value of a `Date`. `time_ms` is milliseconds since the Unix epoch.
pub fn push_date(out: &mut Vec<u8>, time_ms: u64) {
    DATE.with_borrow_mut(|Date { second, text }| {
        let now = time_ms / 1_000;
        if *second != Some(now) {
            *second = Some(now);
            *text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
        }
        out.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own_text() {
        let date = |time_ms| {
            let mut out = Vec::new();
            push_date(&mut out, time_ms);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(date(1_999), "Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(date(2_000), "Thu, 01 Jan 1970 00:00:02 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
