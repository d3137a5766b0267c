//! Answers that were built before, for other readers of the same state.
//!
//! A change wakes all blocking queries of a service. They ask the same, so one of them builds the answer.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderValue, Uri};
use maxine_state::History;
use parking_lot::Mutex;

/// Maximum number of answers that are kept.
const ANSWERS_MAX: usize = 64;
/// Maximum length of all kept answers, in bytes. A longer answer is not kept.
const LEN_MAX: usize = 16 * 1_024 * 1_024;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The index of the objects, and the history that it belongs to. It is compared first, because it differs most often.
    index: u64,
    history: Option<History>,
    /// Whether the caller has a credential. Others do not see everything.
    is_known: bool,
    /// The path, and the parameters that change the content.
    target: Box<str>,
    /// The namespace that a header names.
    namespace: Option<HeaderValue>,
}

impl Question {
    pub(crate) fn new(uri: &Uri, is_known: bool, index: u64, history: Option<History>) -> Self {
        // A path can contain '&', so '?' ends it: another service's name must not look like a parameter.
        let mut target = format!("{}?", uri.path());
        let is_content = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default();
            // A token is not kept. An escaped name only makes the same question look like another one.
            !matches!(name, "index" | "wait" | "token")
        };
        for parameter in uri.query().unwrap_or_default().split('&').filter(is_content) {
            target.push('&');
            target.push_str(parameter);
        }
        Self { target: target.into(), is_known, index, history, namespace: None }
    }

    /// The same question with the namespace that a header names.
    pub(crate) fn in_namespace(self, namespace: Option<HeaderValue>) -> Self {
        Self { namespace, ..self }
    }
}

/// The latest answers.
#[derive(Debug, Default)]
pub(crate) struct Built(Mutex<VecDeque<(Question, Bytes)>>);

impl Built {
    /// The answer to a question, if it was built before.
    pub(crate) fn find(&self, question: &Question) -> Option<Bytes> {
        let answers = self.0.lock();
        answers.iter().rev().find(|(known, _)| known == question).map(|(_, body)| body.clone())
    }

    /// Keeps an answer. The oldest ones make room for it.
    pub(crate) fn keep(&self, question: Question, body: &Bytes) {
        if body.len() > LEN_MAX {
            return;
        }
        let mut answers = self.0.lock();
        // An older answer to the same parameters is never asked for again.
        answers.retain(|(known, _)| {
            known.target != question.target
                || known.is_known != question.is_known
                || known.namespace != question.namespace
        });
        answers.push_back((question, body.clone()));
        let mut len: usize = answers.iter().map(|(_, body)| body.len()).sum();
        while answers.len() > ANSWERS_MAX || len > LEN_MAX {
            let Some((_, oldest)) = answers.pop_front() else { return };
            len -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(target: &'static str, is_known: bool, index: u64) -> Question {
        Question::new(&Uri::from_static(target), is_known, index, None)
    }

    #[test]
    fn an_answer_serves_only_the_same_question_at_the_same_index() {
        let built = Built::default();
        let body = Bytes::from_static(b"[1]");
        built.keep(
            question("/v1/health/service/a?index=4&passing&wait=1s&token=x", false, 7),
            &body,
        );
        let found = |target, is_known, index| built.find(&question(target, is_known, index));
        assert_eq!(found("/v1/health/service/a?passing&index=6", false, 7), Some(body.clone()));
        for (target, is_known, index) in [
            ("/v1/health/service/a?passing", false, 8),
            ("/v1/health/service/a?passing", true, 7),
            ("/v1/health/service/a", false, 7),
            ("/v1/health/service/b?passing", false, 7),
            ("/v1/health/service/a&passing", false, 7),
        ] {
            assert_eq!(found(target, is_known, index), None, "{target} {is_known} {index}");
        }
        let shop = question("/v1/health/service/a?passing", false, 7);
        let shop = shop.in_namespace(Some(HeaderValue::from_static("shop")));
        assert_eq!(built.find(&shop), None, "another namespace");
        built.keep(question("/v1/health/service/a?passing", false, 8), &body);
        assert_eq!(built.0.lock().len(), 1);
    }

    #[test]
    fn the_number_and_the_length_of_answers_are_limited() {
        let built = Built::default();
        for n in 0..3 * ANSWERS_MAX {
            let uri: Uri = format!("/v1/health/service/s{n}").parse().unwrap();
            built.keep(Question::new(&uri, false, 1, None), &Bytes::from(vec![0; LEN_MAX / 16]));
        }
        assert!(built.0.lock().len() <= 16);
        built.keep(question("/v1/x", false, 1), &Bytes::from(vec![0; LEN_MAX + 1]));
        assert_eq!(built.find(&question("/v1/x", false, 1)), None);
    }
}
