//! The calls that a node counts, as nodes report them to each other.

use maxine_actors::peer::CallsReport;
use maxine_telemetry::ServiceCalls;

/// What this node counted, for another node.
pub(super) fn report(calls: ServiceCalls) -> CallsReport {
    let ServiceCalls { lookups, lookups_failed, proxied, proxied_failed, classes } = calls;
    CallsReport { lookups, lookups_failed, proxied, proxied_failed, classes }
}

/// What another node counted.
pub(super) fn counted(report: CallsReport) -> ServiceCalls {
    let CallsReport { lookups, lookups_failed, proxied, proxied_failed, classes } = report;
    ServiceCalls { lookups, lookups_failed, proxied, proxied_failed, classes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_node_reads_each_count_as_it_was() {
        let calls = ServiceCalls {
            lookups: 1,
            lookups_failed: 2,
            proxied: 3,
            proxied_failed: 4,
            classes: vec![5, 6],
        };
        assert_eq!(counted(report(calls.clone())), calls);
    }
}
