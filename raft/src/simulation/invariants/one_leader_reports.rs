//! Invariant: no node reports that it leads after a later leader has reported that.

use super::super::step::Step;
use super::Invariant;
use crate::config::NodeId;

#[derive(Default)]
pub(super) struct OneLeaderReports {
    newest: Option<(u64, NodeId)>,
}

impl Invariant for OneLeaderReports {
    fn name(&self) -> &'static str {
        "one-leader-reports"
    }

    fn check(&mut self, step: &Step) -> Result<(), String> {
        let Step::Reports { node, term } = step else { return Ok(()) };
        if let Some((newest, leader)) = self.newest.filter(|(newest, _)| newest > term) {
            return Err(format!(
                "node {node} reports that it leads term {term}, after node {leader} has led term {newest}"
            ));
        }
        self.newest = Some((*term, *node));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_was_replaced_and_still_reports_is_found() {
        let reports = |node, term| Step::Reports { node, term };
        let mut invariant = OneLeaderReports::default();
        invariant.check(&reports(1, 4)).unwrap();
        invariant.check(&reports(2, 5)).unwrap();
        invariant.check(&reports(2, 5)).unwrap();
        invariant.check(&reports(1, 4)).unwrap_err();
    }
}
