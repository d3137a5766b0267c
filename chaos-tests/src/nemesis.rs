//! Causes one fault at a time in a cluster, and ends it.
//!
//! The seed and the present leader decide which nodes it affects. It never looks at what clients observe.

mod kinds;
mod possible;

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use crate::checks::strong_reads::CutOff;
use crate::clock;
use crate::cluster::{Cluster, Damage, OlderCopy, READY_TIMEOUT, SlowDisk};
use crate::journal::{FaultRecord, Journal};
use crate::network::Network;

pub use kinds::{FAULTS, Fault};
pub use possible::{ClusterProperties, fits, missing};

/// A fault that has begun.
#[derive(Debug)]
pub struct Active {
    /// The kind of fault.
    pub fault: Fault,
    /// The affected nodes.
    pub nodes: Vec<u64>,
    /// The leader before the fault.
    pub leader: u64,
    /// The leader's term, if there are terms.
    pub term: u64,
    /// When it began.
    pub start_us: u64,
    /// When the isolated node was certainly cut off.
    cut_us: Option<u64>,
    held: Held,
}

/// What must be kept until a fault ends.
#[derive(Debug)]
enum Held {
    Nothing,
    /// Dropping it ends the slowness of the disk.
    Slow {
        _until_dropped: SlowDisk,
    },
    Damage(Damage),
    RedisPort(u16),
}

/// The result of a fault that has ended.
#[derive(Debug)]
pub struct FaultEnd {
    /// The record for the journal. The values that depend on the recovery are still 0.
    pub record: FaultRecord,
    /// The node that was cut off, and the time in which it certainly was.
    pub cut: Option<CutOff>,
}

/// Maximum time to find the leader before a fault.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time for a node to detect that its log is damaged.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(30);
const NO_REDIS: &str = "this cluster has no Redis";
/// Maximum number of damages to Redis in one episode, and the maximum pause between two, in milliseconds.
const DAMAGES_MAX: usize = 60;
const DAMAGE_PAUSE_MS_MAX: u64 = 60;
/// Maximum number of older copies in one episode, and the minimum and maximum of their age, in milliseconds.
const ROLLBACKS_MAX: usize = 3;
const ROLLBACK_AFTER_MS: (u64, u64) = (200, 2_500);
/// Number of bytes that a node's log allocates in advance.
const ALLOCATED_LEN: u64 = 8 * 1024 * 1024;
/// Number of registrations in one write that uses these bytes up, and maximum number of such writes.
const USE_UP_ITEMS: u64 = 50;
const USE_UP_ATTEMPTS_MAX: u64 = 60;
/// Maximum time for a node on a full disk to stop, or to catch up with the others.
const FULL_DISK_TIMEOUT: Duration = Duration::from_secs(20);
/// Minimum and maximum distance by which a wall clock jumps, in seconds.
const JUMP_S: (i64, i64) = (60, 7_200);
/// A slow disk: how long it hangs, and how long it works between, in milliseconds.
const SLOW_MS: (u64, u64) = (150, 60);

/// Begins a fault.
pub async fn begin(
    cluster: &mut Cluster,
    fault: Fault,
    rng: &mut fastrand::Rng,
    journal: &Journal,
) -> anyhow::Result<Active> {
    let leader = cluster.wait_leader(LEADER_TIMEOUT).await?;
    let term = cluster.term(leader).await.unwrap_or(0);
    let nodes = chosen(cluster, fault, leader, rng)?;
    let start_us = clock::now_us();
    let mut active =
        Active { fault, nodes, leader, term, start_us, cut_us: None, held: Held::Nothing };
    match fault {
        Fault::KillAny
        | Fault::KillLeader
        | Fault::KillAll
        | Fault::PauseLeader
        | Fault::PauseFollower
        | Fault::RollingRestart
        | Fault::Upgrade
        | Fault::ReplaceMember => to_processes(cluster, &active, journal).await?,
        Fault::FullDisk
        | Fault::ReadOnlyDisk
        | Fault::HungDisk
        | Fault::SlowDisk
        | Fault::PowerLoss
        | Fault::CutLogTail
        | Fault::FlipLogTail => to_disks(cluster, &mut active, rng).await?,
        Fault::Rollback => roll_back(cluster, active.nodes[0], rng, journal).await?,
        Fault::ClockForward | Fault::ClockBack => {
            let by_s = rng.i64(JUMP_S.0..=JUMP_S.1);
            let by_s = if fault == Fault::ClockBack { -by_s } else { by_s };
            cluster.node(active.nodes[0]).wall_clock()?.jump(by_s)?;
        }
        Fault::KillRedis
        | Fault::PauseRedis
        | Fault::FlushRedis
        | Fault::DamageRedis
        | Fault::FailoverRedis => to_redis(cluster, &mut active, rng, journal).await?,
        _ => to_network(cluster, &mut active, rng)?,
    }
    Ok(active)
}

/// The nodes that the fault affects.
fn chosen(
    cluster: &Cluster,
    fault: Fault,
    leader: u64,
    rng: &mut fastrand::Rng,
) -> anyhow::Result<Vec<u64>> {
    let all = cluster.ids();
    let followers: Vec<u64> = all.iter().copied().filter(|id| *id != leader).collect();
    let follower =
        *followers.get(rng.usize(..followers.len().max(1))).context("one node has no follower")?;
    let any = all[rng.usize(..all.len())];
    Ok(match fault {
        Fault::KillLeader | Fault::PauseLeader | Fault::IsolateLeader => vec![leader],
        Fault::Degrade | Fault::Delay | Fault::Loss | Fault::Rate => vec![leader],
        Fault::PauseFollower | Fault::IsolateFollower => vec![follower],
        Fault::OneWayFromLeader | Fault::OneWayToLeader => vec![leader, follower],
        Fault::Bridge => followers,
        Fault::Halves => {
            let mut mixed = all.clone();
            rng.shuffle(&mut mixed);
            mixed.truncate(all.len() / 2);
            mixed
        }
        Fault::KillAll | Fault::RollingRestart | Fault::Upgrade | Fault::Ring => all,
        // In Redis mode it is the disk of Redis.
        Fault::PowerLoss if cluster.has_redis() => Vec::new(),
        Fault::FullDisk | Fault::HungDisk | Fault::SlowDisk if cluster.has_redis() => Vec::new(),
        Fault::PowerLoss => all,
        Fault::KillAny | Fault::ReplaceMember | Fault::ClockForward | Fault::ClockBack => vec![any],
        Fault::FullDisk | Fault::ReadOnlyDisk | Fault::HungDisk | Fault::SlowDisk => vec![any],
        Fault::CutLogTail | Fault::FlipLogTail | Fault::Rollback => vec![any],
        Fault::KillRedis
        | Fault::PauseRedis
        | Fault::FlushRedis
        | Fault::DamageRedis
        | Fault::FailoverRedis => Vec::new(),
    })
}

async fn to_processes(
    cluster: &mut Cluster,
    active: &Active,
    journal: &Journal,
) -> anyhow::Result<()> {
    match active.fault {
        Fault::PauseLeader | Fault::PauseFollower => cluster.node_mut(active.nodes[0]).pause()?,
        Fault::RollingRestart | Fault::Upgrade => {
            for id in &active.nodes {
                if !cluster.node_mut(*id).stop(STOP_TIMEOUT).await? {
                    bail!("node {id} did not stop within {STOP_TIMEOUT:?}");
                }
                if active.fault == Fault::Upgrade {
                    cluster.use_present_program(*id)?;
                }
                cluster.start_node(*id)?;
                cluster.wait_node_ready(*id, READY_TIMEOUT).await?;
                journal.count("nodes_restarted_in_turn", 1);
            }
        }
        Fault::ReplaceMember => cluster.replace_member(active.nodes[0]).await?,
        _ => {
            for id in &active.nodes {
                cluster.node_mut(*id).kill().await?;
            }
        }
    }
    Ok(())
}

async fn to_disks(
    cluster: &mut Cluster,
    active: &mut Active,
    rng: &mut fastrand::Rng,
) -> anyhow::Result<()> {
    let whose = active.nodes.first().copied();
    match active.fault {
        Fault::FullDisk => {
            cluster.disk(whose)?.fill()?;
            if let Some(id) = whose {
                use_up_log(cluster, id).await;
            }
        }
        Fault::ReadOnlyDisk => cluster.disk(whose)?.fail()?,
        Fault::HungDisk => cluster.disk(whose)?.freeze()?,
        Fault::SlowDisk => {
            active.held =
                Held::Slow { _until_dropped: cluster.disk(whose)?.slow_down(SLOW_MS.0, SLOW_MS.1) };
        }
        Fault::PowerLoss if active.nodes.is_empty() => {
            cluster.disk(None)?.lose_power()?;
            cluster.redis_mut().context(NO_REDIS)?.kill().await?;
        }
        Fault::PowerLoss => {
            for id in &active.nodes {
                cluster.disk(Some(*id))?.lose_power()?;
            }
            for id in &active.nodes {
                cluster.node_mut(*id).kill().await?;
            }
        }
        _ => {
            let node = cluster.node_mut(active.nodes[0]);
            node.kill().await?;
            let (dir, len) = (node.plan().data_dir.clone(), rng.u64(1..64 * 1_024));
            active.held = Held::Damage(match active.fault {
                Fault::CutLogTail => Damage::cut(&dir, len)?,
                _ => Damage::flip(&dir, len, rng)?,
            });
        }
    }
    Ok(())
}

/// Writes through another node until more is acknowledged than fits into the file that the log of a node had
/// allocated before its disk was full. It writes the same instances each time, so that the state stays small.
async fn use_up_log(cluster: &Cluster, id: u64) {
    let Some(other) = cluster.ids().into_iter().find(|other| *other != id) else { return };
    let client = cluster.client(other);
    let mut written = 0;
    for nth in 0..USE_UP_ATTEMPTS_MAX {
        let note = format!("{nth:01000}");
        let item = |at: u64| {
            json!({
                "namespace": "full-disk", "service": "large", "id": format!("i{at}"), "ttl_ms": 86_400_000,
                "address": "http://10.20.30.43:80",
                "metadata": {"a": note, "b": note, "c": note, "d": note, "e": note, "f": note, "g": note},
            })
        };
        let items: Vec<_> = (0..USE_UP_ITEMS).map(item).collect();
        let answer = client.post("/api/v1/registrations", &json!({"items": items}), &[]).await;
        written += if answer.is_ok() { USE_UP_ITEMS * 7_000 } else { 0 };
        if written > ALLOCATED_LEN {
            return;
        }
    }
}

/// Gives a node an older copy of its own directory, a few times. The node may be ready again only with
/// everything that it had reported before.
async fn roll_back(
    cluster: &mut Cluster,
    id: u64,
    rng: &mut fastrand::Rng,
    journal: &Journal,
) -> anyhow::Result<()> {
    for _ in 0..rng.usize(1..=ROLLBACKS_MAX) {
        cluster.node_mut(id).kill().await?;
        let copy = OlderCopy::take(&cluster.node(id).plan().data_dir)?;
        cluster.start_node(id)?;
        cluster.wait_node_ready(id, READY_TIMEOUT).await?;
        let (shortest_ms, longest_ms) = ROLLBACK_AFTER_MS;
        tokio::time::sleep(Duration::from_millis(rng.u64(shortest_ms..=longest_ms))).await;
        let before = cluster.wait_node_ready(id, READY_TIMEOUT).await?;
        cluster.node_mut(id).kill().await?;
        copy.put_back()?;
        cluster.start_node(id)?;
        let after = cluster.wait_node_ready(id, READY_TIMEOUT).await?;
        if after.index < before.index {
            let (had, has) = (before.index, after.index);
            let text = format!(
                "node {id} reported ready at index {has}, but it had been at index {had} before"
            );
            journal.anomaly("rollback", text);
        }
        journal.count("rollbacks", 1);
    }
    Ok(())
}

async fn to_redis(
    cluster: &mut Cluster,
    active: &mut Active,
    rng: &mut fastrand::Rng,
    journal: &Journal,
) -> anyhow::Result<()> {
    match active.fault {
        Fault::FailoverRedis => {
            let watched = cluster.sentinels_mut().context("this cluster has no Sentinels")?;
            active.held = Held::RedisPort(watched.kill_master().await?);
        }
        Fault::FlushRedis => {
            let redis = cluster.redis_mut().context(NO_REDIS)?;
            redis.command("FLUSHALL").await?;
        }
        Fault::DamageRedis => {
            let redis = cluster.redis_mut().context(NO_REDIS)?;
            for _ in 0..rng.usize(1..=DAMAGES_MAX) {
                redis.damage(rng).await?;
                journal.count("damages_to_redis", 1);
                tokio::time::sleep(Duration::from_millis(rng.u64(..DAMAGE_PAUSE_MS_MAX))).await;
            }
        }
        Fault::KillRedis => cluster.redis_mut().context(NO_REDIS)?.kill().await?,
        _ => cluster.redis_mut().context(NO_REDIS)?.pause(true)?,
    }
    Ok(())
}

fn to_network(
    cluster: &Cluster,
    active: &mut Active,
    rng: &mut fastrand::Rng,
) -> anyhow::Result<()> {
    let (all, nodes, network) = (cluster.ids(), &active.nodes, cluster.network());
    match active.fault {
        Fault::OneWayFromLeader => network.block(nodes[0], nodes[1])?,
        Fault::OneWayToLeader => network.block(nodes[1], nodes[0])?,
        Fault::Bridge => network.cut_between(nodes, nodes)?,
        Fault::Halves => {
            let others: Vec<u64> = all.iter().copied().filter(|id| !nodes.contains(id)).collect();
            network.cut_between(nodes, &others)?;
        }
        Fault::Ring => network.ring(&all)?,
        Fault::Delay => match network {
            Network::Proxied(proxy) => proxy.delay(nodes[0], rng.u64(30..150), 30),
            _ => bail!("bytes can be delayed by the proxies only"),
        },
        Fault::Degrade | Fault::Loss | Fault::Rate => match (network, active.fault) {
            (Network::Namespaces(network), Fault::Degrade) => {
                network.degrade(nodes[0], 40 + rng.u32(..80), 20, 5)?;
            }
            (Network::Namespaces(network), Fault::Loss) => {
                network.lose(nodes[0], rng.u8(5..40))?;
            }
            (Network::Namespaces(network), _) => network.limit(nodes[0], rng.u32(20..200))?,
            _ => bail!("packets are dropped and delayed in network namespaces only"),
        },
        _ => {
            network.isolate(nodes[0], &all)?;
            active.cut_us = Some(clock::now_us());
        }
    }
    Ok(())
}

/// Ends a fault.
pub async fn end(
    cluster: &mut Cluster,
    active: &mut Active,
    journal: &Journal,
) -> anyhow::Result<FaultEnd> {
    let until_us = clock::now_us();
    let whose = active.nodes.first().copied();
    match active.fault {
        Fault::KillAny | Fault::KillLeader | Fault::KillAll => {
            for id in &active.nodes {
                cluster.start_node(*id)?;
            }
        }
        Fault::PauseLeader | Fault::PauseFollower => cluster.node_mut(active.nodes[0]).resume()?,
        Fault::RollingRestart
        | Fault::Upgrade
        | Fault::ReplaceMember
        | Fault::Rollback
        | Fault::FlushRedis
        | Fault::DamageRedis => {}
        Fault::ClockForward | Fault::ClockBack => {
            cluster.node(active.nodes[0]).wall_clock()?.jump(0)?;
        }
        Fault::FullDisk | Fault::ReadOnlyDisk => mend_disk(cluster, active, journal).await?,
        Fault::HungDisk => cluster.disk(whose)?.thaw()?,
        Fault::SlowDisk => active.held = Held::Nothing,
        Fault::PowerLoss if active.nodes.is_empty() => {
            cluster.disk(None)?.power_on()?;
            cluster.redis_mut().context(NO_REDIS)?.start_again().await?;
        }
        Fault::PowerLoss => {
            for id in &active.nodes {
                cluster.disk(Some(*id))?.power_on()?;
                cluster.start_node(*id)?;
            }
        }
        Fault::CutLogTail | Fault::FlipLogTail => {
            start_on_damage(cluster, active, journal).await?;
        }
        Fault::KillRedis => cluster.redis_mut().context(NO_REDIS)?.start_again().await?,
        Fault::PauseRedis => cluster.redis_mut().context(NO_REDIS)?.pause(false)?,
        Fault::FailoverRedis => {
            if let Held::RedisPort(port) = active.held {
                let watched = cluster.sentinels_mut().context("this cluster has no Sentinels")?;
                watched.rejoin(port).await?;
            }
        }
        _ => cluster.network().heal()?,
    }
    let record = FaultRecord {
        kind: active.fault.to_string(),
        nodes: active.nodes.clone(),
        hit_leader: active.nodes.contains(&active.leader),
        start_us: active.start_us,
        end_us: until_us,
        unavailable_us: 0,
        recovery_us: 0,
    };
    let cut = active.cut_us.map(|from_us| CutOff { node: active.nodes[0], from_us, until_us });
    Ok(FaultEnd { record, cut })
}

/// Frees space or repairs the disk, as an operator would, and starts the nodes that stopped.
async fn mend_disk(
    cluster: &mut Cluster,
    active: &Active,
    journal: &Journal,
) -> anyhow::Result<()> {
    let Some(id) = active.nodes.first().copied() else {
        cluster.disk(None)?.make_room()?;
        let redis = cluster.redis_mut().context(NO_REDIS)?;
        redis.kill().await?;
        return redis.start_again().await;
    };
    let by_itself = match active.fault {
        Fault::FullDisk => stopped_or_whole(cluster, id, journal).await?,
        _ => cluster.node_mut(id).ended()?.is_some(),
    };
    journal.count(&format!("{}_stopped_by_itself", active.fault), u64::from(by_itself));
    cluster.node_mut(id).kill().await?;
    match active.fault {
        Fault::FullDisk => cluster.disk(Some(id))?.make_room()?,
        _ => cluster.disk(Some(id))?.repair()?,
    }
    cluster.start_node(id)
}

/// Whether a node stopped by itself on its full disk. A node that did not stop must have everything that was
/// acknowledged by then, because a little space may be free where it wrote last.
async fn stopped_or_whole(
    cluster: &mut Cluster,
    id: u64,
    journal: &Journal,
) -> anyhow::Result<bool> {
    let must_have = journal.records().figures.get("acknowledged_index").copied().unwrap_or(0);
    let deadline = clock::now() + FULL_DISK_TIMEOUT;
    loop {
        if cluster.node_mut(id).ended()?.is_some() {
            return Ok(true);
        }
        if cluster.ready(id).await.is_some_and(|ready| ready.ready && ready.index >= must_have) {
            return Ok(false);
        }
        if clock::now() >= deadline {
            let text = format!(
                "node {id} did not stop on its full disk, and it lacks acknowledged writes"
            );
            journal.anomaly("full-disk", text);
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A node with a damaged log must refuse to start. If the damage is in an unused part of the file, the node
/// must have everything that it had.
async fn start_on_damage(
    cluster: &mut Cluster,
    active: &mut Active,
    journal: &Journal,
) -> anyhow::Result<()> {
    let id = active.nodes[0];
    cluster.start_node(id)?;
    let deadline = clock::now() + REFUSE_TIMEOUT;
    let refused = loop {
        if cluster.node_mut(id).ended()?.is_some() {
            break true;
        }
        if cluster.ready(id).await.is_some_and(|ready| ready.ready) {
            break false;
        }
        if clock::now() >= deadline {
            let words = cluster.node(id).log_tail();
            bail!("node {id} neither started nor ended on a damaged log\n{words}");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    };
    let outcome = if refused { "refused" } else { "harmless" };
    journal.count(&format!("{}_{outcome}", active.fault), 1);
    if refused {
        let said = cluster.node(id).log_tail();
        if !said.contains("Nothing was changed") {
            let said = said.lines().last().unwrap_or_default().to_owned();
            journal.anomaly(
                "damage",
                format!(
                    "node {id} ended, and its log does not say that nothing was changed: {said}"
                ),
            );
        }
        if let Held::Damage(damage) = &active.held {
            damage.undo()?;
        }
        cluster.start_node(id)?;
    }
    active.held = Held::Nothing;
    Ok(())
}
