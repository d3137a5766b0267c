//! Resolves host names, with a limited number of concurrent look-ups.
//!
//! The system's resolver blocks a thread and cannot be interrupted, so an abandoned look-up keeps its place until it
//! ends. Concurrent requests for the same name share one look-up. Half of the places are reserved for names that were
//! resolved before, so that new names that resolve slowly do not block known instances.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::error::ProxyError;
use maxine_admission::{CallerClass, PlaceLimits, Places};

/// Maximum number of concurrent look-ups.
const LOOKUPS_MAX: usize = 64;
/// Maximum number of concurrent look-ups of names that have not been resolved before.
const NEW_MAX: usize = LOOKUPS_MAX / 2;
/// Number of these that are reserved for callers with a credential.
const NEW_KEPT: usize = NEW_MAX / 4;
/// Maximum percentage of the look-ups of new names that the requests of one client may cause, among those that other
/// clients leave.
const NEW_SHARE_PERCENT: u8 = 50;

/// For whom a name is resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookupCaller<'a> {
    /// The client's address; unspecified for the node itself.
    pub(crate) address: IpAddr,
    /// Whether the limit for the address applies. It does not apply to the node itself, or to an address that stands
    /// for many clients.
    pub(crate) caller_class: CallerClass,
    /// Whether the name was resolved before. A successful look-up sets it.
    pub(crate) name_known: &'a AtomicBool,
}

impl<'a> LookupCaller<'a> {
    /// A look-up by the node itself.
    pub(crate) fn node(name_known: &'a AtomicBool) -> Self {
        Self {
            address: Ipv4Addr::UNSPECIFIED.into(),
            caller_class: CallerClass::Trusted,
            name_known,
        }
    }
}

type Addresses = Option<Arc<[IpAddr]>>;
type Resolver = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Resolves names. Clones are cheap and share the limits.
#[derive(Clone)]
pub(crate) struct Lookups(Arc<Inner>);

struct Inner {
    resolver: Box<Resolver>,
    places: Arc<Places>,
    /// Places for names that were not resolved before.
    new_names: Arc<Places>,
    in_flight: Mutex<HashMap<Box<str>, Shared<BoxFuture<'static, Addresses>>>>,
}

/// Removes a look-up from the list when it ends, however it ends.
struct InFlightLookup {
    inner: Arc<Inner>,
    name: Box<str>,
}

impl Drop for InFlightLookup {
    fn drop(&mut self) {
        self.inner.in_flight.lock().remove(&self.name);
    }
}

impl Lookups {
    /// Uses the resolver of the operating system.
    pub(crate) fn new() -> Self {
        Self::with(|name: &str| Ok((name, 0).to_socket_addrs()?.map(|found| found.ip()).collect()))
    }

    fn with(resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        let limits = |max, reserved| PlaceLimits { max, per_address_max: max, reserved };
        Self(Arc::new(Inner {
            resolver: Box::new(resolver),
            places: Places::new(limits(LOOKUPS_MAX, 0)),
            new_names: Places::shared(limits(NEW_MAX, NEW_KEPT), NEW_SHARE_PERCENT),
            in_flight: Mutex::default(),
        }))
    }

    /// The addresses of a name. The future may be dropped at any time; the look-up continues then.
    pub(crate) async fn resolve(
        &self,
        name: &str,
        caller: LookupCaller<'_>,
    ) -> Result<Arc<[IpAddr]>, ProxyError> {
        let found = self.begin(name, caller)?.await.ok_or(ProxyError::Resolve)?;
        caller.name_known.store(true, Ordering::Relaxed);
        Ok(found)
    }

    /// Starts a look-up, or joins one that is in flight.
    fn begin(
        &self,
        name: &str,
        caller: LookupCaller<'_>,
    ) -> Result<Shared<BoxFuture<'static, Addresses>>, ProxyError> {
        let inner = &self.0;
        let mut in_flight = inner.in_flight.lock();
        if let Some(present) = in_flight.get(name) {
            return Ok(present.clone());
        }
        let take = |places: &Arc<Places>| {
            places.take(caller.address, caller.caller_class, 1).map_err(|_| ProxyError::LookupsBusy)
        };
        let is_new = !caller.name_known.load(Ordering::Relaxed);
        let places = (is_new.then(|| take(&inner.new_names)).transpose()?, take(&inner.places)?);
        let entry = InFlightLookup { inner: Arc::clone(inner), name: name.into() };
        let work = tokio::task::spawn_blocking(move || {
            let found = (entry.inner.resolver)(&entry.name);
            drop((entry, places));
            found
                .inspect_err(|error| tracing::debug!(%error, "a host name was not resolved"))
                .ok()
                .map(Arc::from)
        });
        let shared = async move { work.await.ok().flatten() }.boxed().shared();
        in_flight.insert(name.into(), shared.clone());
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use super::*;

    /// Look-ups of names that begin with `slow` end when the sender is dropped. Others end immediately.
    fn slow_names() -> (Lookups, mpsc::SyncSender<()>, Arc<AtomicUsize>) {
        let (release, held) = mpsc::sync_channel(0);
        let held = Mutex::new(held);
        let (open, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&begun);
        let lookups = Lookups::with(move |name| {
            counted.fetch_add(1, Ordering::SeqCst);
            if name.starts_with("slow") && !open.load(Ordering::SeqCst) {
                let _closed: Result<(), _> = held.lock().recv();
                open.store(true, Ordering::SeqCst);
            }
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        });
        (lookups, release, begun)
    }

    #[tokio::test]
    async fn slow_names_leave_places_for_others_even_if_they_are_abandoned() {
        let (lookups, release, _) = slow_names();
        let (new, known) = (AtomicBool::new(false), AtomicBool::new(true));
        let others = AtomicBool::new(false);
        let caller = |last: u8, name_known| LookupCaller {
            address: [10, 0, 0, last].into(),
            caller_class: CallerClass::Stranger,
            name_known,
        };
        let mut begun = Vec::new();
        for client in 1..=6 {
            // Nobody waits for these look-ups, but they continue.
            let names = (0..NEW_MAX).map(|n| format!("slow-{client}-{n}"));
            let begins = names.map(|name| lookups.begin(&name, caller(client, &new)));
            begun.push(begins.filter(Result::is_ok).count());
            if client == 2 {
                let other = lookups.resolve("other", caller(3, &others)).await;
                assert!(other.is_ok(), "{other:?}");
            }
        }
        assert_eq!(begun, [12, 6, 3, 2, 1, 0], "one client gets half of what the others leave");
        let busy = lookups.resolve("another", caller(10, &new)).await;
        assert_eq!(busy.unwrap_err(), ProxyError::LookupsBusy);
        let credential = LookupCaller { caller_class: CallerClass::Known, ..caller(10, &others) };
        let kept = AtomicBool::new(false);
        let found =
            lookups.resolve("another", LookupCaller { name_known: &kept, ..credential }).await;
        assert!(found.is_ok(), "some are kept for callers with a credential: {found:?}");
        let found = lookups.resolve("orders", caller(1, &known)).await;
        assert!(found.is_ok(), "a name that was resolved before: {found:?}");
        drop(release);
        while lookups.0.places.taken() + lookups.0.in_flight.lock().len() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(lookups.resolve("another", caller(10, &new)).await.is_ok());
        assert!(new.load(Ordering::Relaxed), "from now on it is a known one");
    }

    #[tokio::test]
    async fn concurrent_requests_for_a_name_share_one_look_up() {
        let (lookups, release, begun) = slow_names();
        let new = AtomicBool::new(false);
        let asks = (1..=100_u8).map(|last| {
            lookups.resolve(
                "slow",
                LookupCaller {
                    address: [10, 0, 0, last].into(),
                    caller_class: CallerClass::Stranger,
                    name_known: &new,
                },
            )
        });
        let all = futures::future::join_all(asks);
        let (all, ()) = futures::future::join(all, async { drop(release) }).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }
}
