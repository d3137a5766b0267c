//! Restricts access to the node's files to the user that runs it, because the log has password hashes and
//! signing keys.
//!
//! New files are private because of the program's file mode mask (`main.rs`). Files of earlier runs or copies
//! with wider access are restricted when a node starts. A mode says nothing about the owner, so files of another user
//! prevent the start.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::{data_dir, settings};
use crate::config::NodeConfig;

/// Mode of a private directory, and of a private file.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The user id of root.
const ROOT: u32 = 0;

/// Restricts the data directory and Maxine's files in it, and its files elsewhere. Files of other programs
/// are not changed, because the data directory may have existed before.
pub(super) fn restrict_permissions(config: &NodeConfig) {
    let mut narrowed = Narrowed::default();
    each_of_node(config, &mut |path, found| narrowed.narrow(path, found));
    narrowed.report();
}

/// Restricts a directory and everything in it.
pub fn restrict_tree(dir: &Path) {
    let mut narrowed = Narrowed::default();
    tree(dir, &mut |path, found| narrowed.narrow(path, found));
    narrowed.report();
}

/// Why a node of `user` must not use its data directory: the directory, or one of Maxine's files in it, belongs to
/// another user, who can read the keys in it and change the state. Root may own it if the node runs as another user,
/// because root can do that anyway; the volumes of Kubernetes are like that.
pub(super) fn foreign(config: &NodeConfig, user: u32) -> Option<String> {
    let mut first: Option<(PathBuf, u32)> = None;
    each_of_node(config, &mut |path, found| {
        let owner = found.uid();
        let is_good = owner == user || (owner == ROOT && user != ROOT);
        // What is elsewhere may be shared with other nodes or programs.
        if !is_good && first.is_none() && path.starts_with(&config.data_dir) {
            first = Some((path.to_owned(), owner));
        }
    });
    let (path, owner) = first?;
    let path = path.display();
    Some(format!(
        "{path} belongs to {}, who can read and change the node's data, and this process runs as {}: run \
         'chown -R {user} {path}', or start the node as its owner",
        user_text(owner),
        user_text(user)
    ))
}

/// A user with its number, and its name if it is known.
#[must_use]
pub fn user_text(user: u32) -> String {
    match User::from_uid(Uid::from_raw(user)) {
        Ok(Some(known)) => format!("the user {} ({user})", known.name),
        _ => format!("the user {user}"),
    }
}

/// Receives a file or directory.
type See<'a> = &'a mut dyn FnMut(&Path, &Metadata);

/// The data directory and Maxine's files in it, and its files elsewhere, as far as they exist.
fn each_of_node(config: &NodeConfig, see: See<'_>) {
    dir(&config.data_dir, see);
    tree(&config.data_dir.join("raft"), see);
    let logs = config.data_dir.join(&config.telemetry.log_dir);
    // A directory elsewhere may be used by other programs.
    if logs.starts_with(&config.data_dir) {
        dir(&logs, see);
    }
    beginning_with(&logs, "maxine", see);
    let log_file = config.data_dir.join(&config.telemetry.log_file);
    if let (Some(dir), Some(name)) = (log_file.parent(), config.telemetry.log_file.file_stem()) {
        beginning_with(dir, &name.to_string_lossy(), see);
    }
    for start in [
        data_dir::LOCK_FILE,
        "pending-audit",
        "alert-silences",
        "objectives",
        "shared-log",
        "newest-state",
        "lease-tokens",
        "break-glass",
    ] {
        beginning_with(&config.data_dir, start, see);
    }
    tree(&config.data_dir.join("audit-forward"), see);
    tree(&config.data_dir.join(&config.telemetry.audit_file), see);
    let log = settings::log_path(config);
    if let (Some(dir), Some(name)) = (log.parent(), log.file_name()) {
        beginning_with(dir, &name.to_string_lossy(), see);
    }
}

/// A directory alone. A directory that everybody may write to, such as `/tmp`, is left out.
fn dir(path: &Path, see: See<'_>) {
    const STICKY: u32 = 0o1000;
    if let Ok(found) = fs::metadata(path)
        && found.permissions().mode() & STICKY == 0
    {
        see(path, &found);
    }
}

fn tree(path: &Path, see: See<'_>) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if found.is_dir() {
        see(path, &found);
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            tree(&entry.path(), see);
        }
    } else if found.is_file() {
        see(path, &found);
    }
}

fn beginning_with(dir: &Path, start: &str, see: See<'_>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && entry.file_name().to_string_lossy().starts_with(start) {
            tree(&entry.path(), see);
        }
    }
}

/// What other users had access to.
#[derive(Default)]
struct Narrowed {
    count: usize,
    first: Option<String>,
}

impl Narrowed {
    fn narrow(&mut self, path: &Path, found: &Metadata) {
        if found.permissions().mode() & 0o077 == 0 {
            return;
        }
        let allowed = if found.is_dir() { DIR_MODE } else { FILE_MODE };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a node of root used a data directory of another user, and said that only the owner has access.
    #[test]
    fn a_data_directory_or_a_file_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::defaults();
        config.data_dir = dir.path().join("data");
        fs::create_dir_all(config.data_dir.join("raft")).unwrap();
        let file = config.data_dir.join("raft/log");
        fs::write(&file, "").unwrap();
        // Root can give files away. Without root, they are looked at as another user.
        let own = nix::unistd::geteuid().as_raw();
        let (owner, other) = if own == ROOT { (4_711, ROOT) } else { (own, own + 1) };
        for path in [&file, &config.data_dir] {
            std::os::unix::fs::chown(path, Some(owner), None).unwrap();
            let why = foreign(&config, other).unwrap();
            let shown = path.display();
            let is_named = own != ROOT || why.starts_with(&format!("{shown} belongs to"));
            assert!(is_named && why.contains(&format!("'chown -R {other} ")), "{why}");
            assert!(why.contains(&format!("{owner}")), "{why}");
        }
        std::os::unix::fs::chown(config.data_dir.join("raft"), Some(owner), None).unwrap();
        assert_eq!(foreign(&config, owner), None);
        // As the volumes of Kubernetes: root owns the directory, and the node runs as another user.
        if own == ROOT {
            for path in [file, config.data_dir.join("raft"), config.data_dir.clone()] {
                std::os::unix::fs::chown(path, Some(ROOT), None).unwrap();
            }
            assert_eq!(foreign(&config, 10_001), None);
        }
    }
}
