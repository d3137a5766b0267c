//! Only its owner may read what a node stores, in every mode. The test for Raft mode is in `faults`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::dev::Dev;
use crate::faults::open_to_others;

/// Gives other users access to everything in a directory, as a copy or an earlier version may have done.
fn open_up(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            open_up(&entry.path());
            std::fs::set_permissions(entry.path(), Permissions::from_mode(0o755)).unwrap();
        } else {
            std::fs::set_permissions(entry.path(), Permissions::from_mode(0o644)).unwrap();
        }
    }
}

async fn is_private(backend: &str, nodes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let count = nodes.to_string();
    let mut dev = Dev::start(dir.path(), &["--backend", backend, "--nodes", &count]);
    for node in 0..nodes {
        assert_eq!(dev.register(node, "orders", &format!("i{node}")).await.0, 200, "{backend}");
    }
    let token = dev.token().await;
    let url = format!("{}/api/logs/download", dev.nodes[0].http);
    assert_eq!(dev.client.get(url).bearer_auth(token).send().await.unwrap().status(), 200);
    let (open, seen) = open_to_others(dir.path());
    assert!(open.is_empty() && seen > 3 * nodes, "{backend}: {seen} entries, open: {open:#?}");

    dev.signal(0, Signal::SIGKILL);
    let data_dir = Path::new(&dev.nodes[0].data_dir).to_owned();
    open_up(&data_dir);
    // The process that was killed may not have been noticed yet when the first call comes.
    while dev.ready(0).await.is_none() {
        dev.restart_dead();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (open, _) = open_to_others(&data_dir);
    assert!(open.is_empty(), "{backend}: still open after a start: {open:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_node_stores_in_any_mode_can_be_read_by_other_users() {
    for (backend, nodes) in [("local", 1), ("shared-file", 2), ("redis", 2)] {
        is_private(backend, nodes).await;
    }
}
