//! Converts the settings of the Raft backend for the replicated log.

use std::collections::BTreeMap;

use maxine_raft as raft;

use super::{MemberSetting, NodeConfig};

impl NodeConfig {
    /// The settings with which the replicated log starts. `http_addr` is the URL at which clients reach this
    /// node.
    #[must_use]
    pub fn raft_node(&self, http_addr: &str) -> raft::Config {
        let settings = &self.raft;
        let dir = self.data_dir.join("raft");
        let mut node =
            raft::Config::new(settings.cluster_id.clone(), self.node_id, dir, settings.listen);
        node.engine = settings.engine;
        node.tls = if settings.tls_ca.as_os_str().is_empty() {
            raft::PeerTls::Plain { allow_non_loopback: settings.allow_plain }
        } else {
            raft::PeerTls::Mutual {
                ca_pem: settings.tls_ca.clone(),
                cert_pem: settings.tls_cert.clone(),
                key_pem: settings.tls_key.clone(),
            }
        };
        let denied = &settings.tls_denied;
        node.tls_denied = (!denied.as_os_str().is_empty()).then(|| denied.clone());
        node.tls_crl.clone_from(&settings.tls_crl);
        node.name = self.name();
        node.http_addr = http_addr.to_owned();
        node.heartbeat_interval_ms = settings.heartbeat_interval_ms;
        node.election_timeout_min_ms = settings.election_timeout_min_ms;
        node.election_timeout_max_ms = settings.election_timeout_max_ms;
        node.disk_stall_ms = settings.disk_stall_ms;
        node.snapshot_every_entries = settings.snapshot_every_entries;
        node
    }

    /// The members that form the cluster at its first start, by number; empty on a node that is added later.
    #[must_use]
    pub fn first_members(&self, http_addr: &str) -> BTreeMap<u64, raft::Member> {
        let each = |member: &MemberSetting| {
            let own = member.id == self.node_id;
            // The name of another member is learned from that member, when it connects.
            let name = if own { self.name() } else { format!("node-{}", member.id) };
            let http_addr = match member.http_addr.as_str() {
                "" if own => http_addr,
                addr => addr,
            };
            let peer_addr = member.peer_addr.clone();
            (member.id, raft::Member { peer_addr, http_addr: http_addr.into(), name })
        };
        self.raft.members.iter().map(each).collect()
    }
}
