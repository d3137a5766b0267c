//! JSON merge patch (RFC 7396) for documents with a revision: policies and the configuration.
//!
//! The document is read, changed, and written under the revision that was read. This is repeated until no other change
//! came in between, so that a patch never undoes another user's change.

use std::fmt;

use axum::extract::{FromRequest, Request};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use super::extract::{BODY_LEN_MAX, parse_json, read_body, require_type};
use super::fresh::Write;
use crate::AppState;
use crate::problem::{Problem, ProblemKind};
use maxine_actors::{WriteError, WriteRequest};
use maxine_state::{Applied, Command, ControlState, Rejection, RequestId};

/// Maximum number of attempts while other users change the same document.
const ATTEMPTS_MAX: u32 = 16;
/// Maximum time for this node to catch up with another user's change.
const CATCH_UP: std::time::Duration = std::time::Duration::from_secs(3);

/// The body of a `PATCH`: an object whose fields replace those of the document. `null` removes a field, and objects are
/// merged.
pub(super) struct MergePatch(Map<String, Value>);

impl FromRequest<AppState> for MergePatch {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        require_type(request.headers(), &["application/merge-patch+json", "application/json"])?;
        let bytes = read_body(request, BODY_LEN_MAX, state).await?;
        match parse_json::<Unrepeated>(&bytes)?.0 {
            Value::Object(fields) => Ok(Self(fields)),
            _ => {
                let detail = "a merge patch of this document must be an object";
                Err(Problem::new(ProblemKind::InvalidRequest, detail))
            }
        }
    }
}

/// Merges `patch` into `document`.
fn merge(document: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(document.remove(name)),
            Value::Object(fields) => {
                let place = document.entry(name).or_insert(Value::Null);
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                if let Value::Object(place) = place {
                    merge(place, fields);
                }
            }
            value => drop(document.insert(name.clone(), value.clone())),
        }
    }
}

/// Changes a document by a patch. `read` returns the document and its revision. `command` makes the command that writes
/// the changed document; apply must refuse it if the document has another revision than the given one.
pub(super) async fn patch(
    state: &AppState,
    write: Write,
    MergePatch(patch): MergePatch,
    read: impl Fn(&ControlState) -> Result<(u64, Map<String, Value>), Problem>,
    command: impl Fn(Value, u64) -> Result<Command, Problem>,
) -> Result<Applied, Problem> {
    let request_id = write.request_id();
    let Write { actor, conditions, answer_by_ms, answered, .. } = write;
    if let Some(revision) = conditions.if_match {
        // A revision is the index at which it was set. Once this node has reached that index, it has this revision or a
        // later one, and apply refuses the change if there is a later one.
        state.view().wait_for(revision, CATCH_UP).await?;
    }
    for attempt in 0..ATTEMPTS_MAX {
        let (revision, mut document) = read(&state.view().snapshot().state)?;
        if conditions.create_only {
            document = Map::new();
        }
        let expected = conditions.expected_revision();
        merge(&mut document, &patch);
        let command = command(Value::Object(document), expected.unwrap_or(revision))?;
        let request_id = request_id.map(|id| of_attempt(id, attempt));
        let actor = actor.clone();
        let request = WriteRequest { actor, request_id, fence: None, answer_by_ms, command };
        match state.registry().propose(request).await {
            Ok(applied) => {
                answered.at(applied.index);
                return Ok(applied);
            }
            Err(WriteError::Rejected { rejection, index }) => {
                let changed = matches!(rejection, Rejection::RevisionMismatch { .. });
                if !changed || expected.is_some() {
                    answered.at(index);
                    return Err(rejection.into());
                }
                // Once this node has reached that index, it has the other user's change.
                state.view().wait_for(index, CATCH_UP).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let detail = "others changed it all the while; nothing was written";
    Err(Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1))
}

/// Each attempt has a request id of its own. Otherwise all attempts would get the refusal of the first one. A repeat of
/// the whole request has the same ids, so it finds the attempt that took effect.
fn of_attempt(id: RequestId, attempt: u32) -> RequestId {
    let hash =
        Sha256::new().chain_update(id.name().to_le_bytes()).chain_update(attempt.to_le_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    RequestId(u128::from_le_bytes(bytes)).with_content(id.content())
}

/// JSON in which no object has a repeated field.
struct Unrepeated(Value);

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
                let number = Number::from_f64(value).ok_or_else(|| E::custom("not a number"))?;
                Ok(Value::Number(number))
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Unrepeated(item)) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::Array(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut fields = Map::new();
                while let Some((name, Unrepeated(value))) = map.next_entry::<String, _>()? {
                    if fields.contains_key(&name) {
                        return Err(de::Error::custom(format!("the field {name} is given twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Value::Object(fields))
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    /// Cases of RFC 7396, appendix A, in which patch and document are objects.
    #[test]
    fn patches_merge_as_the_rfc_says() {
        for (document, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut merged = object(document);
            merge(&mut merged, &object(patch));
            assert_eq!(Value::Object(merged), result);
        }
    }

    #[test]
    fn a_field_that_is_given_twice_is_refused() {
        assert!(parse_json::<Unrepeated>(br#"{"a":{"b":1,"b":2}}"#).is_err());
        let read = parse_json::<Unrepeated>(br#"{"a":[null,true,-1,1.5,"x"],"b":{}}"#);
        assert_eq!(read.map(|read| read.0).unwrap(), json!({"a":[null,true,-1,1.5,"x"],"b":{}}));
    }
}
