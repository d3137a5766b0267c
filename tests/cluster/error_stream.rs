//! Standard error that takes nothing: a node serves on, and still stops when it must.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// How long a node may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

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

fn serve(data_dir: &Path, port: u16, stderr: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_maxine"))
        .args(["serve", "--mode=local", "--exit-with-stdin"])
        .arg(format!("--data-dir={}", data_dir.display()))
        .arg(format!("--port={port}"))
        .env("MAXINE_ADMIN_USERNAME", "root")
        .env("MAXINE_ADMIN_PASSWORD", "correct horse battery")
        .env("MAXINE_LOG", "debug")
        .stdin(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap()
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
    maxine::security::tls::install_crypto_provider();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for stream in [full as fn() -> _, blocked] {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (stderr, _kept) = stream();
        let mut node = serve(&data_dir, port, stderr);
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
        // Its log is gone: it must stop, although it can tell nobody.
        std::fs::rename(&data_dir, dir.path().join("taken")).unwrap();
        let instance = format!("{url}/services/default/orders/instances/a");
        let body = serde_json::json!({"address": "http://127.0.0.1:9"});
        let refused = client.put(instance).json(&body).send().await;
        assert!(refused.is_err() || !refused.unwrap().status().is_success());
        assert_eq!(ended(&mut node).await, Some(1));
    }
}
