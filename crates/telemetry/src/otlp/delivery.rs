//! Delivers one message after the other to the receiver, and counts what became of what is in them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::client::{Client, Failure, Message};
use crate::metrics::DeliveryCounters;
use maxine_clock::Clock;

/// Pause after a failed delivery. It doubles with each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// Maximum of that pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The log names a receiver that does not answer at most once in this time, in milliseconds.
const TOLD_EVERY_MS: u64 = 60_000;

pub(super) struct Delivery {
    client: Client,
    clock: Clock,
    stop: CancellationToken,
    counters: DeliveryCounters,
    /// What is delivered, for the log.
    what: &'static str,
    /// When the log last named a failed delivery.
    told_at_ms: Option<u64>,
    /// Whether the last delivery failed.
    is_away: bool,
}

impl Delivery {
    pub(super) fn new(
        client: Client,
        clock: Clock,
        stop: CancellationToken,
        counters: DeliveryCounters,
        what: &'static str,
    ) -> Self {
        Self { client, clock, stop, counters, what, told_at_ms: None, is_away: false }
    }

    /// Sends a message, again and again until the receiver answers or the node stops. It holds `records`, which are
    /// counted here, as `items`, which the receiver counts.
    pub(super) async fn deliver(&mut self, message: Message, records: u64, items: u64) {
        let what = self.what;
        let mut pause = PAUSE;
        loop {
            match self.client.send(message.clone()).await {
                Ok(refused) => {
                    let part = (records * refused.min(items)).div_ceil(items.max(1));
                    self.counters.refused.inc_by(part);
                    self.counters.exported.inc_by(records - part);
                    if std::mem::take(&mut self.is_away) {
                        tracing::info!("{what} are exported again");
                    }
                    return;
                }
                Err(Failure::Never(why)) => {
                    self.counters.failures.inc();
                    self.counters.refused.inc_by(records);
                    return self.tell(&why, &format!("the receiver refused {what}"));
                }
                Err(Failure::Later(why)) => {
                    self.counters.failures.inc();
                    self.is_away = true;
                    self.tell(&why, &format!("{what} could not be exported; it is tried again"));
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {
                    self.counters.lost.inc_by(records);
                    return;
                }
                () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Logs a failure, at most once a minute.
    fn tell(&mut self, why: &str, text: &str) {
        let now_ms = self.clock.monotonic_ms();
        if self.told_at_ms.is_none_or(|at_ms| now_ms >= at_ms + TOLD_EVERY_MS) {
            self.told_at_ms = Some(now_ms);
            let lost = self.counters.lost.get();
            tracing::warn!(error = %why, lost, "{text}");
        }
    }
}
