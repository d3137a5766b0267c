//! Resolves host names, with a limited number of concurrent look-ups.
//!
//! The system's resolver blocks a thread and cannot be interrupted, so an abandoned look-up keeps its place.
//! Concurrent requests for the same name share one look-up. Half of the places are reserved for names that
//! were resolved before, so that new names that resolve slowly do not block known instances.

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
/// Look-ups at once of names that have not been resolved before.
const NEW_MAX: usize = LOOKUPS_MAX / 2;
/// How many of those only callers with a credential may cause.
const NEW_KEPT: usize = NEW_MAX / 4;
/// Percentage of the look-ups of new names, less those of other clients, that one client's requests may cause.
const NEW_SHARE_PERCENT: u8 = 50;

/// The caller for which a name is resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookupCaller<'a> {
    /// The client's address; unspecified for the node itself.
    pub(crate) address: IpAddr,
    /// Whether the address's own limit applies. It does not for the node itself, or for an address that
    /// stands for many clients.
    pub(crate) caller_class: CallerClass,
    /// Whether the name was resolved before.
    pub(crate) name_known: &'a AtomicBool,
}

impl<'a> LookupCaller<'a> {
    /// The node itself.
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

/// Resolves names. Clones are cheap and share their places.
#[derive(Clone)]
pub(crate) struct Lookups(Arc<Inner>);

struct Inner {
    resolver: Box<Resolver>,
    places: Arc<Places>,
    /// Places for names that were not resolved before.
    new_names: Arc<Places>,
    in_flight: Mutex<HashMap<Box<str>, Shared<BoxFuture<'static, Addresses>>>>,
}

/// Removes a look-up from the list, however it ends.
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
    /// Uses the system's resolver.
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

    /// The addresses of a name. The future may be dropped at any time.
    pub(crate) async fn resolve(
        &self,
        name: &str,
        caller: LookupCaller<'_>,
    ) -> Result<Arc<[IpAddr]>, ProxyError> {
        let found = self.begin(name, caller)?.await.ok_or(ProxyError::Resolve)?;
        caller.name_known.store(true, Ordering::Relaxed);
        Ok(found)
    }

    /// Starts a look-up, or joins the one in flight.
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

    /// Look-ups of names that begin with `slow` end once the sender is dropped; others end immediately.
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
    async fn names_that_resolve_slowly_leave_places_for_others_even_once_they_are_given_up() {
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
            // Nobody waits for them: the look-ups continue all the same.
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
    async fn a_name_is_looked_up_once_for_all_who_ask_meanwhile() {
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
