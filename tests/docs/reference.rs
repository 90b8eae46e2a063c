//! The reference of host functions, made from what the sandbox is built from: the WIT (names, signatures, words), `abi.rs` (the lowered
//! signatures, what things cost), `host/` (what a call is charged), `limited.rs` and the engine (errors, allowances), the SDKs (names).
//!
//! What is derived from text is then measured: a call costs what its line says.

use super::source::{Functions, Item, constants, methods};
use super::{generated, grouped, read};
use crate::support::{MODES, call, i32s, probe};
use aether_scripting::abi::{HostGroup, IMPORTS};
use aether_scripting::{MeteringOutcome, RateLimitedAction};
use std::collections::BTreeSet;
use std::fmt::Write;

const PAGE: &str = "docs/src/host-functions.md";
const ERRORS: [&str; 11] = [
    "rate-limited",
    "not-found",
    "denied",
    "too-large",
    "bad-pointer",
    "bad-utf8",
    "bad-number",
    "bad-argument",
    "full",
    "unsupported",
    "unavailable",
];
/// What the code that a function runs through could answer, and this function does not: it says so otherwise, or never gets there.
const NOT_GIVEN: [(&str, &str, &str); 5] = [
    ("entity", "read_bodies", "not-found"),
    ("entity", "write_bodies", "not-found"),
    ("entity", "query_radius", "not-found"),
    ("storage", "set", "not-found"),
    ("storage", "delete", "full"),
];

/// A function of the WIT.
struct Function {
    interface: String,
    name: String,
    /// As the WIT has it, without `func`.
    signature: String,
    doc: String,
}

fn wit() -> Vec<Function> {
    let (mut functions, mut interface, mut doc) = (Vec::new(), String::new(), String::new());
    for line in read("crates/scripting/wit/aether.wit").lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("interface ") {
            interface = name.trim_end_matches(" {").to_owned();
        } else if line.starts_with("world ") {
            break;
        } else if let Some(text) = line.strip_prefix("///") {
            doc += text;
        } else if let Some((name, signature)) = line.split_once(": func") {
            let (name, signature) = (name.replace('-', "_"), signature.trim_end_matches(';').to_owned());
            functions.push(Function {
                interface: interface.clone(),
                name,
                signature,
                doc: std::mem::take(&mut doc).trim().into(),
            });
        } else {
            doc.clear();
        }
    }
    functions
}

/// What the files say.
struct Host {
    costs: Vec<Item>,
    limits: Vec<Item>,
    limited: Functions,
    memory: Functions,
    script: Functions,
    engine: Functions,
}

impl Host {
    fn read() -> Host {
        let abi = read("crates/scripting/src/abi.rs");
        let engine = ["callers", "engine", "entity_api", "network_api", "output_api", "physics_api", "storage_api"];
        Host {
            costs: constants(&abi, "cost"),
            limits: constants(&abi, "limit"),
            limited: Functions::of(&[read("crates/scripting/src/limited.rs")]),
            memory: Functions::of(&[read("crates/scripting/src/host/memory.rs")]),
            script: Functions::of(&[read("crates/scripting/src/host/script.rs")]),
            engine: Functions::of(&engine.map(|file| read(&format!("crates/engine/src/{file}.rs")))),
        }
    }

    fn constant(&self, name: &str) -> u64 {
        let (items, name) = match name.split_once("::") {
            Some(("cost", name)) => (&self.costs, name),
            Some(("limit", name)) => (&self.limits, name),
            _ => panic!("{name} is no constant of abi.rs"),
        };
        let item = items.iter().find(|item| item.name == name).unwrap_or_else(|| panic!("abi.rs has no {name}"));
        item.value.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} is {}", item.value))
    }

    /// The code that links a function.
    fn code(&self, function: &Function) -> String {
        let text = read(&format!("crates/scripting/src/host/{}.rs", function.interface));
        let at = text.find(&format!("\"{}\"", function.name)).unwrap_or_else(|| panic!("host/ has no {}", function.name));
        let rest = &text[at..];
        let end =
            ["costly!(", "linker.func_wrap(", "\n}\n"].iter().filter_map(|next| rest.find(next)).min().unwrap_or(rest.len());
        rest[..end].to_owned()
    }

    /// What is charged: the fixed part, and what comes on top in words.
    fn cost(&self, code: &str) -> (u64, Vec<String>) {
        let (_, rest) = code.split_once("GROUP, ").unwrap_or_else(|| panic!("nothing is charged: {code}"));
        let (expression, behind) = rest.split_once(")?;").unwrap();
        let (mut fixed, mut more) = (self.constant("cost::CALL"), Vec::new());
        for term in expression.split(" + ").map(str::trim) {
            match term {
                "0" => {}
                // The two halves of a product that holds a sum.
                "1))" => {}
                "batch(count)" => more.push(format!("{} an entity given", self.constant("cost::ENTITY"))),
                cost if cost.starts_with("cost::") => fixed += self.constant(cost),
                bytes if bytes.starts_with("bytes(") => more.push(self.bytes(bytes)),
                other => panic!("say in tests/docs/reference.rs what {other} means"),
            }
        }
        for (_, charge) in behind.match_indices("charge(guest, ").map(|(at, m)| (at, &behind[at + m.len()..])) {
            let charge = charge.split_once(")?;").unwrap().0;
            more.push(match charge {
                "looked * cost::LOOKED" => format!("{} an entity looked at", self.constant("cost::LOOKED")),
                "found * cost::FOUND" => format!("{} a key found", self.constant("cost::FOUND")),
                "length_of_value * cost::BYTE" => format!("{} a byte of the value", self.constant("cost::BYTE")),
                other => panic!("say in tests/docs/reference.rs what {other} means"),
            });
        }
        if code.contains("write_entities(") {
            let (found, looked) = (self.constant("cost::FOUND"), self.constant("cost::LOOKED"));
            more.push(format!("{found} an entity found"));
            if self.path(code).1.contains("self.examined") {
                more.push(format!("{looked} an entity looked at"));
            }
        }
        (fixed, more)
    }

    fn bytes(&self, term: &str) -> String {
        let (argument, limit) = term.trim_start_matches("bytes(").split_once(", ").unwrap();
        let what = match (argument, limit) {
            (_, limit) if limit.starts_with("limit::KEYS * ") => {
                return format!("{} a byte of capacity", self.constant("cost::BYTE"));
            }
            ("capacity", _) => "capacity",
            (_, "limit::NAME_BYTES)") => "the name",
            (_, "limit::TEXT_BYTES)") => "the text",
            (_, "limit::PAYLOAD_BYTES)") => "the payload",
            (_, "limit::VALUE_BYTES)" | "limit::COMPONENT_BYTES)") => "the value",
            other => panic!("say in tests/docs/reference.rs what {other:?} means"),
        };
        let most = self.constant(limit.trim_end_matches(')'));
        format!("{} a byte of {what} (of {} at most)", self.constant("cost::BYTE"), grouped(most))
    }

    /// Everything that a function runs through before and in the engine, as text; the engine's part alone.
    fn path(&self, code: &str) -> (String, String) {
        let methods_of_api = methods(code, "api.");
        let mut before = code.to_owned();
        before += &self.memory.reached(methods(code, "memory."));
        before += &self.script.reached(code.contains(" log(world").then(|| "log".to_owned()));
        before += &self.limited.reached(methods_of_api.iter().cloned());
        if code.contains("write_entities(") {
            before += "ApiError::BadPointer";
        }
        (before, self.engine.reached(methods_of_api))
    }

    fn errors(&self, function: &Function, code: &str) -> Vec<&'static str> {
        let (before, engine) = self.path(code);
        let mut found: BTreeSet<String> = BTreeSet::new();
        for text in [&before, &engine] {
            for (at, mark) in text.match_indices("ApiError::") {
                let name: String = text[at + mark.len()..].chars().take_while(|c| c.is_alphanumeric()).collect();
                found.insert(name.to_lowercase());
            }
        }
        if !self.rates(code).is_empty() {
            found.insert("ratelimited".into());
        }
        let not_given = |error: &str| NOT_GIVEN.contains(&(&function.interface, &function.name, error));
        ERRORS.into_iter().filter(|error| found.contains(&error.replace('-', "")) && !not_given(error)).collect()
    }

    fn rates(&self, code: &str) -> Vec<&'static str> {
        let (before, _) = self.path(code);
        let named = |action: &RateLimitedAction| before.contains(&format!("RateLimitedAction::{action:?}"));
        RateLimitedAction::ALL.into_iter().filter(named).map(field_of).collect()
    }
}

/// The field of a manifest's `[limits.rates]`.
fn field_of(action: RateLimitedAction) -> &'static str {
    ["spawns", "rpcs", "storage_writes", "storage_bytes", "ui_commands", "audio_commands", "log_lines"][action as usize]
}

/// The name of the function that holds the first call of `raw` in an SDK's text.
fn wrapper(text: &str, raw: &str, keyword: &str) -> Option<String> {
    let at = text.find(raw)?;
    let head = &text[..at];
    let name = &head[head.rfind(keyword)? + keyword.len()..];
    let name = &name[..name.find('(')?];
    Some(name.rsplit([' ', '*']).next()?.to_owned())
}

/// What it is called in Rust, C and AssemblyScript.
fn names(function: &Function) -> [String; 3] {
    let Function { interface, name, .. } = function;
    let missing = |language: &str| panic!("the {language} SDK does not call {interface}.{name}");
    let rust = read(&format!("crates/sdk/src/{interface}.rs"));
    let rust = match (interface.as_str(), name.as_str()) {
        // Two functions for one; the others are methods of what it gives.
        ("audio", "play") => "audio::play`, `audio::play_looped".to_owned(),
        ("audio", method) => format!("audio::Sound::{method}"),
        _ => {
            let found = wrapper(&rust, &format!("call!({interface}::{name}("), "pub fn ").unwrap_or_else(|| missing("Rust"));
            format!("{interface}::{}", found.split('<').next().unwrap())
        }
    };
    let c = wrapper(
        &read("sdk/c/aether.h").replace("static inline ", "\nFN "),
        &format!("aether_raw_{interface}_{name}(aether_at"),
        "\nFN ",
    )
    .or_else(|| {
        let header = read("sdk/c/aether.h").replace("static inline ", "\nFN ");
        let wrappers = header.split_once("/* Types. */").unwrap().1.to_owned();
        wrapper(&wrappers, &format!("aether_raw_{interface}_{name}("), "\nFN ")
    });
    let script = wrapper(&read("sdk/assemblyscript/assembly/index.ts"), &format!("raw.{interface}_{name}("), "export function ");
    [rust, c.unwrap_or_else(|| missing("C")), format!("{interface}.{}", script.unwrap_or_else(|| missing("AssemblyScript")))]
}

fn or_none(list: Vec<String>) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

#[test]
fn the_reference_of_host_functions_is_what_the_code_says() {
    let (host, functions) = (Host::read(), wit());
    assert_eq!(functions.len(), IMPORTS.len());
    let mut text = String::new();
    for group in HostGroup::ALL {
        let name = group.name();
        let doc = read("crates/scripting/wit/aether.wit");
        let head = &doc[..doc.find(&format!("interface {name} {{")).unwrap()];
        let doc = head.rsplit("\n\n").next().unwrap().replace("/// ", "").replace('\n', " ");
        writeln!(text, "## aether:{name}\n\n{}\n", doc.trim()).unwrap();
        let grant = if group == HostGroup::Script { "Needs no grant." } else { "Needs the grant" };
        let needs = if group == HostGroup::Script { grant.to_owned() } else { format!("{grant} `{name}` in `[grants] apis`.") };
        writeln!(text, "{needs}\n").unwrap();
        for function in functions.iter().filter(|function| function.interface == name) {
            let code = host.code(function);
            let (fixed, more) = host.cost(&code);
            let core = IMPORTS.iter().find(|(_, known, _)| *known == function.name).unwrap().2;
            let [rust, c, script] = names(function);
            let quoted = |names: Vec<&str>| or_none(names.into_iter().map(|name| format!("`{name}`")).collect());
            let cost = [vec![grouped(fixed)], more].concat().join(" + ");
            let doc = if function.doc.is_empty() { String::new() } else { format!("{}\n\n", function.doc) };
            write!(
                text,
                "### {name}.{}\n\n`{}{}`\n\n{doc}| | |\n|---|---|\n| core | `{core}` |\n| fuel | {cost} |\n| allowance | {} |\n| errors | {} |\n\
                 | Rust, C, AssemblyScript | `{rust}`, `{c}`, `{script}` |\n\n",
                function.name,
                function.name,
                function.signature,
                quoted(host.rates(&code)),
                quoted(host.errors(function, &code)),
            )
            .unwrap();
        }
    }
    generated(PAGE, "host functions", &text);
    let costs =
        host.costs.iter().map(|item| format!("| {} | {} |", item.doc, grouped(host.constant(&format!("cost::{}", item.name)))));
    generated(PAGE, "costs", &format!("| what | fuel |\n|---|---|\n{}", costs.collect::<Vec<_>>().join("\n")));
}

#[test]
fn a_call_with_nothing_in_it_costs_the_fixed_part_of_its_line() {
    let (host, functions) = (Host::read(), wit());
    // Between two looks at the fuel: the call with arguments that find nothing. `tick` costs a call and nothing else.
    let measured = |name: &str| {
        let signature = IMPORTS.iter().find(|(_, known, _)| *known == name).unwrap().2;
        let arguments = signature[1..signature.find(')').unwrap()]
            .split(',')
            .filter(|ty| !ty.is_empty())
            .map(|ty| format!("({ty}.const {})", if ty == "f32" { 4_000 } else { 0 }));
        let look = call("fuel_left", &i32s(&[]));
        let looks = [look.clone(), call(name, &arguments.collect::<String>()), look];
        let (outcome, given) = probe(MODES[1], "", &["*"], &looks);
        assert_eq!(outcome, MeteringOutcome::Completed, "{name}");
        (given[0] - given[2]) as u64
    };
    let least = measured("tick");
    for function in functions {
        let (fixed, _) = host.cost(&host.code(&function));
        // Work of the script itself: a handful of instructions for each argument.
        let cost = host.constant("cost::CALL") + measured(&function.name) - least;
        assert!(
            (fixed..fixed + 30).contains(&cost),
            "{}.{} cost {cost}, its line says {fixed}",
            function.interface,
            function.name
        );
    }
}
