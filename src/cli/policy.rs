//! `maxine policy`: the policy of a service.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::Value;

use super::client::{Client, ConnectArgs, FreshArgs, Request};
use super::document::{assignment, change, read_document, show, tell_warnings};
use super::exit::CliError;
use super::instances::ServiceArg;
use super::output::Output;

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

fn hash_key(text: &str) -> Result<Value, String> {
    match text.split_once(':') {
        // Removes the name of a header or query parameter that was set before.
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
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
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
            out.done(&answer.body, format!("{service} has no policy now; the defaults apply"))
        }
        PolicyAction::Set(set) => set_policy(&client, set, out).await,
        PolicyAction::Replace(replace) => {
            let body = read_document(&replace.file)?;
            let request = Request::keyed(Method::PUT, &policy_path(&replace.service))
                .query("create", replace.create.then_some(true))
                .json(body);
            let answer = client.send(&request).await?;
            tell_warnings(&answer.body);
            let revision = &answer.body["revision"];
            let text = format!("the policy of {} is now revision {revision}", replace.service);
            out.done(&answer.body, text)
        }
    }
}

fn policy_path(service: &ServiceArg) -> [&str; 4] {
    ["services", &service.namespace, &service.service, "policy"]
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hash_keys_name_their_source() {
        assert_eq!(hash_key("header:x-user").unwrap(), json!({"from": "header", "name": "x-user"}));
        assert!(hash_key("header:").is_err());
        assert!(hash_key("cookie:a").is_err());
    }
}
