//! Rewrites error texts of parsers and of the operating system for people: which field, what is accepted, and
//! what was given.
//!
//! Place in the flow: it is used wherever an error of `serde`, of a URL parser or of the operating system
//! would reach an answer of the API, the command line or the settings.

use std::borrow::Cow;
use std::io;

use jiff::Timestamp;
use serde::Deserialize;

/// Maximum length of a text of another service in a log line or an alert, in bytes.
const FOREIGN_LEN_MAX: usize = 200;
/// Maximum number of characters of a given value that are shown.
const SHOWN_CHARS_MAX: usize = 100;
/// Error texts of the standard library's parsers, each with what the parser expects.
const OF_TEXT: &[(&str, &str)] = &[
    ("invalid digit found in string", "a whole number"),
    ("cannot parse integer from empty string", "a whole number"),
    ("number too large to fit in target type", "a smaller number"),
    ("number too small to fit in target type", "a greater number"),
    ("invalid float literal", "a number"),
    ("provided string was not `true` or `false`", "true or false"),
];

/// What is wrong with JSON that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonFault {
    /// A required field is missing.
    MissingField,
    /// A field does not exist.
    UnknownField,
    /// Anything else.
    Other,
}

/// An error in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The field that it concerns, if it is known.
    pub field: Option<String>,
    /// The kind of error.
    pub fault: JsonFault,
    /// The complete text.
    pub text: String,
}

/// A time in milliseconds since 1970, as ISO 8601 text in UTC with milliseconds.
#[must_use]
pub fn iso_8601(time_ms: u64) -> String {
    let time = i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Parses JSON.
///
/// # Errors
///
/// [`JsonError`] with the path of the field.
pub fn read_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, JsonError> {
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_syntax() || error.is_eof() {
            return JsonError { field: None, fault: JsonFault::Other, text: syntax(&error) };
        }
        // Parses it again to find the path of the field.
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let path = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Ok(_) => String::new(),
            Err(error) => error.path().to_string(),
        };
        complaint(&path, &error.to_string())
    })
}

/// A text that another service has sent, fit for logs, alerts and answers: at most 200 bytes of it, and with
/// [`escape_control`].
#[must_use]
pub fn foreign(text: &str) -> String {
    if text.len() <= FOREIGN_LEN_MAX {
        return escape_control(text).into_owned();
    }
    let shown = &text[..text.floor_char_boundary(FOREIGN_LEN_MAX)];
    format!("{}…", escape_control(shown))
}

/// The text with escapes such as `\n` and `\u{1b}` in place of all characters that could begin another line, control a
/// terminal, or change the order of what is shown. Nothing is copied if there are none.
#[must_use]
pub fn escape_control(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_control(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Control characters, the two line separators of Unicode, and the marks that change the direction of a text.
fn is_control(c: char) -> bool {
    let is_mark = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_mark
}

/// A text for a JSON syntax error.
#[must_use]
pub fn syntax(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "this is not valid JSON: it ends too early".into();
    }
    let message = error.to_string();
    let (line, column) = (error.line(), error.column());
    format!("this is not valid JSON: {} in line {line}, column {column}", without_place(&message))
}

/// Rewrites the parser's error `message` about the field at `path`.
#[must_use]
pub fn complaint(path: &str, message: &str) -> JsonError {
    let message = without_place(message);
    let path = if path == "." || path == "?" { "" } else { path };
    let subject = if path.is_empty() { "the document" } else { path };
    let known = |text: String| JsonError {
        field: (!path.is_empty()).then(|| path.to_owned()),
        fault: JsonFault::Other,
        text,
    };
    if let Some(name) = quoted(message, "missing field `") {
        let parent = if path.is_empty() { String::new() } else { format!("{path}.") };
        let field = format!("{parent}{name}");
        let text = format!("the field {field} is missing");
        return JsonError { field: Some(field), fault: JsonFault::MissingField, text };
    }
    if let Some(name) = quoted(message, "unknown field `") {
        let there = message.split_once(", expected ").map_or("none", |(_, rest)| rest);
        let text = format!("there is no field {name}; known here: {}", choices(there));
        return JsonError { field: Some(name.into()), fault: JsonFault::UnknownField, text };
    }
    if let Some(name) = quoted(message, "duplicate field `") {
        let text = format!("the field {name} is given twice");
        return JsonError { field: Some(name.into()), fault: JsonFault::Other, text };
    }
    if let Some(given) = quoted(message, "unknown variant `") {
        let there = message.split_once(", expected ").map_or("none", |(_, rest)| rest);
        return known(format!("{subject} must be one of {}, got {given}", choices(there)));
    }
    for start in ["invalid type: ", "invalid value: ", "invalid length "] {
        let parts = message.strip_prefix(start).and_then(|rest| rest.rsplit_once(", expected "));
        if let Some((given, wanted)) = parts {
            return known(format!("{subject} must be {}, got {}", kind(wanted), value(given)));
        }
    }
    let of_text = OF_TEXT.iter().find_map(|(said, wanted)| {
        let before = message.strip_suffix(said)?;
        Some((before.trim_end_matches([':', ' ']), *wanted))
    });
    if let Some((before, wanted)) = of_text {
        let subject = if path.is_empty() && !before.is_empty() { before } else { subject };
        return JsonError {
            field: (subject != "the document").then(|| subject.to_owned()),
            fault: JsonFault::Other,
            text: format!("{subject} must be {wanted}"),
        };
    }
    known(if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") })
}

/// `message` without the position that `serde_json` adds.
fn without_place(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(text, _)| text)
}

fn quoted<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.split_once('`').map(|(name, _)| name)
}

/// Converts `` one of `a`, `b` `` and its other forms to a plain list.
fn choices(there: &str) -> String {
    there.trim_start_matches("one of ").replace('`', "").replace(" or ", ", ")
}

/// The name of a type for people.
fn kind(wanted: &str) -> String {
    let range = |bits: u32| format!("a whole number from 0 to {}", u64::MAX >> (64 - bits));
    match wanted {
        "u8" => range(8),
        "u16" => range(16),
        "u32" => range(32),
        "u64" | "usize" | "u128" => "a whole number of 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" | "bool" => "true or false".into(),
        "a string" | "a borrowed string" | "string" => "a text".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum") => {
            "an object".into()
        }
        other if other.starts_with("enum ") => "one of the known values".into(),
        other => other.into(),
    }
}

/// A given value, as people would write it.
fn value(given: &str) -> String {
    let plain = match given {
        "map" => "an object".into(),
        "sequence" => "a list".into(),
        "unit value" | "null" => "null".into(),
        other => match other.split_once(' ') {
            Some(("string", text)) => format!("the text {text}"),
            Some(("integer" | "boolean" | "character", text)) => text.replace('`', ""),
            Some(("floating", text)) => text.trim_start_matches("point ").replace('`', ""),
            _ => other.to_owned(),
        },
    };
    match plain.char_indices().nth(SHOWN_CHARS_MAX) {
        None => plain,
        Some((cut, _)) => format!("{}…", &plain[..cut]),
    }
}

/// A text for an error of the operating system about a file.
#[must_use]
pub fn io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "it is a folder, not a file".into(),
        io::ErrorKind::InvalidData => "it is not UTF-8 text".into(),
        // The text of `maxine_files`, with a unit.
        io::ErrorKind::FileTooLarge if error.get_ref().is_some() => error.to_string(),
        _ => {
            let text = error.to_string();
            text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text).to_lowercase()
        }
    }
}

/// A number with a noun, such as `1 entry` or `2 entries`. Takes the noun in the singular.
#[must_use]
pub fn count(number: impl std::fmt::Display, noun: &str) -> String {
    let number = number.to_string();
    if number == "1" {
        return format!("{number} {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{number} {stem}ies"),
        _ if noun.ends_with(['s', 'x']) || noun.ends_with("ch") => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

/// A size, rounded down: bytes below 1 KiB, KiB below 10 MiB, else MiB. So a size above zero is never shown as zero.
#[must_use]
pub fn size(len_bytes: u64) -> String {
    match len_bytes {
        0..0x400 => count(len_bytes, "byte"),
        0x400..0xA0_0000 => format!("{} KiB", len_bytes >> 10),
        _ => format!("{} MiB", len_bytes >> 20),
    }
}

/// Whether a host, with or without a port, looks like an IPv6 address that lacks its brackets.
#[must_use]
pub fn lacks_brackets(host_and_port: &str) -> bool {
    let host = host_and_port.split('/').next().unwrap_or_default();
    host.matches(':').count() > 1 && !host.contains(['[', '@'])
}

/// Why `text` is not the URL of a server.
#[must_use]
pub fn not_a_url(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let hint = if lacks_brackets(rest) {
        "; an IPv6 address must be in brackets, such as http://[::1]:8080"
    } else {
        ""
    };
    format!("must be http://HOST:PORT or https://HOST:PORT{hint}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(iso_8601(1_795_440_992_705), "2026-11-23T13:36:32.705Z");
        assert_eq!(iso_8601(0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_text_of_another_service_is_short_and_has_no_control_characters() {
        assert_eq!(foreign("status 500"), "status 500");
        assert_eq!(foreign("a\n\u{1b}[1m\u{85}\u{202e}é"), "a\\n\\u{1b}[1m\\u{85}\\u{202e}é");
        assert_eq!(foreign(&"é".repeat(1_000)), format!("{}…", "é".repeat(100)));
        assert!(matches!(escape_control("é\\n"), Cow::Borrowed(_)));
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Probe {
        #[serde(rename = "interval_ms")]
        _interval_ms: u64,
        #[serde(rename = "port", default)]
        _port: u16,
        #[serde(rename = "kind", default)]
        _kind: Kind,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Http,
        Tcp,
    }

    fn text(json: &str) -> String {
        read_json::<BTreeMap<String, Vec<Probe>>>(json.as_bytes()).unwrap_err().text
    }

    #[test]
    fn a_complaint_names_the_field_what_is_accepted_and_what_was_given() {
        for (json, expected) in [
            (
                r#"{"a": [{"interval_ms": "x"}]}"#,
                "a[0].interval_ms must be a whole number of 0 or more, got the text \"x\"",
            ),
            (
                r#"{"a": [{"interval_ms": -1}]}"#,
                "a[0].interval_ms must be a whole number of 0 or more, got -1",
            ),
            (
                r#"{"a": [{"interval_ms": 1, "port": 70000}]}"#,
                "a[0].port must be a whole number from 0 to 65535, got 70000",
            ),
            (r#"{"a": [{}]}"#, "the field a[0].interval_ms is missing"),
            (
                r#"{"a": [{"intervall_ms": 1}]}"#,
                "there is no field intervall_ms; known here: interval_ms, port, kind",
            ),
            (
                r#"{"a": [{"interval_ms": 1, "kind": "udp"}]}"#,
                "a[0].kind must be one of http, tcp, got udp",
            ),
            (
                r#"{"a": [{"interval_ms": 1, "interval_ms": 2}]}"#,
                "the field interval_ms is given twice",
            ),
            (r#"{"a": 5}"#, "a must be a list, got 5"),
            ("[]", "the document must be an object, got a list"),
            (r#"{"a": "#, "this is not valid JSON: it ends too early"),
            ("{a: 1}", "this is not valid JSON: key must be a string in line 1, column 2"),
        ] {
            assert_eq!(text(json), expected, "{json}");
        }
        assert_eq!(
            complaint("", "limit: invalid digit found in string").text,
            "limit must be a whole number"
        );
    }

    #[test]
    fn a_size_above_zero_is_never_shown_as_zero() {
        let shown = [0, 1, 1_023, 1_024, 614_400, 10_485_759, 10_485_760, 25_165_824].map(size);
        let expected = "0 bytes, 1 byte, 1023 bytes, 1 KiB, 600 KiB, 10239 KiB, 10 MiB, 24 MiB";
        assert_eq!(shown.join(", "), expected);
    }

    #[test]
    fn one_thing_is_not_told_in_the_plural() {
        for (number, noun, expected) in [
            (0, "namespace", "0 namespaces"),
            (1, "namespace", "1 namespace"),
            (2, "day", "2 days"),
            (1, "entry", "1 entry"),
            (11, "entry", "11 entries"),
            (3, "address", "3 addresses"),
        ] {
            assert_eq!(count(number, noun), expected);
        }
        assert_eq!(count(serde_json::json!(1), "instance"), "1 instance");
    }

    #[test]
    fn a_url_that_cannot_be_used_says_what_is_wanted() {
        for text in ["::1:8080", "fe80::1", "http://::1:8080/x"] {
            assert!(not_a_url(text).contains("in brackets"), "{text}");
        }
        for text in ["localhost", "http://[::1]:8080", "10.0.0.1:80", ""] {
            assert!(!not_a_url(text).contains("in brackets"), "{text}");
        }
    }
}
