//! Reads and writes a whole state in Redis, for a copy between backends.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::config::{Keys, RedisConfig};
use super::connect::{Connector, Link};
use super::replica::Position;
use super::snapshot::{self, Installed};
use super::stream;
use super::survey::Survey;
use crate::transfer::PlaceFault;
use maxine_state::ControlState;

/// Time limit for one command. It is long because a whole state may be large.
const TIMEOUT: Duration = Duration::from_secs(30);

fn describe(error: impl ToString) -> String {
    error.to_string()
}

async fn connect(config: &RedisConfig) -> Result<(Link, Keys), PlaceFault> {
    config.check().map_err(|wrong| wrong.join("; "))?;
    let connector = Arc::new(Connector::new(config)?);
    let link = connector.connect().await.map_err(|error| {
        let is_away = error.is_io_error() || error.is_timeout() || error.is_connection_refusal();
        let reason = error.to_string();
        if is_away { PlaceFault::Away(reason) } else { PlaceFault::Other(reason) }
    })?;
    Ok((link, Keys::new(config)))
}

/// The state at the present end of the log; `None` if there is no log. Changes nothing.
pub(crate) async fn read_state(config: &RedisConfig) -> Result<Option<ControlState>, PlaceFault> {
    let (mut link, keys) = connect(config).await?;
    let found = stream::rebuild(&mut link, &keys, TIMEOUT).await.map_err(describe)?;
    if found.survey.is_empty {
        return Ok(None);
    }
    if found.is_whole() {
        Ok(Some(found.rebuilt.into_state()))
    } else {
        Err(found.problem().into())
    }
}

/// Writes `state` to Redis if the log is empty, or over any log with `replace`. Refused while a node leads
/// there.
pub(crate) async fn write_state(
    config: &RedisConfig,
    state: &ControlState,
    replace: bool,
) -> Result<(), PlaceFault> {
    let (mut link, keys) = connect(config).await?;
    let present = Survey::read(&mut link, &keys, TIMEOUT).await.map_err(describe)?;
    if !present.lease.is_empty() {
        let reason = "nodes run on it and would lose their writes; stop them first";
        return Err(PlaceFault::Held(reason.into()));
    }
    let is_new = present.is_empty || present.head.as_ref().is_some_and(|head| head.seq == 0);
    if !is_new && !replace {
        return Err(PlaceFault::Held("there is a log already".into()));
    }
    let state = state.clone();
    let encode = move || snapshot::encode(&state);
    let encoded = tokio::task::spawn_blocking(encode).await.map_err(describe)?.map_err(describe)?;
    let position = Position { epoch: stream::new_epoch(), seq: 1, nonce: rand::random() };
    let recent = vec![position.nonce];
    let uploaded = snapshot::upload(&mut link, &keys, &encoded, position, recent, TIMEOUT).await;
    let (uploaded, replaces) = (uploaded.map_err(describe)?, present.head.as_ref());
    match snapshot::install(&mut link, &keys, &uploaded, replaces, true, TIMEOUT).await {
        Ok(Installed::Done) => Ok(()),
        Ok(Installed::Changed | Installed::Led) => {
            Err(PlaceFault::Held("the log there was written to meanwhile; run it again".into()))
        }
        Err(error) => Err(describe(error).into()),
    }
}

/// Reads the snapshot of the Node.js Maxine.
pub(crate) async fn read_nodejs_snapshot(
    config: &RedisConfig,
) -> Result<Option<String>, PlaceFault> {
    let (mut link, _) = connect(config).await?;
    let mut command = cmd("GET");
    command.arg(format!("{}:snapshot", config.key_prefix));
    link.query(&command, TIMEOUT).await.map_err(|error| describe(error).into())
}
