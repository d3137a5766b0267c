//! Which certificates of peers are accepted: those that a present authority has signed and not revoked, except the
//! denied ones, such as that of a stolen machine. The list of denied ones is a file with one fingerprint per line. It is
//! the SHA-256 of a public key, and not of a certificate: whoever has the private key can change the bytes of a signature
//! in a certificate so that it stays valid, because a signature of ECDSA has two forms.
//!
//! Both count for open connections too. After a change of the files, a connection whose certificate is no longer
//! accepted ends with the next bytes that arrive or leave, before anything of these bytes is used. A certificate of a
//! former authority is accepted a moment longer, so that the nodes can replace their connections without losing a request.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Maximum number of fingerprints in the file.
const FINGERPRINTS_MAX: usize = 10_000;

/// How long an open connection goes on with a certificate of a former authority.
const FORMER_TIME: Duration = Duration::from_secs(2);

/// What each line of the list begins with.
pub(crate) const FINGERPRINT_PREFIX: &str = "key-sha256:";

/// SHA-256 of a public key in DER (`SubjectPublicKeyInfo`).
pub(crate) type Fingerprint = [u8; 32];

/// The fingerprint of the key of a certificate.
///
/// # Errors
///
/// Says why the certificate cannot be read.
pub(crate) fn key_fingerprint(certificate: &CertificateDer<'_>) -> Result<Fingerprint, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    Ok(Sha256::digest(parsed.public_key().raw).into())
}

/// Reads a list: one fingerprint per line, as `maxine tls fingerprint` prints it. A line may end in a comment that begins
/// with `#`. Blocks.
///
/// # Errors
///
/// Describes what is wrong with the file.
pub(crate) fn read(path: &Path) -> Result<HashSet<Fingerprint>, String> {
    let text = maxine_files::read_text_up_to(path, maxine_files::BUNDLE_LEN_MAX)
        .map_err(|error| error.to_string())?;
    let mut all = HashSet::new();
    for (at, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        let parsed = parse(word).ok_or_else(|| {
            format!(
                "line {}: expected {FINGERPRINT_PREFIX} and 64 hexadecimal digits, as 'maxine tls fingerprint' prints them",
                at + 1
            )
        })?;
        all.insert(parsed);
        if all.len() > FINGERPRINTS_MAX {
            return Err(format!("it has more than {FINGERPRINTS_MAX} fingerprints"));
        }
    }
    Ok(all)
}

fn parse(word: &str) -> Option<Fingerprint> {
    let word = word.strip_prefix(FINGERPRINT_PREFIX)?;
    let digits: Vec<u8> = word.bytes().filter(|byte| *byte != b':').collect();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        // `from_str_radix` would accept a sign.
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Decides whether a certificate of a peer is accepted now. Clones share the decision.
#[derive(Clone, Default)]
pub(crate) struct Trust(Arc<Shared>);

#[derive(Default)]
struct Shared {
    present: RwLock<Arc<Present>>,
    /// How often `present` was replaced.
    changes: AtomicU64,
}

#[derive(Default)]
struct Present {
    denied: HashSet<Fingerprint>,
    /// Knows the authorities and what they revoked. `None` if connections are not protected.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Knows the former authorities, for open connections until this time.
    former: Option<(Arc<dyn ClientCertVerifier>, Instant)>,
}

/// Why an open connection goes on.
#[derive(PartialEq, Eq)]
enum Accepted {
    /// Its certificate is accepted.
    Now,
    /// Its certificate was accepted until a moment ago.
    Former,
}

impl Trust {
    /// Replaces the denied certificates and the authorities.
    pub(crate) fn set(
        &self,
        denied: HashSet<Fingerprint>,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) {
        let mut present = self.0.present.write();
        let until = crate::clock::now() + FORMER_TIME;
        let former = present.verifier.clone().map(|verifier| (verifier, until));
        *present = Arc::new(Present { denied, verifier, former });
        drop(present);
        self.0.changes.fetch_add(1, Ordering::Release);
    }

    /// How often it was replaced.
    pub(crate) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Refuses a certificate that is on the list, or that no present authority has signed.
    fn check(&self, chain: &[CertificateDer<'static>]) -> io::Result<Accepted> {
        let refused = |text: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        let Some((own, between)) = chain.split_first() else {
            return refused("this node refused the peer, which showed no certificate".into());
        };
        let present = Arc::clone(&self.0.present.read());
        match key_fingerprint(own) {
            Ok(key) if present.denied.contains(&key) => {
                return refused(
                    "this node refused the peer: the key of the peer's certificate is on the list of denied ones (raft.tls_denied)"
                        .into(),
                );
            }
            Ok(_) => {}
            Err(why) => {
                let text =
                    format!("this node refused the peer, whose certificate cannot be read: {why}");
                return refused(text);
            }
        }
        let Some(verifier) = &present.verifier else { return Ok(Accepted::Now) };
        let verify = |verifier: &Arc<dyn ClientCertVerifier>| {
            verifier.verify_client_cert(own, between, UnixTime::now())
        };
        let Err(error) = verify(verifier) else { return Ok(Accepted::Now) };
        match &present.former {
            // What was revoked is refused at once.
            _ if is_revoked(&error) => refused(
                "this node refused the peer: its certificate is on a list of revoked ones (raft.tls_crl)"
                    .into(),
            ),
            Some((former, until)) if crate::clock::now() < *until && verify(former).is_ok() => {
                Ok(Accepted::Former)
            }
            _ => refused(format!("this node refused the certificate of the peer: {error}")),
        }
    }

    /// A connection with a peer that showed these certificates. It ends when they are no longer accepted.
    pub(crate) fn guard<S>(
        &self,
        stream: S,
        chain: Vec<CertificateDer<'static>>,
    ) -> io::Result<Guarded<S>> {
        let checked_at = self.changes();
        // A handshake that began before a change of the authorities, and ends after it, is repeated.
        if self.check(&chain)? == Accepted::Former {
            let text = "the authorities were replaced during the handshake";
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, text));
        }
        Ok(Guarded { stream, chain, trust: self.clone(), checked_at })
    }
}

fn is_revoked(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked))
}

/// A connection with a peer whose certificate may be refused later.
pub(crate) struct Guarded<S> {
    stream: S,
    chain: Vec<CertificateDer<'static>>,
    trust: Trust,
    /// The number of changes at the last check.
    checked_at: u64,
}

impl<S> Guarded<S> {
    fn check(&mut self) -> io::Result<()> {
        let changes = self.trust.changes();
        if changes != self.checked_at && self.trust.check(&self.chain)? == Accepted::Now {
            self.checked_at = changes;
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        // Checked after the read: it may have waited since before the files were changed.
        if let Err(refused) = self.check() {
            buffer.set_filled(before);
            return Poll::Ready(Err(refused));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever has a denied key can change the signature in its certificate so that the certificate stays valid.
    #[test]
    fn a_denied_key_is_refused_whatever_the_bytes_of_its_certificate() {
        use rustls::pki_types::pem::PemObject;
        let dir = tempfile::tempdir().unwrap();
        let validity = crate::pki::Validity { now_ms: 1_800_000_000_000, node_days: 1 };
        let made = crate::pki::issue_cluster(dir.path(), "test", &[1, 2], validity).unwrap();
        let [denied, other] = [0, 1].map(|at| {
            CertificateDer::from_pem_file(&made.nodes[at].cert_pem).unwrap().into_owned()
        });
        let mut changed = denied.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        let changed = CertificateDer::from(changed);
        let trust = Trust::default();
        trust.set([key_fingerprint(&denied).unwrap()].into(), None);
        assert!(trust.check(&[denied]).is_err());
        assert!(trust.check(&[changed]).is_err());
        assert!(trust.check(&[other]).is_ok());
    }

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons() {
        let plain = "0123456789abcdef".repeat(4);
        let pairs: Vec<_> =
            plain.as_bytes().chunks(2).map(|p| std::str::from_utf8(p).unwrap()).collect();
        let colons = pairs.join(":").to_uppercase();
        let read_key = |digits: &str| parse(&format!("{FINGERPRINT_PREFIX}{digits}"));
        assert_eq!(read_key(&plain).unwrap()[..3], [0x01, 0x23, 0x45]);
        assert_eq!(read_key(&plain), read_key(&colons));
        for wrong in ["", "01", &plain[1..], &plain.replace('f', "g"), &plain.replace("01", "+1")] {
            assert_eq!(read_key(wrong), None, "{wrong}");
        }
        // It looks like the fingerprint of a certificate, which would deny nobody for long.
        assert_eq!(parse(&plain), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("denied");
        std::fs::write(&path, format!("# stolen\n\n{FINGERPRINT_PREFIX}{colons}  # node 2\n"))
            .unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        std::fs::write(&path, "\nnode 2\n").unwrap();
        assert!(read(&path).unwrap_err().starts_with("line 2"), "a mistake denies nobody silently");
    }
}
