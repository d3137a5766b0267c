//! Check: registers with compare-and-set behave as if every call took effect at one moment, in order.
//!
//! The search is that of porcupine. A call with an unknown outcome may have taken effect at any later time,
//! or never. It is treated as a call that never returns, so that it constrains no other call.

use std::collections::BTreeMap;
use std::time::Duration;

use porcupine::{CheckResult, Model, Operation, check_operations_timeout};

use crate::workload::{RegisterCall, RegisterHistory};

/// The specification: one register that begins empty.
#[derive(Clone, Debug)]
struct Register;

impl Model for Register {
    type State = u64;
    type Op = RegisterCall;
    type Metadata = ();

    fn init() -> u64 {
        0
    }

    fn step(state: &u64, call: &RegisterCall) -> (bool, u64) {
        match *call {
            RegisterCall::Read(value) => (value == *state, *state),
            RegisterCall::Set { old, new } => (old == *state, new),
            RegisterCall::Mismatch { old } => (old != *state, *state),
            RegisterCall::Maybe { old, new } => (true, if old == *state { new } else { *state }),
        }
    }
}

/// The result of the search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Number of calls that were checked.
    pub calls: u64,
    /// Registers whose history cannot be explained.
    pub anomalies: Vec<String>,
    /// Number of registers for which the search did not end in time. Nothing is known about them.
    pub undecided: u64,
}

/// Checks each register's history, for at most `timeout` each.
pub fn check(history: &[RegisterHistory], timeout: Duration) -> Verdict {
    let mut registers: BTreeMap<u64, Vec<Operation<Register>>> = BTreeMap::new();
    for call in history {
        registers.entry(call.register).or_default().push(Operation {
            client_id: Some(call.client),
            call_time: i64::try_from(call.start_us).unwrap_or(i64::MAX - 1),
            return_time: i64::try_from(call.end_us).unwrap_or(i64::MAX),
            op: call.call,
            metadata: None,
        });
    }
    let mut verdict = Verdict { calls: history.len() as u64, ..Verdict::default() };
    for (register, operations) in registers {
        match check_operations_timeout(&operations, timeout) {
            CheckResult::Ok => {}
            CheckResult::Illegal => verdict.anomalies.push(format!(
                "register {register}: no order explains its {} calls",
                operations.len()
            )),
            CheckResult::Unknown => verdict.undecided += 1,
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(client: u32, start_us: u64, end_us: u64, call: RegisterCall) -> RegisterHistory {
        RegisterHistory { register: 1, client, start_us, end_us, call }
    }

    fn is_fine(history: &[RegisterHistory]) -> bool {
        check(history, Duration::from_secs(10)).anomalies.is_empty()
    }

    #[test]
    fn good_histories_pass() {
        let set = |old, new| RegisterCall::Set { old, new };
        assert!(is_fine(&[
            call(1, 0, 10, set(0, 1)),
            call(2, 5, 20, RegisterCall::Read(0)),
            call(2, 21, 30, RegisterCall::Read(1)),
            call(1, 31, 40, RegisterCall::Mismatch { old: 0 }),
        ]));
        let maybe = call(1, 0, u64::MAX, RegisterCall::Maybe { old: 0, new: 1 });
        assert!(is_fine(&[maybe, call(2, 50, 60, RegisterCall::Read(0))]));
        assert!(is_fine(&[maybe, call(2, 50, 60, RegisterCall::Read(1))]));
        let late = [call(2, 50, 60, RegisterCall::Read(0)), call(2, 70, 80, RegisterCall::Read(1))];
        assert!(is_fine(&[maybe, late[0], late[1]]), "it may take effect late");
    }

    #[test]
    fn a_stale_read_is_rejected() {
        let set = call(1, 0, 10, RegisterCall::Set { old: 0, new: 1 });
        assert!(!is_fine(&[set, call(2, 20, 30, RegisterCall::Read(0))]));
    }

    #[test]
    fn a_lost_update_is_rejected() {
        let one = call(1, 0, 10, RegisterCall::Set { old: 0, new: 1 });
        let two = call(2, 0, 10, RegisterCall::Set { old: 0, new: 2 });
        assert!(!is_fine(&[one, two]));
    }

    #[test]
    fn a_write_that_is_taken_back_is_rejected() {
        let maybe = call(1, 0, u64::MAX, RegisterCall::Maybe { old: 0, new: 1 });
        let seen = call(2, 20, 30, RegisterCall::Read(1));
        assert!(!is_fine(&[maybe, seen, call(2, 40, 50, RegisterCall::Read(0))]));
    }

    #[test]
    fn a_wrong_refusal_is_rejected() {
        let set = call(1, 0, 10, RegisterCall::Set { old: 0, new: 1 });
        assert!(!is_fine(&[set, call(2, 20, 30, RegisterCall::Mismatch { old: 1 })]));
    }
}
