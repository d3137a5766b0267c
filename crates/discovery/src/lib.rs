//! Look-ups: turns a service and a caller into an instance and a `Location`.
//!
//! Place in the flow: the API calls [`look_up`] with the view, or [`choose`] with one of its tables. This crate
//! never waits. It allocates nothing for each instance: only a buffer for the answer, and one for decoded values.

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod location;
mod query;

use std::sync::Arc;

use maxine_balance::HashInput;

use maxine_state::{Instance, ServiceRef};
use maxine_view::{ServiceCounter, ServiceTable, View};

pub use location::{Redirect, TEXT_PREFIX, encode_end_point, push_location};
pub use query::percent_decoded;
pub use query::{DiscoverQuery, decode_component};

/// The outcome of a look-up.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An instance was chosen.
    Found(Choice),
    /// The service is registered, but none of its instances gets traffic.
    NoInstance(Arc<ServiceCounter>),
    /// No such service is registered.
    NoService,
    /// The request names no service.
    NoName,
}

/// The chosen instance.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The service.
    pub service: Arc<ServiceCounter>,
    /// The instance.
    pub instance: Arc<Instance>,
    /// Round robin: the number of this turn among the turns of the instance in one cycle, from 0. Otherwise 0.
    pub share: u32,
}

impl Outcome {
    /// The service, if it is registered.
    #[must_use]
    pub fn service(&self) -> Option<&Arc<ServiceCounter>> {
        match self {
            Self::Found(Choice { service, .. }) | Self::NoInstance(service) => Some(service),
            Self::NoService | Self::NoName => None,
        }
    }
}

/// Chooses an instance of a service for a request.
#[must_use]
pub fn look_up(view: &View, service: ServiceRef<'_>, input: &HashInput<'_>) -> Outcome {
    view.with_table(service, |table| choose(table, input)).unwrap_or(Outcome::NoService)
}

/// Chooses an instance of the service that has this table.
#[must_use]
pub fn choose(table: &ServiceTable, input: &HashInput<'_>) -> Outcome {
    let service = Arc::clone(table.counter());
    match table.select(&table.draw(input, fastrand::u64(..))) {
        Some(picked) => Outcome::Found(Choice {
            service,
            instance: Arc::clone(&table.endpoints()[picked.position].instance),
            share: picked.share,
        }),
        None => Outcome::NoInstance(service),
    }
}
