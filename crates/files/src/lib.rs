//! Reads files that settings or arguments name, within a limit, and opens files that Maxine writes.
//!
//! Place in the flow: everything that reads a certificate, a key, a secret or a settings file reads it here. Without a
//! limit, a wrong path such as `/dev/zero` would use all memory of the machine.
//!
//! The limit counts what is read, because a device or a pipe has no length. Pipes such as `/dev/fd/63` work.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

const MIB: u64 = 1024 * 1024;
/// Maximum length of a certificate, a key, a secret or a settings file, in bytes.
pub const FILE_LEN_MAX: u64 = MIB;
/// Maximum length of a file with many certificates or a list of revoked ones, in bytes.
pub const BUNDLE_LEN_MAX: u64 = 16 * MIB;
/// Why [`open_own`] refuses a link.
pub const IS_LINK: &str = "it is a symbolic link, which is not followed; name the file itself";

/// Reads a file of at most [`FILE_LEN_MAX`]. Blocks.
///
/// # Errors
///
/// [`ErrorKind::FileTooLarge`] if it is longer; otherwise the error of the operating system.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, FILE_LEN_MAX)
}

/// The same for a file of at most [`BUNDLE_LEN_MAX`]: certificates of authorities, or lists of revoked certificates.
///
/// # Errors
///
/// See [`read`].
pub fn read_bundle(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, BUNDLE_LEN_MAX)
}

/// The same as [`read`], for a text.
///
/// # Errors
///
/// See [`read`]. [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    read_text_up_to(path, FILE_LEN_MAX)
}

/// The same as [`read_text`], with another limit in bytes.
///
/// # Errors
///
/// See [`read_text`].
pub fn read_text_up_to(path: &Path, len_max: u64) -> io::Result<String> {
    let bytes = read_up_to(path, len_max)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// The same as [`read`], on a thread for blocking work. If the future is dropped, the file is still read.
///
/// # Errors
///
/// See [`read`].
pub async fn read_on_thread(path: &Path) -> io::Result<Vec<u8>> {
    on_thread(path, read).await
}

/// The same as [`read_bundle`], on a thread for blocking work. If the future is dropped, the file is still read.
///
/// # Errors
///
/// See [`read`].
pub async fn read_bundle_on_thread(path: &Path) -> io::Result<Vec<u8>> {
    on_thread(path, read_bundle).await
}

/// The same as [`read_text`], on a thread for blocking work. If the future is dropped, the file is still read.
///
/// # Errors
///
/// See [`read_text`].
pub async fn read_text_on_thread(path: &Path) -> io::Result<String> {
    on_thread(path, read_text).await
}

async fn on_thread<T: Send + 'static>(
    path: &Path,
    read: fn(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || read(&path)).await.map_err(io::Error::other)?
}

fn read_up_to(path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more shows that there is more.
    File::open(path)?.take(len_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > len_max {
        let text = format!("it is longer than {}", len_text(len_max));
        return Err(io::Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

fn len_text(len: u64) -> String {
    if len > 0 && len.is_multiple_of(MIB) {
        format!("{} MiB", len / MIB)
    } else {
        format!("{len} bytes")
    }
}

/// Opens a file that Maxine writes. A symbolic link in its place is refused: somebody else could have put it there, so
/// that Maxine changes another file. Links in the directories of the path are followed. Blocks.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] if the path is a symbolic link; otherwise the error of the operating system.
pub fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path).map_err(|error| {
        let is_link = error.raw_os_error() == Some(Errno::ELOOP as i32) && path.is_symlink();
        if is_link { io::Error::new(ErrorKind::InvalidInput, IS_LINK) } else { error }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_of_the_maximum_length_is_read_and_a_longer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![b'x'; 1024 * 1024]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1024 * 1024);
        fs::write(&path, vec![b'x'; 1024 * 1024 + 1]).unwrap();
        for error in [read(&path).unwrap_err(), read_text(&path).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::FileTooLarge);
            assert_eq!(error.to_string(), "it is longer than 1 MiB");
        }
        assert_eq!(read_bundle(&path).unwrap().len(), 1024 * 1024 + 1);
        let error = read_text_up_to(&path, 1_000).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 1000 bytes");
    }

    /// Regression: a sparse file of 6 GB, and a device that never ends, used all memory.
    #[test]
    fn a_device_without_an_end_and_a_sparse_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (link, sparse) = (dir.path().join("link"), dir.path().join("sparse"));
        symlink("/dev/zero", &link).unwrap();
        File::create(&sparse).unwrap().set_len(6_000_000_000).unwrap();
        for path in [link, sparse] {
            assert_eq!(read_bundle(&path).unwrap_err().to_string(), "it is longer than 16 MiB");
        }
    }

    #[test]
    fn a_pipe_is_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"secret").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(read_text(Path::new(&path)).unwrap(), "secret");
    }

    #[test]
    fn a_text_that_is_not_utf_8_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    /// Regression: a link in place of a file that Maxine writes led to another file, which was changed.
    #[test]
    fn a_link_in_place_of_a_file_to_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        let error = open_own(&link, OpenOptions::new().append(true).create(true)).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        symlink(dir.path().join("none"), dir.path().join("dangling")).unwrap();
        let dangling = dir.path().join("dangling");
        assert!(open_own(&dangling, OpenOptions::new().append(true).create(true)).is_err());
        assert!(!dir.path().join("none").exists());
        // A link among the directories is followed.
        symlink(dir.path(), dir.path().join("directory")).unwrap();
        let through = dir.path().join("directory/victim");
        assert!(open_own(&through, OpenOptions::new().append(true)).is_ok());
    }
}
