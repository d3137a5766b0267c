//! The language of the log: proposals in, replies out.
//!
//! Variants are only ever appended: the log on disk and peers of other versions hold them by
//! number. `codec` has the golden bytes that keep this true.

use bincode::{Decode, Encode};

use super::audit_action::AuditAction;
use super::check::CheckReport;
use super::health::Health;
use super::identity::{EndedSession, Role, SigningKey, TokenRecord};
use super::instance::Registration;
use super::limits::LimitExceeded;
use super::name::{InstanceKey, Name, ServiceKey};
use super::policy::ServicePolicy;
use super::runtime_config::RuntimeConfig;
use super::versioned::{Needs, stored};

/// Names a request for good, so that a retry of it takes effect once. The first 32 bits are a digest of what it
/// asks for; the others name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct RequestId(pub u128);

impl RequestId {
    const NAME_BITS: u32 = 96;

    /// What names the request, whatever it asks for.
    #[must_use]
    pub fn name(self) -> u128 {
        self.0 & ((1 << Self::NAME_BITS) - 1)
    }

    /// The digest of what it asks for.
    #[must_use]
    pub fn content(self) -> u32 {
        (self.0 >> Self::NAME_BITS) as u32
    }

    /// The same name, for a request whose content has this digest.
    #[must_use]
    pub fn with_content(self, digest: u32) -> Self {
        Self(self.name() | (u128::from(digest) << Self::NAME_BITS))
    }
}

/// The index of the grant under which a leader acts; only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Fence(pub u64);

/// Who asks, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The user or token, or the part of Maxine; empty for an open request.
    pub user: Box<str>,
    /// The network address that the request came from. Empty for Maxine itself.
    pub address: Box<str>,
    /// The request's trace id; empty for Maxine itself.
    pub trace_id: Box<str>,
    /// The member that sent the request to the leader, as the leader authenticated it. The leader sets
    /// it; what the member itself says here does not count. `None` where the leader took the request.
    pub via_node: Option<u64>,
}

stored!(Actor { user, address, trace_id, via_node });

/// What the name of a part of Maxine begins with. No user has such a name.
const SYSTEM: &str = "system:";

impl Actor {
    /// Whether this is a part of Maxine itself.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.user.starts_with(SYSTEM)
    }

    /// A part of Maxine itself, such as `lease-expiry`.
    #[must_use]
    pub fn system(part: &str) -> Self {
        let user = format!("{SYSTEM}{part}").into();
        Self { user, address: "".into(), trace_id: "".into(), via_node: None }
    }
}

/// A command on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Names the request; a second proposal with the same id takes no effect.
    pub request_id: RequestId,
    /// The proposer's clock, in milliseconds since 1970; 0 while it has not been compared with others: the
    /// log's clock then stays where it is.
    pub proposed_at_ms: u64,
    /// For duties of the leader alone: the grant it acts under. An entry with a stale one is refused.
    pub fence: Option<Fence>,
    /// Who asks.
    pub actor: Actor,
    /// What for.
    pub command: Command,
}

stored!(Proposal { request_id, proposed_at_ms, fence, actor, command });

/// What one log entry holds: proposals that were gathered while the last entry was on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Batch {
    /// In the order in which they take effect.
    pub proposals: Vec<Proposal>,
}

impl Batch {
    /// The newest version of the state that one of its commands belongs to.
    #[must_use]
    pub fn needs(&self) -> u32 {
        self.proposals.needs()
    }
}

/// An instance to take out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deregistration {
    /// Which one.
    pub key: InstanceKey,
    /// Only this registration of it, if given.
    pub lease_epoch: Option<u64>,
    /// Whether its drain is forgotten too. Only an operator may say so: an owner that restarts
    /// must not undo the operator's word.
    pub forget_drain: bool,
}

stored!(Deregistration { key, lease_epoch, forget_drain });

/// A transition of the verdict on one registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// Whose.
    pub key: InstanceKey,
    /// The `address_index` of the instance that was observed. At another address it is not touched.
    pub address_index: u64,
    /// The new verdict; its `since_ms` is set by apply.
    pub health: Health,
}

stored!(HealthReport { key, address_index, health });

/// A check that its owner has not reported in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckExpiry {
    /// The instance.
    pub key: InstanceKey,
    /// The check.
    pub check: Name,
    /// The last report of it in the log. If there is a later one, nothing changes.
    pub reported_index: u64,
    /// Its output from now on.
    pub output: Box<str>,
}

stored!(CheckExpiry { key, check, reported_index, output });

/// Everything that can change the state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// Adds instances or replaces their registrations; each item is answered on its own.
    Register {
        /// What to register, in order.
        items: Vec<(ServiceKey, Registration)>,
    },
    /// Takes instances out at their owner's or an operator's word; forgets their drains.
    Deregister {
        /// Which ones.
        items: Vec<Deregistration>,
    },
    /// Leader only: takes out instances whose lease has run out.
    Expire {
        /// The key and the `registered_index` of each. One that was registered again is not touched.
        items: Vec<(InstanceKey, u64)>,
    },
    /// Drains an instance or returns it to service.
    SetDrain {
        /// Which one; it need not be registered.
        key: InstanceKey,
        /// `Some(reason)` drains, `None` returns it.
        reason: Option<Box<str>>,
    },
    /// Leader only: what the health checks agreed on.
    ReportHealth {
        /// The transitions.
        items: Vec<HealthReport>,
    },
    /// Sets or takes away a service's policy.
    PutPolicy {
        /// Whose.
        key: ServiceKey,
        /// The policy, whole; `None` takes it away.
        policy: Option<Box<ServicePolicy>>,
        /// Refused unless the present policy's revision is this one; 0 means none is set.
        expected_revision: Option<u64>,
        /// Whether it may be set although there is no such service.
        create: bool,
    },
    /// Replaces the runtime configuration, and keeps what it replaces.
    PutConfig {
        /// The new settings, whole.
        config: RuntimeConfig,
        /// Refused unless the present revision is this one.
        expected_revision: Option<u64>,
    },
    /// Makes a node the holder of the leader's duties. The grant's index is its fencing token.
    GrantLeadership {
        /// Which node.
        holder: Name,
    },
    /// Adds a user or changes one.
    PutUser {
        /// Who.
        name: Name,
        /// The role.
        role: Role,
        /// The argon2id hash in PHC form.
        password_hash: Box<str>,
        /// Whether the operator's environment owns the account.
        managed: bool,
        /// Only if there is no such user yet.
        create_only: bool,
        /// Refused unless the user's credential version is this one.
        expected_version: Option<u64>,
    },
    /// Takes a user out; their tokens stop working.
    DeleteUser {
        /// Who.
        name: Name,
    },
    /// Puts a signing key first and keeps `keep_previous` older ones for checking.
    RotateSigningKey {
        /// The new key.
        key: SigningKey,
        /// How many older keys stay accepted, at most 8.
        keep_previous: u32,
        /// Only if there is none yet.
        create_only: bool,
    },
    /// Adds an API token.
    PutToken {
        /// The token's record.
        token: TokenRecord,
    },
    /// Takes an API token out.
    DeleteToken {
        /// Which one.
        id: Name,
    },
    /// Puts what happened outside the log (sign-ins, refusals) into the audit log.
    RecordAudit {
        /// What happened: action, object, outcome.
        items: Vec<(AuditAction, Box<str>, bool)>,
    },
    /// Ends the present history and begins another, after a restore or a loss.
    BeginHistory {
        /// The history that ends; nothing changes where it is not the present one.
        before: u64,
        /// The one that begins, chosen at random.
        history: u64,
        /// The line of the store that it belongs to.
        line: u64,
        /// Replaces every key that signed sessions before. A key that was rotated away since the older
        /// copy was made is in the state again, and must not sign for the history that begins.
        signing_key: SigningKey,
    },
    /// Gives the cluster its identity, once.
    IdentifyCluster {
        /// Random text.
        id: Name,
    },
    /// Ends one session of a user before its time.
    EndSession {
        /// Whose.
        name: Name,
        /// The credential version that it was issued for.
        credential_version: u64,
        /// Which one.
        session: EndedSession,
    },
    /// Leader only: lets audit records go that are older than their class is kept.
    ExpireAudit {
        /// The time, in milliseconds since 1970, by a clock that was compared with others or that an
        /// operator has confirmed.
        now_ms: u64,
    },
    /// Raises the version of the state. Only proposed once every voter understands the new one.
    RaiseStateVersion {
        /// The new version; nothing changes unless it is above the present one.
        to: u32,
    },
    /// Sets the state of a check, as the owner of the instance reports it. An equal report changes nothing, but no
    /// expiry that was decided before it has an effect.
    ReportCheck {
        /// The instance.
        key: InstanceKey,
        /// The check.
        check: Name,
        /// Only if this is still its registration.
        lease_epoch: Option<u64>,
        /// What the owner says.
        report: CheckReport,
    },
    /// Leader only: makes checks critical that their owners have not reported in time.
    ExpireChecks {
        /// The checks.
        items: Vec<CheckExpiry>,
    },
    /// Sets the note of the whole cluster. It stands for a command of the next version.
    #[cfg(feature = "next")]
    SetNote {
        /// The new text; an empty one takes the note away.
        note: Box<str>,
    },
}

impl Command {
    /// The version of the state that this command belongs to: its own, or that of the newest field in it.
    #[must_use]
    pub fn needs(&self) -> u32 {
        Needs::needs(self)
    }

    /// Whether only the holder of the leader's duties may propose it.
    #[must_use]
    pub fn is_leader_only(&self) -> bool {
        matches!(
            self,
            Self::Expire { .. }
                | Self::ReportHealth { .. }
                | Self::ExpireAudit { .. }
                | Self::ExpireChecks { .. }
        )
    }
}

impl Needs for Command {
    // Every variant and each of its fields is named, so that a new one does not compile before its version is stated.
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
            Self::RotateSigningKey { key, keep_previous, create_only } => {
                (key, keep_previous, create_only).needs()
            }
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
            #[cfg(feature = "next")]
            Self::SetNote { note } => note.needs().max(2),
        }
    }
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Applied {
    /// The index of the state right after it.
    pub index: u64,
    /// The answer.
    pub reply: Reply,
}

/// The answers, by command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// Done; nothing more to say.
    Done,
    /// For each registration: its lease epoch, or why it was refused; that in a box, because it seldom is
    /// and the replies to many requests are remembered.
    Registered(Vec<Result<u64, Box<Rejection>>>),
    /// For each item, whether there was something to take out or change.
    Changed(Vec<bool>),
    /// The new revision of what was set.
    Revision(u64),
    /// The grant's fencing token.
    Granted(Fence),
    /// Refused; nothing was changed.
    Rejected(Rejection),
}

/// Why a command was refused: a code with its values, for it is stored in the audit log and every replica must store
/// the same. `wording` has the words. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Rejection {
    /// A value is outside its limit.
    Limit(LimitExceeded),
    /// What it names is not there.
    NotFound {
        /// What kind of thing.
        kind: ObjectKind,
        /// Its name.
        name: Box<str>,
    },
    /// It is there already.
    Exists {
        /// What kind of thing.
        kind: ObjectKind,
        /// Its name.
        name: Box<str>,
    },
    /// Someone else changed it since.
    RevisionMismatch {
        /// What the caller expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// Proposed under a leadership that has ended.
    StaleFence {
        /// The proposal's.
        got: u64,
        /// The present one.
        current: u64,
    },
    /// A leader's command without a fence.
    FenceMissing,
    /// Owned by the operator's environment.
    Managed(Box<str>),
    /// It belongs to a newer version of the state.
    StateVersion {
        /// The version that it belongs to.
        needs: u32,
        /// The version that the state has.
        has: u32,
    },
    /// The request id was given to a request that asked for something else.
    RequestIdReused,
}

impl Rejection {
    /// Whether every part of it is a code.
    pub(super) fn is_code(&self) -> bool {
        match self {
            Self::Limit(limit) => limit.field.is_code(),
            _ => true,
        }
    }
}

/// What kind of thing a refusal names. Variants are only ever appended.
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
    /// What tells the cluster from every other.
    ClusterIdentity,
    /// A check of an instance.
    Check,
}
