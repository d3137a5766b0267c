//! What all connections of a listener share.

use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::client_stream::{ClientRead, ClientWrite};
use super::send_monitor::UnsentBytes;
use super::serve_limits::ServeLimits;
use maxine_admission::StepTurns;
use maxine_http1::{Connection, HeadLimits};
use maxine_telemetry::Metrics;

/// Maximum number of bytes of one answer that HTTP/2 holds in addition to the last part.
const SEND_BUFFER_LEN: usize = 32 * 1_024;

/// What all connections of a listener share.
pub(super) struct Listener {
    pub(super) limits: ServeLimits,
    pub(super) head_limits: HeadLimits,
    pub(super) metrics: Metrics,
    pub(super) unsent: UnsentBytes,
    /// Turns for TLS handshakes.
    pub(super) handshakes: StepTurns,
    pub(super) http2: Http2Builder,
    pub(super) stop: CancellationToken,
}

/// The two directions of a client's connection.
pub(super) type Client = Connection<ClientRead, ClientWrite>;

pub(super) type Http2Builder = http2::Builder<TokioExecutor>;

/// The limits and timers that all connections have.
pub(super) fn http2_builder(limits: &ServeLimits) -> Http2Builder {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let idle = Duration::from_millis(limits.header_timeout_ms);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_send_buf_size(SEND_BUFFER_LEN)
        .max_header_list_size(u32::try_from(limits.header_len_max).unwrap_or(u32::MAX))
        .keep_alive_interval(idle)
        .keep_alive_timeout(idle);
    builder
}
