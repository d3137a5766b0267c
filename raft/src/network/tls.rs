//! Mutual TLS between nodes.
//!
//! Both sides must present a certificate of the cluster's authority that is not revoked. Each side checks that the
//! other's certificate has the name of the node that it claims to be.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::trust::{self, Fingerprint, Trust};
use super::wire::PeerStream;
use crate::config::{Config, NodeId, PeerTls, certificate_name};
use crate::error::StartError;

/// Protects connections. The certificates can be replaced. Open connections keep those with which they began, as long as
/// these are accepted.
pub(crate) struct Transport {
    protection: RwLock<Protection>,
    trust: Trust,
}

#[derive(Clone)]
enum Protection {
    Plain,
    Tls { acceptor: TlsAcceptor, connector: TlsConnector, verifier: Arc<dyn ClientCertVerifier> },
}

impl Transport {
    /// Loads certificates and checks that this node's own carries its name. Blocks.
    pub(crate) fn load(config: &Config) -> Result<Self, StartError> {
        let protection = Protection::load(config)?;
        let trust = Trust::default();
        trust.set(read_denied(config)?, protection.verifier());
        Ok(Self { protection: RwLock::new(protection), trust })
    }

    /// Loads the certificates again, for connections that begin later, and the authorities and the list of denied
    /// certificates, for all connections. After an error nothing changes. Blocks.
    pub(crate) fn reload(&self, config: &Config) -> Result<(), StartError> {
        let loaded = Protection::load(config)?;
        let denied = read_denied(config)?;
        let verifier = loaded.verifier();
        *self.protection.write() = loaded;
        self.trust.set(denied, verifier);
        Ok(())
    }

    /// How often the files were loaded again. A connection that began before the last time keeps its certificate, and the
    /// peer may accept only the new one soon.
    pub(crate) fn changes(&self) -> u64 {
        self.trust.changes()
    }

    /// Protects an outgoing connection. The peer must prove that it is `target`.
    pub(crate) async fn connect(
        &self,
        tcp: TcpStream,
        cluster_id: &str,
        target: NodeId,
    ) -> std::io::Result<Box<dyn PeerStream>> {
        let present = self.protection.read().clone();
        present.connect(tcp, cluster_id, target, &self.trust).await
    }

    /// Protects an incoming connection and returns the peer's certificate. Its name is checked once the peer
    /// has said which node it is.
    pub(crate) async fn accept(
        &self,
        tcp: TcpStream,
    ) -> std::io::Result<(Box<dyn PeerStream>, Option<CertificateDer<'static>>)> {
        let present = self.protection.read().clone();
        present.accept(tcp, &self.trust).await
    }
}

impl Protection {
    fn load(config: &Config) -> Result<Self, StartError> {
        let PeerTls::Mutual { ca_pem, cert_pem, key_pem } = &config.tls else {
            return Ok(Self::Plain);
        };
        let failed = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
            StartError::Tls(format!("{what} {}: {error}", path.display()))
        };
        let authorities = read_certificates(ca_pem, maxine_files::read_bundle)
            .map_err(|error| failed("authority", ca_pem, &error))?;
        let mut roots = RootCertStore::empty();
        for certificate in &authorities {
            roots.add(certificate.clone()).map_err(|error| failed("authority", ca_pem, &error))?;
        }
        let revoked = maxine_revocation::read(&config.tls_crl, &authorities)
            .map_err(|why| StartError::Tls(format!("revoked certificates: {why}")))?;
        let chain = read_certificates(cert_pem, maxine_files::read)
            .map_err(|error| failed("certificate", cert_pem, &error))?;
        let own =
            chain.first().ok_or_else(|| failed("certificate", cert_pem, &"the file holds none"))?;
        check_name(own, &config.cluster_id, config.node_id)
            .map_err(|error| failed("certificate", cert_pem, &error))?;
        let key = maxine_files::read(key_pem)
            .map_err(pem::Error::Io)
            .and_then(|text| PrivateKeyDer::from_pem_slice(&text))
            .map_err(|error| failed("key", key_pem, &error))?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| failed("authority", ca_pem, &error))?;
        // Trust asks it about the servers of outgoing connections too.
        let verifier = maxine_revocation::refuse(verifier, revoked);
        let versions = rustls::DEFAULT_VERSIONS;
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(verifier.clone())
                    .with_single_cert(chain.clone(), key.clone_key())
            })
            .map_err(|error| failed("certificate", cert_pem, &error))?;
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .and_then(|builder| {
                builder.with_root_certificates(roots).with_client_auth_cert(chain, key)
            })
            .map_err(|error| failed("certificate", cert_pem, &error))?;
        Ok(Self::Tls {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            verifier,
        })
    }

    fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        match self {
            Self::Plain => None,
            Self::Tls { verifier, .. } => Some(Arc::clone(verifier)),
        }
    }

    async fn connect(
        &self,
        tcp: TcpStream,
        cluster_id: &str,
        target: NodeId,
        trust: &Trust,
    ) -> std::io::Result<Box<dyn PeerStream>> {
        match self {
            Self::Plain => Ok(Box::new(tcp)),
            Self::Tls { connector, .. } => {
                let name = ServerName::try_from(certificate_name(cluster_id, target))
                    .map_err(std::io::Error::other)?;
                let stream = connector.connect(name, tcp).await?;
                let chain = shown(stream.get_ref().1.peer_certificates());
                Ok(Box::new(trust.guard(stream, chain)?))
            }
        }
    }

    async fn accept(
        &self,
        tcp: TcpStream,
        trust: &Trust,
    ) -> std::io::Result<(Box<dyn PeerStream>, Option<CertificateDer<'static>>)> {
        match self {
            Self::Plain => Ok((Box::new(tcp), None)),
            Self::Tls { acceptor, .. } => {
                let stream = acceptor.accept(tcp).await?;
                let chain = shown(stream.get_ref().1.peer_certificates());
                let certificate = chain.first().cloned();
                Ok((Box::new(trust.guard(stream, chain)?), certificate))
            }
        }
    }
}

/// The certificates that a peer showed, its own first.
fn shown(certificates: Option<&[CertificateDer<'_>]>) -> Vec<CertificateDer<'static>> {
    let owned = |certificate: &CertificateDer<'_>| certificate.clone().into_owned();
    certificates.unwrap_or_default().iter().map(owned).collect()
}

/// Reads the certificates of a PEM file, within the limit of `read`. Blocks.
fn read_certificates(
    path: &Path,
    read: fn(&Path) -> std::io::Result<Vec<u8>>,
) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let pem = read(path).map_err(pem::Error::Io)?;
    CertificateDer::pem_slice_iter(&pem).collect()
}

/// The fingerprints of keys that are refused. Blocks.
fn read_denied(config: &Config) -> Result<HashSet<Fingerprint>, StartError> {
    let Some(path) = &config.tls_denied else { return Ok(HashSet::new()) };
    trust::read(path).map_err(|why| {
        StartError::Tls(format!("the list of denied keys {}: {why}", path.display()))
    })
}

/// Whether a certificate has the name of a node of the cluster.
pub(crate) fn check_name(
    certificate: &CertificateDer<'_>,
    cluster_id: &str,
    node_id: NodeId,
) -> Result<(), String> {
    let expected = certificate_name(cluster_id, node_id);
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let named = parsed.extensions().iter().any(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().any(|name| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(&expected)))
        }
        _ => false,
    });
    if named { Ok(()) } else { Err(format!("it lacks the DNS name {expected}")) }
}
