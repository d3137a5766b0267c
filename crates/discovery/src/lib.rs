//! Discovery by redirect: turns a query string into a `Location`.
//!
//! Place in the flow: the API's discover handler calls [`look_up`] with the view. This crate never waits. It
//! allocates nothing for each instance: only a buffer for the answer, and one for decoded values.

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod location;
mod query;

use std::sync::Arc;

use maxine_balance::HashInput;

use maxine_state::{Instance, ServiceRef};
use maxine_view::{ServiceCounter, View};

pub use location::{Redirect, TEXT_PREFIX, encode_end_point, push_location};
pub use query::percent_decoded;
pub use query::{DiscoverQuery, decode_component};

/// The chosen instance.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The service.
    pub service: Arc<ServiceCounter>,
    /// The instance.
    pub instance: Arc<Instance>,
    /// Which turn of the instance this was in round robin, from 0.
    pub share: u32,
}

/// Chooses an instance of a service for a request; `None` if none gets traffic.
#[must_use]
pub fn look_up(view: &View, service: ServiceRef<'_>, input: &HashInput<'_>) -> Option<Choice> {
    view.with_table(service, |table| {
        let picked = table.select(&table.draw(input, fastrand::u64(..)))?;
        Some(Choice {
            service: Arc::clone(table.counter()),
            instance: Arc::clone(&table.endpoints()[picked.position].instance),
            share: picked.share,
        })
    })
    .flatten()
}
