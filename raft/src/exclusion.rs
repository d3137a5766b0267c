//! Why a node does not belong to its cluster, and what the other members have reported about that.
//!
//! A removed node gets no entries and no requests of a leader, so it cannot learn of its removal from the
//! log. It learns it when members refuse its connections, and stores it in its directory. A report counts only
//! while the node neither leads nor follows a confirmed leader, because a removed node does neither.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;
use crate::config::NodeId;

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

/// The reasons that peers gave when they refused this node.
#[derive(Default)]
pub(crate) struct Refusals {
    /// The last report that this node was removed.
    removal: Mutex<Option<(Instant, String)>>,
    pub(crate) other_history: Mutex<BTreeMap<NodeId, (Instant, String)>>,
}

impl Refusals {
    /// A peer reports that this node was removed.
    pub(crate) fn removed(&self, reason: &str) {
        *self.removal.lock() = Some((clock::now(), reason.to_owned()));
    }

    /// The reason of the last report of a removal, if it is not older than `age_max`.
    pub(crate) fn reported_removal(&self, age_max: Duration) -> Option<String> {
        let reported = self.removal.lock();
        let recent = reported.as_ref().filter(|(at, _)| clock::since(*at) < age_max);
        recent.map(|(_, reason)| reason.clone())
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
