//! Reads files that settings or arguments name, within a limit, and opens files of a node.
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
    read_from(File::open(path)?, len_max)
}

fn read_from(file: File, len_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more shows that there is more.
    file.take(len_max.saturating_add(1)).read_to_end(&mut bytes)?;
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

/// Reads a whole regular file of at most [`FILE_LEN_MAX`]. A link to one is followed. Blocks, but waits for no pipe.
///
/// # Errors
///
/// See [`open`] and [`read`].
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    read_from(open(OpenOptions::new().read(true), path)?, FILE_LEN_MAX)
}

/// Opens a regular file. A link to one is followed. Whoever opens a pipe waits until something opens its other end,
/// perhaps forever, so anything else than a regular file is an error.
///
/// # Errors
///
/// The file cannot be opened, or it is not a regular file.
pub fn open(options: &OpenOptions, path: &Path) -> io::Result<File> {
    open_with(options, path, OFlag::O_NONBLOCK)
}

/// The same as [`open`], for a file that only Maxine writes. A symbolic link in its place is refused: somebody else
/// could have put it there, so that Maxine changes another file. Links in the directories of the path are followed.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`] if the path is a symbolic link; otherwise see [`open`].
pub fn open_own(options: &OpenOptions, path: &Path) -> io::Result<File> {
    open_with(options, path, OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)
}

fn open_with(options: &OpenOptions, path: &Path, flags: OFlag) -> io::Result<File> {
    let not_regular = || io::Error::other("it is not a regular file");
    let opened = options.clone().custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) if path.is_symlink() => io::Error::new(ErrorKind::InvalidInput, IS_LINK),
        // It is a directory, or a pipe or a socket that nothing reads.
        Some(Errno::EISDIR | Errno::ENXIO) => not_regular(),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::channel;
    use std::time::Duration;

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
        let error = open_own(OpenOptions::new().append(true).create(true), &link).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        symlink(dir.path().join("none"), dir.path().join("dangling")).unwrap();
        let dangling = dir.path().join("dangling");
        assert!(open_own(OpenOptions::new().append(true).create(true), &dangling).is_err());
        assert!(!dir.path().join("none").exists());
        // A link among the directories is followed.
        symlink(dir.path(), dir.path().join("directory")).unwrap();
        let through = dir.path().join("directory/victim");
        assert!(open_own(OpenOptions::new().append(true), &through).is_ok());
    }

    #[test]
    fn a_pipe_a_directory_and_a_socket_are_errors_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        std::fs::create_dir(path("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for name in ["pipe", "directory", "socket"] {
            let (sender, done) = channel();
            let path = path(name);
            std::thread::spawn(move || {
                let both = OpenOptions::new().read(true).write(true).clone();
                let write = OpenOptions::new().create(true).append(true).clone();
                let results = [
                    read_regular(&path).map(drop),
                    open(&both, &path).map(drop),
                    open(&write, &path).map(drop),
                    open_own(&both, &path).map(drop),
                ];
                sender.send(results.map(|result| result.unwrap_err().to_string()))
            });
            let errors = done.recv_timeout(Duration::from_secs(10)).expect("it does not wait");
            assert!(errors.iter().all(|error| error == "it is not a regular file"), "{errors:?}");
        }
    }

    #[test]
    fn a_regular_file_is_opened_and_a_link_to_one_only_where_it_may_be_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_regular(&file).unwrap(), b"text");
        assert_eq!(read_regular(&link).unwrap(), b"text");
        let options = OpenOptions::new().read(true).clone();
        assert!(open_own(&options, &file).is_ok());
        let refused = open_own(&options, &link).unwrap_err().to_string();
        assert_eq!(refused, IS_LINK);
        let missing = read_regular(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
