//! Chooses an instance for one attempt.
//!
//! Where nothing is configured and nothing failed, the choice is the routing table's own. Versions,
//! zones, stickiness, gates and slow starts narrow it down from there.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::upstream::Upstream;
use maxine_state::{SelectionStrategy, VersionShare, ZonePolicy};
use maxine_view::{SelectionKey, ServiceTable};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How often the table is asked again before the list is searched.
const REPICKS_MAX: usize = 6;
/// Most slots of one lane's cycle.
const LANE_SLOTS_MAX: usize = 65_536;

/// One latency-aware choice in so many is left to chance.
const EXPLORE_ONE_IN: u32 = 16;

/// What the choice may depend on.
pub(crate) struct PickInput<'a> {
    pub(crate) now_ms: u64,
    pub(crate) hash: &'a [u8],
    /// The instance that the client is kept with, by the hash of its name or of the header's value.
    pub(crate) sticky: Option<StickyKey>,
    /// Positions that were tried already.
    pub(crate) tried: &'a [usize],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StickyKey {
    /// The hash of an instance's name, from the cookie.
    Instance(u64),
    /// The hash of a header's value.
    Affinity(u64),
}

/// Why there is no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPick {
    /// There is no instance.
    NoInstance,
    /// There are, but none may be called now.
    AllGated,
}

/// The choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Picked {
    pub(crate) position: usize,
    pub(crate) share: u32,
}

/// A set of instances that is chosen from as one.
#[derive(Debug, Default)]
struct Lane {
    positions: Vec<u32>,
    /// Each position as often as its weight says, spread evenly.
    cycle: Vec<u32>,
    cursor: AtomicU64,
}

#[derive(Debug)]
struct Group {
    weight: u32,
    all: Lane,
    local: Lane,
}

/// What narrows the choice for one service; built with its runtime.
#[derive(Debug, Default)]
pub(crate) struct Picker {
    groups: Vec<Group>,
    zone: Option<ZonePolicy>,
    by_name: Option<HashMap<u64, usize>>,
    latency_aware: bool,
    ramping: bool,
}

/// What a picker is built from.
pub(crate) struct PickerShape<'a> {
    pub(crate) split: &'a [VersionShare],
    pub(crate) zone: Option<ZonePolicy>,
    pub(crate) own_zone: Option<&'a str>,
    pub(crate) sticky: bool,
    pub(crate) latency_aware: bool,
}

impl Picker {
    pub(crate) fn build(upstreams: &[std::sync::Arc<Upstream>], shape: &PickerShape<'_>) -> Self {
        let zone = shape.zone.filter(|_| shape.own_zone.is_some());
        let is_local = |u: &Upstream| {
            zone.is_some()
                && u.instance.registration.zone.as_ref().map(|z| z.as_str()) == shape.own_zone
        };
        let lane = |wanted: &dyn Fn(&Upstream) -> bool| {
            let members = (0_u32..).zip(upstreams).filter(|(_, u)| wanted(u));
            Lane::new(members.map(|(at, u)| (at, u.instance.registration.weight)).collect())
        };
        let mut groups = Vec::new();
        for share in shape.split.iter().filter(|share| share.weight > 0) {
            let of_version =
                |u: &Upstream| u.instance.registration.version.as_ref() == Some(&share.version);
            let all = lane(&of_version);
            if !all.positions.is_empty() {
                let local = lane(&|u| of_version(u) && is_local(u));
                groups.push(Group { weight: share.weight, all, local });
            }
        }
        let by_version = !groups.is_empty();
        if !by_version && (zone.is_some() || shape.latency_aware) {
            groups.push(Group { weight: 1, all: lane(&|_| true), local: lane(&is_local) });
        }
        let by_name = shape
            .sticky
            .then(|| upstreams.iter().enumerate().map(|(at, u)| (u.name_hash, at)).collect());
        let ramping = upstreams.iter().any(|u| u.ramp.1 > 0);
        Self { groups, zone, by_name, latency_aware: shape.latency_aware, ramping }
    }

    /// Chooses; takes a trial where the chosen one's breaker is half-open.
    pub(crate) fn pick(
        &self,
        table: &ServiceTable,
        upstreams: &[std::sync::Arc<Upstream>],
        input: &PickInput<'_>,
    ) -> Result<Picked, NoPick> {
        if upstreams.is_empty() {
            return Err(NoPick::NoInstance);
        }
        let fits = |at: usize| !input.tried.contains(&at) && upstreams[at].signals.may_pass();
        if let Some(position) = input.sticky.and_then(|key| self.stick(upstreams, key, &fits))
            && upstreams[position].signals.pass()
        {
            return Ok(Picked { position, share: 0 });
        }
        for turn in 0..REPICKS_MAX {
            let picked = match self.group() {
                Some(group) => self.pick_in_group(group, table, upstreams, input, &fits),
                None => pick_in_table(table, input),
            };
            let Some(picked) = picked else { break };
            let ramp = !self.ramping || turn + 1 == REPICKS_MAX || {
                let permille = upstreams[picked.position].ramp_permille(input.now_ms);
                permille >= 1_000 || fastrand::u64(0..1_000) < permille
            };
            if ramp && fits(picked.position) && upstreams[picked.position].signals.pass() {
                return Ok(picked);
            }
        }
        self.search(table, upstreams, input, &fits)
    }

    /// The list, from where the key or chance says: first those not tried, then any that passes.
    fn search(
        &self,
        table: &ServiceTable,
        upstreams: &[std::sync::Arc<Upstream>],
        input: &PickInput<'_>,
        fits: &dyn Fn(usize) -> bool,
    ) -> Result<Picked, NoPick> {
        if let Some(group) = self.group()
            && let Some(position) = rendezvous(&group.all.positions, upstreams, input.hash, fits)
                .filter(|at| upstreams[*at].signals.pass())
        {
            return Ok(Picked { position, share: 0 });
        }
        let len = upstreams.len();
        if table.hash_key().is_some() {
            let every: Vec<u32> = (0..u32::try_from(len).unwrap_or(u32::MAX)).collect();
            if let Some(position) = rendezvous(&every, upstreams, input.hash, fits)
                && upstreams[position].signals.pass()
            {
                return Ok(Picked { position, share: 0 });
            }
        }
        let start = fastrand::usize(0..len);
        let around = || (0..len).map(|step| (start + step) % len);
        let untried = around().find(|at| fits(*at) && upstreams[*at].signals.pass());
        untried
            .or_else(|| around().find(|at| upstreams[*at].signals.pass()))
            .map(|position| Picked { position, share: 0 })
            .ok_or(NoPick::AllGated)
    }

    fn group(&self) -> Option<&Group> {
        match self.groups.as_slice() {
            [] => None,
            [one] => Some(one),
            many => {
                let total: u32 = many.iter().map(|group| group.weight).sum();
                let mut draw = fastrand::u32(0..total.max(1));
                many.iter().find(|group| {
                    let here = draw < group.weight;
                    draw = draw.saturating_sub(group.weight);
                    here
                })
            }
        }
    }

    fn pick_in_group(
        &self,
        group: &Group,
        table: &ServiceTable,
        upstreams: &[std::sync::Arc<Upstream>],
        input: &PickInput<'_>,
        fits: &dyn Fn(usize) -> bool,
    ) -> Option<Picked> {
        let lane =
            if self.stays_local(&group.local, upstreams, fits) { &group.local } else { &group.all };
        let position = match table.strategy() {
            SelectionStrategy::LeastRequest => {
                lane.least(upstreams, self.latency_aware, input.now_ms, fits)
            }
            SelectionStrategy::RoundRobin => lane.next(),
            SelectionStrategy::ConsistentHash | SelectionStrategy::Rendezvous => {
                rendezvous(&lane.positions, upstreams, input.hash, fits)
            }
        };
        position.map(|position| Picked { position, share: 0 })
    }

    fn stays_local(
        &self,
        local: &Lane,
        upstreams: &[std::sync::Arc<Upstream>],
        fits: &dyn Fn(usize) -> bool,
    ) -> bool {
        let Some(zone) = &self.zone else { return false };
        let needed = zone.local_instances_min as usize;
        if local.positions.len() < needed {
            return false;
        }
        let in_flight = Cell::new(0);
        let usable = local
            .positions
            .iter()
            .map(|at| *at as usize)
            .filter(|at| fits(*at))
            .inspect(|at| {
                let load = upstreams[*at].load.in_flight.load(Ordering::Relaxed);
                in_flight.set(in_flight.get() + load);
            })
            .count();
        let crowded = zone.spill_in_flight != 0
            && in_flight.get() > usable as u64 * u64::from(zone.spill_in_flight);
        usable >= needed.max(1) && !crowded
    }

    fn stick(
        &self,
        upstreams: &[std::sync::Arc<Upstream>],
        key: StickyKey,
        fits: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        match key {
            StickyKey::Instance(hash) => {
                self.by_name.as_ref()?.get(&hash).copied().filter(|at| fits(*at))
            }
            StickyKey::Affinity(hash) => {
                let every: Vec<u32> = (0..u32::try_from(upstreams.len()).ok()?).collect();
                rendezvous(&every, upstreams, &hash.to_le_bytes(), fits)
            }
        }
    }
}

fn pick_in_table(table: &ServiceTable, input: &PickInput<'_>) -> Option<Picked> {
    let key = SelectionKey { hash: input.hash, random: fastrand::u64(..) };
    let selected = table.select(key)?;
    Some(Picked { position: selected.position, share: selected.share })
}

impl Lane {
    fn new(members: Vec<(u32, u16)>) -> Self {
        let total: usize = members.iter().map(|(_, weight)| usize::from(*weight)).sum();
        let mut slots: Vec<(u64, u32)> = Vec::new();
        for (position, weight) in &members {
            let count = if total > LANE_SLOTS_MAX { 1 } else { u64::from(*weight) };
            // The middle of the nth of `count` equal parts of the cycle, in fixed point.
            slots.extend((0..count).map(|n| (((2 * n + 1) << 32) / (2 * count), *position)));
        }
        slots.sort_unstable();
        Self {
            positions: members.into_iter().map(|(position, _)| position).collect(),
            cycle: slots.into_iter().map(|(_, position)| position).collect(),
            cursor: AtomicU64::new(0),
        }
    }

    fn next(&self) -> Option<usize> {
        let len = self.cycle.len() as u64;
        let turn = self.cursor.fetch_add(1, Ordering::Relaxed);
        let at = usize::try_from(turn.checked_rem(len)?).ok()?;
        self.cycle.get(at).map(|position| *position as usize)
    }

    /// The better of two by requests in flight, weight and, where wanted, latency.
    fn least(
        &self,
        upstreams: &[std::sync::Arc<Upstream>],
        latency_aware: bool,
        now_ms: u64,
        fits: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let len = self.positions.len();
        if len == 0 {
            return None;
        }
        let first = fastrand::usize(0..len);
        let second = if len == 1 { first } else { (first + fastrand::usize(1..len)) % len };
        let cost = |at: usize| {
            let upstream = &upstreams[at];
            let in_flight = upstream.load.in_flight.load(Ordering::Relaxed) + 1;
            // Powers of two of a millisecond: what differs by less is noise and must not decide.
            let latency_ms =
                if latency_aware { upstream.signals.latency_us(now_ms) / 1_000 } else { 0 };
            u128::from(in_flight) << (latency_ms + 1).ilog2()
        };
        let (a, b) = (self.positions[first] as usize, self.positions[second] as usize);
        match (fits(a), fits(b)) {
            (true, false) => return Some(a),
            (false, true) => return Some(b),
            _ => {}
        }
        // The estimate of one that is never asked cannot get better.
        if latency_aware && fastrand::u32(0..EXPLORE_ONE_IN) == 0 {
            return Some(a);
        }
        let weight = |at: usize| u128::from(upstreams[at].instance.registration.weight);
        Some(if cost(a) * weight(b) <= cost(b) * weight(a) { a } else { b })
    }
}

/// The highest weighted score for the key among those that fit.
fn rendezvous(
    positions: &[u32],
    upstreams: &[std::sync::Arc<Upstream>],
    key: &[u8],
    fits: &dyn Fn(usize) -> bool,
) -> Option<usize> {
    let score = |at: usize| {
        let hash = xxh3_64_with_seed(key, upstreams[at].name_hash);
        let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(upstreams[at].instance.registration.weight) / uniform.ln()
    };
    positions
        .iter()
        .map(|at| *at as usize)
        .filter(|at| fits(*at))
        .map(|at| (score(at), at))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, at)| at)
}
