//! Keeps a registration alive until the user stops the command.
//!
//! If no node can be reached, the command continues, and the next heartbeat tries again. An instance that is
//! no longer known is registered again. An operator's drain remains in force after that.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, Request};
use super::exit::{self, CliError};
use super::output::Output;

/// Sends heartbeats three times within each time to live until Ctrl-C or SIGTERM.
///
/// # Errors
/// When the cluster refuses the registration for good, or the output is closed.
pub(super) async fn keep_alive(
    client: &Client,
    path: &[&str],
    registration: &Value,
    ttl_ms: u64,
    out: &mut Output,
) -> Result<(), CliError> {
    let interval_ms = (ttl_ms / 3).clamp(300, 60_000);
    out.done(
        &json!({"event": "beating", "interval_ms": interval_ms}),
        format!("sending a heartbeat every {interval_ms} ms; stop with Ctrl-C"),
    )?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut failing = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            beat = pause_and_beat(client, path, registration, interval_ms) => match beat {
                Ok(registered_again) => {
                    if failing {
                        out.done(&json!({"event": "recovered"}), "heartbeats are answered again")?;
                    }
                    failing = false;
                    if registered_again {
                        out.done(&json!({"event": "registered_again"}), "the registration had expired or was removed; registered again")?;
                    }
                }
                Err(error) if error.exit_code() == exit::REFUSED => return Err(error),
                Err(error) => {
                    if !failing {
                        out.done(&json!({"event": "failing", "error": error.to_string()}), format!("heartbeat: {error}; it is tried again"))?;
                    }
                    failing = true;
                }
            },
        }
    }
}

/// Waits until the next heartbeat is due and sends it. Returns whether the instance had to be registered
/// again.
async fn pause_and_beat(
    client: &Client,
    path: &[&str],
    registration: &Value,
    interval_ms: u64,
) -> Result<bool, CliError> {
    tokio::time::sleep(Duration::from_millis(interval_ms)).await;
    let beat = Request::keyed(Method::POST, &[path, &["heartbeat"]].concat());
    match client.send(&beat).await {
        Ok(_) => Ok(false),
        Err(error) if error.exit_code() == exit::NOT_FOUND => {
            client.send(&Request::keyed(Method::PUT, path).json(registration.clone())).await?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}
