//! Remembers the first reply to each request, so that a retry takes effect once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use imbl::Vector;

use super::command::{Applied, Reply, RequestId};
use super::limits::{REMEMBERED_REQUESTS_MAX, REMEMBERED_REQUESTS_MS, REMEMBERED_RESULTS_MAX};

/// A request: its id, the time by the log's clock, and its first reply.
#[derive(Clone, Debug)]
struct Remembered {
    id: RequestId,
    at_ms: u64,
    applied: Arc<Applied>,
}

/// The remembered requests of one kind of caller, oldest first.
#[derive(Clone, Debug, Default)]
struct Window {
    order: Vector<Remembered>,
    /// The size of all replies.
    results: usize,
}

/// The replies to recent requests. What is forgotten depends only on the log: on its clock, the number of
/// replies and their size. Callers without a credential have their own window, so that they cannot push out
/// the requests of others.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    of_strangers: Window,
    of_known: Window,
    /// The same requests, by name. Only the state that commands are applied to uses this map. The published
    /// copies do not build it, so it costs them nothing.
    by_name: OnceLock<HashMap<u128, (RequestId, Arc<Applied>)>>,
}

/// What is known about a request id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// The same request, with its first reply.
    Repeat(&'a Applied),
    /// Another request used the same name.
    Other,
}

impl Clone for Dedup {
    fn clone(&self) -> Self {
        let (of_strangers, of_known) = (self.of_strangers.clone(), self.of_known.clone());
        Self { of_strangers, of_known, by_name: OnceLock::new() }
    }
}

impl Dedup {
    fn by_name(&self) -> &HashMap<u128, (RequestId, Arc<Applied>)> {
        let entry = |each: &Remembered| (each.id.name(), (each.id, Arc::clone(&each.applied)));
        let all = || self.of_strangers.order.iter().chain(&self.of_known.order);
        self.by_name.get_or_init(|| all().map(entry).collect())
    }

    pub(super) fn get(&self, id: RequestId) -> Option<Known<'_>> {
        let (first, applied) = self.by_name().get(&id.name())?;
        Some(if *first == id { Known::Repeat(applied) } else { Known::Other })
    }

    /// Remembers the reply to a new request. `of_stranger` says that its caller had no credential.
    pub(super) fn remember(
        &mut self,
        id: RequestId,
        of_stranger: bool,
        now_ms: u64,
        applied: Applied,
    ) {
        self.by_name();
        let Some(by_name) = self.by_name.get_mut() else { return };
        let window = if of_stranger { &mut self.of_strangers } else { &mut self.of_known };
        let added = size(&applied);
        while let Some(oldest) = window.order.front() {
            let expired = now_ms.saturating_sub(oldest.at_ms) > REMEMBERED_REQUESTS_MS;
            let fits = window.order.len() < REMEMBERED_REQUESTS_MAX
                && window.results + added <= REMEMBERED_RESULTS_MAX;
            if !expired && fits {
                break;
            }
            by_name.remove(&oldest.id.name());
            window.results -= size(&oldest.applied);
            window.order.pop_front();
        }
        window.results += added;
        let applied = Arc::new(applied);
        by_name.insert(id.name(), (id, Arc::clone(&applied)));
        window.order.push_back(Remembered { id, at_ms: now_ms, applied });
    }

    /// All remembered requests, and whether their caller had no credential. The oldest of each kind comes
    /// first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestId, bool, u64, Arc<Applied>)> {
        let windows = [(true, &self.of_strangers), (false, &self.of_known)];
        windows.into_iter().flat_map(|(of_stranger, window)| {
            let each =
                move |one: &Remembered| (one.id, of_stranger, one.at_ms, Arc::clone(&one.applied));
            window.order.iter().map(each)
        })
    }
}

/// The size of a reply, in results.
fn size(applied: &Applied) -> usize {
    match &applied.reply {
        Reply::Registered(results) => {
            let refused = results.iter().filter(|result| result.is_err()).count();
            results.len() + 7 * refused
        }
        Reply::Changed(changed) => changed.len(),
        Reply::Kv(results) => 4 * results.len(),
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
        dedup.remember(first, false, 0, done(1));
        assert_eq!(dedup.get(first), Some(Known::Repeat(&done(1))));
        assert_eq!(dedup.get(first.with_content(2)), Some(Known::Other));
        assert_eq!(dedup.get(RequestId(8).with_content(1)), None);
    }

    #[test]
    fn forgets_by_age() {
        let mut dedup = Dedup::default();
        dedup.remember(RequestId(1), false, 0, done(1));
        dedup.remember(RequestId(2), false, REMEMBERED_REQUESTS_MS, done(2));
        assert!(dedup.get(RequestId(1)).is_some());
        dedup.remember(RequestId(3), false, REMEMBERED_REQUESTS_MS + 1, done(3));
        assert!(dedup.get(RequestId(1)).is_none());
        assert!(dedup.get(RequestId(2)).is_some());
        assert_eq!(dedup.iter().count(), 2);
    }

    #[test]
    fn forgets_by_count() {
        let mut dedup = Dedup::default();
        for n in 0..REMEMBERED_REQUESTS_MAX as u64 + 2 {
            dedup.remember(RequestId(n.into()), false, n, done(n));
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
            dedup.remember(RequestId(n.into()), false, n, large(n));
        }
        assert_eq!(dedup.iter().count() as u64, fit);
        assert!(dedup.get(RequestId(1)).is_none() && dedup.get(RequestId(2)).is_some());
        dedup.remember(RequestId(u128::MAX), false, fit, done(1));
        assert_eq!(dedup.iter().count() as u64, fit, "one more makes room");
    }

    #[test]
    fn a_copy_remembers_the_same_and_goes_its_own_way() {
        let mut dedup = Dedup::default();
        dedup.remember(RequestId(1), false, 0, done(1));
        let mut copy = dedup.clone();
        assert_eq!(copy.get(RequestId(1)), Some(Known::Repeat(&done(1))));
        copy.remember(RequestId(2), false, 0, done(2));
        assert!(dedup.get(RequestId(2)).is_none());
        assert!(copy.get(RequestId(2)).is_some());
    }

    #[test]
    fn callers_without_a_credential_push_out_nobody_elses() {
        let mut dedup = Dedup::default();
        dedup.remember(RequestId(1), false, 0, done(1));
        for n in 0..REMEMBERED_REQUESTS_MAX as u64 + 2 {
            dedup.remember(RequestId(10 + u128::from(n)), true, n, done(n));
        }
        assert!(dedup.get(RequestId(1)).is_some());
        assert!(dedup.get(RequestId(10)).is_none());
        assert_eq!(dedup.iter().count(), REMEMBERED_REQUESTS_MAX + 1);
    }
}
