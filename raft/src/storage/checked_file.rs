//! A small file that is always written as a whole, durably, and whose checksum is verified when it is read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::{damaged, sync_dir};
use crate::codec::{self, Body};

/// The last content of the file; `None` if there is no file. A damaged file is an error. Blocks.
pub(crate) fn read<B: Body>(dir: &Path, name: &str) -> io::Result<Option<B>> {
    let bytes = match maxine_files::read_regular(&dir.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
    };
    let (sum, body) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged(format!("the {name} file is cut short")))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(damaged(format!("the {name} file fails its checksum")));
    }
    codec::decode(body).map(Some).map_err(|error| damaged(format!("{name} file: {error}")))
}

/// Replaces the file. After a power failure it has either the old or the new content. Blocks.
pub(crate) fn write<B: Body>(dir: &Path, name: &str, body: &B) -> io::Result<()> {
    let body = codec::encode(body);
    let mut bytes = crc32c::crc32c(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let unfinished = dir.join(format!("{name}.tmp"));
    // Whatever is there must not be written to: opening a pipe would block.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&unfinished)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(name))?;
    sync_dir(dir)
}
