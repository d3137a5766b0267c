//! Counts of an instance's results, from which the circuit breaker and the ejection of outliers decide.

/// The counts at one moment. All but `bad_in_a_row` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) good: u64,
    pub(crate) bad: u64,
    pub(crate) bad_in_a_row: u32,
    pub(crate) latency_us_sum: u64,
}
