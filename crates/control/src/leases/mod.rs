//! Leases: until when each instance is registered without another heartbeat, on the leader.
//!
//! [`Leases`] is the engine: it opens and closes leases as instances come and go, expires what has run
//! out, and hands over to the next leader what was left. [`LeaseTable`] has the deadlines. Heartbeats
//! renew them there directly, from any thread, with one atomic store each: millions of heartbeats a
//! second must not wait in the engine's mailbox. The engine reads what they left.
//!
//! Deadlines are in the leader's memory only. A table belongs to one grant of leadership. When the
//! grant ends, the table acknowledges nothing more, and what was left is kept for the next leader.

mod deadlines;
mod engine;
mod former;
mod settings;
mod table;

pub use deadlines::Due;
pub use engine::{EXPIRY_TICK_MS, ExpiryEvent, LeaseEffect, LeaseEvent, Leases, NotLeft};
pub use former::{Former, FormerLease};
pub use settings::ExpirySettings;
pub use table::{LeaseId, LeaseTable, Leased};
