//! How fast a redirect is against a handler that does nothing but redirect.
//!
//! `cargo run --release --example bench_discovery -- 127.0.0.1:8080 SERVICE [SECONDS] [CONNECTIONS]`
//! asks a running Maxine and a bare axum server in this process in turns, so that what else the
//! machine does falls on both alike, and prints answers a second and their share. The generator's own
//! cost is in both figures: the share of the servers alone is lower than what is printed.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not the server"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROUNDS: u32 = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let maxine: SocketAddr = args.next().context("the address of a Maxine")?.parse()?;
    let service = args.next().context("a service that it knows")?;
    let seconds: u64 = args.next().unwrap_or_else(|| "2".into()).parse()?;
    let connections: usize = args.next().unwrap_or_else(|| "32".into()).parse()?;
    let bare = start_bare().await?;
    let path = format!("/api/maxine/serviceops/discover?serviceName={service}");
    let mut totals = [0_u64; 2];
    for round in 1..=ROUNDS {
        for (total, addr) in totals.iter_mut().zip([maxine, bare]) {
            let answers = run(addr, &path, Duration::from_secs(seconds), connections).await?;
            *total += answers;
            println!("round {round} {addr}: {} answers/s", answers / seconds);
        }
    }
    let share = 100.0 * totals[0] as f64 / totals[1] as f64;
    let each = |total: u64| total / (seconds * u64::from(ROUNDS));
    println!("maxine {} /s, bare {} /s: {share:.1} %", each(totals[0]), each(totals[1]));
    Ok(())
}

async fn start_bare() -> anyhow::Result<SocketAddr> {
    let handler = async || {
        let location = ("location", "http://127.0.0.1:9000");
        (StatusCode::FOUND, [location], "Found. Redirecting to http://127.0.0.1:9000")
    };
    let app = Router::new().route("/api/maxine/serviceops/discover", get(handler));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(addr)
}

async fn run(
    addr: SocketAddr,
    path: &str,
    length: Duration,
    connections: usize,
) -> anyhow::Result<u64> {
    let request: Arc<[u8]> = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").into_bytes().into();
    let answers = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + length;
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (request, answers) = (Arc::clone(&request), Arc::clone(&answers));
        tasks.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let mut buffer = vec![0; 4_096];
            while Instant::now() < end {
                stream.write_all(&request).await?;
                read_answer(&mut stream, &mut buffer).await?;
                answers.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(answers.load(Ordering::Relaxed))
}

/// Reads one whole answer with a `Content-Length`.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut len = 0;
    loop {
        let read = stream.read(&mut buffer[len..]).await?;
        anyhow::ensure!(read > 0, "the connection was closed");
        len += read;
        let text = std::str::from_utf8(&buffer[..len])?;
        let Some(head_len) = text.find("\r\n\r\n") else { continue };
        anyhow::ensure!(text.starts_with("HTTP/1.1 302"), "not a redirect: {text}");
        let head = text[..head_len].to_ascii_lowercase();
        let body_len = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .context("no content-length")?
            .trim()
            .parse::<usize>()?;
        if len >= head_len + 4 + body_len {
            return Ok(());
        }
    }
}
