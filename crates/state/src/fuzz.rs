//! Any log entry is read or refused, and has the same effect on every replica; any snapshot is read or refused.

use maxine_fuzzing::Target;

use super::codec::{decode_batch, encode_batch};
use super::*;

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "command", run: command, seeds: command_seeds },
    Target { name: "snapshot", run: snapshot, seeds: snapshot_seeds },
];

/// An entry that can be read is applied by two replicas, one of which was restored from the other's snapshot.
fn command(bytes: &[u8]) {
    let Ok(batch) = decode_batch(bytes) else { return };
    let again = encode_batch(&batch).expect("what was read can be written");
    assert_eq!(decode_batch(&again).expect("our own"), batch);
    let mut state = ControlState::default();
    let mut events = Vec::new();
    for proposal in batch.proposals.iter().take(16) {
        let mut other = restored(&state);
        let (before, mut other_events) = (events.len(), Vec::new());
        let applied = state.apply(proposal, &mut events);
        assert_eq!(other.apply(proposal, &mut other_events), applied);
        assert_eq!(other_events, events[before..]);
        assert_eq!(other.digest(), state.digest(), "replicas differ after {proposal:?}");
    }
    assert!(events.is_sorted_by(|a, b| a.index < b.index), "two events have one index");
}

fn restored(state: &ControlState) -> ControlState {
    let mut bytes = Vec::new();
    state.write_to(&mut bytes).expect("memory takes it");
    ControlState::read_from(&mut bytes.as_slice()).expect("our own")
}

fn batch() -> Batch {
    let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
    let address = Address::parse("http://10.0.0.1:80").expect("an address");
    let registration = Registration::new(Name::trusted("a"), address, 5_000);
    let instance = key.instance(Name::trusted("a"));
    let commands = [
        Command::GrantLeadership { holder: Name::trusted("node-1") },
        Command::Register { items: vec![(key.clone(), registration)] },
        Command::SetDrain { key: instance.clone(), reason: Some("update".into()) },
        Command::PutPolicy {
            key,
            policy_json: Some("{}".into()),
            expected_revision: Some(0),
            create: true,
        },
        Command::PutConfig { config: RuntimeConfig::default(), expected_revision: None },
        Command::PutUser {
            name: Name::trusted("ada"),
            role: Role::Admin,
            password_hash: "x".into(),
            managed: false,
            create_only: true,
            expected_version: None,
        },
        Command::Expire { items: vec![(instance, 2)] },
    ];
    let proposals = commands.into_iter().zip(1_u128..).map(|(command, id)| Proposal {
        request_id: RequestId(id),
        proposed_at_ms: 1_795_440_992_705,
        fence: command.is_leader_only().then_some(Fence(1)),
        actor: Actor { user: "u".into(), address: "10.0.0.1".into(), trace_id: "t".into() },
        command,
    });
    Batch { proposals: proposals.collect() }
}

fn command_seeds() -> Vec<Vec<u8>> {
    let whole = batch();
    let alone = whole.proposals.iter().map(|one| Batch { proposals: vec![one.clone()] });
    alone
        .chain([whole.clone()])
        .map(|batch| encode_batch(&batch).expect("within the limits"))
        .collect()
}

/// A snapshot that can be read is written to one that reads the same.
fn snapshot(bytes: &[u8]) {
    let Ok(state) = ControlState::read_from(&mut { bytes }) else { return };
    assert_eq!(restored(&state).digest(), state.digest());
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut state = ControlState::default();
    let mut seeds = Vec::new();
    for proposal in &batch().proposals {
        state.apply(proposal, &mut Vec::new());
        let mut bytes = Vec::new();
        state.write_to(&mut bytes).expect("memory takes it");
        seeds.push(bytes);
    }
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
