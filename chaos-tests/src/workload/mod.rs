//! Requests to a cluster, by several clients at once, with every outcome recorded.
//!
//! A workload never judges: it keeps what the checks need. Each key belongs to one client, and a
//! key with an unknown outcome is left alone from then on: the write may still come.

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

/// Several clients at work until they are stopped.
#[derive(Debug)]
pub struct Load<T> {
    stop: watch::Sender<bool>,
    tasks: JoinSet<T>,
}

/// Told to each client: whether to go on.
#[derive(Clone, Debug)]
pub struct GoOn(watch::Receiver<bool>);

impl GoOn {
    /// Whether to go on.
    pub fn yes(&self) -> bool {
        !*self.0.borrow()
    }

    /// Returns when it is over.
    pub async fn over(&mut self) {
        // Without its sender it is over, too.
        let _ended = self.0.wait_for(|stop| *stop).await;
    }
}

impl<T: Send + 'static> Load<T> {
    /// No client yet.
    fn new() -> Self {
        Self { stop: watch::Sender::new(false), tasks: JoinSet::new() }
    }

    fn spawn<F>(&mut self, client: impl FnOnce(GoOn) -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.tasks.spawn(client(GoOn(self.stop.subscribe())));
    }

    /// Lets every client finish what it does, and gives what each of them kept.
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

/// What every workload gets.
#[derive(Clone, Debug)]
pub struct Setting {
    /// A client of each node, in order.
    pub clients: Vec<Client>,
    /// Where operations are recorded.
    pub journal: Arc<Journal>,
    /// The namespace to work in.
    pub namespace: String,
    /// What random choices start from.
    pub seed: u64,
}

impl Setting {
    /// The node that a client keeps to, the first clients one each; the others take any. So that
    /// clients that wait for a node without answers cannot all wait at once.
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
