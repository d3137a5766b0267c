//! Processes in a mount namespace of their own, in which a test mounts disks of its own.

use std::process::{Child, Command, Stdio};

/// Starts a shell script in a mount namespace. The script mounts disks and ends with `exec`, so that the process that
/// is returned becomes the node.
pub(crate) fn start(script: &str, stderr: Stdio) -> Child {
    // Without root the namespace needs a user namespace. If neither is allowed, the test fails with that reason.
    let namespaces: &[&str] = if nix::unistd::geteuid().is_root() {
        &["--mount"]
    } else {
        &["--user", "--map-root-user", "--mount"]
    };
    Command::new("unshare")
        .args(namespaces)
        .args(["--", "sh", "-c", script])
        .env("MAXINE_ADMIN_USERNAME", "root")
        .env("MAXINE_ADMIN_PASSWORD", "correct horse battery")
        .env("MAXINE_LOG", "debug")
        .stdin(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap()
}
