//! The formats of Maxine's own log: text, JSON, and lines for journald.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use crate::config::OwnLogFormat;
use maxine_telemetry::{LogLine, LogOutbox};

/// Formats an event as one line, and offers it for export.
pub(super) struct EventFormat {
    form: Form,
    /// Where lines wait for their export; `None` if they are not exported.
    outbox: Option<LogOutbox>,
}

enum Form {
    /// Text with the time.
    Text(Format),
    /// The same after the priority. The file of the log gets it without the priority.
    WithPriority(Format),
    /// Text without the time, which journald adds, after the priority.
    WithoutTime(Format<Full, ()>),
    /// A JSON object.
    Json,
}

impl EventFormat {
    /// The format of the settings. `has_files`: the same lines are written to files.
    pub(super) fn new(format: OwnLogFormat, has_files: bool, outbox: Option<LogOutbox>) -> Self {
        let form = match format {
            OwnLogFormat::Text => Form::Text(format::format()),
            OwnLogFormat::Json => Form::Json,
            OwnLogFormat::Journald if has_files => Form::WithPriority(format::format()),
            OwnLogFormat::Journald => Form::WithoutTime(format::format().without_time()),
        };
        Self { form, outbox }
    }
}

impl<S, N> FormatEvent<S, N> for EventFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if let Some(outbox) = &self.outbox {
            outbox.offer(line_of(event));
        }
        match &self.form {
            Form::Text(text) => text.format_event(context, writer, event),
            Form::WithPriority(text) => {
                write!(writer, "<{}>", priority(*event.metadata().level()))?;
                text.format_event(context, writer, event)
            }
            Form::WithoutTime(text) => {
                write!(writer, "<{}>", priority(*event.metadata().level()))?;
                text.format_event(context, writer, event)
            }
            Form::Json => writeln!(writer, "{}", json_of(event)),
        }
    }
}

/// The line that says how many lines were lost, with its end.
pub(super) fn lost_line(format: OwnLogFormat, lost: u64) -> String {
    let what = format!("{lost} lines of the log were dropped: they could not be written");
    match format {
        OwnLogFormat::Text => format!("({what})\n"),
        OwnLogFormat::Journald => format!("<{}>({what})\n", priority(Level::WARN)),
        OwnLogFormat::Json => {
            let fields = Map::from_iter([("dropped".to_owned(), lost.into())]);
            format!("{}\n", object(Level::WARN, module_path!(), what, fields))
        }
    }
}

/// A line without the priority for journald.
pub(super) fn without_priority(line: &[u8]) -> &[u8] {
    match line {
        [b'<', b'0'..=b'7', b'>', rest @ ..] => rest,
        _ => line,
    }
}

/// The priority of a level, as syslog and journald number it.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn line_of(event: &Event<'_>) -> LogLine {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let Fields { message, target, others } = fields;
    let target = target.unwrap_or_else(|| metadata.target().to_owned());
    LogLine { level: *metadata.level(), target, message, fields: others }
}

fn json_of(event: &Event<'_>) -> String {
    let LogLine { level, target, message, fields } = line_of(event);
    object(level, &target, message, fields)
}

fn object(level: Level, target: &str, message: String, fields: Map<String, Value>) -> String {
    let mut time = String::new();
    // A text takes everything, and the time of the machine can be written.
    let _unknown = SystemTime.format_time(&mut Writer::new(&mut time));
    let mut line = Map::new();
    line.insert("time".into(), time.into());
    line.insert("level".into(), level.as_str().into());
    line.insert("target".into(), target.into());
    line.insert("message".into(), message.into());
    if !fields.is_empty() {
        line.insert("fields".into(), fields.into());
    }
    escaped(&Value::Object(line).to_string())
}

/// The same JSON, with escapes for all characters that could begin another line or control a terminal. They can only be
/// inside of strings.
fn escaped(json: &str) -> String {
    if maxine_wording::escape_control(json) == json {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        let (mut bytes, mut units) = ([0; 4], [0; 2]);
        let text: &str = c.encode_utf8(&mut bytes);
        if maxine_wording::escape_control(text) == text {
            out.push(c);
        } else {
            let units = c.encode_utf16(&mut units).iter();
            out.extend(units.map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    /// The target of a line of a library that uses `log`.
    target: Option<String>,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = text_of(value),
            "log.target" => self.target = Some(text_of(value)),
            // Where a library that uses `log` has the line in its source.
            name if name.starts_with("log.") => {}
            name => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_begin_a_line_in_json_is_escaped_and_stays_json() {
        let hostile = "a\nb\u{1b}[2J\u{9b}\u{202e}\u{2028}é\"";
        let fields = Map::from_iter([("text".to_owned(), hostile.into())]);
        let line = object(Level::INFO, "maxine", hostile.into(), fields);
        assert_eq!(maxine_wording::escape_control(&line), line);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&value["message"], &value["fields"]["text"]),
            (&hostile.into(), &hostile.into())
        );
        assert_eq!((&value["level"], &value["target"]), (&"INFO".into(), &"maxine".into()));
        assert!(value["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn only_the_priority_is_taken_from_the_beginning_of_a_line() {
        for (line, rest) in [("<6> INFO x", " INFO x"), ("<x>", "<x>"), ("<9>", "<9>"), ("", "")] {
            assert_eq!(without_priority(line.as_bytes()), rest.as_bytes());
        }
    }
}
