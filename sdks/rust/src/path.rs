//! Writes names into paths, queries and forms.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::Error;

/// All octets but the unreserved ones (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A text as a value of a form (`application/x-www-form-urlencoded`).
pub(crate) fn form_encoded(text: &str) -> String {
    encoded(text).replace("%20", "+")
}

/// Checks that a name stays one segment of a path.
///
/// # Errors
/// [`Error::Name`] for a name that means another path.
pub(crate) fn checked(name: &str) -> Result<&str, Error> {
    match name {
        "" | "." | ".." => Err(Error::Name(name.into())),
        _ => Ok(name),
    }
}

/// The path of a service in the native API, with further parts.
///
/// # Errors
/// As [`checked`].
pub(crate) fn of_service(namespace: &str, service: &str, more: &[&str]) -> Result<String, Error> {
    let mut path = "/api/v1/services".to_owned();
    for part in [namespace, service].iter().chain(more) {
        path.push('/');
        path.push_str(&encoded(checked(part)?));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        let path = of_service("default", "a b/c", &["instances", "x-1"]).unwrap();
        assert_eq!(path, "/api/v1/services/default/a%20b%2Fc/instances/x-1");
        for name in ["", ".", ".."] {
            assert!(matches!(of_service("default", name, &[]), Err(Error::Name(_))), "{name}");
        }
        assert_eq!(form_encoded("s3cret: with % signs +"), "s3cret%3A+with+%25+signs+%2B");
    }
}
