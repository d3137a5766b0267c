//! Runs `sdks/spec/cases.json` (its path is the argument) with reqwest, then the client against the same cluster.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a runner prints its results, and waits in real time"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use maxine_client::compatible::{Maxine, Registration};
use maxine_client::{Client, Options, Request};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

const EVENTUALLY: Duration = Duration::from_secs(30);
/// The number of wrong answers of the faulty node that `sdks/spec/README.md` describes.
const FAULTY_ANSWERS: u32 = 6;

struct Runner {
    nodes: Vec<String>,
    http: reqwest::Client,
    variables: BTreeMap<String, String>,
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> =
            self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

fn check(expected: &Value, actual: &Value, at: &str) -> anyhow::Result<()> {
    let wrong = || format!("{at} is {actual}, not {expected}");
    match expected {
        Value::String(text) if text.starts_with("$re:") => {
            let actual = actual.as_str().map_or_else(|| actual.to_string(), Into::into);
            ensure!(fits(&text[4..], &actual)?, wrong());
        }
        Value::String(text) if text.starts_with('$') => {
            let fits = match text.as_str() {
                "$string" => actual.is_string(),
                "$number" => actual.is_number(),
                "$integer" => actual.is_i64() || actual.is_u64(),
                "$boolean" => actual.is_boolean(),
                "$array" => actual.is_array(),
                "$object" => actual.is_object(),
                other => bail!("{other} is no type"),
            };
            ensure!(fits, wrong());
        }
        Value::Object(fields) => {
            let got = actual.as_object().with_context(wrong)?;
            for (name, value) in fields.iter().filter(|(name, _)| *name != "...") {
                let inner = got.get(name).with_context(|| format!("{at} has no {name}"))?;
                check(value, inner, &format!("{at}.{name}"))?;
            }
            ensure!(fields.contains_key("...") || got.len() == fields.len(), wrong());
        }
        other => ensure!(other == actual, wrong()),
    }
    Ok(())
}

/// Whether the whole text fits a pattern.
fn fits(pattern: &str, text: &str) -> anyhow::Result<bool> {
    Ok(regex::Regex::new(&format!("^(?:{pattern})$"))?.is_match(text))
}

impl Runner {
    fn fill(&self, text: &str) -> anyhow::Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').context("an open variable")?;
            out.push_str(before);
            out.push_str(self.variables.get(name).with_context(|| format!("no {name}"))?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn filled(&self, value: &Value) -> anyhow::Result<Value> {
        Ok(match value {
            Value::String(text) => self.fill(text)?.into(),
            Value::Array(list) => list
                .iter()
                .map(|inner| self.filled(inner))
                .collect::<anyhow::Result<Vec<_>>>()?
                .into(),
            Value::Object(fields) => {
                let field =
                    |(name, inner): (&String, &Value)| Ok((self.fill(name)?, self.filled(inner)?));
                fields.iter().map(field).collect::<anyhow::Result<Map<_, _>>>()?.into()
            }
            other => other.clone(),
        })
    }

    async fn send(&self, asked: &Value) -> anyhow::Result<Answer> {
        let node = usize::try_from(asked["node"].as_u64().unwrap_or(0))? % self.nodes.len();
        let method: Method = asked["method"].as_str().context("no method")?.parse()?;
        let url = format!("{}{}", self.nodes[node], asked["path"].as_str().context("no path")?);
        let mut request = self.http.request(method, url);
        if let Some(body) = asked.get("json") {
            request = request.body(body.to_string()).header("content-type", "application/json");
        } else if let Some(text) = asked["text"].as_str() {
            request = request.body(text.to_owned());
        }
        for (name, value) in asked["headers"].as_object().into_iter().flatten() {
            request = request.header(name, value.as_str().context("a header is a text")?);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Answer { status, headers, text: answer.text().await? })
    }

    fn compare(expect: &Value, answer: &Answer) -> anyhow::Result<()> {
        check(&expect["status"], &json!(answer.status), &format!("status of {}", answer.text))?;
        for (name, value) in expect["headers"].as_object().into_iter().flatten() {
            check(value, &json!(answer.header(name)), name)?;
        }
        if let Some(text) = expect.get("text") {
            check(text, &json!(answer.text), "body")?;
        }
        if let Some(body) = expect.get("json") {
            check(body, &serde_json::from_str(&answer.text)?, "body")?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Value) -> anyhow::Result<()> {
        let (asked, expect) = (self.filled(&step["request"])?, self.filled(&step["expect"])?);
        let deadline = Instant::now() + EVENTUALLY;
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let answer = self.send(&asked).await?;
            if let Err(error) = Self::compare(&expect, &answer) {
                if step["eventually"] != true || Instant::now() > deadline {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            for (name, from) in step["save"].as_object().into_iter().flatten() {
                let from = from.as_str().context("a source is a text")?;
                let value = match from.strip_prefix("header:") {
                    Some(header) => answer.header(header),
                    None => {
                        serde_json::from_str::<Value>(&answer.text)?[from].as_str().map(Into::into)
                    }
                };
                self.variables.insert(name.clone(), value.context("nothing to save")?);
            }
            let tally = &step["tally"];
            if tally.is_null() {
                return Ok(());
            }
            let header = tally["header"].as_str().context("a header is a text")?;
            *counts.entry(answer.header(header).unwrap_or_default()).or_default() += 1;
            if Some(counts.values().sum()) == tally["times"].as_u64() {
                ensure!(json!(counts) == tally["counts"], "counted {counts:?}");
                return Ok(());
            }
        }
    }

    async fn client(&self) -> anyhow::Result<()> {
        let nodes = ["http://127.0.0.1:1".to_owned()].into_iter().chain(self.nodes.clone());
        let maxine = Maxine::new(nodes)?;
        let service = format!("{}-client", self.variables["unique"]);
        let (user, password) = (&self.variables["viewerUser"], &self.variables["viewerPassword"]);
        ensure!(maxine.sign_in(user, password).await? == "viewer");
        let refused = maxine.change_config(&json!({})).await.err().and_then(|error| error.status());
        ensure!(refused == Some(StatusCode::FORBIDDEN), "a viewer changes the configuration");
        let mut registration = Registration {
            host_name: self.variables["upstreamHost"].clone(),
            port: Some(self.variables["upstreamPort"].parse()?),
            node_name: "a".into(),
            service_name: service.clone(),
            time_out: Some(1),
            ..Registration::default()
        };
        let beats = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&beats);
        let beat = move |result: Result<_, _>| {
            counted.fetch_add(u32::from(result.is_ok()), Ordering::Relaxed);
        };
        let kept = maxine.keep_registered(registration.clone(), beat).await?;
        // Five heartbeats take longer than a registration lives without heartbeats.
        eventually("five beats", async || beats.load(Ordering::Relaxed) >= 5).await?;
        let url = maxine.discover(&service, "x?y=1").await?;
        ensure!(url == format!("{}/x?y=1", kept.registered.address), "{url}");
        let called =
            maxine.call(&service, Method::POST, "/x", |request| request.body("hello")).await?;
        let echoed: Value = called.json().await?;
        ensure!(echoed["body"] == "hello", "{echoed}");
        ensure!(maxine.servers().await?.contains_key(&service));

        let poll = format!("/api/v1/changes?service={service}&wait_ms=0");
        let now: Value = maxine.send(Method::GET, &poll, |request| request).await?.json().await?;
        registration.node_name = "b".into();
        maxine.register(&registration).await?;
        let mut changes = Box::pin(maxine.watch(&service, now["index"].as_u64()));
        let first = changes.next().await.context("the watch ends")??;
        ensure!(
            first.kind == "instance_registered" && first.fields["instance"] == "b",
            "{first:?}"
        );
        drop(kept);
        while let Some(change) = changes.next().await.transpose()? {
            if change.kind == "instance_removed" && change.fields["instance"] == "a" {
                break;
            }
        }
        let gone = async || {
            let error = maxine.discover(&service, "").await.err();
            error.and_then(|error| error.status()) == Some(StatusCode::SERVICE_UNAVAILABLE)
        };
        eventually("the service's end", gone).await
    }

    /// No answer of a node ends the heartbeats.
    async fn heartbeats(&self) -> anyhow::Result<()> {
        let maxine = Maxine::new([format!("http://{}", std::env::var("MAXINE_FAULTY")?)])?;
        let registration = Registration {
            host_name: "h".into(),
            node_name: "a".into(),
            service_name: self.variables["unique"].clone(),
            ..Registration::default()
        };
        let (passed, failed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (passes, failures) = (Arc::clone(&passed), Arc::clone(&failed));
        let kept = maxine.keep_registered(registration, move |beat| {
            let count = if beat.is_ok() { &passes } else { &failures };
            count.fetch_add(1, Ordering::Relaxed);
        });
        let kept = kept.await?;
        eventually("two heartbeats after the wrong answers", async || {
            failed.load(Ordering::Relaxed) >= FAULTY_ANSWERS && passed.load(Ordering::Relaxed) >= 2
        })
        .await?;
        drop(kept);
        let failed = failed.load(Ordering::Relaxed);
        ensure!(failed == FAULTY_ANSWERS, "{failed} heartbeats failed");
        Ok(())
    }

    /// The client itself chooses the instance that a node chooses.
    async fn local_choice(&self) -> anyhow::Result<()> {
        let service = format!("{}-local", self.variables["unique"]);
        let (user, password) =
            (&self.variables["operatorUser"], &self.variables["operatorPassword"]);
        let signed_in = self
            .http
            .post(format!("{}/api/maxine/signin", self.nodes[0]))
            .json(&json!({"userName": user, "password": password}));
        let session: Value = signed_in.send().await?.json().await?;
        let token = session["accessToken"].as_str().map(Into::into);
        let client = Client::new(&self.nodes[..1], Options { token, ..Options::default() })?;
        for (node, weight) in [("a", 1), ("b", 2), ("c", 3)] {
            let path = format!("/api/v1/services/default/{service}/instances/{node}");
            let address = format!("http://{node}.example");
            let body = json!({"address": address, "ttl_ms": 600_000, "weight": weight});
            client.request::<Value>(Method::PUT, &path, Some(&body)).await?;
        }
        let hash_key = json!({"from": "header", "name": "x-user"});
        for strategy in ["rendezvous", "consistent_hash"] {
            let policy = json!({"selection": {"strategy": strategy, "hash_key": hash_key}});
            let path = format!("/api/v1/services/default/{service}/policy");
            client.request::<Value>(Method::PUT, &path, Some(&policy)).await?;
            let resolver = client.resolver(&service, None).await?;
            for user in 0..20 {
                let user = format!("user {user}");
                let mut headers = reqwest::header::HeaderMap::new();
                headers.insert("x-user", user.parse()?);
                let request = Request { headers: Some(&headers), ..Request::default() };
                let chosen = resolver.choose(&request).context("nothing to choose from")?;
                let resolve = format!("{}/api/v1/resolve/default/{service}", self.nodes[0]);
                let resolved = self.http.get(resolve).header("x-user", &user);
                let resolved: Value = resolved.send().await?.json().await?;
                let chosen = chosen.instance();
                ensure!(resolved["id"] == chosen.id.as_str(), "{user}: {resolved}, not {chosen:?}");
            }
        }
        client.stop(Duration::ZERO).await?;
        Ok(())
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + EVENTUALLY;
    while !condition().await {
        ensure!(Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn runner() -> anyhow::Result<Runner> {
    let nodes = std::env::var("MAXINE_SERVER")?.split(',').map(Into::into).collect();
    let upstream = std::env::var("MAXINE_UPSTREAM")?;
    let (host, port) = upstream.split_once(':').context("MAXINE_UPSTREAM is HOST:PORT")?;
    let mut variables = BTreeMap::from([
        ("unique".to_owned(), format!("rust-{}", std::process::id())),
        ("upstreamHost".to_owned(), host.to_owned()),
        ("upstreamPort".to_owned(), port.to_owned()),
    ]);
    for role in ["admin", "operator", "viewer"] {
        let of = |what: &str| std::env::var(format!("MAXINE_{}_{what}", role.to_uppercase()));
        variables.insert(format!("{role}User"), of("USERNAME")?);
        variables.insert(format!("{role}Password"), of("PASSWORD")?);
    }
    // The client installs the provider for TLS, which the requests of the cases need too.
    Maxine::new(["http://127.0.0.1:1"])?;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    Ok(Runner { nodes, http, variables })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut runner = runner()?;
    let path = std::env::args().nth(1).context("the path of cases.json")?;
    let spec: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let (mut passed, mut failed) = (0, 0);
    let mut report = |name: &str, result: anyhow::Result<()>| match result {
        Ok(()) => {
            passed += 1;
            println!("ok {name}");
        }
        Err(error) => {
            failed += 1;
            println!("FAILED {name}: {error:#}");
        }
    };
    for case in spec["cases"].as_array().context("no cases")? {
        let mut result = Ok(());
        for (at, step) in (1..).zip(case["steps"].as_array().context("no steps")?) {
            result = runner.step(step).await.with_context(|| format!("step {at}"));
            if result.is_err() {
                break;
            }
        }
        report(case["name"].as_str().unwrap_or_default(), result);
    }
    report("the client", runner.client().await);
    report("heartbeats to a faulty node", runner.heartbeats().await);
    report("the client's own choice", runner.local_choice().await);
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0);
    Ok(())
}
