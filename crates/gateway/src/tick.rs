//! Decisions of the proxy outside the request path: circuit breakers and ejections.
//!
//! The proxy actor calls this several times per second, and immediately when an instance fails several times in a row.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::breaker::Gate;
use super::outlier::{self, Verdict};
use super::runtime::ServiceRuntime;
use super::upstream::Upstream;
use maxine_state::{InstanceKey, Name};

/// How the status of an instance at this node's proxy changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamChange {
    /// The circuit breaker opened, so this node sends the instance no requests.
    BreakerOpened,
    /// The circuit breaker lets trial requests through.
    BreakerHalfOpen,
    /// The circuit breaker closed.
    BreakerClosed,
    /// The instance was ejected as an outlier.
    Ejected,
    /// The ejection has ended.
    Returned,
}

/// A change, with its instance and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamEvent {
    /// The instance.
    pub key: InstanceKey,
    /// The [`maxine_state::Instance::address_index`] of the instance's address.
    pub address_index: u64,
    /// What changed.
    pub change: UpstreamChange,
    /// Why, in one line.
    pub reason: String,
    /// How long an ejection lasts, in milliseconds; 0 for other changes.
    pub lasts_ms: u64,
}

/// Makes the decisions for one service, and appends the changes to `events`.
pub(crate) fn tick(runtime: &ServiceRuntime, now_ms: u64, events: &mut Vec<UpstreamEvent>) {
    let event = |upstream: &Upstream, change, reason: String| UpstreamEvent {
        key: runtime.table.key().instance(name_of(upstream)),
        address_index: upstream.instance.address_index,
        change,
        reason,
        lasts_ms: 0,
    };
    // Without these policies there is nothing to decide, once earlier decisions were taken back. A service may have
    // 100,000 instances.
    let decides = runtime.policy.breaker().is_some() || runtime.policy.outlier().is_some();
    if !runtime.shared.decides.swap(decides, Ordering::Relaxed) && !decides {
        return;
    }
    for upstream in &runtime.upstreams {
        let counts = upstream.signals.counts();
        let mut decisions = upstream.signals.decisions().lock();
        match runtime.policy.breaker() {
            Some(policy) => {
                if let Some(gate) = decisions.breaker.tick(counts, now_ms, policy) {
                    upstream.signals.set_gate(gate);
                    let change = match gate {
                        Gate::Open => UpstreamChange::BreakerClosed,
                        Gate::Trials(_) => UpstreamChange::BreakerHalfOpen,
                        Gate::Closed => UpstreamChange::BreakerOpened,
                    };
                    let in_a_row = counts.bad_in_a_row;
                    let reason = format!("{in_a_row} failures in a row, {} in all", counts.bad);
                    events.push(event(upstream, change, reason));
                }
            }
            None if upstream.signals.gate() != Gate::Open => {
                decisions.breaker = Default::default();
                upstream.signals.set_gate(Gate::Open);
                let reason = "the policy has no circuit breaker any more".to_owned();
                events.push(event(upstream, UpstreamChange::BreakerClosed, reason));
            }
            None => {}
        }
        let over = decisions.ejection.expire(counts, now_ms);
        if over || (decisions.ejection.is_out() && runtime.policy.outlier().is_none()) {
            decisions.ejection = if over { decisions.ejection } else { Default::default() };
            upstream.signals.set_ejected(false);
            let reason = match over {
                true => "the time of its ejection is over",
                false => "the policy ejects no outliers any more",
            };
            let reason = reason.to_owned();
            events.push(event(upstream, UpstreamChange::Returned, reason));
        }
    }
    evaluate_outliers(runtime, now_ms, &mut |upstream, reason, lasts_ms| {
        let ejected = event(upstream, UpstreamChange::Ejected, reason);
        events.push(UpstreamEvent { lasts_ms, ..ejected });
    });
}

fn evaluate_outliers(
    runtime: &ServiceRuntime,
    now_ms: u64,
    ejected: &mut dyn FnMut(&Upstream, String, u64),
) {
    let Some(policy) = runtime.policy.outlier() else { return };
    let evaluated_at_ms = &runtime.shared.outliers_evaluated_at_ms;
    if now_ms.saturating_sub(evaluated_at_ms.load(Ordering::Relaxed)) < policy.interval_ms {
        return;
    }
    evaluated_at_ms.store(now_ms, Ordering::Relaxed);
    let counts_and_ejection = |upstream: &Arc<Upstream>| {
        (upstream.signals.counts(), upstream.signals.decisions().lock().ejection)
    };
    let mut members: Vec<_> = runtime.upstreams.iter().map(counts_and_ejection).collect();
    let verdicts = outlier::evaluate(&mut members, now_ms, policy);
    for ((upstream, (_, ejection)), verdict) in runtime.upstreams.iter().zip(members).zip(verdicts)
    {
        upstream.signals.decisions().lock().ejection = ejection;
        if let Verdict::Eject(reason) = verdict {
            upstream.signals.set_ejected(true);
            ejected(upstream, reason, ejection.left_ms(now_ms));
        }
    }
}

fn name_of(upstream: &Upstream) -> Name {
    upstream.instance.registration.id.clone()
}
