//! Leases, on the leader: until when each instance stays registered without another heartbeat.
//!
//! [`Leases`] is the engine. It opens and closes leases as instances are registered and removed, expires
//! those that have run out, and reports the remaining times to the next leader. [`LeaseTable`] stores the
//! deadlines. Heartbeats renew them directly, from any thread, with a few atomic operations each, because millions
//! of heartbeats a second must not wait in the engine's mailbox. The engine reads the result.
//!
//! Deadlines exist only in the leader's memory. A table belongs to one grant of leadership. When the grant
//! ends, the table acknowledges nothing more, and the remaining times are kept for the next leader.

mod deadlines;
mod expiry;
mod handover;
mod lease_id;
mod settings;
mod table;

pub use deadlines::{Due, Suspension};
pub use expiry::{
    EXPIRY_TICK_MS, ExpiryEvent, ExpiryOutcome, LeaseEffect, LeaseEvent, Leases, RemainingUnknown,
};
pub use handover::{FormerLease, RemainingTimes};
pub use lease_id::LeaseId;
pub use settings::ExpirySettings;
pub use table::{LeaseTable, Leased};
