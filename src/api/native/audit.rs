//! The audit log: queries, its proof, and its export for `maxine audit verify`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{NoParams, Params};
use super::fresh::{Fresh, Freshness};
use super::page::{self, Page};
use crate::api::problem::{Problem, ProblemKind};
use crate::state::{AuditOutcome, AuditRecord, ControlState};

/// Records that go into one piece of an export.
const EXPORT_CHUNK_RECORDS: usize = 256;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct QueryAudit {
    /// Only actions of this user, token or part of Maxine.
    user: Option<String>,
    /// Only actions that begin with this, such as `instance.`.
    action: Option<String>,
    /// Only objects that begin with this, such as `default/orders/`.
    object: Option<String>,
    /// Only actions with this outcome.
    #[param(inline)]
    outcome: Option<OutcomeFilter>,
    /// Only what happened at this time or later, in milliseconds since 1970.
    since_ms: Option<u64>,
    /// Only what happened before this time, in milliseconds since 1970.
    until_ms: Option<u64>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Outcome of an action, as a filter.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OutcomeFilter {
    /// It took effect.
    Success,
    /// It was refused.
    Refused,
}

impl QueryAudit {
    fn matches(&self, record: &AuditRecord) -> bool {
        let outcome = self.outcome.is_none_or(|wanted| {
            matches!(
                (wanted, record.outcome),
                (OutcomeFilter::Success, AuditOutcome::Success)
                    | (OutcomeFilter::Refused, AuditOutcome::Refused)
            )
        });
        outcome
            && self.user.as_deref().is_none_or(|user| *record.user == *user)
            && self.action.as_deref().is_none_or(|action| record.action.starts_with(action))
            && self.object.as_deref().is_none_or(|object| record.object.starts_with(object))
            && self.since_ms.is_none_or(|since_ms| record.time_ms >= since_ms)
            && self.until_ms.is_none_or(|until_ms| record.time_ms < until_ms)
    }
}

/// Kept records, newest first, from right before the record that the cursor names.
pub(super) fn newest_first<'a>(
    records: impl DoubleEndedIterator<Item = &'a AuditRecord>,
    cursor: Option<&str>,
) -> Result<impl Iterator<Item = &'a AuditRecord>, Problem> {
    let before = cursor.map(page::cursor_number).transpose()?;
    Ok(records.rev().skip_while(move |record| before.is_some_and(|before| record.seq >= before)))
}

/// Lists audit records, newest first: who did what to which object, with which result.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit", operation_id = "listAudit",
    params(QueryAudit, Freshness), responses((status = 200, body = Page<AuditRecord>)),
)]
pub(super) async fn list_audit(
    fresh: Fresh,
    Params(query): Params<QueryAudit>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let records = fresh.state().audit().records().iter().map(AsRef::as_ref);
    let records = newest_first(records, query.cursor.as_deref())?;
    let found = records.filter(|record| query.matches(record));
    let cursor = |record: &&AuditRecord| page::cursor_of(&[&record.seq.to_string()]);
    Ok(fresh.json(Page::take(found, limit, cursor, |record| record.clone())))
}

/// Whether the chain of hashes is correct.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditProof {
    /// Whether the hash of every record is correct.
    ok: bool,
    /// The first record with a wrong hash.
    first_bad_seq: Option<u64>,
    /// How many records are kept.
    records: usize,
    /// The number of the oldest one.
    first_seq: u64,
    /// The number that the next one gets.
    next_seq: u64,
    /// The hash before the oldest one.
    base: String,
    /// The newest hash: it names the whole history, and is the same on every node at an index.
    head: String,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_seq(state: &ControlState) -> u64 {
    state.audit().next_seq() - state.audit().records().len() as u64
}

/// Checks the chain of hashes on this node.
#[utoipa::path(
    get, path = "/api/v1/audit/verify", tag = "audit", operation_id = "verifyAudit",
    params(Freshness), responses((status = 200, body = AuditProof)),
)]
pub(super) async fn verify_audit(fresh: Fresh, _: Params<NoParams>) -> Result<Response, Problem> {
    let audit = fresh.state().audit().clone();
    // Hashing all of it takes tens of milliseconds.
    let verdict = tokio::task::spawn_blocking(move || audit.verify()).await.map_err(|_| {
        Problem::new(ProblemKind::Unavailable, "the node is stopping").with_retry_after_s(1)
    })?;
    let audit = fresh.state().audit();
    Ok(fresh.json(AuditProof {
        ok: verdict.is_ok(),
        first_bad_seq: verdict.err(),
        records: audit.records().len(),
        first_seq: first_seq(fresh.state()),
        next_seq: audit.next_seq(),
        base: hex(&audit.base()),
        head: hex(&audit.head()),
    }))
}

/// The first line of an export.
#[derive(Debug, Serialize)]
struct ExportHead {
    base: String,
    head: String,
    first_seq: u64,
    records: usize,
    index: u64,
}

/// Exports the kept records, oldest first, one JSON object a line; the first line says where the
/// chain starts and ends. `maxine audit verify` reads it.
#[utoipa::path(
    get, path = "/api/v1/audit/export", tag = "audit", operation_id = "exportAudit",
    params(Freshness),
    responses((status = 200, body = String, content_type = "application/x-ndjson")),
)]
pub(super) async fn export_audit(fresh: Fresh, _: Params<NoParams>) -> Response {
    let state = fresh.state();
    let audit = state.audit().clone();
    let head = ExportHead {
        base: hex(&audit.base()),
        head: hex(&audit.head()),
        first_seq: first_seq(state),
        records: audit.records().len(),
        index: state.index(),
    };
    let records = Arc::new(audit.records().clone());
    let pieces = stream::unfold(Some(0), move |at: Option<usize>| {
        let piece = at.map(|at| {
            let mut text = Vec::new();
            if at == 0 {
                push_line(&mut text, &head);
            }
            for record in records.iter().skip(at).take(EXPORT_CHUNK_RECORDS) {
                push_line(&mut text, record);
            }
            let next = at + EXPORT_CHUNK_RECORDS;
            let next = (next < records.len()).then_some(next);
            (Ok::<_, std::convert::Infallible>(Bytes::from(text)), next)
        });
        std::future::ready(piece)
    });
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, ndjson)], Body::from_stream(pieces)).into_response()
}

fn push_line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Texts and numbers always serialise, and a vector takes every byte.
    let _infallible = serde_json::to_writer(&mut *out, value);
    out.push(b'\n');
}
