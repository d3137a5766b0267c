//! A traffic policy, prepared for the request path: names are parsed and durations computed once per change.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::limit::RateShape;
use maxine_state::{
    CircuitBreakerPolicy, HeaderRules, HealthPolicy, MirrorPolicy, OutlierPolicy, PrefixPolicy,
    RateLimitScope, RewritePolicy, ServiceKey, ServicePolicy, StickyPolicy, TrafficPolicy,
    UpstreamProtocol,
};

use xxhash_rust::xxh3::xxh3_64;

use super::methods::Methods;
use super::pool::PoolSettings;
use super::retry::Retries;

/// Header rules whose names and values are parsed.
#[derive(Debug, Default)]
pub(crate) struct CompiledRules {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl CompiledRules {
    fn new(rules: &HeaderRules) -> Self {
        // Apply refuses values that cannot be parsed, so the state has none.
        let field = |(name, value): &(String, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value).ok()?))
        };
        Self {
            remove: rules.remove.iter().filter_map(|n| n.parse().ok()).collect(),
            set: rules.set.iter().filter_map(field).collect(),
            add: rules.add.iter().filter_map(field).collect(),
        }
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[derive(Debug)]
pub(crate) struct Hedging {
    pub(crate) after: Duration,
    pub(crate) methods: Methods,
    pub(crate) budget_percent: u32,
}

/// The cookie that binds a client to an instance.
#[derive(Debug)]
pub(crate) struct StickyCookie {
    pub(crate) name: String,
    pub(crate) max_age_s: u64,
}

/// The name of a service's sticky cookie. It contains a hash of the service's name, because the cookies of all services
/// share the origin of the proxy.
fn cookie_name(name: &str, service: &ServiceKey) -> String {
    let text = format!("{}\0{}", service.namespace, service.service);
    let hash = xxh3_64(text.as_bytes()) as u32;
    format!("{name}-{hash:08x}")
}

/// A prepared policy of a service.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    pub(crate) source: (TrafficPolicy, Option<HealthPolicy>),
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    pub(crate) idle: Duration,
    pub(crate) total: Option<Duration>,
    pub(crate) retries: Option<Retries>,
    pub(crate) hedging: Option<Hedging>,
    pub(crate) rate: Option<(RateShape, RateLimitScope)>,
    pub(crate) request_rules: Option<CompiledRules>,
    pub(crate) response_rules: Option<CompiledRules>,
    pub(crate) sticky: Option<StickyCookie>,
    pub(crate) pool: PoolSettings,
}

impl CompiledPolicy {
    pub(crate) fn new(service: &ServiceKey, policy: &ServicePolicy) -> Self {
        let traffic = &policy.traffic;
        let ms = Duration::from_millis;
        let rules = |rules: &HeaderRules| (!rules.is_empty()).then(|| CompiledRules::new(rules));
        Self {
            source: (traffic.clone(), policy.health),
            connect: ms(traffic.timeouts.connect_ms),
            response: ms(traffic.timeouts.response_ms),
            idle: ms(traffic.timeouts.idle_ms),
            total: (traffic.timeouts.total_ms > 0).then(|| ms(traffic.timeouts.total_ms)),
            retries: traffic.retries.as_ref().map(Retries::new),
            hedging: traffic.hedging.as_ref().map(|hedging| Hedging {
                after: ms(hedging.after_ms),
                methods: Methods::new(&hedging.methods),
                budget_percent: hedging.budget_percent,
            }),
            rate: traffic
                .rate_limit
                .map(|rate| (RateShape::per_s(rate.requests_per_s, rate.burst), rate.scope)),
            request_rules: rules(&traffic.request_headers),
            response_rules: rules(&traffic.response_headers),
            sticky: traffic.sticky.as_ref().and_then(|sticky| match sticky {
                StickyPolicy::Cookie { name, max_age_s } => {
                    Some(StickyCookie { name: cookie_name(name, service), max_age_s: *max_age_s })
                }
                // The header is read by the routing table, because it applies to redirects, too.
                StickyPolicy::Header { .. } => None,
            }),
            pool: PoolSettings {
                limits: traffic.connections,
                protocol: traffic.protocol,
                insecure_tls: traffic.insecure_tls,
            },
        }
    }

    pub(crate) fn is_of(&self, policy: &ServicePolicy) -> bool {
        self.source.0 == policy.traffic && self.source.1 == policy.health
    }

    /// Whether requests and answers pass unchanged, in one attempt over HTTP/1.1 and without a limit on the total time.
    /// How the instance is chosen does not matter.
    pub(crate) fn is_plain(&self) -> bool {
        let prefix = self.prefix();
        self.total.is_none()
            && self.retries.is_none()
            && self.hedging.is_none()
            && self.rate.is_none()
            && self.request_rules.is_none()
            && self.response_rules.is_none()
            && self.sticky.is_none()
            && self.pool.protocol == UpstreamProtocol::Http1
            && self.rewrite().is_none()
            && self.mirror().is_none()
            && !(prefix.forwarded || prefix.locations || prefix.cookie_paths)
    }

    pub(crate) fn breaker(&self) -> Option<&CircuitBreakerPolicy> {
        self.source.0.circuit_breaker.as_ref()
    }

    pub(crate) fn outlier(&self) -> Option<&OutlierPolicy> {
        self.source.0.outlier_ejection.as_ref()
    }

    pub(crate) fn rewrite(&self) -> Option<&RewritePolicy> {
        self.source.0.rewrite.as_ref()
    }

    pub(crate) fn prefix(&self) -> PrefixPolicy {
        self.source.0.prefix.unwrap_or(PrefixPolicy::OFF)
    }

    pub(crate) fn mirror(&self) -> Option<&MirrorPolicy> {
        self.source.0.mirror.as_ref()
    }

    pub(crate) fn latency_aware(&self) -> bool {
        self.source.0.latency_aware
    }

    pub(crate) fn slow_start_ms(&self) -> u64 {
        self.source.1.map_or(0, |health| health.slow_start_ms)
    }
}
