//! An example settings file: every key with its default, commented out.

use std::fmt::Write;

use super::keys::{KEYS, Key};

/// The output of `maxine config example`.
#[must_use]
pub fn toml() -> String {
    let mut out = String::from(
        "# Settings of Maxine, each at its default. Remove the # before a line to change it, and start with\n\
         # maxine serve --config FILE. 'maxine config check --config FILE' says what is wrong.\n\
         # The environment wins over this file, flags win over both.\n",
    );
    let mut areas: Vec<&str> = Vec::new();
    for key in KEYS {
        let area = area(key).0;
        if !areas.contains(&area) {
            areas.push(area);
        }
    }
    for each in areas {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "\n[{each}]");
        for key in KEYS.iter().filter(|key| area(key).0 == each) {
            let _infallible = writeln!(
                out,
                "\n# {}\n# {}: {}. Environment: {}. Flag: --{}.\n#{} = {}",
                key.help,
                key.unit,
                key.range,
                key.env,
                key.flag,
                area(key).1,
                value(key.default)
            );
        }
    }
    out
}

fn area(key: &Key) -> (&'static str, &'static str) {
    key.name.split_once('.').unwrap_or(("", key.name))
}

fn value(default: &str) -> String {
    let is_bare = default.parse::<i64>().is_ok() || matches!(default, "true" | "false");
    if is_bare { default.to_owned() } else { toml::Value::from(default).to_string() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::NodeConfig;

    /// Both the printed file and the file with all settings uncommented give the defaults.
    #[test]
    fn the_example_parses_and_equals_the_defaults() {
        let printed = toml();
        let in_force: String = printed
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maxine.toml");
        for text in [&printed, &in_force] {
            std::fs::write(&path, text).unwrap();
            let loaded = NodeConfig::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).unwrap();
            assert_eq!(format!("{loaded:?}"), format!("{:?}", NodeConfig::defaults()));
        }
        for key in KEYS {
            assert!(printed.contains(&format!("\n#{} = ", area(key).1)), "{}", key.name);
            assert!(printed.contains(key.env) && in_force.contains(key.help), "{}", key.name);
        }
        assert_eq!(
            in_force.lines().filter(|l| !l.starts_with('#') && l.contains(" = ")).count(),
            KEYS.len()
        );
    }
}
