//! Sends requests of several concurrent clients to a cluster, and records every outcome.
//!
//! A workload makes no judgement; it records what the checks need. Each key belongs to one client. After an
//! unknown outcome its key is no longer used, because the write may still take effect.

mod compare_and_set;
mod leadership;
mod leases;
mod proxied;
mod registrations;
mod watches;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::journal::Journal;

pub use compare_and_set::{RegisterCall, RegisterHistory, compare_and_set};
pub use leadership::leadership;
pub use leases::{FleetRecord, leases};
pub use proxied::{NotForwarded, Proxied, proxied};
pub use registrations::{KeyState, Ledger, registrations};
pub use watches::{WatchLog, watches};

/// Several clients that work until they are stopped.
#[derive(Debug)]
pub struct Load<T> {
    stop: watch::Sender<bool>,
    tasks: JoinSet<T>,
}

/// Tells a client whether to continue.
#[derive(Clone, Debug)]
pub struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// Whether to continue.
    pub fn is_running(&self) -> bool {
        !*self.0.borrow()
    }

    /// Returns when the client must stop.
    pub async fn over(&mut self) {
        // It must also stop if the sender was dropped.
        let _ended = self.0.wait_for(|stop| *stop).await;
    }
}

impl<T: Send + 'static> Load<T> {
    /// No client yet.
    fn new() -> Self {
        Self { stop: watch::Sender::new(false), tasks: JoinSet::new() }
    }

    fn spawn<F>(&mut self, client: impl FnOnce(StopSignal) -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.tasks.spawn(client(StopSignal(self.stop.subscribe())));
    }

    /// Lets every client finish its operation, and returns their records.
    pub async fn stop(mut self) -> Vec<T> {
        self.stop.send_replace(true);
        let mut kept = Vec::new();
        while let Some(joined) = self.tasks.join_next().await {
            match joined {
                Ok(one) => kept.push(one),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        kept
    }
}

/// The setting of a workload.
#[derive(Clone, Debug)]
pub struct Setting {
    /// A client of each node, in order.
    pub clients: Vec<Client>,
    /// Where operations are recorded.
    pub journal: Arc<Journal>,
    /// The namespace of the workload.
    pub namespace: String,
    /// The seed of all random choices.
    pub seed: u64,
}

impl Setting {
    /// The node of a client: the first clients have one each, and the others use any. So if a node does not
    /// answer, not all clients can wait for it at the same time.
    fn node_of(&self, client: u64, rng: &mut fastrand::Rng) -> (u64, Client) {
        match self.clients.get(usize::try_from(client).unwrap_or(usize::MAX)) {
            Some(own) => (client + 1, own.clone()),
            None => self.any(rng),
        }
    }

    /// A random node's number and client.
    fn any(&self, rng: &mut fastrand::Rng) -> (u64, Client) {
        let position = rng.usize(..self.clients.len());
        (position as u64 + 1, self.clients[position].clone())
    }
}
