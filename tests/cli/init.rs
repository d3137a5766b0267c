//! `maxine init`: the folders that it writes start a cluster, and it never changes a file that exists.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use super::*;

/// Every file and folder below `dir`, with its mode and its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.metadata().unwrap();
        let is_dir = metadata.is_dir();
        let content = if is_dir { Vec::new() } else { std::fs::read(&path).unwrap() };
        if is_dir {
            found.extend(tree(&path));
        }
        found.insert(path, (metadata.mode() & 0o777, content));
    }
    found
}

/// Nodes that are stopped when dropped.
struct Nodes(Vec<Serving>);

impl Drop for Nodes {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Serving::stop);
    }
}

/// Starts nodes with the files that were written. Only the places of the files and the address to listen on are changed,
/// because all nodes run on this machine.
fn start(home: &Path, dir: &Path, ids: &[u64]) -> Nodes {
    let mut nodes = Nodes(Vec::new());
    for id in ids {
        let folder = dir.join(format!("node-{id}"));
        let written = std::fs::read_to_string(folder.join("maxine.toml")).unwrap();
        let settings = written
            .replace("/etc/maxine/tls", folder.join("tls").to_str().unwrap())
            .replace("/var/lib/maxine", home.join(format!("data-{id}")).to_str().unwrap())
            .replace("0.0.0.0", &format!("127.0.0.{id}"));
        let file = home.join(format!("{id}.toml"));
        std::fs::write(&file, settings).unwrap();
        let config = format!("--config={}", file.display());
        let checked = plain(&["config", "check", &config]).output().unwrap();
        assert_eq!(code(&checked), 0, "{}", text(&checked.stderr));
        let good = "the settings are good; the data of the node was not checked\n";
        assert_eq!(text(&checked.stdout), good, "{}", text(&checked.stderr));
        nodes.0.push(serving(&[config]));
    }
    nodes
}

/// Waits until `look` finds something.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < TIME_TO_START, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_folders_of_a_new_cluster_start_it_with_tls() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let dir = home.join("shop");
    let [http, raft] = [free_port(), free_port()].map(|port| port.to_string());
    let init = |more: &[&str]| {
        let hosts = "127.0.0.1,127.0.0.2,127.0.0.3";
        let init = ["init", dir.to_str().unwrap(), "--nodes", hosts, "--cluster-id", "shop"];
        let ports = ["--http-port", &http, "--raft-port", &raft];
        plain(&[&init[..], &ports, more].concat()).output().unwrap()
    };
    let made = init(&["--output", "json"]);
    assert_eq!(code(&made), 0, "{}", text(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["nodes"].as_array().unwrap().len(), 3, "{made}");
    assert_eq!(made["start_commands"].as_array().unwrap().len(), 6, "{made}");

    let written = tree(&dir);
    for (path, (mode, _)) in &written {
        let is_script = path.ends_with("install.sh");
        let want = if path.is_dir() || is_script { 0o700 } else { 0o600 };
        assert_eq!(*mode, want, "{}", path.display());
        if is_script {
            let checked = Command::new("sh").arg("-n").arg(path).output().unwrap();
            assert!(checked.status.success(), "{}", text(&checked.stderr));
        }
    }
    let keys = written.keys().filter(|path| path.ends_with("ca-key.pem"));
    assert_eq!(keys.collect::<Vec<_>>(), [&dir.join("tls/ca-key.pem")], "no node gets this key");
    let of_node = |id: u64| std::fs::read_dir(dir.join(format!("node-{id}/tls"))).unwrap().count();
    assert_eq!([1, 2, 3].map(of_node), [3, 3, 3], "a node gets its own key alone");

    let again = init(&[]);
    assert_eq!(code(&again), 2, "{}", text(&again.stdout));
    assert!(text(&again.stderr).contains("exists already"), "{}", text(&again.stderr));
    assert_eq!(tree(&dir), written, "a second run changed files");

    let _nodes = start(home, &dir, &[1, 2, 3]);
    let servers: Vec<&str> = made["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|node| node["http_addr"].as_str())
        .collect();
    let run = |args: &[&str], password: &str| {
        let mut command = plain(args);
        command
            .env("MAXINE_SERVER", servers.join(","))
            .env("MAXINE_CA_FILE", dir.join("tls/ca.pem"))
            .env("MAXINE_SESSION_FILE", home.join("session.json"))
            .env("MAXINE_PASSWORD", password);
        command.output().unwrap()
    };
    wait_for("the cluster has a leader", || {
        run(&["health", "--ready"], "").status.success().then_some(())
    });
    let passwords = || -> Vec<String> {
        let files = (1..=3).map(|id| home.join(format!("data-{id}/initial-password")));
        files.filter_map(|file| std::fs::read_to_string(file).ok()).collect()
    };
    let password = wait_for("a node shows the first password", || {
        passwords().into_iter().find(|text| text.ends_with('\n'))
    });
    assert_eq!(passwords().len(), 1, "one node makes the administrator");
    let login = run(&["login", "--user", "admin"], password.trim());
    assert_eq!(code(&login), 0, "{}", text(&login.stderr));
    let voters = || -> Vec<u64> {
        let status = run(&["cluster", "status", "--output", "json"], "");
        assert_eq!(code(&status), 0, "{}", text(&status.stderr));
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let members = status["raft"]["members"].as_array().unwrap().iter();
        members.filter(|member| member["voter"] == true).filter_map(|m| m["id"].as_u64()).collect()
    };
    assert_eq!(voters(), [1, 2, 3]);
    let dir_name = dir.to_str().unwrap();
    let join = |args: &[&str]| run(&[&["join", "--dir", dir_name][..], args].concat(), "");
    let maxine = |command: &str| run(&command.split(' ').skip(1).collect::<Vec<_>>(), "");
    let _further = a_further_node_joins(home, &dir, join, maxine);
    assert_eq!(voters(), [1, 2, 3, 4]);

    // Without the authority's certificate, a client does not trust the nodes.
    let mut stranger = plain(&["health"]);
    let stranger = stranger.env("MAXINE_SERVER", servers[0]).output().unwrap();
    assert_ne!(code(&stranger), 0, "{}", text(&stranger.stdout));
}

/// `join` runs `maxine join` with further arguments, and `maxine` a whole command as it was printed. Returns the node, which
/// has a vote.
fn a_further_node_joins(
    home: &Path,
    dir: &Path,
    join: impl Fn(&[&str]) -> Output,
    maxine: impl Fn(&str) -> Output,
) -> Nodes {
    let before = tree(dir);
    let taken = join(&["127.0.0.1"]);
    assert_eq!(code(&taken), 2, "{}", text(&taken.stderr));
    assert_eq!(tree(dir), before, "something was written");
    let made = join(&["127.0.0.4", "--output", "json"]);
    assert_eq!(code(&made), 0, "{}", text(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["id"], 4, "{made}");
    let after = tree(dir);
    assert!(before.iter().all(|(path, was)| after.get(path) == Some(was)), "a file was changed");
    for (path, (mode, _)) in after.iter().filter(|(path, _)| !before.contains_key(*path)) {
        let want = if path.is_dir() || path.ends_with("install.sh") { 0o700 } else { 0o600 };
        assert_eq!(*mode, want, "{}", path.display());
    }
    let (sign_in, url) = (&made["sign_in_commands"][0], made["http_addr"].as_str().unwrap());
    assert!(sign_in.as_str().unwrap().ends_with(url), "{made}");
    let numbers: [&[&str]; 3] = [&[], &["--node-id", "4"], &["--node-id", "5"]];
    for number in numbers {
        let again = join(&[&["127.0.0.4"][..], number].concat());
        assert_eq!(code(&again), 2, "{}", text(&again.stderr));
        assert!(text(&again.stderr).contains("node-4 has the files"), "{}", text(&again.stderr));
    }
    assert_eq!(tree(dir), after, "something was written");

    let node = start(home, dir, &[4]);
    let added = maxine(made["add_command"].as_str().unwrap());
    if code(&added) == 5 {
        // It is a learner, and has not caught up yet.
        wait_for("the new node gets its vote", || {
            let promoted = maxine("maxine cluster promote 4");
            promoted.status.success().then_some(())
        });
    } else {
        assert_eq!(code(&added), 0, "{}", text(&added.stderr));
    }
    node
}

#[test]
fn nodes_are_not_asked_for_without_a_terminal() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("shop");
    let output = plain(&["init", dir.to_str().unwrap()]).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("--nodes is missing"), "{}", text(&output.stderr));
    let twice = plain(&["init", dir.to_str().unwrap(), "--nodes", "a,b,a"]).output().unwrap();
    assert_eq!(code(&twice), 2);
    assert!(text(&twice.stderr).contains("names a twice"), "{}", text(&twice.stderr));
    assert!(!dir.exists());
}
