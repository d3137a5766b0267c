//! `maxine kv`: reads and changes keys.

use std::io::Read;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ConnectArgs, FreshArgs, LIST_ITEMS_MAX, Request};
use super::confirm::confirm;
use super::exit::CliError;
use super::output::{Output, or_dash, timestamp};
use maxine_state::limits::KV_VALUE_LEN_MAX;

/// Arguments of `maxine kv`.
#[derive(Debug, clap::Args)]
pub struct KvArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the value of a key
    Get(GetArgs),
    /// Set the value of a key, from the command line, a file or standard input
    Put(PutArgs),
    /// Delete a key, or all keys that begin with a text
    Delete(DeleteArgs),
    /// List keys, without their values
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    /// The key
    key: String,
    #[command(flatten)]
    fresh: FreshArgs,
}

#[derive(Debug, clap::Args)]
struct PutArgs {
    /// The key
    key: String,
    /// The value. Without it, the value is read from standard input; do not pass a secret here, because other users see
    /// the arguments of a process
    value: Option<String>,
    /// Read the value from this file
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    value_file: Option<PathBuf>,
    /// A number that only clients interpret
    #[arg(long, default_value_t = 0)]
    flags: u64,
    /// Change the key only if it has this revision; 0: only if it does not exist
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct DeleteArgs {
    /// The key; with --recurse the beginning of the keys
    key: String,
    /// Delete every key that begins with KEY
    #[arg(long, conflicts_with = "revision")]
    recurse: bool,
    /// Delete the key only if it has this revision
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only keys that begin with this text
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    fresh: FreshArgs,
}

impl KvArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// A key as the API shows it.
#[derive(Debug, Deserialize)]
struct Key {
    key: String,
    text: Option<String>,
    base64: Option<String>,
    value_len: u64,
    revision: u64,
    session: Option<String>,
    modified_at_ms: u64,
    modified_by: String,
}

/// Runs `maxine kv`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: KvArgs, out: &mut Output) -> Result<(), CliError> {
    match args.action {
        Action::Get(action) => get(&args.connect, &action, out).await,
        Action::Put(action) => put(&args.connect, action, out).await,
        Action::Delete(action) => delete(&args.connect, &action, out).await,
        Action::List(action) => list(&args.connect, &action, out).await,
    }
}

async fn get(connect: &ConnectArgs, args: &GetArgs, out: &mut Output) -> Result<(), CliError> {
    let request = args.fresh.of(Request::get(&["kv", &args.key]));
    let answer = connect.client()?.send(&request).await?;
    if out.is_json() {
        return out.json(&answer.body);
    }
    let key: Key = answer.read()?;
    let value = match (key.text, key.base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map_err(|_| CliError::Failed("the node answered with malformed base64".into()))?,
        (None, None) => Vec::new(),
    };
    // The value is written as it is, so that it can be piped.
    out.bytes(&value)
}

/// The value of a key: the argument, the file, or standard input.
fn value_of(args: &PutArgs) -> Result<Vec<u8>, CliError> {
    let read = |from: &mut dyn Read, name: &str| {
        let mut value = Vec::new();
        let limited = from.take(KV_VALUE_LEN_MAX as u64 + 1).read_to_end(&mut value);
        limited.map_err(|error| CliError::Usage(format!("{name}: {error}")))?;
        Ok(value)
    };
    match (&args.value, &args.value_file) {
        (Some(value), _) => Ok(value.as_bytes().to_vec()),
        (None, Some(path)) => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path);
            read(&mut file.map_err(|error| CliError::Usage(format!("{name}: {error}")))?, &name)
        }
        (None, None) => read(&mut std::io::stdin().lock(), "standard input"),
    }
}

async fn put(connect: &ConnectArgs, args: PutArgs, out: &mut Output) -> Result<(), CliError> {
    let value = value_of(&args)?;
    if value.len() > KV_VALUE_LEN_MAX {
        let text = format!("the value is longer than {KV_VALUE_LEN_MAX} bytes");
        return Err(CliError::Usage(text));
    }
    let request = Request::keyed(Method::PUT, &["kv", &args.key]).json(body_of(value, args.flags));
    let request = condition(request, args.revision);
    let sent = connect.client()?.send(&request).await;
    let answer = sent.map_err(|error| with_key(error, &args.key))?;
    let revision = &answer.body["revision"];
    out.done(&answer.body, format!("{} has revision {revision}", args.key))
}

/// The body of a request that sets a value: as text, or as base64 where that is shorter. In JSON a control character of
/// a text has six bytes, so a text of the permitted length could be longer than a request may be.
fn body_of(value: Vec<u8>, flags: u64) -> Value {
    let encoded = STANDARD.encode(&value);
    let text = String::from_utf8(value).ok().map(|text| json!({"text": text, "flags": flags}));
    let encoded = json!({"base64": encoded, "flags": flags});
    match text {
        Some(text) if text.to_string().len() <= encoded.to_string().len() => text,
        _ => encoded,
    }
}

fn condition(request: Request, revision: Option<u64>) -> Request {
    match revision {
        Some(0) => request.header("if-none-match", Some("*".into())),
        revision => request.header("if-match", revision.map(|revision| format!("\"{revision}\""))),
    }
}

/// Names the key where a node says only that it has another revision.
fn with_key(error: CliError, key: &str) -> CliError {
    match error {
        CliError::Problem(mut problem) if problem.status == 412 => {
            problem.detail = format!("key {key}: {}", problem.detail);
            CliError::Problem(problem)
        }
        error => error,
    }
}

async fn delete(
    connect: &ConnectArgs,
    args: &DeleteArgs,
    out: &mut Output,
) -> Result<(), CliError> {
    let client = connect.client()?;
    if args.recurse {
        confirm(&format!("delete every key that begins with {:?}", args.key), args.yes)?;
        let request = Request::keyed(Method::DELETE, &["kv"]).query("prefix", Some(&args.key));
        let answer = client.send(&request).await?;
        return out.done(&answer.body, format!("no key begins with {:?} any more", args.key));
    }
    confirm(&format!("delete the key {}", args.key), args.yes)?;
    let request = condition(Request::keyed(Method::DELETE, &["kv", &args.key]), args.revision);
    let answer = client.send(&request).await.map_err(|error| with_key(error, &args.key))?;
    out.done(&answer.body, format!("{} is deleted", args.key))
}

async fn list(connect: &ConnectArgs, args: &ListArgs, out: &mut Output) -> Result<(), CliError> {
    let prefix = Some(&args.prefix).filter(|prefix| !prefix.is_empty());
    let request = args.fresh.of(Request::get(&["kv"]).query("prefix", prefix));
    let list = connect.client()?.list(&request, LIST_ITEMS_MAX).await?;
    if out.is_json() {
        return list.items.iter().try_for_each(|item: &Value| out.json(item));
    }
    let keys: Vec<Key> = list.read()?;
    if keys.is_empty() {
        return out.line("no keys");
    }
    let row = |key: Key| {
        vec![
            key.key,
            key.value_len.to_string(),
            key.revision.to_string(),
            timestamp(key.modified_at_ms),
            key.modified_by,
            or_dash(key.session),
        ]
    };
    let rows = keys.into_iter().map(row).collect();
    out.table(&["key", "bytes", "revision", "changed", "by", "locked by"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node refuses longer bodies.
    const BODY_LEN_MAX: usize = 1_048_576;

    #[test]
    fn every_value_of_the_permitted_length_fits_into_a_request() {
        for byte in [0, b'"', b'a', 0xff] {
            let value = vec![byte; KV_VALUE_LEN_MAX];
            let body = body_of(value.clone(), u64::MAX);
            assert!(body.to_string().len() < BODY_LEN_MAX, "{byte}");
            let sent = match (body["text"].as_str(), body["base64"].as_str()) {
                (Some(text), None) => text.as_bytes().to_vec(),
                (None, Some(encoded)) => STANDARD.decode(encoded).unwrap(),
                _ => panic!("one of both"),
            };
            assert!(sent == value, "{byte}");
        }
        assert_eq!(body_of(b"one".to_vec(), 0)["text"], "one", "readable where it is short");
    }
}
