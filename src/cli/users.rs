//! `maxine user` and `maxine passwd`: the accounts of people who sign in with a password.
//!
//! Passwords come from a prompt, the standard input or a file, never from arguments, which other users of
//! the machine can read.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, ConnectArgs, LIST_ITEMS_MAX, Problem, Request};
use super::confirm::{confirm, read_password};
use super::exit::CliError;
use super::login;
use super::output::{Output, timestamp};
use super::tokens::tokens_of;
use maxine_state::Role;

/// The result of a change of one's own password after which this machine has no session.
const CHANGED_WITHOUT_SESSION: &str =
    "changed; your sessions have ended, sign in with `maxine login`";

/// Arguments of `maxine user`.
#[derive(Debug, clap::Args)]
pub struct UserArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Option<UserAction>,
}

#[derive(Debug, clap::Subcommand)]
enum UserAction {
    /// List users (the default)
    List,
    /// Add a user
    Add(AddArgs),
    /// Remove a user; their sessions end
    Remove(RemoveArgs),
    /// Change what a user may do; their sessions end
    SetRole(SetRoleArgs),
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The name to sign in with
    user: String,
    /// What they may do
    #[arg(long, value_parser = role(), default_value = "viewer")]
    role: Role,
    #[command(flatten)]
    password: NewPasswordArgs,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The user's name
    user: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct SetRoleArgs {
    /// The user's name
    user: String,
    /// What they may do from now on
    #[arg(value_parser = role())]
    role: Role,
}

/// Arguments of `maxine passwd`.
#[derive(Debug, clap::Args)]
pub struct PasswdArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The user whose password is changed (needs the role admin). Without it your own is changed, after you give the present one
    user: Option<String>,
    #[command(flatten)]
    password: NewPasswordArgs,
}

#[derive(Debug, clap::Args)]
struct NewPasswordArgs {
    /// File with the new password (at least 8 characters). Without it the command asks, or reads a line of standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Reads a role by its name.
pub(super) fn role() -> impl TypedValueParser<Value = Role> {
    let names = [Role::Viewer, Role::Operator, Role::Admin].map(Role::as_str);
    PossibleValuesParser::new(names).try_map(|name| serde_json::from_value(name.into()))
}

#[derive(Debug, Deserialize)]
struct User {
    name: String,
    role: Role,
    credential_version: u64,
    managed: bool,
}

impl UserArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

impl PasswdArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

impl NewPasswordArgs {
    fn read(&self, user: &str) -> Result<String, CliError> {
        if let Some(file) = &self.password_file {
            return first_line(file);
        }
        let password = read_password(&format!("New password of {user}: "))?;
        // The user cannot see what they type, so they type it twice.
        if std::io::stdin().is_terminal() && read_password("The same again: ")? != password {
            return Err(CliError::Usage("the two passwords differ; nothing was sent".into()));
        }
        Ok(password)
    }
}

fn first_line(file: &Path) -> Result<String, CliError> {
    let text = maxine_files::read_text(file).map_err(|error| {
        CliError::Usage(format!("{}: {}", file.display(), maxine_wording::io(&error)))
    })?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(CliError::Usage(format!("{}: the first line is empty", file.display()))),
    }
}

/// Runs `maxine user`.
///
/// # Errors
/// See [`CliError`].
pub async fn user(args: UserArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    match args.action.unwrap_or(UserAction::List) {
        UserAction::List => list(&client, out).await,
        UserAction::Add(args) => {
            let body = json!({"role": args.role, "password": args.password.read(&args.user)?});
            let request = Request::keyed(Method::PUT, &["users", &args.user]).json(body);
            let request = request.header("if-none-match", Some("*".into()));
            let answer = client.send(&request).await?;
            out.done(&answer.body, format!("added {} ({})", args.user, args.role.as_str()))
        }
        UserAction::Remove(args) => remove(&client, &args, out).await,
        UserAction::SetRole(args) => {
            let present = find(&client, &args.user).await?;
            let body = json!({"role": args.role});
            let answer = put(&client, &present, body).await?;
            let text =
                format!("{} is {} now; their sessions have ended", args.user, args.role.as_str());
            out.done(&answer, text)
        }
    }
}

/// Runs `maxine passwd`.
///
/// # Errors
/// See [`CliError`].
pub async fn passwd(args: PasswdArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let Some(user) = args.user else {
        let session = args.connect.session_in_use()?;
        let present = read_password("Your present password: ")?;
        let new = args.password.read("yourself")?;
        let body = json!({"password": present, "new_password": &new});
        let request = Request::once(Method::PUT, &["me", "password"]).json(body);
        let answer = client.send(&request).await.map_err(|error| match error {
            // No role is missing, so the node's advice to ask for one does not help.
            CliError::Problem(problem) if problem.status == 403 => {
                CliError::Problem(Box::new(Problem { action: String::new(), ..*problem }))
            }
            other => other,
        })?;
        let Some(session) = session else {
            return out.done(&answer.body, CHANGED_WITHOUT_SESSION);
        };
        // Without this, the next command would end with the message that the session was ended.
        let text = match login::again(&client, &session.user, &new).await {
            Ok(session) => format!(
                "changed; your other sessions have ended, and you are signed in until {}",
                timestamp(session.expires_at_ms)
            ),
            Err(error) => format!("{CHANGED_WITHOUT_SESSION}: {}", error.of_one_node()),
        };
        return out.done(&answer.body, text);
    };
    let present = find(&client, &user).await?;
    let body = json!({"role": present.role, "password": args.password.read(&user)?});
    let answer = put(&client, &present, body).await?;
    out.done(&answer, format!("changed the password of {user}; their sessions have ended"))
}

async fn list(client: &Client, out: &mut Output) -> Result<(), CliError> {
    let list = client.list(&Request::get(&["users"]), LIST_ITEMS_MAX).await?;
    if out.is_json() {
        return list.items.iter().try_for_each(|item| out.json(item));
    }
    let row = |user: User| {
        let set_by = if user.managed { "environment" } else { "cluster state" };
        vec![
            user.name,
            user.role.as_str().into(),
            set_by.into(),
            user.credential_version.to_string(),
        ]
    };
    let rows = list.read::<User>()?.into_iter().map(row).collect();
    out.table(&["user", "role", "kept in", "version"], rows)
}

async fn remove(client: &Client, args: &RemoveArgs, out: &mut Output) -> Result<(), CliError> {
    confirm(&format!("remove the user {} and end their sessions", args.user), args.yes)?;
    let answer = client.send(&Request::keyed(Method::DELETE, &["users", &args.user])).await?;
    out.done(&answer.body, format!("removed {}", args.user))?;
    if out.is_json() {
        return Ok(());
    }
    let left = tokens_of(client, &args.user).await?;
    if left.is_empty() {
        return Ok(());
    }
    out.line(format!(
        "API tokens that {} made still work; end them with `maxine token revoke ID`: {}",
        args.user,
        left.join(", ")
    ))
}

async fn find(client: &Client, name: &str) -> Result<User, CliError> {
    let list = client.list(&Request::get(&["users"]), LIST_ITEMS_MAX).await?;
    let found = list.read::<User>()?.into_iter().find(|user| user.name == name);
    found.ok_or_else(|| CliError::NotFound(format!("there is no user {name}")))
}

/// Changes a user. Refused if the user was changed since `present` was read.
async fn put(
    client: &Client,
    present: &User,
    body: serde_json::Value,
) -> Result<serde_json::Value, CliError> {
    let version = format!("\"{}\"", present.credential_version);
    let request = Request::keyed(Method::PUT, &["users", &present.name]).json(body);
    Ok(client.send(&request.header("if-match", Some(version))).await?.body)
}
