//! Known faults that the chaos tests switch on to show that they are caught; compiled in only with the
//! feature `faults`, and answered "no" at compile time without it.
//!
//! `MAXINE_FAULT` names them, separated by commas, beside those of the log (`raft/src/faults.rs`):
//! `skip-fencing`, `expire-unconfirmed`, `drop-watch-event`.

#[cfg(feature = "faults")]
mod switched {
    use std::collections::BTreeSet;
    use std::sync::LazyLock;

    /// Named when the process was started.
    static NAMED: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let named = std::env::var("MAXINE_FAULT").unwrap_or_default();
        named.split(',').map(|word| word.trim().to_owned()).collect()
    });

    fn is_on(word: &str) -> bool {
        NAMED.contains(word)
    }

    /// Whether a leader-only command takes effect whatever its fence.
    pub(crate) fn skip_fencing() -> bool {
        is_on("skip-fencing")
    }

    /// Whether leases are expired without asking a majority who leads.
    pub(crate) fn expire_unconfirmed() -> bool {
        is_on("expire-unconfirmed")
    }

    /// Whether watchers are not told of the change at this index.
    pub(crate) fn drop_watch_event(index: u64) -> bool {
        index.is_multiple_of(97) && is_on("drop-watch-event")
    }
}

#[cfg(not(feature = "faults"))]
mod switched {
    pub(crate) const fn skip_fencing() -> bool {
        false
    }

    pub(crate) const fn expire_unconfirmed() -> bool {
        false
    }

    pub(crate) const fn drop_watch_event(_: u64) -> bool {
        false
    }
}

pub(crate) use switched::{drop_watch_event, expire_unconfirmed, skip_fencing};
