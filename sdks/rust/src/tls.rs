//! TLS of the requests to nodes and to an OpenID provider.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// The certificate that a client shows to nodes that ask for one.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// A PEM file with the certificate, and those of its issuers.
    pub cert_file: PathBuf,
    /// A PEM file with its private key.
    pub key_file: PathBuf,
}

/// The settings of an HTTP client that follows no redirect. Without a `ca_file`, servers are checked with the
/// certificates of the system. The files are read now, and not again.
///
/// # Errors
/// [`Error::Settings`] if a file cannot be used.
pub(crate) fn builder(
    ca_file: Option<&Path>,
    certificate: Option<&ClientCertificate>,
) -> Result<reqwest::ClientBuilder, Error> {
    // An application that has chosen a provider keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    if let Some(file) = ca_file {
        let found = reqwest::Certificate::from_pem_bundle(&read(file)?).unwrap_or_default();
        if found.is_empty() {
            return Err(Error::Settings(format!("{} has no certificate in PEM", file.display())));
        }
        builder = builder.tls_certs_only(found);
    }
    if let Some(ClientCertificate { cert_file, key_file }) = certificate {
        let both = [read(cert_file)?, b"\n".to_vec(), read(key_file)?].concat();
        let identity = reqwest::Identity::from_pem(&both).map_err(|_| {
            let (cert, key) = (cert_file.display(), key_file.display());
            Error::Settings(format!(
                "{cert} and {key}: expected a certificate and a private key in PEM"
            ))
        })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|error| Error::Settings(format!("{}: {error}", file.display())))
}
