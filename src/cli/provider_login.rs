//! `maxine login --provider`: sign-in at an OpenID provider, with a browser on this machine or on another device.
//!
//! The node talks to the provider, so this machine needs neither its address nor a secret. With a browser on this
//! machine, the provider sends it back to a port of 127.0.0.1 that this command opens (RFC 8252).

use std::io::IsTerminal;
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::client::{Answer, Client, Request};
use super::exit::CliError;
use maxine_clock::Clock;

/// Maximum length of the request of the browser that is read, in bytes.
const REQUEST_LEN_MAX: usize = 16 * 1024;
/// Time limit for reading it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of connections of the browser at the same time.
const CONNECTIONS_MAX: usize = 16;
/// How much longer the pause between two questions becomes when the provider asks for it, in milliseconds.
const SLOW_DOWN_MS: u64 = 5_000;

#[derive(Deserialize)]
struct Begun {
    authorization_url: String,
    state: String,
    ticket: String,
    expires_at_ms: u64,
}

#[derive(Deserialize)]
struct Device {
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    interval_ms: u64,
    ticket: String,
    expires_at_ms: u64,
}

/// What the browser brought back.
#[derive(Debug, Default, PartialEq, Eq)]
struct Callback {
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// Signs in with a browser on this machine. Returns the answer that opens the session.
pub(super) async fn with_browser(
    client: &Client,
    provider: &str,
    port: u16,
    open: bool,
) -> Result<Answer, CliError> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        CliError::Failed(format!("port {port} of 127.0.0.1: {}", maxine_wording::io(&error)))
    })?;
    let redirect_uri = format!("http://{}/callback", listener.local_addr()?);
    let start = Request::once(Method::POST, &["session", "providers", provider, "start"]);
    let begun: Begun =
        client.send(&start.json(json!({"redirect_uri": redirect_uri}))).await?.read()?;
    tell!(
        "Open this address in a browser on this machine, and sign in there:\n\n  {}\n",
        begun.authorization_url
    );
    if open && std::io::stderr().is_terminal() {
        open_browser(&begun.authorization_url);
    }
    let left = left(begun.expires_at_ms);
    let waited = tokio::time::timeout(left, callback(&listener, &begun.state)).await;
    let back = waited.map_err(|_| too_late())??;
    let Callback { code, iss, error } = back;
    let body = json!({
        "ticket": begun.ticket, "state": begun.state, "code": code, "iss": iss, "error": error,
    });
    let finish = Request::once(Method::POST, &["session", "providers", provider, "finish"]);
    client.send(&finish.json(body)).await
}

/// Signs in with a browser on another device. Returns the answer that opens the session.
pub(super) async fn on_device(client: &Client, provider: &str) -> Result<Answer, CliError> {
    let begin = Request::once(Method::POST, &["session", "providers", provider, "device"]);
    let device: Device = client.send(&begin).await?.read()?;
    tell!(
        "On any device, open {} and enter this code:\n\n  {}\n",
        device.verification_uri,
        device.user_code
    );
    if let Some(complete) = &device.verification_uri_complete {
        tell!("Or open {complete}");
    }
    let mut pause_ms = device.interval_ms;
    let poll = Request::once(Method::POST, &["session", "providers", provider, "device", "poll"]);
    let poll = poll.json(json!({"ticket": device.ticket}));
    loop {
        let pause = Duration::from_millis(pause_ms);
        if pause >= left(device.expires_at_ms) {
            return Err(too_late());
        }
        tokio::time::sleep(pause).await;
        let answer = match client.send(&poll).await {
            // The node, or the provider, is away for a moment. The code stays valid.
            Err(CliError::Problem(problem)) if problem.status == 503 => continue,
            answer => answer?,
        };
        if answer.body.get("access_token").is_some() {
            return Ok(answer);
        }
        if answer.body["slow_down"] == true {
            pause_ms += SLOW_DOWN_MS;
        }
    }
}

fn left(expires_at_ms: u64) -> Duration {
    Duration::from_millis(expires_at_ms.saturating_sub(Clock::system().wall_ms()))
}

fn too_late() -> CliError {
    CliError::Failed("nobody signed in at the provider in time; start again".into())
}

/// Waits for the browser to come back with this state. Others who reach the port cannot end the wait.
async fn callback(listener: &TcpListener, state: &str) -> Result<Callback, CliError> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let (stream, _) = accepted?;
                connections.spawn(answer(stream, state.to_owned()));
            }
            Some(answered) = connections.join_next() => {
                if let Ok(Some(callback)) = answered {
                    return Ok(callback);
                }
            }
        }
    }
}

/// Answers one request. Returns what it brought, if it is the one that was awaited.
async fn answer(mut stream: TcpStream, state: String) -> Option<Callback> {
    let target = tokio::time::timeout(REQUEST_TIMEOUT, target(&mut stream)).await.ok()??;
    let callback = read(&target, &state);
    let (status, text) = match &callback {
        Some(Callback { error: None, .. }) => {
            ("200 OK", "Go back to the terminal. You can close this page.")
        }
        Some(_) => ("200 OK", "The provider did not sign you in. Go back to the terminal."),
        None => ("404 Not Found", "This is not the page of a sign-in."),
    };
    let page = format!("<!doctype html><meta charset=\"utf-8\"><title>Maxine</title><p>{text}</p>");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n",
        page.len()
    );
    // The page is only a courtesy: the browser may have closed the connection.
    let _ =
        tokio::time::timeout(REQUEST_TIMEOUT, stream.write_all((head + &page).as_bytes())).await;
    callback
}

/// The target of a request with `GET`.
async fn target(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        if bytes.len() > REQUEST_LEN_MAX || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let line = std::str::from_utf8(&bytes).ok()?.lines().next()?;
    Some(line.strip_prefix("GET ")?.split(' ').next()?.to_owned())
}

fn read(target: &str, state: &str) -> Option<Callback> {
    let url = Url::parse("http://127.0.0.1/").ok()?.join(target).ok()?;
    if url.path() != "/callback" {
        return None;
    }
    let mut callback = Callback::default();
    let mut given = None;
    for (name, value) in url.query_pairs() {
        let value = Some(value.into_owned());
        match name.as_ref() {
            "state" => given = value,
            "code" => callback.code = value,
            "iss" => callback.iss = value,
            "error" => callback.error = value,
            _ => {}
        }
    }
    let is_complete = callback.code.is_some() || callback.error.is_some();
    (given.as_deref() == Some(state) && is_complete).then_some(callback)
}

fn open_browser(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started = std::process::Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // The address was shown, so the user can open it.
    drop(started);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_browser_that_comes_back_with_the_state_ends_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ask = |target: &'static str| async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let browser = async {
            // A connection that says nothing must not hold up the others.
            let _silent = TcpStream::connect(address).await.unwrap();
            for target in [
                "/favicon.ico",
                "/callback",
                "/callback?state=s3cret",
                "/callback?code=evil&state=other",
                "/other?code=evil&state=s3cret",
            ] {
                assert!(ask(target).await.starts_with("HTTP/1.1 404"), "{target}");
            }
            ask("/callback?code=a%20b&state=s3cret&iss=https%3A%2F%2Fidp&session_state=x").await
        };
        let (found, answer) = tokio::join!(callback(&listener, "s3cret"), browser);
        let iss = Some("https://idp".to_owned());
        let wanted = Callback { code: Some("a b".into()), iss, error: None };
        assert_eq!(found.unwrap(), wanted);
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("a b"), "{answer}");
    }
}
