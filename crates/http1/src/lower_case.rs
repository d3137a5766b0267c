//! Names of fields in lower case, without an allocation.

/// Maximum length of a name, in bytes. Names that are in use are shorter.
const LEN_MAX: usize = 64;

/// A name in lower case.
#[derive(Debug)]
pub struct LowerCase {
    bytes: [u8; LEN_MAX],
    len: usize,
}

impl LowerCase {
    /// The name in lower case; `None` if it is longer than 64 bytes or not ASCII.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let mut bytes = [0; LEN_MAX];
        let part = bytes.get_mut(..name.len())?;
        part.copy_from_slice(name.as_bytes());
        part.make_ascii_lowercase();
        name.is_ascii().then_some(Self { bytes, len: name.len() })
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_long_ones_are_none() {
        let lower = |name: &str| LowerCase::of(name).map(|lower| lower.as_str().to_owned());
        assert_eq!(lower("X-Own"), Some("x-own".to_owned()));
        assert_eq!((lower(&"a".repeat(64)).is_some(), lower(&"a".repeat(65))), (true, None));
        assert_eq!(lower("x-\u{e9}"), None);
    }
}
