//! Starts, watches, reports and stops the child processes of `maxine dev`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::layout::{Folder, free_port};

/// How long the children may take to stop by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// Maximum number of ended children that wait to be reported.
const ENDED_MAX: usize = 64;

/// One child: how to start it, and whether it runs.
pub(super) struct Child {
    name: String,
    node: Option<u64>,
    command: Command,
    log: PathBuf,
    running: Option<Running>,
}

struct Running {
    pid: i32,
    // The child stops when this end of its standard input is closed, however this process ends.
    _stdin: Option<tokio::process::ChildStdin>,
}

impl Child {
    pub(super) fn node(id: u64, command: Command, log: PathBuf) -> Self {
        Self { name: format!("node-{id}"), node: Some(id), command, log, running: None }
    }

    pub(super) fn sample(name: &str, command: Command, log: PathBuf) -> Self {
        Self { name: name.into(), node: None, command, log, running: None }
    }
}

/// A child that ended although it was not asked to stop.
pub(super) struct Ended {
    name: String,
    pid: i32,
    how: String,
    log: PathBuf,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pid, how, log } = self;
        write!(f, "{name} (process {pid}) ended: {how}; its log is {}", log.display())
    }
}

/// All child processes.
pub(super) struct Children {
    children: Vec<Child>,
    ended: mpsc::Receiver<Ended>,
    report: mpsc::Sender<Ended>,
}

impl Default for Children {
    fn default() -> Self {
        let (report, ended) = mpsc::channel(ENDED_MAX);
        Self { children: Vec::new(), ended, report }
    }
}

impl Children {
    /// Starts a child and keeps it.
    pub(super) async fn add(&mut self, mut child: Child) -> anyhow::Result<()> {
        self.start(&mut child)?;
        self.children.push(child);
        Ok(())
    }

    fn start(&self, child: &mut Child) -> anyhow::Result<()> {
        if let Some(dir) = child.log.parent() {
            fs::create_dir_all(dir)?;
        }
        let log = File::options().create(true).append(true).open(&child.log)?;
        let mut process = child
            .command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            // The child has its own process group, so that Ctrl-C in the terminal reaches only this process,
            // which then stops the children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be started", child.name))?;
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        child.running = Some(Running { pid, _stdin: process.stdin.take() });
        let (name, log, report) = (child.name.clone(), child.log.clone(), self.report.clone());
        tokio::spawn(async move {
            let how = match process.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            // While everything is being stopped, nobody receives the report.
            let _unheard = report.send(Ended { name, pid, how, log }).await;
        });
        Ok(())
    }

    /// Waits for a child to end by itself. Can be dropped safely.
    pub(super) async fn next_ended(&mut self) -> Ended {
        loop {
            let Some(ended) = self.ended.recv().await else {
                std::future::pending::<()>().await;
                continue;
            };
            let running =
                |child: &&mut Child| child.running.as_ref().is_some_and(|r| r.pid == ended.pid);
            if let Some(child) = self.children.iter_mut().find(running) {
                child.running = None;
                return ended;
            }
        }
    }

    /// Starts every child that is not running. Returns the numbers of the nodes that were started.
    pub(super) async fn restart_dead(&mut self) -> Vec<u64> {
        let mut nodes = Vec::new();
        let mut children = std::mem::take(&mut self.children);
        for child in children.iter_mut().filter(|child| child.running.is_none()) {
            match self.start(child) {
                Ok(()) => {
                    let pid = child.running.as_ref().map_or(0, |running| running.pid);
                    tell!("{} is back (process {pid})", child.name);
                    nodes.extend(child.node);
                }
                Err(error) => tell!("{error:#}"),
            }
        }
        self.children = children;
        nodes
    }

    pub(super) fn running(&self) -> usize {
        self.children.iter().filter(|child| child.running.is_some()).count()
    }

    pub(super) fn pid_of_node(&self, id: u64) -> Option<i32> {
        let child = self.children.iter().find(|child| child.node == Some(id))?;
        child.running.as_ref().map(|running| running.pid)
    }

    /// The last lines of the children's logs, which are shown if the start failed.
    pub(super) fn log_tail(&self) -> String {
        let mut words = String::new();
        for child in &self.children {
            let tail = tail(&child.log, 600).unwrap_or_default();
            words.push_str(&format!("--- {} ---\n{tail}\n", child.log.display()));
        }
        words
    }

    /// Stops all children, the newest first. A child that does not stop in time is killed.
    pub(super) async fn stop_all(&mut self) {
        let mut waiting: Vec<i32> = Vec::new();
        for child in self.children.iter_mut().rev() {
            if let Some(running) = child.running.take() {
                // It may have ended in the meantime; then the signal reaches no process.
                let _gone = kill(Pid::from_raw(running.pid), Signal::SIGTERM);
                waiting.push(running.pid);
            }
        }
        let deadline = tokio::time::sleep(STOP_TIMEOUT);
        tokio::pin!(deadline);
        while !waiting.is_empty() {
            tokio::select! {
                ended = self.ended.recv() => match ended {
                    Some(ended) => waiting.retain(|pid| *pid != ended.pid),
                    None => break,
                },
                () = &mut deadline => break,
            }
        }
        for pid in waiting {
            tell!("process {pid} did not stop in time and is killed");
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn tail(path: &std::path::Path, len: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(end.saturating_sub(len)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Prepares a Redis server for `--backend redis`, with its data in the folder.
pub(super) async fn redis(folder: &Folder) -> anyhow::Result<(String, Child)> {
    let dir = folder.path("redis");
    fs::create_dir_all(&dir)?;
    let found = Command::new("redis-server").arg("--version").output().await;
    if !found.is_ok_and(|output| output.status.success()) {
        bail!(
            "redis-server is not installed; on Debian and Ubuntu: apt-get install redis-server. \
             To use one that runs already: maxine serve --mode redis, with MAXINE_REGISTRY_REDIS_URL set"
        );
    }
    let port = free_port(&mut BTreeSet::new())?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    command.arg("--dir").arg(&dir);
    let child = Child::sample("redis", command, folder.log_file("redis"));
    Ok((format!("redis://127.0.0.1:{port}"), child))
}
