//! Checks that every test exists that `docs/reference/proxy-conformance.md` names.

use std::collections::BTreeMap;
use std::path::Path;

/// The folders of tests that the page names without a path.
const SOURCES: [&str; 8] = [
    "tests/proxy",
    "tests/health",
    "tests/cluster",
    "tests/compat",
    "crates/gateway/src",
    "crates/http1/src",
    "crates/control/src/health",
    "crates/api/src",
];

/// The content of every source file by its stem, such as `policies`. Files with the same stem are joined.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = BTreeMap::<String, String>::new();
    for folder in SOURCES {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
                let text = std::fs::read_to_string(&path).unwrap();
                all.entry(stem).or_default().push_str(&text);
            }
        }
    }
    all
}

/// The last cell of each row of the page's tables, with the heading's default file.
fn cells(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut default = String::new();
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let last = cells.last().copied().unwrap_or_default();
        if last.starts_with("test") {
            // `test in ...` names the file for the rows below.
            default = last.split('`').nth(1).unwrap_or_default().to_owned();
        } else if !last.starts_with("---") {
            found.push((default.clone(), last.to_owned()));
        }
    }
    found
}

#[test]
fn every_row_of_the_conformance_page_names_a_test_that_exists() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/proxy-conformance.md");
    let page = std::fs::read_to_string(page).unwrap();
    let sources = sources();
    let everything: String = sources.values().map(String::as_str).collect();
    let rows = cells(&page);
    assert!(rows.len() > 220, "the page has {} rows", rows.len());
    let mut missing = Vec::new();
    for (default, cell) in &rows {
        let names = cell.split('`').skip(1).step_by(2).filter(|name| !name.starts_with("http."));
        let names: Vec<&str> = names.collect();
        // A requirement that does not apply or is not met has that text instead.
        let is_open = ["not applicable: ", "**not met**: "].iter().any(|why| cell.starts_with(why));
        if names.is_empty() && !is_open {
            missing.push(format!("no test named: {cell}"));
        }
        for name in names {
            let (file, test) = match name.rsplit_once("::") {
                Some((path, test)) => (path.split("::").next().unwrap_or(path), test),
                None => (default.as_str(), name),
            };
            let text = sources.get(file).unwrap_or(&everything);
            let there = match test {
                // A whole module of unit tests.
                "tests" => sources.get(file).is_some_and(|text| {
                    text.contains("mod tests {") || text.contains("mod tests;")
                }),
                test => text.contains(&format!("fn {test}(")),
            };
            if !there {
                missing.push(format!("{name} (in {file})"));
            }
        }
    }
    assert!(missing.is_empty(), "named, but not there: {missing:#?}");
}
