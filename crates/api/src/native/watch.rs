//! Watches: server-sent events and long polls.
//!
//! A watcher is a position in the view's ring. It has no queue, so it costs the same whether its client reads or not.
//! If the ring overtakes a slow client, the client gets the event `compacted`, and its stream ends. Each change is
//! serialized once, and all its watchers share the text.
//!
//! **Invariant:** there are no gaps. A watcher gets every change of its scope in order, or the event `compacted`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch as watch_channel;
use utoipa::{IntoParams, ToSchema};

use super::change::Change;
use super::extract::{Params, service_key};
use super::fresh::Answered;
use super::history_index::HistoryIndex;
use super::shape::Detail;
use crate::problem::{Problem, ProblemKind};
use crate::send_monitor::Streamed;
use crate::stopping::Stopping;
use crate::{AppState, CalledBy, Caller, RequestContext};
use maxine_admission::{Leave, NoPlace, Place, PlaceLimits, Places};
use maxine_state::limits::check_range;
use maxine_state::{Event, History, Name, Role, ServiceKey};
use maxine_view::{Compacted, WatchScope, Watcher, WatcherLost};

/// If a part of a stream has this length, no further change is added to it. In bytes. It limits the memory for one slow
/// client.
const PIECE_LEN_MIN: usize = 16 * 1_024;
/// If there is no change for this time, a comment is sent. In milliseconds.
const HEARTBEAT_MS: u64 = 10_000;
/// Maximum age of a stream, in milliseconds, so that a client that lost its permission cannot watch forever. Up to half
/// as much is added at random, so that streams do not end at the same time. The client resumes at its position.
const STREAM_AGE_MS: u64 = 900_000;
/// How long a watcher whose index is ahead of this node waits for the node, in milliseconds.
const AHEAD_TIMEOUT_MS: u64 = 2_000;
/// Maximum wait of a long-poll, in milliseconds.
const WAIT_MS_MAX: u64 = 60_000;
/// Default wait of a long-poll, in milliseconds.
const WAIT_MS_DEFAULT: u64 = 30_000;
/// Number of changes whose text is kept for other watchers.
const FRAMES_LEN: usize = 1_024;

/// Prevents nginx from buffering an answer.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A change, and its text for clients.
type Frame = (Arc<Event>, Bytes);

/// What all watchers of a node share.
pub(super) struct Watchers {
    places: Arc<Places>,
    /// The texts of recent changes. The text of a change is at its index modulo the length.
    with_probes: Box<[ArcSwapOption<Frame>]>,
    /// The same without probes, for callers without a credential.
    without_probes: Box<[ArcSwapOption<Frame>]>,
}

impl Watchers {
    pub(super) fn new(limits: PlaceLimits) -> Self {
        let frames = || {
            let empty = || ArcSwapOption::const_empty();
            std::iter::repeat_with(empty).take(FRAMES_LEN).collect()
        };
        Self { places: Places::fair(limits), with_probes: frames(), without_probes: frames() }
    }

    /// A place for a watcher. The watch must end when the place is displaced: when a client that has fewer watchers
    /// needs it.
    pub(super) fn admit(
        &self,
        caller: &Caller,
        client: IpAddr,
    ) -> Result<(Place, Arc<Leave>), Problem> {
        let known = caller.role.is_some();
        let taken = self.places.take(client, caller.class(), 1).map(|mut place| {
            let leave = Arc::new(Leave::after(Duration::ZERO));
            place.give_way(&leave);
            (place, leave)
        });
        taken.map_err(|why| {
            let limits = self.places.limits();
            let detail = match why {
                NoPlace::Node if known => {
                    let open = limits.max - caller.class().kept_from(limits.reserved);
                    format!("this node has {open} watchers, its limit for callers with your role")
                }
                NoPlace::Node => {
                    let open = limits.max - limits.reserved;
                    format!("this node has {open} watchers, its limit for callers without a token")
                }
                NoPlace::Address => {
                    let max = limits.per_address_max;
                    let who = if known { "user" } else { "address" };
                    format!(
                        "your {who} has {max} watchers, the limit (http.watchers_per_address_max)"
                    )
                }
            };
            Problem::new(ProblemKind::TooManyRequests, detail).with_retry_after_s(10)
        })
    }

    /// The text of a change, as a server-sent event.
    fn frame(&self, event: &Arc<Event>, history: Option<History>, detail: Detail) -> Bytes {
        let at = usize::try_from(event.index).unwrap_or(0) % FRAMES_LEN;
        let slot = match detail {
            Detail::Full | Detail::WithoutSecrets => &self.with_probes[at],
            Detail::WithoutProbes => &self.without_probes[at],
        };
        if let Some(kept) = &*slot.load()
            // The slot may hold another change with the same index, after a loss of acknowledged writes.
            && Arc::ptr_eq(&kept.0, event)
        {
            return kept.1.clone();
        }
        let change = Change::new(event, detail);
        let json = serde_json::to_string(&change).unwrap_or_default();
        let kind = change.kind();
        let id = HistoryIndex::new(history, event.index);
        let frame = Bytes::from(format!("id: {id}\nevent: {kind}\ndata: {json}\n\n"));
        slot.store(Some(Arc::new((Arc::clone(event), frame.clone()))));
        frame
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Watch {
    /// Only this namespace. If it is left out and `service` is not, the namespace is `default`.
    namespace: Option<String>,
    /// Only this service.
    service: Option<String>,
    /// Only changes after this index, or after `HISTORY-INDEX`, as in the ids of events; by default, only changes from
    /// now on. `Last-Event-ID` takes precedence.
    #[param(value_type = Option<String>)]
    index: Option<HistoryIndex>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Poll {
    /// Only this namespace. If it is left out and `service` is not, the namespace is `default`.
    namespace: Option<String>,
    /// Only this service.
    service: Option<String>,
    /// Only changes after this index, or after `HISTORY-INDEX`; by default, only changes from now on.
    #[param(value_type = Option<String>)]
    index: Option<HistoryIndex>,
    /// How long to wait for the first change, in milliseconds; by default 30000.
    #[param(minimum = 0, maximum = 60000)]
    wait_ms: Option<u64>,
    /// Maximum number of changes in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
}

/// The scope of a watch. Without a service, it needs a viewer, because it shows more than a look-up would.
fn scope(
    caller: &Caller,
    namespace: Option<&str>,
    service: Option<&str>,
) -> Result<WatchScope, Problem> {
    if let Some(service) = service {
        let namespace = namespace.unwrap_or(ServiceKey::DEFAULT_NAMESPACE);
        return Ok(WatchScope::Service(service_key(namespace, service)?));
    }
    if !caller.has(Role::Viewer) {
        let kind =
            if caller.role.is_none() { ProblemKind::Unauthorized } else { ProblemKind::Forbidden };
        let detail = "watching more than one service needs the role viewer";
        return Err(Problem::new(kind, detail));
    }
    Ok(match namespace {
        Some(namespace) => WatchScope::Namespace(Name::parse_namespace(namespace)?),
        None => WatchScope::Everything,
    })
}

/// Starts a watcher behind an index.
async fn subscribe(
    state: &AppState,
    scope: WatchScope,
    after: Option<HistoryIndex>,
) -> Result<Watcher, Compacted> {
    let Some(after) = after else {
        // Changes between reading the index and subscribing are not missed, because the ring still has them.
        return state.view().hub().subscribe(scope, state.view().index());
    };
    // A client may come from another node that is ahead of this one. If this node does not catch up in time, the index
    // is taken for one of another history.
    let timeout = Duration::from_millis(AHEAD_TIMEOUT_MS);
    let reached = state.view().wait_for(after.index, timeout).await.is_ok();
    let anew = Compacted { oldest: state.view().index() };
    if !reached {
        return Err(anew);
    }
    let watcher = state.view().hub().subscribe(scope, after.index)?;
    if after.is_in(watcher.history()) { Ok(watcher) } else { Err(anew) }
}

/// The position in `Last-Event-ID`; `None` without that header.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<HistoryIndex>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let place = value.to_str().ok().and_then(|id| id.parse().ok());
    place.map(Some).ok_or_else(|| {
        let detail = "Last-Event-ID must be an id of this stream";
        Problem::new(ProblemKind::InvalidRequest, detail).with_field("Last-Event-ID")
    })
}

/// Streams changes as server-sent events.
///
/// The first event is `ready`, with the index after which the stream starts. The id of each event is its history and
/// its index. A client that reconnects with `Last-Event-ID` misses nothing. The event `compacted` ends the stream,
/// because the changes are no longer kept or another history has begun: read a list, and watch from its
/// `x-maxine-history` and `x-maxine-index`, with a hyphen between them.
#[utoipa::path(
    get, path = "/api/v1/watch", tag = "watch", operation_id = "watch",
    params(Watch, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen.")),
    responses((status = 200, body = String, content_type = "text/event-stream")),
)]
pub(super) async fn watch(
    State(state): State<AppState>,
    Extension(watchers): Extension<Arc<Watchers>>,
    Params(query): Params<Watch>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    answered: Answered,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let scope = scope(&caller, query.namespace.as_deref(), query.service.as_deref())?;
    let last_seen = last_event_id(&headers)?.or(query.index);
    let (place, leave) = watchers.admit(&caller, context.client.ip)?;
    let subscribed = subscribe(&state, scope, last_seen).await;
    let age_ms = STREAM_AGE_MS + fastrand::u64(0..STREAM_AGE_MS / 2);
    let ends_at_ms = state.clock().monotonic_ms() + age_ms;
    answered.by_present(&state);
    let stage = match subscribed {
        Ok(watcher) => Stage::Ready(watcher),
        Err(compacted) => Stage::Lost(compacted),
    };
    let published = state.view().hub().published();
    let detail = Detail::of_changes(&caller);
    let stream = Stream {
        stage,
        state,
        caller,
        watchers,
        detail,
        published,
        ends_at_ms,
        leave,
        _place: place,
    };
    let body = Body::from_stream(stream::unfold(stream, Stream::next));
    // Proxies must forward each part immediately. nginx buffers answers unless this header forbids it. Proxies also
    // buffer answers that they compress or rewrite.
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((fields, Extension(Streamed), body).into_response())
}

/// Whether this node does not belong to the cluster any more, or the caller's credential is not valid any more.
pub(super) fn may_not_go_on(state: &AppState, caller: &Caller) -> bool {
    state.store().exclusion().is_some() || !state.security().is_still_valid(caller)
}

enum Stage {
    Ready(Watcher),
    Running(Watcher),
    Lost(Compacted),
    Ended,
}

struct Stream {
    stage: Stage,
    state: AppState,
    caller: Caller,
    watchers: Arc<Watchers>,
    detail: Detail,
    published: watch_channel::Receiver<u64>,
    ends_at_ms: u64,
    /// Set when another client has the place.
    leave: Arc<Leave>,
    _place: Place,
}

impl Stream {
    /// The next part of the stream. It is only called when the client can receive it.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let (piece, stage) = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ready(watcher) => {
                let after = watcher.after();
                let id = HistoryIndex::new(watcher.history(), after);
                let history = watcher.history().map(|history| history.to_string());
                let data = serde_json::json!({ "index": after, "history": history });
                // The comment comes first, so that the client gets a first byte immediately.
                let text =
                    format!(": watching\n\nretry: 1000\nid: {id}\nevent: ready\ndata: {data}\n\n");
                (Bytes::from(text), Stage::Running(watcher))
            }
            Stage::Running(_) if self.must_end() => return None,
            Stage::Running(mut watcher) => match self.piece(&mut watcher).await {
                Ok(_) if self.must_end() => return None,
                Ok(piece) => (piece, Stage::Running(watcher)),
                Err(WatcherLost::Compacted(lost)) => (compacted(lost), Stage::Ended),
                Err(WatcherLost::Closed) => return None,
            },
            Stage::Lost(lost) => (compacted(lost), Stage::Ended),
            Stage::Ended => return None,
        };
        self.stage = stage;
        Some((Ok(piece), self))
    }

    /// Whether the stream ends, and why the client has to ask again: its credential is not valid any more, this node
    /// does not belong to the cluster any more, another client has its place, or the stream is old.
    fn must_end(&self) -> bool {
        self.state.clock().monotonic_ms() >= self.ends_at_ms
            || self.leave.is_displaced()
            || may_not_go_on(&self.state, &self.caller)
    }

    /// The next changes. If there are none for a while, a comment with the index that the client has reached. If the
    /// client reconnects with that index, it need not read a list because of changes of other services.
    async fn piece(&self, watcher: &mut Watcher) -> Result<Bytes, WatcherLost> {
        let wait = tokio::time::timeout(Duration::from_millis(HEARTBEAT_MS), watcher.next(1));
        let wait = self.state.ending().run_until_cancelled(wait);
        let waited = tokio::select! {
            biased;
            waited = wait => waited,
            () = self.leave.displaced() => None,
        };
        let Some(waited) = waited else { return Err(WatcherLost::Closed) };
        if let Ok(events) = waited {
            return Ok(self.watchers.piece(&events?, watcher, self.detail));
        }
        // The index is read first, so that the changes taken below include everything up to it.
        let published = *self.published.borrow();
        let events = watcher.take(1)?;
        if !events.is_empty() {
            return Ok(self.watchers.piece(&events, watcher, self.detail));
        }
        let index = published.max(watcher.after());
        let id = HistoryIndex::new(watcher.history(), index);
        Ok(Bytes::from(format!("id: {id}\n: still here\n\n")))
    }
}

impl Watchers {
    /// A piece with the first changes, and with further ones until it is long enough. A single change is not copied.
    fn piece(&self, first: &[Arc<Event>], watcher: &mut Watcher, detail: Detail) -> Bytes {
        let frame = |event| self.frame(event, watcher.history(), detail);
        let mut frames: Vec<Bytes> = first.iter().map(frame).collect();
        let mut len: usize = frames.iter().map(Bytes::len).sum();
        // If the ring has overtaken the watcher, the next piece reports that.
        while len < PIECE_LEN_MIN
            && let Ok(events) = watcher.take(1)
            && let [event] = events.as_slice()
        {
            let frame = self.frame(event, watcher.history(), detail);
            len += frame.len();
            frames.push(frame);
        }
        match frames.as_slice() {
            [only] => only.clone(),
            frames => Bytes::from(frames.concat()),
        }
    }
}

/// The event `compacted`. It has no id, because a client that reconnected with one would miss changes unnoticed.
fn compacted(lost: Compacted) -> Bytes {
    Bytes::from(format!("event: compacted\ndata: {{\"index\":{}}}\n\n", lost.oldest))
}

/// Changes after an index.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Changes {
    /// The index after the last of the changes. Pass it as `index` of the next request.
    index: u64,
    /// The history that the index belongs to; null while this node has none. Pass `HISTORY-INDEX` as `index` of the
    /// next request.
    history: Option<String>,
    /// The changes, in order; empty if there was none in time.
    changes: Vec<Change>,
}

/// Waits for changes after an index.
#[utoipa::path(
    get, path = "/api/v1/changes", tag = "watch", operation_id = "pollChanges", params(Poll),
    responses((status = 200, body = Changes)),
)]
pub(super) async fn poll_changes(
    State(state): State<AppState>,
    Extension(watchers): Extension<Arc<Watchers>>,
    Params(query): Params<Poll>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    answered: Answered,
) -> Result<Response, Problem> {
    let scope = scope(&caller, query.namespace.as_deref(), query.service.as_deref())?;
    let limit = super::page::limit(query.limit)?;
    let wait_ms = query.wait_ms.unwrap_or(WAIT_MS_DEFAULT);
    check_range("wait_ms", wait_ms, 0, WAIT_MS_MAX)?;
    let (_place, leave) = watchers.admit(&caller, context.client.ip)?;
    let gone = |lost: Compacted| {
        answered.by_present(&state);
        Problem::new(ProblemKind::Compacted, lost.to_string()).with_field("index")
    };
    let mut watcher = subscribe(&state, scope, query.index).await.map_err(|lost| {
        let history = state.view().snapshot().state.history();
        if let Some(place) = query.index.filter(|place| !place.is_in(history)) {
            answered.by_present(&state);
            let detail = place.has_ended(history);
            return Problem::new(ProblemKind::Compacted, detail).with_field("index");
        }
        let present = state.view().index();
        match query.index.filter(|place| place.index > present) {
            None => gone(lost),
            Some(place) => {
                answered.by_present(&state);
                let detail = format!(
                    "this node is at index {present} and has not reached {}: that index is of another \
                     history, or this node is behind",
                    place.index
                );
                Problem::new(ProblemKind::Compacted, detail).with_field("index")
            }
        }
    })?;
    let mut events = watcher.take(limit).map_err(gone)?;
    if events.is_empty() && wait_ms > 0 {
        // The position moves only with returned changes, so a wait that ends without a change loses nothing.
        let mut left_ms = wait_ms;
        while events.is_empty() && left_ms > 0 {
            let part_ms = left_ms.min(HEARTBEAT_MS);
            left_ms -= part_ms;
            let wait = tokio::time::timeout(Duration::from_millis(part_ms), watcher.next(limit));
            let wait = state.ending().run_until_cancelled(wait);
            let waited = tokio::select! {
                biased;
                waited = wait => waited,
                // Another client has the place. The answer is that of a wait that ended without a change.
                () = leave.displaced() => break,
            };
            match waited {
                Some(Err(_)) if may_not_go_on(&state, &caller) => break,
                Some(Err(_)) => {}
                Some(Ok(Ok(newest))) => events = newest,
                Some(Ok(Err(WatcherLost::Compacted(lost)))) => return Err(gone(lost)),
                Some(Ok(Err(WatcherLost::Closed))) | None => return Err(Stopping.into()),
            }
        }
    }
    if let Some(reason) = state.store().exclusion() {
        return Err(Problem::new(ProblemKind::Unavailable, reason));
    }
    if !state.security().is_still_valid(&caller) {
        let detail = "the credential of this request stopped being valid while it waited";
        return Err(Problem::new(ProblemKind::Unauthorized, detail));
    }
    let mut index = watcher.after();
    if events.is_empty() {
        // The index is read first, so that the changes taken below include everything up to it. Returning it keeps the
        // watcher of a quiet service from falling behind because of changes of other services.
        let published = *state.view().hub().published().borrow();
        events = watcher.take(limit).map_err(gone)?;
        index = if events.is_empty() { published.max(index) } else { watcher.after() };
    }
    let detail = Detail::of_changes(&caller);
    answered.at(index);
    let history = watcher.history().map(|history| history.to_string());
    // One change can wake thousands of waiting polls, and each answer can have many megabytes.
    let turn = state.lists().turn(context.client.ip, &caller).await.map_err(|_| {
        let detail = "too many answers are to be built before this one";
        Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1)
    })?;
    let changes = events.iter().map(|event| Change::new(event, detail)).collect();
    let answer = Json(Changes { index, history, changes }).into_response();
    drop(turn);
    Ok(answer)
}
