//! Commands on one instance: `register`, `deregister`, `drain`, `undrain`; and `resolve`.

use reqwest::{Method, Url};
use serde_json::{Map, Value, json};

use super::client::{Client, ConnectArgs, FreshArgs, Request, shapes};
use super::exit::CliError;
use super::heartbeat;
use super::output::Output;
use crate::state::limits;

/// A service by name.
#[derive(Clone, Debug, clap::Args)]
pub struct ServiceArg {
    /// The service's name
    pub service: String,
    /// The service's namespace
    #[arg(long, short = 'n', env = "MAXINE_NAMESPACE", default_value = "default")]
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
    /// The instance's id within the service
    id: String,
}

impl InstanceArg {
    pub(super) fn path(&self) -> [&str; 5] {
        ["services", &self.service.namespace, &self.service.service, "instances", &self.id]
    }
}

/// Arguments of `maxine register`.
#[derive(Debug, clap::Args)]
// `--version` is the instance's here, not the program's.
#[command(disable_version_flag = true)]
pub struct RegisterArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    service: ServiceArg,
    /// Where the instance answers, such as http://10.0.0.1:8080
    #[arg(long, value_name = "URL")]
    address: String,
    /// The instance's id within the service; by default the address's host and port
    #[arg(long)]
    id: Option<String>,
    /// Its share of the traffic (1 to 100)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(limits::WEIGHT_MAX)))]
    weight: u16,
    /// How long the registration lives without a heartbeat, in milliseconds; by default the cluster's setting
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(limits::TTL_MS_MIN..=limits::TTL_MS_MAX))]
    ttl_ms: Option<u64>,
    /// Where it runs, for callers that prefer their own zone
    #[arg(long)]
    zone: Option<String>,
    /// The version that it runs
    #[arg(long)]
    version: Option<String>,
    /// A tag; may be given more than once
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A metadata entry; may be given more than once
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Probe this path on the instance
    #[arg(long, value_name = "PATH")]
    probe_path: Option<String>,
    /// Stay, send heartbeats, and deregister when stopped (Ctrl-C)
    #[arg(long)]
    heartbeat: bool,
    /// With --heartbeat: leave the registration to expire when stopped
    #[arg(long, requires = "heartbeat")]
    keep: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "want KEY=VALUE".into())
}

impl RegisterArgs {
    /// Whom to talk to.
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
        let url = Url::parse(&self.address).map_err(|error| bad(&error))?;
        match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => Ok(format!("{host}:{port}")),
            _ => Err(bad(&"it has no host and port; give the instance an --id")),
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
        put("zone", self.zone.clone().map(Value::from));
        put("version", self.version.clone().map(Value::from));
        put("tags", (!self.tags.is_empty()).then(|| json!(self.tags)));
        let metadata: Map<String, Value> =
            self.metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        put("metadata", (!metadata.is_empty()).then(|| Value::Object(metadata)));
        put("probe", self.probe_path.as_ref().map(|path| json!({"kind": "http", "path": path})));
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
    heartbeat::keep_alive(&client, &path, &args.body(), instance.ttl_ms, out).await?;
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
    /// Whom to talk to.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine deregister`; an instance that is not registered is told as not found.
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
    /// Why, for those who see it drained
    #[arg(long, default_value = "")]
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
    /// Whom to talk to.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

impl UndrainArgs {
    /// Whom to talk to.
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
    let done = ("gets no traffic any more; it stays registered", "was drained already");
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
    /// What a hashing strategy hashes; by default the address that this command comes from
    #[arg(long)]
    key: Option<String>,
    /// A path, and query, to append to the instance's address
    #[arg(long)]
    path: Option<String>,
    #[command(flatten)]
    fresh: FreshArgs,
    /// How many times to ask (1 to 10000); shows how the strategy spreads callers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
}

impl ResolveArgs {
    /// Whom to talk to.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine resolve`: one URL a line, ready for `$(...)`.
///
/// # Errors
/// See [`CliError`].
pub async fn resolve(args: ResolveArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let request = Request::get(&["resolve", &args.service.namespace, &args.service.service])
        .query("key", args.key.as_ref())
        .query("path", args.path.as_ref());
    let request = args.fresh.of(request);
    for _ in 0..args.count {
        let answer = client.send(&request).await?;
        if out.is_json() {
            out.json(&answer.body)?;
        } else {
            out.line(answer.read::<shapes::Resolution>()?.url)?;
        }
    }
    Ok(())
}
