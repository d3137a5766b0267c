//! Restricts access to the node's files to the user that runs it, because the log has password hashes and
//! signing keys.
//!
//! New files are private because of the program's file mode mask (`main.rs`). Files of earlier runs or copies
//! with wider access are restricted when a node starts.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{data_dir, settings};
use crate::config::NodeConfig;

/// Mode of a private directory, and of a private file.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Restricts the data directory and Maxine's files in it, and its files elsewhere. Files of other programs
/// are not changed, because the data directory may have existed before.
pub(super) fn restrict_permissions(config: &NodeConfig) {
    let mut narrowed = Narrowed::default();
    narrowed.dir(&config.data_dir);
    narrowed.tree(&config.data_dir.join("raft"));
    let logs = config.data_dir.join(&config.telemetry.log_dir);
    // A directory elsewhere may be used by other programs.
    if logs.starts_with(&config.data_dir) {
        narrowed.dir(&logs);
    }
    narrowed.beginning_with(&logs, "maxine");
    let log_file = config.data_dir.join(&config.telemetry.log_file);
    if let (Some(dir), Some(name)) = (log_file.parent(), config.telemetry.log_file.file_stem()) {
        narrowed.beginning_with(dir, &name.to_string_lossy());
    }
    narrowed.beginning_with(&config.data_dir, data_dir::LOCK_FILE);
    narrowed.beginning_with(&config.data_dir, "pending-audit");
    narrowed.beginning_with(&config.data_dir, "alert-silences");
    narrowed.tree(&config.data_dir.join("audit-forward"));
    narrowed.beginning_with(&config.data_dir, "objectives");
    narrowed.beginning_with(&config.data_dir, "shared-log");
    narrowed.beginning_with(&config.data_dir, "newest-state");
    narrowed.beginning_with(&config.data_dir, "lease-tokens");
    narrowed.tree(&config.data_dir.join(&config.telemetry.audit_file));
    let log = settings::log_path(config);
    if let (Some(dir), Some(name)) = (log.parent(), log.file_name()) {
        narrowed.beginning_with(dir, &name.to_string_lossy());
    }
    narrowed.report();
}

/// Restricts a directory and everything in it.
pub fn restrict_tree(dir: &Path) {
    let mut narrowed = Narrowed::default();
    narrowed.tree(dir);
    narrowed.report();
}

/// What other users had access to.
#[derive(Default)]
struct Narrowed {
    count: usize,
    first: Option<String>,
}

impl Narrowed {
    /// Restricts a directory alone. A directory that everybody may write to, such as `/tmp`, is not changed.
    fn dir(&mut self, path: &Path) {
        const STICKY: u32 = 0o1000;
        if let Ok(metadata) = fs::metadata(path)
            && metadata.permissions().mode() & STICKY == 0
        {
            self.narrow(path, metadata.permissions().mode(), DIR_MODE);
        }
    }

    fn tree(&mut self, path: &Path) {
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        if metadata.is_dir() {
            self.narrow(path, metadata.permissions().mode(), DIR_MODE);
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.for_each(|entry| self.tree(&entry.path()));
        } else if metadata.is_file() {
            self.narrow(path, metadata.permissions().mode(), FILE_MODE);
        }
    }

    fn beginning_with(&mut self, dir: &Path, start: &str) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && entry.file_name().to_string_lossy().starts_with(start) {
                self.tree(&entry.path());
            }
        }
    }

    fn narrow(&mut self, path: &Path, found: u32, allowed: u32) {
        if found & 0o077 == 0 {
            return;
        }
        match fs::set_permissions(path, Permissions::from_mode(allowed)) {
            Ok(()) => {
                self.count += 1;
                self.first.get_or_insert_with(|| path.display().to_string());
            }
            // Another process has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                %error,
                path = %path.display(),
                "other users have access to this file, and it cannot be taken away"
            ),
        }
    }

    fn report(self) {
        if let Some(first) = self.first {
            tracing::warn!(
                count = self.count,
                %first,
                "other users had access to stored files or directories; now only the owner has"
            );
        }
    }
}
