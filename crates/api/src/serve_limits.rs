//! The limits of the server.

use std::sync::Arc;

use maxine_gateway::TrustedProxies;
use maxine_identity::ServerTls;

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct ServeLimits {
    /// Maximum number of open connections.
    pub connections_max: usize,
    /// Maximum number of open connections from one address. It does not apply to trusted proxies.
    pub connections_per_address_max: usize,
    /// Proxies that speak for many clients.
    pub trusted_proxies: TrustedProxies,
    /// Time limit for a request's head, and for a connection to be idle between two requests, in
    /// milliseconds.
    pub header_timeout_ms: u64,
    /// Maximum length of a request's head, in bytes. A value below 8,192 counts as 8,192.
    pub header_len_max: usize,
    /// Maximum number of header fields in a request.
    pub header_fields_max: usize,
    /// Maximum number of concurrent requests on one HTTP/2 connection.
    pub streams_max: u32,
    /// How long a client may read nothing of an answer, in milliseconds. After that, its connection is closed.
    pub send_timeout_ms: u32,
    /// How long requests in flight may take to end when the node stops, in milliseconds.
    pub drain_timeout_ms: u64,
    /// TLS of the listener; `None` for plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 32_768,
            connections_per_address_max: 32_768,
            trusted_proxies: TrustedProxies::default(),
            header_timeout_ms: 30_000,
            header_len_max: 64 * 1_024,
            header_fields_max: 128,
            streams_max: 256,
            send_timeout_ms: 30_000,
            drain_timeout_ms: 10_000,
            tls: None,
        }
    }
}
