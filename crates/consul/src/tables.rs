//! What the lists of Consul need and the state does not have: the index at which each list last changed, and where the
//! services and checks of each node are.
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

/// The id of a service or of a check on a node of Consul. In Consul, it is unique there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OnNode {
    namespace: Name,
    /// In lower case.
    node: Name,
    id: Name,
}

/// What is known of an instance that was registered through this face.
#[derive(Debug)]
struct Known {
    /// The node, and the id of the service in Consul.
    service: OnNode,
    /// The ids of its checks in Consul.
    checks: Vec<Name>,
}

/// Where the services and checks of each node are. It depends on the present instances alone, and not on their order of
/// arrival: every node of Maxine finds the same ones. Two nodes of Maxine can accept the same id at the same time, so
/// an id can have several instances for a moment. All of them are kept here, and the first one counts.
#[derive(Debug)]
struct Content {
    /// The node of instances whose machine is not known, in lower case.
    own_node: Name,
    /// By instance.
    known: HashMap<InstanceKey, Known>,
    /// The services by their ids.
    services: BTreeSet<(OnNode, InstanceKey)>,
    /// The checks by their ids.
    checks: BTreeSet<(OnNode, InstanceKey)>,
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
    /// Empty tables. `own_node` is the node of instances whose machine is not known.
    pub(crate) fn new(own_node: &str) -> Self {
        let index = || watch::Sender::new(0);
        Self {
            content: RwLock::new(Content::new(lower(own_node))),
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

    /// The instances that are the service with this id on a node, sorted. The node's name counts without regard to
    /// case.
    pub(crate) fn find(&self, namespace: &Name, node: &str, id: &str) -> Vec<InstanceKey> {
        let wanted = OnNode::new(namespace, node, id);
        found(&self.content.read().services, wanted)
    }

    /// The instances that have the check with this id on a node, sorted.
    pub(crate) fn find_check(&self, namespace: &Name, node: &str, id: &str) -> Vec<InstanceKey> {
        let wanted = OnNode::new(namespace, node, id);
        found(&self.content.read().checks, wanted)
    }

    /// What was registered on a node through this face, by id. The node's name counts without regard to case.
    pub(crate) fn on_node(&self, namespace: &Name, node: &str) -> Vec<InstanceKey> {
        // An empty id comes before every other one.
        let first = OnNode::new(namespace, node, "");
        let content = self.content.read();
        let all = content.services.range((first.clone(), before_all())..);
        let is_there = |one: &OnNode| one.namespace == first.namespace && one.node == first.node;
        all.take_while(|(one, _)| is_there(one)).map(|(_, key)| key.clone()).collect()
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
        let mut fresh = Content::new(self.content.read().own_node.clone());
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

impl OnNode {
    fn new(namespace: &Name, node: &str, id: &str) -> Self {
        Self { namespace: namespace.clone(), node: lower(node), id: Name::trusted(id) }
    }

    /// Another id on the same node.
    fn with_id(&self, id: &Name) -> Self {
        Self { id: id.clone(), ..self.clone() }
    }
}

/// A name of a node for comparison, in lower case.
fn lower(node: &str) -> Name {
    Name::trusted(&node.to_lowercase())
}

/// A key that comes before every instance.
fn before_all() -> InstanceKey {
    let empty = Name::trusted("");
    ServiceKey::new(empty.clone(), empty.clone()).instance(empty)
}

/// The instances that have an id, sorted.
fn found(all: &BTreeSet<(OnNode, InstanceKey)>, wanted: OnNode) -> Vec<InstanceKey> {
    let first = (wanted, before_all());
    let from = all.range(first.clone()..);
    from.take_while(|(one, _)| *one == first.0).map(|(_, key)| key.clone()).collect()
}

impl Content {
    fn new(own_node: Name) -> Self {
        Self {
            own_node,
            known: HashMap::new(),
            services: BTreeSet::new(),
            checks: BTreeSet::new(),
            tags: BTreeMap::new(),
        }
    }

    fn add(&mut self, service: &ServiceKey, instance: &Instance) {
        let registration = &instance.registration;
        let extras = Extras::of(registration);
        if extras.service.is_none() {
            return;
        }
        let key = service.instance(registration.id.clone());
        let node = registration.node.as_ref().map(|node| lower(node.as_str()));
        let service = OnNode {
            namespace: service.namespace.clone(),
            node: node.unwrap_or_else(|| self.own_node.clone()),
            id: Name::trusted(extras.id(registration)),
        };
        let checks: Vec<Name> =
            extras.checks.iter().map(|check| Name::trusted(&check.id)).collect();
        for check in &checks {
            self.checks.insert((service.with_id(check), key.clone()));
        }
        self.services.insert((service.clone(), key.clone()));
        self.known.insert(key, Known { service, checks });
    }

    fn remove(&mut self, key: &InstanceKey) {
        let Some(Known { service, checks }) = self.known.remove(key) else { return };
        for check in &checks {
            self.checks.remove(&(service.with_id(check), key.clone()));
        }
        self.services.remove(&(service, key.clone()));
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
    use super::super::model::{CheckExtra, ServiceExtra};
    use super::*;
    use maxine_clock::Clock;
    use maxine_state::{
        Actor, Address, Check, CheckKind, CheckStatus, Command, History, Proposal, Registration,
        RequestId, SigningKey,
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
        let tables = Tables::new("Maxine");
        let mut following = Box::pin(tables.follow(&view));
        tokio::select! {
            () = &mut following => panic!("the view has not ended"),
            is_there = tables.caught_up(&view) => assert!(is_there),
        }
        // From here on, the task has no turn.
        apply(3, registration("b"));
        assert!(tables.caught_up(&view).await);
        assert_eq!(tables.find(&namespace, "maxine", "b"), [service.instance(Name::trusted("b"))]);
        assert_eq!(tables.index(List::Registrations), view.index());
        drop(following);
    }

    /// Otherwise the nodes of Maxine would find different instances, and one node another one after its restart.
    #[test]
    fn where_an_id_is_does_not_depend_on_the_order_of_registrations() {
        let registered = |service: &str, id: &str, node: Option<&str>| {
            let service = ServiceKey::new(Name::trusted("default"), Name::trusted(service));
            let address = Address::parse("http://127.0.0.1:1").unwrap();
            let mut registration = Registration::new(Name::trusted(id), address, 5_000);
            registration.node = node.map(Name::trusted);
            let shown = ServiceExtra { id: Some("pay-1".into()), ..ServiceExtra::default() };
            let check = CheckExtra { id: "service:pay-1".into(), ..CheckExtra::default() };
            let extras = Extras { service: Some(shown), node: None, checks: vec![check] };
            registration.metadata = extras.metadata(std::iter::empty()).unwrap();
            let kind = CheckKind::Ttl { ttl_ms: 5_000, initial: CheckStatus::Passing };
            registration.checks = [Check { id: Name::trusted("service:pay-1"), kind }].into();
            (service, Instance::new(registration.normalised(), 1, 1))
        };
        // The same ids: on the agent's node under two names, as two nodes of Maxine accept them at the same time, and
        // on another node.
        let all = [
            registered("pay", "pay-1", None),
            registered("shop", "pay-1", Some("MAXINE")),
            registered("junk", "pay-1@laptop", Some("laptop")),
        ];
        let key = |(service, instance): &(ServiceKey, Instance)| {
            service.instance(instance.registration.id.clone())
        };
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let tables = Tables::new("maxine");
            let namespace = Name::trusted("default");
            let has = |node: &str, at: &[usize]| {
                let keys: Vec<_> = at.iter().map(|at| key(&all[*at])).collect();
                assert_eq!(tables.find(&namespace, node, "pay-1"), keys, "{order:?}");
                assert_eq!(tables.find_check(&namespace, node, "service:pay-1"), keys, "{order:?}");
                assert_eq!(tables.on_node(&namespace, node), keys, "{order:?}");
            };
            for at in order {
                tables.content.write().add(&all[at].0, &all[at].1);
            }
            has("maxine", &[0, 1]);
            has("Laptop", &[2]);
            // What leaves takes nothing of another instance away.
            tables.content.write().remove(&key(&all[2]));
            has("maxine", &[0, 1]);
            has("laptop", &[]);
            tables.content.write().remove(&key(&all[0]));
            has("maxine", &[1]);
            tables.content.write().remove(&key(&all[1]));
            has("maxine", &[]);
            let content = tables.content.read();
            assert!(content.known.is_empty() && content.checks.is_empty(), "{order:?}");
        }
    }

    #[test]
    fn the_tags_of_a_service_are_those_of_its_instances() {
        let mut content = Content::new(Name::trusted("maxine"));
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
