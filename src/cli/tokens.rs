//! `maxine token` and `maxine key`: API tokens for programs, and the keys that sign sessions.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, ConnectArgs, LIST_ITEMS_MAX, Request};
use super::confirm::confirm;
use super::exit::CliError;
use super::output::{Output, timestamp};
use super::users::role;
use maxine_state::Role;

/// Arguments of `maxine token`.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Option<TokenAction>,
}

#[derive(Debug, clap::Subcommand)]
enum TokenAction {
    /// List API tokens (the default); never the tokens themselves
    List,
    /// Create an API token, and show it once
    Create(CreateArgs),
    /// Revoke an API token: it stops working
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// What its bearer may do
    #[arg(long, value_parser = role(), default_value = "viewer")]
    role: Role,
    /// What it is for
    #[arg(long, default_value = "")]
    note: String,
    /// For how many days it works (1 to 3650); without this flag it never expires
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: Option<u64>,
    /// Write the token to this new file, which only you can read, instead of showing it
    #[arg(long, value_name = "FILE")]
    write_to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The token's id, as the list shows it
    id: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Arguments of `maxine key`.
#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Option<KeyAction>,
}

#[derive(Debug, clap::Subcommand)]
enum KeyAction {
    /// List the keys that sign and check sessions (the default); never their secrets
    List,
    /// Create a new key, which signs sessions from now on
    Rotate(RotateArgs),
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    /// How many older keys stay accepted (0 to 8); 0 ends every session at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=8))]
    keep: u32,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

const DAY_MS: u64 = 24 * 3_600 * 1_000;

#[derive(Debug, Deserialize)]
struct Token {
    id: String,
    note: String,
    role: Role,
    created_by: String,
    created_at_ms: u64,
    expires_at_ms: Option<u64>,
}

impl TokenArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

impl KeyArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine token`.
///
/// # Errors
/// See [`CliError`].
pub async fn token(args: TokenArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    match args.action.unwrap_or(TokenAction::List) {
        TokenAction::List => list(&client, out).await,
        TokenAction::Create(args) => create(&client, &args, out).await,
        TokenAction::Revoke(args) => {
            confirm(&format!("revoke the API token {}", args.id), args.yes)?;
            let request = Request::keyed(Method::DELETE, &["tokens", &args.id]);
            let answer = client.send(&request).await?;
            out.done(&answer.body, format!("{} does not work any more", args.id))
        }
    }
}

/// Runs `maxine key`.
///
/// # Errors
/// See [`CliError`].
pub async fn key(args: KeyArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    match args.action.unwrap_or(KeyAction::List) {
        KeyAction::List => {
            let answer = client.send(&Request::get(&["keys"])).await?;
            let items = answer.body["items"].as_array().cloned().unwrap_or_default();
            if out.is_json() {
                return items.iter().try_for_each(|item| out.json(item));
            }
            let row = |key: &serde_json::Value| {
                let signs = key["signs"].as_bool().unwrap_or_default();
                let does = if signs { "signs and checks" } else { "checks" };
                let made = key["created_at_ms"].as_u64().map_or_else(|| "-".into(), timestamp);
                vec![key["key_id"].as_str().unwrap_or_default().into(), does.into(), made]
            };
            out.table(&["key", "what it does", "made"], items.iter().map(row).collect())
        }
        KeyAction::Rotate(args) => {
            let what = match args.keep {
                0 => "make a new signing key and end every session".to_owned(),
                n => format!(
                    "make a new signing key and keep at most {}",
                    maxine_wording::count(n, "older one")
                ),
            };
            confirm(&what, args.yes)?;
            let request = Request::keyed(Method::POST, &["keys", "rotate"]);
            let answer = client.send(&request.json(json!({"keep_previous": args.keep}))).await?;
            let id = answer.body["key_id"].as_str().unwrap_or_default().to_owned();
            out.done(&answer.body, format!("{id} signs sessions from now on"))
        }
    }
}

async fn list(client: &Client, out: &mut Output) -> Result<(), CliError> {
    let list = client.list(&Request::get(&["tokens"]), LIST_ITEMS_MAX).await?;
    if out.is_json() {
        return list.items.iter().try_for_each(|item| out.json(item));
    }
    let tokens: Vec<Token> = list.read()?;
    if tokens.is_empty() {
        return out.line("no API tokens");
    }
    let row = |token: Token| {
        let expires = token.expires_at_ms.map_or_else(|| "never".into(), timestamp);
        let made = timestamp(token.created_at_ms);
        vec![token.id, token.role.as_str().into(), token.created_by, made, expires, token.note]
    };
    let rows = tokens.into_iter().map(row).collect();
    out.table(&["id", "role", "made by", "made", "expires", "note"], rows)
}

async fn create(client: &Client, args: &CreateArgs, out: &mut Output) -> Result<(), CliError> {
    let body = json!({
        "role": args.role, "note": args.note, "ttl_ms": args.days.map(|days| days * DAY_MS),
    });
    // The file comes first, because a token that cannot be stored must not be created.
    let file = args.write_to.as_deref().map(new_file).transpose()?;
    // The request is sent once, because a repeated request does not return the token.
    let made = client.send(&Request::once(Method::POST, &["tokens"]).json(body)).await;
    let mut answer = match (made, &args.write_to) {
        (Err(error), Some(path)) => {
            // The file is empty, so a failure to remove it does no harm.
            let _left_behind = fs::remove_file(path);
            return Err(error);
        }
        (made, _) => made?,
    };
    let id = answer.body["id"].as_str().unwrap_or_default().to_owned();
    let token = answer.body["token"].as_str().unwrap_or_default().to_owned();
    let (Some(mut file), Some(path)) = (file, &args.write_to) else {
        let text = format!("API token {id} ({}), shown this once:\n{token}", args.role.as_str());
        return out.done(&answer.body, text).map_err(|error| unseen(error, &id));
    };
    writeln!(file, "{token}").and_then(|()| file.sync_all()).map_err(|error| {
        let path = path.display();
        CliError::Failed(format!("{path}: {error}; revoke it: maxine token revoke {id}"))
    })?;
    if let Some(body) = answer.body.as_object_mut() {
        body.insert("token".into(), serde_json::Value::Null);
    }
    out.done(
        &answer.body,
        format!("API token {id} ({}) is in {}", args.role.as_str(), path.display()),
    )
}

/// The error for a token that could not be shown. The token is not written to the error stream, which often
/// goes to a file.
fn unseen(error: CliError, id: &str) -> CliError {
    let why = match error {
        CliError::OutputFailed { why, .. } => why,
        other => other.to_string(),
    };
    let lost =
        Some(format!("API token {id}, which nobody has seen; revoke it: maxine token revoke {id}"));
    CliError::OutputFailed { why, lost }
}

fn new_file(path: &Path) -> Result<fs::File, CliError> {
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))
}

/// The ids of the API tokens that a user created.
pub(super) async fn tokens_of(client: &Client, user: &str) -> Result<Vec<String>, CliError> {
    let list = client.list(&Request::get(&["tokens"]), LIST_ITEMS_MAX).await?;
    let tokens = list.read::<Token>()?.into_iter().filter(|token| token.created_by == user);
    Ok(tokens.map(|token| token.id).collect())
}
