//! Remembers the first reply to each request, so that a retry takes effect once.

use imbl::{HashMap, Vector};

use super::command::{Applied, RequestId};
use super::limits::{REMEMBERED_REQUESTS_MAX, REMEMBERED_REQUESTS_MS};

/// The replies of recent requests, oldest first. A pure function of the log: forgetting depends
/// on the log's clock and on the count alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Dedup {
    replies: HashMap<u128, Applied>,
    order: Vector<(RequestId, u64)>,
}

impl Dedup {
    pub(super) fn get(&self, id: RequestId) -> Option<&Applied> {
        self.replies.get(&id.0)
    }

    pub(super) fn remember(&mut self, id: RequestId, now_ms: u64, applied: Applied) {
        while let Some((oldest, at_ms)) = self.order.front().copied() {
            let expired = now_ms.saturating_sub(at_ms) > REMEMBERED_REQUESTS_MS;
            if !expired && self.order.len() < REMEMBERED_REQUESTS_MAX {
                break;
            }
            self.order.pop_front();
            self.replies.remove(&oldest.0);
        }
        self.order.push_back((id, now_ms));
        self.replies.insert(id.0, applied);
    }

    /// Everything remembered, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestId, u64, &Applied)> {
        self.order.iter().filter_map(|(id, at_ms)| Some((*id, *at_ms, self.replies.get(&id.0)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Reply;
    use super::*;

    #[test]
    fn forgets_by_age() {
        let mut dedup = Dedup::default();
        dedup.remember(RequestId(1), 0, Applied { index: 1, reply: Reply::Done });
        dedup.remember(
            RequestId(2),
            REMEMBERED_REQUESTS_MS,
            Applied { index: 2, reply: Reply::Done },
        );
        assert!(dedup.get(RequestId(1)).is_some());
        dedup.remember(
            RequestId(3),
            REMEMBERED_REQUESTS_MS + 1,
            Applied { index: 3, reply: Reply::Done },
        );
        assert!(dedup.get(RequestId(1)).is_none());
        assert!(dedup.get(RequestId(2)).is_some());
        assert_eq!(dedup.iter().count(), 2);
    }
}
