//! Writes a streamed answer to a file, either completely or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::exit::CliError;

/// Maximum time without data in the middle of a download, in milliseconds.
const SILENCE_MS_MAX: u64 = 60_000;

/// Checks that `file` can be made, before anything is requested: a node records what it has sent.
///
/// # Errors If it exists already, or if its directory does not exist.
pub fn check_target(file: &Path) -> Result<(), CliError> {
    if file.exists() {
        return Err(CliError::Usage(format!("{} exists already", file.display())));
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    if directory.is_some_and(|directory| !directory.is_dir()) {
        return Err(CliError::Usage(format!("{}: there is no such directory", file.display())));
    }
    Ok(())
}

/// Writes the answer to a file beside `file`, syncs it, and renames it only when it is complete. An existing
/// file is not replaced. Only the owner may read the file, because it can contain secrets. Returns its length
/// in bytes.
///
/// # Errors When the stream breaks or the file cannot be written. No part of the file is left then.
pub async fn to_file(response: &mut reqwest::Response, file: &Path) -> Result<u64, CliError> {
    check_target(file)?;
    let mut name = file.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(".part");
    let draft = file.with_file_name(name);
    let result = fill(response, &draft).await.and_then(|len| {
        fs::rename(&draft, file)?;
        Ok(len)
    });
    if result.is_err() {
        // The draft may not exist. Only the earlier error is reported, because it is the cause.
        let _ = fs::remove_file(&draft);
    }
    result.map_err(|error| match error {
        CliError::Failed(why) => CliError::Failed(format!("{}: {why}", file.display())),
        error => error,
    })
}

/// Makes a file that only its owner can read. An existing one is deleted first: it belongs to somebody else, or to a
/// command that was cut off. The file must be new, so that neither a link nor the rights of an older file determine who
/// may read it.
///
/// # Errors When it cannot be made.
pub(super) fn new_private_file(path: &Path) -> std::io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

// Blocking writes are acceptable here: they are short compared with the network, and this process does
// nothing else.
async fn fill(response: &mut reqwest::Response, draft: &Path) -> Result<u64, CliError> {
    let mut out = new_private_file(draft)?;
    let expected = response.content_length();
    let mut len = 0;
    loop {
        let chunk = tokio::time::timeout(Duration::from_millis(SILENCE_MS_MAX), response.chunk())
            .await
            .map_err(|_| CliError::Failed("the node sent nothing for 60 s".into()))?
            .map_err(|error| CliError::Failed(format!("the connection was lost: {error}")))?;
        let Some(chunk) = chunk else { break };
        out.write_all(&chunk)?;
        len += chunk.len() as u64;
    }
    if expected.is_some_and(|expected| expected != len) {
        return Err(CliError::Failed(format!("the stream ended after {len} bytes")));
    }
    out.sync_all()?;
    Ok(len)
}
