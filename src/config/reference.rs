//! Generates the reference page of all settings from the table of keys.

use std::fmt::Write;

use super::environment::SECRETS;
use super::keys::KEYS;

/// The heading of the table of [`SECRETS`].
const SECRETS_HEAD: &str = r"
## Secrets

These are read from the environment only, never from the TOML file or from a flag. Set the same values on every node.
A password has at least 8 characters and at most 1,024 bytes; a node with a shorter one does not start.
A URL with a password is accepted in the environment and in files, and refused as a flag (`state.redis_url`,
`state.redis_sentinels`). So are a user or a query in a URL of HTTP, and any path in `telemetry.alert_webhook_url` and
`audit.http_url`, because these can be secrets too.

| environment | meaning |
|---|---|
";

/// The text about environment variables.
const VARIABLES: &str = r"
## Other variables

If a `MAXINE_` variable is almost one of those above (one letter off, the same words in another order, words left out, or
the name of a key or flag), the node does not start, and the error says which name was meant. Any other `MAXINE_` variable
that Maxine does not read is reported at the start and by `maxine config check`, and ignored. The variables that Kubernetes
sets for services are not reported.
";

/// The page in Markdown. `docs/reference/configuration.md` is a copy; a test compares them.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Made by `maxine config reference`; do not edit. Every setting can be given in the TOML file\n\
         (`maxine serve --config FILE`), in the environment, or as a flag of `maxine serve`. Flags override\n\
         the environment, and the environment overrides the file. All bad values are reported together, and the node does not start.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (area, _) = key.name.split_once('.').unwrap_or((key.name, ""));
        if area != section {
            section = area;
            let head = "| key | flag | environment | unit | range | default | meaning |\n\
                        |---|---|---|---|---|---|---|\n";
            // Writing to a string cannot fail.
            let _infallible = write!(page, "\n## {area}\n\n{head}");
        }
        let default = if key.default.is_empty() { "none" } else { key.default };
        let _infallible = writeln!(
            page,
            "| `{}` | `--{}` | `{}` | {} | {} | `{}` | {} |",
            key.name, key.flag, key.env, key.unit, key.range, default, key.help
        );
    }
    page.push_str(SECRETS_HEAD);
    for (names, meaning) in SECRETS {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let _infallible = writeln!(page, "| {} | {meaning} |", names.join(", "));
    }
    page.push_str(VARIABLES);
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_reference_is_the_present_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/configuration.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == super::markdown(),
            "run: cargo run -- config reference > docs/reference/configuration.md"
        );
    }

    #[test]
    fn names_flags_and_environment_names_are_unique() {
        for field in [
            |key: &crate::config::keys::Key| key.name,
            |key: &crate::config::keys::Key| key.flag,
            |key: &crate::config::keys::Key| key.env,
        ] {
            let mut names: Vec<&str> = super::KEYS.iter().map(field).collect();
            names.sort_unstable();
            let len = names.len();
            names.dedup();
            assert_eq!(names.len(), len);
        }
    }
}
