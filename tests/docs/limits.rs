//! Every setting and limit with its default, what is allowed and what it means, made from the structs that hold them.

use super::source::{Item, braces, constants, defaults, fields, number};
use super::{generated, grouped, read};
use crate::support::root;
use aether_cluster::{ClusterSection, NodeConfig};
use aether_scripting::{ActionRates, ScriptManifest};
use std::fmt::Write;

const CONFIGURATION: &str = "docs/src/configuration.md";
const LIMITS: &str = "docs/src/limits.md";

/// The text of the file, below a crate's sources, that has a struct.
fn file_with(crate_name: &str, name: &str) -> String {
    let mut folders = vec![root().join("crates").join(crate_name).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.contains(&format!("pub struct {name} {{")) {
                    return text;
                }
            }
        }
    }
    panic!("no file of {crate_name} has a struct {name}")
}

/// What `check` allows for a field, as its error says it.
fn allowed(source: &str, table: &str, field: &str) -> Option<String> {
    let marks = [format!("\"{table}.{field}\""), format!("\"{{at}}.{field}\""), format!("field(\"{field}\")")];
    let statement = marks.iter().find_map(|mark| {
        let mut found = source.match_indices(mark.as_str());
        found.find_map(|(at, _)| {
            let begin = source[..at].rfind(['\n', ';']).map_or(0, |begin| begin + 1);
            let statement = &source[begin..at + source[at..].find(';')?];
            statement.contains("c.range(").then_some(statement)
        })
    })?;
    Some(statement.rsplit('"').nth(1)?.to_owned())
}

/// A default as people write it.
fn shown(value: Option<&toml::Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(toml::Value::String(text)) => format!("`{text:?}`"),
        Some(toml::Value::Array(list)) if list.is_empty() => "none".to_owned(),
        // Half of them are `f32`, and say so in digits.
        Some(toml::Value::Float(number)) => format!("{}", *number as f32),
        Some(toml::Value::Integer(number)) => grouped(*number as u64),
        Some(other) => other.to_string(),
    }
}

/// Words in a cell: one line, no bar.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A table's rows. `base` has its defaults; one without a default and no `Option` must be set.
fn rows(source: &str, table: &str, items: &[Item], base: &toml::Table, written: &[&str]) -> String {
    let mut text = String::from("| field | default | allowed | |\n|---|---|---|---|\n");
    for Item { name, value, doc } in items {
        let default = match base.get(name) {
            None if written.contains(&name.as_str()) => "must be set".to_owned(),
            None if table == "world.limits" => "that of `[limits]`".to_owned(),
            value => shown(value),
        };
        let checked =
            allowed(source, table, name).unwrap_or_else(|| match value.trim_start_matches("Option<").trim_end_matches('>') {
                "bool" => "`true`, `false`".to_owned(),
                "Strategy" => "`\"one\"`, `\"all\"`".to_owned(),
                _ => String::new(),
            });
        writeln!(text, "| `{name}` | {default} | {} | {} |", cell(&checked), cell(doc)).unwrap();
    }
    text
}

/// The struct inside of `Option<…>` or `Vec<…>`.
fn inner(ty: &str) -> &str {
    ty.trim_start_matches("Option<").trim_start_matches("Vec<").trim_end_matches('>')
}

#[test]
fn the_fields_of_a_cluster_file_are_those_of_the_configuration() {
    let config = read("crates/cluster/src/config.rs");
    let whole = toml::Table::try_from(NodeConfig::default()).unwrap();
    let cluster = toml::Table::try_from(ClusterSection::default()).unwrap();
    let mut text = String::new();
    let mut tables: Vec<_> = fields(&config, "NodeConfig").into_iter().map(|item| (item.name.clone(), item)).collect();
    let mut at = 0;
    while at < tables.len() {
        let (table, Item { value, .. }) = &tables[at];
        let (table, list, name) = (table.clone(), value.starts_with("Vec<"), inner(value).to_owned());
        let source = file_with("cluster", &name);
        let head = &source[..source.find(&format!("pub struct {name} {{")).unwrap()];
        let doc: Vec<_> = head.rsplit("\n\n").next().unwrap().lines().filter_map(|line| line.strip_prefix("///")).collect();
        let items = fields(&source, &name);
        // What is a table of its own gets one; the rest are fields.
        let own = |item: &Item| source.contains(&format!("pub struct {} {{", inner(&item.value)));
        let nested: Vec<_> = items.iter().filter(|item| own(item)).map(|item| format!("{table}.{}", item.name)).collect();
        let (sub, items): (Vec<Item>, Vec<Item>) = items.into_iter().partition(own);
        let defaults = match table.as_str() {
            "cluster" => cluster.clone(),
            table => {
                whole.get(table).and_then(toml::Value::as_table).cloned().unwrap_or_else(|| written_defaults(&items, &source))
            }
        };
        // In a list there are no defaults but those of serde.
        let must: Vec<_> = if list { must_be_set(&source, &name) } else { Vec::new() };
        let must: Vec<_> = must.iter().map(String::as_str).collect();
        let brackets = if list { format!("[[{table}]]") } else { format!("[{table}]") };
        writeln!(
            text,
            "### {brackets}\n\n{}\n\n{}",
            doc.concat().trim().replace("[`", "`").replace("`]", "`"),
            rows(&config, &table, &items, &defaults, &must)
        )
        .unwrap();
        for (i, (table, item)) in nested.into_iter().zip(sub).enumerate() {
            tables.insert(at + 1 + i, (table, item));
        }
        at += 1;
    }
    generated(CONFIGURATION, "fields", &text);
}

/// Fields of a list's entry that have no default.
fn must_be_set(source: &str, name: &str) -> Vec<String> {
    let body = braces(source, &format!("pub struct {name} ")).unwrap();
    let mut must = Vec::new();
    let mut defaulted = false;
    for line in body.lines().map(str::trim) {
        if line.starts_with("#[serde(default") {
            defaulted = true;
        } else if let Some((field, ty)) = line.strip_prefix("pub ").and_then(|line| line.split_once(": ")) {
            if !defaulted && !ty.starts_with("Option<") {
                must.push(field.to_owned());
            }
            defaulted = false;
        }
    }
    must
}

/// Defaults that functions beside the struct give: `#[serde(default = "one")]`.
fn written_defaults(items: &[Item], source: &str) -> toml::Table {
    let mut table = toml::Table::new();
    for item in items {
        let at = source.find(&format!("pub {}: {},", item.name, item.value)).unwrap();
        let attribute = source[..at].trim_end().rsplit('\n').next().unwrap().trim();
        if let Some(function) = attribute.strip_prefix("#[serde(default = \"").and_then(|rest| rest.strip_suffix("\")]")) {
            let body = braces(source, &format!("\nfn {function}()")).unwrap().trim().trim_end_matches(".into()");
            table.insert(item.name.clone(), body.parse::<toml::Value>().unwrap_or_else(|_| panic!("{function} gives {body}")));
        } else if attribute == "#[serde(default)]" && item.value.starts_with(['u', 'f', '[']) {
            let zero = if item.value.starts_with('[') { "[0.0, 0.0, 0.0]" } else { "0" };
            table.insert(item.name.clone(), zero.parse().unwrap());
        }
    }
    table
}

#[test]
fn the_limits_of_a_script_are_those_of_the_sandbox() {
    let manifest = read("crates/scripting/src/manifest.rs");
    let empty = ScriptManifest::parse("name = \"a\"").unwrap();
    let mut table = toml::Table::try_from(empty.limits).unwrap();
    table.remove("rates");
    let mut text = String::from("| field of `[limits]` | default | allowed | |\n|---|---|---|---|\n");
    for Item { name, doc, .. } in fields(&manifest, "Limits").iter().filter(|item| item.name != "rates") {
        let allowed = match name.as_str() {
            "on_budget" => "`\"pause\"`, `\"terminate\"`".to_owned(),
            name => {
                let mark = format!("bad(\"limits.{name}\"");
                let rest = &manifest[manifest.find(&mark).unwrap_or_else(|| panic!("{name} is not checked"))..];
                rest[..rest.find(");").unwrap()].rsplit('"').nth(1).unwrap().to_owned()
            }
        };
        writeln!(text, "| `{name}` | {} | {allowed} | {} |", shown(table.get(name)), cell(doc)).unwrap();
    }
    generated(LIMITS, "limits of a script", &text);

    let of = |rates: ActionRates| toml::Table::try_from(rates).unwrap();
    let (script, world) = (of(ActionRates::default()), of(ActionRates::world()));
    let mut text = String::from("| field of `[limits.rates]` | a script, a second | all of a world | |\n|---|---|---|---|\n");
    for Item { name, doc, .. } in fields(&read("crates/scripting/src/rate.rs"), "ActionRates") {
        let number = |table: &toml::Table| grouped(table[&name].as_float().unwrap() as u64);
        writeln!(text, "| `{name}` | {} | {} | {} |", number(&script), number(&world), cell(&doc)).unwrap();
    }
    generated(LIMITS, "rates", &text);
}

#[test]
fn sizes_and_what_may_be_compiled_are_those_of_the_sandbox() {
    let plain =
        |written: &str| number(written).map(|number| grouped(number as u64)).unwrap_or_else(|| panic!("{written} is no number"));
    let sizes = constants(&read("crates/scripting/src/abi.rs"), "limit");
    let rows: Vec<_> = sizes.iter().map(|item| format!("| {} | {} |", cell(&item.doc), plain(&item.value))).collect();
    generated(LIMITS, "sizes", &format!("| what | at most |\n|---|---|\n{}", rows.join("\n")));

    let source = read("crates/scripting/src/limits.rs");
    let values = defaults(&source, "ModuleLimits");
    let rows: Vec<_> = fields(&source, "ModuleLimits")
        .iter()
        .map(|item| format!("| {} | {} |", cell(&item.doc), plain(&values[&item.name])))
        .collect();
    generated(LIMITS, "modules", &format!("| what | at most |\n|---|---|\n{}", rows.join("\n")));

    let source = read("crates/scripting/src/policy.rs");
    let values = defaults(&source, "ServerResourcePolicy");
    let rows: Vec<_> = fields(&source, "ServerResourcePolicy")
        .iter()
        .map(|item| format!("| `{}` | `{}` | {} |", item.name, values[&item.name], cell(&item.doc)))
        .collect();
    generated(LIMITS, "policy", &format!("| field | default | |\n|---|---|---|\n{}", rows.join("\n")));
}
