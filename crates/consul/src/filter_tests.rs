use super::*;
use crate::shape::OF_SERVICE_NODE;
use serde::Deserialize;

/// What `go-bexpr` makes of random expressions. `scripts/interop/consul-filter` writes this file.
const CASES: &str = include_str!("filter_cases.jsonl");

#[derive(Deserialize)]
struct Objects {
    objects: Vec<Value>,
}

#[derive(Deserialize)]
struct Case {
    expression: String,
    matches: Option<Vec<bool>>,
}

#[test]
fn a_thousand_random_expressions_mean_what_they_mean_to_go_bexpr() {
    let mut lines = CASES.lines();
    let Objects { objects } = serde_json::from_str(lines.next().unwrap()).unwrap();
    let (mut cases, mut accepted) = (0, 0);
    for line in lines {
        let Case { expression, matches } = serde_json::from_str(line).unwrap();
        let filter = Filter::parse(&expression, OF_SERVICE_NODE);
        let found = filter
            .ok()
            .map(|filter| objects.iter().map(|object| filter.matches(object)).collect::<Vec<_>>());
        assert_eq!(found, matches, "{expression:?}");
        cases += 1;
        accepted += usize::from(found.is_some());
    }
    assert!(cases >= 1_000 && accepted >= 500, "{accepted} of {cases}");
}

#[test]
fn an_expression_beyond_a_limit_is_refused() {
    let refused = |text: &str, part: &str| {
        let error = Filter::parse(text, OF_SERVICE_NODE).unwrap_err();
        assert!(error.starts_with(REFUSED) && error.contains(part), "{error}");
    };
    refused(&format!("Node == \"{}\"", "x".repeat(LEN_MAX)), "longer than");
    refused(&format!("{}Node == x{}", "(".repeat(400), ")".repeat(400)), "nested deeper");
    // Each parenthesis and each `not` is one level.
    for level in ["(", "not ", "(not "] {
        let depth = if level == "(not " { DEPTH_MAX / 2 } else { DEPTH_MAX };
        let nested = |depth: usize| {
            let end = if level.starts_with('(') { ")".repeat(depth) } else { String::new() };
            format!("{}Node == x{end}", level.repeat(depth))
        };
        let deepest = Filter::parse(&nested(depth), OF_SERVICE_NODE);
        assert!(deepest.is_ok(), "{level}: {deepest:?}");
        refused(&nested(depth + 1), "nested deeper than 128");
    }
    for word in [" or ", " and "] {
        assert!(Filter::parse(&["Node == x"; MATCHES_MAX].join(word), OF_SERVICE_NODE).is_ok());
        refused(&["Node == x"; MATCHES_MAX + 1].join(word), "more than 64 comparisons");
    }
    refused("Node matches \"(a{1000}){1000}\"", "too large");
    // Short texts that stand for large classes of characters: compiling them takes long.
    let classes = r"\pL".repeat(80);
    refused(&["Node matches `(?i)", &classes, "`"].concat(), "too large");
    let many = vec!["Node matches `[ab]{300}c`"; 32].join(" or ");
    refused(&many, "longer than 256 bytes together");
    for text in [r"^v\d+\.\d+\.\d+(-\w+)?$", r"(?i)^web-\w+$"] {
        let usual = Filter::parse(&format!("Node matches `{text}`"), OF_SERVICE_NODE);
        assert!(usual.is_ok(), "{text}");
    }
    refused("Nodes == x", "Selector \"Nodes\" is not valid");
    refused("Node is empty", "Invalid match operator");
    refused("ServicePort == x", "Failed to coerce");
    refused("", "cannot be parsed");
}

/// The fields that answers show can be asked for. What an object has none of is refused, and is not taken for a match.
#[test]
fn the_fields_that_answers_show_can_be_asked_for() {
    use crate::shape::{OF_AGENT_SERVICE, OF_CHECK, OF_SERVICE};
    for (fields, text) in [
        (OF_SERVICE_NODE, "ServiceSocketPath == \"\" and ServiceProxy.Mode == \"\""),
        (OF_SERVICE, "Proxy.Mode == \"\" and PeerName == \"\""),
        (OF_CHECK, "ExposedPort == 0"),
        (OF_AGENT_SERVICE, "Datacenter == dc1 and Meta.k == v"),
    ] {
        assert!(Filter::parse(text, fields).is_ok(), "{text}");
    }
    for (fields, text) in [
        (OF_SERVICE, "Datacenter matches x"),
        (OF_AGENT_SERVICE, "PeerName matches x"),
        (OF_AGENT_SERVICE, "CreateIndex == 1"),
        (OF_CHECK, "Definition.HTTP matches x"),
        (OF_SERVICE, "Connect is empty"),
        (OF_SERVICE_NODE, "ServiceProxy.Expose is empty"),
    ] {
        assert!(Filter::parse(text, fields).is_err(), "{text}");
    }
}

/// An element of a list is found by each operator, also by one that is turned around.
#[test]
fn a_selector_through_a_list_is_true_as_soon_as_one_object_matches() {
    let entry = serde_json::json!({"Checks": [{"Status": "passing"}, {"Status": "critical"}]});
    for (text, expected) in [
        ("Checks.Status == passing", true),
        ("Checks.Status != passing", true),
        ("not Checks.Status == passing", false),
        ("Checks.Status == warning", false),
        ("Checks is not empty", true),
    ] {
        let filter = Filter::parse(text, crate::shape::OF_ENTRY).unwrap();
        assert_eq!(filter.matches(&entry), expected, "{text}");
    }
}
