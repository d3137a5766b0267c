//! A client of a real cluster, if `MAXINE_SERVER` names one.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and names its service by the time"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maxine_client::trace::Outcome;
use maxine_client::{Attempt, Call, Client, NewInstance, Options, Request};
use serde_json::json;
use support::{Server, closed_port, reply, until};

/// What the client has reported.
#[derive(Default)]
struct Counts {
    attempts: AtomicU64,
    good_calls: AtomicU64,
    failed_calls: AtomicU64,
}

fn reporting(counts: &Arc<Counts>) -> Options {
    let (of_attempts, of_calls) = (Arc::clone(counts), Arc::clone(counts));
    Options {
        on_attempt: Some(Arc::new(move |one: &Attempt| {
            if one.status.is_some_and(|status| status.is_success()) && !one.node.is_empty() {
                of_attempts.attempts.fetch_add(1, Ordering::Relaxed);
            }
        })),
        on_call: Some(Arc::new(move |one: &Call| {
            let count = if one.failed { &of_calls.failed_calls } else { &of_calls.good_calls };
            count.fetch_add(1, Ordering::Relaxed);
        })),
        ..Options::default()
    }
}

fn at(address: String, weight: u16) -> NewInstance {
    NewInstance { address, weight: Some(weight), ..NewInstance::default() }
}

#[tokio::test]
async fn a_resolver_follows_registrations_and_goes_on_without_a_node() {
    let Ok(nodes) = std::env::var("MAXINE_SERVER") else {
        eprintln!("NOT RUN: MAXINE_SERVER names no cluster");
        return;
    };
    let upstream = Server::start(|_, _| reply(200, &json!({}))).await;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let service = format!("rust-{}", since_epoch.as_nanos());
    let counts = Arc::new(Counts::default());
    let client = Client::new(nodes.split(','), reporting(&counts)).unwrap();
    let other = Client::new(nodes.split(','), Options::default()).unwrap();
    let resolver = client.resolver(&service, None).await.unwrap();
    assert!(resolver.choose(&Request::default()).is_none());
    let number = || resolver.with_instances(<[_]>::len);

    let a = other.register(&service, "a", at(closed_port().await, 1)).await.unwrap();
    let base = format!("{}/base/", upstream.url);
    other.register(&service, "b", at(base, 3)).await.unwrap();
    until("both instances", || number() == 2).await;
    let mut chosen = BTreeMap::new();
    for _ in 0..8 {
        let one = resolver.choose(&Request::default()).unwrap();
        *chosen.entry(one.instance().id.clone()).or_insert(0) += 1;
        one.end(&Outcome::default());
    }
    assert_eq!(chosen, BTreeMap::from([("a".into(), 2), ("b".into(), 6)]));

    // The instance that refuses connections is tried, avoided, and does not fail a request.
    counts.good_calls.store(0, Ordering::Relaxed);
    let http = reqwest::Client::new();
    for _ in 0..8 {
        let request = http.post(format!("http://{service}/x?y=1")).body("body");
        client.send(request).await.unwrap();
    }
    assert_eq!(upstream.lines(), ["POST /base/x?y=1"; 8]);
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    assert!(count(&counts.good_calls) == 8 && count(&counts.failed_calls) > 0);
    assert!(count(&counts.attempts) > 0);

    a.stop(Duration::ZERO).await.unwrap();
    until("the removal", || number() == 1).await;
    assert!(resolver.age() < Duration::from_secs(15), "{:?}", resolver.age());
    client.stop(Duration::ZERO).await.unwrap();
    other.stop(Duration::ZERO).await.unwrap();
    // Without the watch, the instances stay as they were.
    assert_eq!(resolver.choose(&Request::default()).unwrap().instance().id, "b");
}

#[tokio::test]
async fn a_stopped_client_leaves_no_instance() {
    let Ok(nodes) = std::env::var("MAXINE_SERVER") else {
        eprintln!("NOT RUN: MAXINE_SERVER names no cluster");
        return;
    };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let service = format!("rust-stop-{}", since_epoch.as_nanos());
    let client = Client::new(nodes.split(','), Options::default()).unwrap();
    let watching = Client::new(nodes.split(','), Options::default()).unwrap();
    for id in ["a", "b"] {
        client.register(&service, id, at("http://127.0.0.1:1".into(), 1)).await.unwrap();
    }
    let resolver = watching.resolver(&service, None).await.unwrap();
    until("the instances", || resolver.with_instances(<[_]>::len) == 2).await;
    client.stop(Duration::ZERO).await.unwrap();
    until("the removals", || resolver.with_instances(<[_]>::is_empty)).await;
}
