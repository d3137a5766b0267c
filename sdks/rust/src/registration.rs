//! Keeps instances registered: heartbeats in batches, and a new registration of what the cluster has lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::clock;
use crate::error::Error;
use crate::nodes::{Asked, Nodes};
use crate::path;

const TTL_MS: u64 = 10_000;
/// The largest number of heartbeats in one request.
const BATCH_LEN_MAX: usize = 1_000;
const BATCH_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// What is registered. Only the address is needed: `NewInstance { address, ..NewInstance::default() }`.
#[derive(Clone, Debug, Serialize)]
pub struct NewInstance {
    /// The URL at which the instance is reached.
    pub address: String,
    /// How long it stays registered after its last heartbeat, in milliseconds; by default 10,000.
    pub ttl_ms: u64,
    /// Its share of the traffic, relative to the other instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The machine on which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Further properties.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// How the nodes probe it, as in the native API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Value>,
    /// The checks that it reports itself, as in the native API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Value>,
}

impl Default for NewInstance {
    fn default() -> Self {
        Self {
            address: String::new(),
            ttl_ms: TTL_MS,
            weight: None,
            zone: None,
            version: None,
            node: None,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            probe: None,
            checks: Vec::new(),
        }
    }
}

/// An instance that is kept registered, also after this is dropped: until [`KeptInstance::stop`], or the stop of the
/// client.
pub struct KeptInstance {
    registrar: Arc<Registrar>,
    entry: Arc<Entry>,
}

struct Entry {
    service: String,
    id: String,
    body: NewInstance,
    path: String,
    /// Held while the registration changes, so that nothing is registered again after the end.
    lease: tokio::sync::Mutex<Lease>,
    beats: AtomicU64,
    renewals: AtomicU64,
}

#[derive(Default)]
struct Lease {
    epoch: u64,
    is_stopped: bool,
}

#[derive(Deserialize)]
struct Registered {
    #[serde(default)]
    lease_epoch: u64,
}

#[derive(Deserialize)]
struct BatchAnswer {
    /// Positions of the instances that are not registered, or not any more.
    #[serde(default)]
    unknown: Vec<usize>,
}

/// All instances that one client keeps registered.
pub(crate) struct Registrar {
    nodes: Arc<Nodes>,
    kept: Mutex<Vec<Arc<Entry>>>,
    task: Mutex<Option<AbortHandle>>,
    /// Wakes the task when a shorter time to live may be there.
    added: Notify,
}

impl Registrar {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        let (kept, task) = (Mutex::default(), Mutex::default());
        Self { nodes, kept, task, added: Notify::new() }
    }

    /// Registers an instance, and keeps it registered.
    pub(crate) async fn register(
        self: &Arc<Self>,
        service: &str,
        id: &str,
        body: NewInstance,
    ) -> Result<KeptInstance, Error> {
        let namespace = &self.nodes.options().namespace;
        let path = path::of_service(namespace, service, &["instances", id])?;
        let entry = Arc::new(Entry {
            service: service.into(),
            id: id.into(),
            body,
            path,
            lease: tokio::sync::Mutex::default(),
            beats: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
        });
        self.put(&entry).await?;
        self.kept().push(Arc::clone(&entry));
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            *task = Some(tokio::spawn(Arc::clone(self).beat()).abort_handle());
        }
        drop(task);
        self.added.notify_one();
        Ok(KeptInstance { registrar: Arc::clone(self), entry })
    }

    /// Deregisters all instances, and ends the heartbeats. Returns whether there was an instance, and the first error.
    pub(crate) async fn stop(&self) -> (bool, Result<(), Error>) {
        let kept = self.kept().clone();
        let mut first = Ok(());
        for entry in &kept {
            let stopped = self.delete(entry).await;
            if first.is_ok() {
                first = stopped;
            }
        }
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
        (!kept.is_empty(), first)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interval(&self) -> Duration {
        let ttl_ms = self.kept().iter().map(|entry| entry.body.ttl_ms).min();
        Duration::from_millis(ttl_ms.unwrap_or(TTL_MS).min(TTL_MS)) / 3
    }

    async fn beat(self: Arc<Self>) {
        let mut last_at = clock::now();
        loop {
            let due_at = last_at + self.interval();
            tokio::select! {
                () = tokio::time::sleep_until(due_at) => {}
                () = self.added.notified() => continue,
            }
            last_at = clock::now();
            let kept = self.kept().clone();
            for batch in kept.chunks(BATCH_LEN_MAX) {
                if let Err(error) = self.beat_once(batch).await {
                    self.nodes.options().report(&error);
                }
            }
        }
    }

    /// Sends one batch of heartbeats. Instances that the cluster does not have any more are registered again.
    async fn beat_once(&self, batch: &[Arc<Entry>]) -> Result<(), Error> {
        let namespace = &self.nodes.options().namespace;
        let item = |entry: &Arc<Entry>| {
            let (service, id) = (&entry.service, &entry.id);
            json!({"namespace": namespace, "service": service, "id": id})
        };
        let body = json!({"items": batch.iter().map(item).collect::<Vec<_>>()});
        let mut asked = Asked::new(Method::POST, "/api/v1/heartbeats");
        asked.body = Some(&body);
        asked.timeout = Some((self.interval() * 2).max(BATCH_TIMEOUT_MIN));
        let (answer, _) = self.nodes.json::<BatchAnswer>(&asked).await?;
        for entry in batch {
            entry.beats.fetch_add(1, Ordering::Relaxed);
        }
        for entry in answer.unknown.into_iter().filter_map(|at| batch.get(at)) {
            if self.put(entry).await? {
                entry.renewals.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Registers an instance, unless it was stopped. Returns whether it did.
    async fn put(&self, entry: &Entry) -> Result<bool, Error> {
        let mut lease = entry.lease.lock().await;
        if lease.is_stopped {
            return Ok(false);
        }
        let body = serde_json::to_value(&entry.body);
        let body = body.map_err(|error| Error::Malformed(error.to_string()))?;
        let mut asked = Asked::new(Method::PUT, &entry.path);
        asked.body = Some(&body);
        let (answer, _) = self.nodes.json::<Registered>(&asked).await?;
        lease.epoch = answer.lease_epoch;
        Ok(true)
    }

    /// Deregisters an instance. A successor with the same name has another lease, and stays.
    async fn delete(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        let mut lease = entry.lease.lock().await;
        if lease.is_stopped {
            return Ok(());
        }
        lease.is_stopped = true;
        self.kept().retain(|other| !Arc::ptr_eq(other, entry));
        let path = format!("{}?lease_epoch={}", entry.path, lease.epoch);
        self.nodes.json::<Value>(&Asked::new(Method::DELETE, &path)).await?;
        Ok(())
    }
}

impl KeptInstance {
    /// The number of heartbeats that were answered.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.entry.beats.load(Ordering::Relaxed)
    }

    /// How often the cluster had lost the instance, and it was registered again.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.entry.renewals.load(Ordering::Relaxed)
    }

    /// Deregisters the instance, so that callers choose others, and waits for those that still have it.
    ///
    /// # Errors
    /// If no node has confirmed it: the instance then stays until its lease expires.
    pub async fn stop(&self, drain: Duration) -> Result<(), Error> {
        let stopped = self.registrar.delete(&self.entry).await;
        tokio::time::sleep(drain).await;
        stopped
    }
}
