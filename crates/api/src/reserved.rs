//! Metadata entries that belong to the face for clients of Consul.
//!
//! Only that face writes them. A registration through any other API keeps those that the instance has. It cannot add,
//! change or remove one: otherwise anybody could take over an id or a check of another client.

use crate::problem::Problem;
use maxine_state::{ControlState, Name, Registration, ServiceKey};

/// Prefix of the keys of these entries.
pub(crate) const PREFIX: &str = "consul-";

/// Whether an entry with this key belongs to the face for clients of Consul.
pub(crate) fn is_reserved(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// The reserved ones of entries that are sorted by key.
fn entries(metadata: &[(Name, Box<str>)]) -> &[(Name, Box<str>)] {
    let start = metadata.partition_point(|(key, _)| key.as_str() < PREFIX);
    let from_start = &metadata[start..];
    &from_start[..from_start.partition_point(|(key, _)| is_reserved(key.as_str()))]
}

/// A registration with the reserved entries that the instance has in `state`. It may repeat them. Any other reserved
/// entry is refused.
pub(crate) fn keep(
    state: &ControlState,
    service: &ServiceKey,
    mut registration: Registration,
) -> Result<Registration, Problem> {
    let present = state.service(service).and_then(|known| known.instances.get(&registration.id));
    let kept = match present {
        Some(present) => entries(&present.registration.metadata),
        None => &[],
    };
    let sent = entries(&registration.metadata);
    if let Some((key, _)) = sent.iter().find(|entry| !kept.contains(*entry)) {
        let limit = format!(
            "without keys that begin with {PREFIX}, unless their values stay: they belong to the API of Consul"
        );
        return Err(Problem::limit("metadata", &limit, key));
    }
    if sent.len() == kept.len() {
        return Ok(registration);
    }
    let own = registration.metadata.iter().filter(|(key, _)| !is_reserved(key.as_str()));
    registration.metadata = own.chain(kept).cloned().collect();
    let registration = registration.normalised();
    registration.check()?;
    Ok(registration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Actor, Address, Command, Proposal, RequestId};

    fn registration(metadata: &[(&str, &str)]) -> Registration {
        let address = Address::parse("http://10.0.0.1:80").unwrap();
        let entry = |(key, value): &(&str, &str)| (Name::trusted(key), Box::from(*value));
        let metadata = metadata.iter().map(entry).collect();
        Registration { metadata, ..Registration::new(Name::trusted("a"), address, 5_000) }
            .normalised()
    }

    #[test]
    fn only_the_face_for_clients_of_consul_adds_changes_or_removes_its_entries() {
        let key = ServiceKey::new(Name::trusted("default"), Name::trusted("web"));
        let stored = registration(&[
            ("b", "1"),
            ("consul-check-0", "{}"),
            ("consul-service", "x"),
            ("d", "2"),
        ]);
        let mut state = ControlState::default();
        let proposal = Proposal {
            request_id: RequestId(1),
            proposed_at_ms: 1,
            fence: None,
            actor: Actor::system("test"),
            command: Command::Register { items: vec![(key.clone(), stored.clone())] },
        };
        state.apply(&proposal, &mut Vec::new());
        // An equal registration stays one, with or without these entries.
        for sent in [
            registration(&[("b", "1"), ("d", "2")]),
            registration(&[("b", "1"), ("consul-service", "x"), ("d", "2")]),
            stored.clone(),
        ] {
            assert_eq!(keep(&state, &key, sent).unwrap(), stored);
        }
        let changed = keep(&state, &key, registration(&[("consul", "3"), ("e", "4")])).unwrap();
        let keys: Vec<_> = changed.metadata.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["consul", "consul-check-0", "consul-service", "e"]);
        let other = ServiceKey::new(Name::trusted("default"), Name::trusted("forge"));
        for (service, sent) in [
            (&other, ("consul-service", "x")),
            (&key, ("consul-service", "y")),
            (&key, ("consul-node", "{}")),
            (&key, ("consul-", "")),
        ] {
            let refused = keep(&state, service, registration(&[sent])).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("metadata"), "{sent:?}");
            assert_eq!(refused.value.as_deref(), Some(sent.0), "{sent:?}");
        }
    }
}
