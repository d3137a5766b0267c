//! Parses a `text/event-stream` from bytes to events. It does no I/O.
//!
//! Source: the HTML standard, section 9.2.6. `retry` fields are ignored.

use std::collections::VecDeque;

/// Maximum length of a line, in bytes. A longer line means that the answer is not an event stream.
const LINE_LEN_MAX: usize = 1024 * 1024;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerEvent {
    /// The `id` field, if the event has one.
    pub id: Option<String>,
    /// The `event` field; `message` without one.
    pub name: String,
    /// The `data` lines, joined by line feeds.
    pub data: String,
}

/// Collects bytes until they form events.
#[derive(Default)]
pub struct EventParser {
    line: Vec<u8>,
    after_cr: bool,
    id: Option<String>,
    name: String,
    data: Option<String>,
    ready: VecDeque<ServerEvent>,
}

impl EventParser {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// When a line is too long.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            let skip = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                b'\n' if skip => {}
                b'\n' | b'\r' => self.end_line(),
                _ if self.line.len() >= LINE_LEN_MAX => {
                    return Err(format!(
                        "a line of the stream is longer than {LINE_LEN_MAX} bytes"
                    ));
                }
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// The next event, if a complete one has arrived.
    pub fn next_event(&mut self) -> Option<ServerEvent> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let id = self.id.take();
            if let Some(data) = self.data.take() {
                let name = if name.is_empty() { "message".into() } else { name };
                self.ready.push_back(ServerEvent { id, name, data });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {} // A comment (an empty field name) or a field that this client does not need.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let text = ": hello\r\nid: 7\r\nevent: change\r\ndata: {\"a\":1}\r\n\r\n: beat\n\ndata: x\ndata: y\n\nid: 9\n\n";
        for cut in 1..text.len() {
            let mut parser = EventParser::default();
            for part in text.as_bytes().chunks(cut) {
                parser.push(part).unwrap();
            }
            let first = ServerEvent {
                id: Some("7".into()),
                name: "change".into(),
                data: "{\"a\":1}".into(),
            };
            assert_eq!(parser.next_event(), Some(first), "cut {cut}");
            let second = ServerEvent { id: None, name: "message".into(), data: "x\ny".into() };
            assert_eq!(parser.next_event(), Some(second), "cut {cut}");
            assert_eq!(parser.next_event(), None, "an id alone is no event");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = EventParser::default();
        assert!(parser.push(&vec![b'x'; LINE_LEN_MAX]).is_ok());
        assert!(parser.push(b"x").is_err());
    }
}
