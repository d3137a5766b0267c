//! One small file for each node, in a folder beside the log: what the node understands. Its time is the storage's own.
//!
//! A node rewrites its file while it runs and removes it when it stops. How old another one's file is follows from the
//! times that the storage gave to both, so that no two clocks are compared.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::file_log::beside;
use crate::node_register::{KEPT_MS, NODES_MAX, StoreNode};
use maxine_state::STATE_VERSION;

/// Longest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 4_096;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    state_version: u32,
}

/// The folder, for the node that this is.
#[derive(Debug)]
pub(super) struct NodeFiles {
    dir: PathBuf,
    own_name: String,
}

impl NodeFiles {
    pub(super) fn new(log: &Path, own_name: &str) -> Self {
        Self { dir: beside(log, ".nodes"), own_name: own_name.to_owned() }
    }

    /// Names may have any characters, so a hash of the name is the file's.
    fn path(&self, name: &str) -> PathBuf {
        let hash = Sha256::digest(name.as_bytes());
        let hash: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(hash)
    }

    /// Says that this node runs; the time that the storage gave to it.
    pub(super) fn report(&self) -> io::Result<SystemTime> {
        fs::create_dir_all(&self.dir)?;
        let path = self.path(&self.own_name);
        let temporary = beside(&path, ".new");
        let entry = Entry { name: self.own_name.clone(), state_version: STATE_VERSION };
        // What is opened must be new: a link there would lead to a file of somebody else.
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

    /// The nodes that report, this one first; files that are too old are removed.
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
            // A pipe would keep whoever reads it waiting.
            let Ok(there) = fs::symlink_metadata(&path) else { continue };
            if !there.is_file() {
                continue;
            }
            let age = now.duration_since(there.modified()?).unwrap_or(Duration::ZERO);
            let last_seen_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            if last_seen_ms > KEPT_MS {
                // Somebody else may have removed it.
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

    /// Takes a node's file away; whether it was there.
    pub(super) fn forget(&self, name: &str) -> io::Result<bool> {
        match fs::remove_file(self.path(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes this node's own file away.
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
