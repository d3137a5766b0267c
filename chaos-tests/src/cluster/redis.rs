//! Starts a Redis for clusters in Redis mode.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::clock::until;

/// A running `redis-server` that syncs every write.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    dir: PathBuf,
    follows: Option<u16>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts it in `dir` and waits until it answers. With `follows`, it is a replica of the server on that
    /// port.
    pub async fn start(dir: &Path, follows: Option<u16>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let port = super::ports::free(Ipv4Addr::LOCALHOST)?;
        let mut server = Self { port, dir: dir.into(), follows, child: None };
        server.start_again().await?;
        Ok(server)
    }

    /// The URL for nodes.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the server that it replicates from its next start on.
    pub fn follow(&mut self, master: Option<u16>) {
        self.follows = master;
    }

    /// Starts it again on the same port with the same data.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        // The log is next to its directory, which may be a failing disk.
        let log = self.dir.with_extension("log");
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("redis-server");
        if let Some(master) = self.follows {
            command.args(["--replicaof", "127.0.0.1", &master.to_string()]);
        }
        let child = command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--repl-diskless-sync-delay", "0"])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .arg("--dir")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .context("redis-server cannot be started; on Debian: apt-get install redis-server")?;
        self.child = Some(child);
        let look =
            async || self.command("PING").await.ok().filter(|answer| answer.contains("PONG"));
        let log = self.dir.with_extension("log");
        until(Duration::from_secs(30), Duration::from_millis(20), look)
            .await
            .with_context(|| format!("redis-server does not answer; see {}", log.display()))?;
        Ok(())
    }

    /// Kills it immediately and reaps it.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.start_kill()?;
            child.wait().await?;
        }
        Ok(())
    }

    /// Pauses or resumes it.
    pub fn pause(&self, paused: bool) -> anyhow::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id).context("redis does not run")?;
        let signal = if paused { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Damages its content in one way: deletes, trims, empties or evicts keys.
    pub async fn damage(&self, rng: &mut fastrand::Rng) -> anyhow::Result<()> {
        const PREFIX: &str = "maxine:registry";
        let line = match rng.u8(..10) {
            0..4 => format!("DEL {PREFIX}:log"),
            4 => format!("DEL {PREFIX}:log:head"),
            5 => format!("DEL {PREFIX}:log {PREFIX}:snapshot2"),
            6 => format!("XTRIM {PREFIX}:log MAXLEN {}", rng.u8(..3)),
            7 => String::from("FLUSHALL"),
            // An eviction can remove any key.
            _ => {
                let keys = self.command(&format!("KEYS {PREFIX}:*")).await?;
                let keys: Vec<&str> =
                    keys.lines().filter(|line| line.starts_with(PREFIX)).collect();
                match rng.choice(&keys) {
                    Some(key) => format!("DEL {key}"),
                    None => return Ok(()),
                }
            }
        };
        self.command(&line).await.map(drop)
    }

    /// Sends one inline command. Returns the first part of the answer, of at most 16 KiB.
    pub async fn command(&self, line: &str) -> anyhow::Result<String> {
        ask(self.port, line).await
    }
}

/// Sends one inline command to a server with the Redis protocol and returns the start of its answer.
pub(super) async fn ask(port: u16, line: &str) -> anyhow::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        let mut answer = vec![0; 16_384];
        let len = stream.read(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), talk).await?
}
