//! Opens files in directories that other programs can write to.
//!
//! Whoever opens a pipe waits until something opens its other end, perhaps forever. So every file that has to exist is
//! opened here: the open does not wait, and anything else than a regular file is an error.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Opens a regular file. A link to one is followed.
pub(crate) fn open(options: &OpenOptions, path: &Path) -> io::Result<File> {
    open_with(options, path, OFlag::O_NONBLOCK)
}

/// Opens a regular file. A link is an error, because it could lead to another program's file.
pub(crate) fn open_no_link(options: &OpenOptions, path: &Path) -> io::Result<File> {
    open_with(options, path, OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)
}

fn open_with(options: &OpenOptions, path: &Path, flags: OFlag) -> io::Result<File> {
    let opened = options.clone().custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        // It is a link, a directory, or a pipe or a socket that nothing reads.
        Some(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => not_regular(),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}
