//! A domain that the name server answers for.

/// Maximum length of a domain in a message, in bytes. It leaves place for the names before it.
const WIRE_LEN_MAX: usize = 128;

/// A domain, as it is in a message: labels with their lengths, in lower case, and the final zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(Box<[u8]>);

/// The text is not a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a domain of letters, digits, - and _ in labels of 1 to 63, at most 126 long in all"
)]
pub struct InvalidDomain;

impl Domain {
    /// Reads a domain such as `maxine` or `service.example.com`.
    ///
    /// # Errors
    ///
    /// The text is empty, too long, or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidDomain> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let mut wire = Vec::new();
        for label in text.split('.') {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if label.is_empty() || label.len() > 63 || !label.bytes().all(is_plain) {
                return Err(InvalidDomain);
            }
            wire.push(u8::try_from(label.len()).map_err(|_| InvalidDomain)?);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        if wire.len() > WIRE_LEN_MAX {
            return Err(InvalidDomain);
        }
        Ok(Self(wire.into()))
    }

    /// The domain as it is in a message.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_read_in_lower_case() {
        assert_eq!(Domain::parse("Maxine.").unwrap().wire(), b"\x06maxine\0");
        assert_eq!(Domain::parse("a.b-1._c").unwrap().wire(), b"\x01a\x03b-1\x02_c\0");
        for bad in ["", ".", "a..b", "a b", "a\\.b", &"x".repeat(64), &"abc.".repeat(32)] {
            assert_eq!(Domain::parse(bad), Err(InvalidDomain), "{bad}");
        }
    }
}
