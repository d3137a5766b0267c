//! The identity of this node's span of a request, and the decision whether a new trace is exported.
//!
//! A node that exports traces gives each request a span of its own, and passes the span on as the parent of what the
//! instance does. A node that does not export passes the client's trace parent on as it is.

use std::num::NonZeroU64;

/// Largest number that is added to a span's id, for the ids of the spans below it.
const BELOW_MAX: u64 = 4_096;
/// Number of bits of a trace id that are compared with the ratio: its last seven bytes, which are random (W3C Trace
/// Context, level 2, section 3.2.2.3).
const RANDOM_BITS: u32 = 56;

/// A span of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanName {
    /// The trace.
    pub trace: [u8; 16],
    /// The span's id, which is not 0.
    pub id: u64,
    /// Whether the trace is exported by every node and service, whatever becomes of the request.
    pub is_sampled: bool,
}

impl SpanName {
    /// The span of an attempt to forward the request, which are numbered from 1. The id follows from that of the
    /// request's span, so nothing has to be remembered.
    #[must_use]
    pub fn of_attempt(self, number: u32) -> Self {
        self.below(u64::from(number).clamp(1, 1_024))
    }

    /// A span below this one, by its number from 1 to 4,096.
    pub(crate) fn below(self, number: u64) -> Self {
        Self { id: self.id.saturating_add(number), ..self }
    }
}

/// Decides which new traces are exported. Nodes and services with the same ratio decide alike on one trace.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// The smallest value of the random bits of a trace that is exported.
    from: u64,
}

impl Sampler {
    /// A sampler that exports a share of new traces, from 0 to 1.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the product is between 0 and 2^56"
    )]
    pub fn new(ratio: f64) -> Self {
        let all = (1_u64 << RANDOM_BITS) as f64;
        Self { from: ((1.0 - ratio.clamp(0.0, 1.0)) * all) as u64 }
    }

    fn takes(self, trace: [u8; 16]) -> bool {
        let random = u128::from_be_bytes(trace) & ((1 << RANDOM_BITS) - 1);
        random >= u128::from(self.from)
    }

    /// This node's span for a request, and the span that it is below. `traceparent` is a valid one of the client; the
    /// client's decision is kept.
    #[must_use]
    pub fn span_of(self, traceparent: Option<&[u8]>) -> (SpanName, Option<NonZeroU64>) {
        // Room for the ids of the spans below it.
        let id = fastrand::u64(1..u64::MAX - BELOW_MAX);
        match traceparent.and_then(read) {
            Some((trace, parent, is_sampled)) => (SpanName { trace, id, is_sampled }, Some(parent)),
            None => {
                // An id that consists of zeros is invalid.
                let trace = fastrand::u128(1..).to_be_bytes();
                (SpanName { trace, id, is_sampled: self.takes(trace) }, None)
            }
        }
    }
}

/// The trace, the span, and whether it is sampled. `None` if the value is not valid.
pub(crate) fn read(traceparent: &[u8]) -> Option<([u8; 16], NonZeroU64, bool)> {
    let text = std::str::from_utf8(traceparent.get(..55)?).ok()?;
    let trace = u128::from_str_radix(text.get(3..35)?, 16).ok()?.to_be_bytes();
    let span = NonZeroU64::new(u64::from_str_radix(text.get(36..52)?, 16).ok()?)?;
    let flags = u8::from_str_radix(text.get(53..55)?, 16).ok()?;
    Some((trace, span, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_trace_goes_on_and_its_decision_is_kept() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("03", true)] {
            let given = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            for ratio in [0.0, 1.0] {
                let (span, parent) = Sampler::new(ratio).span_of(Some(given.as_bytes()));
                assert_eq!(
                    span.trace,
                    0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes()
                );
                assert_eq!(parent.map(NonZeroU64::get), Some(0x00f0_67aa_0ba9_02b7));
                assert_eq!(span.is_sampled, is_sampled);
                assert_ne!(span.id, 0x00f0_67aa_0ba9_02b7);
            }
        }
    }

    #[test]
    fn of_new_traces_a_share_is_exported() {
        let share = |ratio: f64| {
            let sampler = Sampler::new(ratio);
            let taken = (0..10_000).filter(|_| sampler.span_of(None).0.is_sampled).count();
            (taken, sampler.span_of(Some(b"nonsense")).1)
        };
        assert_eq!(share(0.0), (0, None));
        assert_eq!(share(1.0), (10_000, None));
        let (half, _) = share(0.5);
        assert!((4_000..6_000).contains(&half), "{half}");
    }

    #[test]
    fn each_attempt_has_a_span_of_its_own() {
        let (span, _) = Sampler::new(1.0).span_of(None);
        let ids: Vec<u64> = (1..=3).map(|number| span.of_attempt(number).id).collect();
        assert_eq!(ids, [span.id + 1, span.id + 2, span.id + 3]);
    }
}
