//! The output of commands: tables for people, JSON lines for scripts.
//!
//! A command writes each result once, through [`Output`]. The format decides only what is shown, and never
//! what a command does.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};

use comfy_table::{ContentArrangement, Table, presets};
use maxine_state::is_invisible;
use serde_json::Value;

use super::exit::CliError;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences, for people
    #[default]
    Table,
    /// One JSON document per line, as the server sent it, for scripts
    Json,
}

/// The format flag, which every command with results has.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// How to write results
    #[arg(
        long = "output",
        short = 'o',
        env = "MAXINE_OUTPUT",
        value_enum,
        value_name = "FORMAT",
        global = true,
        default_value_t = Format::Table
    )]
    pub format: Format,
}

/// Whether a command line that cannot be parsed asks for JSON.
pub(super) fn wants_json(args: &[OsString]) -> bool {
    let mut args = args.iter().skip(1).map(|arg| arg.to_string_lossy());
    let mut asked = std::env::var("MAXINE_OUTPUT").ok();
    while let Some(arg) = args.next().filter(|arg| arg != "--") {
        let joined = arg.strip_prefix("--output=").or_else(|| {
            let value = arg.strip_prefix("-o").filter(|_| !arg.starts_with("--"))?;
            Some(value.strip_prefix('=').unwrap_or(value))
        });
        match joined {
            _ if arg == "--output" || arg == "-o" => asked = args.next().map(Into::into),
            Some(value) => asked = Some(value.to_owned()),
            None => {}
        }
    }
    asked.is_some_and(|format| format == "json")
}

/// The stream to which a command writes its results.
pub struct Output {
    format: Format,
    sink: Box<dyn Write + Send>,
}

impl Output {
    /// Writes to `sink`.
    pub fn new(format: Format, sink: Box<dyn Write + Send>) -> Self {
        Self { format, sink }
    }

    /// Writes to the process's standard output.
    #[must_use]
    pub fn stdout(format: Format) -> Self {
        Self::new(format, Box::new(std::io::stdout()))
    }

    /// How results are written.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether scripts read the output.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes one line of JSON.
    ///
    /// # Errors
    /// [`CliError::OutputClosed`] when the reader went away.
    pub fn json(&mut self, value: &Value) -> Result<(), CliError> {
        self.write(&value.to_string())
    }

    /// Writes text for people, of one or more lines.
    ///
    /// # Errors
    /// [`CliError::OutputClosed`] when the reader went away.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), CliError> {
        self.write(&printable_lines(&text.to_string()))
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// [`CliError::OutputClosed`] when the reader went away.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.sink.write_all(bytes).and_then(|()| self.sink.flush());
        written.map_err(|error| not_written(&error))
    }

    fn write(&mut self, text: &str) -> Result<(), CliError> {
        let written = writeln!(self.sink, "{text}").and_then(|()| self.sink.flush());
        written.map_err(|error| not_written(&error))
    }

    /// Writes a table.
    ///
    /// # Errors
    /// [`CliError::OutputClosed`] when the reader went away.
    pub fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), CliError> {
        let text = render(header, rows);
        self.line(text)
    }

    /// Reports that a change was made: scripts get the server's answer, people get a sentence. If neither can
    /// be written, the change is still made, so the error then contains the sentence.
    ///
    /// # Errors
    /// [`CliError::OutputClosed`] when the reader went away, [`CliError::OutputFailed`] when it cannot be written.
    pub fn done(&mut self, value: &Value, text: impl std::fmt::Display) -> Result<(), CliError> {
        let text = text.to_string();
        let written = if self.is_json() { self.json(value) } else { self.line(&text) };
        written.map_err(|error| match error {
            CliError::OutputFailed { why, .. } => CliError::OutputFailed { why, lost: Some(text) },
            other => other,
        })
    }
}

fn not_written(error: &std::io::Error) -> CliError {
    match error.kind() {
        ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::OutputFailed { why: maxine_wording::io(error), lost: None },
    }
}

/// A table with aligned columns and without borders. Control characters in cells are escaped, so that
/// registered texts cannot control the terminal.
#[must_use]
pub fn render(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    table.trim_fmt()
}

/// `text` in which every character is escaped that controls a terminal, changes the order of the text, or is
/// invisible.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_shown(c) { c.to_string() } else { escaped(c) }).collect()
}

/// The same for text of several lines: line breaks stay.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    let each = |c: char| if c == '\n' || is_shown(c) { c.to_string() } else { escaped(c) };
    text.chars().map(each).collect()
}

fn escaped(c: char) -> String {
    c.escape_unicode().to_string()
}

/// Whether a character is written unchanged: it is visible, or belongs to a visible one.
fn is_shown(c: char) -> bool {
    !is_invisible(c)
}

/// A duration for people: `850ms`, `12s`, `3m 4s`, `5h 2m`, `3d 1h`.
#[must_use]
pub fn human_ms(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Milliseconds since 1970 as `2026-11-23T17:00:00.000Z`; the number itself if it is out of range for a date.
#[must_use]
pub fn timestamp(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |at| format!("{at:.3}"))
}

/// `-` where there is nothing to show.
#[must_use]
pub fn or_dash(text: Option<impl std::fmt::Display>) -> String {
    text.map_or_else(|| "-".into(), |text| text.to_string())
}

/// What a command wrote, for tests.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Sink(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Sink {
    /// All that was written.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk without room for the output.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_done_is_said_where_the_result_cannot_be_written() {
        for format in [Format::Table, Format::Json] {
            let mut out = Output::new(format, Box::new(Full));
            let error = out.done(&Value::Null, "registered a in default/s (index 7)").unwrap_err();
            let expected = "the result could not be written: no storage space; it was: registered a in default/s (index 7)";
            assert_eq!(
                (&*error.to_string(), error.exit_code()),
                (expected, crate::cli::exit::FAILURE)
            );
        }
        let error = Output::new(Format::Table, Box::new(Full)).line("x").unwrap_err();
        assert_eq!(error.to_string(), "the result could not be written: no storage space");
    }

    #[test]
    fn tables_line_up_and_cannot_steer_the_terminal() {
        let text = render(
            &["name", "n"],
            vec![vec!["a\u{1b}[2J".into(), "1".into()], vec!["bb".into(), "22".into()]],
        );
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(text.starts_with(" NAME") || text.starts_with("NAME"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn durations_and_times_read_well() {
        assert_eq!(human_ms(850), "850ms");
        assert_eq!(human_ms(184_000), "3m 4s");
        assert_eq!(human_ms(90_000_000), "1d 1h");
        assert_eq!(timestamp(1_795_440_992_705), "2026-11-23T13:36:32.705Z");
    }
}
