//! Lists in pages. A cursor contains the names of the last returned item. So the next page continues behind that item,
//! even if items were added or removed meanwhile.

use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::{Problem, ProblemKind};
use maxine_state::limits::check_range;

/// Default number of items on a page.
const LIMIT_DEFAULT: u64 = 100;
/// Maximum number of items on a page.
pub(super) const LIMIT_MAX: u64 = 1_000;
/// A page ends after the item with which its items are longer than this, in bytes as the state stores them.
pub(super) const LEN_MAX: u64 = 4 * 1_024 * 1_024;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items, in the list's order.
    pub(super) items: Vec<T>,
    /// Where the next page starts; null on the last page.
    pub(super) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that has only one page.
    pub(super) fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }

    /// Takes up to `limit` items. `cursor` makes the cursor of the last item, which is returned only if more items
    /// follow.
    pub(super) fn take<S>(
        source: impl Iterator<Item = S>,
        limit: usize,
        cursor: impl Fn(&S) -> String,
        show: impl Fn(S) -> T,
    ) -> Self {
        Self::take_bounded(source, limit, |_| 0, cursor, show)
    }

    /// Takes up to `limit` items, and fewer if they are long: `len` is the length of an item.
    pub(super) fn take_bounded<S>(
        source: impl Iterator<Item = S>,
        limit: usize,
        len: impl Fn(&S) -> u64,
        cursor: impl Fn(&S) -> String,
        show: impl Fn(S) -> T,
    ) -> Self {
        let mut source = source.peekable();
        let mut items = Vec::with_capacity(limit.min(128));
        let mut taken = 0;
        while let Some(item) = source.next() {
            taken += len(&item);
            let is_full = items.len() + 1 == limit || taken > LEN_MAX;
            let last = (is_full && source.peek().is_some()).then(|| cursor(&item));
            items.push(show(item));
            if is_full {
                return Self { items, next_cursor: last };
            }
        }
        Self { items, next_cursor: None }
    }
}

/// The requested number of items.
pub(super) fn limit(asked: Option<u64>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    check_range("limit", limit, 1, LIMIT_MAX)?;
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Makes an opaque cursor from names. The byte 0xff separates them, because it does not occur in UTF-8.
pub(super) fn cursor_of(parts: &[&str]) -> String {
    let mut text = String::new();
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            text.push_str("ff");
        }
        for byte in part.bytes() {
            text.push_str(&format!("{byte:02x}"));
        }
    }
    text
}

/// Splits a cursor into `N` names.
pub(super) fn cursor_parts<const N: usize>(cursor: &str) -> Result<[String; N], Problem> {
    let bad = || {
        let detail = "the cursor is not from this list";
        Problem::new(ProblemKind::InvalidRequest, detail).with_field("cursor")
    };
    if cursor.len() > 4_096 || !cursor.len().is_multiple_of(2) || !cursor.is_ascii() {
        return Err(bad());
    }
    let digits = cursor.as_bytes().chunks_exact(2);
    let bytes: Option<Vec<u8>> = digits
        .map(|pair| {
            let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
            u8::try_from(high? * 16 + low?).ok()
        })
        .collect();
    let bytes = bytes.ok_or_else(bad)?;
    let parts: Result<Vec<String>, Problem> = bytes
        .split(|byte| *byte == 0xff)
        .map(|part| String::from_utf8(part.to_vec()).map_err(|_| bad()))
        .collect();
    parts?.try_into().map_err(|_| bad())
}

/// Parses a cursor that is one number.
pub(super) fn cursor_number(cursor: &str) -> Result<u64, Problem> {
    let [text] = cursor_parts::<1>(cursor)?;
    text.parse().map_err(|_| {
        let detail = "the cursor is not from this list";
        Problem::new(ProblemKind::InvalidRequest, detail).with_field("cursor")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(a in ".{0,40}", b in ".{0,40}") {
            let cursor = cursor_of(&[&a, &b]);
            prop_assert_eq!(cursor_parts::<2>(&cursor).unwrap(), [a, b]);
        }

        #[test]
        fn any_text_is_a_cursor_or_is_clearly_refused(text in ".{0,60}") {
            if let Err(problem) = cursor_parts::<2>(&text) {
                prop_assert_eq!(problem.status().as_u16(), 400);
            }
        }
    }

    #[test]
    fn pages_cover_a_list_once_and_end_early_with_long_items() {
        let all: Vec<u64> = (0..10).collect();
        for (len, per_page) in [(0, 3), (LEN_MAX / 4, 3), (LEN_MAX / 2 + 1, 2), (LEN_MAX + 1, 1)] {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let rest = all.iter().copied().filter(|n| after.is_none_or(|after| *n > after));
                let cursor = |n: &u64| cursor_of(&[&n.to_string()]);
                let page = Page::take_bounded(rest, 3, |_| len, cursor, |n| n);
                assert!(page.items.len() <= per_page, "{len}: {:?}", page.items);
                seen.extend(page.items);
                let Some(cursor) = page.next_cursor else { break };
                after = Some(cursor_number(&cursor).unwrap());
            }
            assert_eq!(seen, all);
        }
    }
}
