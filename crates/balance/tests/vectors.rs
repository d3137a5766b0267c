//! Checks `sdks/spec/balance.json`, the expected choices that clients in other languages are tested against.
//!
//! `MAXINE_UPDATE=1 cargo test -p maxine-balance --test vectors` writes the expected values again.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking, and has no users")]

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use http::{HeaderMap, HeaderName, HeaderValue};
use maxine_balance::{
    Balancer, CallerHash, Draw, HashInput, HashSource, Member, Plan, Pool, Strategy, VersionWeight,
    Zones,
};
use serde_json::{Map, Value, json};

struct Idle(Vec<usize>);

impl Pool for Idle {
    fn admits(&self, position: usize) -> bool {
        !self.0.contains(&position)
    }

    fn in_flight(&self, _: usize) -> u64 {
        0
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn hash(case: &Value) -> String {
    let mut fields = HeaderMap::new();
    for field in list(&case["headers"]) {
        let name: HeaderName = field[0].as_str().unwrap().parse().unwrap();
        fields.append(name, HeaderValue::from_str(field[1].as_str().unwrap()).unwrap());
    }
    let input = HashInput {
        address: text(case, "address").parse().unwrap(),
        fields: &fields,
        queries: [text(case, "instance_query"), text(case, "query")],
        key: case["key"].as_str(),
    };
    let name = text(&case["hash_key"], "name");
    let source = match text(&case["hash_key"], "from") {
        "header" => HashSource::Header(name),
        "query" => HashSource::Query(name),
        "client_address" => HashSource::ClientAddress,
        other => panic!("{other:?}"),
    };
    format!("{:016x}", input.hash(source).get())
}

fn balancer(case: &Value) -> (Balancer, Vec<&str>) {
    let strategy = match text(case, "strategy") {
        "round_robin" => Strategy::RoundRobin,
        "consistent_hash" => Strategy::ConsistentHash,
        "rendezvous" => Strategy::Rendezvous,
        "least_request" => Strategy::LeastRequest,
        other => panic!("{other:?}"),
    };
    let weight = |value: &Value| u32::try_from(value["weight"].as_u64().unwrap()).unwrap();
    let split: Vec<VersionWeight<'_>> = list(&case["split"])
        .iter()
        .map(|share| VersionWeight { version: text(share, "version"), weight: weight(share) })
        .collect();
    let zone = case["zone"].as_str().map(|own| Zones { own, members_min: 1, in_flight_max: 0 });
    let members: Vec<Member<'_>> = list(&case["instances"])
        .iter()
        .map(|instance| Member {
            name: text(instance, "id"),
            weight: u16::try_from(weight(instance)).unwrap(),
            version: instance["version"].as_str(),
            zone: instance["zone"].as_str(),
        })
        .collect();
    let plan = Plan { strategy, split: &split, zone, affinity: false };
    let names = members.iter().map(|member| member.name).collect();
    (Balancer::new(&plan, &members, 0), names)
}

fn choices(case: &Value) -> Value {
    let (balancer, names) = balancer(case);
    let left_out = list(&case["left_out"]).iter();
    let left_out = left_out.map(|id| names.iter().position(|name| id == name).unwrap()).collect();
    let (pool, turns) = (Idle(left_out), AtomicU64::new(0));
    let pick = |hash| {
        let draw = Draw { hash, ..Draw::default() };
        Value::from(names[balancer.pick(&draw, &turns, &pool).unwrap().position])
    };
    match case["turns"].as_u64() {
        Some(turns) => (0..turns).map(|_| pick(CallerHash::default())).collect(),
        None => {
            let keys = list(&case["keys"]).iter().map(|key| key.as_str().unwrap());
            let chosen =
                keys.map(|key| (key.to_owned(), pick(CallerHash::of_value(key.as_bytes()))));
            Value::Object(chosen.collect::<Map<_, _>>())
        }
    }
}

#[test]
fn choices_are_those_of_the_test_vectors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdks/spec/balance.json");
    let written = fs::read_to_string(&path).unwrap();
    let mut spec: Value = serde_json::from_str(&written).unwrap();
    for case in spec["hashes"].as_array_mut().unwrap() {
        case["expect"] = json!(hash(case));
    }
    for case in spec["choices"].as_array_mut().unwrap() {
        case["expect"] = choices(case);
    }
    let now = format!("{}\n", serde_json::to_string_pretty(&spec).unwrap());
    if std::env::var_os("MAXINE_UPDATE").is_some() {
        fs::write(&path, now).unwrap();
        return;
    }
    let written: Value = serde_json::from_str(&written).unwrap();
    for part in ["hashes", "choices"] {
        for (written, now) in list(&written[part]).iter().zip(list(&spec[part])) {
            assert_eq!(written, now, "{}", text(now, "name"));
        }
        assert!(list(&spec[part]).len() > 8, "{part}");
    }
}
