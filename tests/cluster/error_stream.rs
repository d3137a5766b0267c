//! Standard error accepts nothing: a node continues to serve, and still stops when it must.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::namespace;

/// How long a node may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Registrations in one request, and more requests than fit on the small disk.
const BATCH_LEN: usize = 50;
const BATCHES_MAX: usize = 200;

/// A device that is always full.
fn full() -> (Stdio, Option<OwnedFd>) {
    (File::options().write(true).open("/dev/full").unwrap().into(), None)
}

/// A pipe that is full and that nobody reads, with the end that keeps it open.
fn blocked() -> (Stdio, Option<OwnedFd>) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut pipe = File::from(writer.try_clone().unwrap());
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (writer.into(), Some(reader))
}

/// A node in local mode, in its own mount namespace. A small disk has its data.
fn serve_locally_on_small_disk(disk: &Path, port: u16, stderr: Stdio) -> Child {
    let here = disk.display();
    let script = format!(
        "mount -t tmpfs -o size=32m tmpfs '{here}' && exec '{}' serve --mode=local --exit-with-stdin \
         --data-dir='{here}/data' --port={port}",
        env!("CARGO_BIN_EXE_maxine"),
    );
    namespace::start(&script, stderr)
}

/// A node of a Raft cluster of one, in its own mount namespace. A small disk has its data and its standard
/// error.
fn serve_on_small_disk(disk: &Path, port: u16, peer_port: u16) -> Child {
    let here = disk.display();
    let script = format!(
        "mount -t tmpfs -o size=32m tmpfs '{here}' && exec '{}' serve --mode=raft --exit-with-stdin --node-id=1 \
         --raft-listen=127.0.0.1:{peer_port} --raft-members=1@127.0.0.1:{peer_port}@http://127.0.0.1:{port} \
         --data-dir='{here}/data' --port={port} 2>'{here}/stderr'",
        env!("CARGO_BIN_EXE_maxine"),
    );
    namespace::start(&script, Stdio::inherit())
}

/// Fills the disk that a process sees at `disk`.
fn fill(process: u32, disk: &Path) {
    let seen = Path::new("/proc").join(process.to_string()).join("root");
    let ballast = seen.join(disk.strip_prefix("/").unwrap()).join("ballast");
    let mut ballast = File::create(ballast).unwrap();
    for len in [1024 * 1024, 4_096, 1] {
        let block = vec![b'.'; len];
        while ballast.write_all(&block).is_ok() {}
    }
    assert!(ballast.metadata().unwrap().len() > 1024 * 1024, "it is another disk");
}

async fn ended(child: &mut Child) -> Option<i32> {
    let waiting = async {
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, waiting).await;
    if ended.is_err() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    ended.expect("it does not stop")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_write_no_line_of_its_log_serves_and_stops() {
    maxine_identity::crypto_provider::install_crypto_provider();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for stream in [full as fn() -> _, blocked] {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (stderr, _kept) = stream();
        let mut node = serve_locally_on_small_disk(dir.path(), port, stderr);
        let url = format!("http://127.0.0.1:{port}/api/v1");
        let ready = async {
            loop {
                let answer = client.get(format!("{url}/ready")).send().await;
                if answer.is_ok_and(|answer| answer.status() == 200) {
                    return;
                }
                assert!(node.try_wait().unwrap().is_none(), "it ended");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("it serves");
        // The disk is full. The node must stop, although it cannot report that. The last block of the log may have room
        // for a few writes.
        fill(node.id(), dir.path());
        let body = serde_json::json!({"address": "http://127.0.0.1:9"});
        let put = async |nth: usize| {
            let instance = format!("{url}/services/default/orders/instances/i{nth}");
            let answer = client.put(instance).json(&body).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        let mut acknowledged = 0;
        while acknowledged < BATCHES_MAX && put(acknowledged).await {
            acknowledged += 1;
        }
        assert!(acknowledged < BATCHES_MAX, "the disk is full, and every write is acknowledged");
        assert_eq!(ended(&mut node).await, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raft_node_stops_when_its_disk_is_full_and_its_error_stream_is_on_it() {
    maxine_identity::crypto_provider::install_crypto_provider();
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let free_port = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (port, peer_port) = (free_port(), free_port());
    let mut node = serve_on_small_disk(dir.path(), port, peer_port);
    let url = format!("http://127.0.0.1:{port}/api/v1");
    // The entries are large, so that the space that the log allocated in advance is soon used up.
    let note = ".".repeat(1_000);
    let put = async |nth: usize| {
        let metadata = serde_json::json!({"a": note, "b": note, "c": note, "d": note, "e": note});
        let item = |at: usize| {
            serde_json::json!({
                "namespace": "default", "service": "orders", "id": format!("i{nth}-{at}"),
                "address": "http://127.0.0.1:9", "ttl_ms": 3_600_000, "metadata": metadata,
            })
        };
        let items: Vec<_> = (0..BATCH_LEN).map(item).collect();
        let body = serde_json::json!({"items": items});
        let answer = client.post(format!("{url}/registrations")).json(&body).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    };
    let serves = async {
        while !put(0).await {
            let ended = node.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}): root or user namespaces are needed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, serves).await.expect("it serves");
    fill(node.id(), dir.path());
    let mut acknowledged = 0;
    while acknowledged < BATCHES_MAX && put(acknowledged + 1).await {
        acknowledged += 1;
    }
    assert!(acknowledged < BATCHES_MAX, "the disk is full, and every write is acknowledged");
    assert_eq!(ended(&mut node).await, Some(1));
    // The node must stop: otherwise it would serve an old state without end.
    assert!(client.get(format!("{url}/ready")).send().await.is_err());
}
