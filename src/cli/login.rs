//! `maxine login` and `maxine logout`: the session token is in a file that only its owner may read.

use std::path::PathBuf;

use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;

use super::client::{Answer, Client, ConnectArgs, Request, Session};
use super::confirm::read_password;
use super::exit::CliError;
use super::output::{Output, timestamp};
use super::provider_login;
use maxine_state::Role;

/// Arguments of `maxine login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Name of the user
    #[arg(long, short = 'u', value_name = "NAME", env = "MAXINE_USER", default_value = "admin")]
    user: String,
    /// File that holds the password; alternatives: MAXINE_PASSWORD, or type it when asked (or give it on standard input)
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Sign in at this OpenID provider instead of with a password
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    provider: Option<String>,
    /// Sign in with a browser on another device, such as a telephone
    #[arg(long, requires = "provider")]
    device: bool,
    /// Only print the address, and start no browser
    #[arg(long, requires = "provider", conflicts_with = "device")]
    no_browser: bool,
    /// Port of 127.0.0.1 to which the provider sends the browser back; 0 for any free one
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        requires = "provider",
        conflicts_with = "device"
    )]
    callback_port: u16,
}

/// Arguments of `maxine logout`.
#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

impl LoginArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }

    fn password(&self) -> Result<String, CliError> {
        if let Some(file) = &self.password_file {
            let text = maxine_files::read_text(file).map_err(|error| {
                CliError::Usage(format!("{}: {}", file.display(), maxine_wording::io(&error)))
            })?;
            return Ok(text.trim_end_matches(['\n', '\r']).to_owned());
        }
        match std::env::var("MAXINE_PASSWORD") {
            Ok(password) => Ok(password),
            Err(_) => read_password(&format!("Password of {}: ", self.user)),
        }
    }
}

impl LogoutArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

#[derive(Deserialize)]
struct SignedIn {
    user: String,
    role: Role,
    expires_at_ms: u64,
    access_token: String,
}

/// Runs `maxine login`.
///
/// # Errors
/// See [`CliError`].
pub async fn login(args: LoginArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.anonymous_client()?;
    let answer = match &args.provider {
        Some(provider) if args.device => provider_login::on_device(&client, provider).await?,
        Some(provider) => {
            let (port, open) = (args.callback_port, !args.no_browser);
            provider_login::with_browser(&client, provider, port, open).await?
        }
        None => with_password(&client, &args).await?,
    };
    let (session, path) = keep(&client, &answer)?;
    let expires_at_ms = session.expires_at_ms;
    // The token itself is not shown, because the output of a script may be logged.
    out.done(
        &json!({"user": session.user, "role": session.role, "expires_at_ms": expires_at_ms, "file": path.display().to_string()}),
        format!("signed in as {} ({}) until {}", session.user, session.role.as_str(), timestamp(expires_at_ms)),
    )
}

/// Signs in with a password that was just changed, at the node that has changed it, and stores the session.
pub(super) async fn again(
    client: &Client,
    user: &str,
    password: &str,
) -> Result<Session, CliError> {
    let body = json!({"user": user, "password": password});
    let answer = client.send(&Request::once(Method::POST, &["session"]).json(body)).await?;
    keep(client, &answer).map(|(session, _)| session)
}

/// Stores a new session for the nodes of this client. Returns it with its file.
fn keep(client: &Client, answer: &Answer) -> Result<(Session, PathBuf), CliError> {
    let SignedIn { user, role, expires_at_ms, access_token } = answer.read()?;
    let servers = client.servers().iter().map(Url::to_string).collect();
    let session = Session { servers, user, role, expires_at_ms, token: access_token };
    let path = session.store()?;
    Ok((session, path))
}

async fn with_password(client: &Client, args: &LoginArgs) -> Result<Answer, CliError> {
    let body = json!({"user": args.user, "password": args.password()?});
    match client.send(&Request::once(Method::POST, &["session"]).json(body)).await {
        Err(CliError::Problem(problem)) if problem.status == 401 => {
            Err(CliError::Problem(Box::new(super::client::Problem {
                is_of_sign_in: true,
                action: "check both; upper and lower case matter".into(),
                detail: format!("the name {} or the password is wrong", args.user),
                ..*problem
            })))
        }
        answer => answer,
    }
}

/// Runs `maxine logout`: ends the session on the cluster and deletes it on this machine. It is deleted even
/// if the cluster could not end it. The error then says until when the session is valid.
///
/// # Errors
/// See [`CliError`].
pub async fn logout(args: &LogoutArgs, out: &mut Output) -> Result<(), CliError> {
    let session = Session::load()?;
    let was_in = Session::forget()?;
    if let Some(session) = session {
        let client = args.connect.client_of(&session)?;
        match client.send(&Request::once(Method::DELETE, &["session"])).await {
            Ok(_) => {}
            Err(error) => {
                let until = timestamp(session.expires_at_ms);
                let text = format!(
                    "the session is forgotten here, but it could not be ended and works until {until}: {error}"
                );
                return Err(CliError::Failed(text));
            }
        }
    }
    out.done(
        &json!({"signed_out": was_in}),
        if was_in { "signed out" } else { "nobody was signed in" },
    )
}
