//! A proxy in front of every node's peer port, which holds bytes back as a cut network does.
//!
//! What is held back while a pair is cut is delivered after it is healed, late, as retransmission
//! would: a partition does not lose what TCP accepted. It never looks into what it carries.

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
/// Most connections that one proxy carries at once.
const CONNECTIONS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Shared {
    /// The node of each process; a node may have two while it is replaced.
    processes: Mutex<BTreeMap<i32, u64>>,
    /// The directed pairs that are cut.
    blocked: watch::Sender<BTreeSet<(u64, u64)>>,
    /// The node whose traffic is late, by how much and how unevenly, in milliseconds.
    late: Mutex<Option<(u64, u64, u64)>>,
}

/// The proxies of a cluster.
#[derive(Debug)]
pub struct ProxyNetwork {
    shared: Arc<Shared>,
    proxies: JoinSet<()>,
}

impl ProxyNetwork {
    /// No proxy yet.
    pub fn new(_nodes: u64) -> Self {
        Self { shared: Arc::default(), proxies: JoinSet::new() }
    }

    /// Puts a proxy in front of `target`, which is node `id`, and gives its address.
    pub fn listen_for(&mut self, id: u64, target: SocketAddr) -> anyhow::Result<SocketAddr> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        self.proxies.spawn(serve(listener, id, target, Arc::clone(&self.shared)));
        Ok(address)
    }

    /// Says which process a node is now.
    pub fn set_process(&self, id: u64, pid: i32) {
        self.shared.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, id);
    }

    /// Makes everything from and to a node late by so much, and up to `jitter_ms` more.
    pub fn delay(&self, id: u64, by_ms: u64, jitter_ms: u64) {
        self.set_late(Some((id, by_ms, jitter_ms)));
    }

    fn set_late(&self, late: Option<(u64, u64, u64)>) {
        *self.shared.late.lock().unwrap_or_else(PoisonError::into_inner) = late;
    }

    /// Cuts or mends one direction of one pair.
    pub fn block(&self, from: u64, to: u64, cut: bool) {
        self.shared.blocked.send_modify(|blocked| {
            if cut {
                blocked.insert((from, to));
            } else {
                blocked.remove(&(from, to));
            }
        });
    }

    /// Mends everything.
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
                // One more than the bound is dropped: the peer tries again.
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
    // The process may be gone already: then there is nobody to carry for.
    let Ok(Some(from)) = owner else { return };
    let mut blocked = shared.blocked.subscribe();
    // A connection is made by packets in both directions.
    let open =
        |blocked: &BTreeSet<_>| !blocked.contains(&(from, to)) && !blocked.contains(&(to, from));
    if blocked.wait_for(open).await.is_err() {
        return;
    }
    let Ok(upstream) = TcpStream::connect(target).await else { return };
    // Without it the proxy would add delays that no network has.
    if stream.set_nodelay(true).is_err() || upstream.set_nodelay(true).is_err() {
        return;
    }
    let (client_read, client_write) = stream.into_split();
    let (server_read, server_write) = upstream.into_split();
    // Either direction's end is held back like its bytes; the other end ends the connection.
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
