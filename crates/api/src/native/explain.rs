//! Explains a choice: which instances there are, why each was left out, and which one is chosen by which rule.
//!
//! The choice is made by the code that answers look-ups and forwards requests ([`maxine_balance`]), which reports its
//! steps. It uses up no turn of round robin and no trial of a circuit breaker.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Params, ServicePath};
use super::fresh::{Fresh, Freshness};
use super::health::why;
use super::instance_nodes::KnownLease;
use super::known_checks::KnownChecks;
use super::resolve::check_path;
use super::shape::Detail;
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, CalledBy, RequestContext};
use maxine_balance::{HashInput, Narrowing, query_of};
use maxine_state::limits::{ADDRESS_LEN_MAX, check_text};
use maxine_state::{HashKey, Instance, SelectionStrategy, ServiceKey, ServicePolicy, StickyPolicy};
use maxine_view::ServiceTable;

/// Maximum number of instances in an answer.
const CANDIDATES_MAX: usize = 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Explain {
    /// The address of the caller. Without it, the address that this request comes from.
    from: Option<String>,
    /// The header fields of the caller's request, one `NAME: VALUE` per line.
    #[param(max_length = 8192)]
    headers: Option<String>,
    /// Like that of a resolution: replaces the value that the policy hashes.
    #[param(max_length = 2048)]
    key: Option<String>,
    /// Path, with an optional query, of the caller's request. It begins with `/`.
    #[param(max_length = 2048)]
    path: Option<String>,
    /// How the caller reaches the instance.
    #[serde(default)]
    #[param(inline)]
    by: By,
}

/// How a caller reaches the instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    /// A redirect, or a resolution.
    #[default]
    Resolve,
    /// The proxy of the node that answers, which also knows circuit breakers and ejected instances.
    Proxy,
}

/// An explained choice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    /// The namespace.
    namespace: String,
    /// The service.
    service: String,
    /// How the caller reaches the instance.
    by: By,
    /// The address of the caller.
    from: String,
    /// The zone of the node that answers.
    zone: Option<String>,
    /// The strategy.
    strategy: SelectionStrategy,
    /// The rules that decided, in order, each in one sentence.
    rules: Vec<String>,
    /// The instance that is chosen; null if none can be.
    chosen: Option<String>,
    /// Number of instances of the service.
    instances: usize,
    /// The instances, in the order of their ids, at most 1,000.
    candidates: Vec<Candidate>,
}

/// What became of one instance in the choice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Candidate {
    /// The instance.
    id: String,
    /// Its address.
    address: String,
    /// Its zone.
    zone: Option<String>,
    /// Its version.
    version: Option<String>,
    /// Its weight.
    weight: u16,
    /// What became of it.
    outcome: CandidateOutcome,
    /// Why, in one line.
    why: String,
}

/// What became of an instance in a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum CandidateOutcome {
    /// It is chosen.
    Chosen,
    /// It could have been chosen.
    Possible,
    /// It was left out.
    LeftOut,
}

/// Explains which instance of a service a caller gets, and why not the others.
#[utoipa::path(
    get, path = "/api/v1/resolve/{namespace}/{service}/explain", tag = "discovery",
    operation_id = "explainResolve",
    params(("namespace" = String, Path,), ("service" = String, Path,), Explain, Freshness),
    responses((status = 200, body = Explanation)),
)]
pub(super) async fn explain_resolve(
    State(state): State<AppState>,
    fresh: Fresh,
    ServicePath(key): ServicePath,
    Params(query): Params<Explain>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
) -> Result<Response, Problem> {
    let from = match &query.from {
        None => context.client.ip,
        Some(text) => text.parse::<IpAddr>().map_err(|_| {
            Problem::new(ProblemKind::InvalidRequest, "`from` must be an IP address")
                .with_field("from")
        })?,
    };
    for (name, value) in [("key", &query.key), ("path", &query.path)] {
        value.as_ref().map_or(Ok(()), |value| check_text(name, value, 0, ADDRESS_LEN_MAX))?;
    }
    check_path(query.path.as_deref().unwrap_or_default())?;
    let headers = header_fields(query.headers.as_deref().unwrap_or_default())?;
    let service = fresh.service(&key)?;
    let queries = [query_of(query.path.as_deref().unwrap_or_default()), ""];
    let input = HashInput { address: from, fields: &headers, queries, key: query.key.as_deref() };
    let choice = Choice::make(&state, &key, &input, &headers, query.by)?;
    let now_ms = state.clock().wall_ms();
    let in_traffic = service.in_traffic();
    let policy = service.policy.as_ref().map(|record| &record.policy);
    let candidate =
        |instance: &Arc<Instance>| {
            let (outcome, why) =
                match choice.table.endpoints().iter().position(|endpoint| {
                    endpoint.instance.registration.id == instance.registration.id
                }) {
                    Some(position) => choice.of(position),
                    None => {
                        let is_probed = state.health().effective_probe(instance, policy).is_some();
                        let known = KnownChecks::of(instance, is_probed, Detail::of(&caller), &[]);
                        let lease = KnownLease::here(&state, instance);
                        let why = why(service, &in_traffic, instance, &known, lease, now_ms);
                        (CandidateOutcome::LeftOut, why)
                    }
                };
            let registration = &instance.registration;
            Candidate {
                id: registration.id.as_str().into(),
                address: registration.address.as_str().into(),
                zone: registration.zone.as_ref().map(|zone| zone.as_str().into()),
                version: registration.version.as_ref().map(|version| version.as_str().into()),
                weight: registration.weight,
                outcome,
                why,
            }
        };
    let chosen = choice.picked.map(|position| &choice.table.endpoints()[position].instance);
    Ok(fresh.json(Explanation {
        namespace: key.namespace.as_str().into(),
        service: key.service.as_str().into(),
        by: query.by,
        from: from.to_string(),
        zone: state.view().zone().map(Into::into),
        strategy: choice.table.strategy(),
        rules: choice.rules(&input, state.view().zone()),
        chosen: chosen.map(|instance| instance.registration.id.as_str().into()),
        instances: service.instances.len(),
        candidates: service.instances.values().take(CANDIDATES_MAX).map(candidate).collect(),
    }))
}

/// Reads `NAME: VALUE` lines.
fn header_fields(text: &str) -> Result<HeaderMap, Problem> {
    let mut fields = HeaderMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let field = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::try_from(name.trim()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = field.ok_or_else(|| {
            let detail = "`headers` must be lines of NAME: VALUE";
            Problem::new(ProblemKind::InvalidRequest, detail).with_field("headers")
        })?;
        fields.append(name, value);
    }
    Ok(fields)
}

/// A choice, and what is known about each endpoint of the table.
struct Choice {
    table: Arc<ServiceTable>,
    picked: Option<usize>,
    by_cookie: bool,
    has_affinity: bool,
    narrowings: Vec<(Narrowing, BTreeSet<usize>)>,
    /// For each endpoint, why the proxy may not call it, and why it calls it less. Empty for a look-up.
    blocked: Vec<(Option<&'static str>, Option<&'static str>)>,
}

impl Choice {
    fn make(
        state: &AppState,
        key: &ServiceKey,
        input: &HashInput<'_>,
        headers: &HeaderMap,
        by: By,
    ) -> Result<Self, Problem> {
        let missing = || Problem::not_found("service", &key.to_string());
        let (table, picked, by_cookie, narrowings, blocked) = match by {
            By::Resolve => {
                let (_, table) = state.view().table_at(key);
                let table = table.ok_or_else(missing)?;
                let (picked, narrowings) = table.explain(&table.draw(input, fastrand::u64(..)));
                (table, picked, false, narrowings, Vec::new())
            }
            By::Proxy => {
                let explained = state.forwarder().explain(key.as_ref(), input, headers);
                let explained = explained.ok_or_else(missing)?;
                let maxine_gateway::ExplainedPick { table, picked, by_cookie, narrowings, blocked } =
                    explained;
                (table, picked, by_cookie, narrowings, blocked)
            }
        };
        let has_affinity = table.draw(input, 0).affinity.is_some();
        let narrowings =
            narrowings.0.into_iter().map(|(by, left)| (by, left.into_iter().collect())).collect();
        let picked = picked.map(|picked| picked.position);
        Ok(Self { table, picked, by_cookie, has_affinity, narrowings, blocked })
    }

    /// What became of the endpoint at a position.
    fn of(&self, position: usize) -> (CandidateOutcome, String) {
        if self.picked == Some(position) {
            return (CandidateOutcome::Chosen, "it is chosen".into());
        }
        let (blocked, ramping) = self.blocked.get(position).copied().unwrap_or_default();
        if let Some(blocked) = blocked {
            return (CandidateOutcome::LeftOut, format!("the proxy of this node: {blocked}"));
        }
        let registration = &self.table.endpoints()[position].instance.registration;
        if registration.weight == 0 {
            return (CandidateOutcome::LeftOut, "its weight is 0".into());
        }
        // A second draw of a version begins anew.
        let begins = |(by, _): &(Narrowing, _)| *by == Narrowing::OtherVersion;
        let last = self.narrowings.iter().rposition(begins).unwrap_or(0);
        let narrowed = &self.narrowings[last..];
        if let Some((by, _)) = narrowed.iter().find(|(_, left)| !left.contains(&position)) {
            let why = match by {
                Narrowing::Version | Narrowing::OtherVersion => {
                    "the policy splits the traffic between versions, and another one was drawn"
                }
                Narrowing::Zone | Narrowing::AllZones => {
                    "it is in another zone than this node, and the policy prefers the zone of the node"
                }
            };
            return (CandidateOutcome::LeftOut, why.into());
        }
        if self.by_cookie {
            let why = "the sticky cookie of the caller names another instance";
            return (CandidateOutcome::LeftOut, why.into());
        }
        let why = match (self.is_fixed(), ramping) {
            (true, _) => "the caller's hash chose another instance".to_owned(),
            (false, Some(ramping)) => format!("another request may get it; {ramping}"),
            (false, None) => "another request may get it".to_owned(),
        };
        (CandidateOutcome::Possible, why)
    }

    /// Whether the same caller always gets the same instance.
    fn is_fixed(&self) -> bool {
        self.has_affinity || self.table.strategy_hashes()
    }

    /// The rules that decided, in order.
    fn rules(&self, input: &HashInput<'_>, zone: Option<&str>) -> Vec<String> {
        let mut rules = Vec::new();
        if self.table.in_panic_mode() {
            rules.push("panic mode: too many instances are unhealthy, so health is ignored".into());
        }
        if self.by_cookie {
            rules.push("the sticky cookie of the caller names the instance".into());
            return rules;
        }
        for (by, left) in &self.narrowings {
            let version = left.first().and_then(|position| {
                self.table.endpoints()[*position].instance.registration.version.as_ref()
            });
            let version = version.map_or("", |version| version.as_str());
            let zone = zone.unwrap_or_default();
            rules.push(match by {
                Narrowing::Version => {
                    format!("the policy splits the traffic between versions: {version} was drawn")
                }
                Narrowing::OtherVersion => {
                    format!("no instance of that version can be chosen, so {version} was drawn")
                }
                Narrowing::Zone => format!("the policy prefers zone {zone} of this node"),
                Narrowing::AllZones => format!(
                    "zone {zone} has too few instances that can be chosen, or they are too loaded, so all zones are used"
                ),
            });
        }
        rules.push(self.strategy_rule(input));
        if self.picked.is_none() {
            rules.push("no instance can be chosen".into());
        }
        rules
    }

    fn strategy_rule(&self, input: &HashInput<'_>) -> String {
        let policy = self.table.policy();
        if self.has_affinity
            && let Some(StickyPolicy::Header { name }) =
                policy.and_then(|policy| policy.traffic.sticky.as_ref())
        {
            return format!("the value of the header {name} ties the caller to one instance");
        }
        let of = |policy: Option<&ServicePolicy>| match policy.map(|p| &p.selection.hash_key) {
            None | Some(HashKey::ClientAddress) => {
                format!("the caller's address {}", input.address)
            }
            Some(HashKey::Header(name)) => format!("the header {name}"),
            Some(HashKey::Query(name)) => format!("the query parameter {name}"),
        };
        let hashed = match input.key {
            Some(_) => "the given key".to_owned(),
            None => of(policy),
        };
        match self.table.strategy() {
            SelectionStrategy::RoundRobin => {
                "round robin: the instances take turns by weight, and this is the next turn".into()
            }
            SelectionStrategy::ConsistentHash => {
                format!("consistent hashing of {hashed}: a caller keeps its instance")
            }
            SelectionStrategy::Rendezvous => {
                format!("rendezvous hashing of {hashed}: a caller keeps its instance")
            }
            SelectionStrategy::LeastRequest => {
                "least request: the less loaded of two instances that were drawn by weight".into()
            }
        }
    }
}
