//! The limits on everything that a client may store.
//!
//! A value above its limit is refused. The error names the field, the limit and the value
//! ([`LimitExceeded`]).

use bincode::{Decode, Encode};

use super::field::Field;
use super::invisible::is_invisible;

/// Maximum length of the name of a service, an instance, a zone, a version or a node, in bytes.
pub const NAME_LEN_MAX: usize = 255;
/// Maximum length of an address, in bytes.
pub const ADDRESS_LEN_MAX: usize = 2_048;
/// Maximum number of tags of one instance.
pub const TAGS_MAX: usize = 64;
/// Maximum length of a tag, in bytes.
pub const TAG_LEN_MAX: usize = 1_024;
/// Maximum number of metadata entries of one instance.
pub const METADATA_ENTRIES_MAX: usize = 64;
/// Maximum length of a metadata value, in bytes.
pub const METADATA_VALUE_LEN_MAX: usize = 1_024;
/// Maximum size of all metadata of one instance, keys and values, in bytes.
pub const METADATA_TOTAL_LEN_MAX: usize = 8_192;
/// Maximum number of checks of one instance.
pub const CHECKS_MAX: usize = 16;
/// Maximum length of the output of a check, in bytes.
pub const CHECK_OUTPUT_LEN_MAX: usize = 4_096;
/// Maximum weight of an instance. The minimum is 1.
pub const WEIGHT_MAX: u16 = 100;
/// Minimum time to live of a lease, in milliseconds.
pub const TTL_MS_MIN: u64 = 1_000;
/// Maximum time to live of a lease, in milliseconds (400 days).
pub const TTL_MS_MAX: u64 = 400 * 24 * 3_600 * 1_000;
/// Maximum number of instances in one service.
pub const INSTANCES_PER_SERVICE_MAX: usize = 100_000;
/// Maximum number of services in the whole registry.
pub const SERVICES_MAX: usize = 200_000;
/// Maximum number of instances in the whole registry.
pub const INSTANCES_MAX: usize = 2_000_000;
/// Number of instances above which a caller without a credential cannot add another one. The rest is reserved
/// for callers with a credential.
pub const OPEN_INSTANCES_MAX: usize = INSTANCES_MAX / 2;
/// Maximum total size of all registrations and check outputs, in bytes, as [`Instance::stored_len`] counts it.
///
/// [`Instance::stored_len`]: super::Instance::stored_len
pub const REGISTRATIONS_LEN_MAX: u64 = 1_024 * 1_024 * 1_024;
/// Total size of registrations above which a caller without a credential cannot add to it, in bytes.
pub const OPEN_REGISTRATIONS_LEN_MAX: u64 = REGISTRATIONS_LEN_MAX / 2;
/// Maximum number of registrations, heartbeats or deregistrations in one batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// Maximum size of a service's policy in the log, in bytes.
pub const POLICY_LEN_MAX: usize = 64 * 1_024;
/// Maximum number of users.
pub const USERS_MAX: usize = 1_000;
/// Maximum number of ended sessions that are remembered for one user. If there is one more, all sessions of
/// the user end.
pub const ENDED_SESSIONS_MAX: usize = 64;
/// Maximum number of API tokens.
pub const TOKENS_MAX: usize = 10_000;
/// Maximum length of a free text (a reason, a note), in bytes.
pub const TEXT_LEN_MAX: usize = 1_024;
/// Maximum number of requests whose first reply is remembered, so that a retry takes effect once. The limit
/// applies twice: to callers with a credential together with Maxine itself, and to all other callers.
pub const REMEMBERED_REQUESTS_MAX: usize = 65_536;
/// Maximum size of the remembered replies of each of the two groups. Each result counts as 1, and a refusal
/// as 8.
pub const REMEMBERED_RESULTS_MAX: usize = 2_000_000;
/// Minimum time that a first reply is remembered while there is room, in milliseconds.
pub const REMEMBERED_REQUESTS_MS: u64 = 600_000;

/// Maximum length of a key, in bytes.
pub const KV_KEY_LEN_MAX: usize = 1_024;
/// Maximum length of a value, in bytes.
pub const KV_VALUE_LEN_MAX: usize = 512 * 1_024;
/// Maximum number of operations in one transaction.
pub const KV_OPS_MAX: usize = 128;
/// Maximum size of all values that one transaction stores, in bytes.
pub const KV_TRANSACTION_LEN_MAX: usize = 1_024 * 1_024;
/// Maximum number of keys, if the configuration sets none.
pub const KV_KEYS_MAX_DEFAULT: u64 = 100_000;
/// Highest maximum number of keys that the configuration can set.
pub const KV_KEYS_MAX_MAX: u64 = 1_000_000;
/// Maximum size of all keys and values, if the configuration sets none, in bytes. Each key counts its length, that of its
/// value, and 256 bytes.
pub const KV_LEN_MAX_DEFAULT: u64 = 128 * 1_024 * 1_024;
/// Lowest maximum size of all keys and values that the configuration can set, in bytes.
pub const KV_LEN_MAX_MIN: u64 = 1_024 * 1_024;
/// Highest maximum size of all keys and values that the configuration can set, in bytes.
pub const KV_LEN_MAX_MAX: u64 = 1_024 * 1_024 * 1_024;
/// Number of deleted keys whose deletion is remembered on its own.
pub const KV_GONE_MAX: usize = 65_536;
/// Maximum time limit of a probe that a caller without a credential registers, in milliseconds. An instance that never
/// answers uses a place of the prober for this time.
pub const OPEN_PROBE_TIMEOUT_MS_MAX: u64 = 5_000;
/// Maximum number of lock sessions.
pub const LOCK_SESSIONS_MAX: usize = 100_000;
/// Maximum number of keys that one lock session holds.
pub const LOCKS_PER_SESSION_MAX: usize = 4_096;
/// Maximum number of instances and checks that can end one lock session.
pub const LOCK_SESSION_CHECKS_MAX: usize = 16;
/// Maximum time to live of a lock session, in milliseconds.
pub const LOCK_SESSION_TTL_MS_MAX: u64 = 24 * 3_600 * 1_000;
/// Maximum lock delay, in milliseconds.
pub const LOCK_DELAY_MS_MAX: u64 = 60_000;

/// A value outside its limit: the field, the limit and the value. It is a code with values, because it is
/// stored. `wording` turns it into text.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LimitExceeded {
    /// The field.
    pub field: Field,
    /// The limit.
    pub limit: Limit,
    /// The value that was given.
    pub value: Given,
}

/// The limit of a field. Variants are only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Limit {
    /// A number from `min` to `max`.
    Range {
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
    },
    /// A text of `min` to `max` bytes.
    Length {
        /// The minimum length.
        min: u64,
        /// The maximum length.
        max: u64,
    },
    /// A password of at least `chars_min` characters and at most `len_max` bytes.
    Password {
        /// The minimum number of characters.
        chars_min: u64,
        /// The maximum number of bytes.
        len_max: u64,
    },
    /// At most `max` bytes in total.
    TotalLength {
        /// The maximum, in bytes.
        max: u64,
    },
    /// At most `max` items.
    Count {
        /// The maximum number.
        max: u64,
    },
    /// A text without control characters.
    NoControlCharacters,
    /// A name other than `.` and `..`.
    NoDotName,
    /// A name without a colon.
    NoColon,
    /// A DNS label.
    Namespace,
    /// A header name.
    HeaderName,
    /// The value of a header field.
    HeaderValue,
    /// Header fields, names and values.
    HeaderFields,
    /// A header field that belongs neither to a message's framing nor to its connection.
    NoFramingField,
    /// Methods of up to 16 letters.
    Methods,
    /// A path on the instance, not a whole URL.
    NoUrl,
    /// A prefix of a path.
    PathPrefix,
    /// A weight above 0 for at least one version.
    SomeWeight,
    /// At least one admin left.
    SomeAdmin,
    /// A URL.
    Url,
    /// A URL with brackets around an IPv6 address.
    UrlBrackets,
    /// A URL whose scheme is http or https.
    UrlScheme,
    /// A URL without user information.
    UrlUser,
    /// A URL with a host.
    UrlHost,
    /// A URL with a valid port.
    UrlPort,
    /// A URL whose path has no forbidden characters.
    UrlPath,
    /// A URL without `.` or `..` in its path.
    UrlDots,
    /// At most `max` instances in the whole registry.
    WholeRegistry {
        /// The maximum number.
        max: u64,
        /// Whether this is the limit for callers without a credential.
        is_open: bool,
    },
    /// A host name or an IP address.
    Host,
    /// A path that begins with a slash, or nothing.
    BasePath,
    /// The reserved id for a probe, and another id for every other check.
    ProbeId,
    /// A name that may occur only once.
    Unique,
    /// No time to live, because the instance is permanent.
    NotIfPermanent,
    /// A path that begins with a slash.
    RootedPath,
    /// A name without characters that show nothing or that change the direction of writing.
    NoInvisibleCharacters,
    /// At most `max` in all keys. From state version 3 on.
    AllKeys {
        /// The maximum.
        max: u64,
    },
    /// A check that is not critical. From state version 3 on.
    NotCritical,
}

/// The value that was given, as far as it is kept. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Given {
    /// A number.
    Number(u64),
    /// A text.
    Text {
        /// The first bytes of the text.
        start: Box<str>,
        /// Its length, in bytes.
        len: u64,
    },
    /// A number of bytes.
    Bytes(u64),
    /// A number of characters.
    Characters(u64),
    /// A number of items.
    Items(u64),
}

/// An error keeps at most this many bytes of the given text.
const GIVEN_LEN_MAX: usize = 64;

impl From<u64> for Given {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Given {
    fn from(text: &str) -> Self {
        let end = (0..=GIVEN_LEN_MAX.min(text.len())).rev().find(|i| text.is_char_boundary(*i));
        Self::Text { start: text[..end.unwrap_or(0)].into(), len: text.len() as u64 }
    }
}

impl LimitExceeded {
    /// An error that says that `value` of `field` is outside `limit`.
    pub fn new(field: impl Into<Field>, limit: Limit, value: impl Into<Given>) -> Self {
        Self { field: field.into(), limit, value: value.into() }
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
        let limit = Limit::Length { min: len_min as u64, max: len_max as u64 };
        return Err(LimitExceeded::new(field, limit, text));
    }
    if text.chars().any(char::is_control) {
        return Err(LimitExceeded::new(field, Limit::NoControlCharacters, text));
    }
    Ok(())
}

/// Checks a name: its length, that all its characters are visible, and that it can be a segment of a URL's
/// path. In a path, `.` and `..` have another meaning, even percent-encoded (RFC 3986, section 5.2.4; WHATWG URL).
pub fn check_name(field: &str, text: &str) -> Result<(), LimitExceeded> {
    check_text(field, text, 1, NAME_LEN_MAX)?;
    if text.chars().any(is_invisible) {
        return Err(LimitExceeded::new(field, Limit::NoInvisibleCharacters, text));
    }
    if matches!(text, "." | "..") {
        return Err(LimitExceeded::new(field, Limit::NoDotName, text));
    }
    Ok(())
}

/// Checks the name of a user. In the audit log, a colon marks tokens and parts of Maxine, so no user may have one.
pub fn check_user_name(field: &str, text: &str) -> Result<(), LimitExceeded> {
    check_name(field, text)?;
    if text.contains(':') {
        return Err(LimitExceeded::new(field, Limit::NoColon, text));
    }
    Ok(())
}

/// Checks that a number lies within `min..=max`.
pub fn check_range(field: &str, value: u64, min: u64, max: u64) -> Result<(), LimitExceeded> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(LimitExceeded::new(field, Limit::Range { min, max }, value))
}

/// Checks that a list holds at most `max` items.
pub fn check_count(field: &str, count: usize, max: usize) -> Result<(), LimitExceeded> {
    if count <= max {
        return Ok(());
    }
    Err(LimitExceeded::new(field, Limit::Count { max: max as u64 }, Given::Items(count as u64)))
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

    /// Apply checks the limits, so replicas of different builds must have the same ones. A limit changes only
    /// with the state's version, and apply then asks for the version.
    #[test]
    fn the_limits_never_change() {
        assert_eq!((NAME_LEN_MAX, ADDRESS_LEN_MAX, TEXT_LEN_MAX), (255, 2_048, 1_024));
        assert_eq!((TAGS_MAX, METADATA_ENTRIES_MAX), (64, 64));
        assert_eq!((METADATA_VALUE_LEN_MAX, METADATA_TOTAL_LEN_MAX), (1_024, 8_192));
        assert_eq!((WEIGHT_MAX, TTL_MS_MIN, TTL_MS_MAX), (100, 1_000, 34_560_000_000));
        assert_eq!((INSTANCES_PER_SERVICE_MAX, SERVICES_MAX), (100_000, 200_000));
        assert_eq!((INSTANCES_MAX, OPEN_INSTANCES_MAX), (2_000_000, 1_000_000));
        assert_eq!(REGISTRATIONS_LEN_MAX, 1_073_741_824);
        assert_eq!(OPEN_REGISTRATIONS_LEN_MAX, 536_870_912);
        assert_eq!((BATCH_ITEMS_MAX, POLICY_LEN_MAX), (1_000, 65_536));
        assert_eq!((USERS_MAX, ENDED_SESSIONS_MAX, TOKENS_MAX), (1_000, 64, 10_000));
        assert_eq!((REMEMBERED_REQUESTS_MAX, REMEMBERED_RESULTS_MAX), (65_536, 2_000_000));
        assert_eq!(REMEMBERED_REQUESTS_MS, 600_000);
        assert_eq!((KV_KEY_LEN_MAX, KV_VALUE_LEN_MAX, KV_OPS_MAX), (1_024, 524_288, 128));
        assert_eq!((KV_TRANSACTION_LEN_MAX, KV_GONE_MAX), (1_048_576, 65_536));
        assert_eq!((KV_KEYS_MAX_DEFAULT, KV_KEYS_MAX_MAX), (100_000, 1_000_000));
        assert_eq!((KV_LEN_MAX_DEFAULT, KV_LEN_MAX_MAX), (134_217_728, 1_073_741_824));
        assert_eq!((LOCK_SESSIONS_MAX, LOCKS_PER_SESSION_MAX), (100_000, 4_096));
        assert_eq!((LOCK_SESSION_CHECKS_MAX, LOCK_DELAY_MS_MAX), (16, 60_000));
        assert_eq!(LOCK_SESSION_TTL_MS_MAX, 86_400_000);
    }

    /// The library that builds requests must accept every value that the state has accepted.
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
