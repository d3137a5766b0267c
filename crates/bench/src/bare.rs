//! The bare server for comparison with discovery: an axum handler with a fixed redirect.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use super::failed;
use maxine::cli::exit::CliError;

/// Answers every GET of the discovery path with the same 302 until it is killed or its input closes.
pub(super) async fn serve(port: u16) -> Result<(), CliError> {
    let answer = || async { (StatusCode::FOUND, [(header::LOCATION, "http://127.0.0.1:9000/")]) };
    let router = Router::new().route("/api/maxine/serviceops/discover", get(answer));
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
