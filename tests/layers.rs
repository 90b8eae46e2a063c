//! The architecture as a rule: dependencies point down, one crate names wasmtime, one file has `unsafe`.

use crate::support::root;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crates and how high they stand. Each may depend on lower ones only.
const LAYERS: [(&str, u32); 8] = [
    ("aether-types", 0),
    ("aether-scripting", 1),
    ("aether-engine", 2),
    ("aether-store", 2),
    ("aether-world-runtime", 2),
    ("aether-cluster", 3),
    ("aether-admin", 4),
    ("aether", 5),
];

fn layer(name: &str) -> Option<u32> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

/// The manifests of all crates of this repository's workspace but the guest's.
fn manifests() -> Vec<(PathBuf, toml::Table)> {
    let mut paths: Vec<_> =
        std::fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path().join("Cargo.toml")).collect();
    paths.retain(|path| path.is_file() && !path.starts_with(root().join("crates/sdk")));
    paths.push(root().join("bench/Cargo.toml"));
    paths.into_iter().map(|path| (path.clone(), toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap())).collect()
}

fn name(manifest: &toml::Table) -> &str {
    manifest["package"]["name"].as_str().unwrap()
}

/// Names of one table of dependencies.
fn dependencies<'a>(manifest: &'a toml::Table, table: &str) -> BTreeSet<&'a str> {
    manifest.get(table).and_then(toml::Value::as_table).into_iter().flat_map(|table| table.keys().map(String::as_str)).collect()
}

#[test]
fn dependencies_point_down_only() {
    for (path, manifest) in manifests() {
        let name = name(&manifest);
        if name == "aether-bench" {
            continue;
        }
        let own =
            layer(name).unwrap_or_else(|| panic!("{} is in no layer: say in tests/layers.rs where it stands", path.display()));
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for dependency in dependencies(&manifest, table).into_iter().filter(|dependency| dependency.starts_with("aether")) {
                let other = layer(dependency).unwrap_or_else(|| panic!("{name} depends on {dependency}, which is in no layer"));
                assert!(other < own, "{name} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn only_the_sandbox_and_the_benchmark_name_wasmtime() {
    for (_, manifest) in manifests() {
        let name = name(&manifest);
        let names_it = ["dependencies", "dev-dependencies", "build-dependencies"]
            .into_iter()
            .flat_map(|table| dependencies(&manifest, table))
            .any(|dependency| dependency.starts_with("wasmtime") || dependency.starts_with("cranelift"));
        assert!(!names_it || ["aether-scripting", "aether-bench"].contains(&name), "{name} names wasmtime");
    }
}

/// Every Rust file below a directory, build output and the guest's not counted.
fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let skip = path.ends_with("target") || path == root().join("crates/sdk") || path.ends_with("node_modules");
        if path.is_dir() && !skip {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn one_file_of_the_host_may_be_unsafe() {
    let mut files = Vec::new();
    for dir in ["crates", "bench", "tests"] {
        rust_files(&root().join(dir), &mut files);
    }
    assert!(files.len() > 40, "{} files", files.len());
    // In two parts, so that this file does not hold what it looks for.
    let wanted = ["allow(unsafe", "_code)"].concat();
    let found: Vec<_> = files.iter().filter(|path| std::fs::read_to_string(path).unwrap().contains(&wanted)).collect();
    assert_eq!(found, [&root().join("crates/scripting/src/native.rs")]);
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    for (path, manifest) in manifests() {
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "{}", path.display());
    }
}
