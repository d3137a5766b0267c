//! A `redis-server` for the nodes under measurement.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::free_port;
use super::process::{Server, wait_until};
use maxine::cli::exit::CliError;

/// Whether `redis-server` is installed.
pub(super) fn is_installed() -> bool {
    let mut command = Command::new("redis-server");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A Redis that syncs every write. It is killed when this value is dropped.
pub(super) struct Redis {
    port: u16,
    _server: Server,
}

impl Redis {
    pub(super) async fn start(dir: &Path) -> Result<Self, CliError> {
        let home = dir.join("redis");
        std::fs::create_dir_all(&home)?;
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--dir").arg(&home);
        let server = Server::start(command, &home, None)?;
        wait_until("redis-server does not answer", Duration::from_secs(10), || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await?;
        Ok(Self { port, _server: server })
    }

    /// The URL for nodes.
    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}
