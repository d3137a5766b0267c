//! Wakes readers that wait for a change of keys or of lock sessions.
//!
//! Each waiting reader has an entry for its key or prefix. A change looks up only the entries that it concerns, so
//! readers of other keys are not woken and cost nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;
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
    #[must_use]
    pub fn index(&self, state: &ControlState) -> u64 {
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

type Waiting = BTreeMap<KvKey, Arc<watch::Sender<()>>>;

#[derive(Debug, Default)]
struct Entries {
    keys: Waiting,
    prefixes: Waiting,
    /// How many prefixes of each length there are. A changed key is compared with prefixes of these lengths only.
    lengths: BTreeMap<usize, usize>,
}

/// The readers that wait.
#[derive(Debug)]
pub(super) struct KvHub {
    entries: RwLock<Entries>,
    sessions: Arc<watch::Sender<()>>,
}

/// A place of a waiting reader. Its entry is removed with the last reader.
struct Waiter<'a> {
    hub: &'a KvHub,
    scope: &'a KvScope,
    sender: Arc<watch::Sender<()>>,
    changes: watch::Receiver<()>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut entries = self.hub.entries.write();
        // The only receiver left is the one of this waiter.
        if self.sender.receiver_count() > 1 {
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

    fn add_prefix(&mut self, prefix: &KvKey) -> Arc<watch::Sender<()>> {
        if !self.prefixes.contains_key(prefix) {
            *self.lengths.entry(prefix.as_str().len()).or_default() += 1;
        }
        Arc::clone(self.prefixes.entry(prefix.clone()).or_default())
    }

    fn wake(&self, change: &KvChange) {
        let text = change.key().as_str();
        if let KvChange::Key(key) = change
            && let Some(sender) = self.keys.get(key)
        {
            sender.send_replace(());
        }
        if let KvChange::Tree(_) = change {
            wake_below(&self.keys, text);
            wake_below(&self.prefixes, text);
        }
        for len in self.lengths.range(..=text.len()).map(|(len, _)| *len) {
            if let Some(sender) = text.get(..len).and_then(|prefix| self.prefixes.get(prefix)) {
                sender.send_replace(());
            }
        }
    }
}

/// Wakes every entry that begins with `prefix`.
fn wake_below(entries: &Waiting, prefix: &str) {
    let from = entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    for (_, sender) in from.take_while(|(key, _)| key.as_str().starts_with(prefix)) {
        sender.send_replace(());
    }
}

impl KvHub {
    pub(super) fn new() -> Self {
        Self { entries: RwLock::default(), sessions: Arc::new(watch::Sender::new(())) }
    }

    fn wait<'a>(&'a self, scope: &'a KvScope) -> Waiter<'a> {
        let mut entries = self.entries.write();
        let sender = match scope {
            KvScope::Key(key) => Arc::clone(entries.keys.entry(key.clone()).or_default()),
            KvScope::Prefix(prefix) => entries.add_prefix(prefix),
            KvScope::Session(_) | KvScope::Sessions => Arc::clone(&self.sessions),
        };
        // The receiver is made while the lock is held, so that nobody removes the entry before.
        let changes = sender.subscribe();
        drop(entries);
        Waiter { hub: self, scope, sender, changes }
    }

    /// Wakes the readers that these changes concern. The state with the changes is published before.
    pub(super) fn publish(&self, events: &[Event]) {
        for event in events {
            let changes = event.kind.kv_changes();
            if !changes.is_empty() {
                let entries = self.entries.read();
                changes.iter().for_each(|change| entries.wake(change));
            }
            if let EventKind::LockSessionCreated { .. } | EventKind::LockSessionEnded { .. } =
                event.kind
            {
                self.sessions.send_replace(());
            }
        }
    }

    /// Wakes every reader, after the state was replaced.
    pub(super) fn reset(&self) {
        let entries = self.entries.read();
        for sender in entries.keys.values().chain(entries.prefixes.values()) {
            sender.send_replace(());
        }
        self.sessions.send_replace(());
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let entries = self.entries.read();
        entries.keys.len() + entries.prefixes.len() + entries.lengths.len()
    }
}

impl View {
    /// Waits until the index of `scope` is above `after`, or until the state belongs to another history and the indexes
    /// can no longer be compared. The future can be dropped safely.
    pub async fn kv_changed_after(&self, scope: &KvScope, after: u64) {
        let history = self.snapshot().state.history();
        let mut waiter = self.kv_hub().wait(scope);
        loop {
            waiter.changes.mark_unchanged();
            let snapshot = self.snapshot();
            let is_replaced = snapshot.state.history() != history;
            if is_replaced || scope.index(&snapshot.state) > after {
                return;
            }
            drop(snapshot);
            if waiter.changes.changed().await.is_err() {
                return;
            }
        }
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
        let mut waiting = pin!(view.kv_changed_after(scope, world.state.index()));
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
}
