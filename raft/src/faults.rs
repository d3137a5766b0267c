//! Deliberate faults for the chaos tests. They need the feature `faults`.
//!
//! `MAXINE_FAULT` names them, separated by commas: `ack-before-fsync`, `strong-read-without-barrier`,
//! `slow-fsync=<ms>`. The file named by `MAXINE_FAULT_FILE` has the same format. It is read again at each
//! sync, so that a test can change faults while a node runs. Without the feature, the functions have no
//! effect.

#[cfg(feature = "faults")]
fn active(word: &str) -> Option<String> {
    let from_env = std::env::var("MAXINE_FAULT").unwrap_or_default();
    let from_file = std::env::var("MAXINE_FAULT_FILE")
        .ok()
        .and_then(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    from_env.split([',', '\n']).chain(from_file.split([',', '\n'])).find_map(|part| {
        let (name, value) = part.trim().split_once('=').unwrap_or((part.trim(), ""));
        (name == word).then(|| value.to_owned())
    })
}

/// Whether to acknowledge entries before they are written.
#[cfg(feature = "faults")]
pub(crate) fn ack_before_fsync() -> bool {
    active("ack-before-fsync").is_some()
}

/// Whether to answer strong reads from the local state without asking a quorum.
#[cfg(feature = "faults")]
pub(crate) fn strong_read_without_barrier() -> bool {
    active("strong-read-without-barrier").is_some()
}

/// Delays one sync as requested.
#[cfg(feature = "faults")]
pub(crate) fn before_sync() {
    if let Some(ms) = active("slow-fsync").and_then(|value| value.parse().ok()) {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn ack_before_fsync() -> bool {
    false
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn strong_read_without_barrier() -> bool {
    false
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn before_sync() {}
