//! Writing the counter into a module.
//!
//! Start with [`metered`]. One import is added, behind the others, so functions with a body move up by one; exports, elements, calls and
//! references follow. Names and debug information stay out: [`source_place`] tells where a place is in the author's module.
//! Not here: bodies (`body`).

use super::body::{Code, Shape, op, opcode, tick_body};
use super::{COUNTER, Costs, EXHAUSTED, MODULE, ON_TICK, START};
use crate::limits::ModuleError;
use crate::patch::{counted, elements, exports, globals, invalid, items, leb, name, section};
use std::collections::BTreeMap;
use wasmparser::{ExternalKind, FunctionBody, Parser, Payload, TypeRef};

/// A module taken apart.
#[derive(Default)]
struct Source<'a> {
    shape: Shape,
    /// Items of sections that get more of them, with how many there are, and of all others what is in them.
    lists: BTreeMap<u8, (usize, Vec<u8>)>,
    others: BTreeMap<u8, Vec<u8>>,
    bodies: Vec<FunctionBody<'a>>,
    /// Where these functions are now.
    start: Option<u32>,
    on_tick: Option<u32>,
}

const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const GLOBALS: u8 = 6;
const EXPORTS: u8 = 7;
const ELEMENTS: u8 = 9;
const CODE: u8 = 10;
/// The order of sections: it is not that of their numbers.
const ORDER: [u8; 11] = [TYPES, IMPORTS, FUNCTIONS, 4, 5, GLOBALS, EXPORTS, ELEMENTS, 12, CODE, 11];

impl<'a> Source<'a> {
    fn read(wasm: &'a [u8]) -> Result<Source<'a>, ModuleError> {
        let mut source = Source::default();
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(invalid)?;
            let shape = &mut source.shape;
            match payload {
                Payload::TypeSection(reader) => {
                    source.lists.insert(TYPES, (reader.count() as usize, items(&reader, wasm).to_vec()));
                    for group in reader {
                        shape.params.extend(group.map_err(invalid)?.into_types().map(|ty| ty.unwrap_func().params().to_vec()));
                    }
                }
                Payload::ImportSection(reader) => {
                    source.lists.insert(IMPORTS, (reader.count() as usize, items(&reader, wasm).to_vec()));
                    for import in reader.into_imports() {
                        if let TypeRef::Func(ty) = import.map_err(invalid)?.ty {
                            shape.types.push(ty);
                            shape.imports += 1;
                        }
                    }
                }
                Payload::FunctionSection(reader) => {
                    source.lists.insert(FUNCTIONS, (reader.count() as usize, items(&reader, wasm).to_vec()));
                    for ty in reader {
                        shape.types.push(ty.map_err(invalid)?);
                    }
                }
                Payload::GlobalSection(reader) => {
                    shape.globals = reader.count();
                    let items = globals(reader, wasm, |f| shape.moved(f))?;
                    source.lists.insert(GLOBALS, (shape.globals as usize, items));
                }
                Payload::ExportSection(reader) => {
                    for export in reader.clone() {
                        let export = export.map_err(invalid)?;
                        if export.name == "on_tick" && export.kind == ExternalKind::Func {
                            source.on_tick = Some(shape.moved(export.index));
                        }
                    }
                    source.lists.insert(EXPORTS, (reader.count() as usize, exports(reader, |f| shape.moved(f))?));
                }
                Payload::StartSection { func, .. } => source.start = Some(shape.moved(func)),
                Payload::ElementSection(reader) => {
                    source.others.insert(ELEMENTS, elements(reader, wasm, |f| shape.moved(f))?);
                }
                Payload::CodeSectionEntry(body) => source.bodies.push(body),
                // Names and debug information are of the original.
                Payload::CodeSectionStart { .. } | Payload::CustomSection(_) => {}
                other => {
                    if let Some((id, range)) = other.as_section() {
                        source.others.insert(id, wasm.get(range).unwrap_or(&[]).to_vec());
                    }
                }
            }
        }
        Ok(source)
    }

    /// One more item in a section.
    fn add(&mut self, section: u8, item: &[u8]) {
        let (count, items) = self.lists.entry(section).or_default();
        *count += 1;
        items.extend_from_slice(item);
    }

    fn export(&mut self, text: &str, kind: u8, index: u32) {
        let mut item = Vec::new();
        name(text, &mut item);
        item.push(kind);
        leb(index.into(), &mut item);
        self.add(EXPORTS, &item);
    }

    fn body(&mut self, body: &[u8]) {
        let mut item = Vec::with_capacity(body.len() + 5);
        leb(body.len() as u64, &mut item);
        item.extend_from_slice(body);
        self.add(CODE, &item);
    }
}

/// A custom section that says which way a branch goes: the compiler moves what comes after the other way out of the loop.
const HINTS: &str = "metadata.code.branch_hint";

/// A module with the counter in it, of one that was validated. Functions from `free_from` on cost nothing: probes.
pub(crate) fn metered(wasm: &[u8], costs: Costs, free_from: u32) -> Result<Vec<u8>, ModuleError> {
    let mut source = Source::read(wasm)?;
    let bodies = std::mem::take(&mut source.bodies);
    let (mut aside, mut hinted, mut hints) = (0, 0, Vec::new());
    for (function, body) in (source.shape.imports..).zip(&bodies) {
        let costs = (function < free_from).then_some(costs);
        let written = Code { shape: &source.shape, wasm }.body(body, function, costs, None)?;
        aside = aside.max(written.aside);
        if written.hinted > 0 {
            hinted += 1;
            leb(source.shape.moved(function).into(), &mut hints);
            hints.extend_from_slice(&counted(written.hinted, &written.hints));
        }
        source.body(&written.bytes);
    }

    let counter = source.shape.globals;
    let asks = source.shape.params.len() as u32;
    // `exhausted`: nothing in, nothing out. `on_tick`: the seconds and the counter in, the counter out.
    source.add(TYPES, &[0x60, 0, 0]);
    source.add(TYPES, &[0x60, 2, 0x7d, 0x7e, 1, 0x7e]);
    let mut import = Vec::new();
    name(MODULE, &mut import);
    name(EXHAUSTED, &mut import);
    op(0, asks, &mut import);
    source.add(IMPORTS, &import);
    for _ in 0..=aside {
        // A mutable i64 that begins with zero.
        source.add(GLOBALS, &[0x7e, 1, opcode::I64_CONST, 0, opcode::END]);
    }
    source.export(COUNTER, 3, counter);
    if let Some(start) = source.start {
        source.export(START, 0, start);
    }
    if let Some(on_tick) = source.on_tick {
        source.export(ON_TICK, 0, source.shape.types.len() as u32 + 1);
        let mut ty = Vec::new();
        leb((asks + 1).into(), &mut ty);
        source.add(FUNCTIONS, &ty);
        source.body(&tick_body(on_tick, counter));
    }

    let mut out = wasm.get(..8).unwrap_or(wasm).to_vec();
    for id in ORDER {
        if id == CODE && hinted > 0 {
            let mut content = Vec::new();
            name(HINTS, &mut content);
            content.extend_from_slice(&counted(hinted, &hints));
            section(0, &content, &mut out);
        }
        if let Some((count, items)) = source.lists.get(&id) {
            section(id, &counted(*count, items), &mut out);
        } else if let Some(content) = source.others.get(&id) {
            section(id, content, &mut out);
        }
    }
    Ok(out)
}

/// Where a place in a function of the module that [`metered`] gives is in its source: the function, and bytes from its body's beginning.
/// `None`: it is in none of the source's.
pub(crate) fn source_place(wasm: &[u8], costs: Costs, function: u32, offset: Option<u32>) -> Option<(u32, Option<u32>)> {
    let source = Source::read(wasm).ok()?;
    let imports = source.shape.imports;
    if function < imports {
        return Some((function, None));
    }
    let (function, offset) = (function.checked_sub(1).filter(|f| *f >= imports)?, offset);
    let body = source.bodies.get((function - imports) as usize)?;
    let mut places = Vec::new();
    Code { shape: &source.shape, wasm }.body(body, function, Some(costs), Some(&mut places)).ok()?;
    let place = |offset: u32| {
        let after = places.partition_point(|(now, _)| *now <= offset as usize);
        // What was put in belongs to what it was put before.
        places.get(after.saturating_sub(1)).map(|(_, before)| (*before - body.range().start) as u32)
    };
    Some((function, offset.and_then(place)))
}
