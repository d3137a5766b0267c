//! The trace id and the W3C trace parent of a request.

use axum::http::{HeaderName, HeaderValue, Uri};

use crate::RequestContext;
use maxine_gateway::ClientAddr;
use maxine_telemetry::{Sampler, TraceName};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Maximum length of a client's trace id, in bytes. The rest is cut off, because every log line and audit record of the
/// request contains the id.
const TRACE_ID_LEN_MAX: usize = 128;

/// The ids of a request: those that the client sent, or new ones. They are copied, because a request's fields are part
/// of its connection's read buffer, which could not be reused while a record holds them.
///
/// With a sampler, the request gets a span of this node in the client's trace, or in a new one. Without it, the client's
/// trace parent is passed on as it is.
pub(crate) fn context_of(
    sampler: Option<Sampler>,
    trace_id: Option<&[u8]>,
    traceparent: Option<&[u8]>,
    client: ClientAddr,
) -> RequestContext {
    let copied = |value| HeaderValue::from_bytes(value).ok().map(TraceName::Given);
    let given = trace_id.map(|value| &value[..value.len().min(TRACE_ID_LEN_MAX)]);
    let given = given.filter(|value| !value.is_empty()).and_then(copied);
    let traceparent = traceparent.filter(|value| is_valid_traceparent(value));
    if let Some(sampler) = sampler {
        let (span, parent_span) = sampler.span_of(traceparent);
        // Then the id in the logs is that of the trace.
        let trace_id = given.unwrap_or(TraceName::Id(span.trace));
        let traceparent = TraceName::Span(span);
        return RequestContext { trace_id, traceparent, parent_span, client, answer_by_ms: None };
    }
    let trace_id = given.unwrap_or_else(TraceName::new_id);
    let traceparent = traceparent.and_then(copied).unwrap_or_else(TraceName::new_parent);
    RequestContext { trace_id, traceparent, parent_span: None, client, answer_by_ms: None }
}

/// Whether the target of a request asks for an answer when something has changed. Such a request takes long without being
/// slow.
pub(super) fn is_long_poll(uri: &Uri) -> bool {
    // Only this one waits without an index. Blocking queries of Consul's agent have a hash.
    let has_index = |query: &str| {
        query.split('&').any(|pair| pair.starts_with("index=") || pair.starts_with("hash="))
    };
    uri.path() == "/api/v1/changes" || uri.query().is_some_and(has_index)
}

/// Whether a value is a `traceparent` (W3C Trace Context, section 3.2.2). A version after 00 may add fields.
pub(super) fn is_valid_traceparent(value: &[u8]) -> bool {
    if value.len() < 55 || value.len() > 512 {
        return false;
    }
    let (head, tail) = value.split_at(55);
    let hex = |range: std::ops::Range<usize>| {
        head[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zeros = |range: std::ops::Range<usize>| head[range].iter().all(|b| *b == b'0');
    let shape = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let version_00 = head.starts_with(b"00");
    shape
        && hex(0..2)
        && hex(3..35)
        && hex(36..52)
        && hex(53..55)
        && !head.starts_with(b"ff")
        && !zeros(3..35)
        && !zeros(36..52)
        && (tail.is_empty() || (!version_00 && tail[0] == b'-'))
        && tail.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use maxine_gateway::Peer;

    use super::*;

    #[test]
    fn a_trace_id_that_is_too_long_to_be_logged_is_cut() {
        let client = ClientAddr::direct(Peer::plain([10, 0, 0, 1].into()));
        let named = |given: &str| {
            context_of(None, Some(given.as_bytes()), None, client).trace_id_text().into_owned()
        };
        assert_eq!(named("order-17"), "order-17");
        assert_eq!(named(&"x".repeat(55_000)), "x".repeat(TRACE_ID_LEN_MAX));
        assert_ne!(named(""), "");
    }

    #[test]
    fn a_node_that_exports_traces_has_a_span_of_its_own_in_the_clients_trace() {
        let client = ClientAddr::direct(Peer::plain([10, 0, 0, 1].into()));
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let all = Some(Sampler::new(1.0));
        let context = context_of(all, None, Some(given.as_bytes()), client);
        let text = context.traceparent.text().into_owned();
        assert!(is_valid_traceparent(text.as_bytes()), "{text}");
        assert!(text.starts_with(&given[..36]) && text.ends_with("-00"), "{text}");
        assert_ne!(text, given);
        assert_eq!(context.trace_id.text(), given[3..35]);
        assert_eq!(context.parent_span.map(|id| id.get()), Some(0x00f0_67aa_0ba9_02b7));
        let context = context_of(all, Some(b"mine"), Some(b"nonsense"), client);
        assert_eq!((&*context.trace_id.text(), context.parent_span), ("mine", None));
        assert!(context.traceparent.text().ends_with("-01"));
        let context = context_of(None, None, Some(given.as_bytes()), client);
        assert_eq!((&*context.traceparent.text(), context.parent_span), (given, None));
    }

    #[test]
    fn a_request_that_waits_for_a_change_is_known_by_its_target() {
        for (target, expected) in [
            ("/api/v1/changes", true),
            ("/api/v1/changes?wait_ms=5", true),
            ("/api/v1/kv/a?wait_ms=5&index=7-9", true),
            ("/v1/health/service/web?index=7&wait=5s", true),
            ("/v1/agent/service/web?hash=1", true),
            ("/", false),
            ("/api/v1/kv/a?wait_ms=5", false),
            ("/v1/health/service/web?reindex=7&wait=index=8", false),
        ] {
            assert_eq!(is_long_poll(&Uri::from_static(target)), expected, "{target}");
        }
    }

    #[test]
    fn new_ids_are_valid() {
        for _ in 0..100 {
            let (id, parent) = (TraceName::new_id(), TraceName::new_parent());
            assert!(is_valid_traceparent(parent.header_value().as_bytes()));
            assert_eq!(id.text().len(), 32);
        }
    }

    #[test]
    fn a_malformed_traceparent_is_not_valid() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_valid_traceparent(good.as_bytes()));
        assert!(is_valid_traceparent(format!("cc{}-more", &good[2..]).as_bytes()));
        for bad in [
            "",
            "anything",
            &good[..54],
            &format!("{good}-more"),
            &format!("ff{}", &good[2..]),
            &good.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!is_valid_traceparent(bad.as_bytes()), "{bad}");
        }
        // Later versions may add text, but not arbitrary bytes.
        let strange = [format!("cc{}-", &good[2..]).as_bytes(), b"\xe9\xff"].concat();
        assert!(!is_valid_traceparent(&strange));
    }
}
