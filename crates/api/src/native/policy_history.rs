//! The history of a service's policy: who changed it and when, from the audit log, and to what, as far as this node
//! remembers it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Params, ServicePath};
use super::fresh::{Fresh, Freshness};
use super::page::{self, Page};
use super::policies::shown_to;
use crate::lists::Listing;
use crate::problem::Problem;
use crate::{AppState, CalledBy, Caller};
use maxine_state::{
    AuditAction, AuditOutcome, AuditRecord, PolicyRecord, ServiceKey, ServicePolicy,
};
use maxine_view::PolicyChange;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct QueryPolicyHistory {
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What a change made of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PolicyContent {
    /// A policy was set.
    Set,
    /// There was no policy; the defaults applied.
    None,
    /// This node does not know it. It was started after the change, or there were too many changes since.
    Unknown,
}

/// A change of a service's policy, and who made it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyRevisionView {
    /// Index of the change; 0 for the time before the first change.
    revision: u64,
    /// When the policy was changed, in milliseconds since 1970, by the log's clock; null if that is unknown.
    time_ms: Option<u64>,
    /// The user who changed the policy; null if that is unknown.
    user: Option<String>,
    /// What the change made of the policy.
    content: PolicyContent,
    /// The policy that was set; null if `content` is not `set`.
    policy: Option<ServicePolicy>,
}

/// Lists the changes of a service's policy, newest first. The time and the user are from the audit log. The policies are
/// those that this node remembers: up to 50 changes of a service since it was started. If there are more changes, the
/// older ones have the content `unknown`.
#[utoipa::path(
    get, path = "/api/v1/services/{namespace}/{service}/policy/history", tag = "policies",
    operation_id = "policyHistory",
    params(("namespace" = String, Path,), ("service" = String, Path,), QueryPolicyHistory, Freshness),
    responses((status = 200, body = Page<PolicyRevisionView>)),
)]
pub(super) async fn policy_history(
    State(state): State<AppState>,
    fresh: Fresh,
    CalledBy(caller): CalledBy,
    ServicePath(key): ServicePath,
    Params(query): Params<QueryPolicyHistory>,
    listing: Listing,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let before = query.cursor.as_deref().map(page::cursor_number).transpose()?;
    let records = fresh.state().audit().records();
    let mut revisions = Revisions::default();
    revisions.add_records(&key, records.into_iter().map(|record| &**record));
    revisions.add_changes(&state.view().policy_changes(&key));
    revisions.add_present(fresh.state().service(&key).and_then(|service| service.policy.as_ref()));
    if revisions.0.is_empty() {
        fresh.service(&key)?;
    }
    let kept = revisions.0.into_iter().rev();
    let kept = kept.skip_while(|(revision, _)| before.is_some_and(|before| *revision >= before));
    let cursor = |(revision, _): &(u64, Revision)| page::cursor_of(&[&revision.to_string()]);
    Ok(listing.answer(fresh.json(Page::take(kept, limit, cursor, |item| view(&caller, item)))))
}

/// What is known about one change.
#[derive(Debug, Default)]
struct Revision {
    time_ms: Option<u64>,
    user: Option<Box<str>>,
    /// The policy that was set, or `None` if there was none. `None` outside if it is not known.
    policy: Option<Option<Arc<PolicyRecord>>>,
}

/// The changes by their indexes.
#[derive(Debug, Default)]
struct Revisions(BTreeMap<u64, Revision>);

impl Revisions {
    fn at(&mut self, revision: u64) -> &mut Revision {
        self.0.entry(revision).or_default()
    }

    fn add_changes(&mut self, changes: &[PolicyChange]) {
        for change in changes {
            match &change.before {
                Some(before) => self.at(before.revision).policy = Some(Some(Arc::clone(before))),
                // Before the first change of all, the defaults applied.
                None if self.0.range(..change.revision).next().is_none() => {
                    self.at(0).policy = Some(None);
                }
                None => {}
            }
            let revision = self.at(change.revision);
            revision.policy = Some(change.after.clone());
            revision.time_ms = Some(change.time_ms);
        }
    }

    fn add_records<'a>(
        &mut self,
        key: &ServiceKey,
        records: impl Iterator<Item = &'a AuditRecord>,
    ) {
        let object = key.to_string();
        let changed = |record: &&AuditRecord| {
            record.action == AuditAction::PolicyPut
                && record.outcome == AuditOutcome::Success
                && *record.object == *object
        };
        for record in records.filter(changed) {
            let revision = self.at(record.index);
            revision.time_ms = Some(record.time_ms);
            revision.user = Some(record.user.clone()).filter(|user| !user.is_empty());
        }
    }

    fn add_present(&mut self, present: Option<&Arc<PolicyRecord>>) {
        if let Some(present) = present {
            self.at(present.revision).policy = Some(Some(Arc::clone(present)));
        }
    }
}

fn view(caller: &Caller, (revision, known): (u64, Revision)) -> PolicyRevisionView {
    PolicyRevisionView {
        revision,
        time_ms: known.time_ms,
        user: known.user.map(String::from),
        content: match &known.policy {
            Some(Some(_)) => PolicyContent::Set,
            Some(None) => PolicyContent::None,
            None => PolicyContent::Unknown,
        },
        policy: known.policy.flatten().map(|record| shown_to(caller, &record.policy)),
    }
}
