//! Opens connections: resolve, check the address against the egress policy, connect, TLS.
//!
//! Knows nothing of requests. Its caller bounds the time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::egress::EgressPolicy;
use super::error::ProxyError;
use super::target::UpstreamAddress;

/// Most addresses of one name that are tried.
const RESOLVED_MAX: usize = 8;

/// Whose signatures on instances' certificates are believed.
#[derive(Clone, Debug, Default)]
pub enum TlsRoots {
    /// The machine's certificate store; the built-in web roots where it has none.
    #[default]
    System,
    /// These certificates, in PEM.
    Pem(Vec<u8>),
}

/// The roots cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("trusted roots for upstream TLS: {0}")]
pub struct TlsRootsError(String);

/// A byte stream to an instance.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    egress: Arc<EgressPolicy>,
    verified: Arc<ClientConfig>,
    unverified: Arc<ClientConfig>,
}

/// What to speak once connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    /// Whether any certificate will do.
    pub(crate) insecure: bool,
    /// Whether HTTP/2 is wanted.
    pub(crate) http2: bool,
}

impl Connector {
    pub(crate) fn new(egress: EgressPolicy, roots: &TlsRoots) -> Result<Self, TlsRootsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let failed = |error: rustls::Error| TlsRootsError(error.to_string());
        let builder = || {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(failed)
        };
        let verified = match roots {
            TlsRoots::System => match builder()?.with_native_roots() {
                Ok(config) => config.with_no_client_auth(),
                Err(_) => builder()?.with_webpki_roots().with_no_client_auth(),
            },
            TlsRoots::Pem(pem) => {
                let mut store = RootCertStore::empty();
                for cert in CertificateDer::pem_slice_iter(pem) {
                    let cert = cert.map_err(|error| TlsRootsError(error.to_string()))?;
                    store.add(cert).map_err(failed)?;
                }
                if store.is_empty() {
                    return Err(TlsRootsError("no certificate in the PEM text".into()));
                }
                builder()?.with_root_certificates(store).with_no_client_auth()
            }
        };
        let unverified = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(Arc::clone(&provider))))
            .with_no_client_auth();
        Ok(Self {
            egress: Arc::new(egress),
            verified: Arc::new(verified),
            unverified: Arc::new(unverified),
        })
    }

    /// Connects. May be dropped at any time.
    pub(crate) async fn connect(
        &self,
        to: &UpstreamAddress,
        security: Security,
    ) -> Result<Stream, ProxyError> {
        let tcp = self.connect_tcp(&to.host, to.port).await?;
        if !to.https {
            return Ok(Stream::Plain(tcp));
        }
        let base = if security.insecure { &self.unverified } else { &self.verified };
        let mut config = ClientConfig::clone(base);
        let protocol: &[u8] = if security.http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(to.host.clone()).map_err(|_| ProxyError::Tls)?;
        let tls = TlsConnector::from(Arc::new(config));
        let stream = tls.connect(name, tcp).await.map_err(|error| {
            tracing::debug!(host = %to.host, %error, "tls handshake with an upstream failed");
            ProxyError::Tls
        })?;
        if security.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ProxyError::Tls);
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// A TCP connection to the first address that takes it.
    pub(crate) async fn connect_tcp(&self, host: &str, port: u16) -> Result<TcpStream, ProxyError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.connect_ip(SocketAddr::new(ip, port)).await;
        }
        let found = tokio::net::lookup_host((host, port)).await.map_err(|_| ProxyError::Resolve)?;
        let mut last = ProxyError::Resolve;
        for address in found.take(RESOLVED_MAX) {
            match self.connect_ip(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_ip(&self, address: SocketAddr) -> Result<TcpStream, ProxyError> {
        self.egress.check_ip(address.ip()).map_err(ProxyError::Egress)?;
        let stream = TcpStream::connect(address).await.map_err(|_| ProxyError::Connect)?;
        // Small messages must not wait for one another.
        stream.set_nodelay(true).map_err(|_| ProxyError::Connect)?;
        Ok(stream)
    }
}

/// Takes any certificate, for services whose policy says so; signatures are still checked.
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

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        // Registration never saw this address: the name alone tells nothing.
        let policy = EgressPolicy::new(vec![], vec![], false);
        let connector = Connector::new(policy, &TlsRoots::System).unwrap();
        let refused = connector.connect_tcp("localhost", 9).await;
        assert!(matches!(refused, Err(ProxyError::Egress(_))), "{:?}", refused.err());
    }
}
