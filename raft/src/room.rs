//! The free space of a disk, compared with the size of what is about to be written.

use std::io;
use std::path::Path;

/// Space that stays free, in bytes: the log of the node allocates this much at a time.
pub(crate) const SPARE_BYTES: u64 = 8 * 1024 * 1024;

/// The space on the disk of `path` that this process may use, in bytes. Blocks.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(path)?;
    Ok(disk.blocks_available() * disk.fragment_size())
}

/// Whether there is room for a file of `len_bytes` in `directory`, so that the log can continue beside it. `what` names the
/// file in the error. If the free space is not known, there is room. Blocks.
///
/// # Errors
///
/// There is not enough space ([`io::ErrorKind::StorageFull`]). The text says how much is needed and how much is free.
pub fn check_room(what: &str, len_bytes: u64, directory: &Path) -> io::Result<()> {
    check_room_beside(SPARE_BYTES, what, len_bytes, directory)
}

/// The same, with another size of the space that stays free.
pub(crate) fn check_room_beside(
    spare_bytes: u64,
    what: &str,
    len_bytes: u64,
    directory: &Path,
) -> io::Result<()> {
    let Ok(free) = free_bytes(directory) else { return Ok(()) };
    if len_bytes.saturating_add(spare_bytes) <= free {
        return Ok(());
    }
    let [needed, spare, free] = [len_bytes, spare_bytes, free].map(maxine_wording::size);
    let place = directory.display();
    let text = format!(
        "{what} needs about {needed}, {spare} more must stay free, and {free} are free on {place}"
    );
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
        assert!(
            text.starts_with(
                "the file needs about 1099511627776 MiB, 8192 KiB more must stay free, and "
            ),
            "{text}"
        );
        assert!(text.ends_with(&format!(" are free on {}", dir.path().display())), "{text}");
        // A disk of which nothing is known refuses nothing.
        check_room("the file", 1 << 60, &dir.path().join("missing")).unwrap();
    }
}
