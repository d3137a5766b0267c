//! The table of keys, lock sessions and lock delays.
//!
//! The functions here change only the table. `kv_apply` adds what else belongs to a change: its index, its events and
//! its audit records. It works on a copy of the table, so a transaction that fails changes nothing.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::kv::{KvAction, KvChange, KvContent, KvEntry, KvMeta, KvOp, KvRefusal, stored_len};
use super::kv_key::KvKey;
use super::limits::{self, Given, Limit, LimitExceeded};
use super::lock_session::{LockBehavior, LockDelay, LockSession, LockSessionId};
use super::name::InstanceKey;

/// All keys, lock sessions and lock delays. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct KvState {
    pub(super) entries: OrdMap<KvKey, Arc<KvEntry>>,
    /// Sum of [`KvEntry::stored_len`] over all keys.
    pub(super) len: u64,
    /// Index at which each key of the recent past was deleted. So a reader who waits for a change of a prefix sees that
    /// a key below it was deleted, and changes of other keys do not concern it.
    pub(super) gone: OrdMap<KvKey, u64>,
    /// The newest deletion that is no longer in `gone`.
    pub(super) forgotten_index: u64,
    pub(super) sessions: OrdMap<LockSessionId, Arc<LockSession>>,
    /// Index at which a session was last created or ended.
    pub(super) sessions_index: u64,
    pub(super) delays: OrdMap<LockSessionId, Arc<LockDelay>>,
    /// The keys that each session holds. It follows from `entries`.
    held: OrdMap<LockSessionId, OrdSet<KvKey>>,
    /// The sessions that each instance can end. It follows from `sessions`.
    bound: OrdMap<InstanceKey, OrdSet<LockSessionId>>,
    /// The keys that cannot be locked yet. It follows from `delays`.
    delayed: OrdMap<KvKey, LockSessionId>,
}

/// What is equal for all operations of a transaction.
pub(super) struct KvStep<'a> {
    /// The index of the change.
    pub(super) index: u64,
    pub(super) time_ms: u64,
    pub(super) user: &'a str,
    pub(super) keys_max: u64,
    pub(super) len_max: u64,
}

/// Why an operation failed.
pub(super) enum KvFailure {
    /// A condition does not hold.
    Refused(KvRefusal),
    /// A limit is reached.
    Limit(LimitExceeded),
}

impl From<KvRefusal> for KvFailure {
    fn from(refusal: KvRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The result of an operation: what is known about the key afterwards, and the change.
pub(super) type Done = (Option<KvMeta>, Option<KvChange>);

impl KvState {
    /// All keys, in the order of their bytes.
    #[must_use]
    pub fn entries(&self) -> &OrdMap<KvKey, Arc<KvEntry>> {
        &self.entries
    }

    /// One key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Arc<KvEntry>> {
        self.entries.get(key)
    }

    /// The keys that begin with `prefix`, in order, from the one after `after` if that is set.
    pub fn below<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<KvEntry>> {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let from = self.entries.range::<_, str>((begin, Bound::Unbounded));
        let entries = from.map(|(_, entry)| entry);
        entries.take_while(move |entry| entry.key.as_str().starts_with(prefix))
    }

    /// The size of all keys and values, in bytes.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.len
    }

    /// The index of the last change to a key, its deletion included. A change to another key does not raise it, except
    /// that old deletions are forgotten many at a time.
    #[must_use]
    pub fn index_of(&self, key: &str) -> u64 {
        let present = self.entries.get(key).map(|entry| entry.meta.modify_index);
        let gone = || self.gone.get(key).copied();
        present.or_else(gone).unwrap_or(self.forgotten_index)
    }

    /// The index of the last change to the keys that begin with `prefix`, deletions included. Reads all of these keys.
    #[must_use]
    pub fn index_below(&self, prefix: &str) -> u64 {
        let present = self.below(prefix, None).map(|entry| entry.meta.modify_index).max();
        let gone = self.gone.range::<_, str>((Bound::Included(prefix), Bound::Unbounded));
        let gone = gone.take_while(|(key, _)| key.as_str().starts_with(prefix));
        let gone = gone.map(|(_, index)| *index).max();
        present.max(gone).unwrap_or(0).max(self.forgotten_index)
    }

    /// The index up to which deletions are forgotten. The index of every prefix is at least that.
    #[must_use]
    pub fn forgotten_index(&self) -> u64 {
        self.forgotten_index
    }

    /// All lock sessions.
    #[must_use]
    pub fn sessions(&self) -> &OrdMap<LockSessionId, Arc<LockSession>> {
        &self.sessions
    }

    /// One lock session.
    #[must_use]
    pub fn session(&self, id: LockSessionId) -> Option<&Arc<LockSession>> {
        self.sessions.get(&id)
    }

    /// Index at which a lock session was last created or ended.
    #[must_use]
    pub fn sessions_index(&self) -> u64 {
        self.sessions_index
    }

    /// The keys that a session holds, in order.
    pub fn held_by(&self, session: LockSessionId) -> impl Iterator<Item = &KvKey> {
        self.held.get(&session).into_iter().flatten()
    }

    /// The lock delays that are not over.
    #[must_use]
    pub fn delays(&self) -> &OrdMap<LockSessionId, Arc<LockDelay>> {
        &self.delays
    }

    /// Whether a key cannot be locked yet, because a session that held it ended.
    #[must_use]
    pub fn is_delayed(&self, key: &str) -> bool {
        self.delayed.contains_key(key)
    }

    /// The sessions that an instance can end.
    pub(super) fn bound_to(&self, instance: &InstanceKey) -> Vec<LockSessionId> {
        self.bound.get(instance).into_iter().flatten().copied().collect()
    }

    pub(super) fn has_bound(&self) -> bool {
        !self.bound.is_empty()
    }

    // --- operations --------------------------------------------------------------------------

    pub(super) fn carry_out(&mut self, step: &KvStep<'_>, op: &KvOp) -> Result<Done, KvFailure> {
        let KvOp { key, action } = op;
        let present = self.entries.get(key).cloned();
        let meta = present.as_ref().map(|entry| entry.meta);
        match action {
            KvAction::Put { content, expected } => {
                check_index(*expected, meta)?;
                self.put(step, key, present.as_deref(), Some(content), meta.unwrap_or_default())
            }
            KvAction::Lock { content, session } => {
                if !self.sessions.contains_key(session) {
                    return Err(KvRefusal::NoSession.into());
                }
                let meta = meta.unwrap_or_default();
                match meta.session {
                    Some(by) if by != *session => return Err(KvRefusal::Held { by }.into()),
                    None if self.delayed.contains_key(key) => {
                        return Err(KvRefusal::Delayed.into());
                    }
                    _ => {}
                }
                let takes = meta.session.is_none();
                if takes {
                    let held = self.held.get(session).map_or(0, OrdSet::len);
                    limits::check_count("locks", held + 1, limits::LOCKS_PER_SESSION_MAX)
                        .map_err(KvFailure::Limit)?;
                }
                // A count would begin again for a key that was deleted and made again.
                let lock_index = if takes { step.index } else { meta.lock_index };
                let meta = KvMeta { lock_index, session: Some(*session), ..meta };
                self.put(step, key, present.as_deref(), content.as_ref(), meta)
            }
            KvAction::Unlock { content, session } => {
                let meta = meta.filter(|meta| meta.session == Some(*session));
                let Some(meta) = meta else { return Err(KvRefusal::NotHeld.into()) };
                let meta = KvMeta { session: None, ..meta };
                self.put(step, key, present.as_deref(), content.as_ref(), meta)
            }
            KvAction::Delete { expected } => {
                if meta.is_none() {
                    return Ok((None, None));
                }
                check_index(*expected, meta)?;
                self.remove(key, step.index);
                Ok((None, Some(KvChange::Key(key.clone()))))
            }
            KvAction::DeleteTree => {
                let keys: Vec<KvKey> =
                    self.below(key.as_str(), None).map(|entry| entry.key.clone()).collect();
                keys.iter().for_each(|key| self.remove(key, step.index));
                Ok((None, (!keys.is_empty()).then(|| KvChange::Tree(key.clone()))))
            }
            KvAction::Get { .. }
            | KvAction::CheckIndex { .. }
            | KvAction::CheckSession { .. }
            | KvAction::CheckAbsent => {
                check_read(meta, action)?;
                Ok((meta, None))
            }
        }
    }

    /// Whether an operation that only reads would be carried out.
    pub fn check_read(&self, op: &KvOp) -> Result<(), KvRefusal> {
        debug_assert!(op.is_read());
        check_read(self.entries.get(&op.key).map(|entry| entry.meta), &op.action)
    }

    /// Stores a key. `None` as the content keeps the present one. Equal content with an equal lock changes nothing.
    fn put(
        &mut self,
        step: &KvStep<'_>,
        key: &KvKey,
        present: Option<&KvEntry>,
        content: Option<&KvContent>,
        meta: KvMeta,
    ) -> Result<Done, KvFailure> {
        let kept = present.map(|entry| &entry.content);
        let content = content.or(kept).cloned();
        let content = content.unwrap_or_else(|| KvContent { value: Default::default(), flags: 0 });
        if kept == Some(&content) && present.is_some_and(|entry| entry.meta == meta) {
            return Ok((Some(meta), None));
        }
        let (len_before, len) = (present.map_or(0, KvEntry::stored_len), stored_len(key, &content));
        self.check_room(step, present.is_none(), len_before, len)?;
        let create_index = present.map_or(step.index, |entry| entry.meta.create_index);
        let meta = KvMeta { create_index, modify_index: step.index, ..meta };
        let entry = KvEntry {
            key: key.clone(),
            content,
            meta,
            modified_at_ms: step.time_ms,
            modified_by: step.user.into(),
        };
        self.set_holder(key, present.and_then(|entry| entry.meta.session), meta.session);
        self.len = self.len - len_before + len;
        self.gone.remove(key);
        self.entries.insert(key.clone(), Arc::new(entry));
        Ok((Some(meta), Some(KvChange::Key(key.clone()))))
    }

    fn check_room(
        &self,
        step: &KvStep<'_>,
        is_new: bool,
        len_before: u64,
        len: u64,
    ) -> Result<(), KvFailure> {
        let refused = |field: &str, max: u64, got: Given| {
            let limit = Limit::AllKeys { max };
            Err(KvFailure::Limit(LimitExceeded::new(field, limit, got)))
        };
        let count = self.entries.len() as u64;
        if is_new && count >= step.keys_max {
            return refused("keys", step.keys_max, Given::Number(count + 1));
        }
        let total = self.len - len_before + len;
        if len > len_before && total > step.len_max {
            return refused("values", step.len_max, Given::Bytes(total));
        }
        Ok(())
    }

    fn set_holder(
        &mut self,
        key: &KvKey,
        before: Option<LockSessionId>,
        now: Option<LockSessionId>,
    ) {
        if before == now {
            return;
        }
        if let Some(before) = before
            && let Some(keys) = self.held.get_mut(&before)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.held.remove(&before);
            }
        }
        if let Some(now) = now {
            self.held.entry(now).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &KvKey, index: u64) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.len -= entry.stored_len();
        self.set_holder(key, entry.meta.session, None);
        self.gone.insert(key.clone(), index);
        if self.gone.len() > limits::KV_GONE_MAX {
            self.forget_older_half();
        }
    }

    /// Forgets the older half of the deletions. A reader who waits for a prefix wakes once without a change of it then,
    /// so this happens rarely.
    fn forget_older_half(&mut self) {
        let mut indexes: Vec<u64> = self.gone.values().copied().collect();
        let middle = indexes.len() / 2;
        let (_, middle, _) = indexes.select_nth_unstable(middle);
        let middle = *middle;
        self.gone = self
            .gone
            .iter()
            .filter(|(_, index)| **index > middle)
            .map(|(key, index)| (key.clone(), *index))
            .collect();
        self.forgotten_index = self.forgotten_index.max(middle);
    }

    // --- sessions ----------------------------------------------------------------------------

    pub(super) fn add_session(&mut self, session: LockSession) {
        for check in &session.spec.checks {
            self.bound.entry(check.instance.clone()).or_default().insert(session.id);
        }
        self.sessions_index = self.sessions_index.max(session.create_index);
        self.sessions.insert(session.id, Arc::new(session));
    }

    /// Ends a session: unlocks or deletes its keys. Returns the session and the changes.
    pub(super) fn end_session(
        &mut self,
        id: LockSessionId,
        step: &KvStep<'_>,
    ) -> Option<(Arc<LockSession>, Vec<KvChange>)> {
        let session = self.sessions.remove(&id)?;
        for check in &session.spec.checks {
            if let Some(sessions) = self.bound.get_mut(&check.instance) {
                sessions.remove(&id);
                if sessions.is_empty() {
                    self.bound.remove(&check.instance);
                }
            }
        }
        self.sessions_index = step.index;
        let keys: Vec<KvKey> = self.held.remove(&id).into_iter().flatten().collect();
        for key in &keys {
            match session.spec.behavior {
                LockBehavior::Delete => self.remove(key, step.index),
                LockBehavior::Release => {
                    let Some(entry) = self.entries.get_mut(key) else { continue };
                    let entry = Arc::make_mut(entry);
                    entry.meta.session = None;
                    entry.meta.modify_index = step.index;
                    entry.modified_at_ms = step.time_ms;
                    entry.modified_by = step.user.into();
                }
            }
        }
        let changes = keys.iter().cloned().map(KvChange::Key).collect();
        if session.spec.lock_delay_ms > 0 && !keys.is_empty() {
            self.add_delay(LockDelay {
                session: id,
                delay_ms: session.spec.lock_delay_ms,
                since_index: step.index,
                keys,
            });
        }
        Some((session, changes))
    }

    pub(super) fn add_delay(&mut self, delay: LockDelay) {
        for key in &delay.keys {
            self.delayed.insert(key.clone(), delay.session);
        }
        self.delays.insert(delay.session, Arc::new(delay));
    }

    /// Ends a lock delay. Returns whether there was one.
    pub(super) fn end_delay(&mut self, id: LockSessionId) -> bool {
        let Some(delay) = self.delays.remove(&id) else { return false };
        for key in &delay.keys {
            if self.delayed.get(key) == Some(&id) {
                self.delayed.remove(key);
            }
        }
        true
    }

    // --- snapshots ---------------------------------------------------------------------------

    /// Adds a key that a snapshot contains.
    pub(super) fn restore_entry(&mut self, entry: KvEntry) {
        self.len += entry.stored_len();
        self.set_holder(&entry.key, None, entry.meta.session);
        self.entries.insert(entry.key.clone(), Arc::new(entry));
    }
}

/// Checks the condition of an operation that only reads.
fn check_read(meta: Option<KvMeta>, action: &KvAction) -> Result<(), KvRefusal> {
    match action {
        KvAction::Get { must_exist: true } => meta.map(drop).ok_or(KvRefusal::Missing),
        KvAction::CheckIndex { index } => {
            check_index(Some(*index), Some(meta.ok_or(KvRefusal::Missing)?))
        }
        KvAction::CheckSession { session } => match meta.ok_or(KvRefusal::Missing)?.session {
            Some(holder) if holder == *session => Ok(()),
            _ => Err(KvRefusal::NotHeld),
        },
        KvAction::CheckAbsent => check_index(Some(0), meta),
        _ => Ok(()),
    }
}

fn check_index(expected: Option<u64>, meta: Option<KvMeta>) -> Result<(), KvRefusal> {
    let actual = meta.map_or(0, |meta| meta.modify_index);
    match expected {
        Some(expected) if expected != actual => Err(KvRefusal::Index { actual }),
        _ => Ok(()),
    }
}
