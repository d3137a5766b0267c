//! How an instance of Maxine and a service of Consul correspond.
//!
//! What Consul knows and Maxine does not is kept in the instance's metadata, under keys that begin with `consul-`. Consul
//! reserves this prefix, so no client's own metadata has it. Clients do not see these entries.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use maxine_state::limits::LimitExceeded;
use maxine_state::{CheckKind, CheckStatus, Instance, Name, Registration};

/// Prefix of the metadata keys that this face keeps.
pub(crate) const RESERVED: &str = "consul-";
/// The entry that marks what was registered through this face.
const SERVICE: &str = "consul-service";
/// What that entry has for a service of the agent of which nothing else is kept: [`ServiceExtra::default`].
const OF_THE_AGENT: &str = r#"{"through":"agent"}"#;
/// The entry about the node, of a registration through the catalog.
const NODE: &str = "consul-node";
/// Prefix of the entries about checks.
const CHECK: &str = "consul-check-";

/// Who registered the instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Through {
    /// The agent's routes, or the catalog's for the agent's node.
    #[default]
    Agent,
    /// The catalog's routes, for another node.
    Catalog,
}

/// An address under another name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaggedAddress {
    #[serde(rename = "Address")]
    pub(crate) address: String,
    #[serde(rename = "Port")]
    pub(crate) port: u16,
}

/// What Consul knows of a service and Maxine does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceExtra {
    pub(crate) through: Through,
    /// The id in Consul, if it is not the id of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight_warning: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tagged: BTreeMap<String, TaggedAddress>,
}

/// What Consul knows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeExtra {
    pub(crate) address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tagged: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) meta: BTreeMap<String, String>,
}

/// What Consul knows of a check and Maxine does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CheckExtra {
    /// The id in Consul.
    pub(crate) id: String,
    /// Whether it is the instance's probe. Any other check has the same id in Maxine.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) probe: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) notes: String,
    /// The target of a probe, as the client wrote it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) target: String,
    /// Whether a probe without a result counts as passing.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) passes_first: bool,
    /// How long the check may be critical until the instance is deregistered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deregister_after_ms: Option<u64>,
    /// Whether it has neither a probe nor a time to live, because it was registered through the catalog.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) is_static: bool,
}

impl CheckExtra {
    /// Whether the registration has the check that this is about.
    fn has_check(&self, registration: &Registration) -> bool {
        registration.checks.iter().any(|check| match &check.kind {
            CheckKind::Probe(_) => self.probe,
            CheckKind::Ttl { .. } => !self.probe && check.id.as_str() == self.id,
        })
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The metadata of an instance.
pub(crate) type Metadata = Arc<[(Name, Box<str>)]>;

/// All that is kept for this face about one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    /// `None` if it was not registered through this face.
    pub(crate) service: Option<ServiceExtra>,
    pub(crate) node: Option<NodeExtra>,
    pub(crate) checks: Vec<CheckExtra>,
}

impl Extras {
    /// Reads the entries of a registration. An entry that cannot be read, or that is about a check which the registration
    /// does not have, counts as absent.
    pub(crate) fn of(registration: &Registration) -> Self {
        let mut extras = Self::default();
        let metadata = &registration.metadata;
        let start = metadata.partition_point(|(key, _)| key.as_str() < RESERVED);
        let reserved =
            metadata[start..].iter().take_while(|(key, _)| key.as_str().starts_with(RESERVED));
        for (key, value) in reserved {
            match key.as_str() {
                // Most services have nothing else, and every answer reads it.
                SERVICE if **value == *OF_THE_AGENT => {
                    extras.service = Some(ServiceExtra::default());
                }
                SERVICE => extras.service = serde_json::from_str(value).ok(),
                NODE => extras.node = serde_json::from_str(value).ok(),
                key if key.starts_with(CHECK) => {
                    extras.checks.extend(serde_json::from_str::<CheckExtra>(value))
                }
                _ => {}
            }
        }
        // Another API may have replaced the checks.
        extras.checks.retain(|extra| extra.has_check(registration));
        extras
    }

    /// The client's metadata, and the entries of this face.
    pub(crate) fn metadata<'a>(
        &self,
        own: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Metadata, LimitExceeded> {
        let mut all: Vec<(Name, Box<str>)> = Vec::new();
        for (key, value) in own {
            all.push((Name::parse("Meta", key)?, value.into()));
        }
        let mut keep = |key: &str, value: Option<String>| {
            all.extend(value.map(|value| (Name::trusted(key), value.into_boxed_str())));
        };
        keep(SERVICE, self.service.as_ref().and_then(|extra| serde_json::to_string(extra).ok()));
        keep(NODE, self.node.as_ref().and_then(|extra| serde_json::to_string(extra).ok()));
        for (at, check) in self.checks.iter().enumerate() {
            keep(&format!("{CHECK}{at}"), serde_json::to_string(check).ok());
        }
        Ok(all.into())
    }

    /// The id in Consul.
    pub(crate) fn id<'a>(&'a self, registration: &'a Registration) -> &'a str {
        let own = self.service.as_ref().and_then(|service| service.id.as_deref());
        own.unwrap_or(registration.id.as_str())
    }

    /// What is kept about a check of Maxine.
    pub(crate) fn check(&self, id: &str, is_probe: bool) -> Option<&CheckExtra> {
        self.checks.iter().find(|check| check.probe == is_probe && (is_probe || check.id == id))
    }
}

/// The client's own metadata.
pub(crate) fn own_metadata(registration: &Registration) -> impl Iterator<Item = (&str, &str)> {
    let all = registration.metadata.iter().map(|(key, value)| (key.as_str(), &**value));
    all.filter(|(key, _)| !key.starts_with(RESERVED))
}

/// How long the instance has been critical for longer than a check of it allows, if it has. `critical_ms` says for how
/// long a check with this status has been critical.
pub(crate) fn is_overdue(
    instance: &Instance,
    mut critical_ms: impl FnMut(&str, u64) -> u64,
) -> bool {
    let has_entry =
        instance.registration.metadata.iter().any(|(key, _)| key.as_str().starts_with(CHECK));
    if !has_entry {
        return false;
    }
    let extras = Extras::of(&instance.registration);
    instance.checks().any(|check| {
        let is_probe = check.id == maxine_state::Check::PROBE;
        let after_ms = extras.check(check.id, is_probe).and_then(|extra| extra.deregister_after_ms);
        let since_ms = check.since_ms.unwrap_or_default();
        check.status == CheckStatus::Critical
            && after_ms.is_some_and(|after_ms| critical_ms(check.id, since_ms) >= after_ms)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Address, Check};

    #[test]
    fn the_short_form_of_an_entry_is_what_it_stands_for() {
        let default = ServiceExtra::default();
        assert_eq!(serde_json::to_string(&default).unwrap(), OF_THE_AGENT);
        assert_eq!(serde_json::from_str::<ServiceExtra>(OF_THE_AGENT).unwrap(), default);
    }

    #[test]
    fn what_is_kept_is_read_back_and_is_hidden() {
        let extras = Extras {
            service: Some(ServiceExtra { weight_warning: Some(3), ..ServiceExtra::default() }),
            node: None,
            checks: vec![CheckExtra {
                id: "service:a".into(),
                deregister_after_ms: Some(60_000),
                ..CheckExtra::default()
            }],
        };
        let address = Address::parse("http://10.0.0.1:80").unwrap();
        let mut registration = Registration::new(Name::trusted("a"), address, 5_000);
        registration.metadata = extras.metadata([("zz", "1"), ("a", "2")].into_iter()).unwrap();
        let registration = registration.normalised();
        let without_check = Extras { checks: Vec::new(), ..extras.clone() };
        assert_eq!(Extras::of(&registration), without_check, "an entry without its check");
        let kind = CheckKind::Ttl { ttl_ms: 5_000, initial: CheckStatus::Critical };
        let check = Check { id: Name::trusted("service:a"), kind };
        let registration = Registration { checks: [check].into(), ..registration };
        assert_eq!(Extras::of(&registration), extras);
        let own: Vec<_> = own_metadata(&registration).collect();
        assert_eq!(own, [("a", "2"), ("zz", "1")]);
    }
}
