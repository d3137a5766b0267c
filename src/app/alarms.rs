//! What happened underneath that an operator must hear of, turned into alerts.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use crate::actors::registry::{ExpiryEvent, ExpiryStatus};
use crate::backend::{ControlStore, StoreEvent};
use crate::telemetry::{Severity, Telemetry};

/// Follows expiry and the store until dropped; tells `failed` when the store has given up.
pub(super) async fn raise(
    telemetry: Telemetry,
    expiry: ExpiryStatus,
    store: Arc<dyn ControlStore>,
    failed: watch::Sender<Option<String>>,
) {
    let of_expiry = follow(expiry.events(), |event| expiry_alert(&telemetry, &event));
    let of_store = async {
        let Some(events) = store.events() else { return };
        let each = |event: StoreEvent| {
            if let StoreEvent::Failed { reason } = &event {
                failed.send_replace(Some(reason.clone()));
            }
            store_alert(&telemetry, &event);
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
                tracing::warn!(skipped, "events were too many to tell")
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn details(event: impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(event) {
        Ok(Value::Object(details)) => details,
        _ => Map::new(),
    }
}

fn expiry_alert(telemetry: &Telemetry, event: &ExpiryEvent) {
    match event {
        ExpiryEvent::Suspended { silent, fleet } => telemetry.alert(
            Severity::Critical,
            "registry.expiry_suspended",
            &format!(
                "{silent} of {fleet} instances went silent at once: nothing is expired until they come \
                 back or an operator confirms that they are gone"
            ),
            details(serde_json::json!({"silent": silent, "fleet": fleet})),
        ),
        ExpiryEvent::Resumed => telemetry.alert(
            Severity::Warning,
            "registry.expiry_resumed",
            "instances that went silent expire again",
            Map::new(),
        ),
        ExpiryEvent::Stalled { by_ms } => telemetry.alert(
            Severity::Warning,
            "node.stalled",
            &format!("this node stood still for {by_ms} ms: all leases were extended by as much"),
            details(serde_json::json!({"by_ms": by_ms})),
        ),
    }
}

fn store_alert(telemetry: &Telemetry, event: &StoreEvent) {
    let (severity, kind, message) = match event {
        StoreEvent::Unreachable { .. } => (
            Severity::Critical,
            "store.unreachable",
            "the store does not answer: reads go on, writes fail",
        ),
        StoreEvent::Reachable { .. } => {
            (Severity::Warning, "store.reachable", "the store answers again")
        }
        StoreEvent::ServerChanged { .. } => {
            (Severity::Warning, "store.server_changed", "another server answers for the store")
        }
        StoreEvent::WritesPutBack { .. } => (
            Severity::Critical,
            "store.writes_put_back",
            "the store lost writes; they were put back",
        ),
        StoreEvent::StatePutBack { .. } => (
            Severity::Critical,
            "store.state_put_back",
            "the store was empty; the state was put back",
        ),
        StoreEvent::WritesLost { .. } => (
            Severity::Critical,
            "store.writes_lost",
            "the store lost acknowledged writes; registrations come back as instances re-send them",
        ),
        StoreEvent::WritesRefused { .. } => {
            (Severity::Critical, "store.writes_refused", "the store refuses writes")
        }
        StoreEvent::Failed { .. } => {
            (Severity::Critical, "store.failed", "the store gave up, the node stops")
        }
        StoreEvent::TornTailCut { .. } => {
            (Severity::Warning, "store.torn_tail_cut", "a half-written record was cut off the log")
        }
    };
    telemetry.alert(severity, kind, message, details(event));
}
