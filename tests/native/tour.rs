//! Runs `docs/guides/api-tour.md` as it is written.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::Server;

const TOUR: &str = include_str!("../../docs/guides/api-tour.md");
const MARK: &str = "--- end of block";

/// The commands of the page, each with the answer that it promises.
fn blocks() -> Vec<(String, Option<String>)> {
    let mut blocks: Vec<(String, Option<String>)> = Vec::new();
    let mut lines = TOUR.lines();
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

#[test]
fn the_pattern_means_what_it_says() {
    assert!(fits("abc", "abc") && fits("abc", "a…") && fits("abc", "…c") && fits("abc", "a…c"));
    assert!(!fits("abc", "ab") && !fits("abc", "a…b") && !fits("abc", "x…"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_runs_as_it_is_written() {
    let server = Server::start().await;
    let blocks = blocks();
    assert!(blocks.len() > 10);
    let mut script = String::from("set -eu\n");
    for (block, _) in &blocks {
        script.push_str(&format!("{block}\nprintf '\\n{MARK}\\n'\n"));
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("MAXINE", format!("http://{}", server.addr))
        .env("MAXINE_USER", &server.password.0)
        .env("MAXINE_PASSWORD", &server.password.1)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
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
}
