//! The documents are true: what is generated is what the code says, what is shown is what runs, what is linked is there.
//!
//! `AETHER_BLESS=1 cargo test --workspace --test all docs::` writes the generated parts and the shown files anew; without it a difference
//! fails. One file for each rule: [`reference`] (host functions), [`limits`] (every setting), [`snippets`] (code and configuration),
//! [`commands`], [`links`], [`scripts`] (the guide's scripts run). [`markdown`] and [`source`] read Markdown and Rust as text.

mod commands;
mod limits;
mod links;
mod markdown;
mod reference;
mod scripts;
mod snippets;
mod source;

use crate::support::root;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held from reading a page to writing it: tests run side by side, and several have parts in one page.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static WRITER: Mutex<()> = Mutex::new(());
    WRITER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of the repository.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document, from the repository's root.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(PathBuf::from).into();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// The book's own pages.
fn book() -> Vec<PathBuf> {
    pages().into_iter().filter(|page| page.starts_with("docs")).collect()
}

/// A page must be this text; with `AETHER_BLESS` it becomes so.
#[track_caller]
fn same_or_bless(page: &Path, wanted: &str) {
    let path = root().join(page);
    let found = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    if found == wanted {
        return;
    }
    if std::env::var_os("AETHER_BLESS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    let line = found.lines().zip(wanted.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or(found.lines().count().min(wanted.lines().count()));
    panic!(
        "{}:{}: is\n  {}\nshould be\n  {}\nAETHER_BLESS=1 cargo test --workspace --test all docs:: writes it anew",
        page.display(),
        line + 1,
        found.lines().nth(line).unwrap_or("the end"),
        wanted.lines().nth(line).unwrap_or("the end")
    );
}

/// Put `text` between the marks of a generated part of a page, and compare or bless.
#[track_caller]
fn generated(page: &str, name: &str, text: &str) {
    let _alone = one_at_a_time();
    let old = read(page);
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end of {name} -->"));
    let (head, rest) = old.split_once(&begin).unwrap_or_else(|| panic!("{page} has no {begin}"));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{page} has no {end}"));
    same_or_bless(Path::new(page), &format!("{head}{begin}\n{}\n\n{end}{tail}", text.trim()));
}

/// A number for people: 1000000 is 1,000,000.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}
