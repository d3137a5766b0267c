//! Changing who is in the cluster and who leads it. One change at a time: the cluster refuses a second one meanwhile.

use reqwest::Method;
use serde_json::json;

use crate::cli::client::{Client, Request};
use crate::cli::confirm::confirm;
use crate::cli::exit::CliError;
use crate::cli::output::Output;

/// A member by its number.
#[derive(Debug, clap::Args)]
pub(super) struct MemberArg {
    /// The member's number
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
}

/// Arguments of `maxine cluster add`.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The new member's number; it must never have been used in this cluster
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Address at which the other nodes reach it
    #[arg(long, value_name = "HOST:PORT")]
    peer_addr: String,
    /// URL at which clients reach it
    #[arg(long, value_name = "URL")]
    http_addr: String,
    /// Its name [default: node-ID]
    #[arg(long)]
    name: Option<String>,
    /// Also give it a vote, as soon as it has caught up
    #[arg(long)]
    promote: bool,
}

/// Arguments of `maxine cluster remove`.
#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    member: MemberArg,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Arguments of `maxine cluster transfer`.
#[derive(Debug, clap::Args)]
pub(super) struct TransferArgs {
    /// The number of the member to lead; by default the voter that has most of the log
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

// Membership changes carry no key that the log remembers: they are sent once, and a lost answer is told as such.

pub(super) async fn add(client: &Client, args: AddArgs, out: &mut Output) -> Result<(), CliError> {
    let name = args.name.unwrap_or_else(|| format!("node-{}", args.id));
    let body = json!({"id": args.id, "name": name, "peer_addr": args.peer_addr, "http_addr": args.http_addr});
    let answer =
        client.send(&Request::once(Method::POST, &["cluster", "members"]).json(body)).await?;
    out.done(&answer.body, format!("{name} (id {}) is a learner", args.id))?;
    if args.promote { promote(client, MemberArg { id: args.id }, out).await } else { Ok(()) }
}

pub(super) async fn promote(
    client: &Client,
    args: MemberArg,
    out: &mut Output,
) -> Result<(), CliError> {
    let id = args.id.to_string();
    let answer =
        client.send(&Request::once(Method::POST, &["cluster", "members", &id, "promote"])).await?;
    out.done(&answer.body, format!("member {id} has a vote"))
}

pub(super) async fn remove(
    client: &Client,
    args: RemoveArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let id = args.member.id.to_string();
    confirm(
        &format!(
            "remove member {id} from the cluster; its data directory must never be used again"
        ),
        args.yes,
    )?;
    let answer = client.send(&Request::once(Method::DELETE, &["cluster", "members", &id])).await?;
    out.done(&answer.body, format!("member {id} is removed; stop it and delete its data directory"))
}

pub(super) async fn transfer(
    client: &Client,
    args: TransferArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let body = args.to.map_or_else(|| json!({}), |id| json!({"to": id}));
    let answer =
        client.send(&Request::once(Method::POST, &["cluster", "transfer"]).json(body)).await?;
    let text = match answer.body["leader"].as_str() {
        Some(leader) => format!("{leader} is the leader"),
        None => "leadership has moved; this node does not know the new leader yet".into(),
    };
    out.done(&answer.body, text)
}
