//! The reads of the catalog, of health and of the agent.
//!
//! Every read is answered from the published state. A blocking query waits until the index of its objects is above the
//! given one: that of one service, or that of a list ([`super::tables`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{self, Answer, CONTENT_HASH, INDEX, REASON, Refusal};
use super::built::Question;
use super::filter::{Fields, Filter};
use super::options::{Mode, Options, check_datacenter, namespace};
use super::parts::Inner;
use super::request::Asked;
use super::shape::{
    HealthCheck, Listed, Node, OF_AGENT_SERVICE, OF_CHECK, OF_ENTRY, OF_NODE, OF_SERVICE,
    OF_SERVICE_NODE, Shown, node_check,
};
use super::tables::{List, changed};
use super::text::{Query, boolean};
use maxine_admission::{Leave, NoPlace, Place, Turn};
use maxine_clock::Clock;
use maxine_state::{Instance, InstanceKey, KvKey, Name, ServiceKey, ServiceState};
use maxine_store::Consistency;
use maxine_view::{KvReader, KvScope, Snapshot, Spellings, WatchScope};

const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const EFFECTIVE: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
const CACHE: HeaderName = HeaderName::from_static("x-cache");
const FILTERED: HeaderName = HeaderName::from_static("x-consul-results-filtered-by-acls");

/// All keys.
static ALL_KEYS: LazyLock<KvScope> = LazyLock::new(|| KvScope::Prefix(KvKey::everything()));

/// How long a read waits for the leader's confirmation.
pub(crate) const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a blocking query whose index is ahead of this node waits for the node.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a read that waits checks whether its caller may still have the answer.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a filter may take for one answer to a caller with a credential, in milliseconds.
const FILTER_MS_MAX: u64 = 500;
/// How long it may take for a caller without one, in milliseconds. These callers share one half of the processors.
const STRANGERS_FILTER_MS_MAX: u64 = 100;
/// The time since the last contact with the leader, in milliseconds, if it is not known. Clients refuse an answer
/// without a number, and 0 would claim that it is current.
const CONTACT_UNKNOWN_MS: u64 = i32::MAX as u64;
/// One in this many of a wait's time is added to it at random, so that clients do not all return at once.
const JITTER_ONE_IN: u64 = 16;

/// What a read depends on.
pub(crate) enum Scope {
    /// The services with this name in whatever case, whether they exist or not.
    Service(ServiceKey),
    /// A list.
    List(List),
    /// Keys or lock sessions.
    Keys(KvScope),
    /// The whole state. Nobody waits for a change of it.
    All,
}

/// A read that may be answered now.
pub(crate) struct Ready {
    pub(crate) snapshot: Arc<Snapshot>,
    index: u64,
    contact_ms: Option<u64>,
    question: Question,
    /// The answer, if it was built for another reader.
    built: Option<Bytes>,
    filtering: Filtering,
    /// The maximum length of an answer that is built now, in bytes.
    pub(crate) len_max: usize,
    /// Held while the answer is built.
    _turn: Option<Turn>,
}

/// A filter in use, or a choice by tags. It ends when it has taken too long, because a request can make it slow.
struct Filtering {
    filter: Option<Filter>,
    clock: Clock,
    ms_max: u64,
    until_ms: u64,
    is_over: Cell<bool>,
}

impl Filtering {
    fn new(filter: Option<Filter>, clock: &Clock, is_known: bool) -> Self {
        let ms_max = if is_known { FILTER_MS_MAX } else { STRANGERS_FILTER_MS_MAX };
        let until_ms = clock.monotonic_ms() + ms_max;
        Self { filter, clock: clock.clone(), ms_max, until_ms, is_over: Cell::new(false) }
    }

    /// Whether an object matches. Once the time is over, none does, and [`Self::check`] refuses the answer.
    fn matches(&self, object: &impl Serialize) -> bool {
        let Some(filter) = &self.filter else { return true };
        self.has_time() && serde_json::to_value(object).is_ok_and(|value| filter.matches(&value))
    }

    /// Whether a check matches and has this state, if it is not `any`.
    fn matches_state(&self, check: &HealthCheck<'_>, state: &str) -> bool {
        (state == "any" || check.status == state) && self.matches(check)
    }

    /// Whether the time is not over. Once it is, [`Self::check`] refuses the answer.
    fn has_time(&self) -> bool {
        if self.clock.monotonic_ms() > self.until_ms {
            self.is_over.set(true);
        }
        !self.is_over.get()
    }

    /// Refuses an answer whose filter took too long.
    fn check(&self) -> Result<(), Refusal> {
        match self.is_over.get() {
            false => Ok(()),
            true => Err(Refusal::bad(format!(
                "to choose from this list takes longer than {} ms: use a simpler filter, or fewer tags",
                self.ms_max
            ))),
        }
    }
}

impl Inner {
    /// The service with this name. In reads, it stands for every service whose name differs only in case.
    fn named(&self, namespace: &Name, name: &str) -> Result<ServiceKey, Refusal> {
        Ok(ServiceKey::new(namespace.clone(), Name::parse("service", name)?))
    }

    /// The index of the services with this name, in whatever case.
    fn service_index(&self, snapshot: &Snapshot, key: &ServiceKey) -> u64 {
        let state = &snapshot.state;
        // The names are read after the state, so none of the state is missing. One that left since then, or came,
        // counts with a later state.
        let Spellings { keys, left_index } = self.view.spellings(key.as_ref());
        let present = keys.iter().filter(|key| state.service(key).is_some());
        match present.map(|key| state.service_index(key)).max() {
            Some(index) if left_index <= state.index() => index.max(left_index),
            Some(index) => index,
            None => state.service_index(key),
        }
    }

    /// Waits until the read may be answered: until its freshness is confirmed, and a change is there if it is a
    /// blocking query.
    pub(crate) async fn ready(
        &self,
        asked: &Asked,
        options: &Options,
        scope: &Scope,
    ) -> Result<Ready, Refusal> {
        let contact_ms = self.confirmed(options).await?;
        let mut keys = match scope {
            Scope::Keys(scope) => Some(self.view.kv_reader(scope)),
            _ => None,
        };
        if options.index == 0 {
            if let Scope::List(_) = scope {
                self.tables.caught_up(&self.view).await;
            }
            return self.take(scope, keys.as_ref(), contact_ms, asked, options).await;
        }
        let is_dear =
            |keys: &Option<KvReader<'_>>| keys.as_ref().is_some_and(|keys| !keys.has_index());
        if options.has_filter() || is_dear(&keys) {
            let _turn = self.turn(asked).await?;
            // A wrong filter is refused before the wait. The compiled one is large, so it is made again afterwards.
            options.filter()?;
            // This reads all keys with the prefix. Later readers of the same prefix use the result.
            let _ = keys.as_ref().map(KvReader::index);
        }
        let (_place, leave) = self.blocked_place(asked)?;
        let _blocked = self.metrics.blocked();
        // A key that does not exist has the index of all keys. If the reader gave an older index, it is answered at
        // once.
        let has_answer = keys.as_ref().is_some_and(|keys| self.keys_index(keys) > options.index);
        if !has_answer {
            // It is pinned here, because a future that is passed on takes its size twice.
            let changed = std::pin::pin!(self.changed_after(scope, keys.as_mut(), options.index));
            self.wait(asked, options, &leave, changed).await?;
        }
        // The time since the contact may have grown while the request waited.
        let contact_ms = self.contact_ms().filter(|_| contact_ms.is_some());
        self.take(scope, keys.as_ref(), contact_ms, asked, options).await
    }

    /// Waits for a change, as long as the blocking query says, or until another client has its place. Refuses the
    /// answer if the caller may not have it any more.
    async fn wait(
        &self,
        asked: &Asked,
        options: &Options,
        leave: &Leave,
        changed: impl Future<Output = ()>,
    ) -> Result<(), Refusal> {
        let jitter_ms = fastrand::u64(0..=options.wait_ms / JITTER_ONE_IN);
        let mut left = Duration::from_millis(options.wait_ms + jitter_ms);
        let mut changed = std::pin::pin!(changed);
        loop {
            let part = left.min(CHECK_INTERVAL);
            let part_ended = tokio::time::timeout(part, &mut changed);
            let (has_changed, is_displaced) = tokio::select! {
                biased;
                ended = part_ended => (ended.is_ok(), false),
                () = leave.displaced() => (false, true),
            };
            if let Some((status, text)) = asked.guard.ended() {
                return Err(Refusal::new(status, text));
            }
            // The client must not believe that nothing has changed when this node cannot know.
            if options.mode == Mode::Consistent && self.store.leadership_now().leader.is_none() {
                self.strongly_confirmed().await?;
            }
            left = left.saturating_sub(part);
            // After the time, the answer is the present one.
            if has_changed || is_displaced || left.is_zero() {
                return Ok(());
            }
        }
    }

    /// Waits for the turn of an answer.
    async fn turn(&self, asked: &Asked) -> Result<Turn, Refusal> {
        let user = asked.is_known.then_some(&*asked.actor.user);
        self.turns.take(asked.client, user).await.ok_or_else(|| {
            let text = "too many answers are to be built before this one";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }

    async fn take(
        &self,
        scope: &Scope,
        keys: Option<&KvReader<'_>>,
        contact_ms: Option<u64>,
        asked: &Asked,
        options: &Options,
    ) -> Result<Ready, Refusal> {
        if keys.is_none_or(KvReader::has_index) {
            let found = self.present(scope, keys, contact_ms, asked);
            if found.built.is_some() {
                return Ok(found);
            }
        }
        let turn = self.turn(asked).await?;
        let found = self.present(scope, keys, contact_ms, asked);
        if found.built.is_some() {
            return Ok(found);
        }
        let filtering = Filtering::new(options.filter()?, &self.clock, asked.is_known);
        let len_max = asked.answer_len_max();
        Ok(Ready { filtering, len_max, _turn: Some(turn), ..found })
    }

    /// The present state for a read, with the answer if it was built before.
    fn present(
        &self,
        scope: &Scope,
        keys: Option<&KvReader<'_>>,
        contact_ms: Option<u64>,
        asked: &Asked,
    ) -> Ready {
        // The index of a list or of keys is read first: the answer then includes at least what the index promises.
        let read_before = match scope {
            Scope::List(list) => Some(self.tables.index(*list)),
            _ => keys.map(|keys| self.keys_index(keys)),
        };
        let snapshot = self.view.snapshot();
        let index = read_before.unwrap_or_else(|| match scope {
            Scope::Service(key) => self.service_index(&snapshot, key),
            _ => snapshot.state.index(),
        });
        let index = index.max(1);
        let history = snapshot.state.history();
        let question = Question::new(&asked.uri, asked.is_known, index, history);
        let question = question.in_namespace(asked.namespace.clone());
        let built = self.built.find(&question);
        let filtering = Filtering::new(None, &self.clock, asked.is_known);
        let len_max = answer::LEN_MAX;
        Ready { snapshot, index, contact_ms, question, built, filtering, len_max, _turn: None }
    }

    /// The index of keys or lock sessions for a client. A key that does not exist, or a prefix without keys, has the
    /// index of all keys. So a client that waits for one such prefix after the other does not wait for each in vain.
    fn keys_index(&self, keys: &KvReader<'_>) -> u64 {
        let own = keys.index();
        let snapshot = self.view.snapshot();
        let kv = snapshot.state.kv();
        let is_absent = match keys.scope() {
            KvScope::Key(key) => kv.entry(key.as_str()).is_none(),
            KvScope::Prefix(prefix) => kv.below(prefix.as_str(), None).next().is_none(),
            KvScope::Session(_) | KvScope::Sessions => false,
        };
        if !is_absent {
            return own;
        }
        let all = self.view.kv_reader(&ALL_KEYS);
        // The face follows this index, so it is known but for a moment after the start.
        if all.has_index() { own.max(all.index()) } else { own }
    }

    /// Keeps the index of all keys up to date, until it is dropped.
    pub(crate) async fn follow_keys(&self) {
        let mut all = self.view.kv_reader(&ALL_KEYS);
        let mut index = 0;
        loop {
            all.changed_after(index).await;
            index = all.index();
        }
    }

    /// Returns when the index of `scope` is above `after`, or when it will never be compared with it, because this node
    /// has another, younger history.
    async fn changed_after(&self, scope: &Scope, keys: Option<&mut KvReader<'_>>, after: u64) {
        if self.view.index() < after && self.view.wait_for(after, AHEAD_TIMEOUT).await.is_err() {
            return;
        }
        match scope {
            Scope::Service(key) => self.service_changed_after(key, after).await,
            Scope::Keys(_) => {
                if let Some(keys) = keys {
                    keys.changed_after(after).await;
                }
            }
            Scope::All => {}
            Scope::List(list) => {
                let mut changes = self.tables.changes(*list);
                let replaced_before = self.view.snapshot().state.history();
                loop {
                    let index = *changes.borrow_and_update();
                    let is_replaced = self.view.snapshot().state.history() != replaced_before;
                    if index > after || is_replaced || changes.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn service_changed_after(&self, key: &ServiceKey, after: u64) {
        loop {
            // Only the index is kept. A snapshot that is held during the wait would keep old states in memory.
            let index = self.view.snapshot().state.index();
            let scope = WatchScope::ignoring_case(key);
            let Ok(mut watcher) = self.view.hub().subscribe(scope, index) else {
                tokio::task::yield_now().await;
                continue;
            };
            loop {
                // A service that has left has the index of the last one that left, so its waiters wake.
                if self.service_index(&self.view.snapshot(), key) > after {
                    return;
                }
                match changed(&mut watcher).await {
                    Some(true) => {}
                    Some(false) | None => return,
                }
            }
        }
    }

    /// A place for a blocking query. The query must end when a client that has fewer of them needs the place.
    fn blocked_place(&self, asked: &Asked) -> Result<(Place, Arc<Leave>), Refusal> {
        let taken = self.blocked.take(asked.client, asked.caller_class, 1).map(|mut place| {
            let leave = Arc::new(Leave::after(Duration::ZERO));
            place.give_way(&leave);
            (place, leave)
        });
        taken.map_err(|why| {
            let text = match why {
                NoPlace::Node => "too many blocking queries are waiting on this node",
                NoPlace::Address => {
                    "too many blocking queries of your address or user are waiting (http.watchers_per_address_max)"
                }
            };
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, text)
        })
    }

    /// Waits for the freshness that the read asks for. Returns the time since the contact with the leader; `None` if it
    /// is not known.
    async fn confirmed(&self, options: &Options) -> Result<Option<u64>, Refusal> {
        let contact_ms = self.contact_ms();
        match options.mode {
            Mode::Stale => {
                let is_older = |max_ms| contact_ms.is_none_or(|ms| ms > max_ms);
                if options.max_stale_ms.is_some_and(is_older) {
                    self.confirmed_if_led().await;
                    return Ok(self.contact_ms());
                }
                Ok(contact_ms)
            }
            Mode::Default => {
                self.confirmed_if_led().await;
                Ok(self.contact_ms())
            }
            Mode::Consistent => {
                self.strongly_confirmed().await?;
                Ok(self.contact_ms())
            }
        }
    }

    /// Waits until this node's copy has every write that was acknowledged before now.
    async fn strongly_confirmed(&self) -> Result<(), Refusal> {
        let confirmed = self.store.barrier(Consistency::Strong, CONFIRM_TIMEOUT);
        match tokio::time::timeout(CONFIRM_TIMEOUT, confirmed).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader")),
        }
    }

    /// Waits for what the leader last confirmed. Without a leader this node's copy is served, and the headers say so:
    /// discovery must continue.
    async fn confirmed_if_led(&self) {
        let leadership = self.store.leadership_now();
        if leadership.is_leader || leadership.leader.is_none() {
            return;
        }
        let confirmed = self.store.barrier(Consistency::Leader, CONFIRM_TIMEOUT);
        let _ = tokio::time::timeout(CONFIRM_TIMEOUT, confirmed).await;
    }

    fn contact_ms(&self) -> Option<u64> {
        if self.store.leadership_now().is_leader { Some(0) } else { self.store.staleness_ms() }
    }

    /// Adds the headers of a read.
    pub(crate) fn put_headers(&self, headers: &mut HeaderMap, options: &Options, ready: &Ready) {
        headers.insert(INDEX, ready.index.into());
        let has_leader = self.store.leadership_now().leader.is_some();
        let known = if has_leader { "true" } else { "false" };
        headers.insert(KNOWN_LEADER, HeaderValue::from_static(known));
        // Without a leader, this node's own copy is the answer.
        let mode = if has_leader { options.mode } else { Mode::Stale };
        headers.insert(LAST_CONTACT, ready.contact_ms.unwrap_or(CONTACT_UNKNOWN_MS).into());
        headers.insert(EFFECTIVE, HeaderValue::from_static(mode.as_str()));
        headers.insert(BACKEND, HeaderValue::from_static("blocking-query"));
        if options.cached {
            // There is no cache: every answer is made for its request.
            headers.insert(CACHE, HeaderValue::from_static("MISS"));
            headers.insert(header::AGE, HeaderValue::from_static("0"));
        }
    }

    /// The answer of a read. Other readers of the same state get it too.
    pub(crate) fn answered(
        &self,
        options: &Options,
        ready: &Ready,
        value: &impl Serialize,
    ) -> Result<Answer, Refusal> {
        let (len_max, pretty) = (ready.len_max, options.pretty);
        let mut answer = answer::json_within(len_max, StatusCode::OK, pretty, value);
        // The objects of a list are chosen while it is written.
        ready.filtering.check()?;
        if answer.status() == StatusCode::OK {
            self.put_headers(answer.headers_mut(), options, ready);
            self.built.keep(ready.question.clone(), answer.body());
        }
        Ok(answer)
    }

    /// The answer that was built for another reader.
    pub(crate) fn built_before(&self, options: &Options, ready: &Ready) -> Option<Answer> {
        let mut answer = answer::written(ready.built.clone()?);
        self.put_headers(answer.headers_mut(), options, ready);
        Some(answer)
    }

    /// The parameters of a request. Another datacenter than the own one, a partition and a peer are refused, also where
    /// the answer depends on no namespace.
    pub(crate) fn query(&self, asked: &Asked) -> Result<Query, Refusal> {
        let query = asked.query()?;
        check_datacenter(&query, &self.names)?;
        namespace(&query, &[])?;
        Ok(query)
    }

    pub(crate) fn options(
        &self,
        asked: &Asked,
        fields: Option<Fields>,
    ) -> Result<(Query, Options), Refusal> {
        let query = asked.query()?;
        let options = Options::read(&query, &self.names, fields)?;
        Ok((query, options))
    }

    fn shown<'a>(
        &'a self,
        key: &'a ServiceKey,
        service: &'a ServiceState,
        instance: &'a Instance,
        asked: &Asked,
    ) -> Shown<'a> {
        let own = (&self.names, self.own_node_id.as_str());
        Shown::new(own, key, service, instance, asked.is_known)
    }

    /// The instances of services that match the parameters, those near a node first.
    fn of_services<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        keys: &'a [ServiceKey],
        options: &Options,
        asked: &Asked,
        filtering: &Filtering,
    ) -> Vec<Shown<'a>> {
        let services = keys.iter().filter_map(|key| Some((key, snapshot.state.service(key)?)));
        let all = services.flat_map(|(key, service)| {
            service.instances.values().map(move |i| self.shown(key, service, i, asked))
        });
        let mut found: Vec<_> = all
            .take_while(|_| options.tags.is_empty() || filtering.has_time())
            .filter(|shown| {
                shown.has_tags(&options.tags) && shown.has_node_meta(&options.node_meta)
            })
            .collect();
        // Maxine does not measure distances between nodes. The node itself is nearest.
        if !matches!(options.near.as_str(), "" | "_agent" | "_ip") {
            found.sort_by_key(|shown| shown.node_name().to_lowercase() != options.near);
        }
        found
    }

    /// Calls `read` with every instance of a namespace, in the order of services and ids.
    fn each_instance<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        namespace: &Name,
        asked: &Asked,
        mut read: impl FnMut(Shown<'a>),
    ) {
        // A key with an empty name comes before every service of the namespace.
        let first = ServiceKey::new(namespace.clone(), Name::trusted(""));
        for (key, service) in snapshot.state.services().range(first..) {
            if key.namespace != *namespace {
                return;
            }
            service.instances.values().for_each(|i| read(self.shown(key, service, i, asked)));
        }
    }

    /// A list of everything, of which a caller without a credential may see nothing. Clients expect an empty list then,
    /// and not a refusal.
    async fn hidden(
        &self,
        asked: &Asked,
        options: &Options,
        list: Option<List>,
        empty: Value,
    ) -> Result<Answer, Refusal> {
        let mut answer = answer::json(StatusCode::OK, options.pretty, &empty);
        if let Some(list) = list {
            let ready = self.ready(asked, options, &Scope::List(list)).await?;
            self.put_headers(answer.headers_mut(), options, &ready);
        }
        answer.headers_mut().insert(FILTERED, HeaderValue::from_static("true"));
        Ok(answer)
    }

    pub(crate) async fn catalog_services(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_SERVICE_NODE))?;
        // The list of names and tags does not change with what a filter or the metadata of a node is about.
        let is_whole = options.node_meta.is_empty() && !options.has_filter();
        let list = if is_whole { List::Services } else { List::Registrations };
        if !asked.is_known {
            return self.hidden(asked, &options, Some(list), json!({})).await;
        }
        let ready = self.ready(asked, &options, &Scope::List(list)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        if is_whole {
            let services = self.tables.service_tags(&options.namespace);
            let texts = |tags: &'_ [Arc<str>]| tags.iter().map(|tag| tag.to_string()).collect();
            let services: BTreeMap<&str, Vec<String>> =
                services.iter().map(|(name, tags)| (name.as_str(), texts(tags))).collect();
            return self.answered(&options, &ready, &services);
        }
        let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
        self.each_instance(&ready.snapshot, &options.namespace, asked, |shown| {
            let is_meant = shown.has_node_meta(&options.node_meta)
                && (!options.has_filter() || ready.filtering.matches(&shown.service_node()));
            if is_meant {
                let tags = services.entry(shown.service_name().to_owned()).or_default();
                tags.extend(shown.instance.registration.tags.iter().map(|tag| tag.to_string()));
            }
        });
        for tags in services.values_mut() {
            tags.sort();
            tags.dedup();
        }
        self.answered(&options, &ready, &services)
    }

    pub(crate) async fn catalog_service(
        &self,
        asked: &Asked,
        name: &str,
    ) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_SERVICE_NODE))?;
        let key = self.named(&options.namespace, name)?;
        let ready = self.ready(asked, &options, &Scope::Service(key.clone())).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let keys = self.view.spellings(key.as_ref()).keys;
        let found = self.of_services(&ready.snapshot, &keys, &options, asked, &ready.filtering);
        let nodes = found.iter().map(Shown::service_node);
        let nodes = nodes.filter(|node| ready.filtering.matches(node));
        self.answered(&options, &ready, &Listed(nodes))
    }

    /// The nodes of a namespace, by name in lower case. That of instances whose machine is not known always exists.
    fn nodes<'a>(
        &'a self,
        snapshot: &Snapshot,
        options: &Options,
        asked: &Asked,
    ) -> BTreeMap<String, Node<'a>> {
        let mut nodes = BTreeMap::new();
        let own = self.names.node.to_lowercase();
        if options.node_meta.is_empty() {
            nodes.insert(own.clone(), self.own_node());
        }
        self.each_instance(snapshot, &options.namespace, asked, |shown| {
            let name = shown.node_name().to_lowercase();
            if name != own && shown.has_node_meta(&options.node_meta) {
                nodes.entry(name).or_insert_with(|| shown.node().into_owned());
            }
        });
        nodes
    }

    fn own_node(&self) -> Node<'_> {
        Node::own(&self.names, &self.own_node_id)
    }

    pub(crate) async fn catalog_nodes(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_NODE))?;
        if !asked.is_known {
            return self.hidden(asked, &options, Some(List::Registrations), json!([])).await;
        }
        let ready = self.ready(asked, &options, &Scope::List(List::Registrations)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let nodes = self.nodes(&ready.snapshot, &options, asked);
        let mut nodes: Vec<_> =
            nodes.into_values().filter(|node| ready.filtering.matches(node)).collect();
        if !options.near.is_empty() {
            nodes.sort_by_key(|node| node.node.to_lowercase() != options.near);
        }
        self.answered(&options, &ready, &nodes)
    }

    /// The instances of a node. `None` if there is no such node.
    fn of_node<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        options: &Options,
        node: &str,
        asked: &Asked,
    ) -> Option<Vec<Shown<'a>>> {
        let node = node.to_lowercase();
        let mut found = Vec::new();
        self.each_instance(snapshot, &options.namespace, asked, |shown| {
            if shown.node_name().to_lowercase() == node {
                found.push(shown);
            }
        });
        let exists = !found.is_empty() || node == self.names.node.to_lowercase();
        exists.then_some(found)
    }

    /// Whether there is a node with this name.
    pub(crate) async fn has_node(
        &self,
        asked: &Asked,
        namespace: &Name,
        name: &str,
    ) -> Result<bool, Refusal> {
        if self.names.is_own_node(name) {
            return Ok(true);
        }
        self.tables.caught_up(&self.view).await;
        if !self.tables.on_node(namespace, name).is_empty() {
            return Ok(true);
        }
        // It can be the node of instances of another API.
        let _turn = self.turn(asked).await?;
        let snapshot = self.view.snapshot();
        let wanted = name.to_lowercase();
        let mut found = false;
        self.each_instance(&snapshot, namespace, asked, |shown| {
            found |= shown.node_name().to_lowercase() == wanted;
        });
        Ok(found)
    }

    /// A node with its services: as an object by id, or as a list.
    pub(crate) async fn catalog_node(
        &self,
        asked: &Asked,
        name: &str,
        as_list: bool,
    ) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_SERVICE))?;
        let ready = self.ready(asked, &options, &Scope::List(List::Registrations)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let Some(found) = self.of_node(&ready.snapshot, &options, name, asked) else {
            return self.answered(&options, &ready, &Value::Null);
        };
        let own = found.first().filter(|shown| shown.node_name() != self.names.node);
        let node = own.map_or_else(|| self.own_node(), Shown::node);
        let services = found.iter().map(|shown| (shown.service(), shown.extras.service.is_some()));
        let services: Vec<_> =
            services.filter(|(service, _)| ready.filtering.matches(service)).collect();
        if as_list {
            let services: Vec<_> = services.iter().map(|(service, _)| service).collect();
            let body = NodeServices { node, services: &services };
            return self.answered(&options, &ready, &body);
        }
        // An instance of another API does not take the place of an id that a client of Consul gave.
        let (of_consul, of_others): (Vec<_>, Vec<_>) =
            services.iter().partition(|(_, is_of_consul)| *is_of_consul);
        let mut by_id = BTreeMap::new();
        for (service, _) in of_consul.into_iter().chain(of_others) {
            by_id.entry(unique_id(&by_id, service.id(), service.name())).or_insert(service);
        }
        self.answered(&options, &ready, &NodeServices { node, services: &by_id })
    }

    /// The instances of a service mesh: none.
    pub(crate) async fn no_mesh(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, None)?;
        let ready = self.ready(asked, &options, &Scope::List(List::Services)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        self.answered(&options, &ready, &[(); 0])
    }

    pub(crate) fn datacenters(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let pretty = self.query(asked)?.has("pretty");
        Ok(answer::json(StatusCode::OK, pretty, &[&self.names.datacenter]))
    }

    pub(crate) async fn health_service(
        &self,
        asked: &Asked,
        name: &str,
    ) -> Result<Answer, Refusal> {
        let (query, options) = self.options(asked, Some(OF_ENTRY))?;
        let passing = match query.all("passing").next() {
            None => false,
            Some("") => true,
            Some(text) => {
                boolean(text).ok_or_else(|| Refusal::bad("Invalid value for ?passing"))?
            }
        };
        drop(query);
        let key = self.named(&options.namespace, name)?;
        let ready = self.ready(asked, &options, &Scope::Service(key.clone())).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let keys = self.view.spellings(key.as_ref()).keys;
        let mut found = self.of_services(&ready.snapshot, &keys, &options, asked, &ready.filtering);
        if passing {
            found.retain(|shown| shown.status() == "passing");
        }
        let entries = found.iter().map(Shown::entry);
        let entries = entries.filter(|entry| ready.filtering.matches(entry));
        self.answered(&options, &ready, &Listed(entries))
    }

    pub(crate) async fn health_checks(&self, asked: &Asked, name: &str) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_CHECK))?;
        let key = self.named(&options.namespace, name)?;
        let ready = self.ready(asked, &options, &Scope::Service(key.clone())).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let keys = self.view.spellings(key.as_ref()).keys;
        let found = self.of_services(&ready.snapshot, &keys, &options, asked, &ready.filtering);
        let checks = found.iter().flat_map(Shown::checks);
        let checks: Vec<HealthCheck<'_>> =
            checks.filter(|check| ready.filtering.matches(check)).collect();
        self.answered(&options, &ready, &checks)
    }

    pub(crate) async fn health_node(&self, asked: &Asked, name: &str) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_CHECK))?;
        let ready = self.ready(asked, &options, &Scope::List(List::Checks)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let found = self.of_node(&ready.snapshot, &options, name, asked);
        let mut checks = Vec::new();
        if let Some(found) = &found {
            let name = found.first().map_or(self.names.node.as_str(), Shown::node_name);
            checks.push(node_check(name));
            checks.extend(found.iter().flat_map(Shown::checks));
        }
        checks.retain(|check| ready.filtering.matches(check));
        self.answered(&options, &ready, &checks)
    }

    pub(crate) async fn health_state(&self, asked: &Asked, state: &str) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_CHECK))?;
        if !matches!(state, "any" | "passing" | "warning" | "critical") {
            let text = format!("{state:?} is no state: use any, passing, warning or critical");
            return Err(Refusal::bad(text));
        }
        if !asked.is_known {
            return self.hidden(asked, &options, Some(List::Checks), json!([])).await;
        }
        let ready = self.ready(asked, &options, &Scope::List(List::Checks)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let nodes = self.nodes(&ready.snapshot, &options, asked);
        let mut checks: Vec<HealthCheck<'_>> =
            nodes.values().map(|node| node_check(&node.node)).collect();
        checks.retain(|check| ready.filtering.matches_state(check, state));
        self.each_instance(&ready.snapshot, &options.namespace, asked, |shown| {
            let is_over = answer::is_over(checks.len(), ready.len_max);
            if !is_over && shown.has_node_meta(&options.node_meta) {
                let wanted = shown.checks();
                let wanted = wanted.filter(|check| ready.filtering.matches_state(check, state));
                checks.extend(wanted.map(HealthCheck::into_owned));
            }
        });
        self.answered(&options, &ready, &checks)
    }

    pub(crate) fn status(&self, asked: &Asked, of_peers: bool) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let pretty = query.has("pretty");
        let members = self.store.cluster().map(|admin| admin.status().members).unwrap_or_default();
        let leader = self.store.leadership_now().leader;
        if of_peers {
            let peers = members.into_iter().filter(|member| member.voter);
            let mut peers: Vec<String> = peers.map(|member| member.peer_addr).collect();
            if peers.is_empty() {
                peers.extend(leader);
            }
            return Ok(answer::json(StatusCode::OK, pretty, &peers));
        }
        let of_leader = |name: String| {
            let member = members.iter().find(|member| member.name == name);
            member.map_or(name, |member| member.peer_addr.clone())
        };
        let leader = leader.map(of_leader).unwrap_or_default();
        Ok(answer::json(StatusCode::OK, pretty, &leader))
    }

    pub(crate) fn agent_self(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let names = &self.names;
        let version = env!("CARGO_PKG_VERSION");
        let config = json!({
            "Datacenter": names.datacenter,
            "PrimaryDatacenter": names.datacenter,
            "NodeName": names.node,
            "NodeID": self.own_node_id,
            "Revision": "maxine",
            "Server": true,
            "Version": version,
            "BuildDate": "1970-01-01T00:00:00Z",
        });
        let member = member(&names.node, &names.datacenter, "", 0, true);
        let body = json!({
            "Config": config,
            "DebugConfig": {},
            "Coord": null,
            "Member": member,
            "Stats": {},
            "Meta": {},
            "xDS": null,
        });
        Ok(answer::json(StatusCode::OK, query.has("pretty"), &body))
    }

    pub(crate) fn agent_members(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let datacenter = &self.names.datacenter;
        let members = self.store.cluster().map(|admin| admin.status().members).unwrap_or_default();
        let mut shown: Vec<Value> = members
            .iter()
            .map(|one| {
                let (host, port) = one.peer_addr.rsplit_once(':').unwrap_or((&one.peer_addr, ""));
                let is_alive = one.reachable != Some(false);
                member(&one.name, datacenter, host, port.parse().unwrap_or(0), is_alive)
            })
            .collect();
        if shown.is_empty() {
            let leader = self.store.leadership_now().leader;
            shown.extend(leader.map(|name| member(&name, datacenter, "", 0, true)));
        }
        Ok(answer::json(StatusCode::OK, query.has("pretty"), &shown))
    }

    /// Calls `read` with every service of the agent.
    fn each_of_agent(&self, asked: &Asked, namespace: &Name, mut read: impl FnMut(&Shown<'_>)) {
        let snapshot = self.view.snapshot();
        for key in self.tables.on_node(namespace, &self.names.node) {
            let Some(service) = snapshot.state.service(&key.service) else { continue };
            let Some(instance) = service.instances.get(&key.instance) else { continue };
            let shown = self.shown(&key.service, service, instance, asked);
            if shown.is_of_agent() {
                read(&shown);
            }
        }
    }

    pub(crate) async fn agent_services(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_AGENT_SERVICE))?;
        if !asked.is_known {
            return self.hidden(asked, &options, None, json!({})).await;
        }
        self.tables.caught_up(&self.view).await;
        let _turn = self.turn(asked).await?;
        let filtering = Filtering::new(options.filter()?, &self.clock, asked.is_known);
        let len_max = asked.answer_len_max();
        let mut services = BTreeMap::new();
        self.each_of_agent(asked, &options.namespace, |shown| {
            let service = shown.agent_service();
            if !answer::is_over(services.len(), len_max) && filtering.matches(&service) {
                services.insert(shown.id().to_owned(), json!(service));
            }
        });
        filtering.check()?;
        Ok(answer::json_within(len_max, StatusCode::OK, options.pretty, &services))
    }

    pub(crate) async fn agent_checks(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (_, options) = self.options(asked, Some(OF_CHECK))?;
        if !asked.is_known {
            return self.hidden(asked, &options, None, json!({})).await;
        }
        self.tables.caught_up(&self.view).await;
        let _turn = self.turn(asked).await?;
        let filtering = Filtering::new(options.filter()?, &self.clock, asked.is_known);
        let len_max = asked.answer_len_max();
        let mut checks = BTreeMap::new();
        self.each_of_agent(asked, &options.namespace, |shown| {
            if answer::is_over(checks.len(), len_max) {
                return;
            }
            for check in shown.checks().filter(|check| filtering.matches(check)) {
                checks.insert(check.check_id.to_string(), check.into_owned());
            }
        });
        filtering.check()?;
        Ok(answer::json_within(len_max, StatusCode::OK, options.pretty, &checks))
    }

    /// The instance of the agent with this id.
    pub(crate) async fn agent_key(&self, namespace: &Name, id: &str) -> Option<InstanceKey> {
        self.tables.caught_up(&self.view).await;
        let snapshot = self.view.snapshot();
        let mut keys = self.tables.find(namespace, &self.names.node, id).into_iter();
        keys.find(|key| snapshot.state.instance(key).is_some())
    }

    pub(crate) async fn agent_service(&self, asked: &Asked, id: &str) -> Result<Answer, Refusal> {
        let (query, options) = self.options(asked, None)?;
        let unknown = || Refusal::not_found(format!("unknown service ID: {id}"));
        let key = self.agent_key(&options.namespace, id).await.ok_or_else(unknown)?;
        let hash_now = || {
            let snapshot = self.view.snapshot();
            let service = snapshot.state.service(&key.service)?;
            let instance = service.instances.get(&key.instance)?;
            let shown = self.shown(&key.service, service, instance, asked);
            let (hash, service) = shown.hashed_agent_service();
            Some((hash, json!(service)))
        };
        if let Some(wanted) = query.get("hash") {
            let (_place, leave) = self.blocked_place(asked)?;
            let _blocked = self.metrics.blocked();
            let changed = async {
                // Changes of other instances of the service wake this too.
                let mut compared = None;
                loop {
                    let snapshot = self.view.snapshot();
                    let index = self.service_index(&snapshot, &key.service);
                    let modified = snapshot.state.instance(&key).map(|one| one.modified_index);
                    drop(snapshot);
                    let is_compared = modified.is_some() && compared == modified;
                    if !is_compared && hash_now().is_none_or(|(hash, _)| hash != wanted) {
                        return;
                    }
                    compared = modified;
                    self.service_changed_after(&key.service, index).await;
                }
            };
            self.wait(asked, &options, &leave, changed).await?;
        }
        let _turn = self.turn(asked).await?;
        let (hash, service) = hash_now().ok_or_else(unknown)?;
        let mut answer = answer::json(StatusCode::OK, options.pretty, &service);
        if let Ok(hash) = HeaderValue::try_from(hash) {
            answer.headers_mut().insert(CONTENT_HASH, hash);
        }
        Ok(answer)
    }

    /// The health of one service of the agent, or of all with one name.
    pub(crate) async fn agent_health(
        &self,
        asked: &Asked,
        name: &str,
        by_id: bool,
    ) -> Result<Answer, Refusal> {
        let (query, options) = self.options(asked, None)?;
        let accepts_text = asked.accept.as_ref().is_some_and(|value| value == "text/plain");
        let is_text = query.get("format") == Some("text") || accepts_text;
        self.tables.caught_up(&self.view).await;
        let _turn = self.turn(asked).await?;
        let mut found: Vec<(&'static str, Value)> = Vec::new();
        let mut read = |shown: &Shown<'_>| {
            let status = if shown.is_drained() { "maintenance" } else { shown.status() };
            let body = json!({
                "AggregatedStatus": status,
                "Service": shown.agent_service(),
                "Checks": shown.checks().collect::<Vec<_>>(),
            });
            found.push((status, body));
        };
        let snapshot = self.view.snapshot();
        let keys = match by_id {
            true => self.tables.find(&options.namespace, &self.names.node, name),
            false => {
                let services = self.view.spellings(self.named(&options.namespace, name)?.as_ref());
                let in_state = |key: ServiceKey| {
                    let ids = snapshot.state.service(&key)?.instances.keys().cloned();
                    Some(ids.map(|id| key.instance(id)).collect::<Vec<_>>())
                };
                services.keys.into_iter().filter_map(in_state).flatten().collect()
            }
        };
        for key in keys.iter().take(if by_id { 1 } else { usize::MAX }) {
            let Some(service) = snapshot.state.service(&key.service) else { continue };
            let Some(instance) = service.instances.get(&key.instance) else { continue };
            let shown = self.shown(&key.service, service, instance, asked);
            if shown.is_of_agent() {
                read(&shown);
            }
        }
        let rank = |status: &str| match status {
            "passing" => 0,
            "warning" => 1,
            "critical" => 2,
            _ => 3,
        };
        let worst = found.iter().map(|(status, _)| *status).max_by_key(|status| rank(status));
        let status = match worst {
            Some("passing") => StatusCode::OK,
            Some("warning") => StatusCode::TOO_MANY_REQUESTS,
            Some(_) => StatusCode::SERVICE_UNAVAILABLE,
            None => StatusCode::NOT_FOUND,
        };
        let reason = worst.unwrap_or("critical");
        let mut answer = match (is_text, by_id, found.as_slice()) {
            (true, ..) => answer::text(status, reason),
            (false, true, [(_, body)]) => answer::json(status, options.pretty, body),
            (false, true, _) => {
                let kind = format!("ServiceId {name} not found");
                answer::text(StatusCode::NOT_FOUND, kind)
            }
            (false, false, _) => {
                let bodies: Vec<_> = found.iter().map(|(_, body)| body).collect();
                answer::json(status, options.pretty, &bodies)
            }
        };
        answer.headers_mut().insert(REASON, HeaderValue::from_static(reason));
        Ok(answer)
    }
}

/// A node with its services.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices<'a, T> {
    node: Node<'a>,
    services: T,
}

/// The id of a service among those of its node. Maxine's ids are unique within a service only, so that of a second
/// service has the service's name in front.
fn unique_id<T>(taken: &BTreeMap<String, T>, id: &str, service: &str) -> String {
    if taken.contains_key(id) { format!("{service}/{id}") } else { id.to_owned() }
}

fn member(name: &str, datacenter: &str, host: &str, port: u16, is_alive: bool) -> Value {
    const ALIVE: u8 = 1;
    const FAILED: u8 = 4;
    json!({
        "Name": name,
        "Addr": host,
        "Port": port,
        "Tags": { "role": "consul", "dc": datacenter },
        "Status": if is_alive { ALIVE } else { FAILED },
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

#[cfg(test)]
mod tests {
    use super::super::shape::Names;
    use super::*;

    /// The size of the future that this function returns, in bytes.
    fn future_len<'a, F: Future + 'a>(_: impl FnOnce(&'a Inner, &'a Asked, &'a str) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_blocking_query_that_waits_holds_little_memory() {
        let len = future_len(Inner::health_service);
        assert!(len <= 4_096, "{len} bytes");
    }

    /// Otherwise an answer that has room would be cut, and not refused.
    #[test]
    fn objects_that_are_over_the_length_are_refused_when_they_are_written() {
        let names = Names { datacenter: "d".into(), node: String::new() };
        let values = [json!(node_check("")), json!(Node::own(&names, ""))];
        for value in values {
            let len = value.to_string().len();
            for count in [1, 10, 1_000] {
                assert!(!answer::is_over(count, count * len), "{value}");
            }
        }
        assert!(answer::is_over(1_000, 64 * 1_024));
    }

    #[test]
    fn a_filter_that_takes_too_long_ends_and_refuses_the_answer() {
        let clock = Clock::manual();
        let node = json!({"Node": "n"});
        for (is_known, ms_max) in [(true, FILTER_MS_MAX), (false, STRANGERS_FILTER_MS_MAX)] {
            let filter = Filter::parse("Node == n", OF_NODE).unwrap();
            let filtering = Filtering::new(Some(filter), &clock, is_known);
            clock.advance(Duration::from_millis(ms_max));
            assert!(filtering.matches(&node));
            assert_eq!(filtering.check(), Ok(()));
            clock.advance(Duration::from_millis(1));
            assert!(!filtering.matches(&node));
            assert_eq!(filtering.check().unwrap_err().status, StatusCode::BAD_REQUEST);
        }
    }
}
