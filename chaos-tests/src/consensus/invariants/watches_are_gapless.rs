//! Invariant: a watcher of a replica misses no change. The changes rebuild the registry, in the order of
//! their indexes.

use std::collections::BTreeMap;

use maxine_state::{ControlState, EventKind, InstanceKey};

use super::{Effect, Invariant};

#[derive(Default)]
pub(super) struct WatchesAreGapless {
    last: u64,
    /// The leases that a watcher knows.
    followed: Option<BTreeMap<InstanceKey, u64>>,
}

fn leases(state: &ControlState) -> BTreeMap<InstanceKey, u64> {
    let mut leases = BTreeMap::new();
    for (key, service) in state.services() {
        for (name, instance) in &service.instances {
            leases.insert(key.instance(name.clone()), instance.lease_epoch);
        }
    }
    leases
}

impl Invariant for WatchesAreGapless {
    fn name(&self) -> &'static str {
        "watches-are-gapless"
    }

    fn check(&mut self, effect: &Effect<'_>) -> Result<(), String> {
        let followed = self.followed.get_or_insert_with(|| leases(effect.before));
        for event in effect.events {
            if event.index <= self.last {
                return Err(format!(
                    "a change at index {} follows one at index {}",
                    event.index, self.last
                ));
            }
            self.last = event.index;
            match &event.kind {
                EventKind::InstanceRegistered { key, data } => {
                    followed.insert(key.clone(), data.lease_epoch);
                }
                EventKind::InstanceRemoved { key, .. } => drop(followed.remove(key)),
                _ => {}
            }
        }
        if self.last > effect.after.index() {
            return Err(format!(
                "the last change is at index {}, but the state is only at index {}",
                self.last,
                effect.after.index()
            ));
        }
        if *followed != leases(effect.after) {
            return Err(format!(
                "up to index {}, the changes give another registry than the state",
                effect.after.index()
            ));
        }
        Ok(())
    }
}
