//! A low limit of open files: a node reports it, stays below it, and continues to accept and write.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::dev::PATIENCE;

/// A node that may open at most `files` files.
fn serve(data_dir: &Path, port: u16, files: u32) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -n {files} && exec \"$0\" \"$@\""))
        .arg(env!("CARGO_BIN_EXE_maxine"))
        .args(["serve", "--mode=local", "--exit-with-stdin"])
        .arg(format!("--data-dir={}", data_dir.display()))
        .arg(format!("--port={port}"))
        .env("MAXINE_ADMIN_USERNAME", "root")
        .env("MAXINE_ADMIN_PASSWORD", "correct horse battery")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Sends one request on a new connection, which stays open. Returns the connection and the status.
fn ask(port: u16, request: &str) -> std::io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok((stream, String::from_utf8_lossy(&status[9..]).into_owned()))
}

#[test]
fn a_node_keeps_within_its_limit_of_open_files_and_goes_on() {
    const HEALTH: &str = "GET /api/actuator/health HTTP/1.1\r\nhost: h\r\n\r\n";
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut too_few = serve(dir.path(), port, 200);
    let mut reported = String::new();
    too_few.stderr.take().unwrap().read_to_string(&mut reported).unwrap();
    assert!(!too_few.wait().unwrap().success());
    assert!(
        reported.contains("the limit of open files is 200, at least 256 are needed"),
        "{reported}"
    );

    let mut node = serve(dir.path(), port, 512);
    let started = std::time::Instant::now();
    while ask(port, HEALTH).is_err() {
        assert!(started.elapsed() < PATIENCE, "it does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The node accepts three quarters of 512 connections, although the setting allows many more.
    let mut held = Vec::new();
    let over = loop {
        let (stream, status) = ask(port, HEALTH).unwrap();
        if status != "200" {
            break status;
        }
        held.push(stream);
        assert!(held.len() <= 384, "more connections than there is room for");
    };
    assert_eq!(over, "503", "the next one is refused");
    assert!(held.len() > 300, "{} connections were taken", held.len());
    // A client that is connected already can write, which needs files.
    let mut stream = held.pop().unwrap();
    let body = r#"{"address":"http://127.0.0.1:9","ttl_ms":60000}"#;
    let path = "/api/v1/services/default/orders/instances/a";
    let len = body.len();
    let write = format!(
        "PUT {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(write.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    drop(held);
    let started = std::time::Instant::now();
    while !ask(port, HEALTH).is_ok_and(|(_, status)| status == "200") {
        assert!(started.elapsed() < PATIENCE, "it accepts no more");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(node.stdin.take());
    let mut reported = String::new();
    node.stderr.take().unwrap().read_to_string(&mut reported).unwrap();
    assert!(node.wait().unwrap().success());
    assert!(reported.contains("but the limit of open files is 512: at most 384"), "{reported}");
}
