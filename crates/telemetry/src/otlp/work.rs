//! Makes the spans of what this node does apart from answering requests.

use maxine_view::{Work, WorkFact};
use opentelemetry_proto::tonic::trace::v1::span::Link as SpanLink;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::Why;
use super::spans::{Times, number, text};
use crate::span_name::SpanName;

/// The span of another trace that explains this work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) to: SpanName,
    /// What that span is to this work.
    pub(super) because: &'static str,
}

/// Work with its span.
#[derive(Debug)]
pub(super) struct TracedWork {
    pub(super) work: Work,
    pub(super) span: SpanName,
    pub(super) link: Option<Link>,
}

/// Appends the span of the work, and below it those of its entry: until this node began to apply it, and until the
/// result was published.
pub(super) fn push_spans(out: &mut Vec<Span>, traced: &TracedWork, wall_offset_us: i64, why: Why) {
    let TracedWork { work, span: own, link } = traced;
    let times = Times { own: *own, wall_offset_us };
    let mut whole = times.span(own.id, 0, (work.began_us, work.ended_us));
    whole.name = work.kind.name().into();
    whole.attributes = vec![text("maxine.exported_because", why.as_str())];
    whole.attributes.extend(work.outcome.index.map(|index| number("maxine.index", index)));
    let fact = |(name, fact): &(&'static str, WorkFact)| match fact {
        WorkFact::Number(value) => number(name, *value),
        WorkFact::Text(value) => text(name, value),
    };
    whole.attributes.extend(work.outcome.facts.iter().map(fact));
    if let Some(error) = &work.outcome.error {
        whole.attributes.push(text("error.type", "failed"));
        whole.status = Some(Status { message: error.clone(), code: StatusCode::Error.into() });
    }
    whole.links = link.iter().map(link_of).collect();
    out.push(whole);
    let Some((began_us, ended_us)) = work.applied_us else { return };
    for (id, name, times_us) in
        [(1, "commit", (work.began_us, began_us)), (2, "apply", (began_us, ended_us))]
    {
        let mut part = times.span(own.below(id).id, own.id, times_us);
        part.name = name.into();
        out.push(part);
    }
}

fn link_of(link: &Link) -> SpanLink {
    SpanLink {
        trace_id: link.to.trace.to_vec(),
        span_id: link.to.id.to_be_bytes().to_vec(),
        flags: u32::from(link.to.is_sampled),
        attributes: vec![text("maxine.link", link.because)],
        ..SpanLink::default()
    }
}
