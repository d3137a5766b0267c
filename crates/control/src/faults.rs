//! Known faults of the engines, which the chaos tests switch on to show that they are caught.
//!
//! With the feature `faults`, `MAXINE_FAULT=expire-unconfirmed` switches one on for a process. With the
//! feature `simulation`, [`switch_on`] does for one thread. Without them nothing is ever on.

/// A known fault, one or two for each engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Leases are expired without confirming that this node still leads.
    ExpireUnconfirmed,
    /// What was renewed while leadership was confirmed is expired all the same.
    ExpireRenewed,
    /// An engine of the leases that is started again goes on under the grant that the one before served.
    ServeSpentGrant,
    /// A new leader opens leases as if each had last been renewed when it was registered.
    NoTakeoverGrace,
    /// A new leader takes over three seconds less than was left of each lease.
    HandOverShort,
    /// A write whose first attempt may have taken effect is refused as not written.
    ForgetUncertainty,
    /// One observer is enough for a verdict, whatever the policy says.
    OneObserverDecides,
    /// A leader whose grant was superseded does not ask for its duties again.
    SupersededForGood,
}

impl Fault {
    /// Every one with its name.
    pub const ALL: &[(Self, &'static str)] = &[
        (Self::ExpireUnconfirmed, "expire-unconfirmed"),
        (Self::ExpireRenewed, "expire-renewed"),
        (Self::ServeSpentGrant, "serve-spent-grant"),
        (Self::NoTakeoverGrace, "no-takeover-grace"),
        (Self::HandOverShort, "hand-over-short"),
        (Self::ForgetUncertainty, "forget-uncertainty"),
        (Self::OneObserverDecides, "one-observer-decides"),
        (Self::SupersededForGood, "superseded-for-good"),
    ];
}

#[cfg(any(feature = "faults", feature = "simulation"))]
mod switched {
    use std::cell::Cell;

    use super::Fault;

    #[cfg(feature = "faults")]
    fn from_environment() -> Option<Fault> {
        let named = std::env::var("MAXINE_FAULT").unwrap_or_default();
        let is_named = |name: &str| named.split(',').any(|word| word.trim() == name);
        Fault::ALL.iter().find(|(_, name)| is_named(name)).map(|(fault, _)| *fault)
    }

    #[cfg(not(feature = "faults"))]
    fn from_environment() -> Option<Fault> {
        None
    }

    thread_local! {
        static ON: Cell<Option<Fault>> = Cell::new(from_environment());
    }

    /// Switches a fault on for this thread, and any other off.
    #[cfg(feature = "simulation")]
    pub fn switch_on(fault: Option<Fault>) {
        ON.set(fault);
    }

    pub(crate) fn is_on(fault: Fault) -> bool {
        ON.get() == Some(fault)
    }
}

#[cfg(any(feature = "faults", feature = "simulation"))]
pub(crate) use switched::is_on;
#[cfg(feature = "simulation")]
pub use switched::switch_on;

#[cfg(not(any(feature = "faults", feature = "simulation")))]
pub(crate) const fn is_on(_: Fault) -> bool {
    false
}
