//! A Redis with a replica, and three Sentinels that promote the replica when the master fails.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};

use super::redis::{RedisServer, ask};
use crate::clock::until;

/// The name of the master in the Sentinels.
pub(super) const MASTER_NAME: &str = "main";
const SENTINELS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The servers and their Sentinels.
#[derive(Debug)]
pub struct Watched {
    servers: Vec<RedisServer>,
    ports: Vec<u16>,
    sentinels: Vec<Child>,
}

impl Watched {
    /// Starts everything in `dir`, and waits until a failover is possible.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let master = RedisServer::start(&dir.join("redis-1"), None).await?;
        let first = master.port();
        let replica = RedisServer::start(&dir.join("redis-2"), Some(first)).await?;
        let mut watched =
            Self { servers: vec![master, replica], ports: Vec::new(), sentinels: Vec::new() };
        for nth in 0..SENTINELS {
            let port = super::ports::free(Ipv4Addr::LOCALHOST)?;
            let dir = dir.join(format!("sentinel-{nth}"));
            watched.sentinels.push(sentinel(&dir, port, first)?);
            watched.ports.push(port);
        }
        watched.wait_whole().await?;
        Ok(watched)
    }

    /// The URL for nodes.
    pub fn url(&self) -> String {
        let urls: Vec<String> =
            self.ports.iter().map(|port| format!("redis://127.0.0.1:{port}")).collect();
        urls.join(",")
    }

    /// Waits until every Sentinel knows the others and a connected replica.
    async fn wait_whole(&self) -> anyhow::Result<()> {
        let whole = async || {
            for port in &self.ports {
                let info = ask(*port, "SENTINEL master main").await.ok()?;
                let value = |name: &str| {
                    let mut lines = info.lines().skip_while(|line| *line != name);
                    lines.nth(2).and_then(|value| value.trim().parse::<u64>().ok())
                };
                let known = value("num-slaves")? >= 1 && value("num-other-sentinels")? >= 2;
                (known && info.contains("\r\nmaster\r\n")).then_some(())?;
            }
            let replicas = ask(*self.ports.first()?, "SENTINEL replicas main").await.ok()?;
            replicas.contains("\r\nok\r\n").then_some(())
        };
        until(PATIENCE, LOOK_EVERY, whole).await.context("the Sentinels never saw a whole Redis")
    }

    async fn master_port(&self) -> Option<u16> {
        let answer =
            ask(*self.ports.first()?, "SENTINEL get-master-addr-by-name main").await.ok()?;
        answer.lines().filter_map(|line| line.trim().parse().ok()).next_back()
    }

    /// Kills the master. Returns its port.
    pub async fn kill_master(&mut self) -> anyhow::Result<u16> {
        self.wait_whole().await?;
        let port = self.master_port().await.context("the Sentinels know no master")?;
        let server = self.servers.iter_mut().find(|server| server.port() == port);
        server.context("the master is not a server of this cluster")?.kill().await?;
        Ok(port)
    }

    /// Waits for a new master, and starts the old one as its replica.
    pub async fn rejoin(&mut self, old: u16) -> anyhow::Result<()> {
        let promoted = async || self.master_port().await.filter(|port| *port != old);
        let new = until(PATIENCE, LOOK_EVERY, promoted).await.context("no replica was promoted")?;
        let server = self.servers.iter_mut().find(|server| server.port() == old);
        let server = server.context("the old master is not a server of this cluster")?;
        server.follow(Some(new));
        server.start_again().await
    }

    /// Kills the Sentinels and the servers.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        for child in &mut self.sentinels {
            child.start_kill()?;
            child.wait().await?;
        }
        for server in &mut self.servers {
            server.kill().await?;
        }
        Ok(())
    }
}

fn sentinel(dir: &Path, port: u16, master: u16) -> anyhow::Result<Child> {
    std::fs::create_dir_all(dir)?;
    let settings = format!(
        "port {port}\nbind 127.0.0.1\nprotected-mode no\n\
         sentinel monitor {MASTER_NAME} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER_NAME} 1500\n\
         sentinel failover-timeout {MASTER_NAME} 6000\n"
    );
    let file = dir.join("sentinel.conf");
    std::fs::write(&file, settings)?;
    Command::new("redis-sentinel")
        .arg(&file)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .context("redis-sentinel cannot be started; on Debian: apt-get install redis-sentinel")
}
