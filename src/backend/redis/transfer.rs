//! Reading and writing a whole state in Redis, for a copy between backends.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::config::{Keys, RedisConfig};
use super::connect::{Connector, Link};
use super::replica::Position;
use super::{snapshot, stream};
use crate::state::ControlState;

/// For one command: a whole state may be large.
const TIMEOUT: Duration = Duration::from_secs(30);

fn told(error: impl ToString) -> String {
    error.to_string()
}

async fn connect(config: &RedisConfig) -> Result<(Link, Keys), String> {
    config.check().map_err(|wrong| wrong.join("; "))?;
    let connector = Arc::new(Connector::new(config)?);
    let link = connector.connect().await.map_err(told)?;
    Ok((link, Keys::new(config)))
}

/// The state at the log's present end; `None` where there is no log. Changes nothing.
pub(in crate::backend) async fn read_state(
    config: &RedisConfig,
) -> Result<Option<ControlState>, String> {
    let (mut link, keys) = connect(config).await?;
    if stream::head(&mut link, &keys, TIMEOUT).await.map_err(told)?.is_none() {
        let mut command = cmd("EXISTS");
        command.arg(&keys.log).arg(&keys.snapshot);
        let left: u64 = link.query(&command, TIMEOUT).await.map_err(told)?;
        return if left == 0 { Ok(None) } else { Err(stream::HEADLESS.into()) };
    }
    let rebuilt = stream::rebuild(&mut link, &keys, TIMEOUT).await.map_err(told)?;
    Ok(Some(rebuilt.into_state()))
}

/// Puts `state` in the place of an empty log, or of any log with `replace`. Refused while a node
/// leads there.
pub(in crate::backend) async fn write_state(
    config: &RedisConfig,
    state: &ControlState,
    replace: bool,
) -> Result<(), String> {
    let (mut link, keys) = connect(config).await?;
    let mut command = cmd("EXISTS");
    command.arg(&keys.leader);
    let led: u64 = link.query(&command, TIMEOUT).await.map_err(told)?;
    if led > 0 {
        return Err(String::from("nodes run on it and would lose their writes; stop them first"));
    }
    let present = stream::head(&mut link, &keys, TIMEOUT).await.map_err(told)?;
    let replaces = present.filter(|_| replace).unwrap_or_default();
    let state = state.clone();
    let encode = move || snapshot::encode(&state);
    let encoded = tokio::task::spawn_blocking(encode).await.map_err(told)?.map_err(told)?;
    let uploaded = snapshot::upload(&mut link, &keys, &encoded, TIMEOUT).await.map_err(told)?;
    let epoch = format!("{:016x}", rand::random::<u64>());
    let position = Position { epoch, seq: 1, nonce: rand::random() };
    let done = snapshot::install(&mut link, &keys, &uploaded, &position, &replaces, TIMEOUT).await;
    if done.map_err(told)? {
        return Ok(());
    }
    Err(String::from("the log there was written to meanwhile; run it again"))
}

/// The Node.js Maxine's snapshot.
pub(in crate::backend) async fn read_nodejs_snapshot(
    config: &RedisConfig,
) -> Result<Option<String>, String> {
    let (mut link, _) = connect(config).await?;
    let mut command = cmd("GET");
    command.arg(format!("{}:snapshot", config.key_prefix));
    link.query(&command, TIMEOUT).await.map_err(told)
}
