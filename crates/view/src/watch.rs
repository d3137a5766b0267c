//! Delivers changes to watchers without gaps, or reports that there is a gap.
//!
//! Each watched scope has a ring with its newest changes. A watcher has a position in the ring and no queue
//! of its own, so it uses no memory while it is slow. If the ring overtakes it, it gets an error and must
//! start again from a snapshot. A watcher of one service uses the ring of that service. Changes of other
//! services neither wake it nor overtake it.

use std::collections::VecDeque;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::faults;
use maxine_state::{Event, History, Name, ServiceKey};

/// Maximum number of changes that are kept for watchers of everything, and for resuming.
const RING_LEN_MAX: usize = 65_536;
/// Maximum number of bytes that these changes hold.
const RING_BYTES_MAX: u64 = 128 * 1_024 * 1_024;
/// Maximum number of changes that are kept for watchers of one namespace or service.
const SCOPE_RING_LEN_MAX: usize = 4_096;
/// Maximum number of bytes that the changes of one namespace or service hold.
const SCOPE_RING_BYTES_MAX: u64 = 4 * 1_024 * 1_024;
/// Number of bytes that the changes of one namespace or service may always hold, however many are watched.
const SCOPE_RING_BYTES_MIN: u64 = 16 * 1_024;
/// The bytes that all watched namespaces and services share, until there are so many that each has the minimum.
const SCOPES_BYTES: u64 = 64 * 1_024 * 1_024;

/// The limits of a ring: number of changes and number of bytes.
#[derive(Clone, Copy)]
struct Bounds {
    len: usize,
    bytes: u64,
}

const OF_EVERYTHING: Bounds = Bounds { len: RING_LEN_MAX, bytes: RING_BYTES_MAX };

/// The limits of the ring of each scope if `scopes` scopes are watched.
fn of_scopes(scopes: usize) -> Bounds {
    let share = SCOPES_BYTES / (scopes as u64).max(1);
    Bounds {
        len: SCOPE_RING_LEN_MAX,
        bytes: share.clamp(SCOPE_RING_BYTES_MIN, SCOPE_RING_BYTES_MAX),
    }
}

/// The changes that a watcher wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WatchScope {
    /// Every change.
    Everything,
    /// The changes of the services in one namespace.
    Namespace(Name),
    /// The changes of one service.
    Service(ServiceKey),
    /// The changes of the services with this name in whatever case. The key has it in lower case:
    /// [`Self::ignoring_case`] makes it.
    IgnoringCase(ServiceKey),
}

impl WatchScope {
    /// The changes of the services with this name in whatever case.
    #[must_use]
    pub fn ignoring_case(key: &ServiceKey) -> Self {
        let lower = Name::trusted(&key.service.as_str().to_lowercase());
        Self::IgnoringCase(ServiceKey::new(key.namespace.clone(), lower))
    }

    fn covers(&self, event: &Event) -> bool {
        match (self, event.kind.service()) {
            (Self::Everything, _) => true,
            (Self::Namespace(name), Some(key)) => key.namespace == *name,
            (Self::Service(wanted), Some(key)) => key == wanted,
            (Self::IgnoringCase(_), Some(key)) => *self == Self::ignoring_case(key),
            (_, None) => false,
        }
    }
}

/// The requested position is no longer in the ring. The watcher must read a snapshot and watch from its
/// index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changes up to index {oldest} are no longer kept; start again from a snapshot")]
pub struct Compacted {
    /// The oldest position from which a watcher can resume.
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
    /// Number of bytes that the changes hold.
    bytes: u64,
    /// The ring has every change of the scope after this index.
    complete_after: u64,
    /// How often the state was replaced. Every replacement ends all watchers, even if the new state has the
    /// same or a lower index.
    replaced: u64,
    /// The history that the indexes belong to. Only the ring of everything has it.
    history: Option<History>,
}

impl Ring {
    /// Adds a change. It is always kept; if there is no room for it, the oldest changes are removed.
    fn push(&mut self, event: Arc<Event>, bounds: Bounds) {
        // A scope that was opened while the event was being published has it already.
        if self.events.back().is_some_and(|last| last.index >= event.index) {
            return;
        }
        let bytes = event.kind.held_len();
        while self.events.len() >= bounds.len || self.bytes + bytes > bounds.bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.kind.held_len();
            self.complete_after = oldest.index;
        }
        self.bytes += bytes;
        self.events.push_back(event);
    }

    fn reset(&mut self, index: u64) {
        self.events.clear();
        self.bytes = 0;
        self.complete_after = index;
    }

    fn begin_anew(&mut self, index: u64) {
        self.reset(index);
        self.replaced += 1;
    }
}

/// A watched scope: the ring of its newest changes, and the notifier that wakes its watchers.
#[derive(Debug)]
struct Watched {
    ring: RwLock<Ring>,
    notifier: watch::Sender<u64>,
}

/// Keeps the newest changes and wakes watchers.
#[derive(Debug)]
pub struct WatchHub {
    everything: Arc<Watched>,
    scopes: DashMap<WatchScope, Arc<Watched>>,
    /// Up to this index, every change is in the ring of every watched scope.
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

    /// Adds the changes that led to the state at `index`. There may be none, because not every index has a
    /// change.
    pub(super) fn publish(&self, events: &[Event], index: u64) {
        self.publish_events(events);
        self.published.send_replace(index);
    }

    fn publish_events(&self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        let kept = events.iter().filter(|event| !faults::drop_watch_event(event.index));
        let events: Vec<Arc<Event>> = kept.cloned().map(Arc::new).collect();
        {
            let mut ring = self.everything.ring.write();
            for event in &events {
                ring.push(Arc::clone(event), OF_EVERYTHING);
            }
        }
        self.everything.notifier.send_replace(last.index);
        if self.scopes.is_empty() {
            return;
        }
        let bounds = of_scopes(self.scopes.len());
        for event in &events {
            let Some(key) = event.kind.service() else { continue };
            self.publish_to(&WatchScope::Service(key.clone()), event, bounds);
            self.publish_to(&WatchScope::ignoring_case(key), event, bounds);
            self.publish_to(&WatchScope::Namespace(key.namespace.clone()), event, bounds);
        }
    }

    fn publish_to(&self, scope: &WatchScope, event: &Arc<Event>, bounds: Bounds) {
        let Some(watched) = self.scopes.get(scope).map(|watched| Arc::clone(&watched)) else {
            return;
        };
        // One reference is in the map and one in this function, so there are no watchers left.
        let unwatched = |watched: &Arc<Watched>| Arc::strong_count(watched) <= 2;
        if unwatched(&watched) && self.scopes.remove_if(scope, |_, w| unwatched(w)).is_some() {
            return;
        }
        watched.ring.write().push(Arc::clone(event), bounds);
        watched.notifier.send_replace(event.index);
    }

    /// Begins the first history. The earlier changes, with which the cluster was founded, belong to it too.
    pub(super) fn begin(&self, history: Option<History>) {
        self.everything.ring.write().history = history;
    }

    pub(super) fn reset(&self, index: u64, history: Option<History>) {
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

    /// Follows the index up to which the rings are complete. A watcher that reads this index, and then takes
    /// everything from its ring, has seen every change up to the index.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// The number of watched scopes, without the scope of everything.
    #[must_use]
    pub fn scopes_len(&self) -> usize {
        self.scopes.len()
    }

    /// Watches from right after `index`. Fails if changes since then are no longer kept.
    pub fn subscribe(&self, scope: WatchScope, after: u64) -> Result<Watcher, Compacted> {
        // This lock is held so that the publisher, which pushes to `all` first, cannot add a change between
        // the copy for a new scope and that scope's first push.
        let all = self.everything.ring.read();
        let watched = match scope {
            WatchScope::Everything => Arc::clone(&self.everything),
            _ => {
                let entry = self.scopes.entry(scope.clone());
                let new = || Watched { ring: RwLock::default(), notifier: watch::Sender::new(0) };
                let watched = Arc::clone(&entry.or_insert_with(|| Arc::new(new())));
                let bounds = of_scopes(self.scopes.len());
                let mut ring = watched.ring.write();
                let fresh = Arc::strong_count(&watched) == 2 && ring.events.is_empty();
                if fresh || ring.complete_after > after && all.complete_after <= after {
                    // Changes before the position are not looked at: there may be tens of thousands of them, and the
                    // publisher waits for this lock.
                    ring.reset(after.max(all.complete_after));
                    let from = all.events.partition_point(|event| event.index <= after);
                    for event in all.events.range(from..).filter(|event| scope.covers(event)) {
                        ring.push(Arc::clone(event), bounds);
                    }
                }
                drop(ring);
                watched
            }
        };
        // The lock of `all` must not be taken a second time while it is held. A publisher that waits between
        // the two would block the second lock, and with it every other reader, forever.
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

/// The position of a watcher in the changes of its scope.
#[derive(Debug)]
pub struct Watcher {
    scope: WatchScope,
    after: u64,
    replaced: u64,
    history: Option<History>,
    watched: Arc<Watched>,
    notifier: watch::Receiver<u64>,
}

impl Watcher {
    /// The watched scope.
    #[must_use]
    pub fn scope(&self) -> &WatchScope {
        &self.scope
    }

    /// The history of all its changes; `None` before the cluster is founded. The watcher ends when the history
    /// ends.
    #[must_use]
    pub fn history(&self) -> Option<History> {
        self.history
    }

    /// The index of the last change that it returned, or of its start.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.after
    }

    /// The next changes, at most `max`; empty if there are none.
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

    /// Waits for the next changes and returns at least one and at most `max`. The future can be dropped
    /// safely, because the position moves only when changes are returned.
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

    /// A ring is bounded by what its changes hold, and keeps the newest one in any case.
    #[test]
    fn large_changes_leave_fewer_places_in_a_ring() {
        let each = event("a", 1).kind.held_len();
        let mut ring = Ring::default();
        for index in 1..=9 {
            ring.push(Arc::new(event("a", index)), Bounds { len: 8, bytes: 3 * each });
        }
        assert_eq!((indices(ring.events.make_contiguous()), ring.bytes), (vec![7, 8, 9], 3 * each));
        assert_eq!(ring.complete_after, 6);
        ring.push(Arc::new(event("a", 10)), Bounds { len: 8, bytes: 1 });
        assert_eq!((indices(ring.events.make_contiguous()), ring.complete_after), (vec![10], 9));
        ring.reset(20);
        assert_eq!(ring.bytes, 0);
        assert_eq!(of_scopes(1).bytes, SCOPE_RING_BYTES_MAX);
        assert_eq!(of_scopes(64).bytes, 1_024 * 1_024);
        assert_eq!(of_scopes(1_000_000).bytes, SCOPE_RING_BYTES_MIN);
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

    #[test]
    fn a_watcher_that_ignores_case_sees_the_changes_of_every_spelling() {
        let hub = WatchHub::new();
        let key = ServiceKey::new(Name::trusted("default"), Name::trusted("Web"));
        hub.publish(&[event("web", 1), event("b", 2), event("WEB", 3)], 3);
        let mut watcher = hub.subscribe(WatchScope::ignoring_case(&key), 0).unwrap();
        assert_eq!(indices(&watcher.take(10).unwrap()), [1, 3]);
        hub.publish(&[event("Web", 4), event("b", 5), event("wEb", 6)], 6);
        assert_eq!(indices(&watcher.take(10).unwrap()), [4, 6]);
    }

    /// Subscribing to everything must not lock the same ring twice: a change that is published between the two
    /// locks would stop the node forever.
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
        hub.reset(100, None);
        assert_eq!(all.take(1), Err(Compacted { oldest: 100 }));
        assert_eq!(a.take(1), Err(Compacted { oldest: 100 }));
    }

    #[test]
    fn a_state_that_went_back_ends_every_place_too() {
        let hub = WatchHub::new();
        hub.publish(&[event("a", 90)], 90);
        let mut all = hub.subscribe(WatchScope::Everything, 90).unwrap();
        let mut a = hub.subscribe(service("a"), 90).unwrap();
        hub.reset(60, None);
        assert_eq!(all.take(1), Err(Compacted { oldest: 60 }));
        assert_eq!(a.take(1), Err(Compacted { oldest: 60 }));
        let mut again = hub.subscribe(service("a"), 60).unwrap();
        hub.publish(&[event("a", 61)], 61);
        assert_eq!(indices(&again.take(10).unwrap()), [61]);
    }
}
