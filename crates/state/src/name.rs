//! Names of namespaces, services and instances. A name is checked once, when it enters the program.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::limits::{self, Limit, LimitExceeded};

/// A text within the limits of a name. Clones are cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

impl Name {
    /// Takes `text` as a name. It must be 1 to [`limits::NAME_LEN_MAX`] bytes long, have no control or invisible
    /// characters, and be neither `.` nor `..`. The error says that `field` is wrong.
    pub fn parse(field: &str, text: &str) -> Result<Self, LimitExceeded> {
        limits::check_name(field, text)?;
        Ok(Self(text.into()))
    }

    /// Takes `text` as a namespace: a DNS label (RFC 1123: lower-case letters, digits, inner `-`).
    pub fn parse_namespace(text: &str) -> Result<Self, LimitExceeded> {
        let label = text.len() <= 63
            && !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !label {
            return Err(LimitExceeded::new("namespace", Limit::Namespace, text));
        }
        Ok(Self(text.into()))
    }

    /// A name from a text that the program made itself. It is not checked.
    #[must_use]
    pub fn trusted(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A service within its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The namespace. It is [`ServiceKey::DEFAULT_NAMESPACE`] if the caller gave none.
    pub namespace: Name,
    /// The name of the service within the namespace, case-sensitive.
    pub service: Name,
}

impl ServiceKey {
    /// The namespace for callers that give none, such as clients of the compatible API.
    pub const DEFAULT_NAMESPACE: &'static str = "default";

    /// A key of two checked names.
    #[must_use]
    pub fn new(namespace: Name, service: Name) -> Self {
        Self { namespace, service }
    }

    /// The same key, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> ServiceRef<'_> {
        ServiceRef { namespace: self.namespace.as_str(), service: self.service.as_str() }
    }

    /// The key of one of this service's instances.
    #[must_use]
    pub fn instance(&self, instance: Name) -> InstanceKey {
        InstanceKey { service: self.clone(), instance }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

// Implemented by hand, because the hash must be that of `ServiceRef`, which is used for look-ups without an
// allocation.
impl Hash for ServiceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

/// A borrowed [`ServiceKey`], for look-ups that must not allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceRef<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The service's name.
    pub service: &'a str,
}

impl equivalent::Equivalent<ServiceKey> for ServiceRef<'_> {
    fn equivalent(&self, key: &ServiceKey) -> bool {
        *self == key.as_ref()
    }
}

/// An instance within its service.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct InstanceKey {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceKey,
    /// The name of the instance, unique within the service.
    pub instance: Name,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_characters_that_nobody_sees_are_refused() {
        let hidden = [
            '\u{0}',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e007f}',
            '\u{e01ef}',
        ];
        for c in hidden {
            for text in [format!("{c}orders"), format!("ord{c}ers"), format!("orders{c}")] {
                let refused = Name::parse("service", &text).unwrap_err();
                let limit = refused.limit;
                assert!(
                    matches!(limit, Limit::NoControlCharacters | Limit::NoInvisibleCharacters),
                    "{text:?}: {limit:?}"
                );
            }
        }
        for text in [
            "orders",
            "Orders V2",
            "a.b_c-d:1",
            "a/b",
            "größe",
            "заказы",
            "注文",
            "주문",
            "طلبات",
            "הזמנות",
            "café",
            "e\u{301}",
            "🚀",
            "~",
            "a\u{a0}b",
        ] {
            assert!(Name::parse("service", text).is_ok(), "{text:?}");
        }
    }
}
