//! Reads the objects of requests. Names of fields count without regard to case and underscores, as Consul accepts them.
//! A field that has a value and that this face does not know is refused, never ignored.

use serde_json::{Map, Value};

use super::answer::Refusal;
use super::text::duration_ms;

/// An object, of which each field is taken once.
#[derive(Debug)]
pub(crate) struct Object {
    fields: Vec<(String, String, Value)>,
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

fn failed(why: &str) -> Refusal {
    Refusal::bad(format!("Request decode failed: {why}"))
}

impl Object {
    /// Reads a body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self::new(fields)),
            Ok(_) => Err(failed("the body is no JSON object")),
            Err(error) => Err(failed(&error.to_string())),
        }
    }

    pub(crate) fn new(fields: Map<String, Value>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (folded(&name), name, value));
        Self { fields: fields.collect() }
    }

    /// Takes a field out, whose name here is in ASCII and has no underscore. The first one of several that differ in case
    /// counts; null counts as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        debug_assert!(name.bytes().all(|byte| byte.is_ascii() && byte != b'_'), "{name}");
        let mut found = None;
        let is_it = |(folded, ..): &(String, String, Value)| folded.eq_ignore_ascii_case(name);
        while let Some(at) = self.fields.iter().position(is_it) {
            let (_, _, value) = self.fields.remove(at);
            found = found.or(Some(value));
        }
        found.filter(|value| !value.is_null())
    }

    /// A text; empty if it is absent.
    pub(crate) fn text(&mut self, name: &str) -> Result<String, Refusal> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(failed(&format!("{name} is no string"))),
        }
    }

    /// A boolean; false if it is absent.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(failed(&format!("{name} is no boolean"))),
        }
    }

    /// A whole number within `0..=max`, if it is there.
    pub(crate) fn number(&mut self, name: &str, max: u64) -> Result<Option<u64>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|number| *number <= max) {
                Some(number) => Ok(Some(number)),
                None => Err(Refusal::bad(format!("{name} must be a whole number from 0 to {max}"))),
            },
        }
    }

    /// A duration in milliseconds: Go's text, or a number of nanoseconds. `None` if it is absent, empty or 0.
    pub(crate) fn duration_ms(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        let ms = match self.take(name) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => duration_ms(&text),
            Some(value) => value.as_u64().map(|nanos| nanos.div_ceil(1_000_000)),
        };
        let ms = ms.ok_or_else(|| failed(&format!("{name} is no duration such as \"10s\"")))?;
        Ok(Some(ms).filter(|ms| *ms > 0))
    }

    /// A list of texts; empty if it is absent.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, Refusal> {
        self.list(name, "strings", |item| match item {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    /// A map from texts to texts, in the order of the body; empty if it is absent.
    pub(crate) fn map(&mut self, name: &str) -> Result<Vec<(String, String)>, Refusal> {
        let wrong = || failed(&format!("{name} is no object whose values are strings"));
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(fields)) => fields
                .into_iter()
                .map(|(key, value)| match value {
                    Value::String(text) => Ok((key, text)),
                    _ => Err(wrong()),
                })
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// An object, if it is there.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Self>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self::new(fields))),
            Some(_) => Err(failed(&format!("{name} is no object"))),
        }
    }

    /// The namespace that the object names; empty if it names none. A partition that it names must be `default`.
    pub(crate) fn namespace(&mut self) -> Result<String, Refusal> {
        let partition = self.text("Partition")?;
        if !matches!(partition.as_str(), "" | "default") {
            let text = format!("Invalid Partition: {partition:?} - Partitions are not supported");
            return Err(Refusal::bad(text));
        }
        self.text("Namespace")
    }

    /// A list of objects; empty if it is absent.
    pub(crate) fn objects(&mut self, name: &str) -> Result<Vec<Self>, Refusal> {
        self.list(name, "objects", |item| match item {
            Value::Object(fields) => Some(Self::new(fields)),
            _ => None,
        })
    }

    fn list<T>(
        &mut self,
        name: &str,
        of: &str,
        read: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let wrong = || failed(&format!("{name} is no list of {of}"));
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                items.into_iter().map(|item| read(item).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// The fields of an object in their own spelling, such as names that the client chose.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = (String, Value)> {
        self.fields.into_iter().map(|(_, name, value)| (name, value))
    }

    /// Takes a field out whose value has no effect here.
    pub(crate) fn ignore(&mut self, name: &str) {
        let _ = self.take(name);
    }

    /// Refuses a field that has a value, with the reason.
    pub(crate) fn refuse(&mut self, name: &str, why: &str) -> Result<(), Refusal> {
        match self.take(name).filter(has_content) {
            Some(_) => Err(Refusal::bad(format!("{name} is not supported: {why}"))),
            None => Ok(()),
        }
    }

    /// Refuses what was not taken and has a value.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        match self.fields.iter().find(|(_, _, value)| has_content(value)) {
            Some((_, name, _)) => Err(failed(&format!("json: unknown field {name:?}"))),
            None => Ok(()),
        }
    }
}

/// Whether a value says something, unlike the zero values that Go sends.
fn has_content(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => fields.values().any(has_content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_in_any_spelling_and_unknown_ones_are_refused() {
        let body = br#"{"name":"a","enable_tag_override":true,"Interval":"1m","TTL":5000000000,"Checks":null,
                        "Ports":null,"Extra":1}"#;
        let mut object = Object::parse(body).unwrap();
        assert_eq!(object.text("Name").unwrap(), "a");
        assert!(object.boolean("EnableTagOverride").unwrap());
        assert_eq!(object.duration_ms("Interval").unwrap(), Some(60_000));
        assert_eq!(object.duration_ms("TTL").unwrap(), Some(5_000));
        assert!(object.objects("Checks").unwrap().is_empty());
        let refused = object.finish().unwrap_err();
        assert_eq!(refused.text, r#"Request decode failed: json: unknown field "Extra""#);
        assert!(Object::parse(b"[]").is_err() && Object::parse(b"{").is_err());
    }

    #[test]
    fn a_list_with_an_item_of_another_kind_is_refused() {
        let read =
            || Object::parse(br#"{"Tags":["a",1],"Checks":[{},"a"],"Ok":["a","b"]}"#).unwrap();
        assert_eq!(read().texts("Ok").unwrap(), ["a", "b"]);
        let said = |refused: Refusal| refused.text;
        let no_texts = said(read().texts("Tags").unwrap_err());
        assert_eq!(no_texts, "Request decode failed: Tags is no list of strings");
        let no_objects = said(read().objects("Checks").unwrap_err());
        assert_eq!(no_objects, "Request decode failed: Checks is no list of objects");
    }
}
