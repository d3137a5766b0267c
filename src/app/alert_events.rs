//! Turns events of expiry and of the store into alerts.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use maxine_actors::registry::ExpiryStatus;
use maxine_control::leases::{ExpiryEvent, Suspension};
use maxine_store::{ControlStore, StoreEvent, StoreKind};
use maxine_telemetry::{AlertKind, Notice, Telemetry};
use maxine_view::{Snapshot, View};

/// Follows expiry and the store until dropped. Notifies `failed` when the store has failed for good.
pub(super) async fn raise(
    telemetry: Telemetry,
    node: String,
    expiry: ExpiryStatus,
    store: Arc<dyn ControlStore>,
    view: Arc<View>,
    failed: watch::Sender<Option<String>>,
) {
    let of_expiry = follow(expiry.events(), |event| {
        let leads = store.leadership_now().is_leader;
        expiry_alert(&telemetry, &node, &event, leads);
    });
    let of_store = async {
        let Some(events) = store.events() else { return };
        let each = |event: StoreEvent| {
            if let StoreEvent::Failed { reason } = &event {
                failed.send_replace(Some(reason.clone()));
            }
            let has_state = view.with_snapshot(Snapshot::has_state);
            store_alert(&telemetry, store.kind(), &event, has_state);
        };
        follow(events, each).await;
    };
    tokio::join!(of_expiry, of_store);
}

async fn follow<E: Clone>(mut events: broadcast::Receiver<E>, mut each: impl FnMut(E)) {
    loop {
        match events.recv().await {
            Ok(event) => each(event),
            Err(RecvError::Lagged(skipped)) => {
                tracing::warn!(skipped, "too many events; some were not reported")
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn details(event: impl serde::Serialize) -> Value {
    serde_json::to_value(event).unwrap_or_default()
}

/// The object of [`AlertKind::ExpirySuspended`].
const REGISTRY: &str = "registry";
/// The object of alerts about the store, which is one store for all nodes.
const STORE: &str = "store";

fn expiry_alert(telemetry: &Telemetry, node: &str, event: &ExpiryEvent, leads: bool) {
    match event {
        ExpiryEvent::Suspended { suspension: Suspension { silent, fleet }, lasted_ms } => {
            let message = format!(
                "{silent} of {fleet} instances, without new ones, went silent at once: nothing is expired \
                 until they come back, an operator confirms that they are gone, or the suspension \
                 reaches its limit (suspension_max_ms)"
            );
            let notice = Notice::new(AlertKind::ExpirySuspended, REGISTRY, message);
            let notice = notice.details(json!({"silent": silent, "fleet": fleet}));
            telemetry.raise(notice.lasted_ms(*lasted_ms));
        }
        ExpiryEvent::Resumed if leads => telemetry.clear(AlertKind::ExpirySuspended, REGISTRY),
        // The suspension may continue under the next leader, which raises the alert itself.
        ExpiryEvent::Resumed => telemetry.withdraw(AlertKind::ExpirySuspended, REGISTRY),
        ExpiryEvent::Stalled { by_ms } => {
            let message = format!(
                "leases were not checked for {by_ms} ms while this node led, because the node was paused or the store did \
                 not answer: all leases are extended by that time"
            );
            let notice = Notice::new(AlertKind::NodeStalled, node, message);
            telemetry.alert(notice.details(json!({"by_ms": by_ms})));
        }
    }
}

/// The runbook of an alert about a store of this kind. The page of the kind of alert is about Redis.
fn runbook(store: StoreKind, alert: AlertKind) -> &'static str {
    use AlertKind::{
        StoreDamaged, StoreStatePutBack, StoreWritesLost, StoreWritesPutBack, StoreWritesRefused,
    };
    match (store, alert) {
        (
            StoreKind::Local | StoreKind::SharedFile,
            StoreDamaged | StoreStatePutBack | StoreWritesLost | StoreWritesPutBack,
        )
        | (StoreKind::Local, StoreWritesRefused) => "disk-corrupt",
        (StoreKind::SharedFile, StoreWritesRefused) => "disk-full",
        _ => alert.runbook(),
    }
}

fn store_alert(telemetry: &Telemetry, store: StoreKind, event: &StoreEvent, has_state: bool) {
    let notice = |kind: AlertKind, message: &str| {
        Notice::new(kind, STORE, message).details(details(event)).runbook(runbook(store, kind))
    };
    let (kind, message) = match event {
        StoreEvent::Unreachable { reason, cause } => {
            let effect = match has_state {
                true => "reads continue, writes fail",
                false => "this node has no state yet, so reads and writes fail",
            };
            let message = match cause {
                Some(why) => format!("{why}: {effect}"),
                None => format!("the store does not answer ({reason}): {effect}"),
            };
            return telemetry.raise(notice(AlertKind::StoreUnreachable, &message));
        }
        StoreEvent::Reachable { .. } => {
            return telemetry.clear(AlertKind::StoreUnreachable, STORE);
        }
        StoreEvent::Damaged { reason, is_repaired } => {
            let message = match is_repaired {
                true => {
                    format!("{reason}; this node has written its state in the place of the file")
                }
                false => format!(
                    "the content of the store, or a part of it, is damaged ({reason}): reads continue, writes may fail until \
                     the nodes have repaired it"
                ),
            };
            return telemetry.alert(notice(AlertKind::StoreDamaged, &message));
        }
        StoreEvent::EntriesSkipped { .. } => (
            AlertKind::StoreEntriesSkipped,
            "the log has entries that cannot be read; every node skips them",
        ),
        StoreEvent::ServerChanged { .. } => (
            AlertKind::StoreServerChanged,
            "the store was restarted, or another server took its place",
        ),
        StoreEvent::WritesPutBack { .. } => {
            (AlertKind::StoreWritesPutBack, "the store lost writes; they were written again")
        }
        StoreEvent::StatePutBack { .. } => (
            AlertKind::StoreStatePutBack,
            "the store was empty or not usable; the state was written again",
        ),
        StoreEvent::WritesLost { .. } => (
            AlertKind::StoreWritesLost,
            "the store lost acknowledged writes; registrations return when their instances register again",
        ),
        StoreEvent::OlderState { .. } => (
            AlertKind::StoreWritesLost,
            "the store has an older state than this node had seen before it was stopped: acknowledged writes are lost; registrations return when their instances register again",
        ),
        StoreEvent::WritesRefused { reason } => {
            let message = match store {
                // Its reason is no refused write, but a log that is gone.
                StoreKind::Local => format!("{reason}: reads continue, writes fail"),
                _ => {
                    format!("the store refused a write ({reason}): reads continue, writes may fail")
                }
            };
            return telemetry.raise(notice(AlertKind::StoreWritesRefused, &message));
        }
        StoreEvent::WritesAccepted { .. } => {
            return telemetry.clear(AlertKind::StoreWritesRefused, STORE);
        }
        StoreEvent::Failed { reason } => {
            let message = format!("the store failed, and this node stops: {reason}");
            return telemetry.alert(notice(AlertKind::StoreFailed, &message));
        }
        StoreEvent::TornTailCut { .. } => {
            (AlertKind::StoreTornTailCut, "an incomplete record at the end of the log was removed")
        }
    };
    telemetry.alert(notice(kind, message));
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_clock::Clock;
    use maxine_telemetry::TelemetrySettings;

    #[tokio::test]
    async fn the_alert_of_a_store_that_failed_says_why_the_node_stops() {
        let clock = Clock::system();
        let view = View::new(clock.clone());
        let telemetry = Telemetry::start(view, clock, &TelemetrySettings::default());
        let reason = String::from("state.log was removed or replaced");
        store_alert(&telemetry, StoreKind::Local, &StoreEvent::Failed { reason }, true);
        let alerts = telemetry.alerts().newest_first();
        let expected = "the store failed, and this node stops: state.log was removed or replaced";
        assert_eq!(
            (alerts[0].kind, alerts[0].message.as_str()),
            (AlertKind::StoreFailed, expected)
        );
    }

    /// A log file is repaired at once. Nobody needs to wait for the nodes then.
    #[tokio::test]
    async fn the_alert_of_a_damaged_file_names_it_and_its_copy_and_says_that_it_is_repaired() {
        let clock = Clock::system();
        let view = View::new(clock.clone());
        let telemetry = Telemetry::start(view, clock, &TelemetrySettings::default());
        let alert = |store: StoreKind, is_repaired: bool| {
            let reason = String::from("state.log is damaged; it is kept as state.log.damaged");
            store_alert(&telemetry, store, &StoreEvent::Damaged { reason, is_repaired }, true);
            let alert = telemetry.alerts().newest_first().swap_remove(0);
            (alert.runbook, alert.message)
        };
        let repaired = "state.log is damaged; it is kept as state.log.damaged; this node has written its state in the \
                        place of the file";
        assert_eq!(alert(StoreKind::Local, true), ("disk-corrupt", repaired.to_owned()));
        let (page, message) = alert(StoreKind::Redis, false);
        assert!(page == "redis-lost" && message.contains("until the nodes have repaired it"));
    }
}
