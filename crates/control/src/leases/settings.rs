//! Limits on expiry.

use serde::{Deserialize, Serialize};

/// Limits on expiry, so that one odd minute cannot empty the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpirySettings {
    /// Added to every time to live before a lease runs out, in milliseconds.
    pub grace_ms: u64,
    /// A share of the fleet, in percent, that may fall silent within [`Self::silence_window_ms`];
    /// beyond it expiry is suspended. 100 switches the guard off.
    pub silent_share_max_percent: u8,
    /// Fleets smaller than this are never guarded: there, one deployment is most of it.
    pub silent_fleet_min: usize,
    /// The window over which silence is counted, in milliseconds.
    pub silence_window_ms: u64,
    /// After this long a suspension ends and expiry goes on at its limited rate, in
    /// milliseconds; 0 waits for an operator or for the fleet to come back.
    pub suspension_max_ms: u64,
    /// Most expiries per second.
    pub rate_max_per_s: u64,
}

impl Default for ExpirySettings {
    fn default() -> Self {
        Self {
            grace_ms: 500,
            silent_share_max_percent: 50,
            silent_fleet_min: 50,
            silence_window_ms: 15_000,
            suspension_max_ms: 600_000,
            rate_max_per_s: 1_000,
        }
    }
}
