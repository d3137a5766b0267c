//! A known fault that the chaos tests switch on to show that it is caught: `MAXINE_FAULT=drop-watch-event`.
//! Compiled in only with the feature `faults`; without it the answer is "no" at compile time.

/// Whether watchers do not get the change at this index.
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
