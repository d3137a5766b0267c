//! The folder of `maxine dev`: the process that uses it, the ports of its nodes, and how they are started.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use maxine_raft::pki::{ClusterPki, NODE_DAYS, Validity, issue_cluster};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::config::BackendKind;
use maxine_clock::Clock;

const DEFAULT_PORT: u16 = 8080;
/// Maximum number of ports that are tried until a free one is found.
const PORT_TRIES: u32 = 200;
const CLUSTER_ID: &str = "maxine-dev";
/// How long the one-time password may take after the cluster is ready.
const PASSWORD_TIMEOUT: Duration = Duration::from_secs(20);

/// The number and the ports of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DevNode {
    pub(super) id: u64,
    http_port: u16,
    peer_port: u16,
}

impl DevNode {
    pub(super) fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    pub(super) fn peer_addr(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }
}

/// The content of `dev.json`, which is kept between runs.
#[derive(Serialize, Deserialize)]
struct Kept {
    backend: BackendKind,
    nodes: Vec<DevNode>,
}

/// The folder, locked for as long as this lives.
pub(super) struct Folder {
    dir: PathBuf,
    /// Whether the folder was empty before this run.
    pub(super) is_new: bool,
    program: PathBuf,
    _lock: File,
}

/// Asks the process that holds a folder to bring its dead children back.
pub(super) fn ask_to_restart(pid: i32) -> anyhow::Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGUSR1)
        .with_context(|| format!("process {pid} cannot be reached"))
}

impl Folder {
    /// Locks the folder, or returns the process that has locked it.
    pub(super) fn open(dir: &Path, fresh: bool) -> anyhow::Result<Result<Self, i32>> {
        let describe = || format!("{} cannot be used", dir.display());
        fs::create_dir_all(dir).with_context(describe)?;
        let dir = dir.canonicalize().with_context(describe)?;
        let path = dir.join("dev.lock");
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(describe)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                lock.read_to_string(&mut text)?;
                return Ok(Err(text.trim().parse().unwrap_or(0)));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(describe),
        }
        if fresh {
            Self::clear(&dir)?;
        }
        lock.set_len(0)?;
        lock.rewind()?;
        write!(lock, "{}", std::process::id())?;
        lock.flush()?;
        let program = std::env::current_exe().context("the program's own path is not known")?;
        let is_new = !dir.join("dev.json").exists();
        crate::app::private::restrict_tree(&dir);
        Ok(Ok(Self { dir, is_new, program, _lock: lock }))
    }

    /// Deletes the data of an earlier run, and nothing else.
    fn clear(dir: &Path) -> anyhow::Result<()> {
        if !dir.join("dev.json").exists() {
            return Ok(());
        }
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let ours =
                name.starts_with("node-") || ["tls", "redis", "shared", "logs"].contains(&name);
            if ours && path.is_dir() {
                fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
            }
        }
        fs::remove_file(dir.join("dev.json"))?;
        Ok(())
    }

    /// The nodes of the last run in this folder, or new ones.
    pub(super) fn nodes(
        &self,
        count: u64,
        backend: BackendKind,
        port: Option<u16>,
    ) -> anyhow::Result<Vec<DevNode>> {
        let path = self.dir.join("dev.json");
        let kept: Option<Kept> = match fs::read(&path) {
            Ok(bytes) => {
                Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?)
            }
            Err(_) => None,
        };
        if let Some(kept) = &kept
            && (kept.backend != backend || kept.nodes.len() as u64 != count)
        {
            bail!(
                "{} holds a cluster of {} in {} mode: give --nodes {} --backend {}, or --fresh to delete them",
                self.dir.display(),
                maxine_wording::count(kept.nodes.len(), "node"),
                kept.backend.as_str(),
                kept.nodes.len(),
                kept.backend.as_str()
            );
        }
        let first = match (&kept, port) {
            (_, Some(port)) => Some(port),
            (Some(_), None) => None,
            (None, None) => Some(DEFAULT_PORT),
        };
        let mut given = BTreeSet::new();
        let mut nodes = Vec::new();
        for id in 1..=count {
            let old = kept.as_ref().and_then(|kept| kept.nodes.iter().find(|node| node.id == id));
            let http_port = match (first, old) {
                (Some(0), _) => free_port(&mut given)?,
                (Some(first), _) => {
                    u16::try_from(u64::from(first) + id - 1).context("--port is too high")?
                }
                (None, Some(old)) => old.http_port,
                (None, None) => free_port(&mut given)?,
            };
            if !is_free(http_port) {
                bail!(
                    "port {http_port} is taken: give another with --port (or --port 0 for free ones)"
                );
            }
            // The address of a member is part of the cluster's state, so it never changes.
            let peer_port = match old {
                Some(old) => old.peer_port,
                None => free_port(&mut given)?,
            };
            nodes.push(DevNode { id, http_port, peer_port });
        }
        let kept = Kept { backend, nodes: nodes.clone() };
        fs::write(&path, serde_json::to_vec_pretty(&kept)?)?;
        Ok(nodes)
    }

    /// A port that this run chose for one of its nodes and on which another process listens. `port` is the one
    /// that the user asked for. Call it when no node runs.
    pub(super) fn lost_port(&self, nodes: &[DevNode], port: Option<u16>) -> Option<u16> {
        let peers = nodes.iter().filter(|_| self.is_new).map(|node| node.peer_port);
        let http = nodes.iter().filter(|_| port == Some(0)).map(|node| node.http_port);
        peers.chain(http).find(|port| !is_free(*port))
    }

    /// Deletes what a first start that failed has written. The data of an earlier run stays.
    pub(super) fn undo_first_start(&self) -> anyhow::Result<()> {
        if self.is_new { Self::clear(&self.dir) } else { Ok(()) }
    }

    pub(super) fn node_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Creates an authority and a certificate for each node. Existing files are kept.
    pub(super) fn issue_certificates(&self, nodes: &[DevNode]) -> anyhow::Result<ClusterPki> {
        let ids: Vec<u64> = nodes.iter().map(|node| node.id).collect();
        let validity = Validity { now_ms: Clock::system().wall_ms(), node_days: NODE_DAYS };
        issue_cluster(&self.dir.join("tls"), CLUSTER_ID, &ids, validity)
            .context("certificates cannot be made")
    }

    /// The command that starts one node. Secrets are passed only in the environment.
    pub(super) fn node_command(
        &self,
        node: &DevNode,
        nodes: &[DevNode],
        backend: BackendKind,
        redis_url: Option<&str>,
        tls: Option<&ClusterPki>,
    ) -> anyhow::Result<Command> {
        let dir = self.node_dir(node.id);
        fs::create_dir_all(&dir)?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--exit-with-stdin"]);
        let mut set = |flag: &str, value: String| {
            command.arg(format!("--{flag}={value}"));
        };
        set("mode", backend.as_str().into());
        set("node-id", node.id.to_string());
        set("instance-id", format!("node-{}", node.id));
        set("data-dir", dir.display().to_string());
        set("port", node.http_port.to_string());
        set("initial-password-file", self.password_file(node.id).display().to_string());
        match backend {
            BackendKind::Raft => {
                let member = |n: &DevNode| format!("{}@{}@{}", n.id, n.peer_addr(), n.http_url());
                set("cluster-id", CLUSTER_ID.into());
                set("raft-listen", node.peer_addr());
                set("raft-members", nodes.iter().map(member).collect::<Vec<_>>().join(","));
                if let Some(tls) = tls
                    && let Some(own) = tls.nodes.iter().find(|own| own.node_id == node.id)
                {
                    set("raft-tls-ca", tls.ca_pem.display().to_string());
                    set("raft-tls-cert", own.cert_pem.display().to_string());
                    set("raft-tls-key", own.key_pem.display().to_string());
                }
            }
            BackendKind::SharedFile => {
                fs::create_dir_all(self.path("shared"))?;
                set(
                    "state-file",
                    self.path("shared").join("registry-state.json").display().to_string(),
                );
            }
            BackendKind::Redis | BackendKind::Local => {}
        }
        if let Some(url) = redis_url {
            command.env("MAXINE_REGISTRY_REDIS_URL", url);
        }
        Ok(command)
    }

    /// The command that starts one instance of a sample service.
    pub(super) fn sample_command(
        &self,
        nodes: &[DevNode],
        service: &str,
        instance: &str,
    ) -> anyhow::Result<Command> {
        let servers: Vec<String> = nodes.iter().map(DevNode::http_url).collect();
        let mut command = Command::new(&self.program);
        command.args(["sample", "--service", service, "--instance", instance]);
        command.args(["--servers", &servers.join(",")]);
        Ok(command)
    }

    fn password_file(&self, id: u64) -> PathBuf {
        self.node_dir(id).join("initial-password")
    }

    /// Reads the one-time password that the first start creates, and deletes its file. The file appears a
    /// moment after the cluster is ready, because hashing the password takes time.
    pub(super) async fn take_password(&self) -> Option<String> {
        let from_environment = std::env::var_os("MAXINE_ADMIN_PASSWORD").is_some();
        if !self.is_new || from_environment {
            return None;
        }
        let look = async {
            loop {
                for id in 1..=9 {
                    let path = self.password_file(id);
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    if text.ends_with('\n') {
                        // If the file cannot be deleted, the password is only shown again.
                        let _kept = fs::remove_file(&path);
                        return text.trim().to_owned();
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PASSWORD_TIMEOUT, look).await.ok()
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port on which nobody listens and that is not in `given`, to which it is added. It is below the range from
/// which the system chooses, so that no outgoing connection takes it before the child listens. Another process
/// that listens can take it: see [`Folder::lost_port`].
pub(super) fn free_port(given: &mut BTreeSet<u16>) -> anyhow::Result<u16> {
    for _ in 0..PORT_TRIES {
        let port = fastrand::u16(15_000..32_000);
        if is_free(port) && given.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free port was found between 15000 and 32000")
}
