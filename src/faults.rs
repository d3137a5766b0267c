//! A known fault that the chaos tests switch on to show that it is caught: `MAXINE_FAULT=expire-unconfirmed`.
//! Compiled in only with the feature `faults`; without it the answer is "no" at compile time. Other parts
//! have faults of their own: `raft/src/faults.rs`, `crates/state/src/faults.rs`, `crates/view/src/faults.rs`.

/// Whether leases are expired without asking a majority who leads.
#[cfg(feature = "faults")]
pub(crate) fn expire_unconfirmed() -> bool {
    use std::sync::LazyLock;
    static ON: LazyLock<bool> = LazyLock::new(|| {
        let named = std::env::var("MAXINE_FAULT").unwrap_or_default();
        named.split(',').any(|word| word.trim() == "expire-unconfirmed")
    });
    *ON
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn expire_unconfirmed() -> bool {
    false
}
