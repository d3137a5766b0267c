//! Properties that every choice has, whatever the members, weights and policies are.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking, and has no users")]

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use maxine_balance::{
    Balancer, CallerHash, Draw, Member, Plan, Pool, Strategy as Selection, VersionWeight, Zones,
};
use proptest::prelude::*;

const ALL: [Selection; 4] = [
    Selection::RoundRobin,
    Selection::ConsistentHash,
    Selection::Rendezvous,
    Selection::LeastRequest,
];
const HASHING: [Selection; 2] = [Selection::ConsistentHash, Selection::Rendezvous];

/// Idle members. The listed ones cannot be chosen.
struct Idle<'a>(&'a [usize]);

impl Pool for Idle<'_> {
    fn admits(&self, position: usize) -> bool {
        !self.0.contains(&position)
    }

    fn in_flight(&self, _: usize) -> u64 {
        0
    }
}

/// Members with these numbers of requests in flight.
struct Loaded(Vec<u64>);

impl Pool for Loaded {
    fn in_flight(&self, position: usize) -> u64 {
        self.0[position]
    }
}

fn plan(strategy: Selection) -> Plan<'static> {
    Plan { strategy, split: &[], zone: None, affinity: false }
}

fn names(len: usize) -> Vec<String> {
    (0..len).map(|n| format!("node-{n:03}")).collect()
}

fn members<'a>(names: &'a [String], weights: &[u16]) -> Vec<Member<'a>> {
    names
        .iter()
        .zip(weights)
        .map(|(name, weight)| Member { name, weight: *weight, version: None, zone: None })
        .collect()
}

fn draw(n: u64) -> Draw {
    Draw { hash: CallerHash::of_value(&n.to_le_bytes()), affinity: None, random: mixed(n) }
}

fn mixed(n: u64) -> u64 {
    CallerHash::from_u64(n).with_seed(99)
}

fn pick(balancer: &Balancer, n: u64, left_out: &[usize]) -> Option<usize> {
    let picked = balancer.pick(&draw(n), &AtomicU64::new(n), &Idle(left_out));
    picked.map(|picked| picked.position)
}

/// How often each position is chosen by this many callers.
fn shares(balancer: &Balancer, callers: u64, pool: &impl Pool) -> HashMap<usize, u64> {
    let (turns, mut shares) = (AtomicU64::new(0), HashMap::new());
    for n in 0..callers {
        let picked = balancer.pick(&draw(n), &turns, pool).unwrap();
        *shares.entry(picked.position).or_default() += 1;
    }
    shares
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn only_an_admitted_member_with_a_weight_is_chosen_if_there_is_one(
        weights in prop::collection::vec(0_u16..4, 0..9),
        left_out in prop::collection::vec(0_usize..9, 0..9),
        versions in prop::collection::vec(0_usize..3, 9),
        zones in prop::collection::vec(0_usize..2, 9),
        shares in prop::collection::vec(0_u32..3, 0..3),
        members_min in 0_u32..4,
        affinity in any::<bool>(),
    ) {
        let names = names(weights.len());
        let mut members = members(&names, &weights);
        for (member, (version, zone)) in members.iter_mut().zip(versions.iter().zip(&zones)) {
            member.version = Some(["a", "b", "c"][*version]);
            member.zone = Some(["east", "west"][*zone]);
        }
        let split: Vec<VersionWeight> = shares
            .iter()
            .zip(["a", "b", "c"])
            .map(|(weight, version)| VersionWeight { version, weight: *weight })
            .collect();
        for strategy in ALL {
            let zone = Some(Zones { own: "east", members_min, in_flight_max: 1 });
            let plan = Plan { strategy, split: &split, zone, affinity };
            let balancer = Balancer::new(&plan, &members, 0);
            for n in 0..20 {
                let draw = Draw { affinity: affinity.then_some(CallerHash::from_u64(n)), ..draw(n) };
                let picked = balancer.pick(&draw, &AtomicU64::new(n), &Idle(&left_out));
                if let Some(picked) = picked {
                    prop_assert!(!left_out.contains(&picked.position));
                    prop_assert!(weights[picked.position] > 0, "{strategy:?}");
                }
                if split.is_empty() {
                    let any = (0..weights.len()).any(|at| weights[at] > 0 && !left_out.contains(&at));
                    prop_assert!(picked.is_some() == any, "{strategy:?} {picked:?}");
                }
            }
        }
    }

    #[test]
    fn a_departure_moves_only_its_own_callers(
        weights in prop::collection::vec(1_u16..4, 2..12), gone in 0_usize..12
    ) {
        let gone = gone % weights.len();
        let names = names(weights.len());
        let all = members(&names, &weights);
        let mut left = all.clone();
        left.remove(gone);
        for strategy in HASHING {
            let before = Balancer::new(&plan(strategy), &all, 0);
            let after = Balancer::new(&plan(strategy), &left, 0);
            for n in 0..200 {
                let was = pick(&before, n, &[]).unwrap();
                let is = left[pick(&after, n, &[]).unwrap()].name;
                // For every other caller, leaving a member out has the same effect as removing it.
                prop_assert_eq!(all[pick(&before, n, &[gone]).unwrap()].name, is);
                if was != gone {
                    prop_assert_eq!(all[was].name, is);
                }
            }
        }
    }

    #[test]
    fn a_filter_keeps_the_member_that_passes_it(
        versions in prop::collection::vec(any::<bool>(), 2..12),
        zones in prop::collection::vec(any::<bool>(), 12),
    ) {
        let names = names(versions.len());
        let mut members = members(&names, &vec![1; versions.len()]);
        for (member, (version, zone)) in members.iter_mut().zip(versions.iter().zip(&zones)) {
            member.version = version.then_some("v");
            member.zone = zone.then_some("east");
        }
        let split = [VersionWeight { version: "v", weight: 1 }];
        let zone = Some(Zones { own: "east", members_min: 1, in_flight_max: 0 });
        for strategy in HASHING {
            let plain = Balancer::new(&plan(strategy), &members, 0);
            for (split, zone) in [(&split[..], None), (&[], zone), (&split, zone)] {
                let passes = |at: usize, check_zone: bool| {
                    (split.is_empty() || versions[at]) && !(check_zone && zone.is_some() && !zones[at])
                };
                let any = |check_zone| (0..versions.len()).any(|at| passes(at, check_zone));
                let has_version = split.is_empty() || any(false);
                let check_zone = (0..versions.len())
                    .any(|at| zones[at] && (!has_version || split.is_empty() || versions[at]));
                let filtered = Balancer::new(&Plan { split, zone, ..plan(strategy) }, &members, 0);
                let left_out: Vec<usize> = (0..versions.len())
                    .filter(|at| {
                        (has_version && !split.is_empty() && !versions[*at])
                            || (zone.is_some() && check_zone && !zones[*at])
                    })
                    .collect();
                for n in 0..50 {
                    let free = pick(&plain, n, &[]).unwrap();
                    let chosen = pick(&filtered, n, &[]).unwrap();
                    prop_assert!(left_out.contains(&free) || chosen == free);
                    // The next member on the same ring, or the one with the highest score of the others.
                    prop_assert_eq!(chosen, pick(&plain, n, &left_out).unwrap());
                }
            }
        }
    }
}

#[test]
fn shares_follow_the_weights_under_every_strategy() {
    let names = names(3);
    let members = members(&names, &[1, 3, 6]);
    for strategy in ALL {
        let balancer = Balancer::new(&plan(strategy), &members, 0);
        let shares = shares(&balancer, 20_000, &Idle(&[]));
        for (position, expected) in [(0, 2_000_u64), (1, 6_000), (2, 12_000)] {
            // Consistent hashing, with 100 points on the ring for each unit of weight, is the least exact of them:
            // its shares are within a third of the weights.
            let off = shares[&position].abs_diff(expected);
            assert!(off * 3 < expected, "{strategy:?}: {shares:?}");
        }
    }
    let exact =
        shares(&Balancer::new(&plan(Selection::RoundRobin), &members, 0), 1_000, &Idle(&[]));
    assert_eq!((exact[&0], exact[&1], exact[&2]), (100, 300, 600));
}

#[test]
fn shares_of_versions_are_the_same_under_every_strategy_and_keep_hashed_callers() {
    let names = names(4);
    let mut members = members(&names, &[1; 4]);
    for (at, member) in members.iter_mut().enumerate() {
        member.version = Some(if at == 0 { "stable" } else { "canary" });
    }
    let of = |strategy, stable| {
        let split = [
            VersionWeight { version: "stable", weight: stable },
            VersionWeight { version: "canary", weight: 100 - stable },
            VersionWeight { version: "nobody", weight: 50 },
        ];
        Balancer::new(&Plan { split: &split, ..plan(strategy) }, &members, 0)
    };
    for strategy in ALL {
        let shares = shares(&of(strategy, 90), 20_000, &Idle(&[]));
        assert!((17_700..18_300).contains(&shares[&0]), "{strategy:?}: {shares:?}");
    }
    for strategy in HASHING {
        let (before, after) = (of(strategy, 90), of(strategy, 80));
        let moved = (0..20_000).filter(|n| pick(&before, *n, &[]) != pick(&after, *n, &[]));
        let to_stable = |n: &u64| pick(&after, *n, &[]) == Some(0);
        let moved: Vec<u64> = moved.collect();
        assert!((1_700..2_300).contains(&moved.len()), "{}", moved.len());
        assert!(!moved.iter().any(to_stable), "only callers of the shrunk version move");
    }
}

#[test]
fn a_version_without_an_admitted_member_leaves_its_callers_to_the_others() {
    let names = names(2);
    let mut members = members(&names, &[1; 2]);
    (members[0].version, members[1].version) = (Some("a"), Some("b"));
    let split =
        [VersionWeight { version: "a", weight: 99 }, VersionWeight { version: "b", weight: 1 }];
    for strategy in ALL {
        let balancer = Balancer::new(&Plan { split: &split, ..plan(strategy) }, &members, 0);
        assert!((0..100).all(|n| pick(&balancer, n, &[0]) == Some(1)), "{strategy:?}");
        assert!((0..100).all(|n| pick(&balancer, n, &[0, 1]).is_none()), "{strategy:?}");
    }
}

#[test]
fn the_less_loaded_for_its_weight_is_chosen() {
    let names = names(2);
    let of = |weights: [u16; 2], in_flight: [u64; 2]| {
        let members = members(&names, &weights);
        let balancer = Balancer::new(&plan(Selection::LeastRequest), &members, 0);
        shares(&balancer, 1_000, &Loaded(in_flight.into()))
    };
    assert_eq!(of([1, 1], [5, 4]).get(&1), Some(&1_000));
    // Nearly every choice compares both members. The one with fewer requests for each unit of weight is chosen:
    // 5/2 is less than 3/1, but 2/1 is less than 5/2.
    assert!(of([1, 2], [3, 5])[&1] > 950);
    assert!(of([1, 2], [2, 5])[&0] > 950);
}

#[test]
fn a_slow_member_gets_less_than_its_share() {
    struct Slow;
    impl Pool for Slow {
        fn in_flight(&self, _: usize) -> u64 {
            0
        }
        fn slowness(&self, position: usize) -> u32 {
            if position == 0 { u32::MAX } else { 0 }
        }
    }
    let names = names(2);
    let balancer = Balancer::new(&plan(Selection::LeastRequest), &members(&names, &[1, 1]), 0);
    assert_eq!(shares(&balancer, 1_000, &Slow).get(&0), None);
}

#[test]
fn a_zone_is_left_when_it_is_too_small_or_crowded() {
    let names = names(4);
    let mut members = members(&names, &[1; 4]);
    for member in &mut members[..2] {
        member.zone = Some("east");
    }
    let in_flight_max = 10;
    for strategy in ALL {
        let of = |members_min, pool: &Loaded| {
            let zone = Some(Zones { own: "east", members_min, in_flight_max });
            let balancer = Balancer::new(&Plan { zone, ..plan(strategy) }, &members, 0);
            shares(&balancer, 400, pool).keys().any(|position| *position > 1)
        };
        let calm = Loaded(vec![10; 4]);
        assert!(!of(2, &calm), "{strategy:?}");
        assert!(of(3, &calm), "{strategy:?}: too small");
        assert!(of(2, &Loaded(vec![11, 10, 0, 0])), "{strategy:?}: crowded");
        let zone = Some(Zones { own: "east", members_min: 2, in_flight_max });
        let balancer = Balancer::new(&Plan { zone, ..plan(strategy) }, &members, 0);
        let any = (0..100).any(|n| pick(&balancer, n, &[0]).is_some_and(|at| at > 1));
        assert!(any, "{strategy:?}: too small, for one may not be chosen");
    }
}

#[test]
fn a_large_zone_is_sampled_and_its_crowd_is_seen() {
    let names = names(300);
    let mut members = members(&names, &[1; 300]);
    for member in &mut members[..200] {
        member.zone = Some("east");
    }
    let zone = Some(Zones { own: "east", members_min: 1, in_flight_max: 10 });
    let balancer = Balancer::new(&Plan { zone, ..plan(Selection::RoundRobin) }, &members, 0);
    let outside = |in_flight: u64| {
        let pool = Loaded(vec![in_flight; 300]);
        shares(&balancer, 1_000, &pool).keys().any(|position| *position >= 200)
    };
    assert!(!outside(10) && outside(11));
}

#[test]
fn an_affinity_keeps_a_caller_whatever_the_strategy_is() {
    let names = names(5);
    let members = members(&names, &[1; 5]);
    for strategy in ALL {
        let balancer = Balancer::new(&Plan { affinity: true, ..plan(strategy) }, &members, 0);
        let of = |n: u64, random: u64, left_out: &[usize]| {
            let affinity = Some(CallerHash::from_u64(n));
            let draw = Draw { affinity, random, hash: CallerHash::from_u64(random) };
            balancer.pick(&draw, &AtomicU64::new(random), &Idle(left_out)).unwrap().position
        };
        for n in 0..50 {
            let own = of(n, 0, &[]);
            assert!((1..20).all(|random| of(n, mixed(random), &[]) == own), "{strategy:?}");
            assert_ne!(of(n, 0, &[own]), own);
        }
        assert!((0..50).map(|n| of(n, 0, &[])).collect::<std::collections::HashSet<_>>().len() > 3);
    }
}

#[test]
fn round_robin_goes_on_where_it_was() {
    let names = names(3);
    let members = members(&names, &[1; 3]);
    let turns = AtomicU64::new(0);
    let mut order = Vec::new();
    for _ in 0..6 {
        // A service gets a new balancer with every change, but its count of turns continues.
        let balancer = Balancer::new(&plan(Selection::RoundRobin), &members, 0);
        order.push(balancer.pick(&draw(1), &turns, &Idle(&[])).unwrap().position);
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}
