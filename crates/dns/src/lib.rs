//! The DNS face: answers questions about services, machines and addresses from the published tables.
//!
//! Place in the flow: clients ask over UDP or TCP; [`Dns`] reads the question once, looks the service up in the
//! view, and writes the answer. It decides nothing: which instances get traffic is in the view's tables. It never
//! writes, waits for no leader, and forwards no question to another name server.
//!
//! ```text
//! serve ─► rate ─► question ─► names ─► answer ─► message
//!                                          ├─► maxine-view   services
//!                                          └─► nodes         machines and reverse look-ups
//! ```

mod answer;
mod domain;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod message;
mod metrics;
mod names;
mod nodes;
mod question;
mod rate;
#[cfg(any(test, feature = "fuzz"))]
mod sample;
mod serve;
mod settings;
#[cfg(test)]
mod tests;

pub use answer::Dns;
pub use domain::{Domain, InvalidDomain};
pub use metrics::DnsMetrics;
pub use serve::{Listener, own_addresses};
pub use settings::DnsSettings;
