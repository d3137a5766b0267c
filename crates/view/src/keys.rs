//! Wakes readers that wait for a change of keys or of lock sessions.
//!
//! Each reader has an entry for its key or prefix. A change looks up only the entries that it concerns, so
//! readers of other keys are not woken and cost nothing.
//!
//! The index of a prefix is the greatest index of all keys with that prefix. To compute it, all these keys must be read.
//! So all readers of a prefix share one index: the first reader computes it, and each change raises it. If each reader
//! computed it, the cost of one write would be the number of readers times the number of keys.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::View;
use maxine_state::{ControlState, Event, EventKind, KvChange, KvKey, LockSessionId};

/// What a reader of keys or lock sessions depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvScope {
    /// One key, whether it exists or not.
    Key(KvKey),
    /// All keys that begin with this text.
    Prefix(KvKey),
    /// One lock session, whether it exists or not.
    Session(LockSessionId),
    /// All lock sessions.
    Sessions,
}

impl KvScope {
    /// The index of the last change in `state`. A deletion counts. For a prefix, this reads all keys that begin with it.
    fn index(&self, state: &ControlState) -> u64 {
        let kv = state.kv();
        match self {
            Self::Key(key) => kv.index_of(key.as_str()),
            Self::Prefix(prefix) => kv.index_below(prefix.as_str()),
            Self::Session(id) => {
                kv.session(*id).map_or(kv.sessions_index(), |session| session.create_index)
            }
            Self::Sessions => kv.sessions_index(),
        }
    }
}

/// What the readers of one key or prefix share.
#[derive(Debug, Default)]
struct Entry {
    changes: watch::Sender<()>,
    index: Mutex<SharedIndex>,
}

/// The index of a prefix.
#[derive(Debug, Default)]
struct SharedIndex {
    /// The index of the newest change since the entry exists, or that of the last computation.
    index: u64,
    /// Whether the older changes are in `index`.
    is_complete: bool,
    /// How often the state was replaced. An index that was computed from a replaced state is not kept.
    replaced: u64,
}

impl Entry {
    /// A change at this index concerns the entry.
    fn changed(&self, index: u64) {
        self.raise(index);
        self.changes.send_replace(());
    }

    fn raise(&self, index: u64) {
        let mut shared = self.index.lock();
        shared.index = shared.index.max(index);
    }

    fn replaced(&self) {
        let mut shared = self.index.lock();
        *shared = SharedIndex { replaced: shared.replaced + 1, ..SharedIndex::default() };
        drop(shared);
        self.changes.send_replace(());
    }
}

type Waiting = BTreeMap<KvKey, Arc<Entry>>;

#[derive(Debug, Default)]
struct Entries {
    keys: Waiting,
    prefixes: Waiting,
    /// The index up to which deletions were forgotten, as far as the entries know it.
    forgotten_index: u64,
    /// How many prefixes of each length there are. A changed key is compared with prefixes of these lengths only.
    lengths: BTreeMap<usize, usize>,
}

/// The readers that wait.
#[derive(Debug)]
pub(super) struct KvHub {
    entries: RwLock<Entries>,
    sessions: Arc<Entry>,
}

/// A reader of keys or lock sessions. Its entry is removed with the last reader.
#[derive(Debug)]
pub struct KvReader<'a> {
    view: &'a View,
    scope: &'a KvScope,
    entry: Arc<Entry>,
    changes: watch::Receiver<()>,
}

impl KvReader<'_> {
    /// What it reads.
    #[must_use]
    pub fn scope(&self) -> &KvScope {
        self.scope
    }

    /// Whether [`Self::index`] costs nothing. Otherwise it reads all keys that begin with the prefix.
    #[must_use]
    pub fn has_index(&self) -> bool {
        !matches!(self.scope, KvScope::Prefix(_)) || self.entry.index.lock().is_complete
    }

    /// The index of the last change. A deletion counts. A state that is taken afterwards includes that change.
    #[must_use]
    pub fn index(&self) -> u64 {
        let KvScope::Prefix(_) = self.scope else {
            return self.scope.index(&self.view.snapshot().state);
        };
        loop {
            let replaced = {
                let shared = self.entry.index.lock();
                if shared.is_complete {
                    return shared.index;
                }
                shared.replaced
            };
            // The entry exists already, so a change after this state raises its index.
            let computed = self.scope.index(&self.view.snapshot().state);
            let mut shared = self.entry.index.lock();
            if shared.replaced == replaced {
                shared.index = shared.index.max(computed);
                shared.is_complete = true;
            }
        }
    }

    /// Waits until the index is above `after`, or until the state belongs to another history and the indexes can no
    /// longer be compared. The future can be dropped safely.
    pub async fn changed_after(&mut self, after: u64) {
        let history = self.view.snapshot().state.history();
        loop {
            self.changes.mark_unchanged();
            let is_replaced = self.view.snapshot().state.history() != history;
            if is_replaced || self.index() > after || self.changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for KvReader<'_> {
    fn drop(&mut self) {
        let mut entries = self.view.kv_hub().entries.write();
        // The only receiver left is the one of this reader.
        if self.entry.changes.receiver_count() > 1 {
            return;
        }
        match self.scope {
            KvScope::Key(key) => {
                entries.keys.remove(key);
            }
            KvScope::Prefix(prefix) => entries.remove_prefix(prefix),
            KvScope::Session(_) | KvScope::Sessions => {}
        }
    }
}

impl Entries {
    fn remove_prefix(&mut self, prefix: &KvKey) {
        if self.prefixes.remove(prefix).is_none() {
            return;
        }
        let len = prefix.as_str().len();
        if let Some(count) = self.lengths.get_mut(&len) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&len);
            }
        }
    }

    fn add_prefix(&mut self, prefix: &KvKey) -> Arc<Entry> {
        if !self.prefixes.contains_key(prefix) {
            *self.lengths.entry(prefix.as_str().len()).or_default() += 1;
        }
        Arc::clone(self.prefixes.entry(prefix.clone()).or_default())
    }

    fn wake(&self, change: &KvChange, index: u64) {
        let text = change.key().as_str();
        if let KvChange::Key(key) = change
            && let Some(entry) = self.keys.get(key)
        {
            entry.changed(index);
        }
        if let KvChange::Tree(_) = change {
            wake_below(&self.keys, text, index);
            // Also a prefix without a deleted key: to find out whether it had one costs more than a needless answer.
            wake_below(&self.prefixes, text, index);
        }
        for len in self.lengths.range(..=text.len()).map(|(len, _)| *len) {
            if let Some(entry) = text.get(..len).and_then(|prefix| self.prefixes.get(prefix)) {
                entry.changed(index);
            }
        }
    }
}

/// Wakes every entry that begins with `prefix`.
fn wake_below(entries: &Waiting, prefix: &str, index: u64) {
    let from = entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    for (_, entry) in from.take_while(|(key, _)| key.as_str().starts_with(prefix)) {
        entry.changed(index);
    }
}

impl KvHub {
    pub(super) fn new() -> Self {
        Self { entries: RwLock::default(), sessions: Arc::default() }
    }

    fn read<'a>(view: &'a View, scope: &'a KvScope) -> KvReader<'a> {
        let hub = view.kv_hub();
        let mut entries = hub.entries.write();
        let entry = match scope {
            KvScope::Key(key) => Arc::clone(entries.keys.entry(key.clone()).or_default()),
            KvScope::Prefix(prefix) => entries.add_prefix(prefix),
            KvScope::Session(_) | KvScope::Sessions => Arc::clone(&hub.sessions),
        };
        // The receiver is made while the lock is held, so that nobody removes the entry before.
        let changes = entry.changes.subscribe();
        drop(entries);
        KvReader { view, scope, entry, changes }
    }

    /// Wakes the readers that these changes concern. The state with the changes is published before.
    pub(super) fn publish(&self, state: &ControlState, events: &[Event]) {
        for event in events {
            let changes = event.kind.kv_changes();
            if !changes.is_empty() {
                self.note_forgotten(state.kv().forgotten_index());
                let entries = self.entries.read();
                changes.iter().for_each(|change| entries.wake(change, event.index));
            }
            if let EventKind::LockSessionCreated { .. } | EventKind::LockSessionEnded { .. } =
                event.kind
            {
                self.sessions.changes.send_replace(());
            }
        }
    }

    /// Every prefix has at least the index up to which deletions were forgotten.
    fn note_forgotten(&self, index: u64) {
        if self.entries.read().forgotten_index == index {
            return;
        }
        let mut entries = self.entries.write();
        entries.forgotten_index = index;
        entries.prefixes.values().for_each(|entry| entry.raise(index));
    }

    /// Wakes every reader, after the state was replaced.
    pub(super) fn reset(&self) {
        let entries = self.entries.read();
        for entry in entries.keys.values().chain(entries.prefixes.values()) {
            entry.replaced();
        }
        self.sessions.changes.send_replace(());
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let entries = self.entries.read();
        entries.keys.len() + entries.prefixes.len() + entries.lengths.len()
    }
}

impl View {
    /// A reader of keys or lock sessions. It costs nothing until it is asked for an index.
    #[must_use]
    pub fn kv_reader<'a>(&'a self, scope: &'a KvScope) -> KvReader<'a> {
        KvHub::read(self, scope)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use maxine_clock::Clock;
    use maxine_state::{Actor, Command, KvAction, KvContent, KvOp, Proposal, RequestId};

    struct World {
        state: ControlState,
        view: Arc<View>,
        requests: u128,
    }

    impl World {
        fn new() -> Self {
            let view = View::new(Clock::system());
            let mut world = Self { state: ControlState::default(), view, requests: 0 };
            world.apply(Command::RaiseStateVersion { to: 3 });
            world
        }

        fn apply(&mut self, command: Command) {
            self.requests += 1;
            let proposal = Proposal {
                request_id: RequestId(self.requests),
                proposed_at_ms: 0,
                fence: None,
                actor: Actor::system("test"),
                command,
            };
            let mut events = Vec::new();
            self.state.apply(&proposal, &mut events);
            self.view.publish(&self.state, &events);
        }

        fn change(&mut self, key: &str, action: KvAction) {
            let key = KvKey::parse_prefix(key).unwrap();
            self.apply(Command::ChangeKv { ops: vec![KvOp { key, action }] });
        }

        fn put(&mut self, key: &str) {
            let content = KvContent { value: b"v".as_slice().into(), flags: self.requests as u64 };
            self.change(key, KvAction::Put { content, expected: None });
        }
    }

    /// Whether a reader that waits from now on is woken by `change`.
    fn wakes(world: &mut World, scope: &KvScope, change: impl FnOnce(&mut World)) -> bool {
        let view = Arc::clone(&world.view);
        let mut reader = view.kv_reader(scope);
        let mut waiting = pin!(reader.changed_after(world.state.index()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        change(world);
        waiting.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn a_reader_wakes_for_its_own_keys_and_for_no_others() {
        let mut world = World::new();
        let key = |text| KvScope::Key(KvKey::parse(text).unwrap());
        let prefix = |text| KvScope::Prefix(KvKey::parse_prefix(text).unwrap());
        world.put("app/a");
        world.put("app/b");
        for (scope, own, foreign) in [
            (key("app/a"), "app/a", "app/ab"),
            (key("app/none"), "app/none", "app/a"),
            (prefix("app/"), "app/c", "apq"),
            (prefix(""), "x", ""),
            (prefix("app/\u{e9}"), "app/\u{e9}t", "app/\u{e8}"),
        ] {
            if !foreign.is_empty() {
                assert!(!wakes(&mut world, &scope, |world| world.put(foreign)), "{scope:?}");
            }
            assert!(wakes(&mut world, &scope, |world| world.put(own)), "{scope:?}");
            let delete = |world: &mut World| world.change(own, KvAction::Delete { expected: None });
            assert!(wakes(&mut world, &scope, delete), "{scope:?}: a deletion counts");
        }
        let tree = |world: &mut World| world.change("ap", KvAction::DeleteTree);
        world.put("app/b");
        assert!(wakes(&mut world, &prefix("app/"), tree));
        world.put("app/b");
        assert!(wakes(&mut world, &key("app/b"), tree));
        world.put("app/b");
        assert!(wakes(&mut world, &prefix("a"), tree));
        world.put("app/b");
        assert!(!wakes(&mut world, &key("b"), tree));
        assert_eq!(world.view.kv_hub().len(), 0, "nobody waits any more");
    }

    #[test]
    fn the_readers_of_a_prefix_share_its_index_and_each_change_keeps_it_right() {
        let mut world = World::new();
        let scope = |text| KvScope::Prefix(KvKey::parse_prefix(text).unwrap());
        let (all, app, deep) = (scope(""), scope("app/"), scope("app/deep/"));
        world.put("app/a");
        let view = Arc::clone(&world.view);
        let readers = [view.kv_reader(&all), view.kv_reader(&app), view.kv_reader(&deep)];
        assert!(readers.iter().all(|reader| !reader.has_index()));
        let check = |world: &World| {
            for reader in &readers {
                let expected = reader.scope.index(&world.state);
                assert_eq!(reader.index(), expected, "{:?}", reader.scope);
                assert!(reader.has_index());
            }
        };
        check(&world);
        for key in ["app/deep/x", "other", "app/b", "app/deep/x", "zz"] {
            world.put(key);
            check(&world);
            world.change(key, KvAction::Delete { expected: None });
            check(&world);
        }
        world.put("app/deep/y");
        world.change("app/d", KvAction::DeleteTree);
        check(&world);
        // Enough deletions for old ones to be forgotten.
        for _ in 0..=maxine_state::limits::KV_GONE_MAX / 64 {
            let ops = |action: fn(usize) -> KvAction| {
                let base = world.requests;
                let op = |at| KvOp {
                    key: KvKey::parse(&format!("gone/{base}/{at}")).unwrap(),
                    action: action(at),
                };
                (0..64).map(op).collect::<Vec<_>>()
            };
            let put = |_| KvAction::Put {
                content: KvContent { value: b"v".as_slice().into(), flags: 0 },
                expected: None,
            };
            let (puts, deletes) = (ops(put), ops(|_| KvAction::Delete { expected: None }));
            world.apply(Command::ChangeKv { ops: puts });
            world.apply(Command::ChangeKv { ops: deletes });
        }
        assert!(world.state.kv().forgotten_index() > 0);
        check(&world);
        // Another state takes its place.
        world.state = ControlState::default();
        world.apply(Command::RaiseStateVersion { to: 3 });
        world.view.reset(&world.state);
        check(&world);
    }
}
