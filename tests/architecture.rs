//! The table of allowed import directions between the parts, and a check that the code obeys it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::field_reassign_with_default,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, reads the real clock, and has no users"
)]

use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/circles.rs"]
mod circles;

/// A folder, and names that its files must not use. No manifest can enforce these directions.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "crates/api/src",
        &[
            "maxine_store::RaftStore",
            "maxine_store::redis",
            "maxine_store::local",
            "maxine_store::shared_file",
        ],
    ),
    ("src/config", &["crate::app", "crate::cli", "maxine_store", "maxine_gateway"]),
];

/// A crate of `crates/`, or `raft`, and the crates of this project that it may use. Its manifest must name no
/// other.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("actors", &["admission", "clock", "control", "fuzzing", "gateway", "state", "store", "view"]),
    ("admission", &[]),
    (
        "api",
        &[
            "actors",
            "admission",
            "balance",
            "clock",
            "control",
            "discovery",
            "fuzzing",
            "gateway",
            "http1",
            "identity",
            "state",
            "store",
            "telemetry",
            "view",
            "wording",
        ],
    ),
    ("balance", &[]),
    ("clock", &[]),
    ("consul", &["actors", "admission", "clock", "fuzzing", "state", "store", "view"]),
    ("control", &["balance", "state"]),
    ("discovery", &["balance", "fuzzing", "state", "view"]),
    ("dns", &["admission", "clock", "fuzzing", "state", "view"]),
    ("files", &[]),
    ("fuzzing", &[]),
    (
        "gateway",
        &[
            "admission",
            "balance",
            "clock",
            "control",
            "fuzzing",
            "http1",
            "state",
            "telemetry",
            "view",
        ],
    ),
    ("http1", &["fuzzing"]),
    (
        "identity",
        &["admission", "clock", "files", "fuzzing", "revocation", "state", "view", "wording"],
    ),
    ("raft", &["admission", "files", "fuzzing", "revocation"]),
    ("revocation", &["files", "wording"]),
    ("state", &["fuzzing"]),
    ("store", &["admission", "clock", "files", "fuzzing", "raft", "state", "view", "wording"]),
    ("telemetry", &["clock", "files", "state", "view", "wording"]),
    ("view", &["balance", "clock", "state"]),
    ("wording", &[]),
];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.into()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .flat_map(|entry| sources(&entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn imports(text: &str, part: &str) -> bool {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
    code.match_indices(part).any(|(at, _)| {
        // `crate::app` is not `crate::apply`.
        let next = code[at + part.len()..].chars().next();
        !next.is_some_and(|next| next.is_alphanumeric() || next == '_')
    })
}

#[test]
fn imports_go_in_the_directions_of_the_design() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for (part, forbidden) in FORBIDDEN {
        let files = sources(&root.join(part));
        assert!(!files.is_empty(), "{part} is gone: change the table");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for other in forbidden.iter().filter(|other| imports(&text, other)) {
                wrong.push(format!(
                    "{} imports {other}",
                    file.strip_prefix(root).unwrap().display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "against the design:\n{}", wrong.join("\n"));
}

#[test]
fn a_crate_depends_only_on_those_that_the_design_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, may_know) in MAY_KNOW {
        let folder = if *name == "raft" { root.to_owned() } else { root.join("crates") };
        let manifest = fs::read_to_string(folder.join(name).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        let dependencies = dependencies.split("\n[").next().unwrap();
        let ours = dependencies.lines().filter_map(|line| line.strip_prefix("maxine-"));
        let ours: Vec<_> = ours.map(|line| line.split(['.', ' ']).next().unwrap()).collect();
        assert!(ours.iter().all(|other| may_know.contains(other)), "{name} depends on {ours:?}");
    }
}

/// A module in a circle cannot be understood, tested or changed without all others of the circle.
#[test]
fn modules_of_a_crate_import_each_other_in_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut parts = vec!["raft".to_owned(), "chaos-tests".to_owned(), "sdks/rust".to_owned()];
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        parts.push(format!("crates/{}", entry.unwrap().file_name().to_str().unwrap()));
    }
    for part in parts {
        let src = root.join(&part).join("src");
        assert!(!sources(&src).is_empty(), "{part} is gone: change the test");
        let circles = circles::circles(&src);
        assert!(circles.is_empty(), "circles in {part}:\n{}", circles.join("\n"));
    }
}

#[test]
fn only_the_raft_crate_names_openraft_and_it_names_no_service() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [sources(&root.join("src")), sources(&root.join("crates"))].concat() {
        let text = fs::read_to_string(&file).unwrap();
        // A filter of the log names it in a text.
        let names_it = |line: &str| line.contains("openraft::") && !line.contains('"');
        assert!(
            !text.contains("use openraft") && !text.lines().any(names_it),
            "{}",
            file.display()
        );
    }
    for file in sources(&root.join("raft/src")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("maxine::"), "{}", file.display());
    }
}

#[test]
fn every_crate_of_the_program_has_a_row() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    for entry in fs::read_dir(crates).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // `bench` is a separate program for measurements.
        assert!(
            name == "bench" || MAY_KNOW.iter().any(|(row, _)| *row == name),
            "{name} has no row: say which crates it may know"
        );
    }
}

/// Whatever chooses an instance asks `crates/balance`; nothing else scores by hash.
#[test]
fn instances_are_chosen_in_one_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "sdks/rust/src", "crates/api/src", "crates/state/src", "crates/view/src"]
    {
        let files = sources(&root.join(folder));
        assert!(!files.is_empty(), "{folder} is gone: change the test");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("xxh3_64_with_seed"), "{} scores by itself", file.display());
        }
    }
}

#[test]
fn the_walk_finds_what_it_looks_for() {
    assert!(imports("use crate::proxy::Front;", "proxy"));
    assert!(!imports("// crate::proxy is not for us", "proxy"));
    assert!(!imports("use crate::proxying;", "proxy"));
}
