//! Three etcd members on loopback, with their defaults and real syncs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::process::{Server, wait_until};
use super::{free_port, grpc};
use maxine::cli::exit::CliError;

/// One member.
struct Member {
    server: Option<Server>,
    command: Vec<String>,
    dir: std::path::PathBuf,
    addr: String,
}

/// A running cluster.
pub(super) struct Cluster {
    members: Vec<Member>,
    http: reqwest::Client,
}

/// Whether the `etcd` program is installed.
pub(super) fn is_installed() -> bool {
    Command::new("etcd")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

impl Cluster {
    /// Starts three members with their data under `dir` and waits until one leads and accepts writes.
    pub(super) async fn start(dir: &Path) -> Result<Self, CliError> {
        // Fails if a TLS provider is installed already. That does no harm, because it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()
            .map_err(|error| CliError::Failed(error.to_string()))?;
        let mut ports = Vec::new();
        for _ in 0..6 {
            ports.push(free_port()?);
        }
        let all: Vec<String> =
            (0..3).map(|n| format!("m{n}=http://127.0.0.1:{}", ports[n + 3])).collect();
        let mut members = Vec::new();
        for n in 0..3 {
            let home = dir.join(format!("etcd-{n}"));
            std::fs::create_dir_all(&home)?;
            let (client, peer) = (
                format!("http://127.0.0.1:{}", ports[n]),
                format!("http://127.0.0.1:{}", ports[n + 3]),
            );
            let options = [
                ("--name", format!("m{n}")),
                ("--data-dir", home.join("data").display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", all.join(",")),
                ("--initial-cluster-state", "new".into()),
                ("--initial-cluster-token", format!("bench-{}", std::process::id())),
                ("--logger", "zap".into()),
                ("--log-level", "error".into()),
            ];
            let command =
                options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
            members.push(Member {
                server: None,
                command,
                dir: home,
                addr: format!("127.0.0.1:{}", ports[n]),
            });
        }
        let mut cluster = Self { members, http };
        for n in 0..3 {
            cluster.start_member(n)?;
        }
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Starts a member that is not running.
    pub(super) fn start_member(&mut self, n: usize) -> Result<(), CliError> {
        let member = &mut self.members[n];
        let mut command = Command::new("etcd");
        command.args(&member.command);
        member.server = Some(Server::start(command, &member.dir, None)?);
        Ok(())
    }

    /// The process of a member. Fails if it was never started.
    pub(super) fn server(&mut self, n: usize) -> Result<&mut Server, CliError> {
        let server = self.members[n].server.as_mut();
        server.ok_or_else(|| CliError::Failed("the member is not running".into()))
    }

    /// Waits until every member accepts a write.
    pub(super) async fn wait_ready(&self) -> Result<(), CliError> {
        wait_until("etcd does not start", Duration::from_secs(30), || async {
            for member in &self.members {
                let Ok(mut channel) = grpc::Channel::open(&member.addr).await else { return false };
                let put = tokio::time::timeout(Duration::from_secs(1), channel.put(b"ready", b"1"));
                if !matches!(put.await, Ok(Ok(()))) {
                    return false;
                }
            }
            true
        })
        .await
    }

    /// The members' client addresses.
    pub(super) fn addrs(&self) -> Vec<String> {
        self.members.iter().map(|member| member.addr.clone()).collect()
    }

    /// The position of the leading member; `None` if no member says that it leads.
    pub(super) async fn leader(&self) -> Option<usize> {
        for (n, member) in self.members.iter().enumerate() {
            let url = format!("http://{}/v3/maintenance/status", member.addr);
            let Ok(response) = self.http.post(url).body("{}").send().await else { continue };
            let Ok(status) = response.json::<Value>().await else { continue };
            if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                return Some(n);
            }
        }
        None
    }
}
