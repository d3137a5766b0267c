//! Keys and values: what is stored under a key, and the operations that change it.
//!
//! [`super::kv_state`] has the table of all keys, and carries the operations out.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::audit_action::AuditAction;
use super::kv_key::KvKey;
use super::limits::{self, Given, Limit, LimitExceeded};
use super::lock_session::LockSessionId;
use super::versioned::{Needs, fixed, stored};

/// Estimated size of the fixed part of a key, in bytes.
const STORED_OVERHEAD_LEN: u64 = 256;

/// A value. Clones are cheap. Its debug form shows only its length, because values must not appear in logs.
#[derive(Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct KvValue(pub Arc<[u8]>);

impl fmt::Debug for KvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<&[u8]> for KvValue {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

fixed!(KvValue);

/// What a client stores under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvContent {
    /// The value.
    pub value: KvValue,
    /// A number that only clients interpret.
    pub flags: u64,
}

stored!(KvContent { value, flags });

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// The key.
    pub key: KvKey,
    /// The value and the flags.
    pub content: KvContent,
    /// What the state knows about the key.
    pub meta: KvMeta,
    /// When it last changed, in milliseconds since 1970, by the log's clock.
    pub modified_at_ms: u64,
    /// Who changed it last. Empty for a caller without a credential.
    pub modified_by: Box<str>,
}

stored!(KvEntry { key, content, meta, modified_at_ms, modified_by });

impl KvEntry {
    /// Its size for the limit of all keys and values, in bytes.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        stored_len(&self.key, &self.content)
    }
}

/// The size of a key with this content for the limit of all keys and values, in bytes.
pub(super) fn stored_len(key: &KvKey, content: &KvContent) -> u64 {
    STORED_OVERHEAD_LEN + (key.as_str().len() + content.value.0.len()) as u64
}

/// What the state knows about a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvMeta {
    /// Index at which the key was created.
    pub create_index: u64,
    /// Index of the last change to the key. It is the revision for conditional changes.
    pub modify_index: u64,
    /// Index at which the present or last holder took the lock; 0 if nobody did since the key was created. It grows with
    /// each new holder, also of a key that was deleted meanwhile, so it is a fencing token.
    pub lock_index: u64,
    /// The session that holds the lock.
    pub session: Option<LockSessionId>,
}

stored!(KvMeta { create_index, modify_index, lock_index, session });

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvOp {
    /// The key; for [`KvAction::DeleteTree`] the beginning of the keys, which may be empty.
    pub key: KvKey,
    /// What to do with it.
    pub action: KvAction,
}

stored!(KvOp { key, action });

/// What an operation does. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KvAction {
    /// Sets the value. A lock stays as it is, because locks are advisory.
    Put {
        /// The new content.
        content: KvContent,
        /// If set, the key must have this modify index; 0 means that it must not exist.
        expected: Option<u64>,
    },
    /// Takes the lock for a session, and sets the value.
    Lock {
        /// The new content; `None` keeps the present one.
        content: Option<KvContent>,
        /// The session.
        session: LockSessionId,
    },
    /// Gives the lock back, and sets the value.
    Unlock {
        /// The new content; `None` keeps the present one.
        content: Option<KvContent>,
        /// The session, which must hold the lock.
        session: LockSessionId,
    },
    /// Deletes the key, if it exists.
    Delete {
        /// If set and the key exists, it must have this modify index.
        expected: Option<u64>,
    },
    /// Deletes every key that begins with the operation's key.
    DeleteTree,
    /// Reads the key.
    Get {
        /// Whether the transaction fails if there is no such key.
        must_exist: bool,
    },
    /// The key must have this modify index.
    CheckIndex {
        /// The index.
        index: u64,
    },
    /// The session must hold the lock.
    CheckSession {
        /// The session.
        session: LockSessionId,
    },
    /// The key must not exist.
    CheckAbsent,
}

impl Needs for KvAction {
    fn needs(&self) -> u32 {
        let content = match self {
            Self::Put { content, expected: _ } => content.needs(),
            Self::Lock { content, session: _ } | Self::Unlock { content, session: _ } => {
                content.needs()
            }
            Self::Delete { expected: _ } | Self::DeleteTree | Self::Get { must_exist: _ } => 1,
            Self::CheckIndex { index: _ } | Self::CheckSession { session: _ } => 1,
            Self::CheckAbsent => 1,
        };
        content.max(3)
    }
}

impl KvOp {
    /// The content that the operation stores.
    #[must_use]
    pub fn content(&self) -> Option<&KvContent> {
        match &self.action {
            KvAction::Put { content, .. } => Some(content),
            KvAction::Lock { content, .. } | KvAction::Unlock { content, .. } => content.as_ref(),
            _ => None,
        }
    }

    /// The action of the audit log, if the operation changes something.
    pub(super) fn audit_action(&self) -> AuditAction {
        match self.action {
            KvAction::Put { .. } => AuditAction::KvPut,
            KvAction::Lock { .. } => AuditAction::KvLock,
            KvAction::Unlock { .. } => AuditAction::KvUnlock,
            KvAction::Delete { .. } => AuditAction::KvDelete,
            KvAction::DeleteTree => AuditAction::KvDeleteTree,
            KvAction::Get { .. }
            | KvAction::CheckIndex { .. }
            | KvAction::CheckSession { .. }
            | KvAction::CheckAbsent => AuditAction::KvTransaction,
        }
    }

    /// Whether the operation can only read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(
            self.action,
            KvAction::Get { .. }
                | KvAction::CheckIndex { .. }
                | KvAction::CheckSession { .. }
                | KvAction::CheckAbsent
        )
    }

    /// Checks the limits of the operation itself.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        match self.action {
            KvAction::DeleteTree => KvKey::parse_prefix(self.key.as_str())?,
            _ => KvKey::parse(self.key.as_str())?,
        };
        let len = self.content().map_or(0, |content| content.value.0.len());
        if len > limits::KV_VALUE_LEN_MAX {
            let limit = Limit::Length { min: 0, max: limits::KV_VALUE_LEN_MAX as u64 };
            return Err(LimitExceeded::new("value", limit, Given::Bytes(len as u64)));
        }
        Ok(())
    }

    /// Checks the limits of a transaction.
    pub fn check_all(ops: &[Self]) -> Result<(), LimitExceeded> {
        limits::check_count("operations", ops.len(), limits::KV_OPS_MAX)?;
        ops.iter().try_for_each(Self::check)?;
        let values = ops.iter().filter_map(Self::content);
        let len: usize = values.map(|content| content.value.0.len()).sum();
        if len > limits::KV_TRANSACTION_LEN_MAX {
            let limit = Limit::TotalLength { max: limits::KV_TRANSACTION_LEN_MAX as u64 };
            return Err(LimitExceeded::new("operations", limit, Given::Bytes(len as u64)));
        }
        Ok(())
    }
}

/// Why an operation was not carried out. Nothing of its transaction was then. Variants are only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KvRefusal {
    /// The key has another modify index than the caller expected.
    Index {
        /// The present modify index; 0 if the key does not exist.
        actual: u64,
    },
    /// The key does not exist.
    Missing,
    /// Another session holds the lock.
    Held {
        /// That session.
        by: LockSessionId,
    },
    /// The session does not hold the lock.
    NotHeld,
    /// A session that held the lock ended, and its lock delay is not over.
    Delayed,
    /// There is no such session.
    NoSession,
}

/// A change to one key, or to all keys that begin with the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvChange {
    /// This key was changed or deleted.
    Key(KvKey),
    /// Keys that begin with this text were deleted.
    Tree(KvKey),
}

impl KvChange {
    /// The key, or the beginning of the keys.
    #[must_use]
    pub fn key(&self) -> &KvKey {
        match self {
            Self::Key(key) | Self::Tree(key) => key,
        }
    }

    /// An estimate of the memory that changes hold, in bytes.
    pub(super) fn held_len(changes: &[Self]) -> u64 {
        changes.iter().map(|change| change.key().as_str().len() as u64 + 32).sum()
    }
}
