//! The parameters that all reads share.

use super::answer::Refusal;
use super::filter::{Fields, Filter};
use super::shape::Names;
use super::text::{Query, duration_ms};
use http::StatusCode;
use maxine_state::{Name, ServiceKey};

/// How long a blocking query waits if it does not say so, in milliseconds.
const WAIT_MS_DEFAULT: u64 = 300_000;
/// Maximum wait of a blocking query, in milliseconds.
const WAIT_MS_MAX: u64 = 600_000;
/// Maximum number of values of one repeated parameter.
const REPEATS_MAX: usize = 64;

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// What the leader last confirmed. Without a leader: this node's copy.
    Default,
    /// This node's copy.
    Stale,
    /// Every write that was acknowledged before the request.
    Consistent,
}

impl Mode {
    /// Its name in the header of an answer.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Default => "leader",
            Self::Stale => "stale",
            Self::Consistent => "consistent",
        }
    }
}

/// What a read asks for, apart from its object.
#[derive(Debug)]
pub(crate) struct Options {
    /// The index after which a change is awaited; 0 for an answer at once.
    pub(crate) index: u64,
    pub(crate) wait_ms: u64,
    pub(crate) mode: Mode,
    /// An older answer is asked for again, from what the leader last confirmed.
    pub(crate) max_stale_ms: Option<u64>,
    pub(crate) cached: bool,
    pub(crate) pretty: bool,
    pub(crate) namespace: Name,
    pub(crate) node_meta: Vec<(String, String)>,
    /// In lower case.
    pub(crate) tags: Vec<String>,
    /// In lower case; empty for no order.
    pub(crate) near: String,
    /// A filter, and what it may ask. It is compiled when the answer is built, because a compiled one is large.
    filter: Option<(Box<str>, Fields)>,
}

impl Options {
    /// Reads the parameters. `fields` says what a filter may ask; `None` if the route has no filter.
    pub(crate) fn read(
        query: &Query,
        names: &Names,
        fields: Option<Fields>,
    ) -> Result<Self, Refusal> {
        let index = match query.get("index") {
            // A client of Spring sends -1 before it knows an index.
            None | Some("-1") => 0,
            Some(text) => text.parse().map_err(|_| Refusal::bad("Invalid index"))?,
        };
        let wait_ms = match query.get("wait") {
            Some(text) => duration_ms(text).ok_or_else(|| Refusal::bad("Invalid wait time"))?,
            None => 0,
        };
        let wait_ms = if wait_ms == 0 { WAIT_MS_DEFAULT } else { wait_ms.min(WAIT_MS_MAX) };
        let (stale, consistent) = (query.has("stale"), query.has("consistent"));
        let cached = query.has("cached");
        if consistent && (stale || cached) {
            let other = if stale { "?stale" } else { "?cached" };
            let text = format!("Cannot specify ?consistent with {other}, conflicting semantics.");
            return Err(Refusal::bad(text));
        }
        let max_stale_ms = match query.get("max_stale") {
            Some(text) => {
                let ms = duration_ms(text);
                Some(ms.ok_or_else(|| Refusal::bad(format!("Invalid max_stale value {text:?}")))?)
            }
            None => None,
        };
        let mode = match (consistent, stale || max_stale_ms.is_some()) {
            (true, _) => Mode::Consistent,
            (false, true) => Mode::Stale,
            (false, false) => Mode::Default,
        };
        check_datacenter(query, names)?;
        let filter = query.get("filter").zip(fields);
        Ok(Self {
            index,
            wait_ms,
            mode,
            max_stale_ms,
            cached,
            pretty: query.has("pretty"),
            namespace: namespace(query, &[])?,
            node_meta: node_meta(query)?,
            tags: tags(query)?,
            near: query.get("near").unwrap_or_default().to_lowercase(),
            filter: filter.map(|(text, fields)| (text.into(), fields)),
        })
    }

    /// Compiles the filter, if there is one.
    pub(crate) fn filter(&self) -> Result<Option<Filter>, Refusal> {
        let compiled = self.filter.as_ref().map(|(text, fields)| Filter::parse(text, fields));
        compiled.transpose().map_err(Refusal::bad)
    }

    /// Whether there is a filter.
    pub(crate) fn has_filter(&self) -> bool {
        self.filter.is_some()
    }
}

/// The namespace of a request: `default`, unless the parameter `ns`, the header or an object of the body names another
/// one. All that name one must name the same. `in_body` are the names in the body; an empty one counts for nothing.
pub(crate) fn namespace(query: &Query, in_body: &[&str]) -> Result<Name, Refusal> {
    for (parameter, what) in [("partition", "Partitions"), ("peer", "Peers")] {
        if query.all(parameter).any(|value| !matches!(value, "" | "default")) {
            let text = format!("Invalid query parameter: {parameter:?} - {what} are not supported");
            return Err(Refusal::bad(text));
        }
    }
    let mut named: Vec<&str> = query.all("ns").collect();
    named.extend(in_body);
    named.retain(|name| !name.is_empty());
    let Some(first) = named.first() else {
        return Ok(Name::trusted(ServiceKey::DEFAULT_NAMESPACE));
    };
    match named.iter().find(|other| *other != first) {
        Some(other) => Err(Refusal::bad(format!(
            "the request names two namespaces, {first:?} and {other:?}: name only one of them"
        ))),
        None => Ok(Name::parse_namespace(first)?),
    }
}

/// Refuses another namespace than `default`. Keys and sessions have none, because they belong to the whole cluster.
pub(crate) fn check_namespace(query: &Query, in_body: &[&str]) -> Result<(), Refusal> {
    match namespace(query, in_body)?.as_str() {
        ServiceKey::DEFAULT_NAMESPACE => Ok(()),
        _ => Err(Refusal::bad(
            "Invalid namespace: keys have no namespaces, and neither have sessions",
        )),
    }
}

/// Refuses another datacenter than the own one.
pub(crate) fn check_datacenter(query: &Query, names: &Names) -> Result<(), Refusal> {
    query.all("dc").try_for_each(|dc| check_datacenter_name(dc, names))
}

/// Refuses the name of another datacenter. An empty one counts for nothing.
pub(crate) fn check_datacenter_name(dc: &str, names: &Names) -> Result<(), Refusal> {
    match dc.is_empty() || dc.eq_ignore_ascii_case(&names.datacenter) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter")),
    }
}

fn node_meta(query: &Query) -> Result<Vec<(String, String)>, Refusal> {
    let pairs = query.all("node-meta").map(|pair| {
        let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
        (key.to_owned(), value.to_owned())
    });
    bounded(pairs.collect(), "node-meta")
}

fn tags(query: &Query) -> Result<Vec<String>, Refusal> {
    let tags = query.all("tag").filter(|tag| !tag.is_empty()).map(str::to_lowercase);
    let mut tags = bounded(tags.collect(), "tag")?;
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

fn bounded<T>(values: Vec<T>, name: &str) -> Result<Vec<T>, Refusal> {
    if values.len() <= REPEATS_MAX {
        return Ok(values);
    }
    Err(Refusal::bad(format!("Invalid {name}: at most {REPEATS_MAX} values are allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_name_a_namespace_name_the_same_one() {
        let named = |query: &str, in_body: &[&str]| {
            let query = Query::parse(query).unwrap();
            namespace(&query, in_body)
                .map(|name| name.to_string())
                .map_err(|refused| refused.status)
        };
        for (query, in_body, name) in [
            ("", vec![], "default"),
            ("ns=", vec!["", ""], "default"),
            ("ns=shop", vec!["", "shop"], "shop"),
            ("", vec!["shop"], "shop"),
            ("ns=shop&ns=shop&partition=default&peer=", vec![], "shop"),
        ] {
            assert_eq!(named(query, &in_body).as_deref(), Ok(name), "{query} {in_body:?}");
        }
        for (query, in_body) in [
            ("ns=shop", vec!["default"]),
            ("ns=default", vec!["shop"]),
            ("ns=a&ns=b", vec![]),
            ("", vec!["a", "", "b"]),
            ("partition=default&partition=x", vec![]),
            ("peer=x", vec![]),
        ] {
            assert_eq!(named(query, &in_body), Err(StatusCode::BAD_REQUEST), "{query} {in_body:?}");
        }
    }
}
