//! Sends requests by a service of `tower`, whose inner service is a client of hyper. `MAXINE_SERVER` has the nodes,
//! separated by commas; the argument is a URL whose host is a service, such as `http://hello/`.
#![allow(clippy::print_stdout, reason = "an example prints what it does")]

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use maxine_client::{Client, Options};
use tower::{Layer, ServiceExt};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let nodes = std::env::var("MAXINE_SERVER").unwrap_or("http://127.0.0.1:8080".into());
    let url = std::env::args().nth(1).context("a URL, such as http://hello/")?;
    let client = Client::new(nodes.split(','), Options::default())?;

    let connector = legacy::connect::HttpConnector::new();
    let http: legacy::Client<_, Empty<Bytes>> =
        legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = client.layer().layer(http);

    let request = Request::get(url).body(Empty::new())?;
    let answer = service.oneshot(request).await.map_err(|error| anyhow::anyhow!(error))?;
    println!("{}", answer.status());
    Ok(())
}
