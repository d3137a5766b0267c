//! Chooses an instance in the client itself, as a node would choose it.

use std::sync::atomic::{AtomicU64, Ordering};

use maxine_balance::{
    Balancer, Draw, HashInput, HashSource, Member, Plan, Pool, Strategy, VersionWeight, Zones,
};
use reqwest::Method;
use serde::Deserialize;

use super::{Error, Maxine, encoded, refused};

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
    /// Number of requests of this client in flight to it.
    #[serde(skip)]
    in_flight: AtomicU64,
}

/// The instances of a service at one moment, and its policy, to choose from without a request to a node. Watch the
/// service from [`Instances::index`], and read them again when it changes.
#[derive(Debug)]
pub struct Instances {
    list: Vec<Instance>,
    policy: Policy,
    balancer: Balancer,
    turns: AtomicU64,
    index: u64,
}

/// An instance that was chosen for a request. It counts as in flight until this is dropped.
#[derive(Debug)]
pub struct Chosen<'a>(&'a Instance);

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

#[derive(Debug, Deserialize)]
struct Service {
    strategy: SelectionStrategy,
    policy: Option<Policy>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Instance>,
    next_cursor: Option<String>,
}

impl Maxine {
    /// The instances of a service that get traffic, to choose from locally. `zone` is the zone of this
    /// client, for policies that prefer it. Needs the role viewer.
    pub async fn instances(
        &self,
        service_name: &str,
        zone: Option<&str>,
    ) -> Result<Instances, Error> {
        let path = format!("/api/v1/services/default/{}", encoded(service_name));
        let answer =
            self.send(Method::GET, &path, |request| request.timeout(super::TIMEOUT)).await?;
        if !answer.status().is_success() {
            return Err(refused(answer).await);
        }
        // The watch reports every change after this answer, even if the pages below are older.
        let index = answer.headers().get("x-maxine-index");
        let index = index.and_then(|value| value.to_str().ok()?.parse().ok());
        let index = index.ok_or_else(|| Error::Malformed("an answer without an index".into()))?;
        let service: Service = answer.json().await?;
        let mut list = Vec::new();
        let mut cursor = Some(String::new());
        while let Some(from) = cursor {
            let from = match from.as_str() {
                "" => String::new(),
                from => format!("&cursor={}", encoded(from)),
            };
            // The page must not be older than the first answer, whichever node answers.
            let query = format!("health=routable&limit=1000&min_index={index}{from}");
            let page: Page =
                self.json(Method::GET, &format!("{path}/instances?{query}"), None).await?;
            list.extend(page.items);
            cursor = page.next_cursor;
        }
        Ok(Instances::new(service, list, zone, index))
    }
}

impl Instances {
    fn new(service: Service, list: Vec<Instance>, zone: Option<&str>, index: u64) -> Self {
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
        // Clients that start together begin at different instances.
        let turns = fastrand::u64(0..1 << 32);
        let balancer = Balancer::new(&plan, &members, turns);
        Self { list, policy, balancer, turns: AtomicU64::new(turns), index }
    }

    /// The index of the state from which they were read. Pass it to [`Maxine::watch`].
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// All instances, in the order of their names.
    #[must_use]
    pub fn list(&self) -> &[Instance] {
        &self.list
    }

    /// Chooses an instance for a request, as a node would for the same request of the same client; `None` if
    /// there is none. Only this client's own requests count as load.
    #[must_use]
    pub fn choose(&self, request: &HashInput<'_>) -> Option<Chosen<'_>> {
        let source = match &self.policy.selection.hash_key {
            HashKey::ClientAddress => HashSource::ClientAddress,
            HashKey::Header(name) => HashSource::Header(name),
            HashKey::Query(name) => HashSource::Query(name),
        };
        let affinity = match &self.policy.traffic.sticky {
            Some(Sticky::Header { name }) => request.field_hash(name),
            Some(Sticky::Cookie {}) | None => None,
        };
        let draw = Draw { hash: request.hash(source), affinity, random: fastrand::u64(..) };
        let picked = self.balancer.pick(&draw, &self.turns, &Own(&self.list))?;
        Some(Chosen::new(&self.list[picked.position]))
    }
}

impl<'a> Chosen<'a> {
    fn new(instance: &'a Instance) -> Self {
        instance.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(instance)
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &'a Instance {
        self.0
    }
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The instances as this client knows them.
struct Own<'a>(&'a [Instance]);

impl Pool for Own<'_> {
    fn in_flight(&self, position: usize) -> u64 {
        self.0[position].in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use reqwest::header::HeaderMap;
    use serde_json::{Value, json};

    use super::*;

    fn instances(strategy: &Value, policy: Value, list: &Value, zone: Option<&str>) -> Instances {
        let service = serde_json::from_value(json!({"strategy": strategy, "policy": policy}));
        let mut list = list.clone();
        for instance in list.as_array_mut().unwrap() {
            instance["address"] = format!("http://{}", instance["id"]).into();
        }
        Instances::new(service.unwrap(), serde_json::from_value(list).unwrap(), zone, 0)
    }

    fn request<'a>(fields: &'a HeaderMap, key: &'a str) -> HashInput<'a> {
        HashInput { address: [10, 0, 0, 1].into(), fields, queries: [""; 2], key: Some(key) }
    }

    #[test]
    fn the_client_chooses_as_the_test_vectors_say() {
        let spec = include_str!("../../spec/balance.json");
        let spec: Value = serde_json::from_str(spec).unwrap();
        let fields = HeaderMap::new();
        let mut checked = 0;
        for case in spec["choices"].as_array().unwrap() {
            // The client leaves out no instance, and an empty key counts as none.
            let Some(expect) = case["expect"].as_object().filter(|_| case["left_out"].is_null())
            else {
                continue;
            };
            let split = if case["split"].is_null() { json!([]) } else { case["split"].clone() };
            let zone = json!({"local_instances_min": 1, "spill_in_flight": 0});
            let policy = json!({
                "selection": {"strategy": null, "hash_key": {"from": "header", "name": "x-user"}},
                "traffic": {"split": split, "zone": zone, "sticky": null, "latency_aware": false},
            });
            let list = &case["instances"];
            let instances = instances(&case["strategy"], policy, list, case["zone"].as_str());
            for (key, id) in expect.iter().filter(|(key, _)| !key.is_empty()) {
                let chosen = instances.choose(&request(&fields, key)).unwrap();
                assert_eq!(chosen.instance().id.as_str(), id.as_str().unwrap(), "{case}");
                checked += 1;
            }
        }
        assert!(checked > 40, "{checked}");
    }

    #[test]
    fn a_choice_counts_as_in_flight_until_it_is_dropped() {
        let list = json!([{"id": "a", "weight": 1}, {"id": "b", "weight": 1}]);
        let instances = instances(&json!("least_request"), Value::Null, &list, None);
        let fields = HeaderMap::new();
        for _ in 0..50 {
            let first = instances.choose(&request(&fields, "k")).unwrap();
            let second = instances.choose(&request(&fields, "k")).unwrap();
            assert_ne!(first.instance().id, second.instance().id);
        }
        assert!(instances.list().iter().all(|i| i.in_flight.load(Ordering::Relaxed) == 0));
        let none = super::Instances::new(
            serde_json::from_value(json!({"strategy": "rendezvous", "policy": null})).unwrap(),
            Vec::new(),
            None,
            0,
        );
        assert!(none.choose(&request(&fields, "k")).is_none());
    }
}
