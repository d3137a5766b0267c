//! Parses the query of a discover request. If a parameter occurs several times, the first one is used.

use std::borrow::Cow;

/// The parameters of a discover request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverQuery<'a> {
    /// `serviceName`; empty counts as absent.
    pub service_name: Option<Cow<'a, str>>,
    /// `endPoint`; empty counts as absent.
    pub end_point: Option<Cow<'a, str>>,
    /// `mode`; empty counts as absent.
    pub mode: Option<Cow<'a, str>>,
}

impl<'a> DiscoverQuery<'a> {
    /// Parses a raw query. Never fails: a value that cannot be decoded keeps its escapes.
    #[must_use]
    pub fn parse(query: &'a str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in pairs(query) {
            let slot = match &*decode_component(name) {
                "serviceName" => &mut parsed.service_name,
                "endPoint" => &mut parsed.end_point,
                "mode" => &mut parsed.mode,
                _ => continue,
            };
            if slot.is_none() && !value.is_empty() {
                *slot = Some(decode_component(value));
            }
        }
        parsed
    }

    /// The raw query that is sent to the instance: the query of the end point.
    #[must_use]
    pub fn end_point_query(&self) -> &str {
        self.end_point.as_deref().map_or("", maxine_balance::query_of)
    }

    /// Whether the request asks for the proxy, in upper or lower case.
    #[must_use]
    pub fn asks_for_proxy(&self) -> bool {
        self.mode.as_deref().is_some_and(|mode| mode.eq_ignore_ascii_case("proxy"))
    }
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Decodes `+` and percent-escapes. A text with a malformed escape, or whose bytes are not UTF-8, is returned
/// with its escapes unchanged.
#[must_use]
pub fn decode_component(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| matches!(b, b'+' | b'%')) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    match percent_decoded(&spaced) {
        Some(decoded) => Cow::Owned(decoded),
        None => Cow::Owned(spaced),
    }
}

/// Decodes percent-escapes; `None` for a malformed one, or for bytes that are not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digit = |offset: usize| {
                let byte = *bytes.get(at + offset)?;
                u8::try_from(char::from(byte).to_digit(16)?).ok()
            };
            out.push(digit(1)? << 4 | digit(2)?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_of_a_repeated_parameter_counts() {
        let query = DiscoverQuery::parse("mode=a&serviceName=s&mode=proxy&serviceName=t&x");
        assert_eq!(query.mode.as_deref(), Some("a"));
        assert_eq!(query.service_name.as_deref(), Some("s"));
        assert!(!query.asks_for_proxy());
        assert!(DiscoverQuery::parse("mode=PROXY").asks_for_proxy());
        assert_eq!(DiscoverQuery::parse("serviceName=&endPoint").service_name, None);
    }

    #[test]
    fn escapes_are_decoded_and_broken_ones_kept() {
        assert_eq!(decode_component("a+b%20c%E2%82%AC"), "a b c€");
        assert_eq!(decode_component("%zz"), "%zz");
        assert_eq!(decode_component("%E2%82"), "%E2%82");
        assert_eq!(decode_component("%"), "%");
        assert_eq!(decode_component("plain"), "plain");
    }

    proptest! {
        #[test]
        fn any_query_is_read(query in ".*") {
            let _ = DiscoverQuery::parse(&query);
        }

        #[test]
        fn what_was_encoded_is_decoded(text in "\\PC*") {
            let set = percent_encoding::NON_ALPHANUMERIC;
            let encoded = percent_encoding::utf8_percent_encode(&text, set).to_string();
            prop_assert_eq!(decode_component(&encoded), text);
        }
    }
}
