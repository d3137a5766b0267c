//! Chooses an instance in the client itself, as a node would choose it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use maxine_balance::{
    Balancer, Draw, Fields, HashInput, HashSource, Member, Plan, Pool, Strategy, VersionWeight,
    Zones,
};
use serde::Deserialize;

/// How long an instance is avoided after its first failure. Each further one doubles the time.
const AVOID_MIN: Duration = Duration::from_secs(2);
const AVOID_MAX: Duration = Duration::from_secs(60);
/// From this number of failures on the time is the longest one.
const FAILURES_MAX: u32 = 5;

/// One instance that gets traffic.
#[derive(Debug, Deserialize)]
pub struct Instance {
    /// Its name in its service.
    pub id: String,
    /// The URL at which it is reached.
    pub address: String,
    /// Its share of the traffic, relative to the other instances.
    pub weight: u16,
    /// Its version.
    pub version: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// The machine on which it runs.
    pub node: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Further properties.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip)]
    load: Arc<Load>,
}

/// What this client knows of an instance by itself. It is kept when the instances are read again. Times are durations
/// since the beginning of the resolver.
#[derive(Debug, Default)]
struct Load {
    in_flight: AtomicU64,
    failures: AtomicU32,
    avoid_until_ns: AtomicU64,
}

/// The parts of a request that a choice can depend on. All of them are optional.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    /// Replaces the value that the service's policy hashes.
    pub key: Option<&'a str>,
    /// The client's network address; by default 127.0.0.1.
    pub address: Option<IpAddr>,
    /// The header fields of the request.
    pub headers: Option<&'a HeaderMap>,
    /// The query of the request, without the question mark.
    pub query: Option<&'a str>,
    /// Tells which instances this request may not get, for example because it has failed there.
    pub skip: Option<&'a dyn Fn(&Instance) -> bool>,
}

/// The instances of a service at one moment, in the order of their names, and its policy.
#[derive(Debug)]
pub(crate) struct Instances {
    list: Vec<Instance>,
    policy: Policy,
    balancer: Balancer,
}

/// The parts of a service's policy that a choice depends on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Policy {
    selection: Selection,
    traffic: Traffic,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Selection {
    hash_key: HashKey,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from", content = "name")]
enum HashKey {
    #[default]
    ClientAddress,
    Header(String),
    Query(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Traffic {
    split: Vec<VersionShare>,
    zone: Option<ZonePolicy>,
    sticky: Option<Sticky>,
}

#[derive(Debug, Deserialize)]
struct VersionShare {
    version: String,
    weight: u32,
}

#[derive(Debug, Deserialize)]
struct ZonePolicy {
    local_instances_min: u32,
    spill_in_flight: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sticky {
    /// Only the proxy uses cookies, so a local choice ignores this.
    Cookie {},
    Header {
        name: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SelectionStrategy {
    RoundRobin,
    ConsistentHash,
    Rendezvous,
    LeastRequest,
}

/// How instances of a service are chosen.
#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    strategy: SelectionStrategy,
    policy: Option<Policy>,
}

impl Default for Service {
    /// In turn by weight, for clients that may not read the policy.
    fn default() -> Self {
        Self { strategy: SelectionStrategy::RoundRobin, policy: None }
    }
}

impl Instances {
    /// The instances for a client in a zone, if it has one. `turns` is the number of turns so far, from which round
    /// robin continues. What is known of instances in `before` is kept.
    pub(crate) fn new(
        service: Service,
        mut list: Vec<Instance>,
        zone: Option<&str>,
        turns: u64,
        before: Option<&Self>,
    ) -> Self {
        let known: BTreeMap<&str, &Arc<Load>> = before
            .into_iter()
            .flat_map(|before| &before.list)
            .map(|instance| (instance.id.as_str(), &instance.load))
            .collect();
        for instance in &mut list {
            if let Some(load) = known.get(instance.id.as_str()) {
                instance.load = Arc::clone(load);
            }
        }
        let policy = service.policy.unwrap_or_default();
        let strategy = match service.strategy {
            SelectionStrategy::RoundRobin => Strategy::RoundRobin,
            SelectionStrategy::ConsistentHash => Strategy::ConsistentHash,
            SelectionStrategy::Rendezvous => Strategy::Rendezvous,
            SelectionStrategy::LeastRequest => Strategy::LeastRequest,
        };
        let split: Vec<VersionWeight<'_>> = policy
            .traffic
            .split
            .iter()
            .map(|share| VersionWeight { version: &share.version, weight: share.weight })
            .collect();
        let zones = policy.traffic.zone.as_ref().zip(zone).map(|(zone, own)| Zones {
            own,
            members_min: zone.local_instances_min,
            in_flight_max: zone.spill_in_flight,
        });
        let affinity = matches!(policy.traffic.sticky, Some(Sticky::Header { .. }));
        let members: Vec<Member<'_>> = list
            .iter()
            .map(|instance| Member {
                name: &instance.id,
                weight: instance.weight,
                version: instance.version.as_deref(),
                zone: instance.zone.as_deref(),
            })
            .collect();
        let plan = Plan { strategy, split: &split, zone: zones, affinity };
        let balancer = Balancer::new(&plan, &members, turns);
        Self { list, policy, balancer }
    }

    /// All instances, in the order of their names.
    pub(crate) fn list(&self) -> &[Instance] {
        &self.list
    }

    /// Chooses an instance for a request, as a node would for the same request of the same client; `None` if there is
    /// none. Instances that have failed are avoided until later than `now`, unless no other one is left. Only this
    /// client's own requests count as load.
    pub(crate) fn choose(
        &self,
        request: &Request<'_>,
        turns: &AtomicU64,
        now: Duration,
    ) -> Option<usize> {
        let fields: &dyn Fields = match request.headers {
            Some(headers) => headers,
            None => &NoFields,
        };
        let input = HashInput {
            address: request.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            fields,
            queries: [request.query.unwrap_or_default(), ""],
            key: request.key,
        };
        let source = match &self.policy.selection.hash_key {
            HashKey::ClientAddress => HashSource::ClientAddress,
            HashKey::Header(name) => HashSource::Header(name),
            HashKey::Query(name) => HashSource::Query(name),
        };
        let affinity = match &self.policy.traffic.sticky {
            Some(Sticky::Header { name }) => input.field_hash(name),
            Some(Sticky::Cookie {}) | None => None,
        };
        let draw = Draw { hash: input.hash(source), affinity, random: fastrand::u64(..) };
        let own = Own {
            list: &self.list,
            request,
            now_ns: nanoseconds(now),
            avoids: Cell::new(true),
            has_avoided: Cell::new(false),
        };
        let picked = self.balancer.pick(&draw, turns, &own);
        if picked.is_none() && own.has_avoided.get() {
            // An instance that has failed is better than none.
            own.avoids.set(false);
            return self.balancer.pick(&draw, turns, &own).map(|picked| picked.position);
        }
        picked.map(|picked| picked.position)
    }
}

impl Instance {
    /// Notes that a request to it has begun.
    pub(crate) fn begin(&self) {
        self.load.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a request to it has ended.
    pub(crate) fn end(&self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that it was reached.
    pub(crate) fn reached(&self) {
        if self.load.failures.load(Ordering::Relaxed) > 0 {
            self.load.failures.store(0, Ordering::Relaxed);
            self.load.avoid_until_ns.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that it could not be reached: it is avoided for a time.
    pub(crate) fn failed(&self, now: Duration) {
        let failures = self.load.failures.fetch_add(1, Ordering::Relaxed);
        let pause =
            if failures < FAILURES_MAX { AVOID_MIN * (1_u32 << failures) } else { AVOID_MAX };
        self.load.avoid_until_ns.store(nanoseconds(now + pause), Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A request without header fields.
#[derive(Debug)]
struct NoFields;

impl Fields for NoFields {
    fn field(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}

/// The instances as this client knows them.
struct Own<'a> {
    list: &'a [Instance],
    request: &'a Request<'a>,
    now_ns: u64,
    avoids: Cell<bool>,
    /// Whether an instance was left out because it has failed.
    has_avoided: Cell<bool>,
}

impl Pool for Own<'_> {
    fn admits(&self, position: usize) -> bool {
        let instance = &self.list[position];
        if self.request.skip.is_some_and(|skip| skip(instance)) {
            return false;
        }
        if !self.avoids.get() || instance.load.avoid_until_ns.load(Ordering::Relaxed) <= self.now_ns
        {
            return true;
        }
        self.has_avoided.set(true);
        false
    }

    fn in_flight(&self, position: usize) -> u64 {
        self.list[position].load.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use super::*;

    fn instances(strategy: &Value, policy: &Value, list: &Value, zone: Option<&str>) -> Instances {
        let service = serde_json::from_value(json!({"strategy": strategy, "policy": policy}));
        let mut list = list.clone();
        for instance in list.as_array_mut().unwrap() {
            instance["address"] = format!("http://{}", instance["id"]).into();
        }
        Instances::new(service.unwrap(), serde_json::from_value(list).unwrap(), zone, 0, None)
    }

    fn pair() -> Instances {
        let list = json!([{"id": "a", "weight": 1}, {"id": "b", "weight": 1}]);
        instances(&json!("least_request"), &Value::Null, &list, None)
    }

    #[test]
    fn the_client_chooses_as_the_test_vectors_say() {
        let spec = include_str!("../../spec/balance.json");
        let spec: Value = serde_json::from_str(spec).unwrap();
        let mut checked = 0;
        for case in spec["choices"].as_array().unwrap() {
            let split = if case["split"].is_null() { json!([]) } else { case["split"].clone() };
            let zone = json!({"local_instances_min": 1, "spill_in_flight": 0});
            let policy = json!({
                "selection": {"strategy": null, "hash_key": {"from": "header", "name": "x-user"}},
                "traffic": {"split": split, "zone": zone, "sticky": null, "latency_aware": false},
            });
            let list = &case["instances"];
            let instances = instances(&case["strategy"], &policy, list, case["zone"].as_str());
            let turns = AtomicU64::new(0);
            let left_out = case["left_out"].as_array().cloned().unwrap_or_default();
            let skip = |instance: &Instance| left_out.iter().any(|id| *id == *instance.id);
            let choose = |key: Option<&str>| {
                let request = Request { key, skip: Some(&skip), ..Request::default() };
                let at = instances.choose(&request, &turns, Duration::ZERO).unwrap();
                instances.list()[at].id.as_str()
            };
            if let Some(expect) = case["expect"].as_array() {
                for id in expect {
                    assert_eq!(choose(None), id.as_str().unwrap(), "{case}");
                    checked += 1;
                }
                continue;
            }
            // An empty key counts as none.
            let expect = case["expect"].as_object().unwrap();
            for (key, id) in expect.iter().filter(|(key, _)| !key.is_empty()) {
                assert_eq!(choose(Some(key)), id.as_str().unwrap(), "{case}");
                checked += 1;
            }
        }
        assert!(checked > 80, "{checked}");
    }

    #[test]
    fn an_instance_with_a_request_in_flight_is_chosen_last() {
        let (instances, turns) = (pair(), AtomicU64::new(0));
        for _ in 0..50 {
            let first = instances.choose(&Request::default(), &turns, Duration::ZERO).unwrap();
            instances.list()[first].begin();
            let second = instances.choose(&Request::default(), &turns, Duration::ZERO).unwrap();
            assert_ne!(first, second);
            instances.list()[first].end();
        }
    }

    #[test]
    fn an_instance_that_has_failed_is_avoided_unless_no_other_one_is_left() {
        let (instances, turns) = (pair(), AtomicU64::new(0));
        let chosen = |instances: &Instances, now, skip: Option<&str>| {
            let skips = |instance: &Instance| skip == Some(instance.id.as_str());
            let request = Request { skip: Some(&skips), ..Request::default() };
            let picked = |_| instances.choose(&request, &turns, now);
            (0..50).filter_map(picked).collect::<std::collections::BTreeSet<_>>()
        };
        let now = Duration::from_secs(7);
        instances.list()[0].failed(now);
        assert!(chosen(&instances, now, None).into_iter().eq([1]));
        assert!(chosen(&instances, now, Some("b")).into_iter().eq([0]));
        assert!(chosen(&instances, now + AVOID_MIN, None).into_iter().eq([0, 1]));
        // The second failure doubles the time, also after the instances were read again.
        let list = serde_json::from_value(json!([{"id": "a", "address": "http://a", "weight": 1},
            {"id": "b", "address": "http://b", "weight": 1}]));
        let again = Instances::new(Service::default(), list.unwrap(), None, 0, Some(&instances));
        again.list()[0].failed(now);
        assert!(chosen(&again, now + AVOID_MIN, None).into_iter().eq([1]));
        assert!(chosen(&again, now + AVOID_MIN * 2, None).into_iter().eq([0, 1]));
        again.list()[0].failed(now);
        again.list()[0].reached();
        assert!(chosen(&again, now, None).into_iter().eq([0, 1]));
        for _ in 0..20 {
            again.list()[0].failed(now);
        }
        assert!(chosen(&again, now + AVOID_MAX, None).into_iter().eq([0, 1]));
    }

    #[test]
    fn nothing_is_chosen_where_there_is_no_instance() {
        let none = Instances::new(Service::default(), Vec::new(), None, 0, None);
        let turns = AtomicU64::new(0);
        assert_eq!(none.choose(&Request::default(), &turns, Duration::ZERO), None);
    }
}
