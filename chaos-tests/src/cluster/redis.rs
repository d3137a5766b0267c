//! A Redis of our own, for clusters whose commands Redis orders.

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
    child: Option<Child>,
}

impl RedisServer {
    /// Starts it in `dir` and waits until it answers.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let port = super::ports::free(Ipv4Addr::LOCALHOST)?;
        let mut server = Self { port, dir: dir.into(), child: None };
        server.start_again().await?;
        Ok(server)
    }

    /// Where nodes connect.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it on the same port with the same data.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .arg("--dir")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .context("redis-server cannot be started; on Debian: apt-get install redis-server")?;
        self.child = Some(child);
        let look =
            async || self.command("PING").await.ok().filter(|answer| answer.contains("PONG"));
        until(Duration::from_secs(15), Duration::from_millis(20), look)
            .await
            .context("redis-server does not answer")?;
        Ok(())
    }

    /// Kills it at once and reaps it.
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

    /// Sends one inline command and gives the start of its answer.
    pub async fn command(&self, line: &str) -> anyhow::Result<String> {
        let talk = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            stream.write_all(format!("{line}\r\n").as_bytes()).await?;
            let mut answer = vec![0; 4_096];
            let len = stream.read(&mut answer).await?;
            anyhow::Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
        };
        tokio::time::timeout(Duration::from_secs(5), talk).await?
    }
}
