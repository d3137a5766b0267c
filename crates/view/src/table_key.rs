//! What the routing tables are filed by.

use std::hash::{Hash, Hasher};

use equivalent::Equivalent;
use smol_str::{SmolStr, format_smolstr};

use maxine_state::ServiceRef;

/// Stands in no name.
const SEPARATOR: char = '\0';

/// A service's two names in one text. A short one, of up to 23 bytes, stands beside its table: among many services, every further
/// place in memory that a look-up goes to costs as much as all of its instructions.
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

// As a `ServiceRef`, which looks keys up.
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
