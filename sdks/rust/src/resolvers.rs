//! All resolvers of a client, and those by which it sends requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::nodes::Nodes;
use crate::resolver::Resolver;

/// The zone of the client, and a service.
type Key = (Option<String>, String);

/// The resolvers of one client.
pub(crate) struct Resolvers {
    nodes: Arc<Nodes>,
    watches: Mutex<Vec<AbortHandle>>,
    /// Those by which requests are sent. A cell is empty while the first request reads the instances.
    shared: Mutex<HashMap<Key, Arc<OnceCell<Resolver>>>>,
}

impl Resolvers {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self { nodes, watches: Mutex::default(), shared: Mutex::default() }
    }

    /// A new resolver of a service.
    pub(crate) async fn open(&self, service: &str, zone: Option<&str>) -> Result<Resolver, Error> {
        let resolver = Resolver::open(Arc::clone(&self.nodes), service, zone).await?;
        let mut watches = self.watches();
        watches.retain(|watch| !watch.is_finished());
        watches.push(resolver.abort_handle());
        Ok(resolver)
    }

    /// The resolver by which requests to a service are sent.
    pub(crate) async fn of(&self, service: &str, zone: Option<&str>) -> Result<Resolver, Error> {
        let cell = {
            let key: Key = (zone.map(Into::into), service.to_owned());
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(shared.entry(key).or_default())
        };
        cell.get_or_try_init(|| self.open(service, zone)).await.cloned()
    }

    /// Ends all watches. The instances stay as they are.
    pub(crate) fn stop(&self) {
        for watch in self.watches().drain(..) {
            watch.abort();
        }
    }

    fn watches(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
