//! A deliberate fault: `MAXINE_FAULT=drop-watch-event`. The chaos tests switch it on to show that they detect
//! it. It needs the feature `faults`; without it, the function returns false at compile time.

/// Whether the change at this index is withheld from watchers.
#[cfg(feature = "faults")]
pub(crate) fn drop_watch_event(index: u64) -> bool {
    use std::sync::LazyLock;
    static ON: LazyLock<bool> = LazyLock::new(|| {
        let named = std::env::var("MAXINE_FAULT").unwrap_or_default();
        named.split(',').any(|word| word.trim() == "drop-watch-event")
    });
    index.is_multiple_of(97) && *ON
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn drop_watch_event(_: u64) -> bool {
    false
}
