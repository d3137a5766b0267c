//! Checks that every test exists that the table of promises in `docs/reference/backends.md` names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/reference/backends.md");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files of a folder and of the folders below it.
fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

/// Every test as `file::test`, `file::module::test` and, for a module with a contract suite,
/// `file::module::promise`.
fn tests() -> BTreeSet<String> {
    let promises = {
        let contract = include_str!("contract.rs");
        let list = contract.split("contract_suite!($open;").nth(1).expect("the list of promises");
        let list = list.split(')').next().expect("its end");
        list.split(',').map(|name| name.trim().to_owned()).filter(|n| !n.is_empty())
    };
    let promises: Vec<String> = promises.collect();
    assert!(promises.len() >= 10, "{promises:?}");
    let mut files = Vec::new();
    for dir in ["tests", "raft/tests", "raft/src", "chaos-tests/tests", "src", "crates"] {
        sources(&root().join(dir), &mut files);
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        let stem = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let (mut module, mut is_test) = (String::new(), false);
        for line in text.lines() {
            let unmarked = line.strip_prefix("pub(crate) ").unwrap_or(line);
            if let Some(name) = unmarked.strip_prefix("mod ").and_then(|l| l.strip_suffix(" {")) {
                module = format!("{name}::");
            } else if line == "}" {
                module.clear();
            }
            let line = line.trim();
            if line.starts_with("#[") {
                is_test |= line.contains("test");
                continue;
            }
            if line.contains("contract_suite!(") && !stem.starts_with("contract") {
                let listed = line.split_once(';').map(|(_, list)| list.trim_end_matches(");"));
                let listed: Option<Vec<String>> = listed
                    .filter(|list| !list.is_empty())
                    .map(|list| list.split(',').map(|name| name.trim().to_owned()).collect());
                for promise in listed.as_ref().unwrap_or(&promises) {
                    found.insert(format!("{stem}::{module}{promise}"));
                }
            }
            let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            if let Some(name) = name.and_then(|rest| rest.split(['(', '<']).next())
                && is_test
            {
                found.insert(format!("{stem}::{module}{name}"));
            }
            is_test &= line.is_empty() || line.starts_with("//");
        }
    }
    found
}

fn rows() -> Vec<Vec<String>> {
    let (_, table) = PAGE.split_once("\n## Each promise and its tests\n").expect("the table");
    let rows = table.lines().filter(|line| line.starts_with("| ") || line.starts_with("|---"));
    let cells = |line: &str| {
        let line = line.trim_matches('|');
        line.split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    rows.map(cells).collect()
}

/// The tests that a text names: the words in code marks that contain `::`.
fn named(text: &str) -> Vec<String> {
    let code = text.split('`').skip(1).step_by(2);
    code.filter(|word| word.contains("::")).map(str::to_owned).collect()
}

#[test]
fn every_test_that_the_table_names_exists() {
    let tests = tests();
    let mut missing = Vec::new();
    let names = named(PAGE);
    assert!(names.len() > 60, "the page names its tests: {}", names.len());
    for name in names {
        let there = match name.strip_suffix('*') {
            Some(start) => tests.iter().any(|test| test.starts_with(start)),
            None => tests.contains(&name),
        };
        if !there {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "named in docs/reference/backends.md and not there: {missing:#?}");
}

#[test]
fn every_backend_has_a_column_and_every_cell_a_test() {
    let rows = rows();
    assert_eq!(rows[0][1..], ["local", "shared-file", "redis", "raft"]);
    for row in &rows[2..] {
        assert_eq!(row.len(), 5, "{row:?}");
        for (cell, backend) in row[1..].iter().zip(&rows[0][1..]) {
            let says_why_not = cell.starts_with("does not apply: ");
            assert!(
                !named(cell).is_empty() || says_why_not,
                "{} on {backend} names no test: {cell}",
                row[0]
            );
        }
    }
}

#[test]
fn the_whole_suite_runs_on_every_backend() {
    let tests = tests();
    let suites =
        ["files::local_log", "files::shared_log", "redis_server::whole_log", "raft::three_disks"];
    for suite in suites {
        let count = tests.iter().filter(|test| test.starts_with(&format!("{suite}::"))).count();
        assert!(count >= 10, "{suite} has {count} promises");
    }
}
