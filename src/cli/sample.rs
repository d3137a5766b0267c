//! `maxine sample`: a small service that answers requests, registers itself and sends heartbeats. `maxine
//! dev` starts such services as examples.

use std::net::Ipv4Addr;
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
    /// Listen on every interface, and register under this name or address, which must lead to this machine; without
    /// it, the service is reached from this machine alone.
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on; 0 means any free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Time to live of the registration, in seconds.
const TTL_S: u64 = 10;
/// Interval between two heartbeats.
const BEAT: Duration = Duration::from_secs(3);

/// Serves and sends heartbeats until it is asked to stop.
pub async fn run(args: SampleArgs) -> anyhow::Result<ExitCode> {
    let listen = if args.host.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let listener = tokio::net::TcpListener::bind((listen, args.port)).await?;
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
    let host = args.host.as_deref().unwrap_or("127.0.0.1");
    let registration = json!({
        "hostName": host, "nodeName": args.instance, "serviceName": args.service,
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
