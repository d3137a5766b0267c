//! The bare server for comparison with discovery: an axum handler with a fixed redirect. It is also a receiver of
//! traces, which drops them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::{get, post};

use super::process::{Server, wait_until};
use super::wire::Connection;
use super::{failed, free_port, own_program};
use maxine::cli::exit::CliError;

/// Starts it as a process on a core. Returns its address too.
pub(super) async fn start(dir: &Path, core: usize) -> Result<(Server, String), CliError> {
    let port = free_port()?;
    let mut command = Command::new(own_program()?);
    command.args(["bare", "--port", &port.to_string()]);
    let server = Server::start(command, dir, Some(core))?;
    let addr = format!("127.0.0.1:{port}");
    wait_until("the bare server does not start", Duration::from_secs(10), || async {
        Connection::open(&addr).await.is_ok()
    })
    .await?;
    Ok((server, addr))
}

/// Answers every GET of the discovery path with the same 302, and takes traces, until it is killed or its input closes.
pub(super) async fn serve(port: u16) -> Result<(), CliError> {
    let answer = || async { (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.1:9000/")]) };
    // The whole message is read before the answer, as a receiver does.
    let take = |_: Bytes| async { StatusCode::OK };
    let router = Router::new()
        .route("/api/maxine/serviceops/discover", get(answer))
        .route("/v1/traces", post(take));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(failed("the bare server"))?;
    let parent_gone = async {
        let mut nothing = Vec::new();
        // However the read ends, the process that started this server has ended.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut tokio::io::stdin(), &mut nothing).await;
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(parent_gone)
        .await
        .map_err(failed("the bare server"))
}
