//! Changes as they happen, for watchers: gapless, or told to start again.
//!
//! The newest changes stand in a ring per watched scope. A watcher holds a place in it, not a
//! queue of its own: a slow one falls off the end and is told so, and costs no memory meanwhile.
//! A watcher of one service waits at that service's own ring: it never wakes for another, and the
//! noise of others never pushes it off.

use std::collections::VecDeque;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::faults;
use maxine_state::{Event, Name, ServiceKey};

/// Most changes kept for those who watch everything, or resume.
const RING_LEN_MAX: usize = 65_536;
/// Most changes kept for those who watch one namespace or service.
const SCOPE_RING_LEN_MAX: usize = 4_096;

/// What a watcher wants to see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WatchScope {
    /// Every change.
    Everything,
    /// Those of one namespace's services.
    Namespace(Name),
    /// Those of one service.
    Service(ServiceKey),
}

impl WatchScope {
    fn covers(&self, event: &Event) -> bool {
        match (self, event.kind.service()) {
            (Self::Everything, _) => true,
            (Self::Namespace(name), Some(key)) => key.namespace == *name,
            (Self::Service(wanted), Some(key)) => key == wanted,
            (_, None) => false,
        }
    }
}

/// The place that was asked for is no longer kept: read a snapshot and watch from its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes up to index {oldest} are no longer kept; start again from a snapshot")]
pub struct Compacted {
    /// The oldest place from which one can still resume.
    pub oldest: u64,
}

/// Why a watcher ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatcherLost {
    /// It was too slow, or the state was replaced by a snapshot.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The node is stopping.
    #[error("the node is stopping")]
    Closed,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Every change of the scope after this index is in the ring.
    complete_after: u64,
    /// How often the state was replaced; every watcher's place ends with it, also where the new
    /// state is at an index at or before that place.
    replaced: u64,
    /// The history that the indexes count in; of the ring of everything alone.
    history: u64,
}

impl Ring {
    fn push(&mut self, event: Arc<Event>, len_max: usize) {
        // A scope that was opened while the event was on its way has it already.
        if self.events.back().is_some_and(|last| last.index >= event.index) {
            return;
        }
        if self.events.len() == len_max
            && let Some(oldest) = self.events.pop_front()
        {
            self.complete_after = oldest.index;
        }
        self.events.push_back(event);
    }

    fn reset(&mut self, index: u64) {
        self.events.clear();
        self.complete_after = index;
    }

    fn begin_anew(&mut self, index: u64) {
        self.reset(index);
        self.replaced += 1;
    }
}

/// One watched scope: its newest changes and the notifier that tells of the next.
#[derive(Debug)]
struct Watched {
    ring: RwLock<Ring>,
    notifier: watch::Sender<u64>,
}

/// Keeps the newest changes and wakes those who wait for them.
#[derive(Debug)]
pub struct WatchHub {
    everything: Arc<Watched>,
    scopes: DashMap<WatchScope, Arc<Watched>>,
    /// Every change up to this index stands in the ring of every scope that is watched.
    published: watch::Sender<u64>,
}

impl WatchHub {
    pub(super) fn new() -> Self {
        let everything = Watched { ring: RwLock::default(), notifier: watch::Sender::new(0) };
        Self {
            everything: Arc::new(everything),
            scopes: DashMap::new(),
            published: watch::Sender::new(0),
        }
    }

    /// Takes the changes that led to the state at `index`; there may be none, for not every index
    /// has a change.
    pub(super) fn publish(&self, events: &[Event], index: u64) {
        self.publish_events(events);
        self.published.send_replace(index);
    }

    fn publish_events(&self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        let told = events.iter().filter(|event| !faults::drop_watch_event(event.index));
        let events: Vec<Arc<Event>> = told.cloned().map(Arc::new).collect();
        {
            let mut ring = self.everything.ring.write();
            for event in &events {
                ring.push(Arc::clone(event), RING_LEN_MAX);
            }
        }
        self.everything.notifier.send_replace(last.index);
        if self.scopes.is_empty() {
            return;
        }
        for event in &events {
            let Some(key) = event.kind.service() else { continue };
            self.publish_to(&WatchScope::Service(key.clone()), event);
            self.publish_to(&WatchScope::Namespace(key.namespace.clone()), event);
        }
    }

    fn publish_to(&self, scope: &WatchScope, event: &Arc<Event>) {
        let Some(watched) = self.scopes.get(scope).map(|watched| Arc::clone(&watched)) else {
            return;
        };
        // The map holds one, this function the other: nobody watches any more.
        let unwatched = |watched: &Arc<Watched>| Arc::strong_count(watched) <= 2;
        if unwatched(&watched) && self.scopes.remove_if(scope, |_, w| unwatched(w)).is_some() {
            return;
        }
        watched.ring.write().push(Arc::clone(event), SCOPE_RING_LEN_MAX);
        watched.notifier.send_replace(event.index);
    }

    pub(super) fn reset(&self, index: u64, history: u64) {
        {
            let mut ring = self.everything.ring.write();
            ring.begin_anew(index);
            ring.history = history;
        }
        self.everything.notifier.send_replace(index);
        for watched in &self.scopes {
            watched.ring.write().begin_anew(index);
            watched.notifier.send_replace(index);
        }
        self.published.send_replace(index);
    }

    /// Follows the index up to which watchers have been given everything: one who takes all there
    /// is after reading it has seen every change up to it, if there were any.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// How many scopes are watched, those of everything aside.
    #[must_use]
    pub fn scopes_len(&self) -> usize {
        self.scopes.len()
    }

    /// Watches from right after `index`; fails if changes since then are gone.
    pub fn subscribe(&self, scope: WatchScope, after: u64) -> Result<Watcher, Compacted> {
        // Locked against the publisher, which pushes here first: no change falls between the copy
        // that a new scope starts with and its own first push.
        let all = self.everything.ring.read();
        let watched = match scope {
            WatchScope::Everything => Arc::clone(&self.everything),
            _ => {
                let entry = self.scopes.entry(scope.clone());
                let new = || Watched { ring: RwLock::default(), notifier: watch::Sender::new(0) };
                let watched = Arc::clone(&entry.or_insert_with(|| Arc::new(new())));
                let mut ring = watched.ring.write();
                let fresh = Arc::strong_count(&watched) == 2 && ring.events.is_empty();
                if fresh || ring.complete_after > after && all.complete_after <= after {
                    ring.reset(all.complete_after);
                    for event in all.events.iter().filter(|event| scope.covers(event)) {
                        ring.push(Arc::clone(event), SCOPE_RING_LEN_MAX);
                    }
                }
                drop(ring);
                watched
            }
        };
        // `all` must not be locked again while it is held: a publisher that waits between the two
        // would keep the second lock out, and with it every other reader, for good.
        let (oldest, replaced) = match scope {
            WatchScope::Everything => (all.complete_after, all.replaced),
            _ => {
                let ring = watched.ring.read();
                (ring.complete_after, ring.replaced)
            }
        };
        if after < oldest {
            return Err(Compacted { oldest });
        }
        let notifier = watched.notifier.subscribe();
        Ok(Watcher { scope, after, replaced, history: all.history, watched, notifier })
    }
}

/// A place in the stream of changes.
#[derive(Debug)]
pub struct Watcher {
    scope: WatchScope,
    after: u64,
    replaced: u64,
    history: u64,
    watched: Arc<Watched>,
    notifier: watch::Receiver<u64>,
}

impl Watcher {
    /// What it watches.
    #[must_use]
    pub fn scope(&self) -> &WatchScope {
        &self.scope
    }

    /// The history that all of its changes are of: it ends with it.
    #[must_use]
    pub fn history(&self) -> u64 {
        self.history
    }

    /// The index of the last change that it was given, or the one it started from.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.after
    }

    /// The changes not seen yet, at most `max`; empty where there are none.
    pub fn take(&mut self, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        let ring = self.watched.ring.read();
        if self.after < ring.complete_after || self.replaced != ring.replaced {
            return Err(Compacted { oldest: ring.complete_after });
        }
        let start = ring.events.partition_point(|event| event.index <= self.after);
        let taken: Vec<_> = ring.events.iter().skip(start).take(max).cloned().collect();
        if let Some(last) = taken.last() {
            self.after = last.index;
        }
        Ok(taken)
    }

    /// Waits for the next changes, at least one and at most `max`. Can be dropped safely: the
    /// watcher's place moves only with what is returned.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Arc<Event>>, WatcherLost> {
        loop {
            self.notifier.mark_unchanged();
            let events = self.take(max)?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.notifier.changed().await.is_err() {
                return Err(WatcherLost::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{EventKind, RemovalCause};

    fn event(service: &str, index: u64) -> Event {
        let key = ServiceKey::new(Name::trusted("default"), Name::trusted(service));
        let key = key.instance(Name::trusted("i"));
        let cause = RemovalCause::Expired;
        Event { index, time_ms: index, kind: EventKind::InstanceRemoved { key, cause } }
    }

    fn service(name: &str) -> WatchScope {
        WatchScope::Service(ServiceKey::new(Name::trusted("default"), Name::trusted(name)))
    }

    fn indices(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.index).collect()
    }

    #[test]
    fn a_watcher_sees_its_own_changes_in_order_and_no_others() {
        let hub = WatchHub::new();
        let mut all = hub.subscribe(WatchScope::Everything, 0).unwrap();
        let mut a = hub.subscribe(service("a"), 0).unwrap();
        hub.publish(&[event("a", 1), event("b", 2), event("a", 3)], 3);
        assert_eq!(indices(&all.take(10).unwrap()), [1, 2, 3]);
        assert_eq!(indices(&a.take(1).unwrap()), [1]);
        assert_eq!(indices(&a.take(10).unwrap()), [3]);
        assert!(!{
            hub.publish(&[event("b", 4)], 4);
            a.notifier.mark_unchanged();
            hub.publish(&[event("b", 5)], 5);
            a.notifier.has_changed().unwrap()
        });
        let mut resumed = hub.subscribe(service("a"), 1).unwrap();
        assert_eq!(indices(&resumed.take(10).unwrap()), [3]);
        let mut new_scope = hub.subscribe(service("b"), 2).unwrap();
        assert_eq!(indices(&new_scope.take(10).unwrap()), [4, 5]);
    }

    /// Known failure: subscribing to everything locked the same ring twice, and a change that was
    /// published in between stopped the node for good.
    #[test]
    fn subscribing_while_changes_are_published_never_locks_up() {
        let hub = Arc::new(WatchHub::new());
        let done = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (hub, done) = (Arc::clone(&hub), Arc::clone(&done));
                std::thread::spawn(move || {
                    for index in 0..20_000 {
                        match n {
                            0 => hub.publish(&[event("a", index)], index),
                            1 => drop(hub.subscribe(service("a"), u64::MAX)),
                            _ => drop(hub.subscribe(WatchScope::Everything, u64::MAX)),
                        }
                    }
                    done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                })
            })
            .collect();
        let patience = std::time::Duration::from_secs(60);
        #[allow(clippy::disallowed_methods, reason = "a test measures real time")]
        let started = std::time::Instant::now();
        while done.load(std::sync::atomic::Ordering::Relaxed) < 4 {
            assert!(started.elapsed() < patience, "a thread is locked out");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Counts how often a waiting task is woken.
    #[derive(Default)]
    struct Wakes(std::sync::atomic::AtomicU32);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_waiting_watcher_wakes_for_its_own_service_and_for_no_other() {
        use std::task::{Context, Poll};
        let hub = WatchHub::new();
        let mut own = hub.subscribe(service("own"), 0).unwrap();
        let mut other = hub.subscribe(service("other"), 0).unwrap();
        let wakes = Arc::new(Wakes::default());
        let waker = Arc::clone(&wakes).into();
        let mut context = Context::from_waker(&waker);
        let mut next = std::pin::pin!(own.next(10));
        assert!(next.as_mut().poll(&mut context).is_pending());
        for index in 1..=1_000 {
            hub.publish(&[event("other", index)], index);
        }
        assert_eq!(other.take(2_000).unwrap().len(), 1_000);
        assert_eq!(wakes.0.load(std::sync::atomic::Ordering::Relaxed), 0);
        hub.publish(&[event("own", 1_001)], 1_001);
        assert_eq!(wakes.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        match next.as_mut().poll(&mut context) {
            Poll::Ready(Ok(events)) => assert_eq!(indices(&events), [1_001]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_noise_of_others_never_pushes_a_watcher_off() {
        let hub = WatchHub::new();
        let mut quiet = hub.subscribe(service("quiet"), 0).unwrap();
        let mut slow = hub.subscribe(WatchScope::Everything, 0).unwrap();
        let len = RING_LEN_MAX as u64 + 10;
        for index in 1..=len {
            hub.publish(&[event("noisy", index)], index);
        }
        hub.publish(&[event("quiet", len + 1)], len + 1);
        assert_eq!(indices(&quiet.take(10).unwrap()), [len + 1]);
        assert_eq!(slow.take(10), Err(Compacted { oldest: 11 }));
        assert_eq!(hub.subscribe(WatchScope::Everything, 5).unwrap_err().oldest, 11);
    }

    #[test]
    fn a_scope_that_nobody_watches_is_let_go() {
        let hub = WatchHub::new();
        drop(hub.subscribe(service("a"), 0).unwrap());
        assert_eq!(hub.scopes_len(), 1);
        hub.publish(&[event("a", 1)], 1);
        assert_eq!(hub.scopes_len(), 0);
        let mut again = hub.subscribe(service("a"), 0).unwrap();
        assert_eq!(indices(&again.take(10).unwrap()), [1]);
    }

    #[test]
    fn an_installed_snapshot_ends_every_place() {
        let hub = WatchHub::new();
        let mut all = hub.subscribe(WatchScope::Everything, 0).unwrap();
        let mut a = hub.subscribe(service("a"), 0).unwrap();
        hub.reset(100, 0);
        assert_eq!(all.take(1), Err(Compacted { oldest: 100 }));
        assert_eq!(a.take(1), Err(Compacted { oldest: 100 }));
    }

    #[test]
    fn a_state_that_went_back_ends_every_place_too() {
        let hub = WatchHub::new();
        hub.publish(&[event("a", 90)], 90);
        let mut all = hub.subscribe(WatchScope::Everything, 90).unwrap();
        let mut a = hub.subscribe(service("a"), 90).unwrap();
        hub.reset(60, 0);
        assert_eq!(all.take(1), Err(Compacted { oldest: 60 }));
        assert_eq!(a.take(1), Err(Compacted { oldest: 60 }));
        let mut again = hub.subscribe(service("a"), 60).unwrap();
        hub.publish(&[event("a", 61)], 61);
        assert_eq!(indices(&again.take(10).unwrap()), [61]);
    }
}
