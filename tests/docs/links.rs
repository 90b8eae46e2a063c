//! What a document points at is there: files, headings, tests.

use super::markdown::Page;
use super::{pages, read};
use crate::support::root;
use std::path::{Component, Path, PathBuf};

/// `a/b/../c` as `a/c`.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(tidy.pop()),
            Component::CurDir => {}
            part => tidy.push(part),
        }
    }
    tidy
}

#[test]
fn every_relative_link_and_anchor_resolves() {
    let mut problems = Vec::new();
    let mut count = 0;
    for path in pages() {
        let page = Page::parse(&read(path.to_str().unwrap()));
        for (line, target) in page.links() {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = if file.is_empty() { path.clone() } else { tidy(&path.parent().unwrap().join(file)) };
            if !root().join(&to).exists() {
                problems.push(format!("{}:{line}: {target}: there is no {}", path.display(), to.display()));
            } else if !anchor.is_empty()
                && !Page::parse(&read(to.to_str().unwrap())).anchors().iter().any(|known| known == anchor)
            {
                problems.push(format!("{}:{line}: {target}: {} has no such heading", path.display(), to.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 50, "{count} links");
}

#[test]
fn every_chapter_is_in_the_summary_once() {
    let summary: Vec<_> = Page::parse(&read("docs/src/SUMMARY.md")).links().into_iter().map(|(_, target)| target).collect();
    let mut chapters: Vec<_> =
        super::book().iter().filter_map(|page| Some(page.strip_prefix("docs/src").ok()?.to_str()?.to_owned())).collect();
    chapters.retain(|chapter| chapter != "SUMMARY.md");
    let mut listed = summary.clone();
    listed.sort();
    assert_eq!(listed, chapters);
}

/// Folders of the repository whose files documents name.
const FOLDERS: [&str; 8] = ["crates/", "tests/", "scripts/", "sdk/", "docs/", "cluster-config/", "bench/", ".ci/"];

/// What the reader of the tutorial makes.
const MADE_BY_READERS: [&str; 2] = ["scripts/lantern", "cluster-config/lantern.toml"];

#[test]
fn every_file_and_test_that_the_book_names_is_there() {
    let (mut problems, mut count) = (Vec::new(), 0);
    for path in super::book() {
        for (line, code) in Page::parse(&read(path.to_str().unwrap())).code() {
            let (file, test) = code.split_once("::").map_or((code.as_str(), None), |(file, test)| (file, Some(test)));
            let named = FOLDERS.iter().any(|folder| file.starts_with(folder)) && !file.contains([' ', '*', '<', '{', '…']);
            // Capitals are for the reader to fill in.
            if !named
                || MADE_BY_READERS.contains(&file)
                || file.split('/').any(|part| part.starts_with(char::is_uppercase) && !part.contains('.'))
            {
                continue;
            }
            count += 1;
            let at = root().join(file);
            if !at.exists() {
                problems.push(format!("{}:{line}: there is no {file}", path.display()));
            } else if let Some(test) = test
                && !read(file).contains(&format!("fn {test}("))
            {
                problems.push(format!("{}:{line}: {file} has no function {test}", path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 30, "{count} files named");
}

/// Rust files below a folder, as one text.
fn rust_below(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &rust_below(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn every_metric_and_alert_that_the_operating_guide_names_is_one() {
    let source = rust_below(&root().join("crates/admin/src"));
    let rules = read("cluster-config/observability/prometheus-rules.yml");
    let (mut problems, mut count) = (Vec::new(), 0);
    for page in ["operating.md", "capacity.md", "failure.md"] {
        for (line, name) in Page::parse(&read(&format!("docs/src/{page}"))).code() {
            let unit = ["_total", "_seconds", "_ratio", "_bytes", "_cores", "_worlds", "_scripts", "_ready", "_up", "_linked"];
            if name.starts_with("Aether") {
                count += 1;
                if !rules.contains(&format!("- alert: {name}\n")) {
                    problems.push(format!("docs/src/{page}:{line}: there is no alert {name}"));
                }
            }
            if name.starts_with("aether_") && unit.iter().any(|unit| name.ends_with(unit)) {
                count += 1;
                if !source.contains(&format!("\"{name}\"")) {
                    problems.push(format!("docs/src/{page}:{line}: there is no metric {name}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 10, "{count} metrics and alerts");
}
