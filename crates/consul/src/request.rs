//! A request that was admitted, and the port through which the program decides about registrations.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};

use super::answer::{self, Refusal};
use super::text::{PARAMETERS_MAX, Query, is_utf8};
use maxine_admission::CallerClass;
use maxine_state::{Actor, InstanceKey, Registration};

/// The header that names the namespace, as the parameter `ns` does.
pub const NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");
/// The header that names the partition, as the parameter `partition` does.
pub const PARTITION: HeaderName = HeaderName::from_static("x-consul-partition");

/// Decides what the caller of one request may do. The decision is the same for every API.
pub trait Guard: Send + Sync {
    /// Why the caller may not; `None` if they may.
    fn refusal(
        &self,
        key: &InstanceKey,
        registration: &Registration,
    ) -> Option<(StatusCode, String)>;

    /// Why an answer that has waited must not be given: the caller's credential is not valid any more, or this node
    /// does not belong to the cluster any more. `None` if it may be given.
    fn ended(&self) -> Option<(StatusCode, String)>;

    /// The maximum length of an answer that could be delivered to the caller now, in bytes. It is asked for before a
    /// long answer is built.
    fn answer_len_max(&self) -> usize;
}

/// A request that was admitted. A blocking query holds it while it waits, so it has only what is needed.
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The target.
    pub uri: Uri,
    /// The first header field `Accept`.
    pub accept: Option<HeaderValue>,
    /// The first header field [`NAMESPACE`].
    pub namespace: Option<HeaderValue>,
    /// The first header field [`PARTITION`].
    pub partition: Option<HeaderValue>,
    /// The whole body.
    pub body: Bytes,
    /// The caller, for the audit log.
    pub actor: Actor,
    /// Whether the caller has a credential.
    pub is_known: bool,
    /// Which limits apply to the caller.
    pub caller_class: CallerClass,
    /// The client's address.
    pub client: IpAddr,
    /// When the caller needs the answer to a write, in milliseconds on the monotonic clock.
    pub answer_by_ms: Option<u64>,
    /// Decides about registrations of this caller.
    pub guard: Box<dyn Guard>,
}

impl Asked {
    /// The maximum length of the answer, if it is built now, in bytes.
    pub(crate) fn answer_len_max(&self) -> usize {
        self.guard.answer_len_max().min(answer::LEN_MAX)
    }

    /// The parameters, with those that a header names.
    pub(crate) fn query(&self) -> Result<Query, Refusal> {
        let query = self.uri.query().unwrap_or_default();
        if !is_utf8(query) {
            return Err(Refusal::bad("the query is not UTF-8"));
        }
        let mut parsed = Query::parse(query).ok_or_else(|| {
            Refusal::bad(format!("the query has more than {PARAMETERS_MAX} parameters"))
        })?;
        for (parameter, header) in [("ns", &self.namespace), ("partition", &self.partition)] {
            let Some(value) = header else { continue };
            let value = std::str::from_utf8(value.as_bytes()).map_err(|_| {
                Refusal::bad(format!("the header for the parameter {parameter:?} is not UTF-8"))
            })?;
            parsed.add(parameter, value);
        }
        Ok(parsed)
    }
}
