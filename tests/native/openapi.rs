//! Compares the OpenAPI document with the routes, with the access table and with the committed copy.

use std::collections::BTreeSet;

use maxine_api::access::rules;
use maxine_api::openapi_document as document;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

const COPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/openapi.json");

/// `MAXINE_UPDATE=1 cargo test --test native openapi` writes the copy anew.
#[test]
fn the_committed_document_is_the_generated_one() {
    let generated = document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("MAXINE_UPDATE").is_some() {
        std::fs::write(COPY, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(COPY).unwrap_or_default();
    assert!(
        committed == generated,
        "docs/reference/openapi.json is not what the code says; run: MAXINE_UPDATE=1 cargo test --test native openapi",
    );
}

#[test]
fn the_document_and_the_access_table_know_the_same_routes() {
    let document: Value = serde_json::to_value(document()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert((path.clone(), method.to_uppercase()));
        }
    }
    let declared: BTreeSet<_> = rules()
        .filter(|rule| rule.path.starts_with("/api/v1/") && rule.path != "/api/v1/openapi.json")
        .map(|rule| (rule.path.to_owned(), rule.method.to_owned()))
        .collect();
    assert_eq!(documented, declared);
}

#[test]
fn every_reference_in_the_document_leads_somewhere_and_every_operation_has_a_name() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document: Value = serde_json::to_value(document()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let name = operation["operationId"].as_str().unwrap_or_default();
            assert!(!name.is_empty() && names.insert(name.to_owned()), "{path}: {name}");
            assert!(operation["summary"].as_str().is_some(), "{path} has no summary");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_its_page_are_served() {
    let server = Server::start().await;
    let (status, served) = server.json(server.open(Method::GET, "/openapi.json")).await;
    assert_eq!(status, 200);
    assert_eq!(served, serde_json::to_value(document()).unwrap());
    let page = server.client.get(format!("http://{}/api/docs/", server.addr)).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("swagger-ui"));
    let meaning = server.client.get(format!("http://{}/problems/limit-exceeded", server.addr));
    let meaning = meaning.send().await.unwrap();
    assert_eq!(meaning.status(), 200);
    assert!(meaning.text().await.unwrap().contains("What to do"));
}

/// The bounds in the document are those that the server checks, so that forms and generated clients can use them.
#[test]
fn the_bounds_of_a_policy_in_the_document_are_those_that_are_checked() {
    let document: Value = serde_json::to_value(document()).unwrap();
    let schemas = &document["components"]["schemas"];
    let mut found = Vec::new();
    bounds(schemas, &schemas["ServicePolicy"], &mut Vec::new(), &mut found);
    assert!(found.len() > 40, "only {} bounds", found.len());
    for (path, min, max) in found {
        let is_accepted = |value: u64| {
            let policy: maxine_state::ServicePolicy =
                serde_json::from_value(policy_with(&path, value)).unwrap();
            policy.check().is_ok()
        };
        let name = path.join(".");
        assert!(is_accepted(min), "{name} = {min}");
        assert!(is_accepted(max), "{name} = {max}");
        assert!(!is_accepted(max + 1), "{name} = {}", max + 1);
        assert!(min == 0 || !is_accepted(min - 1), "{name} = {}", min - 1);
    }
}

/// The numbers of a schema that have bounds, each with the names of the fields that lead to it.
fn bounds(
    schemas: &Value,
    schema: &Value,
    path: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, u64, u64)>,
) {
    if let (Some(min), Some(max)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        found.push((path.clone(), min, max));
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        bounds(schemas, &schemas[name], path, found);
    }
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        bounds(schemas, variant, path, found);
    }
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        path.push(field.clone());
        bounds(schemas, schema, path, found);
        path.pop();
    }
}

/// A policy with this value, and with the fields that the sections on the way to it need.
fn policy_with(path: &[String], value: u64) -> Value {
    let needed = |section: Option<&str>| match section {
        Some("mirror") => json!({"service": "copy", "percent": 1}),
        Some("rate_limit") => json!({"requests_per_s": 1, "burst": 1}),
        Some("cookie") => json!({"name": "c"}),
        Some("probe") => json!({"kind": "http", "path": "/"}),
        _ => json!({}),
    };
    let [sections @ .., field] = path else { panic!("a field") };
    let mut inner = needed(sections.last().map(String::as_str));
    inner[field] = value.into();
    for (at, section) in sections.iter().enumerate().rev() {
        let mut outer = needed(at.checked_sub(1).map(|before| &*sections[before]));
        outer[section] = inner;
        inner = outer;
    }
    inner
}
