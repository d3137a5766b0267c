//! What a service instance is, as its owner registered it and as the state holds it.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::health::Health;
use super::limits::{self, LimitExceeded, check_count, check_range, check_text};
use super::name::Name;
use super::policy::ProbeSpec;

/// Where an instance is reached: `http://` or `https://`, host, optional port, optional base path
/// without a trailing slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(Arc<str>);

impl Address {
    /// Takes a URL as an address. Refused: another scheme, user information, a query, a fragment,
    /// a host with characters that no host has, `..` in the path, port 0.
    pub fn parse(text: &str) -> Result<Self, LimitExceeded> {
        let bad = |limit: &str| LimitExceeded::new("address", limit, text);
        check_text("address", text, 1, limits::ADDRESS_LEN_MAX)?;
        let host_and_port = text.split_once("://").map_or(text, |(_, rest)| rest);
        let host_and_port = host_and_port.split('/').next().unwrap_or_default();
        if host_and_port.matches(':').count() > 1 && !host_and_port.contains(['[', '@']) {
            return Err(bad(
                "a URL whose IPv6 address stands in brackets, such as http://[::1]:8080",
            ));
        }
        let uri: http::Uri = text
            .parse()
            .map_err(|_| bad("a URL such as http://10.0.0.1:8080 with an optional base path"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("a URL whose scheme is http or https"));
        }
        let authority = uri.authority().ok_or_else(|| bad("a URL with a host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a URL without user information"));
        }
        if authority.host().is_empty() {
            return Err(bad("a URL with a host"));
        }
        if authority.as_str().len() > authority.host().len() {
            let port = authority.port_u16().filter(|port| *port != 0);
            if port.is_none() {
                return Err(bad("a URL whose port is 1 to 65535"));
            }
        }
        if uri.query().is_some() || text.contains(['#', '?', '\\', ' ', '"', '<', '>']) {
            return Err(bad("a URL without query, fragment, space, quote or backslash"));
        }
        let path = uri.path();
        // Most have none of the two, and apply checks every registration on every node.
        if path.contains(['.', '%']) {
            let lower = path.to_ascii_lowercase().replace("%2e", ".");
            if lower.split('/').any(|segment| segment == ".." || segment == ".") {
                return Err(bad("a URL without . or .. in its path"));
            }
        }
        Ok(Self(text.strip_suffix('/').unwrap_or(text).into()))
    }

    /// The URL, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Address {
    type Error = LimitExceeded;
    fn try_from(text: String) -> Result<Self, LimitExceeded> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0.as_ref().into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What the owner of an instance says of it. A registration equal to the present one is a
/// heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Registration {
    /// The instance's name within its service.
    pub id: Name,
    /// Address of the instance.
    pub address: Address,
    /// Its share of the traffic against its peers, 1 to [`limits::WEIGHT_MAX`].
    pub weight: u16,
    /// Time after the last heartbeat at which it expires, in milliseconds.
    pub ttl_ms: u64,
    /// The zone that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Name>,
    /// The version that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Name>,
    /// Labels, sorted and without repeats.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tags: Box<[Name]>,
    /// Free entries, sorted by key.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub metadata: Box<[(Name, Box<str>)]>,
    /// Its probe, if it differs from that of the service's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Box<ProbeSpec>>,
}

impl Registration {
    /// A registration with everything optional left out.
    #[must_use]
    pub fn new(id: Name, address: Address, ttl_ms: u64) -> Self {
        Self {
            id,
            address,
            weight: 1,
            ttl_ms,
            zone: None,
            version: None,
            tags: Box::default(),
            metadata: Box::default(),
            probe: None,
        }
    }

    /// Sorts what is unordered, so that equal registrations compare equal.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        let mut tags = std::mem::take(&mut self.tags).into_vec();
        tags.sort();
        tags.dedup();
        self.tags = tags.into();
        self.metadata.sort_by(|a, b| a.0.cmp(&b.0));
        self
    }

    /// Checks every bound; the first one broken is told.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        limits::check_name("id", self.id.as_str())?;
        Address::parse(self.address.as_str())?;
        check_range("weight", self.weight.into(), 1, limits::WEIGHT_MAX.into())?;
        check_range("ttl_ms", self.ttl_ms, limits::TTL_MS_MIN, limits::TTL_MS_MAX)?;
        for (field, name) in [("zone", &self.zone), ("version", &self.version)] {
            if let Some(name) = name {
                limits::check_name(field, name.as_str())?;
            }
        }
        check_count("tags", self.tags.len(), limits::TAGS_MAX)?;
        for tag in &self.tags {
            limits::check_name("tags", tag.as_str())?;
        }
        check_count("metadata", self.metadata.len(), limits::METADATA_ENTRIES_MAX)?;
        let mut total = 0;
        for (key, value) in &self.metadata {
            limits::check_name("metadata", key.as_str())?;
            check_text("metadata", value, 0, limits::METADATA_VALUE_LEN_MAX)?;
            total += key.as_str().len() + value.len();
        }
        if total > limits::METADATA_TOTAL_LEN_MAX {
            let limit = format!("at most {} bytes in all", limits::METADATA_TOTAL_LEN_MAX);
            return Err(LimitExceeded::new("metadata", limit, format!("{total} bytes")));
        }
        if let Some(probe) = &self.probe {
            probe.check()?;
        }
        Ok(())
    }
}

/// An instance as the registry holds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Instance {
    /// What its owner said.
    #[serde(flatten)]
    pub registration: Registration,
    /// Index at which the present registration came or last changed. An equal registration keeps
    /// it. Heartbeats and removals may name it.
    pub lease_epoch: u64,
    /// Index of the last registration of this instance in the log, equal ones included. An expiry
    /// names it, so an expiry that was decided before a heartbeat by registration removes nothing.
    pub registered_index: u64,
    /// Index of the registration that brought the present address. Health reports name it: what
    /// was observed at another address does not count.
    pub address_index: u64,
    /// When it was registered, in milliseconds since 1970, by the log's clock.
    pub registered_at_ms: u64,
    /// Index of the last change to it.
    pub modified_index: u64,
    /// Result of the health checks.
    pub health: Health,
}

/// An operator's word that an instance gets no new traffic. It outlives re-registration and
/// expiry: what the operator decided outranks what machines report.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Drain {
    /// Who drained it.
    pub by: Name,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_without_brackets_is_told_of_them() {
        for text in ["::1:8080", "fe80::1", "http://::1:8080", "http://fe80::1/base"] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains("in brackets"), "{text}: {error}");
        }
        for text in ["http://[::1]:8080", "https://[fe80::1]", "http://10.0.0.1:80/a:b:c"] {
            assert!(Address::parse(text).is_ok(), "{text}");
        }
    }
}
