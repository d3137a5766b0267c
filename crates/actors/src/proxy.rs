//! Drives what the proxy decides off the request path: breakers, ejections, idle connections.
//!
//! The forwarder keeps its counts in atomics that outlive this actor; an actor that was started
//! again goes on from there. Nothing a request needs waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture};

use super::health_checker::HealthChecker;
use super::supervisor::Lifeline;
use maxine_clock::Clock;
use maxine_gateway::{Forwarder, StandingChange, StandingEvent};
use maxine_state::InstanceKey;

/// Between two ticks; an alarm of the forwarder does not wait for it.
const TICK: Duration = Duration::from_millis(100);

/// The proxy's decisions on this node.
pub struct ProxyActor {
    forwarder: Forwarder,
    health: Option<HealthChecker>,
    clock: Clock,
    /// Ejected instances that the health checker was told of: until when, and at which address.
    reported: BTreeMap<InstanceKey, (u64, u64)>,
    _lifeline: Lifeline,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Tick;

impl ProxyActor {
    /// An actor that drives `forwarder` and tells `health` whom it ejected.
    #[must_use]
    pub fn new(
        forwarder: Forwarder,
        health: Option<HealthChecker>,
        clock: Clock,
        lifeline: Lifeline,
    ) -> Self {
        Self { forwarder, health, clock, reported: BTreeMap::new(), _lifeline: lifeline }
    }

    fn tell(&mut self, event: StandingEvent) {
        let level = match event.change {
            StandingChange::BreakerOpened | StandingChange::Ejected => tracing::Level::WARN,
            _ => tracing::Level::INFO,
        };
        let (instance, change, reason) = (&event.key, event.change, event.reason.as_str());
        if level == tracing::Level::WARN {
            tracing::warn!(%instance, ?change, reason, "the proxy stopped sending requests to an instance");
        } else {
            tracing::info!(%instance, ?change, reason, "the proxy sends requests to an instance again");
        }
        let Some(health) = &self.health else { return };
        match event.change {
            StandingChange::Ejected => {
                let until_ms = self.clock.monotonic_ms() + event.lasts_ms;
                self.reported.insert(event.key.clone(), (until_ms, event.address_index));
                // Without it the leader decides by what other nodes report.
                let _lost =
                    health.held_by_proxy(event.key, event.address_index, Some(event.reason));
            }
            StandingChange::Returned => {
                if let Some((until_ms, _)) = self.reported.get_mut(&event.key) {
                    *until_ms = 0;
                }
            }
            _ => {}
        }
    }

    /// An instance that got not ready for it has left the forwarder's tables, so its return is told
    /// from here.
    fn release(&mut self) {
        let now_ms = self.clock.monotonic_ms();
        let Some(health) = &self.health else { return };
        self.reported.retain(|key, (until_ms, address_index)| {
            // Where the health checker cannot take it now, it is reported with the next tick.
            *until_ms > now_ms || health.held_by_proxy(key.clone(), *address_index, None).is_err()
        });
    }
}

impl Actor for ProxyActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (forwarder, addr) = (self.forwarder.clone(), ctx.address());
        ctx.spawn(
            async move {
                loop {
                    tokio::select! {
                        () = forwarder.alarmed() => {}
                        () = tokio::time::sleep(TICK) => {}
                    }
                    if addr.send(Tick).await.is_err() {
                        return;
                    }
                }
            }
            .into_actor(self),
        );
    }
}

impl Handler<Tick> for ProxyActor {
    type Result = ();

    fn handle(&mut self, _: Tick, _: &mut Self::Context) {
        for event in self.forwarder.tick() {
            self.tell(event);
        }
        self.release();
    }
}
