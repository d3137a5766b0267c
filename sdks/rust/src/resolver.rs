//! The instances of one service, as a watch keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use http::HeaderMap;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::clock;
use crate::error::Error;
use crate::instances::{Instance, Instances, Request, Service};
use crate::nodes::{Asked, Nodes};
use crate::options::Call;
use crate::path::{self, encoded};
use crate::sse::{Event, Events};
use crate::trace::{Outcome, Span, Traced};

/// The nodes send at least a comment every 10 s.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Changes that arrive within this time are read together.
const RELOAD_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const PAGE_LEN: u32 = 1_000;

/// The instances of a service that get traffic. A watch keeps them, and they stay while no node answers.
///
/// The strategy and the policy of the service need the role viewer to be read. Without it, instances are chosen in turn
/// by weight. The watch ends when the last clone is dropped, or the client is stopped.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
    task: Arc<Task>,
}

/// The task that follows the service. Dropping this ends it.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    nodes: Arc<Nodes>,
    service: String,
    zone: Option<String>,
    path: String,
    instances: ArcSwap<Instances>,
    turns: AtomicU64,
    begun_at: Instant,
    /// When a node has last confirmed the instances, in nanoseconds since `begun_at`.
    confirmed_ns: AtomicU64,
    changed: watch::Sender<()>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Instance>,
    next_cursor: Option<String>,
}

/// Instances that were read, and the position in the watch from which it continues; `None` to begin anew.
struct Read {
    instances: Instances,
    position: Option<String>,
}

impl Resolver {
    /// Reads the instances of a service, and follows its changes.
    pub(crate) async fn open(
        nodes: Arc<Nodes>,
        service: &str,
        zone: Option<&str>,
    ) -> Result<Self, Error> {
        let path = path::of_service(&nodes.options().namespace, service, &[])?;
        // Clients that start together begin at different instances.
        let turns = fastrand::u64(0..1 << 32);
        let none = Instances::new(Service::default(), Vec::new(), zone, turns, None);
        let shared = Arc::new(Shared {
            nodes,
            service: service.into(),
            zone: zone.map(Into::into),
            path,
            instances: ArcSwap::from_pointee(none),
            turns: AtomicU64::new(turns),
            begun_at: clock::now(),
            confirmed_ns: AtomicU64::new(0),
            changed: watch::Sender::new(()),
        });
        let position = shared.load(None).await?;
        let follower = Follower { shared: Arc::clone(&shared), position };
        let task = Arc::new(Task(tokio::spawn(follower.run()).abort_handle()));
        Ok(Self { shared, task })
    }

    /// Ends the watch when it is used. The instances stay as they are.
    pub(crate) fn abort_handle(&self) -> AbortHandle {
        self.task.0.clone()
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// Calls a function with the instances, in the order of their names.
    pub fn with_instances<T>(&self, look: impl FnOnce(&[Instance]) -> T) -> T {
        look(self.shared.instances.load().list())
    }

    /// Wakes at each change of the instances. It ends with the resolver.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// The time since a node has confirmed the instances: up to 10 s while a node is reached.
    #[must_use]
    pub fn age(&self) -> Duration {
        let confirmed = Duration::from_nanos(self.shared.confirmed_ns.load(Ordering::Relaxed));
        self.shared.elapsed().saturating_sub(confirmed)
    }

    /// Chooses an instance for a request, as a node would for the same request of the same client; `None` if there is
    /// none. An instance that could not be reached is avoided for some seconds. No node is asked.
    #[must_use]
    pub fn choose(&self, request: &Request<'_>) -> Option<Chosen> {
        let instances = self.shared.instances.load_full();
        let chosen_at = self.shared.elapsed();
        let position = instances.choose(request, &self.shared.turns, chosen_at)?;
        let instance = &instances.list()[position];
        instance.begin();
        let options = self.shared.nodes.options();
        let span = options.tracer.as_ref().and_then(|tracer| {
            tracer.start(&Traced::Instance {
                namespace: &options.namespace,
                service: &self.shared.service,
                instance: &instance.id,
                address: &instance.address,
            })
        });
        let shared = Arc::clone(&self.shared);
        Some(Chosen { shared, instances, position, chosen_at, span, failed: false })
    }
}

/// An instance that was chosen for a request. It counts as in flight until [`Chosen::end`], or until this is dropped.
///
/// Dropping it says nothing about whether the instance could be reached.
pub struct Chosen {
    shared: Arc<Shared>,
    instances: Arc<Instances>,
    position: usize,
    chosen_at: Duration,
    span: Option<Box<dyn Span>>,
    failed: bool,
}

impl Chosen {
    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instances.list()[self.position]
    }

    /// Sets the header fields that pass the trace on, if the client has a tracer.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.inject(headers);
        }
    }

    /// Reports how the request has ended. An instance that could not be reached (`failed`) is avoided for 2 s, and
    /// twice as long each time it fails again, up to 60 s.
    pub fn end(mut self, outcome: &Outcome<'_>) {
        if let Some(span) = self.span.take() {
            span.end(outcome);
        }
        self.failed = outcome.failed;
        if outcome.failed {
            self.instance().failed(self.shared.elapsed());
        } else {
            self.instance().reached();
        }
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.instance().end();
        if let Some(on_call) = &self.shared.nodes.options().on_call {
            on_call(&Call {
                service: self.shared.service.clone(),
                instance: self.instance().id.clone(),
                duration: self.shared.elapsed().saturating_sub(self.chosen_at),
                failed: self.failed,
            });
        }
    }
}

impl Shared {
    fn elapsed(&self) -> Duration {
        clock::now() - self.begun_at
    }

    /// Notes that a node has just confirmed the instances.
    fn confirm(&self) {
        let elapsed_ns = u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.confirmed_ns.store(elapsed_ns, Ordering::Relaxed);
    }

    /// Reads the instances and the policy as they are at a position or later, and publishes them. Returns the position
    /// from which the watch continues.
    async fn load(&self, at_least: Option<&str>) -> Result<Option<String>, Error> {
        let read = match self.read(at_least).await {
            // Another history has begun.
            Err(error) if at_least.is_some() && error.status() == Some(StatusCode::GONE) => {
                self.read(None).await?
            }
            read => read?,
        };
        self.instances.store(Arc::new(read.instances));
        self.confirm();
        self.changed.send_replace(());
        Ok(read.position)
    }

    async fn read(&self, at_least: Option<&str>) -> Result<Read, Error> {
        let (list, position) = self.read_list(at_least).await?;
        let service = match self.nodes.json::<Service>(&Asked::new(Method::GET, &self.path)).await {
            Ok((service, _)) => service,
            Err(error) if is_hidden(&error) => Service::default(),
            Err(error) => return Err(error),
        };
        let (before, turns) = (self.instances.load_full(), self.turns.load(Ordering::Relaxed));
        let zone = self.zone.as_deref();
        let instances = Instances::new(service, list, zone, turns, Some(&before));
        Ok(Read { instances, position })
    }

    async fn read_list(
        &self,
        at_least: Option<&str>,
    ) -> Result<(Vec<Instance>, Option<String>), Error> {
        let mut list = Vec::new();
        let mut position: Option<String> = None;
        let mut cursor: Option<String> = None;
        loop {
            let mut path = format!("{}/instances?health=routable&limit={PAGE_LEN}", self.path);
            // No page may be older than the first one, whichever node answers.
            if let Some(min_index) = position.as_deref().or(at_least) {
                path.push_str(&format!("&min_index={}", encoded(min_index)));
            }
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={}", encoded(cursor)));
            }
            let answer = self.nodes.json::<Page>(&Asked::new(Method::GET, &path)).await;
            let (Page { items, next_cursor }, headers) = match answer {
                Ok(answer) => answer,
                Err(error) if is_unknown_service(&error) => return Ok((Vec::new(), None)),
                Err(error) => return Err(error),
            };
            list.extend(items);
            // The watch continues from the oldest page.
            position = position.or_else(|| position_of(&headers));
            let Some(next) = next_cursor else { return Ok((list, position)) };
            cursor = Some(next);
        }
    }
}

/// Follows the changes of a service.
struct Follower {
    shared: Arc<Shared>,
    position: Option<String>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let pause = match self.watch().await {
                Ok(()) => RELOAD_PAUSE,
                Err(error) => {
                    self.shared.nodes.options().report(&error);
                    RETRY_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads one stream to its end.
    async fn watch(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let namespace = encoded(&shared.nodes.options().namespace);
        let service = encoded(&shared.service);
        let path = format!("/api/v1/watch?namespace={namespace}&service={service}");
        let (stream, node) = shared.nodes.stream(&path, self.position.as_deref()).await?;
        let mut pieces = stream.bytes_stream().boxed();
        let mut events = Events::default();
        loop {
            let piece = match tokio::time::timeout(SILENCE_MAX, pieces.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => {
                    shared.nodes.failed(node);
                    return Err(error.into());
                }
                Err(_) => {
                    shared.nodes.failed(node);
                    return Err(Error::Late);
                }
            };
            events.push(&piece);
            while let Some(event) = events.take() {
                if self.handle(node, event).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Handles one event. Returns whether the stream is over.
    async fn handle(&mut self, node: usize, event: Event) -> Result<bool, Error> {
        let is_newer = index_of(event.id.as_deref()) > index_of(self.position.as_deref());
        match event.kind.as_deref() {
            Some("ready") => {
                self.shared.nodes.worked(node);
                if self.position.is_none() {
                    // Something may have changed between the list and this stream.
                    self.position = self.shared.load(None).await?;
                }
            }
            Some("compacted") => {
                self.position = None;
                self.position = self.shared.load(None).await?;
                return Ok(true);
            }
            Some(_) if is_newer => {
                tokio::time::sleep(RELOAD_PAUSE).await;
                self.position = self.shared.load(event.id.as_deref()).await?;
            }
            Some(_) | None => {}
        }
        if index_of(event.id.as_deref()) > index_of(self.position.as_deref()) {
            self.position = event.id;
        }
        self.shared.confirm();
        Ok(false)
    }
}

/// Whether this client may not read the policy of the service, or it has none.
fn is_hidden(error: &Error) -> bool {
    matches!(
        error.status(),
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
    )
}

/// Whether a node knows no such service. An answer that is not a node's says nothing.
fn is_unknown_service(error: &Error) -> bool {
    match error {
        Error::Refused { status, problem, .. } => {
            *status == StatusCode::NOT_FOUND && !problem.is_null()
        }
        _ => false,
    }
}

/// The position in the watch that an answer has.
fn position_of(headers: &HeaderMap) -> Option<String> {
    let field = |name: &str| headers.get(name)?.to_str().ok();
    Some(format!("{}-{}", field("x-maxine-history")?, field("x-maxine-index")?))
}

/// The index in a position such as `5f3a9c0027e1b4d8-1234`.
fn index_of(position: Option<&str>) -> Option<u64> {
    position?.rsplit('-').next()?.parse().ok()
}
