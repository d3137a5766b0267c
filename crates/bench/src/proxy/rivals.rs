//! The proxies for comparison with Maxine. HAProxy and nginx are the installed versions, with one thread each,
//! kept connections on both sides and no access log. The third is a bare proxy on Maxine's HTTP library.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::SERVER_CORE;
use crate::process::{Server, wait_until};
use crate::wire::Connection;
use crate::{failed, free_port, own_program};
use maxine::cli::exit::CliError;

/// A proxy that is not Maxine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rival {
    Nginx,
    Haproxy,
    /// `maxine-bench bare-proxy`.
    Bare,
}

impl Rival {
    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Bare => "bare hyper proxy",
        }
    }

    /// Its version; `None` if it is not installed.
    pub(super) fn version(self) -> Option<String> {
        let (program, flag) = match self {
            Self::Nginx => ("nginx", "-v"),
            Self::Haproxy => ("haproxy", "-v"),
            Self::Bare => return Some(env!("CARGO_PKG_VERSION").into()),
        };
        let output = command(program).arg(flag).stdin(Stdio::null()).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.split(|c: char| c.is_whitespace() || c == '/')
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_owned)
    }

    /// Starts it in front of `upstream` on the proxies' core, with its files in `dir`. Returns its address too.
    pub(super) async fn start(
        self,
        dir: &Path,
        upstream: SocketAddr,
    ) -> Result<(Server, SocketAddr), CliError> {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let file = dir.join("conf");
        let command = match self {
            Self::Nginx => {
                std::fs::write(&file, nginx(dir, listen, upstream))
                    .map_err(failed(file.display()))?;
                let mut command = command("nginx");
                let errors = dir.join("errors");
                command.arg("-p").arg(dir).arg("-c").arg(&file).arg("-e").arg(errors);
                command
            }
            Self::Haproxy => {
                std::fs::write(&file, haproxy(listen, upstream)).map_err(failed(file.display()))?;
                let mut command = command("haproxy");
                command.arg("-db").arg("-f").arg(&file);
                command
            }
            Self::Bare => {
                let mut command = Command::new(own_program()?);
                let (port, upstream) = (listen.port().to_string(), upstream.to_string());
                command.args(["bare-proxy", "--port", &port, "--upstream", &upstream]);
                command
            }
        };
        let server = Server::start(command, dir, Some(SERVER_CORE))?;
        let addr = listen.to_string();
        wait_until(self.name(), Duration::from_secs(15), || async {
            Connection::open(&addr).await.is_ok() || server.has_ended()
        })
        .await?;
        if server.has_ended() {
            let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            return Err(CliError::Failed(format!("{} ended: {log}", self.name())));
        }
        Ok((server, listen))
    }
}

/// The command for nginx or HAProxy. On Debian, both are in a directory that only root has in its path.
fn command(program: &str) -> Command {
    let in_sbin = Path::new("/usr/sbin").join(program);
    if in_sbin.exists() { Command::new(in_sbin) } else { Command::new(program) }
}

fn haproxy(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 12000
    no strict-limits
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 60s
    http-reuse always
frontend in
    bind {listen}
    default_backend out
backend out
    server one {upstream}
"
    )
}

fn nginx(dir: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {dir}/pid;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path {dir}/client;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    upstream out {{
        server {upstream};
        keepalive 128;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass http://out;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}
