//! The free space of a disk, compared with the size of what is about to be written.

use std::io;
use std::path::Path;

/// Space that stays free, in bytes, for other files of the node.
const SPARE_BYTES: u64 = 1024 * 1024;

/// The space on the disk of `path` that this process may use, in bytes. Blocks.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(path)?;
    Ok(disk.blocks_available() * disk.fragment_size())
}

/// Whether there is room for a file of `len_bytes` in `directory`. `what` names the file in the error. If the free space is
/// not known, there is room. Blocks.
///
/// # Errors
///
/// There is not enough space ([`io::ErrorKind::StorageFull`]). The text says how much is needed and how much is free.
pub fn check_room(what: &str, len_bytes: u64, directory: &Path) -> io::Result<()> {
    let Ok(free) = free_bytes(directory) else { return Ok(()) };
    let needed = len_bytes.saturating_add(SPARE_BYTES);
    if needed <= free {
        return Ok(());
    }
    let (needed, free) = (maxine_wording::size(needed), maxine_wording::size(free));
    let text =
        format!("{what} needs about {needed}, and {free} are free on {}", directory.display());
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_does_not_fit_is_refused_with_what_is_needed_and_free() {
        let dir = tempfile::tempdir().unwrap();
        check_room("the file", 1, dir.path()).unwrap();
        let refused = check_room("the file", 1 << 60, dir.path()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        let text = refused.to_string();
        assert!(text.starts_with("the file needs about 1099511627777 MiB, and "), "{text}");
        assert!(text.ends_with(&format!(" are free on {}", dir.path().display())), "{text}");
        // A disk of which nothing is known refuses nothing.
        check_room("the file", 1 << 60, &dir.path().join("missing")).unwrap();
    }
}
