//! Shows documents with fields, such as a policy, and changes some of their fields.
//!
//! A request names only the changed fields (`PATCH`). The cluster merges them, so no change undoes another
//! one.

use std::io::Read;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::client::{Client, Request};
use super::exit::CliError;
use super::output::Output;
use maxine_state::limits;

/// Reads `PATH=VALUE`.
pub(super) fn assignment(text: &str) -> Result<(String, Value), String> {
    let (path, value) = text.split_once('=').ok_or("expected PATH=VALUE")?;
    if path.is_empty() || path.split('.').any(str::is_empty) || path.split('.').count() > 8 {
        return Err("the path must be 1 to 8 field names with dots between them".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((path.to_owned(), value))
}

/// Shows each field of a document in a row.
pub(super) async fn show(
    client: &Client,
    request: Request,
    field: &str,
    out: &mut Output,
) -> Result<(), CliError> {
    let answer = client.send(&request).await?;
    if out.is_json() {
        return out.json(&answer.body);
    }
    let mut rows = Vec::new();
    flatten(field, &answer.body[field], &mut rows);
    let strip = format!("{field}.");
    let rows = rows
        .into_iter()
        .map(|(path, value)| vec![path.strip_prefix(&strip).unwrap_or(&path).to_owned(), value])
        .collect();
    out.table(&["field", "value"], rows)?;
    out.line(format!("revision {}", answer.body["revision"]))
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                flatten(&format!("{path}.{name}"), value, rows);
            }
        }
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        Value::Null => rows.push((path.to_owned(), "-".into())),
        value => rows.push((path.to_owned(), value.to_string())),
    }
}

/// Changes some fields of a document.
pub(super) async fn change(
    client: &Client,
    request: Request,
    field: &str,
    assignments: &[(String, Value)],
    out: &mut Output,
) -> Result<(), CliError> {
    let mut patch = Value::Object(Map::new());
    for (path, value) in assignments {
        assign(&mut patch, path, value.clone())?;
    }
    let answer = client.send(&request.json(patch)).await?;
    tell_warnings(&answer.body);
    out.done(&answer.body, format!("the {field} is now revision {}", answer.body["revision"]))
}

/// Tells the user what was set and has no effect.
pub(super) fn tell_warnings(body: &Value) {
    for warning in body["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tell!("warning: {warning}");
    }
}

/// Sets the field at a dotted path, and creates missing objects on the path. A probe or another absent part
/// (`null`) becomes an object. A number or a text on the path is an error.
fn assign(document: &mut Value, path: &str, value: Value) -> Result<(), CliError> {
    let mut place = document;
    for name in path.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(object) = place else {
            return Err(CliError::Usage(format!("{path}: the part before {name} has no fields")));
        };
        place = object.entry(name).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

/// Reads a policy from a file, or from standard input for `-`.
pub(super) fn read_document(file: &PathBuf) -> Result<Value, CliError> {
    let refused =
        |error: &dyn std::fmt::Display| CliError::Usage(format!("{}: {error}", file.display()));
    let limit = limits::POLICY_LEN_MAX;
    let mut bytes = Vec::new();
    let reader: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(|error| refused(&maxine_wording::io(&error)))?)
    };
    reader.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| refused(&error))?;
    if bytes.len() > limit {
        return Err(refused(&format!("a policy is at most {limit} bytes")));
    }
    maxine_wording::read_json(&bytes).map_err(|error| refused(&error.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn assignments_change_what_they_name_and_nothing_else() {
        let mut document = json!({"selection": {"strategy": null, "x": 1}, "probe": null});
        for text in
            ["selection.strategy=rendezvous", "probe.interval_ms=2000", "probe.path=\"/a=b\""]
        {
            let (path, value) = assignment(text).unwrap();
            assign(&mut document, &path, value).unwrap();
        }
        let want = json!({"selection": {"strategy": "rendezvous", "x": 1}, "probe": {"interval_ms": 2000, "path": "/a=b"}});
        assert_eq!(document, want);
        assert!(assign(&mut document, "selection.x.y", json!(1)).is_err());
        for bad in ["x", "=1", "a..b=1"] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
    }
}
