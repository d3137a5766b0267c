//! Commands, proposals and replies: what the log contains.
//!
//! Variants are only ever appended, because the log on disk and peers of other versions identify them by
//! number. The golden bytes in `log_entry` check this.

use std::sync::Arc;

use bincode::{Decode, Encode};

use super::audit_action::AuditAction;
use super::check::CheckReport;
use super::health::Health;
use super::history::History;
use super::identity::{EndedSession, Role, SigningKey, TokenRecord};
use super::instance::Registration;
use super::kv::{KvMeta, KvOp, KvRefusal};
use super::limits::LimitExceeded;
use super::lock_session::{LockSessionId, LockSessionSpec};
use super::name::{InstanceKey, Name, ServiceKey};
use super::policy::ServicePolicy;
use super::runtime_config::RuntimeConfig;
use super::versioned::{Needs, fixed, stored};

/// Identifies a request, so that a retry takes effect only once. The first 32 bits are a digest of the
/// command. The other bits identify the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct RequestId(pub u128);

impl RequestId {
    const NAME_BITS: u32 = 96;

    /// The bits that identify the request, without the digest.
    #[must_use]
    pub fn name(self) -> u128 {
        self.0 & ((1 << Self::NAME_BITS) - 1)
    }

    /// The digest of the command.
    #[must_use]
    pub fn content(self) -> u32 {
        (self.0 >> Self::NAME_BITS) as u32
    }

    /// The same request id with another digest.
    #[must_use]
    pub fn with_content(self, digest: u32) -> Self {
        Self(self.name() | (u128::from(digest) << Self::NAME_BITS))
    }
}

/// The index of the grant under which a leader acts. It only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Fence(pub u64);

fixed!(Fence, RequestId);

/// Who made a request, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The user, the token, or the part of Maxine. Empty for a request without a credential.
    pub user: Box<str>,
    /// The network address that the request came from. Empty for Maxine itself.
    pub address: Box<str>,
    /// The request's trace id; empty for Maxine itself.
    pub trace_id: Box<str>,
    /// The member that sent the request to the leader, as the leader authenticated it. The leader sets this
    /// value and ignores what the member itself sends. `None` if the leader received the request directly.
    pub via_node: Option<u64>,
}

stored!(Actor { user, address, trace_id, via_node });

/// Prefix of the names of Maxine's own parts. No user can have such a name.
const SYSTEM: &str = "system:";

/// Prefix of the user of a node's break-glass token; the name of the node follows. No user can have such a name.
const BREAK_GLASS: &str = "break-glass:";

/// Whether this is the name of a part of Maxine itself.
pub(super) fn is_system(user: &str) -> bool {
    user.starts_with(SYSTEM)
}

impl Actor {
    /// Whether this is a part of Maxine itself.
    #[must_use]
    pub fn is_system(&self) -> bool {
        is_system(&self.user)
    }

    /// The user of the break-glass token of the node with this name.
    #[must_use]
    pub fn break_glass_user(node: &str) -> String {
        format!("{BREAK_GLASS}{node}")
    }

    /// Whether this is the holder of a break-glass token.
    #[must_use]
    pub fn is_break_glass(&self) -> bool {
        self.user.starts_with(BREAK_GLASS)
    }

    /// A part of Maxine itself, such as `lease-expiry`.
    #[must_use]
    pub fn system(part: &str) -> Self {
        let user = format!("{SYSTEM}{part}").into();
        Self { user, address: "".into(), trace_id: "".into(), via_node: None }
    }
}

/// A command on its way to the log, with its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Identifies the request. A second proposal with the same id has no effect.
    pub request_id: RequestId,
    /// The proposer's clock, in milliseconds since 1970. 0 if that clock has not been compared with others;
    /// the log's clock then does not move.
    pub proposed_at_ms: u64,
    /// The grant under which the leader acts. Only commands of the leader have one. Apply refuses a command
    /// with an old fence.
    pub fence: Option<Fence>,
    /// Who made the request.
    pub actor: Actor,
    /// The command.
    pub command: Command,
}

stored!(Proposal { request_id, proposed_at_ms, fence, actor, command });

/// The content of one log entry: the proposals that were collected while the previous entry was in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Batch {
    /// The proposals, in the order in which they are applied.
    pub proposals: Vec<Proposal>,
}

impl Batch {
    /// The newest state version that any of its commands needs.
    #[must_use]
    pub fn needs(&self) -> u32 {
        self.proposals.needs()
    }
}

/// An instance to deregister.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deregistration {
    /// The instance.
    pub key: InstanceKey,
    /// If set, only this registration of the instance is removed.
    pub lease_epoch: Option<u64>,
    /// Whether the drain is removed too. Only an operator may ask for this: a restarting owner must not undo
    /// an operator's decision.
    pub forget_drain: bool,
}

stored!(Deregistration { key, lease_epoch, forget_drain });

/// A change of the verdict on one registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The instance.
    pub key: InstanceKey,
    /// The `address_index` of the observed instance. If the instance has another address now, nothing
    /// changes.
    pub address_index: u64,
    /// The new verdict. Apply sets its `since_ms`.
    pub health: Health,
}

stored!(HealthReport { key, address_index, health });

/// A check that its owner did not report in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckExpiry {
    /// The instance.
    pub key: InstanceKey,
    /// The check.
    pub check: Name,
    /// Index of the last known report. If there is a later report in the log, nothing changes.
    pub reported_index: u64,
    /// The new output of the check.
    pub output: Arc<str>,
}

stored!(CheckExpiry { key, check, reported_index, output });

/// A change of the state. Everything that changes the state is one of these.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// Adds instances, or replaces their registrations. Each item has its own reply.
    Register {
        /// The registrations, in order.
        items: Vec<(ServiceKey, Registration)>,
    },
    /// Removes instances at the request of their owner or of an operator. An operator's request can remove
    /// their drains too.
    Deregister {
        /// The instances.
        items: Vec<Deregistration>,
    },
    /// Removes instances whose lease has run out. Leader only.
    Expire {
        /// The key and the `registered_index` of each instance. An instance that was registered again is not
        /// removed.
        items: Vec<(InstanceKey, u64)>,
    },
    /// Drains an instance or returns it to service.
    SetDrain {
        /// The instance. The command is refused if the instance is neither registered nor drained.
        key: InstanceKey,
        /// `Some(reason)` drains the instance; `None` ends the drain.
        reason: Option<Box<str>>,
    },
    /// Sets the verdicts that the observers agreed on. Leader only.
    ReportHealth {
        /// The changed verdicts.
        items: Vec<HealthReport>,
    },
    /// Sets or removes the policy of a service.
    PutPolicy {
        /// The service.
        key: ServiceKey,
        /// The complete policy; `None` removes it.
        policy: Option<Box<ServicePolicy>>,
        /// If set, the command is refused unless the present policy has this revision; 0 means that no policy
        /// is set.
        expected_revision: Option<u64>,
        /// Whether the policy may be set if the service does not exist.
        create: bool,
    },
    /// Replaces the runtime configuration. The old one is kept in the history.
    PutConfig {
        /// The complete new settings.
        config: RuntimeConfig,
        /// If set, the command is refused unless the present configuration has this revision.
        expected_revision: Option<u64>,
    },
    /// Gives a node the duties of the leader. The index of the grant is its fencing token.
    GrantLeadership {
        /// The name of the node.
        holder: Name,
    },
    /// Adds or changes a user.
    PutUser {
        /// The user's name.
        name: Name,
        /// The role.
        role: Role,
        /// The argon2id hash in PHC form.
        password_hash: Box<str>,
        /// Whether the account is managed by the operator's environment variables.
        managed: bool,
        /// Whether the command is refused if the user exists.
        create_only: bool,
        /// If set, the command is refused unless the user has this credential version.
        expected_version: Option<u64>,
    },
    /// Deletes a user. The user's tokens stop working.
    DeleteUser {
        /// The user's name.
        name: Name,
    },
    /// Adds a new signing key, and keeps `keep_previous` older keys for verification.
    RotateSigningKey {
        /// The new key.
        key: SigningKey,
        /// How many older keys stay accepted, at most 8.
        keep_previous: u32,
    },
    /// Adds an API token.
    PutToken {
        /// The token's record.
        token: TokenRecord,
    },
    /// Deletes an API token.
    DeleteToken {
        /// The id of the token.
        id: Name,
    },
    /// Adds records to the audit log about events outside the log, such as sign-ins and refusals.
    RecordAudit {
        /// The events: action, object, and whether it succeeded.
        items: Vec<(AuditAction, Box<str>, bool)>,
    },
    /// Ends the present history and begins a new one: when the cluster is founded, and after a restore or a loss of
    /// data.
    BeginHistory {
        /// The history that ends; `None` when the cluster is founded. If it is not the present one, nothing
        /// changes.
        before: Option<History>,
        /// The new history, chosen at random.
        history: History,
        /// The line of the store that the new history belongs to.
        line: u64,
        /// The first signing key of the new history. It replaces all older keys, because a restored copy can
        /// contain a key that was removed later, and such a key must not sign in the new history.
        signing_key: SigningKey,
    },
    /// Sets the identity of the cluster. This happens once.
    IdentifyCluster {
        /// A random text.
        id: Name,
    },
    /// Ends one session of a user before it expires.
    EndSession {
        /// The user's name.
        name: Name,
        /// The credential version that the session was issued for.
        credential_version: u64,
        /// The session.
        session: EndedSession,
    },
    /// Drops audit records that are older than the retention of their class. Leader only.
    ExpireAudit {
        /// The time, in milliseconds since 1970. It comes from a clock that was compared with others, or that
        /// an operator has confirmed.
        now_ms: u64,
    },
    /// Raises the version of the state. It is only proposed once every voter understands the new version.
    RaiseStateVersion {
        /// The new version. If it is not above the present one, nothing changes.
        to: u32,
    },
    /// Sets the state of a check, as its owner reports it. An equal report changes nothing, but it cancels
    /// every expiry that was decided before it.
    ReportCheck {
        /// The instance.
        key: InstanceKey,
        /// The check.
        check: Name,
        /// If set, the report only counts for this registration.
        lease_epoch: Option<u64>,
        /// The report.
        report: CheckReport,
    },
    /// Sets checks to critical because their owners did not report them in time. Leader only.
    ExpireChecks {
        /// The checks.
        items: Vec<CheckExpiry>,
    },
    /// Adds audit records of events outside the log whose outcome is not known: each with its action and its object.
    RecordUnknown {
        /// The records.
        items: Vec<(AuditAction, Box<str>)>,
    },
    /// Changes keys: carries out all operations, or none of them.
    ChangeKv {
        /// The operations, in order.
        ops: Vec<KvOp>,
    },
    /// Creates a lock session.
    CreateLockSession {
        /// Its id, chosen at random.
        id: LockSessionId,
        /// What the client asks for.
        spec: LockSessionSpec,
    },
    /// Ends a lock session at the request of a client.
    EndLockSession {
        /// The session.
        id: LockSessionId,
    },
    /// Ends lock sessions that were not renewed in time. Leader only.
    ExpireLockSessions {
        /// The sessions, each with the index of its creation.
        items: Vec<(LockSessionId, u64)>,
    },
    /// Ends the lock delays of these ended sessions. Leader only, because the leader measures the time.
    EndLockDelays {
        /// The sessions.
        items: Vec<LockSessionId>,
    },
    /// Sets the note of the whole cluster. Test builds use it as a command of the next version.
    #[cfg(feature = "next")]
    SetNote {
        /// The new text. An empty text removes the note.
        note: Box<str>,
    },
}

impl Command {
    /// The state version that this command needs: that of the command, or that of its newest field.
    #[must_use]
    pub fn needs(&self) -> u32 {
        Needs::needs(self)
    }

    /// Whether only the present leader may propose this command.
    #[must_use]
    pub fn is_leader_only(&self) -> bool {
        matches!(
            self,
            Self::Expire { .. }
                | Self::ReportHealth { .. }
                | Self::ExpireAudit { .. }
                | Self::ExpireChecks { .. }
                | Self::ExpireLockSessions { .. }
                | Self::EndLockDelays { .. }
        )
    }

    /// Whether this change by a known caller, when it is accepted, leaves a record in the class `identities` or `settings`
    /// of the audit log, from state version 2 on.
    #[must_use]
    pub fn is_long_kept(&self) -> bool {
        #[cfg(feature = "next")]
        if matches!(self, Self::SetNote { .. }) {
            return true;
        }
        matches!(
            self,
            Self::PutPolicy { .. }
                | Self::PutConfig { .. }
                | Self::PutUser { .. }
                | Self::DeleteUser { .. }
                | Self::RotateSigningKey { .. }
                | Self::PutToken { .. }
                | Self::DeleteToken { .. }
        )
    }
}

impl Needs for Command {
    // Every variant and every field is named here, so that a new one does not compile before its version is
    // stated.
    fn needs(&self) -> u32 {
        match self {
            Self::Register { items } => items.needs(),
            Self::Deregister { items } => items.needs(),
            Self::Expire { items } => items.needs(),
            Self::SetDrain { key, reason } => (key, reason).needs(),
            Self::ReportHealth { items } => items.needs(),
            Self::PutPolicy { key, policy, expected_revision, create } => {
                (key, policy, expected_revision, create).needs()
            }
            Self::PutConfig { config, expected_revision } => (config, expected_revision).needs(),
            Self::GrantLeadership { holder } => holder.needs(),
            Self::PutUser { name, role, password_hash, managed, create_only, expected_version } => {
                (name, role, password_hash, managed, create_only, expected_version).needs()
            }
            Self::DeleteUser { name } => name.needs(),
            Self::RotateSigningKey { key, keep_previous } => (key, keep_previous).needs(),
            Self::PutToken { token } => token.needs(),
            Self::DeleteToken { id } | Self::IdentifyCluster { id } => id.needs(),
            Self::RecordAudit { items } => items.needs(),
            Self::BeginHistory { before, history, line, signing_key } => {
                (before, history, line, signing_key).needs()
            }
            Self::EndSession { name, credential_version, session } => {
                (name, credential_version, session).needs()
            }
            Self::ExpireAudit { now_ms } => now_ms.needs(),
            Self::RaiseStateVersion { to } => *to,
            Self::ReportCheck { key, check, lease_epoch, report } => {
                (key, check, lease_epoch, report).needs()
            }
            Self::ExpireChecks { items } => items.needs(),
            Self::RecordUnknown { items } => items.needs().max(2),
            Self::ChangeKv { ops } => ops.needs().max(3),
            Self::CreateLockSession { id, spec } => (id, spec).needs().max(3),
            Self::EndLockSession { id } => id.needs().max(3),
            Self::ExpireLockSessions { items } => items.needs().max(3),
            Self::EndLockDelays { items } => items.needs().max(3),
            #[cfg(feature = "next")]
            Self::SetNote { note } => note.needs().max(4),
        }
    }
}

/// The result of an applied proposal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Applied {
    /// The index of the state after the proposal.
    pub index: u64,
    /// The reply.
    pub reply: Reply,
}

/// The reply to a command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Done. The reply has no content.
    Done,
    /// For each registration, its lease epoch or the refusal. The refusal is boxed because it is rare, and
    /// the replies to many requests are remembered.
    Registered(Vec<Result<u64, Box<Rejection>>>),
    /// For each item, whether anything changed.
    Changed(Vec<bool>),
    /// The new revision of the object.
    Revision(u64),
    /// The fencing token of the new grant.
    Granted(Fence),
    /// The command was refused and nothing changed.
    Rejected(Rejection),
    /// For each operation on keys, what is known about its key afterwards; `None` if the key does not exist. From state
    /// version 3 on.
    Kv(Vec<Option<KvMeta>>),
    /// A condition of an operation on keys does not hold, and nothing changed. From state version 3 on.
    KvRefused {
        /// The number of the operation in its transaction, from 0.
        at: u32,
        /// The condition.
        why: KvRefusal,
    },
}

/// Why a command was refused, as a code with its values. The audit log stores it, so every replica must store
/// the same value. `wording` turns it into text. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Rejection {
    /// A value is outside its limit.
    Limit(LimitExceeded),
    /// The object does not exist.
    NotFound {
        /// The kind of the object.
        kind: ObjectKind,
        /// The name of the object.
        name: Box<str>,
    },
    /// The object exists already.
    Exists {
        /// The kind of the object.
        kind: ObjectKind,
        /// The name of the object.
        name: Box<str>,
    },
    /// The object has another revision than the caller expected.
    RevisionMismatch {
        /// The revision that the caller expected.
        expected: u64,
        /// The present revision.
        actual: u64,
    },
    /// The command was proposed by a leader that has been replaced.
    StaleFence {
        /// The fence of the proposal.
        got: u64,
        /// The present fence.
        current: u64,
    },
    /// A command of the leader has no fence.
    FenceMissing,
    /// The account is managed by the operator's environment variables.
    Managed(Box<str>),
    /// The command belongs to a newer version of the state.
    StateVersion {
        /// The version that the command needs.
        needs: u32,
        /// The version of the state.
        has: u32,
    },
    /// The request id was already used for a different request.
    RequestIdReused,
}

impl Rejection {
    /// Whether every part of the refusal is a code, so that it may be stored.
    pub(super) fn is_code(&self) -> bool {
        match self {
            Self::Limit(limit) => limit.field.is_code(),
            _ => true,
        }
    }
}

/// The kind of object that a refusal names. Variants are only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ObjectKind {
    /// A service.
    Service,
    /// An instance.
    Instance,
    /// A service's policy.
    Policy,
    /// A user.
    User,
    /// An API token.
    Token,
    /// A signing key.
    SigningKey,
    /// The identity of the cluster.
    ClusterIdentity,
    /// A check of an instance.
    Check,
    /// A lock session. From state version 3 on.
    LockSession,
}
