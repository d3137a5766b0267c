//! Lock sessions: what holds the locks on keys, and what ends them.
//!
//! A lock session is not a signed-in user's session. It belongs to a process that holds locks, and ends when that process
//! no longer renews it.

use std::fmt;

use bincode::{Decode, Encode};

use super::kv_key::KvKey;
use super::limits::{self, LimitExceeded};
use super::name::{InstanceKey, Name};
use super::versioned::{Needs, fixed, stored};

/// Identifies a lock session. Its text is a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LockSessionId(pub u128);

fixed!(LockSessionId);

impl LockSessionId {
    /// Reads a UUID. `None` if the text is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_uuid = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        is_uuid.then(|| u128::from_str_radix(&digits, 16).ok()).flatten().map(Self)
    }

    /// The id from 128 random bits, as a random UUID (RFC 9562, version 4).
    #[must_use]
    pub fn from_random(bits: u128) -> Self {
        let versioned = (bits & !(0xf << 76)) | (4 << 76);
        Self((versioned & !(0b11 << 62)) | (0b10 << 62))
    }
}

impl fmt::Display for LockSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        let (a, b, c) = (id >> 96, (id >> 80) & 0xffff, (id >> 64) & 0xffff);
        let (d, e) = ((id >> 48) & 0xffff, id & 0xffff_ffff_ffff);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

/// What happens to the keys that a session holds when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum LockBehavior {
    /// They are unlocked and keep their values.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

impl Needs for LockBehavior {
    fn needs(&self) -> u32 {
        match self {
            Self::Release | Self::Delete => 3,
        }
    }
}

/// An instance, or one of its checks, whose failure ends a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockSessionCheck {
    /// The session ends when this instance is deregistered or expires.
    pub instance: InstanceKey,
    /// If set, the session also ends when this check of the instance is critical or no longer exists.
    pub check: Option<Name>,
}

stored!(LockSessionCheck { instance, check });

/// What a client asks for when it creates a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSessionSpec {
    /// A name for people; may be empty.
    pub name: Box<str>,
    /// The machine of the client; may be empty.
    pub node: Box<str>,
    /// The session ends after this time without a renewal, in milliseconds. `None`: only a request or a check ends it.
    pub ttl_ms: Option<u64>,
    /// What happens to its keys when it ends.
    pub behavior: LockBehavior,
    /// How long its keys cannot be locked again after it ended, in milliseconds.
    pub lock_delay_ms: u64,
    /// The instances and checks that end it.
    pub checks: Vec<LockSessionCheck>,
}

stored!(LockSessionSpec { name, node, ttl_ms, behavior, lock_delay_ms, checks });

impl LockSessionSpec {
    /// Checks every limit.
    pub fn check(&self) -> Result<(), LimitExceeded> {
        limits::check_text("name", &self.name, 0, limits::NAME_LEN_MAX)?;
        limits::check_text("node", &self.node, 0, limits::NAME_LEN_MAX)?;
        if let Some(ttl_ms) = self.ttl_ms {
            let (min, max) = (limits::TTL_MS_MIN, limits::LOCK_SESSION_TTL_MS_MAX);
            limits::check_range("ttl_ms", ttl_ms, min, max)?;
        }
        limits::check_range("lock_delay_ms", self.lock_delay_ms, 0, limits::LOCK_DELAY_MS_MAX)?;
        limits::check_count("checks", self.checks.len(), limits::LOCK_SESSION_CHECKS_MAX)
    }
}

/// A lock session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSession {
    /// Its id.
    pub id: LockSessionId,
    /// What the client asked for.
    pub spec: LockSessionSpec,
    /// Index at which it was created. An expiry names it.
    pub create_index: u64,
    /// When it was created, in milliseconds since 1970, by the log's clock.
    pub created_at_ms: u64,
    /// Who created it. Empty for a caller without a credential.
    pub created_by: Box<str>,
}

stored!(LockSession { id, spec, create_index, created_at_ms, created_by });

/// The keys of an ended session that cannot be locked yet. The leader measures the time, and ends the delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockDelay {
    /// The session that ended.
    pub session: LockSessionId,
    /// Its lock delay, in milliseconds.
    pub delay_ms: u64,
    /// Index at which it ended.
    pub since_index: u64,
    /// The keys that it held.
    pub keys: Vec<KvKey>,
}

stored!(LockDelay { session, delay_ms, since_index, keys });

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockSessionEnd {
    /// A client ended it.
    Destroyed,
    /// It was not renewed in time.
    Expired,
    /// One of its instances left, or one of its checks failed.
    Check,
}
