//! Chooses an instance for one attempt. The routing table makes the choice among the instances that this node's proxy
//! may call.
//!
//! Strategy, versions, zones and the caller's hash come from the table, as for redirects. The proxy adds sticky
//! cookies. It excludes instances that were already tried, that have an open circuit breaker, or that are ejected, and
//! gives those in slow start a smaller share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use maxine_balance::{CallerHash, Draw, Narrowings, Pick, Pool};

use super::upstream::Upstream;
use maxine_view::ServiceTable;

/// Maximum number of repeated choices. A choice is repeated if another request took the last trial of the chosen
/// instance's breaker.
const REPICKS_MAX: usize = 6;
/// One in this many choices ignores latencies, so that a slow instance can prove that it has become fast.
const EXPLORE_ONE_IN: u32 = 16;

/// The input of a choice.
pub(crate) struct PickInput<'a> {
    pub(crate) now_ms: u64,
    pub(crate) draw: Draw,
    /// The instance that the sticky cookie names, by the hash of its name.
    pub(crate) sticky: Option<u64>,
    /// Positions of the instances that were tried already.
    pub(crate) tried: &'a [usize],
}

/// Why no instance was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPick {
    /// There is no instance.
    NoInstance,
    /// There are instances, but none may be called now.
    AllGated,
}

/// What the proxy adds to the table's choice for one service. It is rebuilt with the runtime of the service.
#[derive(Debug, Default)]
pub(crate) struct Picker {
    /// For sticky cookies: the positions of the instances, by the hash of the name.
    by_name: Option<HashMap<u64, usize>>,
    latency_aware: bool,
    ramping: bool,
}

impl Picker {
    pub(crate) fn build(upstreams: &[Arc<Upstream>], cookies: bool, latency_aware: bool) -> Self {
        let by_name = || upstreams.iter().enumerate().map(|(at, u)| (u.name_hash, at)).collect();
        let ramping = upstreams.iter().any(|u| u.ramp.1 > 0);
        Self { by_name: cookies.then(by_name), latency_aware, ramping }
    }

    /// Chooses an instance. If its breaker is half-open, this takes one of the trials.
    pub(crate) fn pick(
        &self,
        table: &ServiceTable,
        upstreams: &[Arc<Upstream>],
        input: &PickInput<'_>,
    ) -> Result<Pick, NoPick> {
        if upstreams.is_empty() {
            return Err(NoPick::NoInstance);
        }
        let mut pool = self.pool(table, upstreams, input);
        if let Some(position) = self.sticky_position(input.sticky).filter(|at| pool.admits(*at))
            && upstreams[position].signals.pass()
        {
            return Ok(Pick { position, share: 0 });
        }
        for _ in 0..REPICKS_MAX {
            let picked = choice(&mut pool, |pool| table.select_from(&input.draw, pool));
            match picked {
                Some(picked) if upstreams[picked.position].signals.pass() => return Ok(picked),
                Some(_) => {}
                None => break,
            }
        }
        Err(NoPick::AllGated)
    }

    /// The choice that [`Self::pick`] would make now, whether the sticky cookie made it, and how the table narrowed the
    /// instances. It takes no trial of a breaker.
    pub(crate) fn explain(
        &self,
        table: &ServiceTable,
        upstreams: &[Arc<Upstream>],
        input: &PickInput<'_>,
    ) -> (Option<Pick>, bool, Narrowings) {
        let mut pool = self.pool(table, upstreams, input);
        let sticky = self.sticky_position(input.sticky).filter(|at| pool.admits(*at));
        if let Some(position) = sticky {
            return (Some(Pick { position, share: 0 }), true, Narrowings::default());
        }
        let mut last = Narrowings::default();
        let picked = choice(&mut pool, |pool| {
            let (picked, narrowings) = table.explain_from(&input.draw, pool);
            last = narrowings;
            picked
        });
        (picked, false, last)
    }

    fn pool<'a>(
        &self,
        table: &ServiceTable,
        upstreams: &'a [Arc<Upstream>],
        input: &PickInput<'a>,
    ) -> Callable<'a> {
        Callable {
            upstreams,
            now_ms: input.now_ms,
            tried: input.tried,
            ramp: self.ramping.then(|| table.strategy_hashes().then_some(input.draw.hash)),
            latency_aware: self.latency_aware && fastrand::u32(0..EXPLORE_ONE_IN) > 0,
        }
    }

    /// The position of the instance that the sticky cookie names.
    fn sticky_position(&self, sticky: Option<u64>) -> Option<usize> {
        self.by_name.as_ref()?.get(&sticky?).copied()
    }
}

/// Chooses among the instances that may be called now. If there is no other instance, one in slow start is used, and then
/// one that was already tried.
fn choice(
    pool: &mut Callable<'_>,
    mut select: impl FnMut(&Callable<'_>) -> Option<Pick>,
) -> Option<Pick> {
    select(pool).or_else(|| {
        pool.ramp = None;
        select(pool).or_else(|| {
            pool.tried = &[];
            select(pool)
        })
    })
}

/// The instances that may be called now.
struct Callable<'a> {
    upstreams: &'a [Arc<Upstream>],
    now_ms: u64,
    tried: &'a [usize],
    /// Set if instances in slow start get less than their share. The hash of the caller, if the strategy hashes
    /// callers, decides which callers they get; otherwise chance decides for each request.
    ramp: Option<Option<CallerHash>>,
    latency_aware: bool,
}

impl Callable<'_> {
    fn takes_its_share(&self, upstream: &Upstream) -> bool {
        let Some(caller) = self.ramp else { return true };
        let permille = upstream.ramp_permille(self.now_ms);
        let drawn = || match caller {
            // The seed is inverted, so that this number is independent of the one that chooses between instances.
            Some(caller) => caller.with_seed(!upstream.name_hash) % 1_000,
            None => fastrand::u64(0..1_000),
        };
        permille >= 1_000 || drawn() < permille
    }
}

impl Pool for Callable<'_> {
    fn admits(&self, position: usize) -> bool {
        let upstream = &self.upstreams[position];
        !self.tried.contains(&position)
            && upstream.signals.may_pass()
            && self.takes_its_share(upstream)
    }

    fn in_flight(&self, position: usize) -> u64 {
        self.upstreams[position].load.in_flight.load(Ordering::Relaxed)
    }

    /// The latency as a power of two of milliseconds, so that smaller differences, which are noise, do not decide.
    fn slowness(&self, position: usize) -> u32 {
        if !self.latency_aware {
            return 0;
        }
        (self.upstreams[position].signals.latency_us(self.now_ms) / 1_000 + 1).ilog2()
    }
}
