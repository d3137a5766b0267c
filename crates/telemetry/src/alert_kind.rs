//! Every kind of alert, with its severity, who tells the webhook of it, and its runbook.

/// Urgency.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look when there is time.
    Warning,
    /// Look now.
    Critical,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Warning, Self::Critical];

    /// Its name, as the API and the metric show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Which node tells the webhook of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The node that raised it: no other node can see it.
    Node,
    /// The leader. Every node that sees it raises it; while no leader is known, each of them tells.
    Cluster,
}

/// Whether an alert has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertForm {
    /// It lasts until it is over, and is then resolved.
    Condition,
    /// It has happened; there is nothing to resolve.
    Event,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal: $form:ident, $severity:ident, $scope:ident, $runbook:literal;)*) => {
        /// A kind of alert.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum AlertKind {
            $($(#[$doc])* $kind,)*
        }

        impl AlertKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its name: `type` in the API, in the webhook's body and in the metric.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Whether it has an end.
            #[must_use]
            pub const fn form(self) -> AlertForm {
                match self { $(Self::$kind => AlertForm::$form,)* }
            }

            /// How urgent it is, unless the one who raises it says otherwise.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }

            /// Which node tells the webhook of it.
            #[must_use]
            pub const fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope,)* }
            }

            /// The page in `docs/operations` that says what to do, without `.md`.
            #[must_use]
            pub const fn runbook(self) -> &'static str {
                match self { $(Self::$kind => $runbook,)* }
            }
        }
    };
}

kinds! {
    /// A member of the cluster is not heard. The object is its name.
    MemberUnreachable = "cluster.member_unreachable": Condition, Critical, Cluster, "replica-lost";
    /// No leader is known, and too few voters are heard to elect one.
    NoMajority = "cluster.no_majority": Condition, Critical, Cluster, "quorum-lost";
    /// No leader is known.
    NoLeader = "cluster.no_leader": Condition, Critical, Cluster, "leader-lost";
    /// The leader changed several times within minutes.
    LeaderChangesOften = "cluster.leader_changes_often": Condition, Warning, Cluster, "leader-lost";
    /// A member does not get the log as fast as it is written. The object is its name.
    MemberLags = "cluster.member_lags": Condition, Warning, Cluster, "replica-lost";
    /// This node has lost the leader's duties. Over once it, or another node, has them.
    LeadershipLost = "cluster.leadership_lost": Condition, Warning, Node, "leader-lost";
    /// This node has had no proof for a while that its copy is current, although it knows a leader.
    StateOld = "node.state_old": Condition, Warning, Node, "partition";
    /// This node has an older copy of its data directory and lacks what it had acknowledged.
    NodeSetBack = "node.set_back": Condition, Critical, Node, "replica-lost";
    /// A sync of this node's disk takes too long.
    DiskSlow = "node.disk_slow": Condition, Critical, Node, "disk-full";
    /// This node's disk is nearly full. The object is the node and the directory.
    DiskNearlyFull = "node.disk_nearly_full": Condition, Warning, Node, "disk-full";
    /// A certificate of this node ends soon, or has ended. The object is the node and the file.
    CertificateEnds = "node.certificate_ends": Condition, Warning, Node, "certificate-expired";
    /// A node's clock is far from what a majority's clocks say. The object is its name.
    ClockSkew = "node.clock_skew": Condition, Critical, Cluster, "clock-wrong";
    /// This node's clock leapt and nobody can say whether it is right: no audit record is dropped for its
    /// age.
    RetentionWaits = "audit.retention_waits": Condition, Warning, Node, "clock-wrong";
    /// Writes through this node are refused.
    WritesRefused = "node.writes_refused": Condition, Critical, Node, "quorum-lost";
    /// This node was stalled: its process did not run for a while.
    NodeStalled = "node.stalled": Event, Warning, Node, "disk-full";
    /// Too many instances fell silent at once, so expiry is suspended.
    ExpirySuspended = "registry.expiry_suspended": Condition, Critical, Cluster, "partition";
    /// So many instances of a service are unhealthy that all are used. The object is the service.
    ServicePanic = "service.panic": Condition, Critical, Cluster, "service-panic";
    /// Health checks took an instance out. The object is the instance.
    UpstreamEvicted = "upstream.evicted": Event, Critical, Node, "service-panic";
    /// The store (Redis, shared file) does not answer.
    StoreUnreachable = "store.unreachable": Condition, Critical, Cluster, "redis-lost";
    /// The content of the store is not usable; the nodes repair it.
    StoreDamaged = "store.damaged": Event, Critical, Node, "redis-lost";
    /// The log has entries that cannot be read.
    StoreEntriesSkipped = "store.entries_skipped": Event, Critical, Node, "redis-lost";
    /// Another server answers for the store.
    StoreServerChanged = "store.server_changed": Event, Warning, Node, "redis-lost";
    /// The store lost writes; they were put back.
    StoreWritesPutBack = "store.writes_put_back": Event, Critical, Node, "redis-lost";
    /// The store was empty; the state was put back.
    StoreStatePutBack = "store.state_put_back": Event, Critical, Node, "redis-lost";
    /// The store lost acknowledged writes.
    StoreWritesLost = "store.writes_lost": Event, Critical, Node, "redis-lost";
    /// The store refused a write.
    StoreWritesRefused = "store.writes_refused": Event, Critical, Node, "redis-lost";
    /// The store gave up; the node stops.
    StoreFailed = "store.failed": Event, Critical, Node, "disk-corrupt";
    /// A half-written record was cut off the log.
    StoreTornTailCut = "store.torn_tail_cut": Event, Warning, Node, "disk-corrupt";
    /// Audit records could not be written.
    AuditGap = "audit.gap": Event, Critical, Node, "audit-gap";
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_kind_has_a_name_of_its_own_and_a_runbook_that_names_it() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations");
        let mut names = std::collections::BTreeSet::new();
        let table = std::fs::read_to_string(dir.join("README.md")).unwrap();
        for kind in AlertKind::ALL {
            assert!(names.insert(kind.name()), "{} is there twice", kind.name());
            let page = dir.join(format!("{}.md", kind.runbook()));
            let text = std::fs::read_to_string(&page)
                .unwrap_or_else(|error| panic!("{}: {}: {error}", kind.name(), page.display()));
            let named = format!("`{}`", kind.name());
            assert!(text.contains(&named), "{} does not name {named}", page.display());
            assert!(table.contains(&format!("| {named} |")), "README.md does not list {named}");
        }
    }
}
