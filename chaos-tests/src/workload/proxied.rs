//! Sends requests for a service through the proxies of all nodes, and runs the service that answers them.
//!
//! The data plane needs no leader: a running node forwards requests, whatever happens to the others.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Load, Setting, StopSignal};
use crate::client::{Client, Outcome};
use crate::clock;
use crate::journal::{Ended, OpKind};

const EVERY: Duration = Duration::from_millis(100);
/// A time to live, in milliseconds, that is longer than any test.
const TTL_MS: u64 = 86_400_000;
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);
const HEAD_LEN_MAX: usize = 16 * 1024;

/// A request that was answered, but not by the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotForwarded {
    /// The node.
    pub node: u64,
    /// When it was sent.
    pub start_us: u64,
    /// When the answer came.
    pub end_us: u64,
    /// The answer.
    pub answer: String,
}

/// The requests and the service, which must outlive them.
#[derive(Debug)]
pub struct Proxied {
    requests: Load<Vec<NotForwarded>>,
    service: Load<()>,
}

impl Proxied {
    /// Stops the requests, then the service. Returns the requests that were not forwarded.
    pub async fn stop(self) -> Vec<NotForwarded> {
        let wrong = self.requests.stop().await.concat();
        self.service.stop().await;
        wrong
    }
}

/// Starts the service on `ip`, registers it, and sends requests through every node.
pub async fn proxied(setting: &Setting, ip: Ipv4Addr) -> anyhow::Result<Proxied> {
    let listener = TcpListener::bind((ip, 0)).await?;
    let address = listener.local_addr()?;
    let service = format!("proxied-{}", setting.namespace);
    register(setting, &service, address).await?;
    let (mut requests, mut load) = (Load::new(), Load::new());
    load.spawn(|go_on| serve(listener, go_on));
    for (position, client) in setting.clients.iter().enumerate() {
        let (setting, client, service) = (setting.clone(), client.clone(), service.clone());
        let node = position as u64 + 1;
        requests.spawn(move |go_on| ask(setting, client, service, node, go_on));
    }
    Ok(Proxied { requests, service: load })
}

async fn register(setting: &Setting, service: &str, address: SocketAddr) -> anyhow::Result<()> {
    let path = format!("/api/v1/services/default/{service}/instances/only");
    let body = json!({"address": format!("http://{address}"), "ttl_ms": TTL_MS});
    let mut last = None;
    let mut nth = 0;
    let attempt = async || {
        nth = (nth + 1) % setting.clients.len();
        let outcome = setting.clients[nth].put(&path, &body, &[]).await;
        let done = outcome.is_ok();
        last = Some(outcome);
        done.then_some(())
    };
    clock::until(REGISTER_TIMEOUT, EVERY, attempt)
        .await
        .ok_or_else(|| anyhow::anyhow!("the proxied service is not registered: {last:?}"))
}

async fn ask(
    setting: Setting,
    client: Client,
    service: String,
    node: u64,
    go_on: StopSignal,
) -> Vec<NotForwarded> {
    let mut wrong = Vec::new();
    let mut seen = false;
    let mut nth = 0_u64;
    while go_on.is_running() {
        nth += 1;
        let path = format!("/api/maxine/serviceops/proxy/{service}/{node}-{nth}");
        let start_us = clock::now_us();
        let outcome = client.get(&path).await;
        // A node may learn of the service a moment after it was registered through another one.
        seen |= outcome.is_ok();
        let answer = match &outcome {
            Outcome::Ok { body, .. } if body["path"] == format!("/{node}-{nth}") => None,
            Outcome::Ok { body, .. } => Some(format!("the answer to another request: {body}")),
            Outcome::Refused { status: 0, .. } => None,
            Outcome::Refused { status, reason } => Some(format!("{status} {reason}")),
            // Without an answer nothing is known. A status is an answer.
            Outcome::Unknown(reason) if reason.starts_with(char::is_numeric) => {
                Some(reason.clone())
            }
            Outcome::Unknown(_) => None,
        };
        setting.journal.operation(OpKind::Proxied, node, start_us, Ended::from(&outcome));
        if let Some(answer) = answer
            && seen
        {
            wrong.push(NotForwarded { node, start_us, end_us: clock::now_us(), answer });
        }
        tokio::time::sleep(EVERY).await;
    }
    wrong
}

/// The service. It answers each request with the request's path.
async fn serve(listener: TcpListener, mut go_on: StopSignal) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = go_on.over() => return,
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(answer(stream));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream) -> Option<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 2_048];
    loop {
        while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head[..end]).into_owned();
            let path = text.split(' ').nth(1)?.to_owned();
            let body = json!({"path": path}).to_string();
            let len = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.ok()?;
            head.drain(..end + 4);
        }
        let len = stream.read(&mut chunk).await.ok()?;
        if len == 0 || head.len() > HEAD_LEN_MAX {
            return None;
        }
        head.extend_from_slice(&chunk[..len]);
    }
}
