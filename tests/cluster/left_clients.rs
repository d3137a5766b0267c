//! Clients close the connection right after their request. Their actions are still recorded.

use std::time::{Duration, Instant};

use maxine::app::Node;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::dev::PATIENCE;
use crate::in_process::node;

/// How often each action is tried. A client that leaves is not always noticed before the answer.
const TIMES: usize = 4;

/// Sends a request, and closes the connection without waiting for the answer.
async fn ask_and_leave(node: &Node, token: &str, (method, path): (&str, &str), body: &str) {
    let (addr, len) = (node.http_addr(), body.len());
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// The backups that this process has left in the temporary directory.
fn left_backups() -> Vec<std::ffi::OsString> {
    let own = format!("maxine-backup-{}-", std::process::id());
    let names =
        std::fs::read_dir(std::env::temp_dir()).unwrap().map(|file| file.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(&own)).collect()
}

#[test]
fn what_a_client_did_that_left_at_once_is_recorded() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path()).await;
        let token = std::fs::read_to_string(dir.path().join("break-glass")).unwrap();
        let token = token.trim();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let recorded = async |action: &str| {
            let url =
                format!("http://{}/api/v1/audit?action={action}&limit=1000", node.http_addr());
            let answer = client.get(url).bearer_auth(token).send().await.unwrap();
            let audit: Value = answer.json().await.unwrap();
            audit["items"].as_array().map_or(0, Vec::len)
        };
        let started = Instant::now();
        let session = loop {
            // The first leader creates the account and its password.
            if let Ok(password) = std::fs::read_to_string(dir.path().join("password")) {
                let url = format!("http://{}/api/v1/session", node.http_addr());
                let body = json!({"user": "admin", "password": password.trim()});
                let answer = client.post(url).json(&body).send().await.unwrap();
                if answer.status() == 200 {
                    let opened: Value = answer.json().await.unwrap();
                    break opened["access_token"].as_str().unwrap().to_owned();
                }
            }
            assert!(started.elapsed() < PATIENCE, "no sign-in");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        while recorded("session.create").await == 0 {
            assert!(started.elapsed() < PATIENCE, "the sign-in is not recorded");
        }
        let wrong = json!({"user": "eve", "password": "a wrong one"}).to_string();
        let wrong_compat = json!({"userName": "eva", "password": "a wrong one"}).to_string();
        let change = json!({"password": "a wrong one", "new_password": "another one"}).to_string();
        for (request, body, action, by) in [
            (("POST", "/api/logs/recent/clear"), "", "logs.clear", token),
            (("POST", "/api/v1/cluster/snapshot"), "", "cluster.snapshot", token),
            (("POST", "/api/v1/cluster/transfer"), "", "leadership.transfer", token),
            (("GET", "/api/v1/cluster/backup"), "", "cluster.backup", token),
            (("POST", "/api/v1/session"), &wrong, "session.create", token),
            (("POST", "/api/maxine/signin"), &wrong_compat, "session.create", token),
            (("PUT", "/api/v1/me/password"), &change, "user.put", &session),
        ] {
            for n in 0..TIMES {
                let (before, asked) = (recorded(action).await, Instant::now());
                ask_and_leave(&node, by, request, body).await;
                while recorded(action).await == before {
                    assert!(asked.elapsed() < PATIENCE, "{request:?}: request {n} has no record");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // A backup is recorded only after its temporary file was removed.
                assert_eq!(left_backups(), Vec::<std::ffi::OsString>::new());
            }
        }
        node.stop().await;
    });
}
