//! Copies a whole state between backends, all but its history, and imports the state of the Node.js Maxine.
//!
//! Place in the flow: only `maxine migrate` calls it. The source is only read, so its nodes continue to work.
//! What they write during the copy is not in the copy; a second run copies it.
//!
//! A Raft cluster cannot be overwritten. A copy to it is a backup file for `maxine cluster restore`, and a
//! copy from it reads such a file.

mod raft_backup;

pub use raft_backup::COPIED_CLUSTER_ID;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::file_log::{LogError, LogFile, Place as LogPlace, beside, try_lock};
use super::import::{self, Import};
use super::redis::{self, RedisConfig};
use super::shared_file::running_nodes;
use crate::StoreNode;
use maxine_state::{Actor, Applied, ControlState, Proposal, Reply, RequestId, StateDigest};

/// Where a state is stored.
#[derive(Clone, Debug)]
pub enum Place {
    /// Redis, with the prefix of the keys.
    Redis(Box<RedisConfig>),
    /// The log file of the local or shared-file mode.
    File(PathBuf),
    /// A file of `maxine cluster backup`.
    RaftBackup(PathBuf),
    /// The state file of the Node.js Maxine; read only.
    NodeJsFile(PathBuf),
    /// The snapshot of the Node.js Maxine in Redis; read only.
    NodeJsRedis(Box<RedisConfig>),
}

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The text does not name a place.
    #[error("{0}")]
    Usage(String),
    /// There is nothing to copy.
    #[error("nothing is stored at {0}")]
    Absent(String),
    /// The target contains another state.
    #[error(
        "{place} holds another state (index {index}). If no node runs on it, --replace overwrites it"
    )]
    Occupied {
        /// The target.
        place: String,
        /// The index of that state.
        index: u64,
    },
    /// The server of a place does not answer.
    #[error("{place}: {reason}")]
    Unavailable {
        /// The place.
        place: String,
        /// The message of the server or of the system.
        reason: String,
    },
    /// Nodes use the target.
    #[error("{place}: {reason}")]
    Held {
        /// The target.
        place: String,
        /// What to do about it.
        reason: String,
    },
    /// A place could not be read or written.
    #[error("{place}: {reason}")]
    Failed {
        /// The place.
        place: String,
        /// The reason.
        reason: String,
    },
    /// The written state differs from the source.
    #[error("the copy has digest {copy}, the source {source_digest}; do not use the copy")]
    Differs {
        /// The digest of the copy.
        copy: String,
        /// The digest of the source.
        source_digest: String,
    },
}

/// Why a place could not be read or written.
#[derive(Debug)]
pub(crate) enum PlaceFault {
    /// Its server does not answer.
    Away(String),
    /// Nodes use it.
    Held(String),
    /// Anything else.
    Other(String),
}

impl From<String> for PlaceFault {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

/// The result of a copy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Transfer {
    /// The index and digest of both states.
    pub digest: StateDigest,
    /// Number of services.
    pub services: usize,
    /// Number of instances.
    pub instances: usize,
    /// Whether the target already had the same state and was not changed.
    pub unchanged: bool,
    /// What an import left out, and why.
    pub skipped: Vec<String>,
}

impl Place {
    /// Reads `redis://…`, `rediss://…`, `redis-file:PATH` (a file that holds such a URL, so that its
    /// password is in no argument), `file:PATH`, `raft-backup:PATH`, `nodejs:PATH`,
    /// `nodejs+redis://…` or `nodejs+redis-file:PATH`. A `file:` that ends in `.json` is what
    /// `MAXINE_REGISTRY_STATE_FILE` names: the log lies beside it, with `.log` at its end.
    pub fn parse(text: &str, redis: &RedisConfig) -> Result<Self, TransferError> {
        let at = |url: &str| Box::new(RedisConfig { url: url.into(), ..redis.clone() });
        let (text, nodejs) =
            text.strip_prefix("nodejs+").map_or((text, false), |rest| (rest, true));
        if let Some(url) = redis_url(text)? {
            return Ok(if nodejs { Self::NodeJsRedis(at(&url)) } else { Self::Redis(at(&url)) });
        }
        match text.split_once(':').filter(|_| !nodejs) {
            Some(("file", path)) if path.ends_with(".json") => {
                Ok(Self::File(format!("{path}.log").into()))
            }
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("raft-backup", path)) if !path.is_empty() => Ok(Self::RaftBackup(path.into())),
            Some(("nodejs", path)) if !path.is_empty() => Ok(Self::NodeJsFile(path.into())),
            _ => Err(TransferError::Usage(format!(
                "{text:?} cannot be used here; use one of: redis://…, rediss://…, redis-file:PATH (of a file that \
                 holds the URL), file:PATH (local or shared-file mode), raft-backup:PATH, \
                 nodejs:PATH or nodejs+redis://…"
            ))),
        }
    }

    /// The place as text, without a password.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Redis(config) | Self::NodeJsRedis(config) => {
                let url = &config.url;
                let host = url.rsplit_once('@').map_or(url.as_str(), |(_, host)| host);
                format!("redis {host}, prefix {}", config.key_prefix)
            }
            Self::File(path) | Self::RaftBackup(path) | Self::NodeJsFile(path) => {
                path.display().to_string()
            }
        }
    }

    fn failed(&self, reason: impl ToString) -> TransferError {
        TransferError::Failed { place: self.describe(), reason: reason.to_string() }
    }

    fn fault(&self, fault: PlaceFault) -> TransferError {
        let place = self.describe();
        match fault {
            PlaceFault::Away(reason) => TransferError::Unavailable { place, reason },
            PlaceFault::Held(reason) => TransferError::Held { place, reason },
            PlaceFault::Other(reason) => TransferError::Failed { place, reason },
        }
    }

    /// The stored state, if there is one. Changes nothing.
    async fn read(&self) -> Result<Option<ControlState>, TransferError> {
        match self {
            Self::Redis(config) => {
                redis::read_state(config).await.map_err(|fault| self.fault(fault))
            }
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.map_err(|error| self.failed(error))?.map_err(|error| self.failed(error))
            }
            Self::RaftBackup(path) => {
                raft_backup::read(path).await.map_err(|reason| self.failed(reason))
            }
            Self::NodeJsFile(_) | Self::NodeJsRedis(_) => Ok(None),
        }
    }

    async fn write(&self, state: &ControlState, replace: bool) -> Result<(), TransferError> {
        match self {
            Self::Redis(config) => {
                let written = redis::write_state(config, state, replace).await;
                written.map_err(|fault| self.fault(fault))
            }
            Self::File(path) => {
                let (path, state) = (path.clone(), state.clone());
                let write = tokio::task::spawn_blocking(move || write_file(&path, &state)).await;
                write.map_err(|error| self.failed(error))?.map_err(|fault| self.fault(fault))
            }
            Self::RaftBackup(path) => {
                raft_backup::write(path, state).await.map_err(|reason| self.failed(reason))
            }
            Self::NodeJsFile(_) | Self::NodeJsRedis(_) => {
                Err(TransferError::Usage(String::from("the Node.js Maxine's state is only read")))
            }
        }
    }

    async fn read_nodejs(&self) -> Result<Option<String>, TransferError> {
        match self {
            Self::NodeJsFile(path) => {
                let text = tokio::fs::read_to_string(path).await;
                text.map(Some).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => TransferError::Absent(self.describe()),
                    _ => self.failed(maxine_wording::io(&error)),
                })
            }
            Self::NodeJsRedis(config) => {
                let text = redis::read_nodejs_snapshot(config).await;
                let text = text.map_err(|fault| self.fault(fault))?;
                text.map(Some).ok_or_else(|| TransferError::Absent(self.describe()))
            }
            _ => Ok(None),
        }
    }
}

/// Copies the state at `from` to `to` and compares the result. A target with another state is overwritten
/// only with `replace`. A target with the same state is not changed.
pub async fn transfer(from: &Place, to: &Place, replace: bool) -> Result<Transfer, TransferError> {
    let before = to.read().await?;
    let (state, skipped, additive) = match from.read_nodejs().await? {
        Some(text) => {
            let import = import::read_nodejs(&text).map_err(|error| from.failed(error))?;
            let base = before.clone().unwrap_or_default();
            let (state, refused) = add(base, &text, &import);
            (state, [import.skipped, refused].concat(), true)
        }
        None => {
            let state = from.read().await?;
            let state = state.ok_or_else(|| TransferError::Absent(from.describe()))?;
            // The source continues with its history.
            (state.for_another_cluster(), Vec::new(), false)
        }
    };
    let digest = digest_of(&state).await;
    let (services, instances) = (state.services().len(), state.instances_len());
    let summary =
        |unchanged| Transfer { digest: digest.clone(), services, instances, unchanged, skipped };
    if let Some(before) = &before {
        let present = digest_of(before).await;
        if present == digest {
            return Ok(summary(true));
        }
        // An import adds to the existing state and removes nothing.
        if !replace && !additive && before.index() > 0 {
            return Err(TransferError::Occupied { place: to.describe(), index: before.index() });
        }
    }
    to.write(&state, replace || additive).await?;
    let copy = to.read().await?.ok_or_else(|| TransferError::Absent(to.describe()))?;
    let copied = digest_of(&copy).await;
    if copied != digest {
        let (copy, source_digest) = (copied.digest, digest.digest);
        return Err(TransferError::Differs { copy, source_digest });
    }
    Ok(summary(false))
}

/// The Redis URL that a place names, directly or in a file.
fn redis_url(text: &str) -> Result<Option<String>, TransferError> {
    if text.starts_with("redis://") || text.starts_with("rediss://") {
        return Ok(Some(text.into()));
    }
    let Some(path) = text.strip_prefix("redis-file:") else { return Ok(None) };
    let url = maxine_files::read_text(Path::new(path));
    let url = url
        .map_err(|error| TransferError::Usage(format!("{path}: {}", maxine_wording::io(&error))))?;
    Ok(Some(url.trim().into()))
}

async fn digest_of(state: &ControlState) -> StateDigest {
    let state = state.clone();
    let digest = tokio::task::spawn_blocking(move || state.digest()).await;
    digest.expect("hashing a state does not panic")
}

/// Applies an import. Its request ids are derived from its text, so a repeated import has no effect.
fn add(mut state: ControlState, text: &str, import: &Import) -> (ControlState, Vec<String>) {
    let mut refused = Vec::new();
    for (i, command) in import.commands.iter().enumerate() {
        let mut hash = Sha256::new();
        hash.update(text);
        hash.update(i.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        let proposal = Proposal {
            request_id: RequestId(u128::from_le_bytes(id)),
            proposed_at_ms: import.saved_at_ms,
            fence: None,
            actor: Actor::system("import"),
            command: command.clone(),
        };
        let Applied { reply, .. } = state.apply(&proposal, &mut Vec::new());
        match reply {
            Reply::Registered(items) => {
                refused.extend(items.into_iter().filter_map(Result::err).map(|e| e.to_string()));
            }
            Reply::Rejected(rejection) => refused.push(rejection.to_string()),
            _ => {}
        }
    }
    (state, refused)
}

fn read_file(path: &Path) -> Result<Option<ControlState>, String> {
    let describe = |error: LogError| error.to_string();
    let Some((mut log, mut state)) = LogFile::open(path).map_err(describe)? else {
        return Ok(None);
    };
    // An incomplete frame at the end was never acknowledged, or is being written now.
    for entry in log.read_new().map_err(describe)?.entries {
        let batch = maxine_state::decode_batch(&entry).map_err(|error| error.to_string())?;
        for proposal in &batch.proposals {
            state.apply(proposal, &mut Vec::new());
        }
    }
    Ok(Some(state))
}

fn write_file(path: &Path, state: &ControlState) -> Result<(), PlaceFault> {
    let describe = |error: LogError| PlaceFault::Other(error.to_string());
    let lock = try_lock(&beside(path, ".lock")).map_err(describe)?;
    let Some(_lock) = lock else {
        return Err(PlaceFault::Held(String::from("a node has it open; stop it first")));
    };
    // Nodes of the shared-file mode hold the lock only for a moment.
    let running = running_nodes(path).map_err(|error| maxine_wording::io(&error))?;
    if !running.is_empty() {
        return Err(PlaceFault::Held(format!(
            "nodes run on it and would lose their writes ({}); stop them first. A node that did not stop in the ordinary way \
             counts for {} s",
            running.join(", "),
            StoreNode::SILENT_MS / 1_000
        )));
    }
    LogFile::create(path, state, LogPlace::start()).map(drop).map_err(describe)
}
