//! Transactions.
//!
//! A transaction that only reads is answered from one published state. Any other transaction is one command. What it
//! reads is found again in a published state by its modify index, so values do not travel through the log twice.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{self, Answer, Refusal};
use super::body::Object;
use super::kv::{Shown, ValuesRoom, parse_key, unexpected};
use super::options::{Options, check_namespace};
use super::parts::Inner;
use super::read::Scope;
use super::request::Asked;
use super::text::Query;
use maxine_state::limits::KV_OPS_MAX;
use maxine_state::{
    Command, KvAction, KvContent, KvKey, KvMeta, KvOp, KvRefusal, LockSessionId, Reply,
};
use maxine_view::Snapshot;

/// An id that no session has, because a node makes ids of another form.
const NO_SESSION: LockSessionId = LockSessionId(0);

/// What one operation of a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// An operation of the state.
    One(KvOp),
    /// All keys below a prefix. Only a transaction that only reads can have it.
    Tree(KvKey),
}

/// Reads the operations of a body.
pub(crate) fn read_ops(body: &[u8]) -> Result<Vec<Op>, Refusal> {
    let failed = |why: &str| Refusal::bad(format!("Failed to parse body: {why}"));
    let items = match serde_json::from_slice(body) {
        Ok(Value::Array(items)) => items,
        Ok(_) => return Err(failed("it is no JSON array")),
        Err(error) => return Err(failed(&error.to_string())),
    };
    if items.len() > KV_OPS_MAX {
        let text =
            format!("Transaction contains too many operations ({} > {KV_OPS_MAX})", items.len());
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let op = |item| {
        let Value::Object(fields) = item else { return Err(failed("an operation is no object")) };
        let mut item = Object::new(fields);
        let kv = item.object("KV")?;
        for other in ["Node", "Service", "Check", "Intention"] {
            item.refuse(other, "only operations on keys can be in a transaction")?;
        }
        item.finish()?;
        read_op(kv.ok_or_else(|| failed("an operation has no KV"))?)
    };
    items.into_iter().map(op).collect()
}

fn read_op(mut op: Object) -> Result<Op, Refusal> {
    let (verb, key) = (op.text("Verb")?, op.text("Key")?);
    let value = op.text("Value")?;
    let value = STANDARD.decode(value.as_bytes());
    let value = value.map_err(|_| Refusal::bad("Failed to parse body: Value is no base64"))?;
    let flags = op.number("Flags", u64::MAX)?.unwrap_or(0);
    let index = op.number("Index", u64::MAX)?.unwrap_or(0);
    let session = op.text("Session")?;
    check_namespace(&Query::default(), &[&op.namespace()?])?;
    op.finish()?;
    let content = || KvContent { value: value.as_slice().into(), flags };
    // What is no UUID names no session. The transaction is refused as with any other session that does not exist.
    let session = LockSessionId::parse(&session).unwrap_or(NO_SESSION);
    let action = match verb.as_str() {
        "set" => KvAction::Put { content: content(), expected: None },
        "cas" => KvAction::Put { content: content(), expected: Some(index) },
        "lock" => KvAction::Lock { content: Some(content()), session },
        "unlock" => KvAction::Unlock { content: Some(content()), session },
        "get" => KvAction::Get { must_exist: true },
        "get-or-empty" => KvAction::Get { must_exist: false },
        "get-tree" => return Ok(Op::Tree(KvKey::parse_prefix(&key)?)),
        "check-index" => KvAction::CheckIndex { index },
        "check-session" => KvAction::CheckSession { session },
        "check-not-exists" => KvAction::CheckAbsent,
        "delete" => KvAction::Delete { expected: None },
        "delete-tree" => {
            let key = KvKey::parse_prefix(&key)?;
            return Ok(Op::One(KvOp { key, action: KvAction::DeleteTree }));
        }
        "delete-cas" => KvAction::Delete { expected: Some(index) },
        other => return Err(Refusal::bad(format!("unknown KV verb {other:?}"))),
    };
    Ok(Op::One(KvOp { key: parse_key(&key)?, action }))
}

#[derive(Serialize)]
struct ShownResult<'a> {
    #[serde(rename = "KV")]
    kv: Shown<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Results<'a> {
    results: Vec<ShownResult<'a>>,
    errors: Option<()>,
}

/// Why an operation failed.
fn refused(at: u32, op: &KvOp, why: KvRefusal) -> Answer {
    let key = op.key.as_str();
    let what = match why {
        KvRefusal::Index { actual } => match op.action {
            KvAction::CheckAbsent => format!("key {key:?} exists"),
            KvAction::CheckIndex { .. } => {
                format!("current modify index {actual} does not match for key {key:?}")
            }
            _ => format!("failed to set key {key:?}, index is stale"),
        },
        KvRefusal::Missing => format!("key {key:?} doesn't exist"),
        KvRefusal::Held { .. } => format!("failed to lock key {key:?}, lock is already held"),
        KvRefusal::Delayed => format!("failed to lock key {key:?} due to lock delay"),
        KvRefusal::NotHeld => {
            format!("lock of key {key:?} isn't held, or is held by another session")
        }
        KvRefusal::NoSession => format!("invalid session for key {key:?}"),
    };
    let body = json!({"Results": null, "Errors": [{"OpIndex": at, "What": what}]});
    answer::json(StatusCode::CONFLICT, false, &body)
}

impl Inner {
    pub(crate) async fn txn(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let (query, mut options) = self.options(asked, None)?;
        // Nobody waits for a transaction.
        options.index = 0;
        check_namespace(&query, &[])?;
        let ops = read_ops(&asked.body)?;
        let is_read = |op: &Op| match op {
            Op::One(op) => op.is_read(),
            Op::Tree(_) => true,
        };
        if ops.iter().all(is_read) {
            return self.txn_read(asked, &options, &ops).await;
        }
        let mut one = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::One(op) => one.push(op),
                Op::Tree(_) => {
                    let text = "get-tree is only supported in a transaction that only reads";
                    return Err(Refusal::bad(text));
                }
            }
        }
        KvOp::check_all(&one)?;
        let before = self.view.snapshot();
        let command = Command::ChangeKv { ops: one.clone() };
        let applied = self.propose(asked, command).await?;
        match applied.reply {
            Reply::Kv(metas) => self.txn_done(&options, &one, &metas, &before),
            Reply::KvRefused { at, why } => {
                let op = one.get(usize::try_from(at).unwrap_or(usize::MAX));
                Ok(refused(at, op.ok_or_else(unexpected)?, why))
            }
            _ => Err(unexpected()),
        }
    }

    async fn txn_read(
        &self,
        asked: &Asked,
        options: &Options,
        ops: &[Op],
    ) -> Result<Answer, Refusal> {
        let ready = self.ready(asked, options, &Scope::All).await?;
        let state = &ready.snapshot.state;
        let (mut results, mut room) = (Vec::new(), ValuesRoom::new(ready.len_max));
        for (at, op) in (0_u32..).zip(ops) {
            match op {
                Op::Tree(prefix) => {
                    for entry in state.kv().below(prefix.as_str(), None) {
                        room.take(entry.stored_len())?;
                        results.push(ShownResult { kv: Shown::of(entry) });
                    }
                }
                Op::One(op) => {
                    if let Err(why) = state.kv().check_read(op) {
                        return Ok(refused(at, op, why));
                    }
                    let wants_value = matches!(op.action, KvAction::Get { .. });
                    let kv = match state.kv().entry(op.key.as_str()) {
                        Some(entry) => {
                            if wants_value {
                                room.take(entry.stored_len())?;
                            }
                            let value = Some(&*entry.content.value.0).filter(|_| wants_value);
                            Shown::new(entry.key.as_str(), entry.content.flags, entry.meta, value)
                        }
                        None if wants_value => {
                            Shown::new(op.key.as_str(), 0, KvMeta::default(), None)
                        }
                        None => continue,
                    };
                    results.push(ShownResult { kv });
                }
            }
        }
        // It is not kept for other readers, because it depends on the body of the request.
        let body = Results { results, errors: None };
        let len_max = ready.len_max;
        let mut answer = answer::json_within(len_max, StatusCode::OK, options.pretty, &body);
        if answer.status() != StatusCode::OK {
            return Ok(answer);
        }
        self.put_headers(answer.headers_mut(), options, &ready);
        Ok(answer)
    }

    fn txn_done(
        &self,
        options: &Options,
        ops: &[KvOp],
        metas: &[Option<KvMeta>],
        before: &Snapshot,
    ) -> Result<Answer, Refusal> {
        let after: Arc<Snapshot> = self.view.snapshot();
        let mut results = Vec::new();
        for (at, (op, meta)) in ops.iter().zip(metas).enumerate() {
            let key = op.key.as_str();
            let wants_value = matches!(op.action, KvAction::Get { .. });
            let Some(meta) = meta else {
                if wants_value {
                    results.push(ShownResult { kv: Shown::new(key, 0, KvMeta::default(), None) });
                }
                continue;
            };
            // The transaction itself may have written the value. Otherwise the key had it before, or got it just
            // before the transaction, and has it still.
            let own = || {
                let earlier = ops[..=at].iter().rev().filter(|earlier| earlier.key == op.key);
                earlier.filter_map(KvOp::content).next()
            };
            let published = |snapshot: &Snapshot| {
                let entry = snapshot.state.kv().entry(key)?;
                let is_meant = entry.meta.modify_index == meta.modify_index;
                is_meant.then(|| entry.content.clone())
            };
            let content = own().cloned();
            let content = content.or_else(|| published(before)).or_else(|| published(&after));
            let Some(content) = content else {
                let text = format!(
                    "the transaction was carried out, but key {key:?} was changed again before it was read: read it again"
                );
                return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
            };
            let value = Some(&*content.value.0).filter(|_| wants_value);
            results.push(ShownResult { kv: Shown::new(key, content.flags, *meta, value) });
        }
        let body = Results { results, errors: None };
        Ok(answer::json(StatusCode::OK, options.pretty, &body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_and_malformed_ones_are_refused() {
        let read = |body: Value| read_ops(body.to_string().as_bytes());
        let ops = read(json!([
            {"KV": {"Verb": "set", "Key": "a", "Value": "dg==", "Flags": 7}},
            {"KV": {"Verb": "check-not-exists", "Key": "b"}},
            {"KV": {"Verb": "get-tree", "Key": ""}},
        ]));
        let key = |text| KvKey::parse(text).unwrap();
        let content = KvContent { value: b"v".as_slice().into(), flags: 7 };
        assert_eq!(
            ops.unwrap(),
            [
                Op::One(KvOp { key: key("a"), action: KvAction::Put { content, expected: None } }),
                Op::One(KvOp { key: key("b"), action: KvAction::CheckAbsent }),
                Op::Tree(KvKey::parse_prefix("").unwrap()),
            ]
        );
        for bad in [
            json!({}),
            json!([1]),
            json!([{}]),
            json!([{"Service": {"Verb": "get"}}]),
            json!([{"KV": {"Verb": "set", "Key": ""}}]),
            json!([{"KV": {"Verb": "put", "Key": "a"}}]),
            json!([{"KV": {"Verb": "set", "Key": "a", "Value": "%"}}]),
            json!([{"KV": {"Verb": "set", "Key": "a", "Namespace": "shop"}}]),
            json!([{"KV": {"Verb": "set", "Key": "a", "Partition": "x"}}]),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        let lock = read(json!([{"KV": {"Verb": "unlock", "Key": "a", "Session": "x"}}])).unwrap();
        let content = Some(KvContent { value: b"".as_slice().into(), flags: 0 });
        let action = KvAction::Unlock { content, session: NO_SESSION };
        assert_eq!(lock, [Op::One(KvOp { key: key("a"), action })]);
        let many: Vec<Value> =
            (0..=KV_OPS_MAX).map(|_| json!({"KV": {"Verb": "get", "Key": "a"}})).collect();
        assert_eq!(read(many.into()).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
