use std::time::Duration;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_room_for_a_user_is_what_it_could_take() {
    let limits = PlaceLimits { max: 10, per_address_max: 5, reserved: 2 };
    for places in [Places::new(limits), Places::shared(limits, 40)] {
        let _other = places.take(ip("10.0.0.1"), CallerClass::Stranger, 2).unwrap();
        let _own = places.take(ip("10.0.0.2"), CallerClass::Stranger, 1).unwrap();
        for caller_class in [CallerClass::Stranger, CallerClass::Known, CallerClass::Trusted] {
            let room = places.room(ip("::ffff:10.0.0.2"), caller_class);
            let take = |count| places.take(ip("10.0.0.2"), caller_class, count);
            assert!(room > 0 && take(room).is_ok(), "{caller_class:?} {room}");
            assert!(take(room + 1).is_err(), "{caller_class:?} {room}");
        }
    }
}

#[test]
fn no_address_gets_all_and_a_share_is_kept_for_the_known() {
    let places = Places::new(PlaceLimits { max: 10, per_address_max: 5, reserved: 2 });
    let take = |address: &str, caller_class, count| places.take(ip(address), caller_class, count);
    let a = take("10.0.0.1", CallerClass::Stranger, 5).unwrap();
    assert_eq!(take("10.0.0.1", CallerClass::Stranger, 1).unwrap_err(), NoPlace::Address);
    assert_eq!(take("::ffff:10.0.0.1", CallerClass::Known, 1).unwrap_err(), NoPlace::Address);
    let _b = take("10.0.0.2", CallerClass::Stranger, 3).unwrap();
    assert_eq!(take("10.0.0.3", CallerClass::Stranger, 1).unwrap_err(), NoPlace::Node);
    let _c = take("10.0.0.3", CallerClass::Known, 1).unwrap();
    let _d = take("10.0.0.1", CallerClass::Trusted, 1).unwrap();
    assert_eq!(take("10.0.0.4", CallerClass::Trusted, 1).unwrap_err(), NoPlace::Node);
    drop(a);
    assert_eq!(places.taken(), 5);
    let mut grows = take("10.0.0.1", CallerClass::Stranger, 1).unwrap();
    grows.grow(2).unwrap();
    assert_eq!(grows.grow(9).unwrap_err(), NoPlace::Node);
    drop(grows);
    assert_eq!(places.taken(), 5, "what could not be had is not given back");
    let mut resized = take("10.0.0.1", CallerClass::Stranger, 3).unwrap();
    resized.resize(1).unwrap();
    assert_eq!(places.taken(), 6);
    assert_eq!(resized.resize(9).unwrap_err(), NoPlace::Node);
    resized.resize(2).unwrap();
    assert_eq!(places.taken(), 7);
    drop(resized);
    assert_eq!(places.taken(), 5);
}

/// However many addresses take their whole share, the next address gets a place. Places without a user do not
/// keep others out.
#[test]
fn each_address_takes_a_share_of_what_the_others_leave() {
    let limits = PlaceLimits { max: 384, per_address_max: 384, reserved: 48 };
    let places = Places::shared(limits, 25);
    let take_all = |last: u8, caller_class| -> Vec<Place> {
        let address = IpAddr::from([10, 0, 0, last]);
        std::iter::from_fn(|| places.take(address, caller_class, 1).ok()).collect()
    };
    let mut held: Vec<_> = (1..=8).map(|last| take_all(last, CallerClass::Stranger)).collect();
    let lens: Vec<usize> = held.iter().map(Vec::len).collect();
    assert_eq!(lens, [84, 63, 48, 36, 27, 20, 15, 11]);
    assert_eq!(take_all(9, CallerClass::Stranger).len(), 8, "the next address still gets some");
    held.extend((9..=60).map(|last| take_all(last, CallerClass::Stranger)));
    assert_eq!(places.taken(), 336, "strangers have all that they may");
    assert_eq!(take_all(61, CallerClass::Known).len(), 12, "a quarter of the kept share");
    // A place without a user counts for no address.
    held.iter_mut().flatten().for_each(Place::set_unused);
    assert_eq!((places.taken(), places.unused()), (336, 336));
    let reused = |place: &mut Place| place.set_user(ip("10.0.0.62"), CallerClass::Stranger);
    let reused = held.iter_mut().flatten().map(reused).filter(Result::is_ok).count();
    assert_eq!((reused, places.unused()), (84, 252));
    drop(held);
    assert_eq!((places.taken(), places.unused()), (0, 0));
    assert!(places.taken.lock().by_payer.is_empty());
}

#[test]
fn with_fair_places_the_first_address_gets_its_bound_and_some_are_left_for_the_next() {
    let limits = PlaceLimits { max: 20_000, per_address_max: 12_000, reserved: 2_500 };
    let places = Places::fair(limits);
    let mut held = Vec::new();
    for last in 1..=4 {
        let mut place = places.take([10, 0, 0, last].into(), CallerClass::Stranger, 0).unwrap();
        while place.grow(1).is_ok() {}
        held.push(place);
    }
    let lens: Vec<usize> = held.iter().map(|place| place.count).collect();
    assert_eq!(lens, [12_000, 3_795, 1_177, 365]);
    let next = places.take(ip("10.0.0.5"), CallerClass::Stranger, 100);
    assert!(next.is_ok(), "four addresses have not taken all");
}

/// Takes places of `len` for an address until there are no more. All of them give way.
fn fill(places: &Arc<Places>, address: IpAddr, len: usize) -> Vec<(Place, Arc<Leave>)> {
    let take = || {
        let mut place = places.take(address, CallerClass::Stranger, len).ok()?;
        let leave = Arc::new(Leave::after(Duration::ZERO));
        place.give_way(&leave);
        Some((place, leave))
    };
    std::iter::from_fn(take).collect()
}

fn attacker(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    [10, 1, high, low].into()
}

#[test]
fn many_addresses_that_hold_all_places_do_not_keep_out_a_new_one() {
    for attackers in [24, 48, 200] {
        let limits = PlaceLimits { max: 12_800, per_address_max: 6_400, reserved: 3_200 };
        let places = Places::fair(limits);
        let mut held: Vec<Vec<(Place, Arc<Leave>)>> =
            (0..attackers).map(|n| fill(&places, attacker(n), 4)).collect();
        // They ask again and again.
        held.extend((0..attackers).map(|n| fill(&places, attacker(n), 4)));
        let mut honest = Vec::new();
        for _ in 0..6 {
            let mut place = places.take(ip("192.0.2.1"), CallerClass::Stranger, 4).unwrap();
            let leave = Arc::new(Leave::after(Duration::ZERO));
            place.give_way(&leave);
            honest.push((place, leave));
            held.extend((0..attackers).map(|n| fill(&places, attacker(n), 4)));
        }
        let is_kept = honest.iter().all(|(_, leave)| !leave.is_displaced());
        assert!(is_kept, "{attackers}: it holds less than the others");
        let has_displaced = held.iter().flatten().any(|(_, leave)| leave.is_displaced());
        assert!(has_displaced, "{attackers}");
        assert!(places.taken() <= limits.max - limits.reserved);
        let known = places.take(ip("192.0.2.2"), CallerClass::Known, 400);
        assert!(known.is_ok(), "{attackers}: the reserve is untouched");
        drop((held, honest, known));
        assert_eq!((places.taken(), places.unused()), (0, 0));
        let taken = places.taken.lock();
        assert!(taken.by_payer.is_empty() && taken.displaceable.is_empty());
    }
}

#[test]
fn a_place_that_its_holder_frees_is_counted_until_the_holder_has_left() {
    let limits = PlaceLimits { max: 32, per_address_max: 32, reserved: 0 };
    for attackers in [24, 200] {
        let places = Places::freed_by_holder(limits, 25);
        let mut held: Vec<(Place, Arc<Leave>)> =
            (0..attackers).flat_map(|n| fill(&places, attacker(n), 1)).collect();
        assert_eq!(places.taken(), 32, "{attackers}");
        let take = || places.take(ip("192.0.2.1"), CallerClass::Stranger, 1);
        assert!(take().is_err(), "{attackers}");
        assert!(places.displace_for(ip("192.0.2.1"), CallerClass::Stranger), "{attackers}");
        assert_eq!((places.taken(), take().is_err()), (32, true), "nobody has left yet");
        held.retain(|(_, leave)| !leave.is_displaced());
        assert_eq!(places.taken(), 31);
        let again = places.take(attacker(0), CallerClass::Stranger, 1);
        assert_eq!(again.unwrap_err(), NoPlace::Address, "the free place is for others");
        let honest = take().unwrap();
        drop((held, honest));
        assert_eq!((places.taken(), places.unused()), (0, 0));
    }
}

#[test]
fn an_address_does_not_displace_others_that_hold_as_little() {
    let places = Places::new(PlaceLimits { max: 4, per_address_max: 4, reserved: 0 });
    let held: Vec<_> = (0..4).flat_map(|n| fill(&places, attacker(n), 1).pop()).collect();
    assert_eq!(held.len(), 4);
    let more = places.take(ip("192.0.2.1"), CallerClass::Stranger, 1);
    assert_eq!(more.unwrap_err(), NoPlace::Node);
    assert!(held.iter().all(|(_, leave)| !leave.is_displaced()));
    drop(held);
    let held = fill(&places, attacker(1), 1);
    let more = places.take(ip("192.0.2.1"), CallerClass::Stranger, 3);
    assert_eq!(more.unwrap_err(), NoPlace::Node, "two are the most that it could get");
    assert!(held.iter().all(|(_, leave)| !leave.is_displaced()), "nothing in vain");
    let _two = places.take(ip("192.0.2.1"), CallerClass::Stranger, 2).unwrap();
    let displaced: Vec<bool> = held.iter().map(|(_, leave)| leave.is_displaced()).collect();
    assert_eq!(displaced, [true, true, false, false], "the oldest give way");
}

#[test]
fn a_place_that_was_displaced_is_returned_once_and_cannot_grow_or_be_used_again() {
    let places = Places::new(PlaceLimits { max: 2, per_address_max: 2, reserved: 0 });
    let mut held = fill(&places, attacker(1), 1);
    let one = places.take(ip("192.0.2.1"), CallerClass::Stranger, 1).unwrap();
    let (displaced, leave) = &mut held[0];
    assert!(leave.is_displaced());
    assert_eq!(displaced.grow(1), Err(NoPlace::Node));
    displaced.set_unused();
    assert_eq!(displaced.set_user(ip("192.0.2.3"), CallerClass::Known), Err(NoPlace::Node));
    assert_eq!((places.taken(), places.unused()), (2, 0));
    drop(held);
    assert_eq!(places.taken(), 1);
    drop(one);
    assert_eq!(places.taken(), 0);
}

fn user(name: &str) -> CallerClass {
    CallerClass::of_user(name, false)
}

fn admin() -> CallerClass {
    CallerClass::of_user("admin", true)
}

/// Takes places until there are no more, from one address after the other. All of them give way.
fn fill_as(
    places: &Arc<Places>,
    addresses: u16,
    caller_class: CallerClass,
) -> Vec<(Place, Arc<Leave>)> {
    let mut held = Vec::new();
    for n in 0..addresses {
        while let Ok(mut place) = places.take(attacker(n), caller_class, 1) {
            let leave = Arc::new(Leave::after(Duration::ZERO));
            place.give_way(&leave);
            held.push((place, leave));
        }
    }
    held
}

#[test]
fn a_user_gets_one_share_from_however_many_addresses_and_does_not_keep_out_others() {
    for addresses in [1, 24, 200] {
        let limits = PlaceLimits { max: 128, per_address_max: 64, reserved: 32 };
        let places = Places::fair(limits);
        let viewer = fill_as(&places, addresses, user("viewer"));
        assert_eq!(viewer.len(), 64, "{addresses}: the share of one");
        let strangers = fill_as(&places, 200, CallerClass::Stranger);
        assert_eq!(places.taken(), 96, "{addresses}: strangers have the rest");
        let displaced = viewer.iter().filter(|(_, leave)| leave.is_displaced()).count();
        assert!(displaced <= 32, "{addresses}: it keeps what is reserved for users");
        let more = fill_as(&places, addresses, user("viewer"));
        assert!(more.len() <= displaced, "{addresses}: {}", more.len());
        let admin = places.take(ip("192.0.2.1"), admin(), 8);
        assert!(admin.is_ok(), "{addresses}: the last part of the reserve is left");
        drop((viewer, strangers, more, admin));
        let taken = places.taken.lock();
        assert!(taken.by_payer.is_empty() && taken.displaceable.is_empty());
    }
}

#[test]
fn many_users_that_hold_all_places_give_way_to_those_that_hold_less() {
    for users in [24, 200] {
        let places =
            Places::shared(PlaceLimits { max: 1_024, per_address_max: 1_024, reserved: 128 }, 50);
        let mut held = Vec::new();
        for _ in 0..2 {
            held.extend((0..users).flat_map(|n| fill_as(&places, 1, user(&format!("user {n}")))));
        }
        assert!((897..=992).contains(&places.taken()), "{users}: the rest is for operators");
        let displaced = |held: &[(Place, Arc<Leave>)]| {
            held.iter().filter(|(_, leave)| leave.is_displaced()).count()
        };
        let before = displaced(&held);
        let stranger = places.take(ip("192.0.2.1"), CallerClass::Stranger, 1).unwrap();
        assert!(displaced(&held) > before, "{users}: users hold more than the reserve");
        drop(stranger);
        let known = places.take(ip("192.0.2.1"), CallerClass::Known, 16);
        assert!(known.is_ok(), "{users}: the last part of the reserve is left");
        drop(known);
        let other = places.take(attacker(0), user("other"), 1);
        assert!(other.is_ok(), "{users}: another user at the same address");
        let admin = places.take(attacker(0), admin(), 16);
        assert!(admin.is_ok(), "{users}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_for_the_time_of_its_holder_and_those_of_the_known_for_good() {
    let places = Places::new(PlaceLimits { max: 3, per_address_max: 3, reserved: 0 });
    let take = |caller_class| {
        let mut place = places.take(attacker(1), caller_class, 1).unwrap();
        let leave = Arc::new(Leave::after(Duration::from_secs(1)));
        place.give_way(&leave);
        (place, leave)
    };
    let (known, young) = (take(CallerClass::Known), take(CallerClass::Stranger));
    let _other = take(CallerClass::Known);
    let newcomer = || places.take(ip("192.0.2.1"), CallerClass::Stranger, 1);
    assert_eq!(newcomer().unwrap_err(), NoPlace::Node);
    tokio::time::advance(Duration::from_secs(1)).await;
    let place = newcomer().unwrap();
    young.1.displaced().await;
    assert!(!known.1.is_displaced());
    drop(place);
    drop(young);
    let _first = newcomer().unwrap();
    let another = places.take(ip("192.0.2.2"), CallerClass::Stranger, 1);
    assert_eq!(another.unwrap_err(), NoPlace::Node, "the known give no place");
}

/// Each address renews its places so often that all of them are young.
#[tokio::test(start_paused = true)]
async fn places_that_are_renewed_all_the_time_do_not_keep_out_a_new_address() {
    for attackers in [24, 48, 200] {
        let limits = PlaceLimits { max: 800, per_address_max: 400, reserved: 160 };
        let places = Places::fair(limits);
        let young = |address| {
            let mut place = places.take(address, CallerClass::Stranger, 1).ok()?;
            let leave = Arc::new(Leave::of_connection(Duration::from_secs(1)));
            place.give_way(&leave);
            Some((place, leave))
        };
        let fill = || -> Vec<(Place, Arc<Leave>)> {
            let of = |n| std::iter::from_fn(move || Some(n)).map(attacker).map_while(young);
            (0..attackers).flat_map(of).collect()
        };
        let mut held = fill();
        let mut honest = Vec::new();
        for _ in 0..3 {
            let place = young(ip("192.0.2.1"));
            honest.push(place.unwrap_or_else(|| panic!("{attackers}: it gets its share")));
            tokio::time::advance(Duration::from_millis(250)).await;
            held.retain(|(_, leave)| !leave.is_displaced());
            held.extend(fill());
        }
        let is_kept = honest.iter().all(|(_, leave)| !leave.is_displaced());
        assert!(is_kept, "{attackers}: it holds no more than an even share");
        drop((held, honest));
        assert_eq!(places.taken(), 0);
    }
}

#[test]
fn a_place_counts_for_the_user_that_shows_a_credential_and_gives_way_to_users_only() {
    let places = Places::new(PlaceLimits { max: 8, per_address_max: 8, reserved: 4 });
    let mut held = fill(&places, attacker(1), 1);
    assert_eq!(held.len(), 4);
    for (place, _) in &mut held[..2] {
        place.move_to(attacker(1), user("viewer"));
    }
    held[2].0.move_to(attacker(1), CallerClass::Known);
    assert_eq!((places.taken_by(attacker(1)), places.taken(), places.unused()), (2, 4, 0));
    let stranger = || places.take(ip("192.0.2.1"), CallerClass::Stranger, 1);
    let displaced =
        || -> Vec<bool> { held.iter().map(|(_, leave)| leave.is_displaced()).collect() };
    let _one = stranger().unwrap();
    assert_eq!(displaced(), [false, false, false, true]);
    assert_eq!(stranger().map(drop), Err(NoPlace::Node));
    let _admin = places.take(ip("192.0.2.1"), admin(), 3).unwrap();
    let other = places.take(ip("192.0.2.1"), user("other"), 1);
    assert!(other.is_ok(), "{other:?}");
    assert_eq!(displaced(), [true, false, false, true]);
    drop((other, held));
    assert_eq!((places.taken(), places.unused()), (4, 0));

    let places = Places::new(PlaceLimits { max: 4, per_address_max: 1, reserved: 2 });
    let mut first = places.take(attacker(1), CallerClass::Stranger, 1).unwrap();
    let mut second = places.take(attacker(2), CallerClass::Stranger, 1).unwrap();
    first.move_to(attacker(1), user("viewer"));
    second.move_to(attacker(2), user("viewer"));
    assert_eq!(places.taken_by(attacker(2)), 1, "the user has its limit");
    drop((first, second));
    assert_eq!(places.taken(), 0);
}

/// Some users take what strangers could have. Strangers get their even share back, and users keep the reserve.
#[test]
fn users_that_hold_more_than_the_reserve_give_way_to_strangers() {
    for users in [2_u16, 6, 40] {
        let limits = PlaceLimits { max: 1_000, per_address_max: 600, reserved: 125 };
        let places = Places::fair(limits);
        let mut held: Vec<(Place, Arc<Leave>)> = Vec::new();
        for _ in 0..2 {
            held.extend((0..users).flat_map(|n| fill_as(&places, 1, user(&format!("user {n}")))));
        }
        let stranger = fill(&places, ip("192.0.2.1"), 1);
        let even = 875 / (usize::from(users) + 1);
        assert!(
            (even - even / 5..=even + 1).contains(&stranger.len()),
            "{users}: {}",
            stranger.len()
        );
        held.retain(|(_, leave)| !leave.is_displaced());
        let crowd = fill_as(&places, 400, CallerClass::Stranger);
        assert!(crowd.len() >= 400, "{users}: {}", crowd.len());
        let of_users = held.iter().filter(|(_, leave)| !leave.is_displaced()).count();
        assert!(of_users >= 125, "{users}: {of_users}");
        drop((held, stranger, crowd));
        let taken = places.taken.lock();
        assert_eq!((taken.all, taken.of_users, taken.unused), (0, 0, 0));
    }
}

/// As many addresses as places hold one connection each, on which they have sent nothing.
#[tokio::test(start_paused = true)]
async fn a_silent_connection_gives_way_to_an_address_that_has_none() {
    let places = Places::fair(PlaceLimits { max: 8, per_address_max: 8, reserved: 0 });
    let connect = |n: u16| {
        let mut place = places.take(attacker(n), CallerClass::Stranger, 1).ok()?;
        let leave = Arc::new(Leave::of_connection(Duration::from_secs(1)));
        place.give_way(&leave);
        Some((place, leave))
    };
    let held: Vec<_> = (0..8).map_while(connect).collect();
    assert_eq!(held.len(), 8);
    held[0].1.has_spoken();
    assert!(connect(100).is_none(), "all are kept for a while");
    tokio::time::advance(Duration::from_secs(1)).await;
    let newcomers: Vec<_> = (100..108).map_while(connect).collect();
    assert_eq!(newcomers.len(), 7);
    assert!(!held[0].1.is_displaced(), "it has sent something");
    assert!(held[1..].iter().all(|(_, leave)| leave.is_displaced()));
    drop((held, newcomers));
    assert_eq!(places.taken(), 0);
}

#[test]
fn ipv6_counts_by_the_network_that_one_subscriber_has() {
    let places = Places::new(PlaceLimits { max: 10, per_address_max: 1, reserved: 0 });
    let _one = places.take(ip("2001:db8::1"), CallerClass::Stranger, 1).unwrap();
    places.take(ip("2001:db8::2"), CallerClass::Stranger, 1).unwrap_err();
    places.take(ip("2001:db8:0:1::1"), CallerClass::Stranger, 1).unwrap_err();
    let _other = places.take(ip("2001:db8:1::1"), CallerClass::Stranger, 1).unwrap();
}
