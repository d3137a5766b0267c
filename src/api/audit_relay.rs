//! Takes what happens outside the log (sign-ins, refusals) into the replicated audit log.
//!
//! The answer to the client does not wait for it. What arrives faster than a bound is counted and
//! told in one record, so that nobody can flood the log by being refused.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::actors::{Registry, WriteRequest};
use crate::clock::Clock;
use crate::state::{Actor, Command};

/// Most records in one second of those who proved who they are.
const RECORDS_PER_SECOND_MAX: u32 = 50;
/// Most records in one second of those who did not: strangers must not push the others' records out.
const STRANGERS_RECORDS_PER_SECOND_MAX: u32 = 10;
/// Longest object of a record, in bytes.
const OBJECT_LEN_MAX: usize = 512;

#[derive(Default)]
struct Second {
    number: u64,
    taken: u32,
    taken_of_strangers: u32,
    left_out: u64,
}

struct Inner {
    registry: Registry,
    clock: Clock,
    second: Mutex<Second>,
    tasks: TaskTracker,
}

/// Hands records to the log. Cheap to clone.
#[derive(Clone)]
pub struct AuditRelay(Arc<Inner>);

impl AuditRelay {
    pub(super) fn new(registry: Registry, clock: Clock) -> Self {
        let (second, tasks) = (Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { registry, clock, second, tasks }))
    }

    /// Records an action, such as `session.create`, on an object, and how it ended. Must be called
    /// inside a tokio runtime.
    pub fn record(&self, actor: Actor, action: &str, object: &str, success: bool) {
        let end = (0..=object.len().min(OBJECT_LEN_MAX)).rev();
        let end = end.into_iter().find(|at| object.is_char_boundary(*at)).unwrap_or(0);
        let mut items = vec![(action.into(), object[..end].into(), success)];
        {
            let mut second = self.0.second.lock();
            let now = self.0.clock.monotonic_ms() / 1_000;
            if second.number != now {
                *second = Second { number: now, left_out: second.left_out, ..Second::default() };
            }
            let (taken, max) = match actor.user.is_empty() {
                true => (&mut second.taken_of_strangers, STRANGERS_RECORDS_PER_SECOND_MAX),
                false => (&mut second.taken, RECORDS_PER_SECOND_MAX),
            };
            if *taken >= max {
                second.left_out += 1;
                return;
            }
            *taken += 1;
            if second.left_out > 0 {
                let left_out = std::mem::take(&mut second.left_out);
                let object = format!("{left_out} records left out before this one").into();
                items.push(("audit.overflow".into(), object, false));
            }
        }
        let registry = self.0.registry.clone();
        self.0.tasks.spawn(async move {
            let command = Command::RecordAudit { items };
            let request = WriteRequest { actor, request_id: None, fence: None, command };
            if let Err(error) = registry.propose(request).await {
                tracing::warn!(%error, "an audit record could not be written");
            }
        });
    }

    /// Waits for the records under way; each has the registry's time limit.
    pub async fn stop(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
