//! Sends copies of requests to another service. Their answers are discarded and do not affect the client.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::header::HeaderMap;
use maxine_balance::{Draw, HashInput};

use super::Forwarder;
use super::client::ClientAddr;
use super::exchange::{Exchange, Times};
use super::pick::PickInput;
use super::request::{Head, Outgoing};
use super::request_body::Progress;
use super::runtime::{ServiceRuntime, ServiceShared};
use super::slots::Holder;
use super::timer::timer_now;
use maxine_state::{ServiceKey, ServiceRef};

/// Maximum duration of one copy, in milliseconds.
const COPY_MS_MAX: u64 = 30_000;

/// Counts one copy as in flight until it is dropped.
struct Slot(Arc<ServiceShared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.mirrors_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Forwarder {
    /// Whether a copy of this request is sent to another service.
    pub(crate) fn wants_mirror(runtime: &ServiceRuntime, head: &Head) -> bool {
        runtime
            .policy
            .mirror()
            .is_some_and(|mirror| head.upgrade.is_none() && fastrand::u32(0..100) < mirror.percent)
    }

    /// Sends a copy, unless too many are in flight. The policy of the other service chooses the instance, with the hash
    /// input of the same client.
    pub(crate) fn mirror(
        &self,
        runtime: &ServiceRuntime,
        head: &Head,
        body: &Outgoing,
        client: &ClientAddr,
        holder: Holder,
    ) {
        let Some(policy) = runtime.policy.mirror() else { return };
        let body = match body {
            Outgoing::Empty => Outgoing::Empty,
            Outgoing::Whole(bytes) if bytes.len() as u64 <= policy.body_len_max => {
                Outgoing::Whole(bytes.clone())
            }
            _ => return,
        };
        let count = &runtime.shared.mirrors_in_flight;
        let room = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < policy.in_flight_max).then_some(n + 1)
        });
        let key = runtime.table.key();
        if room.is_err() {
            self.0.metrics.mirror(key, false);
            return;
        }
        let slot = Slot(Arc::clone(&runtime.shared));
        let service =
            ServiceRef { namespace: key.namespace.as_str(), service: policy.service.as_str() };
        let Some(shadow) = self.runtime(service) else {
            self.0.metrics.mirror(key, false);
            return;
        };
        let queries = [head.target.query().unwrap_or_default(), ""];
        let input = HashInput { address: client.ip, fields: &head.headers, queries, key: None };
        let draw = shadow.table.draw(&input, fastrand::u64(..));
        let copy = Head {
            method: head.method.clone(),
            target: head.target.clone(),
            headers: head.headers.clone(),
            upgrade: None,
            takes_trailers: false,
            expects_continue: false,
            announces_empty: head.announces_empty,
            asked_host: None,
        };
        let (this, key) = (self.clone(), key.clone());
        self.0.tasks.spawn(async move {
            this.send_copy(key, shadow, holder, draw, copy, body).await;
            drop(slot);
        });
    }

    /// Sends a copy of a request for the service `key`.
    fn send_copy(
        &self,
        key: ServiceKey,
        shadow: Arc<ServiceRuntime>,
        holder: Holder,
        draw: Draw,
        mut head: Head,
        mut body: Outgoing,
    ) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            let input =
                PickInput { now_ms: this.0.clock.monotonic_ms(), draw, sticky: None, tried: &[] };
            let picked = shadow.picker.pick(&shadow.table, &shadow.upstreams, &input);
            this.0.metrics.mirror(&key, picked.is_ok());
            let Ok(picked) = picked else { return };
            let headers: HeaderMap = std::mem::take(&mut head.headers);
            let deadline = timer_now() + std::time::Duration::from_millis(COPY_MS_MAX);
            let progress = Progress::default();
            let upstream = &shadow.upstreams[picked.position];
            let Ok(path) = upstream.path_and_query(&head.target) else { return };
            let exchange = Exchange {
                upstream,
                holder,
                head: &head,
                path,
                times: Times {
                    connect: shadow.policy.connect,
                    response: shadow.policy.response,
                    idle: shadow.policy.idle,
                    deadline: Some(deadline),
                },
                clock: &this.0.clock,
                progress: &progress,
                body_limit: u64::MAX,
                interim: None,
            };
            let Ok(answer) = exchange.run(headers, &mut body).await else { return };
            let mut incoming = answer.response.into_body();
            let drained = tokio::time::timeout_at(deadline, async {
                while let Some(Ok(_)) = incoming.frame().await {}
            });
            if drained.await.is_ok() {
                answer.lease.return_to_pool(incoming.take_connection());
            }
            drop(answer.in_flight);
        })
    }
}
