//! Fuzz targets: filter expressions, queries, and the bodies of registrations.

use maxine_fuzzing::Target;
use serde_json::json;

use super::body::Object;
use super::check_body::CheckBody;
use super::filter::Filter;
use super::options::Options;
use super::service_body::ServiceBody;
use super::sessions::SessionBody;
use super::shape::{Names, OF_ENTRY, OF_SERVICE_NODE};
use super::text::{Query, duration_ms, duration_text};
use super::txn::read_ops;

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "consul_filter", run: filter, seeds: filter_seeds },
    Target { name: "consul_query", run: query, seeds: query_seeds },
    Target { name: "consul_body", run: body, seeds: body_seeds },
];

/// An expression is refused, or it gives the same result for each object, and its negation the other one.
fn filter(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let objects = [
        json!({
            "ServiceTags": ["a", "b"], "ServiceMeta": {"k": "v"}, "ServiceName": "web", "ServicePort": 80,
            "ServiceEnableTagOverride": true, "NodeMeta": {}, "Node": "n", "ServiceTaggedAddresses": {}
        }),
        json!({}),
    ];
    if let Ok(filter) = Filter::parse(&text, OF_SERVICE_NODE) {
        let negated = format!("not ({text})");
        let negated = Filter::parse(&negated, OF_SERVICE_NODE);
        for object in &objects {
            let matches = filter.matches(object);
            // The longer text can be over a limit.
            if let Ok(negated) = &negated {
                assert_eq!(negated.matches(object), !matches, "{text}");
            }
        }
    }
    let _ = Filter::parse(&text, OF_ENTRY);
}

fn filter_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "ServiceMeta.k == v and not (a in ServiceTags or ServicePort != 0x50)",
        "ServiceTags contains `b` and ServiceTags is not empty",
        "ServiceName matches \"^w.b$\" or Node not matches \"\\u0041\"",
        "ServiceMeta[\"x.y\"] is empty",
        "\"v\" not in ServiceTags and ServiceEnableTagOverride == true",
        "not not not Node == -1.5",
        "((((Node==n))))",
    ])
}

/// The parameters of a read are within their limits or refused.
fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(query) = Query::parse(&text) else { return };
    let names = Names { datacenter: "dc1".into(), node: "maxine".into() };
    if let Ok(options) = Options::read(&query, &names, Some(OF_ENTRY)) {
        assert!((1..=600_000).contains(&options.wait_ms), "{}", options.wait_ms);
        assert!(options.tags.len() <= 64 && options.node_meta.len() <= 64);
    }
    if let Some(ms) = duration_ms(&text) {
        assert_eq!(duration_ms(&duration_text(ms)), Some(ms), "{text}");
    }
}

fn query_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "index=7&wait=5m&stale&passing&tag=a&tag=b&node-meta=k:v&near=_agent",
        "max_stale=1.5h&cached&filter=Service.Port==80&ns=shop&dc=dc1&pretty",
        "index=-1&wait=300000ms&consistent",
        "1h2m3.5s",
    ])
}

/// A registration is within the limits of the registry, or refused.
fn body(bytes: &[u8]) {
    let agent = Object::parse(bytes).and_then(ServiceBody::of_agent);
    let made = agent.and_then(|body| body.into_registration(None, None, "10.0.0.9", Vec::new()));
    if let Ok(made) = made {
        assert_eq!(made.registration.check(), Ok(()));
        assert!(made.states.is_empty());
    }
    let _ = Object::parse(bytes).and_then(CheckBody::of_agent);
    let _ = Object::parse(bytes).and_then(CheckBody::of_catalog);
    let _ = SessionBody::read(bytes);
    let _ = read_ops(bytes);
}

fn body_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        r#"{"ID":"web-1","Name":"web","Tags":["a","a"],"Port":80,"Address":"10.0.0.1","Meta":{"k":"v"},
            "Weights":{"Passing":3,"Warning":1},"EnableTagOverride":true,"Check":null,
            "TaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":80}},
            "Checks":[{"TTL":"15s","Status":"passing"},{"HTTP":"http://localhost:80/up","Interval":"10s"}]}"#,
        r#"{"name":"web","check":{"tcp":"[::1]:80","interval":"1m30s","timeout":2000000000}}"#,
        r#"{"Name":"web","Address":"::1","Port":443,"Check":{"HTTP":"https://[::1]/","Interval":"1h","Method":"POST",
            "Header":{"a":["b"]},"TLSSkipVerify":true,"DeregisterCriticalServiceAfter":"1m"}}"#,
        r#"{"Name":"n","Node":"m","LockDelay":"15s","Behavior":"delete","TTL":"10s","NodeChecks":["serfHealth"],
            "ServiceChecks":[{"ID":"service:web","Namespace":""}]}"#,
        r#"[{"KV":{"Verb":"cas","Key":"a","Value":"dg==","Flags":1,"Index":7}},{"KV":{"Verb":"get-tree","Key":""}}]"#,
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
