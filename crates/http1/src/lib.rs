//! HTTP/1.1 (RFC 9112): heads, content and framing in both directions, and one exchange on a client's connection.
//!
//! Place in the flow: the API accepts a connection, reads a head with [`RequestHead::read`] and answers the request
//! with [`Connection::ask`] and [`Asked::send`]. The gateway frames its requests to instances with the same
//! [`Sending`] and reads their answers with the same [`Content`].
//!
//! **Invariants:** a message has one reading, or it is refused. No task and no queue stand between a message and its
//! socket. A connection is used again only after its request was read whole and its answer was written whole.

mod answer;
mod answer_head;
mod chunks;
mod connection;
mod content;
mod date;
mod exchange;
mod fields;
mod framing;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod head_wait;
mod interim;
mod lower_case;
mod plain_answer;
mod reader;
mod request;
mod request_content;
mod sending;
mod upgrade;

pub use answer::{FieldNames, push_status};
pub use answer_head::{AnswerHead, BadAnswer};
pub use chunks::BadChunks;
pub use connection::Connection;
pub use content::Content;
pub use date::push_date;
pub use exchange::{After, Asked, Lost};
pub use fields::{announced_trailers, push_field, push_fields, push_length};
pub use framing::{BadFraming, Framing, content_len, is_chunked_or_unencoded, keeps_open};
pub use head_wait::HeadWait;
pub use interim::Interim;
pub use lower_case::LowerCase;
pub use plain_answer::PlainAnswer;
pub use reader::{READ_LEN_MAX, Reader};
pub use request::{BadRequest, HeadLimits, RequestHead};
pub use request_content::{ContentError, RequestContent};
pub use sending::{Coding, SendError, Sending};
pub use upgrade::{Tunnel, Upgrade, Upgraded};
