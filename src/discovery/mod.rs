//! The redirect path: a query string in, a `Location` out.
//!
//! Place in the flow: the API's discover handler calls [`look_up`] with the view; nothing else is
//! touched. It waits for nothing and allocates nothing per instance: one buffer for the answer, and
//! one for what had to be decoded.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod location;
mod query;

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue};

use maxine_state::{HashKey, Instance, ServiceRef};
use maxine_view::{SelectionKey, ServiceCounter, View};

pub use location::{Redirect, TEXT_PREFIX, encode_end_point, push_location};
pub(crate) use query::percent_decoded;
pub use query::{DiscoverQuery, decode_component};

/// The header fields of a request, in whatever shape they have been read.
pub trait Fields: std::fmt::Debug {
    /// The first value of a field; its name in lower case.
    fn field(&self, name: &str) -> Option<&[u8]>;
}

impl Fields for HeaderMap {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(HeaderValue::as_bytes)
    }
}

/// Who looks up, as far as a choice may depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The client's network address.
    pub client: IpAddr,
    /// The request's header fields.
    pub fields: &'a dyn Fields,
    /// The request's query, raw.
    pub query: &'a str,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The service.
    pub service: Arc<ServiceCounter>,
    /// The instance.
    pub instance: Arc<Instance>,
    /// Which of its shares, from 0.
    pub share: u32,
}

/// Chooses an instance of a service for whoever asks; `None` where none gets traffic.
#[must_use]
pub fn look_up(view: &View, service: ServiceRef<'_>, asker: Asker<'_>) -> Option<Choice> {
    view.with_table(service, |table| {
        let address;
        let text;
        let hash: &[u8] = match table.hash_key() {
            None => &[],
            Some(key) => {
                text = keyed_by(key, asker);
                address = address_bytes(asker.client);
                text.as_deref().map_or(&address[..], str::as_bytes)
            }
        };
        let selected = table.select(SelectionKey { hash, random: fastrand::u64(..) })?;
        Some(Choice {
            service: Arc::clone(table.counter()),
            instance: Arc::clone(&selected.endpoint.instance),
            share: selected.share,
        })
    })
    .flatten()
}

/// The header's or query parameter's value that a policy hashes, where the request has it.
fn keyed_by<'a>(key: &HashKey, asker: Asker<'a>) -> Option<std::borrow::Cow<'a, str>> {
    match key {
        HashKey::ClientAddress => None,
        HashKey::Header(name) => {
            let value = asker.fields.field(name.as_str())?;
            Some(String::from_utf8_lossy(value))
        }
        HashKey::Query(name) => query::parameter(asker.query, name),
    }
}

/// IPv4 addresses hash alike however they are written.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
