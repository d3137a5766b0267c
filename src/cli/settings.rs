//! `maxine policy` and `maxine config`: documents that are shown, and changed in parts.
//!
//! A change names its fields alone (`PATCH`); the cluster merges it, so that it undoes no other change.

use std::io::Read;
use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Map, Value};

use super::client::{Client, ConnectArgs, FreshArgs, Request};
use super::exit::CliError;
use super::instances::ServiceArg;
use super::output::Output;
use maxine_state::limits;

/// Arguments of `maxine policy`.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: PolicyAction,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyAction {
    /// Show a service's policy
    Get(PolicyGetArgs),
    /// Change fields of a service's policy
    Set(PolicySetArgs),
    /// Replace a service's whole policy by the content of a JSON file
    Replace(PolicyReplaceArgs),
    /// Remove a service's policy, so that the defaults apply
    Unset(ServiceArg),
}

#[derive(Debug, clap::Args)]
struct PolicyGetArgs {
    #[command(flatten)]
    service: ServiceArg,
    #[command(flatten)]
    fresh: FreshArgs,
}

#[derive(Debug, clap::Args)]
struct PolicySetArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// Fields to change, such as selection.strategy=rendezvous or probe.interval_ms=2000; PATH=null removes a field, and
    /// the fields of a JSON object are changed one by one
    #[arg(value_name = "PATH=VALUE", value_parser = assignment)]
    assignments: Vec<(String, Value)>,
    /// Short form of selection.strategy=NAME
    #[arg(long, value_name = "NAME", value_parser = ["round_robin", "consistent_hash", "rendezvous", "least_request"])]
    strategy: Option<String>,
    /// Short form of selection.hash_key: client_address, header:NAME or query:NAME
    #[arg(long, value_name = "SOURCE", value_parser = hash_key)]
    hash_key: Option<Value>,
    /// Set the policy even if no such service is registered yet
    #[arg(long)]
    create: bool,
}

#[derive(Debug, clap::Args)]
struct PolicyReplaceArgs {
    #[command(flatten)]
    service: ServiceArg,
    /// JSON file with the whole policy (- for standard input)
    file: PathBuf,
    /// Set the policy even if no such service is registered yet
    #[arg(long)]
    create: bool,
}

/// The cluster's runtime configuration, as commands under `maxine config`.
#[derive(Debug, clap::Subcommand)]
pub enum RuntimeCommand {
    /// Show the runtime configuration of a running cluster
    Get(ConfigGetArgs),
    /// Change fields of the runtime configuration of a running cluster
    Set(ConfigSetArgs),
}

/// Arguments of `maxine config get`.
#[derive(Debug, clap::Args)]
pub struct ConfigGetArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    fresh: FreshArgs,
}

/// Arguments of `maxine config set`.
#[derive(Debug, clap::Args)]
pub struct ConfigSetArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Fields to change, such as heartbeat_timeout_s=10
    #[arg(value_name = "PATH=VALUE", value_parser = assignment, required = true)]
    assignments: Vec<(String, Value)>,
}

fn assignment(text: &str) -> Result<(String, Value), String> {
    let (path, value) = text.split_once('=').ok_or("expected PATH=VALUE")?;
    if path.is_empty() || path.split('.').any(str::is_empty) || path.split('.').count() > 8 {
        return Err("the path must be 1 to 8 field names with dots between them".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((path.to_owned(), value))
}

fn hash_key(text: &str) -> Result<Value, String> {
    match text.split_once(':') {
        // The name of a header or query parameter that was set before is taken away.
        None if text == "client_address" => {
            Ok(serde_json::json!({"from": "client_address", "name": null}))
        }
        Some((from @ ("header" | "query"), name)) if !name.is_empty() => {
            Ok(serde_json::json!({"from": from, "name": name}))
        }
        _ => Err("expected client_address, header:NAME or query:NAME".into()),
    }
}

impl PolicyArgs {
    /// Whom to talk to.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

impl RuntimeCommand {
    /// Whom to talk to.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        match self {
            Self::Get(args) => &args.connect,
            Self::Set(args) => &args.connect,
        }
    }
}

/// Runs `maxine policy`.
///
/// # Errors
/// See [`CliError`].
pub async fn policy(args: PolicyArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    match args.action {
        PolicyAction::Get(get) => {
            show(&client, get.fresh.of(Request::get(&policy_path(&get.service))), "policy", out)
                .await
        }
        PolicyAction::Unset(service) => {
            let answer =
                client.send(&Request::keyed(Method::DELETE, &policy_path(&service))).await?;
            out.done(
                &answer.body,
                format!("{service} has no policy of its own now; the defaults apply"),
            )
        }
        PolicyAction::Set(set) => set_policy(&client, set, out).await,
        PolicyAction::Replace(replace) => {
            let body = read_document(&replace.file)?;
            let request = Request::keyed(Method::PUT, &policy_path(&replace.service))
                .query("create", replace.create.then_some(true))
                .json(body);
            let answer = client.send(&request).await?;
            let revision = &answer.body["revision"];
            let text = format!("the policy of {} is now revision {revision}", replace.service);
            out.done(&answer.body, text)
        }
    }
}

/// Runs `maxine config get` and `maxine config set`.
///
/// # Errors
/// See [`CliError`].
pub async fn runtime_config(command: RuntimeCommand, out: &mut Output) -> Result<(), CliError> {
    let client = command.connect().client()?;
    match command {
        RuntimeCommand::Get(get) => {
            show(&client, get.fresh.of(Request::get(&["config"])), "config", out).await
        }
        RuntimeCommand::Set(set) => {
            let request = Request::keyed(Method::PATCH, &["config"]);
            change(&client, request, "config", &set.assignments, out).await
        }
    }
}

fn policy_path(service: &ServiceArg) -> [&str; 4] {
    ["services", &service.namespace, &service.service, "policy"]
}

async fn show(
    client: &Client,
    request: Request,
    field: &str,
    out: &mut Output,
) -> Result<(), CliError> {
    let answer = client.send(&request).await?;
    if out.is_json() {
        return out.json(&answer.body);
    }
    let mut rows = Vec::new();
    flatten(field, &answer.body[field], &mut rows);
    let strip = format!("{field}.");
    let rows = rows
        .into_iter()
        .map(|(path, value)| vec![path.strip_prefix(&strip).unwrap_or(&path).to_owned(), value])
        .collect();
    out.table(&["field", "value"], rows)?;
    out.line(format!("revision {}", answer.body["revision"]))
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                flatten(&format!("{path}.{name}"), value, rows);
            }
        }
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        Value::Null => rows.push((path.to_owned(), "-".into())),
        value => rows.push((path.to_owned(), value.to_string())),
    }
}

async fn set_policy(client: &Client, set: PolicySetArgs, out: &mut Output) -> Result<(), CliError> {
    let request = Request::keyed(Method::PATCH, &policy_path(&set.service))
        .query("create", set.create.then_some(true));
    let mut assignments = set.assignments;
    assignments.extend(set.strategy.map(|name| ("selection.strategy".into(), Value::from(name))));
    assignments.extend(set.hash_key.map(|key| ("selection.hash_key".into(), key)));
    if assignments.is_empty() {
        return Err(CliError::Usage(
            "name the fields to change (PATH=VALUE); 'maxine policy replace' takes a whole policy"
                .into(),
        ));
    }
    change(client, request, "policy", &assignments, out).await
}

async fn change(
    client: &Client,
    request: Request,
    field: &str,
    assignments: &[(String, Value)],
    out: &mut Output,
) -> Result<(), CliError> {
    let mut patch = Value::Object(Map::new());
    for (path, value) in assignments {
        assign(&mut patch, path, value.clone())?;
    }
    let answer = client.send(&request.json(patch)).await?;
    out.done(&answer.body, format!("the {field} is now revision {}", answer.body["revision"]))
}

/// Sets the field at a dotted path, making the objects on the way. A probe or another absent part (`null`) becomes an
/// object; a number or text on the way is a mistake.
fn assign(document: &mut Value, path: &str, value: Value) -> Result<(), CliError> {
    let mut place = document;
    for name in path.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(object) = place else {
            return Err(CliError::Usage(format!("{path}: the part before {name} has no fields")));
        };
        place = object.entry(name).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

fn read_document(file: &PathBuf) -> Result<Value, CliError> {
    let told =
        |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", file.display()));
    let limit = limits::POLICY_LEN_MAX;
    let mut bytes = Vec::new();
    let reader: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(|error| told(&maxine_wording::io(&error)))?)
    };
    reader.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| told(&error))?;
    if bytes.len() > limit {
        return Err(told(&format!("a policy is at most {limit} bytes")));
    }
    maxine_wording::read_json(&bytes).map_err(|error| told(&error.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn assignments_change_what_they_name_and_nothing_else() {
        let mut document = json!({"selection": {"strategy": null, "x": 1}, "probe": null});
        for text in
            ["selection.strategy=rendezvous", "probe.interval_ms=2000", "probe.path=\"/a=b\""]
        {
            let (path, value) = assignment(text).unwrap();
            assign(&mut document, &path, value).unwrap();
        }
        let want = json!({"selection": {"strategy": "rendezvous", "x": 1}, "probe": {"interval_ms": 2000, "path": "/a=b"}});
        assert_eq!(document, want);
        assert!(assign(&mut document, "selection.x.y", json!(1)).is_err());
        for bad in ["x", "=1", "a..b=1"] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hash_keys_name_their_source() {
        assert_eq!(hash_key("header:x-user").unwrap(), json!({"from": "header", "name": "x-user"}));
        assert!(hash_key("header:").is_err());
        assert!(hash_key("cookie:a").is_err());
    }
}
