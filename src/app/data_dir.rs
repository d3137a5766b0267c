//! The lock of the data directory, for the modes in which the store does not lock it. In raft mode the store
//! locks its own part of the directory, and in local mode it locks its log.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::{BackendKind, NodeConfig};

/// Name of the lock file.
pub(super) const LOCK_FILE: &str = "node.lock";

/// The lock file, in the modes that need one.
fn lock_file(config: &NodeConfig) -> Option<PathBuf> {
    matches!(config.backend, BackendKind::Redis | BackendKind::SharedFile)
        .then(|| config.data_dir.join(LOCK_FILE))
}

fn is_used(config: &NodeConfig) -> String {
    format!("another process uses the data directory {} (node.data_dir)", config.data_dir.display())
}

/// Locks the data directory for this process, until the file is dropped.
pub(super) fn lock(config: &NodeConfig) -> anyhow::Result<Option<File>> {
    let Some(path) = lock_file(config) else { return Ok(None) };
    let failed = || format!("{} cannot be locked", path.display());
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    let lock = maxine_files::open_own(&path, &mut options).with_context(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(anyhow::Error::msg(is_used(config))),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}

/// Whether [`lock`] would find the directory free. Creates no file.
pub(super) fn check(config: &NodeConfig) -> Result<(), String> {
    let Some(path) = lock_file(config) else { return Ok(()) };
    let failed = |error: io::Error| format!("{}: {}", path.display(), maxine_wording::io(&error));
    let lock = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(is_used(config)),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
