//! Invariant: a write that a node answers as not written has not taken effect, and never will.

use super::Invariant;
use crate::facts::{Facts, Step};

#[derive(Debug, Default)]
pub(super) struct RefusedWritesAreNotWritten;

impl Invariant for RefusedWritesAreNotWritten {
    fn name(&self) -> &'static str {
        "refused-writes-are-not-written"
    }

    fn check(&mut self, facts: &Facts, _: &Step) -> Result<(), String> {
        match facts.refused.iter().find(|write| facts.ordered.contains(write)) {
            Some(write) => {
                Err(format!("write {write} was answered as not written, but it was ordered"))
            }
            None => Ok(()),
        }
    }
}
