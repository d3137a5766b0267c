//! Computes the hash of a caller from a request. Nothing else does.

use std::borrow::Cow;
use std::fmt::Debug;
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The header fields of a request.
pub trait Fields: Debug + Sync {
    /// The first value of a field. Names are compared without regard to case.
    fn field(&self, name: &str) -> Option<&[u8]>;
}

impl Fields for HeaderMap {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }
}

/// Which part of a request identifies the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashSource<'a> {
    /// The client's network address.
    ClientAddress,
    /// The value of a header field.
    Header(&'a str),
    /// The value of a query parameter.
    Query(&'a str),
}

impl HashSource<'_> {
    /// The hash of a value that is given instead of the source's own value. If the source is the client's
    /// address, a value that is an address is hashed as one.
    #[must_use]
    pub fn hash_of(self, value: &str) -> CallerHash {
        match (self, value.parse()) {
            (Self::ClientAddress, Ok(address)) => CallerHash::of_address(address),
            _ => CallerHash::of_value(value.as_bytes()),
        }
    }
}

/// The parts of a request that a hash can depend on.
#[derive(Clone, Copy, Debug)]
pub struct HashInput<'a> {
    /// The client's network address.
    pub address: IpAddr,
    /// The request's header fields.
    pub fields: &'a dyn Fields,
    /// The raw queries in which a parameter is looked up, in this order: the query of the request to the
    /// instance, then that of the request to Maxine. They have no question mark, and are empty if there is
    /// none.
    pub queries: [&'a str; 2],
    /// A value that replaces that of the source.
    pub key: Option<&'a str>,
}

/// The hash of a caller. The same caller has the same hash on every node and in every client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallerHash(u64);

impl CallerHash {
    /// The hash of a value, taken as bytes.
    #[must_use]
    pub fn of_value(value: &[u8]) -> Self {
        Self(xxh3_64(value))
    }

    /// The hash of the 16 octets of a network address. An IPv4 address is mapped into IPv6, so `10.0.0.1` and
    /// `::ffff:10.0.0.1` are the same caller.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self(xxh3_64(&octets))
    }

    /// A hash as a number.
    #[must_use]
    pub const fn from_u64(hash: u64) -> Self {
        Self(hash)
    }

    /// The hash as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// An independent number for each seed: the caller's number for one instance or version.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> u64 {
        xxh3_64_with_seed(&self.0.to_le_bytes(), seed)
    }
}

impl HashInput<'_> {
    /// The caller's hash. If the value of the source is missing or empty, the client's address is hashed.
    #[must_use]
    pub fn hash(&self, source: HashSource<'_>) -> CallerHash {
        let by_key = self.key.filter(|key| !key.is_empty()).map(|key| source.hash_of(key));
        let by_value = || match source {
            HashSource::ClientAddress => None,
            HashSource::Header(name) => self.field_hash(name),
            HashSource::Query(name) => self
                .queries
                .iter()
                .find_map(|query| parameter(query, name))
                .map(|value| CallerHash::of_value(&value)),
        };
        by_key.or_else(by_value).unwrap_or_else(|| CallerHash::of_address(self.address))
    }

    /// The hash of a header field's value; `None` if it is missing or empty.
    #[must_use]
    pub fn field_hash(&self, name: &str) -> Option<CallerHash> {
        let value = self.fields.field(name).filter(|value| !value.is_empty())?;
        Some(CallerHash::of_value(value))
    }
}

/// The query of a path: what follows `?`, up to `#`.
#[must_use]
pub fn query_of(target: &str) -> &str {
    let target = target.split_once('#').map_or(target, |(before, _)| before);
    target.split_once('?').map_or("", |(_, query)| query)
}

/// The first value of a query parameter that is not empty, decoded once.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .filter(|(key, _)| *decoded(key) == *name.as_bytes())
        .map(|(_, value)| decoded(value))
        .find(|value| !value.is_empty())
}

/// Decodes a value as HTML forms encode it (WHATWG URL, "urlencoded parsing"). `+` is a space and `%XX` a
/// byte. A malformed escape is left unchanged.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(bytes);
    }
    let digit = |at: usize| {
        let byte = *bytes.get(at)?;
        char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| Some((digit(at + 1)?, digit(at + 2)?))).flatten();
        match (bytes[at], escaped) {
            (_, Some((high, low))) => {
                out.push(high << 4 | low);
                at += 3;
                continue;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input<'a>(fields: &'a HeaderMap, queries: [&'a str; 2]) -> HashInput<'a> {
        HashInput { address: [10, 0, 0, 1].into(), fields, queries, key: None }
    }

    #[test]
    fn an_address_hashes_alike_however_it_is_written() {
        let fields = HeaderMap::new();
        let plain = input(&fields, ["", ""]);
        let expected = plain.hash(HashSource::ClientAddress);
        let mapped = HashInput { address: "::ffff:10.0.0.1".parse().unwrap(), ..plain };
        assert_eq!(mapped.hash(HashSource::ClientAddress), expected);
        let other = HashInput { address: "2001:db8::7".parse().unwrap(), ..plain };
        for key in ["10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"] {
            let keyed = HashInput { key: Some(key), ..other };
            assert_eq!(keyed.hash(HashSource::ClientAddress), expected, "{key}");
        }
        assert_ne!(other.hash(HashSource::ClientAddress), expected);
    }

    #[test]
    fn a_parameter_is_decoded_once_and_looked_for_at_the_instance_first() {
        let fields = HeaderMap::new();
        let of = |queries: [&str; 2]| input(&fields, queries).hash(HashSource::Query("us er"));
        let expected = CallerHash::of_value(b"a b+c");
        for queries in [
            ["us%20er=a%20b%2Bc", ""],
            ["us+er=a+b%2bc&us+er=z", "us+er=y"],
            ["", "x=1&us%20er=a%20b%2Bc"],
            ["us+er=&us+er=a+b%2Bc", ""],
        ] {
            assert_eq!(of(queries), expected, "{queries:?}");
        }
        assert_eq!(of(["us%20er=%2541", ""]), CallerHash::of_value(b"%41"), "once");
        assert_eq!(of(["us+er=%zz%", ""]), CallerHash::of_value(b"%zz%"));
        assert_eq!(of(["us+er=%ff", ""]), CallerHash::of_value(&[0xff]));
    }

    #[test]
    fn what_is_missing_or_empty_leaves_the_address() {
        let mut fields = HeaderMap::new();
        fields.insert("x-empty", HeaderValue::from_static(""));
        fields.append("x-user", HeaderValue::from_static("ada"));
        fields.append("x-user", HeaderValue::from_static("eve"));
        let input = input(&fields, ["a=&b", ""]);
        let address = CallerHash::of_address(input.address);
        for source in [
            HashSource::Header("x-empty"),
            HashSource::Header("x-none"),
            HashSource::Query("a"),
            HashSource::Query("b"),
            HashSource::Query("c"),
        ] {
            assert_eq!(input.hash(source), address, "{source:?}");
        }
        let empty = HashInput { key: Some(""), ..input };
        assert_eq!(empty.hash(HashSource::Header("x-none")), address);
        let ada = CallerHash::of_value(b"ada");
        assert_eq!(input.hash(HashSource::Header("X-User")), ada);
        let keyed = HashInput { key: Some("ada"), ..input };
        assert_eq!(keyed.hash(HashSource::Query("c")), ada);
    }

    #[test]
    fn the_query_of_a_path_ends_before_its_fragment() {
        for (target, query) in [
            ("", ""),
            ("/x", ""),
            ("/x?a=1?b", "a=1?b"),
            ("/x?a=1#b?c", "a=1"),
            ("/x#?a=1", ""),
            ("?a", "a"),
        ] {
            assert_eq!(query_of(target), query, "{target}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read(query in ".*", name in ".*") {
            let fields = HeaderMap::new();
            let _ = input(&fields, [&query, &query]).hash(HashSource::Query(&name));
        }
    }
}
