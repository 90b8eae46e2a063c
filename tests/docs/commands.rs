//! Every `aether …` that a document shows is a command line of the program.
//!
//! Each is run for real, in an empty directory of its own, where most find nothing to work on: what counts is that the program does not
//! end with 2, which is how it refuses arguments. Those that would go on for long are asked for their `--help` instead.

use super::markdown::Page;
use super::{pages, read};
use crate::program::command;
use std::process::Stdio;

/// What a document says is not there is not looked for.
const ABSENT: &str = "## What is not here yet";

/// They serve or measure until they are stopped.
const LONG: [&str; 3] = ["dev", "loadtest", "top"];

/// Words of a line as a shell makes them, without a comment; pipes and redirections end it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#' | '|' | '>' | ';' | '&') if word.is_none() || c != '#' => break,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The command lines of a page: whole lines of shell blocks, and what stands in backticks.
fn command_lines(page: &Page) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    for block in page.blocks.iter().filter(|block| matches!(block.info.as_str(), "" | "sh" | "console")) {
        for (line, text) in (block.line + 1..).zip(block.text.replace("\\\n", "  ").lines()) {
            lines.push((line, text.trim_start_matches("$ ").to_owned()));
        }
    }
    lines.extend(page.code());
    lines
}

/// The arguments of a line that starts the program, behind variables; `None`: another line. `[OPTIONAL]` parts and `…` are left out.
fn arguments(line: &str) -> Option<Vec<String>> {
    let mut words = words(line);
    words.drain(
        ..words.iter().take_while(|word| word.split_once('=').is_some_and(|(name, _)| name.starts_with("AETHER_"))).count(),
    );
    let cargo = ["cargo", "run", "--release", "--"];
    let program = if words.first()?.ends_with("target/release/aether") || words[0] == "aether" {
        1
    } else if words.iter().zip(cargo).filter(|(word, wanted)| word == wanted).count() == cargo.len() {
        cargo.len()
    } else {
        return None;
    };
    let mut arguments = Vec::new();
    let mut depth = 0;
    for word in words.drain(program..) {
        depth += word.matches('[').count();
        if depth == 0 && word != "…" {
            arguments.push(word.clone());
        }
        depth -= word.matches(']').count().min(depth);
    }
    Some(arguments)
}

#[test]
fn every_command_that_a_document_shows_is_one() {
    let (mut problems, mut count) = (Vec::new(), 0);
    for path in pages() {
        let text = read(path.to_str().unwrap());
        let page = Page::parse(text.split(ABSENT).next().unwrap());
        for (line, text) in command_lines(&page) {
            let Some(mut arguments) = arguments(&text) else { continue };
            // A name of a command alone is not a whole line; capitals stand for what the reader fills in.
            let partial = page.code().contains(&(line, text.clone()));
            if arguments.is_empty() {
                continue;
            }
            for word in &mut arguments {
                // NAME, N: a word that is a name and a number that is one.
                if word.len() == 1 && word.starts_with(char::is_uppercase) {
                    *word = "1".to_owned();
                } else if word.chars().all(|c| c.is_ascii_uppercase()) {
                    *word = if word == "ROLE" { "viewer".to_owned() } else { word.to_lowercase() };
                }
            }
            if (partial && arguments[0] != "help") || LONG.contains(&arguments[0].as_str()) {
                arguments.push("--help".to_owned());
            }
            count += 1;
            let dir = tempfile::tempdir().unwrap();
            let output = command().current_dir(dir.path()).args(&arguments).stdin(Stdio::null()).output().unwrap();
            if output.status.code() == Some(2) {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                problems.push(format!("{}:{line}: {text}\n{error}", path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 60, "{count} commands");
}

#[test]
fn a_line_is_taken_apart_as_a_shell_does() {
    let line = "AETHER_LIMITS__TICK_HZ=10 aether run cluster.toml --plain # for a while";
    assert_eq!(arguments(line), Some(vec!["run".to_owned(), "cluster.toml".to_owned(), "--plain".to_owned()]));
    assert_eq!(arguments("aether publish FOLDER [--canary N] [--plan]"), Some(vec!["publish".to_owned(), "FOLDER".to_owned()]));
    assert_eq!(arguments("cargo run --release -- check-config 'a b'"), Some(vec!["check-config".to_owned(), "a b".to_owned()]));
    assert_eq!(arguments("cargo test --workspace"), None);
}
