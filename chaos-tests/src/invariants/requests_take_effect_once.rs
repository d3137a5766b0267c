//! Invariant: a repeated write takes effect once, and its repeats get the first reply.

use std::collections::BTreeMap;

use maxine_state::{Applied, Command};

use super::Invariant;
use crate::facts::{Facts, Step};

#[derive(Debug, Default)]
pub(super) struct RequestsTakeEffectOnce {
    first: BTreeMap<u128, (usize, Applied)>,
    /// Registrations by name and by the time at which the client made them. All attempts of one registration
    /// have the same time.
    made: BTreeMap<(String, u64), usize>,
}

impl Invariant for RequestsTakeEffectOnce {
    fn name(&self) -> &'static str {
        "requests-take-effect-once"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { position, applied, events, .. } = step else { return Ok(()) };
        let proposal = &facts.log[*position - 1].proposal;
        let id = proposal.request_id.0;
        let (first, answer) = self.first.entry(id).or_insert_with(|| (*position, applied.clone()));
        if first != position && !events.is_empty() {
            return Err(format!("request {id} took effect at entries {first} and {position}"));
        }
        if answer != applied {
            return Err(format!(
                "request {id} was answered with {answer:?} and then with {applied:?}"
            ));
        }
        if let (Command::Register { items }, false) = (&proposal.command, events.is_empty()) {
            for (service, registration) in items {
                let name = format!("{service}/{}", registration.id);
                let at =
                    self.made.entry((name.clone(), proposal.proposed_at_ms)).or_insert(*position);
                if at != position {
                    return Err(format!(
                        "{name} was registered by the entries {at} and {position}, which belong to one registration of \
                         the client"
                    ));
                }
            }
        }
        if let Some(reply) = facts.replies.get(&id)
            && reply != applied
        {
            return Err(format!(
                "request {id} was answered with {reply:?}, but applied as {applied:?}"
            ));
        }
        Ok(())
    }
}
