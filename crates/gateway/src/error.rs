//! The errors of forwarding, and what the caller learns about them.
//!
//! Each cause has one stable code, which the field `x-maxine-error` contains. The message tells the cause and nothing
//! more.

use hyper::StatusCode;

use super::egress::EgressDenied;
use super::target::PathError;

/// Why no secure connection could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// The certificate has expired.
    #[error("its certificate has expired")]
    Expired,
    /// The certificate is not valid yet.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// The certificate is for another name.
    #[error("its certificate is for another name")]
    WrongName,
    /// No trusted authority signed the certificate.
    #[error("its certificate is signed by an unknown authority")]
    UnknownAuthority,
    /// The authority has revoked the certificate.
    #[error("its certificate was revoked")]
    Revoked,
    /// The certificate is unacceptable for another reason.
    #[error("its certificate is not acceptable")]
    BadCertificate,
    /// The instance's answer was not TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// The instance refused the handshake.
    #[error("it refused the handshake")]
    Refused,
    /// There is no common version or cipher.
    #[error("it has no TLS version or cipher in common with Maxine")]
    Incompatible,
    /// HTTP/2 is required, and was not negotiated.
    #[error("it does not offer HTTP/2")]
    NoHttp2,
    /// The handshake failed for another reason.
    #[error("the handshake failed")]
    Protocol,
    /// The connection ended during the handshake.
    #[error("the connection ended during the handshake")]
    Broken,
}

/// The error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request got no answer from an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// No instance gets traffic.
    #[error("no instance of the service gets traffic")]
    NoInstance,
    /// There are instances, but each one is ejected or has an open circuit breaker.
    #[error("every instance of the service is ejected at the moment, because its requests failed")]
    CircuitOpen,
    /// Too many requests of one client, or of all clients, wait for the instance.
    #[error(
        "too many requests (of this client, or of all clients) are waiting for a connection to the instance"
    )]
    Overloaded,
    /// The service's rate limit is exceeded.
    #[error("the service's rate limit is reached")]
    RateLimited {
        /// Time until the next request is allowed, in milliseconds.
        retry_after_ms: u64,
    },
    /// The instance's name could not be resolved.
    #[error("the instance's host name could not be resolved")]
    Resolve,
    /// Too many host names are being resolved, so this one was not tried.
    #[error(
        "too many host names are being resolved at the moment, so the instance's name was not resolved"
    )]
    LookupsBusy,
    /// This node, or one client, has reached its maximum number of connections to instances.
    #[error("too many connections to instances are open (for this client, or for all clients)")]
    ConnectionsBusy,
    /// The request was ended for a client that has fewer requests.
    #[error(
        "this node ended the request for another client, because this client has the most requests to instances; the instance may have processed it"
    )]
    Displaced,
    /// Too many bytes of request bodies are being collected.
    #[error(
        "too many bytes of request bodies are waiting to be forwarded (of this client, or of all clients)"
    )]
    BodiesBusy,
    /// The instance's address may not be called.
    #[error("the instance's address may not be called: {0}")]
    Egress(EgressDenied),
    /// The connection was refused, or broke while it was opened.
    #[error("no connection to the instance could be opened")]
    Connect,
    /// The connection was not opened in time.
    #[error("no connection to the instance could be opened in time")]
    ConnectTimeout,
    /// The instance's certificate or protocol is not acceptable.
    #[error("no secure connection to the instance could be made: {0}")]
    Tls(TlsFailure),
    /// The connection broke before the response's head.
    #[error("the instance closed the connection before it answered")]
    Reset,
    /// The instance refused the request twice, and did not process it.
    #[error("the instance refused the request without processing it; a retry is safe")]
    Refused,
    /// The answer was not HTTP.
    #[error("the instance's answer is not valid HTTP")]
    BadResponse,
    /// The head of the response did not arrive in time.
    #[error("the instance did not answer in time")]
    ResponseTimeout,
    /// The total time limit was reached.
    #[error("the time limit for the whole request has passed")]
    TotalTimeout,
    /// The client stopped sending its body.
    #[error("the request's body did not arrive in time")]
    ClientTimeout,
    /// The client's body broke off.
    #[error("the request's body ended early")]
    ClientBody,
    /// The body is over the limit.
    #[error("the request's body is over the limit of {max} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// The path is not forwarded, because it could leave the instance's base path or is not valid.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The method is not forwarded.
    #[error("CONNECT and TRACE are not forwarded")]
    Method,
    /// The request is malformed, for example framed in two ways.
    #[error("the request is malformed: {0}")]
    BadRequest(&'static str),
    /// The request has passed too many Maxine proxies.
    #[error("the request is in a loop: an instance's address leads back to Maxine")]
    Loop,
    /// Maxine is stopping.
    #[error("this node is stopping")]
    Stopping,
}

/// Declares the code of each error.
macro_rules! codes {
    ($($error:pat => $code:literal,)*) => {
        impl ProxyError {
            /// All codes.
            pub const CODES: &[&str] = &[$($code,)*];

            /// The stable code, in the field `x-maxine-error`.
            #[must_use]
            pub fn code(&self) -> &'static str {
                match self { $($error => $code,)* }
            }
        }
    };
}

codes! {
    ProxyError::NoInstance => "no_instance",
    ProxyError::CircuitOpen => "circuit_open",
    ProxyError::Overloaded => "overloaded",
    ProxyError::RateLimited { .. } => "rate_limited",
    ProxyError::Resolve => "resolve_failed",
    ProxyError::LookupsBusy => "resolve_busy",
    ProxyError::ConnectionsBusy => "connections_busy",
    ProxyError::Displaced => "displaced",
    ProxyError::BodiesBusy => "bodies_busy",
    ProxyError::Egress(_) => "egress_denied",
    ProxyError::Connect => "connect_failed",
    ProxyError::ConnectTimeout => "connect_timeout",
    ProxyError::Tls(_) => "tls_failed",
    ProxyError::Reset => "upstream_reset",
    ProxyError::Refused => "upstream_refused",
    ProxyError::BadResponse => "bad_response",
    ProxyError::ResponseTimeout => "response_timeout",
    ProxyError::TotalTimeout => "total_timeout",
    ProxyError::ClientTimeout => "client_timeout",
    ProxyError::ClientBody => "client_body",
    ProxyError::BodyTooLarge { .. } => "body_too_large",
    ProxyError::Path(_) => "bad_path",
    ProxyError::Method => "method_not_forwarded",
    ProxyError::BadRequest(_) => "bad_request",
    ProxyError::Loop => "loop_detected",
    ProxyError::Stopping => "stopping",
}

impl ProxyError {
    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoInstance
            | Self::CircuitOpen
            | Self::Overloaded
            | Self::Refused
            | Self::LookupsBusy
            | Self::ConnectionsBusy
            | Self::Displaced
            | Self::BodiesBusy
            | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Resolve
            | Self::Egress(_)
            | Self::Connect
            | Self::Tls(_)
            | Self::Reset
            | Self::BadResponse => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::ResponseTimeout | Self::TotalTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Method => StatusCode::NOT_IMPLEMENTED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ClientBody | Self::Path(_) | Self::BadRequest(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// How long the client should wait before a retry, in seconds. `None` if a retry does not help.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::RateLimited { retry_after_ms } => Some(retry_after_ms.div_ceil(1_000).max(1)),
            Self::NoInstance
            | Self::CircuitOpen
            | Self::Overloaded
            | Self::Refused
            | Self::LookupsBusy
            | Self::ConnectionsBusy
            | Self::Displaced
            | Self::BodiesBusy
            | Self::Stopping => Some(1),
            _ => None,
        }
    }

    /// Whether the instance is at fault, so that the error counts against it.
    #[must_use]
    pub fn blames_instance(&self) -> bool {
        matches!(
            self,
            Self::Resolve
                | Self::Connect
                | Self::ConnectTimeout
                | Self::Tls(_)
                | Self::Reset
                | Self::Refused
                | Self::BadResponse
                | Self::ResponseTimeout
        )
    }

    /// Whether it is certain that the instance did not process the request.
    #[must_use]
    pub fn is_before_sending(&self) -> bool {
        matches!(
            self,
            Self::Resolve
                | Self::Egress(_)
                | Self::Connect
                | Self::ConnectTimeout
                | Self::Tls(_)
                | Self::Overloaded
                | Self::Refused
                | Self::LookupsBusy
                | Self::ConnectionsBusy
                | Self::BodiesBusy
        )
    }
}
