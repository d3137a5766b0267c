//! Finds circles of imports between the modules of a crate.
//!
//! A module is a file. Modules that are compiled only for tests are left out. A `pub use` does not count as
//! an import: a module that uses such a name imports the module that defines the name. A module may use names
//! of the modules that contain it, such as the `mod.rs` of its folder, although that module re-exports its
//! names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

/// The path of a module within its crate; empty for the crate's root.
type Module = Vec<String>;

/// A `use`, or a path in an expression.
struct Mention {
    path: Vec<String>,
    re_exports: bool,
}

/// The circles of imports in a folder of sources. For each module in a circle it gives the shortest path back
/// to the module.
pub fn circles(src: &Path) -> Vec<String> {
    let imports = imports(src);
    let ways = imports.keys().filter_map(|module| way_back(module, &imports));
    ways.map(|way| {
        let names: Vec<_> = way.iter().map(name_of).collect();
        names.join(" -> ")
    })
    .collect()
}

fn name_of(module: &Module) -> String {
    if module.is_empty() { "crate".to_owned() } else { module.join("::") }
}

fn way_back(from: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    let mut seen = BTreeSet::new();
    let mut ways = VecDeque::from([vec![from.clone()]]);
    while let Some(way) = ways.pop_front() {
        for next in &imports[way.last()?] {
            if next == from {
                return Some([way, vec![from.clone()]].concat());
            }
            if seen.insert(next.clone()) {
                ways.push_back([way.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

/// The modules of a folder of sources, and which others each of them imports.
fn imports(src: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut mentions = BTreeMap::new();
    for file in super::sources(src) {
        let relative = file.strip_prefix(src).unwrap().with_extension("");
        let mut module: Module =
            relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
            module.pop();
        }
        if !module.last().is_some_and(|last| last.ends_with("tests")) {
            mentions.insert(module, mentioned(&fs::read_to_string(&file).unwrap()));
        }
    }
    let absolute = |module: &Module, path: &[String]| -> Option<Vec<String>> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        if supers > 0 {
            let parent = module[..module.len().checked_sub(supers)?].to_vec();
            return Some([&parent, &path[supers..]].concat());
        }
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            first => {
                let child = [module.as_slice(), &[first.to_owned()]].concat();
                mentions.contains_key(&child).then(|| [module, path].concat())
            }
        }
    };
    let mut re_exported: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (module, mentions) in &mentions {
        for mention in mentions.iter().filter(|mention| mention.re_exports) {
            if let Some(path) = absolute(module, &mention.path) {
                let name = path.last().cloned();
                re_exported.insert(module.iter().cloned().chain(name).collect(), path);
            }
        }
    }
    let origin = |mut path: Vec<String>| -> Module {
        // A name may be exported again several times; no name is exported in a circle.
        for _ in 0..8 {
            let known = (0..=path.len()).find(|len| re_exported.contains_key(&path[..*len]));
            let Some(len) = known else { break };
            path = [&re_exported[&path[..len]], &path[len..]].concat();
        }
        while !mentions.contains_key(&path) {
            path.pop();
        }
        path
    };
    let imported = |module: &Module, mentions: &[Mention]| {
        let paths = mentions.iter().filter(|mention| !mention.re_exports);
        let paths = paths.filter_map(|mention| absolute(module, &mention.path));
        paths.map(origin).filter(|other| !module.starts_with(other)).collect()
    };
    mentions.iter().map(|(module, names)| (module.clone(), imported(module, names))).collect()
}

/// The paths in a source.
fn mentioned(text: &str) -> Vec<Mention> {
    let tokens = tokens(&without_tests(text));
    let token = |at: usize| tokens.get(at).map_or("", String::as_str);
    let mut mentions = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_use = token(at) == "use";
        let begins = is_use || (token(at + 1) == "::" && (at == 0 || token(at - 1) != "::"));
        if !begins {
            at += 1;
            continue;
        }
        let re_exports = is_use && at > 0 && matches!(token(at - 1), "pub" | ")");
        let mut paths = Vec::new();
        at = tree(&tokens, at + usize::from(is_use), &[], &mut paths);
        mentions.extend(paths.into_iter().map(|path| Mention { path, re_exports }));
    }
    mentions
}

/// Reads a path, or a tree of paths in braces. Returns the position after it.
fn tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &path, paths);
                    while tokens.get(at).is_some_and(|token| token != "," && token != "}") {
                        at += 1;
                    }
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
        let goes_on = tokens[at - 1] == "::" || tokens.get(at).is_some_and(|token| token == "::");
        if !goes_on {
            break;
        }
    }
    paths.push(path);
    at
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        let is_word = c.is_alphanumeric() || c == '_';
        match tokens.last_mut() {
            Some(last) if is_word && in_word => last.push(c),
            Some(last) if c == ':' && last == ":" => last.push(c),
            _ if c.is_whitespace() => {}
            _ => tokens.push(c.to_string()),
        }
        in_word = is_word;
    }
    tokens
}

/// The source without comments, and without the modules that only tests have.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let only_tests =
            line.starts_with("#[cfg(") && line.contains("test") && !line.contains("not(");
        if only_tests {
            while lines.peek().is_some_and(|line| line.starts_with("#[")) {
                lines.next();
            }
            let item = lines.next().unwrap_or_default();
            if item.contains("mod ") && item.ends_with('{') {
                lines.by_ref().find(|line| *line == "}");
            }
            continue;
        }
        let line = line.split(" // ").next().unwrap_or_default();
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

#[test]
fn circles_are_found_and_a_name_is_followed_to_its_origin() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use c::{One, Two as Other};\n");
    write("a.rs", "use crate::{One, b::Three};\n");
    write(
        "b.rs",
        "// crate::a\nfn f() -> crate::c::One {}\n#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n",
    );
    write("c.rs", "struct One;\n");
    assert_eq!(circles(dir.path()), Vec::<String>::new());
    write("c.rs", "use super::{\n    Five,\n    a::{self, Four},\n};\n");
    let found = circles(dir.path());
    assert_eq!(found, ["a -> c -> a", "b -> c -> a -> b", "c -> a -> c"]);
}
