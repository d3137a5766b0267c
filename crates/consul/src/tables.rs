//! What the lists of Consul need and the state does not have: the index at which each list last changed, and where the
//! services and checks of the agent are.
//!
//! One task follows the changes of the registry. So thousands of readers that wait for a list are woken only when that
//! list changes, and a change of something else costs them nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::model::Extras;
use maxine_state::{ControlState, EventKind, Instance, InstanceKey, Name, ServiceKey};
use maxine_view::{View, WatchScope, Watcher, WatcherLost};

/// Number of changes that are taken at once. The tables are locked for so long.
const BATCH_LEN: usize = 64;
/// How many times [`BATCH_LEN`] changes a request takes itself, before it waits for the task that follows them.
const BATCHES_OF_A_REQUEST: usize = 4;
/// Number of instances after which the building of new tables lets other tasks run.
const REBUILT_AT_ONCE: usize = 256;
/// How long a request waits for this node's own latest changes to be followed.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(2);

/// A list that changes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// The names of services, and their tags.
    Services,
    /// The registrations.
    Registrations,
    /// The registrations and the states of checks.
    Checks,
}

/// A service of the agent, or one that was registered through the catalog.
#[derive(Clone, Debug)]
struct Known {
    service: ServiceKey,
    /// The ids of its checks in Consul.
    checks: Vec<Name>,
    /// The node that it was registered on through the catalog, in lower case.
    node: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct Content {
    /// By namespace and id. The id of a registration through the catalog contains its node.
    by_id: HashMap<(Name, Name), Known>,
    /// By namespace and the check's id in Consul.
    by_check: HashMap<(Name, Name), InstanceKey>,
    /// What was registered through the catalog, by namespace and node in lower case.
    by_node: HashMap<(Name, Box<str>), BTreeSet<InstanceKey>>,
    /// The tags of the services that have instances.
    tags: BTreeMap<ServiceKey, Tags>,
}

/// The tags of a service. A change of one instance costs as much as the instance has tags.
#[derive(Debug, Default)]
struct Tags {
    /// Each tag, and the number of instances that have it.
    counts: BTreeMap<Arc<str>, usize>,
    /// The tags of each instance.
    of: HashMap<Name, Box<[Arc<str>]>>,
}

/// How far the changes of the view were taken.
#[derive(Debug)]
struct Follower {
    watcher: Watcher,
    /// The index up to which the watcher can have every change.
    published: watch::Receiver<u64>,
    /// The index of the state that the tables were built from.
    built: u64,
}

/// What came of taking changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// There may be more of them.
    More,
    /// All of them are in the tables.
    All,
    /// Changes are missing: the tables must be built again.
    Lost,
}

/// The tables of a node.
#[derive(Debug)]
pub(crate) struct Tables {
    content: RwLock<Content>,
    /// `None` while the tables are built. Changes are taken by one thread at a time, in their order.
    follower: Mutex<Option<Follower>>,
    services: watch::Sender<u64>,
    registrations: watch::Sender<u64>,
    checks: watch::Sender<u64>,
    /// The index up to which every change is in these tables.
    followed: watch::Sender<u64>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        let index = || watch::Sender::new(0);
        Self {
            content: RwLock::default(),
            follower: Mutex::default(),
            services: index(),
            registrations: index(),
            checks: index(),
            followed: index(),
        }
    }

    /// Follows the index at which a list last changed.
    pub(crate) fn changes(&self, list: List) -> watch::Receiver<u64> {
        match list {
            List::Services => self.services.subscribe(),
            List::Registrations => self.registrations.subscribe(),
            List::Checks => self.checks.subscribe(),
        }
    }

    /// The index at which a list last changed.
    pub(crate) fn index(&self, list: List) -> u64 {
        match list {
            List::Services => *self.services.borrow(),
            List::Registrations => *self.registrations.borrow(),
            List::Checks => *self.checks.borrow(),
        }
    }

    /// Waits until the tables have every change that `view` has published. A few changes are taken at once. Gives up after
    /// a short time, in which the tables fall behind only on an overloaded node.
    pub(crate) async fn caught_up(&self, view: &View) -> bool {
        let index = view.index();
        if self.catch_up(index) {
            return true;
        }
        let mut followed = self.followed.subscribe();
        let reached = followed.wait_for(|followed| *followed >= index);
        matches!(tokio::time::timeout(FOLLOW_TIMEOUT, reached).await, Ok(Ok(_)))
    }

    /// Takes the changes up to `index`, if there are few. A wait for the task that follows them would cost more.
    fn catch_up(&self, index: u64) -> bool {
        let has_all = || *self.followed.borrow() >= index;
        for _ in 0..BATCHES_OF_A_REQUEST {
            if has_all() {
                return true;
            }
            if self.take_batch() != Taken::More {
                break;
            }
        }
        has_all()
    }

    /// Takes the next changes, at most [`BATCH_LEN`].
    fn take_batch(&self) -> Taken {
        let mut follower = self.follower.lock();
        let Some(Follower { watcher, published, built }) = follower.as_mut() else {
            return Taken::Lost;
        };
        // It is read before the changes are taken, so that they include everything up to it.
        let reached = (*published.borrow()).max(*built);
        match watcher.take(BATCH_LEN) {
            Ok(events) if events.is_empty() => {
                self.followed.send_if_modified(|followed| {
                    let is_new = *followed != reached;
                    *followed = reached;
                    is_new
                });
                Taken::All
            }
            Ok(events) => {
                self.apply(&events);
                Taken::More
            }
            Err(_) => {
                *follower = None;
                Taken::Lost
            }
        }
    }

    /// The instance with this id in the namespace, if it was registered through this face.
    pub(crate) fn find(&self, namespace: &Name, id: &str) -> Option<InstanceKey> {
        let id = Name::parse("ID", id).ok()?;
        let content = self.content.read();
        let known = content.by_id.get(&(namespace.clone(), id.clone()))?;
        Some(known.service.instance(id))
    }

    /// The instance that has a check with this id in Consul.
    pub(crate) fn find_check(&self, namespace: &Name, id: &str) -> Option<InstanceKey> {
        let id = Name::parse("CheckID", id).ok()?;
        self.content.read().by_check.get(&(namespace.clone(), id)).cloned()
    }

    /// What was registered on a node through the catalog, sorted. The node's name counts without regard to case.
    pub(crate) fn on_node(&self, namespace: &Name, node: &str) -> Vec<InstanceKey> {
        let node = (namespace.clone(), node.to_lowercase().into_boxed_str());
        self.content.read().by_node.get(&node).into_iter().flatten().cloned().collect()
    }

    /// Every instance of the namespace that was registered through this face, sorted.
    pub(crate) fn all(&self, namespace: &Name) -> Vec<InstanceKey> {
        let content = self.content.read();
        let own = content.by_id.iter().filter(|((of, _), _)| of == namespace);
        let mut all: Vec<_> =
            own.map(|((_, id), known)| known.service.instance(id.clone())).collect();
        all.sort();
        all
    }

    /// The services of a namespace with their tags.
    pub(crate) fn service_tags(&self, namespace: &Name) -> BTreeMap<Name, Vec<Arc<str>>> {
        let content = self.content.read();
        let own = content.tags.iter().filter(|(key, _)| key.namespace == *namespace);
        own.map(|(key, tags)| (key.service.clone(), tags.counts.keys().cloned().collect()))
            .collect()
    }

    /// Follows the changes of `view` until it ends. Requests that need the latest changes may take them first.
    pub(crate) async fn follow(&self, view: &View) {
        loop {
            view.has_state().await;
            let snapshot = view.snapshot();
            let index = snapshot.state.index();
            self.rebuild(&snapshot.state).await;
            // It would be kept for as long as the changes are followed, with all that has changed since.
            drop(snapshot);
            let Ok(watcher) = view.hub().subscribe(WatchScope::Everything, index) else {
                // The changes since then are gone already, so the present state is read.
                tokio::task::yield_now().await;
                continue;
            };
            let mut published = view.hub().published();
            let follower = Follower { watcher, published: published.clone(), built: index };
            *self.follower.lock() = Some(follower);
            loop {
                published.mark_unchanged();
                let last = loop {
                    match self.take_batch() {
                        Taken::More => tokio::task::yield_now().await,
                        last => break last,
                    }
                };
                if last == Taken::Lost {
                    break;
                }
                if published.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    async fn rebuild(&self, state: &ControlState) {
        let mut fresh = Content::default();
        let mut added = 0;
        for (key, service) in state.services() {
            for instance in service.instances.values() {
                fresh.add(key, instance);
                fresh.add_tags(key, instance);
                added += 1;
                if added % REBUILT_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        *self.content.write() = fresh;
        let index = state.index();
        for list in [&self.services, &self.registrations, &self.checks, &self.followed] {
            list.send_replace(index);
        }
    }

    fn apply(&self, events: &[Arc<maxine_state::Event>]) {
        let (mut registrations, mut checks, mut services) = (None, None, None);
        {
            let mut content = self.content.write();
            for event in events {
                match &event.kind {
                    // An equal registration that went through the log keeps its number, and changes nothing here.
                    EventKind::InstanceRegistered { key, data }
                        if data.lease_epoch == event.index =>
                    {
                        content.remove(key);
                        content.add(&key.service, data);
                        let removed = content.remove_tags(key);
                        // The list is the same if exactly what left it came back.
                        if content.add_tags(&key.service, data) != removed {
                            services = Some(event.index);
                        }
                        (registrations, checks) = (Some(event.index), Some(event.index));
                    }
                    EventKind::InstanceRemoved { key, .. } => {
                        content.remove(key);
                        if content.remove_tags(key) != Change::default() {
                            services = Some(event.index);
                        }
                        (registrations, checks) = (Some(event.index), Some(event.index));
                    }
                    EventKind::HealthChanged { data, .. }
                    | EventKind::CheckReported { data, .. }
                        if data.modified_index == event.index =>
                    {
                        checks = Some(event.index);
                    }
                    EventKind::DrainChanged { .. } => checks = Some(event.index),
                    _ => {}
                }
            }
        }
        let lists = [
            (&self.registrations, registrations),
            (&self.checks, checks),
            (&self.services, services),
        ];
        for (list, index) in lists {
            if let Some(index) = index {
                list.send_replace(index);
            }
        }
    }
}

impl Content {
    fn add(&mut self, service: &ServiceKey, instance: &Instance) {
        let registration = &instance.registration;
        let extras = Extras::of(registration);
        if extras.service.is_none() {
            return;
        }
        let namespace = &service.namespace;
        let key = service.instance(registration.id.clone());
        let kept = extras.checks.iter().filter_map(|check| Name::parse("CheckID", &check.id).ok());
        let checks: Vec<Name> = kept.collect();
        for check in &checks {
            self.by_check.insert((namespace.clone(), check.clone()), key.clone());
        }
        let node = registration.node.as_ref().filter(|_| !extras.is_of_agent());
        let node = node.map(|node| node.as_str().to_lowercase().into_boxed_str());
        if let Some(node) = &node {
            self.by_node.entry((namespace.clone(), node.clone())).or_default().insert(key);
        }
        let known = Known { service: service.clone(), checks, node };
        self.by_id.insert((namespace.clone(), registration.id.clone()), known);
    }

    fn remove(&mut self, key: &InstanceKey) {
        let namespace = &key.service.namespace;
        let id = (namespace.clone(), key.instance.clone());
        // The id may belong to another service by now.
        if self.by_id.get(&id).is_none_or(|known| known.service != key.service) {
            return;
        }
        let Some(known) = self.by_id.remove(&id) else { return };
        for check in known.checks {
            let check = (namespace.clone(), check);
            if self.by_check.get(&check) == Some(key) {
                self.by_check.remove(&check);
            }
        }
        let Some(node) = known.node else { return };
        let node = (namespace.clone(), node);
        let Some(on_node) = self.by_node.get_mut(&node) else { return };
        on_node.remove(key);
        if on_node.is_empty() {
            self.by_node.remove(&node);
        }
    }

    /// Adds the tags of an instance, which has none here. Returns what its service has now and had not before.
    fn add_tags(&mut self, service: &ServiceKey, instance: &Instance) -> Change {
        let is_new = !self.tags.contains_key(service);
        let Tags { counts, of } = self.tags.entry(service.clone()).or_default();
        let mut change = Change { service: is_new, tags: BTreeSet::new() };
        let unique: BTreeSet<&str> =
            instance.registration.tags.iter().map(|tag| tag.as_ref()).collect();
        let mut own = Vec::with_capacity(unique.len());
        for tag in unique {
            let shared = match counts.get_key_value(tag) {
                Some((known, _)) => Arc::clone(known),
                None => {
                    let new: Arc<str> = tag.into();
                    change.tags.insert(Arc::clone(&new));
                    new
                }
            };
            *counts.entry(Arc::clone(&shared)).or_default() += 1;
            own.push(shared);
        }
        of.insert(instance.registration.id.clone(), own.into());
        change
    }

    /// Removes the tags of an instance. Returns what its service had before and has not now.
    fn remove_tags(&mut self, key: &InstanceKey) -> Change {
        let mut change = Change::default();
        let Some(Tags { counts, of }) = self.tags.get_mut(&key.service) else { return change };
        let Some(own) = of.remove(&key.instance) else { return change };
        for tag in own {
            let Some(count) = counts.get_mut(&tag) else { continue };
            *count -= 1;
            if *count == 0 {
                counts.remove(&tag);
                change.tags.insert(tag);
            }
        }
        if of.is_empty() {
            self.tags.remove(&key.service);
            change.service = true;
        }
        change
    }
}

/// What came to the list of services, or left it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    /// Whether the service itself did.
    service: bool,
    /// The tags that did.
    tags: BTreeSet<Arc<str>>,
}

/// Waits until the changes of a service, or of a list, may have changed an answer. `false` once the node stops.
pub(crate) async fn changed(watcher: &mut maxine_view::Watcher) -> Option<bool> {
    match watcher.next(BATCH_LEN).await {
        Ok(_) => Some(true),
        // The state was replaced, or the changes are gone: the answer may be another one.
        Err(WatcherLost::Compacted(_)) => Some(false),
        Err(WatcherLost::Closed) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::ServiceExtra;
    use super::*;
    use maxine_clock::Clock;
    use maxine_state::{
        Actor, Address, Command, History, Proposal, Registration, RequestId, SigningKey,
    };

    fn change(service: bool, tags: &[&str]) -> Change {
        Change { service, tags: tags.iter().map(|tag| Arc::from(*tag)).collect() }
    }

    /// On a busy node, the task that follows the changes waits for its turn while requests need them.
    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_the_task_that_follows() {
        let view = View::new(Clock::manual());
        let mut state = ControlState::default();
        let namespace = Name::trusted("default");
        let service = ServiceKey::new(namespace.clone(), Name::trusted("web"));
        let mut apply = |request: u128, command: Command| {
            let proposal = Proposal {
                request_id: RequestId(request),
                proposed_at_ms: 0,
                fence: None,
                actor: Actor::system("test"),
                command,
            };
            let mut events = Vec::new();
            state.apply(&proposal, &mut events);
            view.publish(&state, &events);
        };
        let registration = |id: &'static str| {
            let address = Address::parse("http://127.0.0.1:1").unwrap();
            let extras = Extras { service: Some(ServiceExtra::default()), ..Extras::default() };
            let metadata = extras.metadata(std::iter::empty()).unwrap();
            let registration = Registration::new(Name::trusted(id), address, 5_000);
            let items = vec![(service.clone(), Registration { metadata, ..registration })];
            Command::Register { items }
        };
        let (history, key_id) = (History::from_random(1), Name::trusted("k"));
        let signing_key = SigningKey { key_id, secret: [7; 32].into(), created_at_ms: 0 };
        apply(1, Command::BeginHistory { before: None, history, line: 1, signing_key });
        apply(2, registration("a"));
        let tables = Tables::new();
        let mut following = Box::pin(tables.follow(&view));
        tokio::select! {
            () = &mut following => panic!("the view has not ended"),
            is_there = tables.caught_up(&view) => assert!(is_there),
        }
        // From here on, the task has no turn.
        apply(3, registration("b"));
        assert!(tables.caught_up(&view).await);
        assert_eq!(tables.find(&namespace, "b"), Some(service.instance(Name::trusted("b"))));
        assert_eq!(tables.index(List::Registrations), view.index());
        drop(following);
    }

    #[test]
    fn the_tags_of_a_service_are_those_of_its_instances() {
        let mut content = Content::default();
        let service = ServiceKey::new(Name::trusted("default"), Name::trusted("web"));
        let instance = |id: &str, tags: &[&str]| {
            let address = Address::parse("http://127.0.0.1:1").unwrap();
            let id = Name::parse("id", id).unwrap();
            let tags = tags.iter().map(|tag| Box::from(*tag)).collect();
            Instance::new(Registration { tags, ..Registration::new(id, address, 5_000) }, 1, 1)
        };
        let key = |id: &'static str| service.instance(Name::trusted(id));
        let (a, b) = (instance("a", &["x", "y", "x"]), instance("b", &["y"]));
        assert_eq!(content.add_tags(&service, &a), change(true, &["x", "y"]));
        assert_eq!(content.add_tags(&service, &b), change(false, &[]));
        // The instance is registered again with another tag.
        assert_eq!(content.remove_tags(&key("a")), change(false, &["x"]));
        assert_eq!(content.add_tags(&service, &instance("a", &["z"])), change(false, &["z"]));
        let listed: Vec<_> = content.tags[&service].counts.keys().map(AsRef::as_ref).collect();
        assert_eq!(listed, ["y", "z"]);
        assert_eq!(content.remove_tags(&key("b")), change(false, &["y"]));
        assert_eq!(content.remove_tags(&key("b")), change(false, &[]));
        assert_eq!(content.remove_tags(&key("a")), change(true, &["z"]));
        assert!(content.tags.is_empty());
    }
}
