//! Code and configuration in documents: a block that names a file is that file; every TOML block says what it is, and loads.
//!
//! ```` ```rust file=PATH ```` shows a whole file, ```` ```rust file=PATH from=LINE ```` the item in it whose first line begins so, up to its
//! closing brace. ```` ```toml KIND ````: `cluster` (a cluster file), `script` (a manifest), `prefabs`, `cargo`, `scenario`.

use super::markdown::{Block, Page};
use super::{book, one_at_a_time, pages, read, same_or_bless};
use crate::program::command;
use crate::support::root;
use aether_engine::PrefabSet;
use aether_scripting::ScriptManifest;
use std::path::Path;
use std::process::Command;

/// The text that a block shows, if it names a file.
fn shown(block: &Block) -> Option<String> {
    let mark = |key: &str| block.info.split_once(key).map(|(_, value)| value);
    let file = mark(" file=")?.split(' ').next().unwrap();
    let text = read(file);
    let Some(from) = mark(" from=") else { return Some(text) };
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with(from));
    let first = lines.next().unwrap_or_else(|| panic!("{file} has no line that begins with {from:?}"));
    let indent = &first[..first.len() - first.trim_start().len()];
    let mut part = String::new();
    for line in std::iter::once(first).chain(lines) {
        let line = line.strip_prefix(indent).unwrap_or(line);
        part += &format!("{line}\n");
        if line == "}" {
            break;
        }
    }
    Some(part)
}

#[test]
fn a_block_that_names_a_file_is_that_file() {
    let mut count = 0;
    for path in book() {
        let _alone = one_at_a_time();
        let text = read(path.to_str().unwrap());
        let mut wanted = text.clone();
        for block in Page::parse(&text).blocks {
            if let Some(file) = shown(&block) {
                count += 1;
                let fence = format!("```{}\n", block.info);
                wanted = wanted.replacen(&format!("{fence}{}```", block.text), &format!("{fence}{file}```"), 1);
            }
        }
        same_or_bless(&path, &wanted);
    }
    assert!(count >= 4, "{count} blocks");
}

#[test]
fn every_piece_of_configuration_loads() {
    let dir = tempfile::tempdir().unwrap();
    let (mut problems, mut count) = (Vec::new(), 0);
    for path in book() {
        for block in Page::parse(&read(path.to_str().unwrap())).blocks {
            let mut words = block.info.split(' ');
            if words.next() != Some("toml") {
                continue;
            }
            count += 1;
            let result = match words.next() {
                Some("cluster") => check_config(dir.path(), &block.text),
                Some("script") => ScriptManifest::parse(&block.text).map(drop).map_err(|error| error.to_string()),
                Some("prefabs") => PrefabSet::parse(&block.text).map(drop).map_err(|error| error.to_string()),
                Some("cargo" | "scenario") => block.text.parse::<toml::Table>().map(drop).map_err(|error| error.to_string()),
                other => Err(format!("{other:?} is no kind: see tests/docs/snippets.rs")),
            };
            if let Err(error) = result {
                problems.push(format!("{}:{}: {error}", path.display(), block.line));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count >= 8, "{count} blocks");
}

/// On the host, where the SDK compiles too: what is shown is source that the SDK takes.
#[test]
fn every_script_in_rust_that_a_document_shows_compiles() {
    let dir = tempfile::tempdir().unwrap();
    let mut modules = String::new();
    for path in pages() {
        for block in Page::parse(&read(path.to_str().unwrap())).blocks {
            if block.info == "rust" && block.text.contains("export_script!(") {
                modules += &format!("mod shown_{} {{\n{}\n}}\n", modules.matches("mod shown_").count(), block.text);
            }
        }
    }
    assert!(modules.matches("mod shown_").count() >= 2, "the README's and the tutorial's");
    let manifest = format!(
        "[package]\nname = \"shown\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\naether-script-sdk = {{ path = {:?} }}\n",
        root().join("crates/sdk")
    );
    std::fs::create_dir(dir.path().join("src")).unwrap();
    std::fs::write(dir.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::write(dir.path().join("src/lib.rs"), modules).unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(dir.path())
        .args(["check", "--offline", "--quiet", "--target-dir"])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("shown"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// By the program itself.
fn check_config(dir: &Path, text: &str) -> Result<(), String> {
    let file = dir.join("cluster.toml");
    std::fs::write(&file, text).unwrap();
    let output = command().arg("check-config").arg(&file).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
