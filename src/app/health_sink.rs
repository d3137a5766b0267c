//! Counts probes, and raises alerts for services in panic mode.

use serde_json::json;

use maxine_actors::health_checker::HealthSink;
use maxine_control::health::{ProbeAnswer, ProbeStatus};
use maxine_state::{InstanceKey, ServiceKey};
use maxine_telemetry::{AlertKind, Notice, Telemetry};

/// Counts probes and raises alerts.
pub(super) struct TelemetryHealth(pub(super) Telemetry);

impl HealthSink for TelemetryHealth {
    fn probed(&self, _: &InstanceKey, answer: &ProbeAnswer) {
        self.0.metrics().health_checks.inc();
        if answer.status != ProbeStatus::Good {
            self.0.metrics().health_check_failures.inc();
        }
    }

    fn panic_mode_changed(&self, service: &ServiceKey, active: bool) {
        let object = service.to_string();
        if !active {
            return self.0.clear(AlertKind::ServicePanic, &object);
        }
        let what = "too many instances are unhealthy, so all are used";
        let notice = Notice::new(AlertKind::ServicePanic, &*object, format!("{object}: {what}"));
        self.0.raise(notice.details(json!({
            "serviceName": service.service.as_str(),
            "namespace": service.namespace.as_str(),
        })));
    }
}
