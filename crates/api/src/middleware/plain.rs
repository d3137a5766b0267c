//! Encodes a plain answer of an instance, with the header fields that every answer has.

use axum::http::{Version, header};

use super::edge::Shared;
use super::trace::TRACEPARENT;
use crate::{RequestContext, compat};
use maxine_gateway::is_forwarded_field;
use maxine_http1::{PlainAnswer, push_date, push_length, push_status};

/// Memory to reserve for the header fields that are added to an answer, in bytes.
const ADDED_LEN: usize = 1_024;

impl Shared {
    /// The bytes of the answer for the client. `may_stay` is whether the connection may carry another request. `None`
    /// if a field's name cannot be written in lower case.
    pub(crate) fn encode(
        &self,
        answer: &PlainAnswer<'_>,
        context: &RequestContext,
        may_stay: bool,
    ) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(answer.content.len() + ADDED_LEN);
        push_status(&mut out, answer.status, Version::HTTP_11);
        let trace_header = self.trace_header().as_str();
        let (mut has_id, mut has_parent, mut has_date) = (false, false, false);
        let are_read = answer.push_fields(&mut out, |name, value| {
            let may_pass = is_forwarded_field(name) && compat::may_pass(name, value);
            if may_pass {
                // The instance's own value is kept.
                has_id |= name == trace_header;
                has_parent |= name == TRACEPARENT;
                has_date |= name == header::DATE;
            }
            may_pass
        });
        if !are_read {
            return None;
        }
        if !has_id {
            out.extend_from_slice(trace_header.as_bytes());
            out.extend_from_slice(b": ");
            context.trace_id.push_to(&mut out);
            out.extend_from_slice(b"\r\n");
        }
        if !has_parent {
            out.extend_from_slice(TRACEPARENT.as_str().as_bytes());
            out.extend_from_slice(b": ");
            context.traceparent.push_to(&mut out);
            out.extend_from_slice(b"\r\n");
        }
        push_length(&mut out, "content-length", answer.content.len() as u64);
        if !may_stay {
            out.extend_from_slice(b"connection: close\r\n");
        }
        if !has_date {
            out.extend_from_slice(b"date: ");
            push_date(&mut out, self.state.clock().wall_ms());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(answer.content);
        Some(out)
    }
}
