//! The break-glass token: the way in for whoever may read the node's data directory, when no other
//! credential counts because the node has lost contact with the cluster.
//!
//! It is made at each start and only ever read by its owner. Whoever may read it may read the log with
//! the signing keys too, so it gives nobody more than they have.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;

use super::Secret;
use super::api_token::hex;

/// What the token begins with.
pub(super) const PREFIX: &str = "mxb_";
/// The file's name in the data directory.
const FILE: &str = "break-glass";

/// Where the token of the node with this data directory is.
#[must_use]
pub fn break_glass_file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Makes a new token and writes it to its file, which only its owner may read. The one before stops
/// working with the node that knew it.
pub fn make_break_glass_token(data_dir: &Path) -> io::Result<Secret> {
    let mut secret = [0_u8; 32];
    OsRng.try_fill_bytes(&mut secret).map_err(io::Error::other)?;
    let text = format!("{PREFIX}{}", hex(&secret));
    let path = break_glass_file(data_dir);
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    Ok(Secret::new(&text))
}
