//! Opens connections to instances: resolves the name, checks the egress policy, and opens TCP and TLS.
//!
//! This module knows nothing about requests. The caller limits the time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either::{self, Left as Plain, Right as Tls};

use super::egress::{EgressDenied, EgressPolicy};
use super::error::{ProxyError, TlsFailure};
use super::idle_connections::Pools;
use super::lookup::{LookupCaller, Lookups};
use super::target::UpstreamAddress;
use super::wire::{Wire, WireState};
use maxine_admission::{NoPlace, Place, Places};

/// Maximum number of addresses of one name that are tried.
const RESOLVED_MAX: usize = 8;
/// How long one of several addresses is tried alone, before the next one is tried concurrently (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long a request keeps its slot and its connection, even if a client that has fewer requests needs them.
pub(crate) const REQUEST_KEPT: Duration = Duration::from_secs(1);
/// How many requests of clients that have more connections are asked to leave for one new connection.
const ASKED_MAX: usize = 3;
/// How often it is checked whether a request has left, before another one is asked.
const PLACE_TRIES: usize = 10;
/// The pause between two of these checks.
const PLACE_PAUSE: Duration = Duration::from_millis(10);

/// Maximum number of HTTP/2 connections with wide windows. Together they hold at most 256 MiB.
pub(crate) const WIDE_MAX: usize = 128;

/// The authorities whose signatures on instances' certificates are accepted.
#[derive(Clone, Debug, Default)]
pub enum TlsRoots {
    /// The machine's certificate store, or the built-in web roots if there is none.
    #[default]
    System,
    /// These certificates, in PEM.
    Pem(Vec<u8>),
}

/// The trusted roots cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("trusted roots for upstream TLS: {0}")]
pub struct TlsRootsError(String);

/// A byte stream to an instance: without TLS, or with it.
pub(crate) type Stream = Either<Wire, Box<TlsStream<Wire>>>;

/// The record of who uses the connection of a stream.
pub(crate) fn wire_state(stream: &Stream) -> &Arc<WireState> {
    match stream {
        Plain(wire) => wire.state(),
        Tls(tls) => tls.get_ref().0.state(),
    }
}

/// Whether the other side has neither closed the connection nor sent anything, as far as the system has reported it.
pub(crate) fn is_silent(stream: &Stream) -> bool {
    match stream {
        Plain(wire) => wire.is_silent(),
        // TLS may hold bytes that it has read from the connection and that nobody has taken.
        Tls(tls) => tls.get_ref().0.is_silent() && tls.get_ref().1.wants_read(),
    }
}

/// Like [`is_silent`], but asks the system.
pub(crate) fn is_silent_now(stream: &Stream) -> bool {
    match stream {
        Plain(wire) => wire.is_silent_now(),
        Tls(tls) => tls.get_ref().0.is_silent_now() && tls.get_ref().1.wants_read(),
    }
}

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    egress: Arc<EgressPolicy>,
    lookups: Lookups,
    connections: Arc<Places>,
    /// How long a request keeps its slot and its connection in any case.
    request_kept: Duration,
    pools: Pools,
    /// Permits for HTTP/2 connections with wide windows.
    wide: Arc<Semaphore>,
    /// Replaced when other roots are trusted.
    verified: Arc<ArcSwap<ClientConfig>>,
    unverified: Arc<ClientConfig>,
}

/// The security that a connection requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    /// Whether any certificate is accepted.
    pub(crate) insecure: bool,
    /// Whether HTTP/2 is required instead of HTTP/1.1.
    pub(crate) http2: bool,
}

type ClientConfigBuilder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn client_config() -> Result<ClientConfigBuilder, TlsRootsError> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsRootsError(error.to_string()))
}

/// A configuration that accepts certificates of `roots`.
fn verified_by(roots: &TlsRoots) -> Result<ClientConfig, TlsRootsError> {
    let pem = match roots {
        TlsRoots::System => {
            return Ok(match client_config()?.with_native_roots() {
                Ok(config) => config.with_no_client_auth(),
                Err(_) => client_config()?.with_webpki_roots().with_no_client_auth(),
            });
        }
        TlsRoots::Pem(pem) => pem,
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| TlsRootsError(error.to_string()))?;
        store.add(certificate).map_err(|error| TlsRootsError(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(TlsRootsError("no certificate in the PEM text".into()));
    }
    Ok(client_config()?.with_root_certificates(store).with_no_client_auth())
}

impl Connector {
    /// A connector that connects to addresses which `egress` allows, accepts certificates signed by `roots`, and takes
    /// a place in `connections` for each connection.
    pub(crate) fn new(
        egress: EgressPolicy,
        roots: &TlsRoots,
        connections: Arc<Places>,
    ) -> Result<Self, TlsRootsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unverified = client_config()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Self {
            egress: Arc::new(egress),
            lookups: Lookups::new(),
            connections,
            request_kept: REQUEST_KEPT,
            pools: Pools::default(),
            wide: Arc::new(Semaphore::new(WIDE_MAX)),
            verified: Arc::new(ArcSwap::from_pointee(verified_by(roots)?)),
            unverified: Arc::new(unverified),
        })
    }

    /// Requests keep their slots and their connections for at least `kept`.
    pub(crate) fn with_request_kept(self, kept: Duration) -> Self {
        Self { request_kept: kept, ..self }
    }

    /// How long a request keeps its slot and its connection in any case.
    pub(crate) fn request_kept(&self) -> Duration {
        self.request_kept
    }

    /// Trusts `roots` from the next connection on.
    pub(crate) fn trust(&self, roots: &TlsRoots) -> Result<(), TlsRootsError> {
        self.verified.store(Arc::new(verified_by(roots)?));
        Ok(())
    }

    /// A permit for wide windows on an HTTP/2 connection, which holds it while it lasts. `None` if no permit is left.
    pub(crate) fn wide_windows(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.wide).try_acquire_owned().ok()
    }

    /// The pools whose unused connections may be closed to make room.
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Connects. The future may be dropped at any time.
    pub(crate) async fn connect(
        &self,
        to: &UpstreamAddress,
        security: Security,
        asker: LookupCaller<'_>,
    ) -> Result<Stream, ProxyError> {
        let place = match self.take_place(asker) {
            Some(place) => place,
            None => Box::pin(self.wait_for_place(asker)).await?,
        };
        let wire = Wire::new(self.connect_tcp(&to.host, to.port, asker).await?, place);
        if !to.https {
            return Ok(Plain(wire));
        }
        let mut config = if security.insecure {
            ClientConfig::clone(&self.unverified)
        } else {
            ClientConfig::clone(&self.verified.load())
        };
        let protocol: &[u8] = if security.http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(to.host.clone())
            .map_err(|_| ProxyError::Tls(TlsFailure::WrongName))?;
        let tls = TlsConnector::from(Arc::new(config));
        let stream = tls.connect(name, wire).await.map_err(|error| {
            tracing::debug!(host = %to.host, %error, "tls handshake with an upstream failed");
            ProxyError::Tls(tls_failure(&error))
        })?;
        if security.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ProxyError::Tls(TlsFailure::NoHttp2));
        }
        Ok(Tls(Box::new(stream)))
    }

    /// Takes a place for a connection. If no place is free, connections that no request uses are closed first.
    fn take_place(&self, asker: LookupCaller<'_>) -> Option<Place> {
        let take = || self.connections.take(asker.address, asker.caller_class, 1);
        let place = take().or_else(|why| match why {
            NoPlace::Node if self.pools.close_unused(&self.connections) => take(),
            why => Err(why),
        });
        place.ok()
    }

    /// Asks the oldest request of the client that has the most connections to leave, and waits until it has left.
    async fn wait_for_place(&self, asker: LookupCaller<'_>) -> Result<Place, ProxyError> {
        for _ in 0..ASKED_MAX {
            if !self.connections.displace_for(asker.address, asker.caller_class) {
                break;
            }
            for _ in 0..PLACE_TRIES {
                tokio::time::sleep(PLACE_PAUSE).await;
                if let Some(place) = self.take_place(asker) {
                    return Ok(place);
                }
            }
        }
        Err(ProxyError::ConnectionsBusy)
    }

    /// Opens a TCP connection to the first of the host's addresses that accepts one.
    pub(crate) async fn connect_tcp(
        &self,
        host: &str,
        port: u16,
        asker: LookupCaller<'_>,
    ) -> Result<TcpStream, ProxyError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.connect_ip(SocketAddr::new(ip, port)).await;
        }
        let found = self.lookups.resolve(host, asker).await?;
        let found = found.iter().take(RESOLVED_MAX).map(|ip| SocketAddr::new(*ip, port));
        self.connect_first(alternating(found)).await
    }

    /// Tries the addresses one after the other, without waiting for the end of earlier attempts. The first connection
    /// that opens is used (RFC 8305). An address that drops packets costs one delay.
    async fn connect_first(&self, addresses: Vec<SocketAddr>) -> Result<TcpStream, ProxyError> {
        let mut untried = addresses.into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut last = ProxyError::Resolve;
        loop {
            match untried.next() {
                Some(address) => attempts.push(self.connect_ip(address)),
                None if attempts.is_empty() => return Err(last),
                None => {}
            }
            tokio::select! {
                biased;
                Some(done) = attempts.next() => match done {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                },
                () = tokio::time::sleep(ATTEMPT_DELAY), if untried.len() > 0 => {}
            }
        }
    }

    /// Whether a connection to this resolved address may be made. The names of Maxine's own addresses with the same
    /// port are resolved for the comparison.
    async fn check_egress(&self, to: SocketAddr) -> Result<(), ProxyError> {
        self.egress.check_socket(to).map_err(ProxyError::Egress)?;
        // These names come from the settings, so they count as resolved before.
        let known = AtomicBool::new(true);
        for name in self.egress.own_names_with(to.port()) {
            let found = match self.lookups.resolve(&name, LookupCaller::node(&known)).await {
                Ok(found) => found,
                Err(ProxyError::Resolve) => continue,
                Err(error) => return Err(error),
            };
            let ip = to.ip().to_canonical();
            if found.iter().any(|own| own.to_canonical() == ip) {
                let own = EgressDenied::Own { host: ip.to_string(), port: to.port() };
                return Err(ProxyError::Egress(own));
            }
        }
        Ok(())
    }

    async fn connect_ip(&self, address: SocketAddr) -> Result<TcpStream, ProxyError> {
        self.check_egress(address).await?;
        let stream = TcpStream::connect(address).await.map_err(|_| ProxyError::Connect)?;
        // Small messages must not wait for the confirmation of earlier ones.
        stream.set_nodelay(true).map_err(|_| ProxyError::Connect)?;
        Ok(stream)
    }
}

/// The addresses with alternating families, beginning with the resolver's first one (RFC 8305, section 4).
fn alternating(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let all: Vec<SocketAddr> = found.collect();
    let first_is_v6 = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    one.reverse();
    other.reverse();
    let mut order = Vec::with_capacity(one.len() + other.len());
    while !(one.is_empty() && other.is_empty()) {
        order.extend(one.pop());
        order.extend(other.pop());
    }
    order
}

/// Why a handshake failed, as a [`TlsFailure`].
fn tls_failure(error: &io::Error) -> TlsFailure {
    use rustls::{CertificateError as Bad, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(bad)) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => TlsFailure::Expired,
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => TlsFailure::NotYetValid,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => TlsFailure::WrongName,
            Bad::UnknownIssuer => TlsFailure::UnknownAuthority,
            Bad::Revoked => TlsFailure::Revoked,
            _ => TlsFailure::BadCertificate,
        },
        Some(Error::InvalidMessage(_)) => TlsFailure::NotTls,
        Some(Error::AlertReceived(_)) => TlsFailure::Refused,
        Some(Error::PeerIncompatible(_)) => TlsFailure::Incompatible,
        Some(_) => TlsFailure::Protocol,
        None => TlsFailure::Broken,
    }
}

/// Accepts any certificate, for services whose policy allows it. Signatures are still verified.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::egress::{HostPort, OwnAddresses};
    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_its_addresses() {
        // The address was not known at the registration, and the name does not tell it.
        let policy = EgressPolicy::new(vec![], vec![], false);
        let places = crate::ConnectionLimits::of(8).places();
        let connector = Connector::new(policy, &TlsRoots::System, places).unwrap();
        let refused = connector
            .connect_tcp("localhost", 9, LookupCaller::node(&AtomicBool::new(false)))
            .await;
        assert!(matches!(refused, Err(ProxyError::Egress(_))), "{:?}", refused.err());
    }

    #[tokio::test]
    async fn maxines_own_names_are_compared_by_their_addresses() {
        let own = OwnAddresses::default();
        own.set(vec![HostPort::of_url("http://localhost:8090", 80).unwrap()]);
        let policy = EgressPolicy::new(vec![], vec![], true).with_own(own);
        let places = crate::ConnectionLimits::of(8).places();
        let connector = Connector::new(policy, &TlsRoots::System, places).unwrap();
        let to = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let refused = connector.check_egress(to(8_090)).await;
        let is_own =
            matches!(refused, Err(ProxyError::Egress(EgressDenied::Own { port: 8_090, .. })));
        assert!(is_own, "{refused:?}");
        connector.check_egress(to(8_091)).await.unwrap();
    }

    #[test]
    fn the_families_of_a_names_addresses_alternate() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c) = (address("[::1]:1"), address("[::2]:1"), address("[::3]:1"));
        let (x, y) = (address("1.1.1.1:1"), address("2.2.2.2:1"));
        assert_eq!(alternating([a, b, c, x, y].into_iter()), [a, x, b, y, c]);
        assert_eq!(alternating([x, a, y].into_iter()), [x, a, y]);
        assert_eq!(alternating([x, y].into_iter()), [x, y]);
    }

    /// An address whose packets are dropped: a listener that accepts nothing and whose queue is full.
    async fn swallowing() -> (std::net::TcpListener, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap().into_std().unwrap();
        let mut held = Vec::new();
        let patience = Duration::from_millis(200);
        let address = listener.local_addr().unwrap();
        while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
            held.push(stream.unwrap());
        }
        (listener, held)
    }

    #[tokio::test]
    async fn an_address_that_drops_packets_costs_one_delay() {
        let (swallowing, _held) = swallowing().await;
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![swallowing.local_addr().unwrap(), live.local_addr().unwrap()];
        let connector = Connector::new(
            EgressPolicy::new(vec![], vec![], true),
            &TlsRoots::System,
            crate::ConnectionLimits::of(8).places(),
        )
        .unwrap();
        let within = Duration::from_millis(1_500);
        let stream = tokio::time::timeout(within, connector.connect_first(addresses)).await;
        let stream = stream.expect("the second address is tried beside the first").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live.local_addr().unwrap());
    }
}
