//! The key of a routing table in the map of tables.

use std::hash::{Hash, Hasher};

use equivalent::Equivalent;
use smol_str::{SmolStr, format_smolstr};

use maxine_state::ServiceRef;

/// A character that no name contains.
const SEPARATOR: char = '\0';

/// The two names of a service in one text. Up to 23 bytes are stored inside the key itself. With many
/// services, a look-up takes most of its time for memory accesses, and this saves one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableKey(SmolStr);

impl TableKey {
    pub(super) fn of(service: ServiceRef<'_>) -> Self {
        Self(format_smolstr!("{}{SEPARATOR}{}", service.service, service.namespace))
    }

    fn as_ref(&self) -> ServiceRef<'_> {
        let (service, namespace) = self.0.split_once(SEPARATOR).unwrap_or_default();
        ServiceRef { namespace, service }
    }
}

// Must be equal to the hash of a `ServiceRef`, which is used for look-ups.
impl Hash for TableKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl Equivalent<TableKey> for ServiceRef<'_> {
    fn equivalent(&self, key: &TableKey) -> bool {
        let (text, service_len) = (key.0.as_bytes(), self.service.len());
        text.len() == service_len + SEPARATOR.len_utf8() + self.namespace.len()
            && text.starts_with(self.service.as_bytes())
            && text[service_len] == SEPARATOR as u8
            && text.ends_with(self.namespace.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_two_names_are_equivalent() {
        let names = ["a", "b", "ab", "", "a-rather-long-name-of-a-service"];
        let refs = names.iter().flat_map(|namespace| {
            names.iter().map(move |service| ServiceRef { namespace, service })
        });
        for one in refs.clone() {
            let key = TableKey::of(one);
            assert_eq!(key.as_ref(), one);
            for other in refs.clone() {
                assert_eq!(other.equivalent(&key), other == one, "{other:?} {one:?}");
            }
        }
    }
}
