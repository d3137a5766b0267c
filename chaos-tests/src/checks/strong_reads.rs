//! Check: a node that is cut off from the others answers no strong read.

use crate::journal::{Ended, OpKind, Operation};

/// The time in which a node was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// The node.
    pub node: u64,
    /// When it was certainly cut off.
    pub from_us: u64,
    /// Until when it was certainly cut off.
    pub until_us: u64,
}

/// Finds strong reads that were sent and answered while their node was cut off.
pub fn check(operations: &[Operation], cuts: &[CutOff]) -> Vec<String> {
    let mut anomalies = Vec::new();
    for operation in operations {
        let answered = operation.kind == OpKind::StrongRead && operation.ended == Ended::Ok;
        let within = |cut: &&CutOff| {
            u64::from(operation.node) == cut.node
                && operation.start_us > cut.from_us
                && operation.end_us < cut.until_us
        };
        if answered && let Some(cut) = cuts.iter().find(within) {
            let after_ms = (operation.start_us - cut.from_us) / 1_000;
            anomalies.push(format!(
                "node {} answered a strong read sent {after_ms} ms after it was cut off",
                cut.node
            ));
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_a_node_that_was_cut_off_is_found() {
        let read = |node, start_us, end_us, ended| Operation {
            start_us,
            end_us,
            node,
            kind: OpKind::StrongRead,
            ended,
        };
        let cuts = [CutOff { node: 2, from_us: 100, until_us: 200 }];
        let fine = [
            read(1, 120, 130, Ended::Ok),
            read(2, 120, 130, Ended::Refused),
            read(2, 90, 120, Ended::Ok),
            read(2, 150, 250, Ended::Ok),
        ];
        assert!(check(&fine, &cuts).is_empty());
        assert_eq!(check(&[read(2, 120, 130, Ended::Ok)], &cuts).len(), 1);
    }
}
