//! Whose probe is next, when more are due than there are places.
//!
//! An instance that accepts a connection and never answers holds a place for as long as its owner's time
//! limit says. So probes have classes, by what the instance did before, and each class has places of its
//! own. Within a class the services take turns, and none gets more than half of the places.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use maxine_state::{InstanceKey, Name, ServiceKey};

/// Probes of instances that answer, at once on one node.
const ANSWERING_MAX: usize = 128;
/// Probes of new instances.
const NEW_MAX: usize = 128;
/// Probes of slow instances.
const SLOW_MAX: usize = 64;
/// One service gets one of so many places of a class.
const SERVICE_ONE_IN: usize = 2;

/// What an instance's earlier probes tell of how long the next will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeClass {
    /// It answered soon, in whatever way; a refused connection is an answer.
    Answering,
    /// It has not answered soon yet, and few probes were made.
    New,
    /// Several probes in a row got their answer late or not at all.
    Slow,
}

/// What is due of one service.
#[derive(Debug, Default)]
struct Line {
    due: BTreeSet<(u64, Name)>,
    under_way: usize,
    is_queued: bool,
}

/// What is due of one class.
#[derive(Debug)]
struct Queue {
    max: usize,
    under_way: usize,
    lines: BTreeMap<ServiceKey, Line>,
    /// The services that may have the next turns.
    round: VecDeque<ServiceKey>,
}

impl Queue {
    fn new(max: usize) -> Self {
        Self { max, under_way: 0, lines: BTreeMap::new(), round: VecDeque::new() }
    }

    fn push(&mut self, key: &InstanceKey, due_ms: u64) {
        let line = self.lines.entry(key.service.clone()).or_default();
        line.due.insert((due_ms, key.instance.clone()));
        self.line_up(&key.service);
    }

    fn remove(&mut self, key: &InstanceKey, due_ms: u64) {
        if let Some(line) = self.lines.get_mut(&key.service) {
            line.due.remove(&(due_ms, key.instance.clone()));
        }
        self.line_up(&key.service);
    }

    /// Lets the service have a turn if it may, and forgets it if there is nothing of it.
    fn line_up(&mut self, service: &ServiceKey) {
        let Some(line) = self.lines.get_mut(service) else { return };
        let room = self.max / SERVICE_ONE_IN;
        if !line.is_queued && !line.due.is_empty() && line.under_way < room {
            line.is_queued = true;
            self.round.push_back(service.clone());
        } else if !line.is_queued && line.due.is_empty() && line.under_way == 0 {
            self.lines.remove(service);
        }
    }

    fn next(&mut self) -> Option<InstanceKey> {
        while self.under_way < self.max {
            let service = self.round.pop_front()?;
            let Some(line) = self.lines.get_mut(&service) else { continue };
            line.is_queued = false;
            let first = line.due.pop_first();
            if first.is_some() {
                line.under_way += 1;
                self.under_way += 1;
            }
            self.line_up(&service);
            if let Some((_, instance)) = first {
                return Some(service.instance(instance));
            }
        }
        None
    }

    fn done(&mut self, service: &ServiceKey) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(line) = self.lines.get_mut(service) {
            line.under_way = line.under_way.saturating_sub(1);
        }
        self.line_up(service);
    }
}

/// The probes that are due, and the places for those under way.
#[derive(Debug)]
pub(crate) struct Turns {
    answering: Queue,
    new: Queue,
    slow: Queue,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            answering: Queue::new(ANSWERING_MAX),
            new: Queue::new(NEW_MAX),
            slow: Queue::new(SLOW_MAX),
        }
    }

    fn queue(&mut self, class: ProbeClass) -> &mut Queue {
        match class {
            ProbeClass::Answering => &mut self.answering,
            ProbeClass::New => &mut self.new,
            ProbeClass::Slow => &mut self.slow,
        }
    }

    /// Adds a probe that is due since then.
    pub(crate) fn push(&mut self, class: ProbeClass, key: &InstanceKey, due_ms: u64) {
        self.queue(class).push(key, due_ms);
    }

    /// Takes back a probe that was added and has not begun.
    pub(crate) fn remove(&mut self, class: ProbeClass, key: &InstanceKey, due_ms: u64) {
        self.queue(class).remove(key, due_ms);
    }

    /// The next probe to begin, if there is a place for it.
    pub(crate) fn next(&mut self) -> Option<(ProbeClass, InstanceKey)> {
        [ProbeClass::Answering, ProbeClass::New, ProbeClass::Slow]
            .into_iter()
            .find_map(|class| Some((class, self.queue(class).next()?)))
    }

    /// How many probes and services are known here.
    #[cfg(test)]
    pub(crate) fn places_taken(&self) -> usize {
        let queues = [&self.answering, &self.new, &self.slow];
        queues.iter().map(|queue| queue.under_way + queue.lines.len()).sum()
    }

    /// Gives the place of a probe back.
    pub(crate) fn done(&mut self, class: ProbeClass, service: &ServiceKey) {
        self.queue(class).done(service);
    }
}
