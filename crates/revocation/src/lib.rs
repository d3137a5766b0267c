//! Lists of revoked certificates (CRL, RFC 5280), in PEM files.
//!
//! Place in the flow: the TLS of the HTTP port and of the peer port read the lists together with the authorities, and
//! wrap the verifier of certificates with [`refuse`].
//!
//! A list is checked once, when it is read: one of the authorities must have signed it. The verifier of `rustls` can take
//! lists too, but it finds the list of a certificate by the name of the issuer alone. While an authority is replaced,
//! two authorities have the same name, and it would refuse every certificate of the one that did not sign the list.
//!
//! A list that is out of date still counts, because what it names stays revoked.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Maximum number of certificates that all lists together may name.
const REVOKED_MAX: usize = 1_000_000;

/// The issuer of a certificate in DER, and its serial number.
type Key = (Vec<u8>, Vec<u8>);

/// The certificates that lists name.
#[derive(Clone, Debug, Default)]
pub struct Revoked(HashSet<Key>);

impl Revoked {
    /// Whether no certificate is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a certificate that is revoked, or that cannot be read.
    ///
    /// # Errors
    ///
    /// As for a verifier of `rustls`.
    pub fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        };
        let key = (parsed.issuer().as_raw().to_vec(), parsed.serial.to_bytes_be());
        match self.0.contains(&key) {
            true => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            false => Ok(()),
        }
    }
}

/// Reads the lists in these files. Each must be signed by one of the authorities. Blocks.
///
/// # Errors
///
/// Says which file cannot be used, and why.
pub fn read(files: &[PathBuf], authorities: &[CertificateDer<'_>]) -> Result<Revoked, String> {
    let mut revoked = HashSet::new();
    for path in files {
        let failed = |why: &str| format!("{}: {why}", path.display());
        for der in read_file(path)? {
            check_form(&der, authorities).map_err(|why| failed(&why))?;
            let list = parse(&der).map_err(|why| failed(&why))?;
            if !authorities.iter().any(|authority| is_signed(&list, authority)) {
                let issuer = list.issuer();
                return Err(failed(&format!(
                    "none of the authorities signed the revocation list of {issuer}"
                )));
            }
            let issuer = list.issuer().as_raw();
            let all = list.iter_revoked_certificates();
            revoked.extend(all.map(|one| (issuer.to_vec(), one.user_certificate.to_bytes_be())));
            if revoked.len() > REVOKED_MAX {
                return Err(failed(&format!("there are more than {REVOKED_MAX} certificates")));
            }
        }
    }
    Ok(Revoked(revoked))
}

/// When the first list in a file is to be replaced by a newer one, in milliseconds since 1970; `None` if no list says so.
/// Blocks.
///
/// # Errors
///
/// Says why the file cannot be read.
pub fn next_update_ms(path: &Path) -> Result<Option<u64>, String> {
    let mut first = None;
    for der in read_file(path)? {
        let list = parse(&der).map_err(|why| format!("{}: {why}", path.display()))?;
        if let Some(next) = list.next_update() {
            let next_ms = u64::try_from(next.timestamp()).unwrap_or(0).saturating_mul(1_000);
            first = Some(first.map_or(next_ms, |first: u64| first.min(next_ms)));
        }
    }
    Ok(first)
}

/// The lists in a file; at least one.
fn read_file(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let pem = maxine_files::read_bundle(path)
        .map_err(|error| format!("{}: {}", path.display(), maxine_wording::io(&error)))?;
    let read: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        _ => Err(format!("{}: it holds no revocation list in PEM", path.display())),
    }
}

fn parse<'a>(
    der: &'a CertificateRevocationListDer<'_>,
) -> Result<CertificateRevocationList<'a>, String> {
    match CertificateRevocationList::from_der(der) {
        Ok((_, list)) => Ok(list),
        Err(error) => Err(format!("it holds a revocation list that cannot be read: {error}")),
    }
}

/// Refuses lists of a kind that says less, or something else, than which certificates of its issuer are revoked.
fn check_form(
    der: &CertificateRevocationListDer<'static>,
    authorities: &[CertificateDer<'_>],
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| error.to_string())?;
    }
    let built =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
            .with_crls([der.clone()])
            .build();
    built.map(drop).map_err(|error| format!("its revocation list cannot be used: {error}"))
}

/// Whether the authority has the name of the list's issuer, may sign lists, and signed this one.
fn is_signed(list: &CertificateRevocationList<'_>, authority: &CertificateDer<'_>) -> bool {
    let Ok((_, authority)) = X509Certificate::from_der(authority) else { return false };
    if authority.subject().as_raw() != list.issuer().as_raw() {
        return false;
    }
    let may_sign = match authority.key_usage() {
        Ok(Some(usage)) => usage.value.crl_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    let oid = list.signature_algorithm.algorithm.as_bytes();
    let Ok(len) = u8::try_from(oid.len()) else { return false };
    // An object identifier in DER: its tag, its length and its bytes.
    let named = [&[6, len][..], oid].concat();
    let key = &*authority.public_key().subject_public_key.data;
    let (message, signature) = (list.tbs_cert_list.as_ref(), &*list.signature_value.data);
    let algorithms = default_provider().signature_verification_algorithms.all;
    may_sign
        && algorithms.iter().any(|algorithm| {
            algorithm.signature_alg_id().starts_with(&named)
                && algorithm.verify_signature(key, message, signature).is_ok()
        })
}

/// A verifier that refuses also what is revoked.
#[must_use]
pub fn refuse(
    verifier: Arc<dyn ClientCertVerifier>,
    revoked: Revoked,
) -> Arc<dyn ClientCertVerifier> {
    if revoked.is_empty() { verifier } else { Arc::new(Refusing { verifier, revoked }) }
}

#[derive(Debug)]
struct Refusing {
    verifier: Arc<dyn ClientCertVerifier>,
    revoked: Revoked,
}

impl ClientCertVerifier for Refusing {
    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        // A revoked authority between the root and the certificate counts as well.
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            self.revoked.check(certificate)?;
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use super::*;

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        der: CertificateDer<'static>,
    }

    impl Authority {
        fn new(name: &str, usages: &[KeyUsagePurpose]) -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = usages.to_vec();
            let der = params.self_signed(&key).unwrap().der().clone();
            Self { issuer: Issuer::new(params, key), der }
        }

        fn issue(&self, serial: u64) -> CertificateDer<'static> {
            let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.serial_number = Some(SerialNumber::from(serial));
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &self.issuer).unwrap().der().clone()
        }

        fn revoke(&self, serials: &[u64]) -> String {
            let revoked = |serial: &u64| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            };
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2024, 1, 1),
                next_update: date_time_ymd(2024, 1, 2),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: serials.iter().map(revoked).collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(&self.issuer).unwrap().pem().unwrap()
        }
    }

    const SIGNS: &[KeyUsagePurpose] = &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

    fn verifier(roots: &[&Authority]) -> Arc<dyn ClientCertVerifier> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.der.clone()).unwrap();
        }
        let provider = Arc::new(default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap()
    }

    #[test]
    fn what_a_list_names_is_refused_and_nothing_else_of_two_authorities_with_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let (former, next) = (Authority::new("one", SIGNS), Authority::new("one", SIGNS));
        let path = dir.path().join("list.pem");
        // 0x80 and above have a leading zero in DER.
        std::fs::write(&path, former.revoke(&[7, 200])).unwrap();
        let revoked = read(&[path], &[former.der.clone(), next.der.clone()]).unwrap();
        let verifier = refuse(verifier(&[&former, &next]), revoked);
        let now = UnixTime::now();
        for (authority, serial, is_accepted) in
            [(&former, 7, false), (&former, 200, false), (&former, 8, true), (&next, 9, true)]
        {
            let checked = verifier.verify_client_cert(&authority.issue(serial), &[], now);
            match checked {
                Ok(_) => assert!(is_accepted, "{serial}"),
                Err(error) => {
                    let expected = Error::InvalidCertificate(CertificateError::Revoked);
                    assert_eq!((error, is_accepted), (expected, false), "{serial}");
                }
            }
        }
    }

    #[test]
    fn a_list_of_another_authority_or_of_one_that_may_not_sign_lists_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.pem");
        let (own, other) = (Authority::new("one", SIGNS), Authority::new("one", SIGNS));
        let read_by = |authority: &Authority| {
            read(std::slice::from_ref(&path), std::slice::from_ref(&authority.der)).map(drop)
        };
        std::fs::write(&path, other.revoke(&[7])).unwrap();
        let error = read_by(&own).unwrap_err();
        assert!(error.contains("none of the authorities signed"), "{error}");
        read_by(&other).unwrap();
        // The same key, in a certificate that does not allow this use.
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "one");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(other.issuer.key()).unwrap().der().clone();
        let error = read(std::slice::from_ref(&path), &[der]).unwrap_err();
        assert!(error.contains("none of the authorities signed"), "{error}");
        // A changed byte of the signed part.
        let pem = other.revoke(&[7, 8]);
        let mut der =
            CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        let middle = der.len() / 2;
        der[middle] ^= 1;
        let changed = CertificateRevocationListDer::from(der);
        if let Ok(list) = parse(&changed) {
            assert!(!is_signed(&list, &other.der));
        }
    }

    #[test]
    fn a_file_without_a_list_is_refused_and_the_end_of_a_list_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("one", SIGNS);
        let path = dir.path().join("list.pem");
        let read_it = || {
            let authorities = std::slice::from_ref(&authority.der);
            read(std::slice::from_ref(&path), authorities).map(|revoked| revoked.is_empty())
        };
        assert!(read_it().unwrap_err().contains("list.pem"));
        for text in ["", "nothing", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(read_it().unwrap_err().contains("revocation list"), "{text:?}");
        }
        std::fs::write(&path, authority.revoke(&[])).unwrap();
        assert_eq!(read_it(), Ok(true), "an empty list names nothing");
        // 2024-01-02
        assert_eq!(next_update_ms(&path), Ok(Some(1_704_153_600_000)));
    }
}
