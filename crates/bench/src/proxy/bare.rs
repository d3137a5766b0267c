//! A minimal proxy on Maxine's HTTP library. It has one upstream, keeps connections, and decides, checks, counts
//! and logs nothing. So the difference to Maxine is the cost of Maxine's routing, policies and counters.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::Either;
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

use crate::failed;
use maxine::cli::exit::CliError;

type Idle = Mutex<Vec<client::SendRequest<Incoming>>>;
type Answer = Response<Either<Incoming, http_body_util::Empty<bytes::Bytes>>>;

/// Forwards everything to `upstream` until it is killed.
pub(crate) async fn serve(port: u16, upstream: SocketAddr) -> Result<(), CliError> {
    let listener =
        TcpListener::bind(("127.0.0.1", port)).await.map_err(failed("the bare proxy"))?;
    let idle: Arc<Idle> = Arc::default();
    loop {
        let (stream, _) = listener.accept().await.map_err(failed("the bare proxy"))?;
        stream.set_nodelay(true).map_err(failed("the bare proxy"))?;
        let idle = Arc::clone(&idle);
        tokio::spawn(async move {
            let service = service_fn(move |request| forward(Arc::clone(&idle), upstream, request));
            // An error ends only this connection.
            let _ended =
                server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn forward(
    idle: Arc<Idle>,
    upstream: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Answer, hyper::Error> {
    let pooled = {
        let mut idle = idle.lock();
        // The latest connection whose last answer was read completely.
        idle.iter().rposition(client::SendRequest::is_ready).map(|at| idle.swap_remove(at))
    };
    let mut sender = match pooled {
        Some(sender) => sender,
        None => match connect(upstream).await {
            Some(sender) => sender,
            None => return Ok(bad_gateway()),
        },
    };
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("upstream"));
    let response = sender.send_request(request).await?;
    // Another request uses it only after the body of this answer was read completely: until then it is not ready.
    idle.lock().push(sender);
    Ok(response.map(Either::Left))
}

async fn connect(upstream: SocketAddr) -> Option<client::SendRequest<Incoming>> {
    let stream = TcpStream::connect(upstream).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = client::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

fn bad_gateway() -> Answer {
    let mut response = Response::new(Either::Right(http_body_util::Empty::new()));
    *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
    response
}
