//! The part of a client in `scripts/sdks.py faults`: registers itself, calls the targets, and prints what it sees.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "the suite reads what this prints, with the time"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use maxine_client::trace::Outcome;
use maxine_client::{
    Client, ClientCredentials, ClientCredentialsOptions, Error, NewInstance, Options, Request,
    Resolver,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

const CHOICES: u32 = 100_000;

/// Prints the time and the instances that the client knows.
fn tell(targets: &Resolver) -> anyhow::Result<()> {
    let ids = targets.with_instances(|instances| {
        let ids: Vec<_> = instances.iter().map(|instance| instance.id.clone()).collect();
        ids.join(",")
    });
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    println!("change {now_ms} {ids}");
    Ok(())
}

/// The tokens of this client are valid for 10 s.
fn credentials() -> anyhow::Result<Option<ClientCredentials>> {
    let Ok(issuer) = std::env::var("MAXINE_TEST_ISSUER") else { return Ok(None) };
    let credentials = ClientCredentials::new(ClientCredentialsOptions {
        client_id: "worker".into(),
        issuer: Some(issuer),
        client_secret_env: Some("MAXINE_TEST_SECRET".into()),
        resource: Some("https://maxine.test/".into()),
        ..ClientCredentialsOptions::default()
    })?;
    Ok(Some(credentials))
}

/// What the calls have led to.
#[derive(Default)]
struct Calls {
    made: u64,
    failed: u64,
    age_max: Duration,
}

/// Calls the targets until it is dropped.
async fn call(client: &Client, targets: &Resolver, calls: &mut Calls) {
    let http = reqwest::Client::new();
    loop {
        calls.made += 1;
        calls.age_max = calls.age_max.max(targets.age());
        let request = http.get("http://targets/").timeout(Duration::from_secs(5));
        let answer = client.send(request).await;
        let is_good = match answer {
            Ok(answer) => answer.status().is_success() && answer.bytes().await.is_ok(),
            Err(_) => false,
        };
        calls.failed += u64::from(!is_good);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let errors = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&errors);
    let options = Options {
        credentials: credentials()?,
        on_error: Some(Arc::new(move |_: &Error| {
            counted.fetch_add(1, Ordering::Relaxed);
        })),
        ..Options::default()
    };
    let nodes = std::env::var("MAXINE_SERVER")?;
    let client = Client::new(nodes.split(','), options)?;
    let address = "http://127.0.0.1:1".to_owned();
    let instance = NewInstance { address, ttl_ms: 3_000, ..NewInstance::default() };
    let kept = client.register("workers", "rust", instance).await?;
    let targets = client.resolver("targets", None).await?;
    let mut changes = targets.changes();
    tell(&targets)?;
    let following = targets.clone();
    let telling = tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            if tell(&following).is_err() {
                return;
            }
        }
    });

    let mut calls = Calls::default();
    tokio::select! {
        () = call(&client, &targets, &mut calls) => {}
        _ = terminate.recv() => {}
    }
    client.stop(Duration::ZERO).await?;
    telling.abort();
    let begun_at = Instant::now();
    for _ in 0..CHOICES {
        if let Some(chosen) = targets.choose(&Request::default()) {
            chosen.end(&Outcome::default());
        }
    }
    let choose_ns = begun_at.elapsed().as_nanos() / u128::from(CHOICES);
    let result = json!({
        "calls": calls.made,
        "failed": calls.failed,
        "ageMaxMs": u64::try_from(calls.age_max.as_millis())?,
        "chooseNs": u64::try_from(choose_ns)?,
        "renewals": kept.renewals(),
        "errors": errors.load(Ordering::Relaxed),
    });
    println!("{result}");
    Ok(())
}
