//! The break-glass token. It gives access to a node that has lost contact with the cluster and therefore
//! accepts no other credential.
//!
//! Each start creates a new one, in a file that only its owner may read. Whoever may read that file may also
//! read the signing keys in the log, so the token gives no additional access.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;

use super::Secret;
use super::api_token::hex;

/// Prefix of the token.
const PREFIX: &str = "mxb_";
/// Name of the file in the data directory.
const FILE: &str = "break-glass";

/// The path of the token's file for the node with this data directory.
#[must_use]
pub fn break_glass_file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Whether this is the break-glass token of some node, by its form.
#[must_use]
pub fn is_break_glass(token: &str) -> bool {
    token.starts_with(PREFIX)
}

/// Creates a new token and writes it to its file, which only its owner may read. The previous token is no
/// longer valid once the node has restarted.
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
