//! Small files that outlive the process: read within a limit, and replaced as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a file up to `len_max` bytes. `None` if it does not exist. Blocks.
pub(super) fn read(file: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let opened = match maxine_files::open(OpenOptions::new().read(true), file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    opened.take(len_max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Replaces a file, which only its owner can read. Blocks.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&draft, file)
}
