//! Creates a certificate authority and certificates for a cluster that has none.
//!
//! A node's certificate has the name by which the other nodes know it. It can also have the host names and addresses at
//! which clients reach the node, and then serves for HTTPS too. A renewal keeps them.
//!
//! This is done offline; a running node only reads the files. Whoever has the authority's key can join the
//! cluster, so keep it off the nodes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{NodeId, PeerTls, certificate_name, cluster_id_is_valid, invalid_cluster_id};
use crate::network::tls::check_name;
use crate::network::trust;

/// The files of the authority and of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPki {
    /// The authority's certificate, which every node needs.
    pub ca_pem: PathBuf,
    /// The authority's key, which no node needs.
    pub ca_key_pem: PathBuf,
    /// Whether the authority existed before.
    pub ca_kept: bool,
    /// One entry for each requested node.
    pub nodes: Vec<NodePki>,
}

/// The files of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePki {
    /// The node.
    pub node_id: NodeId,
    /// Its certificate.
    pub cert_pem: PathBuf,
    /// Its key.
    pub key_pem: PathBuf,
    /// Whether both files existed before, and were not changed.
    pub kept: bool,
}

impl ClusterPki {
    /// TLS settings for one of the nodes.
    pub fn tls_of(&self, node_id: NodeId) -> Option<PeerTls> {
        let node = self.nodes.iter().find(|node| node.node_id == node_id)?;
        Some(PeerTls::Mutual {
            ca_pem: self.ca_pem.clone(),
            cert_pem: node.cert_pem.clone(),
            key_pem: node.key_pem.clone(),
        })
    }
}

/// A node that needs a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNames {
    /// The node.
    pub node_id: NodeId,
    /// Host names and IP addresses at which clients reach it; empty if its certificate is for other nodes alone.
    pub hosts: Vec<String>,
}

/// How long certificates are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The present time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Days that a node's certificate is valid.
    pub node_days: u32,
}

/// Default validity of a node's certificate, in days.
pub const NODE_DAYS: u32 = 365;
/// Validity of a new authority, in days. It is longer if the first certificates are valid for longer.
const AUTHORITY_DAYS: u32 = 3_650;
/// Certificates are valid from this long before their creation, in seconds, because the nodes' clocks may
/// differ.
const BEGINS_BEFORE_S: u64 = 3_600;
const DAY_S: u64 = 24 * 3_600;

impl Validity {
    /// Sets when a certificate begins and ends.
    fn limit(self, params: &mut CertificateParams, days: u32) {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now_s = self.now_ms / 1_000;
        params.not_before = epoch + Duration::from_secs(now_s.saturating_sub(BEGINS_BEFORE_S));
        params.not_after = epoch + Duration::from_secs(now_s + u64::from(days) * DAY_S);
    }
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{reason}; nothing was written"))
}

/// Does what [`issue_named`] does, for nodes whose certificates are for other nodes alone. Blocks.
pub fn issue_cluster(
    dir: &Path,
    cluster_id: &str,
    node_ids: &[NodeId],
    validity: Validity,
) -> io::Result<ClusterPki> {
    let named = |id: &NodeId| NodeNames { node_id: *id, hosts: Vec::new() };
    let nodes: Vec<NodeNames> = node_ids.iter().map(named).collect();
    issue_named(dir, cluster_id, &nodes, validity)
}

/// Creates an authority in `dir`, or uses the existing one, and issues a certificate for each node. Existing
/// files are kept. An incomplete pair, or the authority of another cluster, is refused before anything is
/// written. Only the owner can read the keys. Blocks.
pub fn issue_named(
    dir: &Path,
    cluster_id: &str,
    names: &[NodeNames],
    validity: Validity,
) -> io::Result<ClusterPki> {
    if !cluster_id_is_valid(cluster_id) {
        return Err(refused(invalid_cluster_id(cluster_id)));
    }
    let ca = Pair { cert_pem: dir.join("ca.pem"), key_pem: dir.join("ca-key.pem") };
    let ca_exists = ca.exists()?;
    let (mut nodes, mut missing) = (Vec::new(), Vec::new());
    for named in names {
        let id = named.node_id;
        let cert_pem = dir.join(format!("node-{id}.pem"));
        let key_pem = dir.join(format!("node-{id}-key.pem"));
        let pair = Pair { cert_pem: cert_pem.clone(), key_pem: key_pem.clone() };
        let kept = pair.exists()?;
        if !kept {
            missing.push((named, pair));
        }
        nodes.push(NodePki { node_id: id, cert_pem, key_pem, kept });
    }
    fs::create_dir_all(dir)?;
    let mut params = authority(cluster_id)?;
    validity.limit(&mut params, AUTHORITY_DAYS.max(validity.node_days));
    let key = match ca_exists {
        true => existing_authority(&ca, cluster_id, validity)?,
        false => {
            let key = KeyPair::generate().map_err(io::Error::other)?;
            let certificate = params.self_signed(&key).map_err(io::Error::other)?;
            ca.write(&key, &certificate.pem())?;
            key
        }
    };
    let issuer = Issuer::new(params, key);
    for (named, pair) in missing {
        let (key, certificate) = issue_node(&issuer, cluster_id, named, validity)?;
        pair.write(&key, &certificate)?;
    }
    Ok(ClusterPki { ca_pem: ca.cert_pem, ca_key_pem: ca.key_pem, ca_kept: ca_exists, nodes })
}

/// Replaces the certificates and keys of nodes by new ones of the existing authority. The files of a node are replaced
/// one after the other, each in one step. Blocks.
///
/// # Errors
///
/// The authority is missing or cannot be used, or a node has no certificate in `dir`. Nothing is written then.
pub fn renew_nodes(
    dir: &Path,
    cluster_id: &str,
    node_ids: &[NodeId],
    validity: Validity,
) -> io::Result<ClusterPki> {
    let ca = Pair { cert_pem: dir.join("ca.pem"), key_pem: dir.join("ca-key.pem") };
    if !cluster_id_is_valid(cluster_id) {
        return Err(refused(invalid_cluster_id(cluster_id)));
    }
    if !ca.exists()? {
        let text = "it has no ca.pem and ca-key.pem; 'maxine cluster init-tls' makes an authority";
        return Err(refused(format!("{}: {text}", dir.display())));
    }
    let key = existing_authority(&ca, cluster_id, validity)?;
    let issuer = Issuer::new(authority(cluster_id)?, key);
    let pki = ClusterPki {
        ca_pem: ca.cert_pem,
        ca_key_pem: ca.key_pem,
        ca_kept: true,
        nodes: existing_nodes(dir, node_ids)?,
    };
    for (node, named) in pki.nodes.iter().zip(names_of_all(&pki.nodes, cluster_id)?) {
        let (key, certificate) = issue_node(&issuer, cluster_id, &named, validity)?;
        replace(&node.key_pem, &key.serialize_pem(), 0o600)?;
        replace(&node.cert_pem, &certificate, 0o644)?;
    }
    Ok(pki)
}

/// A step of the replacement of an authority. Between two steps, the changed files must be in place on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaStep {
    /// A new authority is made, and `ca.pem` has both.
    Begin,
    /// The new authority issues new certificates for the nodes.
    Issue,
    /// `ca.pem` has the new authority alone.
    Finish,
}

/// Carries out one step of the replacement of the authority in `dir`. Returns the files that changed and that the nodes
/// need. Blocks.
///
/// # Errors
///
/// The step is not the next one, or the files cannot be used. Nothing is written then.
pub fn rotate_authority(
    dir: &Path,
    cluster_id: &str,
    node_ids: &[NodeId],
    step: CaStep,
    validity: Validity,
) -> io::Result<Vec<PathBuf>> {
    if !cluster_id_is_valid(cluster_id) {
        return Err(refused(invalid_cluster_id(cluster_id)));
    }
    let ca = Pair { cert_pem: dir.join("ca.pem"), key_pem: dir.join("ca-key.pem") };
    let next = Pair { cert_pem: dir.join("next-ca.pem"), key_pem: dir.join("next-ca-key.pem") };
    let issued = dir.join("next-ca.issued");
    let has_begun = next.exists()?;
    let has_issued = has_begun && issued.try_exists()?;
    let is_next = match step {
        CaStep::Begin => !has_begun,
        CaStep::Issue => has_begun,
        CaStep::Finish => has_issued,
    };
    if !is_next {
        let text = match step {
            CaStep::Begin => {
                "the replacement has begun already (next-ca.pem); the next step is issue"
            }
            CaStep::Issue | CaStep::Finish if !has_begun => {
                "the replacement has not begun; the first step is begin"
            }
            CaStep::Issue | CaStep::Finish => {
                "the new authority has issued no certificates yet; the step before is issue"
            }
        };
        return Err(refused(format!("{}: {text}", dir.display())));
    }
    match step {
        CaStep::Begin => {
            if !ca.exists()? {
                return Err(refused(format!("{}: it has no authority", dir.display())));
            }
            existing_authority(&ca, cluster_id, Validity { node_days: 0, ..validity })?;
            let mut params = authority(cluster_id)?;
            validity.limit(&mut params, AUTHORITY_DAYS.max(validity.node_days));
            let key = KeyPair::generate().map_err(io::Error::other)?;
            let certificate = params.self_signed(&key).map_err(io::Error::other)?.pem();
            let present = maxine_files::read_text(&ca.cert_pem)?;
            next.write(&key, &certificate)?;
            // The present authority stays the first, because its key is the one beside it.
            let both = format!("{}\n{certificate}", present.trim_end());
            replace(&ca.cert_pem, &both, 0o644)?;
            Ok(vec![ca.cert_pem])
        }
        CaStep::Issue => {
            let key = existing_authority(&next, cluster_id, validity)?;
            let issuer = Issuer::new(authority(cluster_id)?, key);
            let nodes = existing_nodes(dir, node_ids)?;
            for (node, named) in nodes.iter().zip(names_of_all(&nodes, cluster_id)?) {
                let (key, certificate) = issue_node(&issuer, cluster_id, &named, validity)?;
                replace(&node.key_pem, &key.serialize_pem(), 0o600)?;
                replace(&node.cert_pem, &certificate, 0o644)?;
            }
            replace(&issued, "", 0o644)?;
            Ok(nodes.into_iter().flat_map(|node| [node.cert_pem, node.key_pem]).collect())
        }
        CaStep::Finish => {
            existing_authority(&next, cluster_id, Validity { node_days: 0, ..validity })?;
            let certificate = maxine_files::read_text(&next.cert_pem)?;
            let key = maxine_files::read_text(&next.key_pem)?;
            replace(&ca.key_pem, &key, 0o600)?;
            replace(&ca.cert_pem, &certificate, 0o644)?;
            fs::remove_file(issued)?;
            fs::remove_file(next.cert_pem)?;
            fs::remove_file(next.key_pem)?;
            Ok(vec![ca.cert_pem])
        }
    }
}

/// A new key and certificate for a node.
fn issue_node(
    issuer: &Issuer<'_, KeyPair>,
    cluster_id: &str,
    named: &NodeNames,
    validity: Validity,
) -> io::Result<(KeyPair, String)> {
    let name = certificate_name(cluster_id, named.node_id);
    let mut names = vec![name.clone()];
    names.extend(named.hosts.iter().cloned());
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    validity.limit(&mut params, validity.node_days);
    params.distinguished_name.push(DnType::CommonName, name);
    // Some clients of HTTPS refuse a certificate without it.
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = params.signed_by(&key, issuer).map_err(io::Error::other)?.pem();
    Ok((key, certificate))
}

/// The files of nodes that have a certificate in `dir`: of all of them if `node_ids` is empty.
fn existing_nodes(dir: &Path, node_ids: &[NodeId]) -> io::Result<Vec<NodePki>> {
    let mut ids = node_ids.to_vec();
    if ids.is_empty() {
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let id =
                name.to_str().and_then(|name| name.strip_prefix("node-")?.strip_suffix(".pem"));
            ids.extend(id.and_then(|id| id.parse::<NodeId>().ok()));
        }
        ids.sort_unstable();
    }
    let mut nodes = Vec::new();
    for node_id in ids {
        let cert_pem = dir.join(format!("node-{node_id}.pem"));
        let key_pem = dir.join(format!("node-{node_id}-key.pem"));
        if !(Pair { cert_pem: cert_pem.clone(), key_pem: key_pem.clone() }).exists()? {
            let text = "it has no certificate; 'maxine cluster init-tls' makes one for a new node";
            return Err(refused(format!("node {node_id}: {text}")));
        }
        nodes.push(NodePki { node_id, cert_pem, key_pem, kept: false });
    }
    if nodes.is_empty() {
        return Err(refused(format!("{}: it has no certificate of a node", dir.display())));
    }
    Ok(nodes)
}

/// The names of nodes by their present certificates. All are read before the first one is replaced.
fn names_of_all(nodes: &[NodePki], cluster_id: &str) -> io::Result<Vec<NodeNames>> {
    nodes.iter().map(|node| names_of(node, cluster_id)).collect()
}

/// The host names and addresses in the present certificate of a node.
fn names_of(node: &NodePki, cluster_id: &str) -> io::Result<NodeNames> {
    let path = node.cert_pem.display();
    let der =
        first_certificate(&node.cert_pem).map_err(|error| refused(format!("{path}: {error}")))?;
    let (_, parsed) =
        X509Certificate::from_der(&der).map_err(|error| refused(format!("{path}: {error}")))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| refused(format!("{path}: {error}")))?
        .map(|extension| extension.value.general_names.iter())
        .into_iter()
        .flatten();
    let own = certificate_name(cluster_id, node.node_id);
    let hosts = names.filter_map(host_name).filter(|host| *host != own).collect();
    Ok(NodeNames { node_id: node.node_id, hosts })
}

fn first_certificate(path: &Path) -> Result<CertificateDer<'static>, pem::Error> {
    CertificateDer::from_pem_slice(&maxine_files::read(path).map_err(pem::Error::Io)?)
}

fn host_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
            let v6 = <[u8; 16]>::try_from(*bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// Replaces a file in one step.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let draft = path.with_extension("pem.new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// The SHA-256 of the public key of the first certificate in a PEM file, as in the list of denied keys
/// (`raft.tls_denied`). Blocks.
///
/// # Errors
///
/// The file has no certificate.
pub fn key_fingerprint(path: &Path) -> io::Result<String> {
    let failed = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let certificate = first_certificate(path).map_err(|error| match error {
        pem::Error::Io(error) => error,
        pem::Error::NoItemsFound => failed(&"it holds no certificate in PEM"),
        other => failed(&other),
    })?;
    let bytes = trust::key_fingerprint(&certificate).map_err(|error| failed(&error))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}{digits}", trust::FINGERPRINT_PREFIX))
}

/// Checks that a node's certificate has its name, as the other nodes do.
///
/// # Errors
///
/// Describes what is wrong with it.
pub fn check_certificate_name(
    cert_pem: &Path,
    cluster_id: &str,
    node_id: NodeId,
) -> Result<(), String> {
    let own = first_certificate(cert_pem).map_err(|error| error.to_string())?;
    check_name(&own, cluster_id, node_id)
}

/// A certificate and its key.
struct Pair {
    cert_pem: PathBuf,
    key_pem: PathBuf,
}

impl Pair {
    /// Whether both files exist; an error if only one of them does.
    fn exists(&self) -> io::Result<bool> {
        let (cert, key) = (self.cert_pem.try_exists()?, self.key_pem.try_exists()?);
        if cert == key {
            return Ok(cert);
        }
        let (cert_pem, key_pem) = (self.cert_pem.display(), self.key_pem.display());
        let (there, absent) = if cert { (cert_pem, key_pem) } else { (key_pem, cert_pem) };
        Err(refused(format!(
            "{there} exists, but {absent} does not: put it back, or move {there} away"
        )))
    }

    fn write(&self, key: &KeyPair, certificate_pem: &str) -> io::Result<()> {
        write_private(&self.key_pem, &key.serialize_pem())?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&self.cert_pem)?;
        file.write_all(certificate_pem.as_bytes())
    }
}

/// The key of the existing authority, if it fits its certificate and this cluster, and the authority does not
/// expire before the new certificates.
fn existing_authority(ca: &Pair, cluster_id: &str, validity: Validity) -> io::Result<KeyPair> {
    let (cert_pem, key_pem) = (ca.cert_pem.display(), ca.key_pem.display());
    let key = KeyPair::from_pem(&maxine_files::read_text(&ca.key_pem)?)
        .map_err(|error| refused(format!("{key_pem}: {error}")))?;
    let der =
        first_certificate(&ca.cert_pem).map_err(|error| refused(format!("{cert_pem}: {error}")))?;
    let (_, parsed) =
        X509Certificate::from_der(&der).map_err(|error| refused(format!("{cert_pem}: {error}")))?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(refused(format!("{key_pem} is not the key of {cert_pem}")));
    }
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if name != Some(&*authority_name(cluster_id)) {
        let name = name.unwrap_or("no name");
        return Err(refused(format!(
            "{cert_pem} is the authority {name:?}, not that of cluster {cluster_id:?}"
        )));
    }
    let ends_s = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let now_s = validity.now_ms / 1_000;
    if ends_s <= now_s {
        return Err(refused(format!(
            "{cert_pem} has expired: make a new authority in another directory, and replace the files of all nodes"
        )));
    }
    if ends_s < now_s + u64::from(validity.node_days) * DAY_S {
        let left = (ends_s - now_s) / DAY_S;
        return Err(refused(format!(
            "{cert_pem} ends in {left} days, before certificates for {} days would: ask for fewer days, or \
             make a new authority in another directory",
            validity.node_days
        )));
    }
    Ok(key)
}

fn authority_name(cluster_id: &str) -> String {
    format!("maxine cluster {cluster_id}")
}

fn authority(cluster_id: &str) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, authority_name(cluster_id));
    Ok(params)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// The earliest expiry of the certificates in a PEM file, in milliseconds since 1970. Blocks.
pub fn certificate_end_ms(path: &Path) -> io::Result<u64> {
    let failed = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let mut end_ms = None;
    let pem = maxine_files::read_bundle(path).map_err(|error| failed(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(&error))?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| failed(&error))?;
        let end_s = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let own_ms = end_s.saturating_mul(1_000);
        end_ms = Some(end_ms.map_or(own_ms, |first: u64| first.min(own_ms)));
    }
    end_ms.ok_or_else(|| failed(&"it holds no certificate"))
}

/// The longest life of the certificates in a PEM file that are no authorities, in milliseconds; 0 if there is none. Blocks.
pub fn certificate_life_ms(path: &Path) -> io::Result<u64> {
    let failed = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let mut life_s = 0_u64;
    let pem = maxine_files::read_bundle(path).map_err(|error| failed(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(&error))?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| failed(&error))?;
        let (begin, end) = (parsed.validity().not_before, parsed.validity().not_after);
        if !parsed.is_ca() {
            let own_s = end.timestamp().saturating_sub(begin.timestamp());
            life_s = life_s.max(u64::try_from(own_s).unwrap_or(0));
        }
    }
    Ok(life_s.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_795_440_992_000;
    const YEAR: Validity = Validity { now_ms: NOW_MS, node_days: 365 };

    fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(dir).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    #[test]
    fn certificates_are_valid_for_the_days_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let validity = Validity { node_days: 30, ..YEAR };
        let pki = issue_cluster(dir.path(), "test", &[1], validity).unwrap();
        let day_ms = DAY_S * 1_000;
        assert_eq!(certificate_end_ms(&pki.nodes[0].cert_pem).unwrap(), NOW_MS + 30 * day_ms);
        assert_eq!(certificate_end_ms(&pki.ca_pem).unwrap(), NOW_MS + 3_650 * day_ms);
        let life_ms = certificate_life_ms(&pki.nodes[0].cert_pem).unwrap();
        assert_eq!(life_ms, 30 * day_ms + BEGINS_BEFORE_S * 1_000);
        assert_eq!(certificate_life_ms(&pki.ca_pem).unwrap(), 0, "it is an authority");
        // Existing files are kept. An additional node gets a certificate of the same authority.
        let before = files(dir.path());
        issue_cluster(dir.path(), "test", &[1, 2], YEAR).unwrap();
        let after = files(dir.path());
        assert!(before.iter().all(|file| after.contains(file)));
        assert_eq!(after.len(), before.len() + 2);
        // No certificate is valid for longer than its authority.
        let nine_years = Validity { now_ms: NOW_MS + 9 * 365 * day_ms, node_days: 400 };
        let error = issue_cluster(dir.path(), "test", &[3], nine_years).unwrap_err();
        assert!(error.to_string().contains("ends in 365 days"), "{error}");
        let eleven_years = Validity { now_ms: NOW_MS + 11 * 365 * day_ms, ..YEAR };
        let error = issue_cluster(dir.path(), "test", &[3], eleven_years).unwrap_err();
        assert!(error.to_string().contains("ca.pem has expired"), "{error}");
        assert_eq!(files(dir.path()), after);
    }

    #[test]
    fn an_authority_is_replaced_in_three_steps_and_in_no_other_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let count =
            |name: &str| fs::read_to_string(path(name)).unwrap().matches("BEGIN CERT").count();
        let rotate = |step| rotate_authority(dir.path(), "test", &[], step, YEAR);
        issue_cluster(dir.path(), "test", &[1, 2], YEAR).unwrap();
        let first = files(dir.path());
        for step in [CaStep::Issue, CaStep::Finish] {
            let why = rotate(step).unwrap_err().to_string();
            assert!(why.contains("the replacement has not begun"), "{why}");
        }
        assert_eq!(files(dir.path()), first);
        assert_eq!(rotate(CaStep::Begin).unwrap(), [path("ca.pem")]);
        assert_eq!(count("ca.pem"), 2);
        assert!(rotate(CaStep::Begin).is_err() && rotate(CaStep::Finish).is_err());
        // In between, the former authority still issues.
        issue_cluster(dir.path(), "test", &[3], YEAR).unwrap();
        assert_eq!(rotate(CaStep::Issue).unwrap().len(), 6);
        assert_eq!(rotate(CaStep::Finish).unwrap(), [path("ca.pem")]);
        assert_eq!(count("ca.pem"), 1);
        let last = files(dir.path());
        assert_eq!(last.len(), first.len() + 2, "nothing is left behind");
        assert!(first.iter().all(|file| !last.contains(file)), "every file is another");
        // The new authority issues from now on.
        renew_nodes(dir.path(), "test", &[2], YEAR).unwrap();
        let changed: Vec<_> =
            files(dir.path()).into_iter().filter(|file| !last.contains(file)).collect();
        let names: Vec<_> = changed.iter().map(|(path, _)| path.file_name().unwrap()).collect();
        assert_eq!(names, ["node-2-key.pem", "node-2.pem"]);
        assert!(renew_nodes(dir.path(), "test", &[4], YEAR).is_err());
        assert!(renew_nodes(dir.path(), "other", &[1], YEAR).is_err());
    }

    /// Without these names the HTTPS port of a node would have no certificate for its clients after the first renewal.
    #[test]
    fn a_new_certificate_keeps_the_hosts_of_the_former_one() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = ["maxine-1.example.com", "10.0.0.1", "2001:db8::1"].map(str::to_owned);
        let names = [
            NodeNames { node_id: 1, hosts: hosts.to_vec() },
            NodeNames { node_id: 2, hosts: Vec::new() },
        ];
        let pki = issue_named(dir.path(), "test", &names, YEAR).unwrap();
        let found = || names_of_all(&pki.nodes, "test").unwrap();
        assert_eq!(found(), names);
        let first = files(dir.path());
        renew_nodes(dir.path(), "test", &[], YEAR).unwrap();
        assert_ne!(files(dir.path()), first);
        assert_eq!(found(), names);
        rotate_authority(dir.path(), "test", &[], CaStep::Begin, YEAR).unwrap();
        rotate_authority(dir.path(), "test", &[], CaStep::Issue, YEAR).unwrap();
        assert_eq!(found(), names);
        assert!(check_certificate_name(&pki.nodes[0].cert_pem, "test", 1).is_ok());
        assert!(check_certificate_name(&pki.nodes[0].cert_pem, "test", 2).is_err());
        // Nothing is replaced if the names of one certificate are not known.
        fs::write(&pki.nodes[1].cert_pem, "no certificate").unwrap();
        let before = files(dir.path());
        assert!(renew_nodes(dir.path(), "test", &[], YEAR).is_err());
        assert_eq!(files(dir.path()), before);
    }

    #[test]
    fn half_of_a_pair_or_a_foreign_authority_is_refused_and_nothing_is_touched() {
        for taken in ["ca-key.pem", "ca.pem", "node-1-key.pem", "node-1.pem"] {
            let dir = tempfile::tempdir().unwrap();
            issue_cluster(dir.path(), "test", &[1], YEAR).unwrap();
            fs::remove_file(dir.path().join(taken)).unwrap();
            let before = files(dir.path());
            let error = issue_cluster(dir.path(), "test", &[1, 2], YEAR).unwrap_err();
            assert!(error.to_string().contains(taken), "{taken}: {error}");
            assert!(error.to_string().contains("nothing was written"), "{error}");
            assert_eq!(files(dir.path()), before, "{taken}");
        }
        let dir = tempfile::tempdir().unwrap();
        issue_cluster(dir.path(), "test", &[1], YEAR).unwrap();
        let error = issue_cluster(dir.path(), "other", &[2], YEAR).unwrap_err();
        assert!(error.to_string().contains("not that of cluster \"other\""), "{error}");
        let other = tempfile::tempdir().unwrap();
        issue_cluster(other.path(), "test", &[1], YEAR).unwrap();
        fs::copy(other.path().join("ca-key.pem"), dir.path().join("ca-key.pem")).unwrap();
        let error = issue_cluster(dir.path(), "test", &[2], YEAR).unwrap_err();
        assert!(error.to_string().contains("is not the key of"), "{error}");
    }
}
