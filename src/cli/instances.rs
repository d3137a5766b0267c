//! Commands on one instance: `register`, `deregister`, `drain`, `undrain`; and `resolve`.

use std::collections::BTreeMap;

use reqwest::{Method, Url};
use serde_json::{Map, Value, json};

use super::client::{Client, ConnectArgs, FreshArgs, Request, shapes};
use super::exit::CliError;
use super::heartbeat;
use super::output::Output;
use maxine_state::limits;

/// A service by name.
#[derive(Clone, Debug, clap::Args)]
pub struct ServiceArg {
    /// Name of the service
    pub service: String,
    /// Namespace of the service
    #[arg(
        long,
        short = 'n',
        value_name = "NAME",
        env = "MAXINE_NAMESPACE",
        default_value = "default"
    )]
    pub namespace: String,
}

impl ServiceArg {
    /// The path segments of the service.
    #[must_use]
    pub fn path(&self) -> [&str; 3] {
        ["services", &self.namespace, &self.service]
    }
}

impl std::fmt::Display for ServiceArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

/// An instance by service and id.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct InstanceArg {
    #[command(flatten)]
    service: ServiceArg,
    /// Id of the instance within the service
    id: String,
}

impl InstanceArg {
    pub(super) fn path(&self) -> [&str; 5] {
        ["services", &self.service.namespace, &self.service.service, "instances", &self.id]
    }
}

/// Arguments of `maxine register`.
#[derive(Debug, clap::Args)]
// Here `--version` is the version of the instance, not of the program.
#[command(disable_version_flag = true)]
pub struct RegisterArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    service: ServiceArg,
    /// Id of the instance within the service [default: host and port of the address]
    id: Option<String>,
    /// URL of the instance, such as http://10.0.0.1:8080
    #[arg(long, value_name = "URL")]
    address: String,
    /// Its share of the traffic, relative to the other instances (1 to 100)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(limits::WEIGHT_MAX)))]
    weight: u16,
    /// Time after which the registration expires without a heartbeat, in milliseconds, from 1 s to 400 days
    /// [default: the cluster's setting]
    #[arg(long, value_name = "MS", value_parser = ttl_ms)]
    ttl_ms: Option<u64>,
    /// The registration never expires: it needs no heartbeats, and stays until it is deregistered
    #[arg(long, conflicts_with_all = ["ttl_ms", "heartbeat"])]
    permanent: bool,
    /// The zone in which it runs, for callers that prefer their own zone
    #[arg(long)]
    zone: Option<String>,
    /// The version of the software that it runs
    #[arg(long)]
    version: Option<String>,
    /// The name of the machine on which it runs
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// A tag; may be given more than once. The order is kept
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A metadata entry; may be given more than once
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Check the health of the instance by HTTP requests for this path
    #[arg(long, value_name = "PATH")]
    probe_path: Option<String>,
    /// A check that you report within this time, in milliseconds; may be given more than once
    #[arg(long = "check", value_name = "ID=MS", value_parser = check)]
    checks: Vec<(String, u64)>,
    /// Keep running: send heartbeats, and deregister the instance when stopped (Ctrl-C)
    #[arg(long)]
    heartbeat: bool,
    /// With --heartbeat: do not deregister when stopped; the registration expires later
    #[arg(long, requires = "heartbeat")]
    keep: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected KEY=VALUE".into())
}

fn check(text: &str) -> Result<(String, u64), String> {
    let (id, ttl_ms) = key_value(text).map_err(|_| "expected ID=MS")?;
    let ttl_ms = self::ttl_ms(&ttl_ms).map_err(|why| format!("expected ID=MS: {why}"))?;
    Ok((id, ttl_ms))
}

fn ttl_ms(text: &str) -> Result<u64, String> {
    let (min, max) = (limits::TTL_MS_MIN, limits::TTL_MS_MAX);
    let in_range = text.parse().ok().filter(|ttl_ms| (min..=max).contains(ttl_ms));
    in_range.ok_or_else(|| {
        let (shortest_s, longest_days) = (min / 1_000, max / 86_400_000);
        format!("{shortest_s} s to {longest_days} days in milliseconds, {min} to {max}")
    })
}

impl RegisterArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }

    fn instance_id(&self) -> Result<String, CliError> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let bad = |why: &dyn std::fmt::Display| {
            CliError::Usage(format!("--address {}: {why}", self.address))
        };
        let url = Url::parse(&self.address)
            .map_err(|_| bad(&maxine_wording::not_a_url(&self.address)))?;
        match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => Ok(format!("{host}:{port}")),
            _ => Err(bad(
                &"it has no host and port, so the instance needs an id: maxine register SERVICE ID",
            )),
        }
    }

    fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("address".into(), json!(self.address));
        body.insert("weight".into(), json!(self.weight));
        let mut put = |name: &str, value: Option<Value>| {
            body.extend(value.map(|value| (name.to_owned(), value)))
        };
        put("ttl_ms", self.ttl_ms.map(Value::from));
        put("permanent", self.permanent.then_some(Value::Bool(true)));
        put("zone", self.zone.clone().map(Value::from));
        put("version", self.version.clone().map(Value::from));
        put("node", self.node.clone().map(Value::from));
        put("tags", (!self.tags.is_empty()).then(|| json!(self.tags)));
        let metadata: Map<String, Value> =
            self.metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        put("metadata", (!metadata.is_empty()).then(|| Value::Object(metadata)));
        put("probe", self.probe_path.as_ref().map(|path| json!({"kind": "http", "path": path})));
        let check = |(id, ttl_ms): &(String, u64)| json!({"id": id, "ttl_ms": ttl_ms});
        let checks: Vec<Value> = self.checks.iter().map(check).collect();
        put("checks", (!checks.is_empty()).then(|| Value::Array(checks)));
        Value::Object(body)
    }
}

/// Runs `maxine register`.
///
/// # Errors
/// See [`CliError`].
pub async fn register(args: RegisterArgs, out: &mut Output) -> Result<(), CliError> {
    let id = args.instance_id()?;
    let client = args.connect.client()?;
    let path = ["services", &args.service.namespace, &args.service.service, "instances", &id];
    let answer = client.send(&Request::keyed(Method::PUT, &path).json(args.body())).await?;
    out.done(
        &answer.body,
        format!("registered {} in {} (index {})", id, args.service, answer.body["index"]),
    )?;
    if !args.heartbeat {
        return Ok(());
    }
    let instance: shapes::Instance = client
        .send(&Request::get(&path).query("min_index", answer.body["index"].as_u64()))
        .await?
        .read()?;
    // If somebody has made it permanent in the meantime, it has no lease to renew.
    let Some(ttl_ms) = instance.ttl_ms else { return Ok(()) };
    heartbeat::keep_alive(&client, &path, &args.body(), ttl_ms, out).await?;
    if args.keep {
        return Ok(());
    }
    let answer = client.send(&Request::keyed(Method::DELETE, &path)).await?;
    out.done(&answer.body, format!("deregistered {} from {}", id, args.service))
}

/// Arguments of `maxine deregister`.
#[derive(Debug, clap::Args)]
pub struct DeregisterArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    instance: InstanceArg,
}

impl DeregisterArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine deregister`; an instance that is not registered is reported as not found.
///
/// # Errors
/// See [`CliError`].
pub async fn deregister(args: DeregisterArgs, out: &mut Output) -> Result<(), CliError> {
    let instance = &args.instance;
    let answer =
        args.connect.client()?.send(&Request::keyed(Method::DELETE, &instance.path())).await?;
    if answer.body["removed"] == Value::Bool(false) {
        return Err(CliError::NotFound(format!(
            "{} is not registered in {}",
            instance.id, instance.service
        )));
    }
    out.done(&answer.body, format!("deregistered {} from {}", instance.id, instance.service))
}

/// Arguments of `maxine drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    instance: InstanceArg,
    /// Reason, shown with the drained instance
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Arguments of `maxine undrain`.
#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    instance: InstanceArg,
}

impl DrainArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

impl UndrainArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine drain`.
///
/// # Errors
/// See [`CliError`].
pub async fn drain(args: DrainArgs, out: &mut Output) -> Result<(), CliError> {
    let body = json!({"reason": args.reason});
    let done = ("is drained: it gets no new traffic and stays registered", "was already drained");
    set_drain(&args.connect.client()?, Method::PUT, &args.instance, Some(body), done, out).await
}

/// Runs `maxine undrain`.
///
/// # Errors
/// See [`CliError`].
pub async fn undrain(args: UndrainArgs, out: &mut Output) -> Result<(), CliError> {
    let done = ("is no longer drained", "was not drained");
    set_drain(&args.connect.client()?, Method::DELETE, &args.instance, None, done, out).await
}

async fn set_drain(
    client: &Client,
    method: Method,
    instance: &InstanceArg,
    body: Option<Value>,
    (changed, unchanged): (&str, &str),
    out: &mut Output,
) -> Result<(), CliError> {
    let path = [&instance.path()[..], &["drain"]].concat();
    let mut request = Request::keyed(method, &path);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = client.send(&request).await?;
    let text = if answer.body["changed"] == Value::Bool(false) { unchanged } else { changed };
    out.done(&answer.body, format!("{} of {} {text}", instance.id, instance.service))
}

/// Arguments of `maxine resolve`.
#[derive(Debug, clap::Args)]
pub struct ResolveArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    service: ServiceArg,
    /// Hash key, for strategies that hash [default: the address that this request comes from]
    #[arg(long)]
    key: Option<String>,
    /// Path, and query, to append to the address of the instance; percent-encoded
    #[arg(long)]
    path: Option<String>,
    #[command(flatten)]
    fresh: FreshArgs,
    /// Resolve this many times (1 to 10000) and print how often each instance was chosen
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// With --count: also print each answer
    #[arg(long, short = 'v', requires = "count")]
    verbose: bool,
}

impl ResolveArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine resolve`: writes one URL, for use in `$(...)`, or with `--count` how often each instance was
/// chosen.
///
/// # Errors
/// See [`CliError`].
pub async fn resolve(args: ResolveArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let request = Request::get(&["resolve", &args.service.namespace, &args.service.service])
        .query("key", args.key.as_ref())
        .query("path", args.path.as_ref());
    let request = args.fresh.of(request);
    let mut tally = Tally::default();
    let mut outcome = Ok(());
    for _ in 0..args.count {
        tally.asked += 1;
        let answer = match client.send(&request).await {
            Ok(answer) => answer,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        };
        let resolution: shapes::Resolution = answer.read()?;
        if args.count == 1 || args.verbose {
            out.done(&answer.body, &resolution.url)?;
        }
        tally.add(resolution);
    }
    if args.count > 1 {
        // The answers before an error are shown too.
        tally.show(out)?;
    }
    outcome
}

/// How often each instance was chosen.
#[derive(Default)]
struct Tally {
    /// The number of requests that were made. The first error ends them.
    asked: u32,
    /// Count by instance id and URL.
    chosen: BTreeMap<(String, String), u32>,
}

impl Tally {
    fn add(&mut self, resolution: shapes::Resolution) {
        *self.chosen.entry((resolution.id, resolution.url)).or_default() += 1;
    }

    fn show(&self, out: &mut Output) -> Result<(), CliError> {
        let asked = self.asked;
        let answered: u32 = self.chosen.values().sum();
        let share = |count: u32| f64::from(count) * 100.0 / f64::from(answered.max(1));
        if out.is_json() {
            let instances: Vec<Value> = self
                .chosen
                .iter()
                .map(|((id, url), count)| {
                    json!({"id": id, "url": url, "count": count, "share_percent": share(*count)})
                })
                .collect();
            return out
                .json(&json!({"asked": asked, "answered": answered, "instances": instances}));
        }
        let rows = self
            .chosen
            .iter()
            .map(|((id, url), count)| {
                vec![id.clone(), url.clone(), count.to_string(), format!("{:.1} %", share(*count))]
            })
            .collect();
        out.table(&["instance", "url", "count", "share"], rows)?;
        out.line(format!("{answered} of {asked} requests were answered"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, Sink};

    fn shown(format: Format) -> String {
        let mut tally = Tally { asked: 5, ..Tally::default() };
        for id in ["b", "a", "b", "b"] {
            tally.add(shapes::Resolution {
                id: id.into(),
                url: format!("http://{id}:1/"),
                strategy: String::new(),
                candidates: 2,
            });
        }
        let sink = Sink::default();
        tally.show(&mut Output::new(format, Box::new(sink.clone()))).unwrap();
        sink.text()
    }

    #[tokio::test]
    async fn a_tally_counts_the_requests_that_were_made_and_not_those_that_were_wanted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let line = ["resolve", "s", "--count", "50", "--server", &server, "--timeout-ms", "300"];
        let command = <ResolveArgs as clap::Args>::augment_args(clap::Command::new("resolve"));
        let matches = command.try_get_matches_from(line).unwrap();
        let args = <ResolveArgs as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        let sink = Sink::default();
        let mut out = Output::new(Format::Table, Box::new(sink.clone()));
        resolve(args, &mut out).await.unwrap_err();
        let text = sink.text();
        assert_eq!(text.lines().last().unwrap(), "0 of 1 requests were answered");
    }

    #[test]
    fn a_tally_has_counts_and_shares_of_what_was_answered() {
        let table = shown(Format::Table);
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["a", "http://a:1/", "1", "25.0", "%"]);
        assert_eq!(rows[2], ["b", "http://b:1/", "3", "75.0", "%"]);
        assert_eq!(table.lines().last().unwrap(), "4 of 5 requests were answered");
        let document: Value = serde_json::from_str(&shown(Format::Json)).unwrap();
        assert_eq!(document["answered"], 4);
        assert_eq!(document["instances"][1]["share_percent"], 75.0);
    }
}
