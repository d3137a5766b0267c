//! A proxy in front of real sockets: upstreams that do what a test says, byte by byte, and a front
//! server that passes every request to the forwarder.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use maxine_admission::PlaceLimits;
use maxine_clock::Clock;
use maxine_gateway::{
    EgressPolicy, ForwardContext, Forwarder, ForwarderConfig, InterimSink, NoMetrics, TlsRoots,
    TrustedProxies,
};
use maxine_http1::{After, Connection, HeadLimits, RequestHead};
use maxine_state::{
    Actor, Address, Applied, Batch, Command, InstanceKey, Name, Proposal, Registration, RequestId,
    ServiceKey,
};
use maxine_store::{ControlStore, MemoryStore, PeerHandler};
use maxine_view::View;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// The path below which clients reach the rig's service.
pub(crate) const PREFIX: &str = "/api/maxine/serviceops/proxy/orders";

struct NoPeers;

impl PeerHandler for NoPeers {
    fn handle(&self, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("no peers".into()) })
    }
}

pub(crate) struct Rig {
    pub(crate) store: MemoryStore,
    pub(crate) forwarder: Forwarder,
    pub(crate) front: SocketAddr,
    requests: AtomicU64,
    _server: Abort,
}

pub(crate) struct Abort(pub(crate) JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request with this field counts as one with a credential.
pub(crate) const KNOWN: &str = "x-known";

#[derive(Clone, Default)]
pub(crate) struct RigOptions {
    pub(crate) body_len_max: Option<u64>,
    pub(crate) trusted: Vec<&'static str>,
    pub(crate) zone: Option<String>,
    pub(crate) roots: TlsRoots,
    pub(crate) drop_trailer: bool,
    /// Maximum number of connections to instances.
    pub(crate) connections_max: Option<usize>,
    /// How long a request keeps its connection, even if another client needs it.
    pub(crate) request_kept: Option<Duration>,
    /// Maximum number of bytes of bodies that wait for their end.
    pub(crate) kept_bodies_max: Option<usize>,
}

pub(crate) fn service() -> ServiceKey {
    named("orders")
}

pub(crate) fn named(name: &str) -> ServiceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted(name))
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(RigOptions::default()).await
    }

    pub(crate) async fn with(options: RigOptions) -> Self {
        let clock = Clock::system();
        let view = View::in_zone(clock.clone(), options.zone.clone());
        let store = MemoryStore::new(Arc::clone(&view), "node-1", Arc::new(NoPeers));
        let mut config =
            ForwarderConfig::new(EgressPolicy::new(vec![], vec![], true), options.roots.clone());
        if let Some(max) = options.connections_max {
            config.connections = maxine_gateway::ConnectionLimits::of(max);
        }
        config.request_kept = options.request_kept.unwrap_or(config.request_kept);
        if let Some(max) = options.kept_bodies_max {
            config.kept_bodies = PlaceLimits { max, per_address_max: max, reserved: 0 };
        }
        let forwarder =
            Forwarder::new(Arc::clone(&view), config, clock, Arc::new(NoMetrics)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap();
        let server = Abort(tokio::spawn(serve(listener, forwarder.clone(), options)));
        let requests = AtomicU64::new(0);
        Self { store, forwarder, front, requests, _server: server }
    }

    pub(crate) async fn propose(&self, command: Command) -> Applied {
        let n = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let proposal = Proposal {
            request_id: RequestId(n.into()),
            proposed_at_ms: n,
            fence: None,
            actor: Actor::system("test"),
            command,
        };
        let batch = Batch { proposals: vec![proposal] };
        self.store.propose(batch, Duration::from_secs(1).into()).await.unwrap().remove(0)
    }

    pub(crate) async fn register(&self, id: &str, address: SocketAddr) {
        self.register_with(id, &format!("http://{address}"), |_| {}).await;
    }

    pub(crate) async fn register_with(
        &self,
        id: &str,
        url: &str,
        change: impl FnOnce(&mut Registration),
    ) {
        self.register_as(service(), id, url, change).await;
    }

    pub(crate) async fn register_as(
        &self,
        service: ServiceKey,
        id: &str,
        url: &str,
        change: impl FnOnce(&mut Registration),
    ) {
        let mut registration =
            Registration::new(Name::trusted(id), Address::parse(url).unwrap(), 60_000);
        change(&mut registration);
        self.propose(Command::Register { items: vec![(service, registration)] }).await;
    }

    pub(crate) async fn policy(&self, json: &str) {
        let command = Command::PutPolicy {
            key: service(),
            policy: Some(serde_json::from_str(json).unwrap()),
            expected_revision: None,
            create: true,
        };
        let reply = self.propose(command).await.reply;
        assert!(matches!(reply, maxine_state::Reply::Revision(_)), "{reply:?}");
    }

    pub(crate) fn key(&self, id: &str) -> InstanceKey {
        service().instance(Name::trusted(id))
    }

    /// Sends raw bytes and reads until the proxy closes or nothing comes for two seconds.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.front).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        read_quiet(&mut stream, Duration::from_secs(2)).await
    }

    /// A connection from `address`, and not from the address that [`Self::get`] uses.
    pub(crate) async fn connect_from(&self, address: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::from(address), 0).into()).unwrap();
        socket.connect(self.front).await.unwrap()
    }

    /// A `GET` on its own connection, which is closed after the answer.
    pub(crate) async fn get(&self, path: &str) -> String {
        self.get_with(path, "").await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: front\r\nConnection: close\r\n{headers}\r\n");
        let mut stream = TcpStream::connect(self.front).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read_quiet(&mut stream, Duration::from_secs(10)).await
    }

    /// Runs the proxy's tick as the actor would.
    pub(crate) fn ticking(&self, every: Duration) -> Abort {
        let forwarder = self.forwarder.clone();
        Abort(tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = forwarder.breaker_alarm() => {}
                    () = tokio::time::sleep(every) => {}
                }
                forwarder.tick();
            }
        }))
    }
}

pub(crate) async fn read_quiet(stream: &mut TcpStream, quiet: Duration) -> String {
    let mut out = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match tokio::time::timeout(quiet, stream.read(&mut buffer)).await {
            Ok(Ok(n)) if n > 0 => out.extend_from_slice(&buffer[..n]),
            _ => return String::from_utf8_lossy(&out).into_owned(),
        }
    }
}

/// Reads one request's head.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

pub(crate) fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

pub(crate) fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// An upstream that runs `serve` for each connection.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    task: Abort,
}

impl Upstream {
    pub(crate) async fn raw<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = Abort(tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                tasks.spawn(serve(stream));
            }
        }));
        Self { address, connections, task }
    }

    /// An HTTP/1 or HTTP/2 server.
    pub(crate) async fn http<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::raw(move |stream| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await
    }

    /// Answers with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::http(move |_| async move { Response::new(Body::from(name)) }).await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Stops listening and cuts every connection, as a killed process does.
    pub(crate) async fn kill(self) -> SocketAddr {
        self.task.0.abort();
        let address = self.address;
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        address
    }
}

async fn serve(listener: TcpListener, forwarder: Forwarder, options: RigOptions) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let (forwarder, options) = (forwarder.clone(), options.clone());
        tasks.spawn(async move {
            let mut preface = [0; 3];
            while stream.peek(&mut preface).await.is_ok_and(|len| (1..3).contains(&len)) {
                tokio::task::yield_now().await;
            }
            if &preface == b"PRI" {
                let service = service_fn(|request: Request<Incoming>| {
                    let context = context(&request, peer.ip(), &options);
                    let forwarder = forwarder.clone();
                    async move {
                        let forwarded = forwarder.forward(context, request.map(Body::new)).await;
                        Ok::<_, std::convert::Infallible>(forwarded.response)
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            } else {
                serve_http1(stream, peer, forwarder, options).await;
            }
        });
    }
}

/// Serves a connection as the node does, without its limits.
async fn serve_http1(
    stream: TcpStream,
    peer: SocketAddr,
    forwarder: Forwarder,
    options: RigOptions,
) {
    let limits = HeadLimits { len_max: 64 * 1_024, fields_max: 128 };
    let (read, write) = stream.into_split();
    let mut client = Connection { read, write, bytes: BytesMut::new() };
    loop {
        let head = loop {
            client.bytes.reserve(8 * 1_024);
            match RequestHead::read(&client.bytes, limits) {
                Ok(Some((head, len))) => {
                    let _ = client.bytes.split_to(len);
                    break head;
                }
                Ok(None) if matches!(client.read.read_buf(&mut client.bytes).await, Ok(1..)) => {}
                _ => return,
            }
        };
        let asking = client.ask(head, |request, interim| {
            let mut context = context(&request, peer.ip(), &options);
            context.interim = (request.version() == hyper::Version::HTTP_11)
                .then(|| InterimSink::new(interim, |_| ()));
            async {
                let request = request.map(Body::new);
                forwarder.forward(context, request).await.response
            }
        });
        let Ok((response, asked)) = asking.await else { return };
        client = match asked.send(response, true, 0).await {
            After::Open(client) => client,
            After::Ending(mut client) => {
                let _ = client.write.shutdown().await;
                let _ = tokio::io::copy(&mut client.read, &mut tokio::io::sink()).await;
                return;
            }
            After::Upgraded(upgrade, client) => {
                return upgrade.complete(client, std::future::pending(), ());
            }
            After::Gone => return,
        };
    }
}

fn context<B>(request: &Request<B>, peer: IpAddr, options: &RigOptions) -> ForwardContext {
    let trusted =
        TrustedProxies::new(options.trusted.iter().map(|net| net.parse().unwrap()).collect());
    ForwardContext {
        service: service(),
        raw_path: request.uri().path().to_owned(),
        raw_query: request.uri().query().map(str::to_owned),
        prefix: Some(PREFIX.to_owned()),
        client: trusted.resolve(maxine_gateway::Peer::plain(peer), request.headers()),
        caller_class: match request.headers().contains_key(KNOWN) {
            true => maxine_admission::CallerClass::Known,
            false => maxine_admission::CallerClass::Stranger,
        },
        body_len_max: options.body_len_max,
        span: None,
        trace: vec![(
            hyper::header::HeaderName::from_static("x-trace-id"),
            hyper::header::HeaderValue::from_static("trace-1"),
        )],
        keep_trailer: !options.drop_trailer,
        interim: None,
    }
}
