//! Reads which requests an objective counts from the expression that it gives Prometheus, so that a node and the
//! recording rules count the same ones.
//!
//! An expression adds and subtracts terms `rate(NAME{LABEL="VALUE", ...}[WINDOW])`. What is around them (`sum by`,
//! `clamp_min`) does not change which requests count.

use prometheus::proto::{Metric, MetricFamily};

/// The beginning of a term.
const RATE: &str = "rate(";
/// The end of a term.
const WINDOW: &str = "[WINDOW])";

/// The counters that an expression adds and subtracts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    is_subtracted: bool,
    name: String,
    matchers: Vec<Matcher>,
}

/// A condition on a label: it has one of these values, or none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Matcher {
    label: String,
    is_negated: bool,
    values: Vec<String>,
}

impl Terms {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// Says what in it is not understood.
    pub(super) fn read(expression: &str) -> Result<Self, String> {
        let mut parts = expression.split(RATE);
        let mut before = parts.next().unwrap_or_default();
        let mut terms = Vec::new();
        for part in parts {
            let (selector, after) =
                part.split_once(WINDOW).ok_or_else(|| format!("no {WINDOW} in `{part}`"))?;
            let is_subtracted = before.contains('-');
            let (name, matchers) = read_selector(selector)?;
            terms.push(Term { is_subtracted, name, matchers });
            before = after;
        }
        let mut around =
            expression.split(RATE).map(|part| part.rsplit(WINDOW).next().unwrap_or(part));
        if around.any(|part| part.contains(['*', '/', '%', '^'])) {
            return Err("terms can be added and subtracted only".into());
        }
        if terms.is_empty() { Err(format!("no {RATE} in it")) } else { Ok(Self(terms)) }
    }

    /// The sum of the counters now, at least 0.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the sum of counters is a whole number far below 2^53, and not negative here"
    )]
    pub(super) fn sum(&self, families: &[MetricFamily]) -> u64 {
        let each = self.0.iter().map(|term| {
            let value = term.sum(families);
            if term.is_subtracted { -value } else { value }
        });
        each.sum::<f64>().max(0.0) as u64
    }
}

impl Term {
    fn sum(&self, families: &[MetricFamily]) -> f64 {
        let families = families.iter().filter(|family| family.name() == self.name);
        let metrics = families.flat_map(MetricFamily::get_metric);
        let counted = metrics.filter(|metric| self.matchers.iter().all(|m| m.accepts(metric)));
        counted.map(|metric| metric.get_counter().get_value()).sum()
    }
}

impl Matcher {
    /// A label that a metric does not have is empty.
    fn accepts(&self, metric: &Metric) -> bool {
        let label = metric.get_label().iter().find(|label| label.name() == self.label);
        let value = label.map_or("", |label| label.value());
        self.values.iter().any(|each| each == value) != self.is_negated
    }
}

fn read_selector(selector: &str) -> Result<(String, Vec<Matcher>), String> {
    let Some((name, rest)) = selector.split_once('{') else {
        return Ok((selector.trim().to_owned(), Vec::new()));
    };
    let inside = rest.strip_suffix('}').ok_or_else(|| format!("no }} in `{selector}`"))?;
    let matchers = inside.split(',').map(read_matcher).collect::<Result<_, _>>()?;
    Ok((name.trim().to_owned(), matchers))
}

fn read_matcher(text: &str) -> Result<Matcher, String> {
    let unknown = || format!("`{text}` is not LABEL=\"VALUE\"");
    let (left, quoted) = text.split_once('"').ok_or_else(unknown)?;
    let value = quoted.strip_suffix('"').ok_or_else(unknown)?;
    let left = left.trim();
    let operators =
        [("=~", false, true), ("!~", true, true), ("!=", true, false), ("=", false, false)];
    let (label, is_negated, is_list) = operators
        .into_iter()
        .find_map(|(text, is_negated, is_list)| {
            Some((left.strip_suffix(text)?, is_negated, is_list))
        })
        .ok_or_else(unknown)?;
    let values: Vec<String> = match is_list {
        true => value.split('|').map(str::to_owned).collect(),
        false => vec![value.to_owned()],
    };
    let is_plain = |value: &String| value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !values.iter().all(is_plain) {
        return Err(format!("`{value}` has characters other than letters, digits and _"));
    }
    Ok(Matcher { label: label.trim().to_owned(), is_negated, values })
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

    use super::*;

    #[test]
    fn the_counters_of_an_expression_are_added_and_subtracted() {
        let registry = Registry::new();
        let by_code =
            IntCounterVec::new(Opts::new("errors_total", "e"), &["kind", "code"]).unwrap();
        let all = IntCounter::new("all_total", "a").unwrap();
        registry.register(Box::new(by_code.clone())).unwrap();
        registry.register(Box::new(all.clone())).unwrap();
        for (kind, code, number) in
            [("a", "timeout", 5), ("a", "busy", 7), ("b", "timeout", 11), ("a", "refused", 13)]
        {
            by_code.with_label_values(&[kind, code]).inc_by(number);
        }
        all.inc_by(100);
        let families = registry.gather();
        for (expression, sum) in [
            ("sum by (job) (rate(all_total[WINDOW]))", 100),
            ("rate(errors_total{kind=\"a\"}[WINDOW])", 25),
            ("rate(errors_total{kind!=\"a\"}[WINDOW])", 11),
            ("rate(errors_total{kind=\"a\",code=~\"timeout|busy\"}[WINDOW])", 12),
            ("rate(errors_total{code!~\"timeout|busy\"}[WINDOW])", 13),
            ("rate(errors_total{zone=\"\"}[WINDOW])", 36),
            (
                "clamp_min(\n  sum(rate(all_total[WINDOW]))\n  - sum(rate(errors_total[WINDOW])), 0)",
                64,
            ),
            ("rate(errors_total[WINDOW]) - rate(all_total[WINDOW])", 0),
            ("rate(all_total[WINDOW]) + rate(errors_total[WINDOW])", 136),
            ("rate(nothing_total[WINDOW])", 0),
        ] {
            assert_eq!(Terms::read(expression).unwrap().sum(&families), sum, "{expression}");
        }
    }

    #[test]
    fn an_expression_that_is_not_understood_is_refused() {
        for (expression, part) in [
            ("up", "no rate("),
            ("rate(a_total[5m])", "no [WINDOW])"),
            ("rate(a_total{x=\"1\"[WINDOW])", "no }"),
            ("rate(a_total{x>\"1\"}[WINDOW])", "is not LABEL"),
            ("rate(a_total{x=~\"1.*\"}[WINDOW])", "characters"),
            ("rate(a_total[WINDOW]) / rate(b_total[WINDOW])", "added and subtracted"),
        ] {
            let why = Terms::read(expression).unwrap_err();
            assert!(why.contains(part), "{expression}: {why}");
        }
    }
}
