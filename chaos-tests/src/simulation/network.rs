//! Messages under way: late, lost, repeated, reordered, held back by partitions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use maxine_control::health::Observation;
use maxine_control::leases::{Former, LeaseId};
use maxine_state::{Applied, Fence, Proposal};

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A node, from 0.
    Node(usize),
    /// A client, from 0.
    Client(usize),
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A client asks a node for a write.
    Write { client: usize, proposal: Arc<Proposal> },
    /// Its answer: done.
    Done { id: u128, applied: Applied },
    /// Its answer: nothing was written.
    Refused { id: u128 },
    /// Proposals to be ordered, for a node that waits for the answer to its question `ask`.
    Order { node: usize, ask: u128, proposals: Vec<Arc<Proposal>>, hops: u8 },
    /// The answer, and the log's length with them.
    Ordered { ask: u128, applied: Vec<Applied>, position: usize },
    /// A heartbeat: the lease, its registration, and when the client sent it.
    Renew { client: usize, lease: LeaseId, epoch: u64, sent_ms: u64, hops: u8 },
    /// Its answer: whether the lease is known.
    Renewed { sent_ms: u64, epoch: u64, known: bool },
    /// A new leader asks the one before what was left of the leases.
    AskLeases { node: usize, former: Fence, present: Fence },
    /// Its answer.
    LeftLeases { present: Fence, left: Arc<Former> },
    /// What a node observed, for the leader.
    Observed { node: usize, ask: u128, items: Vec<Observation> },
    /// The leader has it.
    Heard { ask: u128 },
}

/// The messages under way.
#[derive(Debug, Default)]
pub(super) struct Network {
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    under_way: BTreeMap<u64, (Place, Place, Message)>,
    next: u64,
    /// The directed pairs of nodes that are cut.
    pub(super) cut: std::collections::BTreeSet<(usize, usize)>,
    loss_percent: u8,
    repeat_percent: u8,
    delay_max_ms: u64,
}

/// Most messages under way; one more is lost.
const UNDER_WAY_MAX: usize = 10_000;

impl Network {
    /// A network that loses and repeats so much, and delays what it does not hold back by up to so much.
    pub(super) fn new(loss_percent: u8, repeat_percent: u8, delay_max_ms: u64) -> Self {
        Self { loss_percent, repeat_percent, delay_max_ms, ..Self::default() }
    }

    pub(super) fn send(
        &mut self,
        now_ms: u64,
        rng: &mut fastrand::Rng,
        from: Place,
        to: Place,
        message: Message,
    ) {
        // What a node sends to itself may be late, but is not lost.
        let (loss, repeat) =
            if from == to { (0, 0) } else { (self.loss_percent, self.repeat_percent) };
        let copies = 1 + u8::from(rng.u8(..100) < repeat);
        for _ in 0..copies {
            if rng.u8(..100) < loss || self.under_way.len() >= UNDER_WAY_MAX {
                continue;
            }
            // Most are quick; a few come so late that the world has changed.
            let delay_ms =
                if rng.u8(..100) < 3 { rng.u64(..4_000) } else { rng.u64(1..=self.delay_max_ms) };
            self.next += 1;
            self.queue.push(Reverse((now_ms + delay_ms, self.next)));
            self.under_way.insert(self.next, (from, to, message.clone()));
        }
    }

    /// When the next message arrives.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// The next message; `None` if it was lost to a partition.
    pub(super) fn deliver(&mut self) -> Option<(Place, Place, Message)> {
        let Reverse((_, id)) = self.queue.pop()?;
        let (from, to, message) = self.under_way.remove(&id)?;
        if let (Place::Node(from), Place::Node(to)) = (from, to)
            && self.cut.contains(&(from, to))
        {
            return None;
        }
        Some((from, to, message))
    }
}
