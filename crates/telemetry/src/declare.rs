//! Registers metrics, and converts their values.

use prometheus::Registry;
use prometheus::core::Collector;

/// Adds a metric to a registry.
pub(super) fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("no two metrics have one name and label");
    metric
}

/// A number as a gauge has it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
