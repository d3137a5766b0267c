//! Runs the commands of a documentation page as they are written.

use std::process::{Command, Stdio};

const MARK: &str = "--- end of block";

/// The commands of a page (`sh`), each with the answer that it promises (`text`).
fn blocks(page: &str) -> Vec<(String, Option<String>)> {
    let mut blocks: Vec<(String, Option<String>)> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match language {
            "sh" => blocks.push((block.join("\n"), None)),
            "text" => {
                blocks.last_mut().expect("an answer follows a command").1 = Some(block.join("\n"))
            }
            _ => {}
        }
    }
    blocks
}

/// Whether `text` is `pattern`, where `…` stands for anything.
fn fits(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    false
}

/// Runs every command of `page` in one shell with `env`, and compares the answers with those that the page
/// promises. Returns the number of commands.
pub(crate) fn run(page: &str, env: &[(&str, String)]) -> usize {
    let blocks = blocks(page);
    let mut script = String::from("set -eu\n");
    for (block, _) in &blocks {
        script.push_str(&format!("{block}\nprintf '\\n{MARK}\\n'\n"));
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = answers.split(MARK).map(str::trim).collect();
    for (position, (block, promised)) in blocks.iter().enumerate() {
        let answer = answers.get(position).copied().unwrap_or_default();
        let Some(promised) = promised else { continue };
        assert!(
            fits(answer, promised.trim()),
            "{block}\n\npromised: {promised}\n\nanswered: {answer}"
        );
    }
    assert!(output.status.success(), "the script ended with {}", output.status);
    blocks.len()
}

#[test]
fn the_pattern_means_what_it_says() {
    assert!(fits("abc", "abc") && fits("abc", "a…") && fits("abc", "…c") && fits("abc", "a…c"));
    assert!(!fits("abc", "ab") && !fits("abc", "a…b") && !fits("abc", "x…"));
}
