//! The writes that wait for a batch, in one queue for each class of callers.
//!
//! There are three classes with their own room: Maxine's own duties, callers with a credential, and callers
//! without one (strangers). A batch takes writes from them in this order. Strangers get at least a quarter of
//! a batch if they wait, so they always make progress. They delay the others by at most the batch in flight.
//! The waiting writes of strangers are limited by items, in total and for each address. A registration is one
//! item, for example.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::outcome::Refusal;
use maxine_state::{Command, KvOp, Proposal};

/// Maximum number of items in one batch.
const BATCH_ITEMS_MAX: usize = 2_048;
/// How many of these are reserved for strangers while any of them wait.
const STRANGER_ITEMS_MIN: usize = BATCH_ITEMS_MAX / 4;
/// The number of bytes of values that count as one item.
const BYTES_PER_ITEM: usize = 1_024;
/// Maximum number of waiting items of strangers.
const STRANGER_ITEMS_WAITING_MAX: usize = 65_536;
/// Maximum number of waiting items of strangers at one address.
const STRANGER_ITEMS_PER_ADDRESS_MAX: usize = 16_384;

/// A write that waits for its batch. `R` is the handle for answering it.
#[derive(Debug)]
pub struct Write<R> {
    /// What to write.
    pub proposal: Proposal,
    /// Its time limits.
    pub time: WriteTimes,
    /// The address for which a stranger's write counts. Writes without an address count together.
    pub address: IpAddr,
    /// The handle for answering it.
    pub reply: R,
}

impl<R> Write<R> {
    /// Whether Maxine itself made the write. This includes audit records, whoever caused them.
    fn is_own(&self) -> bool {
        self.proposal.fence.is_some()
            || self.proposal.actor.is_system()
            || matches!(self.proposal.command, Command::RecordAudit { .. })
    }

    fn is_of_stranger(&self) -> bool {
        !self.is_own() && self.proposal.actor.user.is_empty()
    }
}

/// The time limits of a write, in milliseconds on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTimes {
    /// If the write is not proposed by this time, it is refused, because its caller waits no longer.
    pub begin_ms: u64,
    /// If the proposed write has no answer by this time, its outcome is unknown.
    pub end_ms: u64,
}

/// The number of waiting items of strangers.
#[derive(Debug, Default)]
struct StrangerItems {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl StrangerItems {
    fn add(&mut self, address: IpAddr, items: usize) -> Result<(), Refusal> {
        let of_address = self.by_address.get(&address).copied().unwrap_or(0);
        if self.all + items > STRANGER_ITEMS_WAITING_MAX {
            return Err(Refusal::Overloaded);
        }
        if of_address + items > STRANGER_ITEMS_PER_ADDRESS_MAX {
            return Err(Refusal::AddressOverloaded);
        }
        self.all += items;
        self.by_address.insert(address, of_address + items);
        Ok(())
    }

    fn remove(&mut self, address: IpAddr, items: usize) {
        self.all = self.all.saturating_sub(items);
        if let Some(of_address) = self.by_address.get_mut(&address) {
            *of_address = of_address.saturating_sub(items);
            if *of_address == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

/// The waiting writes.
#[derive(Debug)]
pub(super) struct Queues<R> {
    system: VecDeque<Write<R>>,
    known: VecDeque<Write<R>>,
    strangers: VecDeque<Write<R>>,
    stranger_items: StrangerItems,
    /// Maximum number of waiting writes in each queue.
    len_max: usize,
    /// Whether the previous batch had commands that only the leader may propose.
    was_fenced: bool,
}

impl<R> Queues<R> {
    pub(super) fn new(len_max: usize) -> Self {
        let (system, known, strangers) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let stranger_items = StrangerItems::default();
        Self { system, known, strangers, stranger_items, len_max, was_fenced: false }
    }

    /// Adds a write, or refuses it if its class or its address has no room.
    pub(super) fn push(&mut self, write: Write<R>) -> Result<(), (R, Refusal)> {
        let is_stranger = write.is_of_stranger();
        let queue = match (write.is_own(), is_stranger) {
            (true, _) => &mut self.system,
            (_, true) => &mut self.strangers,
            _ => &mut self.known,
        };
        if queue.len() >= self.len_max {
            return Err((write.reply, Refusal::Overloaded));
        }
        if is_stranger {
            let items = weight(&write.proposal.command);
            if let Err(refusal) = self.stranger_items.add(write.address, items) {
                return Err((write.reply, refusal));
            }
        }
        queue.push_back(write);
        Ok(())
    }

    /// Removes all writes that waited too long, also while no batch can be taken. Returns the handles for answering.
    pub(super) fn take_expired(&mut self, now_ms: u64) -> Vec<R> {
        let mut all_late = Vec::new();
        for queue in [&mut self.system, &mut self.known, &mut self.strangers] {
            if queue.iter().any(|write| write.time.begin_ms <= now_ms) {
                let waiting = std::mem::take(queue);
                let (late, in_time): (VecDeque<_>, VecDeque<_>) =
                    waiting.into_iter().partition(|write| write.time.begin_ms <= now_ms);
                all_late.extend(late);
                *queue = in_time;
            }
        }
        self.forget_strangers(&all_late);
        all_late.into_iter().map(|write| write.reply).collect()
    }

    /// Frees the room of writes that no longer wait.
    fn forget_strangers(&mut self, writes: &[Write<R>]) {
        for write in writes.iter().filter(|write| write.is_of_stranger()) {
            self.stranger_items.remove(write.address, weight(&write.proposal.command));
        }
    }

    /// Takes the next batch, which is empty if nothing waits, and the writes that waited too long.
    ///
    /// Commands that only the leader may propose get a batch of their own. A node that no longer leads
    /// refuses such a batch as a whole, and it must not hold up other writes. If both kinds wait, they take
    /// turns.
    pub(super) fn take_batch(&mut self, now_ms: u64) -> (Vec<Write<R>>, Vec<R>) {
        let fenced_waits = self.system.iter().any(|write| write.proposal.fence.is_some());
        let unfenced_waits = !(self.known.is_empty() && self.strangers.is_empty())
            || self.system.iter().any(|write| write.proposal.fence.is_none());
        let mut batch = BatchBuilder { items: 0, writes: Vec::new(), late: Vec::new(), now_ms };
        if fenced_waits && !(unfenced_waits && self.was_fenced) {
            self.was_fenced = true;
            batch.take(&mut self.system, BATCH_ITEMS_MAX, |p| p.fence.is_some());
        } else {
            self.was_fenced = false;
            let kept = if self.strangers.is_empty() { 0 } else { STRANGER_ITEMS_MIN };
            batch.take(&mut self.system, BATCH_ITEMS_MAX - kept, |p| p.fence.is_none());
            batch.take(&mut self.known, BATCH_ITEMS_MAX - kept, |_| true);
            batch.take(&mut self.strangers, BATCH_ITEMS_MAX, |_| true);
        }
        self.forget_strangers(&batch.writes);
        self.forget_strangers(&batch.late);
        (batch.writes, batch.late.into_iter().map(|write| write.reply).collect())
    }
}

/// A batch that is being filled.
struct BatchBuilder<R> {
    items: usize,
    writes: Vec<Write<R>>,
    /// The writes that waited too long.
    late: Vec<Write<R>>,
    now_ms: u64,
}

impl<R> BatchBuilder<R> {
    /// Takes writes from the front of `queue` as long as `fits` allows it and the batch has at most `max`
    /// items. The first write of a batch is taken whatever its number of items is.
    fn take(&mut self, queue: &mut VecDeque<Write<R>>, max: usize, fits: fn(&Proposal) -> bool) {
        let mut passed_over = VecDeque::new();
        while let Some(write) = queue.pop_front() {
            if write.time.begin_ms <= self.now_ms {
                self.late.push(write);
                continue;
            }
            if !fits(&write.proposal) {
                passed_over.push_back(write);
                continue;
            }
            let more = weight(&write.proposal.command);
            if self.items + more > max && !self.writes.is_empty() {
                queue.push_front(write);
                break;
            }
            self.items += more;
            self.writes.push(write);
        }
        while let Some(write) = passed_over.pop_back() {
            queue.push_front(write);
        }
    }
}

/// The number of items that a command counts as. A command of another kind counts as one.
fn weight(command: &Command) -> usize {
    match command {
        Command::Register { items } => items.len(),
        Command::Deregister { items } => items.len(),
        Command::Expire { items } => items.len(),
        Command::ReportHealth { items } => items.len(),
        Command::ExpireChecks { items } => items.len(),
        Command::RecordAudit { items } => items.len(),
        // A value is as long as hundreds of registrations. So a batch of values stays below the limit of a log entry.
        Command::ChangeKv { ops } => {
            let values = ops.iter().filter_map(KvOp::content);
            let len: usize = values.map(|content| content.value.0.len()).sum();
            ops.len() + len / BYTES_PER_ITEM
        }
        Command::ExpireLockSessions { items } => items.len(),
        Command::EndLockDelays { items } => items.len(),
        _ => 1,
    }
    .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{
        Actor, AuditAction, CheckExpiry, Deregistration, Fence, Name, RequestId, ServiceKey,
    };

    /// A write with `items` deregistrations.
    fn write(user: &str, address: &str, items: usize, fence: Option<Fence>) -> Write<()> {
        let name = |text| Name::trusted(text);
        let key = ServiceKey::new(name("a"), name("b")).instance(name("c"));
        let item = Deregistration { key, lease_epoch: None, forget_drain: false };
        let proposal = Proposal {
            request_id: RequestId(1),
            proposed_at_ms: 1,
            fence,
            actor: Actor { user: user.into(), ..Actor::system("test") },
            command: Command::Deregister { items: vec![item; items] },
        };
        let time = WriteTimes { begin_ms: 1_000, end_ms: 5_000 };
        Write { proposal, time, address: address.parse().unwrap(), reply: () }
    }

    fn refusal(queues: &mut Queues<()>, write: Write<()>) -> Option<Refusal> {
        queues.push(write).err().map(|(_, refusal)| refusal)
    }

    fn users(queues: &mut Queues<()>) -> Vec<String> {
        let batch = queues.take_batch(0).0;
        batch.iter().map(|write| write.proposal.actor.user.to_string()).collect()
    }

    #[test]
    fn an_operators_write_is_in_the_next_batch_while_strangers_flood() {
        let mut queues = Queues::new(16_384);
        let mut refused = 0;
        for n in 0..400_u32 {
            let flood = write("", &format!("10.0.0.{}", n % 8), 1_000, None);
            refused += usize::from(refusal(&mut queues, flood).is_some());
        }
        assert_eq!(refused, 400 - STRANGER_ITEMS_WAITING_MAX / 1_000);
        for (user, fence) in
            [("ada", None), ("system:retention", None), ("system:health-checker", Some(Fence(7)))]
        {
            assert_eq!(refusal(&mut queues, write(user, "10.0.0.1", 1, fence)), None);
        }
        assert_eq!(users(&mut queues), ["system:health-checker"]);
        assert_eq!(users(&mut queues), ["system:retention", "ada", "", ""]);
    }

    #[test]
    fn strangers_go_on_while_callers_with_a_credential_flood() {
        let mut queues = Queues::new(16_384);
        for _ in 0..4 {
            assert_eq!(refusal(&mut queues, write("ada", "10.0.0.1", 1_000, None)), None);
        }
        assert_eq!(refusal(&mut queues, write("", "10.0.0.2", 1, None)), None);
        assert_eq!(users(&mut queues), ["ada", ""]);
        assert_eq!(users(&mut queues), ["ada", "ada"]);
    }

    #[test]
    fn the_leaders_own_writes_and_all_others_take_turns() {
        let mut queues = Queues::new(16_384);
        for _ in 0..2 {
            let own = write("system:lease-expiry", "0.0.0.0", 1_500, Some(Fence(7)));
            assert_eq!(refusal(&mut queues, own), None);
            assert_eq!(refusal(&mut queues, write("ada", "10.0.0.1", 1_500, None)), None);
        }
        let order: Vec<String> = (0..4).map(|_| users(&mut queues).join(" ")).collect();
        assert_eq!(order, ["system:lease-expiry", "ada", "system:lease-expiry", "ada"]);
        assert!(queues.take_batch(0).0.is_empty());
    }

    #[test]
    fn one_address_is_refused_over_its_share_and_has_it_back_once_it_is_taken() {
        let mut queues = Queues::new(16_384);
        for _ in 0..STRANGER_ITEMS_PER_ADDRESS_MAX / 1_024 {
            assert_eq!(refusal(&mut queues, write("", "10.0.0.1", 1_024, None)), None);
        }
        let over = refusal(&mut queues, write("", "10.0.0.1", 1, None));
        assert_eq!(over, Some(Refusal::AddressOverloaded));
        assert_eq!(refusal(&mut queues, write("", "10.0.0.2", 1, None)), None, "another waits");
        assert_eq!(queues.take_batch(0).0.len(), 2);
        assert_eq!(refusal(&mut queues, write("", "10.0.0.1", 2_048, None)), None);
        while !queues.take_batch(0).0.is_empty() {}
        assert_eq!(queues.stranger_items.all, 0);
        assert!(queues.stranger_items.by_address.is_empty());
    }

    #[test]
    fn what_waited_too_long_is_given_back_and_does_not_count_any_more() {
        let mut queues = Queues::new(16_384);
        assert_eq!(refusal(&mut queues, write("", "10.0.0.1", 1, None)), None);
        let (taken, late) = queues.take_batch(1_000);
        assert_eq!((taken.len(), late.len(), queues.stranger_items.all), (0, 1, 0));
        assert_eq!(refusal(&mut queues, write("", "10.0.0.1", 1, None)), None);
        assert_eq!(queues.take_expired(999).len(), 0, "it still waits");
        assert_eq!((queues.take_expired(1_000).len(), queues.stranger_items.all), (1, 0));
    }

    #[test]
    fn every_command_with_items_weighs_as_many() {
        let name = |text| Name::trusted(text);
        let key = ServiceKey::new(name("a"), name("b")).instance(name("c"));
        let expiry = CheckExpiry {
            key: key.clone(),
            check: name("d"),
            reported_index: 1,
            output: "late".into(),
        };
        let record = (AuditAction::SessionCreate, "ada".into(), true);
        for command in [
            Command::Expire { items: vec![(key, 1); 7] },
            Command::ExpireChecks { items: vec![expiry; 7] },
            Command::RecordAudit { items: vec![record; 7] },
        ] {
            assert_eq!(weight(&command), 7, "{command:?}");
        }
        assert_eq!(weight(&Command::RecordAudit { items: Vec::new() }), 1);
    }
}
