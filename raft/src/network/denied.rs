//! Certificates of peers that are refused although the authority signed them, such as that of a stolen machine.
//!
//! The list is a file with one SHA-256 fingerprint per line. It counts for open connections too: they end with the next
//! bytes that arrive or leave, before anything of these bytes is used.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::RwLock;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of fingerprints in the file.
const FINGERPRINTS_MAX: usize = 10_000;

/// SHA-256 of a certificate in DER.
pub(crate) type Fingerprint = [u8; 32];

/// The fingerprint of a certificate.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Sha256::digest(certificate).into()
}

/// Reads a list: one fingerprint per line, in hexadecimal with or without colons. A line may end in a comment that
/// begins with `#`. Blocks.
///
/// # Errors
///
/// Describes what is wrong with the file.
pub(crate) fn read(path: &Path) -> Result<HashSet<Fingerprint>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut all = HashSet::new();
    for (at, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        let parsed = parse(word).ok_or_else(|| {
            format!("line {}: expected the 64 hexadecimal digits of a SHA-256 fingerprint", at + 1)
        })?;
        all.insert(parsed);
        if all.len() > FINGERPRINTS_MAX {
            return Err(format!("it has more than {FINGERPRINTS_MAX} fingerprints"));
        }
    }
    Ok(all)
}

fn parse(word: &str) -> Option<Fingerprint> {
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

/// The fingerprints that are refused now. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Denied(Arc<RwLock<Arc<HashSet<Fingerprint>>>>);

impl Denied {
    /// Replaces the list.
    pub(crate) fn set(&self, fingerprints: HashSet<Fingerprint>) {
        *self.0.write() = Arc::new(fingerprints);
    }

    /// Refuses a certificate that is on the list.
    pub(crate) fn check(&self, fingerprint: &Fingerprint) -> io::Result<()> {
        if self.0.read().contains(fingerprint) {
            let text = "the peer's certificate is on the list of denied ones (raft.tls_denied)";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(())
    }

    /// A connection that ends when the certificate of its peer is denied.
    pub(crate) fn guard<S>(&self, stream: S, fingerprint: Fingerprint) -> Guarded<S> {
        Guarded { stream, fingerprint, denied: self.clone() }
    }
}

/// A connection with a peer that may be denied later.
pub(crate) struct Guarded<S> {
    stream: S,
    fingerprint: Fingerprint,
    denied: Denied,
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        // Checked after the read: it may have waited since before the list was changed.
        if let Err(denied) = self.denied.check(&self.fingerprint) {
            buffer.set_filled(before);
            return Poll::Ready(Err(denied));
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
        self.denied.check(&self.fingerprint)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.denied.check(&self.fingerprint)?;
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

    #[test]
    fn a_fingerprint_is_read_as_openssl_prints_it() {
        let plain = "0123456789abcdef".repeat(4);
        let pairs: Vec<_> =
            plain.as_bytes().chunks(2).map(|p| std::str::from_utf8(p).unwrap()).collect();
        let colons = pairs.join(":").to_uppercase();
        assert_eq!(parse(&plain).unwrap()[..3], [0x01, 0x23, 0x45]);
        assert_eq!(parse(&plain), parse(&colons));
        for wrong in ["", "01", &plain[1..], &plain.replace('f', "g"), &plain.replace("01", "+1")] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("denied");
        std::fs::write(&path, format!("# stolen\n\n{colons}  # node 2\n")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        std::fs::write(&path, "\nnode 2\n").unwrap();
        assert!(read(&path).unwrap_err().starts_with("line 2"), "a mistake denies nobody silently");
    }
}
