//! The writes that wait for their batch, by who asks.
//!
//! Three classes have room of their own: Maxine's own duties, callers with a credential, and strangers.
//! A batch takes from them in this order. Strangers get at least a quarter of a batch, so that they go
//! on, and never delay the others by more than the batch that is under way. What waits of strangers is
//! counted in items (an item is one registration, say), all together and for each address.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix::Message;
use tokio::sync::oneshot;

use super::WriteError;
use maxine_admission::{NoPlace, Place, PlaceLimits, Places, Standing};
use maxine_state::{Actor, Applied, Command, Proposal};

/// Most items in one batch.
const BATCH_ITEMS_MAX: usize = 2_048;
/// Of these, how many are kept for strangers while some of them wait.
const STRANGER_ITEMS_MIN: usize = BATCH_ITEMS_MAX / 4;
/// Most items of strangers that wait.
const STRANGER_ITEMS_WAITING_MAX: usize = 65_536;
/// Most of them of one address.
const STRANGER_ITEMS_PER_ADDRESS_MAX: usize = 16_384;

/// A write that waits for its batch.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Submit {
    pub(super) proposal: Proposal,
    pub(super) time: Deadlines,
    pub(super) reply: oneshot::Sender<Result<Applied, WriteError>>,
    /// What it takes of its address's room while it waits.
    place: Option<Place>,
}

/// By when what must have happened, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// A write that was not proposed by then is refused: its caller waits no longer.
    pub(super) begin_ms: u64,
    /// A proposed write that has no answer by then is of unknown outcome.
    pub(super) end_ms: u64,
}

impl Submit {
    pub(super) fn new(
        proposal: Proposal,
        time: Deadlines,
        reply: oneshot::Sender<Result<Applied, WriteError>>,
    ) -> Self {
        Self { proposal, time, reply, place: None }
    }

    fn refuse_late(self) {
        let reason = String::from("the write waited too long in the queue and was not started");
        self.refuse(WriteError::Unavailable { retry_after_s: 1, reason });
    }

    fn refuse(self, error: WriteError) {
        // The caller may have gone; then nobody needs the answer.
        let _gone = self.reply.send(Err(error));
    }
}

/// The writes that wait.
pub(super) struct Queues {
    system: VecDeque<Submit>,
    known: VecDeque<Submit>,
    strangers: VecDeque<Submit>,
    stranger_items: Arc<Places>,
    /// Most writes that wait in each.
    len_max: usize,
    /// Whether the batch before was one of the leader's own.
    was_fenced: bool,
}

impl Queues {
    pub(super) fn new(len_max: usize) -> Self {
        let stranger_items = Places::new(PlaceLimits {
            max: STRANGER_ITEMS_WAITING_MAX,
            per_address_max: STRANGER_ITEMS_PER_ADDRESS_MAX,
            reserved: 0,
        });
        let (system, known, strangers) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { system, known, strangers, stranger_items, len_max, was_fenced: false }
    }

    /// Queues a write, or refuses it where its class or its address has no room.
    pub(super) fn push(&mut self, mut submit: Submit) {
        let actor = &submit.proposal.actor;
        // Audit records are Maxine's own, whoever did what they record.
        let is_own = submit.proposal.fence.is_some()
            || actor.is_system()
            || matches!(submit.proposal.command, Command::RecordAudit { .. });
        let is_stranger = !is_own && actor.user.is_empty();
        let queue = match (is_own, is_stranger) {
            (true, _) => &mut self.system,
            (_, true) => &mut self.strangers,
            _ => &mut self.known,
        };
        if queue.len() >= self.len_max {
            return submit.refuse(WriteError::Overloaded { retry_after_s: 1 });
        }
        if is_stranger {
            let (address, items) = (address_of(actor), weight(&submit.proposal.command));
            match self.stranger_items.take(address, Standing::Stranger, items) {
                Ok(place) => submit.place = Some(place),
                Err(NoPlace::Node) => {
                    return submit.refuse(WriteError::Overloaded { retry_after_s: 1 });
                }
                Err(NoPlace::Address) => {
                    return submit.refuse(WriteError::AddressOverloaded { retry_after_s: 1 });
                }
            }
        }
        queue.push_back(submit);
    }

    /// Refuses whatever has waited too long, while nothing can be taken.
    pub(super) fn refuse_late(&mut self, now_ms: u64) {
        for queue in [&mut self.system, &mut self.known, &mut self.strangers] {
            if queue.iter().any(|submit| submit.time.begin_ms <= now_ms) {
                let waiting = std::mem::take(queue);
                let (late, in_time): (Vec<_>, Vec<_>) =
                    waiting.into_iter().partition(|submit| submit.time.begin_ms <= now_ms);
                late.into_iter().for_each(Submit::refuse_late);
                queue.extend(in_time);
            }
        }
    }

    /// What goes into the log next; empty where nothing waits.
    ///
    /// What only the leader may write goes alone: it is refused as a whole on a node that leads no more,
    /// and must not hold up what anyone may write. So the two take turns where both wait.
    pub(super) fn take_batch(&mut self, now_ms: u64) -> Vec<Submit> {
        let fenced_waits = self.system.iter().any(|submit| submit.proposal.fence.is_some());
        let unfenced_waits = !(self.known.is_empty() && self.strangers.is_empty())
            || self.system.iter().any(|submit| submit.proposal.fence.is_none());
        let mut batch = Filling { items: 0, submits: Vec::new(), now_ms };
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
        batch.submits
    }
}

/// A batch that is being put together.
struct Filling {
    items: usize,
    submits: Vec<Submit>,
    now_ms: u64,
}

impl Filling {
    /// Takes from the front of `queue` what `fits`, as long as the batch has at most `max` items. The
    /// first write of a batch goes however many items it has.
    fn take(&mut self, queue: &mut VecDeque<Submit>, max: usize, fits: fn(&Proposal) -> bool) {
        let mut passed_over = VecDeque::new();
        while let Some(submit) = queue.pop_front() {
            if submit.time.begin_ms <= self.now_ms {
                submit.refuse_late();
                continue;
            }
            if !fits(&submit.proposal) {
                passed_over.push_back(submit);
                continue;
            }
            let more = weight(&submit.proposal.command);
            if self.items + more > max && !self.submits.is_empty() {
                queue.push_front(submit);
                break;
            }
            self.items += more;
            self.submits.push(submit);
        }
        while let Some(submit) = passed_over.pop_back() {
            queue.push_front(submit);
        }
    }
}

/// How many items a command has.
fn weight(command: &Command) -> usize {
    match command {
        Command::Register { items } => items.len(),
        Command::Deregister { items } => items.len(),
        Command::Expire { items } => items.len(),
        Command::ReportHealth { items } => items.len(),
        _ => 1,
    }
    .max(1)
}

/// Where a stranger's write came from; all without an address count as one.
fn address_of(actor: &Actor) -> IpAddr {
    let address = actor.address.split(' ').next().unwrap_or_default();
    address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Deregistration, Fence, Name, RequestId, ServiceKey};

    type Answer = oneshot::Receiver<Result<Applied, WriteError>>;

    /// A write of `items` deregistrations.
    fn submit(user: &str, address: &str, items: usize, fence: Option<Fence>) -> (Submit, Answer) {
        let name = |text| Name::trusted(text);
        let key = ServiceKey::new(name("a"), name("b")).instance(name("c"));
        let item = Deregistration { key, lease_epoch: None, forget_drain: false };
        let proposal = Proposal {
            request_id: RequestId(1),
            proposed_at_ms: 1,
            fence,
            actor: Actor { user: user.into(), address: address.into(), ..Actor::system("test") },
            command: Command::Deregister { items: vec![item; items] },
        };
        let (reply, answer) = oneshot::channel();
        let time = Deadlines { begin_ms: 1_000, end_ms: 5_000 };
        (Submit::new(proposal, time, reply), answer)
    }

    fn users(batch: &[Submit]) -> Vec<&str> {
        batch.iter().map(|submit| &*submit.proposal.actor.user).collect()
    }

    #[test]
    fn an_operators_write_is_in_the_next_batch_while_strangers_flood() {
        let mut queues = Queues::new(16_384);
        let mut refused = 0;
        for n in 0..400_u32 {
            let address = format!("10.0.0.{}", n % 8);
            let (flood, mut answer) = submit("", &address, 1_000, None);
            queues.push(flood);
            refused += usize::from(answer.try_recv().is_ok());
        }
        assert_eq!(refused, 400 - STRANGER_ITEMS_WAITING_MAX / 1_000);
        for (user, fence) in [("ada", None), ("system:retention", None)] {
            queues.push(submit(user, "10.0.0.1", 1, fence).0);
        }
        queues.push(submit("system:health-checker", "", 1, Some(Fence(7))).0);
        assert_eq!(users(&queues.take_batch(0)), ["system:health-checker"]);
        assert_eq!(users(&queues.take_batch(0)), ["system:retention", "ada", "", ""]);
    }

    #[test]
    fn strangers_go_on_while_callers_with_a_credential_flood() {
        let mut queues = Queues::new(16_384);
        let kept: Vec<Answer> = (0..4)
            .map(|_| {
                let (flood, answer) = submit("ada", "10.0.0.1", 1_000, None);
                queues.push(flood);
                answer
            })
            .collect();
        queues.push(submit("", "10.0.0.2", 1, None).0);
        assert_eq!(users(&queues.take_batch(0)), ["ada", ""]);
        assert_eq!(users(&queues.take_batch(0)), ["ada", "ada"]);
        drop(kept);
    }

    #[test]
    fn the_leaders_own_writes_and_all_others_take_turns() {
        let mut queues = Queues::new(16_384);
        for _ in 0..2 {
            queues.push(submit("system:lease-expiry", "", 1_500, Some(Fence(7))).0);
            queues.push(submit("ada", "10.0.0.1", 1_500, None).0);
        }
        let order: Vec<String> = (0..4).map(|_| users(&queues.take_batch(0)).join(" ")).collect();
        assert_eq!(order, ["system:lease-expiry", "ada", "system:lease-expiry", "ada"]);
        assert!(queues.take_batch(0).is_empty());
    }

    #[test]
    fn one_address_is_refused_over_its_share_and_has_it_back_once_it_is_written() {
        let mut queues = Queues::new(16_384);
        for _ in 0..STRANGER_ITEMS_PER_ADDRESS_MAX / 1_024 {
            queues.push(submit("", "10.0.0.1", 1_024, None).0);
        }
        let (over, mut answer) = submit("", "10.0.0.1", 1, None);
        queues.push(over);
        let error = answer.try_recv().unwrap().unwrap_err();
        assert_eq!(error, WriteError::AddressOverloaded { retry_after_s: 1 });
        let (other, mut answer) = submit("", "10.0.0.2", 1, None);
        queues.push(other);
        assert!(answer.try_recv().is_err(), "another address waits");
        assert_eq!(queues.take_batch(0).len(), 2);
        let (again, mut answer) = submit("", "10.0.0.1", 2_048, None);
        queues.push(again);
        assert!(answer.try_recv().is_err());
    }

    #[test]
    fn what_waited_too_long_is_told_that_nothing_was_written() {
        let mut queues = Queues::new(16_384);
        let refuse: [fn(&mut Queues); 2] = [
            |queues| assert!(queues.take_batch(1_000).is_empty()),
            |queues| queues.refuse_late(1_000),
        ];
        for refuse in refuse {
            let (late, mut answer) = submit("ada", "10.0.0.1", 1, None);
            queues.push(late);
            queues.refuse_late(999);
            assert!(answer.try_recv().is_err(), "it still waits");
            refuse(&mut queues);
            let error = answer.try_recv().unwrap().unwrap_err();
            assert!(matches!(error, WriteError::Unavailable { .. }), "{error:?}");
        }
    }
}
