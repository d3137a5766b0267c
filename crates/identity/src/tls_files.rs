//! Checks files with certificates and keys before anything depends on them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Files that are used together, each with the setting that names it.
#[derive(Clone, Copy, Debug)]
pub struct TlsFiles<'a> {
    /// The certificates of the authorities, if a file has them.
    pub authority: Option<(&'a str, &'a Path)>,
    /// A certificate and its key, if there are any.
    pub identity: Option<[(&'a str, &'a Path); 2]>,
    /// Whether the authority must have signed the certificate.
    pub signed: bool,
}

/// Adds every reason why `files` cannot be used to `problems`. The validity period is not checked: a node
/// with an expired certificate can still answer reads. Blocks.
pub fn look_at(files: TlsFiles<'_>, problems: &mut Vec<String>) {
    Look(problems).at(files);
}

struct Look<'a>(&'a mut Vec<String>);

impl Look<'_> {
    fn at(&mut self, files: TlsFiles<'_>) {
        let authority = files.authority.and_then(|named| self.certificates(named, true));
        let Some([certificate, key]) = files.identity else { return };
        let chain = self.certificates(certificate, false);
        let key = self.key(key);
        let Some(chain) = chain else { return };
        if let Some((key, named)) = key {
            self.belong_together(&chain, certificate, key, named);
        }
        if files.signed
            && let (Some(authority), Some(named)) = (authority, files.authority)
        {
            self.is_signed(&chain, certificate, authority, named);
        }
    }

    fn problem(&mut self, (setting, path): (&str, &Path), text: impl std::fmt::Display) {
        self.0.push(format!("{setting}: {}: {text}", path.display()));
    }

    /// `is_bundle` says that the file may have many certificates.
    fn certificates(
        &mut self,
        named: (&str, &Path),
        is_bundle: bool,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let read = if is_bundle { maxine_files::read_bundle } else { maxine_files::read };
        let pem = match read(named.1) {
            Ok(pem) => pem,
            Err(error) => {
                self.problem(named, maxine_wording::io(&error));
                return None;
            }
        };
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = match read {
            Ok(certificates) if !certificates.is_empty() => certificates,
            _ => {
                self.problem(named, "it holds no certificate in PEM");
                return None;
            }
        };
        if certificates.iter().any(|certificate| X509Certificate::from_der(certificate).is_err()) {
            self.problem(named, "it holds a certificate that cannot be read");
            return None;
        }
        Some(certificates)
    }

    fn key<'a>(
        &mut self,
        named: (&'a str, &'a Path),
    ) -> Option<(PrivateKeyDer<'static>, (&'a str, &'a Path))> {
        match maxine_files::read(named.1) {
            Err(error) => self.problem(named, maxine_wording::io(&error)),
            Ok(pem) => match PrivateKeyDer::from_pem_slice(&pem) {
                Err(_) => self.problem(named, "it holds no private key in PEM"),
                Ok(key) => return Some((key, named)),
            },
        }
        None
    }

    fn belong_together(
        &mut self,
        chain: &[CertificateDer<'static>],
        certificate: (&str, &Path),
        key: PrivateKeyDer<'static>,
        named: (&str, &Path),
    ) {
        let provider = rustls::crypto::ring::default_provider();
        let Ok(key) = provider.key_provider.load_private_key(key) else {
            self.problem(named, "its key is of a kind that cannot be used");
            return;
        };
        let pair = rustls::sign::CertifiedKey::new(chain.to_vec(), key);
        if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) =
            pair.keys_match()
        {
            let other = certificate.1.display();
            self.problem(named, format!("it is not the key of the certificate in {other}"));
        }
    }

    fn is_signed(
        &mut self,
        chain: &[CertificateDer<'static>],
        certificate: (&str, &Path),
        authority: Vec<CertificateDer<'static>>,
        named: (&str, &Path),
    ) {
        let mut roots = RootCertStore::empty();
        if authority.into_iter().any(|certificate| roots.add(certificate).is_err()) {
            self.problem(named, "it holds a certificate that is no authority");
            return;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let (Ok(verifier), Some((own, rest))) = (verifier, chain.split_first()) else { return };
        // A time at which the certificate is, or was, valid.
        let within = X509Certificate::from_der(own)
            .map_or(0, |(_, parsed)| parsed.validity().not_after.timestamp());
        let within =
            UnixTime::since_unix_epoch(Duration::from_secs(within.try_into().unwrap_or(0)));
        if let Err(error) = verifier.verify_client_cert(own, rest, within) {
            let authority = named.1.display();
            let text = match error {
                rustls::Error::InvalidCertificate(rustls::CertificateError::Expired)
                | rustls::Error::InvalidCertificate(rustls::CertificateError::ExpiredContext {
                    ..
                }) => return,
                rustls::Error::InvalidCertificate(
                    rustls::CertificateError::UnknownIssuer
                    | rustls::CertificateError::BadSignature,
                ) => {
                    format!("the authority in {authority} did not sign it")
                }
                other => format!("the authority in {authority} does not vouch for it: {other}"),
            };
            self.problem(certificate, text);
        }
    }
}
