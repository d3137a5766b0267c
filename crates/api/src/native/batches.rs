//! Registrations and heartbeats of many instances in one request.
//!
//! **Invariant:** a batch of heartbeats is parsed in place and passed to the lease table as hashes. No names
//! are copied, and nothing is allocated per item except its position in one list.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{
    BATCH_BODY_LEN_MAX, JsonBody, NoParams, Params, RawJson, parse_json, service_key,
};
use super::fresh::{AnswerBy, Answered, Write};
use super::shape::{CheckBody, Metadata, RegistrationBody};
use crate::problem::Problem;
use crate::{AppState, CalledBy, Caller, RequestContext, reserved};
use maxine_control::leases::LeaseId;
use maxine_gateway::ClientAddr;
use maxine_state::limits::{BATCH_ITEMS_MAX, check_count};
use maxine_state::{
    ControlState, Expiry, Instance, Name, ProbeSpec, Registration, RuntimeConfig, Scheme,
    ServiceKey,
};

fn default_namespace<'a>() -> Cow<'a, str> {
    Cow::Borrowed(ServiceKey::DEFAULT_NAMESPACE)
}

/// One registration of a batch. The names and the other fields are on one level, because serde cannot refuse unknown
/// fields of flattened structs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRegistration {
    /// The namespace; by default `default`.
    #[serde(default = "default_namespace")]
    #[schema(value_type = Option<String>)]
    namespace: Cow<'static, str>,
    /// The service.
    #[schema(min_length = 1, max_length = 255)]
    service: String,
    /// The instance's name within the service.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// Address of the instance, as a URL. Either `address` or `host` is required.
    #[serde(default)]
    #[schema(example = "http://10.0.0.1:8080", min_length = 1, max_length = 2048)]
    address: Option<String>,
    /// How the instance is called; by default `http`.
    #[serde(default)]
    scheme: Option<Scheme>,
    /// A host name or an IP address, in place of `address`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2048)]
    host: Option<String>,
    /// The port. If it is left out, HTTP clients use the port of the scheme.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65535)]
    port: Option<u64>,
    /// Prefix of every path on the instance, such as `/api`.
    #[serde(default)]
    #[schema(max_length = 2048)]
    base_path: Option<String>,
    /// Share of the traffic, relative to the other instances; by default 1.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    weight: Option<u64>,
    /// Time after the last heartbeat at which the registration expires, in milliseconds.
    #[serde(default)]
    #[schema(minimum = 1000, maximum = 34_560_000_000_u64)]
    ttl_ms: Option<u64>,
    /// If true, the registration never expires: it has no `ttl_ms`, needs no heartbeats, and stays until it is
    /// deregistered.
    #[serde(default)]
    permanent: bool,
    /// The zone that the instance runs in.
    #[serde(default)]
    zone: Option<String>,
    /// The version that the instance runs.
    #[serde(default)]
    version: Option<String>,
    /// The name of the machine that the instance runs on.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    node: Option<String>,
    /// Labels, each of 1 to 1024 bytes. Their order and repeats are kept.
    #[serde(default)]
    #[schema(max_items = 64)]
    tags: Vec<String>,
    /// Metadata entries. Keys that begin with `consul-` belong to the API of Consul: they stay as they are, and a request
    /// cannot set them.
    #[serde(default)]
    metadata: Metadata,
    /// The probe of the instance, if it differs from that of the service's policy.
    #[serde(default)]
    probe: Option<ProbeSpec>,
    /// Checks that the instance's owner reports.
    #[serde(default)]
    #[schema(max_items = 16)]
    checks: Vec<CheckBody>,
}

impl BatchRegistration {
    fn check(
        self,
        state: &AppState,
        config: &RuntimeConfig,
        caller: &Caller,
        client: &ClientAddr,
    ) -> Result<(ServiceKey, Registration), Problem> {
        super::check_probe(caller, self.probe.as_ref())?;
        let key = service_key(&self.namespace, &self.service)?;
        let id = Name::parse("id", &self.id)?;
        let body = RegistrationBody {
            address: self.address,
            scheme: self.scheme,
            host: self.host,
            port: self.port,
            base_path: self.base_path,
            weight: self.weight,
            ttl_ms: self.ttl_ms,
            permanent: self.permanent,
            zone: self.zone,
            version: self.version,
            node: self.node,
            tags: self.tags,
            metadata: self.metadata,
            probe: self.probe,
            checks: self.checks,
        };
        let registration = body.into_registration(id, config)?;
        let registration = reserved::keep(&state.view().snapshot().state, &key, registration)?;
        super::check_target(state, &registration)?;
        state.count_registrant(caller, client, &key.instance(registration.id.clone()))?;
        Ok((key, registration))
    }
}

/// A batch of registrations.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrationBatch {
    /// The registrations, at most 1000.
    #[schema(max_items = 1000)]
    items: Vec<BatchRegistration>,
}

/// Outcome of one registration.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RegistrationResult {
    /// Number of the registration, for heartbeats and removals; null if it was refused.
    lease_epoch: Option<u64>,
    /// Why the registration was refused; null if it was accepted.
    problem: Option<Problem>,
}

/// Outcome of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RegistrationResults {
    /// The index at which this node's state has all accepted registrations.
    index: u64,
    /// One result for each item, in the order of the items.
    results: Vec<RegistrationResult>,
}

/// Registers up to 1000 instances. Each is accepted or refused separately.
#[utoipa::path(
    post, path = "/api/v1/registrations", tag = "instances", operation_id = "registerBatch",
    request_body = RegistrationBatch,
    responses((status = 200, body = RegistrationResults)),
)]
pub(super) async fn register_batch(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    JsonBody(batch): JsonBody<RegistrationBatch, BATCH_BODY_LEN_MAX>,
) -> Result<Json<RegistrationResults>, Problem> {
    check_count("items", batch.items.len(), BATCH_ITEMS_MAX)?;
    let config = state.view().snapshot().state.config().clone();
    let check =
        |item: BatchRegistration| item.check(&state, &config.config, &caller, &context.client);
    let checked: Vec<Result<_, Problem>> = batch.items.into_iter().map(check).collect();
    let good: Vec<(ServiceKey, Registration)> =
        checked.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
    let request_id = write.request_id();
    let Write { actor, answer_by_ms, answered, .. } = write;
    let (index, outcomes) = if good.is_empty() {
        (state.view().index(), Vec::new())
    } else {
        state.registry().register(actor, request_id, answer_by_ms, good).await?
    };
    answered.at(index);
    let mut outcomes = outcomes.into_iter();
    let results = checked.into_iter().map(|item| {
        let outcome = match item {
            Err(problem) => Err(problem),
            Ok(_) => match outcomes.next() {
                Some(outcome) => outcome.map_err(Problem::from),
                None => Err(super::fresh::unexpected(&maxine_state::Reply::Done)),
            },
        };
        match outcome {
            Ok(epoch) => RegistrationResult { lease_epoch: Some(epoch), problem: None },
            Err(problem) => RegistrationResult { lease_epoch: None, problem: Some(problem) },
        }
    });
    Ok(Json(RegistrationResults { index, results: results.collect() }))
}

/// One heartbeat of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchHeartbeat<'a> {
    /// The namespace; by default `default`.
    #[serde(borrow, default = "default_namespace")]
    #[schema(value_type = Option<String>)]
    namespace: Cow<'a, str>,
    /// The service.
    #[serde(borrow)]
    #[schema(value_type = String)]
    service: Cow<'a, str>,
    /// The instance's name within the service.
    #[serde(borrow)]
    #[schema(value_type = String)]
    id: Cow<'a, str>,
    /// Only renew this registration; a newer one of the instance is reported as unknown.
    #[serde(default)]
    lease_epoch: Option<u64>,
}

/// A batch of heartbeats.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HeartbeatBatch<'a> {
    /// The heartbeats, at most 1000.
    #[serde(borrow)]
    #[schema(max_items = 1000)]
    items: Vec<BatchHeartbeat<'a>>,
}

/// Outcome of a batch of heartbeats.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HeartbeatResults {
    /// Positions of the items that are not registered, or not any more. Register them again.
    unknown: Vec<usize>,
    /// Positions of the items that are permanent: they have no lease, and need no heartbeats.
    permanent: Vec<usize>,
}

/// Renews up to 1000 leases.
#[utoipa::path(
    post, path = "/api/v1/heartbeats", tag = "instances", operation_id = "heartbeatBatch",
    request_body = HeartbeatBatch<'static>,
    responses((status = 200, body = HeartbeatResults)),
)]
pub(super) async fn heartbeat_batch(
    State(state): State<AppState>,
    _: Params<NoParams>,
    AnswerBy(answer_by_ms): AnswerBy,
    answered: Answered,
    RawJson(body): RawJson<BATCH_BODY_LEN_MAX>,
) -> Result<Json<HeartbeatResults>, Problem> {
    let items = heartbeats(&body)?;
    let known = state.registry().renew(lease_ids(&items), answer_by_ms).await?;
    answered.by_present(&state);
    let missing = known.iter().enumerate().filter(|(_, known)| !**known);
    let missing = missing.map(|(position, _)| position);
    let snapshot = state.view().snapshot();
    let (permanent, unknown) = missing.partition(|position| {
        let instance = items.get(*position).and_then(|item| item.instance(&snapshot.state));
        instance.is_some_and(|instance| instance.registration.expiry == Expiry::Never)
    });
    Ok(Json(HeartbeatResults { unknown, permanent }))
}

impl BatchHeartbeat<'_> {
    fn instance<'s>(&self, state: &'s ControlState) -> Option<&'s Arc<Instance>> {
        let key = service_key(&self.namespace, &self.service).ok()?;
        state.instance(&key.instance(Name::parse("id", &self.id).ok()?))
    }
}

fn heartbeats(body: &[u8]) -> Result<Vec<BatchHeartbeat<'_>>, Problem> {
    let batch: HeartbeatBatch<'_> = parse_json(body)?;
    check_count("items", batch.items.len(), BATCH_ITEMS_MAX)?;
    Ok(batch.items)
}

fn lease_ids(items: &[BatchHeartbeat<'_>]) -> Vec<(LeaseId, u64)> {
    let id = |item: &BatchHeartbeat<'_>| {
        let lease = LeaseId::of(&item.namespace, &item.service, &item.id);
        (lease, item.lease_epoch.unwrap_or(0))
    };
    items.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_name_the_leases_of_their_instances() {
        let body = br#"{"items":[{"service":"orders","id":"a"},
            {"namespace":"shop","service":"\u006frders","id":"b","lease_epoch":7}]}"#;
        let expected = vec![
            (LeaseId::of("default", "orders", "a"), 0),
            (LeaseId::of("shop", "orders", "b"), 7),
        ];
        assert_eq!(lease_ids(&heartbeats(body).unwrap()), expected);
    }

    #[test]
    fn a_batch_over_the_limit_or_with_unknown_fields_is_refused() {
        let item = r#"{"service":"s","id":"i"}"#;
        let many = format!(r#"{{"items":[{}]}}"#, vec![item; 1_001].join(","));
        assert_eq!(heartbeats(many.as_bytes()).unwrap_err().field.as_deref(), Some("items"));
        let odd = br#"{"items":[{"service":"s","id":"i","ttl":3}]}"#;
        assert_eq!(heartbeats(odd).unwrap_err().field.as_deref(), Some("ttl"));
    }
}
