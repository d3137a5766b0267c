//! The routes of keys and values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use serde::Serialize;

use super::answer::{self, Answer, Refusal};
use super::options::{Options, check_namespace};
use super::parts::Inner;
use super::read::{Ready, Scope};
use super::request::Asked;
use super::text::Query;
use maxine_state::{
    Command, KvAction, KvContent, KvEntry, KvKey, KvMeta, KvOp, KvRefusal, LockSessionId, Reply,
};
use maxine_view::KvScope;

const SANDBOX: HeaderName = HeaderName::from_static("content-security-policy");
/// What an answer says of a key besides its name and value, in bytes.
const SHOWN_LEN: u64 = 200;

/// The keys and values that fit into one answer.
pub(crate) struct ValuesRoom {
    taken: u64,
    len_max: usize,
}

impl ValuesRoom {
    /// The room in an answer of at most `len_max` bytes.
    pub(crate) fn new(len_max: usize) -> Self {
        Self { taken: 0, len_max }
    }

    /// Takes room for a key and its value, of this length together. Refuses the answer if there is none left.
    pub(crate) fn take(&mut self, len: u64) -> Result<(), Refusal> {
        self.taken += len + SHOWN_LEN;
        match self.taken <= self.len_max as u64 {
            true => Ok(()),
            false => Err(answer::too_long(self.len_max)),
        }
    }
}

/// A key in an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Shown<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    /// In base64; null if it is empty or not asked for.
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> Shown<'a> {
    pub(crate) fn new(key: &'a str, flags: u64, meta: KvMeta, value: Option<&[u8]>) -> Self {
        Self {
            lock_index: meta.lock_index,
            key,
            flags,
            value: value.filter(|value| !value.is_empty()).map(|value| STANDARD.encode(value)),
            session: meta.session.map(|session| session.to_string()),
            create_index: meta.create_index,
            modify_index: meta.modify_index,
        }
    }

    pub(crate) fn of(entry: &'a KvEntry) -> Self {
        let KvContent { value, flags } = &entry.content;
        Self::new(entry.key.as_str(), *flags, entry.meta, Some(&value.0))
    }
}

/// A key of a request.
pub(crate) fn parse_key(text: &str) -> Result<KvKey, Refusal> {
    if text.is_empty() {
        return Err(Refusal::bad("Missing key name"));
    }
    Ok(KvKey::parse(text)?)
}

/// A session of a request. Clients send a request again after 500 only.
fn parse_session(text: &str) -> Result<LockSessionId, Refusal> {
    LockSessionId::parse(text).ok_or_else(|| no_session(text))
}

pub(crate) fn no_session(text: &str) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("invalid session {text:?}"))
}

/// Refuses a request that gives more than one of these parameters.
fn check_conflicts(query: &Query, names: &[&str]) -> Result<(), Refusal> {
    let given: Vec<&str> = names.iter().copied().filter(|name| query.has(name)).collect();
    match given.len() {
        0 | 1 => Ok(()),
        _ => Err(Refusal::bad(format!("Conflicting flags: {}", given.join(", ")))),
    }
}

fn number(name: &str, text: Option<&str>) -> Result<Option<u64>, Refusal> {
    let parse = |text: &str| {
        text.parse().map_err(|_| Refusal::bad(format!("Invalid {name} value {text:?}")))
    };
    text.map(parse).transpose()
}

/// The index that the request names as its condition. An empty one is refused, and not taken for no condition.
fn condition(query: &Query) -> Result<Option<u64>, Refusal> {
    number("cas", query.given("cas"))
}

impl Inner {
    pub(crate) async fn kv_get(&self, asked: &Asked, name: &str) -> Result<Answer, Refusal> {
        let (query, options) = self.options(asked, None)?;
        check_namespace(&query, &[])?;
        let is_list = query.has("keys");
        if is_list || query.has("recurse") {
            let prefix = KvKey::parse_prefix(name)?;
            let scope = Scope::Keys(KvScope::Prefix(prefix));
            let ready = self.ready(asked, &options, &scope).await?;
            if let Some(answer) = self.built_before(&options, &ready) {
                return Ok(answer);
            }
            return match is_list {
                true => self.kv_names(&query, &options, &ready, name),
                false => self.kv_tree(&options, &ready, name),
            };
        }
        let key = parse_key(name)?;
        let ready = self.ready(asked, &options, &Scope::Keys(KvScope::Key(key))).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let Some(entry) = ready.snapshot.state.kv().entry(name) else {
            return Ok(self.kv_absent(&options, &ready));
        };
        if !query.has("raw") {
            return self.answered(&options, &ready, &[Shown::of(entry)]);
        }
        let mut answer = Answer::new(Bytes::copy_from_slice(&entry.content.value.0));
        let headers = answer.headers_mut();
        // The value comes from a client. A browser must not take it for a page of this server.
        for (name, value) in [
            (header::CONTENT_TYPE, "text/plain"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (SANDBOX, "sandbox"),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        self.put_headers(headers, &options, &ready);
        Ok(answer)
    }

    /// 404 without a body, but with the index, so that a client can wait for the key.
    fn kv_absent(&self, options: &Options, ready: &Ready) -> Answer {
        let mut answer = answer::text(StatusCode::NOT_FOUND, "");
        self.put_headers(answer.headers_mut(), options, ready);
        answer
    }

    fn kv_tree(&self, options: &Options, ready: &Ready, prefix: &str) -> Result<Answer, Refusal> {
        let kv = ready.snapshot.state.kv();
        let (mut found, mut room) = (Vec::new(), ValuesRoom::new(ready.len_max));
        for entry in kv.below(prefix, None) {
            room.take(entry.stored_len())?;
            found.push(Shown::of(entry));
        }
        if found.is_empty() {
            return Ok(self.kv_absent(options, ready));
        }
        self.answered(options, ready, &found)
    }

    fn kv_names(
        &self,
        query: &Query,
        options: &Options,
        ready: &Ready,
        prefix: &str,
    ) -> Result<Answer, Refusal> {
        let separator = query.get("separator");
        let mut names: Vec<&str> = Vec::new();
        for entry in ready.snapshot.state.kv().below(prefix, None) {
            let name = entry.key.as_str();
            let below = &name[prefix.len()..];
            let cut =
                separator.and_then(|separator| Some(below.find(separator)? + separator.len()));
            let name = cut.map_or(name, |len| &name[..prefix.len() + len]);
            // The keys are sorted, so equal names follow each other.
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        if names.is_empty() && !prefix.is_empty() {
            return Ok(self.kv_absent(options, ready));
        }
        self.answered(options, ready, &names)
    }

    pub(crate) async fn kv_put(&self, asked: &Asked, name: &str) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        check_namespace(&query, &[])?;
        check_conflicts(&query, &["cas", "acquire", "release"])?;
        let key = parse_key(name)?;
        let flags = number("flags", query.get("flags"))?.unwrap_or(0);
        let content = KvContent { value: asked.body.as_ref().into(), flags };
        let session = query.given("acquire").or(query.given("release"));
        let action = match session {
            None => KvAction::Put { content, expected: condition(&query)? },
            Some(text) => {
                let session = parse_session(text)?;
                let content = Some(content);
                match query.has("acquire") {
                    true => KvAction::Lock { content, session },
                    false => KvAction::Unlock { content, session },
                }
            }
        };
        self.kv_change(asked, KvOp { key, action }, session.unwrap_or_default()).await
    }

    pub(crate) async fn kv_delete(&self, asked: &Asked, name: &str) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        check_namespace(&query, &[])?;
        check_conflicts(&query, &["recurse", "cas"])?;
        let op = match query.has("recurse") {
            true => KvOp { key: KvKey::parse_prefix(name)?, action: KvAction::DeleteTree },
            false => KvOp {
                key: parse_key(name)?,
                action: KvAction::Delete { expected: condition(&query)? },
            },
        };
        self.kv_change(asked, op, "").await
    }

    /// Carries out one operation. The answer says whether its condition held.
    async fn kv_change(&self, asked: &Asked, op: KvOp, session: &str) -> Result<Answer, Refusal> {
        let applied = self.propose(asked, Command::ChangeKv { ops: vec![op] }).await?;
        let done = match applied.reply {
            Reply::Kv(_) => true,
            Reply::KvRefused { why: KvRefusal::NoSession, .. } => return Err(no_session(session)),
            Reply::KvRefused { .. } => false,
            _ => return Err(unexpected()),
        };
        Ok(answer::json(StatusCode::OK, false, &done))
    }
}

/// The refusal for a reply that does not match its command.
pub(crate) fn unexpected() -> Refusal {
    tracing::error!("the reply does not match the command");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the reply does not match the command")
}
