//! Every bound on what a client may store, in one table.
//!
//! What is over a bound is refused with the field, the limit and the value ([`LimitExceeded`]).

use serde::Serialize;

/// Longest name of a service or instance, zone, version or tag, in bytes.
pub const NAME_LEN_MAX: usize = 255;
/// Longest address, in bytes.
pub const ADDRESS_LEN_MAX: usize = 2_048;
/// Most tags of one instance.
pub const TAGS_MAX: usize = 64;
/// Most metadata entries of one instance.
pub const METADATA_ENTRIES_MAX: usize = 64;
/// Longest metadata value, in bytes.
pub const METADATA_VALUE_LEN_MAX: usize = 1_024;
/// All metadata of one instance, keys and values, in bytes.
pub const METADATA_TOTAL_LEN_MAX: usize = 8_192;
/// Largest weight of an instance; the least is 1.
pub const WEIGHT_MAX: u16 = 100;
/// Shortest time to live of a lease, in milliseconds.
pub const TTL_MS_MIN: u64 = 1_000;
/// Longest time to live of a lease, in milliseconds (400 days).
pub const TTL_MS_MAX: u64 = 400 * 24 * 3_600 * 1_000;
/// Most instances in one service.
pub const INSTANCES_PER_SERVICE_MAX: usize = 100_000;
/// Most services in the whole registry.
pub const SERVICES_MAX: usize = 200_000;
/// Most registrations, heartbeats or deregistrations in one batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Largest policy of a service, as the log holds it, in bytes.
pub const POLICY_LEN_MAX: usize = 64 * 1_024;
/// Most users.
pub const USERS_MAX: usize = 1_000;
/// Most sessions of one user that are remembered as ended. One more ends all of the user's sessions.
pub const ENDED_SESSIONS_MAX: usize = 64;
/// Most API tokens.
pub const TOKENS_MAX: usize = 10_000;
/// Longest free text (a reason, a note), in bytes.
pub const TEXT_LEN_MAX: usize = 1_024;
/// Requests whose first reply is remembered, so that a retry takes effect once.
pub const REMEMBERED_REQUESTS_MAX: usize = 131_072;
/// How long a request's first reply is remembered at least while there is room, in milliseconds.
pub const REMEMBERED_REQUESTS_MS: u64 = 600_000;

/// A value that is outside its limit: whose it is, what the limit is, and what came.
#[derive(
    Clone, Debug, PartialEq, Eq, Serialize, bincode::Encode, bincode::Decode, thiserror::Error,
)]
#[error("{field} must be {limit}, got {value}")]
pub struct LimitExceeded {
    /// The field's name as the client wrote it.
    pub field: String,
    /// What is allowed, in words.
    pub limit: String,
    /// What came, shortened.
    pub value: String,
}

impl LimitExceeded {
    /// Says that `value` of `field` is not within `limit`; a long value is shortened.
    pub fn new(field: &str, limit: impl Into<String>, value: impl std::fmt::Display) -> Self {
        let mut value = value.to_string();
        if value.len() > 64 {
            let end = (0..=64).rev().find(|i| value.is_char_boundary(*i)).unwrap_or(0);
            let bytes = value.len();
            value.truncate(end);
            value.push_str(&format!("… ({bytes} bytes)"));
        }
        Self { field: field.into(), limit: limit.into(), value: value.escape_debug().to_string() }
    }
}

/// Checks the length of `text` in bytes and that it has no control characters.
pub fn check_text(
    field: &str,
    text: &str,
    len_min: usize,
    len_max: usize,
) -> Result<(), LimitExceeded> {
    if text.len() < len_min || text.len() > len_max {
        let got = format!("{} bytes: {text}", text.len());
        return Err(LimitExceeded::new(field, format!("{len_min} to {len_max} bytes long"), got));
    }
    if text.chars().any(char::is_control) {
        return Err(LimitExceeded::new(field, "free of control characters", text));
    }
    Ok(())
}

/// Checks a name: its length, its characters, and that it can stand in the path of a URL. There `.`
/// and `..` mean another path, percent-encoded too (RFC 3986, section 5.2.4; WHATWG URL).
pub fn check_name(field: &str, text: &str) -> Result<(), LimitExceeded> {
    check_text(field, text, 1, NAME_LEN_MAX)?;
    if matches!(text, "." | "..") {
        return Err(LimitExceeded::new(field, "a name other than . and ..", text));
    }
    Ok(())
}

/// Checks that a number lies within `min..=max`.
pub fn check_range(field: &str, value: u64, min: u64, max: u64) -> Result<(), LimitExceeded> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(LimitExceeded::new(field, format!("from {min} to {max}"), value))
}

/// Checks that a list holds at most `max` items.
pub fn check_count(field: &str, count: usize, max: usize) -> Result<(), LimitExceeded> {
    if count <= max {
        return Ok(());
    }
    Err(LimitExceeded::new(field, format!("at most {max} items"), format!("{count} items")))
}

/// Whether `text` is a token (RFC 9110, section 5.6.2): a method or the name of a header field.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_part)
}

/// Whether `text` can be the value of a header field: visible ASCII, spaces and tabs.
#[must_use]
pub fn is_field_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library that builds requests must take whatever the state has accepted.
    #[test]
    fn tokens_and_field_values_are_those_of_the_http_library() {
        for byte in 0..=0x7f_u8 {
            for text in [char::from(byte).to_string(), format!("a{}b", char::from(byte))] {
                let name = http::HeaderName::from_bytes(text.as_bytes()).is_ok();
                assert_eq!(is_token(&text), name, "{text:?}");
                let method = http::Method::from_bytes(text.as_bytes()).is_ok();
                assert_eq!(is_token(&text), method, "{text:?}");
                let value = http::HeaderValue::from_str(&text).is_ok();
                assert_eq!(is_field_value(&text), value, "{text:?}");
            }
        }
        assert!(!is_token("") && !is_token("ü") && !is_field_value("ü") && is_field_value(""));
    }
}
