//! The state as a stream of records, for snapshots, backups and digests.
//!
//! The records are in the order of their keys, so equal states give equal bytes. The digest is a hash of
//! these bytes.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::audit::{AuditLog, AuditRecord};
use super::audit_class::AuditClass;
use super::codec::{self, CodecError};
use super::command::{Applied, Fence, RequestId};
use super::control_state::{ControlState, FormerGrant, Grant, ServiceState};
use super::history::History;
use super::identity::{Identities, SigningKey, TokenRecord, User};
use super::instance::{Drain, Instance};
use super::kv::KvEntry;
use super::kv_key::KvKey;
use super::kv_state::KvState;
use super::lock_session::{LockDelay, LockSession};
use super::name::{Name, ServiceKey};
use super::policy::PolicyRecord;
use super::runtime_config::{ConfigRecord, ConfigRevision};

/// One record. Variants are only ever appended.
#[derive(Encode, Decode)]
enum Record {
    Header {
        index: u64,
        time_ms: u64,
        history: Option<History>,
        line: u64,
        service_gone_index: u64,
    },
    Config(ConfigRecord),
    Grant {
        fence: u64,
        holder: Name,
        since_ms: u64,
        before: Option<FormerGrant>,
    },
    User(User),
    SigningKey(SigningKey),
    Token(TokenRecord),
    /// The instances and drains that follow belong to this service.
    Service {
        key: ServiceKey,
        modified_index: u64,
        policy: Option<Arc<PolicyRecord>>,
    },
    Instance(Instance),
    Drain {
        instance: Name,
        drain: Drain,
    },
    AuditHead {
        hash: [u8; 32],
        next_seq: u64,
    },
    Audit(AuditRecord),
    Remembered {
        id: RequestId,
        of_stranger: bool,
        at_ms: u64,
        applied: Applied,
    },
    End,
    ConfigRevision(ConfigRevision),
    AuditChain {
        class: AuditClass,
        base: [u8; 32],
        next_seq: u64,
    },
    Cluster(Box<str>),
    /// The keys, lock sessions and lock delays follow. It is left out as long as there never were any.
    KvHead {
        forgotten_index: u64,
        sessions_index: u64,
    },
    Kv(KvEntry),
    /// A key that was deleted at `index`.
    KvGone {
        key: KvKey,
        index: u64,
    },
    LockSession(LockSession),
    LockDelay(LockDelay),
    #[cfg(feature = "next")]
    Note(Box<str>),
}

/// A snapshot that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The snapshot is cut off, or reading failed.
    #[error("snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
    /// This build cannot read the snapshot.
    #[error("snapshot cannot be read: {0}")]
    Format(#[from] CodecError),
    /// The records contradict each other.
    #[error("snapshot is inconsistent: {0}")]
    Inconsistent(String),
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A hash of the whole state at an index. Equal states, and only those, have equal digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StateDigest {
    /// The index of the state.
    pub index: u64,
    /// SHA-256 of its canonical encoding, in hexadecimal.
    pub digest: String,
}

impl ControlState {
    /// Writes the state, record by record.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = io::BufWriter::with_capacity(64 * 1024, out);
        out.write_all(&codec::snapshot_head(self.version()))?;
        let mut put = |record: Record| {
            bincode::encode_into_std_write(record, &mut out, codec::config())
                .map(drop)
                .map_err(io::Error::other)
        };
        let (index, time_ms) = (self.index, self.time_ms);
        let (history, line) = (self.history, self.line);
        let service_gone_index = self.service_gone_index;
        put(Record::Header { index, time_ms, history, line, service_gone_index })?;
        put(Record::Config(ConfigRecord::clone(&self.config)))?;
        for revision in self.config_history.revisions() {
            put(Record::ConfigRevision(revision.clone()))?;
        }
        if let Some(grant) = &self.grant {
            let Grant { fence, holder, since_ms, before } = Grant::clone(grant);
            put(Record::Grant { fence: fence.0, holder, since_ms, before })?;
        }
        if !self.identities.cluster.is_empty() {
            put(Record::Cluster(self.identities.cluster.clone()))?;
        }
        #[cfg(feature = "next")]
        if !self.note.is_empty() {
            put(Record::Note(self.note.clone()))?;
        }
        for user in self.identities.users.values() {
            put(Record::User(User::clone(user)))?;
        }
        for key in &self.identities.signing_keys {
            put(Record::SigningKey(key.clone()))?;
        }
        for token in self.identities.tokens.values() {
            put(Record::Token(TokenRecord::clone(token)))?;
        }
        for (key, service) in &self.services {
            let policy = service.policy.clone();
            let modified_index = service.modified_index;
            put(Record::Service { key: key.clone(), modified_index, policy })?;
            for instance in service.instances.values() {
                put(Record::Instance(Instance::clone(instance)))?;
            }
            for (instance, drain) in &service.drains {
                let (instance, drain) = (instance.clone(), Drain::clone(drain));
                put(Record::Drain { instance, drain })?;
            }
        }
        self.kv.write(&mut put)?;
        put(Record::AuditHead { hash: self.audit.head(), next_seq: self.audit.next_seq() })?;
        for class in AuditClass::ALL {
            let chain = self.audit.chain(class);
            let (base, next_seq) = (chain.base(), chain.next_seq());
            // A class of a later version must not appear in a state that does not use it yet.
            if next_seq > 0 {
                put(Record::AuditChain { class, base, next_seq })?;
            }
        }
        for record in self.audit.records() {
            put(Record::Audit(AuditRecord::clone(record)))?;
        }
        for (id, of_stranger, at_ms, applied) in self.dedup.iter() {
            let applied = Applied::clone(&applied);
            put(Record::Remembered { id, of_stranger, at_ms, applied })?;
        }
        put(Record::End)?;
        out.flush()
    }

    /// Reads a state that [`Self::write_to`] wrote.
    pub fn read_from(input: &mut dyn Read) -> Result<Self, SnapshotError> {
        let mut input = BufReader::with_capacity(64 * 1024, input);
        let version = read_head(&mut input)?;
        let mut state = Self { version_raised: version - 1, ..Self::default() };
        let mut identities = Identities::default();
        let mut kv = KvState::default();
        let mut current: Option<(ServiceKey, ServiceState)> = None;
        loop {
            let record = next_record(&mut input)?;
            match record {
                Record::Instance(mut instance) => {
                    let (_, service) = current.as_mut().ok_or_else(|| orphan("instance"))?;
                    if let Some(neighbour) = service.neighbour(&instance.registration.id) {
                        instance.registration.share_texts(&neighbour.registration);
                    }
                    state.instances_len += 1;
                    state.registrations_len += instance.stored_len();
                    service.instances.insert(instance.registration.id.clone(), Arc::new(instance));
                    continue;
                }
                Record::Drain { instance, drain } => {
                    let (_, service) = current.as_mut().ok_or_else(|| orphan("drain"))?;
                    service.drains.insert(instance, Arc::new(drain));
                    continue;
                }
                _ => {}
            }
            if let Some((key, service)) = current.take() {
                state.services.insert(key, Arc::new(service));
            }
            match record {
                Record::Header { index, time_ms, history, line, service_gone_index } => {
                    state.index = index;
                    state.time_ms = time_ms;
                    state.service_gone_index = service_gone_index;
                    (state.history, state.line) = (history, line);
                }
                Record::Config(config) => state.config = Arc::new(config),
                Record::ConfigRevision(revision) => state.config_history.keep(revision),
                Record::Grant { fence, holder, since_ms, before } => {
                    let fence = Fence(fence);
                    state.grant = Some(Arc::new(Grant { fence, holder, since_ms, before }));
                }
                Record::Cluster(id) => identities.cluster = id,
                #[cfg(feature = "next")]
                Record::Note(note) => state.note = note,
                Record::User(user) => {
                    identities.users.insert(user.name.clone(), Arc::new(user));
                }
                Record::SigningKey(key) => identities.signing_keys.push(key),
                Record::Token(token) => {
                    identities.tokens.insert(token.id.clone(), Arc::new(token));
                }
                Record::Service { key, modified_index, policy } => {
                    let service =
                        ServiceState { policy, modified_index, ..ServiceState::default() };
                    current = Some((key, service));
                }
                Record::AuditHead { hash, next_seq } => {
                    state.audit = AuditLog::restore(hash, next_seq);
                }
                Record::AuditChain { class, base, next_seq } => {
                    state.audit.restore_chain(class, base, next_seq);
                }
                Record::Audit(record) => state.audit.restore_record(record),
                Record::Remembered { id, of_stranger, at_ms, applied } => {
                    state.dedup.remember(id, of_stranger, at_ms, applied);
                }
                Record::KvHead { forgotten_index, sessions_index } => {
                    kv.forgotten_index = forgotten_index;
                    kv.sessions_index = sessions_index;
                }
                Record::Kv(entry) => kv.restore_entry(entry),
                Record::KvGone { key, index } => {
                    kv.gone.insert(key, index);
                }
                Record::LockSession(session) => kv.add_session(session),
                Record::LockDelay(delay) => kv.add_delay(delay),
                Record::End => break,
                Record::Instance(_) | Record::Drain { .. } => {}
            }
        }
        state.identities = Arc::new(identities);
        state.kv = Arc::new(kv);
        Ok(state)
    }

    /// The index of a state that [`Self::write_to`] wrote. Reads only the beginning.
    pub fn read_index(input: &mut dyn Read) -> Result<u64, SnapshotError> {
        let mut input = input;
        read_head(&mut input)?;
        match next_record(&mut input)? {
            Record::Header { index, .. } => Ok(index),
            _ => Err(orphan("something")),
        }
    }

    /// Hashes the whole state. The time grows with the size of the state, so call it on a blocking thread.
    #[must_use]
    pub fn digest(&self) -> StateDigest {
        struct Hashing(Sha256);
        impl Write for Hashing {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Hashing(Sha256::new());
        // Writing to a hasher cannot fail, and every record is below the limit of the codec.
        let written = self.write_to(&mut out);
        debug_assert!(written.is_ok());
        let digest = out.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        StateDigest { index: self.index, digest }
    }
}

impl KvState {
    fn write(&self, put: &mut impl FnMut(Record) -> io::Result<()>) -> io::Result<()> {
        let (forgotten_index, sessions_index) = (self.forgotten_index, self.sessions_index);
        let has_none = self.entries.is_empty() && self.gone.is_empty();
        // Records of a later version must not appear in a state that does not use them yet.
        if has_none && forgotten_index == 0 && sessions_index == 0 {
            return Ok(());
        }
        put(Record::KvHead { forgotten_index, sessions_index })?;
        for entry in self.entries.values() {
            put(Record::Kv(KvEntry::clone(entry)))?;
        }
        for (key, index) in &self.gone {
            put(Record::KvGone { key: key.clone(), index: *index })?;
        }
        for session in self.sessions.values() {
            put(Record::LockSession(LockSession::clone(session)))?;
        }
        for delay in self.delays.values() {
            put(Record::LockDelay(LockDelay::clone(delay)))?;
        }
        Ok(())
    }
}

/// Reads the header. Returns the version of the state.
fn read_head(input: &mut impl Read) -> Result<u32, SnapshotError> {
    let mut head = [0; codec::HEAD_LEN];
    input.read_exact(&mut head)?;
    Ok(codec::check_snapshot_head(head)?)
}

fn next_record(input: &mut impl Read) -> Result<Record, SnapshotError> {
    bincode::decode_from_std_read(input, codec::config())
        .map_err(|error| SnapshotError::Format(error.into()))
}

fn orphan(what: &str) -> SnapshotError {
    SnapshotError::Inconsistent(format!("{what} before any service"))
}
