//! Registers a service, and calls it by its name. `MAXINE_SERVER` has the nodes, separated by commas.
#![allow(clippy::print_stdout, reason = "an example prints what it does")]

use std::time::Duration;

use maxine_client::{Client, NewInstance, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that greets, in the place of a real service.
async fn serve(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let _ = stream.read(&mut [0; 4096]).await?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n";
        stream.write_all(answer).await?;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let nodes = std::env::var("MAXINE_SERVER").unwrap_or("http://127.0.0.1:8080".into());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(serve(listener));

    let client = Client::new(nodes.split(','), Options::default())?;
    let instance = NewInstance { address, ..NewInstance::default() };
    client.register("hello", "hello-1", instance).await?;

    // The host of the URL is the service.
    let http = reqwest::Client::new();
    let answer = client.send(http.get("http://hello/")).await?;
    print!("{}", answer.text().await?);

    client.stop(Duration::ZERO).await?;
    Ok(())
}
