//! Intake: which writes go into the next batch, and what becomes of a batch.
//!
//! While one batch is on its way the next one gathers, so the batch grows with the load and a lone write
//! waits for nobody. A batch is tried again for as long as that is safe and its time lasts. Then each
//! write in it is answered: done, not written, or unknown.

mod engine;
mod queues;

pub use engine::{Attempted, Failure, INTAKE_TICK_MS, Intake, IntakeEffect, IntakeEvent, Refusal};
pub use queues::{Write, WriteTimes};
