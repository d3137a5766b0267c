//! The `MAXINE_` variables of the environment: which of them Maxine reads, and which setting a mistyped name
//! means.
//!
//! A name that is almost the name of a setting is refused, because otherwise the setting would silently keep
//! its default. Any other unknown variable is only reported, because other programs may use the prefix.

use std::collections::BTreeMap;

use super::keys::KEYS;

const PREFIX: &str = "MAXINE_";

/// Secrets, which are read only from the environment, and the meaning of each.
pub(super) const SECRETS: &[(&[&str], &str)] = &[
    (
        &["MAXINE_ADMIN_USERNAME", "MAXINE_ADMIN_PASSWORD"],
        "Account of the administrator; it cannot be changed at runtime. If it is taken out, the account stays, with its last password, until it is changed or deleted. Set both or neither. If neither is set, the first start makes an account with a random password and shows it once.",
    ),
    (
        &["MAXINE_OPERATOR_USERNAME", "MAXINE_OPERATOR_PASSWORD"],
        "Account of an operator. Set both or neither.",
    ),
    (
        &["MAXINE_VIEWER_USERNAME", "MAXINE_VIEWER_PASSWORD"],
        "Account of a viewer. Set both or neither.",
    ),
    (
        &["MAXINE_JWT_SECRET"],
        "Secret that signs sessions, instead of the keys that the cluster makes and rotates itself. At least 32 bytes, as RFC 7518 requires for HS256; `openssl rand -hex 32` makes one.",
    ),
    (
        &["MAXINE_JWT_SECRET_KEY_ID"],
        "Name of that secret in the head of a token. If not set: `maxine-current`.",
    ),
    (
        &["MAXINE_JWT_PREVIOUS_SECRETS"],
        "Older secrets, separated by commas, each of at least 32 bytes. Tokens that they signed are accepted until they expire.",
    ),
];

/// Variables that other commands of this program, its tests, or the Node.js Maxine read.
const OTHERS: &[&str] = &[
    "MAXINE_SERVER",
    "MAXINE_TOKEN",
    "MAXINE_TOKEN_FILE",
    "MAXINE_CA_FILE",
    "MAXINE_CLIENT_CERT",
    "MAXINE_CLIENT_KEY",
    "MAXINE_CLIENT_TIMEOUT_MS",
    "MAXINE_OUTPUT",
    "MAXINE_NAMESPACE",
    "MAXINE_USER",
    "MAXINE_PASSWORD",
    "MAXINE_SESSION_FILE",
    "MAXINE_ADMIN_STATE_FILE",
    "MAXINE_FAULT",
    "MAXINE_FAULT_FILE",
    "MAXINE_BIN",
    "MAXINE_UPDATE",
    "MAXINE_UPSTREAM",
];

/// Units that end the names of settings.
const UNITS: &[&str] = &["_MS", "_S", "_BYTES", "_PERCENT"];

/// The `MAXINE_` variables of an environment that Maxine does not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadVariables {
    /// One line for each name that is almost the name of a setting.
    pub mistaken: Vec<String>,
    /// One line for each other name.
    pub unknown: Vec<String>,
}

/// Finds the `MAXINE_` variables that Maxine does not read.
#[must_use]
pub fn unread_variables(environment: &BTreeMap<String, String>) -> UnreadVariables {
    let mut found = UnreadVariables::default();
    for (name, value) in environment {
        if !name.starts_with(PREFIX) || is_known(name) || is_of_kubernetes(name, value) {
            continue;
        }
        match meant(name) {
            Some(real) => found
                .mistaken
                .push(format!("environment {name} is not a setting; did you mean {real}?")),
            None => {
                found.unknown.push(format!("environment {name} is not read by Maxine: ignored"));
            }
        }
    }
    found
}

fn settings() -> impl Iterator<Item = &'static str> {
    let secrets = SECRETS.iter().flat_map(|(names, _)| names.iter().copied());
    KEYS.iter().map(|key| key.env).chain(secrets)
}

fn is_known(name: &str) -> bool {
    OTHERS.contains(&name) || settings().any(|known| known == name)
}

/// Whether Kubernetes has set this variable. It sets variables for the services in each container's
/// namespace: for a service `maxine` they are `MAXINE_SERVICE_HOST`, `MAXINE_PORT`,
/// `MAXINE_PORT_8080_TCP_ADDR` and others.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| {
            let (number, protocol) = rest.split_once('_').unwrap_or((rest, ""));
            number.parse::<u16>().is_ok()
                && ["TCP", "UDP", "SCTP"].iter().any(|one| protocol.starts_with(one))
        })
}

/// The setting that `name` probably means. It is found by its name in the file or its flag, by one wrong,
/// missing or exchanged letter, by the same words in another order, or without some of the words.
fn meant(name: &str) -> Option<&'static str> {
    let upper = |text: &str| format!("{PREFIX}{}", text.replace(['.', '-'], "_").to_uppercase());
    let by_key = KEYS.iter().find(|key| upper(key.name) == name || upper(key.flag) == name);
    by_key
        .map(|key| key.env)
        .or_else(|| settings().find(|real| is_one_letter_off(name, real)))
        .or_else(|| settings().find(|real| sorted_words(name) == sorted_words(real)))
        .or_else(|| settings().find(|real| leaves_words_out(name, real)))
}

fn sorted_words(name: &str) -> Vec<&str> {
    let mut words: Vec<&str> = name.split('_').collect();
    words.sort_unstable();
    words
}

/// Whether `name` is `real` without some of its words. The last word may be missing only if it is a unit.
fn leaves_words_out(name: &str, real: &str) -> bool {
    let without_unit = |text| UNITS.iter().find_map(|unit| str::strip_suffix(text, unit));
    let ends_alike = |real: &str| name.rsplit('_').next() == real.rsplit('_').next();
    let complete = ends_alike(real) || without_unit(real).is_some_and(ends_alike);
    let name: Vec<&str> = name.split('_').collect();
    if name.len() < 3 || !complete {
        return false;
    }
    let mut rest = real.split('_');
    name.iter().all(|word| rest.any(|other| other == *word))
}

/// Whether one letter was changed, left out, added, or exchanged with the next one.
fn is_one_letter_off(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let same = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    let (left, right) = (&left[same..], &right[same..]);
    match (left, right) {
        ([_, l @ ..], [_, r @ ..]) if l == r => true,
        ([_, l @ ..], r) | (r, [_, l @ ..]) if l == r => true,
        ([a, b, l @ ..], [c, d, r @ ..]) => a == d && b == c && l == r,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> UnreadVariables {
        unread_variables(&BTreeMap::from([(name.into(), value.into())]))
    }

    #[test]
    fn a_variable_that_is_almost_a_setting_is_told_which() {
        for (name, real) in [
            ("MAXINE_MODE", "MAXINE_REGISTRY_STATE_MODE"),
            ("MAXINE_STATE_MODE", "MAXINE_REGISTRY_STATE_MODE"),
            ("MAXINE_REGISTRY_MODE", "MAXINE_REGISTRY_STATE_MODE"),
            ("MAXINE_REGISTRY_STATE_MOD", "MAXINE_REGISTRY_STATE_MODE"),
            ("MAXINE_REGISTRY_STATE_MODES", "MAXINE_REGISTRY_STATE_MODE"),
            ("MAXINE_REGISTRY_STATE_MOED", "MAXINE_REGISTRY_STATE_MODE"),
            ("MAXINE_STATE_REGISTRY_MODE", "MAXINE_REGISTRY_STATE_MODE"),
            ("MAXINE_REDIS_URL", "MAXINE_REGISTRY_REDIS_URL"),
            ("MAXINE_LEASE_MS", "MAXINE_LEADER_ELECTION_LEASE_MS"),
            ("MAXINE_RAFT_ELECTION_TIMEOUT_MIN", "MAXINE_RAFT_ELECTION_TIMEOUT_MIN_MS"),
            ("MAXINE_WRITE_TIMEOUT", "MAXINE_WRITE_TIMEOUT_MS"),
            ("MAXINE_NODEID", "MAXINE_NODE_ID"),
            ("MAXINE_ID_NODE", "MAXINE_NODE_ID"),
            ("MAXINE_PORT", "PORT"),
            ("MAXINE_HTTP_PORT", "PORT"),
            ("MAXINE_JWT_SECRETS", "MAXINE_JWT_SECRET"),
        ] {
            let found = of(name, "x");
            assert_eq!(found.mistaken.len(), 1, "{name}");
            assert!(found.mistaken[0].ends_with(&format!("did you mean {real}?")), "{found:?}");
        }
    }

    #[test]
    fn strangers_are_reported_and_known_ones_are_not() {
        assert_eq!(of("MAXINE_TEAM_COLOUR", "x").unknown.len(), 1);
        for (name, value) in [
            ("MAXINE_SERVER", "http://a"),
            ("MAXINE_TOKEN", "x"),
            ("MAXINE_ADMIN_STATE_FILE", "x"),
            ("MAXINE_JWT_SECRET", "x"),
            ("PORT", "1"),
            ("MAXIN_MODE", "x"),
            ("MAXINE_PORT", "tcp://10.0.0.1:8080"),
            ("MAXINE_SERVICE_HOST", "10.0.0.1"),
            ("MAXINE_SERVICE_PORT_HTTP", "8080"),
            ("MAXINE_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("MAXINE_RAFT_PORT_7700_TCP_PROTO", "tcp"),
        ] {
            assert_eq!(of(name, value), UnreadVariables::default(), "{name}");
        }
        for key in KEYS {
            assert_eq!(of(key.env, "x"), UnreadVariables::default(), "{}", key.env);
        }
    }
}
