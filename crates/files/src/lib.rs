//! Opens files in directories that other programs can write to.
//!
//! Whoever opens a pipe waits until something opens its other end, perhaps forever. So a file of a node is opened here:
//! the open does not wait, and anything else than a regular file is an error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Opens a regular file. A link to one is followed.
///
/// # Errors
///
/// The file cannot be opened, or it is not a regular file.
pub fn open(options: &OpenOptions, path: &Path) -> io::Result<File> {
    open_with(options, path, OFlag::O_NONBLOCK)
}

/// Opens a regular file. A link is an error, because it could lead to another program's file.
///
/// # Errors
///
/// The file cannot be opened, or it is not a regular file.
pub fn open_no_link(options: &OpenOptions, path: &Path) -> io::Result<File> {
    open_with(options, path, OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW)
}

/// Reads a whole regular file. A link to one is followed.
///
/// # Errors
///
/// The file cannot be read, or it is not a regular file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(OpenOptions::new().read(true), path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

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
                    read(&path).map(drop),
                    open(&both, &path).map(drop),
                    open(&write, &path).map(drop),
                    open_no_link(&both, &path).map(drop),
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
        assert_eq!(read(&file).unwrap(), b"text");
        assert_eq!(read(&link).unwrap(), b"text");
        let options = OpenOptions::new().read(true).clone();
        assert!(open_no_link(&options, &file).is_ok());
        let refused = open_no_link(&options, &link).unwrap_err().to_string();
        assert_eq!(refused, "it is not a regular file");
        let missing = read(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
