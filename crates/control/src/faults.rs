//! Deliberate faults of the engines. The chaos tests switch them on to show that they detect them.
//!
//! With the feature `faults`, `MAXINE_FAULT=expire-unconfirmed` switches one on for the process. With the
//! feature `simulation`, [`switch_on`] does so for one thread. Without these features, no fault can be
//! switched on.

/// A deliberate fault. Each engine has one or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Leases expire without a confirmation that this node still leads.
    ExpireUnconfirmed,
    /// Leases that were renewed while leadership was being confirmed expire nevertheless.
    ExpireRenewed,
    /// A lease engine that is restarted continues under the grant that the engine before it used.
    ServeSpentGrant,
    /// A new leader opens leases as if each had last been renewed at its registration.
    NoTakeoverGrace,
    /// A new leader takes over three seconds less than the remaining time of each lease.
    HandOverShort,
    /// A write whose first attempt may have taken effect is answered as not written.
    ForgetUncertainty,
    /// One observer is enough for a verdict, whatever the policy says.
    OneObserverDecides,
    /// A leader whose grant was superseded does not ask for a new one.
    SupersededForGood,
}

impl Fault {
    /// All faults, with their names.
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

    /// Switches a fault on for this thread, and all others off.
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
