//! The formats in which metrics are shown: Prometheus' text format, and OpenMetrics, which can carry exemplars.

use parking_lot::Mutex;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

/// A format for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format, version 0.0.4.
    #[default]
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// The format for a client with this `Accept`: OpenMetrics only if the client names it and does not prefer text.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let ranges = || accept.split(',').filter_map(read_range);
        let best = |wanted: Self| {
            let of_format = ranges().filter(|(format, _)| *format == wanted);
            of_format.map(|(_, quality)| quality).fold(0.0, f64::max)
        };
        let open = best(Self::OpenMetrics);
        if open > 0.0 && open >= best(Self::Text) { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A format that a client accepts, with its quality. `None` for any other media type and any other version.
fn read_range(range: &str) -> Option<(Exposition, f64)> {
    let mut parts = range.split(';').map(str::trim);
    let format = match parts.next()?.to_ascii_lowercase().as_str() {
        "text/plain" => Exposition::Text,
        "application/openmetrics-text" => Exposition::OpenMetrics,
        _ => return None,
    };
    let mut quality = 1.0;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => quality = value.trim().parse().ok()?,
            "version" if format == Exposition::OpenMetrics && value.trim() != "1.0.0" => {
                return None;
            }
            _ => {}
        }
    }
    Some((format, quality))
}

/// For each bucket of a histogram, the newest request whose trace was exported.
#[derive(Debug)]
pub(super) struct Exemplars {
    /// The name of the histogram.
    name: &'static str,
    /// The upper bounds of the buckets but the last one, which has none, in seconds.
    bounds: Vec<f64>,
    newest: Mutex<Vec<Option<Exemplar>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Exemplar {
    trace: [u8; 16],
    seconds: f64,
    /// When it was observed, in milliseconds since 1970.
    at_ms: u64,
}

impl Exemplars {
    pub(super) fn new(name: &'static str, bounds: &[f64]) -> Self {
        let newest = Mutex::new(vec![None; bounds.len() + 1]);
        Self { name, bounds: bounds.to_vec(), newest }
    }

    /// Notes an observation whose trace is exported.
    pub(super) fn note(&self, trace: [u8; 16], seconds: f64, at_ms: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.newest.lock()[bucket] = Some(Exemplar { trace, seconds, at_ms });
    }

    /// The end of the line of a bucket; empty without an exemplar.
    fn of_bucket(&self, bucket: usize) -> String {
        let newest = self.newest.lock().get(bucket).copied().flatten();
        let Some(Exemplar { trace, seconds, at_ms }) = newest else { return String::new() };
        let trace: String = trace.iter().map(|byte| format!("{byte:02x}")).collect();
        let (s, ms) = (at_ms / 1_000, at_ms % 1_000);
        format!(" # {{trace_id=\"{trace}\"}} {seconds} {s}.{ms:03}")
    }
}

/// All families in a format. What cannot be written is left out and logged.
pub(super) fn write(
    families: &[MetricFamily],
    format: Exposition,
    exemplars: &Exemplars,
) -> String {
    match format {
        Exposition::Text => text_of(families),
        Exposition::OpenMetrics => {
            let mut out = String::new();
            families.iter().for_each(|family| push_open_metrics(&mut out, family, exemplars));
            out.push_str("# EOF\n");
            out
        }
    }
}

fn text_of(families: &[MetricFamily]) -> String {
    let mut out = Vec::new();
    if let Err(error) = TextEncoder::new().encode(families, &mut out) {
        tracing::error!(%error, "the metrics could not be encoded");
    }
    String::from_utf8(out).unwrap_or_default()
}

/// Appends a family. Its samples are written as in the text format. A counter's family has its name without `_total`.
fn push_open_metrics(out: &mut String, family: &MetricFamily, exemplars: &Exemplars) {
    let counter = family.name().strip_suffix("_total");
    let (name, kind) = match (family.get_field_type(), counter) {
        (MetricType::COUNTER, Some(counter)) => (counter, "counter"),
        (MetricType::GAUGE, _) => (family.name(), "gauge"),
        (MetricType::HISTOGRAM, _) => (family.name(), "histogram"),
        (MetricType::SUMMARY, _) => (family.name(), "summary"),
        (MetricType::COUNTER | MetricType::UNTYPED, _) => (family.name(), "unknown"),
    };
    let help = family.help().replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
    out.push_str(&format!("# TYPE {name} {kind}\n# HELP {name} {help}\n"));
    let bucket = format!("{}_bucket{{", exemplars.name);
    let mut buckets = 0;
    let text = text_of(std::slice::from_ref(family));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        out.push_str(line);
        if line.starts_with(&bucket) {
            out.push_str(&exemplars.of_bucket(buckets));
            buckets += 1;
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

    use super::*;

    #[test]
    fn open_metrics_are_chosen_only_by_a_client_that_names_them() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.7,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Exposition::OpenMetrics),
            ("Application/OpenMetrics-Text", Exposition::OpenMetrics),
            ("text/plain;q=0.5, application/openmetrics-text; q=0.5", Exposition::OpenMetrics),
            ("", Exposition::Text),
            ("*/*", Exposition::Text),
            ("text/plain", Exposition::Text),
            ("text/plain, application/openmetrics-text;q=0.9", Exposition::Text),
            ("application/openmetrics-text;q=0", Exposition::Text),
            ("application/openmetrics-text;version=0.0.1", Exposition::Text),
            ("application/openmetrics-text;q=high", Exposition::Text),
        ] {
            assert_eq!(Exposition::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn families_are_written_as_open_metrics_with_the_traces_of_exported_requests() {
        let registry = Registry::new();
        let opts = Opts::new("calls_total", "Calls of a \"kind\"");
        let calls = IntCounterVec::new(opts, &["kind"]).unwrap();
        let age = Gauge::new("age_seconds", "The age").unwrap();
        let bounds = [0.125, 1.0];
        let opts = HistogramOpts::new("took_seconds", "The time").buckets(bounds.to_vec());
        let took = Histogram::with_opts(opts).unwrap();
        registry.register(Box::new(calls.clone())).unwrap();
        registry.register(Box::new(age.clone())).unwrap();
        registry.register(Box::new(took.clone())).unwrap();
        calls.with_label_values(&["a"]).inc_by(3);
        age.set(f64::NAN);
        let exemplars = Exemplars::new("took_seconds", &bounds);
        for (trace, seconds) in [(1, 0.125), (2, 0.0625), (3, 7.5)] {
            took.observe(seconds);
            exemplars.note([trace; 16], seconds, 1_700_000_000_042);
        }
        let text = write(&registry.gather(), Exposition::OpenMetrics, &exemplars);
        let (second, third) = ("02".repeat(16), "03".repeat(16));
        let expected = format!(
            "# TYPE age_seconds gauge\n\
             # HELP age_seconds The age\n\
             age_seconds NaN\n\
             # TYPE calls counter\n\
             # HELP calls Calls of a \\\"kind\\\"\n\
             calls_total{{kind=\"a\"}} 3\n\
             # TYPE took_seconds histogram\n\
             # HELP took_seconds The time\n\
             took_seconds_bucket{{le=\"0.125\"}} 2 # {{trace_id=\"{second}\"}} 0.0625 1700000000.042\n\
             took_seconds_bucket{{le=\"1\"}} 2\n\
             took_seconds_bucket{{le=\"+Inf\"}} 3 # {{trace_id=\"{third}\"}} 7.5 1700000000.042\n\
             took_seconds_sum 7.6875\n\
             took_seconds_count 3\n\
             # EOF\n"
        );
        assert_eq!(text, expected);
        let plain = write(&registry.gather(), Exposition::Text, &exemplars);
        assert!(plain.contains("# TYPE calls_total counter\n") && !plain.contains("trace_id"));
    }
}
