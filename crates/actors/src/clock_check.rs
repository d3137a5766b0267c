//! Compares this node's wall clock with those of the other voters: every second, and before this node
//! proposes anything.
//!
//! Place in the flow: [`Clock::compare`] decides. This module asks the other voters over the nodes' own
//! connections. Apply and followers never read a clock, so that the log means the same on every replica.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::sync::watch;

use super::peer::{self, PeerRouter, PeerService, To, WallTime};
use maxine_clock::Clock;
use maxine_store::{ControlStore, MemberView};

/// How long a node may take to answer with its time.
const CALL_TIMEOUT: Duration = Duration::from_millis(500);
/// Interval between two comparisons.
const PAUSE: Duration = Duration::from_secs(1);
/// Interval between two comparisons while the clock is unchecked.
const UNCHECKED_PAUSE: Duration = Duration::from_millis(100);
/// Maximum time that the first write of a node waits for the comparison.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of the last comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockReport {
    /// Whether a majority's clocks agree.
    pub agree: bool,
    /// How far each voter that answered is ahead of the agreed time, in milliseconds. If there is no
    /// agreement, how far it is ahead of this node.
    pub ahead_ms: Vec<(String, i64)>,
}

struct TimeService(Clock);

impl PeerService<WallTime> for TimeService {
    fn answer(&self, _: WallTime) -> BoxFuture<'static, Result<u64, String>> {
        futures::future::ready(Ok(self.0.own_wall_ms())).boxed()
    }
}

/// Answers other nodes with this node's time.
pub fn serve(peers: &PeerRouter, clock: &Clock) {
    peers.wall_time.set(TimeService(clock.clone()));
}

/// Compares every second until dropped, if the backend has members.
pub async fn run(store: Arc<dyn ControlStore>, clock: Clock, report: watch::Sender<ClockReport>) {
    loop {
        let Some(cluster) = store.cluster() else { return };
        let status = cluster.status();
        let voters: Vec<MemberView> = status.members.into_iter().filter(|m| m.voter).collect();
        // Until this node knows a member, it has nobody to ask and nothing to propose.
        if !voters.is_empty() {
            let own_id = status.node_id;
            report.send_replace(compare(store.as_ref(), &clock, &voters, own_id).await);
        }
        let pause = if clock.is_unchecked() { UNCHECKED_PAUSE } else { PAUSE };
        tokio::time::sleep(pause).await;
    }
}

async fn compare(
    store: &dyn ControlStore,
    clock: &Clock,
    voters: &[MemberView],
    own_id: u64,
) -> ClockReport {
    let others = voters.iter().filter(|voter| voter.id != own_id);
    let asked = others
        .map(async |voter| Some((voter.name.clone(), offset_of(store, clock, voter.id).await?)));
    let offsets: Vec<(String, i64)> = join_all(asked).await.into_iter().flatten().collect();
    let own = voters.iter().find(|voter| voter.id == own_id);
    let own = own.map_or_else(|| own_id.to_string(), |voter| voter.name.clone());
    let all: Vec<i64> = offsets.iter().map(|(_, offset)| *offset).collect();
    let own_offset = clock.offset_ms();
    let Some(own_ahead_ms) = clock.compare(&all, voters.len()) else {
        let ahead = offsets.into_iter().map(|(name, offset)| (name, offset - own_offset));
        return ClockReport { agree: false, ahead_ms: ahead.collect() };
    };
    let agreed = own_offset - own_ahead_ms;
    let ahead = offsets.into_iter().map(|(name, offset)| (name, offset - agreed));
    let ahead_ms = ahead.chain([(own, own_ahead_ms)]).collect();
    ClockReport { agree: true, ahead_ms }
}

/// The difference between a node's wall clock and this node's monotonic clock, in milliseconds. `None` if the node
/// does not answer.
async fn offset_of(store: &dyn ControlStore, clock: &Clock, id: u64) -> Option<i64> {
    let asked_ms = clock.monotonic_ms();
    let wall_ms = peer::call(store, To::Member(id), WallTime, CALL_TIMEOUT).await.ok()?;
    offset_between(asked_ms, clock.monotonic_ms(), wall_ms)
}

/// The other node read its clock at some time between the question and the answer, so the result can be wrong by half of
/// the time between them. `None` if that is longer than [`CALL_TIMEOUT`]: then one of both processes was paused in
/// between, and the timeout itself was noticed too late.
fn offset_between(asked_ms: u64, answered_ms: u64, wall_ms: u64) -> Option<i64> {
    let read_ms = asked_ms.midpoint(answered_ms);
    let is_late = u128::from(answered_ms.saturating_sub(asked_ms)) > CALL_TIMEOUT.as_millis();
    let offset = || Some(i64::try_from(wall_ms).ok()? - i64::try_from(read_ms).ok()?);
    if is_late { None } else { offset() }
}

/// Waits until the clock is compared, for a limited time and only once. A proposal without the comparison has
/// no time.
pub async fn settled(clock: &Clock) {
    if !clock.should_wait() {
        return;
    }
    let compared = async {
        while clock.should_wait() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(SETTLE_TIMEOUT, compared).await.is_err() {
        clock.note_waited();
        tracing::warn!("no majority of clocks agrees: proposals from this node carry no time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_read_after_a_pause_says_nothing_about_a_clock() {
        assert_eq!(offset_between(1_000, 1_010, 51_005), Some(50_000));
        assert_eq!(offset_between(1_000, 1_500, 51_250), Some(50_000));
        // The process was paused for 90 s between the question and the look at the answer.
        assert_eq!(offset_between(1_000, 91_000, 51_005), None);
    }
}
