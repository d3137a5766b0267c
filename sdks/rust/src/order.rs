//! Decides which node is asked next, and when. It does no I/O and reads no clock.

use std::time::Duration;

use tokio::time::Instant;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// From this number of failures on the pause is the longest one.
const FAILURES_MAX: u32 = 7;
/// A longer `Retry-After` is not followed, in seconds.
const RETRY_AFTER_MAX_S: u64 = 1 << 31;

#[derive(Clone, Debug, Default)]
struct Node {
    failures: u32,
    not_before: Option<Instant>,
}

/// The nodes of a client, by position.
#[derive(Debug)]
pub(crate) struct Order {
    nodes: Vec<Node>,
    /// The node that is asked first.
    first: usize,
}

impl Order {
    pub(crate) fn new(node_count: usize, first: usize) -> Self {
        Self { nodes: vec![Node::default(); node_count], first }
    }

    /// The node to ask, and the time to wait before.
    pub(crate) fn pick(&self, now: Instant) -> (usize, Duration) {
        let wait = |at: usize| {
            let not_before = self.nodes[at].not_before;
            not_before.map_or(Duration::ZERO, |time| time.saturating_duration_since(now))
        };
        let positions = (0..self.nodes.len()).map(|step| (self.first + step) % self.nodes.len());
        let picked = positions.map(|at| (at, wait(at))).min_by_key(|(_, wait)| *wait);
        picked.unwrap_or_default()
    }

    /// Notes that the node has answered. It is asked first from now on.
    pub(crate) fn worked(&mut self, at: usize) {
        self.nodes[at] = Node::default();
        self.first = at;
    }

    /// Notes that the node is not asked again before a pause: that of `Retry-After`, or one that grows. `random`, from
    /// 0 to 1, keeps clients from returning together.
    pub(crate) fn failed(
        &mut self,
        at: usize,
        now: Instant,
        retry_after_s: Option<u64>,
        random: f64,
    ) {
        let node = &mut self.nodes[at];
        let pause = match retry_after_s {
            Some(seconds) if seconds < RETRY_AFTER_MAX_S => {
                Duration::from_secs(seconds).mul_f64(1.0 + random / 10.0)
            }
            _ if node.failures < FAILURES_MAX => {
                (PAUSE_MIN * (1_u32 << node.failures)).mul_f64(0.5 + random / 2.0)
            }
            _ => PAUSE_MAX.mul_f64(0.5 + random / 2.0),
        };
        node.failures = node.failures.saturating_add(1);
        node.not_before = Some(now + pause);
        self.first = (at + 1) % self.nodes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_node_that_has_failed_is_left_alone_for_a_time_that_grows() {
        let now = clock::now();
        let mut order = Order::new(2, 0);
        order.failed(0, now, None, 1.0);
        assert_eq!(order.pick(now), (1, Duration::ZERO));
        order.failed(1, now, Some(30), 0.0);
        assert_eq!(order.pick(now), (0, PAUSE_MIN));
        for _ in 0..20 {
            order.failed(0, now, None, 1.0);
        }
        assert_eq!(order.pick(now), (0, PAUSE_MAX));
        assert_eq!(order.pick(now + PAUSE_MAX), (0, Duration::ZERO));
        order.worked(1);
        assert_eq!(order.pick(now), (1, Duration::ZERO));
    }

    #[test]
    fn the_node_that_has_answered_is_asked_again() {
        let now = clock::now();
        let mut order = Order::new(3, 0);
        order.worked(2);
        assert_eq!(order.pick(now), (2, Duration::ZERO));
    }
}
