//! An index in a history, from which clients resume or for which they wait.

use std::fmt;
use std::str::FromStr;

use axum::http::HeaderValue;
use maxine_state::History;
use serde::Deserialize;

/// An index, and the history that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct HistoryIndex {
    /// The history; `None` if the client sent only an index.
    pub(super) history: Option<u64>,
    /// The index.
    pub(super) index: u64,
}

impl HistoryIndex {
    /// An index in the history of a state. `None` is a state without a history.
    pub(super) fn new(history: Option<History>, index: u64) -> Self {
        Self { history: history.map(History::get), index }
    }

    /// Whether the index may belong to this history. One without a history may belong to any.
    pub(super) fn is_in(self, history: Option<History>) -> bool {
        self.history.is_none_or(|own| history.is_some_and(|present| present.get() == own))
    }

    /// A text that says that the index does not belong to the present history.
    pub(super) fn has_ended(self, present: Option<History>) -> String {
        match present {
            Some(present) => format!("{self} is a place in another history; {present} holds now"),
            None => format!("{self} is a place in another history; this node has none yet"),
        }
    }
}

fn history_digits(history: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(history >> (60 - 4 * at)) as usize & 15])
}

/// A history as a header value.
pub(super) fn history_value(history: History) -> HeaderValue {
    // Hexadecimal digits are always a valid header value.
    HeaderValue::from_bytes(&history_digits(history.get())).unwrap_or(HeaderValue::from_static(""))
}

impl fmt::Display for HistoryIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.history {
            Some(history) => write!(f, "{history:016x}-{}", self.index),
            None => write!(f, "{}", self.index),
        }
    }
}

impl FromStr for HistoryIndex {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be an index, or HISTORY-INDEX as the id of an event is written";
        let (history, index) = match text.split_once('-') {
            Some((history, index)) => (Some(history), index),
            None => (None, text),
        };
        let is_history = |text: &str| text.len() == 16 && !text.starts_with('+');
        let history = match history {
            Some(text) if is_history(text) => {
                Some(u64::from_str_radix(text, 16).map_err(|_| wrong)?)
            }
            Some(_) => return Err(wrong),
            None => None,
        };
        Ok(Self { history, index: index.parse().map_err(|_| wrong)? })
    }
}

impl TryFrom<String> for HistoryIndex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read_as_they_are_written() {
        for place in [
            HistoryIndex { history: None, index: 7 },
            HistoryIndex { history: Some(0), index: 0 },
            HistoryIndex { history: Some(u64::MAX), index: u64::MAX },
        ] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        assert_eq!(HistoryIndex { history: Some(10), index: 7 }.to_string(), "000000000000000a-7");
        for wrong in ["", "-", "x", "-7", "a-7", "000000000000000g-7", "000000000000000a-", "1-2-3"]
        {
            assert!(wrong.parse::<HistoryIndex>().is_err(), "{wrong}");
        }
    }
}
