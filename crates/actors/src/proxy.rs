//! Drives the decisions of the proxy that are made outside the request path: breakers, ejections and idle
//! connections.
//!
//! The forwarder keeps its counters in atomics, which outlive this actor. A restarted actor continues with
//! them. No request waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture};

use super::health_checker::HealthChecker;
use super::supervisor::DropNotifier;
use maxine_clock::Clock;
use maxine_gateway::{Forwarder, UpstreamChange, UpstreamEvent};
use maxine_state::InstanceKey;

/// Interval between two ticks. An alarm of the forwarder causes an earlier one.
const TICK: Duration = Duration::from_millis(100);

/// Carries out the proxy's decisions on this node.
pub struct ProxyActor {
    forwarder: Forwarder,
    health: Option<HealthChecker>,
    clock: Clock,
    /// Ejected instances that were reported to the health checker. For each, when its ejection ends, in milliseconds
    /// of the monotonic clock, and its `address_index`.
    reported: BTreeMap<InstanceKey, (u64, u64)>,
    _lifeline: DropNotifier,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Tick;

impl ProxyActor {
    /// An actor that drives `forwarder` and reports ejected instances to `health`.
    #[must_use]
    pub fn new(
        forwarder: Forwarder,
        health: Option<HealthChecker>,
        clock: Clock,
        lifeline: DropNotifier,
    ) -> Self {
        Self { forwarder, health, clock, reported: BTreeMap::new(), _lifeline: lifeline }
    }

    fn tell(&mut self, event: UpstreamEvent) {
        let level = match event.change {
            UpstreamChange::BreakerOpened | UpstreamChange::Ejected => tracing::Level::WARN,
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
            UpstreamChange::Ejected => {
                let until_ms = self.clock.monotonic_ms() + event.lasts_ms;
                self.reported.insert(event.key.clone(), (until_ms, event.address_index));
                // Without this report, the leader decides with the reports of other nodes.
                let _lost =
                    health.ejection_changed(event.key, event.address_index, Some(event.reason));
            }
            UpstreamChange::Returned => {
                if let Some((until_ms, _)) = self.reported.get_mut(&event.key) {
                    *until_ms = 0;
                }
            }
            _ => {}
        }
    }

    /// Reports the return of instances whose ejection is over. If an ejection made an instance not ready, the
    /// forwarder no longer has it in its tables, and does not report its return.
    fn release(&mut self) {
        let now_ms = self.clock.monotonic_ms();
        let Some(health) = &self.health else { return };
        self.reported.retain(|key, (until_ms, address_index)| {
            // If the health checker cannot accept it now, it is reported at the next tick.
            *until_ms > now_ms
                || health.ejection_changed(key.clone(), *address_index, None).is_err()
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
                        () = forwarder.breaker_alarm() => {}
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
