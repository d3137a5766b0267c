//! The tasks that watch over a running node: they publish who leads, watch the disk and the consensus core, and
//! look for the members while there is no known leader.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::ServerState;
use tokio_util::sync::CancellationToken;

use crate::consensus::quorum_ack_age;
use crate::exclusion::Exclusion;
use crate::inner::Inner;
use crate::{belonging, clock, membership, quorum, transfer};

/// How often members are asked while there is no known leader.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the node looks whether its directory is still there.
const DIRECTORY_EVERY: Duration = Duration::from_millis(500);
/// How often the clock is checked.
const TICK: Duration = Duration::from_millis(20);

/// Publishes changes of the leader and watches the disk, until the node stops.
pub(crate) async fn watch_over(node: Weak<Inner>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut members_seen = None;
    let mut stands = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = node.upgrade() else { return };
        watch_disk(&inner).await;
        let acknowledged = &inner.links.context.me.acknowledged;
        acknowledged.filled(inner.log.last_log_id());
        let me = &inner.links.context.me;
        let may_stand = !inner.stalled.load(Ordering::Acquire)
            && acknowledged.lost().is_none()
            && acknowledged.is_settled(me.node_id, &me.roster.voters());
        if may_stand != stands {
            stands = may_stand;
            inner.raft.runtime_config().elect(stands);
        }
        let now = inner.leadership_now();
        // A node that leads alone confirms itself.
        let age = inner.with_metrics(quorum_ack_age).filter(|_| inner.other_voters() > 0);
        let seen_at = clock::now();
        let confirmed_at = age.and_then(|age| seen_at.checked_sub(age)).unwrap_or(seen_at);
        // This comes before the change is published, because whoever learns of the change asks for how long
        // nobody led.
        inner.led.lock().note(now.is_leader, confirmed_at, seen_at);
        inner.leadership.send_if_modified(|published| {
            if *published == now {
                return false;
            }
            if published.is_leader != now.is_leader {
                tracing::info!(node = inner.config.node_id, term = now.term, is_leader = now.is_leader, leader = ?now.leader, "leadership changed");
                inner.counters.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            *published = now;
            true
        });
        belonging::store_removal(&inner).await;
        belonging::watch_exclusion(&inner);
        let membership_id = inner.with_metrics(|metrics| *metrics.membership_config.log_id());
        if members_seen != Some(membership_id) {
            members_seen = Some(membership_id);
            let members = inner.with_metrics(|metrics| metrics.membership_config.clone());
            inner.links.retain(|node| members.membership().get_node(&node).is_some());
        }
        if let Some(reason) = core_end(&inner) {
            end(&inner, &reason);
        }
    }
}

/// Why the consensus core has ended; `None` while it runs. A core that panicked leaves its last metrics
/// unchanged, and only the end of their channel shows it.
fn core_end(inner: &Inner) -> Option<String> {
    let stated =
        inner.with_metrics(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string));
    let panicked = || {
        let reason = "the consensus core of this node panicked; its message is in this node's log";
        inner.raft.metrics().is_closed().then(|| reason.to_owned())
    };
    stated.or_else(panicked)
}

/// Ends the node if its directory is gone or was replaced. What it acknowledged from then on would be lost.
pub(crate) async fn watch_directory(node: Weak<Inner>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(DIRECTORY_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = node.upgrade() else { return };
        let looked = Arc::clone(&inner);
        let Ok(loss) = tokio::task::spawn_blocking(move || looked.dir.loss()).await else {
            continue;
        };
        if let Some(loss) = loss {
            end(&inner, &loss);
        }
    }
}

/// Ends the node, unless it is ending already.
fn end(inner: &Inner, reason: &str) {
    if inner.lifecycle.stop.is_cancelled() || !inner.lifecycle.is_accepting() {
        return;
    }
    // Peers must not count a node as alive that takes no part any more.
    inner.health.fail(reason);
    inner.lifecycle.stop.cancel();
    inner.links.close();
}

/// While there is no known leader, asks the members whether they are reachable, and whether this node still
/// belongs to the cluster. On a leader, takes over the names and addresses that they give themselves, and
/// finishes a change of the membership that was interrupted.
pub(crate) async fn look_for_members(node: Weak<Inner>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut unfinished = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = node.upgrade() else { return };
        membership::finish_change(&inner, &mut unfinished).await;
        let is_removed = matches!(inner.exclusion.get(), Some(Exclusion::Removed(_)));
        if is_removed || inner.leadership_now().leader.is_some() {
            inner.pinged.store(false, Ordering::Release);
            membership::adopt_introductions(&inner).await;
            continue;
        }
        quorum::ping_members(&inner).await;
        inner.pinged.store(true, Ordering::Release);
    }
}

/// Makes a leader with a stalled disk step down. Its heartbeats stop, so that the others elect a leader even
/// if the transfer does not reach them.
async fn watch_disk(inner: &Inner) {
    let busy = inner.health.busy_ms();
    let stalled = inner.stalled.load(Ordering::Acquire);
    if !stalled && busy > inner.config.disk_stall_ms {
        tracing::error!(
            busy_ms = busy,
            "the disk has stalled; this node resigns as leader until the disk recovers"
        );
        inner.stalled.store(true, Ordering::Release);
        inner.counters.disk_stalls.fetch_add(1, Ordering::Relaxed);
        inner.raft.runtime_config().heartbeat(false);
        // A leader that still waits for the lease of an earlier one cannot transfer its leadership.
        if inner.with_metrics(|metrics| metrics.state == ServerState::Leader)
            && !inner.waits_for_earlier_leader()
            && let Some(target) = transfer::best_successor(inner)
        {
            let patience = Duration::from_millis(inner.config.heartbeat_interval_ms);
            let _ = tokio::time::timeout(patience, inner.transfer_core(target)).await;
        }
    } else if stalled && busy < inner.config.disk_stall_ms {
        tracing::warn!("the disk has recovered");
        inner.stalled.store(false, Ordering::Release);
        inner.raft.runtime_config().heartbeat(true);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use bytes::Bytes;
    use futures::future::BoxFuture;

    use super::*;
    use crate::application::PeerHandler;
    use crate::application::tests::Nothing;
    use crate::config::{Config, Member, NodeId};
    use crate::inner::RaftNode;

    impl PeerHandler for Nothing {
        fn handle(&self, _: NodeId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
            Box::pin(async { Ok(Bytes::new()) })
        }
    }

    /// A node without its core must stop. If it stayed alive, it would be counted as a working voter.
    #[tokio::test]
    async fn a_node_whose_core_panicked_says_that_it_failed() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new("test", 1, dir.path(), ([127, 0, 0, 1], 0).into());
        let node = RaftNode::start(config, Box::new(Nothing), Arc::new(Nothing)).await.unwrap();
        let member = Member { peer_addr: node.listen_addr().to_string(), ..Member::default() };
        node.bootstrap(BTreeMap::from([(1, member)])).await.unwrap();
        node.inner.raft.external_request(|_| panic!("a defect of the core")).await.unwrap();
        let reason = tokio::time::timeout(Duration::from_secs(10), node.failed()).await;
        let reason = reason.expect("it fails");
        assert!(reason.contains("panicked"), "{reason}");
        node.stop_now().await;
    }
}
