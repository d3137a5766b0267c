//! The figures as a table, as JSON and as Markdown, in one form for all measurements.

use serde_json::{Value, json};

use maxine::cli::output::render;

/// The results of one run.
pub(super) struct Report {
    /// A description of the machine: processor, cores, kernel and file system.
    pub machine: String,
    /// Conditions of the run that a reader of the figures must know.
    pub notes: Vec<String>,
    /// One per measurement.
    pub sections: Vec<Section>,
}

/// One measurement.
pub(super) struct Section {
    /// Its name.
    pub name: &'static str,
    /// How it was measured, and how the sides were made comparable.
    pub method: String,
    /// The names of the figures.
    pub columns: Vec<&'static str>,
    /// The figures, one for each column.
    pub rows: Vec<Vec<Value>>,
    /// The aims, and whether they were met.
    pub goals: Vec<Goal>,
}

/// An aim and its result.
pub(super) struct Goal {
    /// What is measured.
    pub text: String,
    /// The aim, as text.
    pub aim: String,
    /// The measured value.
    pub seen: String,
    /// Whether the aim was met.
    pub met: bool,
}

impl Report {
    /// The text for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        for note in &self.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        for section in &self.sections {
            text.push_str(&format!(
                "\n== {} ==\n{}\n\n{}\n",
                section.name,
                section.method,
                section.table()
            ));
            for goal in &section.goals {
                text.push_str(&format!("{}\n", goal.line()));
            }
        }
        text
    }

    /// The JSON for scripts.
    pub(super) fn json(&self) -> Value {
        let sections: Vec<Value> = self.sections.iter().map(Section::json).collect();
        json!({"machine": self.machine, "notes": self.notes, "sections": sections})
    }

    /// The Markdown for the documentation.
    pub(super) fn markdown(&self, command: &str) -> String {
        let mut text = format!(
            "# Benchmark figures\n\nMade by `{command}`; do not edit.\n\n{}\n",
            self.machine
        );
        for note in &self.notes {
            text.push_str(&format!("\n> {note}\n"));
        }
        for section in &self.sections {
            text.push_str(&format!("\n## {}\n\n{}\n\n", section.name, section.method));
            text.push_str(&format!(
                "| {} |\n|{}\n",
                section.columns.join(" | "),
                " --- |".repeat(section.columns.len())
            ));
            for row in &section.rows {
                let cells: Vec<String> = row.iter().map(cell).collect();
                text.push_str(&format!("| {} |\n", cells.join(" | ")));
            }
            text.push('\n');
            for goal in &section.goals {
                text.push_str(&format!("- {}\n", goal.line()));
            }
        }
        text
    }
}

impl Section {
    fn table(&self) -> String {
        render(&self.columns, self.rows.iter().map(|row| row.iter().map(cell).collect()).collect())
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                self.columns
                    .iter()
                    .map(|name| (*name).to_owned())
                    .zip(row.iter().cloned())
                    .collect()
            })
            .collect();
        let goals: Vec<Value> = self
            .goals
            .iter()
            .map(|goal| json!({"text": goal.text, "aim": goal.aim, "seen": goal.seen, "met": goal.met}))
            .collect();
        json!({"name": self.name, "method": self.method, "rows": rows, "goals": goals})
    }
}

impl Goal {
    fn line(&self) -> String {
        let mark = if self.met { "met" } else { "NOT MET" };
        format!("{}: {} (aim: {}) {mark}", self.text, self.seen, self.aim)
    }
}

/// A figure for people. A number that is not whole has two decimals below 10, one below 100, and none from 100 on.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(n) if n.fract() != 0.0 && n.abs() < 10.0 => format!("{n:.2}"),
            Some(n) if n.fract() != 0.0 && n.abs() < 100.0 => format!("{n:.1}"),
            Some(n) => format!("{n:.0}"),
            None => number.to_string(),
        },
        value => value.to_string(),
    }
}

/// Milliseconds from microseconds.
pub(super) fn ms(us: u64) -> Value {
    #[allow(clippy::cast_precision_loss, reason = "a latency in microseconds is far below 2^52")]
    let ms = us as f64 / 1_000.0;
    json!(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_same_figures_in_every_shape() {
        let section = Section {
            name: "x",
            method: "how".into(),
            columns: vec!["clients", "per second"],
            rows: vec![vec![json!(64), json!(1234.5)], vec![json!(1), Value::Null]],
            goals: vec![Goal { text: "g".into(), aim: "1".into(), seen: "2".into(), met: false }],
        };
        let report =
            Report { machine: "m".into(), notes: vec!["n".into()], sections: vec![section] };
        assert!(report.text().contains("1234") && report.text().contains("NOT MET"));
        assert!(
            report.markdown("c").contains("| 64 | 1234 |\n| 1 | - |"),
            "{}",
            report.markdown("c")
        );
        assert_eq!(report.json()["sections"][0]["rows"][0]["per second"], 1234.5);
    }
}
