//! Rust source as text: documented constants and fields, defaults, bodies of functions. As much of it as our own formatted code needs.

use std::collections::{BTreeMap, BTreeSet};

/// A documented constant or field.
#[derive(Debug)]
pub struct Item {
    pub name: String,
    /// A constant's value, a field's type.
    pub value: String,
    pub doc: String,
}

/// The text between the brace that opens behind `head` and the one that closes it.
pub fn braces<'a>(text: &'a str, head: &str) -> Option<&'a str> {
    let rest = &text[text.find(head)? + head.len()..];
    let open = rest.find('{')?;
    let mut depth = 0;
    for (at, c) in rest.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&rest[open + 1..at]);
        }
    }
    None
}

/// Documentation as people read it: links are code.
fn plain(doc: &str) -> String {
    let mut doc = doc.replace("[`", "`").replace("`]", "`");
    for path in ["crate::", "Self::"] {
        doc = doc.replace(path, "");
    }
    doc.trim().to_owned()
}

/// Items of a body: `pub const NAME: TYPE = VALUE;` or `pub NAME: TYPE,`, each with the `///` lines before it.
fn items(body: &str, parse: impl Fn(&str) -> Option<(&str, &str)>) -> Vec<Item> {
    let (mut items, mut doc) = (Vec::new(), String::new());
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc += text;
        } else if let Some((name, value)) = parse(line) {
            items.push(Item { name: name.to_owned(), value: value.to_owned(), doc: plain(&std::mem::take(&mut doc)) });
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
    items
}

/// The constants of a module.
pub fn constants(text: &str, module: &str) -> Vec<Item> {
    let body = braces(text, &format!("pub mod {module} ")).unwrap_or_else(|| panic!("there is no module {module}"));
    items(body, |line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
        Some((name, rest.split_once("= ")?.1.trim_end_matches(';')))
    })
}

/// The public fields of a struct, but those that no file can set.
pub fn fields(text: &str, name: &str) -> Vec<Item> {
    let body = braces(text, &format!("pub struct {name} ")).unwrap_or_else(|| panic!("there is no struct {name}"));
    let mut kept = String::new();
    let mut skip = false;
    for line in body.lines() {
        skip |= line.trim() == "#[serde(skip)]";
        if skip && line.trim().starts_with("pub ") {
            skip = false;
            kept += "\n\n;\n";
        } else {
            kept += line;
            kept.push('\n');
        }
    }
    items(&kept, |line| line.strip_prefix("pub ")?.trim_end_matches(',').split_once(": "))
}

/// What `Default` gives each field of a struct, as it is written.
pub fn defaults(text: &str, name: &str) -> BTreeMap<String, String> {
    let Some(body) = braces(text, &format!("impl Default for {name} ")) else { return BTreeMap::new() };
    let body = braces(body, &format!("-> {name} ")).unwrap_or_else(|| panic!("default of {name}"));
    let body = body.split_once('{').map_or(body, |(_, rest)| rest.rsplit_once('}').unwrap().0);
    let mut all = BTreeMap::new();
    for part in body.split(",\n").flat_map(|line| if line.contains('(') { vec![line] } else { line.split(", ").collect() }) {
        if let Some((field, value)) = part.trim().trim_end_matches(',').split_once(": ") {
            all.insert(field.to_owned(), value.to_owned());
        }
    }
    all
}

/// A written number: `1_000`, `2 << 20`, `0.5`.
pub fn number(written: &str) -> Option<f64> {
    let part = |text: &str| text.trim().replace('_', "").parse::<f64>().ok();
    match written.split_once("<<") {
        Some((number, bits)) => Some(part(number)? * 2f64.powf(part(bits)?)),
        None => part(written),
    }
}

/// Functions whose result can be an error of the API, by name; those of one name together.
pub struct Functions(BTreeMap<String, String>);

impl Functions {
    pub fn of(texts: &[String]) -> Functions {
        let mut functions: BTreeMap<String, String> = BTreeMap::new();
        for text in texts {
            let text = text.split("#[cfg(test)]").next().unwrap();
            for (at, _) in text.match_indices("fn ") {
                let rest = &text[at + 3..];
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let signature = &rest[..rest.find(['{', ';']).unwrap_or(rest.len())];
                if signature.contains("ApiResult<") && rest[signature.len()..].starts_with('{') {
                    *functions.entry(name).or_default() += braces(rest, "").unwrap();
                }
            }
        }
        Functions(functions)
    }

    /// The bodies of some functions and of all that they call, from these.
    pub fn reached(&self, from: impl IntoIterator<Item = String>) -> String {
        let (mut seen, mut waiting, mut reached) = (BTreeSet::new(), Vec::from_iter(from), String::new());
        while let Some(name) = waiting.pop() {
            if let Some(body) = self.0.get(&name)
                && seen.insert(name)
            {
                reached += body;
                waiting.extend(self.called(body));
            }
        }
        reached
    }

    /// Which of these a text calls: as a method of `self` or of a part of it, or by name.
    fn called(&self, text: &str) -> Vec<String> {
        let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ':');
        let calls = |name: &&String| {
            text.match_indices(&format!("{name}(")).any(|(at, _)| {
                let before = &text[..at];
                let receiver = &before[before.trim_end_matches(is_path).len()..];
                let line = before.rsplit('\n').next().unwrap_or(before);
                let ours = receiver.is_empty() || (receiver.starts_with("self.") && receiver.ends_with('.'));
                // The engine is asked through `self.host`; what is dropped unseen is no error of the caller.
                ours && receiver != "self.host." && !line.trim_start().starts_with("let _ =")
            })
        };
        self.0.keys().filter(calls).cloned().collect()
    }
}

/// Names called on a receiver: `api.spawn_entity_at(` gives `spawn_entity_at`.
pub fn methods(text: &str, receiver: &str) -> Vec<String> {
    let name = |(at, _): (usize, &str)| {
        text[at + receiver.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    text.match_indices(receiver).map(name).collect()
}

#[test]
fn constants_fields_and_defaults_are_read() {
    let text = "/// A.\npub mod limit {\n    /// B\n    /// [`c`].\n    pub const D: usize = 2 << 3;\n}\n\
                pub struct S {\n    /// E.\n    pub e: u32,\n    /// F.\n    #[serde(skip)]\n    pub f: u32,\n}\n\
                impl Default for S {\n    fn default() -> S {\n        S {\n            e: 1_000,\n            f: 2,\n        }\n    }\n}\n";
    let constant = &constants(text, "limit")[0];
    assert_eq!((constant.name.as_str(), constant.doc.as_str(), number(&constant.value)), ("D", "B `c`.", Some(16.0)));
    let fields = fields(text, "S");
    assert_eq!((fields.len(), fields[0].name.as_str(), fields[0].value.as_str()), (1, "e", "u32"));
    assert_eq!(defaults(text, "S")["e"], "1_000");
}
