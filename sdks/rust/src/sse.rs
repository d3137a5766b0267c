//! Reads events from the bytes of a watch (`text/event-stream`).

/// One event. A comment that only updates the id is an event without a kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The position of the stream after this event.
    pub(crate) id: Option<String>,
    /// What has happened.
    pub(crate) kind: Option<String>,
    /// The fields, as JSON.
    pub(crate) data: String,
}

/// The bytes of a stream that are not read yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    bytes: Vec<u8>,
}

impl Events {
    /// Adds a piece of the stream.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The next event, if all of it has arrived.
    pub(crate) fn take(&mut self) -> Option<Event> {
        let end = self.bytes.windows(2).position(|pair| pair == b"\n\n")?;
        let message: Vec<u8> = self.bytes.drain(..end + 2).collect();
        let message = String::from_utf8_lossy(&message);
        let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name));
        Some(Event {
            id: field("id: ").map(Into::into),
            kind: field("event: ").map(Into::into),
            data: field("data: ").unwrap_or_default().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_arrives_in_pieces_is_read_once_it_is_whole() {
        let mut events = Events::default();
        events.push(b"id: h-7\nevent: drain_changed\nda");
        assert_eq!(events.take(), None);
        events.push(b"ta: {}\n\nid: h-8\n: comment\n\n");
        let first =
            Event { id: Some("h-7".into()), kind: Some("drain_changed".into()), data: "{}".into() };
        assert_eq!(events.take(), Some(first));
        let second = Event { id: Some("h-8".into()), kind: None, data: String::new() };
        assert_eq!(events.take(), Some(second));
        assert_eq!(events.take(), None);
    }
}
