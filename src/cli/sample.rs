//! `maxine sample`: a small service that answers requests, registers itself and sends heartbeats. `maxine
//! dev` starts such services as examples.

use std::process::ExitCode;
use std::time::Duration;

use axum::extract::{OriginalUri, State};
use axum::routing::any;
use axum::{Json, Router};
use clap::Args;
use serde_json::{Value, json};

/// Arguments of `maxine sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// The service's name.
    #[arg(long)]
    service: String,
    /// This instance's name.
    #[arg(long)]
    instance: String,
    /// Maxine's nodes, comma-separated; the next one is tried where one does not answer.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
}

/// Time to live of the registration, in seconds.
const TTL_S: u64 = 10;
/// Interval between two heartbeats.
const BEAT: Duration = Duration::from_secs(3);

/// Serves and sends heartbeats until it is asked to stop.
pub async fn run(args: SampleArgs) -> anyhow::Result<ExitCode> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let hello = json!({"service": args.service, "instance": args.instance, "port": port});
    let app = Router::new().fallback(any(answer)).with_state(hello);
    let serve = axum::serve(listener, app);
    let beat = heartbeats(&args, port);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = serve => result?,
        () = beat => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn answer(State(hello): State<Value>, OriginalUri(uri): OriginalUri) -> Json<Value> {
    let mut body = hello;
    body["path"] = json!(uri.to_string());
    body["message"] = json!("hello from a sample service");
    Json(body)
}

async fn heartbeats(args: &SampleArgs, port: u16) {
    let client = crate::cli::dev::http_client();
    let registration = json!({
        "hostName": "127.0.0.1", "nodeName": args.instance, "serviceName": args.service,
        "port": port, "timeOut": TTL_S, "weight": 1, "healthCheckPath": "/health",
    });
    let mut turn = 0;
    loop {
        let mut pause = Duration::from_millis(300);
        if let Some(server) = args.servers.get(turn % args.servers.len().max(1)) {
            let url = format!("{server}/api/maxine/serviceops/register");
            let sent = client.post(url).json(&registration).send().await;
            match sent.and_then(reqwest::Response::error_for_status) {
                Ok(_) => pause = BEAT,
                Err(_) => turn += 1,
            }
        }
        tokio::time::sleep(pause).await;
    }
}
