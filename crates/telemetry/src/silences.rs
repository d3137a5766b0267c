//! Silences of alerts, and the file that stores them, so that a restart of the node does not end them.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::alert_kind::AlertKind;
use super::stored_file;

/// Maximum number of kinds that are silenced at the same time.
pub(crate) const SILENCES_MAX: usize = 64;
/// Maximum length of the file, in bytes. The maximum number of silences needs less.
const FILE_LEN_MAX: u64 = 256 * 1024;

/// A kind of alert that is not sent to the webhook for a time. It is still listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Silence {
    /// The kind.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: AlertKind,
    /// End of the silence, in milliseconds since 1970.
    pub until_ms: u64,
    /// The reason that the operator gave.
    pub reason: String,
    /// The user who silenced it.
    pub by: String,
}

/// Reads the silences that were stored before the start. Blocks.
pub(crate) fn read(file: &Path) -> io::Result<Vec<Silence>> {
    let Some(bytes) = stored_file::read(file, FILE_LEN_MAX)? else { return Ok(Vec::new()) };
    let stored: Vec<serde_json::Value> = serde_json::from_slice(&bytes)?;
    // Another version may have silenced a kind that this one does not raise.
    let known = stored.into_iter().filter_map(|silence| match serde_json::from_value(silence) {
        Ok(silence) => Some(silence),
        Err(error) => {
            tracing::warn!(%error, "a silence of alerts cannot be read: it is not in force");
            None
        }
    });
    Ok(known.take(SILENCES_MAX).collect())
}

/// Replaces the file. Blocks.
pub(crate) fn write(file: &Path, silences: &[Silence]) -> io::Result<()> {
    stored_file::replace(file, &serde_json::to_vec(silences)?)
}
