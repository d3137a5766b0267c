//! Limits sign-in attempts: for each pair of user and address, and for each address over all users.
//!
//! Counts are kept in a count-min sketch of a fixed size. Each pair has one cell in each of a few rows,
//! chosen by a keyed hash, and the lowest of these cells is its count. Nothing is evicted, so a flood of
//! other names or addresses releases nobody who is over the limit. Pairs that share cells can only make each
//! other wait sooner, and an attacker cannot know which pairs share cells.
//!
//! This is how many addresses it takes to make others wait. With the default limit of 10 attempts, one address may
//! try 100 times in a window. That brings 10 pairs to the limit, and the address itself. So `n` addresses
//! make about `11 n` keys full, which fill a share of `p = 1 - exp(-11 n / 65536)` of each row. Another
//! caller has to wait if all four of their cells are full, with a probability of `p^4`. That is one in 3,700
//! for 820 addresses, one in 100 for 2,300, and one in 5 for 6,600, in each window. IPv6 addresses are
//! counted by their network of 64 bits.
//!
//! Each node counts for itself, so an attacker has three times the attempts in a cluster of three.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use maxine_admission::network_of;

use parking_lot::Mutex;

/// Rows of the sketch. Two pairs share all their cells with a probability of one in 2^64.
const ROWS: usize = 4;
/// Cells of a row, one for each value of 16 bits of a hash. All rows together take 2 MiB once they are used.
const ROW_LEN: usize = 1 << 16;
/// Number of bits of a cell for the count; the other bits are the time.
const TRIES_BITS: u32 = 20;
const TRIES_MAX: u32 = (1 << TRIES_BITS) - 1;
/// How many times more attempts one address has over all users than for one user.
const ADDRESS_FACTOR: u32 = 10;

/// The key of a count: the user's name and the address, or no name for the address as a whole.
type Key<'a> = (Option<&'a str>, IpAddr);

/// The content of a cell, packed into 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    began_ms: u64,
    tries: u32,
}

impl From<u64> for Window {
    fn from(cell: u64) -> Self {
        Self { began_ms: cell >> TRIES_BITS, tries: cell as u32 & TRIES_MAX }
    }
}

impl From<Window> for u64 {
    fn from(window: Window) -> Self {
        window.began_ms << TRIES_BITS | Self::from(window.tries.min(TRIES_MAX))
    }
}

/// Counts attempts in fixed windows.
pub(super) struct SigninLimit {
    attempts_max: u32,
    window_ms: u64,
    hasher: RandomState,
    windows: Mutex<Box<[u64]>>,
}

impl SigninLimit {
    pub(super) fn new(attempts_max: u32, window_ms: u64) -> Self {
        let windows = vec![0; ROWS * ROW_LEN].into_boxed_slice();
        Self {
            attempts_max: attempts_max.clamp(1, TRIES_MAX / ADDRESS_FACTOR),
            window_ms,
            hasher: RandomState::new(),
            windows: Mutex::new(windows),
        }
    }

    /// Counts an attempt before the password is checked, so that concurrent attempts count too. The error is
    /// the number of seconds until an attempt is allowed again. A refused attempt is not counted.
    pub(super) fn try_begin(&self, user: &str, client: IpAddr, now_ms: u64) -> Result<(), u64> {
        let network = network_of(client);
        let limits = [
            (self.cells((Some(user), network)), self.attempts_max),
            (self.cells((None, network)), self.attempts_max.saturating_mul(ADDRESS_FACTOR)),
        ];
        let mut windows = self.windows.lock();
        for (cells, max) in limits {
            let left_ms =
                cells.iter().map(|cell| self.left_ms(windows[*cell].into(), max, now_ms)).min();
            if let Some(left_ms) = left_ms.filter(|left_ms| *left_ms > 0) {
                return Err(left_ms.div_ceil(1_000));
            }
        }
        for cell in limits.iter().flat_map(|(cells, _)| cells) {
            let mut window = Window::from(windows[*cell]);
            if self.is_over(window, now_ms) {
                window = Window { began_ms: now_ms, tries: 0 };
            }
            window.tries += 1;
            windows[*cell] = window.into();
        }
        Ok(())
    }

    /// Takes back an attempt that was right, or whose password was not checked.
    pub(super) fn take_back(&self, user: &str, client: IpAddr) {
        let network = network_of(client);
        let mut windows = self.windows.lock();
        for cell in [(Some(user), network), (None, network)].into_iter().flat_map(|k| self.cells(k))
        {
            let Window { began_ms, tries } = windows[cell].into();
            windows[cell] = Window { began_ms, tries: tries.saturating_sub(1) }.into();
        }
    }

    /// How long a window makes its pair wait, in milliseconds; 0 if it does not.
    fn left_ms(&self, window: Window, max: u32, now_ms: u64) -> u64 {
        if window.tries < max {
            return 0;
        }
        (window.began_ms + self.window_ms).saturating_sub(now_ms)
    }

    fn is_over(&self, window: Window, now_ms: u64) -> bool {
        window.tries == 0 || now_ms.saturating_sub(window.began_ms) >= self.window_ms
    }

    /// The cells of a pair, one in each row.
    fn cells(&self, key: Key<'_>) -> [usize; ROWS] {
        let hash = self.hasher.hash_one(key);
        std::array::from_fn(|row| row * ROW_LEN + (hash >> (16 * row)) as usize % ROW_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn the_limit_is_per_user_and_address_and_ends_with_the_window() {
        let limit = SigninLimit::new(3, 60_000);
        for _ in 0..3 {
            assert_eq!(limit.try_begin("ada", A, 0), Ok(()));
        }
        assert_eq!(limit.try_begin("ada", A, 1_000), Err(59));
        assert_eq!(limit.try_begin("ada", B, 1_000), Ok(()));
        assert_eq!(limit.try_begin("bob", A, 1_000), Ok(()));
        assert_eq!(limit.try_begin("ada", A, 60_000), Ok(()));
    }

    #[test]
    fn a_success_counts_for_nothing_and_an_address_has_a_limit_over_all_users() {
        let limit = SigninLimit::new(2, 60_000);
        for _ in 0..50 {
            assert_eq!(limit.try_begin("ada", A, 0), Ok(()));
            limit.take_back("ada", A);
        }
        for n in 0..20 {
            assert_eq!(limit.try_begin(&format!("user-{n}"), A, 0), Ok(()));
        }
        assert!(limit.try_begin("another", A, 0).is_err());
    }

    /// Attempts on one account between floods of other attempts, all within one window.
    fn guesses(flood: impl Fn(&SigninLimit, u64)) -> u32 {
        let limit = SigninLimit::new(10, 60_000);
        let mut admitted = 0;
        for second in 0..60 {
            let now_ms = second * 999;
            for _ in 0..12 {
                admitted += u32::from(limit.try_begin("admin", A, now_ms).is_ok());
            }
            flood(&limit, now_ms);
        }
        admitted
    }

    #[test]
    fn no_flood_frees_whoever_is_over_the_limit() {
        // Floods of other names, from the same address and from others.
        let names = |limit: &SigninLimit, now_ms: u64| {
            for n in 0..2_000_u32 {
                let _ = limit.try_begin(&format!("{n}-{now_ms}"), A, now_ms);
                let other = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
                let _ = limit.try_begin(&format!("{n}-{now_ms}"), other, now_ms);
            }
        };
        assert_eq!(guesses(names), 10);
        // Floods of successful sign-ins to another account.
        let successes = |limit: &SigninLimit, now_ms: u64| {
            for _ in 0..500 {
                if limit.try_begin("mallory", A, now_ms).is_ok() {
                    limit.take_back("mallory", A);
                }
            }
        };
        assert_eq!(guesses(successes), 10);
    }

    /// 2,300 addresses use all their attempts in one window, on enough names to bring cells to the limit.
    #[test]
    fn two_thousand_addresses_make_one_in_a_hundred_others_wait() {
        let limit = SigninLimit::new(10, 60_000);
        for n in 0..2_300_u32 {
            let from = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
            for t in 0..100 {
                let _ = limit.try_begin(&format!("u{}", t % 10), from, 0);
            }
        }
        let others = (0..2_000_u32).map(|n| IpAddr::from([10, 2, (n >> 8) as u8, n as u8]));
        let waiting = others.filter(|other| limit.try_begin("ada", *other, 0).is_err()).count();
        assert!(waiting <= 60, "{waiting} of 2,000 wait; 20 are expected");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_count_as_one() {
        let limit = SigninLimit::new(10, 60_000);
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let tries = (0..100)
            .filter(|n| limit.try_begin("admin", of(&format!("2a00:1:2:3::{n:x}")), 0).is_ok());
        assert_eq!(tries.count(), 10);
        assert_eq!(limit.try_begin("admin", of("2a00:1:2:4::1"), 0), Ok(()));
        // An IPv4 address counts as the same one, however it is written.
        for _ in 0..10 {
            assert_eq!(limit.try_begin("admin", of("::ffff:10.0.0.1"), 0), Ok(()));
        }
        assert!(limit.try_begin("admin", A, 0).is_err());
        assert_eq!(limit.try_begin("admin", B, 0), Ok(()));
    }
}
