//! Names of fields in lower case, without an allocation.

/// Maximum length of a name, in bytes. A longer name is refused, because it would not fit into the copy.
const LEN_MAX: usize = 64;

/// A name in lower case.
#[derive(Debug)]
pub enum LowerCase<'a> {
    /// The name was in lower case already.
    Same(&'a str),
    /// The name in lower case: the buffer that holds it, and its length in bytes.
    Copied([u8; LEN_MAX], usize),
}

impl<'a> LowerCase<'a> {
    /// The name in lower case; `None` if it is longer than 64 bytes or not ASCII.
    #[must_use]
    pub fn of(name: &'a str) -> Option<Self> {
        if name.len() > LEN_MAX || !name.is_ascii() {
            return None;
        }
        if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Some(Self::Same(name));
        }
        let mut bytes = [0; LEN_MAX];
        let part = bytes.get_mut(..name.len())?;
        part.copy_from_slice(name.as_bytes());
        part.make_ascii_lowercase();
        Some(Self::Copied(bytes, name.len()))
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Same(name) => name,
            Self::Copied(bytes, len) => std::str::from_utf8(&bytes[..*len]).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_long_ones_are_none() {
        let lower = |name: &str| LowerCase::of(name).map(|lower| lower.as_str().to_owned());
        assert_eq!(lower("X-Own"), Some("x-own".to_owned()));
        assert_eq!(lower("x-own"), Some("x-own".to_owned()));
        assert_eq!((lower(&"a".repeat(64)).is_some(), lower(&"a".repeat(65))), (true, None));
        assert_eq!(lower("x-\u{e9}"), None);
    }
}
