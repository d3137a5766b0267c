//! The writes of the agent and of the catalog.
//!
//! A pass of a TTL check with the status that the check has already moves its deadline and does not enter the log.
//!
//! A client can send each write to another node. So a decision on what is registered is made on a copy that has every
//! write that was acknowledged before the request ([`Inner::current`]).

use std::time::Duration;

use http::StatusCode;

use super::answer::{self, Answer, Refusal};
use super::body::Object;
use super::check_body::{self, CheckBody};
use super::model::{CheckExtra, Extras, NodeExtra, own_metadata};
use super::options::{check_datacenter_name, namespace};
use super::parts::Inner;
use super::read::CONFIRM_TIMEOUT;
use super::request::Asked;
use super::service_body::{Made, ServiceBody};
use super::text::boolean;
use maxine_actors::registry::OwnReport;
use maxine_actors::{WriteError, WriteRequest};
use maxine_state::limits::{
    CHECK_OUTPUT_LEN_MAX, OPEN_PROBE_TIMEOUT_MS_MAX, TEXT_LEN_MAX, check_text,
};
use maxine_state::{
    Address, Applied, Check, CheckKind, CheckReport, CheckState, CheckStatus, Command,
    Deregistration, Instance, InstanceKey, Name, ObjectKind, Registration, Rejection, ServiceKey,
};
use maxine_store::Consistency;

const UNKNOWN_SERVICE: &str = "Ensure that the service ID is passed, not the service name.";
const UNKNOWN_CHECK: &str = "Ensure that the check ID is passed, not the check name.";

/// How often a registration is written, if other nodes of Maxine remove it at the same time.
const REPLACE_ATTEMPTS_MAX: usize = 4;

/// Shortens the time limit of a probe to what a caller without a token may register. Consul's default is longer.
fn shorten_probe(registration: &mut Registration) {
    for check in &mut registration.checks {
        if let CheckKind::Probe(spec) = &mut check.kind {
            spec.timeout_ms = spec.timeout_ms.min(OPEN_PROBE_TIMEOUT_MS_MAX);
        }
    }
}

fn unknown_service(id: &str) -> Refusal {
    Refusal::not_found(format!("Unknown service ID {id:?}. {UNKNOWN_SERVICE}"))
}

fn unknown_check(id: &str) -> Refusal {
    Refusal::not_found(format!("Unknown check ID {id:?}. {UNKNOWN_CHECK}"))
}

/// A status that the owner of a check reports, from the route or from a body.
pub(crate) enum Reported {
    Passing,
    Warning,
    Critical,
    InBody,
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        // Clients of Consul send a request again after 500, and after nothing else.
        let status = match &error {
            WriteError::Rejected { rejection, .. } => match rejection {
                Rejection::NotFound { .. } => StatusCode::NOT_FOUND,
                Rejection::StaleFence { .. } | Rejection::FenceMissing => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
                _ => StatusCode::BAD_REQUEST,
            },
            WriteError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            WriteError::AddressOverloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let text = match &error {
            // These causes are logged on the node. Clients must not see them.
            WriteError::Storage(_) => {
                "the outcome is unknown: the storage of this node failed".to_owned()
            }
            WriteError::OutcomeUnknown { .. } => {
                "the outcome is unknown: there was no answer in time".to_owned()
            }
            WriteError::Refused(_) => {
                "nothing was written: the leader does not accept this kind of write from this node"
                    .to_owned()
            }
            _ => error.to_string(),
        };
        Self::new(status, text)
    }
}

impl Inner {
    /// Waits until this node's copy has every write that was acknowledged before now, on any node.
    pub(crate) async fn current(&self, asked: &Asked) -> Result<(), Refusal> {
        let left = asked
            .answer_by_ms
            .map(|by_ms| Duration::from_millis(by_ms.saturating_sub(self.clock.monotonic_ms())));
        let timeout = left.map_or(CONFIRM_TIMEOUT, |left| left.min(CONFIRM_TIMEOUT));
        let confirmed = self.store.barrier(Consistency::Strong, timeout);
        match tokio::time::timeout(timeout, confirmed).await {
            Ok(Ok(())) => {}
            _ => {
                let text = "nothing was written: no leader confirms what is registered";
                return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
            }
        }
        self.tables.caught_up(&self.view).await;
        Ok(())
    }

    pub(crate) async fn propose(
        &self,
        asked: &Asked,
        command: Command,
    ) -> Result<Applied, Refusal> {
        let request = WriteRequest {
            actor: asked.actor.clone(),
            request_id: None,
            fence: None,
            answer_by_ms: asked.answer_by_ms,
            command,
        };
        Ok(self.registry.propose(request).await?)
    }

    /// Returns the index that tells this registration of the instance from others.
    async fn write(
        &self,
        asked: &Asked,
        service: ServiceKey,
        mut registration: Registration,
    ) -> Result<u64, Refusal> {
        if !asked.is_known {
            shorten_probe(&mut registration);
        }
        let key = service.instance(registration.id.clone());
        if let Some((status, text)) = asked.guard.refusal(&key, &registration) {
            return Err(Refusal::new(status, text));
        }
        let items = vec![(service, registration)];
        let actor = asked.actor.clone();
        let (_, results) = self.registry.register(actor, None, asked.answer_by_ms, items).await?;
        match results.into_iter().next() {
            Some(Ok(lease_epoch)) => Ok(lease_epoch),
            Some(Err(rejection)) => {
                let index = self.view.index();
                Err(WriteError::Rejected { rejection, index }.into())
            }
            None => Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the registration has no reply",
            )),
        }
    }

    async fn remove(&self, asked: &Asked, keys: Vec<InstanceKey>) -> Result<(), Refusal> {
        if keys.is_empty() {
            return Ok(());
        }
        let item = |key| Deregistration { key, lease_epoch: None, forget_drain: false };
        let items = keys.into_iter().map(item).collect();
        self.propose(asked, Command::Deregister { items }).await.map(drop)
    }

    /// Writes the registration of the service with this id on a node, and removes the instances with the same id that
    /// it replaces: those under another name. The log has no command for both, and another node of Maxine may accept
    /// another name at the same time. So each removal names the registration that it is meant for, and the latest one
    /// stays. If two nodes removed the registrations of each other, one of them writes its own again.
    async fn replace(
        &self,
        asked: &Asked,
        (node, id): (&str, &str),
        service: ServiceKey,
        registration: Registration,
    ) -> Result<(), Refusal> {
        let key = service.instance(registration.id.clone());
        for _ in 0..REPLACE_ATTEMPTS_MAX {
            let before = self.others(&key, node, id);
            let lease_epoch = self.write(asked, service.clone(), registration.clone()).await?;
            self.tables.caught_up(&self.view).await;
            let mut replaced = self.others(&key, node, id);
            replaced.retain(|other| other.1 < lease_epoch || before.contains(other));
            if replaced.is_empty() {
                return Ok(());
            }
            let item = |(key, lease_epoch)| Deregistration {
                key,
                lease_epoch: Some(lease_epoch),
                forget_drain: false,
            };
            let items = replaced.into_iter().map(item).collect();
            self.propose(asked, Command::Deregister { items }).await?;
            // If another node replaced this one at the same time, its own stays.
            self.tables.caught_up(&self.view).await;
            if self.instance(&key).is_some() || !self.others(&key, node, id).is_empty() {
                return Ok(());
            }
        }
        let text = format!("other requests are removing {id:?} at the same time");
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    }

    /// The instances with this id on a node apart from `key`, each with the index that tells its registrations apart.
    fn others(&self, key: &InstanceKey, node: &str, id: &str) -> Vec<(InstanceKey, u64)> {
        let mut all = self.tables.find(&key.service.namespace, node, id);
        all.retain(|other| other != key);
        let with_epoch = |key: InstanceKey| {
            let lease_epoch = self.instance(&key)?.lease_epoch;
            Some((key, lease_epoch))
        };
        all.into_iter().filter_map(with_epoch).collect()
    }

    fn instance(&self, key: &InstanceKey) -> Option<Instance> {
        self.view.snapshot().state.instance(key).map(|instance| Instance::clone(instance))
    }

    pub(crate) async fn register_service(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let replaces = query.all("replace-existing-checks").next();
        let replaces =
            replaces.is_some_and(|value| value.is_empty() || boolean(value) == Some(true));
        let body = ServiceBody::of_agent(Object::parse(&asked.body)?)?;
        let namespace = namespace(&query, &body.namespaces())?;
        check_datacenter_name(&body.datacenter, &self.names)?;
        let _changing = self.changing(&body.id).await;
        self.current(asked).await?;
        let (node, id) = (self.names.node.as_str(), body.id.clone());
        let before = self.registered(&namespace, (node, &id), &body.name);
        let client = asked.client.to_string();
        let address = body.address(&client)?;
        let present = before.as_ref().map(|(_, instance)| instance);
        let kept = match replaces {
            true => Vec::new(),
            false => kept_checks(asked, &body, present, &address)?,
        };
        let made = body.into_registration(None, None, &client, kept)?;
        let Made { service, mut registration, checks, .. } = made;
        self.check_ids(&namespace, (node, &id), &checks)?;
        let service = ServiceKey::new(namespace, service);
        let key = service.instance(registration.id.clone());
        let is_renamed = before.as_ref().is_some_and(|(before, _)| *before != key);
        keep_states(&mut registration, present, is_renamed, &[]);
        self.replace(asked, (node, &id), service, registration).await?;
        Ok(answer::done())
    }

    /// The instance that is the service with this id on a node now. If there are several, that under this name.
    fn registered(
        &self,
        namespace: &Name,
        (node, id): (&str, &str),
        name: &str,
    ) -> Option<(InstanceKey, Instance)> {
        let mut all = self.tables.find(namespace, node, id);
        all.sort_by_key(|key| key.service.service.as_str() != name);
        all.into_iter().find_map(|key| {
            let instance = self.instance(&key)?;
            Some((key, instance))
        })
    }

    /// Refuses ids of checks that belong to another service of the node than the one with this id.
    fn check_ids(
        &self,
        namespace: &Name,
        (node, id): (&str, &str),
        checks: &[CheckExtra],
    ) -> Result<(), Refusal> {
        for check in checks {
            for owner in self.tables.find_check(namespace, node, &check.id) {
                let Some(Instance { registration, .. }) = self.instance(&owner) else { continue };
                let extras = Extras::of(&registration);
                let owner = extras.id(&registration);
                if owner != id {
                    let text = format!(
                        "Invalid check: the CheckID {:?} belongs to the service {owner:?}",
                        check.id
                    );
                    return Err(Refusal::bad(text));
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn deregister_service(
        &self,
        asked: &Asked,
        id: &str,
    ) -> Result<Answer, Refusal> {
        let namespace = namespace(&self.query(asked)?, &[])?;
        let _changing = self.changing(id).await;
        self.current(asked).await?;
        let keys = self.tables.find(&namespace, &self.names.node, id);
        if keys.is_empty() {
            return Err(unknown_service(id));
        }
        self.remove(asked, keys).await?;
        Ok(answer::done())
    }

    pub(crate) async fn maintain_service(
        &self,
        asked: &Asked,
        id: &str,
    ) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let Some(enable) = query.get("enable") else {
            return Err(Refusal::bad("Missing value for enable"));
        };
        let enable = boolean(enable)
            .ok_or_else(|| Refusal::bad(format!("Invalid value for enable: {enable:?}")))?;
        let reason = query.get("reason").unwrap_or_default();
        check_text("reason", reason, 0, TEXT_LEN_MAX)?;
        let namespace = namespace(&query, &[])?;
        self.current(asked).await?;
        let key = self.agent_key(&namespace, id).await.ok_or_else(|| unknown_service(id))?;
        let reason = enable.then(|| reason.into());
        self.propose(asked, Command::SetDrain { key, reason }).await?;
        Ok(answer::done())
    }

    pub(crate) async fn register_check(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let body = CheckBody::of_agent(Object::parse(&asked.body)?)?;
        let namespace = namespace(&query, &[&body.namespace])?;
        if body.name.is_empty() {
            return Err(Refusal::bad("Missing check name"));
        }
        if body.service_id.is_empty() {
            let text =
                "Invalid check: ServiceID must be set: there are checks of services, not of nodes";
            return Err(Refusal::bad(text));
        }
        let _changing = self.changing(&body.service_id).await;
        let missing =
            || Refusal::not_found(format!("ServiceID {:?} does not exist", body.service_id));
        self.current(asked).await?;
        let key = self.agent_key(&namespace, &body.service_id).await;
        let key = key.ok_or_else(missing)?;
        let instance = self.instance(&key).ok_or_else(missing)?;
        let mut checks = checks_of(&instance.registration);
        let name = body.name.clone();
        let (check, extra) = body.into_check(name, instance.registration.address.parts())?;
        let is_other_probe = |old: &CheckExtra| extra.probe && old.probe && old.id != extra.id;
        if checks.iter().any(|(_, old)| is_other_probe(old)) {
            let why = "Invalid check: an instance has at most one HTTP, TCP or gRPC check";
            return Err(Refusal::bad(why));
        }
        checks.retain(|(_, old)| old.id != extra.id);
        checks.push((check, extra));
        self.write_checks(asked, &key, instance.registration, checks).await
    }

    pub(crate) async fn deregister_check(
        &self,
        asked: &Asked,
        id: &str,
    ) -> Result<Answer, Refusal> {
        let namespace = namespace(&self.query(asked)?, &[])?;
        let node = &self.names.node;
        self.current(asked).await?;
        let (_, Instance { registration, .. }) = self.check_owner(&namespace, node, id).await?;
        let _changing = self.changing(Extras::of(&registration).id(&registration)).await;
        // It may have been changed before this request had its turn.
        self.current(asked).await?;
        let (key, instance) = self.check_owner(&namespace, node, id).await?;
        let mut checks = checks_of(&instance.registration);
        checks.retain(|(_, extra)| extra.id != id);
        self.write_checks(asked, &key, instance.registration, checks).await
    }

    async fn write_checks(
        &self,
        asked: &Asked,
        key: &InstanceKey,
        mut registration: Registration,
        checks: Vec<(Check, CheckExtra)>,
    ) -> Result<Answer, Refusal> {
        let (checks, extra): (Vec<Check>, Vec<CheckExtra>) = checks.into_iter().unzip();
        let extras = Extras { checks: extra, ..Extras::of(&registration) };
        registration.metadata = extras.metadata(own_metadata(&registration))?;
        registration.checks = checks.into();
        let registration = registration.normalised();
        registration.check()?;
        let place = (self.names.node.as_str(), extras.id(&registration));
        self.check_ids(&key.service.namespace, place, &extras.checks)?;
        self.write(asked, key.service.clone(), registration).await?;
        Ok(answer::done())
    }

    /// The instance that has a check with this id on a node.
    async fn check_owner(
        &self,
        namespace: &Name,
        node: &str,
        id: &str,
    ) -> Result<(InstanceKey, Instance), Refusal> {
        self.tables.caught_up(&self.view).await;
        let mut keys = self.tables.find_check(namespace, node, id).into_iter();
        let found = keys.find_map(|key| self.instance(&key).map(|instance| (key, instance)));
        found.ok_or_else(|| unknown_check(id))
    }

    /// The instance that has a check with this id in Consul on a node, and the check's id in Maxine.
    pub(crate) async fn check_on_node(
        &self,
        namespace: &Name,
        node: &str,
        id: &str,
    ) -> Option<(InstanceKey, Name)> {
        let (key, instance) = self.check_owner(namespace, node, id).await.ok()?;
        let checks = checks_of(&instance.registration);
        let (check, _) = checks.into_iter().find(|(_, extra)| extra.id == id)?;
        Some((key, check.id))
    }

    pub(crate) async fn report_check(
        &self,
        asked: &Asked,
        id: &str,
        reported: Reported,
    ) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let namespace = namespace(&query, &[])?;
        let note = query.get("note").unwrap_or_default().to_owned();
        let (status, output) = match reported {
            Reported::Passing => (CheckStatus::Passing, note),
            Reported::Warning => (CheckStatus::Warning, note),
            Reported::Critical => (CheckStatus::Critical, note),
            Reported::InBody => {
                let mut body = Object::parse(&asked.body)?;
                let (status, output) = (body.text("Status")?, body.text("Output")?);
                body.finish()?;
                let known = check_body::status(&status)?;
                (known.ok_or_else(|| Refusal::bad("Invalid check status: \"\""))?, output)
            }
        };
        let (key, present) = match self.own_check(&namespace, id).await {
            Ok(found) => found,
            Err(_) => {
                self.current(asked).await?;
                self.own_check(&namespace, id).await?
            }
        };
        // Only a change of the status is written. A client whose note differs each time would otherwise write to the
        // log with each pass.
        let output = match present.status == status && !present.is_expired() {
            true => present.output.clone(),
            false => printable(&output).into(),
        };
        let report = CheckReport { status, output };
        self.report(asked, key, present.id.clone(), report).await.map_err(|error| match error {
            // It was deregistered in the meantime.
            WriteError::Rejected {
                rejection:
                    Rejection::NotFound { kind: ObjectKind::Instance | ObjectKind::Check, .. },
                ..
            } => unknown_check(id),
            error => error.into(),
        })?;
        Ok(answer::done())
    }

    /// The instance and the TTL check with this id on the agent's node, as this node knows them.
    async fn own_check(
        &self,
        namespace: &Name,
        id: &str,
    ) -> Result<(InstanceKey, CheckState), Refusal> {
        let (key, instance) = self.check_owner(namespace, &self.names.node, id).await?;
        let reported = instance.reported_checks().iter().find(|check| check.id.as_str() == id);
        let Some(present) = reported else {
            let text = format!("CheckID {id:?} does not have associated TTL");
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        };
        Ok((key, present.clone()))
    }

    async fn report(
        &self,
        asked: &Asked,
        key: InstanceKey,
        check: Name,
        report: CheckReport,
    ) -> Result<(), WriteError> {
        let report = OwnReport { key, check, lease_epoch: None, report };
        let actor = asked.actor.clone();
        self.registry.report_check(actor, None, asked.answer_by_ms, report).await.map(drop)
    }

    pub(crate) async fn catalog_register(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let mut body = Object::parse(&asked.body)?;
        let in_body = body.namespace()?;
        let node = body.text("Node")?;
        let address = body.text("Address")?;
        let skips_node = body.boolean("SkipNodeUpdate")?;
        let extra = NodeExtra {
            address,
            id: body.text("ID")?,
            tagged: body.map("TaggedAddresses")?.into_iter().collect(),
            meta: body.map("NodeMeta")?.into_iter().collect(),
        };
        let datacenter = body.text("Datacenter")?;
        let service = body.object("Service")?;
        let mut checks = body.objects("Checks")?;
        checks.extend(body.object("Check")?);
        body.finish()?;
        check_datacenter_name(&datacenter, &self.names)?;
        if node.is_empty() {
            return Err(Refusal::bad("Must provide node"));
        }
        if extra.address.is_empty() && !skips_node {
            return Err(Refusal::bad("Must provide address if SkipNodeUpdate is not set"));
        }
        let Some(service) = service else {
            let text = "a node without a service cannot be registered: send Service, with its checks beside it";
            return Err(Refusal::bad(text));
        };
        let checks: Result<Vec<CheckBody>, Refusal> =
            checks.into_iter().map(CheckBody::of_catalog).collect();
        let checks = checks?;
        let body = ServiceBody::of_catalog(service, checks)?;
        body.check_places(&node)?;
        let namespace = {
            let mut named = body.namespaces();
            named.push(&in_body);
            namespace(&query, &named)?
        };
        check_datacenter_name(&body.datacenter, &self.names)?;
        let node = Name::parse("Node", &node)?;
        let client = asked.client.to_string();
        let _changing = self.changing(&body.id).await;
        self.current(asked).await?;
        // On the agent's node, it is a registration of the agent.
        let (other_node, extra) = match self.names.is_own_node(node.as_str()) {
            true => (None, extra),
            false => {
                let (node, extra) = self.node_of_catalog(&namespace, node, extra)?;
                (Some(node), extra)
            }
        };
        let node = other_node.clone().unwrap_or_else(|| Name::trusted(&self.names.node));
        let id = body.id.clone();
        let place = (node.as_str(), id.as_str());
        let before = self.registered(&namespace, place, &body.name);
        let present = before.as_ref().map(|(_, instance)| instance);
        let of_node = if extra.address.is_empty() { &client } else { &extra.address };
        let kept = kept_checks(asked, &body, present, &body.address(of_node)?)?;
        let extra = Some(extra).filter(|extra| *extra != NodeExtra::default());
        let made = body.into_registration(other_node, extra, &client, kept)?;
        let Made { service, mut registration, checks, states } = made;
        self.check_ids(&namespace, place, &checks)?;
        let service = ServiceKey::new(namespace, service);
        let key = service.instance(registration.id.clone());
        let is_renamed = before.as_ref().is_some_and(|(before, _)| *before != key);
        keep_states(&mut registration, present, is_renamed, &states);
        self.replace(asked, place, service, registration).await?;
        for (check, status, output) in states {
            let report = CheckReport { status, output: printable(&output).into() };
            self.report(asked, key.clone(), check, report).await?;
        }
        Ok(answer::json(StatusCode::OK, false, &true))
    }

    /// The node of a registration through the catalog, other than the agent's, as it is known already: its name is
    /// written as before, and without an address it keeps the one that it has.
    fn node_of_catalog(
        &self,
        namespace: &Name,
        node: Name,
        extra: NodeExtra,
    ) -> Result<(Name, NodeExtra), Refusal> {
        let on_node = self.tables.on_node(namespace, node.as_str());
        let present = on_node.iter().find_map(|key| self.instance(key));
        let present = present.map(|present| present.registration);
        let name = present.as_ref().and_then(|present| present.node.clone());
        if !extra.address.is_empty() {
            return Ok((name.unwrap_or(node), extra));
        }
        match (name, present.and_then(|present| Extras::of(&present).node)) {
            (Some(name), Some(known)) => Ok((name, known)),
            _ => {
                let text = format!("node {:?} is not registered: send its Address", node.as_str());
                Err(Refusal::bad(text))
            }
        }
    }

    pub(crate) async fn catalog_deregister(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let mut body = Object::parse(&asked.body)?;
        let namespace = namespace(&query, &[&body.namespace()?])?;
        let (node, service_id) = (body.text("Node")?, body.text("ServiceID")?);
        let check_id = body.text("CheckID")?;
        let datacenter = body.text("Datacenter")?;
        body.ignore("Address");
        body.finish()?;
        check_datacenter_name(&datacenter, &self.names)?;
        if node.is_empty() {
            return Err(Refusal::bad("Must provide node"));
        }
        if !check_id.is_empty() && service_id.is_empty() {
            let text = "a check cannot be deregistered through the catalog: register its service again without it";
            return Err(Refusal::bad(text));
        }
        if self.names.is_own_node(&node) && service_id.is_empty() {
            let text = format!(
                "{node:?} is the node of Maxine itself, and cannot be deregistered: send ServiceID"
            );
            return Err(Refusal::bad(text));
        }
        let _changing = match service_id.as_str() {
            "" => None,
            id => Some(self.changing(id).await),
        };
        self.current(asked).await?;
        // Without an id, the whole node: what was registered on it through this face.
        let keys = match service_id.as_str() {
            "" => self.tables.on_node(&namespace, &node),
            id => self.tables.find(&namespace, &node, id),
        };
        self.remove(asked, keys).await?;
        Ok(answer::json(StatusCode::OK, false, &true))
    }
}

/// The host and the port of an address.
fn place(address: &Address) -> (&str, Option<u16>) {
    let parts = address.parts();
    (parts.host, parts.port)
}

/// The checks of the present registration that a new one at this address does not replace. It keeps them.
fn kept_checks(
    asked: &Asked,
    body: &ServiceBody,
    present: Option<&Instance>,
    address: &Address,
) -> Result<Vec<(Check, CheckExtra)>, Refusal> {
    let Some(present) = present else { return Ok(Vec::new()) };
    let mut kept = checks_of(&present.registration);
    kept.retain(|(_, extra)| !body.replaces(extra));
    let moves = place(&present.registration.address) != place(address);
    let probe = kept.iter().find(|(_, extra)| extra.probe);
    match probe.filter(|_| moves && !asked.is_known) {
        // A probe may call a secret path, so a caller without a credential must not send it to another address. Without
        // the probe, an instance that fails would count as healthy.
        Some((_, extra)) => {
            let text = format!(
                "Permission denied: without a token, the check {:?} cannot go to another address: send a check in its \
                 place, or a token",
                extra.id
            );
            Err(Refusal::new(StatusCode::FORBIDDEN, text))
        }
        None => Ok(kept),
    }
}

/// Lets the checks of a registration at another address or under another name begin with the states that they have now.
/// Otherwise they would begin anew, which Consul's do not. A check for which the client sets a state begins with that.
fn keep_states(
    registration: &mut Registration,
    present: Option<&Instance>,
    is_renamed: bool,
    set: &[(Name, CheckStatus, String)],
) {
    let begins_anew =
        |present: &&Instance| is_renamed || present.registration.address != registration.address;
    let Some(present) = present.filter(begins_anew) else { return };
    let mut checks = registration.checks.to_vec();
    for check in &mut checks {
        let CheckKind::Ttl { initial, .. } = &mut check.kind else { continue };
        if set.iter().any(|(id, ..)| *id == check.id) {
            continue;
        }
        let mut reported = present.reported_checks().iter();
        if let Some(now) = reported.find(|now| now.id == check.id) {
            *initial = now.status;
        }
    }
    registration.checks = checks.into();
}

/// The checks of a registration, each with what is kept about it.
fn checks_of(registration: &Registration) -> Vec<(Check, CheckExtra)> {
    let extras = Extras::of(registration);
    let paired = registration.checks.iter().filter_map(|check| {
        let is_probe = matches!(check.kind, CheckKind::Probe(_));
        Some((check.clone(), extras.check(check.id.as_str(), is_probe)?.clone()))
    });
    paired.collect()
}

/// An output without control characters, cut to the maximum length.
fn printable(output: &str) -> String {
    let mut text: String = output.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.len() > CHECK_OUTPUT_LEN_MAX {
        let end = (0..=CHECK_OUTPUT_LEN_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text.trim().to_owned()
}
