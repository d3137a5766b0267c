//! Whose places and turns count together.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

/// Whose places and turns count together. In order, users come before addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payer {
    /// Callers with the credentials of this user, wherever they are.
    User(UserName),
    /// Callers who count by their address, or by their network of IPv6.
    Site(IpAddr),
}

impl Payer {
    /// Whether what this payer holds may be displaced for the newcomer. A user gives way to other users; to callers
    /// without a credential only while all users together hold more than what is reserved for them.
    #[must_use]
    pub fn gives_way_to(self, newcomer: Self, users_exceed_reserve: bool) -> bool {
        let is_user = |payer: Self| matches!(payer, Self::User(_));
        self != newcomer && (!is_user(self) || is_user(newcomer) || users_exceed_reserve)
    }
}

/// The name of a user, or the identity of a token, as a number that is the same within this process only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(u64);

/// The key of the numbers. It is secret, so nobody can choose two names with the same number.
static NUMBERS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl UserName {
    /// The number of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(NUMBERS.hash_one(name))
    }
}
