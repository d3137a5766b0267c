//! A proxy before every node's peer port, which stops bytes as a cut network does.
//!
//! Bytes that are stopped during a cut are delivered afterwards, late, as TCP's retransmission does: a
//! partition does not lose what TCP accepted. The proxy never reads the content.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::socket_owner::owner_of;

const CHUNK_LEN: usize = 64 * 1024;
/// Maximum number of connections of one proxy.
const CONNECTIONS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Shared {
    /// The node of each process. A node may have two processes while it is replaced.
    processes: Mutex<BTreeMap<i32, u64>>,
    /// The directed pairs that are cut.
    blocked: watch::Sender<BTreeSet<(u64, u64)>>,
    /// The delayed node, its delay and the jitter, in milliseconds.
    late: Mutex<Option<(u64, u64, u64)>>,
}

/// The proxies of a cluster.
#[derive(Debug)]
pub struct ProxyNetwork {
    shared: Arc<Shared>,
    proxies: JoinSet<()>,
}

impl ProxyNetwork {
    /// A network without proxies yet.
    pub fn new(_nodes: u64) -> Self {
        Self { shared: Arc::default(), proxies: JoinSet::new() }
    }

    /// Creates a proxy for `target`, which is node `id`, and returns its address.
    pub fn listen_for(&mut self, id: u64, target: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        self.proxies.spawn(serve(listener, id, target, Arc::clone(&self.shared)));
        Ok(address)
    }

    /// Sets the present process of a node.
    pub fn set_process(&self, id: u64, pid: i32) {
        self.shared.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, id);
    }

    /// Delays everything from and to a node by this time, plus up to `jitter_ms`.
    pub fn delay(&self, id: u64, by_ms: u64, jitter_ms: u64) {
        self.set_late(Some((id, by_ms, jitter_ms)));
    }

    fn set_late(&self, late: Option<(u64, u64, u64)>) {
        *self.shared.late.lock().unwrap_or_else(PoisonError::into_inner) = late;
    }

    /// Cuts or restores one direction between two nodes.
    pub fn block(&self, from: u64, to: u64, cut: bool) {
        self.shared.blocked.send_modify(|blocked| {
            if cut {
                blocked.insert((from, to));
            } else {
                blocked.remove(&(from, to));
            }
        });
    }

    /// Restores everything.
    pub fn heal(&self) {
        self.set_late(None);
        self.shared.blocked.send_modify(BTreeSet::clear);
    }
}

async fn serve(listener: TcpListener, id: u64, target: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, from)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                // One connection above the limit is dropped, and the peer tries again.
                if connections.len() < CONNECTIONS_MAX {
                    connections.spawn(carry(stream, from, id, target, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(
    stream: TcpStream,
    from: SocketAddr,
    to: u64,
    target: SocketAddr,
    shared: Arc<Shared>,
) {
    let candidates: Vec<(u64, i32)> = {
        let processes = shared.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.iter().map(|(pid, id)| (*id, *pid)).collect()
    };
    let owner = tokio::task::spawn_blocking(move || owner_of(from, &candidates)).await;
    // The process may have ended. Then the connection is closed.
    let Ok(Some(from)) = owner else { return };
    let mut blocked = shared.blocked.subscribe();
    // Opening a connection needs packets in both directions.
    let open =
        |blocked: &BTreeSet<_>| !blocked.contains(&(from, to)) && !blocked.contains(&(to, from));
    if blocked.wait_for(open).await.is_err() {
        return;
    }
    let Ok(upstream) = TcpStream::connect(target).await else { return };
    // Without this option the proxy would add delays that no network has.
    if stream.set_nodelay(true).is_err() || upstream.set_nodelay(true).is_err() {
        return;
    }
    let (client_read, client_write) = stream.into_split();
    let (server_read, server_write) = upstream.into_split();
    // The end of a direction is stopped like its bytes. The other end ends the connection.
    tokio::select! {
        () = pump(client_read, server_write, (from, to), blocked.clone(), &shared) => {}
        () = pump(server_read, client_write, (to, from), blocked, &shared) => {}
    }
}

async fn pump(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    pair: (u64, u64),
    mut blocked: watch::Receiver<BTreeSet<(u64, u64)>>,
    shared: &Shared,
) {
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        let len = read.read(&mut chunk).await.unwrap_or(0);
        let late = *shared.late.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, by_ms, jitter_ms)) = late
            && (id == pair.0 || id == pair.1)
        {
            let wait_ms = by_ms + fastrand::u64(..=jitter_ms);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        if blocked.wait_for(|blocked| !blocked.contains(&pair)).await.is_err() || len == 0 {
            return;
        }
        if write.write_all(&chunk[..len]).await.is_err() {
            return;
        }
    }
}
