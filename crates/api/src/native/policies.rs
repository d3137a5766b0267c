//! Policies of services and the runtime configuration, both with conditional changes.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::extract::{BODY_LEN_MAX, JsonBody, NoParams, Params, RawJson, ServicePath};
use super::fresh::{Fresh, Freshness, Revised, Write, etag, unexpected};
use super::merge_patch::{self, MergePatch};
use super::page::{self, Page};
use crate::lists::Listing;
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, CalledBy, Caller};
use maxine_state::{
    Applied, Command, ConfigRecord, ConfigRevision, ControlState, Name, ProbeSpec, Reply, Role,
    RuntimeConfig, ServiceKey, ServicePolicy, ServiceState, VersionShare,
};
use maxine_wording::{self, JsonFault};

/// The warning about a policy whose probe has settings but no kind.
const PROBE_UNUSED: &str = "probe.kind is heartbeat, so no probe is made, and the other fields of probe have no effect: set probe.kind to http, tcp \
     or grpc";

/// A policy and its revision.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyView {
    /// Revision of the policy, for `If-Match`.
    revision: u64,
    /// The policy.
    policy: ServicePolicy,
}

/// The policy as the caller may see it. A caller who may not change it does not see the values of header fields.
pub(super) fn shown_to(caller: &Caller, policy: &ServicePolicy) -> ServicePolicy {
    let policy = policy.clone();
    if caller.has(Role::Operator) { policy } else { policy.without_secrets() }
}

/// Shows a service's policy. 404 if the service does not exist, or has no policy. Callers who may not change it see
/// `[redacted]` for the values of the header fields that are sent to instances.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}/policy", tag = "policies",
    operation_id = "getPolicy",
    params(("namespace" = String, Path,), ("service" = String, Path,), Freshness),
    responses((status = 200, body = PolicyView, headers(("ETag" = String, description = "The revision, quoted.")))),
)]
pub(super) async fn get_policy(
    fresh: Fresh,
    CalledBy(caller): CalledBy,
    ServicePath(key): ServicePath,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let record = fresh.service(&key)?.policy.as_ref();
    let record = record.ok_or_else(|| no_policy(&key))?;
    let policy = shown_to(&caller, &record.policy);
    let mut response = fresh.json(PolicyView { revision: record.revision, policy });
    response.headers_mut().insert(header::ETAG, etag(record.revision));
    Ok(response)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangePolicy {
    /// Whether to set the policy even if the service does not exist yet. The service then exists because of its policy,
    /// without instances.
    #[serde(default)]
    create: bool,
}

/// Replaces a service's whole policy. 404 if the service does not exist, unless `create` is true.
#[utoipa::path(
    put, path = "/api/v1/services/{namespace}/{service}/policy", tag = "policies",
    operation_id = "putPolicy",
    params(("namespace" = String, Path,), ("service" = String, Path,), ChangePolicy),
    request_body = ServicePolicy,
    responses((status = 200, body = Revised, headers(("ETag" = String, description = "The new revision, quoted.")))),
)]
pub(super) async fn put_policy(
    State(state): State<AppState>,
    ServicePath(key): ServicePath,
    Params(query): Params<ChangePolicy>,
    write: Write,
    JsonBody(policy): JsonBody<ServicePolicy>,
) -> Result<Response, Problem> {
    let expected_revision = write.conditions.expected_revision();
    let warnings = warnings_of(&state, &key, &policy);
    let command = set_policy(key, policy, expected_revision, query.create)?;
    revised(write.propose(&state, command).await.map_err(no_such_service)?, warnings)
}

/// Changes parts of a service's policy by a JSON merge patch (RFC 7396). 404 if the service does not exist, unless
/// `create` is true.
#[utoipa::path(
    patch, path = "/api/v1/services/{namespace}/{service}/policy", tag = "policies",
    operation_id = "patchPolicy",
    params(("namespace" = String, Path,), ("service" = String, Path,), ChangePolicy),
    request_body(content = Object, content_type = "application/merge-patch+json",
        description = "The fields to change; null takes a field away."),
    responses((status = 200, body = Revised, headers(("ETag" = String, description = "The new revision, quoted.")))),
)]
pub(super) async fn patch_policy(
    State(state): State<AppState>,
    ServicePath(key): ServicePath,
    Params(query): Params<ChangePolicy>,
    write: Write,
    body: MergePatch,
) -> Result<Response, Problem> {
    let read = |state: &ControlState| {
        let record = state.service(&key).and_then(|service| service.policy.as_ref());
        record.map_or(Ok((0, Map::new())), |record| Ok((record.revision, fields(&record.policy)?)))
    };
    let warnings = Mutex::default();
    let command = |document, revision| {
        let policy: ServicePolicy = parsed(document)?;
        *warnings.lock() = warnings_of(&state, &key, &policy);
        set_policy(key.clone(), policy, Some(revision), query.create)
    };
    let applied = merge_patch::patch(&state, write, body, read, command).await;
    revised(applied.map_err(no_such_service)?, warnings.into_inner())
}

/// What in a policy has no effect.
fn warnings_of(state: &AppState, key: &ServiceKey, policy: &ServicePolicy) -> Vec<String> {
    let is_unused = policy.probe.as_ref().is_some_and(ProbeSpec::has_unused_fields);
    let probe = is_unused.then(|| PROBE_UNUSED.to_owned());
    let split = state.view().with_snapshot(|snapshot| {
        split_warning(&policy.traffic.split, snapshot.state.service(key).map(AsRef::as_ref))
    });
    probe.into_iter().chain(split).collect()
}

/// Says which shares of the traffic go elsewhere, because no instance of the service has their version.
fn split_warning(split: &[VersionShare], service: Option<&ServiceState>) -> Option<String> {
    let has = |version: &Name| {
        let mut instances = service.into_iter().flat_map(|service| service.instances.values());
        instances.any(|instance| instance.registration.version.as_ref() == Some(version))
    };
    let used = || split.iter().filter(|share| share.weight > 0);
    let missing: Vec<&str> = used()
        .map(|share| &share.version)
        .filter(|version| !has(version))
        .map(Name::as_str)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let versions = missing.join(", ");
    let effect = match missing.len() {
        n if n == used().count() => "so traffic.split has no effect, and all versions get traffic",
        1 => "so its share goes to the other versions of traffic.split",
        _ => "so their shares go to the other versions of traffic.split",
    };
    Some(format!("traffic.split: no registered instance has version {versions}, {effect}"))
}

fn set_policy(
    key: ServiceKey,
    policy: ServicePolicy,
    expected_revision: Option<u64>,
    create: bool,
) -> Result<Command, Problem> {
    policy.check()?;
    Ok(Command::PutPolicy { key, policy: Some(Box::new(policy)), expected_revision, create })
}

fn no_such_service(mut problem: Problem) -> Problem {
    if problem.kind == ProblemKind::NotFound {
        problem.action = "Check the service's name. To set a policy before the first registration, pass create=true (maxine policy set --create).";
    }
    problem
}

/// The service exists, and nobody has set a policy for it.
fn no_policy(key: &ServiceKey) -> Problem {
    let detail = format!("service {key} has no policy, so the defaults apply");
    let mut problem = Problem::new(ProblemKind::NotFound, detail);
    problem.action =
        "Set a policy with PUT or PATCH (maxine policy set), or leave it at the defaults.";
    problem
}

/// The JSON form of a document, for a patch.
fn fields(document: &impl Serialize) -> Result<Map<String, Value>, Problem> {
    let broken = |error| Problem::new(ProblemKind::Internal, format!("not an object: {error}"));
    serde_json::to_value(document).and_then(serde_json::from_value).map_err(broken)
}

/// Parses a patched document.
fn parsed<T: serde::de::DeserializeOwned>(document: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        maxine_wording::complaint(&error.path().to_string(), &error.inner().to_string()).into()
    })
}

/// Deletes a service's policy. The defaults apply again.
#[utoipa::path(
    delete, path = "/api/v1/services/{namespace}/{service}/policy", tag = "policies",
    operation_id = "deletePolicy",
    params(("namespace" = String, Path,), ("service" = String, Path,)),
    responses((status = 200, body = Revised)),
)]
pub(super) async fn delete_policy(
    State(state): State<AppState>,
    ServicePath(key): ServicePath,
    _: Params<NoParams>,
    write: Write,
) -> Result<Response, Problem> {
    let expected_revision = write.conditions.expected_revision();
    let create = false;
    let command = Command::PutPolicy { key, policy: None, expected_revision, create };
    revised(write.propose(&state, command).await?, Vec::new())
}

/// Shows the runtime configuration.
#[utoipa::path(
    get, path = "/api/v1/config", tag = "config", operation_id = "getConfig", params(Freshness),
    responses((status = 200, body = ConfigRecord, headers(("ETag" = String, description = "The revision, quoted.")))),
)]
pub(super) async fn get_config(fresh: Fresh, _: Params<NoParams>) -> Response {
    let record = fresh.state().config();
    let mut response = fresh.json(record.as_ref());
    response.headers_mut().insert(header::ETAG, etag(record.revision));
    response
}

/// Replaces the whole runtime configuration. 422 if a field is left out; use `PATCH` to change single fields.
#[utoipa::path(
    put, path = "/api/v1/config", tag = "config", operation_id = "putConfig",
    request_body = RuntimeConfig,
    responses((status = 200, body = Revised, headers(("ETag" = String, description = "The new revision, quoted.")))),
)]
pub(super) async fn put_config(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    RawJson(bytes): RawJson<BODY_LEN_MAX>,
) -> Result<Response, Problem> {
    let config: RuntimeConfig = maxine_wording::read_json(&bytes).map_err(|error| {
        let (JsonFault::MissingField, Some(field)) = (error.fault, &error.field) else {
            return error.into();
        };
        let detail = format!("the configuration is replaced whole, and {field} is missing");
        Problem::new(ProblemKind::Incomplete, detail).with_field(field.as_str())
    })?;
    config.check()?;
    let expected_revision = write.conditions.expected_revision();
    let command = Command::PutConfig { config, expected_revision };
    revised(write.propose(&state, command).await?, Vec::new())
}

/// Changes fields of the runtime configuration by a JSON merge patch (RFC 7396). `null` gives a field
/// its default.
#[utoipa::path(
    patch, path = "/api/v1/config", tag = "config", operation_id = "patchConfig",
    request_body(content = Object, content_type = "application/merge-patch+json",
        description = "The fields to change; null gives a field its default."),
    responses((status = 200, body = Revised, headers(("ETag" = String, description = "The new revision, quoted.")))),
)]
pub(super) async fn patch_config(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    body: MergePatch,
) -> Result<Response, Problem> {
    let read = |state: &ControlState| {
        let record = state.config();
        Ok((record.revision, fields(&record.config)?))
    };
    let command = |mut document: Value, revision| {
        for (name, value) in fields(&RuntimeConfig::default())? {
            if let Value::Object(document) = &mut document {
                document.entry(name).or_insert(value);
            }
        }
        let config: RuntimeConfig = parsed(document)?;
        config.check()?;
        Ok(Command::PutConfig { config, expected_revision: Some(revision) })
    };
    revised(merge_patch::patch(&state, write, body, read, command).await?, Vec::new())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct QueryHistory {
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A configuration, and who set it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevisionView {
    /// Index of the change that set the configuration; 0 for the defaults before the first change.
    revision: u64,
    /// When the configuration was set, in milliseconds since 1970, by the log's clock; null if that is unknown.
    time_ms: Option<u64>,
    /// The user who set the configuration; null if that is unknown.
    user: Option<String>,
    /// The settings of the configuration.
    config: RuntimeConfig,
}

impl From<&ConfigRevision> for RevisionView {
    fn from(kept: &ConfigRevision) -> Self {
        Self {
            revision: kept.revision,
            time_ms: (kept.time_ms > 0).then_some(kept.time_ms),
            user: (!kept.user.is_empty()).then(|| kept.user.as_ref().into()),
            config: kept.config.clone(),
        }
    }
}

/// Lists the latest hundred configurations, newest first, and who set them. Empty if the configuration was never
/// changed.
#[utoipa::path(
    get, path = "/api/v1/config/history", tag = "config", operation_id = "configHistory",
    params(QueryHistory, Freshness), responses((status = 200, body = Page<RevisionView>)),
)]
pub(super) async fn config_history(
    fresh: Fresh,
    Params(query): Params<QueryHistory>,
    listing: Listing,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let before = query.cursor.as_deref().map(page::cursor_number).transpose()?;
    let kept = fresh.state().config_history().revisions().iter().rev();
    let kept = kept.skip_while(|kept| before.is_some_and(|before| kept.revision >= before));
    let cursor = |kept: &&ConfigRevision| page::cursor_of(&[&kept.revision.to_string()]);
    Ok(listing.answer(fresh.json(Page::take(kept, limit, cursor, RevisionView::from))))
}

fn revised(applied: Applied, warnings: Vec<String>) -> Result<Response, Problem> {
    let Reply::Revision(revision) = applied.reply else { return Err(unexpected(&applied.reply)) };
    let mut response = Json(Revised { index: applied.index, revision, warnings }).into_response();
    response.headers_mut().insert(header::ETAG, etag(revision));
    Ok(response)
}
