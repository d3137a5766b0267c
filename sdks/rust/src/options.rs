//! The settings of a client, and what it reports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};

use crate::credentials::ClientCredentials;
use crate::error::Error;
use crate::hook::Hook;
use crate::tls::ClientCertificate;
use crate::trace::Tracer;

/// The settings of a [`Client`](crate::Client). The functions in it must return soon, and must not block.
#[derive(Clone)]
pub struct Options {
    /// The namespace of all services of this client; by default `default`.
    pub namespace: String,
    /// A session token or an API token.
    pub token: Option<String>,
    /// A file with the token. It is read for each request, so that a replaced token is used at once.
    pub token_file: Option<PathBuf>,
    /// Fetches tokens from an OpenID provider. Only one of this, `token` and `token_file` may be set.
    pub credentials: Option<ClientCredentials>,
    /// A PEM file with the certificates that `https` nodes are checked with; by default those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown to `https` nodes that ask for one.
    pub certificate: Option<ClientCertificate>,
    /// The limit of a call to the nodes with all its attempts; by default 10 s.
    pub timeout: Duration,
    /// The limit of one attempt; by default 3 s.
    pub attempt_timeout: Duration,
    /// Gets the errors of the work in the background.
    pub on_error: Option<Hook<Error>>,
    /// Gets each request to a node, when its answer has begun or it has failed.
    pub on_attempt: Option<Hook<Attempt>>,
    /// Gets each use of an instance, at its end.
    pub on_call: Option<Hook<Call>>,
    /// Begins and ends spans, for example those of [`TracingTracer`](crate::trace::TracingTracer).
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: "default".into(),
            token: None,
            token_file: None,
            credentials: None,
            ca_file: None,
            certificate: None,
            timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            on_error: None,
            on_attempt: None,
            on_call: None,
            tracer: None,
        }
    }
}

impl Options {
    /// Reports an error of the work in the background.
    pub(crate) fn report(&self, error: &Error) {
        if let Some(on_error) = &self.on_error {
            on_error(error);
        }
    }
}

/// One request to a node.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The URL of the node.
    pub node: String,
    /// The method.
    pub method: Method,
    /// The path, with the query.
    pub path: String,
    /// The status of the answer, if there was one.
    pub status: Option<StatusCode>,
    /// The time until the answer began, or until the failure.
    pub duration: Duration,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// One use of an instance, from its choice to the end of the request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The service.
    pub service: String,
    /// The name of the instance in its service.
    pub instance: String,
    /// The time from the choice to the end.
    pub duration: Duration,
    /// Whether the instance could not be reached. It is avoided for some seconds.
    pub failed: bool,
}
