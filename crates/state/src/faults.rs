//! A known fault that the chaos tests switch on to show that it is caught: `MAXINE_FAULT=skip-fencing`.
//! Compiled in only with the feature `faults`; without it the answer is "no" at compile time.

/// Whether a leader-only command takes effect whatever its fence.
#[cfg(feature = "faults")]
pub(crate) fn skip_fencing() -> bool {
    use std::sync::LazyLock;
    static ON: LazyLock<bool> = LazyLock::new(|| {
        let named = std::env::var("MAXINE_FAULT").unwrap_or_default();
        named.split(',').any(|word| word.trim() == "skip-fencing")
    });
    *ON
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn skip_fencing() -> bool {
    false
}
