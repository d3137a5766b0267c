//! Texts of the protocol: durations as Go writes them, and the parts of a URL.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Maximum number of parameters in a query. Further ones are ignored by no route, so they are refused.
pub(crate) const PARAMETERS_MAX: usize = 128;

/// The parameters of a query, in their order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits a query. `None` if it has too many parameters.
    pub(crate) fn parse(raw: &str) -> Option<Self> {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty());
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let mut all = Vec::new();
        for pair in pairs {
            if all.len() == PARAMETERS_MAX {
                return None;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.push((decoded(name), decoded(value)));
        }
        Some(Self(all))
    }

    /// Adds a value that came in another way.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The first value of a parameter, also if it is empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The first value of a parameter that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let of_it = move |pair: &&(String, String)| pair.0 == name;
        self.0.iter().filter(of_it).map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is there, whatever its value is.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }
}

/// Whether a part of a URL is UTF-8 once it is decoded.
pub(crate) fn is_utf8(encoded: &str) -> bool {
    percent_decode_str(encoded).decode_utf8().is_ok()
}

/// Whether each `%` in a part of a URL begins an escape.
pub(crate) fn has_whole_escapes(encoded: &str) -> bool {
    encoded.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Decodes the rest of a path, in which an encoded slash is the same as a slash.
pub(crate) fn decoded_path(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

/// Reads a boolean as Go does.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a duration as Go writes it, such as `1m30s`, `1.5h` or `300ms`, in milliseconds. It is rounded up to the next
/// millisecond, so that a short duration is not taken for none. `None` if it is malformed, negative, or too long for 64 bits.
pub(crate) fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
        let (unit, after) = after.split_at(unit_len);
        let unit_ns: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() || part.contains('.') || number.len() > 30 {
            return None;
        }
        let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
        nanos += digits(whole)?.checked_mul(unit_ns)?;
        let part = &part[..part.len().min(18)];
        nanos += digits(part)?.checked_mul(unit_ns)? / 10_u128.pow(part.len() as u32);
        rest = after;
    }
    u64::try_from(nanos.div_ceil(1_000_000)).ok().filter(|_| nanos <= i64::MAX as u128)
}

/// Writes a duration as Go does: `1h0m0s`, `1m30s`, `10s`, `1.5s`, `300ms`.
pub(crate) fn duration_text(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let seconds = format!("{}.{:03}", ms / 1_000 % 60, ms % 1_000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, ms) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("300000ms", Some(300_000)),
            (".5s", Some(500)),
            ("0", Some(0)),
            ("999us", Some(1)),
            ("", None),
            ("10", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("9999999999999999999999h", None),
        ] {
            assert_eq!(duration_ms(text), ms, "{text}");
        }
        for (ms, text) in [
            (0, "0s"),
            (300, "300ms"),
            (1_500, "1.5s"),
            (10_000, "10s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration_text(ms), text);
            assert_eq!(duration_ms(text), Some(ms));
        }
    }

    #[test]
    fn queries_are_decoded_and_bounded() {
        let query = Query::parse("tag=a%2Fb&tag=c+d&stale&passing=").unwrap();
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert!(query.has("stale") && query.has("passing") && !query.has("index"));
        assert_eq!(query.get("passing"), None);
        assert!(Query::parse(&"a=1&".repeat(PARAMETERS_MAX + 1)).is_none());
    }
}
