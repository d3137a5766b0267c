//! The nodes to ask and the credentials: the arguments that every client command shares, and the stored
//! session.
//!
//! Secrets come from the environment or from files, never from arguments, which other users of the machine can read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::Client;
use crate::cli::exit::CliError;
use crate::cli::output::OutputArgs;
use maxine_clock::Clock;
use maxine_identity::is_break_glass;
use maxine_state::Role;

/// Maximum number of nodes in one command.
const SERVERS_MAX: usize = 32;

/// Which cluster to talk to, as whom, and how to show what it says.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectArgs {
    /// URLs of the nodes, separated by commas; if one does not answer, the next is tried
    #[arg(
        long,
        env = "MAXINE_SERVER",
        value_delimiter = ',',
        value_name = "URL",
        global = true,
        default_value = "http://127.0.0.1:8080",
        help_heading = "Connection"
    )]
    pub server: Vec<String>,
    /// File that holds the API token; alternatives: MAXINE_TOKEN, or a session from 'maxine login'
    #[arg(
        long,
        env = "MAXINE_TOKEN_FILE",
        value_name = "FILE",
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        global = true,
        help_heading = "Connection"
    )]
    pub token_file: Option<PathBuf>,
    /// PEM file with certificate authorities to trust in addition to the system's
    #[arg(
        long,
        env = "MAXINE_CA_FILE",
        value_name = "FILE",
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        value_hint = clap::ValueHint::AnyPath,
        global = true,
        help_heading = "Connection"
    )]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate of this client, for nodes that ask for one (http.tls_client_auth)
    #[arg(
        long,
        env = "MAXINE_CLIENT_CERT",
        value_name = "FILE",
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        value_hint = clap::ValueHint::AnyPath,
        global = true,
        requires = "client_key",
        help_heading = "Connection"
    )]
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of that certificate
    #[arg(
        long,
        env = "MAXINE_CLIENT_KEY",
        value_name = "FILE",
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        value_hint = clap::ValueHint::AnyPath,
        global = true,
        requires = "client_cert",
        help_heading = "Connection"
    )]
    pub client_key: Option<PathBuf>,
    /// Time limit for one request, over all nodes that are tried, in milliseconds (100 to 600000)
    #[arg(long, env = "MAXINE_CLIENT_TIMEOUT_MS", value_name = "MS", global = true, default_value_t = 15_000,
          value_parser = clap::value_parser!(u64).range(100..=600_000), help_heading = "Connection")]
    pub timeout_ms: u64,
    /// How to write results.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl ConnectArgs {
    /// A client with the first token that is found, in this order: `--token-file`, `MAXINE_TOKEN`, the stored
    /// session. A session is sent only to the nodes with which it was created, and those are tried first.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a URL or file that cannot be used.
    pub fn client(&self) -> Result<Client, CliError> {
        let servers = self.servers()?;
        let token = self.token()?;
        self.client_with(servers, token)
    }

    /// The same nodes and credentials, with this time limit.
    #[must_use]
    pub fn within(&self, timeout_ms: u64) -> Self {
        Self { timeout_ms: timeout_ms.max(1), ..self.clone() }
    }

    /// A client that sends no token.
    ///
    /// # Errors
    /// As [`ConnectArgs::client`].
    pub fn anonymous_client(&self) -> Result<Client, CliError> {
        self.client_with(self.servers()?, None)
    }

    /// A client of the nodes with which a session was created. It acts as the session's user.
    ///
    /// # Errors
    /// As [`ConnectArgs::client`].
    pub fn client_of(&self, session: &Session) -> Result<Client, CliError> {
        let describe = |error| CliError::Failed(format!("the stored session: {error}"));
        let servers = session.servers.iter().map(|text| Url::parse(text).map_err(describe));
        self.client_with(
            servers.collect::<Result<_, _>>()?,
            Some(Token::any(session.token.clone())),
        )
    }

    /// A client of one node of the cluster, which need not be a named one. A break-glass token is sent to named nodes
    /// only, because it is valid on its own node only.
    ///
    /// # Errors
    /// As [`ConnectArgs::client`].
    pub fn client_of_node(&self, node: Url) -> Result<Client, CliError> {
        let mut token = self.token()?;
        if let Some(token) = token.as_mut().filter(|token| is_break_glass(&token.text)) {
            let named = self.servers()?;
            token.only_for = Some(named.iter().map(ToString::to_string).collect());
        }
        self.client_with(vec![node], token)
    }

    fn client_with(&self, servers: Vec<Url>, token: Option<Token>) -> Result<Client, CliError> {
        let certificates = match self.ca_file()? {
            Some(file) => {
                reqwest::Certificate::from_pem_bundle(&read_authorities(file)?).map_err(|_| {
                    CliError::Usage(format!("{}: it holds no certificate in PEM", file.display()))
                })?
            }
            None => Vec::new(),
        };
        let tls = ClientTls { certificates, identity: self.identity()? };
        Client::new(servers, token, tls, self.timeout_ms)
    }

    /// The certificate that this client shows, if it has one.
    fn identity(&self) -> Result<Option<reqwest::Identity>, CliError> {
        let certificate = self.client_cert.as_deref();
        let certificate = unless_empty(certificate, "--client-cert", "MAXINE_CLIENT_CERT")?;
        let key = unless_empty(self.client_key.as_deref(), "--client-key", "MAXINE_CLIENT_KEY")?;
        let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
        let both = [read_file(certificate)?, b"\n".to_vec(), read_file(key)?].concat();
        let identity = reqwest::Identity::from_pem(&both).map_err(|_| {
            let (certificate, key) = (certificate.display(), key.display());
            CliError::Usage(format!(
                "{certificate} and {key}: expected a certificate and a private key in PEM"
            ))
        })?;
        Ok(Some(identity))
    }

    /// The nodes' URLs, checked.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a URL that cannot be used.
    pub fn servers(&self) -> Result<Vec<Url>, CliError> {
        let servers: Vec<Url> = self
            .server
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
            .map(|text| {
                let full =
                    if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
                let url = Url::parse(&full).map_err(|_| {
                    CliError::Usage(format!("--server {text}: {}", maxine_wording::not_a_url(text)))
                })?;
                if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
                    return Err(CliError::Usage(format!(
                        "--server {text}: expected http://HOST:PORT or https://HOST:PORT"
                    )));
                }
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(CliError::Usage(
                        "--server: a URL must not hold a password; use MAXINE_TOKEN".into(),
                    ));
                }
                Ok(url)
            })
            .collect::<Result<_, _>>()?;
        if servers.is_empty() || servers.len() > SERVERS_MAX {
            return Err(CliError::Usage(format!(
                "--server: expected 1 to {SERVERS_MAX} URLs, got {}",
                servers.len()
            )));
        }
        Ok(servers)
    }

    /// The file of the token.
    fn token_file(&self) -> Result<Option<&Path>, CliError> {
        unless_empty(self.token_file.as_deref(), "--token-file", "MAXINE_TOKEN_FILE")
    }

    /// The file of the authorities to trust in addition to the system's.
    ///
    /// # Errors
    /// [`CliError::Usage`] for an empty name.
    pub fn ca_file(&self) -> Result<Option<&Path>, CliError> {
        unless_empty(self.ca_file.as_deref(), "--ca-file", "MAXINE_CA_FILE")
    }

    /// The stored session, if requests carry it: no other token is given, and it has not expired.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub fn session_in_use(&self) -> Result<Option<Session>, CliError> {
        let is_set = std::env::var("MAXINE_TOKEN").is_ok_and(|text| !text.is_empty());
        if is_set || self.token_file()?.is_some() {
            return Ok(None);
        }
        let now_ms = Clock::system().wall_ms();
        Ok(Session::load()?.filter(|session| session.expires_at_ms > now_ms))
    }

    fn token(&self) -> Result<Option<Token>, CliError> {
        let mut only_for = None;
        let text = if let Some(file) = self.token_file()? {
            let bytes = read_file(file)?;
            if bytes.trim_ascii().is_empty() {
                return Err(CliError::Usage(format!("{}: the file has no token", file.display())));
            }
            Some(String::from_utf8_lossy(&bytes).into_owned())
        } else if let Some(text) =
            std::env::var("MAXINE_TOKEN").ok().filter(|text| !text.is_empty())
        {
            Some(text)
        } else {
            let now_ms = Clock::system().wall_ms();
            let stored = Session::load()?;
            if let Some(session) = stored.as_ref().filter(|s| s.expires_at_ms <= now_ms) {
                note_ended_session(session.expires_at_ms);
            }
            stored.filter(|session| session.expires_at_ms > now_ms).map(|session| {
                only_for = Some(session.servers);
                session.token
            })
        };
        let Some(text) = text else { return Ok(None) };
        let token = text.trim();
        if token.is_empty() {
            return Ok(None);
        }
        if token.len() > 8_192 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CliError::Usage(
                "the token is malformed: expected one line of up to 8192 visible characters".into(),
            ));
        }
        Ok(Some(Token { text: token.to_owned(), only_for }))
    }
}

/// Whom a client trusts in addition to the system's authorities, and which certificate it shows.
#[derive(Default)]
pub(super) struct ClientTls {
    certificates: Vec<reqwest::Certificate>,
    identity: Option<reqwest::Identity>,
}

/// The credential of a client.
pub(super) struct Token {
    text: String,
    /// The URLs of the nodes that a session was made with, or that were named with a break-glass token. Other tokens may
    /// be sent to any node.
    only_for: Option<Vec<String>>,
}

impl Token {
    fn any(text: String) -> Self {
        Self { text, only_for: None }
    }

    #[cfg(test)]
    pub(super) fn of_session(text: &str, servers: &[&str]) -> Self {
        let only_for = Some(servers.iter().map(ToString::to_string).collect());
        Self { text: text.into(), only_for }
    }

    /// The token, if it may be sent to this node.
    pub(super) fn for_server(&self, server: &Url) -> Option<&str> {
        let may = |known: &Vec<String>| known.iter().any(|known| known == server.as_str());
        self.only_for.as_ref().is_none_or(may).then_some(&*self.text)
    }

    /// Why a node answered 401, if the node cannot know it: the request had to be sent without the token, or the token is
    /// that of another node.
    pub(super) fn refusal(&self, server: &Url) -> Option<String> {
        let is_withheld = self.for_server(server).is_none();
        match (is_break_glass(&self.text), is_withheld) {
            (true, true) => Some(
                "it was asked without a token, because a break-glass token is valid on its own node only".into(),
            ),
            (true, false) => Some(
                "it refused the break-glass token, which is valid on its own node only, until that node starts again"
                    .into(),
            ),
            (false, true) => Some(self.withheld()),
            (false, false) => None,
        }
    }

    fn withheld(&self) -> String {
        let servers: Vec<&str> =
            self.only_for.iter().flatten().map(|server| server.trim_end_matches('/')).collect();
        format!(
            "it was asked without a token, because the stored session was made with {} only; name this node too when \
             you run 'maxine login'",
            servers.join(", ")
        )
    }
}

impl Client {
    /// A client of these nodes, without anything from the environment.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a URL that cannot be used.
    pub fn of(
        servers: &[String],
        token: Option<String>,
        timeout_ms: u64,
    ) -> Result<Self, CliError> {
        let servers = servers
            .iter()
            .map(|text| {
                Url::parse(text).map_err(|_| {
                    CliError::Usage(format!("{text}: {}", maxine_wording::not_a_url(text)))
                })
            })
            .collect::<Result<_, _>>()?;
        Self::new(servers, token.map(Token::any), ClientTls::default(), timeout_ms)
    }

    pub(super) fn new(
        mut servers: Vec<Url>,
        token: Option<Token>,
        tls: ClientTls,
        timeout_ms: u64,
    ) -> Result<Self, CliError> {
        // The sort is stable: within each half the order is the user's.
        servers.sort_by_key(|server| {
            token.as_ref().is_some_and(|token| token.for_server(server).is_none())
        });
        // If a provider is installed already, it is the same one, so the error does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(Duration::from_millis(timeout_ms.min(3_000)))
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("maxine/", env!("CARGO_PKG_VERSION")));
            match &tls.identity {
                Some(identity) => builder.identity(identity.clone()),
                None => builder,
            }
        };
        let http = match tls.certificates.is_empty() {
            true => builder().build(),
            false => builder().tls_certs_merge(tls.certificates.clone()).build(),
        };
        // A small container may have no authorities of the system. Plain HTTP and --ca-file must work there.
        let http = http.or_else(|_| builder().tls_certs_only(tls.certificates.clone()).build());
        let http =
            http.map_err(|error| CliError::Failed(format!("cannot set up HTTP: {error}")))?;
        Ok(Self {
            http,
            servers,
            preferred: AtomicUsize::new(0),
            token,
            timeout_ms,
            clock: Clock::system(),
            told_stale: AtomicBool::new(false),
        })
    }
}

/// The file of a flag. An empty variable of the environment counts as not set.
fn unless_empty<'a>(
    file: Option<&'a Path>,
    flag: &str,
    variable: &str,
) -> Result<Option<&'a Path>, CliError> {
    match file {
        Some(name) if name.as_os_str().is_empty() => {
            let is_variable = std::env::var_os(variable).is_some_and(|it| it.is_empty());
            match is_variable {
                true => Ok(None),
                false => Err(CliError::Usage(format!("{flag}: the name is empty"))),
            }
        }
        file => Ok(file),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    maxine_files::read(path).map_err(|error| unread(path, &error))
}

fn read_authorities(path: &Path) -> Result<Vec<u8>, CliError> {
    maxine_files::read_bundle(path).map_err(|error| unread(path, &error))
}

fn unread(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Usage(format!("{}: {}", path.display(), maxine_wording::io(error)))
}

/// The session that `maxine login` stores.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The nodes with which the session was created. It is sent to no other node.
    pub servers: Vec<String>,
    /// Who signed in.
    pub user: String,
    /// The role that the person had then.
    pub role: Role,
    /// When the token stops being accepted, in milliseconds since 1970.
    pub expires_at_ms: u64,
    /// The session token.
    pub token: String,
}

/// Tells the user once that the stored session is over. Without this note, the error of the node says only that there is
/// no token.
fn note_ended_session(expired_at_ms: u64) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        let at = crate::cli::output::timestamp(expired_at_ms);
        tell!("note: the stored session expired at {at}; sign in again with `maxine login`");
    }
}

/// The file of the session: `MAXINE_SESSION_FILE`, or else `maxine/session.json` in the user's configuration
/// directory.
///
/// # Errors
/// [`CliError::Usage`] where no such directory is known.
pub fn session_file() -> Result<PathBuf, CliError> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MAXINE_SESSION_FILE")
        .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("maxine/session.json")))
        .or_else(|| set("HOME").map(|dir| dir.join(".config/maxine/session.json")))
        .ok_or_else(|| {
            CliError::Usage("no home directory is known; set MAXINE_SESSION_FILE".into())
        })
}

impl Session {
    /// The stored session, if there is one.
    ///
    /// # Errors The file exists but cannot be used, or other users may read it.
    pub fn load() -> Result<Option<Self>, CliError> {
        let Ok(path) = session_file() else { return Ok(None) };
        let bytes = match maxine_files::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(CliError::Failed(format!(
                    "{}: {}",
                    path.display(),
                    maxine_wording::io(&error)
                )));
            }
        };
        let mode = fs::metadata(&path)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(CliError::Failed(format!(
                "{} can be read by others; `chmod 600` it, or `maxine logout` and sign in again",
                path.display()
            )));
        }
        maxine_wording::read_json(&bytes).map(Some).map_err(|error| {
            CliError::Failed(format!("{}: {}; run `maxine logout`", path.display(), error.text))
        })
    }

    /// Stores the session in a file that only its owner may read. An earlier session is replaced in one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self) -> Result<PathBuf, CliError> {
        let path = session_file()?;
        let describe = |error: std::io::Error| {
            CliError::Failed(format!("{}: {}", path.display(), maxine_wording::io(&error)))
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(describe)?;
        }
        let draft = path.with_extension(format!("{}.tmp", std::process::id()));
        let text =
            serde_json::to_vec_pretty(self).map_err(|error| CliError::Failed(error.to_string()))?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .map_err(describe)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(describe)?;
        fs::rename(&draft, &path).map_err(describe)?;
        Ok(path)
    }

    /// Removes the stored session. Returns whether there was one.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget() -> Result<bool, CliError> {
        let path = session_file()?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                Err(CliError::Failed(format!("{}: {}", path.display(), maxine_wording::io(&error))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(servers: &[&str]) -> ConnectArgs {
        ConnectArgs {
            server: servers.iter().map(ToString::to_string).collect(),
            token_file: None,
            ca_file: None,
            client_cert: None,
            client_key: None,
            timeout_ms: 1_000,
            output: OutputArgs::default(),
        }
    }

    #[test]
    fn servers_are_checked_and_completed() {
        let servers = args(&["127.0.0.1:8080", " https://a.example/ "]).servers().unwrap();
        assert_eq!(servers[0].as_str(), "http://127.0.0.1:8080/");
        assert_eq!(servers[1].as_str(), "https://a.example/");
        for bad in ["", "ftp://a", "http://user:secret@a", "http://"] {
            assert!(matches!(args(&[bad]).servers(), Err(CliError::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn a_session_is_sent_only_where_it_was_made_and_those_nodes_are_tried_first() {
        let servers = args(&["http://c:1", "http://b:1", "http://d:1", "http://a:1"]).servers();
        let token = Some(Token::of_session("t", &["http://a:1/", "http://b:1/"]));
        let client = Client::new(servers.unwrap(), token, ClientTls::default(), 1_000).unwrap();
        let shown: Vec<(&str, Option<&str>)> = client
            .servers()
            .iter()
            .map(|server| (server.as_str(), client.token_for(server)))
            .collect();
        assert_eq!(
            shown,
            [
                ("http://b:1/", Some("t")),
                ("http://a:1/", Some("t")),
                ("http://c:1/", None),
                ("http://d:1/", None)
            ]
        );
    }

    /// Regression: a break-glass token was sent to every member, and the others answered that it was revoked.
    #[test]
    fn a_break_glass_token_is_sent_to_no_other_member() {
        let dir = tempfile::tempdir().unwrap();
        let sent = |token: &str, node: &str| {
            let file = dir.path().join("token");
            fs::write(&file, token).unwrap();
            let connect = ConnectArgs { token_file: Some(file), ..args(&["http://own:1"]) };
            let node = Url::parse(node).unwrap();
            let client = connect.client_of_node(node.clone()).unwrap();
            let why = client.token.as_ref().and_then(|token| token.refusal(&node));
            (client.token_for(&node).is_some(), why.unwrap_or_default())
        };
        let (is_sent, why) = sent("mxb_0123", "http://own:1");
        assert!(is_sent && why.contains("refused the break-glass token"), "{why}");
        let (is_sent, why) = sent("mxb_0123", "http://other:1");
        assert!(!is_sent && why.contains("valid on its own node only"), "{why}");
        assert_eq!(sent("mxt_0123", "http://other:1"), (true, String::new()));
    }
}
