//! Repairs differences between this node and Redis, whatever Redis contains.
//!
//! The head names the last entry. The position of a node is the last entry that it has applied. What Redis
//! contains and where the node is decide the action:
//!
//! | head | stream and snapshot | this node | action |
//! |---|---|---|---|
//! | none | nothing | has no entries | create an empty log |
//! | none | anything | has entries | apply what follows its position, then write the state to Redis |
//! | none | something | has no entries | wait for a node that has entries; then write back what can be read |
//! | readable | accepts entries | is at the head | nothing |
//! | readable | is missing, is no stream, or has more after the head | is at the head | write the state to Redis (1) |
//! | readable | has the entries after its position | is behind | follow |
//! | readable | lacks them; the snapshot leads to the head | is behind or on a fork | take the snapshot, then follow |
//! | readable | any | is ahead and remembers the entries since the head | write these entries back (2) |
//! | readable | cannot be read up to the head | is not at the head | wait for a node at the head (3) |
//!
//! 1. The leader does this. If there is no leader, any node does.
//! 2. If the stream does not accept the entries, the node writes the state.
//! 3. After the wait, and if no node leads, the node writes back the longest state that it knows.
//!
//! No wait is endless. A node at the head leads, or takes the lease, and writes a snapshot that the others
//! take. If there is no such node, the leader gives its lease back or the lease runs out. The first node that
//! has waited for a third of a lease then writes its state to Redis. All of this ends within two leases and
//! the time that one snapshot takes.
//!
//! A state that is written to Redis gives the log a new name, unless it is the state at the head. The same
//! script compares the head. So of several nodes one succeeds, and the others start again with the table.
//! Entries are identified by their nonces alone. A node whose position is in the new log continues there
//! without a loss. A node whose position is not in it reports the loss.

use super::Core;
use super::connect::Link;
use super::replica::{Entry, Position};
use super::scripts;
use super::snapshot::{self, Installed};
use super::stream::{self, PAGE_ENTRIES_MAX, ReadLog};
use super::survey::Survey;
use super::tail::End;
use crate::StoreEvent;

/// A node waits for a lease divided by this number, so that a node that can read more of the log acts first.
const LEASES_PER_WAIT: u64 = 3;
/// Maximum number of steps until this node and Redis agree.
const STEPS_MAX: usize = 16;
/// Maximum number of bytes that one script call writes back.
const PUT_BACK_LEN_MAX: usize = 4 * 1024 * 1024;

/// The next action of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    /// Create an empty log.
    Create,
    /// Nothing: the node is at the head.
    Stay,
    /// Nothing: the entries after its position can be read.
    Follow,
    /// Take the snapshot and what follows it. If that does not reach the head, wait, and then repair.
    TakeSnapshot,
    /// Write back the entries after the head.
    PutTailBack,
    /// Write back the whole state.
    PutStateBack,
}

/// The facts that decide, apart from the survey.
#[derive(Clone, Copy, Debug, Default)]
struct LocalFacts {
    /// Whether another node holds the lease.
    other_leads: bool,
    /// Whether the stream has the entry that follows this node's position.
    next_is_there: bool,
    /// Whether this node remembers all entries after the head.
    remembers_tail: bool,
}

/// The table in the module's documentation.
fn repair_for(survey: &Survey, mine: &Position, here: LocalFacts) -> Repair {
    let Some(head) = &survey.head else {
        return match (mine.seq, survey.is_empty) {
            (0, true) => Repair::Create,
            (0, false) => Repair::TakeSnapshot,
            _ => Repair::PutStateBack,
        };
    };
    if mine.epoch.is_empty() {
        return Repair::TakeSnapshot;
    }
    if head.is_same_entry(mine) {
        let in_order = survey.takes_entries() || here.other_leads;
        return if in_order { Repair::Stay } else { Repair::PutStateBack };
    }
    if here.next_is_there {
        Repair::Follow
    } else if here.remembers_tail {
        Repair::PutTailBack
    } else {
        Repair::TakeSnapshot
    }
}

#[derive(PartialEq, Eq)]
enum Step {
    /// This node and Redis agree.
    Settled,
    /// Something was changed; compare again.
    Again,
}

impl Core {
    /// Compares the end of the log with this node's position, and repairs what differs.
    pub(super) async fn synchronise(&self, link: &mut Link) -> Result<(), End> {
        for _ in 0..STEPS_MAX {
            let step = self.step(link).await?;
            self.note_heard();
            if step == Step::Settled {
                self.note_sound();
                return Ok(());
            }
        }
        Err(End::Damaged(String::from("what redis holds changes faster than this node can follow")))
    }

    async fn step(&self, link: &mut Link) -> Result<Step, End> {
        let timeout = self.config.command_timeout();
        let asked_ms = self.clock.monotonic_ms();
        let survey = Survey::read(link, &self.keys, timeout).await?;
        let mine = self.replica.position();
        let mut here = LocalFacts::default();
        let held = self.held_lease();
        here.other_leads = !survey.lease.is_empty() && held.as_deref() != Some(&*survey.lease);
        let mut tail = None;
        match &survey.head {
            Some(head) if head.seq > mine.seq => {
                let after = format!("{}-0", mine.seq);
                let page = stream::page(link, &self.keys, &after, 0, timeout).await?;
                let next = page.entries.first();
                here.next_is_there = next.is_some_and(|next| next.is_next_after(&mine));
            }
            Some(head) => tail = self.replica.kept_after(head.seq, &head.nonce),
            None => {}
        }
        here.remembers_tail = tail.is_some();
        let chosen = repair_for(&survey, &mine, here);
        if chosen == Repair::Create {
            tracing::info!("redis has no registry yet; this node creates it");
        } else if chosen == Repair::TakeSnapshot && mine.seq == 0 {
            tracing::info!("this node has no state yet; it takes the snapshot in redis");
        } else if !matches!(chosen, Repair::Stay | Repair::Follow) {
            tracing::info!(
                ?chosen,
                seq = mine.seq,
                head = survey.head.as_ref().map(|h| h.seq),
                "the data in redis and on this node differ"
            );
        }
        match chosen {
            Repair::Create => {
                stream::create(link, &self.keys, timeout).await?;
                Ok(Step::Again)
            }
            Repair::Stay | Repair::Follow => {
                if let Some(head) = survey.head.filter(|head| head.epoch != mine.epoch) {
                    self.replica.adopt(&head.epoch);
                }
                if chosen == Repair::Stay {
                    self.note_complete(asked_ms);
                }
                Ok(Step::Settled)
            }
            Repair::TakeSnapshot => self.take_snapshot(link).await,
            Repair::PutTailBack => match (survey.head, tail) {
                (Some(head), Some(tail)) => self.put_tail_back(link, head, &tail).await,
                _ => Ok(Step::Again),
            },
            Repair::PutStateBack => {
                if survey.head.is_none() && !survey.is_empty {
                    self.take_what_follows(link).await?;
                }
                self.put_state_back(link, survey.head.as_ref(), false).await
            }
        }
    }

    /// Takes the state from Redis. If it cannot be read, repairs it after a time.
    async fn take_snapshot(&self, link: &mut Link) -> Result<Step, End> {
        let timeout = self.config.command_timeout();
        let found = stream::rebuild(link, &self.keys, timeout).await?;
        if found.is_whole() {
            self.go_on_with(found);
            return Ok(Step::Again);
        }
        let problem = found.problem();
        let epoch = found.survey.head.as_ref().map_or("", |head| &*head.epoch).to_owned();
        let broken_ms = self.note_broken(&problem);
        if broken_ms < self.config.lease_ms / LEASES_PER_WAIT {
            let keys = [&*self.keys.head];
            let args = [epoch.as_bytes()];
            let _: u64 = scripts::REPORT_SHORT.run(link, &keys, &args, timeout).await?;
            return Err(End::Damaged(problem));
        }
        let mine = self.replica.position();
        let replaces = found.survey.head.clone();
        if mine.epoch.is_empty() || found.rebuilt.position().seq > mine.seq {
            self.go_on_with(found);
        }
        self.put_state_back(link, replaces.as_ref(), true).await
    }

    /// The head is gone. Applies the entries that Redis still has after this node's position, before they are
    /// replaced.
    async fn take_what_follows(&self, link: &mut Link) -> Result<(), End> {
        let timeout = self.config.command_timeout();
        let found = stream::rebuild(link, &self.keys, timeout).await?;
        let (mine, there) = (self.replica.position(), found.rebuilt.position());
        let follows = found.rebuilt.comes_after(&mine).unwrap_or(there.epoch == mine.epoch);
        if follows && there.seq > mine.seq {
            self.go_on_with(found);
        }
        Ok(())
    }

    /// Continues with what was read, and reports what this node had and lost.
    fn go_on_with(&self, found: ReadLog) {
        let mine = self.replica.position();
        let now = found.rebuilt.position().clone();
        let replaced = now.epoch != mine.epoch;
        // If this is unknown, a log with the same name counts as the same log.
        let lost = !found.rebuilt.comes_after(&mine).unwrap_or(!replaced);
        if lost {
            self.step_down();
        }
        self.report_skipped(&found.rebuilt.skipped);
        self.replica.replace(found.rebuilt);
        if lost {
            self.emit(StoreEvent::WritesLost { had: mine.seq, now: now.seq, replaced });
        }
    }

    /// Redis is at an earlier entry of this log. Writes the later entries again, unless another node has done so.
    async fn put_tail_back(
        &self,
        link: &mut Link,
        head: Position,
        lost: &[Entry],
    ) -> Result<Step, End> {
        self.step_down();
        let (from, to) = (head.seq + 1, head.seq + lost.len() as u64);
        let mut at = head;
        let mut rest = lost;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(fits_one_call(rest));
            let seq = at.seq.to_string();
            let versions: Vec<String> = now.iter().map(|entry| entry.version.to_string()).collect();
            let mut args: Vec<&[u8]> = vec![at.epoch.as_bytes(), seq.as_bytes(), &at.nonce];
            for (entry, version) in now.iter().zip(&versions) {
                args.extend([&entry.nonce[..], version.as_bytes(), &entry.payload]);
            }
            let keys = [&*self.keys.head, &*self.keys.log];
            let timeout = self.config.command_timeout();
            let word: String = scripts::PUT_BACK.run(link, &keys, &args, timeout).await?;
            match word.as_str() {
                "OK" => {}
                "BLOCKED" => return self.put_state_back(link, Some(&at), false).await,
                // Another node was faster. The next comparison decides what to do.
                _ => return Ok(Step::Again),
            }
            if let Some(last) = now.last() {
                at = Position { seq: last.seq, nonce: last.nonce, ..at };
            }
            rest = later;
        }
        self.emit(StoreEvent::WritesPutBack { from, to });
        Ok(Step::Again)
    }

    /// Writes this node's whole state to Redis as a snapshot, at its own position, if the head is still
    /// `replaces`. `lossy`: Redis is known to have had more entries, or others.
    async fn put_state_back(
        &self,
        link: &mut Link,
        replaces: Option<&Position>,
        lossy: bool,
    ) -> Result<Step, End> {
        let (state, mut position, recent) = self.replica.state();
        match replaces.filter(|head| head.is_same_entry(&position)) {
            Some(head) => position.epoch.clone_from(&head.epoch),
            None => {
                self.step_down();
                position.epoch = stream::new_epoch();
            }
        }
        let encoded = tokio::task::spawn_blocking(move || snapshot::encode(&state)).await;
        let encoded = match encoded {
            Ok(Ok(encoded)) => encoded,
            // Only nodes that run have the state, so this node does not stop.
            Ok(Err(error)) => return Err(End::Damaged(error.to_string())),
            Err(error) => return Err(End::Fatal(error.to_string())),
        };
        let timeout = self.config.command_timeout();
        let (seq, epoch) = (position.seq, position.epoch.clone());
        let uploaded =
            snapshot::upload(link, &self.keys, &encoded, position, recent, timeout).await?;
        match snapshot::install(link, &self.keys, &uploaded, replaces, lossy, timeout).await? {
            Installed::Done => {
                self.replica.adopt(&epoch);
                if let Some(head) = replaces.filter(|_| lossy) {
                    let (had, now) = (head.seq, seq);
                    self.emit(StoreEvent::WritesLost { had, now, replaced: true });
                }
                self.emit(StoreEvent::StatePutBack { position: seq });
                Ok(Step::Again)
            }
            Installed::Changed => Ok(Step::Again),
            Installed::Led => Err(End::Damaged(String::from(
                "this node cannot build the state from what redis holds; the node that leads writes a snapshot",
            ))),
        }
    }
}

/// How many of the entries fit into one call of a script.
fn fits_one_call(entries: &[Entry]) -> usize {
    let mut len = 0;
    let fits = entries.iter().take(PAGE_ENTRIES_MAX).take_while(|entry| {
        len += entry.payload.len();
        len <= PUT_BACK_LEN_MAX
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::survey::Stream;

    fn at(seq: u64, nonce: u8) -> Position {
        Position { epoch: "e".into(), seq, nonce: [nonce; 16] }
    }

    fn survey(head: Option<Position>, kind: &str, newest: u64) -> Survey {
        let stream = Stream { kind: kind.into(), newest: (newest, 0), ..Stream::default() };
        Survey { is_empty: head.is_none() && kind == "none", head, stream, ..Survey::default() }
    }

    #[test]
    fn every_combination_has_a_way_on() {
        let sound = |head| survey(Some(head), "stream", 5);
        let no = LocalFacts::default();
        let other_leads = LocalFacts { other_leads: true, ..no };
        let next_is_there = LocalFacts { next_is_there: true, ..no };
        let remembers_tail = LocalFacts { remembers_tail: true, ..no };
        let nothing = Position::default();
        for (case, survey, mine, here, expected) in [
            ("all new", survey(None, "none", 0), &nothing, no, Repair::Create),
            ("a lost head", survey(None, "stream", 5), &nothing, no, Repair::TakeSnapshot),
            ("a lost head", survey(None, "stream", 5), &at(5, 5), no, Repair::PutStateBack),
            ("flushed", survey(None, "none", 0), &at(5, 5), no, Repair::PutStateBack),
            ("an empty log flushed", survey(None, "none", 0), &at(0, 0), no, Repair::Create),
            ("a new node", sound(at(5, 5)), &nothing, no, Repair::TakeSnapshot),
            ("at the head", sound(at(5, 5)), &at(5, 5), no, Repair::Stay),
            ("no stream", survey(Some(at(5, 5)), "none", 0), &at(5, 5), no, Repair::PutStateBack),
            ("a string", survey(Some(at(5, 5)), "string", 0), &at(5, 5), no, Repair::PutStateBack),
            ("no stream", survey(Some(at(5, 5)), "none", 0), &at(5, 5), other_leads, Repair::Stay),
            (
                "a stranger's",
                survey(Some(at(5, 5)), "stream", 9),
                &at(5, 5),
                no,
                Repair::PutStateBack,
            ),
            ("behind", sound(at(5, 5)), &at(3, 3), next_is_there, Repair::Follow),
            ("behind a gap", sound(at(5, 5)), &at(3, 3), no, Repair::TakeSnapshot),
            ("a fork", sound(at(5, 5)), &at(5, 6), no, Repair::TakeSnapshot),
            ("ahead", sound(at(5, 5)), &at(7, 7), remembers_tail, Repair::PutTailBack),
            ("ahead on a fork", sound(at(5, 5)), &at(7, 7), no, Repair::TakeSnapshot),
        ] {
            assert_eq!(repair_for(&survey, mine, here), expected, "{case}");
        }
    }
}
