//! A deliberate fault: `MAXINE_FAULT=skip-fencing`. The chaos tests switch it on to show that they detect it.
//! It needs the feature `faults`; without it, the function returns false at compile time.

/// Whether apply accepts a command with the fence of an earlier grant.
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
