//! The HTML page of a run: the timeline as a picture, then the figures, in one file without external
//! resources.

use std::fmt::Write as _;

use super::{Report, leaders};
use crate::journal::{Ended, Records};

const WIDTH: u64 = 1_400;
const LEFT: u64 = 90;
/// Number of columns in the picture.
const COLUMNS: usize = 700;

/// The complete page.
pub(super) fn page(report: &Report, records: &Records) -> String {
    let mut page = String::new();
    let title = format!(
        "{} on {}, seed {}",
        report.start.scenario, report.start.backend, report.start.seed
    );
    let verdict = if report.is_clean() { "no anomaly" } else { "ANOMALIES" };
    push(
        &mut page,
        format_args!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>\
         <p class={2}>{3} episodes, {4} operations, {5} s: <b>{1}</b></p>",
            escape(&title),
            verdict,
            if report.is_clean() { "good" } else { "bad" },
            report.episodes,
            report.operations_total,
            report.took_s,
        ),
    );
    timeline(&mut page, records);
    anomalies(&mut page, report);
    faults(&mut page, report);
    operations(&mut page, report);
    page
}

const STYLE: &str = "body{font:14px system-ui;margin:2em;max-width:1440px}table{border-collapse:collapse;margin:1em 0}\
    td,th{padding:3px 10px;border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child{text-align:left}\
    .good b{color:#06703c}.bad b{color:#b00020}svg{background:#fafafa;border:1px solid #ccc}";

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string cannot fail");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Operations by outcome, their latency, faults and leaders over time.
fn timeline(page: &mut String, records: &Records) {
    let end_us =
        records.operations.iter().map(|operation| operation.end_us).max().unwrap_or(0).max(1);
    let at = |us: u64| LEFT + us.min(end_us) * (WIDTH - LEFT) / end_us;
    let mut columns = vec![(0_u64, 0_u64, 0_u64, 0_u64); COLUMNS];
    for operation in &records.operations {
        let nth = usize::try_from(operation.end_us * (COLUMNS as u64 - 1) / end_us).unwrap_or(0);
        let column = &mut columns[nth.min(COLUMNS - 1)];
        match operation.ended {
            Ended::Ok => {
                column.0 += 1;
                column.3 = column.3.max(operation.end_us - operation.start_us);
            }
            Ended::Refused => column.1 += 1,
            Ended::Unknown => column.2 += 1,
        }
    }
    let most = columns
        .iter()
        .map(|(ok, refused, unknown, _)| ok + refused + unknown)
        .max()
        .unwrap_or(0)
        .max(1);
    let slowest = columns.iter().map(|column| column.3).max().unwrap_or(0).max(1);
    push(
        page,
        format_args!("<svg width={WIDTH} height=420 role=img aria-label='timeline of the run'>"),
    );
    for (y, label) in [(70, "operations"), (200, "slowest ok"), (270, "faults"), (320, "leader")] {
        push(page, format_args!("<text x=4 y={y} font-size=12>{label}</text>"));
    }
    let step = (WIDTH - LEFT) as f64 / COLUMNS as f64;
    for (nth, (ok, refused, unknown, slow)) in columns.iter().enumerate() {
        let x = LEFT as f64 + nth as f64 * step;
        let mut y = 140.0;
        for (count, colour) in [(ok, "#3b82c4"), (refused, "#e0a030"), (unknown, "#b00020")] {
            let height = *count as f64 * 120.0 / most as f64;
            y -= height;
            if *count > 0 {
                push(
                    page,
                    format_args!(
                        "<rect x={x:.1} y={y:.1} width={step:.1} height={height:.1} fill='{colour}'/>"
                    ),
                );
            }
        }
        let height = *slow as f64 * 80.0 / slowest as f64;
        push(
            page,
            format_args!(
                "<rect x={x:.1} y={:.1} width={step:.1} height={height:.1} fill='#888'/>",
                240.0 - height
            ),
        );
    }
    for fault in &records.faults {
        let (x, until) = (at(fault.start_us), at(fault.end_us).max(at(fault.start_us) + 2));
        let recovered = at(fault.end_us + fault.recovery_us);
        push(
            page,
            format_args!(
                "<rect x={x} y=255 width={} height=20 fill='#b00020'><title>{} {:?}</title></rect>\
             <rect x={until} y=255 width={} height=20 fill='#e9b5bd'><title>recovery {} ms</title></rect>",
                until - x,
                escape(&fault.kind),
                fault.nodes,
                recovered.saturating_sub(until),
                fault.recovery_us / 1_000,
            ),
        );
    }
    for anomaly in &records.anomalies {
        let x = at(anomaly.at_us);
        push(
            page,
            format_args!(
                "<path d='M{x} 252 l-5 -9 h10 z' fill='#000'><title>{}: {}</title></path>",
                escape(&anomaly.check),
                escape(&anomaly.detail)
            ),
        );
    }
    for claim in leaders(records) {
        let (x, until) = (at(claim.start_us), at(claim.end_us).max(at(claim.start_us) + 1));
        let colour = ["#555", "#1b7f5c", "#7a4fb5", "#c26a1d", "#2563a8"]
            [usize::try_from(claim.node % 5).unwrap_or(0)];
        push(
            page,
            format_args!(
                "<rect x={x} y={} width={} height=14 fill='{colour}'><title>node {} leads</title></rect>",
                295 + 18 * (claim.node % 5),
                until - x,
                claim.node,
            ),
        );
    }
    push(
        page,
        format_args!(
            "<text x={LEFT} y=412 font-size=12>0 s</text><text x={} y=412 font-size=12>{} s</text></svg>\
         <p>Blue: acknowledged. Yellow: refused. Red: outcome unknown. \
         A black mark over the faults: an anomaly. At most {most} in a column; slowest answer {} ms.</p>",
            WIDTH - 60,
            end_us / 1_000_000,
            slowest / 1_000,
        ),
    );
}

fn anomalies(page: &mut String, report: &Report) {
    if let Some(error) = &report.harness_error {
        push(page, format_args!("<h2>The run ended early</h2><pre>{}</pre>", escape(error)));
    }
    push(page, format_args!("<h2>Anomalies: {}</h2><ul>", report.anomalies.len()));
    for anomaly in &report.anomalies {
        push(
            page,
            format_args!(
                "<li>{} s, {}: {}",
                anomaly.at_us / 1_000_000,
                escape(&anomaly.check),
                escape(&anomaly.detail)
            ),
        );
    }
    push(page, format_args!("</ul>"));
}

fn faults(page: &mut String, report: &Report) {
    push(
        page,
        format_args!(
            "<h2>Faults</h2><table><tr><th>kind<th>count<th>hit the leader<th>no write, p50 ms<th>max ms\
         <th>leader hit: p50 ms<th>max ms<th>recovery, p50 ms<th>max ms"
        ),
    );
    for (kind, figures) in &report.faults {
        push(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
                escape(kind),
                figures.count,
                figures.hit_leader,
                figures.unavailable.p50_ms,
                figures.unavailable.max_ms,
                figures.unavailable_leader_hit.p50_ms,
                figures.unavailable_leader_hit.max_ms,
                figures.recovery.p50_ms,
                figures.recovery.max_ms,
            ),
        );
    }
    push(page, format_args!("</table>"));
    for (fault, missing) in &report.skipped {
        push(page, format_args!("<p>Left out: {}, for want of {}", escape(fault), escape(missing)));
    }
}

fn operations(page: &mut String, report: &Report) {
    push(page, format_args!("<h2>Operations</h2><table><tr><th>kind<th>ok<th>refused<th>unknown"));
    for (kind, outcomes) in &report.operations {
        let count = |name: &str| outcomes.get(name).copied().unwrap_or(0);
        push(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td>{}<td>{}",
                escape(kind),
                count("ok"),
                count("refused"),
                count("unknown"),
            ),
        );
    }
    push(page, format_args!("</table><h2>Checks</h2><table>"));
    for (name, value) in &report.checks {
        push(page, format_args!("<tr><td>{}<td>{value}", escape(&name.replace('_', " "))));
    }
    push(
        page,
        format_args!("<tr><td>answers to who leads<td>{}</table>", report.leadership_answers),
    );
}
