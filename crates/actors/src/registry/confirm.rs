//! Confirmations that only an operator can give, and that the leader needs: that the silent instances are
//! gone, or that the leader's clock is right. Any node accepts them, like a write.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::leadership::Duties;
use super::super::peer::{PeerKind, PeerService, call_leader};
use super::super::supervisor::Supervised;
use super::Registry;
use super::leases::{ConfirmSilence, LeaseActor};
use maxine_clock::Clock;
use maxine_store::CallError;

/// Time limit for the leader's answer.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// A confirmation by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Confirmation {
    /// The silent instances are gone, so a suspended expiry continues.
    Silence = 1,
    /// The leader's clock is right after a jump, so audit records are dropped for their age again.
    Clock = 2,
}

/// Carries out confirmations on the leader.
#[derive(Clone)]
pub(super) struct Confirmer {
    pub(super) leases: Supervised<LeaseActor>,
    pub(super) clock: Clock,
    pub(super) duties: Duties,
}

impl Confirmer {
    async fn carry_out(&self, what: u8) -> Result<(), String> {
        if self.duties.borrow().is_none() {
            return Err(String::from("this node does not lead"));
        }
        match what {
            byte if byte == Confirmation::Silence as u8 => {
                let confirmed = self.leases.send(ConfirmSilence);
                let confirmed = tokio::time::timeout(CONFIRM_TIMEOUT, confirmed).await;
                return match confirmed {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(String::from("the lease actor did not answer in time")),
                };
            }
            byte if byte == Confirmation::Clock as u8 => self.clock.confirm(),
            _ => return Err(String::from("a confirmation that this version does not know")),
        }
        Ok(())
    }
}

impl PeerService for Confirmer {
    fn answer(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let (confirmer, what) = (self.clone(), body.first().copied().unwrap_or_default());
        async move { confirmer.carry_out(what).await.map(|()| Bytes::new()) }.boxed()
    }
}

impl Registry {
    /// Sends a confirmation to the leader. Repeating it does no harm.
    ///
    /// # Errors
    ///
    /// Fails if no leader accepted it.
    pub async fn confirm(&self, what: Confirmation) -> Result<(), CallError> {
        let here = self.confirmer().carry_out(what as u8).await;
        if here.is_ok() {
            return Ok(());
        }
        let body = [what as u8];
        call_leader(&**self.store(), PeerKind::Confirm, &body, CONFIRM_TIMEOUT).await.map(drop)
    }
}
