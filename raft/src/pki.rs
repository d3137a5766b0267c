//! A certificate authority of the cluster's own, for those who have none.
//!
//! Made offline; a running node only reads the files. Whoever holds the authority's key can join
//! the cluster: keep it off the nodes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::config::{NodeId, PeerTls, certificate_name, cluster_id_is_valid};

/// Where the authority's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPki {
    /// The authority's certificate, which every node needs.
    pub ca_pem: PathBuf,
    /// The authority's key, which no node needs.
    pub ca_key_pem: PathBuf,
    /// One entry per node asked for.
    pub nodes: Vec<NodePki>,
}

/// Where one node's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePki {
    /// The node.
    pub node_id: NodeId,
    /// Its certificate.
    pub cert_pem: PathBuf,
    /// Its key.
    pub key_pem: PathBuf,
}

impl ClusterPki {
    /// Settings for one of the nodes.
    pub fn tls_of(&self, node_id: NodeId) -> Option<PeerTls> {
        let node = self.nodes.iter().find(|node| node.node_id == node_id)?;
        Some(PeerTls::Mutual {
            ca_pem: self.ca_pem.clone(),
            cert_pem: node.cert_pem.clone(),
            key_pem: node.key_pem.clone(),
        })
    }
}

/// Creates an authority in `dir`, or takes the one that is there, and issues a certificate for each
/// node; one that exists is kept. Keys are readable by their owner only. Blocks.
pub fn issue_cluster(dir: &Path, cluster_id: &str, node_ids: &[NodeId]) -> io::Result<ClusterPki> {
    if !cluster_id_is_valid(cluster_id) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cluster id {cluster_id:?} is not valid"),
        ));
    }
    fs::create_dir_all(dir)?;
    let ca_pem = dir.join("ca.pem");
    let ca_key_pem = dir.join("ca-key.pem");
    let params = authority(cluster_id)?;
    let key = if ca_key_pem.exists() {
        KeyPair::from_pem(&fs::read_to_string(&ca_key_pem)?).map_err(io::Error::other)?
    } else {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        write_private(&ca_key_pem, &key.serialize_pem())?;
        fs::write(&ca_pem, params.self_signed(&key).map_err(io::Error::other)?.pem())?;
        key
    };
    if !ca_pem.exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} is missing beside its key", ca_pem.display()),
        ));
    }
    let issuer = Issuer::new(params, key);
    let mut nodes = Vec::with_capacity(node_ids.len());
    for node_id in node_ids {
        let node = NodePki {
            node_id: *node_id,
            cert_pem: dir.join(format!("node-{node_id}.pem")),
            key_pem: dir.join(format!("node-{node_id}-key.pem")),
        };
        if !node.cert_pem.exists() || !node.key_pem.exists() {
            let mut params = CertificateParams::new(vec![certificate_name(cluster_id, *node_id)])
                .map_err(io::Error::other)?;
            params
                .distinguished_name
                .push(DnType::CommonName, certificate_name(cluster_id, *node_id));
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().map_err(io::Error::other)?;
            let certificate = params.signed_by(&key, &issuer).map_err(io::Error::other)?;
            write_private(&node.key_pem, &key.serialize_pem())?;
            fs::write(&node.cert_pem, certificate.pem())?;
        }
        nodes.push(node);
    }
    Ok(ClusterPki { ca_pem, ca_key_pem, nodes })
}

fn authority(cluster_id: &str) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, format!("maxine cluster {cluster_id}"));
    Ok(params)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
