use std::sync::Arc;

use http::{Method, StatusCode};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::*;
use crate::{AttemptOutcome, AttemptRecord, TraceName, samples};
use maxine_state::{Address, Instance, Name, Registration, ServiceKey};
use maxine_view::{ServiceCounter, WorkFact, WorkOutcome, WriteRecord, WriteStages};

const NODE_SPAN: SpanName = SpanName { trace: [7; 16], id: 1_000, is_sampled: true };

fn request(traceparent: TraceName, status: u16, duration_us: u64) -> FinishedRequest {
    FinishedRequest {
        target: "/orders/7?page=2".into(),
        client: [10, 0, 0, 7].into(),
        traceparent,
        parent_span: std::num::NonZeroU64::new(5),
        is_https: true,
        started_us: 1_000,
        duration_us,
        ..samples::request(status)
    }
}

fn spans_of(request: FinishedRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    spans::push_spans(&mut spans, &request, 9_000_000, Why::Sampled);
    spans
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn id(span: &Span) -> u64 {
    u64::from_be_bytes(span.span_id.clone().try_into().unwrap())
}

fn parent(span: &Span) -> Option<u64> {
    Some(u64::from_be_bytes(span.parent_span_id.clone().try_into().ok()?))
}

fn shared(queue_max: usize, slow_us: u64) -> Shared {
    Shared {
        clock: Clock::manual(),
        metrics: Metrics::new(),
        sampler: Sampler::new(0.0),
        slow_us,
        queue_max,
        queue: Mutex::default(),
        election: Mutex::default(),
        filled: Notify::new(),
    }
}

#[test]
fn a_forwarded_request_has_a_span_for_itself_each_choice_and_each_attempt() {
    let address = Address::parse("https://[::1]/base").unwrap();
    let registration = Registration::new(Name::trusted("a"), address, 1_000);
    let instance = Arc::new(Instance::new(registration, 1, 0));
    let attempt = |number, outcome| AttemptRecord {
        instance: Arc::clone(&instance),
        number,
        choosing_us: 1_000,
        started_us: 1_100,
        duration_us: 50,
        outcome,
    };
    let mut request = request(TraceName::Span(NODE_SPAN), 502, 700);
    let key = ServiceKey::new(Name::trusted("shop"), Name::trusted("orders"));
    request.subject = Subject::Proxied(Some(ServiceCounter::new(key)));
    request.attempts.push(attempt(1, AttemptOutcome::Answered(StatusCode::BAD_GATEWAY)));
    request.attempts.push(attempt(2, AttemptOutcome::Failed("connect_failed")));
    let spans = spans_of(request);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["GET proxied orders", "choose instance", "GET", "choose instance", "GET"]);
    let [server, choice, first, _, second] = &spans[..] else { panic!("five spans") };
    assert!(spans.iter().all(|span| span.trace_id == [7; 16]));
    assert_eq!((id(server), parent(server)), (1_000, Some(5)));
    assert_eq!(
        (parent(choice), parent(first), parent(second)),
        (Some(1_000), Some(1_000), Some(1_000))
    );
    // What the instance gets as its parent.
    assert_eq!((id(first), id(second)), (NODE_SPAN.of_attempt(1).id, NODE_SPAN.of_attempt(2).id));
    assert_eq!(server.start_time_unix_nano, 9_001_000_000);
    assert_eq!(server.end_time_unix_nano, 9_001_700_000);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "502"),
        ("url.scheme", "https"),
        ("url.path", "/orders/7"),
        ("url.query", "page=2"),
        ("client.address", "10.0.0.7"),
        ("maxine.service", "orders"),
        ("maxine.namespace", "shop"),
        ("error.type", "connect_failed"),
    ] {
        assert_eq!(attribute(server, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(attribute(first, "server.address").as_deref(), Some("::1"));
    assert_eq!(attribute(first, "server.port").as_deref(), Some("443"));
    assert_eq!(attribute(first, "error.type").as_deref(), Some("502"));
    assert_eq!(attribute(second, "error.type").as_deref(), Some("connect_failed"));
    assert_eq!(attribute(second, "http.request.resend_count").as_deref(), Some("1"));
    let mut ids: Vec<u64> = spans.iter().map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
}

#[test]
fn a_method_that_the_conventions_do_not_know_is_not_part_of_a_name() {
    let address = Address::parse("http://10.0.0.1").unwrap();
    let registration = Registration::new(Name::trusted("a"), address, 1_000);
    let mut request = request(TraceName::Span(NODE_SPAN), 200, 700);
    request.method = Method::from_bytes(b"PROPFIND").unwrap();
    request.subject = Subject::Proxied(None);
    request.attempts.push(AttemptRecord {
        instance: Arc::new(Instance::new(registration, 1, 0)),
        number: 1,
        choosing_us: 1_000,
        started_us: 1_100,
        duration_us: 50,
        outcome: AttemptOutcome::Answered(StatusCode::OK),
    });
    let spans = spans_of(request);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["HTTP proxied", "choose instance", "HTTP"]);
    for span in [&spans[0], &spans[2]] {
        assert_eq!(attribute(span, "http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(attribute(span, "http.request.method_original").as_deref(), Some("PROPFIND"));
    }
}

#[test]
fn a_write_has_a_span_for_each_stage_that_is_known() {
    let stages = WriteStages {
        received_us: 1_010,
        proposed_us: 1_020,
        decided_us: 1_500,
        batch_len: 3,
        applied_us: Some((1_400, 1_450)),
        index: 42,
    };
    let write = |error: Option<&str>, stages| WriteRecord {
        submitted_us: 1_001,
        answered_us: 1_600,
        error: error.map(str::to_owned),
        stages,
    };
    let mut request = request(TraceName::Span(NODE_SPAN), 200, 700);
    request.writes.push(write(None, Some(stages)));
    request.writes.push(write(Some("no leader is known"), None));
    let spans = spans_of(request);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(
        names,
        ["GET", "write", "actor mailbox", "wait for batch", "proposal", "commit", "apply", "write"]
    );
    let [_, write, _, _, proposal, commit, apply, failed] = &spans[..] else { panic!("eight") };
    assert_eq!(attribute(write, "maxine.index").as_deref(), Some("42"));
    assert_eq!(parent(proposal), Some(id(write)));
    assert_eq!((parent(commit), parent(apply)), (Some(id(proposal)), Some(id(proposal))));
    assert_eq!(commit.end_time_unix_nano, apply.start_time_unix_nano);
    assert_eq!(failed.status.as_ref().unwrap().message, "no leader is known");
}

#[test]
fn failures_and_slow_requests_are_exported_although_nobody_sampled_them() {
    let shared = shared(1, 500);
    let (unsampled, _) = Sampler::new(0.0).span_of(None);
    let why = |span, status, duration_us| {
        shared.why(&request(TraceName::Span(span), status, duration_us))
    };
    assert_eq!(why(unsampled, 200, 499), None);
    assert_eq!(why(unsampled, 404, 499), None);
    assert_eq!(why(unsampled, 200, 500), Some(Why::Slow));
    assert_eq!(why(unsampled, 503, 1), Some(Why::Error));
    assert_eq!(why(NODE_SPAN, 200, 1), Some(Why::Sampled));
    let foreign = request(TraceName::new_parent(), 503, 1);
    assert_eq!(shared.why(&foreign), None, "there is no span to export");
    let shared = super::tests::shared(1, 0);
    assert_eq!(shared.why(&request(TraceName::Span(unsampled), 200, u64::MAX)), None);
}

#[test]
fn a_request_that_waits_for_a_change_is_not_slow() {
    let shared = shared(1, 500);
    let (unsampled, _) = Sampler::new(0.0).span_of(None);
    let mut one = request(TraceName::Span(unsampled), 200, 60_000_000);
    one.is_long_poll = true;
    assert_eq!(shared.why(&one), None);
    one.status = StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(shared.why(&one), Some(Why::Error));
    // The query of a forwarded request is for its instance.
    one.status = StatusCode::OK;
    one.subject = Subject::Proxied(None);
    assert_eq!(shared.why(&one), Some(Why::Slow));
}

/// An exporter without a sender.
fn exporter(queue_max: usize) -> Exporter {
    Exporter {
        shared: Arc::new(shared(queue_max, 0)),
        stop: CancellationToken::new(),
        task: Mutex::default(),
        timeout: Duration::ZERO,
    }
}

#[tokio::test]
async fn a_queue_that_is_smaller_than_a_batch_wakes_the_sender_before_requests_are_lost() {
    // Half of a small queue, and a whole batch of a large one.
    for (queue_max, wake_len) in [(1, 1), (16, 8), (512, 256), (4_096, 256)] {
        let exporter = exporter(queue_max);
        let one = request(TraceName::Span(NODE_SPAN), 200, 1);
        let woken = || tokio::time::timeout(Duration::ZERO, exporter.shared.filled.notified());
        for _ in 1..wake_len {
            exporter.offer(&one, 0);
        }
        assert!(woken().await.is_err(), "{queue_max}");
        exporter.offer(&one, 0);
        assert!(woken().await.is_ok(), "{queue_max}");
        assert_eq!(exporter.shared.metrics.otlp_lost.get(), 0);
    }
}

#[test]
fn of_too_many_waiting_requests_the_oldest_are_lost_and_counted() {
    let exporter = exporter(3);
    let shared = Arc::clone(&exporter.shared);
    for number in 1..=5 {
        let mut one = request(TraceName::Span(NODE_SPAN), 200, 1);
        one.started_us = number;
        exporter.offer(&one, 0);
    }
    let started_us = |waiting: &Waiting| match &waiting.what {
        What::Request(request) => request.started_us,
        What::Work(work) => panic!("{work:?} is not a request"),
    };
    let kept: Vec<u64> = shared.take().iter().map(started_us).collect();
    assert_eq!(kept, [3, 4, 5]);
    assert_eq!(shared.metrics.otlp_lost.get(), 2);
}

fn work(kind: WorkKind, error: Option<&str>) -> Work {
    Work {
        kind,
        began_us: 1_000,
        ended_us: 1_400,
        asked_by: None,
        applied_us: None,
        outcome: WorkOutcome { error: error.map(str::to_owned), ..WorkOutcome::default() },
    }
}

/// The work that waits, as `(name, why, link)`.
fn waiting_work(exporter: &Exporter) -> Vec<(&'static str, Why, Option<&'static str>)> {
    let shown = |waiting: &Waiting| match &waiting.what {
        What::Work(work) => {
            (work.work.kind.name(), waiting.why, work.link.map(|link| link.because))
        }
        What::Request(request) => panic!("{request:?} is not other work"),
    };
    exporter.shared.take().iter().map(shown).collect()
}

#[test]
fn work_is_exported_if_it_is_rare_or_failed_or_slow_although_nobody_sampled_it() {
    let mut exporter = exporter(16);
    Arc::get_mut(&mut exporter.shared).unwrap().slow_us = 500;
    for kind in [
        WorkKind::Election,
        WorkKind::SnapshotWritten,
        WorkKind::SnapshotInstalled,
        WorkKind::Expiry,
        WorkKind::Verdicts,
        WorkKind::Backup,
    ] {
        exporter.offer_work(work(kind, None));
    }
    exporter.offer_work(work(WorkKind::Expiry, Some("no leader")));
    exporter.offer_work(Work { ended_us: 1_500, ..work(WorkKind::SnapshotWritten, None) });
    assert_eq!(
        waiting_work(&exporter),
        [
            ("election", Why::Rare, None),
            ("install snapshot", Why::Rare, None),
            ("backup", Why::Rare, Some("leader_since")),
            ("expire leases", Why::Error, Some("leader_since")),
            ("write snapshot", Why::Slow, None),
        ]
    );
    Arc::get_mut(&mut exporter.shared).unwrap().sampler = Sampler::new(1.0);
    exporter.offer_work(work(WorkKind::Verdicts, None));
    let expected = ("change health verdicts", Why::Sampled, Some("leader_since"));
    assert_eq!(waiting_work(&exporter), [expected]);
}

#[test]
fn work_is_linked_to_the_request_or_to_the_election_that_explains_it() {
    let exporter = exporter(16);
    exporter.offer_work(work(WorkKind::Expiry, Some("before any election")));
    exporter.offer_work(work(WorkKind::Election, Some("another term began")));
    exporter.offer_work(work(WorkKind::Election, None));
    exporter.offer_work(work(WorkKind::Expiry, Some("late")));
    exporter.offer_work(work(WorkKind::Election, None));
    let traceparent = format!("00-{}-00000000000003e8-01", "07".repeat(16));
    let asked_by = Some(traceparent.into_boxed_str());
    exporter.offer_work(Work { asked_by, ..work(WorkKind::Backup, None) });
    let waiting = exporter.shared.take();
    let works: Vec<&TracedWork> = waiting
        .iter()
        .map(|waiting| match &waiting.what {
            What::Work(work) => work,
            What::Request(request) => panic!("{request:?} is not other work"),
        })
        .collect();
    let [before, failed, first, expiry, second, backup] = &works[..] else { panic!("six") };
    let linked = |work: &TracedWork| work.link.map(|link| (link.to, link.because));
    assert_eq!((linked(before), linked(failed), linked(first)), (None, None, None));
    assert_eq!(linked(expiry), Some((first.span, "leader_since")));
    assert_eq!(linked(second), Some((first.span, "previous_election")));
    assert_eq!(linked(backup), Some((NODE_SPAN, "request")));
    // The decision of the request is kept.
    assert!(backup.span.is_sampled && !second.span.is_sampled);
    assert_ne!(backup.span.trace, NODE_SPAN.trace, "it is a trace of its own");
}

#[test]
fn work_has_a_span_with_its_facts_and_spans_for_its_entry() {
    let outcome = WorkOutcome {
        index: Some(42),
        error: None,
        facts: vec![
            ("maxine.term", WorkFact::Number(3)),
            ("maxine.former_leader", WorkFact::Text("node-2".into())),
        ],
    };
    let applied_us = Some((1_200, 1_300));
    let link = Some(Link { to: NODE_SPAN, because: "previous_election" });
    let span = SpanName { trace: [9; 16], id: 500, is_sampled: false };
    let work = Work { applied_us, outcome, ..work(WorkKind::Election, None) };
    let mut traced = TracedWork { work, span, link };
    let mut spans = Vec::new();
    work::push_spans(&mut spans, &traced, 9_000_000, Why::Rare);
    let [whole, commit, apply] = &spans[..] else { panic!("three spans") };
    assert_eq!((&*whole.name, id(whole), parent(whole)), ("election", 500, None));
    for (name, value) in [
        ("maxine.index", "42"),
        ("maxine.term", "3"),
        ("maxine.former_leader", "node-2"),
        ("maxine.exported_because", "rare"),
    ] {
        assert_eq!(attribute(whole, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!((whole.links[0].trace_id.as_slice(), whole.status.is_none()), (&[7; 16][..], true));
    assert_eq!((&*commit.name, parent(commit)), ("commit", Some(500)));
    assert_eq!((&*apply.name, parent(apply)), ("apply", Some(500)));
    assert_eq!(commit.start_time_unix_nano, 9_001_000_000);
    assert_eq!(commit.end_time_unix_nano, apply.start_time_unix_nano);
    traced.work.applied_us = None;
    traced.work.outcome.error = Some("the disk is full".into());
    spans.clear();
    work::push_spans(&mut spans, &traced, 0, Why::Error);
    let [failed] = &spans[..] else { panic!("one span") };
    assert_eq!(failed.status.as_ref().unwrap().message, "the disk is full");
}
