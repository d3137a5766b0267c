//! Changes the members of the cluster, and its leader. The cluster makes one change at a time, and refuses a
//! second one meanwhile.

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

/// Whether to leave out the checks.
#[derive(Debug, clap::Args)]
pub(super) struct ForceArgs {
    /// Leave out the checks that members are reachable and have caught up. The risk: if no majority of the voters is
    /// reachable afterwards, writes stop until enough of them are back, and nothing can be changed before
    #[arg(long)]
    force: bool,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Arguments of `maxine cluster promote`.
#[derive(Debug, clap::Args)]
pub(super) struct PromoteArgs {
    #[command(flatten)]
    member: MemberArg,
    #[command(flatten)]
    force: ForceArgs,
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
    #[command(flatten)]
    force: ForceArgs,
}

/// Arguments of `maxine cluster transfer`.
#[derive(Debug, clap::Args)]
pub(super) struct TransferArgs {
    /// The number of the member to lead; by default the voter that has most of the log
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

/// The risk of `--force`.
const RISK: &str = "If no majority of the voters is reachable afterwards, writes stop until enough of them are back";

// Membership changes carry no key that the log remembers. They are sent once, to a node that has answered a read, and a
// lost answer is reported as such.

pub(super) async fn add(client: &Client, args: AddArgs, out: &mut Output) -> Result<(), CliError> {
    let name = args.name.unwrap_or_else(|| format!("node-{}", args.id));
    let body = json!({"id": args.id, "name": name, "peer_addr": args.peer_addr, "http_addr": args.http_addr});
    let request = Request::once(Method::POST, &["cluster", "members"]).json(body);
    let answer = client.send(&request).await?;
    out.done(&answer.body, format!("{name} (id {}) is a learner", args.id))?;
    if !args.promote {
        return Ok(());
    }
    give_vote(client, args.id, false, out).await.map_err(|error| match error {
        CliError::Problem(mut problem) => {
            problem.detail =
                format!("{name} was added as a learner, and has no vote: {}", problem.detail);
            problem.action = format!(
                "correct that, then give it a vote with 'maxine cluster promote {}'",
                args.id
            );
            CliError::Problem(problem)
        }
        other => other,
    })
}

pub(super) async fn promote(
    client: &Client,
    args: PromoteArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let (id, force) = (args.member.id, args.force.force);
    if force {
        let what = format!("give member {id} a vote without checking it. {RISK}");
        confirm(&what, args.force.yes)?;
    }
    give_vote(client, id, force, out).await
}

async fn give_vote(
    client: &Client,
    id: u64,
    force: bool,
    out: &mut Output,
) -> Result<(), CliError> {
    let number = id.to_string();
    let request = Request::once(Method::POST, &["cluster", "members", &number, "promote"])
        .query("force", force.then_some(true));
    let answer = client.send(&request).await?;
    out.done(&answer.body, format!("member {id} has a vote"))
}

pub(super) async fn remove(
    client: &Client,
    args: RemoveArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let (id, force) = (args.member.id.to_string(), args.force.force);
    let mut what =
        format!("remove member {id} from the cluster; its data directory must never be used again");
    if force {
        what = format!("{what}. Nothing is checked before. {RISK}");
    }
    confirm(&what, args.force.yes)?;
    let request = Request::once(Method::DELETE, &["cluster", "members", &id])
        .query("force", force.then_some(true));
    let answer = client.send(&request).await?;
    out.done(&answer.body, format!("node {id} is not a member of the cluster any more; if it still runs, stop it and delete its data directory"))
}

pub(super) async fn transfer(
    client: &Client,
    args: TransferArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let body = args.to.map_or_else(|| json!({}), |id| json!({"to": id}));
    let request = Request::once(Method::POST, &["cluster", "transfer"]).json(body);
    let answer = client.send(&request).await?;
    let text = match answer.body["leader"].as_str() {
        Some(leader) => format!("{leader} is the leader"),
        None => "leadership has moved; this node does not know the new leader yet".into(),
    };
    out.done(&answer.body, text)
}
