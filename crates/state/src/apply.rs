//! Carries out commands on the state.
//!
//! Every backend calls [`ControlState::apply`] with each proposal, in the order of the log. **Invariant:** it
//! is deterministic. It refuses an invalid command alike on every replica. The proposer checks a command too,
//! but only to answer sooner.

use std::sync::Arc;

use super::audit::{AuditOutcome, AuditRecord};
use super::audit_action::AuditAction;
use super::audit_class::AuditClass;
use super::check::{CheckReport, CheckState, CheckStatus};
use super::command::{
    Applied, CheckExpiry, Command, Deregistration, Fence, HealthReport, ObjectKind, Proposal,
    Rejection, Reply,
};
use super::control_state::{ControlState, FormerGrant, Grant, ServiceState};
use super::dedup::Known;
use super::event::{Event, EventKind, RemovalCause};
use super::faults;
use super::health::{Health, Liveness, Readiness};
use super::identity::{EndedSession, Role, SigningKey, TokenRecord, User};
use super::instance::{Drain, Expiry, Instance, Registration};
use super::kv::KvOp;
use super::limits::{self, Given, Limit, LimitExceeded};
use super::lock_session::{LockSessionEnd, LockSessionId};
use super::name::{InstanceKey, Name, ServiceKey};
use super::policy::{PolicyRecord, ServicePolicy};
use super::runtime_config::{ConfigRecord, ConfigRevision, RuntimeConfig};

/// Maximum number of older signing keys that stay accepted.
const PREVIOUS_KEYS_MAX: u32 = 8;

impl ControlState {
    /// Applies one proposal and appends the changes to `events`.
    ///
    /// If the request id is remembered, nothing changes. The caller gets the first reply again, or a refusal
    /// if the command is a different one.
    pub fn apply(&mut self, proposal: &Proposal, events: &mut Vec<Event>) -> Applied {
        match self.dedup.get(proposal.request_id) {
            Some(Known::Repeat(first)) => return first.clone(),
            Some(Known::Other) => {
                let reply = Reply::Rejected(Rejection::RequestIdReused);
                return Applied { index: self.index, reply };
            }
            None => {}
        }
        self.time_ms = self.time_ms.max(proposal.proposed_at_ms);
        self.index += 1;
        let events_before = events.len();
        let mut step = Step { proposal, events, emitted: false };
        let reply = match self.check_fence(proposal) {
            Err(rejection) => Reply::Rejected(rejection),
            Ok(()) => self.dispatch(&mut step).unwrap_or_else(Reply::Rejected),
        };
        self.end_failed_lock_sessions(&mut step, events_before);
        if let Reply::Rejected(rejection) = &reply {
            let (action, object) = describe(&proposal.command);
            let why = Some(Box::new(rejection.clone()));
            self.record(proposal, action, object, AuditOutcome::Refused(why));
        }
        let applied = Applied { index: self.index, reply };
        let of_stranger = proposal.actor.user.is_empty();
        self.dedup.remember(proposal.request_id, of_stranger, self.time_ms, applied.clone());
        applied
    }

    fn check_fence(&self, proposal: &Proposal) -> Result<(), Rejection> {
        let current = self.grant.as_ref().map_or(0, |grant| grant.fence.0);
        match proposal.fence {
            None if proposal.command.is_leader_only() => Err(Rejection::FenceMissing),
            Some(Fence(got)) if got != current && !faults::skip_fencing() => {
                Err(Rejection::StaleFence { got, current })
            }
            _ => Ok(()),
        }
    }

    fn dispatch(&mut self, step: &mut Step<'_>) -> Result<Reply, Rejection> {
        let (needs, has) = (step.proposal.command.needs(), self.version());
        match &step.proposal.command {
            Command::RaiseStateVersion { to } => {
                let raises = *to > has;
                if raises {
                    self.next_index(step);
                    self.version_raised = *to - 1;
                    let (action, object) = describe(&step.proposal.command);
                    self.record(step.proposal, action, object, AuditOutcome::Success);
                }
                Ok(Reply::Changed(vec![raises]))
            }
            _ if needs > has => Err(Rejection::StateVersion { needs, has }),
            Command::Register { items } => {
                limits::check_count("items", items.len(), limits::BATCH_ITEMS_MAX)
                    .map_err(Rejection::Limit)?;
                let register = |(key, registration): &(ServiceKey, Registration)| {
                    self.register(step, key, registration).map_err(Box::new)
                };
                Ok(Reply::Registered(items.iter().map(register).collect()))
            }
            Command::Deregister { items } => {
                let each = |item: &Deregistration| self.deregister(step, item);
                Ok(Reply::Changed(items.iter().map(each).collect()))
            }
            Command::Expire { items } => {
                let each = |(key, registered_index): &(InstanceKey, u64)| {
                    let cause = RemovalCause::Expired;
                    let meant = |old: &Instance| old.registered_index == *registered_index;
                    self.remove(step, key, meant, cause, AuditAction::InstanceExpire)
                };
                Ok(Reply::Changed(items.iter().map(each).collect()))
            }
            Command::SetDrain { key, reason } => self.set_drain(step, key, reason.as_deref()),
            Command::ReportHealth { items } => {
                let each = |item: &HealthReport| self.report_health(step, item);
                Ok(Reply::Changed(items.iter().map(each).collect()))
            }
            Command::ReportCheck { key, check, lease_epoch, report } => {
                self.report_check(step, key, check, *lease_epoch, report)
            }
            Command::ExpireChecks { items } => {
                let each = |item: &CheckExpiry| self.expire_check(step, item);
                Ok(Reply::Changed(items.iter().map(each).collect()))
            }
            Command::PutPolicy { key, policy, expected_revision, create } => {
                self.put_policy(step, key, policy.as_deref(), *expected_revision, *create)
            }
            Command::PutConfig { config, expected_revision } => {
                self.put_config(step, config, *expected_revision)
            }
            Command::GrantLeadership { holder } => Ok(self.grant_leadership(step, holder)),
            Command::BeginHistory { before, history, line, signing_key } => {
                let begins = self.history == *before && *before != Some(*history);
                if begins {
                    self.rotate_key(step, signing_key, 0)?;
                    self.next_index(step);
                    (self.history, self.line) = (Some(*history), *line);
                    self.record(
                        step.proposal,
                        AuditAction::HistoryBegin,
                        history.to_string(),
                        AuditOutcome::Success,
                    );
                }
                Ok(Reply::Changed(vec![begins]))
            }
            Command::PutUser { .. } => self.put_user(step),
            Command::DeleteUser { name } => self.delete_user(step, name),
            Command::RotateSigningKey { key, keep_previous } => {
                self.rotate_key(step, key, *keep_previous)
            }
            Command::PutToken { token } => self.put_token(step, token),
            Command::DeleteToken { id } => self.delete_token(step, id),
            Command::IdentifyCluster { id } => self.identify_cluster(step, id),
            Command::EndSession { name, credential_version, session } => {
                Ok(self.end_session(step, name, *credential_version, *session))
            }
            Command::RecordAudit { items } => {
                for (action, object, success) in items {
                    let outcome =
                        if *success { AuditOutcome::Success } else { AuditOutcome::Refused(None) };
                    self.record(step.proposal, *action, object.to_string(), outcome);
                }
                Ok(Reply::Done)
            }
            Command::RecordUnknown { items } => {
                for (action, object) in items {
                    let object = object.to_string();
                    self.record(step.proposal, *action, object, AuditOutcome::Unknown);
                }
                Ok(Reply::Done)
            }
            Command::ExpireAudit { now_ms } => {
                // The smaller time counts, so that no record is dropped too early: the log's clock may be ahead
                // of the true time, and `now_ms` may be ahead of the log's clock.
                let left = self.audit.expire((*now_ms).min(self.time_ms));
                if left > 0 {
                    self.record(
                        step.proposal,
                        AuditAction::AuditExpire,
                        left.to_string(),
                        AuditOutcome::Success,
                    );
                }
                Ok(Reply::Done)
            }
            Command::ChangeKv { ops } => self.change_kv(step, ops),
            Command::CreateLockSession { id, spec } => self.create_lock_session(step, *id, spec),
            Command::EndLockSession { id } => {
                let ended = self.end_lock_session(step, *id, None, LockSessionEnd::Destroyed);
                Ok(Reply::Changed(vec![ended]))
            }
            Command::ExpireLockSessions { items } => {
                let each = |(id, created): &(LockSessionId, u64)| {
                    self.end_lock_session(step, *id, Some(*created), LockSessionEnd::Expired)
                };
                Ok(Reply::Changed(items.iter().map(each).collect()))
            }
            Command::EndLockDelays { items } => {
                let each = |id: &LockSessionId| self.end_lock_delay(step, *id);
                Ok(Reply::Changed(items.iter().map(each).collect()))
            }
            #[cfg(feature = "next")]
            Command::SetNote { note } => {
                limits::check_text("note", note, 0, limits::TEXT_LEN_MAX)
                    .map_err(Rejection::Limit)?;
                let revision = self.next_index(step);
                self.note.clone_from(note);
                let action = AuditAction::NoteSet;
                self.record(step.proposal, action, String::from("note"), AuditOutcome::Success);
                self.emit(step, EventKind::NoteChanged { note: note.clone() });
                Ok(Reply::Revision(revision))
            }
        }
    }

    // --- instances ---------------------------------------------------------------------------

    fn register(
        &mut self,
        step: &mut Step<'_>,
        key: &ServiceKey,
        registration: &Registration,
    ) -> Result<u64, Rejection> {
        let result = self.try_register(step, key, registration);
        if let Err(rejection) = &result {
            let object = format!("{key}/{}", registration.id);
            let why = Some(Box::new(rejection.clone()));
            self.record(
                step.proposal,
                AuditAction::InstanceRegister,
                object,
                AuditOutcome::Refused(why),
            );
        }
        result
    }

    fn try_register(
        &mut self,
        step: &mut Step<'_>,
        key: &ServiceKey,
        registration: &Registration,
    ) -> Result<u64, Rejection> {
        registration.check().map_err(Rejection::Limit)?;
        Name::parse_namespace(key.namespace.as_str()).map_err(Rejection::Limit)?;
        Name::parse("service", key.service.as_str()).map_err(Rejection::Limit)?;
        let service = self.services.get(key);
        if service.is_none() {
            limits::check_count("services", self.services.len() + 1, limits::SERVICES_MAX)
                .map_err(Rejection::Limit)?;
        }
        let existing = service.and_then(|service| service.instances.get(&registration.id));
        let len = service.map_or(0, |service| service.instances.len());
        if existing.is_none() {
            limits::check_count("instances", len + 1, limits::INSTANCES_PER_SERVICE_MAX)
                .map_err(Rejection::Limit)?;
        }
        let existing = existing.cloned();
        // An equal registration of a permanent instance changes nothing, because there is no lease to renew.
        if let Some(old) = existing.as_ref().filter(|old| old.registration == *registration)
            && registration.expiry == Expiry::Never
        {
            return Ok(old.lease_epoch);
        }
        let neighbour = service.and_then(|service| service.neighbour(&registration.id));
        let neighbour = neighbour.cloned();
        let len_before = existing.as_ref().map_or(0, |old| old.stored_len());
        let len = registration.stored_len() + kept_outputs_len(existing.as_deref(), registration);
        self.check_room(step, existing.is_none(), len_before, len)?;
        if existing.is_none() {
            self.instances_len += 1;
        }
        let index = self.next_index(step);
        // The comparison with the present registration must happen here. A node that is behind sends an equal
        // registration through the log too.
        let equal = existing.as_ref().filter(|old| old.registration == *registration);
        let instance = Arc::new(match equal {
            Some(old) => Instance { registered_index: index, ..Instance::clone(old) },
            None => {
                let mut registration = registration.clone();
                if let Some(neighbour) = neighbour {
                    registration.share_texts(&neighbour.registration);
                }
                Instance::replacing(existing.as_deref(), registration, index, self.time_ms)
            }
        });
        self.registrations_len = self.registrations_len - len_before + instance.stored_len();
        let lease_epoch = instance.lease_epoch;
        let changed = equal.is_none();
        let service = self.service_mut(key);
        if changed {
            service.modified_index = index;
        }
        service.instances.insert(registration.id.clone(), Arc::clone(&instance));
        // Leases and watchers keep the key of every instance. All instances of a service share the memory of
        // its names.
        let key = self.services.get_key_value(key).map_or(key, |(shared, _)| shared);
        let instance_key = key.instance(registration.id.clone());
        if changed {
            let object = instance_key.to_string();
            self.record(
                step.proposal,
                AuditAction::InstanceRegister,
                object,
                AuditOutcome::Success,
            );
        }
        // An equal registration is an event too, because the leader renews the lease when it sees the event.
        self.emit(step, EventKind::InstanceRegistered { key: instance_key, data: instance });
        Ok(lease_epoch)
    }

    /// Refuses a registration if the registry is full. A caller without a credential may use only a part of
    /// the room.
    fn check_room(
        &self,
        step: &Step<'_>,
        is_new: bool,
        len_before: u64,
        len: u64,
    ) -> Result<(), Rejection> {
        let is_open = step.proposal.actor.user.is_empty();
        let (instances_max, len_max) = if is_open {
            (limits::OPEN_INSTANCES_MAX, limits::OPEN_REGISTRATIONS_LEN_MAX)
        } else {
            (limits::INSTANCES_MAX, limits::REGISTRATIONS_LEN_MAX)
        };
        let refused = |field: &str, max: u64, got: Given| {
            let limit = Limit::WholeRegistry { max, is_open };
            Err(Rejection::Limit(LimitExceeded::new(field, limit, got)))
        };
        if is_new && self.instances_len >= instances_max {
            let got = Given::Number(self.instances_len as u64 + 1);
            return refused("instances", instances_max as u64, got);
        }
        let total = self.registrations_len - len_before + len;
        if len > len_before && total > len_max {
            return refused("registrations", len_max, Given::Bytes(total));
        }
        Ok(())
    }

    fn deregister(&mut self, step: &mut Step<'_>, item: &Deregistration) -> bool {
        let cause = RemovalCause::Deregistered;
        let meant = |old: &Instance| item.lease_epoch.is_none_or(|epoch| epoch == old.lease_epoch);
        let removed = self.remove(step, &item.key, meant, cause, AuditAction::InstanceDeregister);
        let drained = self
            .services
            .get(&item.key.service)
            .is_some_and(|service| service.drains.contains_key(&item.key.instance));
        if item.forget_drain && drained {
            let index = self.next_index(step);
            let service = self.service_mut(&item.key.service);
            service.drains.remove(&item.key.instance);
            service.modified_index = index;
            self.forget_if_empty(&item.key.service);
            self.emit(step, EventKind::DrainChanged { key: item.key.clone(), draining: false });
        }
        removed
    }

    fn remove(
        &mut self,
        step: &mut Step<'_>,
        key: &InstanceKey,
        meant: impl FnOnce(&Instance) -> bool,
        cause: RemovalCause,
        action: AuditAction,
    ) -> bool {
        let present = self
            .services
            .get(&key.service)
            .and_then(|service| service.instances.get(&key.instance))
            .filter(|old| meant(old));
        let Some(len) = present.map(|old| old.stored_len()) else { return false };
        let index = self.next_index(step);
        let service = self.service_mut(&key.service);
        service.instances.remove(&key.instance);
        service.modified_index = index;
        self.instances_len -= 1;
        self.registrations_len -= len;
        self.forget_if_empty(&key.service);
        self.record(step.proposal, action, key.to_string(), AuditOutcome::Success);
        self.emit(step, EventKind::InstanceRemoved { key: key.clone(), cause });
        true
    }

    fn set_drain(
        &mut self,
        step: &mut Step<'_>,
        key: &InstanceKey,
        reason: Option<&str>,
    ) -> Result<Reply, Rejection> {
        if let Some(reason) = reason {
            limits::check_text("reason", reason, 0, limits::TEXT_LEN_MAX)
                .map_err(Rejection::Limit)?;
        }
        let service = self.services.get(&key.service);
        let registered = service.is_some_and(|s| s.instances.contains_key(&key.instance));
        let drained = service.is_some_and(|s| s.drains.contains_key(&key.instance));
        if !registered && !drained {
            return Err(not_found(ObjectKind::Instance, &key.to_string()));
        }
        if drained == reason.is_some() {
            return Ok(Reply::Changed(vec![false]));
        }
        let since_ms = self.time_ms;
        let index = self.next_index(step);
        let service = self.service_mut(&key.service);
        service.modified_index = index;
        let action = match reason {
            Some(reason) => {
                let drain = Drain {
                    by: Name::trusted(&step.proposal.actor.user),
                    reason: reason.into(),
                    since_ms,
                };
                service.drains.insert(key.instance.clone(), Arc::new(drain));
                AuditAction::InstanceDrain
            }
            None => {
                service.drains.remove(&key.instance);
                AuditAction::InstanceUndrain
            }
        };
        self.forget_if_empty(&key.service);
        self.record(step.proposal, action, key.to_string(), AuditOutcome::Success);
        let draining = reason.is_some();
        self.emit(step, EventKind::DrainChanged { key: key.clone(), draining });
        Ok(Reply::Changed(vec![true]))
    }

    fn report_health(&mut self, step: &mut Step<'_>, item: &HealthReport) -> bool {
        let HealthReport { key, address_index, health } = item;
        let Some(old) = self
            .services
            .get(&key.service)
            .and_then(|service| service.instances.get(&key.instance))
            .filter(|old| old.address_index == *address_index)
        else {
            return false;
        };
        let since_ms = self.time_ms;
        let mut instance = Instance::clone(old);
        let index = self.next_index(step);
        let known = instance.known.get_or_insert_default();
        known.health = Health { since_ms, ..health.clone() };
        known.health_index = index;
        instance.modified_index = index;
        let instance = Arc::new(instance);
        let service = self.service_mut(&key.service);
        service.modified_index = index;
        service.instances.insert(key.instance.clone(), Arc::clone(&instance));
        let action = match (health.liveness, health.is_routable()) {
            (Liveness::Evicted, _) => AuditAction::HealthEvict,
            // The probe is gone, so its verdict no longer counts.
            (Liveness::Alive, true) if health.readiness == Readiness::Unknown => {
                AuditAction::HealthReset
            }
            (Liveness::Alive, true) => AuditAction::HealthPass,
            (Liveness::Alive, false) => AuditAction::HealthFail,
        };
        self.record(step.proposal, action, key.to_string(), AuditOutcome::Success);
        self.emit(step, EventKind::HealthChanged { key: key.clone(), data: instance });
        true
    }

    fn report_check(
        &mut self,
        step: &mut Step<'_>,
        key: &InstanceKey,
        check: &Name,
        lease_epoch: Option<u64>,
        report: &CheckReport,
    ) -> Result<Reply, Rejection> {
        report.check().map_err(Rejection::Limit)?;
        let instance = self.instance(key);
        let instance = instance.filter(|i| lease_epoch.is_none_or(|epoch| epoch == i.lease_epoch));
        let Some(old) = instance.cloned() else {
            return Err(not_found(ObjectKind::Instance, &key.to_string()));
        };
        let Some(at) = old.reported_checks().iter().position(|state| state.id == *check) else {
            return Err(not_found(ObjectKind::Check, &format!("{key}/{check}")));
        };
        let len_before = old.stored_len();
        let len = len_before - old.reported_checks()[at].output.len() as u64;
        self.check_room(step, false, len_before, len + report.output.len() as u64)?;
        Ok(Reply::Changed(vec![self.set_check(step, key, &old, at, report, true)]))
    }

    fn expire_check(&mut self, step: &mut Step<'_>, item: &CheckExpiry) -> bool {
        let Some(old) = self.instance(&item.key).cloned() else { return false };
        let meant = |state: &CheckState| {
            state.id == item.check
                && state.reported_index == item.reported_index
                && !state.is_expired()
        };
        let Some(at) = old.reported_checks().iter().position(meant) else { return false };
        let report = CheckReport { status: CheckStatus::Critical, output: item.output.clone() };
        report.check().is_ok() && self.set_check(step, &item.key, &old, at, &report, false)
    }

    /// Sets the state of the check at a position. Returns whether the state changed. An expiry always counts
    /// as a change.
    fn set_check(
        &mut self,
        step: &mut Step<'_>,
        key: &InstanceKey,
        old: &Instance,
        at: usize,
        report: &CheckReport,
        is_reported: bool,
    ) -> bool {
        let mut instance = Instance::clone(old);
        let time_ms = self.time_ms;
        let index = self.next_index(step);
        let Some(state) = instance.known.as_mut().and_then(|known| known.checks.get_mut(at)) else {
            return false;
        };
        let is_turn = state.status != report.status;
        let changed = !is_reported || !state.equals(report);
        if is_reported {
            state.reported_index = index;
        }
        if changed {
            (state.status, state.output) = (report.status, report.output.clone());
            state.modified_index = index;
            instance.modified_index = index;
        }
        if is_turn {
            state.since_ms = time_ms;
        }
        let check = state.id.clone();
        let (len_before, len) = (old.stored_len(), instance.stored_len());
        self.registrations_len = self.registrations_len - len_before + len;
        let instance = Arc::new(instance);
        let service = self.service_mut(&key.service);
        if changed {
            service.modified_index = index;
        }
        service.instances.insert(key.instance.clone(), Arc::clone(&instance));
        if is_turn {
            let action = check_action(report.status);
            self.record(step.proposal, action, format!("{key}/{check}"), AuditOutcome::Success);
        }
        self.emit(step, EventKind::CheckReported { key: key.clone(), check, data: instance });
        changed
    }

    // --- policies and configuration ----------------------------------------------------------

    fn put_policy(
        &mut self,
        step: &mut Step<'_>,
        key: &ServiceKey,
        policy: Option<&ServicePolicy>,
        expected_revision: Option<u64>,
        create: bool,
    ) -> Result<Reply, Rejection> {
        Name::parse_namespace(key.namespace.as_str()).map_err(Rejection::Limit)?;
        Name::parse("service", key.service.as_str()).map_err(Rejection::Limit)?;
        let service = self.services.get(key);
        let present = service.and_then(|service| service.policy.as_ref());
        check_revision(expected_revision, present.map_or(0, |record| record.revision))?;
        if policy.is_none() && present.is_none() {
            return Err(not_found(ObjectKind::Policy, &key.to_string()));
        }
        if service.is_none() && !create {
            return Err(not_found(ObjectKind::Service, &key.to_string()));
        }
        if service.is_none() {
            limits::check_count("services", self.services.len() + 1, limits::SERVICES_MAX)
                .map_err(Rejection::Limit)?;
        }
        policy.map_or(Ok(()), ServicePolicy::check).map_err(Rejection::Limit)?;
        let revision = self.next_index(step);
        let service = self.service_mut(key);
        service.modified_index = revision;
        let after =
            policy.map(|policy| Arc::new(PolicyRecord { revision, policy: policy.clone() }));
        let before = std::mem::replace(&mut service.policy, after.clone());
        self.forget_if_empty(key);
        self.record(step.proposal, AuditAction::PolicyPut, key.to_string(), AuditOutcome::Success);
        self.emit(step, EventKind::PolicyChanged { key: key.clone(), before, after });
        Ok(Reply::Revision(revision))
    }

    fn put_config(
        &mut self,
        step: &mut Step<'_>,
        config: &RuntimeConfig,
        expected_revision: Option<u64>,
    ) -> Result<Reply, Rejection> {
        check_revision(expected_revision, self.config.revision)?;
        config.check().map_err(Rejection::Limit)?;
        let revision = self.next_index(step);
        let user = step.proposal.actor.user.clone();
        let now = ConfigRevision { revision, time_ms: self.time_ms, user, config: config.clone() };
        self.config_history.replace(&self.config, now);
        self.config = Arc::new(ConfigRecord { revision, config: config.clone() });
        self.record(
            step.proposal,
            AuditAction::ConfigPut,
            String::from("config"),
            AuditOutcome::Success,
        );
        self.emit(step, EventKind::ConfigChanged { revision });
        Ok(Reply::Revision(revision))
    }

    // --- leadership --------------------------------------------------------------------------

    fn grant_leadership(&mut self, step: &mut Step<'_>, holder: &Name) -> Reply {
        let fence = Fence(self.next_index(step));
        let since_ms = self.time_ms;
        let former =
            |grant: &Arc<Grant>| FormerGrant { fence: grant.fence, holder: grant.holder.clone() };
        let before = self.grant.as_ref().map(former);
        self.grant = Some(Arc::new(Grant { fence, holder: holder.clone(), since_ms, before }));
        self.record(
            step.proposal,
            AuditAction::LeadershipGrant,
            holder.to_string(),
            AuditOutcome::Success,
        );
        self.emit(step, EventKind::LeadershipGranted { holder: holder.clone(), fence: fence.0 });
        Reply::Granted(fence)
    }

    // --- identities --------------------------------------------------------------------------

    fn put_user(&mut self, step: &mut Step<'_>) -> Result<Reply, Rejection> {
        let Command::PutUser { name, role, password_hash, managed, create_only, expected_version } =
            &step.proposal.command
        else {
            return Ok(Reply::Done);
        };
        limits::check_user_name("name", name.as_str()).map_err(Rejection::Limit)?;
        limits::check_text("password_hash", password_hash, 1, limits::TEXT_LEN_MAX)
            .map_err(Rejection::Limit)?;
        let users = &self.identities.users;
        let existing = users.get(name);
        if *create_only && existing.is_some() {
            return Err(exists(ObjectKind::User, name.as_str()));
        }
        let present = existing.map(|user| user.credential_version);
        check_revision(*expected_version, present.unwrap_or(0))?;
        if existing.is_some_and(|user| user.role == Role::Admin) && *role != Role::Admin {
            self.check_another_admin(name)?;
        }
        if existing.is_none() {
            limits::check_count("users", users.len() + 1, limits::USERS_MAX)
                .map_err(Rejection::Limit)?;
        }
        // The first admin begins at credential version 0, as clients of the Node.js Maxine expect. This
        // happens only once, because the last admin cannot be deleted. Every other user begins at the present
        // index. No earlier user of the same name can have reached it, because each version of theirs took an
        // index.
        let is_first = users.is_empty() && *role == Role::Admin;
        let first_version = if is_first { 0 } else { self.index };
        let user = User {
            name: name.clone(),
            role: *role,
            password_hash: password_hash.clone(),
            credential_version: present.map_or(first_version, |version| version + 1),
            managed: *managed,
            ended_sessions: Vec::new(),
        };
        let revision = user.credential_version;
        Arc::make_mut(&mut self.identities).users.insert(name.clone(), Arc::new(user));
        self.identity_changed(step, AuditAction::UserPut, name);
        Ok(Reply::Revision(revision))
    }

    fn delete_user(&mut self, step: &mut Step<'_>, name: &Name) -> Result<Reply, Rejection> {
        let users = &self.identities.users;
        let Some(user) = users.get(name) else {
            return Err(not_found(ObjectKind::User, name.as_str()));
        };
        if user.managed {
            return Err(Rejection::Managed(name.as_str().into()));
        }
        if user.role == Role::Admin {
            self.check_another_admin(name)?;
        }
        Arc::make_mut(&mut self.identities).users.remove(name);
        self.identity_changed(step, AuditAction::UserDelete, name);
        Ok(Reply::Done)
    }

    fn identify_cluster(&mut self, step: &mut Step<'_>, id: &Name) -> Result<Reply, Rejection> {
        if !self.identities.cluster.is_empty() {
            return Err(exists(ObjectKind::ClusterIdentity, &self.identities.cluster));
        }
        Arc::make_mut(&mut self.identities).cluster = id.as_str().into();
        self.identity_changed(step, AuditAction::ClusterIdentify, id);
        Ok(Reply::Done)
    }

    fn end_session(
        &mut self,
        step: &mut Step<'_>,
        name: &Name,
        credential_version: u64,
        session: EndedSession,
    ) -> Reply {
        let Some(user) = self.identities.users.get(name) else {
            return Reply::Changed(vec![false]);
        };
        let has_ended =
            user.credential_version != credential_version || user.ended_sessions.contains(&session);
        if has_ended {
            return Reply::Changed(vec![false]);
        }
        let mut user = User::clone(user);
        if user.ended_sessions.len() >= limits::ENDED_SESSIONS_MAX {
            let now_s = self.time_ms / 1_000;
            user.ended_sessions.retain(|ended| ended.expires_at_s > now_s);
        }
        if user.ended_sessions.len() >= limits::ENDED_SESSIONS_MAX {
            // An ended session must never become valid again. If there are too many to remember, all sessions
            // of the user end.
            user.credential_version += 1;
            user.ended_sessions.clear();
        } else {
            user.ended_sessions.push(session);
        }
        Arc::make_mut(&mut self.identities).users.insert(name.clone(), Arc::new(user));
        self.identity_changed(step, AuditAction::SessionDelete, name);
        Reply::Changed(vec![true])
    }

    /// Refuses a change that would leave no admin.
    fn check_another_admin(&self, but: &Name) -> Result<(), Rejection> {
        let mut users = self.identities.users.values();
        if users.any(|user| user.role == Role::Admin && user.name != *but) {
            return Ok(());
        }
        let limit = LimitExceeded::new("users", Limit::SomeAdmin, but.as_str());
        Err(Rejection::Limit(limit))
    }

    fn rotate_key(
        &mut self,
        step: &mut Step<'_>,
        key: &SigningKey,
        keep_previous: u32,
    ) -> Result<Reply, Rejection> {
        limits::check_range("keep_previous", keep_previous.into(), 0, PREVIOUS_KEYS_MAX.into())
            .map_err(Rejection::Limit)?;
        if !(32..=1_024).contains(&key.secret.len()) {
            let got = Given::Bytes(key.secret.len() as u64);
            let limit = LimitExceeded::new("secret", Limit::Length { min: 32, max: 1_024 }, got);
            return Err(Rejection::Limit(limit));
        }
        let keys = &self.identities.signing_keys;
        if keys.iter().any(|k| k.key_id == key.key_id) {
            return Err(exists(ObjectKind::SigningKey, key.key_id.as_str()));
        }
        let keys = &mut Arc::make_mut(&mut self.identities).signing_keys;
        keys.insert(0, key.clone());
        keys.truncate(1 + keep_previous as usize);
        self.identity_changed(step, AuditAction::SigningKeyRotate, &key.key_id);
        Ok(Reply::Done)
    }

    fn put_token(&mut self, step: &mut Step<'_>, token: &TokenRecord) -> Result<Reply, Rejection> {
        limits::check_name("id", token.id.as_str()).map_err(Rejection::Limit)?;
        limits::check_text("note", &token.note, 0, limits::TEXT_LEN_MAX)
            .map_err(Rejection::Limit)?;
        let tokens = &self.identities.tokens;
        if tokens.contains_key(&token.id) {
            return Err(exists(ObjectKind::Token, token.id.as_str()));
        }
        limits::check_count("tokens", tokens.len() + 1, limits::TOKENS_MAX)
            .map_err(Rejection::Limit)?;
        let identities = Arc::make_mut(&mut self.identities);
        identities.tokens.insert(token.id.clone(), Arc::new(token.clone()));
        self.identity_changed(step, AuditAction::TokenPut, &token.id);
        Ok(Reply::Done)
    }

    fn delete_token(&mut self, step: &mut Step<'_>, id: &Name) -> Result<Reply, Rejection> {
        if Arc::make_mut(&mut self.identities).tokens.remove(id).is_none() {
            return Err(not_found(ObjectKind::Token, id.as_str()));
        }
        self.identity_changed(step, AuditAction::TokenDelete, id);
        Ok(Reply::Done)
    }

    fn identity_changed(&mut self, step: &mut Step<'_>, action: AuditAction, subject: &Name) {
        self.next_index(step);
        self.record(step.proposal, action, subject.to_string(), AuditOutcome::Success);
        self.emit(step, EventKind::IdentityChanged { subject: subject.clone() });
    }

    // --- shared helpers ----------------------------------------------------------------------

    /// The index of the next change. The first change of a proposal has the proposal's own index, and each
    /// further change has one more.
    pub(super) fn next_index(&mut self, step: &mut Step<'_>) -> u64 {
        if step.emitted {
            self.index += 1;
        }
        step.emitted = true;
        self.index
    }

    pub(super) fn emit(&self, step: &mut Step<'_>, kind: EventKind) {
        step.events.push(Event { index: self.index, time_ms: self.time_ms, kind });
    }

    fn service_mut(&mut self, key: &ServiceKey) -> &mut ServiceState {
        let service = self.services.entry(key.clone()).or_default();
        Arc::make_mut(service)
    }

    fn forget_if_empty(&mut self, key: &ServiceKey) {
        if self.services.get(key).is_some_and(|service| service.is_empty()) {
            self.services.remove(key);
            self.service_gone_index = self.index;
        }
    }

    pub(super) fn record(
        &mut self,
        proposal: &Proposal,
        action: AuditAction,
        object: String,
        outcome: AuditOutcome,
    ) {
        let actor = &proposal.actor;
        if let AuditOutcome::Refused(Some(why)) = &outcome {
            debug_assert!(why.is_code(), "the field of {why} has no code: add it to `field`");
        }
        let record = AuditRecord {
            // `append` sets the class, the numbers and the hashes.
            seq: 0,
            class: AuditClass::Registrations,
            class_seq: 0,
            index: self.index,
            time_ms: self.time_ms,
            user: actor.user.clone(),
            address: actor.address.clone(),
            trace_id: actor.trace_id.clone(),
            via_node: actor.via_node,
            action,
            object: object.into(),
            outcome,
            previous: [0; 32],
            hash: [0; 32],
        };
        self.audit.append(record, self.version());
    }
}

/// The data of one proposal while it is applied.
pub(super) struct Step<'a> {
    pub(super) proposal: &'a Proposal,
    pub(super) events: &'a mut Vec<Event>,
    emitted: bool,
}

/// The size of the check outputs that a new registration keeps, in bytes.
fn kept_outputs_len(old: Option<&Instance>, registration: &Registration) -> u64 {
    let stays = old.filter(|old| old.registration.address == registration.address);
    let reported = stays.map_or(&[][..], |old| old.reported_checks());
    let is_kept = |state: &&CheckState| registration.checks.iter().any(|c| c.id == state.id);
    reported.iter().filter(is_kept).map(|state| state.output.len() as u64).sum()
}

/// The audit action for a check that changed to this status.
fn check_action(status: CheckStatus) -> AuditAction {
    match status {
        CheckStatus::Unknown => AuditAction::CheckUnknown,
        CheckStatus::Passing => AuditAction::CheckPass,
        CheckStatus::Warning => AuditAction::CheckWarn,
        CheckStatus::Critical => AuditAction::CheckFail,
    }
}

fn check_revision(expected: Option<u64>, actual: u64) -> Result<(), Rejection> {
    match expected {
        Some(expected) if expected != actual => {
            Err(Rejection::RevisionMismatch { expected, actual })
        }
        _ => Ok(()),
    }
}

pub(super) fn not_found(kind: ObjectKind, name: &str) -> Rejection {
    Rejection::NotFound { kind, name: name.into() }
}

pub(super) fn exists(kind: ObjectKind, name: &str) -> Rejection {
    Rejection::Exists { kind, name: name.into() }
}

/// The first key of a transaction.
fn first_key(ops: &[KvOp]) -> String {
    ops.first().map(|op| op.key.to_string()).unwrap_or_default()
}

/// The action and the object of a refused command, for the audit log.
fn describe(command: &Command) -> (AuditAction, String) {
    match command {
        Command::Register { .. } => (AuditAction::InstanceRegister, String::new()),
        Command::Deregister { .. } => (AuditAction::InstanceDeregister, String::new()),
        Command::Expire { .. } => (AuditAction::InstanceExpire, String::new()),
        Command::SetDrain { key, reason: Some(_) } => (AuditAction::InstanceDrain, key.to_string()),
        Command::SetDrain { key, reason: None } => (AuditAction::InstanceUndrain, key.to_string()),
        Command::ReportHealth { .. } => (AuditAction::HealthReport, String::new()),
        Command::PutPolicy { key, .. } => (AuditAction::PolicyPut, key.to_string()),
        Command::PutConfig { .. } => (AuditAction::ConfigPut, "config".into()),
        Command::GrantLeadership { holder } => (AuditAction::LeadershipGrant, holder.to_string()),
        Command::BeginHistory { history, .. } => (AuditAction::HistoryBegin, history.to_string()),
        Command::PutUser { name, .. } => (AuditAction::UserPut, name.to_string()),
        Command::DeleteUser { name } => (AuditAction::UserDelete, name.to_string()),
        Command::RotateSigningKey { key, .. } => {
            (AuditAction::SigningKeyRotate, key.key_id.to_string())
        }
        Command::PutToken { token } => (AuditAction::TokenPut, token.id.to_string()),
        Command::DeleteToken { id } => (AuditAction::TokenDelete, id.to_string()),
        Command::RecordAudit { .. } | Command::RecordUnknown { .. } => {
            (AuditAction::AuditRecord, String::new())
        }
        Command::ExpireAudit { .. } => (AuditAction::AuditExpire, String::new()),
        Command::IdentifyCluster { id } => (AuditAction::ClusterIdentify, id.to_string()),
        Command::EndSession { name, .. } => (AuditAction::SessionDelete, name.to_string()),
        Command::RaiseStateVersion { to } => {
            (AuditAction::ClusterRaiseStateVersion, to.to_string())
        }
        Command::ReportCheck { key, check, report, .. } => {
            (check_action(report.status), format!("{key}/{check}"))
        }
        Command::ExpireChecks { .. } => (AuditAction::CheckExpire, String::new()),
        Command::ChangeKv { ops } => match ops.as_slice() {
            [op] => (op.audit_action(), op.key.to_string()),
            ops => (AuditAction::KvTransaction, first_key(ops)),
        },
        Command::CreateLockSession { id, .. } => (AuditAction::LockSessionCreate, id.to_string()),
        Command::EndLockSession { id } => (AuditAction::LockSessionDestroy, id.to_string()),
        Command::ExpireLockSessions { .. } => (AuditAction::LockSessionExpire, String::new()),
        Command::EndLockDelays { .. } => (AuditAction::LockDelayEnd, String::new()),
        #[cfg(feature = "next")]
        Command::SetNote { .. } => (AuditAction::NoteSet, "note".into()),
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
