//! The audit log: queries, verification, and export for `maxine audit verify`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{NoParams, Params};
use super::fresh::{Fresh, Freshness, Write};
use super::page::{self, Page};
use crate::AppState;
use crate::lists::Listing;
use crate::problem::Problem;
use maxine_actors::peer::Confirmation;
use maxine_state::{AuditAction, AuditClass, AuditLog, AuditRecord, ControlState};
use maxine_telemetry::{AuditOutcomeView as Outcome, AuditRecordView as RecordView};

/// Number of records in one part of an export.
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
    outcome: Option<Outcome>,
    /// Only actions at this time or later, in milliseconds since 1970.
    since_ms: Option<u64>,
    /// Only actions before this time, in milliseconds since 1970.
    until_ms: Option<u64>,
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
    /// Where the page starts: `next_cursor` of the page before.
    cursor: Option<String>,
}

impl QueryAudit {
    fn matches(&self, record: &AuditRecord) -> bool {
        self.outcome.is_none_or(|wanted| Outcome::of(record) == wanted)
            && self.user.as_deref().is_none_or(|user| *record.user == *user)
            && self
                .action
                .as_deref()
                .is_none_or(|action| record.action.as_str().starts_with(action))
            && self.object.as_deref().is_none_or(|object| record.object.starts_with(object))
            && self.since_ms.is_none_or(|since_ms| record.time_ms >= since_ms)
            && self.until_ms.is_none_or(|until_ms| record.time_ms < until_ms)
    }
}

/// The kept records that are older than the record that the cursor names, newest first. Without a cursor, all kept
/// records.
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
    params(QueryAudit, Freshness), responses((status = 200, body = Page<RecordView>)),
)]
pub(super) async fn list_audit(
    fresh: Fresh,
    Params(query): Params<QueryAudit>,
    listing: Listing,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let records = fresh.state().audit().records().into_iter().map(|record| &**record);
    let records = newest_first(records, query.cursor.as_deref())?;
    let found = records.filter(|record| query.matches(record));
    let cursor = |record: &&AuditRecord| page::cursor_of(&[&record.seq.to_string()]);
    Ok(listing.json_without_secrets(&Page::take(found, limit, cursor, RecordView::from)))
}

/// Whether the chain of hashes is correct.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditProof {
    /// Whether the hash of every record is correct.
    ok: bool,
    /// Number of the first record with a wrong hash; null if there is none.
    first_bad_seq: Option<u64>,
    /// How many records are kept.
    records: usize,
    /// Number of the oldest record that is kept.
    first_seq: u64,
    /// Number that the next record gets. It equals the number of records that were ever written.
    next_seq: u64,
    /// Hash of the newest record. It identifies the whole history, and is the same on every node at the same index.
    head: String,
    /// The classes of records that the state's version has. Each has a limit of its own.
    classes: Vec<ClassProof>,
}

/// How many records of a class are kept, and how many were removed because of the class's limits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClassProof {
    /// The class.
    class: AuditClass,
    /// Number of records that are kept.
    kept: usize,
    /// Number of records that were removed. The oldest kept record has this number in its class.
    dropped: u64,
    /// Maximum number of records of the class.
    records_max: usize,
    /// Longest time that a record is kept, in milliseconds.
    retention_ms: u64,
    /// The hash of the record before the oldest kept one.
    base: String,
}

fn classes(state: &ControlState) -> Vec<ClassProof> {
    let audit = state.audit();
    let each = AuditClass::of_version(state.version()).map(|class| {
        let chain = audit.chain(class);
        ClassProof {
            class,
            kept: chain.kept(),
            dropped: chain.dropped(),
            records_max: class.records_max(),
            retention_ms: class.retention_ms(),
            base: hex(&chain.base()),
        }
    });
    each.collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_seq(audit: &AuditLog) -> u64 {
    audit.records().first().map_or(audit.next_seq(), |oldest| oldest.seq)
}

/// Checks the chains of hashes on this node: no record was changed, and none is missing after the oldest kept record of
/// each class.
#[utoipa::path(
    get, path = "/api/v1/audit/verify", tag = "audit", operation_id = "verifyAudit",
    params(Freshness), responses((status = 200, body = AuditProof)),
)]
pub(super) async fn verify_audit(
    fresh: Fresh,
    _: Params<NoParams>,
    listing: Listing,
) -> Result<Response, Problem> {
    let audit = fresh.state().audit();
    let verdict = audit.verify();
    Ok(listing.answer(fresh.json(AuditProof {
        ok: verdict.is_ok(),
        first_bad_seq: verdict.err(),
        records: audit.len(),
        first_seq: first_seq(audit),
        next_seq: audit.next_seq(),
        head: hex(&audit.head()),
        classes: classes(fresh.state()),
    })))
}

/// Confirms that the leader's clock is right after it leapt, so that audit records are removed for their age again.
/// Only needed if there is no other node to compare clocks with. Any node passes the request to the leader.
#[utoipa::path(
    post, path = "/api/v1/audit/clock/confirm", tag = "audit", operation_id = "confirmClock",
    responses((status = 204)),
)]
pub(super) async fn confirm_clock(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
) -> Result<StatusCode, Problem> {
    super::cluster::confirm(
        app,
        write,
        Confirmation::Clock,
        AuditAction::AuditConfirmClock,
        "clock",
        "the clock needs no confirmation",
    )
    .await
}

/// The first line of an export. It lets the reader see whether the export is complete.
#[derive(Debug, Serialize)]
struct ExportHead {
    head: String,
    next_seq: u64,
    records: usize,
    index: u64,
    classes: Vec<ClassProof>,
}

/// Exports the kept records, oldest first, one JSON object per line. The first line says where the chain ends, how many
/// records it has, and how many were removed from each class. The export itself is recorded with its head, so an export
/// without its end can be distinguished from a complete one.
#[utoipa::path(
    get, path = "/api/v1/audit/export", tag = "audit", operation_id = "exportAudit",
    params(Freshness),
    responses((status = 200, body = String, content_type = "application/x-ndjson")),
)]
pub(super) async fn export_audit(
    State(app): State<AppState>,
    fresh: Fresh,
    _: Params<NoParams>,
    write: Write,
    listing: Listing,
) -> Response {
    let state = fresh.state();
    let audit = state.audit();
    let head = ExportHead {
        head: hex(&audit.head()),
        next_seq: audit.next_seq(),
        records: audit.len(),
        index: state.index(),
        classes: classes(state),
    };
    let records = maxine_wording::count(head.records, "record");
    let object = format!("{records} up to {}, head {}", head.next_seq, head.head);
    app.audit().record(write.actor, AuditAction::AuditExport, &object, true);
    let records: Vec<Arc<AuditRecord>> = audit.records().into_iter().cloned().collect();
    let pieces = stream::unfold(Some(0), move |at: Option<usize>| {
        let piece = at.map(|at| {
            let mut text = Vec::new();
            if at == 0 {
                push_line(&mut text, &head);
            }
            for record in records.iter().skip(at).take(EXPORT_CHUNK_RECORDS) {
                push_line(&mut text, &RecordView::from(&**record));
            }
            let next = at + EXPORT_CHUNK_RECORDS;
            let next = (next < records.len()).then_some(next);
            (Ok::<_, std::convert::Infallible>(Bytes::from(text)), next)
        });
        std::future::ready(piece)
    });
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    listing.answer(([(header::CONTENT_TYPE, ndjson)], Body::from_stream(pieces)).into_response())
}

fn push_line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Texts and numbers can always be serialized, and a vector accepts every byte.
    let _infallible = serde_json::to_writer(&mut *out, value);
    out.push(b'\n');
}
