//! Remembers the first reply to each request, so that a retry takes effect once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use imbl::Vector;

use super::command::{Applied, Reply, RequestId};
use super::limits::{REMEMBERED_REQUESTS_MAX, REMEMBERED_REQUESTS_MS, REMEMBERED_RESULTS_MAX};

/// A request, when it came by the log's clock, and its first reply.
#[derive(Clone, Debug)]
struct Remembered {
    id: RequestId,
    at_ms: u64,
    applied: Arc<Applied>,
}

/// The replies of recent requests, oldest first. A pure function of the log: forgetting depends
/// on the log's clock, on the count and on the size of the replies alone.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    order: Vector<Remembered>,
    /// Size of all replies.
    results: usize,
    /// The same by name. Only the state that commands are applied to ever looks one up; the copies
    /// that are published after each batch go without, and so cost nothing.
    by_name: OnceLock<HashMap<u128, (RequestId, Arc<Applied>)>>,
}

/// What is remembered of a request's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// The very request, and its first reply.
    Repeat(&'a Applied),
    /// Another request had the name.
    Other,
}

impl Clone for Dedup {
    fn clone(&self) -> Self {
        Self { order: self.order.clone(), results: self.results, by_name: OnceLock::new() }
    }
}

impl Dedup {
    fn by_name(&self) -> &HashMap<u128, (RequestId, Arc<Applied>)> {
        let entry = |each: &Remembered| (each.id.name(), (each.id, Arc::clone(&each.applied)));
        self.by_name.get_or_init(|| self.order.iter().map(entry).collect())
    }

    pub(super) fn get(&self, id: RequestId) -> Option<Known<'_>> {
        let (first, applied) = self.by_name().get(&id.name())?;
        Some(if *first == id { Known::Repeat(applied) } else { Known::Other })
    }

    /// Remembers the reply to a request that is not remembered yet.
    pub(super) fn remember(&mut self, id: RequestId, now_ms: u64, applied: Applied) {
        self.by_name();
        let Some(by_name) = self.by_name.get_mut() else { return };
        let added = size(&applied);
        while let Some(oldest) = self.order.front() {
            let expired = now_ms.saturating_sub(oldest.at_ms) > REMEMBERED_REQUESTS_MS;
            let fits = self.order.len() < REMEMBERED_REQUESTS_MAX
                && self.results + added <= REMEMBERED_RESULTS_MAX;
            if !expired && fits {
                break;
            }
            by_name.remove(&oldest.id.name());
            self.results -= size(&oldest.applied);
            self.order.pop_front();
        }
        self.results += added;
        let applied = Arc::new(applied);
        by_name.insert(id.name(), (id, Arc::clone(&applied)));
        self.order.push_back(Remembered { id, at_ms: now_ms, applied });
    }

    /// Everything remembered, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestId, u64, &Applied)> {
        self.order.iter().map(|each| (each.id, each.at_ms, each.applied.as_ref()))
    }
}

/// Size of a reply, in results.
fn size(applied: &Applied) -> usize {
    match &applied.reply {
        Reply::Registered(results) => {
            let refused = results.iter().filter(|result| result.is_err()).count();
            results.len() + 7 * refused
        }
        Reply::Changed(changed) => changed.len(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(index: u64) -> Applied {
        Applied { index, reply: Reply::Done }
    }

    #[test]
    fn a_name_that_another_request_had_is_told_apart_from_a_repeat() {
        let mut dedup = Dedup::default();
        let first = RequestId(7).with_content(1);
        assert_eq!((first.name(), first.content()), (7, 1));
        dedup.remember(first, 0, done(1));
        assert_eq!(dedup.get(first), Some(Known::Repeat(&done(1))));
        assert_eq!(dedup.get(first.with_content(2)), Some(Known::Other));
        assert_eq!(dedup.get(RequestId(8).with_content(1)), None);
    }

    #[test]
    fn forgets_by_age() {
        let mut dedup = Dedup::default();
        dedup.remember(RequestId(1), 0, done(1));
        dedup.remember(RequestId(2), REMEMBERED_REQUESTS_MS, done(2));
        assert!(dedup.get(RequestId(1)).is_some());
        dedup.remember(RequestId(3), REMEMBERED_REQUESTS_MS + 1, done(3));
        assert!(dedup.get(RequestId(1)).is_none());
        assert!(dedup.get(RequestId(2)).is_some());
        assert_eq!(dedup.iter().count(), 2);
    }

    #[test]
    fn forgets_by_count() {
        let mut dedup = Dedup::default();
        for n in 0..REMEMBERED_REQUESTS_MAX as u64 + 2 {
            dedup.remember(RequestId(n.into()), n, done(n));
        }
        assert_eq!(dedup.iter().count(), REMEMBERED_REQUESTS_MAX);
        assert!(dedup.get(RequestId(1)).is_none());
        assert!(dedup.get(RequestId(2)).is_some());
    }

    #[test]
    fn forgets_by_the_size_of_replies() {
        let mut dedup = Dedup::default();
        let large = |index| Applied { index, reply: Reply::Registered(vec![Ok(index); 1_000]) };
        let fit = REMEMBERED_RESULTS_MAX as u64 / 1_000;
        for n in 0..fit + 2 {
            dedup.remember(RequestId(n.into()), n, large(n));
        }
        assert_eq!(dedup.iter().count() as u64, fit);
        assert!(dedup.get(RequestId(1)).is_none() && dedup.get(RequestId(2)).is_some());
        dedup.remember(RequestId(u128::MAX), fit, done(1));
        assert_eq!(dedup.iter().count() as u64, fit, "one more makes room");
    }

    #[test]
    fn a_copy_remembers_the_same_and_goes_its_own_way() {
        let mut dedup = Dedup::default();
        dedup.remember(RequestId(1), 0, done(1));
        let mut copy = dedup.clone();
        assert_eq!(copy.get(RequestId(1)), Some(Known::Repeat(&done(1))));
        copy.remember(RequestId(2), 0, done(2));
        assert!(dedup.get(RequestId(2)).is_none());
        assert!(copy.get(RequestId(2)).is_some());
    }
}
