//! Compares `docs/reference/metrics.md` with the metrics of a running node, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::dev::PATIENCE;
use crate::in_process::node;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md");
/// What precedes the generated part of the page.
const BEGIN: &str = "<!-- Generated from a running node by tests/cluster/metrics.rs -->\n";

/// One metric as a node shows it.
#[derive(Default)]
struct Metric {
    help: String,
    kind: String,
    /// The values of each label, from all series.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Reads Prometheus' text format, as far as a node writes it: no value of a label has a comma or a quote.
fn parse(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            metrics.entry(name.into()).or_default().help = help.into();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            metrics.entry(name.into()).or_default().kind = kind.into();
        } else if let Some((name, rest)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|name| metrics.contains_key(*name)))
                .unwrap_or(name);
            let metric = metrics.get_mut(name).unwrap_or_else(|| panic!("{line} has no type"));
            for pair in rest.split_once('}').unwrap().0.split(',') {
                let (label, value) = pair.split_once('=').unwrap();
                if label != "le" {
                    let values = metric.labels.entry(label.into()).or_default();
                    values.insert(value.trim_matches('"').into());
                }
            }
        }
    }
    metrics
}

fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "seconds",
        Some("ms") => "milliseconds",
        Some("bytes") => "bytes",
        _ => "number",
    }
}

fn page(metrics: &BTreeMap<String, Metric>) -> String {
    let mut page =
        format!("{BEGIN}\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for (name, metric) in metrics {
        let label =
            |(label, values): (&String, &BTreeSet<String>)| format!("`{label}` ({})", values.len());
        let labels: Vec<String> = metric.labels.iter().map(label).collect();
        let (kind, unit, help) = (&metric.kind, unit(name), &metric.help);
        writeln!(page, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join(", ")).unwrap();
    }
    page.push_str("\n## Values of the labels\n\nNo label has other values than these.\n\n| metric | label | values |\n|---|---|---|\n");
    for (name, metric) in metrics {
        for (label, values) in &metric.labels {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            writeln!(page, "| `{name}` | `{label}` | {} |", values.join(", ")).unwrap();
        }
    }
    page
}

/// `MAXINE_UPDATE=1 cargo test --test cluster metrics` writes the generated part anew.
#[test]
fn the_reference_has_exactly_the_metrics_of_a_node() {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    let text = system.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path()).await;
        let token = std::fs::read_to_string(dir.path().join("break-glass")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/api/actuator/prometheus", node.http_addr());
        let started = Instant::now();
        // Some metrics are shown only once the node has a state.
        let text = loop {
            let request = client.get(&url).bearer_auth(token.trim());
            let text = request.send().await.unwrap().text().await.unwrap();
            if text.contains("\nmaxine_registry_instances ") {
                break text;
            }
            assert!(started.elapsed() < PATIENCE, "{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        node.stop().await;
        text
    });
    let shown = parse(&text);
    let generated = page(&shown);
    let committed = std::fs::read_to_string(PAGE).unwrap_or_default();
    let (head, described) = committed.split_once(BEGIN).unwrap_or((&committed, ""));
    if std::env::var_os("MAXINE_UPDATE").is_some() {
        std::fs::write(PAGE, format!("{head}{generated}")).unwrap();
        return;
    }
    let names = |page: &str| -> BTreeSet<String> {
        let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
        page.lines().filter_map(name).collect()
    };
    let (described_names, shown_names) = (names(described), names(&generated));
    let missing: Vec<_> = shown_names.difference(&described_names).collect();
    let unknown: Vec<_> = described_names.difference(&shown_names).collect();
    assert!(missing.is_empty(), "the page does not describe {missing:?}");
    assert!(unknown.is_empty(), "no node has {unknown:?}");
    assert!(
        format!("{BEGIN}{described}") == generated,
        "docs/reference/metrics.md is not what a node says; run: MAXINE_UPDATE=1 cargo test --test cluster metrics",
    );
}
