//! `maxine watch`: shows changes as they happen, and continues on another node if the present one fails.
//!
//! It never skips a change silently. If a node no longer has the missing changes, a `compacted` line says so.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, ConnectArgs, EventParser, Request, ServerEvent};
use super::exit::CliError;
use super::output::{Output, or_dash, printable, timestamp};

/// The stream has a comment line every 10 s. After this long without a byte the connection is given up, in
/// milliseconds.
const SILENCE_MS_MAX: u64 = 30_000;
/// Pause before a broken stream is opened again, in milliseconds.
const REOPEN_PAUSE_MS: u64 = 250;
/// Maximum pause before a broken stream is opened again, in milliseconds.
const REOPEN_PAUSE_MS_MAX: u64 = 5_000;

/// Arguments of `maxine watch`.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Only this service; without it, all services (needs the role viewer)
    service: Option<String>,
    /// Namespace of the service [default: default]; without a service: only this namespace
    #[arg(long, short = 'n', value_name = "NAME", env = "MAXINE_NAMESPACE")]
    namespace: Option<String>,
    /// Start with the changes after this index, or after HISTORY-INDEX [default: now]
    #[arg(long, value_name = "INDEX")]
    index: Option<String>,
    /// Stop after this many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl WatchArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }

    fn request(&self, after: Option<&String>) -> Request {
        let namespace = match (&self.namespace, &self.service) {
            (None, Some(_)) => Some("default"),
            (namespace, _) => namespace.as_deref(),
        };
        Request::get(&["watch"])
            .query("namespace", namespace)
            .query("service", self.service.as_ref())
            .query("index", after)
            .header("last-event-id", after.cloned())
    }
}

/// Why a stream ended.
enum End {
    Enough,
    Broken(String),
    Compacted,
}

/// Runs `maxine watch`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: WatchArgs, out: &mut Output) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let mut watch = Watch { after: args.index.clone(), left: args.count, seen_any: false };
    let mut pause_ms = REOPEN_PAUSE_MS;
    loop {
        let before = watch.after.clone();
        match watch.follow(&client, &args, out).await {
            Ok(End::Enough) => return Ok(()),
            Ok(End::Compacted) => watch.after = None,
            Ok(End::Broken(why)) => {
                notice(out, &why)?;
                client.prefer_next();
            }
            // If the cluster is unreachable before the first event, the command fails. After that it tries
            // again.
            Err(CliError::Unavailable { .. }) if watch.seen_any => {}
            Err(error) => return Err(error),
        }
        pause_ms = if watch.after == before {
            (pause_ms * 2).min(REOPEN_PAUSE_MS_MAX)
        } else {
            REOPEN_PAUSE_MS
        };
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

struct Watch {
    /// The position of the last event, as the stream gave it.
    after: Option<String>,
    left: Option<u64>,
    seen_any: bool,
}

impl Watch {
    async fn follow(
        &mut self,
        client: &Client,
        args: &WatchArgs,
        out: &mut Output,
    ) -> Result<End, CliError> {
        let mut response = client.stream(&args.request(self.after.as_ref())).await?;
        let mut parser = EventParser::default();
        loop {
            let silence = Duration::from_millis(SILENCE_MS_MAX);
            match tokio::time::timeout(silence, response.chunk()).await {
                Ok(Ok(Some(bytes))) => parser.push(&bytes).map_err(CliError::Failed)?,
                Ok(Ok(None)) => return Ok(End::Broken("the node ended the stream".into())),
                Ok(Err(_)) => return Ok(End::Broken("the connection was lost".into())),
                Err(_) => return Ok(End::Broken("the node sent nothing for 30 s".into())),
            }
            while let Some(event) = parser.next_event() {
                if let Some(end) = self.take(&event, out)? {
                    return Ok(end);
                }
            }
        }
    }

    fn take(&mut self, event: &ServerEvent, out: &mut Output) -> Result<Option<End>, CliError> {
        let data: Value = serde_json::from_str(&event.data).map_err(|error| {
            CliError::Failed(format!(
                "the stream cannot be read: {}",
                maxine_wording::syntax(&error)
            ))
        })?;
        let index = data["index"].as_u64();
        let place = || event.id.clone().or_else(|| index.map(|index| index.to_string()));
        match event.name.as_str() {
            "ready" => {
                if !self.seen_any {
                    out.done(
                        &json!({"type": "ready", "index": index, "history": data["history"]}),
                        format!("watching from index {}", data["index"]),
                    )?;
                }
                self.seen_any = true;
                self.after = self.after.take().or_else(place);
                return Ok(None);
            }
            "compacted" => {
                let now = "'maxine services' shows the present state";
                // A position that names a history is not compared with the index, because the history may be
                // another one.
                let after = self.after.as_ref().and_then(|after| after.parse::<u64>().ok());
                let text = match (after, index) {
                    (Some(after), Some(index)) if after > index => {
                        format!(
                            "index {after} is ahead of this node, which is at index {index}; {now}"
                        )
                    }
                    _ => format!(
                        "changes up to index {} were missed, because the node no longer keeps them or data was restored; {now}",
                        data["index"]
                    ),
                };
                out.done(&json!({"type": "compacted", "index": index}), text)?;
                return Ok(Some(End::Compacted));
            }
            _ => {}
        }
        self.after = place().or(self.after.take());
        out.done(&data, line(&event.name, &data))?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Ok(Some(End::Enough));
            }
        }
        Ok(None)
    }
}

fn notice(out: &mut Output, why: &str) -> Result<(), CliError> {
    out.done(&json!({"type": "reconnecting", "reason": why}), format!("{why}; reconnecting"))
}

/// A change in one line.
fn line(name: &str, change: &Value) -> String {
    let text = |field: &str| change[field].as_str().unwrap_or_default().to_owned();
    let mut line = format!(
        "{} {:>8} {}",
        change["time_ms"].as_u64().map_or_else(String::new, timestamp),
        or_dash(change["index"].as_u64()),
        if name == "message" { text("type") } else { name.to_owned() },
    );
    if change["service"].is_string() {
        line.push_str(&format!(" {}/{}", text("namespace"), text("service")));
    }
    for field in ["instance", "cause", "draining", "revision", "holder", "fence", "subject"] {
        match &change[field] {
            Value::Null => {}
            Value::String(value) => line.push_str(&format!(" {value}")),
            value => line.push_str(&format!(" {field}={value}")),
        }
    }
    let data = &change["data"];
    if let Some(address) = data["address"].as_str() {
        line.push_str(&format!(" {address}"));
    }
    if let Some(readiness) = data["health"]["readiness"].as_str() {
        line.push_str(&format!(" {readiness}"));
        match data["health"]["reason"].as_str() {
            Some(reason) if !reason.is_empty() => line.push_str(&format!(" ({reason})")),
            _ => {}
        }
    }
    printable(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_as_one_line() {
        let change = json!({"index": 7, "time_ms": 1_795_440_992_705_u64, "type": "instance_removed",
            "namespace": "default", "service": "orders", "instance": "a\u{1b}", "cause": "expired"});
        let text = line("instance_removed", &change);
        assert_eq!(
            text,
            "2026-11-23T13:36:32.705Z        7 instance_removed default/orders a\\u{1b} expired"
        );
    }

    #[test]
    fn an_index_ahead_of_the_node_is_not_told_as_compacted() {
        let text_of = |after: &str| {
            let sink = crate::cli::output::Sink::default();
            let format = crate::cli::output::Format::Table;
            let mut out = Output::new(format, Box::new(sink.clone()));
            let mut watch = Watch { after: Some(after.into()), left: None, seen_any: true };
            let event =
                ServerEvent { id: None, name: "compacted".into(), data: r#"{"index":22}"#.into() };
            assert!(matches!(watch.take(&event, &mut out).unwrap(), Some(End::Compacted)));
            sink.text()
        };
        assert!(text_of("99").contains("index 99 is ahead of this node, which is at index 22"));
        assert!(text_of("3").contains("changes up to index 22 were missed"));
    }

    #[test]
    fn a_watch_remembers_where_it_is_and_ends_when_it_has_enough() {
        let mut watch = Watch { after: None, left: Some(1), seen_any: false };
        let mut out = Output::new(super::super::output::Format::Json, Box::new(std::io::sink()));
        let ready = ServerEvent { id: None, name: "ready".into(), data: r#"{"index":5}"#.into() };
        assert!(watch.take(&ready, &mut out).unwrap().is_none());
        assert_eq!(watch.after.as_deref(), Some("5"));
        let change = ServerEvent {
            id: Some("000000000000000a-9".into()),
            name: "policy_changed".into(),
            data: r#"{"index":9}"#.into(),
        };
        assert!(matches!(watch.take(&change, &mut out).unwrap(), Some(End::Enough)));
        assert_eq!(watch.after.as_deref(), Some("000000000000000a-9"));
    }
}
