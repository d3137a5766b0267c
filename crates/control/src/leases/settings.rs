//! The settings of expiry.

use serde::{Deserialize, Serialize};

/// Limits on expiry. They keep a short disturbance from emptying the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpirySettings {
    /// Time that is added to every time to live before a lease expires, in milliseconds.
    pub grace_ms: u64,
    /// The share of the fleet that may become silent within [`Self::silence_window_ms`], in percent. Above
    /// it, expiry is suspended. 100 disables this.
    pub silent_share_max_percent: u8,
    /// A lease counts as part of the fleet once it was renewed this long after it was opened, in milliseconds. So
    /// instances that are registered and then left alone do not suspend the expiry of others.
    pub established_ms: u64,
    /// Minimum number of leases for a suspension. In a smaller fleet, one deployment can be most of the fleet.
    pub silent_fleet_min: usize,
    /// The window in which silent instances are counted, in milliseconds.
    pub silence_window_ms: u64,
    /// After this time a suspension ends and leases expire at the limited rate, in milliseconds. With 0 a
    /// suspension lasts until an operator ends it or the fleet is back.
    pub suspension_max_ms: u64,
    /// Maximum number of expiries per second.
    pub rate_max_per_s: u64,
}

impl Default for ExpirySettings {
    fn default() -> Self {
        Self {
            grace_ms: 500,
            silent_share_max_percent: 50,
            established_ms: 60_000,
            silent_fleet_min: 50,
            silence_window_ms: 15_000,
            suspension_max_ms: 600_000,
            rate_max_per_s: 1_000,
        }
    }
}
