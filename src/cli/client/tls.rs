//! Why no TLS connection to a node was made, in words, and what helps. In all these cases something answers at the address.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

const EXPIRED: &str = "the node's certificate has expired";
const NOT_YET_VALID: &str = "the node's certificate is not valid yet";
const OTHER_NAME: &str = "the node's certificate has another name than the URL";
const NOT_TRUSTED: &str = "the authority of the node's certificate is not trusted";
const NOT_VERIFIED: &str = "the node's certificate cannot be verified";
const WITHOUT_TLS: &str = "the server does not speak TLS on this port";
const WANTS_CERTIFICATE: &str = "the node wants a certificate of this client, which it trusts";
const ENDED: &str = "the node ended the TLS connection";
const NO_TLS: &str = "no TLS connection";

/// How each text begins, and what to do.
const REMEDIES: [(&str, &str); 9] = [
    (
        EXPIRED,
        "something answers at this address: replace its certificate (http.tls_cert), unless the clock of this machine is wrong; \
         see docs/operations/certificate-expired.md",
    ),
    (
        NOT_YET_VALID,
        "something answers at this address: compare its clock with that of this machine; see docs/operations/clock-wrong.md",
    ),
    (
        OTHER_NAME,
        "something answers at this address: use a URL with a name of its certificate, or give it another certificate \
         (http.tls_cert); see docs/guides/https.md",
    ),
    (NOT_TRUSTED, WRONG_FILES),
    (NOT_VERIFIED, WRONG_FILES),
    (
        WITHOUT_TLS,
        "something answers at this address without TLS: correct the URL, or set http.tls_cert on the node",
    ),
    (
        WANTS_CERTIFICATE,
        "something answers at this address: give --client-cert and --client-key; see docs/guides/https.md",
    ),
    (ENDED, "something answers at this address: look into its log; see docs/guides/https.md"),
    (NO_TLS, "something answers at this address: look into its log; see docs/guides/https.md"),
];
const WRONG_FILES: &str = "something answers at this address: give the authority of its certificate with --ca-file; if that is \
                           done, the wrong files were put in place on the node (http.tls_cert); see docs/guides/https.md";

/// What a TLS error means for the user. `None` if it is another error.
pub(super) fn text(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    // An input or output error may contain another one, and does not give the inner one as its source.
    let mut innermost = cause;
    while let Some(inner) = innermost.downcast_ref::<std::io::Error>() {
        innermost = inner.get_ref()?;
    }
    let error = innermost.downcast_ref::<Error>()?.clone();
    let trust = "give the file of the authority that signed it with --ca-file or MAXINE_CA_FILE";
    let text = match error {
        // The server's first bytes are not TLS.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("{WITHOUT_TLS}: use a URL with http://")
        }
        Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => EXPIRED.into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("{NOT_YET_VALID}: compare the clocks")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("{OTHER_NAME}: use a name that is in it")
            }
            CertificateError::UnknownIssuer => format!("{NOT_TRUSTED}: {trust}"),
            // Another authority of the same name has another key, and often another algorithm.
            _ => format!("{NOT_VERIFIED}: {trust}"),
        },
        Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::BadCertificate,
        ) => format!("{WANTS_CERTIFICATE}: --client-cert and --client-key"),
        Error::AlertReceived(alert) => format!("{ENDED} with the alert {alert:?}"),
        other => format!("{NO_TLS}: {other}"),
    };
    Some(text)
}

/// What to do about a node, if `why` is the text of a TLS error. `None` if it is another text.
#[must_use]
pub fn remedy(why: &str) -> Option<&'static str> {
    REMEDIES.iter().find(|(begin, _)| why.starts_with(begin)).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: Error) -> String {
        text(&std::io::Error::other(error)).unwrap()
    }

    #[test]
    fn a_tls_error_is_told_in_words_with_what_helps() {
        let of = |why: CertificateError| told(Error::InvalidCertificate(why));
        let other_algorithm = CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![6, 8],
            public_key_algorithm_id: vec![6, 7],
        };
        for why in
            [other_algorithm, CertificateError::UnknownIssuer, CertificateError::BadSignature]
        {
            let text = of(why);
            assert!(text.contains("--ca-file") && !text.contains(['{', '[']), "{text}");
        }
        assert!(of(CertificateError::Expired).contains("has expired"));
        assert!(of(CertificateError::NotValidForName).contains("another name"));
        assert_eq!(text(&std::io::Error::from(std::io::ErrorKind::ConnectionRefused)), None);
    }

    /// Regression: a node that answered with an expired certificate was said not to run.
    #[test]
    fn no_tls_error_is_answered_with_the_advice_to_start_the_node() {
        let errors = [
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::InvalidCertificate(CertificateError::Expired),
            Error::InvalidCertificate(CertificateError::NotValidYet),
            Error::InvalidCertificate(CertificateError::NotValidForName),
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Error::InvalidCertificate(CertificateError::Revoked),
            Error::AlertReceived(AlertDescription::CertificateRequired),
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::HandshakeNotComplete,
        ];
        for error in errors {
            let why = told(error);
            let helps = remedy(&why).unwrap_or_else(|| panic!("{why}"));
            assert!(helps.starts_with("something answers at this address"), "{helps}");
            for page in helps.split_whitespace().filter(|word| word.starts_with("docs/")) {
                let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
                assert!(root.join(page).is_file(), "{page}");
            }
        }
        let expired = remedy(EXPIRED).unwrap();
        assert!(expired.contains("docs/operations/certificate-expired.md"), "{expired}");
        for other in ["no answer in time", "Connection refused (os error 111)"] {
            assert_eq!(remedy(other), None);
        }
    }
}
