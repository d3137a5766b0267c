//! Fuzz targets: bodies, queries, cursors and headers of the native API.

use axum::http::{HeaderMap, Method};
use serde::Deserialize;

use super::extract::{NoParams, WriteConditions, parse_json, parse_query, request_id};
use super::page::{cursor_number, cursor_of, cursor_parts};
use super::shape::RegistrationBody;
use super::{
    audit, batches, checks, cluster, fresh, identities, instances, providers, resolve, services,
    session,
};
use super::{kv, lock_sessions};
use super::{telemetry, watch};
use crate::problem::{Problem, ProblemKind};
use maxine_fuzzing::first_line;
use maxine_state::{Name, RuntimeConfig, ServicePolicy};

/// Checks that a refusal is one that a client can act on.
fn checked<T>(result: Result<T, Problem>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(problem) => {
            assert!(problem.status().is_client_error(), "{problem:?}");
            assert!(
                problem.kind != ProblemKind::UnknownField || problem.field.is_some(),
                "{problem:?}"
            );
            None
        }
    }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    checked(parse_json(bytes))
}

/// Any body of any route is within the limits, or is refused.
pub(crate) fn body(bytes: &[u8]) {
    if let Some(body) = json::<RegistrationBody>(bytes) {
        let made = body.into_registration(Name::trusted("a"), &RuntimeConfig::default());
        if let Some(registration) = checked(made) {
            assert_eq!(registration.check(), Ok(()));
        }
    }
    if let Some(policy) = json::<ServicePolicy>(bytes).filter(|policy| policy.check().is_ok()) {
        let text = serde_json::to_string(&policy).expect("a policy is JSON");
        let again: ServicePolicy = serde_json::from_str(&text).expect("our own");
        assert_eq!(again, policy, "what is shown can be sent back");
    }
    if let Some(config) = json::<RuntimeConfig>(bytes) {
        let _ = checked(config.check().map_err(Problem::from));
    }
    let _ = json::<batches::RegistrationBatch>(bytes);
    let _ = json::<batches::HeartbeatBatch<'_>>(bytes);
    let _ = json::<cluster::MemberBody>(bytes);
    let _ = json::<cluster::TransferBody>(bytes);
    let _ = json::<identities::UserBody>(bytes);
    let _ = json::<identities::TokenBody>(bytes);
    let _ = json::<identities::RotateBody>(bytes);
    let _ = json::<instances::HeartbeatBody>(bytes);
    let _ = json::<instances::DrainBody>(bytes);
    let _ = json::<checks::ReportBody>(bytes);
    let _ = json::<providers::BeginBody>(bytes);
    let _ = json::<providers::FinishBody>(bytes);
    let _ = json::<kv::KvBody>(bytes);
    let _ = json::<kv::TransactionBody>(bytes);
    let _ = json::<lock_sessions::LockSessionBody>(bytes);
    let _ = json::<lock_sessions::LockBody>(bytes);
    let _ = json::<session::SessionBody>(bytes);
    let _ = json::<telemetry::SilenceBody>(bytes);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        r#"{"address":"http://10.0.0.1:8080","weight":1,"ttl_ms":10000,"zone":"eu","tags":["blue"],"metadata":{"a":"1"},"probe":{"kind":"http","path":"/h"}}"#,
        r#"{"scheme":"https","host":"::1","port":8443,"base_path":"/api","permanent":true,"node":"m1","tags":["b","a","b"],"checks":[{"id":"disk","ttl_ms":9000,"initial_status":"passing"}]}"#,
        r#"{"status":"warning","output":"91 % full","lease_epoch":7}"#,
        r#"{"items":[{"namespace":"default","service":"s","id":"a","address":"http://h"},{"service":"s","id":"a","lease_epoch":1}]}"#,
        r#"{"selection":{"strategy":"consistent_hash","hash_key":{"from":"header","name":"x"}},"probe":null,"traffic":{}}"#,
        r#"{"log_async":true,"heartbeat_timeout_s":5,"selection_strategy":"round_robin","discovery_mode":"proxy"}"#,
        r#"{"operations":[{"verb":"put","key":"a","text":"v","flags":1,"revision":0},{"verb":"lock","key":"a","session":"u"}]}"#,
        r#"{"name":"n","node":"m","ttl_ms":1000,"behavior":"delete","lock_delay_ms":0,"checks":[{"service":"s","instance":"a","check":"c"}],"base64":"dg=="}"#,
        r#"{"role":"admin","password":"x","note":"","ttl_ms":1,"keep_previous":9,"user":"u","reason":"r","wieght":1}"#,
    ])
}

/// The first line of the input is a query, and the rest is a cursor.
pub(crate) fn query(bytes: &[u8]) {
    let (query, cursor) = first_line(bytes);
    let (query, cursor) = (String::from_utf8_lossy(query), String::from_utf8_lossy(cursor));
    let _ = checked(parse_query::<NoParams>(&query));
    let _ = checked(parse_query::<fresh::Freshness>(&query));
    let _ = checked(parse_query::<audit::QueryAudit>(&query));
    let _ = checked(parse_query::<instances::ListInstances>(&query));
    let _ = checked(parse_query::<services::ListServices>(&query));
    let _ = checked(parse_query::<watch::Watch>(&query));
    let _ = checked(parse_query::<watch::Poll>(&query));
    let _ = checked(parse_query::<kv::ListKv>(&query));
    let _ = checked(parse_query::<lock_sessions::ListSessions>(&query));
    let _ = checked(parse_query::<resolve::Resolve>(&query));
    if let Some([one, two]) = checked(cursor_parts::<2>(&cursor)) {
        let again = cursor_of(&[&one, &two]);
        assert!(again.eq_ignore_ascii_case(&cursor), "{cursor:?} is another list's");
    }
    let _ = checked(cursor_number(&cursor));
}

pub(crate) fn query_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "namespace=default&service=orders&limit=10&cursor=6666ff61&q=a\n61ff62",
        "user=a&action=b&since_ms=1&until_ms=2&outcome=refused&limit=1000\n3132",
        "index=1&wait_ms=0&consistency=strong&min_index=1&limt=1\nff",
        "key=a&path=%2Fx%3Fa&redirect=1&limit=1&limit=2\n6Aff6a",
    ])
}

/// Conditions and keys are parsed strictly. A key is bound to the caller and the request.
pub(crate) fn headers(headers: &HeaderMap) {
    if let Some(conditions) = checked(WriteConditions::from_headers(headers)) {
        let _ = conditions.expected_revision();
    }
    let id = |who: &str, path: &str| checked(request_id(headers, who, &Method::PUT, path));
    if let Some(Some(of_ada)) = id("ada", "/a") {
        assert_eq!(id("ada", "/a"), Some(Some(of_ada)));
        assert_ne!(id("bob", "/a"), Some(Some(of_ada)));
        assert_ne!(id("ada", "/b"), Some(Some(of_ada)));
    }
    let _ = checked(watch::last_event_id(headers));
}
