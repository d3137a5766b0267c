//! Silences of alerts, and the file that keeps them: a restart of the node must not end one.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Most kinds that are silenced at once.
pub(crate) const SILENCES_MAX: usize = 64;
/// Longest file that is read, in bytes: more than so many silences need.
const FILE_LEN_MAX: u64 = 256 * 1024;

/// A kind of alert that is not sent to the webhook for a time. It is still listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Silence {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who silenced it.
    pub by: String,
}

/// Reads what a run before has kept. Blocks.
pub(crate) fn read(file: &Path) -> io::Result<Vec<Silence>> {
    let opened = match fs::File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    opened.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
    let mut silences: Vec<Silence> = serde_json::from_slice(&bytes)?;
    silences.truncate(SILENCES_MAX);
    Ok(silences)
}

/// Replaces the file. Blocks.
pub(crate) fn write(file: &Path, silences: &[Silence]) -> io::Result<()> {
    let draft = file.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(&serde_json::to_vec(silences)?)?;
    out.sync_all()?;
    fs::rename(&draft, file)
}
