//! The sign-ins that a node remembers until their tickets end: those whose code was sent to the provider, and those on
//! another device about which the provider was asked.
//!
//! Beginning a sign-in is free for strangers. Each provider therefore has tables of its own, a table has a maximum size,
//! and one address can fill only a share of it. A sign-in that succeeds leaves the share of its address, so that many
//! people can sign in from behind one address. If the table is full, the addresses with the most sign-ins lose some. What
//! is forgotten about such a sign-in is only that the provider was asked before; its ticket is still needed.

use maxine_clock::Clock;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;

use maxine_admission::site_of;

use super::ProviderError;
use super::ticket::Ticket;

/// Maximum number of sign-ins in a table.
const REMEMBERED_MAX: usize = 20_000;
/// Maximum number of those from one address, or from one IPv6 network of 48 bits, without the successful ones.
const OF_ADDRESS_MAX: usize = 100;
/// How much room is made in a full table, in sign-ins.
const ROOM: usize = REMEMBERED_MAX / 16;
/// A client may ask this much earlier than the interval of the provider says, in milliseconds, but at most half of the
/// interval earlier.
const TOLERANCE_MS: u64 = 1_000;

enum Stage {
    /// The sign-in was finished, whatever came of it.
    Finished,
    /// The provider was asked whether the person has signed in, at this time of the monotonic clock in milliseconds.
    Asked(u64),
}

struct Remembered {
    /// When the ticket ends, in seconds since 1970.
    expires_s: u64,
    /// The network whose share has this sign-in. `None` if the sign-in has succeeded.
    counted: Option<IpAddr>,
    stage: Stage,
}

#[derive(Default)]
struct Table {
    /// The sign-ins by the id of their ticket.
    entries: HashMap<String, Remembered>,
    /// How many sign-ins each network has in the table, without the successful ones.
    shares: HashMap<IpAddr, usize>,
    /// The second since 1970 in which old sign-ins were last removed.
    swept_s: u64,
}

impl Table {
    /// Removes the sign-ins whose tickets have ended. It looks through the table at most once a second.
    fn sweep(&mut self, now_s: u64) {
        if self.swept_s == now_s {
            return;
        }
        self.swept_s = now_s;
        let Self { entries, shares, .. } = self;
        entries.retain(|_, entry| {
            let is_current = entry.expires_s > now_s;
            if !is_current {
                release(shares, entry.counted);
            }
            is_current
        });
    }

    fn add(&mut self, ticket: &Ticket, client: IpAddr, stage: Stage) -> Result<(), ProviderError> {
        let network = site_of(client);
        let share = self.shares.get(&network).copied().unwrap_or(0);
        if share >= OF_ADDRESS_MAX {
            return Err(ProviderError::Busy);
        }
        if self.entries.len() >= REMEMBERED_MAX && !self.make_room() {
            return Err(ProviderError::Busy);
        }
        let share = self.shares.get(&network).copied().unwrap_or(0);
        self.shares.insert(network, share + 1);
        let counted = Some(network);
        let entry = Remembered { expires_s: ticket.expires_s, counted, stage };
        self.entries.insert(ticket.id.clone(), entry);
        Ok(())
    }

    /// Makes room in a full table: the networks with the most sign-ins lose some. It looks through the table, so it makes
    /// room for many at once. Returns false if almost every sign-in is of a network of its own, or has succeeded.
    fn make_room(&mut self) -> bool {
        let Self { entries, shares, .. } = self;
        let excess = |most: usize| shares.values().map(|share| share.saturating_sub(most)).sum();
        let halves = std::iter::successors(Some(OF_ADDRESS_MAX / 2), |most| Some(most / 2));
        let mut limits = halves.take_while(|most| *most > 0);
        let Some(most) = limits.find(|most| ROOM <= excess(*most)) else { return false };
        entries.retain(|_, entry| {
            let share = entry.counted.and_then(|network| shares.get_mut(&network));
            let Some(share) = share.filter(|share| **share > most) else { return true };
            *share -= 1;
            false
        });
        true
    }
}

fn release(shares: &mut HashMap<IpAddr, usize>, network: Option<IpAddr>) {
    let Some(network) = network else { return };
    match shares.get_mut(&network) {
        Some(left) if *left > 1 => *left -= 1,
        _ => {
            shares.remove(&network);
        }
    }
}

/// The pause that must be between two questions, in milliseconds.
fn pause_ms(interval_s: u64) -> u64 {
    let interval_ms = interval_s.saturating_mul(1_000);
    interval_ms - TOLERANCE_MS.min(interval_ms / 2)
}

/// One table of a provider.
#[derive(Default)]
pub(super) struct SignIns(Mutex<Table>);

impl SignIns {
    /// Marks a sign-in as finished. It fails if that was done before, or if there is no room.
    pub(super) fn finish(
        &self,
        ticket: &Ticket,
        client: IpAddr,
        clock: &Clock,
    ) -> Result<(), ProviderError> {
        let mut table = self.0.lock();
        table.sweep(clock.wall_ms() / 1_000);
        if let Some(entry) = table.entries.get_mut(&ticket.id) {
            return match std::mem::replace(&mut entry.stage, Stage::Finished) {
                Stage::Asked(_) => Ok(()),
                Stage::Finished => Err(ProviderError::NotBegun),
            };
        }
        table.add(ticket, client, Stage::Finished)
    }

    /// Whether the provider may be asked about a sign-in now, or the last question was too short a time ago. If it may,
    /// the question is remembered. It fails if the sign-in was finished before, or if there is no room.
    pub(super) fn may_ask(
        &self,
        ticket: &Ticket,
        interval_s: u64,
        client: IpAddr,
        clock: &Clock,
    ) -> Result<bool, ProviderError> {
        let mut table = self.0.lock();
        table.sweep(clock.wall_ms() / 1_000);
        let now_ms = clock.monotonic_ms();
        if let Some(entry) = table.entries.get_mut(&ticket.id) {
            let Stage::Asked(last_ms) = &mut entry.stage else {
                return Err(ProviderError::NotBegun);
            };
            let is_time = now_ms.saturating_sub(*last_ms) >= pause_ms(interval_s);
            if is_time {
                *last_ms = now_ms;
            }
            return Ok(is_time);
        }
        table.add(ticket, client, Stage::Asked(now_ms)).map(|()| true)
    }

    /// Takes a sign-in that has succeeded off the share of its address. It stays in the table.
    pub(super) fn succeeded(&self, ticket: &Ticket) {
        let mut table = self.0.lock();
        let Table { entries, shares, .. } = &mut *table;
        if let Some(entry) = entries.get_mut(&ticket.id) {
            release(shares, entry.counted.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ticket::{LIFETIME_S, Way};
    use super::*;

    fn ticket(clock: &Clock) -> Ticket {
        Ticket::new("corp", Way::Dashboard("/".into()), clock.wall_ms() / 1_000).unwrap()
    }

    fn address(n: usize) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn one_address_fills_only_its_share_of_the_finished_sign_ins() {
        let (clock, sign_ins) = (Clock::manual(), SignIns::default());
        let finish = |n: usize| sign_ins.finish(&ticket(&clock), address(n), &clock);
        for _ in 0..OF_ADDRESS_MAX {
            assert_eq!(finish(1), Ok(()));
        }
        assert_eq!(finish(1), Err(ProviderError::Busy));
        assert_eq!(finish(2), Ok(()), "another address has its own share");
        let other = |sites: &str| {
            let network: IpAddr = sites.parse().unwrap();
            (0..OF_ADDRESS_MAX).all(|_| sign_ins.finish(&ticket(&clock), network, &clock).is_ok())
        };
        assert!(other("2001:db8:0:1::1") && other("2001:db8:1::1"));
        let of_site = "2001:db8:0:2::1".parse().unwrap();
        let of_site = sign_ins.finish(&ticket(&clock), of_site, &clock);
        assert_eq!(of_site, Err(ProviderError::Busy), "a site has one share");
        clock.advance(Duration::from_secs(LIFETIME_S));
        assert_eq!((finish(0), finish(1)), (Ok(()), Ok(())));
        let table = sign_ins.0.lock();
        assert_eq!((table.entries.len(), table.shares.len()), (2, 2));
    }

    #[test]
    fn many_addresses_that_fill_the_table_do_not_keep_others_out() {
        let (clock, sign_ins) = (Clock::manual(), SignIns::default());
        let finish = |n: usize| sign_ins.finish(&ticket(&clock), address(n), &clock);
        let own = ticket(&clock);
        assert_eq!(sign_ins.finish(&own, address(60_000), &clock), Ok(()));
        for n in 0..2 * REMEMBERED_MAX / OF_ADDRESS_MAX {
            for _ in 0..OF_ADDRESS_MAX {
                assert_eq!(finish(n), Ok(()));
                assert!(sign_ins.0.lock().entries.len() <= REMEMBERED_MAX);
            }
        }
        let again = sign_ins.finish(&own, address(60_000), &clock);
        assert_eq!(again, Err(ProviderError::NotBegun), "an address with few sign-ins loses none");
        let table = sign_ins.0.lock();
        assert_eq!(table.shares.values().sum::<usize>(), table.entries.len());
    }

    #[test]
    fn a_table_is_full_if_almost_every_sign_in_is_of_another_address() {
        let (clock, sign_ins) = (Clock::manual(), SignIns::default());
        for n in 0..REMEMBERED_MAX {
            assert_eq!(sign_ins.finish(&ticket(&clock), address(n), &clock), Ok(()));
        }
        let next = sign_ins.finish(&ticket(&clock), address(REMEMBERED_MAX), &clock);
        assert_eq!(next, Err(ProviderError::Busy));
    }

    #[test]
    fn sign_ins_that_succeed_leave_the_share_of_their_address_and_cannot_be_repeated() {
        let (clock, sign_ins) = (Clock::manual(), SignIns::default());
        for _ in 0..=OF_ADDRESS_MAX {
            let ticket = ticket(&clock);
            assert_eq!(sign_ins.finish(&ticket, address(1), &clock), Ok(()));
            sign_ins.succeeded(&ticket);
            let again = sign_ins.finish(&ticket, address(1), &clock);
            assert_eq!(again, Err(ProviderError::NotBegun));
        }
        clock.advance(Duration::from_secs(LIFETIME_S));
        assert_eq!(sign_ins.finish(&ticket(&clock), address(2), &clock), Ok(()));
        let table = sign_ins.0.lock();
        assert_eq!((table.entries.len(), table.shares.len()), (1, 1));
    }

    #[test]
    fn a_client_that_asks_at_the_interval_is_never_told_to_slow_down() {
        let (clock, sign_ins) = (Clock::manual(), SignIns::default());
        let pass = |ms: u64| clock.advance(Duration::from_millis(ms));
        for (interval_s, earliest_ms) in [(5, 4_000), (60, 59_000), (2, 1_000), (1, 500)] {
            let ticket = ticket(&clock);
            let ask = || sign_ins.may_ask(&ticket, interval_s, address(1), &clock);
            assert_eq!(ask(), Ok(true), "the first question");
            assert_eq!(ask(), Ok(false));
            for _ in 0..3 {
                pass(interval_s * 1_000);
                assert_eq!(ask(), Ok(true), "{interval_s}");
            }
            pass(earliest_ms - 1);
            assert_eq!(ask(), Ok(false), "{interval_s}");
            // A question that was too early does not put off the next one.
            pass(1);
            assert_eq!(ask(), Ok(true), "{interval_s}");
            assert_eq!(sign_ins.finish(&ticket, address(1), &clock), Ok(()));
            assert_eq!(ask(), Err(ProviderError::NotBegun), "{interval_s}");
            pass(LIFETIME_S * 1_000);
        }
    }

    #[test]
    fn one_address_asks_about_its_share_of_the_sign_ins_and_can_finish_all_of_them() {
        let (clock, sign_ins) = (Clock::manual(), SignIns::default());
        let ask = |ticket: &Ticket, n| sign_ins.may_ask(ticket, 5, address(n), &clock);
        let tickets: Vec<_> = (0..OF_ADDRESS_MAX).map(|_| ticket(&clock)).collect();
        for ticket in &tickets {
            assert_eq!(ask(ticket, 1), Ok(true));
        }
        assert_eq!(ask(&ticket(&clock), 1), Err(ProviderError::Busy));
        assert_eq!(ask(&ticket(&clock), 2), Ok(true));
        for ticket in &tickets {
            assert_eq!(sign_ins.finish(ticket, address(1), &clock), Ok(()));
        }
    }
}
