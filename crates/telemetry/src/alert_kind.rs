//! The kinds of alerts. Each has a severity, the node that reports it to the webhook, and a runbook.

/// How urgent an alert is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// An operator should look when there is time.
    Warning,
    /// An operator should look now.
    Critical,
}

impl Severity {
    /// All severities.
    pub const ALL: [Self; 2] = [Self::Warning, Self::Critical];

    /// The name in the API and in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Which node reports an alert to the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The node that raised it, because no other node can see it.
    Node,
    /// The leader. Every node that sees the condition raises the alert. While no leader is known, each of
    /// these nodes reports it.
    Cluster,
}

/// Whether an alert has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertForm {
    /// A condition: it lasts until it is over, and is then resolved.
    Condition,
    /// An event: it has happened, and there is nothing to resolve.
    Event,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal: $form:ident, $severity:ident, $scope:ident, $runbook:literal;)*) => {
        /// A kind of alert.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        pub enum AlertKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)*
        }

        impl AlertKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name: `type` in the API, in the webhook's body and in the metric.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The kind with this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
            }

            /// Whether it has an end.
            #[must_use]
            pub const fn form(self) -> AlertForm {
                match self { $(Self::$kind => AlertForm::$form,)* }
            }

            /// The severity, unless the alert sets another one.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }

            /// Which node reports it to the webhook.
            #[must_use]
            pub const fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope,)* }
            }

            /// The name of the runbook in `docs/operations`, without `.md`.
            #[must_use]
            pub const fn runbook(self) -> &'static str {
                match self { $(Self::$kind => $runbook,)* }
            }
        }
    };
}

kinds! {
    /// A member of the cluster does not answer. The object is its name.
    MemberUnreachable = "cluster.member_unreachable": Condition, Critical, Cluster, "replica-lost";
    /// There is no known leader, and too few voters answer to elect one.
    NoMajority = "cluster.no_majority": Condition, Critical, Cluster, "quorum-lost";
    /// There is no known leader.
    NoLeader = "cluster.no_leader": Condition, Critical, Cluster, "leader-lost";
    /// The leader changed several times within minutes.
    LeaderChangesOften = "cluster.leader_changes_often": Condition, Warning, Cluster, "leader-lost";
    /// A member does not receive the log as fast as it is written. The object is its name.
    MemberLags = "cluster.member_lags": Condition, Warning, Cluster, "replica-lost";
    /// This node lost the leader's duties a second ago or longer, and knows no other leader. Resolved once this node
    /// or another one has them.
    LeadershipLost = "cluster.leadership_lost": Condition, Warning, Node, "leader-lost";
    /// This node knows a leader, but has had no proof for a while that its own state is current.
    StateOld = "node.state_old": Condition, Warning, Node, "partition";
    /// This node has an older copy of its data directory and lacks entries that it had acknowledged.
    NodeSetBack = "node.set_back": Condition, Critical, Node, "replica-lost";
    /// A sync of this node's disk takes too long.
    DiskSlow = "node.disk_slow": Condition, Critical, Node, "disk-full";
    /// This node's disk is nearly full. The object is the node and the directory.
    DiskNearlyFull = "node.disk_nearly_full": Condition, Warning, Node, "disk-full";
    /// This node cannot write a snapshot of its state, so its log grows. It tries again.
    SnapshotFailed = "node.snapshot_failed": Condition, Warning, Node, "disk-full";
    /// A certificate of this node expires soon, or has expired, or its list of revoked certificates is out of date. The object
    /// is the node and the file.
    CertificateEnds = "node.certificate_ends": Condition, Warning, Node, "certificate-expired";
    /// Files with certificates or keys of this node were changed, and their new content cannot be used. The object is the
    /// node and what the files are for.
    TlsFilesRefused = "node.tls_files_refused": Condition, Critical, Node, "certificate-expired";
    /// A node's clock differs too much from the clocks of a majority. The object is its name.
    ClockSkew = "node.clock_skew": Condition, Critical, Cluster, "clock-wrong";
    /// This node's clock jumped, and it is unknown whether it is right. No audit record is dropped for its
    /// age meanwhile.
    RetentionWaits = "audit.retention_waits": Condition, Warning, Node, "clock-wrong";
    /// The last scheduled backup of this node failed, or could not be verified. Resolved by the next verified one.
    BackupFailed = "backup.failed": Condition, Warning, Node, "backups";
    /// No scheduled backup was verified for more than two periods of the schedule.
    BackupOld = "backup.old": Condition, Critical, Cluster, "backups";
    /// Writes through this node are refused.
    WritesRefused = "node.writes_refused": Condition, Critical, Node, "quorum-lost";
    /// This node was stalled: its process did not run for a while.
    NodeStalled = "node.stalled": Event, Warning, Node, "disk-full";
    /// Too many instances became silent at the same time, so expiry is suspended.
    ExpirySuspended = "registry.expiry_suspended": Condition, Critical, Cluster, "partition";
    /// A service is in panic mode: so many instances are unhealthy that all get traffic. The object is the
    /// service.
    ServicePanic = "service.panic": Condition, Critical, Cluster, "service-panic";
    /// Health checks evicted an instance. The object is the instance.
    UpstreamEvicted = "upstream.evicted": Event, Critical, Node, "service-panic";
    /// The store (Redis, shared file) does not answer, or does not accept the password of this node.
    StoreUnreachable = "store.unreachable": Condition, Critical, Cluster, "redis-lost";
    /// The content of the store cannot be used. The nodes repair it.
    StoreDamaged = "store.damaged": Event, Critical, Node, "redis-lost";
    /// The log has entries that cannot be read.
    StoreEntriesSkipped = "store.entries_skipped": Event, Critical, Node, "redis-lost";
    /// Another server process answers for the store.
    StoreServerChanged = "store.server_changed": Event, Warning, Node, "redis-lost";
    /// The store lost writes, and they were written back.
    StoreWritesPutBack = "store.writes_put_back": Event, Critical, Node, "redis-lost";
    /// The store was empty, and the state was written back.
    StoreStatePutBack = "store.state_put_back": Event, Critical, Node, "redis-lost";
    /// The store lost acknowledged writes.
    StoreWritesLost = "store.writes_lost": Event, Critical, Node, "redis-lost";
    /// The store (Redis, shared file) answers, but refuses writes. Resolved once it carries out a write.
    StoreWritesRefused = "store.writes_refused": Condition, Critical, Cluster, "redis-lost";
    /// The store failed for good, and the node stops.
    StoreFailed = "store.failed": Event, Critical, Node, "disk-corrupt";
    /// An incomplete record at the end of the log was removed.
    StoreTornTailCut = "store.torn_tail_cut": Event, Warning, Node, "disk-corrupt";
    /// Audit records could not be written.
    AuditGap = "audit.gap": Event, Critical, Node, "audit-gap";
    /// Audit records of a class left the log for lack of room, before they were as old as the class allows. The object is the
    /// class.
    AuditDroppedEarly = "audit.dropped_early": Event, Warning, Node, "audit-gap";
    /// Audit records of this node are not forwarded. The object is the node and the sink.
    AuditForwardFailing = "audit.forward_failing": Condition, Warning, Node, "audit-forwarding";
    /// Audit records were removed before this node could forward them. The object is the node and the sink.
    AuditForwardGap = "audit.forward_gap": Event, Critical, Node, "audit-forwarding";
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
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            let page = dir.join(format!("{}.md", kind.runbook()));
            let text = std::fs::read_to_string(&page)
                .unwrap_or_else(|error| panic!("{}: {}: {error}", kind.name(), page.display()));
            let named = format!("`{}`", kind.name());
            assert!(text.contains(&named), "{} does not name {named}", page.display());
            assert!(table.contains(&format!("| {named} |")), "README.md does not list {named}");
        }
    }
}
