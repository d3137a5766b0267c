//! Restarts actors that panic or stop, from the published snapshot.
//!
//! actix's own supervisor restarts an actor that stops, but a panic ends both the supervisor and the actor.
//! So each actor holds a [`DropNotifier`]. When that is dropped, for any reason, the next actor is started.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, ArbiterHandle, Context, Handler, MailboxError, Message};
use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

/// Pause before an actor is started again, so that an actor that panics immediately does not loop.
const RESTART_PAUSE: Duration = Duration::from_millis(50);

/// Held by an actor as long as it lives.
#[derive(Debug)]
pub struct DropNotifier(#[allow(dead_code, reason = "its drop is the signal")] oneshot::Sender<()>);

/// The address of an actor across its restarts. Clones are cheap.
pub struct Supervised<A: Actor> {
    shared: Arc<Shared<A>>,
}

struct Shared<A: Actor> {
    addr: ArcSwapOption<Addr<A>>,
    restarts: AtomicU64,
    stopped: AtomicBool,
}

impl<A: Actor> Clone for Supervised<A> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// Why a message did not reach an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Its mailbox is full.
    #[error("the mailbox is full")]
    Full,
    /// The actor is being restarted, or has stopped.
    #[error("the actor is not running")]
    Down,
}

impl<A: Actor<Context = Context<A>>> Supervised<A> {
    /// Starts an actor on `arbiter`, and restarts it whenever it ends, until [`Self::stop`].
    pub fn start(
        arbiter: &ArbiterHandle,
        mut make: impl FnMut(DropNotifier) -> A + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            addr: ArcSwapOption::empty(),
            restarts: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let supervised = Self { shared: Arc::clone(&shared) };
        // If the spawn is refused, the arbiter has ended, and every send fails with `Down`.
        let _spawned = arbiter.spawn(async move {
            while !shared.stopped.load(Ordering::SeqCst) {
                let (lifeline, ended) = oneshot::channel();
                let addr = make(DropNotifier(lifeline)).start();
                shared.addr.store(Some(Arc::new(addr)));
                let _dropped = ended.await;
                shared.addr.store(None);
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                shared.restarts.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    actor = std::any::type_name::<A>(),
                    "an actor ended; it is started again"
                );
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        });
        supervised
    }

    /// Puts a message into the mailbox, or fails immediately.
    pub fn try_send<M>(&self, message: M) -> Result<(), SendError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let addr = self.shared.addr.load();
        let addr = addr.as_ref().ok_or(SendError::Down)?;
        addr.try_send(message).map_err(|error| match error {
            actix::prelude::SendError::Full(_) => SendError::Full,
            actix::prelude::SendError::Closed(_) => SendError::Down,
        })
    }

    /// Sends a message and waits for its reply.
    pub async fn send<M>(&self, message: M) -> Result<M::Result, SendError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let addr = self.shared.addr.load_full().ok_or(SendError::Down)?;
        addr.send(message).await.map_err(|error| match error {
            MailboxError::Closed => SendError::Down,
            MailboxError::Timeout => SendError::Full,
        })
    }

    /// How often it was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }

    /// Whether it is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.shared.addr.load().as_ref().is_some_and(|addr| addr.connected())
    }

    /// Ends the supervision. The actor ends when its last address is dropped.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.addr.store(None);
    }
}
