//! Confirmations that only an operator can give, and that the leader needs: that the silent instances are
//! gone, or that the leader's clock is right. Any node accepts them, like a write.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::leadership::Duties;
use super::super::peer::{self, Confirm, Confirmation, PeerService, To};
use super::super::supervisor::Supervised;
use super::Registry;
use super::leases::{ConfirmSilence, LeaseActor};
use maxine_clock::Clock;
use maxine_store::CallError;

/// Time limit for the leader's answer.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// Carries confirmations out on the leader.
#[derive(Clone)]
pub(super) struct Confirmer {
    pub(super) leases: Supervised<LeaseActor>,
    pub(super) clock: Clock,
    pub(super) duties: Duties,
}

impl Confirmer {
    async fn carry_out(&self, what: Confirmation) -> Result<bool, String> {
        if self.duties.borrow().is_none() {
            return Err(String::from("this node does not lead"));
        }
        match what {
            Confirmation::Silence => {
                // If the actor ends before it answers, the actor that replaces it does not know of the
                // confirmation, so the caller gets an error.
                self.leases.send(ConfirmSilence).await.map_err(|error| error.to_string())
            }
            Confirmation::Clock => {
                self.clock.confirm();
                Ok(true)
            }
        }
    }
}

impl PeerService<Confirm> for Confirmer {
    fn answer(&self, Confirm(what): Confirm) -> BoxFuture<'static, Result<bool, String>> {
        let confirmer = self.clone();
        async move { confirmer.carry_out(what).await }.boxed()
    }
}

impl Registry {
    /// Sends a confirmation to the leader. Repeating it does no harm. Returns `false` if there was nothing to
    /// confirm.
    ///
    /// # Errors
    ///
    /// Fails if no leader accepted it, or if that is unknown.
    pub async fn confirm(&self, what: Confirmation) -> Result<bool, CallError> {
        peer::call(&**self.store(), To::Leader, Confirm(what), CONFIRM_TIMEOUT).await
    }
}
