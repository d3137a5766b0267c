//! Carries out the commands about keys and lock sessions on the state.

use std::sync::Arc;

use super::apply::{Step, exists, not_found};
use super::audit::AuditOutcome;
use super::audit_action::AuditAction;
use super::check::{Check, CheckStatus};
use super::command::{ObjectKind, Rejection, Reply};
use super::control_state::ControlState;
use super::event::EventKind;
use super::instance::Instance;
use super::kv::KvOp;
use super::kv_state::{KvFailure, KvState, KvStep};
use super::limits::{self, Limit, LimitExceeded};
use super::lock_session::{
    LockSession, LockSessionCheck, LockSessionEnd, LockSessionId, LockSessionSpec,
};
use super::name::{InstanceKey, Name};

impl ControlState {
    /// Carries out a transaction: all operations, or none of them.
    pub(super) fn change_kv(
        &mut self,
        step: &mut Step<'_>,
        ops: &[KvOp],
    ) -> Result<Reply, Rejection> {
        KvOp::check_all(ops).map_err(Rejection::Limit)?;
        // A transaction is one change, whatever the number of its operations, and so it has one index.
        let mut kv = KvState::clone(&self.kv);
        let kv_step = self.kv_step(step, self.index);
        let mut results = Vec::with_capacity(ops.len());
        let (mut changes, mut audited) = (Vec::new(), Vec::new());
        for (at, op) in (0_u32..).zip(ops) {
            match kv.carry_out(&kv_step, op) {
                Ok((meta, change)) => {
                    results.push(meta);
                    if let Some(change) = change {
                        audited.push((op.audit_action(), change.key().to_string()));
                        changes.push(change);
                    }
                }
                Err(KvFailure::Refused(why)) => return Ok(Reply::KvRefused { at, why }),
                Err(KvFailure::Limit(limit)) => return Err(Rejection::Limit(limit)),
            }
        }
        if !changes.is_empty() {
            self.next_index(step);
            self.kv = Arc::new(kv);
            for (action, object) in audited {
                self.record(step.proposal, action, object, AuditOutcome::Success);
            }
            self.emit(step, EventKind::KvChanged { changes: changes.into() });
        }
        Ok(Reply::Kv(results))
    }

    pub(super) fn create_lock_session(
        &mut self,
        step: &mut Step<'_>,
        id: LockSessionId,
        spec: &LockSessionSpec,
    ) -> Result<Reply, Rejection> {
        spec.check().map_err(Rejection::Limit)?;
        if self.kv.session(id).is_some() || self.kv.delays.contains_key(&id) {
            return Err(exists(ObjectKind::LockSession, &id.to_string()));
        }
        let count = self.kv.sessions.len() + 1;
        limits::check_count("lock_sessions", count, limits::LOCK_SESSIONS_MAX)
            .map_err(Rejection::Limit)?;
        for check in &spec.checks {
            self.check_passes(check)?;
        }
        let index = self.next_index(step);
        let session = LockSession {
            id,
            spec: spec.clone(),
            create_index: index,
            created_at_ms: self.time_ms,
            created_by: step.proposal.actor.user.clone(),
        };
        let shown = Arc::new(session.clone());
        Arc::make_mut(&mut self.kv).add_session(session);
        let action = AuditAction::LockSessionCreate;
        self.record(step.proposal, action, object_of(&shown), AuditOutcome::Success);
        self.emit(step, EventKind::LockSessionCreated { session: shown });
        Ok(Reply::Revision(index))
    }

    /// Ends a session. `created` is the index of its creation, if the caller means only that one. Returns whether there
    /// was one.
    pub(super) fn end_lock_session(
        &mut self,
        step: &mut Step<'_>,
        id: LockSessionId,
        created: Option<u64>,
        cause: LockSessionEnd,
    ) -> bool {
        let present = self.kv.session(id);
        let is_meant =
            |session: &Arc<LockSession>| created.is_none_or(|c| c == session.create_index);
        if !present.is_some_and(is_meant) {
            return false;
        }
        let index = self.next_index(step);
        let kv_step = self.kv_step(step, index);
        let Some((session, changes)) = Arc::make_mut(&mut self.kv).end_session(id, &kv_step) else {
            return false;
        };
        let action = match cause {
            LockSessionEnd::Destroyed => AuditAction::LockSessionDestroy,
            LockSessionEnd::Expired => AuditAction::LockSessionExpire,
            LockSessionEnd::Check => AuditAction::LockSessionFail,
        };
        self.record(step.proposal, action, object_of(&session), AuditOutcome::Success);
        let delay = self.kv.delays.get(&id).cloned();
        let changes = changes.into();
        self.emit(step, EventKind::LockSessionEnded { session, cause, delay, changes });
        true
    }

    pub(super) fn end_lock_delay(&mut self, step: &mut Step<'_>, id: LockSessionId) -> bool {
        if !self.kv.delays.contains_key(&id) {
            return false;
        }
        self.next_index(step);
        let ended = Arc::make_mut(&mut self.kv).end_delay(id);
        self.emit(step, EventKind::LockDelayEnded { session: id });
        ended
    }

    /// Ends the sessions whose instance left, or whose check failed, by what this proposal changed. `from` is the
    /// number of events before it.
    pub(super) fn end_failed_lock_sessions(&mut self, step: &mut Step<'_>, from: usize) {
        if !self.kv.has_bound() {
            return;
        }
        let changed: Vec<InstanceKey> =
            step.events[from..].iter().filter_map(|event| event.kind.instance()).cloned().collect();
        for key in changed {
            for id in self.kv.bound_to(&key) {
                let Some(session) = self.kv.session(id) else { continue };
                let mut checks = session.spec.checks.iter();
                if checks.any(|check| self.check_passes(check).is_err()) {
                    self.end_lock_session(step, id, None, LockSessionEnd::Check);
                }
            }
        }
    }

    /// Refuses a check that would end a session.
    fn check_passes(&self, check: &LockSessionCheck) -> Result<(), Rejection> {
        let LockSessionCheck { instance: key, check } = check;
        let Some(instance) = self.instance(key) else {
            return Err(not_found(ObjectKind::Instance, &key.to_string()));
        };
        let Some(check) = check else { return Ok(()) };
        match status_of(instance, check) {
            None => Err(not_found(ObjectKind::Check, &format!("{key}/{check}"))),
            Some(CheckStatus::Critical) => {
                let limit = LimitExceeded::new("checks", Limit::NotCritical, check.as_str());
                Err(Rejection::Limit(limit))
            }
            Some(CheckStatus::Unknown | CheckStatus::Passing | CheckStatus::Warning) => Ok(()),
        }
    }

    fn kv_step<'a>(&self, step: &Step<'a>, index: u64) -> KvStep<'a> {
        let config = &self.config.config;
        KvStep {
            index,
            time_ms: self.time_ms,
            user: &step.proposal.actor.user,
            keys_max: config.kv_keys_max.unwrap_or(limits::KV_KEYS_MAX_DEFAULT),
            len_max: config.kv_len_max.unwrap_or(limits::KV_LEN_MAX_DEFAULT),
        }
    }
}

/// The status of a check of an instance; `None` if there is no such check.
fn status_of(instance: &Instance, check: &Name) -> Option<CheckStatus> {
    if let Some(state) = instance.reported_checks().iter().find(|state| state.id == *check) {
        return Some(state.status);
    }
    // A policy can ask for a probe too, so every instance may have one.
    let is_routable = instance.health().is_routable();
    let status = if is_routable { CheckStatus::Passing } else { CheckStatus::Critical };
    (check.as_str() == Check::PROBE).then_some(status)
}

/// A session in the audit log.
fn object_of(session: &LockSession) -> String {
    match &*session.spec.name {
        "" => session.id.to_string(),
        name => format!("{} ({name})", session.id),
    }
}

#[cfg(test)]
#[path = "kv_tests.rs"]
mod tests;
