//! The intake: decides which writes go into the next batch, and how each write is answered.
//!
//! While one batch is in flight, the next one is collected. So batches grow with the load, and a single write
//! waits for no other. A batch is tried again as long as that is safe and there is time. Then each write in
//! it is answered: done, not written, or unknown.

mod engine;
mod outcome;
mod queues;

pub use engine::{INTAKE_TICK_MS, Intake, IntakeEffect, IntakeEvent};
pub use outcome::{Attempted, Failure, Refusal};
pub use queues::{Write, WriteTimes};
