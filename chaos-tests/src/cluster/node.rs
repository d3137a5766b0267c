//! One node: a real process that is started, killed, paused and restarted.
//!
//! If the harness ends, the node ends too, because it reads its standard input, which the harness holds open.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::WallClock;

/// How a node is started. It is the same each time.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Its number, from 1.
    pub id: u64,
    /// The address for HTTP.
    pub http: SocketAddr,
    /// The address for peers.
    pub peer: SocketAddr,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The file for its output.
    pub log: PathBuf,
    /// The program and the arguments before `serve`; they may start it in a network namespace.
    pub command: Vec<String>,
    /// The flags of `serve`.
    pub flags: Vec<String>,
    /// Additional environment variables.
    pub env: Vec<(String, String)>,
    /// Its own wall clock, if it has one.
    pub wall_clock: Option<WallClock>,
}

/// A node's process.
#[derive(Debug)]
pub struct Node {
    plan: NodePlan,
    child: Option<Child>,
    paused: bool,
}

impl Node {
    /// A node that is not running yet.
    pub fn new(plan: NodePlan) -> Self {
        Self { plan, child: None, paused: false }
    }

    /// How it is started.
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// How it is started, mutably. A change takes effect at the next start.
    pub fn plan_mut(&mut self) -> &mut NodePlan {
        &mut self.plan
    }

    /// Its own wall clock.
    pub fn wall_clock(&self) -> anyhow::Result<&WallClock> {
        self.plan.wall_clock.as_ref().context("this node has no wall clock of its own")
    }

    /// The id of its process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref()?.id().and_then(|pid| i32::try_from(pid).ok())
    }

    /// Whether the harness has started it and not stopped it since.
    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it is stopped by SIGSTOP.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Starts the process and returns immediately.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("node {} runs already", self.plan.id);
        }
        fs::create_dir_all(&self.plan.data_dir)?;
        let log = File::options().create(true).append(true).open(&self.plan.log)?;
        let (program, words) = self.plan.command.split_first().context("a program")?;
        let child = Command::new(program)
            .args(words)
            .args(["serve", "--exit-with-stdin"])
            .args(&self.plan.flags)
            .envs(self.plan.env.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .envs(self.plan.wall_clock.iter().flat_map(WallClock::env))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("node {} cannot be started ({program})", self.plan.id))?;
        self.child = Some(child);
        self.paused = false;
        Ok(())
    }

    /// Kills the process immediately, as a crash does, and reaps it.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.paused = false;
        child.start_kill()?;
        child.wait().await?;
        Ok(())
    }

    /// Stops it gracefully, and kills it after `timeout`. Returns whether it stopped gracefully.
    pub async fn stop(&mut self, timeout: Duration) -> anyhow::Result<bool> {
        self.signal(Signal::SIGTERM)?;
        let Some(mut child) = self.child.take() else { return Ok(true) };
        if let Ok(status) = tokio::time::timeout(timeout, child.wait()).await {
            return Ok(status?.success());
        }
        child.start_kill()?;
        child.wait().await?;
        Ok(false)
    }

    /// Pauses the process with SIGSTOP. It keeps its sockets and its memory.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.paused = true;
        Ok(())
    }

    /// Resumes a paused process.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.paused = false;
        Ok(())
    }

    /// The exit status, if it ended by itself.
    pub fn ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
            self.paused = false;
        }
        Ok(status)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else { bail!("node {} does not run", self.plan.id) };
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("{signal} to node {}", self.plan.id))
    }

    /// The end of its output, for error reports.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.plan.log).unwrap_or_default();
        let from = text.len().saturating_sub(2_000);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}
