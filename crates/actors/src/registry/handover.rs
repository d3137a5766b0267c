//! The former leader's side of a transfer of leases: answers the next leader how long each lease had left.
//!
//! [`maxine_control::leases`] decides which leases are transferred. The other side is in `takeover`.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::super::peer::{FormerLeases, LeasePage, PAGE_LEN_MAX, PeerService};
use super::super::supervisor::Supervised;
use super::leases::{HandOver, LeaseActor};
use maxine_view::View;

/// How long the previous leader waits for the grant that ends its own.
const GRANT_TIMEOUT: Duration = Duration::from_millis(800);

/// Tells the next leader the remaining times of the leases.
pub(super) struct HandoverService {
    pub(super) actor: Supervised<LeaseActor>,
    pub(super) view: Arc<View>,
    /// Set to true once the next leader has all remaining times.
    pub(super) handed_over: watch::Sender<bool>,
}

impl PeerService<FormerLeases> for HandoverService {
    fn answer(&self, ask: FormerLeases) -> BoxFuture<'static, Result<LeasePage, String>> {
        let (actor, view) = (self.actor.clone(), Arc::clone(&self.view));
        let handed_over = self.handed_over.clone();
        async move {
            let FormerLeases { former, present, from } = ask;
            let seen = view.wait_for(present.0, GRANT_TIMEOUT).await;
            seen.map_err(|_| "the new leader's grant has not arrived here")?;
            let ask = HandOver { former, present };
            let left = actor.send(ask).await.map_err(|error| error.to_string())??;
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(left.leases().len());
            let rest = &left.leases()[from..];
            let page = &rest[..rest.len().min(PAGE_LEN_MAX)];
            let more = page.len() < rest.len();
            if !more {
                handed_over.send_replace(true);
            }
            let suspended_ms = left.suspended_ms();
            Ok(LeasePage { leases: page.to_vec(), more, suspended_ms })
        }
        .boxed()
    }
}
