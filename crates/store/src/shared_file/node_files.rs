//! The list of nodes in the shared-file mode. Each node has a small file in a folder next to the log, which
//! says what version it understands, and which addresses it has.
//!
//! A node rewrites its file while it runs and removes it when it stops. The age of another node's file is the
//! difference of the two files' times, which the storage sets. So no clocks are compared.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::file_log::{beside, create_new, read_short};
use crate::node_register::{KEPT_MS, NODES_MAX, StoreNode};
use maxine_state::STATE_VERSION;

/// Maximum length of a file that is read, in bytes.
const FILE_LEN_MAX: u64 = 4_096;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    state_version: u32,
    addresses: Vec<String>,
}

/// Whether the name of a file in the folder is one that nodes give. No other file is read or removed.
fn is_own_name(path: &Path) -> bool {
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let is_hash = stem.len() == 32 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && path.extension().is_none_or(|extension| extension == "new")
}

/// The names of the nodes that run on this log, according to their reports. For a program that is not a node.
pub(crate) fn running_nodes(log: &Path) -> io::Result<Vec<String>> {
    let dir = beside(log, ".nodes");
    if !fs::exists(&dir)? {
        return Ok(Vec::new());
    }
    let probe = beside(log, ".now");
    let now = create_new(&probe).and_then(|file| file.metadata()?.modified());
    fs::remove_file(&probe)?;
    let nodes = reported(&dir, now?)?.into_iter().filter(|node| !node.is_silent());
    Ok(nodes.map(|node| node.name).collect())
}

/// The nodes that have a file in the folder. `now` is the storage's time. Files that are too old are removed.
fn reported(dir: &Path, now: SystemTime) -> io::Result<Vec<StoreNode>> {
    let mut nodes = Vec::new();
    for file in fs::read_dir(dir)?.take(2 * NODES_MAX) {
        let path = file?.path();
        // Reading a pipe would block.
        let Ok(there) = fs::symlink_metadata(&path) else { continue };
        if !there.is_file() || !is_own_name(&path) {
            continue;
        }
        let age = now.duration_since(there.modified()?).unwrap_or(Duration::ZERO);
        let last_seen_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        if last_seen_ms > KEPT_MS {
            // Another node may have removed it.
            let _ = fs::remove_file(&path);
            continue;
        }
        if path.extension().is_some() {
            continue;
        }
        let Ok(Some(bytes)) = read_short(&path, FILE_LEN_MAX) else { continue };
        let Ok(Entry { name, state_version, addresses }) = serde_json::from_slice(&bytes) else {
            continue;
        };
        nodes.push(StoreNode { name, state_version, last_seen_ms, addresses });
    }
    Ok(nodes)
}

/// The folder, and the name and addresses of this node.
#[derive(Debug)]
pub(super) struct NodeFiles {
    dir: PathBuf,
    own_name: String,
    own_addresses: Vec<String>,
}

impl NodeFiles {
    pub(super) fn new(log: &Path, own_name: &str, own_addresses: Vec<String>) -> Self {
        Self { dir: beside(log, ".nodes"), own_name: own_name.to_owned(), own_addresses }
    }

    /// The name of a file is a hash of the node's name, because that may have any characters.
    fn path(&self, name: &str) -> PathBuf {
        let hash = Sha256::digest(name.as_bytes());
        let hash: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(hash)
    }

    /// Reports that this node runs. Returns the time that the storage gave to its file.
    pub(super) fn report(&self) -> io::Result<SystemTime> {
        fs::create_dir_all(&self.dir)?;
        // A link could lead to a folder of another program, whose old files would be removed.
        if !fs::symlink_metadata(&self.dir)?.is_dir() {
            let text = format!("{} is not a folder", self.dir.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
        }
        let path = self.path(&self.own_name);
        let temporary = beside(&path, ".new");
        let entry = Entry {
            name: self.own_name.clone(),
            state_version: STATE_VERSION,
            addresses: self.own_addresses.clone(),
        };
        let mut file = create_new(&temporary)?;
        file.write_all(&serde_json::to_vec(&entry)?)?;
        let modified = file.metadata()?.modified()?;
        fs::rename(&temporary, &path)?;
        Ok(modified)
    }

    /// Whether the storage takes a file of this length now. The file is removed again.
    pub(super) fn check_room(&self, len: usize) -> io::Result<()> {
        let temporary = beside(&self.path(&self.own_name), ".new");
        let written = create_new(&temporary).and_then(|mut file| {
            file.write_all(&vec![0; len])?;
            // Some storage reports only here that it is full.
            file.sync_all()
        });
        let removed = fs::remove_file(&temporary);
        written.and(removed)
    }

    /// The nodes that report, this one first. Files that are too old are removed.
    pub(super) fn nodes(&self) -> io::Result<Vec<StoreNode>> {
        let now = self.report()?;
        let own = StoreNode {
            name: self.own_name.clone(),
            state_version: STATE_VERSION,
            last_seen_ms: 0,
            addresses: self.own_addresses.clone(),
        };
        let others =
            reported(&self.dir, now)?.into_iter().filter(|node| node.name != self.own_name);
        Ok([own].into_iter().chain(others).collect())
    }

    /// Removes a node's file. Returns whether it existed.
    pub(super) fn forget(&self, name: &str) -> io::Result<bool> {
        match fs::remove_file(self.path(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes this node's own file.
    pub(super) fn leave(&self) {
        if let Err(error) = self.forget(&self.own_name) {
            tracing::info!(%error, "this node's file could not be removed; it counts as silent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_see_each_other_until_one_leaves_is_forgotten_or_is_silent_for_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("state.log");
        let files = |name: &str| NodeFiles::new(&log, name, vec![format!("{name}:80")]);
        let (one, two) = (files("one"), files("../two"));
        one.report().unwrap();
        two.report().unwrap();
        let names = |files: &NodeFiles| {
            let nodes = files.nodes().unwrap();
            assert!(
                nodes.iter().all(|node| !node.is_silent() && node.state_version == STATE_VERSION)
            );
            nodes.into_iter().map(|node| node.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&one), ["one", "../two"]);
        assert_eq!(one.nodes().unwrap()[1].addresses, ["../two:80"]);
        fs::write(one.dir.join("garbage"), b"{").unwrap();
        assert_eq!(names(&two), ["../two", "one"]);
        two.leave();
        assert_eq!(names(&one), ["one"]);
        two.report().unwrap();
        assert!(one.forget("../two").unwrap() && !one.forget("../two").unwrap());

        two.report().unwrap();
        let set_back = |ms: u64| {
            let file = fs::File::options().write(true).open(one.path("../two")).unwrap();
            let then = one.report().unwrap() - Duration::from_millis(ms);
            file.set_modified(then).unwrap();
        };
        set_back(60_000);
        let silent = one.nodes().unwrap().pop().unwrap();
        assert!(silent.is_silent() && silent.last_seen_ms >= 60_000, "{silent:?}");
        assert_eq!(running_nodes(&log).unwrap(), ["one"]);
        assert_eq!(running_nodes(&dir.path().join("other.log")).unwrap(), [""; 0]);
        set_back(KEPT_MS + 60_000);
        assert_eq!(names(&one), ["one"]);
        assert!(!one.path("../two").exists());
    }

    #[test]
    fn links_pipes_and_files_of_others_in_the_folder_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = NodeFiles::new(&dir.path().join("log"), "one", Vec::new());
        files.report().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let temporary = beside(&files.path("one"), ".new");
        std::os::unix::fs::symlink(&victim, &temporary).unwrap();
        let pipe = files.path("two");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (old, then) = (files.dir.join("notes.txt"), SystemTime::UNIX_EPOCH);
        fs::write(&old, "notes").unwrap();
        fs::File::options().write(true).open(&old).unwrap().set_modified(then).unwrap();
        let names: Vec<String> = files.nodes().unwrap().into_iter().map(|node| node.name).collect();
        assert_eq!(names, ["one"]);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(old.exists(), "a file of another program is not removed");

        let linked = NodeFiles::new(&dir.path().join("other"), "one", Vec::new());
        std::os::unix::fs::symlink(&files.dir, &linked.dir).unwrap();
        let refused = linked.nodes().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotADirectory);
    }
}
