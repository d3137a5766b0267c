//! Reports audit records that were removed for lack of room before they were as old as their class allows.
//!
//! Nobody can see later what such a record said. Each node looks at its own state, and the leader reports. So one node
//! reports, and nothing is reported again when a node reads its log after a start.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use maxine_clock::Clock;
use maxine_state::{AuditChain, AuditClass, ControlState, Fence, History};
use maxine_telemetry::{AlertKind, Notice, Telemetry};
use maxine_view::View;

/// Interval between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// The classes that are reported. Their records say who changed the cluster and who signed in. The other classes are for
/// frequent records, and are expected to be full.
const CLASSES: [AuditClass; 6] = [
    AuditClass::Cluster,
    AuditClass::Identities,
    AuditClass::Settings,
    AuditClass::Access,
    AuditClass::Drains,
    AuditClass::Logs,
];
/// Minimum time between two reports about one class, in milliseconds.
const REPORT_PAUSE_MS: u64 = 24 * 3_600 * 1_000;
/// A node that does not lead forgets what it has seen after this time, in milliseconds. Until then it may become the
/// leader, and report what the former leader could not.
const HANDOVER_MS: u64 = 10_000;
/// A state is read from the log after a start if its time is this far behind the clock, in milliseconds.
const REPLAY_MS: u64 = 10 * 60_000;

/// Runs until dropped.
pub(super) async fn run(
    view: Arc<View>,
    clock: Clock,
    duties: watch::Receiver<Option<Fence>>,
    telemetry: Telemetry,
) {
    view.has_state().await;
    let mut room = Room::default();
    loop {
        let (now_ms, wall_ms) = (clock.monotonic_ms(), clock.wall_ms());
        room.look(&view.snapshot().state, wall_ms, now_ms);
        let leads = duties.borrow().is_some();
        for (class, records) in room.due(leads, now_ms) {
            telemetry.alert(notice(class, records));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn notice(class: AuditClass, records: u64) -> Notice {
    let days = class.retention_ms() / (24 * 3_600 * 1_000);
    let message = format!(
        "{} of the class {} left the audit log for lack of room, before the {days} days of this class were over: newer \
         records of the class took the room; find out who causes them (maxine audit list); further ones are reported after \
         24 hours",
        maxine_wording::count(records, "record"),
        class.as_str(),
    );
    let details = json!({"class": class.as_str(), "records": records});
    Notice::new(AlertKind::AuditDroppedEarly, class.as_str(), message).details(details)
}

/// Records of one class that were dropped too early and not reported.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    records: u64,
    /// When the latest of them was seen, on the monotonic clock.
    seen_at_ms: u64,
    reported_at_ms: Option<u64>,
}

/// Compares each state with the one that was looked at before.
#[derive(Debug, Default)]
struct Room {
    /// The history of the state that was looked at last. `None` before the first one.
    history: Option<History>,
    chains: [AuditChain; CLASSES.len()],
    dropped: [Dropped; CLASSES.len()],
}

impl Room {
    fn look(&mut self, state: &ControlState, wall_ms: u64, now_ms: u64) {
        let (audit, history) = (state.audit(), state.history());
        let is_new = wall_ms.saturating_sub(state.time_ms()) < REPLAY_MS;
        let is_known = history.is_some() && history == self.history;
        for (at, class) in CLASSES.into_iter().enumerate() {
            let chain = audit.chain(class);
            if is_known && is_new {
                let early = chain.dropped_early(&self.chains[at], class, state.time_ms());
                if early > 0 {
                    let dropped = &mut self.dropped[at];
                    dropped.records += early;
                    dropped.seen_at_ms = now_ms;
                }
            }
            self.chains[at] = chain.clone();
        }
        self.history = history;
    }

    /// What must be reported now.
    fn due(&mut self, leads: bool, now_ms: u64) -> Vec<(AuditClass, u64)> {
        let mut due = Vec::new();
        for (class, dropped) in CLASSES.into_iter().zip(&mut self.dropped) {
            if !leads && now_ms.saturating_sub(dropped.seen_at_ms) > HANDOVER_MS {
                dropped.records = 0;
            }
            let since_ms = dropped.reported_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
            let is_due = since_ms.is_none_or(|since_ms| since_ms >= REPORT_PAUSE_MS);
            if leads && is_due && dropped.records > 0 {
                due.push((class, std::mem::take(&mut dropped.records)));
                dropped.reported_at_ms = Some(now_ms);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{
        Actor, Command, Name, Proposal, Reply, RequestId, RuntimeConfig, SigningKey,
    };

    const START_MS: u64 = 1_795_440_000_000;
    const DAY_MS: u64 = 24 * 3_600 * 1_000;
    const NOTHING: [(AuditClass, u64); 0] = [];

    struct Driver {
        state: ControlState,
        fence: Option<Fence>,
        requests: u128,
    }

    impl Driver {
        fn new() -> Self {
            let mut driver = Self { state: ControlState::default(), fence: None, requests: 0 };
            let signing_key = SigningKey {
                key_id: Name::trusted("k"),
                secret: vec![7; 32].into(),
                created_at_ms: START_MS,
            };
            let history = History::from_random(5);
            let begin = Command::BeginHistory { before: None, history, line: 1, signing_key };
            driver.apply(begin, START_MS);
            let grant = Command::GrantLeadership { holder: Name::trusted("node-1") };
            let Reply::Granted(fence) = driver.apply(grant, START_MS) else { panic!("no grant") };
            driver.fence = Some(fence);
            driver
        }

        fn apply(&mut self, command: Command, at_ms: u64) -> Reply {
            self.requests += 1;
            let proposal = Proposal {
                request_id: RequestId(self.requests),
                proposed_at_ms: at_ms,
                fence: self.fence.filter(|_| command.is_leader_only()),
                actor: Actor { user: "ada".into(), ..Actor::system("test") },
                command,
            };
            self.state.apply(&proposal, &mut Vec::new()).reply
        }

        fn change(&mut self, times: usize, at_ms: u64) {
            for _ in 0..times {
                let config = RuntimeConfig::default();
                self.apply(Command::PutConfig { config, expected_revision: None }, at_ms);
            }
        }
    }

    fn full() -> (Driver, Room) {
        let mut driver = Driver::new();
        driver.change(AuditClass::Settings.records_max(), START_MS);
        let mut room = Room::default();
        room.look(&driver.state, START_MS, 0);
        (driver, room)
    }

    #[test]
    fn records_that_are_pushed_out_by_newer_ones_are_reported_by_the_leader_once_in_a_day() {
        let (mut driver, mut room) = full();
        assert_eq!(room.due(true, 0), NOTHING);
        driver.change(7, START_MS + DAY_MS);
        room.look(&driver.state, START_MS + DAY_MS, 2_000);
        assert_eq!(room.due(false, 2_000), NOTHING, "this node does not lead");
        assert_eq!(room.due(true, 4_000), [(AuditClass::Settings, 7)]);
        // More than the class keeps come and go between two looks.
        driver.change(AuditClass::Settings.records_max() + 3, START_MS + DAY_MS);
        room.look(&driver.state, START_MS + DAY_MS, 6_000);
        assert_eq!(room.due(true, 6_000), NOTHING, "there was a report a moment ago");
        let further = (AuditClass::Settings.records_max() + 3) as u64;
        assert_eq!(room.due(true, 4_000 + REPORT_PAUSE_MS), [(AuditClass::Settings, further)]);

        let message = notice(AuditClass::Settings, 7).message;
        assert!(message.starts_with("7 records of the class settings left"), "{message}");
        assert!(message.contains("400 days"), "{message}");
    }

    #[test]
    fn records_that_are_as_old_as_their_class_allows_are_not_reported() {
        let (mut driver, mut room) = full();
        let old_ms = START_MS + AuditClass::Settings.retention_ms() + DAY_MS;
        driver.change(2, old_ms);
        room.look(&driver.state, old_ms, 2_000);
        driver.apply(Command::ExpireAudit { now_ms: old_ms }, old_ms);
        room.look(&driver.state, old_ms, 4_000);
        assert_eq!(room.due(true, 4_000), NOTHING);
        assert_eq!(driver.state.audit().chain(AuditClass::Settings).kept(), 2);
    }

    #[test]
    fn what_was_dropped_before_a_start_or_under_another_leader_is_not_reported_again() {
        let (mut driver, mut room) = full();
        driver.change(7, START_MS);
        room.look(&driver.state, START_MS + REPLAY_MS, 2_000);
        assert_eq!(room.due(true, 2_000), NOTHING, "the log is read after a start");
        driver.change(7, START_MS);
        room.look(&driver.state, START_MS, 4_000);
        assert_eq!(room.due(false, 5_000 + HANDOVER_MS), NOTHING);
        assert_eq!(room.due(true, 6_000 + HANDOVER_MS), NOTHING, "another node has led meanwhile");
    }
}
