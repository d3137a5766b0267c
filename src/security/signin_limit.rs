//! How often signing in may be tried: per user and address, and per address over all users.
//!
//! Each node counts for itself; across a cluster of three an attacker has three times the tries.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// Most pairs that are remembered. Beyond it the stalest ones are forgotten.
const REMEMBERED_MAX: usize = 16_384;
/// One address may try so many times more over all users than for one.
const ADDRESS_FACTOR: u32 = 10;

/// Of whom tries are counted: a hash of the user's name, or nobody for the address as a whole.
type Key = (Option<u64>, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Window {
    began_ms: u64,
    tries: u32,
}

/// Counts tries in fixed windows.
pub(super) struct SigninLimit {
    attempts_max: u32,
    window_ms: u64,
    windows: Mutex<HashMap<Key, Window>>,
}

impl SigninLimit {
    pub(super) fn new(attempts_max: u32, window_ms: u64) -> Self {
        Self { attempts_max: attempts_max.max(1), window_ms, windows: Mutex::default() }
    }

    /// Counts a try before the password is looked at, so that tries at the same time count too.
    /// Refused: in how many seconds one is allowed again.
    pub(super) fn try_begin(&self, user: &str, client: IpAddr, now_ms: u64) -> Result<(), u64> {
        let mut windows = self.windows.lock();
        if windows.len() >= REMEMBERED_MAX {
            self.forget_stale(&mut windows, now_ms);
        }
        let of_user = (Some(xxh3_64(user.as_bytes())), client);
        for (key, max) in [
            (of_user, self.attempts_max),
            ((None, client), self.attempts_max.saturating_mul(ADDRESS_FACTOR)),
        ] {
            let window = windows.entry(key).or_insert(Window { began_ms: now_ms, tries: 0 });
            if now_ms.saturating_sub(window.began_ms) >= self.window_ms {
                *window = Window { began_ms: now_ms, tries: 0 };
            }
            if window.tries >= max {
                let left_ms = (window.began_ms + self.window_ms).saturating_sub(now_ms);
                return Err(left_ms.div_ceil(1_000).max(1));
            }
            window.tries += 1;
        }
        Ok(())
    }

    /// Takes back what a successful sign-in counted.
    pub(super) fn succeeded(&self, user: &str, client: IpAddr) {
        let mut windows = self.windows.lock();
        windows.remove(&(Some(xxh3_64(user.as_bytes())), client));
        if let Some(window) = windows.get_mut(&(None, client)) {
            window.tries = window.tries.saturating_sub(1);
        }
    }

    fn forget_stale(&self, windows: &mut HashMap<Key, Window>, now_ms: u64) {
        windows.retain(|_, window| now_ms.saturating_sub(window.began_ms) < self.window_ms);
        if windows.len() < REMEMBERED_MAX {
            return;
        }
        // All of them are fresh: the older half goes, the newer half stays limited.
        let mut began: Vec<u64> = windows.values().map(|window| window.began_ms).collect();
        let middle = began.len() / 2;
        let (_, middle_ms, _) = began.select_nth_unstable(middle);
        let middle_ms = *middle_ms;
        windows.retain(|_, window| window.began_ms > middle_ms);
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
    fn a_success_clears_and_an_address_has_a_limit_over_all_users() {
        let limit = SigninLimit::new(2, 60_000);
        for _ in 0..50 {
            assert_eq!(limit.try_begin("ada", A, 0), Ok(()));
            limit.succeeded("ada", A);
        }
        for n in 0..20 {
            assert_eq!(limit.try_begin(&format!("user-{n}"), A, 0), Ok(()));
        }
        assert!(limit.try_begin("another", A, 0).is_err());
    }

    #[test]
    fn memory_is_bounded_under_a_flood_of_names() {
        let limit = SigninLimit::new(1_000_000, 60_000);
        for n in 0..40_000_u64 {
            let _ = limit.try_begin(&n.to_string(), A, n / 10);
        }
        assert!(limit.windows.lock().len() <= REMEMBERED_MAX + 2);
    }
}
