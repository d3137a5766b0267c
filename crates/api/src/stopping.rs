//! The error of work that a node does not finish because it is stopping.

use super::problem::{Problem, ProblemKind};

/// This node is stopping. The same request can succeed on another node, or on this one after it was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping;

impl From<Stopping> for String {
    fn from(_: Stopping) -> Self {
        Self::from("the node is stopping")
    }
}

impl From<Stopping> for Problem {
    fn from(stopping: Stopping) -> Self {
        Self::new(ProblemKind::Unavailable, stopping).with_retry_after_s(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_store::Retry;

    #[test]
    fn a_request_that_a_stopping_node_refuses_can_be_repeated() {
        let problem = Problem::from(Stopping);
        assert_eq!(
            (problem.kind, &*problem.detail),
            (ProblemKind::Unavailable, "the node is stopping")
        );
        assert_eq!((problem.retry, problem.retry_after_s), (Retry::Later, Some(1)));
    }
}
