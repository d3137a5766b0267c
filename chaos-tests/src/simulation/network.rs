//! Messages in flight: late, lost, repeated, reordered, and stopped by partitions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use maxine_control::health::Observation;
use maxine_control::leases::{LeaseId, RemainingTimes};
use maxine_state::{Applied, Fence, Proposal};

/// The sender or the receiver of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A node, from 0.
    Node(usize),
    /// A client, from 0.
    Client(usize),
}

/// The content of a message.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A client asks a node to write.
    Write { client: usize, proposal: Arc<Proposal> },
    /// The answer to a write: it was carried out.
    Done { id: u128, applied: Applied },
    /// The answer to a write: nothing was written.
    Refused { id: u128 },
    /// Proposals to be ordered. The node `node` waits for the answer to its question `ask`.
    Order { node: usize, ask: u128, proposals: Vec<Arc<Proposal>>, hops: u8 },
    /// The answer to `Order`, with the length of the log.
    Ordered { ask: u128, applied: Vec<Applied>, position: usize },
    /// A heartbeat: the lease, its registration, and when the client sent it.
    Renew { client: usize, lease: LeaseId, epoch: u64, sent_ms: u64, hops: u8 },
    /// The answer to a heartbeat: whether the lease is known.
    Renewed { sent_ms: u64, epoch: u64, known: bool },
    /// A new leader asks the previous one for the remaining times of the leases.
    AskLeases { node: usize, former: Fence, present: Fence },
    /// The answer to `AskLeases`.
    LeftLeases { present: Fence, left: Arc<RemainingTimes> },
    /// The observations of a node, for the leader.
    Observed { node: usize, ask: u128, items: Vec<Observation> },
    /// The leader has received the observations.
    Heard { ask: u128 },
}

/// The messages in flight.
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

/// Maximum number of messages in flight. Further ones are lost.
const IN_FLIGHT_MAX: usize = 10_000;

impl Network {
    /// A network that loses and repeats these percentages of messages, and delays them by up to this time.
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
        // A message of a node to itself may be late, but is not lost.
        let (loss, repeat) =
            if from == to { (0, 0) } else { (self.loss_percent, self.repeat_percent) };
        let copies = 1 + u8::from(rng.u8(..100) < repeat);
        for _ in 0..copies {
            if rng.u8(..100) < loss || self.under_way.len() >= IN_FLIGHT_MAX {
                continue;
            }
            // Most messages are fast. A few are so late that the world has changed.
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

    /// The next message; `None` if a partition dropped it.
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
