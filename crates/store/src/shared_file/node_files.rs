//! The list of nodes in the shared-file mode. Each node has a small file in a folder next to the log, which
//! says what version it understands.
//!
//! A node rewrites its file while it runs and removes it when it stops. The age of another node's file is the
//! difference of the two files' times, which the storage sets. So no clocks are compared.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::file_log::beside;
use crate::node_register::{KEPT_MS, NODES_MAX, StoreNode};
use maxine_state::STATE_VERSION;

/// Maximum length of a file that is read, in bytes.
const FILE_LEN_MAX: u64 = 4_096;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    state_version: u32,
}

/// The folder, and the name of this node.
#[derive(Debug)]
pub(super) struct NodeFiles {
    dir: PathBuf,
    own_name: String,
}

impl NodeFiles {
    pub(super) fn new(log: &Path, own_name: &str) -> Self {
        Self { dir: beside(log, ".nodes"), own_name: own_name.to_owned() }
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
        let path = self.path(&self.own_name);
        let temporary = beside(&path, ".new");
        let entry = Entry { name: self.own_name.clone(), state_version: STATE_VERSION };
        // The file must be new: an existing link could lead to another program's file.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(&serde_json::to_vec(&entry)?)?;
        let modified = file.metadata()?.modified()?;
        fs::rename(&temporary, &path)?;
        Ok(modified)
    }

    /// The nodes that report, this one first. Files that are too old are removed.
    pub(super) fn nodes(&self) -> io::Result<Vec<StoreNode>> {
        let now = self.report()?;
        let own = StoreNode {
            name: self.own_name.clone(),
            state_version: STATE_VERSION,
            last_seen_ms: 0,
        };
        let mut nodes = vec![own];
        for file in fs::read_dir(&self.dir)?.take(2 * NODES_MAX) {
            let path = file?.path();
            // Reading a pipe would block.
            let Ok(there) = fs::symlink_metadata(&path) else { continue };
            if !there.is_file() {
                continue;
            }
            let age = now.duration_since(there.modified()?).unwrap_or(Duration::ZERO);
            let last_seen_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            if last_seen_ms > KEPT_MS {
                // Another node may have removed it.
                let _ = fs::remove_file(&path);
                continue;
            }
            if path.extension().is_some() || there.len() > FILE_LEN_MAX {
                continue;
            }
            let Ok(bytes) = fs::read(&path) else { continue };
            let Ok(Entry { name, state_version }) = serde_json::from_slice(&bytes) else {
                continue;
            };
            if name != self.own_name {
                nodes.push(StoreNode { name, state_version, last_seen_ms });
            }
        }
        Ok(nodes)
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
        let (one, two) = (NodeFiles::new(&log, "one"), NodeFiles::new(&log, "../two"));
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
        set_back(KEPT_MS + 60_000);
        assert_eq!(names(&one), ["one"]);
        assert!(!one.path("../two").exists());
    }
}
