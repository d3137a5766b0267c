//! Why a node does not belong to its cluster, and what the other members have reported about that.
//!
//! A removed node gets no entries and no requests of a leader, so it cannot learn of its removal from the
//! log. It learns it when members refuse its connections, and stores it in its directory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock;
use crate::config::NodeId;
use crate::storage::node_dir::NodeDir;

/// Why a node does not belong to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It was removed permanently.
    Removed(String),
    /// The other members have another line of history, because they or this node were restored from a backup.
    OtherHistory(String),
}

impl Exclusion {
    /// What happened and what to do, as text.
    pub fn reason(&self) -> &str {
        match self {
            Self::Removed(reason) | Self::OtherHistory(reason) => reason,
        }
    }
}

/// The published reason. There is nearly always none, and finding that out takes no lock.
#[derive(Default)]
pub(crate) struct ExclusionCell {
    is_excluded: AtomicBool,
    exclusion: Mutex<Option<Exclusion>>,
}

impl ExclusionCell {
    pub(crate) fn get(&self) -> Option<Exclusion> {
        if !self.is_excluded.load(Ordering::Acquire) {
            return None;
        }
        self.exclusion.lock().clone()
    }

    /// Publishes the reason. Returns whether more than the text has changed.
    pub(crate) fn set(&self, now: Option<&Exclusion>) -> bool {
        let mut published = self.exclusion.lock();
        let kind = |exclusion: Option<&Exclusion>| exclusion.map(std::mem::discriminant);
        if kind(published.as_ref()) == kind(now) {
            return false;
        }
        *published = now.cloned();
        self.is_excluded.store(now.is_some(), Ordering::Release);
        true
    }
}

/// The reasons that members gave when they refused this node.
pub(crate) struct Refusals {
    dir: Arc<NodeDir>,
    pub(crate) other_history: Mutex<BTreeMap<NodeId, (Instant, String)>>,
}

impl Refusals {
    pub(crate) fn new(dir: Arc<NodeDir>) -> Self {
        Self { dir, other_history: Mutex::default() }
    }

    /// A member reports that this node was removed. This is final, so it is stored.
    pub(crate) async fn removed(&self, reason: &str) {
        if self.dir.removal().is_some() {
            return;
        }
        let (dir, reason) = (self.dir.clone(), reason.to_owned());
        let keeping = tokio::task::spawn_blocking(move || dir.keep_removal(&reason));
        if let Err(error) = keeping.await.map_err(std::io::Error::other).and_then(|kept| kept) {
            tracing::warn!(%error, "the removal of this node cannot be stored in its data directory");
        }
    }

    /// A member reports that this node belongs to another line of history.
    pub(crate) fn other_history(&self, by: NodeId, reason: &str) {
        self.other_history.lock().insert(by, (clock::now(), reason.to_owned()));
    }

    /// A member has accepted this node.
    pub(crate) fn accepted(&self, by: NodeId) {
        self.other_history.lock().remove(&by);
    }
}

/// The text that a removed node receives.
pub(crate) fn removal_of(id: NodeId) -> String {
    format!(
        "node {id} was removed from the cluster, for good. Stop it and delete its data directory; to bring the machine \
         back, add it with a number that was never used"
    )
}
