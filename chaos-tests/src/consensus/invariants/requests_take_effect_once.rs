//! Invariant: a repeated write takes effect once, and gets the first answer.

use std::collections::BTreeMap;

use maxine_state::Applied;

use super::{Effect, Invariant};

#[derive(Default)]
pub(super) struct RequestsTakeEffectOnce {
    answers: BTreeMap<u128, Applied>,
}

impl Invariant for RequestsTakeEffectOnce {
    fn name(&self) -> &'static str {
        "requests-take-effect-once"
    }

    fn check(&mut self, effect: &Effect<'_>) -> Result<(), String> {
        let id = effect.proposal.request_id.0;
        let Some(first) = self.answers.get(&id) else {
            self.answers.insert(id, effect.applied.clone());
            return Ok(());
        };
        if !effect.events.is_empty() {
            return Err(format!("request {id} took effect twice"));
        }
        if first != effect.applied {
            return Err(format!(
                "request {id} was answered with {first:?} and then with {:?}",
                effect.applied
            ));
        }
        Ok(())
    }
}
