//! TLS of the HTTP listener: certificates that are chosen by server name and replaced while the node runs.
//!
//! Place in the flow: the API's listener takes [`ServerTls::config`] for each new connection. The program calls
//! [`ServerTls::reload`] when a file has changed. Connections that are open keep the certificate with which they began.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// A client without a certificate is accepted. A certificate that is shown must be valid.
    Optional,
    /// Only clients with a valid certificate are accepted.
    Required,
}

/// The lowest version of TLS that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2, and 1.3 for clients that support it.
    #[default]
    V1_2,
    /// TLS 1.3 only.
    V1_3,
}

impl TlsVersion {
    fn accepted(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::V1_2 => vec![&rustls::version::TLS13, &rustls::version::TLS12],
            Self::V1_3 => vec![&rustls::version::TLS13],
        }
    }
}

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by those of intermediate authorities.
    pub certificate: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
}

/// What a TLS listener is made from.
#[derive(Clone, Debug, Default)]
pub struct ServerTlsSettings {
    /// The certificates. The first one is used for clients whose server name no certificate has.
    pub certificates: Vec<CertificateFiles>,
    /// The authorities of client certificates, in one PEM file. Required unless `client_auth` is
    /// [`ClientAuth::None`].
    pub client_authority: Option<PathBuf>,
    /// PEM files with lists of revoked client certificates (CRL), each signed by one of these authorities.
    pub client_crl: Vec<PathBuf>,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
    /// The lowest accepted version.
    pub version_min: TlsVersion,
}

/// The present TLS configuration of a listener.
pub struct ServerTls {
    settings: ServerTlsSettings,
    present: ArcSwap<ServerConfig>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    ///
    /// Says which file cannot be used, and why.
    pub fn load(settings: ServerTlsSettings) -> Result<Self, String> {
        let present = ArcSwap::new(Arc::new(build(&settings)?));
        Ok(Self { settings, present })
    }

    /// Reads the files again. New connections use what they contain. If one cannot be used, nothing changes. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<(), String> {
        self.present.store(Arc::new(build(&self.settings)?));
        Ok(())
    }

    /// The configuration for a new connection.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.present.load_full()
    }

    /// The files that it was made from.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let pairs = self.settings.certificates.iter();
        let pairs = pairs.flat_map(|files| [files.certificate.clone(), files.key.clone()]);
        let of_clients = self.settings.client_authority.iter().chain(&self.settings.client_crl);
        pairs.chain(of_clients.cloned()).collect()
    }
}

fn build(settings: &ServerTlsSettings) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&settings.version_min.accepted())
        .map_err(|error| error.to_string())?;
    let builder = match (settings.client_auth, &settings.client_authority) {
        (ClientAuth::None, _) => builder.with_no_client_auth(),
        (_, None) => {
            return Err("client certificates are asked for, but no authority is set".into());
        }
        (auth, Some(path)) => {
            let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let mut roots = RootCertStore::empty();
            let authorities = read_certificates(path, maxine_files::read_bundle)?;
            for certificate in &authorities {
                roots.add(certificate.clone()).map_err(|error| failed(&error))?;
            }
            let revoked = maxine_revocation::read(&settings.client_crl, &authorities)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            let verifier = verifier.build().map_err(|error| failed(&error))?;
            builder.with_client_cert_verifier(maxine_revocation::refuse(verifier, revoked))
        }
    };
    let certificates = settings.certificates.iter().map(NamedCertificate::read);
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err("no certificate is set".into());
    }
    let mut config = builder.with_cert_resolver(Arc::new(ByServerName(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets of an earlier configuration are not accepted, so a removed client authority counts at once.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| error.to_string())?;
    Ok(config)
}

fn read_certificates(path: &Path, read: Read) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_with(path, read)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{}: it holds no certificate in PEM", path.display())),
    }
}

/// Reads a file within a limit.
type Read = fn(&Path) -> std::io::Result<Vec<u8>>;

fn read_with(path: &Path, read: Read) -> Result<Vec<u8>, String> {
    read(path).map_err(|error| format!("{}: {}", path.display(), maxine_wording::io(&error)))
}

/// A certificate with the server names that it is valid for.
#[derive(Debug)]
struct NamedCertificate {
    /// In lower case. A name may begin with `*.`.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl NamedCertificate {
    fn read(files: &CertificateFiles) -> Result<Self, String> {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        let chain = read_certificates(&files.certificate, maxine_files::read)?;
        let names = match chain.first().map(|own| X509Certificate::from_der(own)) {
            Some(Ok((_, parsed))) => dns_names(&parsed),
            _ => return Err(format!("{certificate}: it holds a certificate that cannot be read")),
        };
        let pem = read_with(&files.key, maxine_files::read)?;
        let private = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| format!("{key}: it holds no private key in PEM"))?;
        let provider = rustls::crypto::ring::default_provider();
        let private = provider
            .key_provider
            .load_private_key(private)
            .map_err(|_| format!("{key}: its key is of a kind that cannot be used"))?;
        let pair = CertifiedKey::new(chain, private);
        if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) =
            pair.keys_match()
        {
            return Err(format!("{key}: it is not the key of the certificate in {certificate}"));
        }
        Ok(Self { names, key: Arc::new(pair) })
    }

    fn is_for(&self, server_name: &str) -> bool {
        let parent = server_name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => name == server_name,
        })
    }
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            found.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            }));
        }
    }
    found
}

/// Chooses the certificate for the server name that a client asks for.
#[derive(Debug)]
struct ByServerName(Vec<NamedCertificate>);

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        let named = asked.and_then(|name| self.0.iter().find(|each| each.is_for(&name)));
        named.or_else(|| self.0.first()).map(|each| Arc::clone(&each.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let files = CertificateFiles {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn a_certificate_is_for_its_names_and_one_label_below_a_wildcard() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), "a", &["Shop.example", "*.Pay.example"]);
        let certificate = NamedCertificate::read(&files).unwrap();
        for (name, expected) in [
            ("shop.example", true),
            ("a.pay.example", true),
            ("pay.example", false),
            ("a.b.pay.example", false),
            ("a.shop.example", false),
            ("", false),
        ] {
            assert_eq!(certificate.is_for(name), expected, "{name}");
        }
    }

    #[test]
    fn a_bad_file_is_refused_and_the_former_configuration_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), "a", &["a.example"]);
        let settings =
            ServerTlsSettings { certificates: vec![files.clone()], ..ServerTlsSettings::default() };
        let tls = ServerTls::load(settings).unwrap();
        let first = tls.config();
        let other = write(dir.path(), "b", &["b.example"]);
        std::fs::copy(&other.certificate, &files.certificate).unwrap();
        let error = tls.reload().unwrap_err();
        assert!(error.contains("it is not the key of the certificate in"), "{error}");
        assert!(Arc::ptr_eq(&first, &tls.config()));
        std::fs::write(&files.key, "nothing").unwrap();
        assert!(tls.reload().unwrap_err().contains("it holds no private key in PEM"));
        std::fs::remove_file(&files.key).unwrap();
        assert!(tls.reload().unwrap_err().contains("a-key.pem"));
        assert!(Arc::ptr_eq(&first, &tls.config()));
        std::fs::copy(&other.key, &files.key).unwrap();
        tls.reload().unwrap();
        assert!(!Arc::ptr_eq(&first, &tls.config()));
    }

    #[test]
    fn client_certificates_need_an_authority() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = vec![write(dir.path(), "a", &["a.example"])];
        for client_auth in [ClientAuth::Optional, ClientAuth::Required] {
            let settings = ServerTlsSettings {
                certificates: certificates.clone(),
                client_auth,
                ..ServerTlsSettings::default()
            };
            assert!(ServerTls::load(settings).unwrap_err().contains("no authority is set"));
        }
    }
}
