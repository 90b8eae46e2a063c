//! One ABI, written down five times: the WIT, the host's table, and the headers for three languages. They must be equal.

use crate::support::root;
use aether_scripting::abi::{EXPORTS, IMPORTS};
use std::collections::BTreeMap;
use wit_parser::{Resolve, Type, TypeDefKind, WorldItem};

/// Signature by module and name.
type Table = BTreeMap<(String, String), String>;

fn host() -> Table {
    IMPORTS.iter().map(|(module, name, signature)| ((module.to_string(), name.to_string()), signature.to_string())).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a type is, with aliases and `use` looked through.
enum Shape {
    Scalar(&'static str),
    /// `string` or `list<T>`.
    Sequence,
    Record,
    Result(Option<Type>),
}

fn shape(resolve: &Resolve, ty: &Type) -> Shape {
    match ty {
        Type::Bool | Type::U32 | Type::S32 => Shape::Scalar("i32"),
        Type::U64 | Type::S64 => Shape::Scalar("i64"),
        Type::F32 => Shape::Scalar("f32"),
        Type::String => Shape::Sequence,
        Type::Id(id) => match &resolve.types[*id].kind {
            TypeDefKind::Type(ty) => shape(resolve, ty),
            TypeDefKind::List(_) => Shape::Sequence,
            TypeDefKind::Record(_) => Shape::Record,
            TypeDefKind::Result(result) => Shape::Result(result.ok),
            other => panic!("the lowering rules say nothing of {}", other.as_str()),
        },
        other => panic!("the lowering rules say nothing of {other:?}"),
    }
}

/// By the rules at the top of `aether.wit`.
fn lower(resolve: &Resolve, function: &wit_parser::Function) -> String {
    let mut parameters = Vec::new();
    for parameter in &function.params {
        match shape(resolve, &parameter.ty) {
            Shape::Scalar(ty) => parameters.push(ty),
            Shape::Sequence => parameters.extend(["i32", "i32"]),
            Shape::Record | Shape::Result(_) => panic!("{}: no rule for parameter {}", function.name, parameter.name),
        }
    }
    let result = match function.result.as_ref().map(|ty| shape(resolve, ty)) {
        None => "",
        Some(Shape::Scalar(ty)) => ty,
        Some(Shape::Result(ok)) => match ok.map(|ty| shape(resolve, &ty)) {
            None => "i32",
            Some(Shape::Scalar(ty)) => ty,
            Some(Shape::Sequence) => {
                parameters.extend(["i32", "i32"]);
                "i32"
            }
            Some(Shape::Record) => {
                parameters.push("i32");
                "i32"
            }
            Some(Shape::Result(_)) => panic!("{}: no rule for its result", function.name),
        },
        Some(Shape::Sequence | Shape::Record) => panic!("{}: no rule for its result", function.name),
    };
    format!("({})->{result}", parameters.join(","))
}

fn wit() -> Resolve {
    let mut resolve = Resolve::default();
    resolve.push_source("aether.wit", &read("crates/scripting/wit/aether.wit")).unwrap();
    resolve
}

/// Compare with the host's table; every difference is named.
#[track_caller]
fn assert_same(source: &str, found: &Table) {
    let host = host();
    let mut problems = Vec::new();
    for ((module, name), signature) in &host {
        match found.get(&(module.clone(), name.clone())) {
            None => problems.push(format!("{module}.{name} is missing, the host has {signature}")),
            Some(other) if other != signature => problems.push(format!("{module}.{name} is {other}, the host has {signature}")),
            Some(_) => {}
        }
    }
    problems.extend(
        found.keys().filter(|key| !host.contains_key(*key)).map(|(module, name)| format!("{module}.{name} is not in the host")),
    );
    assert!(problems.is_empty(), "{source}:\n{}", problems.join("\n"));
}

#[test]
fn the_hosts_table_names_no_function_twice() {
    assert_eq!(host().len(), IMPORTS.len());
}

#[test]
fn the_hosts_imports_are_those_of_the_wit() {
    let resolve = wit();
    let mut found = Table::new();
    for (_, interface) in resolve.interfaces.iter() {
        let module = format!("aether:{}", interface.name.as_deref().unwrap());
        for (name, function) in &interface.functions {
            found.insert((module.clone(), name.replace('-', "_")), lower(&resolve, function));
        }
    }
    assert_same("aether.wit", &found);
}

#[test]
fn the_hosts_exports_are_those_of_the_wit() {
    let resolve = wit();
    let (_, world) = resolve.worlds.iter().next().unwrap();
    let mut found: Vec<_> = world
        .exports
        .values()
        .filter_map(|item| match item {
            WorldItem::Function(function) => Some(function.name.replace('-', "_")),
            _ => None,
        })
        .collect();
    let mut host: Vec<_> = EXPORTS.iter().map(|(name, _)| name.to_string()).collect();
    found.sort();
    host.sort();
    assert_eq!(found, host);
}

#[test]
fn the_wits_errors_are_the_hosts_codes() {
    use aether_scripting::ApiError::*;
    let resolve = wit();
    let mut names = Vec::new();
    for (_, ty) in resolve.types.iter() {
        if let (Some("error"), TypeDefKind::Enum(cases)) = (ty.name.as_deref(), &ty.kind) {
            names = cases.cases.iter().map(|case| case.name.clone()).collect();
        }
    }
    let hosts = [NotFound, Denied, TooLarge, BadPointer, BadUtf8, BadNumber, BadArgument, Full, Unsupported, Unavailable];
    assert_eq!(names.first().map(String::as_str), Some("rate-limited"));
    assert_eq!(names.len(), hosts.len() + 1);
    for (name, error) in names[1..].iter().zip(hosts) {
        let place = names.iter().position(|other| other == name).unwrap() as i32 + 1;
        assert_eq!(error.code(), -place, "{name}");
        assert_eq!(format!("{error:?}").to_lowercase(), name.replace('-', ""), "{name}");
    }
}

/// The part of a text between two marks.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    rest.split_once(to).map(|(part, _)| part)
}

/// `name: type, …` as core types.
fn parameters<'a>(list: &str, ty: impl Fn(&str) -> &'a str) -> String {
    let list = list.split(',').map(str::trim).filter(|parameter| !parameter.is_empty() && *parameter != "void");
    list.map(ty).collect::<Vec<_>>().join(",")
}

/// The type behind a colon.
fn behind_colon(parameter: &str) -> &'static str {
    match parameter.rsplit(':').next().unwrap().trim() {
        "i32" | "u32" => "i32",
        "i64" | "u64" => "i64",
        "f32" => "f32",
        other => panic!("type {other} of {parameter}"),
    }
}

#[test]
fn the_rust_sdk_imports_what_the_host_has() {
    let mut found = Table::new();
    let mut module = String::new();
    for line in read("crates/sdk/src/raw.rs").lines() {
        if let Some(name) = between(line, "#[link(wasm_import_module = \"", "\"") {
            module = name.to_owned();
        }
        let line = line.trim();
        // The macro above the blocks has `$` in its own.
        if !line.starts_with("pub(crate) fn ") || !line.ends_with(';') || line.contains('$') || module.is_empty() {
            continue;
        }
        let name = between(line, "fn ", "(").unwrap();
        let list = between(&line["pub(crate)".len()..], "(", ")").unwrap();
        let result = between(line, "-> ", ";").unwrap_or("");
        let result = if result.is_empty() { "" } else { behind_colon(result) };
        found.insert((module.clone(), name.to_owned()), format!("({})->{result}", parameters(list, behind_colon)));
    }
    assert_same("crates/sdk/src/raw.rs", &found);
}

#[test]
fn the_c_header_imports_what_the_host_has() {
    let core = |text: &str| -> &'static str {
        match text.split_whitespace().next().unwrap() {
            "int32_t" => "i32",
            "int64_t" => "i64",
            "float" => "f32",
            other => panic!("type {other} of {text}"),
        }
    };
    let mut found = Table::new();
    for line in read("sdk/c/aether.h").lines().filter(|line| line.starts_with("AETHER_IMPORT(\"")) {
        let mut quoted = line.split('"');
        let (module, name) = (quoted.nth(1).unwrap(), quoted.nth(1).unwrap());
        let declaration = line.split_once(") ").unwrap().1;
        let signature = format!("({})->{}", parameters(between(declaration, "(", ")").unwrap(), core), core(declaration));
        found.insert((module.to_owned(), name.to_owned()), signature);
    }
    assert_same("sdk/c/aether.h", &found);
}

#[test]
fn the_assemblyscript_sdk_imports_what_the_host_has() {
    let mut found = Table::new();
    for line in read("sdk/assemblyscript/assembly/raw.ts").lines().filter(|line| line.starts_with("@external(\"")) {
        let mut quoted = line.split('"');
        let (module, name) = (quoted.nth(1).unwrap(), quoted.nth(1).unwrap());
        let declaration = line.split_once("function ").unwrap_or_else(|| panic!("{line}")).1;
        let result = declaration.rsplit_once("):").unwrap().1.trim_end_matches(';');
        let list = between(declaration, "(", ")").unwrap();
        found.insert(
            (module.to_owned(), name.to_owned()),
            format!("({})->{}", parameters(list, behind_colon), behind_colon(result)),
        );
    }
    assert_same("sdk/assemblyscript/assembly/raw.ts", &found);
}
