//! The page about a condition that a node reports as a text in its status.

use serde_json::Value;

/// Where the pages are.
const OPERATIONS: &str = "docs/operations";

/// The page about a node that knows no leader.
pub(super) fn without_leader(status: &Value) -> String {
    let says = |text: &str| {
        let mut warnings = status["warnings"].as_array().into_iter().flatten();
        warnings.any(|warning| warning.as_str().is_some_and(|warning| warning.contains(text)))
    };
    let page = match status["backend"].as_str() {
        Some("redis") if says("has not answered this node") || says("the store ") => "redis-lost",
        _ if says("no majority: ") => "quorum-lost",
        _ => "leader-lost",
    };
    format!("{OPERATIONS}/{page}.md")
}

/// The page about the reason for which a node gives no status.
pub(super) fn of_refusal(why: &str) -> String {
    let page = match () {
        () if why.contains("the shared storage ") => "disk-full",
        () if why.contains("the store ") => "redis-lost",
        () => "README",
    };
    format!("{OPERATIONS}/{page}.md")
}

/// The page about a warning of a node with this status.
pub(super) fn of_warning(text: &str, status: &Value) -> String {
    let pages = [
        ("no majority: ", "quorum-lost.md"),
        ("one more lost voter ", "replica-lost.md"),
        ("a change of the voters ", "replica-lost.md"),
        ("this node's disk is stalled", "disk-full.md"),
        ("the time of the log is ", "clock-wrong.md"),
        ("expiry is suspended", "README.md#many-instances-are-silent"),
        ("this node could not forward audit records", "audit-forwarding.md"),
        ("the log of this node was removed", "disk-corrupt.md"),
    ];
    if let Some((_, page)) = pages.iter().find(|(begin, _)| text.starts_with(begin)) {
        return format!("{OPERATIONS}/{page}");
    }
    if text.starts_with("an upgrade is not finished") {
        return "docs/guides/upgrade.md".to_owned();
    }
    let is_of_copy = [
        "this node's state may be ",
        "the age of this node's state ",
        "this node has no state yet",
    ]
    .iter()
    .any(|begin| text.starts_with(begin));
    let knows_leader = status["leadership"]["leader"].is_string();
    if text.starts_with("no leader is known") || is_of_copy && !knows_leader {
        return without_leader(status);
    }
    let page = match status["backend"].as_str() {
        _ if is_of_copy => "partition",
        _ if text.contains("certificate") => "certificate-expired",
        // What remains is about the store.
        Some("redis") => "redis-lost",
        Some("shared-file") => "disk-full",
        _ => "README",
    };
    format!("{OPERATIONS}/{page}.md")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use maxine_view::NO_STATE;
    use serde_json::json;

    use super::*;

    /// Regression: every warning named the list of all runbooks.
    #[test]
    fn each_warning_names_the_page_of_its_condition() {
        let of = |backend: &str, leader: Option<&str>, text: &str| {
            let status = json!({
                "backend": backend, "leadership": {"leader": leader}, "warnings": [text],
            });
            let page = of_warning(text, &status);
            let file = page.split('#').next().unwrap_or_default();
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            assert!(root.join(file).is_file(), "{page}");
            page.trim_start_matches("docs/").to_owned()
        };
        let led = Some("n2");
        let silent = "Redis has not answered this node for 9 s";
        let cases = [
            (
                "raft",
                None,
                "no majority: writes need 2 voters, 1 reachable",
                "operations/quorum-lost.md",
            ),
            ("raft", led, "one more lost voter stops writes", "operations/replica-lost.md"),
            ("raft", led, "this node's disk is stalled", "operations/disk-full.md"),
            ("raft", None, "no leader is known: writes are not taken", "operations/leader-lost.md"),
            ("raft", None, NO_STATE, "operations/leader-lost.md"),
            ("raft", led, "this node's state may be 12 s old: it lacks", "operations/partition.md"),
            ("raft", led, "cert.pem: the certificate expired", "operations/certificate-expired.md"),
            ("raft", led, "an upgrade is not finished: the state", "guides/upgrade.md"),
            (
                "raft",
                led,
                "expiry is suspended: too many",
                "operations/README.md#many-instances-are-silent",
            ),
            (
                "redis",
                led,
                "this node could not forward audit records to its sink http for 9 s",
                "operations/audit-forwarding.md",
            ),
            (
                "local",
                led,
                "the log of this node was removed or replaced, or cannot be reached",
                "operations/disk-corrupt.md",
            ),
            ("redis", None, silent, "operations/redis-lost.md"),
            ("redis", led, "the store refuses writes (OOM)", "operations/redis-lost.md"),
            ("redis", None, "no leader is known: heartbeats", "operations/leader-lost.md"),
            ("shared-file", led, "the shared storage is full", "operations/disk-full.md"),
            ("local", led, "something new", "operations/README.md"),
        ];
        for (backend, leader, text, page) in cases {
            assert_eq!(of(backend, leader, text), page, "{text}");
        }
    }

    /// Regression: the list of all runbooks was named for a node that had started while Redis was silent.
    #[test]
    fn a_node_without_a_state_names_the_page_of_the_reason() {
        let of = |why: &str| of_refusal(&format!("{NO_STATE}{why}: ask another node"));
        assert_eq!(of("; the store does not answer"), "docs/operations/redis-lost.md");
        assert_eq!(of("; the store demands a password"), "docs/operations/redis-lost.md");
        assert_eq!(of("; the shared storage is full"), "docs/operations/disk-full.md");
        assert_eq!(of(""), "docs/operations/README.md");
    }

    /// Without a leader, the page is that of the reason, which is another warning.
    #[test]
    fn the_page_about_a_missing_leader_is_that_of_the_reason() {
        let of = |backend: &str, warnings: &[&str]| {
            without_leader(&json!({"backend": backend, "warnings": warnings}))
        };
        let missing = "no leader is known: writes are not taken";
        let silent = "Redis has not answered this node for 9 s";
        assert_eq!(of("redis", &[silent, missing]), "docs/operations/redis-lost.md");
        let lost = "no majority: writes need 2 voters, 1 reachable";
        assert_eq!(of("raft", &[missing, lost]), "docs/operations/quorum-lost.md");
        assert_eq!(of("raft", &[missing]), "docs/operations/leader-lost.md");
    }
}
