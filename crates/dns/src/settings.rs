//! The settings of the name server.

use std::net::IpAddr;

use crate::domain::Domain;

/// The settings of the name server.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// The domains that are answered for; at least one. The answers to reverse look-ups are in the first one.
    pub domains: Vec<Domain>,
    /// The label that clients of Consul may add before the domain, in lower case.
    pub datacenter: String,
    /// For how long clients may keep an answer, in seconds.
    pub ttl_s: u32,
    /// For how long clients may keep the answer that something does not exist, in seconds.
    pub negative_ttl_s: u32,
    /// Maximum length of an answer over UDP, in bytes; at least 512. A client that announces less gets less.
    pub udp_len_max: usize,
    /// Maximum number of answers over UDP to one address (for IPv6, one /48 network) per second; 0 for no limit.
    /// Loopback addresses have no limit.
    pub rate_max_per_s: u32,
    /// Maximum number of TCP connections.
    pub connections_max: usize,
    /// Maximum number of these from one address.
    pub connections_per_address_max: usize,
    /// Time limit for one question over TCP, and for a connection without a question, in milliseconds.
    pub connection_timeout_ms: u64,
    /// The addresses of this name server, for `ns` in each domain.
    pub own_addresses: Vec<IpAddr>,
}
