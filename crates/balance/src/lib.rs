//! Chooses the instance of a service that a caller gets.
//!
//! Place in the flow: redirect, resolve and the proxy ask a service's [`Balancer`]. The Rust client does too.
//! All of them build the [`Draw`] from a [`HashInput`], so the same caller gets the same instance each way.
//!
//! **Invariant:** a choice takes no lock, reads no clock and allocates nothing for each instance. A [`Pool`]
//! provides what changes from one request to the next: load, circuit breakers, and instances that were
//! already tried. Randomness comes with the [`Draw`].
//!
//! `docs/reference/selection.md` describes the strategies. `sdks/spec/balance.json` has test vectors.

mod balancer;
mod choice;
mod cycle;
mod follow;
mod hash;
mod member_set;
mod random;
mod rendezvous;
mod ring;

pub use balancer::{Balancer, Member, Plan, VersionWeight, Zones};
pub use choice::{Draw, Pick, Pool, Strategy};
pub use follow::{Narrowing, Narrowings};
pub use hash::{CallerHash, Fields, HashInput, HashSource, query_of};
