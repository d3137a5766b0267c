//! Decides which probe is next if more are due than there are places.
//!
//! An instance that accepts a connection and never answers uses a place until the time limit of the probe,
//! which its owner sets. Therefore probes have classes, which depend on earlier results, and each class has
//! its own places. Within a class the services take turns, and no service gets more than half of the places.
//! While more than half of the places for new instances are taken, a new instance has only [`NEW_PROBE_TIMEOUT_MS`] to
//! answer. An instance that does not answer in this time is probed again as a slow one, with its whole time limit. So a
//! new instance that answers fast does not wait for thousands that never answer.
//!
//! An instance that answered before can stop at any time. Therefore a probe gives back its place for instances that
//! answer once it has run for [`SLOW_MS`]. It continues as a late probe, up to its own time limit.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use maxine_state::{InstanceKey, Name, ServiceKey};

/// Maximum number of concurrent probes of instances that answer.
pub(crate) const ANSWERING_MAX: usize = 128;
/// Maximum number of concurrent probes of new instances.
const NEW_MAX: usize = 192;
/// Time limit for a new instance while many new instances are probed, in milliseconds.
pub(crate) const NEW_PROBE_TIMEOUT_MS: u64 = 200;
/// Maximum number of concurrent probes of slow instances.
const SLOW_MAX: usize = 64;
/// A probe that takes at least this long is slow, whatever its time limit is, in milliseconds.
pub(crate) const SLOW_MS: u64 = 1_000;
/// Maximum number of late probes. If there are as many, further probes keep their places until they end. At most
/// [`ANSWERING_MAX`] probes become late in one second, so probes with a time limit of 5 s cannot reach it.
pub(crate) const LATE_MAX: usize = 1_024;
/// A service gets at most one in this many places of a class.
const SERVICE_ONE_IN: usize = 2;

/// The class of a probe. It depends on how long earlier probes of the instance took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeClass {
    /// The instance answered fast. A refused connection is an answer too.
    Answering,
    /// The instance has not answered fast yet, and few probes were made.
    New,
    /// Several of the last probes were answered late or not at all.
    Slow,
}

/// The due probes of one service.
#[derive(Debug, Default)]
struct Line {
    due: BTreeSet<(u64, Name)>,
    in_flight: usize,
    is_queued: bool,
}

/// The due probes of one class.
#[derive(Debug)]
struct Queue {
    max: usize,
    in_flight: usize,
    lines: BTreeMap<ServiceKey, Line>,
    /// The services that may have the next turns, in order.
    round: VecDeque<ServiceKey>,
}

impl Queue {
    fn new(max: usize) -> Self {
        Self { max, in_flight: 0, lines: BTreeMap::new(), round: VecDeque::new() }
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

    /// Adds the service to the turns if it may have one. Removes the service if it has no probes.
    fn line_up(&mut self, service: &ServiceKey) {
        let Some(line) = self.lines.get_mut(service) else { return };
        let room = self.max / SERVICE_ONE_IN;
        if !line.is_queued && !line.due.is_empty() && line.in_flight < room {
            line.is_queued = true;
            self.round.push_back(service.clone());
        } else if !line.is_queued && line.due.is_empty() && line.in_flight == 0 {
            self.lines.remove(service);
        }
    }

    fn next(&mut self) -> Option<InstanceKey> {
        while self.in_flight < self.max {
            let service = self.round.pop_front()?;
            let Some(line) = self.lines.get_mut(&service) else { continue };
            line.is_queued = false;
            let first = line.due.pop_first();
            if first.is_some() {
                line.in_flight += 1;
                self.in_flight += 1;
            }
            self.line_up(&service);
            if let Some((_, instance)) = first {
                return Some(service.instance(instance));
            }
        }
        None
    }

    fn done(&mut self, service: &ServiceKey) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(line) = self.lines.get_mut(service) {
            line.in_flight = line.in_flight.saturating_sub(1);
        }
        self.line_up(service);
    }
}

/// The due probes, and the places for those in flight.
#[derive(Debug)]
pub(crate) struct ProbeQueue {
    answering: Queue,
    new: Queue,
    slow: Queue,
    /// How many probes of a service began at a time and have a place for instances that answer.
    timely: BTreeMap<(u64, ServiceKey), usize>,
    /// The number of late probes.
    late: usize,
}

impl ProbeQueue {
    pub(crate) fn new() -> Self {
        Self {
            answering: Queue::new(ANSWERING_MAX),
            new: Queue::new(NEW_MAX),
            slow: Queue::new(SLOW_MAX),
            timely: BTreeMap::new(),
            late: 0,
        }
    }

    fn queue(&mut self, class: ProbeClass) -> &mut Queue {
        match class {
            ProbeClass::Answering => &mut self.answering,
            ProbeClass::New => &mut self.new,
            ProbeClass::Slow => &mut self.slow,
        }
    }

    /// Adds a probe that is due since `due_ms`.
    pub(crate) fn push(&mut self, class: ProbeClass, key: &InstanceKey, due_ms: u64) {
        self.queue(class).push(key, due_ms);
    }

    /// Removes a probe that was added and has not begun.
    pub(crate) fn remove(&mut self, class: ProbeClass, key: &InstanceKey, due_ms: u64) {
        self.queue(class).remove(key, due_ms);
    }

    /// The next probe to begin at `now_ms`, if a place is free for it.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<(ProbeClass, InstanceKey)> {
        self.free_late(now_ms);
        let (class, key) = [ProbeClass::Answering, ProbeClass::New, ProbeClass::Slow]
            .into_iter()
            .find_map(|class| Some((class, self.queue(class).next()?)))?;
        if class == ProbeClass::Answering {
            *self.timely.entry((now_ms, key.service.clone())).or_default() += 1;
        }
        Some((class, key))
    }

    /// Frees the places of the probes that are late at `now_ms`.
    fn free_late(&mut self, now_ms: u64) {
        while let Some(oldest) = self.timely.first_entry() {
            let (begun_ms, count) = (oldest.key().0, *oldest.get());
            if begun_ms + SLOW_MS > now_ms || self.late + count > LATE_MAX {
                break;
            }
            let ((_, service), _) = oldest.remove_entry();
            self.late += count;
            for _ in 0..count {
                self.answering.done(&service);
            }
        }
    }

    /// Whether probes of new instances have to be short.
    pub(crate) fn is_crowded(&self) -> bool {
        self.new.in_flight > self.new.max / 2
    }

    /// The number of probes and services that are stored here.
    #[cfg(test)]
    pub(crate) fn places_taken(&self) -> usize {
        let queues = [&self.answering, &self.new, &self.slow];
        let waiting: usize = queues.iter().map(|queue| queue.in_flight + queue.lines.len()).sum();
        waiting + self.timely.len() + self.late
    }

    /// Frees the place of a probe that began at `begun_ms`.
    pub(crate) fn done(&mut self, class: ProbeClass, service: &ServiceKey, begun_ms: u64) {
        if class == ProbeClass::Answering {
            match self.timely.entry((begun_ms, service.clone())) {
                Entry::Vacant(_) => {
                    self.late = self.late.saturating_sub(1);
                    return;
                }
                Entry::Occupied(mut timely) => {
                    *timely.get_mut() -= 1;
                    if *timely.get() == 0 {
                        timely.remove();
                    }
                }
            }
        }
        self.queue(class).done(service);
    }
}
