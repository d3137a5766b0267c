//! What it means that a connection between two nodes could not be set up: which of the two refused the other, and what
//! an operator can do. For the logs of both.
//!
//! An error of TLS names an alert or a certificate, but not whose it is. Nothing here decides who is refused.

use std::io;

use rustls::{AlertDescription, Error, InvalidMessage};

/// The meaning of an error for the log. `None` if nobody refused anybody: the connection broke, or nothing answered.
pub(crate) fn meaning(error: &io::Error) -> Option<&'static str> {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    Some(match of_tls {
        Some(Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
            "the other node refused the certificate of this one: look when the certificate of this node ends, whether it \
             was revoked, whether the other node trusts the authority that signed it, and whether its clock is right; \
             'maxine tls renew' makes a new certificate"
        }
        Some(Error::AlertReceived(_)) => "the other node ended the TLS session",
        Some(Error::InvalidCertificate(_)) => {
            "this node refused the certificate of the other one: look when the certificate of the other node ends, whether \
             it was revoked (raft.tls_crl), whether this node trusts the authority that signed it (raft.tls_ca), and whether \
             the clock of this node is right"
        }
        Some(Error::NoCertificatesPresented) => {
            "this node refused the other side, because it showed no certificate: if it is a node of this cluster, set \
             raft.tls_cert and raft.tls_key there"
        }
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the other side does not use TLS, and this node does: if it is a node of this cluster, set raft.tls_ca, \
             raft.tls_cert and raft.tls_key there"
        }
        // Errors of the operating system are about neither of the two.
        _ if error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() => {
            "one of two nodes refused the other or gave up; the error says which one, and why"
        }
        _ => return None,
    })
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    /// Regression: the log did not say whether this node or the other one refused, and called both a refusal of the peer.
    #[test]
    fn the_log_says_which_of_two_nodes_refused_the_other() {
        let of = |error: Error| meaning(&io::Error::new(io::ErrorKind::InvalidData, error));
        let begins = |error, part: &str| {
            let text = of(error).unwrap();
            assert!(text.starts_with(part), "{text}");
        };
        for alert in [AlertDescription::CertificateExpired, AlertDescription::UnknownCA] {
            begins(Error::AlertReceived(alert), "the other node refused the certificate of this");
        }
        let other = Error::AlertReceived(AlertDescription::InternalError);
        begins(other, "the other node ended");
        let expired = Error::InvalidCertificate(CertificateError::Expired);
        begins(expired, "this node refused the certificate of the other");
        begins(Error::NoCertificatesPresented, "this node refused the other side");
        let plain = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        begins(plain, "the other side does not use TLS");
        let told = io::Error::new(io::ErrorKind::PermissionDenied, "refused by node 2: why");
        assert!(meaning(&told).unwrap().starts_with("one of two nodes refused the other"));
        assert_eq!(meaning(&io::ErrorKind::ConnectionRefused.into()), None);
        // EACCES, for example of a firewall.
        let firewall = io::Error::from_raw_os_error(13);
        assert_eq!(meaning(&firewall), None);
        assert_eq!(of(Error::HandshakeNotComplete), None);
    }
}
