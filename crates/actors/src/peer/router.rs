//! Passes each question to the service that answers it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Answer, Ask, PeerRouter};

/// A question to another node, and the type of its answer.
pub trait Question: Send + Sized + 'static {
    /// What the other node answers.
    type Answer: Send + 'static;
    /// The question as a message.
    fn into_ask(self) -> Ask;
    /// Its answer as a message.
    fn into_answer(answer: Self::Answer) -> Answer;
    /// The answer in a message; `None` if the message answers another question.
    fn from_answer(answer: Answer) -> Option<Self::Answer>;
}

/// Answers one kind of question.
pub trait PeerService<Q: Question>: Send + Sync + 'static {
    /// Answers one question. An error reaches the other node as a refusal, and means that the question had no effect.
    fn answer(&self, question: Q) -> BoxFuture<'static, Result<Q::Answer, String>>;
}

/// The place of one service. It is filled after the backend has started, because services need the backend; until
/// then questions are refused.
pub struct Slot<Q: Question>(ArcSwapOption<Box<dyn PeerService<Q>>>);

impl<Q: Question> Default for Slot<Q> {
    fn default() -> Self {
        Self(ArcSwapOption::empty())
    }
}

impl<Q: Question> Slot<Q> {
    /// Sets the service.
    pub fn set(&self, service: impl PeerService<Q>) {
        self.0.store(Some(Arc::new(Box::new(service))));
    }

    pub(super) fn answer(&self, question: Q) -> BoxFuture<'static, Result<Answer, String>> {
        match self.0.load_full() {
            None => futures::future::ready(Err("this node is still starting".to_owned())).boxed(),
            Some(service) => {
                let answer = service.answer(question);
                async move { answer.await.map(Q::into_answer) }.boxed()
            }
        }
    }
}

impl PeerRouter {
    /// A router without services.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
}

/// Makes the messages and the router from the table of questions. Each question has one row: `Question, field =>
/// answer`. Rows are only ever appended, because the position of a row is its number on the wire.
macro_rules! messages {
    ($($(#[$doc:meta])* $question:ident, $service:ident => $answer:ty;)+) => {
        /// A question to another node. Variants are only ever appended.
        #[derive(Clone, Debug, PartialEq, Encode, Decode)]
        pub enum Ask {
            $($(#[$doc])* $question(messages::$question),)+
        }

        /// The answer to the question of the same name. Variants are only ever appended.
        #[derive(Clone, Debug, PartialEq, Encode, Decode)]
        pub enum Answer {
            $(#[doc = concat!("Answers [`Ask::", stringify!($question), "`].")] $question($answer),)+
        }

        $(impl Question for $question {
            type Answer = $answer;

            fn into_ask(self) -> Ask {
                Ask::$question(self)
            }

            fn into_answer(answer: Self::Answer) -> Answer {
                Answer::$question(answer)
            }

            fn from_answer(answer: Answer) -> Option<Self::Answer> {
                match answer {
                    Answer::$question(answer) => Some(answer),
                    _ => None,
                }
            }
        })+

        /// Passes the questions of other nodes to the services of this one.
        #[derive(Default)]
        pub struct PeerRouter {
            $($(#[$doc])* pub $service: Slot<$question>,)+
        }

        impl PeerRouter {
            fn route(&self, ask: Ask) -> BoxFuture<'static, Result<Answer, String>> {
                match ask {
                    $(Ask::$question(question) => self.$service.answer(question),)+
                }
            }
        }
    };
}
pub(super) use messages;
